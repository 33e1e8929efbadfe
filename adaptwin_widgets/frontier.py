"""What the frontier of a study shows: its points, the Pareto line, the goal. `figures` and `publish` draw it.

On every axis better is further right; on every figure better is further down.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from adaptwin_widgets.errors import InputError

if TYPE_CHECKING:
    from adaptwin_widgets.study import Study

RATES = {"wer": "Word error rate", "cer": "Character error rate"}
UNITS = ("points", "percent")
VERDICTS = ("met", "unclear", "more errors", "too slow", "too large")  # the worst last
BYTES = 2  # of a parameter in float16, the precision of the published checkpoints
SLOT = 0.008  # of the axis: how far points of one try stand apart, so that their bars do not hide each other
NEEDED = (
    "try", "stage", "evaluation", "encoder_reduction", "model_reduction", "parameters_after", "wer", "wer_low",
    "wer_high", "difference", "difference_low", "difference_high", "audio_seconds", "seconds", "metric", "note",
)  # fmt: skip


Point = dict[str, Any]  # a row of `points`


@dataclass(frozen=True)
class Axis:
    """A measure of compression. of: takes it from rows of `Study.frame`; less: less is better, so it runs from
    right to left."""

    title: str
    unit: str
    of: Callable[[pd.DataFrame], pd.Series]
    less: bool = False

    @property
    def label(self) -> str:
        """Title and unit, as they stand at the axis.

        >>> AXES["size"].label
        'Model size in float16, MB (smaller to the right)'
        """
        return f"{self.title}, {self.unit}" + (" (smaller to the right)" if self.less else "")


def _speed(table: pd.DataFrame) -> pd.Series:
    return table["audio_seconds"] / table["seconds"].where(table["seconds"] > 0)


AXES = {
    "encoder": Axis("Encoder parameters removed", "%", lambda t: 100 * t["encoder_reduction"]),
    "model": Axis("Parameters of the whole model removed", "%", lambda t: 100 * t["model_reduction"]),
    "size": Axis("Model size in float16", "MB", lambda t: BYTES * t["parameters_after"] / 1e6, less=True),
    "speed": Axis("Measured speed", "seconds of speech a second", _speed),
}
GOALS = {
    "encoder": "of the encoder removed",
    "model": "of the model removed",
    "speed": "faster",
}


@dataclass(frozen=True)
class Goal:
    """What a try should reach: at most `worse` more errors than the original, and at least `least` % of something.

    unit: of `worse`, "points" (4 % to 6 % is two) or "percent" of the original's rate (4 % to 6 % is fifty). of: what
    `least` counts, one of `GOALS`. The region is drawn on the axis of the same name, "model" on "size" as well.

    >>> print(Goal(2, least=45))
    at most 2 points more word errors, at least 45 % of the encoder removed

    Raises InputError for a negative number, an unknown unit or measure.
    """

    worse: float = 2.0
    unit: str = "points"
    least: float = 45.0
    of: str = "encoder"

    def __post_init__(self) -> None:
        for name in ("worse", "least"):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not np.isfinite(value) or value < 0:
                raise InputError(f"A goal's {name} is a number of at least 0, not {value!r}.")
        for name, known in (("unit", UNITS), ("of", tuple(GOALS))):
            if getattr(self, name) not in known:
                raise InputError(f"A goal's {name} is one of {', '.join(known)}, not {getattr(self, name)!r}.")
        if self.of != "speed" and self.least > 100:
            raise InputError(f"A goal cannot ask for {self.least:g} % removed; give at most 100.")

    def __str__(self) -> str:
        unit = "points" if self.unit == "points" else "%"
        return f"at most {self.worse:g} {unit} more word errors, at least {self.least:g} % {GOALS[self.of]}"

    def allowance(self, original: float) -> float:
        """How many points more than the original's rate (percent) are within the goal."""
        return self.worse if self.unit == "points" else original * self.worse / 100

    def reach(self, original: Point) -> float:
        """Where the goal begins on its own axis, seen from the original's row of `points`."""
        if self.of != "speed":
            return self.least
        return float(original["speed"] * (1 + self.least / 100))

    def verdict(self, row: Point, original: Point) -> str:
        """How a try does on one evaluation set, from its row of `points` and the original's.

        "met" and "more errors" only where the whole 95 % interval of the paired difference is on one side; else
        "unclear". Without an interval the difference itself decides.
        """
        reached = row["speed"] if self.of == "speed" else 100 * row[f"{self.of}_reduction"]
        if not round(reached, 1) >= round(self.reach(original), 1):  # as many digits as are shown; NaN is not reached
            return "too slow" if self.of == "speed" else "too large"
        allowed = self.allowance(original["wer"])
        difference = row["wer"] - original["wer"]
        low: float = row["difference_low"] if pd.notna(row["difference_low"]) else difference
        high: float = row["difference_high"] if pd.notna(row["difference_high"]) else difference
        return "met" if high <= allowed else "more errors" if low > allowed else "unclear"


