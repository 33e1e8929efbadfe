"""The real flow on real weights and real (synthetic) speech, as small as it can be and still mean something."""

import copy
import gc
import importlib
from dataclasses import replace

import numpy as np
import pytest
import torch

import adaptwin_widgets as aw
from adaptwin_widgets.anatomy import Twin, twins_of
from adaptwin_widgets.bench import Bench, modules_of
from adaptwin_widgets.features import log_mel
from adaptwin_widgets.jobs import Cancelled, ensure
from adaptwin_widgets.observe import NeuronMoments, calibration_windows, shrink, single_windows, teacher_tokens
from adaptwin_widgets.plan import shape_of
from adaptwin_widgets.run import Run, compressed_layers
from adaptwin_widgets.samples import Order, Samples, write
from adaptwin_widgets.sensitivity import cached, fingerprint, measure_damage
from adaptwin_widgets.spectra import diagonal_blocks
from adaptwin_widgets.threads import workers
from adaptwin_widgets.tune import prepare
from adaptwin_widgets.whisper import Whisper
from adaptwin_widgets.windows import Window, in_noise


@pytest.fixture(scope="module")
def speech():
    demo = aw.demo_speech()
    return [demo["target_train"][:8], demo["general_train"][:8]]


@pytest.fixture(scope="module")
def stats(tiny_en, speech):
    return aw.observe(tiny_en, speech, windows=4)


@pytest.fixture(scope="module")
def twins(tiny_en, stats):
    return aw.spectra(tiny_en, stats)


@pytest.fixture(scope="module")
def small(tiny_en, stats, twins):
    return aw.compress(tiny_en, aw.RankPlan.for_budget(twins, encoder=0.3), stats, spectra=twins)


def test_full_rank_with_statistics_reproduces_logits_and_transcripts(tiny_en, stats, twins):
    clips = aw.demo_speech()["target_dev"][:4]
    full = aw.compress(tiny_en, aw.RankPlan.full(tiny_en.config), stats, spectra=twins)
    features = log_mel([u.samples() for u in clips], tiny_en.processor.feature_extractor, "cpu")
    ids = torch.tensor([tiny_en.prompt() + list(range(1000, 1010))] * 4)
    with torch.no_grad():
        mine, original = (w.model(input_features=features, decoder_input_ids=ids).logits for w in (full, tiny_en))
    assert (mine - original).abs().max() < 1e-4
    texts = [[t.text for t in aw.transcribe(w, clips, dtype="float32")] for w in (full, tiny_en)]
    assert texts[0] == texts[1] and all(texts[0])


def test_statistics_too_large_for_memory_lie_on_disk(tiny_en, speech, monkeypatch):
    few = [corpus[:3] for corpus in speech]
    inside = aw.observe(tiny_en, few, windows=2)
    monkeypatch.setattr(importlib.import_module("adaptwin_widgets.observe"), "IN_MEMORY", 0)
    outside = aw.observe(tiny_en, few, windows=2)
    assert inside.room is None
    assert len(list(outside.room.folder.iterdir())) == 9, "the stem's neurons and every layer's, once"
    for key, moments in inside.neurons.items():
        assert torch.equal(moments.second, outside.neurons[key].second) and moments.rows == outside.neurons[key].rows
    folder = outside.room.folder
    ours, theirs = (aw.spectra(tiny_en, stats).values for stats in (inside, outside))
    assert all(np.array_equal(values, theirs[twin]) for twin, values in ours.items())
    del outside
    gc.collect()
    assert not folder.exists()


