"""Long work in pieces, on any `concurrent.futures.Executor`: processes, threads, a dask cluster.

What the pieces share (model, statistics, spectra, speech) is written once to a folder that every worker can read, and
is read once a process. The folder also says that somebody waits: once it is gone, pieces that still run stop at their
next report. A piece is a plain function of that folder and of plain arguments, so that losing a worker loses no more.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from adaptwin_widgets.errors import InputError
from adaptwin_widgets.files import write_atomically
from adaptwin_widgets.jobs import Job
from adaptwin_widgets.observe import Statistics
from adaptwin_widgets.precision import adopt, choices
from adaptwin_widgets.spectra import Spectra
from adaptwin_widgets.speech import Corpus
from adaptwin_widgets.stored import read_spectra, read_statistics, write_spectra, write_statistics
from adaptwin_widgets.whisper import Whisper, load

PREFIX = ".pieces-"  # of the folder's name
LOSSES = 3  # so many processes of our own may die before it is no accident; dask.distributed's number
POLL = 0.2  # seconds between two looks for results and for a cancelled job
LOOK = 1.0  # seconds between two looks of a piece whether anybody waits for it
STOP = 60.0  # seconds that are waited for pieces to stop

_TURN = threading.Lock()


class Crew:
    """Who does the pieces, and the folder through which they get what they share.

    executor: any; or a number of processes on this machine, replaced when one dies. folder: where the shared folder
    is made; every worker has to see it under this name. threads: of torch, in every piece; by default as many as here,
    divided among processes of our own.

    >>> with Crew(2, study.folder, threads=1) as crew:                                      # doctest: +SKIP
    ...     crew.share(model, speech, stats, spectra)
    ...     results = list(crew.run(make_point, pieces, job, "Points"))

    Raises InputError for a number of processes below one, and for a process pool that forks.
    """

    def __init__(self, executor: Executor | int, folder: str | Path, threads: int | None = None):
        self.processes = executor if isinstance(executor, int) else 0
        if self.processes < 1 and isinstance(executor, int):
            raise InputError(f"{executor} processes do no work; give 1 or more.")
        context = getattr(executor, "_mp_context", None)
        if context is not None and context.get_start_method() == "fork":
            raise InputError(
                "A process pool that forks can hang once torch has used threads; give a number of processes, or make "
                "it with mp_context=multiprocessing.get_context('spawn')."
            )
        self.threads = threads or max(1, torch.get_num_threads() // max(1, self.processes))
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=Path(folder).resolve()))
        self.executor = _processes(self.processes) if isinstance(executor, int) else executor
        self.losses = self.manifests = 0
        self._futures: list[Future | None] = []

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)  # the sign for what still runs
        wait([future for future in self._futures if future and not future.cancel()], STOP)
        if self.processes:
            self.executor.shutdown()
        _shared.cache_clear()

    def share(
        self, model: Whisper, speech: Sequence[Corpus], stats: Statistics | None, spectra: Spectra | None, **more: Any
    ) -> None:
        """Write, once, what every piece reads. more: JSON values, kept as `Shared.more`."""
        head = self.folder / "task.json"
        if head.is_file():
            return
        model.save_pretrained(self.folder / "model")
        if stats is not None:
            write_statistics(stats, self.folder / "stats.safetensors")
        if spectra is not None:
            write_spectra(spectra, self.folder / "spectra.safetensors")
        task = {
            "source": model.source,
            "dtype": str(model.model.dtype).removeprefix("torch."),
            "device": model.device.type,
            "choices": choices(model.device),
            "threads": self.threads,
            "speech": [self.manifest(corpus) for corpus in speech],
            "more": more,
        }
        write_atomically(head, json.dumps(task))

    def manifest(self, corpus: Corpus) -> list[str]:
        """A corpus as [file name, name], for `corpus_of`."""
        self.manifests += 1
        name = f"speech-{self.manifests}.jsonl"
        corpus.to_manifest(self.folder / name)
        return [name, corpus.name]

    def run(self, work: Callable, pieces: Sequence[tuple], job: Job, text: str) -> Iterator[Any]:
        """``work(folder, *piece)`` for every piece; results in the order of the pieces, each as soon as it can be.

        Raises what a piece raised; InputError when workers die again and again or the cluster is gone; `Cancelled`
        when the job was cancelled.
        """
        futures: list[Future | None] = [None] * len(pieces)
        self._futures, done = futures, 0
        job.update(0, len(pieces), text)
        while done < len(pieces):
            try:
                for i in range(done, len(pieces)):
                    futures[i] = futures[i] or self.executor.submit(work, str(self.folder), *pieces[i])
                wait([future for future in futures[done : done + 1] if future], POLL)
                job.update(done + sum(map(_sound, futures)), len(pieces), text)
                if not (future := futures[done]) or not future.done():
                    continue
                result = future.result()
                futures[done] = future = None  # or dask computes it again when the worker that holds it dies
                done += 1
            except (BrokenExecutor, CancelledError) as error:
                self._replace(error)
                futures[:] = [future if _sound(future) else None for future in futures]
                continue
            except Exception as error:
                if type(error).__module__.startswith("distributed"):
                    raise _lost(error) from error
                raise
            yield result

    def _replace(self, error: BaseException) -> None:
        """New processes for those that died, if they are ours and it was not too often."""
        self.losses += 1
        if not self.processes or self.losses > LOSSES:
            raise _lost(error) from error
        self.executor.shutdown(wait=False)
        self.executor = _processes(self.processes)


def _processes(number: int) -> Executor:
    # Forked processes inherit the locks of torch's threads, but not the threads.
    return ProcessPoolExecutor(number, mp_context=get_context("spawn"))


def _sound(future: Future | None) -> bool:
    return future is not None and future.done() and not future.cancelled() and future.exception() is None


def _lost(error: BaseException) -> InputError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return InputError(
        f"The workers were lost ({reason}); what is done is kept: give them more memory, or fewer threads and pieces "
        "at a time, and make the same call again."
    )


@dataclass(frozen=True)
class Shared:
    """What every piece of one call shares. made: what pieces made of it for those after them in this process."""

    model: Whisper
    speech: list[Corpus]
    stats: Statistics | None
    spectra: Spectra | None
    threads: int
    choices: dict[str, Any]
    more: dict[str, Any]
    made: dict[str, Any] = field(default_factory=dict)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` returns, made by the first piece that asks."""
        if name not in self.made:
            self.made[name] = make()
        return self.made[name]


