"""The tries of a study as text, for tables that people and screen readers read."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pandas as pd

from adaptwin_widgets.frontier import BYTES, VERDICTS, Goal, Point, Scene, scene, signed

if TYPE_CHECKING:
    from adaptwin_widgets.study import Study


def rows(study: Study, goal: Goal | None = None, axis: str = "encoder") -> list[dict[str, Any]]:
    """The numbers of the figure as text, a dictionary a try, for tables that people and screen readers read.

    sets: by evaluation set, in the order of `scene`: rate, interval, difference to the original (points), rate before
    tuning, whether the point is on the Pareto line of `axis`, and the goal's verdict; None where the try was not scored
    on it. goal: the worst verdict of all sets.

    >>> from adaptwin_widgets.study import Record, Study
    >>> import tempfile
    >>> study = Study(tempfile.mkdtemp(), about={"model": "tiny.en"})
    >>> study.add(Record("original", {"encoder_reduction": 0.0}, {"target": {"wer": 4.2}}))
    >>> [(row["name"], row["encoder"], row["sets"][0]["wer"]) for row in rows(study)]
    [('original', '0.0', '4.20')]
    """
    drawn = scene(study)
    best = {_key(point) for point in scene(study, axis=axis).points if point["pareto"]}
    own: dict[str, list[Point]] = {record.name: [] for record in study.records}
    for point in drawn.points:
        own[point["try"]].append(point | {"pareto": _key(point) in best})
    return [_row(name, points, drawn, goal) for name, points in own.items() if points]


def _key(point: Point) -> tuple[str, str, str]:
    return point["try"], point["stage"], point["evaluation"]


def _row(name: str, own: list[Point], drawn: Scene, goal: Goal | None) -> dict[str, Any]:
    final = {point["evaluation"]: point for point in own if point["final"]}
    before = {point["evaluation"]: point for point in own if not point["final"]}
    sets: list[dict[str, Any] | None] = []
    verdicts: list[str] = [""]
    for evaluation in drawn.evaluations:
        if evaluation not in final:
            sets.append(None)
            continue
        row = final[evaluation]
        original = drawn.originals.get(evaluation)
        interval: str = "" if pd.isna(row["wer_low"]) else f"[{row['wer_low']:.1f}, {row['wer_high']:.1f}]"
        compared_with = None if row["stage"] == "original" else original
        verdicts.append(goal.verdict(row, compared_with) if goal is not None and compared_with is not None else "")
        sets.append(
            {
                "wer": f"{row['wer']:.2f}", "interval": interval,
                "difference": signed(row["difference"]), "best": bool(row["pareto"]),
                "before": f"{before[evaluation]['wer']:.2f}" if evaluation in before else "",
                "verdict": verdicts[-1],
            }
        )  # fmt: skip
    first, measured = own[0], [point for point in final.values() if pd.notna(point["speed"])]
    heard, seconds = (sum(point[key] for point in measured) for key in ("audio_seconds", "seconds"))
    return {
        "name": name, "note": first["note"],
        "encoder": _number(100 * first["encoder_reduction"], 1), "model": _number(100 * first["model_reduction"], 1),
        "size": _number(BYTES * first["parameters_after"] / 1e6, 1),
        "speed": _number(heard / seconds, 1) if measured else "",
        "sets": sets, "goal": max(verdicts, key=["", *VERDICTS].index),
    }  # fmt: skip


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if pd.notna(value) else ""


def summary(study: Study, goal: Goal | None = None) -> str:
    """The tries as an HTML table without scripts, for a page without a kernel."""
    evaluations = scene(study).evaluations
    heads = ["Try", "Encoder removed, %", "Size, MB", *(f"{name}, %" for name in evaluations), "Goal", "Note"]
    lines = [
        [row["name"], row["encoder"], row["size"], *(f"{s['wer']} {s['interval']}" if s else "" for s in row["sets"]),
         row["goal"], row["note"]]
        for row in rows(study, goal)
    ]  # fmt: skip
    cells = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in line) + "</tr>" for line in lines)
    head = "".join(f"<th>{html.escape(h)}</th>" for h in heads)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{cells}</tbody></table>"


def compared(table: pd.DataFrame) -> list[dict[str, str]]:
    """What `Study.compare` gave, as text: values with their intervals, differences with their sign.

    >>> from adaptwin_widgets.versus import COLUMNS
    >>> row = dict.fromkeys(COLUMNS) | {"about": "size", "what": "float16", "unit": "MB", "first": 76.0, "second": 70.0}
    >>> compared(pd.DataFrame([row | {"difference": -6.0}]))[0]["difference"]
    '−6.0'
    """
    return [_compared(row) for _, row in table.iterrows()]


def _compared(row: pd.Series) -> dict[str, str]:
    digits = 2 if row["about"] == "errors" else 1

    def span(name: str, show: Callable[[float], str]) -> str:
        if pd.isna(row[name]):
            return "–"
        interval = f" [{show(row[f'{name}_low'])}, {show(row[f'{name}_high'])}]" if pd.notna(row[f"{name}_low"]) else ""
        return show(row[name]) + interval

    unit = {"errors": row["unit"], "speed": "speed, × real time"}.get(row["about"], row["unit"])
    what = row["what"] if row["about"] != "ranks" else row["what"].replace(".", " ").replace("_", "-")
    if row["about"] in ("size", "ranks"):  # the others are named by a person
        what = what[:1].upper() + what[1:]
    return {
        "what": f"{what}, {unit}",
        "first": span("first", lambda v: f"{v:.{digits}f}"),
        "second": span("second", lambda v: f"{v:.{digits}f}"),
        "difference": span("difference", lambda v: signed(v, digits)),
    }
