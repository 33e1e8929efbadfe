"""The embedding made smaller: a vocabulary cut for one language, a low rank, both; and everything after it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import adaptwin_widgets as aw
from adaptwin_widgets.cost import sizes
from adaptwin_widgets.distill import Lessons
from adaptwin_widgets.embedding import Rows, factor
from adaptwin_widgets.plan import RankPlan, shape_of
from adaptwin_widgets.vocabulary import Pieces, Vocabulary, cut_processor, shared

SIZE, RANK = 9000, 380
pytest.importorskip("wordfreq")


@pytest.fixture(scope="module")
def clips():
    return aw.demo_speech()["target_dev"].head(2)


@pytest.fixture(scope="module")
def heard(tiny_en, clips):
    return aw.transcribe(tiny_en, clips, dtype="float32")


@pytest.fixture(scope="module")
def words(tiny_en):
    return aw.choose_vocabulary(tiny_en, "en", size=SIZE)


@pytest.fixture(scope="module")
def cut(tiny_en, words):
    return aw.compress(tiny_en, plan_of(tiny_en, vocabulary=words))


@pytest.fixture(scope="module")
def both(tiny_en, words):
    """A cut vocabulary, a low rank, and a smaller feed-forward pair in one layer."""
    plan = plan_of(tiny_en, vocabulary=words, embedding=RANK)
    return aw.compress(tiny_en, replace(plan, ranks={"encoder.0.feed_forward": [1500]}))


def plan_of(whisper, **embedding) -> RankPlan:
    return RankPlan({}, shape_of(whisper.config), whisper.source, **embedding)


def features(whisper, clips):
    samples = [clip.samples() for clip in clips]
    return whisper.processor.feature_extractor(samples, sampling_rate=16000, return_tensors="pt").input_features


def test_a_vocabulary_is_closed_under_merges_and_keeps_what_is_special(tiny_en, words):
    pieces = Pieces.of(tiny_en.processor.tokenizer.backend_tokenizer)
    kept = set(words.kept)
    assert len(words) == SIZE
    assert all(set(pieces.parts[t]) <= kept for t in kept if t in pieces.parts)
    assert set(range(tiny_en.config.vocab_size)) - set(pieces.parts) <= kept
    smaller = aw.choose_vocabulary(tiny_en, "en", size=6000)
    assert set(smaller.kept) < kept
    assert not {3467, 49146} & kept, "what the model may not write is of no use"


def test_the_cut_tokenizer_spells_everything(tiny_en, cut, words):
    ours, theirs = cut.processor.tokenizer, tiny_en.processor.tokenizer
    for text in (" The old map showed a village.", " Zwölf Boxkämpfer, 東京 and Ærøskøbing!", "\n\t"):
        ids = ours.encode(text, add_special_tokens=False)
        assert ours.decode(ids) == theirs.decode(theirs.encode(text, add_special_tokens=False))
    text = " There was a time when she was not there."
    back = [words.kept[i] for i in ours.encode(text)]
    assert back == theirs.encode(text), "tokens that are all kept are found as before"
    before, after = tiny_en.model.generation_config, cut.model.generation_config
    assert words.kept[after.no_timestamps_token_id] == before.no_timestamps_token_id
    assert ours.convert_tokens_to_ids("<|0.00|>") == after.no_timestamps_token_id + 1
    assert len(ours) == cut.config.vocab_size == SIZE
    assert [words.kept[i] for i in cut.prompt()] == tiny_en.prompt()
    kept = set(words.kept)
    assert [words.kept[i] for i in after.suppress_tokens] == [i for i in before.suppress_tokens if i in kept]


def test_what_needs_no_cut_token_is_written_as_before(tiny_en, cut, words, heard, clips):
    state, small = tiny_en.model.state_dict(), cut.model.state_dict()
    rows = "model.decoder.embed_tokens.weight"
    assert torch.equal(small[rows], state[rows][list(words.kept)])
    assert all(torch.equal(small[n], v) for n, v in state.items() if n not in (rows, "proj_out.weight"))
    found = aw.transcribe(cut, clips, dtype="float32")
    untouched = [(a, b) for a, b in zip(heard, found, strict=True) if set(a.tokens) <= set(words.kept)]
    assert untouched and all(a.text == b.text for a, b in untouched)
    assert all([words.kept[i] for i in b.tokens] == list(a.tokens) for a, b in untouched)


def test_cut_again_it_remembers_the_first_size(cut, tiny_en, words):
    fewer = aw.choose_vocabulary(cut, "en", size=SIZE - 500)
    again = aw.compress(cut, plan_of(cut, vocabulary=fewer))
    assert len(again.processor.tokenizer) < SIZE and again.config.vocab_size == SIZE - 500
    assert again.config.original_vocab_size == tiny_en.config.vocab_size


def test_it_comes_back_as_a_plain_whisper(cut, tmp_path):
    folder = cut.save_pretrained(tmp_path / "cut")
    again = aw.load(folder)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "whisper"
    assert type(again.model).__name__ == "WhisperForConditionalGeneration"
    assert again.processor.tokenizer.get_vocab() == cut.processor.tokenizer.get_vocab()
    assert sizes(again.config)[0].model == 37_760_256 and sizes(again.config)[1].embedding == SIZE * 384
    kept = ("no_timestamps_token_id", "suppress_tokens", "decoder_start_token_id", "eos_token_id", "pad_token_id")
    for name in kept:
        assert getattr(again.model.generation_config, name) == getattr(cut.model.generation_config, name)
    assert again.config.eos_token_id == cut.model.generation_config.eos_token_id < SIZE


@pytest.mark.slow
def test_without_twins_it_is_a_whisper_for_everybody(cut, clips, tmp_path):
    folder = cut.save_pretrained(tmp_path / "cut")
    text = cut.processor.decode(cut.model.generate(features(cut, clips))[0], skip_special_tokens=True)
    code = f"""
