"""One background worker, and the list of what it does: the place where everything slow runs.

Nothing here knows a notebook. A view observes `Worker.revision` and reads `Worker.tasks`.
"""

from __future__ import annotations

import atexit
import copy
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from traitlets import HasTraits, Int

from adaptwin_widgets.errors import InputError
from adaptwin_widgets.jobs import Cancelled, Job

REPORTS = 0.1  # seconds between two reports to views; a step that takes a millisecond must not flood them
KEPT = 30  # finished tasks that stay listed
FAREWELL = 4.0  # seconds that work under way gets to save itself when Python ends; Jupyter kills after five
STATES = ("waiting", "running", "done", "stopped", "failed")


@dataclass(eq=False)
class Task(Job):
    """A job in the list. state: one of `STATES`; result: what the work returned; error: one sentence;
    details: the traceback, where the error is no `InputError`; seconds: how long it ran; quiet: once it is over,
    nobody has to see it listed, unless it failed."""

    state: str = "waiting"
    result: Any = None
    error: str = ""
    details: str = ""
    seconds: float = 0.0
    number: int = 0
    quiet: bool = False
    _began: float = field(default=0.0, repr=False)
    _stage: tuple[str, float, float] = field(default=("", 0.0, 0.0), repr=False)  # text, time and done at its start
    _over: threading.Event = field(default_factory=threading.Event, repr=False)

    @property
    def finished(self) -> bool:
        return self.state in ("done", "stopped", "failed")

    @property
    def remaining(self) -> float | None:
        """Seconds left of the present stage at its pace so far; None while that cannot be said."""
        _, began, done = self._stage
        if self.state != "running" or not done < self.done < self.total:
            return None
        return (time.monotonic() - began) * (self.total - self.done) / (self.done - done)

    def update(self, done: float, total: float | None = None, text: str | None = None) -> None:
        """As `Job.update`; a new text, or a count that falls, begins a new stage."""
        if (text is not None and text != self._stage[0]) or done < self.done or not self._stage[1]:
            self._stage = (text if text is not None else self.text, time.monotonic(), done)
        super().update(done, total, text)

    def wait(self, timeout: float | None = None) -> Any:
        """Block until it is over and return the result; raises TimeoutError, Cancelled, or RuntimeError.

        >>> Worker().submit("sum", lambda job: 1 + 1).wait(10)
        2
        """
        if not self._over.wait(timeout):
            raise TimeoutError(f"{self.name} is not over after {timeout:g} s.")
        if self.state == "failed":
            raise RuntimeError(self.error)
        if self.state == "stopped":
            raise Cancelled(self.name)
        return self.result

    def to_dict(self) -> dict[str, Any]:
        """What a view shows of it, as JSON types."""
        return {
            "number": self.number, "name": self.name, "state": self.state, "text": self.text, "done": self.done,
            "total": self.total, "error": self.error, "details": self.details, "seconds": self.seconds,
            "remaining": self.remaining, "stopping": self.cancelled and not self.finished,
        }  # fmt: skip


class Worker(HasTraits):
    """Runs one task after the other on a thread of its own, which lives while there is work.

    revision: counts up with every change of any task, at most ten times a second while one reports progress.

    >>> worker = Worker()
    >>> task = worker.submit("count", lambda job: [n for n in job.track(range(3), text="Counting")])
    >>> task.wait(10), task.state
    ([0, 1, 2], 'done')
    """

    revision = Int(0)

    def __init__(self) -> None:
        super().__init__()
        self.tasks: list[Task] = []
        self._waiting: deque[tuple[Task, Callable[[Task], Any], Callable[[Any], None] | None]] = deque()
        self._lock = threading.RLock()
        self._serving = False  # whether a thread is at it
        self._reported = 0.0
        self._stage: tuple[str, float, float] | None = None  # of the running task, as it was told last
        self._number = 0
        self.finished = 0  # tasks that are over and were to be listed, of which the last ones are
        _workers.add(self)

    @property
    def running(self) -> Task | None:
        """The task that runs now."""
        return next((task for task in self.tasks if task.state == "running"), None)

    @property
    def busy(self) -> bool:
        """Whether anything runs or waits."""
        return any(not task.finished for task in self.tasks)

    def submit(
        self, name: str, work: Callable[[Task], Any], then: Callable[[Any], None] | None = None, quiet: bool = False
    ) -> Task:
        """Queue ``work(task)``; `then` takes its result, on the worker's thread, before the task counts as done."""
        with self._lock:
            self._number += 1
            task = Task(name, number=self._number, quiet=quiet, listeners=[self._report])
            over = [t for t in self.tasks if t.finished]
            self.tasks = [t for t in self.tasks if t not in over[: max(0, len(over) - KEPT)]] + [task]
            self._waiting.append((task, work, then))
            begin = not self._serving
            self._serving = True
        if begin:
            try:
                threading.Thread(target=self._serve, name="adaptwin-worker", daemon=True).start()
            except RuntimeError:  # no threads here (JupyterLite): run it in the caller's
                self._serve()
        self.changed()
        return task

    def cancel(self, number: int) -> None:
        """Ask a task to stop; one that still waits never starts."""
        for task in self.tasks:
            if task.number == number and not task.finished:
                task.cancel()
        self.changed()

    def cancel_all(self) -> None:
        """Ask everything to stop."""
        for task in self.tasks:
            self.cancel(task.number)

    def changed(self) -> None:
        """Tell whoever observes `revision` that something is different."""
        with self._lock:
            self.revision += 1

    def _report(self, job: Job) -> None:
        stage = job._stage if isinstance(job, Task) else None
        if stage is not self._stage or time.monotonic() - self._reported >= REPORTS:  # a new stage is told at once
            self._reported, self._stage = time.monotonic(), stage
            self.changed()

    def _serve(self) -> None:
        """Until nothing waits: a thread that waited for ever would keep all that observes it, models too, in memory."""
        while True:
            with self._lock:
                if not self._waiting:
                    self._serving = False
                    return
                task, work, then = self._waiting.popleft()
            self._run(task, work, then)

    def _run(self, task: Task, work: Callable[[Task], Any], then: Callable[[Any], None] | None) -> None:
        task._began = time.monotonic()
        try:
            task.check()
            task.state = "running"
            self.changed()
            task.result = work(task)
            if then is not None:
                then(task.result)
            task.state = "done"
        except Cancelled:
            task.state = "stopped"
        except InputError as error:
            task.error, task.state = str(error), "failed"  # in this order: who sees that it failed sees why
        except Exception as error:  # whatever it is, a person has to see it and the worker has to live
            task.error, task.details = f"{type(error).__name__}: {error}", traceback.format_exc()
            task.state = "failed"
        task.seconds = time.monotonic() - task._began
        listed = copy.copy(task)
        listed.result = None  # a model, perhaps: it lives as long as somebody holds it, not as long as this list
        gone = task.quiet and task.state != "failed"
        with self._lock:
            self.finished += not gone
            self.tasks = [listed if t is task else t for t in self.tasks if not (gone and t is task)]
        task._over.set()
        self.changed()


_workers: weakref.WeakSet[Worker] = weakref.WeakSet()


@atexit.register
def _farewell() -> None:
    """Cancel what runs when Python ends: a tune writes its checkpoint, and no thread is cut off in native code."""
    end = time.monotonic() + FAREWELL
    for worker in list(_workers):
        worker.cancel_all()
    for worker in list(_workers):
        if (task := worker.running) is not None:
            task._over.wait(max(0.0, end - time.monotonic()))
