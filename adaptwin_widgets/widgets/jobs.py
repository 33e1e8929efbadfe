"""Running work in one visible place: progress, time left, cancel, errors."""

from __future__ import annotations

import html
from typing import Any

import traitlets

from adaptwin_widgets.errors import InputError
from adaptwin_widgets.widgets.base import View, source
from adaptwin_widgets.widgets.pace import Throttle, left, spell
from adaptwin_widgets.worker import KEPT, Task, Worker

PER_SECOND = 10  # messages to the page at most
ENDS = {"done": "is done", "stopped": "was stopped", "failed": "failed"}


class Jobs(View):
    """What a worker does, did and will do, with a Cancel button each.

    state: ``{"tasks": [...], "finished": how many in all, "said": [number, text]}``; a task is what `shown` says of
    it, and `said` is what a screen reader is told: starts, ends and errors, not every percent.

    >>> from adaptwin_widgets.worker import Worker
    >>> jobs = Jobs(Worker())
    >>> jobs.state["tasks"]
    []

    Raises InputError for what is no Worker.
    """

    _esm = source("dom.js") + source("parts.js") + source("jobs.js")
    state = traitlets.Dict().tag(sync=True)

    def __init__(self, worker: Worker):
        if not isinstance(worker, Worker):
            raise InputError(f"Jobs shows a Worker, not a {type(worker).__name__}; give workbench.worker.")
        super().__init__()
        self.worker = worker
        self._known = {task.number: task.state for task in worker.tasks}
        self._said: list[Any] = [0, ""]
        self._dismissed: set[int] = set()
        self._show = Throttle(self, self._refresh, 1 / PER_SECOND)
        worker.observe(self._show, "revision")
        self._show.now()

    def do_cancel(self, number: int) -> None:
        """Ask one task to stop; returns at once."""
        self.worker.cancel(number)

    def do_cancel_all(self) -> None:
        """Ask every task to stop; returns at once."""
        self.worker.cancel_all()

    def do_dismiss(self, number: int) -> None:
        """Fold an error away."""
        self._dismissed.add(number)
        self._show()

    def close(self) -> None:
        if hasattr(self, "worker"):
            self.worker.unobserve(self._show, "revision")
            del self.worker
        super().close()

    def _refresh(self) -> None:
        if not hasattr(self, "worker"):  # closed while a timer ran
            return
        tasks = list(self.worker.tasks)
        if news := self._news(tasks):
            self._said = [self._said[0] + 1, news]
        over = [task.number for task in tasks if task.finished]
        listed = [task for task in tasks if task.number not in over[:-KEPT]]
        self.state = {
            "tasks": [{**shown(task), "dismissed": task.number in self._dismissed} for task in listed],
            "finished": self.worker.finished,
            "said": self._said,
        }

    def _news(self, tasks: list[Task]) -> str:
        """What began or ended since the last time."""
        said = []
        for task in tasks:
            before, self._known[task.number] = self._known.get(task.number, "waiting"), task.state
            if task.state == "running" and before == "waiting":
                said.append(f"{task.name} has started.")
            elif task.state in ENDS and before not in ENDS:
                said.append(f"{task.name} {ENDS[task.state]}.")
        return " ".join(said)

    def summary(self) -> str:
        """The list as it stands, for a page without a kernel."""
        tasks = self.state.get("tasks", [])
        if not tasks:
            return "<p>Nothing is running.</p>"
        lines = (" · ".join(filter(None, (t["name"], t["text"], t["time"], t["error"]))) for t in tasks)
        return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"


def shown(task: Task) -> dict[str, Any]:
    """What the page shows of a task. share: 0 to 1, None while unknown; time: left or taken, in words."""
    known = task.to_dict()
    state, seconds = known["state"], known["seconds"]
    share = min(known["done"] / known["total"], 1.0) if state == "running" and known["total"] > 0 else None
    text = {"waiting": "waiting", "running": known["text"] or "running"}.get(state, state)
    if known["stopping"] and state == "waiting":
        text = "cancelled, will not start"
    time = left(known["remaining"]) if not task.finished else f"took {spell(seconds)}"
    if state == "stopped":
        time = f"after {spell(seconds)}" if seconds >= 0.05 else "before it started"
    return {
        "number": known["number"], "name": known["name"], "state": state, "text": text,
        "share": None if share is None else round(share, 3), "time": time, "stopping": known["stopping"],
        "error": known["error"], "details": known["details"],
    }  # fmt: skip
