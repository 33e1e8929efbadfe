"""Which components go first: one global sort over every twin of the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.optimize import isotonic_regression
from transformers import WhisperConfig

from adaptwin_widgets.anatomy import Shape, Twin, heads_of, twins_of
from adaptwin_widgets.cost import cost
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.plan import RankPlan, matches, shape_of
from adaptwin_widgets.prices import PARAMETERS, Prices
from adaptwin_widgets.spectra import Spectra

if TYPE_CHECKING:
    from adaptwin_widgets.sensitivity import Sensitivity
    from adaptwin_widgets.vocabulary import Vocabulary

FLOOR = 1  # every head keeps a rank, every feed-forward pair a neuron
HEAD_STEP, NEURON_STEP = 8, 16  # even plans keep multiples of these: what vector units multiply without a remainder


class Queue(NamedTuple):
    """Components in the order in which they go: head [n] (position in `heads`), parameters (or what else is counted)
    freed so far [n], worth a parameter [n], ascending; stops [n]: whether the queue may be cut behind it. heads:
    (twin, head) of each position."""

    head: np.ndarray
    freed: np.ndarray
    worth: np.ndarray
    stops: np.ndarray
    heads: list[tuple[Twin, int]]


def queue(
    spectra: Spectra,
    sides: Iterable[str],
    sensitivity: Sensitivity | None = None,
    locked: Iterable[str] = (),
    even: bool = False,
    prices: Prices = PARAMETERS,
) -> Queue:
    """Sort every removable component of these sides ("encoder", "decoder") by damage per parameter, or for what else
    `prices` count.

    The components of one twin, all its heads together, go in the order of their energy; the damage done by then
    is its share of the twin's energy, or what `sensitivity` measured for that share. Marginal damages are made
    monotone by their convex hull, so that a threshold always removes a tail and the sort is optimal.
    even: all heads of an attention layer, in both its twins, go down together, in steps of `HEAD_STEP` ranks, and
    neurons in steps of `NEURON_STEP`.
    """
    sides, locked = set(sides), tuple(locked)
    head, price, worth, stops = [], [], [], []
    names: list[tuple[Twin, int]] = []
    groups: dict[tuple, list[Twin]] = {}  # twins whose components go in one order
    for twin in spectra.values:
        if twin.side in sides and not any(matches(str(twin), lock) for lock in locked):
            kind = "attention" if even and twin.kind != "feed_forward" else twin.kind
            groups.setdefault((twin.part, twin.layer, kind), []).append(twin)
    for (_, _, kind), twins in groups.items():
        going = _level_by_level if kind == "attention" else _weakest_first
        own, steps, each = going(spectra, twins, sensitivity, prices)
        block = 1
        if even:  # what goes together shares its damage by price, so that no threshold falls within it
            block = HEAD_STEP * (int(own.max()) + 1) if kind == "attention" else NEURON_STEP
            whole = len(own) // block * block
            own, each, steps = own[:whole], each[:whole], steps[:whole].reshape(-1, block)
            shares = each.reshape(-1, block)
            steps = ((steps.sum(1) / shares.sum(1))[:, None] * shares).ravel()
        head.append(own + len(names))
        worth.append(isotonic_regression(steps / each, weights=each).x)  # the hull: a running pooled mean
        price.append(each)
        stops.append(np.arange(1, len(own) + 1) % block == 0)
        names += [(twin, h) for twin in twins for h in range(len(spectra.values[twin]))]
    if not names:
        return Queue(np.empty(0, int), np.empty(0, int), np.empty(0), np.empty(0, bool), [])
    flat_head, flat_price, flat_worth, flat_stops = map(np.concatenate, (head, price, worth, stops))
    order = np.argsort(flat_worth, kind="stable")
    return Queue(flat_head[order], np.cumsum(flat_price[order]), flat_worth[order], flat_stops[order], names)


def _weakest_first(
    spectra: Spectra, twins: list[Twin], sensitivity: Sensitivity | None, prices: Prices
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One twin's components as they go: the head of each, the damage it adds, its price."""
    (twin,) = twins
    energy = spectra.values[twin][:, FLOOR:] ** 2
    order = np.argsort(energy.ravel(), kind="stable")
    steps = _damage(spectra, twin, sensitivity, energy.ravel()[order])
    return order // energy.shape[1], steps, np.full(len(order), prices.each(Shape.of(spectra.config), twin))


