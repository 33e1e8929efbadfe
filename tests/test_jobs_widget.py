"""The list of running work: what it shows of every kind of task, what it sends and how often, what its buttons do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from adaptwin_widgets.errors import InputError
from adaptwin_widgets.widgets.base import View
from adaptwin_widgets.widgets.jobs import Jobs
from adaptwin_widgets.widgets.pace import Throttle
from adaptwin_widgets.worker import KEPT, Task, Worker


def settle(is_so: Callable[[], Any], seconds: float = 5) -> None:
    """Wait until something is so: what the page is sent comes from other threads."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def press(view: View, do: str, **more: Any) -> None:
    """What the page sends when a button is pressed."""
    view._handle_custom_msg({"do": do, **more}, [])


def messages_to_page(view: View, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """The states sent from now on."""
    sent: list[dict] = []
    monkeypatch.setattr(view.comm, "send", lambda data, **_: sent.append(data["state"]))
    return sent


class Gate:
    """Work that reports as it is told to, and ends when it is let through."""

    def __init__(self) -> None:
        self.open, self.task = threading.Event(), None

    def __call__(self, task: Task) -> None:
        self.task = task
        while not self.open.wait(0.01):
            task.check()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


@pytest.fixture
def worker() -> Worker:
    return Worker()


def test_nothing_is_running(worker: Worker):
    jobs = Jobs(worker)
    assert jobs.state == {"tasks": [], "finished": 0, "said": [0, ""]}
    assert jobs.summary() == "<p>Nothing is running.</p>"


def test_a_task_is_shown_from_waiting_to_its_end(worker: Worker, gate: Gate):
    jobs = Jobs(worker)
    worker.submit("Compress", gate)
    worker.submit("Score", lambda job: None)
    settle(lambda: len(jobs.state["tasks"]) == 2 and jobs.state["tasks"][0]["state"] == "running")
    running, waiting = jobs.state["tasks"]
    assert (running["name"], running["text"], running["share"]) == ("Compress", "running", None)
    assert (waiting["name"], waiting["text"], waiting["time"]) == ("Score", "waiting", "")

    gate.task.update(0, 100, "Encoder layer 2")
    time.sleep(0.15)
    gate.task.update(50, 100, "Encoder layer 2")
    settle(lambda: jobs.state["tasks"][0]["share"] == 0.5)
    assert jobs.state["tasks"][0]["text"] == "Encoder layer 2"
    assert jobs.state["tasks"][0]["time"] == "a few seconds left"

    gate.open.set()
    settle(lambda: jobs.state["finished"] == 2)
    assert [task["state"] for task in jobs.state["tasks"]] == ["done", "done"]
    assert [task["time"] for task in jobs.state["tasks"]] == ["took under 1 s"] * 2


def test_cancel_only_asks_and_the_page_sees_it_at_once(worker: Worker):
    jobs, reached, leave = Jobs(worker), threading.Event(), threading.Event()

    def deaf(job: Task) -> None:  # in the middle of a step that reports nothing
        reached.set()
        leave.wait(10)
        job.check()

    worker.submit("Tune", deaf)
    worker.submit("Score", lambda job: None)
    reached.wait(5)
    began = time.monotonic()
    press(jobs, "cancel", number=1)
    press(jobs, "cancel", number=2)
    assert time.monotonic() - began < 0.05
    settle(lambda: all(task["stopping"] for task in jobs.state["tasks"]), seconds=0.5)
    assert jobs.state["tasks"][0]["state"] == "running"
    assert jobs.state["tasks"][1]["text"] == "cancelled, will not start"
    leave.set()
    settle(lambda: jobs.state["finished"] == 2)
    assert [task["state"] for task in jobs.state["tasks"]] == ["stopped", "stopped"]
    assert not any(task["stopping"] for task in jobs.state["tasks"])
    assert jobs.state["tasks"][1]["time"] == "before it started"
    assert jobs.error == {}


def test_cancel_all(worker: Worker, gate: Gate):
    jobs = Jobs(worker)
    for name in ("a", "b", "c"):
        worker.submit(name, gate)
    press(jobs, "cancel_all")
    settle(lambda: jobs.state["finished"] == 3)
    assert {task["state"] for task in jobs.state["tasks"]} == {"stopped"}


def test_an_error_is_one_sentence_with_its_traceback_apart(worker: Worker):
    def clumsy(job: Task) -> None:
        raise InputError("The plan is of another model; load tiny.en.")

    jobs = Jobs(worker)
    worker.submit("Divide", lambda job: 1 / 0)
    worker.submit("Compress", clumsy)
    settle(lambda: jobs.state["finished"] == 2)
    divide, compress = jobs.state["tasks"]
    assert divide["error"] == "ZeroDivisionError: division by zero"
    assert "Traceback" in divide["details"] and "1 / 0" in divide["details"]
    assert (compress["error"], compress["details"]) == ("The plan is of another model; load tiny.en.", "")
    assert jobs.state["said"][1].endswith("Compress failed.")
    assert not divide["dismissed"]
    press(jobs, "dismiss", number=1)
    settle(lambda: jobs.state["tasks"][0]["dismissed"])
    assert not jobs.state["tasks"][1]["dismissed"]


@pytest.mark.parametrize("busy", ["one long task", "many short tasks"])
def test_a_busy_worker_does_not_flood_the_page_and_its_end_arrives(worker, busy, monkeypatch):
    jobs = Jobs(worker)
    sent = messages_to_page(jobs, monkeypatch)
    worker.observe(lambda change: revisions.append(change["new"]), "revision")
    revisions: list[int] = []
    began = time.monotonic()
    if busy == "one long task":
        worker.submit("Count", lambda job: [time.sleep(0.0005) for _ in job.track(range(1200), text="Counting")])
    else:
        for number in range(400):
            worker.submit(f"Task {number}", lambda job: time.sleep(0.001))
    settle(lambda: not worker.busy, seconds=20)
    settle(lambda: jobs.state["tasks"][-1]["time"].startswith("took"))
    seconds = time.monotonic() - began
    time.sleep(0.25)
    assert 1 < len(sent) <= 10 * seconds + 2
    assert sent[-1]["state"]["finished"] == (1 if busy == "one long task" else 400)
    assert all(task["state"] == "done" for task in sent[-1]["state"]["tasks"])
    if busy == "many short tasks":
        assert len(revisions) > 5 * len(sent), "the worker was not busy enough to prove anything"
        assert len(sent[-1]["state"]["tasks"]) == KEPT, "the list of what is over would grow for ever"


def test_an_idle_worker_is_silent(worker: Worker, monkeypatch: pytest.MonkeyPatch):
    jobs = Jobs(worker)
    sent = messages_to_page(jobs, monkeypatch)
    time.sleep(0.15)
    worker.changed()  # nothing is different
    time.sleep(0.15)
    assert sent == []


def test_a_reader_is_told_of_starts_and_ends_and_not_of_percents(worker: Worker, monkeypatch: pytest.MonkeyPatch):
    jobs = Jobs(worker)
    sent = messages_to_page(jobs, monkeypatch)
    worker.submit("Tune", lambda job: [time.sleep(0.02) for _ in job.track(range(30), text="Tuning")])
    settle(lambda: jobs.state["finished"] == 1)
    shares = {message["state"]["tasks"][0]["share"] for message in sent}
    assert len(shares) > 3
    assert [text for _, text in sorted({tuple(m["state"]["said"]) for m in sent})][-2:] == [
        "Tune has started.",
        "Tune is done.",
    ]
    assert jobs.state["said"][0] == 2


def test_two_views_show_the_same_and_a_closed_one_is_left_alone(worker: Worker):
    first, second = Jobs(worker), Jobs(worker)
    worker.submit("a", lambda job: None).wait(5)
    settle(lambda: first.state["finished"] == second.state["finished"] == 1)
    settle(lambda: first.state == second.state)
    second.close()
    worker.submit("b", lambda job: None).wait(5)
    settle(lambda: first.state["finished"] == 2)
    assert second.state["finished"] == 1
    third = Jobs(worker)
    assert third.state["tasks"] == first.state["tasks"]
    assert third.state["said"] == [0, ""], "what was over before is no news"
    assert "<li>b · done · took under 1 s</li>" in third.summary()


def test_what_is_no_worker_is_refused():
    with pytest.raises(InputError, match="give workbench.worker"):
        Jobs("worker")


def test_a_page_that_asks_for_nonsense_gets_a_sentence(worker: Worker):
    jobs = Jobs(worker)
    press(jobs, "explode")
    assert "cannot do" in jobs.error["sentence"]
    press(jobs, "cancel", number=99)  # over long ago: nothing to do
    assert jobs.error == {}


def test_what_a_view_cannot_show_is_seen_and_the_worker_lives(worker: Worker):
    view = View()
    worker.observe(Throttle(view, lambda: 1 / 0, 0.01), "revision")
    assert worker.submit("a", lambda job: "kept").wait(5) == "kept"
    assert "division by zero" in view.error["sentence"]
    assert worker.submit("b", lambda job: "still").wait(5) == "still"
