"""The rank picker: spectra whose cuts one drags, a budget, and what the plan costs, at once."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import traitlets

from adaptwin_widgets.anatomy import Shape
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.plan import RankPlan
from adaptwin_widgets.planner import SIDES, Planner
from adaptwin_widgets.prices import COUNTS, TEXT
from adaptwin_widgets.sensitivity import Sensitivity
from adaptwin_widgets.spectra import Spectra
from adaptwin_widgets.widgets.base import source
from adaptwin_widgets.widgets.spectra import SCRIPTS, SpectraView
from adaptwin_widgets.workbench import Workbench

SHARES = tuple(n / 10 for n in range(1, 10))  # columns of the sensitivity map


class RankPicker(SpectraView):
    """Pick ranks on the spectra: drag a cut, type a number, move a budget; lock, undo, redo, save and load.

    >>> import adaptwin_widgets as aw                                                        # doctest: +SKIP
    >>> picker = aw.RankPicker(aw.spectra(aw.load("tiny.en")))                               # doctest: +SKIP
    >>> picker.plan.reductions["encoder_reduction"]                                          # doctest: +SKIP

    While something moves, the page itself works out ranks and numbers (`ahead`, ahead.js), so that no slow kernel or
    network stands between a hand and what it moves. Letting go *commits*: one message, ``edit``: {"budget": side, "of":
    what it counts, "fraction"}, or {"twins": pattern, "head", "rank" or "by"}; one message answers, the trait `state`,
    the truth.
    """

    _esm = "\n".join([SCRIPTS, source("ahead.js"), source("picker.js")])
    ahead = traitlets.Dict().tag(sync=True)  # the original's costs, and the damage of every twin that was measured
    queues = traitlets.Bytes().tag(sync=True)  # uint16: heads in the order in which budgets take ranks
    sensitivity = traitlets.Dict().tag(sync=True)  # the map: shares, and damage by twin where it was measured

    def __init__(self, shown: Workbench | Planner | Spectra, plan: RankPlan | None = None, **traits: Any):
        self._seq = ""
        self._known: tuple[Any, Any] = (None, None)  # spectra and sensitivity that the page was told of
        super().__init__(shown, plan, **traits)

    @property
    def plan(self) -> RankPlan:
        """The plan as it was committed; set it to show another."""
        return self.planner.plan

    @plan.setter
    def plan(self, plan: RankPlan) -> None:
        self.planner.commit(plan)

    def _follow(self, change: Any = None) -> None:
        known = self.planner.spectra, self.planner.sensitivity
        with self.hold_sync():  # one message
            if any(new is not old for new, old in zip(known, self._known, strict=True)):
                self._known = known
                self.ahead, self.queues = self._ahead()
                self.sensitivity = self._map()
            super()._follow(change)

    def describe(self) -> dict[str, Any]:
        p = self.planner
        names = list(p.heads)
        measured = {side: p.measured((side,)) for side in ("encoder", "decoder")}
        return {
            **super().describe(), "seq": self._seq, "numbers": p.numbers(),
            "cut": [names.index(n) for n in p.plan.ranks],
            "limits": {of: {side: p.limit(side, of) for side in SIDES} for of in COUNTS},
            "undo": p.can_undo, "redo": p.can_redo, "method": p.plan.method, "measured": measured,
            "can_measure": self.workbench is not None,
        }  # fmt: skip

    def _answer(self, seq: str) -> None:
        """Show the plan as the answer to a request, unless that has happened already."""
        if self.state.get("seq") != seq:
            self._seq = seq
            self.state = self.describe()

    def _edited(self, edit: dict[str, Any]) -> RankPlan:
        if "budget" in edit:
            side, of = edit["budget"], edit.get("of", "parameters")
            return self.planner.budget(side, min(float(edit["fraction"]), self.planner.limit(side, of)), of)
        if "rank" in edit:
            return self.planner.change(edit["twins"], int(edit["rank"]), edit.get("head"))
        return self.planner.shift(edit["twins"], int(edit["by"]), edit.get("head"))

    def do_commit(self, edit: dict[str, Any], seq: str) -> None:
        """Make an edit the plan."""
        plan, self._seq = self._edited(edit), seq
        if plan.ranks != self.planner.plan.ranks:
            self.planner.commit(plan)
        self._answer(seq)

    def do_act(self, what: str, seq: str, twins: str = "", on: bool = True) -> None:
        """undo, redo, reset, or lock (twins, on)."""
        self._seq = seq
        if what == "lock":
            self.planner.lock(twins, on)
        else:
            {"undo": self.planner.undo, "redo": self.planner.redo, "reset": self.planner.reset}[what]()
        self._answer(seq)

    def do_load(self, text: str, name: str) -> None:
        """Take a plan from the text of a file."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise InputError(f"{name}: not valid JSON ({error}); choose a file that this page saved.") from error
        self.planner.commit(RankPlan.from_dict(data, name))

    def do_save(self) -> None:
        """Send the plan as a file."""
        name = f"{self.planner.source.replace('/', '_')}-plan.json"
        self.send({"file": name, "text": json.dumps(self.plan.to_dict(), indent=1) + "\n"})

    def do_measure(self) -> None:
        """Measure every twin's damage in the background."""
        if self.workbench is None:
            raise InputError("Measuring needs a model and speech; open the picker on a Workbench or in a Studio.")
        self.workbench.measure()

    def _ahead(self) -> tuple[dict[str, Any], bytes]:
        """What the page needs to look ahead: see ahead.js."""
        p = self.planner
        known = p.sensitivity or Sensitivity()
        lines = {str(t): known.line(t) for t in known.curves} | known.lines_together  # no twin is called "encoder"
        curves = {name: {"x": x.tolist(), "y": y.tolist(), "slope": slope} for name, (x, y, slope) in lines.items()}
        shape = Shape.of(p.config)
        counts = {
            of: {
                "whole": {side: prices.total(shape, {}, side) for side in SIDES},
                "each": [prices.each(shape, twin) for twin in p.spectra.values],
            }
            for of, prices in COUNTS.items()
        }
        ahead = {
            "before": {"audio": p.before.audio, "token": p.before.token}, "counts": counts, "bias": p.config.d_model,
            "tokens": TEXT, "curves": curves,
        }  # fmt: skip
        return ahead, b"".join(p.order(side, of).astype(np.uint16).tobytes() for of in COUNTS for side in SIDES)

    def _map(self) -> dict[str, Any]:
        """Damage, nats a token, of cutting a share of each twin's components, the weakest first."""
        rows = {name: self.planner.damage_at(name, SHARES) for name in self.planner.heads}
        return {"shares": SHARES, "rows": {k: v for k, v in rows.items() if v}} if any(rows.values()) else {}
