"""Budgets of other things than parameters: multiply-adds, and time as it was measured."""

import numpy as np
import pytest

import adaptwin_widgets as aw
from adaptwin_widgets.anatomy import Shape, Twin, full_rank, heads_of, twins_of
from adaptwin_widgets.cost import cost
from adaptwin_widgets.plan import RankPlan
from adaptwin_widgets.prices import MULTIPLY_ADDS, TEXT, Times
from adaptwin_widgets.spectra import Spectra

SHAPE = Shape(384, 4, 4, 6, 6, 1536, 1536, 51864, 80, 1500, 448)


@pytest.fixture(scope="module")
def spectra():
    draw = np.random.default_rng(0)
    values = {
        t: np.sort(draw.exponential(1.0, (heads_of(SHAPE, t), full_rank(SHAPE, t))))[:, ::-1].copy()
        for t in twins_of(SHAPE)
    }
    return Spectra(SHAPE, "tiny.en", values, values, {}, aware=True)


def times(**other):
    kinds = {f"{t.part}.{t.kind}": 1e-3 for t in twins_of(SHAPE)}
    return Times("torch", "float32", {**kinds, **other}, {"encoder": 40.0, "decoder": 60.0})


def multiply_adds(plan, side):
    shape = plan.config
    return MULTIPLY_ADDS.total(shape, plan.ranks, side) / MULTIPLY_ADDS.total(shape, {}, side)


@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("side", ["encoder", "decoder", "model"])
def test_a_budget_of_multiply_adds_is_met(spectra, side, even):
    plan = RankPlan.for_budget(spectra, **{side: 0.3}, prices=MULTIPLY_ADDS, even=even)
    assert 0.68 - 0.02 * even < multiply_adds(plan, side) <= 0.7
    before, after = plan.before, plan.after
    if side == "encoder":  # and by another count: what is left of the audio's, without the decoder's keys and values
        cross = sum(2 * SHAPE.d_model * 1500 * SHAPE.d_model for _ in range(SHAPE.decoder_layers))
        assert (after.audio - cross) / (before.audio - cross) == pytest.approx(multiply_adds(plan, side))
    if side == "model":
        left = (after.audio + TEXT * after.token) / (before.audio + TEXT * before.token)
        assert left == pytest.approx(multiply_adds(plan, side))
    assert not plan.budget and "30.0% of the" in plan.method and "multiply-adds" in plan.method


def test_what_is_dear_goes_first(spectra):
    """At one budget of time, what saves more of it loses more beside the rest."""

    def lost(plan, kind):
        twins = [t for t in twins_of(SHAPE) if t.side == "encoder" and (t.kind == "feed_forward") == kind]
        whole = sum(full_rank(SHAPE, t) * heads_of(SHAPE, t) for t in twins)
        return 1 - sum(sum(plan.ranks[str(t)]) for t in twins) / whole

    neurons, ranks = (
        RankPlan.for_budget(spectra, encoder=0.1, prices=times(**{f"encoder.{kind}": 4e-3 for kind in kinds}))
        for kinds in (["feed_forward"], ["query_key", "value_output"])
    )
    assert lost(neurons, True) / lost(neurons, False) > 1.5 * lost(ranks, True) / lost(ranks, False)
    for plan, dear in ((neurons, ["feed_forward"]), (ranks, ["query_key", "value_output"])):
        prices = times(**{f"encoder.{kind}": 4e-3 for kind in dear})
        assert prices.total(SHAPE, plan.ranks, "encoder") == pytest.approx(36.0, abs=0.01)


