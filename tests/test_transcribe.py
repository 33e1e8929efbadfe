"""The batched decoder against transformers' own forward pass and `generate`."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

import adaptwin_widgets as aw
from adaptwin_widgets import precision
from adaptwin_widgets.anatomy import encoder_input
from adaptwin_widgets.engine import Engine, Memory
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.jobs import Cancelled, Job
from adaptwin_widgets.layers import attend
from adaptwin_widgets.model import TwinWhisperConfig, TwinWhisperForConditionalGeneration
from adaptwin_widgets.precision import fastest_dtype, resolve_dtype
from adaptwin_widgets.speech import Corpus
from adaptwin_widgets.transcribe import _greedy, detect_language, loop_end, transcribe
from adaptwin_widgets.whisper import load

SMALL = {
    "vocab_size": 90, "d_model": 128, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 96, "decoder_ffn_dim": 80, "pad_token_id": 0,
    "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 1, "max_target_positions": 40,
}  # fmt: skip
RANKS = {
    "encoder.0.query_key": [5, 64], "encoder.1.value_output": [17, 3], "encoder.0.feed_forward": [30],
    "decoder.0.query_key": [9, 2], "decoder.1.value_output": [1, 40], "decoder.1.feed_forward": [11],
    "cross.0.query_key": [20, 33], "cross.1.value_output": [64, 7],
}  # fmt: skip


@pytest.fixture(params=["original", "compressed"])
def small(request):
    """A random model with weights large enough that its attention is not flat."""
    torch.manual_seed(0)
    if request.param == "original":
        model = WhisperForConditionalGeneration(WhisperConfig(**SMALL))
    else:
        model = TwinWhisperForConditionalGeneration(TwinWhisperConfig(**SMALL, ranks=RANKS))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "embed_positions" not in name:
                weight.copy_(torch.randn_like(weight) / weight[0].numel() ** 0.5)
    return model.eval()


@pytest.fixture(scope="module")
def clips():
    speech = aw.demo_speech()
    return speech["target_dev"][:4] + speech["general_dev"][:3]


@pytest.fixture(scope="module")
def clips_generated(tiny_en, clips):
    return generated(tiny_en, clips)


def generated(whisper, clips):
    """What transformers itself writes, one clip at a time."""
    texts = []
    for clip in clips:
        features = whisper.processor.feature_extractor(clip.samples(), sampling_rate=16000, return_tensors="pt")
        said = {"language": "en", "task": "transcribe"} if whisper.multilingual else {}
        tokens = whisper.model.generate(features.input_features, num_beams=1, do_sample=False, **said)
        texts.append(whisper.processor.batch_decode(tokens, skip_special_tokens=True)[0].strip())
    return texts


def test_next_tokens_equal_the_models_own(small):
    torch.manual_seed(1)
    features, tokens = torch.randn(3, 80, 3000), torch.randint(1, 90, (3, 9))
    engine = Engine(small, torch.float32)
    with torch.inference_mode():
        expected = small(input_features=features, decoder_input_ids=tokens).logits.log_softmax(-1)
        memory = engine.memory(3, 9)
        for row in range(3):
            engine.listen(features[row : row + 1], memory, row)
        ends = (4, *range(5, 10))  # a prompt of four tokens, then one at a time
        starts = (0, *ends[:-1])
        for start, end in zip(starts, ends, strict=True):
            found = engine.log_probabilities(tokens[:, start:end].tolist(), memory)
            torch.testing.assert_close(found, expected[:, end - 1], atol=2e-4, rtol=1e-4)
    assert expected.std() > 0.5  # not a flat distribution that any decoder would give


def test_states_lie_frame_by_frame(small):
    features, seen = torch.randn(2, 80, 3000), []
    assert encoder_input(small, features).is_contiguous()
    engine = Engine(small, torch.float32)
    norm, engine.encoder_norm = engine.encoder_norm, lambda x: seen.append(x.is_contiguous()) or norm(x)
    with torch.inference_mode():
        engine.encode(features)
    assert seen == [True], "each layer adds to what the first one was given, in its order"


def test_both_attention_kernels_agree_where_dimensions_differ():
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 3, 700, 24), torch.randn(2, 3, 700, 24), torch.randn(2, 3, 700, 40)
    expected = ((q @ k.transpose(2, 3)).softmax(-1) @ v).transpose(1, 2).flatten(2)
    for fused in (True, False):
        torch.testing.assert_close(attend(q, k, v, fused), expected, atol=1e-5, rtol=1e-4)


def test_sixteen_bits_stay_near_float32(tiny_en, clips):
    features = tiny_en.processor.feature_extractor(clips[0].samples(), sampling_rate=16000, return_tensors="pt")
    with torch.inference_mode():
        exact, short = (
            Engine(tiny_en.model, dtype).encode(features.input_features).float()
            for dtype in (torch.float32, torch.bfloat16)
        )
    assert 0 < (short - exact).norm() / exact.norm() < 0.03


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_float32_writes_what_generate_writes(tiny_en, clips, clips_generated, batch_size):
    texts = transcribe(tiny_en, clips, dtype="float32", batch_size=batch_size)
    assert [t.text for t in texts] == clips_generated
    assert [t.id for t in texts] == [clip.id for clip in clips]
    assert not any(t.looped for t in texts) and {t.language for t in texts} == {"en"}


def test_real_speech_in_float32(tiny_en, shared_speech):
    clips = Corpus.from_manifest(shared_speech / "kathleen" / "dev.jsonl")[:4]
    clips += Corpus.from_manifest(shared_speech / "librispeech" / "dev.jsonl")[:3]
    assert [t.text for t in transcribe(tiny_en, clips, dtype="float32")] == generated(tiny_en, clips)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny.en", "base"])
def test_the_fast_format_keeps_the_words(name, shared_speech):
    whisper = load(name)
    corpus = Corpus.from_manifest(shared_speech / "kathleen" / "dev.jsonl")[:60]
    exact, short = (aw.evaluate(whisper, corpus, dtype=dtype) for dtype in ("float32", "bfloat16"))
    same = [a.hypothesis == b.hypothesis for a, b in zip(exact.hypotheses, short.hypotheses, strict=True)]
    assert np.mean(same) >= 0.95
    assert abs(short.wer - exact.wer) <= 0.3  # 60 clips, where one word is 0.2 points


def test_a_multilingual_model_detects_and_is_told_its_language(clips):
    try:
        base = load("base")
    except InputError as error:
        pytest.skip(str(error))
    assert detect_language(base, clips) == "en"
    texts = transcribe(base, clips[:2], dtype="float32")
    assert [t.text for t in texts] == generated(base, clips[:2])
    assert transcribe(base, clips[:1], language="german")[0].language == "de"


def test_forbidden_tokens_are_not_written(tiny_en, clips):
    first = transcribe(tiny_en, clips[:1], dtype="float32")[0].tokens
    strict = replace(tiny_en, model=copy.copy(tiny_en.model))
    strict.model.generation_config = copy.deepcopy(tiny_en.model.generation_config)
    strict.model.generation_config.begin_suppress_tokens = [first[0]]
    strict.model.generation_config.suppress_tokens = [
        *tiny_en.model.generation_config.suppress_tokens,
        first[2],
    ]
    for dtype in ("float32", "bfloat16"):
        tokens = transcribe(strict, clips[:1], dtype=dtype)[0].tokens
        assert tokens[0] != first[0] and first[2] not in tokens


class Script:
    """An engine that writes given tokens, whatever it hears, and checks who is asked for the next."""

    def __init__(self, lines):
        self.lines = lines

    def step(self, tokens, memory, first=False):
        assert len(tokens) == memory.rows
        written = 0 if first else memory.length - 1
        memory.length += len(tokens[0])
        who = memory.heard[0][0][: memory.rows, 0].int().tolist()
        if not first:
            assert [t[0] for t in tokens] == [self.lines[i][written - 1] for i in who]
        return torch.tensor([self.lines[i][written] for i in who])


def script_memory(rows):
    names = torch.arange(rows, dtype=torch.float32)[:, None]
    return Memory([(names, names.clone())], [(names.clone(), names.clone())], rows)


def test_each_utterance_ends_by_itself():
    lines = [[5, 0], [0], [1, 2, 3, 4, 0], [6, 7, 8, 0], [3] * 60, list(range(10, 70)), [9, 0]]
    found = _greedy(Script(lines), script_memory(7), [99, 98], 42, {0}, Job())
    assert [text for text, _ in found] == [[5], [], [1, 2, 3, 4], [6, 7, 8], [3], list(range(10, 50)), [9]]
    assert [looped for _, looped in found] == [False] * 4 + [True, False, False]


def test_a_loop_is_cut_after_its_first_round():
    phrase = [4, 5, 6, 7, 8, 9, 10, 11, 12]
    assert loop_end([1, 2, 3, *phrase * 4]) == 3 + len(phrase)
    assert loop_end([1, 2, 3, *phrase * 3]) is None  # said three times: people do that
    assert loop_end([7] * 31) is None and loop_end([7] * 32) == 1
    assert loop_end([*phrase * 5, 1]) is None  # it found its way out


def test_rows_that_stay_keep_what_they_heard():
    memory = script_memory(6)
    assert memory.keep([1, 4, 5]) == [4, 1, 5]
    assert memory.rows == 3
    for pair in (*memory.heard, *memory.written):
        for tensor in pair:
            assert tensor[:3, 0].tolist() == [4, 1, 5]


def test_bad_requests_say_what_to_do(tiny_en, clips, tmp_path):
    with pytest.raises(InputError, match="batch size of 0"):
        transcribe(tiny_en, clips, batch_size=0)
    with pytest.raises(InputError, match="float8"):
        transcribe(tiny_en, clips, dtype="float8")
    with pytest.raises(InputError, match="English only"):
        transcribe(tiny_en, clips, language="de")
    import soundfile

    soundfile.write(tmp_path / "long.wav", np.zeros(31 * 16000), 16000)
    (tmp_path / "long.jsonl").write_text('{"audio": "long.wav", "text": "hm"}\n')
    with pytest.raises(InputError, match="'long' lasts 31"):
        transcribe(tiny_en, clips[:2] + Corpus.from_manifest(tmp_path / "long.jsonl"))
    assert transcribe(tiny_en, []) == []


def test_progress_and_cancelling(tiny_en, clips):
    seen, threads = [], torch.get_num_threads()
    transcribe(tiny_en, clips, batch_size=3, job=Job(listeners=[lambda job: seen.append((job.done, job.total))]))
    assert seen == [(0, 7), (3, 7), (6, 7), (7, 7)]
    job = Job(listeners=[lambda job: job.cancel() if job.done == 3 else None])
    with pytest.raises(Cancelled):
        transcribe(tiny_en, clips, batch_size=3, job=job)
    assert job.done == 3 and torch.get_num_threads() == threads


def test_formats_have_names():
    assert resolve_dtype("float16") is torch.float16
    assert resolve_dtype(torch.bfloat16) is torch.bfloat16
    assert resolve_dtype("auto") is fastest_dtype("cpu")
    with pytest.raises(InputError, match="int4"):
        resolve_dtype("int4")


@pytest.mark.parametrize(("ratio", "expected"), [(0.5, torch.bfloat16), (0.95, torch.float32), (2, torch.float32)])
def test_a_shorter_format_must_be_worth_it(monkeypatch, ratio, expected):
    times = iter([1.0, ratio])
    monkeypatch.setattr(precision, "_seconds", lambda *_: next(times))
    assert precision._fastest_dtype.__wrapped__("cpu") is expected


def test_an_unsound_format_is_left_out(monkeypatch):
    linear = torch.nn.functional.linear
    monkeypatch.setattr(precision.F, "linear", lambda x, w: linear(x, w) * (0.9 if x.dtype != torch.float32 else 1))
    monkeypatch.setattr(precision, "_seconds", lambda *_: 1.0)
    monkeypatch.setattr(precision, "GAIN", 0.5)  # would take any format that is not twice as slow
    assert precision._fastest_dtype.__wrapped__("cpu") is torch.float32
