"""The encoder's two convolutions are a feed-forward pair that reads three frames: cut, refitted, tuned, counted."""

import numpy as np
import pytest
import torch

import adaptwin_widgets as aw
from adaptwin_widgets import figures
from adaptwin_widgets.allocate import uniform
from adaptwin_widgets.anatomy import STEM, Twin, encoder_input, pair_of
from adaptwin_widgets.bench import Bench, modules_of
from adaptwin_widgets.cost import cost
from adaptwin_widgets.features import log_mel
from adaptwin_widgets.observe import calibration_windows
from adaptwin_widgets.plan import RankPlan, shape_of
from adaptwin_widgets.run import Run
from adaptwin_widgets.tune import prepare
from adaptwin_widgets.twins import feed_forward

KEPT = 200  # of tiny.en's 384


@pytest.fixture(scope="module")
def speech():
    return [aw.demo_speech()["target_train"][:8]]


@pytest.fixture(scope="module")
def stats(tiny_en, speech):
    return aw.observe(tiny_en, speech, windows=6, rough=0.0)


@pytest.fixture(scope="module")
def twins(tiny_en, stats):
    return aw.spectra(tiny_en, stats)


@pytest.fixture(scope="module")
def small(tiny_en, stats, twins):
    plan = RankPlan({str(STEM): [KEPT]}, shape_of(tiny_en.config), tiny_en.source)
    return aw.compress(tiny_en, plan, stats, spectra=twins)


@pytest.fixture(scope="module")
def features(tiny_en):
    clips = aw.demo_speech()["target_dev"][:4]
    return log_mel([u.samples() for u in clips], tiny_en.processor.feature_extractor, "cpu")


def stem_of(whisper, features):
    """What the second convolution says, before its activation, [B, d, 1500]."""
    encoder = whisper.model.model.encoder
    with torch.no_grad():
        return encoder.conv2(torch.nn.functional.gelu(encoder.conv1(features)))


def test_a_neuron_of_several_rows_goes_as_one():
    generator = torch.Generator().manual_seed(0)
    taps, n = 3, 8
    sample = torch.randn(200, taps * n, generator=generator, dtype=torch.float64)
    covariance, output = sample.T @ sample / 200, torch.randn(taps * n, 5, generator=generator, dtype=torch.float64)
    found = feed_forward(covariance, output, block=1, taps=taps)

    def error(kept):
        rows = torch.cat([torch.arange(taps * int(i), taps * int(i) + taps) for i in kept])
        gap = output.clone()
        gap[rows] -= torch.linalg.solve(covariance[rows][:, rows], covariance[rows] @ output)
        return torch.trace(gap.T @ covariance @ gap).item()

    for kept in (7, 5, 2):
        assert found.values[kept:].square().sum().item() == pytest.approx(error(found.order[:kept]), rel=0.05)
    alone = [error([j for j in range(n) if j != i]) for i in range(n)]
    assert int(found.order[-1]) == int(np.argmin(alone)), "the cheapest of all goes first"
    assert sorted(found.order.tolist()) == list(range(n))


def test_a_whole_stem_says_what_it_said(tiny_en, stats, twins, features):
    plan = RankPlan({str(STEM): [384]}, shape_of(tiny_en.config), tiny_en.source)
    whole = aw.compress(tiny_en, plan, stats, spectra=twins)
    torch.testing.assert_close(stem_of(whole, features), stem_of(tiny_en, features), rtol=1e-4, atol=1e-4)


def test_the_refit_makes_good_what_is_lost(tiny_en, stats, twins, small, features):
    true, ours = stem_of(tiny_en, features), stem_of(small, features)
    first, second = pair_of(tiny_en.model, STEM).values()
    kept = twins.order[STEM][:KEPT].sort().values
    with torch.no_grad():
        heard = torch.nn.functional.gelu(first(features))[:, kept]
        cut = torch.nn.functional.conv1d(heard, second.weight[:, kept], second.bias, stride=2, padding=1)
        at_random = torch.randperm(384, generator=torch.Generator().manual_seed(0))[:KEPT]
    error = (ours - true).square().mean()
    assert error < 0.2 * (cut - true).square().mean()
    order = {STEM: torch.cat([at_random, torch.tensor([i for i in range(384) if i not in set(at_random.tolist())])])}
    chance = aw.Spectra(twins.config, twins.source, twins.values, twins.weight_only, order, True)
    plan = RankPlan({str(STEM): [KEPT]}, shape_of(tiny_en.config), tiny_en.source)
    drawn = aw.compress(tiny_en, plan, stats, spectra=chance)
    assert error < 0.5 * (stem_of(drawn, features) - true).square().mean()


