"""What a rank is worth, measured: the effect of cutting one twin on what the decoder says.

Energies of different twins do not compare: a tenth of the energy of one layer's values is worth more words
than half of another's neurons. So every twin is cut alone at a few levels, the rest of the model is run on
calibration speech, and the change of the decoder's output distribution is the damage.
"""

from __future__ import annotations

import copy
import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np
import platformdirs
import torch
from torch import Tensor, nn

from adaptwin_widgets.allocate import queue, remove
from adaptwin_widgets.anatomy import (
    Twin,
    attention_name,
    attention_of,
    encoder_input,
    layer_of,
    pair_of,
    twins_of,
)
from adaptwin_widgets.compress import attention_weights_for, feed_forward_weights
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.expand import expand
from adaptwin_widgets.features import log_mel
from adaptwin_widgets.files import write_atomically
from adaptwin_widgets.jobs import Job, ensure
from adaptwin_widgets.model import TwinAttention
from adaptwin_widgets.observe import Statistics, calibration_windows, teacher_tokens
from adaptwin_widgets.pieces import Crew, turn
from adaptwin_widgets.precision import release
from adaptwin_widgets.spectra import Spectra
from adaptwin_widgets.speech import Corpus
from adaptwin_widgets.transcribe import transcribe
from adaptwin_widgets.whisper import Whisper, in_float32

LEVELS = (0.2, 0.5, 0.8)  # share of a twin's components cut for a measurement
LEAST = 1e-9  # a damage below this is rounding


