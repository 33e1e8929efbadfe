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

HEADS = "heads"
LEAST = 1e-3  # of a part's time, divided among its ranks: what one costs at least, for noise may say less than nothing


def measure_times(
    model: Whisper, *, runtime: str = "torch", dtype: str | None = None, batch_size: int = 1, repeats: int = 5,
    job: Job | None = None,
) -> Times:  # fmt: skip
    """Time the model with half the ranks of each kind, one kind after the other, each in turns with the original.

    runtime, dtype, batch_size, repeats: as for `speed_table`; dtype: None is the runtime's first. The time that half
    of the ranks save is divided by their number; half of the encoder's heads save more than their ranks do. A minute
    for base.

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
    rank_ms: dict[str, float] = {}
    whole, used, moved, beyond, tries = {"encoder": 0.0, "decoder": 0.0}, "", 0.0, 0.0, _tries(shape)
    for (part, kind), ranks in ensure(job).track(tries.items(), text="Timing ranks"):
        plan = RankPlan(ranks, shape_of(shape), model.source, method="half")
        models = {"original": model, "half": compress(model, plan, spectra=by_weights)}
        table = speed_table(models, runtimes=[runtime], dtypes=dtypes, batch_sizes=[batch_size], repeats=repeats)
        before, after = table.to_dict("records")
        used = str(before["dtype"])
        times = [(row["encoder_ms"], row["prompt_ms"] + TEXT * row["token_ms"]) for row in (before, after)]
        for side, value in zip(whole, times[0], strict=True):
            whole[side] += value / len(tries)
        saved = times[0][0] - times[1][0]
        if part == "cross":  # in torch the decoder's keys and values of the audio are timed with the encoder
            moved = max(0.0, 2 * saved)
        if part in ("decoder", "cross"):
            saved += times[0][1] - times[1][1]
        gone = {t: full_rank(shape, t) * heads_of(shape, t) - sum(ranks[str(t)]) for t in map(Twin.parse, ranks)}
        if kind == HEADS:
            own = sum(number * rank_ms[f"{twin.part}.{twin.kind}"] for twin, number in gone.items())
            beyond = max(0.0, saved - own) / (shape.encoder_layers * (shape.encoder_attention_heads // 2))
        else:
            each = max(saved, LEAST * sum(times[0])) / sum(gone.values())
            rank_ms |= {f"{twin.part}.{twin.kind}": each for twin in gone}
    encoder, decoder = whole["encoder"] - moved, whole["decoder"] + moved
    return Times(runtime, used, rank_ms, {"encoder": encoder, "decoder": decoder}, beyond)


def _tries(shape: Shape) -> dict[tuple[str, str], dict[str, list[int]]]:
    """By part and kind, ranks to time: half of each, query-key and value-output of an attention together, as even plans
    cut them; at last half of the encoder's heads as a whole."""
    tries: dict[tuple[str, str], dict[str, list[int]]] = {}
    for twin in twins_of(shape):
        kind = twin.kind if twin.kind == "feed_forward" else "attention"
        half = [full_rank(shape, twin) // 2] * heads_of(shape, twin)
        tries.setdefault((twin.part, kind), {})[str(twin)] = half
    heads = shape.encoder_attention_heads
    for name in tries["encoder", "attention"]:
        full = [full_rank(shape, Twin.parse(name))] * heads
        tries.setdefault(("encoder", HEADS), {})[name] = full[heads // 2 :] + [0] * (heads // 2)
    return tries
