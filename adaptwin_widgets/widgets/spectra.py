"""Every twin's spectrum on one screen, drawn from one binary message."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import numpy as np
import traitlets

from adaptwin_widgets.anatomy import Twin
from adaptwin_widgets.cost import per_rank
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.figures import COLOURS, TITLES
from adaptwin_widgets.plan import RankPlan
from adaptwin_widgets.planner import Planner
from adaptwin_widgets.spectra import Spectra, single_spectra
from adaptwin_widgets.widgets.base import View, source
from adaptwin_widgets.workbench import Workbench

POINTS = 256  # of one curve: neurons are many, pixels few
SCRIPTS = "\n".join(source(name) for name in ("dom.js", "parts.js", "curves.js", "spectra.js"))


class SpectraView(View):
    """All spectra of a model: a row a kind of twin, a column a layer, a curve a head.

    What a plan keeps is drawn strong, what it cuts pale. A panel opens to one twin, there its single matrices stand
    beside their product.

    >>> import adaptwin_widgets as aw                                                        # doctest: +SKIP
    >>> aw.SpectraView(aw.spectra(aw.load("tiny.en")))                                       # doctest: +SKIP

    shown: a `Workbench` or a `Planner`, which it follows, or `Spectra`. plan: what to mark as kept, for spectra alone.
    Raises InputError for anything else. Costs one message of 8 bytes a value (base: 0.3 MB).
    """

    _following = False
    _esm = SCRIPTS + "\nexport default { render: renderSpectra };\n"

    layout_of = traitlets.Dict().tag(sync=True)  # where each twin's curves are in `values`, and what they are
    values = traitlets.Bytes().tag(sync=True)  # float32, as the speech uses them, then by the weights alone
    state = traitlets.Dict().tag(sync=True)  # ranks, locks, numbers: all that changes with a plan, in one message
    singles = traitlets.Dict().tag(sync=True)  # the single matrices' spectra of the twin that was opened last

    def __init__(self, shown: Workbench | Planner | Spectra, plan: RankPlan | None = None, **traits: Any):
        self.workbench = shown if isinstance(shown, Workbench) else None
        if isinstance(shown, Spectra):
            shown = Planner(shown)
            if plan is not None:
                shown.commit(plan)
        planner = shown.planner if isinstance(shown, Workbench) else shown
        if not isinstance(planner, Planner):
            raise InputError(f"{type(shown).__name__} has no spectra; give a Workbench, a Planner or Spectra.")
        self.planner = planner
        self._shown: Spectra | None = None
        self._drawn = False
        self._when_shown: list[Callable[[], Any]] = []
        super().__init__(**traits)
        self._follow()
        planner.observe(self._follow, "revision")
        self._following = True

    def close(self) -> None:
        if self._following:  # ipywidgets closes what is collected once more
            self._following = False
            self.planner.unobserve(self._follow, "revision")
        super().close()

    def _follow(self, _: Any = None) -> None:
        if self._shown is not self.planner.spectra:
            self._shown = self.planner.spectra
            self.layout_of, self.values = pack(self._shown)
        self.state = self.describe()

    def describe(self) -> dict[str, Any]:
        """What the page shows of the plan."""
        ranks = [r for name in self.planner.heads for r in self.planner.ranks(name)]
        return {"ranks": ranks, "locked": list(self.planner.plan.locked)}

    def when_shown(self, then: Callable[[], Any]) -> None:
        """Call `then` once a page has drawn the spectra; at once when one has already."""
        if self._drawn:
            then()
        else:
            self._when_shown.append(then)

    def do_shown(self) -> None:
        """A page has drawn the spectra."""
        self._drawn, waiting, self._when_shown = True, self._when_shown, []
        for then in waiting:
            then()

    def do_singles(self, name: str) -> None:
        """Send the spectra of the single matrices of one twin, each relative to its largest value."""
        self.planner.matching(name)
        if self.workbench is None:
            self.singles = {}
            return
        labels, first, second = single_spectra(self.workbench.model.model, Twin.parse(name))
        rows = [(m / m.max()).round(5).tolist() for m in (first, second)]
        self.singles = {"name": name, "labels": labels, "rows": rows}

    def summary(self) -> str:
        """A table of the twins, for pages without a kernel."""
        rows = []
        for (part, kind), title in TITLES.items():
            names = [n for n in self.planner.heads if n.startswith(part) and n.endswith(kind)]
            if names:
                full = sum(self.planner.full[n] * self.planner.heads[n] for n in names)
                kept = sum(sum(self.planner.ranks(n)) for n in names)
                energy = np.mean([self.planner.energy(n, self.planner.ranks(n)) for n in names])
                rows.append(f"<tr><td>{title}</td><td>{kept} of {full}</td><td>{energy:.1%}</td></tr>")
        head = "<tr><th>Twins</th><th>ranks kept</th><th>energy kept</th></tr>"
        return f"<p>Spectra of {html.escape(self.planner.source)}</p><table>{head}{''.join(rows)}</table>"


def pack(spectra: Spectra) -> tuple[dict[str, Any], bytes]:
    """(layout, float32 bytes) of all curves: activation-aware first, weight-only second, twins in order."""
    twins: list[dict[str, Any]] = []
    aware: list[np.ndarray] = []
    white: list[np.ndarray] = []
    offset = unit = 0
    for twin, values in spectra.values.items():
        heads, full = values.shape
        chosen = np.unique(np.linspace(0, full - 1, min(full, POINTS)).round().astype(int))
        twins.append(
            {
                "name": str(twin), "part": twin.part, "layer": twin.layer, "kind": twin.kind, "heads": heads,
                "full": full, "points": len(chosen), "offset": offset, "unit": unit,
                **dict(zip(("price", "audio", "token"), per_rank(spectra.config, twin), strict=True)),
            }
        )  # fmt: skip
        aware.append(values[:, chosen].ravel())
        white.append(spectra.weight_only[twin][:, chosen].ravel())
        offset, unit = offset + heads * len(chosen), unit + heads
    present = {(t["part"], t["kind"]) for t in twins}
    rows = [{"part": p, "kind": k, "title": title} for (p, k), title in TITLES.items() if (p, k) in present]
    layout = {"twins": twins, "rows": rows, "colours": COLOURS, "aware": spectra.aware, "source": spectra.source}
    return layout, np.concatenate(aware + white).astype(np.float32).tobytes()