def test_a_budget_beyond_what_there_is_says_of_what(spectra, tiny_en, monkeypatch):
    with pytest.raises(aw.InputError, match=r"of the encoder's time in torch, float32 can go"):
        RankPlan.for_budget(spectra, encoder=0.9, prices=times())
    recipe = aw.Recipe(tiny_en, [])
    with pytest.raises(aw.InputError, match="not of 'seconds'"):
        recipe.plan(encoder=0.3, of="seconds")
    for more in ({"embedding": 100}, {"method": "uniform"}, {"method": "adaptwin"}):
        with pytest.raises(aw.InputError, match="other things than parameters"):
            recipe.plan(model=0.1, of="multiply-adds", **more)
    with pytest.raises(aw.InputError, match="other things than parameters"):
        recipe.plan(tau=0.1, of="multiply-adds")
    monkeypatch.setattr("adaptwin_widgets.recipe.measure_times", lambda *rest, **more: pytest.fail("it measures"))
    for more in ({"encoder": 45}, {"encoder": 0.3, "method": "uniform"}):
        with pytest.raises(aw.InputError):
            recipe.plan(of="time", **more)
    for wrong in ({"dtype": "int8"}, {"runtime": "onnx", "dtype": "float16"}, {"runtime": "abacus"}):
        with pytest.raises(aw.InputError, match="has no number format|is no runtime"):
            aw.measure_times(tiny_en, **wrong)
    with pytest.raises(aw.InputError, match="counts in parameters alone"):
        RankPlan.for_budget(spectra, model=0.1, embedding=100, prices=MULTIPLY_ADDS)


def test_the_clock_sees_what_a_rank_saves(tiny_en, monkeypatch):
    """On a machine on which each rank takes as long as its multiply-adds."""
    asked = []

    def speed_table(models, *, runtimes, dtypes, batch_sizes, repeats):
        import pandas as pd

        asked.append((runtimes, dtypes, batch_sizes, repeats))
        rows = []
        for whisper in models.values():
            own = cost(whisper.config, getattr(whisper.config, "ranks", None))
            heads = sum(
                getattr(whisper.config, "ranks", {}).get(f"encoder.{i}.value_output", []).count(0) for i in range(4)
            )
            rows.append(
                {
                    "dtype": "float32",
                    "encoder_ms": own.audio / 1e8 - 3 * heads,
                    "prompt_ms": 1.0,
                    "token_ms": own.token / 1e8,
                }
            )
        return pd.DataFrame(rows)

    monkeypatch.setattr("adaptwin_widgets.clock.speed_table", speed_table)
    found = aw.measure_times(tiny_en, runtime="ctranslate2", repeats=2)
    assert asked == [(["ctranslate2"], None, [1], 2)] * 7 and found.dtype == "float32"
    shape = Shape.of(tiny_en.config)
    for part, kind in (("encoder", "feed_forward"), ("stem", "feed_forward"), ("decoder", "feed_forward")):
        expected = MULTIPLY_ADDS.each(shape, Twin(part, 0, kind)) / 1e8
        assert found.each(shape, Twin(part, 0, kind)) == pytest.approx(expected, rel=1e-6)
    assert found.rank_ms["cross.query_key"] == found.rank_ms["cross.value_output"] > 0
    together = cost(shape).audio / 1e8 + 1 + TEXT * cost(shape).token / 1e8
    assert sum(found.whole_ms.values()) == pytest.approx(together)
    assert found.whole_ms["encoder"] == pytest.approx(MULTIPLY_ADDS.total(shape, {}, "encoder") / 1e8), "not its keys"
    assert found.head_ms == pytest.approx(3, rel=1e-6), "beyond the ranks of the heads"
    ranks = {f"encoder.0.{kind}": [64] * 5 + [0] for kind in ("query_key", "value_output")}
    rank = found.rank_ms["encoder.query_key"] + found.rank_ms["encoder.value_output"]
    saved = found.whole_ms["encoder"] - found.total(shape, ranks, "encoder")
    assert saved == pytest.approx(64 * rank + 3, rel=1e-6)


def test_a_real_clock_gives_a_plan(tiny_en, tmp_path):
    times = aw.measure_times(tiny_en, dtype="float32", repeats=1)
    assert times.dtype == "float32" and all(value > 0 for value in times.rank_ms.values())
    plan = aw.Recipe(tiny_en, []).plan(encoder=0.1, of=times)
    assert times.total(plan.config, plan.ranks, "encoder") <= 0.9 * times.whole_ms["encoder"]
    plan.save(tmp_path / "plan.json")
    assert RankPlan.load(tmp_path / "plan.json").method == plan.method
