"""What a rank is worth, measured: the effect of cutting one twin on what the decoder says.

Energies of different twins do not compare: a tenth of the energy of one layer's values is worth more words
than half of another's neurons. So every twin is cut alone at a few levels, the rest of the model is run on
calibration speech, and the change of the decoder's output distribution is the damage. What many cuts do at once is
more than the sum of what each does alone, so a few whole plans of either side are measured as well.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np
import platformdirs
import torch

from adaptwin_widgets.anatomy import Twin, twins_of
from adaptwin_widgets.bench import Bench, modules_of
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.expand import expand
from adaptwin_widgets.files import write_atomically
from adaptwin_widgets.jobs import Job, ensure
from adaptwin_widgets.observe import Statistics, calibration_windows, single_windows
from adaptwin_widgets.pieces import Crew, Shared, turn
from adaptwin_widgets.plan import RankPlan, shape_of
from adaptwin_widgets.precision import release
from adaptwin_widgets.removal import queue, remove
from adaptwin_widgets.spectra import Spectra
from adaptwin_widgets.speech import Corpus
from adaptwin_widgets.whisper import Whisper, in_float32
from adaptwin_widgets.windows import Window

LEVELS = (0.2, 0.5, 0.8)  # share of a twin's components cut for a measurement
TOGETHER = (0.15, 0.35, 0.6)  # share of all components of encoder or decoder cut at once, the least dear first
CLIPS = 12  # utterances for that, each alone, as they are transcribed: packed windows suffer half as much
LEAST = 1e-9  # a damage below this is rounding


@dataclass
class Sensitivity:
    """Measured damage of every twin.

    curves: by twin, pairs (share of the twin's energy cut, KL divergence in nats a token from the original's
    output), ascending. fingerprint: of the spectra it belongs to. together: of "encoder" and "decoder", pairs (sum of
    what the curves say, the divergence on single utterances when all is cut at once), ascending.
    """

    curves: dict[Twin, list[tuple[float, float]]] = field(default_factory=dict)
    fingerprint: str = ""
    together: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def damage(self, twin: Twin, tail: np.ndarray) -> np.ndarray:
        """Predicted KL, nats a token, when this share of the twin's energy is cut; tail: any array in [0, 1].

        Straight lines through the measurements in logarithms, proportional below the first; monotone.

        >>> curve = Sensitivity({Twin("encoder", 0, "query_key"): [(0.01, 0.1), (0.1, 1.0)]})
        >>> curve.damage(Twin("encoder", 0, "query_key"), np.array([0.001, 0.01, 0.1, 1.0])).round(3).tolist()
        [0.01, 0.1, 1.0, 10.0]
        """
        return _along(self.line(twin), tail)

    def alone(self, cut: Mapping[Twin, float]) -> dict[str, float]:
        """By side, the sum of what each twin's cut does alone. cut: the share of energy that each loses."""
        sums = dict.fromkeys(("encoder", "decoder"), 0.0)
        for twin, tail in cut.items():
            sums[twin.side] += float(self.damage(twin, np.array(tail)))
        return sums

    def total(self, cut: Mapping[Twin, float]) -> float:
        """Predicted KL, nats a token, of all cuts at once: the sum of what each does alone where nothing was measured
        together. cut: the share of energy that each twin loses.

        >>> curves = {Twin(side, 0, "query_key"): [(0.5, 0.5)] for side in ("encoder", "decoder")}
        >>> known = Sensitivity(curves, together={"encoder": [(0.25, 0.5), (0.5, 2.0)]})
        >>> known.total(dict.fromkeys(curves, 0.5))
        2.5
        """
        lines = self.lines_together
        parts = self.alone(cut).items()
        return float(sum(_along(lines[s], np.array(v)) if v and s in lines else v for s, v in parts))

    def line(self, twin: Twin) -> Line:
        """What was measured for a twin: damage by the share of its energy that is cut."""
        points = self.curves.get(twin)
        if not points:
            raise InputError(f"The sensitivity of {twin} was not measured; measure this model again.")
        return _line(points)

    @property
    def lines_together(self) -> dict[str, Line]:
        """What was measured of either side: damage by the sum of what each cut does alone."""
        return {side: _line(points) for side, points in self.together.items()}

    def save(self, path: str | Path) -> None:
        """Write as JSON, atomically."""
        curves = {str(twin): points for twin, points in self.curves.items()}
        data = {"fingerprint": self.fingerprint, "curves": curves, "together": self.together}
        write_atomically(path, json.dumps(data, indent=1))

    @classmethod
    def load(cls, path: str | Path) -> Sensitivity:
        """Read what `save` wrote; raises InputError when it is damaged."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            curves, together = (
                {k: [(float(a), float(b)) for a, b in v] for k, v in data.get(name, {}).items()}
                for name in ("curves", "together")
            )
            return cls({Twin.parse(k): v for k, v in curves.items()}, str(data["fingerprint"]), together)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: no sensitivity can be read from it ({error}); delete it.") from error


# Logarithms of what was cut and of the damage, ascending, and the slope beyond the last.
Line = tuple[np.ndarray, np.ndarray, float]


def _line(points: Sequence[tuple[float, float]]) -> Line:
    x = np.log(np.maximum([p[0] for p in points], 1e-12))
    y = np.maximum.accumulate(np.log(np.maximum([p[1] for p in points], LEAST)))
    slope = max(1.0, (y[-1] - y[-2]) / (x[-1] - x[-2])) if len(x) > 1 and x[-1] > x[-2] else 1.0
    return x, y, float(slope)


def _along(line: Line, cut: np.ndarray) -> np.ndarray:
    x, y, slope = line
    at = np.log(np.maximum(cut, 1e-12))
    below = np.minimum(at - x[0], 0.0)  # slope one: a small cut does damage in proportion to its energy
    return np.exp(np.interp(at, x, y) + below + slope * np.maximum(at - x[-1], 0.0))


def fingerprint(spectra: Spectra) -> str:
    """A short hash of all spectra: the same model observed on the same speech."""
    digest = hashlib.sha256()
    for twin, values in spectra.values.items():
        digest.update(f"{twin} {[f'{v:.3e}' for v in values[:, ::7].ravel()]}".encode())
    return digest.hexdigest()[:16]


def cached(
    folder: Path, mark: str, levels: Sequence[float] = LEVELS, windows: int = 6, rough: float = 0.0, seed: int = 1
) -> Path:
    """The file that keeps what is measured so of spectra with this `fingerprint`."""
    how = hashlib.sha256(repr((tuple(levels), windows, rough, seed)).encode()).hexdigest()
    return folder / f"sensitivity-{mark}-{how[:8]}.json"


def measure_sensitivity(
    model: Whisper,
    spectra: Spectra,
    stats: Statistics,
    speech: Corpus | Sequence[Corpus],
    *,
    sides: Sequence[str] = ("encoder", "decoder"),
    together: bool = True,
    levels: Sequence[float] = LEVELS,
    windows: int = 6,
    rough: float = 0.0,
    batch_size: int = 3,
    seed: int = 1,
    cache: str | Path | None = "",
    executor: Executor | int | Crew | None = None,
    job: Job | None = None,
) -> Sensitivity:
    """Cut every twin alone at a few levels, then many at once, and measure what the decoder then says.

    The damage is the KL divergence from the original's distribution over the next token, teacher-forced on the
    original's own transcripts, averaged over tokens, in nats. sides: measure the twins of these only. together: measure
    what many cuts do at once as well, which predictions need and the choice of ranks does not. windows: 30 s windows in
    all, shared among the corpora. rough: the share of them, in whole windows of each corpus, that is heard in hard
    noise too (`windows.in_noise`), for what quiet speech needs least may be what noise needs; their transcripts are
    those of the quiet speech, and what many cuts do at once is measured on that. cache: a folder that keeps the result
    (default: the user's cache; None: keep nothing). What is measured already is not measured again. executor: any of
    `concurrent.futures`, a dask cluster's or a number of processes here, to measure on, a layer at a time; its workers
    have to see the cache folder (see the page on clusters).

    >>> import adaptwin_widgets as aw                                                             # doctest: +SKIP
    >>> sensitivity = aw.measure_sensitivity(model, twins, stats, speech)                         # doctest: +SKIP
    >>> plan = aw.RankPlan.for_budget(twins, encoder=0.45, sensitivity=sensitivity)               # doctest: +SKIP
    """
    job, model = ensure(job), in_float32(expand(model))  # small damages drown in half precision
    mark = fingerprint(spectra)
    folder = Path(platformdirs.user_cache_dir("adaptwin_widgets")) if cache == "" else cache
    path = cached(Path(folder), mark, levels, windows, rough, seed) if folder is not None else None
    result = Sensitivity(fingerprint=mark)
    if path is not None and path.is_file():
        result = Sensitivity.load(path)
    missing = [t for t in twins_of(model.config) if t not in result.curves and t.side in sides]
    apart = [side for side in sides if together and side not in result.together]
    if not missing and not apart:
        return result
    corpora = [speech] if isinstance(speech, Corpus) else list(speech)
    how = (tuple(levels), windows, rough, batch_size, seed)
    with _measurer(model, corpora, spectra, stats, how, executor, folder or tempfile.gettempdir()) as measurer:

        def keep() -> None:  # an interrupted measurement goes on where it stopped
            if path is not None:
                result.save(path)

        for twin, curve in measurer.curves(missing, job):
            result.curves[twin] = curve
            keep()
        for side in apart:
            plans, alone = _plans_together(model, spectra, result, side)
            result.together[side] = list(zip(alone, measurer.damages(plans, job), strict=True))
            keep()
    return result


def measure_damage(
    model: Whisper,
    plans: Sequence[RankPlan],
    spectra: Spectra | None,
    stats: Statistics | None,
    speech: Corpus | Sequence[Corpus],
    *,
    seed: int = 1,
    executor: Executor | int | Crew | None = None,
    job: Job | None = None,
) -> list[float]:
    """What whole plans do, nats a token: as `measure_sensitivity`, on a few single utterances. spectra, stats: as
    `compress` takes them.

    >>> import adaptwin_widgets as aw                                                             # doctest: +SKIP
    >>> mild, harsh = (aw.RankPlan.for_budget(twins, encoder=share) for share in (0.2, 0.4))      # doctest: +SKIP
    >>> measure_damage(model, [mild, harsh], twins, stats, speech)                                # doctest: +SKIP
    [0.0101..., 0.0580...]
    """
    job, model = ensure(job), in_float32(expand(model))
    corpora = [speech] if isinstance(speech, Corpus) else list(speech)
    how = (LEVELS, CLIPS, 0.0, 3, seed)
    with _measurer(model, corpora, spectra, stats, how, executor, tempfile.gettempdir()) as measurer:
        return measurer.damages(plans, job)


@contextmanager
def _measurer(
    model: Whisper, corpora: list[Corpus], spectra: Spectra | None, stats: Statistics | None, how: tuple,
    executor: Executor | int | Crew | None, folder: str | Path,
) -> Iterator[_Here | _Elsewhere]:  # fmt: skip
    """Who measures: this process, or the workers of an executor, who share a folder."""
    if executor is None:
        yield _Here(model, corpora, spectra, stats, how)
    else:
        with nullcontext(executor) if isinstance(executor, Crew) else Crew(executor, folder) as crew:
            crew.share(model, corpora, stats, spectra)
            yield _Elsewhere(crew, how)
    release(model.device)


def _plans_together(
    model: Whisper, spectra: Spectra, sensitivity: Sensitivity, side: str
) -> tuple[list[RankPlan], list[float]]:
    """Whole plans of one side, from mild to harsh, and of each the sum of what its cuts do alone."""
    line, plans, alone = queue(spectra, (side,), sensitivity), [], []
    for share in TOGETHER:
        ranks = remove(spectra, line, round(share * len(line.head)))
        plans.append(RankPlan(ranks, shape_of(model.config), model.source))
        cut = {twin: spectra.lost(twin, ranks) for twin in map(Twin.parse, ranks)}
        alone.append(sensitivity.alone({twin: tail for twin, tail in cut.items() if tail > 0})[side])
    return plans, alone


Choice = Callable[[Corpus, int, int], list[Window]]  # of a corpus, how many, and a seed


@dataclass
class _Here:
    """Measures in this process. how: levels, and the speech's windows, their share in noise, batch size and seed."""

    model: Whisper
    corpora: list[Corpus]
    spectra: Spectra | None
    stats: Statistics | None
    how: tuple
    benches: dict[Choice, Bench] = field(default_factory=dict)

    def curves(self, twins: Sequence[Twin], job: Job) -> Iterator[tuple[Twin, list]]:
        if not twins:
            return
        spectra, stats = self.spectra, self.stats
        assert spectra is not None and stats is not None
        levels, windows, rough, *_ = self.how
        bench = self._bench(calibration_windows, windows, rough, job)
        found = ((twin, _curve(bench, spectra, stats, twin, levels)) for twin in twins)
        yield from job.track(found, len(twins), "Measuring sensitivity")

    def damages(self, plans: Sequence[RankPlan], job: Job) -> list[float]:
        bench = self._bench(single_windows, CLIPS, 0.0, job)
        found = (bench.damage_of(plan, self.spectra, self.stats) for plan in plans)
        return list(job.track(found, len(plans), "Measuring many cuts at once"))

    def _bench(self, choose: Choice, count: int, rough: float, job: Job) -> Bench:
        """The bench of what this function chooses of the speech; one at a time, for it holds all the original said."""
        if choose not in self.benches:
            self.benches.clear()
            *_, batch, seed = self.how
            speech = [choose(c, max(1, count // len(self.corpora)), seed) for c in self.corpora]
            self.benches[choose] = Bench(self.model, speech, batch, job, rough=rough, seed=seed)
        return self.benches[choose]


@dataclass
class _Elsewhere:
    """Measures by the pieces of a crew."""

    crew: Crew
    how: tuple

    def curves(self, twins: Sequence[Twin], job: Job) -> Iterator[tuple[Twin, list]]:
        layers = [list(group) for _, group in groupby(twins, key=lambda twin: (twin.side, twin.layer))]
        pieces = [([str(twin) for twin in layer], self.how) for layer in layers]
        found = self.crew.run(measure_twins, pieces, job, "Measuring sensitivity")
        for layer, curves in zip(layers, found, strict=True):
            yield from zip(layer, curves, strict=True)

    def damages(self, plans: Sequence[RankPlan], job: Job) -> list[float]:
        pieces = [(plan.to_dict(), self.how) for plan in plans]
        return list(self.crew.run(measure_plan, pieces, job, "Measuring many cuts at once"))


def measure_twins(folder: str, twins: list[str], how: tuple) -> list[list[tuple[float, float]]]:
    """The curves of some twins: a piece of `measure_sensitivity`, see `pieces`. how: that of `_Here`."""
    with turn(folder) as (shared, job):
        return [curve for _, curve in _here(shared, how).curves([Twin.parse(twin) for twin in twins], job)]


def measure_plan(folder: str, plan: dict, how: tuple) -> float:
    """The damage of a whole plan: another such piece."""
    with turn(folder) as (shared, job):
        return _here(shared, how).damages([RankPlan.from_dict(plan)], job)[0]


def _here(shared: Shared, how: tuple) -> _Here:
    return shared.once(
        f"measurer {how}",
        lambda: _Here(in_float32(shared.model), shared.speech, shared.spectra, shared.stats, how),
    )


@torch.no_grad()
def _curve(
    bench: Bench, spectra: Spectra, stats: Statistics, twin: Twin, levels: Sequence[float]
) -> list[tuple[float, float]]:
    alone = Spectra(spectra.config, spectra.source, {twin: spectra.values[twin]})
    line = queue(alone, (twin.side,))
    points = []
    for level in levels:
        ranks = remove(alone, line, round(level * len(line.head)))
        modules = modules_of(bench.original, spectra, stats, twin, ranks)
        points.append((spectra.lost(twin, ranks), bench.damage(twin, modules)))
    return points
