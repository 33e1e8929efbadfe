"""The pictures: spectra and the frontier, in plotly. The only core module that knows it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from adaptwin_widgets.frontier import Goal, Point, Scene, bars, scene, signed

if TYPE_CHECKING:
    from adaptwin_widgets.plan import RankPlan
    from adaptwin_widgets.spectra import Spectra
    from adaptwin_widgets.study import Study

# Okabe and Ito's palette: told apart with every kind of colour vision, on white and on black.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("circle", "diamond", "square", "triangle-up", "cross", "star")
REDUCTIONS = (("encoder", "encoder_reduction"), ("model", "model_reduction"))
KEY = "Filled: after tuning; hollow: before. Bars: 95 % intervals. Line: no other point is better in both."
TITLES = {
    ("stem", "feed_forward"): "Stem: neurons",
    ("encoder", "query_key"): "Encoder: query-key",
    ("encoder", "value_output"): "Encoder: value-output",
    ("encoder", "feed_forward"): "Encoder: neurons",
    ("decoder", "query_key"): "Decoder self: query-key",
    ("decoder", "value_output"): "Decoder self: value-output",
    ("decoder", "feed_forward"): "Decoder: neurons",
    ("cross", "query_key"): "Cross: query-key",
    ("cross", "value_output"): "Cross: value-output",
}


def frontier(study: Study, *, axis: str = "encoder", goal: Goal | None = None, dark: bool = False) -> go.Figure:
    """Word error rate against compression, one colour and marker an evaluation set.

    Filled: tuned (or the original); hollow: the same plan before tuning, joined to it. Bars: 95 % bootstrap intervals
    over utterances. The line joins the points that no other beats in both; the dotted one is the original's level.
    axis: "encoder", "model" (percent removed), "size" (MB in float16) or "speed" (seconds of speech a second). goal: a
    `Goal`, shaded. dark: for a dark page.
    """
    drawn = scene(study, axis=axis, goal=goal)
    return go.Figure(frontier_traces(drawn), frontier_layout(drawn, dark=dark))


def frontier_traces(drawn: Scene) -> list[dict[str, Any]]:
    """Four traces an evaluation set, always: what was before and after tuning joined, the Pareto line, the hollow
    points, the filled ones. Their customdata is the name of the try."""
    found = []
    for i, name in enumerate(drawn.evaluations):
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        own = drawn.of(name)
        filled = {**_marks([p for p in own if p["stage"] != "untuned"], colour, marker), "name": name}
        hollow = _marks([p for p in own if p["stage"] == "untuned"], colour, f"{marker}-open")
        hollow |= {"name": f"{name}, before tuning", "opacity": 0.65}
        joined = [point for before, after in drawn.joined(name) for point in (before, after, None)]
        common = {"type": "scatter", "legendgroup": name}
        found += [
            {**common, **_line(joined, colour, 1), "name": f"{name}, before tuning"},
            {**common, **_line([p for p in own if p["pareto"]], colour, 2), "name": name},
            {**common, **hollow, "showlegend": hollow["showlegend"] and not filled["showlegend"]},
            {**common, **filled},
        ]  # fmt: skip
    return found


def _line(points: Sequence[Point | None], colour: str, width: float) -> dict[str, Any]:
    return {
        "x": [None if point is None else point["at"] for point in points],
        "y": [None if point is None else point["wer"] for point in points],
        "text": [], "customdata": [], "error_y": {"array": [], "arrayminus": []},
        "mode": "lines", "line": {"color": colour, "width": width}, "hoverinfo": "skip", "showlegend": False,
    }  # fmt: skip


def _marks(points: Sequence[Point], colour: str, marker: str) -> dict[str, Any]:
    rates = [point["wer"] for point in points]
    return {
        "x": [point["at"] for point in points], "y": rates, "customdata": [point["try"] for point in points],
        "text": [_hover(point) for point in points], "hoverinfo": "text", "mode": "markers",
        "marker": {"symbol": marker, "size": 11, "color": colour, "line": {"width": 1.5, "color": colour}},
        "line": {"color": colour},
        "error_y": {
            "type": "data", "symmetric": False, "array": [bars(point)[1] for point in points],
            "arrayminus": [bars(point)[0] for point in points], "thickness": 1.2, "width": 4, "color": colour,
        },
        "showlegend": len(points) > 0,
    }  # fmt: skip


def _hover(row: Point) -> str:
    """All that is known of a point, a line each; names and notes are a person's and must not be read as tags."""
    interval: str = "" if pd.isna(row["wer_low"]) else f" [{row['wer_low']:.2f}, {row['wer_high']:.2f}]"
    lines: list[str] = [
        f"<b>{escape(row['try'])}</b> ({row['stage']}), {escape(row['evaluation'])}",
        f"{row['metric'].upper()} {row['wer']:.2f} %{interval}",
    ]
    if pd.notna(row["difference"]):
        interval = f" [{signed(row['difference_low'])}, {signed(row['difference_high'])}]"
        lines.append(f"{signed(row['difference'])} points to the original{interval}")
    lines.append(", ".join(f"{part} {signed(-100 * row[key], 1)} %" for part, key in REDUCTIONS if row[key] > 0))
    if pd.notna(row["parameters_after"]):
        lines.append(f"{row['parameters_after'] / 1e6:.2f} M parameters")
    if pd.notna(row["speed"]):
        lines.append(f"{row['speed']:.1f} s of speech a second")
    if row["note"]:
        lines.append(f"<i>{'<br>'.join(map(escape, wrap(row['note'], 60)))}</i>")
    return "<br>".join(filter(None, lines))