def _level_by_level(
    spectra: Spectra, twins: list[Twin], sensitivity: Sensitivity | None, prices: Prices
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same for one attention layer whose heads all go down together: at each level every head loses its weakest
    component; the level's damage is divided among them."""
    energies = [spectra.values[twin][:, FLOOR:][:, ::-1] ** 2 for twin in twins]
    lost = [_damage(spectra, t, sensitivity, e.sum(0)) for t, e in zip(twins, energies, strict=True)]
    steps = np.sum(lost, axis=0)
    heads = [len(e) for e in energies]
    each = np.repeat([prices.each(Shape.of(spectra.config), twin) for twin in twins], heads)
    levels = len(steps)
    return np.tile(np.arange(len(each)), levels), np.repeat(steps / len(each), len(each)), np.tile(each, levels)


def _damage(spectra: Spectra, twin: Twin, sensitivity: Sensitivity | None, lost: np.ndarray) -> np.ndarray:
    """The damage that each of these energies adds, lost one after the other."""
    tail = np.cumsum(lost) / (float((spectra.values[twin] ** 2).sum()) or 1.0)
    return np.diff(tail if sensitivity is None else sensitivity.damage(twin, tail), prepend=0.0)


def remove(spectra: Spectra, line: Queue, count: int) -> dict[str, list[int]]:
    """The ranks that are left when the first `count` components of the queue are gone."""
    gone = np.bincount(line.head[:count], minlength=len(line.heads))
    ranks: dict[str, list[int]] = {}
    for (twin, _), lost in zip(line.heads, gone.tolist(), strict=True):
        ranks.setdefault(str(twin), []).append(spectra.values[twin].shape[1] - lost)
    return ranks


def allocate(
    spectra: Spectra,
    *,
    encoder: float | None = None,
    decoder: float | None = None,
    model: float | None = None,
    tau: float | None = None,
    sensitivity: Sensitivity | None = None,
    locked: Iterable[str] = (),
    even: bool = False,
    embedding: int | None = None,
    vocabulary: Vocabulary | None = None,
    prices: Prices = PARAMETERS,
) -> RankPlan:
    """Meet a budget; see `RankPlan.for_budget`, which calls this."""
    require_whole(prices, embedding is not None or vocabulary is not None)
    shape, locked = shape_of(spectra.config), tuple(locked)
    bare = RankPlan({}, shape, spectra.source, locked, "embedding only", {}, embedding, vocabulary)
    if bare.after != bare.before and (encoder, decoder, model, tau) == (None,) * 4:
        return bare
    budgets, saved = given_budgets(encoder=encoder, decoder=decoder, model=model, tau=tau), saved_by_embedding(bare)
    ranks: dict[str, list[int]] = {}
    for name, value in budgets.items():
        line = queue(spectra, sides_of(name), sensitivity, locked, even, prices)
        if name == "tau":
            ranks |= remove(spectra, line, int(np.searchsorted(line.worth, value, side="right")))
        else:
            ranks |= meet(spectra, line, name, value, bool(locked), saved=saved, prices=prices)
    method = describe(sensitivity, even, prices, budgets)
    return replace(bare, ranks=ranks, method=method, budget=budgets if prices is PARAMETERS else {})


def saved_by_embedding(plan: RankPlan) -> int:
    """The parameters that the embedding's rank and a cut vocabulary remove."""
    return plan.before.embedding - plan.after.embedding


def meet(
    spectra: Spectra,
    line: Queue,
    name: str,
    fraction: float,
    locked: bool = False,
    fixed: Mapping[str, list[int]] | None = None,
    saved: int = 0,
    prices: Prices = PARAMETERS,
) -> dict[str, list[int]]:
    """The ranks at which a part ("encoder", "decoder", "model") has lost a fraction of all its parameters, or of what
    else `prices` count.

    line: what may go, in order, so that many budgets can share one sort. fixed: the ranks of twins that stay as they
    are whatever happens; what they have lost counts. saved: what the embedding has lost, which counts towards "model";
    where that is enough already, no twin is touched. Raises InputError for a budget that cannot be met.
    """
    whole, free = _start(spectra, line, name, fixed, saved, prices)
    if name == "model" and saved and 0 <= fraction * whole <= saved:
        return {}
    _require_possible(fraction, _most(line, whole, free), name, locked, prices)
    wanted, count = fraction * whole - free, 0
    slack = 0.5 if line.freed.dtype.kind == "i" else 1e-9 * whole  # whole numbers, of which a fraction is none
    if wanted > slack:
        stops = np.flatnonzero(line.stops)
        count = int(stops[np.searchsorted(line.freed[stops], wanted - slack, side="left")]) + 1
    return remove(spectra, line, count)


def limit(
    spectra: Spectra, line: Queue, name: str, fixed: Mapping[str, list[int]] | None = None, saved: int = 0,
    prices: Prices = PARAMETERS,
) -> float:  # fmt: skip
    """The largest fraction of a part that can be removed."""
    return _most(line, *_start(spectra, line, name, fixed, saved, prices))


def _start(
    spectra: Spectra, line: Queue, name: str, fixed: Mapping[str, list[int]] | None, saved: int = 0,
    prices: Prices = PARAMETERS,
) -> tuple[float, float]:  # fmt: skip
    """All parameters of a part, and how many are gone before the queue moves."""
    config = Shape.of(spectra.config)
    whole = prices.total(config, {}, name)
    # An attention that is compressed at all folds its value bias away, whatever its ranks.
    left = prices.total(config, {**(fixed or {}), **remove(spectra, line, 0)}, name)
    return whole, whole - left + (saved if name == "model" else 0)


def _most(line: Queue, whole: float, free: float) -> float:
    return (free + (float(line.freed[-1]) if len(line.freed) else 0)) / whole


def describe(sensitivity: Sensitivity | None, even: bool, prices: Prices, budgets: Mapping[str, float]) -> str:
    """How the ranks were chosen, in words; the budgets as well where they are not of parameters."""
    by = "energy" if sensitivity is None else "measured damage"
    method = f"global sort by {by}" + (", even ranks" if even else "")
    if prices is PARAMETERS:
        return method
    asked = " and ".join(f"{value:.1%} of the {name}'s {prices.name}" for name, value in budgets.items())
    return f"{method}, to remove {asked}"


def require_whole(prices: Prices, smaller: bool) -> None:
    """Raise InputError where the embedding loses something and not parameters are counted."""
    if smaller and prices is not PARAMETERS:
        raise InputError("What the embedding loses counts in parameters alone; leave it whole, or count parameters.")


def uniform(
    spectra: Spectra,
    *,
    encoder: float | None = None,
    decoder: float | None = None,
    model: float | None = None,
) -> RankPlan:
    """The baseline every choice is held against: each twin of the layers keeps the same share of its rank.

    >>> import adaptwin_widgets as aw                                                 # doctest: +SKIP
    >>> uniform(aw.spectra(aw.load("tiny.en")), encoder=0.3).ranks["encoder.0.query_key"]  # doctest: +SKIP
    """
    budgets = given_budgets(encoder=encoder, decoder=decoder, model=model)
    ranks: dict[str, list[int]] = {}
    for name, value in budgets.items():
        line = queue(spectra, sides_of(name), locked=("stem",))  # which no paper cuts
        twins = dict.fromkeys(twin for twin, _ in line.heads)

        def at(share: float, twins: Iterable[Twin] = twins) -> dict[str, list[int]]:
            full = {t: spectra.values[t].shape for t in twins}
            return {str(t): [max(FLOOR, int(share * n))] * heads for t, (heads, n) in full.items()}

        whole = getattr(cost(spectra.config), name)
        fewest = getattr(cost(spectra.config, at(0.0)), name)
        _require_possible(value, 1 - fewest / whole, name)
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            left = getattr(cost(spectra.config, at(middle)), name)
            low, high = (middle, high) if left <= (1 - value) * whole else (low, middle)
        ranks |= at(low)
    return RankPlan(ranks, shape_of(spectra.config), spectra.source, (), "uniform", budgets)


def require_budgets(
    config: WhisperConfig | Shape,
    smaller: bool = False,
    *,
    encoder: float | None = None,
    decoder: float | None = None,
    model: float | None = None,
    tau: float | None = None,
    prices: Prices = PARAMETERS,
    **more: Any,
) -> None:
    """Raise InputError for a budget that no spectra could meet, which the shape alone tells.

    smaller: whether the embedding is to lose something as well; then more of the model can go, and no budget is needed.
    more: what else `allocate` takes; some of it leaves less to remove, as is said when the spectra are there.

    >>> require_budgets(WhisperConfig(), encoder=45)
    Traceback (most recent call last):
    ...
    adaptwin_widgets.errors.InputError: encoder=45 is no fraction to remove; give a number from 0 up to 1, such as 0.45.
    """
    if smaller and (encoder, decoder, model, tau) == (None,) * 4:
        return
    shape = Shape.of(config)
    least = {str(twin): [FLOOR] * heads_of(shape, twin) for twin in twins_of(shape)}
    for name, value in given_budgets(encoder=encoder, decoder=decoder, model=model, tau=tau).items():
        if name != "tau":
            most = 1.0
            if not (smaller and name == "model"):
                whole = prices.total(shape, {}, name)
                most = (whole - prices.total(shape, least, name)) / whole
            _require_possible(value, most, name, prices=prices)


def given_budgets(
    *, encoder: float | None = None, decoder: float | None = None, model: float | None = None,
    tau: float | None = None, **more: Any,
) -> dict[str, float]:  # fmt: skip
    """The budgets among what `allocate` takes; raises InputError for none, too many, and what is no fraction."""
    budgets = {"encoder": encoder, "decoder": decoder, "model": model, "tau": tau}
    given = {name: value for name, value in budgets.items() if value is not None}
    if not given or (len(given) > 1 and set(given) != {"encoder", "decoder"}):
        raise InputError("Give one budget: encoder, decoder, both of these, model, or tau.")
    for name, value in given.items():
        if name != "tau":
            _require_fraction(value, name)
    return given


def _require_fraction(value: float, name: str) -> None:
    if not isinstance(value, int | float) or not 0 <= value < 1:
        raise InputError(f"{name}={value} is no fraction to remove; give a number from 0 up to 1, such as 0.45.")


def sides_of(name: str) -> tuple[str, ...]:
    """The sides of the model a budget is about."""
    return (name,) if name in ("encoder", "decoder") else ("encoder", "decoder")


def _require_possible(
    fraction: float, most: float, name: str, locked: bool = False, prices: Prices = PARAMETERS
) -> None:
    _require_fraction(fraction, name)
    if fraction > most:
        kept = " with what is locked" if locked else ""
        more = ""
        if name == "model" and prices is PARAMETERS:
            more = " or cut the embedding too, by a vocabulary for one language or by its rank"
        raise InputError(
            f"{name}={fraction:g} cannot be met{kept}: at most {np.floor(most * 1000) / 1000:.3f} "
            f"of the {name}'s {prices.name} can go; ask for less{more}."
        )
