"""Every layer tuned alone, here or on many machines: a layer is a piece, for none waits for another."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from adaptwin_widgets.anatomy import layer_of
from adaptwin_widgets.distill import Lessons
from adaptwin_widgets.files import write_atomically
from adaptwin_widgets.jobs import Job, ensure
from adaptwin_widgets.pieces import Crew, turn, with_threads
from adaptwin_widgets.run import Run, compressed_layers
from adaptwin_widgets.settings import Settings, settings_for
from adaptwin_widgets.speech import Corpus
from adaptwin_widgets.tune import check_tune, prepare
from adaptwin_widgets.whisper import Whisper, load

Tuned = tuple[dict[str, Tensor], dict[str, Any]]  # a layer's parameters, and how it went


def tune_layers(
    small: Whisper,
    *,
    teacher: Whisper,
    speech: Corpus | Sequence[Corpus],
    steps: int,
    settings: Settings | None = None,
    lessons: Lessons | None = None,
    executor: Executor | int | None = None,
    threads: int | None = None,
    folder: str | Path | None = None,
    job: Job | None = None,
) -> Whisper:
    """Tune every compressed layer alone, each towards the original's layer on that layer's own input.

    The layers know nothing of each other, so they can be tuned on as many machines at once as there are; `tune` then
    brings them together. steps: of each layer. settings, lessons: as in `tune`. executor: any of `concurrent.futures`,
    a dask cluster's or a number of processes here; folder: where its workers get what they share, seen by all under
    this name (default: this machine's temporary folder). threads: of torch; with the same number the result is the
    same whatever the executor. The result's ``notes["layerwise"]`` tells each layer's loss before and after, the
    distance to the original's output in units of its variance.

    >>> import adaptwin_widgets as aw                                                             # doctest: +SKIP
    >>> small = aw.tune_layers(small, teacher=model, speech=[mine], steps=100, executor=4)        # doctest: +SKIP
    >>> small = aw.tune(small, teacher=model, speech=[mine], minutes=5)                           # doctest: +SKIP

    Raises InputError for what `tune` refuses, and when the workers are lost.
    """
    began = time.monotonic()
    settings, job = settings or settings_for(small), ensure(job)
    corpora = [speech] if isinstance(speech, Corpus) else list(speech)
    check_tune(small, teacher, None, steps, corpora)
    layers = compressed_layers(small.config)
    network = copy.deepcopy(small.model).float()
    notes: dict[str, Any] = {"steps": steps, "settings": asdict(settings), "layers": {}}
    with with_threads(threads):
        lessons = lessons or prepare(teacher, corpora, settings, job)
        if executor is None:
            found: Iterator[Tuned] = (_tuned(small, lessons, settings, steps, layer, job) for layer in layers)
        else:
            found = _tuned_by(executor, folder, threads, (small, teacher, corpora, lessons, settings, steps), job)
        for (side, number), (parameters, row) in zip(layers, found, strict=True):
            layer_of(network, side, number).load_state_dict(parameters)
            notes["layers"][f"{side}.{number}"] = row
    notes["seconds"] = time.monotonic() - began
    notes = {**small.notes, "layerwise": notes}
    notes.pop("scores", None)  # they were another state's
    return Whisper(network.eval(), small.processor, f"{small.name}, layers tuned", notes)


def _tuned(small: Whisper, lessons: Lessons, settings: Settings, steps: int, layer: tuple[str, int], job: Job) -> Tuned:
    run = Run(small, lessons, settings, None, job, alone=layer)
    run.go(time.monotonic(), None, steps, None)
    job.check()  # a run that is cancelled ends early, and this would be half of it
    summary = run.summary()
    row = {name: summary[name] for name in ("held_out_before", "held_out_best")}
    return dict(layer_of(run.best_model(), *layer).state_dict()), row


def _tuned_by(
    executor: Executor | int, folder: str | Path | None, threads: int | None, task: tuple, job: Job
) -> Iterator[Tuned]:
    """The layers of a model, one a piece."""
    small, teacher, corpora, lessons, settings, steps = task
    with Crew(executor, folder or tempfile.gettempdir(), threads) as crew:
        small.save_pretrained(crew.folder / "small")
        for step in job.track(range(steps), text="Transcribing"):  # once, not by every worker
            lessons.write(step, job.silent())
        crew.share(teacher, corpora, None, None, settings=asdict(settings), steps=steps, written=lessons.written)
        for row in crew.run(tune_layer, compressed_layers(small.config), job, "Tuning layers"):
            yield safetensors.torch.load_file(crew.folder / row.pop("file")), row


def tune_layer(folder: str, side: str, number: int) -> dict[str, Any]:
    """One layer: a piece of `tune_layers`, see `pieces`. Its parameters go to a file, which the answer names."""
    with turn(folder) as (shared, job):
        more = shared.more
        settings = Settings(**{**more["settings"], "weights": tuple(more["settings"]["weights"])})
        small = shared.once("small", lambda: load(Path(folder) / "small", device=shared.model.device))
        lessons = shared.once(
            "lessons", lambda: prepare(shared.model, shared.speech, settings, job, written=more["written"])
        )
        parameters, row = _tuned(small, lessons, settings, more["steps"], (side, number), job)
        file = f"{side}-{number}.safetensors"
        parameters = {name: value.contiguous().cpu() for name, value in parameters.items()}
        write_atomically(Path(folder) / file, safetensors.torch.save(parameters))
        return {**row, "file": file}
