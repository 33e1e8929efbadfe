"""The one seam for work that takes time: progress out, cancel in.

Every long function of the core takes ``job=None``. It calls ``job.track`` or ``job.update`` and
knows nothing of who listens: a progress bar, a widget, a cluster, or nobody.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")


class Cancelled(Exception):
    """Raised inside the work when somebody asked it to stop."""


@dataclass
class Job:
    """One piece of work that reports where it is and can be asked to stop.

    >>> job = Job("count")
    >>> [n for n in job.track(range(3))]
    [0, 1, 2]
    >>> job.done, job.total
    (3, 3)
    """

    name: str = ""
    done: float = 0
    total: float = 0
    text: str = ""
    listeners: list[Callable[[Job], None]] = field(default_factory=list)
    parent: Job | None = field(default=None, repr=False)  # of which this is a step: it stops when that one does
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)

    def update(self, done: float, total: float | None = None, text: str | None = None) -> None:
        """Report progress to every listener; raises `Cancelled` once `cancel` was called."""
        self.done = done
        if total is not None:
            self.total = total
        if text is not None:
            self.text = text
        for listener in self.listeners:
            listener(self)
        self.check()

    def track(self, items: Iterable[T], total: int | None = None, text: str = "") -> Iterator[T]:
        """Yield `items`, reporting after each one."""
        total = total if total is not None else len(items)  # type: ignore[arg-type]
        self.update(0, total, text)
        for number, item in enumerate(items, 1):
            yield item
            self.update(number, total, text)

    def cancel(self) -> None:
        """Ask the work to stop at its next report. Safe from any thread."""
        self._stop.set()

    @property
    def cancelled(self) -> bool:
        return self._stop.is_set() or (self.parent is not None and self.parent.cancelled)

    def silent(self) -> Job:
        """A job that reports nothing and stops when this one does: for work that is a step of other work."""
        return Job(self.name, parent=self)

    def check(self) -> None:
        """Raise `Cancelled` if somebody asked to stop."""
        if self.cancelled:
            raise Cancelled(self.name or "work")


def ensure(job: Job | None) -> Job:
    """The job given, or a silent one, so that callees need no ``if``."""
    return job if job is not None else Job()


def with_bar(name: str = "", disable: bool = False) -> Job:
    """A job that draws itself as a tqdm bar on standard error."""
    job = Job(name)
    if disable:
        return job
    bars: list[tqdm] = []

    def draw(job: Job) -> None:
        # A new text or a restart of the count is a new stage, hence a new bar.
        if not bars or bars[-1].desc.rstrip(": ") != (job.text or name) or job.done < bars[-1].n:
            if bars:
                bars[-1].close()
            bars.append(tqdm(total=job.total, desc=job.text or name, leave=False))
        bars[-1].total = job.total
        bars[-1].update(job.done - bars[-1].n)
        if job.done >= job.total:
            bars[-1].close()

    job.listeners.append(draw)
    return job


@contextmanager
def interruptible(job: Job) -> Iterator[None]:
    """Within it the first Ctrl-C cancels the job, so that the work ends with what it has; the second ends it at once.

    Work that has nothing yet to end with, and so raises `Cancelled`, is interrupted after all: `KeyboardInterrupt`.
    Where Ctrl-C is ignored it stays so, and so it does outside the main thread, which alone hears it.
    """
    before = signal.getsignal(signal.SIGINT)
    deaf = threading.current_thread() is not threading.main_thread()
    if deaf or before is None or before is signal.SIG_IGN:
        yield
        return

    def stop(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, before)
        os.write(2, b"Stopping with the best so far; Ctrl-C again ends at once.\n")  # print is not safe in a handler
        job.cancel()

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    except Cancelled as error:
        raise KeyboardInterrupt from error
    finally:
        signal.signal(signal.SIGINT, before)