def frontier_layout(drawn: Scene, *, dark: bool = False) -> dict[str, Any]:
    """Axes, the originals' levels, the goal's regions, and arrows to points above the picture."""
    return {
        "title": {"text": drawn.title, "x": 0.02, "subtitle": {"text": KEY}},
        "template": "plotly_dark" if dark else "plotly_white",
        "legend": {"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"},
        "hovermode": "closest", "height": 500, "margin": {"l": 70, "r": 30, "t": 80, "b": 60},
        "xaxis": {"title": {"text": drawn.axis.label}, "range": list(drawn.x_range), "zeroline": False},
        "yaxis": {"title": {"text": drawn.y_title}, "range": list(drawn.y_range), "zeroline": False},
        "shapes": _shapes(drawn), "annotations": _annotations(drawn),
    }  # fmt: skip


def _shapes(drawn: Scene) -> list[dict[str, Any]]:
    found = []
    for region in drawn.regions:
        colour = _colour(drawn, region.evaluation)
        corners = {"x0": region.start, "x1": drawn.x_range[1], "y1": region.top}
        found += [
            {"type": "rect", **corners, "y0": 0, "fillcolor": colour, "opacity": 0.1, "line": {"width": 0},
             "layer": "below"},
            {"type": "line", **corners, "y0": region.top, "line": {"color": colour, "width": 1, "dash": "dash"},
             "layer": "below"},
        ]  # fmt: skip
    for name, row in drawn.originals.items():
        level = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": row["wer"], "y1": row["wer"]}
        found.append({**level, "line": {"color": _colour(drawn, name), "dash": "dot", "width": 1}, "layer": "below"})
    return found


def _annotations(drawn: Scene) -> list[dict[str, Any]]:
    labels = [
        {"text": escape(region.label), "x": drawn.x_range[1], "y": region.top, "xanchor": "right", "yanchor": "top",
         "showarrow": False, "font": {"size": 11}}
        for region in drawn.regions
    ]  # fmt: skip
    arrows = [  # the further right, the longer, so that none crosses the text of another
        {"text": f"{point['wer']:.0f} %", "x": point["at"], "y": drawn.y_range[1], "ax": 0, "ay": 20 + 15 * depth,
         "xanchor": "right", "arrowhead": 2, "arrowcolor": _colour(drawn, point["evaluation"]), "font": {"size": 11}}
        for point, depth in drawn.beyond
    ]  # fmt: skip
    return labels + arrows


def _colour(drawn: Scene, evaluation: str) -> str:
    return COLOURS[drawn.evaluations.index(evaluation) % len(COLOURS)]


def spectra(
    spectra: Spectra, plan: RankPlan | None = None, *, part: str = "encoder", weight_only: bool = False
) -> go.Figure:
    """The spectra of one part ("stem", "encoder", "decoder", "cross"): a row a layer, a column a kind, a curve a head.

    Values are shown relative to the twin's largest, on a logarithmic scale. plan: what it keeps is drawn strong,
    what it cuts pale. weight_only: those of the weights alone.
    """
    source = spectra.weight_only if weight_only else spectra.values
    twins = [t for t in source if t.part == part]
    kinds = [k for k in ("query_key", "value_output", "feed_forward") if any(t.kind == k for t in twins)]
    layers = {t.layer: t.place for t in twins}  # in the order of the computation
    figure = make_subplots(
        rows=len(layers), cols=len(kinds), vertical_spacing=0.25 / max(len(layers), 2), horizontal_spacing=0.06,
        column_titles=[TITLES[part, k] for k in kinds], row_titles=[*layers.values()],
    )  # fmt: skip
    for twin in twins:
        where = {"row": [*layers].index(twin.layer) + 1, "col": kinds.index(twin.kind) + 1}
        values = source[twin] / max(source[twin].max(), 1e-30)
        ranks = plan.ranks.get(str(twin)) if plan is not None else None
        for head, row in enumerate(values):
            step = max(1, len(row) // 256)  # a curve of 2048 neurons needs no 2048 points
            index = np.arange(1, len(row) + 1)[::step]
            row = np.maximum(row[::step], 1e-6)
            colour = COLOURS[head % len(COLOURS)]
            label = f"{twin.place}, " + ("neurons" if twin.kind == "feed_forward" else f"head {head}")
            keep = index <= (ranks[head] if ranks is not None else len(values[head]))
            for chosen, width, opacity, state in ((keep, 2.0, 1.0, "kept"), (~keep, 1.0, 0.3, "cut")):
                if chosen.any():
                    figure.add_trace(
                        go.Scatter(
                            x=index[chosen], y=row[chosen], mode="lines", showlegend=False, opacity=opacity,
                            line={"color": colour, "width": width},
                            hovertemplate=f"{label}, {state}<br>index %{{x}}, value %{{y:.3g}}<extra></extra>",
                        ),
                        **where,
                    )  # fmt: skip
    figure.update_yaxes(type="log", range=[-3, 0.1], dtick=1, exponentformat="power")
    figure.update_xaxes(title="index", row=len(layers))
    kind = "weight-only" if weight_only or not spectra.aware else "activation-aware"
    figure.update_layout(
        template="plotly_white", height=140 * len(layers) + 120, margin={"l": 60, "r": 40, "t": 80, "b": 50},
        title={"text": f"Singular values relative to the twin's largest, {kind}, {spectra.source}", "x": 0.02},
    )  # fmt: skip
    return figure
