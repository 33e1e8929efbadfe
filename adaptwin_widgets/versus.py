"""Two tries of a study beside each other, as one tidy table."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from adaptwin_widgets.anatomy import KINDS, PARTS, Twin, full_rank, heads_of, twins_of
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.frontier import BYTES
from adaptwin_widgets.plan import RankPlan
from adaptwin_widgets.score import Hypothesis, Score, paired_difference

if TYPE_CHECKING:
    from adaptwin_widgets.study import Record, Study

COLUMNS = (
    "about", "what", "unit", "first", "first_low", "first_high", "second", "second_low", "second_high",
    "difference", "difference_low", "difference_high",
)  # fmt: skip
SIZES = (
    ("encoder removed", "%", "encoder_reduction", 100),
    ("decoder removed", "%", "decoder_reduction", 100),
    ("model removed", "%", "model_reduction", 100),
    ("parameters", "million", "parameters_after", 1e-6),
    ("size in float16", "MB", "parameters_after", BYTES / 1e6),
)


def compare(study: Study, first: str, second: str) -> pd.DataFrame:
    """Sizes, error rates, speed and ranks of two tries; `difference` is always the second less the first.

    One row a quantity: about ("size", "errors", "speed", "ranks"), what, unit, the values and 95 % intervals. The
    difference of two error rates is in points; its interval is there where both tries' hypotheses are in the study's
    folder, and paired. Ranks: the mean rank a head (or neurons a layer) of each kind of twin that differs.

    >>> study.compare("encoder-30", "encoder-45")                                            # doctest: +SKIP
        about             what  unit  first  ...  difference_high
    0    size  encoder removed     %   30.0  ...              NaN

    Raises InputError for unknown tries.
    """
    for name in (first, second):
        if name not in study:
            raise InputError(f"There is no try called {name!r} in this study.")
    a, b = study[first], study[second]
    rows = []
    for what, unit, key, factor in SIZES:
        if key in a.sizes and key in b.sizes:
            rows.append(_row("size", what, unit, factor * a.sizes[key], factor * b.sizes[key]))
    shared = [name for name in a.scores if name in b.scores]
    rows += [_errors(study, a, b, name) for name in shared]
    for name in shared:
        speeds = [_speed(record.scores[name]) for record in (a, b)]
        if None not in speeds:
            rows.append(_row("speed", name, "s of speech a second", *speeds))
    rows += _ranks(a, b)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(about: str, what: str, unit: str, first: Any, second: Any, **more: float) -> dict[str, Any]:
    values = {"about": about, "what": what, "unit": unit, "first": first, "second": second}
    return {**values, "difference": second - first, **more}


def _speed(score: dict[str, Any]) -> float | None:
    seconds = score.get("seconds") or 0.0
    return score["audio_seconds"] / seconds if seconds > 0 and score.get("audio_seconds") else None


def _errors(study: Study, a: Record, b: Record, evaluation: str) -> dict[str, Any]:
    scores = [record.scores[evaluation] for record in (a, b)]
    more = {
        f"{side}_{end}": score[f"wer_{end}"]
        for side, score in zip(("first", "second"), scores, strict=True)
        for end in ("low", "high")
        if f"wer_{end}" in score
    }
    row = _row("errors", evaluation, f"{scores[0].get('metric', 'wer').upper()} %", *(s["wer"] for s in scores), **more)
    stored = [_stored_score(study, record, evaluation) for record in (a, b)]
    if stored[0] is not None and stored[1] is not None and a.name != b.name:
        with suppress(InputError):  # of other utterances: their difference has no paired interval
            _, row["difference_low"], row["difference_high"] = paired_difference(stored[1], stored[0])
    return row


def _stored_score(study: Study, record: Record, evaluation: str) -> Score | None:
    """What `paired_difference` needs, from the file of hypotheses, whose errors are counted already."""
    try:
        rows = study.hypotheses(record.name, evaluation)
        texts = [Hypothesis(**{k: v for k, v in row.items() if k != "errors"}) for row in rows]
    except (OSError, ValueError, TypeError):
        return None
    found = record.scores[evaluation]
    return Score(found["wer"], np.nan, np.nan, 0, 0, 0, 0, 0, metric=found.get("metric", "wer"), hypotheses=texts)


def _ranks(a: Record, b: Record) -> list[dict[str, Any]]:
    plans = []
    for record in (a, b):
        try:
            plans.append(RankPlan.from_dict(record.plan) if record.plan is not None else None)
        except InputError:
            return []
    config = next((plan.config for plan in plans if plan is not None), None)
    if config is None:
        return []

    def ranks(plan: RankPlan | None, twin: Twin) -> list[int]:
        full = [full_rank(config, twin)] * heads_of(config, twin)
        return full if plan is None else plan.ranks.get(str(twin), full)

    rows = []
    for part in PARTS:
        for kind in KINDS:
            twins = [twin for twin in twins_of(config) if (twin.part, twin.kind) == (part, kind)]
            first, second = ([ranks(plan, twin) for twin in twins] for plan in plans)
            if first != second:
                unit = "neurons a layer" if kind == "feed_forward" else "rank a head"
                means = (float(np.mean(values)) for values in (first, second))
                rows.append(_row("ranks", f"{part}.{kind}", unit, *means))
    return rows
