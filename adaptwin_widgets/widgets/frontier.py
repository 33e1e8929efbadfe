"""Word errors against compression, live: one plotly figure, its numbers as a table, and what is done with a try."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets
import plotly.graph_objects as go
import traitlets

from adaptwin_widgets.errors import InputError
from adaptwin_widgets.figures import COLOURS, MARKERS, frontier_layout, frontier_traces
from adaptwin_widgets.frontier import AXES, GOALS, Goal, Scene, scene
from adaptwin_widgets.publish import SUFFIXES, save_frontier
from adaptwin_widgets.study import Study
from adaptwin_widgets.tables import compared, rows, summary
from adaptwin_widgets.widgets.base import View, source
from adaptwin_widgets.worker import Task, Worker

if TYPE_CHECKING:
    from adaptwin_widgets.workbench import Workbench

TRACE = ("x", "y", "text", "customdata", "showlegend")  # what an update changes of a trace, and its error bars
GREY = "#808080"  # readable on white and on black, until the style sheet gives the theme's own colour
GOAL = Goal()
RINGS = (("selected", "circle-open", 21), ("current", "square-open", 23))
CONFIG = {
    "responsive": True, "displaylogo": False, "doubleClick": "autosize",
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "resetScale2d"],
}  # fmt: skip


class Panel(View):
    """The part of a `Frontier` beside its figure: the table and the controls. state: all of what they show."""

    _esm = source("dom.js") + source("parts.js") + source("frontier.js")
    state = traitlets.Dict().tag(sync=True)

    def __init__(self, frontier: Frontier):
        super().__init__()
        self.frontier = frontier

    def do_select(self, name: str) -> None:
        self.frontier.selected = name

    def do_go_back(self) -> None:
        self.frontier.go_back()

    def do_axis(self, value: str) -> None:
        self.frontier.axis = value

    def do_goal(self, **goal: Any) -> None:
        self.frontier.goal = Goal(**goal) if goal else None

    def do_note(self, name: str, text: str) -> None:
        self.frontier.note(name, text)

    def do_compare(self, name: str) -> None:
        self.frontier.other = name

    def do_save(self, kind: str) -> None:
        self.frontier.save(kind)

    def do_download(self) -> None:
        """Send what was saved last; the page makes a download of it."""
        if self.frontier.saved is not None:
            self.send({"file": self.frontier.saved.name}, buffers=[self.frontier.saved.read_bytes()])

    def summary(self) -> str:
        return self.frontier.summary()


class Frontier(ipywidgets.Box):
    """Every try of a study as a point, with its numbers, its note, and the way back to it.

    axis: "encoder", "model", "size" or "speed". goal: a `frontier.Goal` or None. selected, other: names of the chosen
    try and the one it is compared with, or "". on_select: called with the name of a try that is chosen. A click on a
    point chooses it and, in a workbench, makes its plan and model the present ones. saved: the file written last.

    >>> import tempfile
    >>> from adaptwin_widgets.study import Record
    >>> study = Study(tempfile.mkdtemp(), about={"model": "tiny.en"})
    >>> study.add(Record("original", {"encoder_reduction": 0.0}, {"target": {"wer": 4.2}}))
    >>> view = Frontier(study, goal=Goal(worse=1, least=30))
    >>> view.selected = "original"

    Costs about 5 MB, sent once to the page: plotly's script. Raises InputError for anything but a Study or a
    Workbench, and for values that do not exist.
    """

    axis = traitlets.Unicode("encoder")
    goal = traitlets.Any(None, allow_none=True)
    selected = traitlets.Unicode("")
    other = traitlets.Unicode("")
    saved = traitlets.Any(None, allow_none=True)
    _listening = False  # one whose construction failed is closed as well

    def __init__(
        self,
        shown: Study | Workbench,
        *,
        axis: str = "encoder",
        goal: Goal | None = GOAL,
        on_select: Callable[[str], Any] | None = None,
        **unknown: Any,
    ):
        if unknown:
            raise InputError(f"Frontier knows no {next(iter(unknown))!r}; it takes axis, goal and on_select.")
        study = shown if isinstance(shown, Study) else getattr(shown, "study", None)
        self.bench: Workbench | None = None if isinstance(shown, Study) else shown
        if not isinstance(study, Study):
            raise InputError(f"Frontier shows a Study or a Workbench, not a {type(shown).__name__}.")
        if on_select is not None and not callable(on_select):
            raise InputError("on_select has to be a function; it is called with the name of a try.")
        self.study: Study = study
        self._lock = threading.RLock()  # the worker adds a record while a person clicks
        self._on_select, self._busy, self._worker = on_select, "", Worker()
        self.axis, self.goal = axis, goal
        self._look()
        self._painted = self._layout()
        self.figure = _figure_widget()(self._rings() + frontier_traces(self._drawn), self._painted)
        self.figure._config = {**self.figure._config, **CONFIG}
        self._listen_from(0)
        self.panel = Panel(self)
        super().__init__([self.figure, self.panel])
        self.add_class("aw-frontier")
        self._tell()
        self.observe(self._changed, ["axis", "goal", "selected", "other"])
        if self.bench is not None:
            self.bench.observe(self._changed, ["revision", "current"])
        else:
            self.study.listeners.append(self._changed)
        self._listening = True

    # -- what a person does ---------------------------------------------------------------------------------

    def go_back(self, name: str | None = None) -> None:
        """Make a try's plan and model the present ones; by default of the try that is selected."""
        if self.bench is None:
            raise InputError("This frontier shows a study alone; give it a workbench to go back to a try.")
        self.bench.go_back(name if name is not None else self.selected)

    def note(self, name: str, text: str) -> None:
        """Write a note on a try, to disk as well."""
        if self.bench is not None:
            self.bench.note(name, text)
        else:
            self.study.annotate(name, text)

    def save(self, kind: str) -> Task:
        """Write the frontier as it is shown ("svg", "pdf", "png", "html", "csv") into the study's folder."""
        if f".{kind}" not in SUFFIXES:
            raise InputError(f"The frontier cannot be saved as {kind!r}; choose one of {', '.join(SUFFIXES)}.")
        axis, goal = self.axis, self.goal
        path = self.study.folder / ("frontier.csv" if kind == "csv" else f"frontier-{axis}.{kind}")

        def write() -> None:
            try:
                self.saved = save_frontier(self.study, path, axis=axis, goal=goal)
            finally:
                self._busy = ""
                self._tell()

        self._busy = path.name
        self._tell()
        return self._worker.submit(f"Save {path.name}", lambda task: self.panel.guard(write)())

    def refresh(self) -> None:
        """Show the study as it is now; needed only when its records were changed by hand."""
        with self._lock:
            self._look()
            self._paint()
            self._tell()

    def close(self) -> None:
        if self._listening:
            self._listening = False
            if self.bench is not None:
                self.bench.unobserve(self._changed, ["revision", "current"])
            else:
                self.study.listeners.remove(self._changed)
        super().close()

    def summary(self) -> str:
        """The table, for a page without a kernel."""
        return summary(self.study, self.goal)

    # -- inside ---------------------------------------------------------------------------------------------

    @traitlets.validate("axis")
    def _known_axis(self, proposal: Any) -> str:
        if proposal["value"] not in AXES:
            raise InputError(f"axis={proposal['value']!r} does not exist; choose one of {', '.join(AXES)}.")
        return proposal["value"]

    @traitlets.validate("goal")
    def _a_goal(self, proposal: Any) -> Goal | None:
        if proposal["value"] is not None and not isinstance(proposal["value"], Goal):
            raise InputError(f"goal={proposal['value']!r} is no goal; give a Goal, or None.")
        return proposal["value"]

    @traitlets.validate("selected", "other")
    def _known_try(self, proposal: Any) -> str:
        if proposal["value"] and proposal["value"] not in self.study:
            raise InputError(f"There is no try called {proposal['value']!r} in this study.")
        return proposal["value"]

    def _changed(self, change: Any = None) -> None:
        """Also called on the worker's thread, which has to live whatever happens here."""
        name = change["name"] if change else "revision"
        try:
            with self._lock:
                if name in ("selected", "other", "current"):
                    self._restyle(self._rings(), {})
                    self._tell()
                else:
                    self.refresh()
            if name == "selected" and self.selected and self._on_select is not None:
                self._on_select(self.selected)
        except Exception as error:
            self.panel.fail(error)

    def _clicked(self, trace: Any, points: Any, state: Any) -> None:
        if points.point_inds:
            self.panel.guard(self._take)(str(trace.customdata[points.point_inds[0]]))

    def _take(self, name: str) -> None:
        self.selected = name
        if self.bench is not None and self.bench.current != name:
            self.go_back(name)

    def _listen_from(self, first: int) -> None:
        for trace in self.figure.data[first:]:
            trace.on_click(self._clicked)

    def _look(self) -> None:
        self._drawn: Scene = scene(self.study, axis=self.axis, goal=self.goal)
        self._rows = rows(self.study, self.goal, self.axis)

    @property
    def _current(self) -> str:
        return self.bench.current if self.bench is not None else ""

    def _rings(self) -> list[dict[str, Any]]:
        """The first traces, so that the points lie on them and other sets' traces can follow later."""
        rings = []
        for (what, symbol, size), name in zip(RINGS, (self.selected, self._current), strict=True):
            own = [point for point in self._drawn.points if point["final"] and point["try"] == name]
            rings.append(
                {
                    "type": "scatter", "name": what, "x": [p["at"] for p in own], "y": [p["wer"] for p in own],
                    "mode": "markers", "hoverinfo": "skip", "showlegend": len(own) > 0,
                    "marker": {"symbol": symbol, "size": size, "color": GREY, "line": {"width": 2}},
                    "text": [], "customdata": [], "error_y": {"array": [], "arrayminus": []},
                }
            )  # fmt: skip
        return rings

    def _layout(self) -> dict[str, Any]:
        layout = frontier_layout(self._drawn)
        for name in ("xaxis", "yaxis"):
            layout[name] |= {"gridcolor": "rgba(128,128,128,0.25)", "linecolor": GREY}
        clear = {"paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)"}
        legend = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}
        return {**layout, **clear, "template": "none", "title": None, "font": {"color": GREY}, "autosize": True,
                "legend": legend, "height": 460, "margin": {"l": 60, "r": 16, "t": 40, "b": 50}}  # fmt: skip

    def _paint(self) -> None:
        traces, layout = self._rings() + frontier_traces(self._drawn), self._layout()
        present = len(self.figure.data)
        if len(traces) > present:  # an evaluation set that the study did not name before
            self.figure.add_traces(traces[present:])
            self._listen_from(present)
        before, self._painted = self._painted, layout
        relayout = {key: layout[key] for key in ("shapes", "annotations") if layout[key] != before[key]}
        for axis in ("xaxis", "yaxis"):  # what did not change is not sent, so that a person's zoom stays
            relayout |= {f"{axis}.{k}": v for k, v in _flat(layout[axis]).items() if v != _flat(before[axis])[k]}
        self._restyle(traces, relayout)

    def _restyle(self, traces: list[dict[str, Any]], relayout: dict[str, Any]) -> None:
        """Bring the first traces up to date: one message; then the traits, so that a reload shows the same."""
        restyle: dict[str, Any] = {key: [trace[key] for trace in traces] for key in TRACE}
        for key in ("array", "arrayminus"):
            restyle[f"error_y.{key}"] = [trace["error_y"][key] for trace in traces]
        self.figure.plotly_update(restyle, relayout, trace_indexes=list(range(len(traces))))
        with self.figure.hold_sync():
            self.figure._repr_mimebundle_()

    def _tell(self) -> None:
        with self._lock:
            self.panel.state = self._state(self._drawn, self.goal)

    def _state(self, drawn: Scene, goal: Goal | None) -> dict[str, Any]:
        metrics = {point["evaluation"]: point["metric"] for point in drawn.points}
        sets = [
            {"name": name, "colour": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)],
             "metric": metrics.get(name, "wer").upper()}
            for i, name in enumerate(drawn.evaluations)
        ]  # fmt: skip
        hint = "" if goal is None or drawn.regions or not drawn.originals else "(not on this axis)"
        return {
            "axis": self.axis, "axes": [[key, f"{axis.title}, {axis.unit}"] for key, axis in AXES.items()],
            "goal": {} if goal is None else {**goal.__dict__, "hint": hint},
            "usual": {"worse": GOAL.worse, "least": GOAL.least},  # where a goal is set again
            "units": [["points", "points"], ["percent", "% (relative)"]],
            "goals": [[key, text] for key, text in GOALS.items()],
            "sets": sets, "rows": self._rows, "live": self.bench is not None,
            "current": self._current, "selected": self.selected,
            "other": self.other if self.other != self.selected else "",
            "comparison": self._comparison(), "saved": self._file(), "said": self._said(),
        }  # fmt: skip

    def _said(self) -> str:
        parts = [f"{len(self.study)} tries."]
        parts += [f"{self.selected} is selected."] if self.selected else []
        parts += [f"{self._current} is the current one."] if self._current else []
        return " ".join(parts)

    def _file(self) -> dict[str, str]:
        if self._busy:
            return {"busy": self._busy}
        return {"name": self.saved.name, "path": str(_near(self.saved))} if self.saved is not None else {}

    def _comparison(self) -> dict[str, Any]:
        if not self.selected or not self.other or self.selected == self.other:
            return {}
        table = self.study.compare(self.selected, self.other)
        return {"first": self.selected, "second": self.other, "rows": compared(table)}

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        if isinstance(bundle, dict):
            bundle["text/html"] = self.summary()
        return bundle


def _figure_widget() -> Any:
    """plotly's FigureWidget, imported in a fifth of the time.

    It imports nbformat, that jsonschema, and that compiles a grammar of international web addresses for three
    seconds if it can find one. No notebook's schema asks for that check, so it is not found while this is imported.
    """
    grammar = "rfc3987_syntax"
    hide = not {grammar, "jsonschema"} & set(sys.modules)
    if hide:
        sys.modules[grammar] = None  # type: ignore[assignment]
    try:
        return go.FigureWidget
    finally:
        if hide:
            del sys.modules[grammar]


def _flat(axis: dict[str, Any]) -> dict[str, Any]:
    return {"title.text": axis["title"]["text"], "range": axis["range"]}


def _near(path: Path) -> Path:
    """The path as seen from where the kernel runs, when it is below."""
    here = Path.cwd()
    return path.resolve().relative_to(here) if path.resolve().is_relative_to(here) else path