def points(study: Study, axis: str = "encoder") -> pd.DataFrame:
    """Every point of the frontier: one row a try, stage and evaluation set, with where it stands.

    Columns: those of `Study.frame`, and x (on the axis, in its unit), speed (seconds of speech a second), final (not
    the state before a tuning that followed), pareto (no point of the same set is both further right and lower), note.
    Points without a number on this axis are left out.

    >>> from adaptwin_widgets.study import Record, Study
    >>> import tempfile
    >>> study = Study(tempfile.mkdtemp(), about={"model": "tiny.en"})
    >>> study.add(Record("original", {"encoder_reduction": 0.0}, {"target": {"wer": 4.2}}))
    >>> points(study)[["try", "x", "wer", "pareto"]].values.tolist()
    [['original', 0.0, 4.2, True]]

    Raises InputError for an unknown axis.
    """
    if axis not in AXES:
        raise InputError(f"axis={axis!r} does not exist; choose one of {', '.join(AXES)}.")
    table = study.frame()
    table = table.reindex(columns=list(dict.fromkeys([*NEEDED, *table.columns])))
    numbers = [name for name in NEEDED if name not in ("try", "stage", "evaluation", "metric", "note")]
    table[numbers] = table[numbers].astype(float)
    for name, missing in (("metric", "wer"), ("note", "")):
        table[name] = table[name].astype(object).fillna(missing)
    table["speed"] = AXES["speed"].of(table)
    table["x"] = AXES[axis].of(table)
    tuned = set(table.loc[table["stage"] == "tuned", "try"])
    table["final"] = ~((table["stage"] == "untuned") & table["try"].isin(tuned))
    table = table[table["x"].notna() & table["wer"].notna()].reset_index(drop=True)
    table["pareto"] = False
    for _, own in table.groupby("evaluation", sort=False):
        table.loc[_non_dominated(own, AXES[axis].less), "pareto"] = True
    return table


def _non_dominated(own: pd.DataFrame, less: bool) -> list[int]:
    """From the most compressed point on, those lower than all before them."""
    ordered = own.sort_values(["x", "wer"], ascending=[less, True])
    best = ordered["wer"].cummin().shift(fill_value=np.inf)
    return list(ordered.index[ordered["wer"] < best])


@dataclass(frozen=True)
class Region:
    """Where the goal is met on one evaluation set: from `start` on the axis to its end, up to `top` percent."""

    evaluation: str
    start: float
    top: float

    @property
    def label(self) -> str:
        return f"goal, {self.evaluation}: up to {self.top:.1f} %"


@dataclass(frozen=True)
class Scene:
    """All that a drawer needs, in the units of the axes.

    points: rows as from `points`, from left to right, with `at`, the x where it is drawn (x and a slot of its own).
    x_range runs from the left edge to the right one. originals: by evaluation set, the original's point. beyond: points
    above the y range, each with how many of its own try stand left of it.
    """

    source: str
    axis: Axis
    points: list[Point]
    evaluations: list[str]
    originals: dict[str, Point]
    regions: list[Region]
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    @property
    def title(self) -> str:
        return f"Word errors against compression, {self.source}"

    @property
    def y_title(self) -> str:
        metrics = {point["metric"] for point in self.points} or {"wer"}
        return f"{RATES.get(metrics.pop(), 'Error rate') if len(metrics) == 1 else 'Error rate'}, %"

    @property
    def beyond(self) -> list[tuple[Point, int]]:
        high = [point for point in self.points if point["wer"] > self.y_range[1]]
        high.sort(key=lambda point: point["at"], reverse=self.axis.less)
        return [(point, [p["try"] for p in high[:i]].count(point["try"])) for i, point in enumerate(high)]

    def of(self, evaluation: str) -> list[Point]:
        """The points of one evaluation set."""
        return [point for point in self.points if point["evaluation"] == evaluation]

    def joined(self, evaluation: str) -> list[tuple[Point, Point]]:
        """Every tuned try of one set before and after."""
        own = self.of(evaluation)
        before = {point["try"]: point for point in own if not point["final"]}
        return [(before[point["try"]], point) for point in own if point["final"] and point["try"] in before]