@dataclass
class Sensitivity:
    """Measured damage of every twin.

    curves: by twin, pairs (share of the twin's energy cut, KL divergence in nats a token from the original's
    output), ascending. fingerprint: of the spectra it belongs to.
    """

    curves: dict[Twin, list[tuple[float, float]]] = field(default_factory=dict)
    fingerprint: str = ""

    def damage(self, twin: Twin, tail: np.ndarray) -> np.ndarray:
        """Predicted KL, nats a token, when this share of the twin's energy is cut; tail: any array in [0, 1].

        Straight lines through the measurements in logarithms, proportional below the first; monotone.

        >>> curve = Sensitivity({Twin("encoder", 0, "query_key"): [(0.01, 0.1), (0.1, 1.0)]})
        >>> curve.damage(Twin("encoder", 0, "query_key"), np.array([0.001, 0.01, 0.1, 1.0])).round(3).tolist()
        [0.01, 0.1, 1.0, 10.0]
        """
        x, y, slope = self.line(twin)
        at = np.log(np.maximum(tail, 1e-12))
        inside = np.interp(at, x, y)
        below = np.minimum(at - x[0], 0.0)  # slope one: a small cut does damage in proportion to its energy
        return np.exp(inside + below + slope * np.maximum(at - x[-1], 0.0))

    def line(self, twin: Twin) -> tuple[np.ndarray, np.ndarray, float]:
        """(logarithms of the shares cut, of the damage, slope beyond the last) of what was measured for a twin."""
        points = self.curves.get(twin)
        if not points:
            raise InputError(f"The sensitivity of {twin} was not measured; measure this model again.")
        x = np.log(np.maximum([p[0] for p in points], 1e-12))
        y = np.maximum.accumulate(np.log(np.maximum([p[1] for p in points], LEAST)))
        slope = max(1.0, (y[-1] - y[-2]) / (x[-1] - x[-2])) if len(x) > 1 and x[-1] > x[-2] else 1.0
        return x, y, float(slope)

    def save(self, path: str | Path) -> None:
        """Write as JSON, atomically."""
        curves = {str(twin): points for twin, points in self.curves.items()}
        write_atomically(path, json.dumps({"fingerprint": self.fingerprint, "curves": curves}, indent=1))

    @classmethod
    def load(cls, path: str | Path) -> Sensitivity:
        """Read what `save` wrote; raises InputError when it is damaged."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            curves = {Twin.parse(k): [(float(a), float(b)) for a, b in v] for k, v in data["curves"].items()}
            return cls(curves, str(data["fingerprint"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: no sensitivity can be read from it ({error}); delete it.") from error


def fingerprint(spectra: Spectra) -> str:
    """A short hash of all spectra: the same model observed on the same speech."""
    digest = hashlib.sha256()
    for twin, values in spectra.values.items():
        digest.update(f"{twin} {[f'{v:.3e}' for v in values[:, ::7].ravel()]}".encode())
    return digest.hexdigest()[:16]


def cached(folder: Path, mark: str, levels: Sequence[float] = LEVELS, windows: int = 6, seed: int = 1) -> Path:
    """The file that keeps what is measured so of spectra with this `fingerprint`."""
    how = hashlib.sha256(repr((tuple(levels), windows, seed)).encode()).hexdigest()
    return folder / f"sensitivity-{mark}-{how[:8]}.json"


def measure_sensitivity(
    model: Whisper,
    spectra: Spectra,
    stats: Statistics,
    speech: Corpus | Sequence[Corpus],
    *,
    sides: Sequence[str] = ("encoder", "decoder"),
    levels: Sequence[float] = LEVELS,
    windows: int = 6,
    batch_size: int = 3,
    seed: int = 1,
    cache: str | Path | None = "",
    executor: Executor | int | Crew | None = None,
    job: Job | None = None,
) -> Sensitivity:
    """Cut every twin alone at a few levels and measure what the decoder then says.

    The damage is the KL divergence from the original's distribution over the next token, teacher-forced on the
    original's own transcripts, averaged over tokens, in nats. sides: measure the twins of these only. windows:
    30 s windows in all, shared among the corpora. cache: a folder that keeps the result (default: the user's cache;
    None: keep nothing). What is measured already is not measured again. executor: any of `concurrent.futures`, a
    dask cluster's or a number of processes here, to measure on, a layer at a time; its workers have to see the cache
    folder (see the page on clusters).

    >>> import adaptwin_widgets as aw                                                             # doctest: +SKIP
    >>> sensitivity = aw.measure_sensitivity(model, twins, stats, speech)                         # doctest: +SKIP
    >>> plan = aw.RankPlan.for_budget(twins, encoder=0.45, sensitivity=sensitivity)               # doctest: +SKIP
    """
    job, model = ensure(job), in_float32(expand(model))  # small damages drown in half precision
    mark = fingerprint(spectra)
    folder = Path(platformdirs.user_cache_dir("adaptwin_widgets")) if cache == "" else cache
    path = cached(Path(folder), mark, levels, windows, seed) if folder is not None else None
    result = Sensitivity(fingerprint=mark)
    if path is not None and path.is_file():
        result = Sensitivity.load(path)
    missing = [t for t in twins_of(model.config) if t not in result.curves and t.side in sides]
    if not missing:
        return result
    corpora = [speech] if isinstance(speech, Corpus) else list(speech)
    with ExitStack() as stack:
        if executor is None:
            bench = _Bench(model, corpora, windows, batch_size, seed, job)
            alone = ((twin, _curve(bench, spectra, stats, twin, levels)) for twin in missing)
            found = job.track(alone, len(missing), "Measuring sensitivity")
        else:
            if not isinstance(executor, Crew):
                executor = stack.enter_context(Crew(executor, folder or tempfile.gettempdir()))
            executor.share(model, corpora, stats, spectra)
            found = _measured_by(executor, missing, (tuple(levels), windows, batch_size, seed), job)
        for twin, curve in found:
            result.curves[twin] = curve
            if path is not None:
                result.save(path)  # an interrupted measurement goes on where it stopped
    release(model.device)
    return result


def _measured_by(crew: Crew, twins: Sequence[Twin], how: tuple, job: Job) -> Iterator[tuple[Twin, list]]:
    """The curves of twins, a layer a piece."""
    layers = [list(group) for _, group in groupby(twins, key=lambda twin: (twin.side, twin.layer))]
    pieces = [([str(twin) for twin in layer], how) for layer in layers]
    for layer, curves in zip(layers, crew.run(measure_twins, pieces, job, "Measuring sensitivity"), strict=True):
        yield from zip(layer, curves, strict=True)


def measure_twins(folder: str, twins: list[str], how: tuple) -> list[list[tuple[float, float]]]:
    """The curves of some twins: a piece of `measure_sensitivity`, see `pieces`. how: levels and `_Bench`'s numbers."""
    with turn(folder) as (shared, job):
        assert shared.stats is not None and shared.spectra is not None
        levels, windows, batch, seed = how
        bench = shared.once(
            f"bench {how}", lambda: _Bench(in_float32(shared.model), shared.speech, windows, batch, seed, job)
        )
        curves = []
        for twin in twins:
            job.check()
            curves.append(_curve(bench, shared.spectra, shared.stats, Twin.parse(twin), levels))
        return curves


@torch.no_grad()
def _curve(
    bench: _Bench, spectra: Spectra, stats: Statistics, twin: Twin, levels: Sequence[float]
) -> list[tuple[float, float]]:
    alone = Spectra(spectra.config, spectra.source, {twin: spectra.values[twin]})
    line = queue(alone, (twin.side,))
    points = []
    for level in levels:
        ranks = remove(alone, line, round(level * len(line.head)))
        energy = sum(float((v[r:] ** 2).sum()) for v, r in zip(spectra.values[twin], ranks[str(twin)], strict=True))
        tail = energy / float((spectra.values[twin] ** 2).sum())
        points.append((tail, bench.damage(twin, _modules(bench.original, spectra, stats, twin, ranks))))
    return points


