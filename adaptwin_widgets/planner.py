"""A rank plan under somebody's hands: change it, see at once what it costs, lock, undo, redo.

It knows no widget. Looking ahead (`change`, `shift`, `budget`, `numbers`) touches nothing but arrays that are ready;
only `commit` changes the plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from traitlets import HasTraits, Int

from adaptwin_widgets.allocate import describe, limit, meet, require_whole, saved_by_embedding, sides_of
from adaptwin_widgets.anatomy import Shape, Twin, full_rank, heads_of, twins_of
from adaptwin_widgets.cost import cost
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.plan import RankPlan, matches, shape_of
from adaptwin_widgets.prices import COUNTS, MULTIPLY_ADDS, PARAMETERS, Prices
from adaptwin_widgets.removal import Queue, queue
from adaptwin_widgets.sensitivity import Sensitivity
from adaptwin_widgets.spectra import Spectra, missed

HISTORY = 200  # steps that can be undone
SIDES = ("encoder", "decoder", "model")


class Planner(HasTraits):
    """The plan of one model, its history and what is known of its twins.

    revision: counts up whenever plan, locks, spectra or sensitivity are other ones. Twins are named by patterns:
    "encoder.0.query_key", "encoder.*.query_key", "cross.*", "*".

    >>> import adaptwin_widgets as aw                                                     # doctest: +SKIP
    >>> planner = Planner(aw.spectra(aw.load("tiny.en")))                                 # doctest: +SKIP
    >>> planner.commit(planner.budget("encoder", 0.3))                                    # doctest: +SKIP
    >>> planner.commit(planner.change("encoder.0.query_key", 8, head=2))                  # doctest: +SKIP
    >>> planner.undo(); planner.plan.reductions["encoder_reduction"]                      # doctest: +SKIP
    0.3000...
    """

    revision = Int(0)

    def __init__(self, spectra: Spectra, sensitivity: Sensitivity | None = None):
        super().__init__()
        self.config, self.source = spectra.config, spectra.source
        self.shape = shape_of(spectra.config)
        self.twins = list(twins_of(self.config))
        self.heads = {str(t): heads_of(self.config, t) for t in self.twins}
        self.full = {str(t): full_rank(self.config, t) for t in self.twins}
        self.before = cost(self.config)
        self._work = MULTIPLY_ADDS.parts(Shape.of(self.config), {})
        self._history, self._at = [RankPlan({}, self.shape, self.source, method="original")], 0
        self.learn(spectra, sensitivity)

    def learn(self, spectra: Spectra | None = None, sensitivity: Sensitivity | None = None) -> None:
        """Take other spectra (of the same model) or a measured sensitivity; the plan stays."""
        if spectra is not None:
            self.spectra = spectra
            self._energy = {}
            for twin, values in spectra.values.items():
                kept = np.pad(np.cumsum(values**2, axis=1), ((0, 0), (1, 0)))
                self._energy[str(twin)] = kept / (kept[:, -1].sum() or 1.0)
            self.sensitivity: Sensitivity | None = None  # it belongs to the spectra it was measured with
        if sensitivity is not None:
            self.sensitivity = sensitivity
        self._queues: dict[tuple, Queue] = {}
        self._limits: dict[tuple, float] = {}
        self._priced: tuple[RankPlan, dict[str, Any]] | None = None
        self.revision += 1

    # -- the plan -------------------------------------------------------------------------------------------

    @property
    def plan(self) -> RankPlan:
        """The plan as committed; set it to any plan of this model."""
        return self._history[self._at]

    @plan.setter
    def plan(self, plan: RankPlan) -> None:
        self.commit(plan)

    def commit(self, plan: RankPlan) -> None:
        """Make a plan the present one; raises InputError for a plan of another model."""
        if not isinstance(plan, RankPlan):
            raise InputError(f"{type(plan).__name__} is no rank plan; give a RankPlan, such as RankPlan.load(path).")
        plan.check(self.config, self.source)
        locked = tuple(name for name in self.heads if any(matches(name, lock) for lock in plan.locked))
        plan = replace(plan, locked=locked)  # "cross" locks many
        if plan == self.plan:
            return
        self._history = [*self._history[: self._at + 1], plan][-HISTORY:]
        self._at = len(self._history) - 1
        self.revision += 1

    @property
    def can_undo(self) -> bool:
        return self._at > 0

    @property
    def can_redo(self) -> bool:
        return self._at < len(self._history) - 1

    def undo(self) -> None:
        """Go back one commit, if there is one."""
        if self.can_undo:
            self._at -= 1
            self.revision += 1

    def redo(self) -> None:
        """Take back the last undo."""
        if self.can_redo:
            self._at += 1
            self.revision += 1

    def reset(self) -> None:
        """Back to the original, as a commit of its own; locks go as well."""
        self.commit(RankPlan({}, self.shape, self.source, method="original"))

    def lock(self, pattern: str, on: bool = True) -> None:
        """Keep the twins at the ranks they have now (or let them go again)."""
        names = set(self.matching(pattern))
        locked = [n for n in map(str, self.twins) if (n in names and on) or (n in self.plan.locked and n not in names)]
        self.commit(replace(self.plan, locked=tuple(locked)))

    # -- looking ahead --------------------------------------------------------------------------------------

    def matching(self, pattern: str) -> list[str]:
        """The twins a pattern names; raises InputError when it names none."""
        if pattern in self.heads:
            return [pattern]
        names = [name for name in self.heads if fnmatchcase(name, pattern)]
        if not names:
            raise InputError(f"{pattern!r} names no twin of {self.source}; they are named like encoder.0.query_key.")
        return names

    def ranks(self, name: str, plan: RankPlan | None = None) -> list[int]:
        """The ranks of one twin, a head each."""
        return (plan or self.plan).ranks.get(name) or [self.full[name]] * self.heads[name]

    def change(self, pattern: str, rank: int, head: int | None = None) -> RankPlan:
        """The plan with these twins (or one head of them) at a rank; ranks beyond the possible are cut to it."""
        return self._edited(pattern, head, lambda old, full: max(1, rank))

    def shift(self, pattern: str, by: int, head: int | None = None) -> RankPlan:
        """The plan with every rank of these twins moved by so many; heads that are gone stay gone."""
        return self._edited(pattern, head, lambda old, full: old and max(1, old + by))

    def scale(self, pattern: str, share: float) -> RankPlan:
        """The plan with these twins at a share of their full ranks."""
        return self._edited(pattern, None, lambda old, full: max(1, round(share * full)))

    def _edited(self, pattern: str, head: int | None, new: Any) -> RankPlan:
        names = self.matching(pattern)
        free = [name for name in names if name not in self.plan.locked]
        if not free:
            raise InputError(f"{names[0] if len(names) == 1 else pattern} is locked; unlock it to change its rank.")
        ranks = dict(self.plan.ranks)
        for name in free:
            full, old = self.full[name], self.ranks(name)
            if head is not None and not 0 <= head < len(old):
                raise InputError(f"{name} has no head {head}; its heads are 0 to {len(old) - 1}.")
            moved = [min(int(new(r, full)), full) if head in (None, h) else r for h, r in enumerate(old)]
            if moved == [full] * len(moved):
                ranks.pop(name, None)  # what keeps everything is left as it is
            else:
                ranks[name] = moved
        return replace(self.plan, ranks=ranks, method="by hand", budget={})

    def budget(self, name: str, fraction: float, of: str = PARAMETERS.name) -> RankPlan:
        """The plan that removes a fraction of "encoder", "decoder" or "model" by the global rule; locked twins and
        the other side stay as they are. of: what is counted, "parameters" or "multiply-adds"."""
        prices = self._prices(of)
        sides, line, fixed, worth = self._line(name, prices)
        saved = saved_by_embedding(self.plan)
        require_whole(prices, saved > 0)
        chosen = meet(self.spectra, line, name, fraction, bool(self.plan.locked), fixed, saved, prices)
        if fraction == 0 and not fixed:
            chosen = {}  # nothing to remove: the original's own modules, biases included
        others = {k: v for k, v in self.plan.ranks.items() if Twin.parse(k).side not in sides} | fixed
        kept = {k: v for k, v in self.plan.budget.items() if name != "model" and k not in (name, "model")}
        own = {name: fraction}
        return replace(
            self.plan, ranks={**others, **chosen}, method=describe(worth, False, prices, own),
            budget=kept | own if prices is PARAMETERS else kept,
        )  # fmt: skip

    def limit(self, name: str, of: str = PARAMETERS.name) -> float:
        """The largest fraction of a part that can be removed with what is locked."""
        prices = self._prices(of)
        saved = saved_by_embedding(self.plan) if prices is PARAMETERS else 0  # which `budget` refuses elsewhere
        key = (name, of, saved, tuple((n, *self.ranks(n)) for n in self.plan.locked))
        if key not in self._limits:
            _, line, fixed, _ = self._line(name, prices)
            self._limits[key] = limit(self.spectra, line, name, fixed, saved, prices)
        return self._limits[key]

    @staticmethod
    def _prices(of: str) -> Prices:
        if of not in COUNTS:
            raise InputError(f"A budget here can be of {' or '.join(COUNTS)}, not of {of!r}.")
        return COUNTS[of]

    def _line(
        self, name: str, prices: Prices
    ) -> tuple[tuple[str, ...], Queue, dict[str, list[int]], Sensitivity | None]:
        """What a budget works with: the sides, what may go in order, what stays, and what the order is by."""
        if name not in SIDES:
            raise InputError(f"There is no budget for {name!r}; choose encoder, decoder or model.")
        sides, locked = sides_of(name), self.plan.locked
        line, worth = self._queue(sides, locked, prices)
        return sides, line, {n: self.ranks(n) for n in locked if n in self.plan.ranks}, worth

    def _queue(
        self, sides: tuple[str, ...], locked: tuple[str, ...], prices: Prices
    ) -> tuple[Queue, Sensitivity | None]:
        worth, key = self.sensitivity if self.measured(sides) else None, (sides, locked, prices.name)
        if key not in self._queues:
            self._queues[key] = queue(self.spectra, sides, worth, locked, prices=prices)
        return self._queues[key], worth

    def order(self, name: str, of: str = PARAMETERS.name) -> np.ndarray:
        """The order in which a budget for "encoder", "decoder" or "model" takes ranks when nothing is locked: heads,
        numbered through all twins of the spectra."""
        line, _ = self._queue(sides_of(name), (), self._prices(of))
        first = dict(zip(self.spectra.values, np.cumsum([0, *map(len, self.spectra.values.values())]), strict=False))
        return np.array([first[twin] + head for twin, head in line.heads], dtype=int)[line.head]

    def measured(self, sides: Iterable[str] = ("encoder", "decoder")) -> bool:
        """Whether the damage of every twin of these sides was measured."""
        curves = self.sensitivity.curves if self.sensitivity is not None else {}
        return bool(curves) and all(t in curves for t in self.twins if t.side in set(sides))

    def numbers(self, plan: RankPlan | None = None) -> dict[str, Any]:
        """What a plan costs and is likely to do, beside the original; plain JSON types.

        parameters of encoder, decoder and model, bytes in float16, multiply-adds for 30 s of audio and for one token,
        and those of encoder, decoder and model as a budget counts them: [before, after]. energy: share of the twins'
        energy that is kept, the mean over twins. damage: the predicted KL divergence of the decoder's output, nats a
        token (`Sensitivity.total`; None where a cut twin was not measured).
        """
        plan = plan or self.plan
        if self._priced is not None and self._priced[0] is plan:  # several views ask for the same
            return self._priced[1]
        after, before = plan.after, self.before
        kept = {n: self.energy(n, missed(Twin.parse(n), plan.ranks, self.full[n])) for n in plan.ranks}
        share = 1.0 - sum(1.0 - e for e in kept.values()) / len(self.twins)
        pairs = {k: [getattr(before, k), getattr(after, k)] for k in (*SIDES, "audio", "token")}
        work = MULTIPLY_ADDS.parts(Shape.of(self.config), plan.ranks)
        numbers = {
            **pairs,
            MULTIPLY_ADDS.name: {side: [self._work[side], work[side]] for side in SIDES},
            "bytes": [before.bytes("float16"), after.bytes("float16")],
            "energy": share,
            "damage": self._damage(kept),
        }
        self._priced = plan, numbers
        return numbers

    def energy(self, name: str, ranks: list[int]) -> float:
        """The share of one twin's energy these ranks keep."""
        table = self._energy[name]
        return float(table[np.arange(len(ranks)), ranks].sum())

    def damage_at(self, name: str, shares: Iterable[float]) -> list[float]:
        """Measured damage, nats a token, of cutting these shares of one twin's components, the weakest first; empty
        where it was not measured."""
        twin = Twin.parse(name)
        if self.sensitivity is None or twin not in self.sensitivity.curves:
            return []
        energy = np.sort(self.spectra.values[twin].ravel() ** 2)
        tail = np.cumsum(energy)[[round(share * len(energy)) - 1 for share in shares]] / (energy.sum() or 1.0)
        return self.sensitivity.damage(twin, tail).tolist()

    def _damage(self, kept: Mapping[str, float]) -> float | None:
        cut = {Twin.parse(name): 1.0 - e for name, e in kept.items() if e < 1.0 - 1e-12}
        if self.sensitivity is None or any(twin not in self.sensitivity.curves for twin in cut):
            return 0.0 if not cut else None
        return self.sensitivity.total(cut)
