"""The frontier as a file for papers, slides and spreadsheets, without a browser. The only core module that knows
matplotlib; never pyplot, whose state threads share."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adaptwin_widgets.errors import InputError
from adaptwin_widgets.figures import COLOURS, MARKERS, frontier
from adaptwin_widgets.files import write_atomically
from adaptwin_widgets.frontier import Goal, Scene, bars, scene

if TYPE_CHECKING:
    from adaptwin_widgets.study import Study

PICTURES = (".svg", ".pdf", ".png")
SUFFIXES = (*PICTURES, ".html", ".csv")
SHAPES = dict(zip(MARKERS, "oDs^P*", strict=True))  # plotly's names of markers -> matplotlib's
CENTIMETRES = 2.54  # an inch
# Text stays text, so that it can be searched and edited; the same study gives the same bytes.
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "adaptwin", "font.family": "sans-serif",
    "font.size": 8, "axes.linewidth": 0.6, "axes.spines.top": False, "axes.spines.right": False,
}  # fmt: skip
DATES: dict[str, dict[str, Any]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {}}


def save_frontier(
    study: Study,
    path: str | Path,
    *,
    axis: str = "encoder",
    goal: Goal | None = None,
    dark: bool = False,
    width: float = 16.0,
    height: float = 10.0,
    title: bool = False,
) -> Path:
    """Write the frontier of a study; the file's ending says how: .svg, .pdf, .png, .html or .csv.

    axis, goal: as for `figures.frontier`. dark: for dark slides. width, height: of a picture, in centimetres. title:
    write one into the picture. A page holds its script and needs no network; a table is `Study.frame`, complete.

    >>> save_frontier(study, "frontier.pdf", axis="size", goal=Goal(least=30, of="model"))   # doctest: +SKIP
    PosixPath('frontier.pdf')

    Raises InputError for another ending, an unknown axis, a size of zero or less, and where matplotlib is missing.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path.name} cannot be written; give a name that ends in {', '.join(SUFFIXES)}.")
    if not (width > 0 and height > 0):
        raise InputError(f"A picture of {width:g} by {height:g} cm cannot be drawn; give both above 0.")
    if suffix == ".csv":
        content: str | bytes = study.frame().to_csv(index=False)
    elif suffix == ".html":
        content = frontier(study, axis=axis, goal=goal, dark=dark).to_html(include_plotlyjs=True, full_html=True)
    else:
        drawn = scene(study, axis=axis, goal=goal)
        content = _picture(drawn, suffix, dark, (width / CENTIMETRES, height / CENTIMETRES), title)
    write_atomically(path, content)
    return path


def _picture(drawn: Scene, suffix: str, dark: bool, inches: tuple[float, float], title: bool) -> bytes:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(
            f"A {suffix} picture needs matplotlib, which is not installed; run `pip install matplotlib`, "
            "or save .html or .csv."
        ) from error
    ink, paper = ("#e8e8e8", "#111111") if dark else ("#222222", "#ffffff")
    colours: dict[Any, Any] = {
        f"{what}color": ink for what in ("text.", "axes.edge", "axes.label", "xtick.", "ytick.")
    } | {"axes.facecolor": paper, "savefig.facecolor": paper}  # fmt: skip
    buffer = io.BytesIO()
    with matplotlib.rc_context({**STYLE, **colours}):
        figure = Figure(figsize=inches, layout="constrained")
        axes = figure.add_subplot()
        _draw(axes, drawn)
        if axes.get_legend_handles_labels()[0]:
            figure.legend(loc="outside lower left", frameon=False, ncols=len(drawn.evaluations))
        if title:
            axes.set_title(drawn.title, loc="left", fontsize=10, fontweight="bold")
        figure.savefig(buffer, format=suffix[1:], dpi=300, metadata=DATES[suffix])
    return buffer.getvalue()


def _draw(axes: Any, drawn: Scene) -> None:
    """The same scene as `figures.frontier_traces` and `frontier_layout`, on matplotlib's axes."""
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(drawn.evaluations)}
    for region in drawn.regions:
        colour, end = colours[region.evaluation], drawn.x_range[1]
        axes.fill_between([region.start, end], 0, region.top, color=colour, alpha=0.1, linewidth=0)
        axes.plot([region.start, end], [region.top, region.top], color=colour, linewidth=0.7, linestyle="--")
        axes.annotate(region.label, (end, region.top), (-2, -8), textcoords="offset points", ha="right", fontsize=7)
    for i, name in enumerate(drawn.evaluations):
        colour, marker = colours[name], SHAPES[MARKERS[i % len(MARKERS)]]
        own = drawn.of(name)
        if name in drawn.originals:
            axes.axhline(drawn.originals[name]["wer"], color=colour, linewidth=0.7, linestyle=":", zorder=1)
        for before, after in drawn.joined(name):
            axes.plot([before["at"], after["at"]], [before["wer"], after["wer"]], color=colour, linewidth=0.6)
        best = [point for point in own if point["pareto"]]
        axes.plot([p["at"] for p in best], [p["wer"] for p in best], color=colour, linewidth=1.2)
        for hollow, label, fill in ((False, name, colour), (True, f"{name}, before tuning", axes.get_facecolor())):
            marks = [point for point in own if (point["stage"] == "untuned") == hollow]
            if marks:
                axes.errorbar(
                    [p["at"] for p in marks], [p["wer"] for p in marks], yerr=np.transpose([bars(p) for p in marks]),
                    label=label, linestyle="none", color=colour, marker=marker, markersize=5, markerfacecolor=fill,
                    markeredgewidth=0.9, elinewidth=0.7, capsize=1.8, zorder=3,
                )  # fmt: skip
    for point, depth in drawn.beyond:
        axes.annotate(
            f"{point['wer']:.0f} %", (point["at"], drawn.y_range[1]), (0, -18 - 10 * depth),
            textcoords="offset points", ha="right", fontsize=7,
            arrowprops={"arrowstyle": "->", "color": colours[point["evaluation"]], "linewidth": 0.7,
                        "relpos": (1, 1), "shrinkA": 0},
        )  # fmt: skip
    axes.set_xlim(*drawn.x_range)
    axes.set_ylim(*drawn.y_range)
    axes.set_xlabel(drawn.axis.label)
    axes.set_ylabel(drawn.y_title)
