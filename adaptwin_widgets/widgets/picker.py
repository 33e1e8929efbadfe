"""The rank picker: spectra whose cuts one drags, a budget, and what the plan costs, at once."""

from __future__ import annotations

import json
from typing import Any

import traitlets

from adaptwin_widgets.errors import InputError
from adaptwin_widgets.plan import RankPlan
from adaptwin_widgets.planner import Planner
from adaptwin_widgets.spectra import Spectra
from adaptwin_widgets.widgets.base import source
from adaptwin_widgets.widgets.spectra import SCRIPTS, SpectraView
from adaptwin_widgets.workbench import Workbench

SIDES = ("encoder", "decoder", "model")
SHARES = tuple(n / 10 for n in range(1, 10))  # columns of the sensitivity map


class RankPicker(SpectraView):
    """Pick ranks on the spectra: drag a cut, type a number, move a budget; lock, undo, redo, save and load.

    >>> import adaptwin_widgets as aw                                                        # doctest: +SKIP
    >>> picker = aw.RankPicker(aw.spectra(aw.load("tiny.en")))                               # doctest: +SKIP
    >>> picker.plan.reductions["encoder_reduction"]                                          # doctest: +SKIP

    While something moves, the page asks for a *preview*: numbers of a plan that is not yet the plan. Letting go
    *commits* it to the planner. A request is ``edit``: {"budget": side, "fraction"}, or {"twins": pattern, "head",
    "rank" or "by"}; each gets one message back, the trait `state`.
    """

    _esm = SCRIPTS + "\n" + source("picker.js")
    sensitivity = traitlets.Dict().tag(sync=True)  # the map: shares, and damage by twin where it was measured

    def __init__(self, shown: Workbench | Planner | Spectra, plan: RankPlan | None = None, **traits: Any):
        self._seq = ""
        self._mapped: Any = None
        super().__init__(shown, plan, **traits)

    @property
    def plan(self) -> RankPlan:
        """The plan as it was committed; set it to show another."""
        return self.planner.plan

    @plan.setter
    def plan(self, plan: RankPlan) -> None:
        self.planner.commit(plan)

    def _follow(self, change: Any = None) -> None:
        super()._follow(change)
        if self._mapped is not self.planner.sensitivity:
            self._mapped = self.planner.sensitivity
            self.sensitivity = self._map()

    def describe(self, plan: RankPlan) -> dict[str, Any]:
        p = self.planner
        measured = {side: p.measured((side,)) for side in ("encoder", "decoder")}
        return {
            **super().describe(plan), "seq": self._seq, "numbers": p.numbers(plan),
            "limits": {side: p.limit(side) for side in SIDES}, "undo": p.can_undo, "redo": p.can_redo,
            "method": plan.method, "measured": measured, "can_measure": self.workbench is not None,
        }  # fmt: skip

    def _answer(self, seq: str, plan: RankPlan | None = None) -> None:
        """Show a plan as the answer to a request, unless that has happened already."""
        if self.state.get("seq") != seq or plan is not None:
            self._seq = seq
            self.state = self.describe(plan or self.planner.plan)

    def _edited(self, edit: dict[str, Any]) -> RankPlan:
        if "budget" in edit:
            side = edit["budget"]
            return self.planner.budget(side, min(float(edit["fraction"]), self.planner.limit(side)))
        if "rank" in edit:
            return self.planner.change(edit["twins"], int(edit["rank"]), edit.get("head"))
        return self.planner.shift(edit["twins"], int(edit["by"]), edit.get("head"))

    def do_preview(self, edit: dict[str, Any], seq: str) -> None:
        """Show what an edit would do; the plan stays."""
        self._answer(seq, self._edited(edit))

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

    def _map(self) -> dict[str, Any]:
        """Damage, nats a token, of cutting a share of each twin's components, the weakest first."""
        rows = {name: self.planner.damage_at(name, SHARES) for name in self.planner.heads}
        return {"shares": SHARES, "rows": {k: v for k, v in rows.items() if v}} if any(rows.values()) else {}
