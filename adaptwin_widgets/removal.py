"""In which order components go: one sort over every twin of the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.optimize import isotonic_regression

from adaptwin_widgets.anatomy import Shape, Twin
from adaptwin_widgets.plan import matches
from adaptwin_widgets.prices import PARAMETERS, Prices
from adaptwin_widgets.spectra import Spectra

if TYPE_CHECKING:
    from adaptwin_widgets.sensitivity import Sensitivity

FLOOR = 1  # but for what goes as a whole, every head keeps a rank, every feed-forward pair a neuron
HEAD_STEP, NEURON_STEP = 8, 16  # even plans keep multiples of these: what vector units multiply without a remainder


class Queue(NamedTuple):
    """Components in the order in which they go: head [n] (position in `heads`), parameters (or what else is counted)
    freed so far [n], worth a parameter [n], ascending; stops [n]: whether the queue may be cut behind it. heads:
    (twin, head) of each position; gone: how many of its components are gone before the first goes."""

    head: np.ndarray
    freed: np.ndarray
    worth: np.ndarray
    stops: np.ndarray
    heads: list[tuple[Twin, int]]
    gone: np.ndarray


def queue(
    spectra: Spectra,
    sides: Iterable[str],
    sensitivity: Sensitivity | None = None,
    locked: Iterable[str] = (),
    even: bool = False,
    prices: Prices = PARAMETERS,
    without: Mapping[int, Sequence[int]] = MappingProxyType({}),
) -> Queue:
    """Sort every removable component of these sides ("encoder", "decoder") by damage per parameter, or for what else
    `prices` count.

    The components of one twin, all its heads together, go in the order of their energy; the damage done by then
    is its share of the twin's energy, or what `sensitivity` measured for that share. Marginal damages are made
    monotone by their convex hull, so that a threshold always removes a tail and the sort is optimal.
    even: all heads of an attention layer, in both its twins, go down together, in steps of `HEAD_STEP` ranks, and
    neurons in steps of `NEURON_STEP`. without: heads of the encoder's layers that are gone from the beginning, where
    all go down together.
    """
    sides, locked = set(sides), tuple(locked)
    head, price, worth, stops = [], [], [], []
    names: list[tuple[Twin, int]] = []
    gone: list[int] = []
    groups: dict[tuple, list[Twin]] = {}  # twins whose components go in one order
    for twin in spectra.values:
        if twin.side in sides and not any(matches(str(twin), lock) for lock in locked):
            kind = "attention" if even and twin.kind != "feed_forward" else twin.kind
            groups.setdefault((twin.part, twin.layer, kind), []).append(twin)
    for (part, layer, kind), twins in groups.items():
        off: Sequence[int] = ()
        if kind == "attention":
            off = without.get(layer, ()) if part == "encoder" else ()
            own, steps, each = _level_by_level(spectra, twins, sensitivity, prices, off)
        else:
            own, steps, each = _weakest_first(spectra, twins, sensitivity, prices)
        block = 1
        if even:  # what goes together shares its damage by price, so that no threshold falls within it
            block = HEAD_STEP * len(np.unique(own)) if kind == "attention" else NEURON_STEP
            whole = len(own) // block * block
            own, each, steps = own[:whole], each[:whole], steps[:whole].reshape(-1, block)
            shares = each.reshape(-1, block)
            steps = ((steps.sum(1) / shares.sum(1))[:, None] * shares).ravel()
        head.append(own + len(names))
        worth.append(isotonic_regression(steps / each, weights=each).x)  # the hull: a running pooled mean
        price.append(each)
        stops.append(np.arange(1, len(own) + 1) % block == 0)
        for twin in twins:
            heads, full = spectra.values[twin].shape
            names += [(twin, h) for h in range(heads)]
            gone += [full if h in off else 0 for h in range(heads)]
    if not names:
        return Queue(np.empty(0, int), np.empty(0, int), np.empty(0), np.empty(0, bool), [], np.empty(0, int))
    flat_head, flat_price, flat_worth, flat_stops = map(np.concatenate, (head, price, worth, stops))
    order = np.argsort(flat_worth, kind="stable")
    freed, begin = np.cumsum(flat_price[order]), np.array(gone)
    return Queue(flat_head[order], freed, flat_worth[order], flat_stops[order], names, begin)


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
    spectra: Spectra, twins: list[Twin], sensitivity: Sensitivity | None, prices: Prices, without: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same for one attention layer whose heads all go down together, but for those that are gone: at each level
    every head loses its weakest component; the level's damage is divided among them."""
    heads, steps = len(spectra.values[twins[0]]), np.zeros(1)
    left = [head for head in range(heads) if head not in without]
    for twin in twins:
        energies = spectra.values[twin] ** 2
        before = 0.0 if twin.kind == "query_key" else float(energies[list(without)].sum())  # see `spectra.missed`
        steps = steps + _damage(spectra, twin, sensitivity, energies[left, FLOOR:][:, ::-1].sum(0), before)
    own = np.concatenate([np.array(left) + heads * i for i in range(len(twins))])
    each = np.repeat([prices.each(Shape.of(spectra.config), twin) for twin in twins], len(left))
    return np.tile(own, len(steps)), np.repeat(steps / len(own), len(own)), np.tile(each, len(steps))


def _damage(
    spectra: Spectra, twin: Twin, sensitivity: Sensitivity | None, lost: np.ndarray, before: float = 0.0
) -> np.ndarray:
    """The damage that each of these energies adds, lost one after the other; before: what is lost already."""
    tail = np.cumsum([before, *lost]) / (float((spectra.values[twin] ** 2).sum()) or 1.0)
    return np.diff(tail if sensitivity is None else sensitivity.damage(twin, tail))


def remove(spectra: Spectra, line: Queue, count: int) -> dict[str, list[int]]:
    """The ranks that are left when the first `count` components of the queue are gone."""
    gone = line.gone + np.bincount(line.head[:count], minlength=len(line.heads))
    ranks: dict[str, list[int]] = {}
    for (twin, _), lost in zip(line.heads, gone.tolist(), strict=True):
        ranks.setdefault(str(twin), []).append(spectra.values[twin].shape[1] - lost)
    return ranks
