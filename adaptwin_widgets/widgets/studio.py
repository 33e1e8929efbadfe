"""The Studio: every widget in one cell, around one workbench."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets

from adaptwin_widgets.errors import InputError
from adaptwin_widgets.plan import RankPlan
from adaptwin_widgets.speech import Corpus
from adaptwin_widgets.study import Study
from adaptwin_widgets.whisper import Whisper
from adaptwin_widgets.widgets.at_hand import AtHand
from adaptwin_widgets.widgets.jobs import Jobs
from adaptwin_widgets.widgets.listen import Listen
from adaptwin_widgets.widgets.picker import RankPicker
from adaptwin_widgets.widgets.tuner import Tuner
from adaptwin_widgets.workbench import WINDOWS, Workbench

if TYPE_CHECKING:
    from adaptwin_widgets.widgets.frontier import Frontier

OPTIONS = ("folder", "windows", "seed", "start")
SECTIONS = {  # in the order they are read; the name is also the attribute
    "jobs": "Work",
    "picker": "Ranks: what each twin keeps",
    "tuner": "Try the plan",
    "frontier": "Word errors against compression",
    "listen": "Listen and compare",
}


class Studio(ipywidgets.VBox):
    """Everything in one cell: spectra and ranks, tuning, word errors against compression, listening, saving.

    >>> import adaptwin_widgets as aw                                                        # doctest: +SKIP
    >>> demo = aw.demo_speech()                                                              # doctest: +SKIP
    >>> studio = aw.Studio(aw.load("tiny.en"), [demo["target_train"], demo["general_train"]],
    ...                    eval={"target": demo["target_dev"], "general": demo["general_dev"]})  # doctest: +SKIP
    >>> studio                                                                               # doctest: +SKIP

    model: an original `Whisper`. speech: corpora to observe and tune on, the target speaker's first. eval: by name,
    the corpora to score on. folder: of the study; without it, the same model and speech find the same study again,
    in this kernel and in the next. start: begin at once, in the background, to observe the speech and to score the
    original.

    plan, model, study: what the next cell works with; plan and model can be set. workbench: the state behind it all.
    Single widgets: picker, tuner, frontier, listen, jobs, at_hand.

    Raises InputError for what `Workbench` refuses and for unknown options.
    """

    def __init__(
        self,
        model: Whisper,
        speech: Corpus | Sequence[Corpus],
        eval: Mapping[str, Corpus] | Corpus | None = None,  # noqa: A002 - the word users know
        *,
        folder: str | Path | None = None,
        start: bool = True,
        windows: int = WINDOWS,
        seed: int = 0,
        **unknown: Any,
    ):
        if unknown:
            raise InputError(f"Studio has no option {next(iter(unknown))!r}; its options are {', '.join(OPTIONS)}.")
        evaluations = {"target": eval} if isinstance(eval, Corpus) else dict(eval or {})
        self.workbench = Workbench.open(model, speech, evaluations, folder=folder, windows=windows, seed=seed)
        views = self.workbench.views or {
            "at_hand": AtHand(self.workbench),
            "jobs": Jobs(self.workbench.worker),
            "picker": RankPicker(self.workbench),
            "tuner": Tuner(self.workbench),
            "listen": Listen.of(self.workbench),
        }
        self.workbench.views = views  # a cell that is run again shows the same widgets
        self.at_hand, self.jobs, self.picker = views["at_hand"], views["jobs"], views["picker"]
        self.tuner, self.listen = views["tuner"], views["listen"]
        self._sections = {"at_hand": _section("at-hand", "", [views["at_hand"]])}
        for name, title in SECTIONS.items():
            self._sections[name] = _section(name, title, [views[name]] if name in views else [])
        grid = ipywidgets.Box(list(self._sections.values()))
        grid.add_class("aw-studio")
        super().__init__([grid])
        self.add_class("aw-studio-frame")
        # Plotly's script is 5 MB: it is sent once the picker is on the screen, which would wait for it otherwise.
        self.picker.when_shown(lambda: self.frontier)
        if "frontier" in views:
            self._show_frontier(views["frontier"])
        if start:
            self.workbench.start()

    @property
    def frontier(self) -> Frontier:
        """Word errors against compression."""
        views = self.workbench.views
        if "frontier" not in views:
            from adaptwin_widgets.widgets.frontier import Frontier

            views["frontier"] = Frontier(self.workbench)
        self._show_frontier(views["frontier"])
        return views["frontier"]

    def _show_frontier(self, frontier: Frontier) -> None:
        section = self._sections["frontier"]
        if frontier not in section.children:
            section.children = (*section.children, frontier)

    @property
    def plan(self) -> RankPlan:
        """The plan at hand; set it to show and work with another."""
        return self.workbench.planner.plan

    @plan.setter
    def plan(self, plan: RankPlan) -> None:
        self.workbench.planner.commit(plan)

    @property
    def model(self) -> Whisper:
        """The model at hand: the compressed one of the current try, else the original; set it to work with a
        compressed model that was made elsewhere. Raises InputError while a try's is loading."""
        return self.workbench.present

    @model.setter
    def model(self, model: Whisper) -> None:
        self.workbench.take(model)

    @property
    def study(self) -> Study:
        """The tries so far; records that are added show at once."""
        return self.workbench.study

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        if data is not None:  # what a page without a kernel shows
            table = self.study.frame()
            columns = ["try", "stage", "evaluation", "encoder_reduction", "wer"]
            tries = "" if table.empty else table[columns].round(3).to_html(index=False)
            data["text/html"] = self.picker.summary() + tries
        return bundle


def _section(name: str, title: str, children: list[ipywidgets.Widget]) -> ipywidgets.VBox:
    heading = [ipywidgets.HTML(f"<h2>{title}</h2>")] if title else []
    box = ipywidgets.VBox([*heading, *children])
    box.add_class("aw-section")
    box.add_class(f"aw-section-{name}")
    return box