import sys, torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor
model = WhisperForConditionalGeneration.from_pretrained({str(folder)!r})
processor = WhisperProcessor.from_pretrained({str(folder)!r})
x = torch.load({str(tmp_path / "x.pt")!r}, weights_only=True)
print(processor.decode(model.generate(x)[0], skip_special_tokens=True))
assert "adaptwin_widgets" not in sys.modules
"""
    torch.save(features(cut, clips), tmp_path / "x.pt")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == text.strip() != ""


def test_the_factors_are_the_best_there_are():
    torch.manual_seed(0)
    e, states = torch.randn(60, 8).double(), torch.randn(200, 8).double() * torch.linspace(0.2, 2, 8)
    second, chances = states.mT @ states / 200, torch.rand(60).double()
    metric = second * 8 / second.trace() + 0.5 * torch.eye(8)
    weight = 0.9 * chances / chances.sum() + 0.1 / 60

    def error(product):
        left = e - product
        return float((weight * ((left @ metric) * left).sum(1)).sum())

    for rank in (2, 5):
        table, basis = factor(e, rank, second, chances)
        left = weight.sqrt()[:, None] * e @ torch.linalg.cholesky(metric)
        tail = torch.linalg.svdvals(left)[rank:].square().sum()
        assert error(table @ basis) == pytest.approx(float(tail), rel=1e-4)
    table, basis = factor(e, 8, second, chances)
    torch.testing.assert_close(table @ basis, e)


def test_the_factored_model_counts_runs_and_comes_back(both, clips, tmp_path):
    plan = RankPlan.from_dict(both.notes["plan"])
    assert sum(p.numel() for p in both.model.parameters()) == plan.after.model == sizes(both.config)[1].model
    assert plan.before.model == sizes(both.config)[0].model
    assert plan.after.embedding == SIZE * RANK + RANK * 384 and plan.after.token < plan.before.token
    rows = Rows.of(both.model)
    again = aw.load(both.save_pretrained(tmp_path / "both"))
    assert again.model.proj_out.basis is again.model.model.decoder.embed_tokens.basis
    for name, value in both.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name
    ids = torch.tensor([both.prompt()])
    with torch.no_grad():
        states = both.model.model(input_features=features(both, clips)[:1], decoder_input_ids=ids).last_hidden_state
        torch.testing.assert_close(both.model.proj_out(states), states @ rows.dense().T, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(both.model.model.decoder.embed_tokens(ids), rows.dense()[ids], atol=1e-5, rtol=0)
    fine = [t.text for t in aw.transcribe(again, clips[:1], dtype="float32")]
    theirs = both.model.generate(features(both, clips[:1]), num_beams=1, max_new_tokens=40)
    assert both.processor.decode(theirs[0], skip_special_tokens=True).strip() == fine[0]


def test_compressed_further_it_keeps_its_low_rank(both):
    fewer = RankPlan({"encoder.1.feed_forward": [1000]}, shape_of(both.config), both.source)
    smaller = aw.compress(both, fewer)
    assert smaller.config.embedding_rank == RANK and smaller.model.num_parameters() < both.model.num_parameters()
    assert aw.compress(both, replace(fewer, embedding=300)).config.embedding_rank == 300


def test_a_plan_counts_the_embedding_first(tiny_en, words, tmp_path):
    twins = aw.spectra(tiny_en)
    plan = RankPlan.for_budget(twins, model=0.5, vocabulary=words)
    assert plan.reductions["model_reduction"] == pytest.approx(0.5, abs=1e-3) and plan.ranks
    plan.save(tmp_path / "plan.json")
    assert RankPlan.load(tmp_path / "plan.json") == plan
    enough = RankPlan.for_budget(twins, model=0.4, vocabulary=words)
    assert not enough.ranks and enough.reductions["model_reduction"] > 0.4
    only = RankPlan.for_budget(twins, embedding=256)
    assert not only.ranks and only.after.embedding == 51864 * 256 + 256 * 384
    encoder = RankPlan.for_budget(twins, encoder=0.3, embedding=256)
    assert encoder.ranks == RankPlan.for_budget(twins, encoder=0.3).ranks
    plain = RankPlan.for_budget(twins, encoder=0.3).to_dict()
    assert "embedding" not in plain and "vocabulary" not in plain
    with pytest.raises(aw.InputError, match="or cut the embedding too"):
        RankPlan.for_budget(twins, model=0.7)
    planner = aw.Planner(twins)
    planner.commit(replace(planner.plan, vocabulary=words))
    assert planner.numbers()["model"][1] == planner.plan.after.model
    planner.commit(planner.budget("model", 0.5))
    assert planner.plan.reductions["model_reduction"] == pytest.approx(0.5, abs=1e-3)
    assert planner.plan.vocabulary is words


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embedding": 0}, "embedding is 0; .* from 1 to 384"),
        ({"embedding": True}, "embedding is True"),
        ({"vocabulary": {"language": "en", "kept": "0-3 2"}}, "ascending token ids below 51864"),
        ({"vocabulary": {"language": "en", "kept": "0-60000"}}, "ascending token ids below 51864"),
        ({"vocabulary": {"language": "en", "kept": "a-b"}}, "wrong type"),
        ({"vocabulary": {"language": "en"}}, "no 'kept'"),
    ],
)
def test_a_damaged_embedding_in_a_plan_is_said(tiny_en, change, message):
    with pytest.raises(aw.InputError, match=message):
        RankPlan.from_dict(plan_of(tiny_en).to_dict() | change, "plan.json")


def test_what_cannot_be_cut_is_said(tiny_en, words):
    with pytest.raises(aw.InputError, match="no word list for language 'xx'; choose one of ar, "):
        aw.choose_vocabulary(tiny_en, "xx")
    with pytest.raises(aw.InputError, match="vocabulary of 10 cannot be cut from tiny.en; give 18"):
        aw.choose_vocabulary(tiny_en, "en", size=10)
    with pytest.raises(aw.InputError, match="lacks the special token"):
        cut_processor(tiny_en.processor, Vocabulary("en", words.kept[:-1]))
    with pytest.raises(aw.InputError, match="but not its parts"):
        cut_processor(tiny_en.processor, Vocabulary("en", tuple(i for i in words.kept if i != 257)))
    with pytest.raises(aw.InputError, match="has no size"):
        aw.Recipe(tiny_en, []).vocabulary("en:many")


def test_two_vocabularies_correspond(tiny_en, both, words):
    found = shared(both, tiny_en)
    assert tuple(found.kept.tolist()) == words.kept and shared(tiny_en, tiny_en) is None
    assert found.nearest[found.kept].tolist() == list(range(SIZE)) and int(found.nearest.min()) == 0
    spell = tiny_en.processor.tokenizer
    token = next(t for t in spell.encode(" Manchester", add_special_tokens=False) if t not in words.kept)
    assert spell.decode([token]).endswith(both.processor.tokenizer.decode([int(found.nearest[token])]))


@pytest.mark.slow
def test_the_decoders_states_are_observed_and_help(tiny_en):
    speech = aw.demo_speech()["target_train"].head(12)
    stats = aw.observe(tiny_en, speech, windows=6)
    assert float(stats.output.chances.sum()) == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(stats.output.second, stats.output.second.mT)
    lessons = Lessons(tiny_en, [speech], batch_size=2)
    plan = plan_of(tiny_en, embedding=300)
    with torch.no_grad():
        ours, blind = (
            lessons.distance.terms(aw.compress(tiny_en, plan, s).model, lessons.held_out[0])[2] for s in (stats, None)
        )
    assert ours < 0.7 * blind
    adapted, general = (aw.choose_vocabulary(tiny_en, "en", size=6000, stats=s) for s in (stats, None))
    said = {t for text in aw.transcribe(tiny_en, speech) for t in text.tokens}
    assert len(said - set(adapted.kept)) < len(said - set(general.kept))


@pytest.mark.slow
def test_tuning_compares_the_tokens_both_have(tiny_en, both, words):
    speech = aw.demo_speech()["target_train"].head(12)
    lessons = Lessons(tiny_en, [speech], batch_size=2)
    tuned = aw.tune(both, teacher=tiny_en, speech=speech, steps=2, lessons=lessons)
    assert tuned.config.embedding_rank == RANK and tuned.processor is both.processor
    # A model that is cut and nothing else says over its tokens what its teacher says over them, of the same sound.
    cut = aw.compress(tiny_en, plan_of(tiny_en, vocabulary=words))
    with torch.no_grad():
        batch = replace(lessons.held_out[0], features=lessons.distance.heard(lessons.held_out[0]))
        assert set(batch.ids.unique().tolist()) - set(words.kept), "some of what is said is cut"
        divergence = lessons.distance.terms(cut.model, batch, shared(cut, tiny_en))[2]
    assert divergence < 0.1


@pytest.mark.parametrize("which", ["cut", "both"])
def test_ctranslate2_writes_the_same_text(which, clips, tmp_path, request):
    pytest.importorskip("ctranslate2")
    from runtimes import faster_whisper

    small = request.getfixturevalue(which)
    folder = aw.export(small, tmp_path / "ct2", dtype="float32")
    assert len(json.loads((folder / "vocabulary.json").read_text())) == SIZE
    clips = clips[1:]  # of words that are kept: faster-whisper fills a window differently, which decides a near tie
    ours = [t.text for t in aw.transcribe(small, clips, dtype="float32")]
    assert faster_whisper(folder, "float32")(clips) == ours


@pytest.mark.slow
def test_base_cut_for_one_language_runs_everywhere(clips, tmp_path):
    """CTranslate2 takes a Whisper for multilingual by the size of its vocabulary alone."""
    from runtimes import faster_whisper

    base = aw.load("base")
    words = aw.choose_vocabulary(base, "en")
    assert len(words) < 0.8 * base.config.vocab_size
    spell = base.processor.tokenizer.get_vocab()
    assert {spell[t] for t in ("Ġthe", "Ġto", "Ġrocks", "ĠManchester")} <= set(words.kept)
    small = aw.compress(base, plan_of(base, vocabulary=words))
    assert [words.kept[i] for i in small.prompt("german")] == base.prompt("german")
    assert aw.transcribe(small, clips)[0].language == "en"
    ours = [t.text for t in aw.transcribe(small, clips, dtype="float32")]
    assert ours == [t.text for t in aw.transcribe(base, clips, dtype="float32")]
    folder = aw.export(small, tmp_path / "ct2", dtype="float32")
    assert faster_whisper(folder, "float32")(clips) == ours


def test_onnx_keeps_the_factors(both, clips, tmp_path):
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    from adaptwin_widgets.onnx_engine import OnnxEngine

    folder = aw.export(both, tmp_path / "onnx", to="onnx")
    ours = [t.text for t in aw.transcribe(both, clips, dtype="float32")]
    assert [t.text for t in aw.transcribe(both, clips, engine=OnnxEngine(folder))] == ours
    stored = onnx.load(folder / "decoder_model.onnx", load_external_data=False).graph.initializer
    shapes = {i.name: list(i.dims) for i in stored}
    assert shapes["embedding"] == [RANK, SIZE] and shapes["embedding.basis"] == [RANK, 384]


def test_vocabulary_as_text():
    words = Vocabulary("de", (0, 1, 5, 6, 7, 9))
    assert words.to_dict()["kept"] == "0-1 5-7 9" and Vocabulary.from_dict(words.to_dict()) == words
