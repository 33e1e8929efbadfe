"""Meet a budget: how much of the sorted components goes, and which whole heads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import WhisperConfig

from adaptwin_widgets.anatomy import Shape, Twin, heads_of, twins_of
from adaptwin_widgets.cost import cost
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.plan import RankPlan, matches, shape_of
from adaptwin_widgets.prices import PARAMETERS, Prices
from adaptwin_widgets.removal import FLOOR, Queue, queue, remove
from adaptwin_widgets.spectra import Spectra

if TYPE_CHECKING:
    from adaptwin_widgets.sensitivity import Sensitivity
    from adaptwin_widgets.vocabulary import Vocabulary


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
    fewer_heads: int = 0,
    embedding: int | None = None,
    vocabulary: Vocabulary | None = None,
    prices: Prices = PARAMETERS,
) -> RankPlan:
    """Meet a budget; see `RankPlan.for_budget`, which calls this."""
    require_whole(prices, embedding is not None or vocabulary is not None)
    if fewer_heads and not even:
        raise InputError("Heads go as a whole from even plans alone; give even=True as well, or no fewer_heads.")
    if fewer_heads and encoder is None and model is None:
        raise InputError(
            "The heads of fewer_heads are the encoder's; give an encoder or model budget too, or none of them."
        )
    shape, locked = shape_of(spectra.config), tuple(locked)
    bare = RankPlan({}, shape, spectra.source, locked, "embedding only", {}, embedding, vocabulary)
    if bare.after != bare.before and (encoder, decoder, model, tau) == (None,) * 4:
        return bare
    budgets, saved = given_budgets(encoder=encoder, decoder=decoder, model=model, tau=tau), saved_by_embedding(bare)
    ranks: dict[str, list[int]] = {}
    for name, value in budgets.items():
        without = weakest_heads(spectra, fewer_heads, locked) if name in ("encoder", "model") else {}
        line = queue(spectra, sides_of(name), sensitivity, locked, even, prices, without)
        if name == "tau":
            ranks |= remove(spectra, line, int(np.searchsorted(line.worth, value, side="right")))
            continue
        found = meet(spectra, line, name, value, bool(locked), saved=saved, prices=prices)
        whole, free = _start(spectra, line, name, None, saved, prices)
        if without and free > value * whole:
            raise InputError(
                f"fewer_heads={fewer_heads} alone takes {free / whole:.1%} of the {name}'s {prices.name}, more than "
                f"{value:.1%}; take fewer heads, or remove more."
            )
        ranks |= found
    method = describe(sensitivity, even, prices, budgets)
    return replace(bare, ranks=ranks, method=method, budget=budgets if prices is PARAMETERS else {})


def weakest_heads(spectra: Spectra, count: int, locked: Iterable[str] = ()) -> dict[int, list[int]]:
    """So many heads of every layer of the encoder, those with the weakest values. As many everywhere, for there are
    runtimes that know one number of heads.

    Raises InputError where no head would be left, and where an attention of the encoder is locked.
    """
    twins = [twin for twin in spectra.values if twin.part == "encoder" and twin.kind == "value_output"]
    most = min((len(spectra.values[twin]) for twin in twins), default=1) - 1
    if not isinstance(count, int) or not 0 <= count <= most:
        raise InputError(f"fewer_heads={count!r} cannot be; give a whole number from 0 to {most}.")
    held = [f"encoder.{t.layer}.{kind}" for t in twins for kind in ("query_key", "value_output")]
    if fast := [name for name in held if count and any(matches(name, lock) for lock in locked)]:
        raise InputError(f"{fast[0]} is locked, and heads go from every layer alike; unlock it, or take no heads away.")
    energies = {twin.layer: (spectra.values[twin] ** 2).sum(1) for twin in twins}
    return {layer: np.argsort(energy)[:count].tolist() for layer, energy in energies.items()} if count else {}


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
