"""The pictures: spectra and the frontier, in plotly. The only core module that knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

if TYPE_CHECKING:
    from adaptwin_widgets.plan import RankPlan
    from adaptwin_widgets.spectra import Spectra
    from adaptwin_widgets.study import Study

# Okabe and Ito's palette: told apart with every kind of colour vision, on white and on black.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("circle", "diamond", "square", "triangle-up", "cross", "star")
NAMES = {"WER": "Word error rate", "CER": "Character error rate"}
TITLES = {
    ("encoder", "query_key"): "Encoder: query-key",
    ("encoder", "value_output"): "Encoder: value-output",
    ("encoder", "feed_forward"): "Encoder: neurons",
    ("decoder", "query_key"): "Decoder self: query-key",
    ("decoder", "value_output"): "Decoder self: value-output",
    ("decoder", "feed_forward"): "Decoder: neurons",
    ("cross", "query_key"): "Cross: query-key",
    ("cross", "value_output"): "Cross: value-output",
}


def frontier(study: Study) -> go.Figure:
    """Word error rate against the share of the encoder removed, one colour and marker an evaluation set.

    Filled: tuned (or the original); hollow: the same plan before tuning. Bars: 95 % bootstrap intervals over
    utterances. The dotted line is the original's level.
    """
    table = study.frame()
    figure = go.Figure()
    if len(table):
        metric = table["metric"].iloc[0].upper() if "metric" in table else "WER"
        table = table.assign(x=100 * table["encoder_reduction"])
        for i, (name, own) in enumerate(table.groupby("evaluation", sort=False)):
            colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
            shift = (i - (table["evaluation"].nunique() - 1) / 2) * 0.5  # so that bars do not hide each other
            final = own[own["stage"] != "untuned"] if (own["stage"] == "tuned").any() else own
            untuned = own[own["stage"] == "untuned"]
            figure.add_trace(_points(final, str(name), colour, marker, shift, metric, lines=True))
            if len(untuned) and len(final) != len(own):
                figure.add_trace(
                    _points(
                        untuned,
                        f"{name}, before tuning",
                        colour,
                        f"{marker}-open",
                        shift - 1,  # beside the tuned point, not under it
                        metric,
                        lines=False,
                    )
                )
            original = own[own["stage"] == "original"]
            if len(original):
                figure.add_hline(y=original["wer"].iloc[0], line={"color": colour, "dash": "dot", "width": 1})
        figure.update_yaxes(title=f"{NAMES[metric]}, %", rangemode="tozero", zeroline=False)
    source = study.about.get("model", "")
    figure.update_xaxes(title="Encoder parameters removed, %", zeroline=False)
    figure.update_layout(
        title={"text": f"Word errors against compression, {source}", "x": 0.02},
        template="plotly_white", legend={"orientation": "h", "y": -0.16, "x": 0}, hovermode="closest",
        margin={"l": 70, "r": 30, "t": 60, "b": 60}, height=480,
    )  # fmt: skip
    return figure


def _points(
    rows: pd.DataFrame, name: str, colour: str, marker: str, shift: float, metric: str, lines: bool
) -> go.Scatter:
    rows = rows.sort_values("x")
    text = [
        f"<b>{r['try']}</b> ({r['stage']})<br>{metric} {r['wer']:.2f} % [{r['wer_low']:.2f}, {r['wer_high']:.2f}]"
        f"<br>encoder −{100 * r['encoder_reduction']:.1f} %, model −{100 * r['model_reduction']:.1f} %"
        f"<br>{r['parameters_after'] / 1e6:.2f} M parameters"
        for _, r in rows.iterrows()
    ]
    return go.Scatter(
        x=rows["x"] + shift, y=rows["wer"], name=name, mode="lines+markers" if lines else "markers",
        marker={"symbol": marker, "size": 11, "line": {"width": 1.5, "color": colour}}, line={"color": colour},
        opacity=1.0 if lines else 0.65,
        error_y={
            "type": "data", "symmetric": False, "array": rows["wer_high"] - rows["wer"],
            "arrayminus": rows["wer"] - rows["wer_low"], "thickness": 1.2, "width": 4,
        },
        text=text, hoverinfo="text+name",
    )  # fmt: skip


def spectra(
    spectra: Spectra, plan: RankPlan | None = None, *, part: str = "encoder", weight_only: bool = False
) -> go.Figure:
    """The spectra of one part ("encoder", "decoder", "cross"): a row a layer, a column a kind, a curve a head.

    Values are shown relative to the twin's largest, on a logarithmic scale. plan: what it keeps is drawn strong,
    what it cuts pale. weight_only: those of the weights alone.
    """
    source = spectra.weight_only if weight_only else spectra.values
    twins = [t for t in source if t.part == part]
    kinds = [k for k in ("query_key", "value_output", "feed_forward") if any(t.kind == k for t in twins)]
    layers = sorted({t.layer for t in twins})
    figure = make_subplots(
        rows=len(layers), cols=len(kinds), vertical_spacing=0.25 / max(len(layers), 2), horizontal_spacing=0.06,
        column_titles=[TITLES[part, k] for k in kinds], row_titles=[f"layer {n}" for n in layers],
    )  # fmt: skip
    for twin in twins:
        where = {"row": layers.index(twin.layer) + 1, "col": kinds.index(twin.kind) + 1}
        values = source[twin] / max(source[twin].max(), 1e-30)
        ranks = plan.ranks.get(str(twin)) if plan is not None else None
        for head, row in enumerate(values):
            step = max(1, len(row) // 256)  # a curve of 2048 neurons needs no 2048 points
            index = np.arange(1, len(row) + 1)[::step]
            row = np.maximum(row[::step], 1e-6)
            colour = COLOURS[head % len(COLOURS)]
            label = f"layer {twin.layer}, " + ("neurons" if twin.kind == "feed_forward" else f"head {head}")
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