def test_statistics_are_those_of_the_layers(tiny_en, speech, stats):
    """One layer's moments again, from the tensors transformers itself hands out."""
    (window,) = calibration_windows(speech[0], 1)
    alone = aw.observe(tiny_en, speech[0], windows=1)
    features = log_mel([window.samples()], tiny_en.processor.feature_extractor, "cpu")
    attention = tiny_en.model.model.encoder.layers[0].self_attn
    seen = []
    handle = attention.q_proj.register_forward_hook(lambda m, a, out: seen.append(out[0, ::3].unflatten(-1, (6, 64))))
    with torch.no_grad():
        tiny_en.model.model.encoder(features)
    handle.remove()
    frames = torch.arange(1500) < -(-window.spans[-1][1] * 50 // 1)
    weights = torch.where(frames, 1.0, 0.1)[::3]
    query = torch.einsum("thi,thj,t->hij", seen[0], seen[0], weights) / weights.sum()
    torch.testing.assert_close(alone.attention["encoder", 0].query, query, rtol=1e-3, atol=1e-3)
    for moments in stats.attention.values():
        for matrix in (moments.query, moments.key):
            assert torch.linalg.eigvalsh(matrix.double()).min() > -1e-3 * matrix.diagonal(dim1=1, dim2=2).mean()
    assert stats.seconds > 10 and "50% target" in stats.speech


def test_the_first_corpus_has_its_weight(tiny_en, speech):
    target, other = (aw.observe(tiny_en, c, windows=1) for c in speech)
    both = aw.observe(tiny_en, speech, windows=1, target_weight=0.8)
    key = ("cross", 1)
    expected = 0.8 * target.attention[key].query + 0.2 * other.attention[key].query
    torch.testing.assert_close(both.attention[key].query, expected)


def test_no_windows_are_nothing_to_observe(tiny_en, speech):
    with pytest.raises(aw.InputError, match="windows=0 would observe nothing; give 1 or more"):
        aw.observe(tiny_en, speech, windows=0)


def test_the_prompt_is_observed_too(tiny_en):
    """Every token attends to the prompt, where activations are large; it predicts no text, so tuning leaves it out."""
    prompts = [[1, 2, 3], [1, 4, 3]]
    ids, text = teacher_tokens([[7, 8], [9]], prompts, tiny_en)
    _, all_of_it = teacher_tokens([[7, 8], [9]], prompts, tiny_en, 0.25)
    assert ids[:, :4].tolist() == [[1, 2, 3, 7], [1, 4, 3, 9]], "behind a prompt each"
    assert text.tolist() == [[0, 0, 1, 1, 1], [0, 0, 1, 1, 0]]
    assert all_of_it.tolist() == [[0.25, 0.25, 1, 1, 1], [0.25, 0.25, 1, 1, 0]]


def test_a_decoder_made_smaller_after_two_minutes_of_speech_still_writes(tiny_en):
    demo = aw.demo_speech()
    stats = aw.observe(tiny_en, demo["target_train"][:24])
    small = aw.compress(tiny_en, aw.RankPlan.for_budget(aw.spectra(tiny_en, stats), decoder=0.1), stats)
    clips = demo["target_dev"][:4]
    ours, theirs = ([t.text.lower().split() for t in aw.transcribe(w, clips)] for w in (small, tiny_en))
    kept = sum(len(set(a) & set(b)) for a, b in zip(ours, theirs, strict=True))
    assert kept > 0.8 * sum(len(set(b)) for b in theirs)


def test_few_rows_draw_a_covariance_to_its_diagonal():
    torch.manual_seed(0)
    mixing = torch.randn(20, 20, dtype=torch.float64)
    true = mixing @ mixing.T
    samples = torch.randn(25, 20, dtype=torch.float64) @ mixing.T
    found = samples.T @ samples / len(samples)
    shrunk = shrink(found, len(samples))
    assert torch.linalg.cond(shrunk) < torch.linalg.cond(found) / 5
    torch.testing.assert_close(shrunk.diagonal(), found.diagonal())
    torch.testing.assert_close(shrink(true, 1e9), 0.99 * true + 0.01 * true.diagonal().diag())


def test_rows_of_a_mixture_are_those_of_its_mean():
    one, other = (NeuronMoments(torch.zeros(2), torch.eye(2), rows) for rows in (100.0, 100.0))
    assert NeuronMoments.mix([one, other], [0.5, 0.5]).rows == pytest.approx(200)
    assert NeuronMoments.mix([one, other], [1.0, 0.0]).rows == pytest.approx(100)


def test_spectra_as_a_table(tiny_en, twins, stats):
    table = twins.frame()
    assert list(table.columns) == ["part", "layer", "kind", "head", "index", "value", "weight_only"]
    assert len(table) == 12 * 2 * 6 * 64 + 8 * 1536 + 384 and not table.isna().any().any()
    assert set(table["part"]) == {"stem", "encoder", "decoder", "cross"}
    weights_only = aw.spectra(tiny_en)
    assert (weights_only.frame()["value"] == weights_only.frame()["weight_only"]).all()
    # By hand: the singular values of the head's product, brute force.
    a = tiny_en.model.model.encoder.layers[1].self_attn
    q = torch.cat([a.q_proj.weight[64:128].T, a.q_proj.bias[None, 64:128]]).detach().double()
    brute = torch.linalg.svdvals(q @ a.k_proj.weight[64:128].detach().double())[:64]
    found = torch.tensor(weights_only.values[Twin("encoder", 1, "query_key")][1])
    torch.testing.assert_close(found, brute, rtol=1e-4, atol=1e-4 * float(brute[0]))
    covariance = stats.attention["cross", 0].covariance
    assert torch.equal(diagonal_blocks(covariance, 6)[2], covariance[128:192, 128:192])


def test_activation_aware_ranks_hurt_less_than_weight_only(tiny_en, stats, twins):
    """The reason for observing at all, on one layer: same ranks, the encoder's output moves less."""
    ranks = {"encoder.1.query_key": [16] * 6, "encoder.1.value_output": [32] * 6, "encoder.1.feed_forward": [600]}
    plan = aw.RankPlan(ranks, aw.RankPlan.full(tiny_en.config).shape)
    clips = aw.demo_speech()["target_dev"][:2]
    features = log_mel([u.samples() for u in clips], tiny_en.processor.feature_extractor, "cpu")
    with torch.no_grad():
        original = tiny_en.model.model.encoder(features).last_hidden_state[:, :150]
        errors = [
            (w.model.model.encoder(features).last_hidden_state[:, :150] - original).square().mean().item()
            for w in (aw.compress(tiny_en, plan, stats, spectra=twins), aw.compress(tiny_en, plan))
        ]
    assert errors[0] < 0.5 * errors[1]


def test_sensitivity_is_measured_kept_and_used(tiny_en, speech, stats, twins, tmp_path):
    measure = lambda **more: aw.measure_sensitivity(  # noqa: E731
        tiny_en, twins, stats, speech, sides=["encoder"], levels=(0.5, 0.9), windows=2, cache=tmp_path, **more
    )
    before = copy.deepcopy(tiny_en.model.state_dict())
    found = measure()
    assert set(found.curves) == {t for t in twins_of(tiny_en.config) if t.side == "encoder"}
    assert all(0 <= low < high for (_, low), (_, high) in found.curves.values())
    assert all(torch.equal(value, tiny_en.model.state_dict()[name]) for name, value in before.items())
    (many,) = found.together.values()  # the other side was not asked for
    alone, measured = zip(*many, strict=True)
    assert list(found.together) == ["encoder"] and list(alone) == sorted(alone) and list(measured) == sorted(measured)
    assert alone[0] > 0 and measured[0] > 0
    (file,) = tmp_path.glob("sensitivity-*.json")
    assert fingerprint(twins) in file.name and aw.Sensitivity.load(file) == found
    watched = aw.Job()
    watched.cancel()  # would stop any measuring at once
    assert measure(job=watched).curves == found.curves
    with pytest.raises(Cancelled):
        measure(job=watched, seed=2)  # on other speech, so another measurement
    with pytest.raises(Cancelled):
        measure(job=watched, rough=0.75)  # and so is one in noise
    by_damage = aw.RankPlan.for_budget(twins, encoder=0.3, sensitivity=found)
    assert by_damage.ranks != aw.RankPlan.for_budget(twins, encoder=0.3).ranks


def test_a_plan_of_one_twin_does_what_its_cut_alone_does(tiny_en, speech, stats, twins):
    twin, ranks = Twin("encoder", 1, "query_key"), {"encoder.1.query_key": [6, 4, 20, 7, 9, 3]}
    plan = aw.RankPlan(ranks, shape_of(tiny_en.config), tiny_en.source)
    with torch.no_grad():
        bench = Bench(tiny_en, [single_windows(speech[0], 2)], 2, aw.Job())
        alone = bench.damage(twin, modules_of(tiny_en.model, twins, stats, twin, ranks))
        assert alone > 1e-4 and bench.damage_of(plan, twins, stats) == pytest.approx(alone, rel=1e-3)


def test_a_twin_is_measured_in_noise_by_what_is_written_in_quiet(tiny_en, speech, stats, twins):
    """A clip that is heard both ways has the mean of what the cut does in quiet and in noise."""
    twin, (clip,) = Twin("encoder", 1, "query_key"), single_windows(speech[0], 1)
    modules = modules_of(tiny_en.model, twins, stats, twin, {str(twin): [6, 4, 20, 7, 9, 3]})
    (text,) = aw.transcribe(tiny_en, [clip])
    ((_, (loud, share)),) = in_noise([clip], 1.0)
    assert str(loud.utterances[0].conditions[0]) == "noise:5" and share == 0.5
    with torch.no_grad():
        quiet, both = (Bench(tiny_en, [[clip]], 2, aw.Job(), rough=rough) for rough in (0.0, 1.0))
        low, mean = (bench.damage(twin, modules) for bench in (quiet, both))
        ((ids, weights),) = both.tokens
        assert ids[0].tolist() == ids[1].tolist() and ids[0].tolist()[-len(text.tokens) :] == list(text.tokens)
        said = both.reference[0]
        assert not torch.equal(said[0], said[1])  # the reference is what the original says of each
        assert weights.max() == 0.5
        both.tokens = [(ids, weights * torch.tensor([[0.0], [1.0]]))]
        both.layer, both.inputs = 0, both.first
        high = both.damage(twin, modules)
    assert 0 < low < mean < high and mean == pytest.approx((low + high) / 2, rel=1e-3)


@pytest.mark.parametrize("asked, share", [({}, 0.0), ({"rough": 0.25}, 0.25)])
def test_so_much_of_what_measures_twins_is_in_noise(tiny_en, speech, stats, twins, asked, share, monkeypatch):
    def bench(model, windows, *_, rough, seed):
        assert list(map(len, windows)) == [3, 3] and (rough, seed) == (share, 1)
        raise Cancelled

    monkeypatch.setattr("adaptwin_widgets.sensitivity.Bench", bench)
    with pytest.raises(Cancelled):
        aw.measure_sensitivity(tiny_en, twins, stats, speech, sides=["encoder"], cache=None, **asked)


def test_a_side_that_was_interrupted_is_measured_to_its_end(tiny_en, speech, stats, twins, monkeypatch):
    recipe = aw.Recipe(tiny_en, speech)
    recipe.stats, recipe.spectra = stats, twins
    known = {t: [(0.1, 1e-3), (0.5, 0.1)] for t in twins_of(tiny_en.config)}
    half = {t: curve for t, curve in known.items() if t.side == "encoder" or t.layer == 0}
    recipe._damage, asked = aw.Sensitivity(half, together={"encoder": [(0.1, 0.2)]}), []

    def measure(*_, sides, **__):
        asked.extend(sides)
        return aw.Sensitivity(known)

    monkeypatch.setattr("adaptwin_widgets.recipe.measure_sensitivity", measure)
    recipe.sensitivity(["encoder"])
    assert not asked
    recipe.plan(decoder=0.2)
    assert asked == ["decoder"]


def test_an_even_plan_has_as_many_heads_fewer_as_do_the_least(tiny_en, speech, stats, twins, monkeypatch):
    """The damage is told by a stand-in, but for once, when it is measured: more heads at the price of nothing else."""
    recipe = aw.Recipe(tiny_en, speech)
    recipe.stats, recipe.spectra = stats, twins
    curves = {t: [(0.1, 1e-3), (0.5, 0.1)] for t in twins_of(tiny_en.config)}
    recipe._damage, told, asked = aw.Sensitivity(curves, together={"encoder": [], "decoder": []}), [], []

    def measure(model, plans, *_, **__):
        asked.append(plans)
        return told

    monkeypatch.setattr("adaptwin_widgets.recipe.measure_damage", measure)
    for told in ([0.3, 0.2], [0.1, 0.2]):
        ranks = recipe.plan("even", encoder=0.3).ranks
        gone = {ranks[f"encoder.{i}.{kind}"].count(0) for i in range(4) for kind in ("query_key", "value_output")}
        assert gone == {2 * told.index(min(told))}, "in pairs"
    assert all(0.3 <= plan.reductions["encoder_reduction"] < 0.32 for plans in asked for plan in plans)
    told = [0.5]  # two heads of every layer are more than a twentieth
    assert min(min(ranks) for ranks in recipe.plan("even", encoder=0.05).ranks.values()) > 0
    asked.clear()
    recipe.plan("even", decoder=0.3)
    assert not asked, "the decoder keeps its heads"
    plans = [aw.RankPlan.for_budget(twins, encoder=0.3, even=True, fewer_heads=fewer) for fewer in (0, 4)]
    mild, harsh = measure_damage(tiny_en, plans, twins, stats, [speech[0].head(2)])
    assert 0 < mild < harsh


SETTINGS = aw.Settings(batch_size=2, check_every=2, warmup=4)


@pytest.fixture(scope="module")
def tight(tiny_en, stats, twins):
    """So small that a few steps must help."""
    return aw.compress(tiny_en, aw.RankPlan.for_budget(twins, encoder=0.5), stats, spectra=twins)


@pytest.fixture(scope="module")
def tuned(tiny_en, tight, speech):
    return aw.tune(tight, teacher=tiny_en, speech=speech, steps=4, settings=SETTINGS)


def test_tuning_lowers_the_held_out_loss_and_leaves_its_inputs_alone(tiny_en, tight, tuned):
    run = tuned.notes["tuning"]
    assert run["steps"] == 4 and run["audio_seconds_seen"] > 0
    assert SETTINGS.rate(384, 0.01, 4) < run["learning_rate"] < SETTINGS.rate(384, 1.0, 4)
    assert run["held_out_best"] < run["held_out_before"]
    assert tuned.config.ranks == tight.config.ranks and tuned.notes["plan"] == tight.notes["plan"]
    moved = {
        name
        for name, value in tuned.model.state_dict().items()
        if not torch.equal(value, tight.model.state_dict()[name])
    }
    assert {name.split(".")[2] for name in moved} == {"layers", "conv1", "conv2"}
    assert all(name.startswith("model.encoder.") for name in moved)
    assert not any(p.grad is not None for p in tiny_en.model.parameters())


def test_a_resumed_run_equals_an_unbroken_one(tiny_en, tight, speech, tuned, tmp_path):
    job, file = aw.Job(), tmp_path / "run.tuning"
    arguments = {"teacher": tiny_en, "speech": speech, "steps": 4, "settings": SETTINGS, "checkpoint": file}
    stopped = aw.tune(tight, **arguments, job=job, on_progress=lambda p: job.cancel() if p.steps == 2 else None)
    assert stopped.notes["tuning"]["stopped"] and stopped.notes["tuning"]["steps"] == 2
    resumed = aw.tune(tight, **arguments, resume=True)
    assert resumed.notes["tuning"]["steps"] == 4
    for name, value in tuned.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_the_nearer_the_original_the_smaller_the_steps(tiny_en, tight, stats, twins, speech, monkeypatch):
    monkeypatch.setattr("adaptwin_widgets.windows.ZEROS", 0.0)
    mild = aw.compress(tiny_en, aw.RankPlan.for_budget(twins, encoder=0.1), stats, spectra=twins)
    found = []
    for model, share in ((mild, 0.0), (tight, 0.0), (tight, 0.5)):
        settings = aw.Settings(batch_size=2, transcripts=share)
        run = Run(model, prepare(tiny_en, speech, settings), settings, None, ensure(None))
        run.check()
        found.append((run.peak(100), run.progress.best / sum(settings.weights)))
        with torch.no_grad():
            for p in run.parameters.values():
                p.mul_(1.1)
        assert run.peak(100) == found[-1][0], "it is as far as the model was before its first step"
    (small_rate, near), (rate, far), (told, said) = found
    assert small_rate == pytest.approx(SETTINGS.rate(384, near, 100))
    assert rate == pytest.approx(SETTINGS.rate(384, far, 100))
    assert near < far / 4 and small_rate < rate / 2
    assert said > far * 1.05, "what transcripts say is far from the original, too"
    assert told == pytest.approx(rate, rel=0.05)


def test_zeros_behind_a_clip_are_no_distance(tiny_en, tight, speech, monkeypatch):
    rates, losses = [], []
    for share in (0.0, 1.0):
        monkeypatch.setattr("adaptwin_widgets.windows.ZEROS", share)
        settings = aw.Settings(batch_size=2, transcripts=0.0)
        lessons = prepare(tiny_en, speech, settings)
        assert any(sample.zeros for batch in lessons.held_out for sample in batch.samples) == bool(share)
        run = Run(tight, lessons, settings, None, ensure(None))
        run.check()
        rates.append(run.peak(100))
        losses.append(run.progress.best)
    assert rates[0] == pytest.approx(rates[1], rel=0.01) and losses[0] < 0.9 * losses[1]


def test_the_rate_grows_with_the_steps_there_are(tiny_en, tight, speech):
    """By the steps it was told, or by those that the minutes have had room for so far."""
    settings = aw.Settings(batch_size=2, warmup=0)
    lessons = prepare(tiny_en, speech, settings)
    rates = []
    for fraction in (1 / 16, 1 / 256):
        run = Run(tight, lessons, settings, None, ensure(None))
        run.step(0.0)
        run.step(fraction)
        rates.append(run.progress.history[-1]["rate"] / (1 - 0.9 * fraction))
    assert rates[1] == pytest.approx(2 * rates[0])


def test_the_decoder_is_tuned_more_gently_than_the_encoder(tiny_en, speech, stats):
    """Adam's first step moves every weight by the learning rate, or by less."""
    plan = aw.RankPlan.for_budget(aw.spectra(tiny_en, stats), encoder=0.2, decoder=0.2)
    both = aw.compress(tiny_en, plan, stats)
    settings = aw.Settings(batch_size=2, learning_rate=1e-3, warmup=1, decoder=0.125)
    run = Run(both, prepare(tiny_en, speech, settings), settings, None, ensure(None))
    before = {name: p.detach().clone() for name, p in run.parameters.items()}
    run.step(0.0)
    for side, rate in {"encoder": 1e-3, "decoder": 1.25e-4}.items():
        moved = [(p - before[name]).abs().max().item() for name, p in run.parameters.items() if f".{side}." in name]
        assert max(moved) == pytest.approx(rate, rel=0.01), side
    assert len(before) == sum(len(group["params"]) for group in run.optimiser.param_groups)


def test_minutes_are_kept(tiny_en, small, speech):
    import time

    began = time.monotonic()
    run = aw.tune(small, teacher=tiny_en, speech=speech[0], minutes=0.5, settings=SETTINGS).notes["tuning"]
    assert run["seconds"] <= 0.5 * 60 or run["steps"] == 0  # a busy machine may have no time for a step
    assert time.monotonic() - began < run["seconds"] + 15


def test_the_papers_recipe_changes_matrices_by_a_low_rank_and_leaves_no_trace(tiny_en, speech):
    recipe = aw.Recipe(tiny_en, speech)
    rough = recipe.compress(recipe.plan("adaptwin", encoder=0.1))
    settings = aw.Settings.adaptwin(batch_size=2, check_every=4)
    done = aw.tune(rough, teacher=tiny_en, speech=speech, steps=4, settings=settings)
    run, before, after = done.notes["tuning"], rough.model.state_dict(), done.model.state_dict()
    assert run["held_out_best"] < run["held_out_before"] and run["settings"]["layerwise"] == 0.5
    assert run["learning_rate"] == 1e-3
    assert before.keys() == after.keys()
    moved = [name for name in after if not torch.equal(before[name], after[name])]
    assert moved and all(name.startswith("model.encoder.layers") and name.endswith("weight") for name in moved)
    for name in moved:
        values = torch.linalg.svdvals((after[name] - before[name]).double())
        assert values[16] < 1e-4 * values[0]


def test_a_layer_tuned_alone_moves_alike_whatever_the_others_do(tiny_en, small, speech):
    settings = aw.Settings(batch_size=2, dtype="float32", layerwise=1.0, learning_rate=1e-4)
    lessons = prepare(tiny_en, speech, settings)
    moved = []
    for spoiled in (1.0, 30.0):
        model = aw.Whisper(copy.deepcopy(small.model), small.processor, small.source)
        with torch.no_grad():
            model.model.model.encoder.layers[2].fc2.weight.mul_(spoiled)
        run = Run(model, lessons, settings, None, ensure(None))
        for step in range(3):
            run.step(step / 3)
        after, before = (m.model.encoder.layers[1].fc1.weight.detach() for m in (run.network, small.model))
        moved.append(after - before)
    assert moved[0].abs().max() > 0
    torch.testing.assert_close(moved[0], moved[1])


def test_layers_alone_are_as_far_from_the_teachers_as_by_hand(tiny_en, small, speech):
    lessons = prepare(tiny_en, speech, aw.Settings(batch_size=2, dtype="float32"))
    distance, batch = lessons.distance, lessons.batch(0)
    with torch.no_grad():
        whole = aw.compress(tiny_en, aw.RankPlan.full(tiny_en.config))
        layers = compressed_layers(whole.config)
        assert len(layers) == 8 and distance.local(whole.model, batch, layers) < 1e-6
        states = tiny_en.model.model.encoder(batch.features, output_hidden_states=True).hidden_states
        after = [*states[1:-1], distance.targets(batch)[-2]]  # the last of `states` has passed the final norm
        weights = batch.frames / batch.frames.sum()
        errors = []
        for layer, *pair, variance in zip(
            small.model.model.encoder.layers, states, after, distance.variance, strict=False
        ):
            off = (layer(pair[0], None) - pair[1]).square() / variance
            errors.append((off.mean(-1) * weights).sum())
        assert len(errors) == 4
        together = distance.local(small.model, batch, layers[:4])
        assert torch.isclose(together, torch.stack(errors).mean(), rtol=1e-3)
        assert torch.isclose(distance.local(small.model, batch, [("encoder", 2)]), errors[2], rtol=1e-3)


def test_the_teacher_answers_each_window_once(tiny_en, speech):
    lessons = prepare(tiny_en, speech, aw.Settings(dtype="float32", batch_size=3))
    lessons.write(0)
    batch, distance, asked = lessons.batch(0), lessons.distance, []
    encoded = distance.targets(batch)[-1]
    with torch.no_grad():
        whole = tiny_en.model.model.decoder(input_ids=batch.ids, encoder_hidden_states=encoded, use_cache=False)
    handle = tiny_en.model.model.decoder.register_forward_hook(lambda *_: asked.append(1))
    try:
        for _ in range(2):
            answers = distance.answers(batch, encoded)
            torch.testing.assert_close(answers, whole.last_hidden_state[batch.tokens.bool()], atol=2e-4, rtol=1e-4)
            assert len(asked) == len({id(s) for s in batch.samples}) == 3
        distance.forget()
        distance.answers(batch, encoded)
        assert len(asked) == 6
    finally:
        handle.remove()


def test_a_share_of_the_windows_is_rough_and_lone_ones_are_filled(tiny_en, speech, monkeypatch):
    monkeypatch.setattr("adaptwin_widgets.windows.ZEROS", 1.0)
    quiet, rough = (prepare(tiny_en, speech, aw.Settings(batch_size=2, rough=share)) for share in (0, 0.5))
    samples = [sample for corpus in rough.order.corpora for sample in corpus]
    under = [all(u.conditions for u in s.window.utterances) for s in samples]
    assert sum(under) == sum(len(corpus) // 2 for corpus in rough.order.corpora) > 0
    for lessons in (quiet, rough):
        for corpus in lessons.order.corpora:
            corpus.write(0)
    assert rough.written == quiet.written, "the words are those of the quiet speech"
    alone = next(s for s in samples if len(s.window.utterances) == 1)
    features = rough.distance.batch([replace(alone, zeros=z) for z in (False, True)]).features
    end = len(alone.window.samples()) // 160 + 1
    assert torch.equal(features[0, :, :end], features[1, :, :end])
    assert (features[1, :, end:] == 0).all() and (features[0, :, end + 1 :] < -0.1).all()
    assert [s.zeros for s in samples] == [len(s.window.utterances) == 1 for s in samples]


def test_the_teacher_hears_silence_where_the_small_model_hears_zeros(tiny_en, speech, monkeypatch):
    monkeypatch.setattr("adaptwin_widgets.windows.ZEROS", 1.0)
    lessons = prepare(tiny_en, speech, aw.Settings(batch_size=2, dtype="float32"))
    alone = next(s for s in lessons.order.corpora[0] if s.zeros)
    distance = lessons.distance
    silent, zeros = (distance.batch([replace(alone, zeros=z)]) for z in (False, True))
    for ours, theirs in zip(distance.targets(zeros), distance.targets(silent), strict=True):
        assert torch.equal(ours, theirs)
    encoded = distance.targets(silent)[-1]
    assert torch.equal(distance.answers(zeros, encoded), distance.answers(silent, encoded))
    with torch.no_grad():
        assert distance.terms(tiny_en.model, silent)[1] < 1e-6, "with silence the original is at no distance"
        assert distance.terms(tiny_en.model, zeros)[1] > 1e-3, "with zeros even the original has to learn"
        assert distance.local(tiny_en.model, zeros, [("encoder", 0)]) < 1e-6, (
            "alone, a layer hears what the teacher did"
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": None}, "minutes or steps"),
        ({"minutes": 1}, "minutes or steps"),
        ({"steps": 0}, "above 0"),
        ({"speech": []}, "no speech"),
        ({"resume": True}, "no checkpoint"),
    ],
)
def test_impossible_tunes_are_refused(tiny_en, small, speech, arguments, message):
    with pytest.raises(aw.InputError, match=message):
        aw.tune(small, **{"teacher": tiny_en, "speech": speech, "steps": 1, **arguments})


@pytest.mark.parametrize("weight", [50, -0.1, float("nan")])
def test_a_weight_that_is_no_share_is_refused(weight):
    with pytest.raises(aw.InputError, match="has to be at least 0 and at most 1"):
        aw.Settings(target_weight=weight)


def test_a_checkpoint_of_something_else_is_refused(tiny_en, small, speech, tmp_path):
    file = tmp_path / "run.tuning"
    file.write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    with pytest.raises(aw.InputError, match="no checkpoint of this model"):
        aw.tune(small, teacher=tiny_en, speech=speech, steps=1, checkpoint=file, resume=True)


def test_a_checkpoint_of_another_tune_is_refused(tiny_en, small, tight, speech, tmp_path):
    file = tmp_path / "run.tuning"
    again = {"teacher": tiny_en, "speech": speech, "steps": 1, "checkpoint": file, "resume": True}
    tuned = aw.tune(small, **{**again, "resume": False})
    with pytest.raises(aw.InputError, match="of a tune with other settings"):
        aw.tune(small, **again, settings=aw.Settings(seed=1))
    with pytest.raises(aw.InputError, match="of a tune with other speech"):
        aw.tune(small, **again | {"speech": speech[:1]})
    with pytest.raises(aw.InputError, match="of a tune of another model"):
        aw.tune(tight, **again)
    assert aw.tune(tuned, **again).notes["tuning"]["steps"] == 1, "its own result may stand in the model's place"


def test_a_tune_in_float16_is_refused(tiny_en, small, speech):
    with pytest.raises(aw.InputError, match="loses small gradients"):
        aw.tune(small, teacher=tiny_en, speech=speech, steps=1, settings=aw.Settings(dtype="float16"))


def test_wrong_models_are_refused(tiny_en, small, speech, stats):
    with pytest.raises(aw.InputError, match="not compressed"):
        aw.tune(tiny_en, teacher=tiny_en, speech=speech, steps=1)
    with pytest.raises(aw.InputError, match="compressed itself"):
        aw.tune(small, teacher=small, speech=speech, steps=1)


def test_a_small_model_is_saved_with_how_it_was_made(small, tmp_path):
    small.save_pretrained(tmp_path / "small")
    again = aw.load(tmp_path / "small")
    assert again.notes == small.notes and again.config.ranks == small.config.ranks
    clips = aw.demo_speech()["target_dev"][:2]
    assert [t.text for t in aw.transcribe(again, clips)] == [t.text for t in aw.transcribe(small, clips)]


def test_transformers_own_pipeline_and_generate(small, tmp_path):
    from transformers import pipeline

    small.save_pretrained(tmp_path / "small")
    clip = aw.demo_speech()["target_dev"][0]
    ours = aw.transcribe(small, [clip], dtype="float32")[0].text
    recogniser = pipeline("automatic-speech-recognition", model=str(tmp_path / "small"))  # searches with 5 beams
    assert recogniser(clip.samples(), generate_kwargs={"num_beams": 1})["text"].strip() == ours
    long = torch.cat([torch.tensor(clip.samples())] * 12).numpy()  # longer than one window
    assert len(long) > 30 * 16000
    found = recogniser(long, return_timestamps=True)
    assert len(found["chunks"]) > 1 and found["chunks"][-1]["timestamp"][0] > 25


def test_where_the_teacher_leaves_clips_out_it_is_asked_clip_by_clip(tiny_en, speech, monkeypatch):
    """With a teacher that hears the first clip of one window only, and a loop in another."""
    windows = [Window(tuple(speech[0][i : i + 2])) for i in (0, 2, 4)] + [Window((speech[0][0],))]
    heard = aw.transcribe(tiny_en, windows)
    deaf = [replace(heard[0], tokens=heard[0].tokens[:4]), replace(heard[1], tokens=heard[1].tokens * 9, looped=True)]
    asked = []

    def teacher(model, clips, **options):
        asked.append([clip.id for clip in clips])
        return [*deaf, *heard[2:]] if len(asked) == 1 else aw.transcribe(model, clips, **options)

    monkeypatch.setattr("adaptwin_widgets.samples.transcribe", teacher)
    written = write(tiny_en, windows, "en")
    assert asked[1:] == [[u.id for w in windows[:2] for u in w.utterances]], "at once, and no whole one again"
    for i, tokens in enumerate(written):
        clips = heard[i : i + 1] if i > 1 else aw.transcribe(tiny_en, [Window((u,)) for u in windows[i].utterances])
        assert tokens == [token for clip in clips for token in clip.tokens]


def test_the_teacher_writes_what_is_needed_and_alike_wherever_a_run_begins(tiny_en, small, monkeypatch):
    """Hours of speech would take longer to write than to tune on."""
    monkeypatch.setattr("adaptwin_widgets.samples.FIRST", 2)
    monkeypatch.setattr("adaptwin_widgets.samples.AT_ONCE", 3)
    mine, settings = aw.demo_speech()["target_train"], aw.Settings(batch_size=1, dtype="float32")
    lessons, later = (prepare(tiny_en, [mine], settings) for _ in range(2))
    aw.tune(small, teacher=tiny_en, speech=mine, steps=3, settings=settings, lessons=lessons)
    assert [chunk is not None for chunk in lessons.written[0][:4]] == [True, True, False, False], "two, three more"
    assert not later.ready(2), "only held-out speech is written"
    ours, theirs = lessons.batch(2), later.batch(2)
    assert later.ready(4) and not later.ready(5) and not later.ready(1)
    assert ours.samples == theirs.samples and torch.equal(ours.ids, theirs.ids)
    assert later.batch(2).samples[0] is theirs.samples[0], "what is kept of a sample is found by its identity"


def test_the_first_turn_takes_every_window_in_its_order_and_the_next_another():
    order = Order([range(5), range(9)], (0.5, 0.5), 2, seed=0)
    seen = [place for step in range(20) for which, place in order.places(step) if which == 0]
    turns = [list(dict.fromkeys(seen[i : i + 5])) for i in range(0, 20, 5)]
    assert seen[:5] == sorted(seen[:5]) and max(seen) == 4 and turns[1] != turns[0]


def test_a_turn_of_any_share_takes_every_window_once():
    order = Order([list(range(9)), list(range(7)), list(range(5))], [0.5, 0.3, 0.2], 2, seed=0)
    drawn = [place for step in range(60) for place in order.places(step)]
    for which, size in enumerate((9, 7, 5)):
        own = [place for corpus, place in drawn if corpus == which]
        assert abs(len(own) / len(drawn) - order.shares[which]) < 0.02
        for turn in range(len(own) // size):
            assert sorted(own[turn * size : (turn + 1) * size]) == list(range(size))
    later = Order(order.corpora, order.shares, 2, seed=0)
    assert later.places(45) == order.places(45), "wherever a run begins"


def test_a_text_that_goes_on_is_never_to_end(tiny_en, speech):
    """So the teacher's distance to itself is what it thinks of ending early."""
    lessons = prepare(tiny_en, speech, aw.Settings(batch_size=2, dtype="float32", transcripts=0.0))
    sample = next(s for s in lessons.order.corpora[0] if len(s.window.utterances) > 1)
    end = tiny_en.config.eos_token_id
    batch = lessons.distance.batch([sample])
    with torch.no_grad():
        logits = tiny_en.model(input_features=batch.features, decoder_input_ids=batch.ids, use_cache=False).logits
        chances = logits[0].softmax(-1)[batch.tokens[0].bool(), end]
        assert chances[-1] > 0.5, "where the text is over, it says so"
        off = -(1 - chances[:-1]).log().sum() / len(chances)
        assert torch.isclose(lessons.distance.terms(tiny_en.model, batch)[2], off, rtol=1e-2, atol=1e-6)


def test_a_transcript_puts_right_what_the_teacher_wrote(tiny_en, speech):
    """What nobody wrote down, and what is of something else, is learnt as the teacher has it."""
    texts = {"right": None, "longer": "{} indeed", "none": "", "other": "seven grey horses waited outside quietly"}
    found = {}
    for name, text in texts.items():
        clips = [u if text is None else replace(u, text=text.format(u.text)) for u in speech[0][:4]]
        samples = Samples(tiny_en, aw.Corpus(clips, name), "en", 0, rough=0.0, transcripts=0.3)
        written = samples.write(0)
        found[name] = [(s.said, list(s.tokens) == w, s.tokens) for s, w in zip(samples, written, strict=True)]
    words = {name: tiny_en.processor.tokenizer.batch_decode([s[2] for s in rows]) for name, rows in found.items()}
    assert {s[0] for s in found["right"]} == {0.3} and all(map(str.strip, words["right"]))
    assert [text.count("indeed") for text in words["longer"]] == [text.count(".") for text in words["right"]]
    assert all(said == 0.3 and not same for said, same, _ in found["longer"])
    for name in ("none", "other"):
        assert all(said == 0 and same for said, same, _ in found[name]), name


def test_the_word_of_a_transcript_counts_as_much_as_is_wished(tiny_en, speech):
    lessons = prepare(tiny_en, speech, aw.Settings(batch_size=2, dtype="float32", transcripts=1.0))
    batch = lessons.batch(0)
    assert batch.said.tolist() == [1.0, 1.0]
    with torch.no_grad():
        logits = tiny_en.model(input_features=batch.features, decoder_input_ids=batch.ids, use_cache=False).logits
        own = logits.log_softmax(-1).gather(-1, batch.ids[:, 1:, None])[..., 0]
        of_text = batch.tokens.bool()[:, :-1] & (torch.arange(own.shape[1]) < batch.tokens.cumsum(1).argmax(1)[:, None])
        ends = [row[int(w.nonzero().max())] for row, w in zip(logits.log_softmax(-1), batch.tokens, strict=True)]
        total = own[of_text].sum() + sum(row[tiny_en.config.eos_token_id] for row in ends)
        found = lessons.distance.terms(tiny_en.model, batch)[2]
        torch.testing.assert_close(found, -total / batch.tokens.sum(), rtol=1e-3, atol=1e-5)
        parts = [lessons.distance.terms(tiny_en.model, part)[2] for part in batch.parts()]
        torch.testing.assert_close(sum(parts), found, rtol=1e-3, atol=1e-5)


def test_every_corpus_is_learnt_behind_the_prompt_of_its_language(tiny_en, speech, monkeypatch):
    said = iter(["de", "en"])
    monkeypatch.setattr("adaptwin_widgets.distill.detect_language", lambda *rest: next(said))
    monkeypatch.setattr(aw.Whisper, "prompt", lambda self, language: [50257, 7 if language == "de" else 8, 50362])
    monkeypatch.setattr("adaptwin_widgets.samples.write", lambda teacher, windows, *rest: [[1, 2]] * len(windows))
    lessons = prepare(tiny_en, speech, aw.Settings(batch_size=4))
    assert {s.prompt[1] for s in lessons.order.corpora[0]} == {7}
    assert {s.prompt[1] for s in lessons.order.corpora[1]} == {8}
    assert {row[1] for batch in lessons.held_out for row in batch.ids.tolist()} == {7, 8}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_half_precision_is_observed_measured_and_a_teacher(dtype, speech, twins, stats, tmp_path):
    half = aw.load("tiny.en", dtype=dtype)
    seen = aw.observe(half, speech, windows=2)
    for moments in (*seen.attention.values(), *seen.neurons.values()):
        assert moments.second.dtype == torch.float32 and moments.second.isfinite().all()
    one = list(twins_of(half.config))[-1:]
    known = aw.Sensitivity({twin: [(0.5, 0.25)] for twin in twins.values if twin not in one}, fingerprint(twins))
    known.save(cached(tmp_path, known.fingerprint, (0.5,), 1))
    options = {"levels": (0.5,), "windows": 1, "cache": tmp_path}
    assert aw.measure_sensitivity(half, twins, stats, speech[0], **options).curves[one[0]][0][1] > 0
    small = aw.compress(half, aw.RankPlan.for_budget(twins, encoder=0.3), stats)
    tuned = aw.tune(small, teacher=half, speech=[c.head(8) for c in speech], steps=1)
    assert tuned.notes["tuning"]["steps"] == 1 and half.model.dtype == dtype


@pytest.mark.parametrize("setting", ["warmup", "batch_size", "check_every"])
def test_settings_that_are_no_counts_are_refused(setting):
    with pytest.raises(aw.InputError, match=f"{setting}=-1 is no count"):
        aw.Settings(**{setting: -1})
    assert aw.Settings(warmup=0).warmup == 0
    for nothing in ((0.0, 0.0, 0.0), (1.0, -0.5, 1.0)):
        with pytest.raises(aw.InputError, match="weigh nothing"):
            aw.Settings(weights=nothing)


def test_numbers_that_are_none_end_no_loop(tiny_en):
    broken = Whisper(copy.deepcopy(tiny_en.model), tiny_en.processor, "broken")
    with torch.no_grad():
        broken.model.model.encoder.layers[0].self_attn.q_proj.weight[0, 0] = torch.nan
    with pytest.raises(aw.InputError, match="no numbers"):
        aw.spectra(broken)


def test_windows_on_threads_of_their_own_are_learnt_as_a_batch(tiny_en, speech, twins, stats, request):
    """Whatever their length, each counts in proportion, and every run of as many threads comes to the same."""
    small = aw.compress(tiny_en, aw.RankPlan.for_budget(twins, encoder=0.3), stats)
    settings = aw.Settings(batch_size=3, dtype="float32")
    run = Run(small, prepare(tiny_en, speech, settings), settings, None, ensure(None))
    batch = next(b for b in map(run.lessons.batch, range(9)) if len({len(s.tokens) for s in b.samples}) == 3)
    assert sum(p.share[1] for p in batch.parts()) == pytest.approx(1)

    def learnt():
        loss = run.learn(batch, local=False)
        return loss, [None if p.grad is None else p.grad.clone() for p in run.parameters.values()]

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    request.addfinalizer(lambda: torch.set_num_threads(before))
    whole, together = learnt()
    with workers(tiny_en.device, 3) as (pool, number):
        assert number == 2 and torch.get_num_threads() == 2
        assert list(pool.map(lambda _: torch.get_num_threads(), range(4))) == [1] * 4, "and keep them"
        torch.ones(100_000).sum()
        run.pool = pool
        (apart, gradients), again = learnt(), learnt()
    assert apart == pytest.approx(whole, rel=1e-5) and apart == again[0]
    assert sum(g is not None for g in together) > 20
    for one, other, same in zip(together, gradients, again[1], strict=True):
        if one is not None:
            assert (one - other).norm() <= 1e-4 * one.norm() + 1e-9 and torch.equal(other, same)
    assert torch.get_num_threads() == 2
