"""How long each part of a model takes on this machine, by runtime and number format."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from adaptwin_widgets.cost import sizes
from adaptwin_widgets.engine import Engine
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.export import DTYPES, export
from adaptwin_widgets.features import log_mel
from adaptwin_widgets.jobs import Job, ensure
from adaptwin_widgets.onnx_engine import OnnxEngine
from adaptwin_widgets.precision import resolve_dtype
from adaptwin_widgets.whisper import Whisper

RUNTIMES = ("torch", "ctranslate2", "onnx")
TOKENS = 24  # text tokens written for the time of one
SECONDS = 5.0  # of speech in the window: noise, since what it says does not matter


class Runner(Protocol):
    """A model in one runtime. bytes: of its weights."""

    bytes: int

    def hear(self) -> Any:
        """Encode the windows."""

    def write(self, tokens: int) -> Any:
        """Read the prompt and write so many tokens after the first."""


def speed_table(
    models: Mapping[str, Whisper],
    *,
    runtimes: Sequence[str] = ("torch",),
    dtypes: Sequence[str] | None = None,
    batch_sizes: Sequence[int] = (1,),
    repeats: int = 5,
    job: Job | None = None,
) -> pd.DataFrame:
    """Measure models side by side: a row for every model, runtime, number format and batch size.

    models: by the name in the table; the first is the one ratios compare to. runtimes: torch, ctranslate2, onnx.
    dtypes: number formats; those a runtime has not are left out, None is each runtime's first. Columns: model,
    runtime, dtype, batch; features_ms, encoder_ms (in torch with the decoder's keys and values of the audio, which
    the others make within prompt_ms), prompt_ms (until the first token), token_ms, medians of `repeats` for the whole
    batch; megabytes of the weights; encoder_ratio and token_ratio to the first model. Models take turns within every
    repeat, so that a busy machine is busy for all of them.

    >>> import adaptwin_widgets as aw                                                             # doctest: +SKIP
    >>> aw.speed_table({"original": model, "small": small}, batch_sizes=(1, 8))                   # doctest: +SKIP

    Raises InputError for a runtime that does not exist or is not installed.
    """
    if not models:
        raise InputError("There is no model to time; give at least one, as {'original': model}.")
    if unknown := [r for r in runtimes if r not in RUNTIMES]:
        raise InputError(f"{unknown[0]!r} is no runtime here; choose {', '.join(RUNTIMES)}.")
    wanted = [(r, d, b) for r in runtimes for d in formats(r, dtypes) for b in batch_sizes]
    rows: list[dict[str, Any]] = []
    for runtime, dtype, batch in ensure(job).track(wanted, text="Timing"):
        with tempfile.TemporaryDirectory() as place:
            features, seconds = _features(next(iter(models.values())), batch)
            runners = {
                name: _runner(runtime, whisper, dtype, features, Path(place) / str(i))
                for i, (name, whisper) in enumerate(models.items())
            }
            first: dict[str, float] = {}
            for name, times in _measure(runners, repeats).items():
                first = first or times
                rows.append(
                    {
                        "model": name, "runtime": runtime, "dtype": dtype, "batch": batch,
                        "features_ms": 1e3 * seconds, **{f"{part}_ms": 1e3 * value for part, value in times.items()},
                        "megabytes": runners[name].bytes / 1e6,
                        **{f"{part}_ratio": times[part] / first[part] for part in ("encoder", "token")},
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


def formats(runtime: str, wanted: Sequence[str] | None) -> list[str]:
    """Those of the number formats wanted that a runtime has; its first where none is said."""
    known = ("auto", "float32", "bfloat16", "float16") if runtime == "torch" else DTYPES[runtime]
    return [known[0]] if wanted is None else [dtype for dtype in wanted if dtype in known]


def _features(whisper: Whisper, batch: int) -> tuple[Tensor, float]:
    """Log-mel windows [B, mels, 3000] of noise, and how long they took."""
    noise = np.random.default_rng(0).normal(0, 0.05, int(16000 * SECONDS)).astype(np.float32)
    times = []
    for _ in range(3):
        began = time.perf_counter()
        features = log_mel([noise] * batch, whisper.processor.feature_extractor, whisper.device)
        times.append(time.perf_counter() - began)
    return features, statistics.median(times)


def _measure(runners: Mapping[str, Runner], repeats: int) -> dict[str, dict[str, float]]:
    """Median seconds of encoder, prompt and one token, the runners taking turns."""
    parts: dict[str, Callable[[Runner], Any]] = {
        "encoder": lambda r: r.hear(), "prompt": lambda r: r.write(0), "text": lambda r: r.write(TOKENS),
    }  # fmt: skip
    times: dict[str, dict[str, list[float]]] = {name: {part: [] for part in parts} for name in runners}
    with torch.inference_mode():
        for turn in range(repeats + 1):
            for name, runner in runners.items():
                for part, work in parts.items():
                    began = time.perf_counter()
                    work(runner)
                    if turn:  # the first turn wakes caches and makes kernels
                        times[name][part].append(time.perf_counter() - began)
    found = {}
    for name, by_part in times.items():
        middle = {part: statistics.median(values) for part, values in by_part.items()}
        token = statistics.median(np.subtract(by_part["text"], by_part["prompt"]) / TOKENS)
        found[name] = {"encoder": middle["encoder"], "prompt": middle["prompt"], "token": float(token)}
    return found


def _runner(runtime: str, whisper: Whisper, dtype: str, features: Tensor, folder: Path) -> Runner:
    prompt = whisper.prompt()
    if runtime == "ctranslate2":
        return _CTranslate2(export(whisper, folder, to="ctranslate2", dtype=dtype), dtype, features, prompt, whisper)
    if runtime == "onnx":
        export(whisper, folder, to="onnx", dtype=dtype)
        size = sum(path.stat().st_size for path in folder.glob("*.data"))
        return _Own(OnnxEngine(folder, torch.get_num_threads()), features, prompt, size)
    chosen = resolve_dtype(dtype, whisper.device)
    size = sizes(whisper.config)[1].bytes(str(chosen).removeprefix("torch."))
    return _Own(Engine(whisper.model, chosen), features, prompt, size)


class _Own:
    """Our own engines, torch's and onnxruntime's."""

    def __init__(self, engine: Any, features: Tensor, prompt: list[int], size: int):
        self.engine, self.features, self.prompt, self.bytes = engine, features, prompt, size
        self.memory = engine.memory(len(features), len(prompt) + TOKENS + 1)

    def hear(self) -> None:
        self.engine.listen(self.features, self.memory, 0)

    def write(self, tokens: int) -> None:
        self.memory.length, rows = 0, len(self.features)
        following = self.engine.step([self.prompt] * rows, self.memory, first=True)
        for _ in range(tokens):
            following = self.engine.step(following[:, None].tolist(), self.memory)


class _CTranslate2:
    """CTranslate2 itself, with as many threads as torch."""

    def __init__(self, folder: Path, dtype: str, features: Tensor, prompt: list[int], whisper: Whisper):
        import ctranslate2

        self.bytes = (folder / "model.bin").stat().st_size
        self.model = ctranslate2.models.Whisper(
            str(folder), device="cpu", compute_type=dtype, intra_threads=torch.get_num_threads()
        )
        self.array = features.numpy()  # a view reads it in place, so it has to live as long
        self.view = ctranslate2.StorageView.from_array(self.array)
        self.prompts = [prompt] * len(features)
        self.end = whisper.config.eos_token_id
        self.heard: Any = None

    def hear(self) -> None:
        self.heard = self.model.encode(self.view)

    def write(self, tokens: int) -> list[list[int]]:
        found = self.model.generate(  # which writes half of max_length at most, so as to leave room for a prompt
            self.heard, self.prompts, beam_size=1, max_length=2 * (tokens + 1), suppress_tokens=[-1, self.end]
        )
        return [one.sequences_ids[0] for one in found]
