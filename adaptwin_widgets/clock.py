"""What a rank of every kind of twin costs in time, measured on this machine."""

from __future__ import annotations

from adaptwin_widgets.anatomy import Shape, Twin, full_rank, heads_of, twins_of
from adaptwin_widgets.compress import compress
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.expand import expand
from adaptwin_widgets.jobs import Job, ensure
from adaptwin_widgets.plan import RankPlan, shape_of
from adaptwin_widgets.prices import TEXT, Times
from adaptwin_widgets.spectra import spectra
from adaptwin_widgets.speed import RUNTIMES, formats, speed_table
from adaptwin_widgets.whisper import Whisper

LEAST = 1e-3  # of a part's time, divided among its ranks: what one costs at least, for noise may say less than nothing


def measure_times(
    model: Whisper, *, runtime: str = "torch", dtype: str | None = None, batch_size: int = 1, repeats: int = 5,
    job: Job | None = None,
) -> Times:  # fmt: skip
    """Time the model with half the ranks of each kind, one kind after the other, each in turns with the original.

    runtime, dtype, batch_size, repeats: as for `speed_table`; dtype: None is the runtime's first. The time that half
    of the ranks save is divided by their number. A minute for base.

    >>> import adaptwin_widgets as aw                                                     # doctest: +SKIP
    >>> times = aw.measure_times(model, runtime="ctranslate2", dtype="float32")           # doctest: +SKIP
    >>> aw.RankPlan.for_budget(twins, encoder=0.3, prices=times, even=True)               # doctest: +SKIP

    Raises InputError for a runtime that does not exist or is not installed, and a number format it has not.
    """
    dtypes = None if dtype is None else [dtype]
    if runtime in RUNTIMES and not formats(runtime, dtypes):
        raise InputError(f"{runtime} has no number format {dtype!r}.")
    model = expand(model)  # budgets are those of the original
    shape, by_weights = Shape.of(model.config), spectra(model)
    kinds: dict[tuple[str, str], list[Twin]] = {}
    for twin in twins_of(shape):  # query-key and value-output of an attention together: even plans cut them so
        kinds.setdefault((twin.part, twin.kind if twin.kind == "feed_forward" else "attention"), []).append(twin)
    rank_ms: dict[str, float] = {}
    whole, used, moved = {"encoder": 0.0, "decoder": 0.0}, "", 0.0
    for (part, _), twins in ensure(job).track(kinds.items(), text="Timing ranks"):
        halves = {str(t): [full_rank(shape, t) // 2] * heads_of(shape, t) for t in twins}
        plan = RankPlan(halves, shape_of(shape), model.source, method="half")
        models = {"original": model, "half": compress(model, plan, spectra=by_weights)}
        table = speed_table(models, runtimes=[runtime], dtypes=dtypes, batch_sizes=[batch_size], repeats=repeats)
        before, after = table.to_dict("records")
        used = str(before["dtype"])
        times = [(row["encoder_ms"], row["prompt_ms"] + TEXT * row["token_ms"]) for row in (before, after)]
        for side, value in zip(whole, times[0], strict=True):
            whole[side] += value / len(kinds)
        saved = times[0][0] - times[1][0]
        if part == "cross":  # in torch the decoder's keys and values of the audio are timed with the encoder
            moved = max(0.0, 2 * saved)
        if part in ("decoder", "cross"):
            saved += times[0][1] - times[1][1]
        ranks = sum(full_rank(shape, t) * heads_of(shape, t) // 2 for t in twins)
        rank_ms |= {f"{t.part}.{t.kind}": max(saved, LEAST * sum(times[0])) / ranks for t in twins}
    return Times(runtime, used, rank_ms, {"encoder": whole["encoder"] - moved, "decoder": whole["decoder"] + moved})