def _modules(
    original: nn.Module, spectra: Spectra, stats: Statistics, twin: Twin, ranks: dict[str, list[int]]
) -> dict[str, nn.Module]:
    """The compressed modules of one twin by name: an attention, or the two of a feed-forward pair."""
    as_there = {"device": original.device, "dtype": original.dtype}
    if twin.kind == "feed_forward":
        new = feed_forward_weights(original, twin, ranks[str(twin)][0], spectra.order[twin], stats)
        pair = copy.deepcopy(pair_of(original, twin))
        for name, module in pair.items():
            for what in ("weight", "bias"):
                setattr(module, what, nn.Parameter(new[f"{name}.{what}"].to(**as_there)))
        return pair
    dense = attention_of(original, twin.part, twin.layer)
    full = [dense.head_dim] * dense.num_heads
    qk, vo = (ranks.get(str(twin._replace(kind=k)), full) for k in ("query_key", "value_output"))
    with torch.device("meta"):
        module = TwinAttention(dense, qk, vo)
    new = attention_weights_for(original, twin, ranks, stats)
    module.load_state_dict({name: value.to(**as_there) for name, value in new.items()}, assign=True)
    return {attention_name(twin.part): module.eval()}


class _Bench:
    """Calibration speech run up to every layer once, so that a cut costs only the layers after it."""

    def __init__(self, model: Whisper, corpora: list[Corpus], windows: int, batch: int, seed: int, job: Job):
        share, rows = max(1, windows // len(corpora)), []
        for corpus in corpora:  # each may be in a language of its own
            sounds = calibration_windows(corpus, share, seed)
            texts = transcribe(model, sounds, job=job)
            prompt = model.prompt(texts[0].language)
            rows += [(sound, text.tokens, prompt) for sound, text in zip(sounds, texts, strict=True)]
        rows.sort(key=lambda row: len(row[1]))
        self.original = model.model
        self.network = copy.deepcopy(model.model).eval()  # modules are swapped in here, never in the user's model
        self.tokens, self.encoded, self.reference = [], [], []
        self.layer, self.inputs, self.features = -1, [], []
        with torch.no_grad():
            for start in range(0, len(rows), batch):
                heard, spoken, prompts = zip(*rows[start : start + batch], strict=True)
                features = log_mel([s.samples() for s in heard], model.processor.feature_extractor, model.device)
                ids, weights = teacher_tokens(spoken, prompts, model)
                self.features.append(features.to(self.network.dtype))
                self.inputs.append(encoder_input(self.network, self.features[-1]))
                self.tokens.append((ids, weights))
            for hidden in self.inputs:
                self.encoded.append(self._encode(hidden, 0))
            for encoded, (ids, _) in zip(self.encoded, self.tokens, strict=True):
                self.reference.append(self._log_probabilities(encoded, ids))
        self.layer, self.first = 0, self.inputs  # `inputs` hold what this encoder layer reads

    def _encode(self, hidden: Tensor, start: int) -> Tensor:
        encoder = self.network.model.encoder
        for layer in encoder.layers[start:]:
            hidden = layer(hidden, None)
        return encoder.layer_norm(hidden)

    def _log_probabilities(self, encoded: Tensor, ids: Tensor) -> Tensor:
        decoder = self.network.model.decoder
        hidden = decoder(input_ids=ids, encoder_hidden_states=encoded, use_cache=False).last_hidden_state
        return self.network.proj_out(hidden).float().log_softmax(-1)

    def _advance(self, layer: int) -> None:
        """Move the stored inputs to an encoder layer."""
        if layer < self.layer:
            self.layer, self.inputs = 0, self.first
        while self.layer < layer:
            block = self.network.model.encoder.layers[self.layer]
            self.inputs = [block(hidden, None) for hidden in self.inputs]
            self.layer += 1

    def _encoded(self, i: int, twin: Twin) -> Tensor:
        """What the encoder says of a batch when this twin is another one."""
        if twin.part == "stem":
            return self._encode(encoder_input(self.network, self.features[i]), 0)
        return self._encode(self.inputs[i], twin.layer) if twin.part == "encoder" else self.encoded[i]

    def damage(self, twin: Twin, modules: dict[str, nn.Module]) -> float:
        """KL divergence, nats a token, with one twin's modules in place of the original's."""
        place = layer_of(self.network, twin.part, twin.layer)
        if twin.part == "encoder":
            self._advance(twin.layer)
        saved = {name: getattr(place, name) for name in modules}
        try:
            for name, module in modules.items():
                setattr(place, name, module)
            total = count = 0.0
            for i, (ids, weights) in enumerate(self.tokens):
                ours = self._log_probabilities(self._encoded(i, twin), ids)
                divergence = (self.reference[i].exp() * (self.reference[i] - ours)).sum(-1)
                total += float((divergence * weights).sum())
                count += float(weights.sum())
            return total / count
        finally:
            for name, module in saved.items():
                setattr(place, name, module)