def scene(study: Study, *, axis: str = "encoder", goal: Goal | None = None) -> Scene:
    """Lay the frontier out for a drawer; see `points` for axis and `Goal` for goal.

    >>> from adaptwin_widgets.study import Study
    >>> import tempfile
    >>> scene(Study(tempfile.mkdtemp(), about={"model": "tiny.en"})).title
    'Word errors against compression, tiny.en'
    """
    table, measure = points(study, axis), AXES[axis]
    known = study.about.get("evaluations") or {}
    evaluations = list(dict.fromkeys([*known, *table["evaluation"]]))
    originals = {str(point["evaluation"]): point for point in _rows(table[table["stage"] == "original"])}
    regions = _regions(goal, axis, originals) if goal is not None else []
    x_range = _x_range([*table["x"], *(region.start for region in regions)], axis)
    # Side by side: before and after tuning of the first set, then of the second, all around the true place.
    place = {name: 2 * i - len(evaluations) + 1 for i, name in enumerate(evaluations)}
    slots = [place[name] - (not final) for name, final in zip(table["evaluation"], table["final"], strict=True)]
    table["at"] = table["x"] + SLOT * (x_range[1] - x_range[0]) * np.asarray(slots, dtype=float)
    ordered = _rows(table.sort_values("x", ascending=not measure.less, kind="stable"))
    y_range = _y_range(ordered, originals, regions)
    return Scene(str(study.about.get("model", "")), measure, ordered, evaluations, originals, regions, x_range, y_range)


def _rows(table: pd.DataFrame) -> list[Point]:
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def _regions(goal: Goal, axis: str, originals: dict[str, Point]) -> list[Region]:
    if goal.of != axis and (goal.of, axis) != ("model", "size"):
        return []
    found = []
    for name, row in originals.items():
        start = row["x"] * (1 - goal.least / 100) if axis == "size" else goal.reach(row)
        if np.isfinite(start):
            found.append(Region(name, float(start), float(row["wer"] + goal.allowance(row["wer"]))))
    return found


def _x_range(values: list[float], axis: str) -> tuple[float, float]:
    if not values:
        values = [0.0, 50.0] if axis in ("encoder", "model") else [0.0, 1.0]
    low, high = min(values), max(values)
    room = 0.12 * (high - low) or 0.1 * abs(high) or 10.0
    return (high + room / 2, low - room) if AXES[axis].less else (low - room / 2, high + room)


def _y_range(drawn: list[Point], originals: dict[str, Point], regions: list[Region]) -> tuple[float, float]:
    """From zero up to everything, unless a broken try would press all others flat."""
    if not drawn:
        return 0.0, 20.0
    everything = max([np.nanmax([point["wer"], point["wer_high"]]) for point in drawn] + [r.top for r in regions])
    usual = max((row["wer"] for row in originals.values()), default=np.inf)
    return 0.0, float(1.06 * min(everything, max(3 * usual, 15.0)) or 1.0)


def bars(point: Point) -> tuple[float, float]:
    """How far the 95 % interval reaches below and above the rate; zeros where there is none.

    >>> bars({"wer": 4.0, "wer_low": 3.0, "wer_high": float("nan")})
    (1.0, 0.0)
    """
    below, above = point["wer"] - point["wer_low"], point["wer_high"] - point["wer"]
    return (0.0 if pd.isna(below) else below), (0.0 if pd.isna(above) else above)


def signed(value: float, digits: int = 2) -> str:
    """A difference with its sign, or nothing where there is none.

    >>> signed(0.5), signed(-0.123), signed(float("nan"))
    ('+0.50', '−0.12', '')
    """
    if pd.isna(value):
        return ""
    text = f"{value:+.{digits}f}" if round(value, digits) else f"{0:.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}")