def test_what_is_counted_is_what_is_there(tiny_en, small, tmp_path):
    encoder = sum(p.numel() for p in small.model.model.encoder.parameters())
    assert cost(small.config, small.config.ranks).encoder == encoder
    gone = sum(p.numel() for p in tiny_en.model.model.encoder.parameters()) - encoder
    assert gone == (384 - KEPT) * (3 * 80 + 1 + 3 * 384)
    frames = 1500
    before, after = cost(tiny_en.config), cost(small.config, small.config.ranks)
    assert before.audio - after.audio == (384 - KEPT) * (2 * frames * 3 * 80 + frames * 3 * 384)
    small.save_pretrained(tmp_path / "small")
    again = aw.load(tmp_path / "small").model.model.encoder
    assert again.conv1.weight.shape == (KEPT, 80, 3) and again.conv2.weight.shape == (384, KEPT, 3)


def test_its_damage_is_what_the_decoder_then_says(tiny_en, speech, stats, twins):
    with torch.no_grad():
        bench = Bench(tiny_en, [calibration_windows(corpus, 4, 1) for corpus in speech], 2, aw.Job())
        ranks = [{str(STEM): [kept]} for kept in (384, 200, 60)]
        whole, half, little = (
            bench.damage(STEM, modules_of(tiny_en.model, twins, stats, STEM, kept)) for kept in ranks
        )  # fmt: skip
        direct = bench._encode(encoder_input(tiny_en.model, bench.features[0]), 0)
    torch.testing.assert_close(direct, bench.encoded[0])  # its own modules are back
    assert abs(whole) < 1e-5 and 0 < half < 0.005 < little  # of one clip alone it hangs on how a processor rounds


def test_it_is_tuned_with_the_whole_and_not_with_a_layer(tiny_en, small, speech, stats, twins):
    both = RankPlan({**small.config.ranks, "encoder.1.feed_forward": [900]}, shape_of(tiny_en.config), tiny_en.source)
    start = aw.compress(tiny_en, both, stats, spectra=twins)
    moved = {}
    for name, model, more in (
        ("whole", start, {}),
        ("stem alone", small, {"layerwise": 1.0}),  # no layer is compressed, so none can be tuned alone
        ("layers", start, {"layerwise": 1.0}),
        ("LoRA", start, {"lora": 2}),
    ):
        settings = aw.Settings(batch_size=1, warmup=1, rough=0.0, **more)
        lessons = prepare(tiny_en, speech, settings)
        lessons.write(0)
        run = Run(model, lessons, settings, None, aw.Job())
        run.step(0.0)
        before, after = (network.model.encoder.conv2.weight for network in (model.model, run.network))
        moved[name] = not torch.equal(before, after)
    assert moved == {"whole": True, "stem alone": True, "layers": False, "LoRA": False}


def test_baselines_of_other_papers_leave_it_whole(twins):
    plan = uniform(twins, encoder=0.3)
    assert str(STEM) not in plan.ranks and plan.reductions["encoder_reduction"] == pytest.approx(0.3, abs=0.01)
    assert str(STEM) in RankPlan.for_budget(twins, encoder=0.3).ranks


def test_it_has_a_name_and_a_picture(twins):
    assert str(STEM) == "stem.0.feed_forward" and STEM.side == "encoder" and STEM.place == "stem"
    for wrong in ("stem.0.query_key", "cross.0.feed_forward", "trunk.0.feed_forward"):
        with pytest.raises(ValueError, match="no twin"):
            Twin.parse(wrong)
    figure = figures.spectra(twins, part="stem")
    assert [a.text for a in figure.layout.annotations][:2] == ["Stem: neurons", "stem"]