@lru_cache(maxsize=1)
def _shared(folder: str) -> Shared:
    place = Path(folder)
    task = json.loads((place / "task.json").read_text(encoding="utf-8"))
    model = load(place / "model", device=task["device"], dtype=getattr(torch, task["dtype"]))
    model.source = task["source"]
    for parameter in model.model.parameters():  # what is memory-mapped dies with its file
        parameter.data = parameter.data.clone()
    stats, spectra = place / "stats.safetensors", place / "spectra.safetensors"
    return Shared(
        model,
        [corpus_of(folder, entry) for entry in task["speech"]],
        read_statistics(stats, task["device"]) if stats.is_file() else None,
        read_spectra(spectra) if spectra.is_file() else None,
        task["threads"],
        task["choices"],
        task["more"],
    )


def corpus_of(folder: str, entry: Sequence[str]) -> Corpus:
    """The corpus that `Crew.manifest` wrote."""
    return Corpus.from_manifest(Path(folder) / entry[0], entry[1])


class _Piece(Job):
    """A job that ends when nobody waits for it any more."""

    def __init__(self, folder: str):
        super().__init__("piece")
        self.head, self.looked = Path(folder) / "task.json", 0.0

    def check(self) -> None:
        if time.monotonic() - self.looked > LOOK:
            self.looked = time.monotonic()
            if not self.head.is_file():
                self.cancel()
        super().check()


@contextmanager
def turn(folder: str) -> Iterator[tuple[Shared, Job]]:
    """A piece's turn: what it shares with the others and its job; threads and number formats are the caller's.

    One at a time in a process, for torch's threads and random numbers are the process's.

    Raises InputError when this machine does not see the folder.
    """
    with _TURN:
        if not (head := Path(folder) / "task.json").is_file():
            raise InputError(f"A worker sees no {head}; keep the study in a folder that all machines share.")
        shared = _shared(folder)
        adopt(shared.choices)
        with with_threads(shared.threads):
            yield shared, _Piece(folder)


@contextmanager
def with_threads(threads: int | None) -> Iterator[None]:
    """So many threads of torch; as many as there are for None. Raises InputError for less than one."""
    if threads is not None and threads < 1:
        raise InputError(f"{threads} threads do no work; give 1 or more.")
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def executor_of(workers: int | None, scheduler: str | None) -> Executor | int | None:
    """What the command line's options mean: processes here, a dask cluster, or neither.

    >>> executor_of(2, None)
    2

    Raises InputError for both, without dask.distributed, and when the scheduler does not answer.
    """
    if scheduler is None:
        return workers
    if workers is not None:
        raise InputError("Give processes of this machine (--workers) or a cluster (--scheduler), one of the two.")
    try:
        from distributed import Client
    except ImportError as error:
        raise InputError("dask is not installed here; run: pip install 'adaptwin-widgets[cluster]'.") from error
    try:
        return Client(scheduler, timeout=20).get_executor(pure=False)
    except (OSError, ValueError) as error:
        raise InputError(f"No dask scheduler answers at {scheduler}; give the address it printed.") from error
