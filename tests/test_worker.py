"""The background worker: order, cancel, errors that are seen, progress that does not flood."""

import gc
import subprocess
import sys
import threading
import time
import weakref

import pytest

from adaptwin_widgets.errors import InputError
from adaptwin_widgets.jobs import Cancelled
from adaptwin_widgets.worker import KEPT, Task, Worker


def wait_for(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.005)


def test_tasks_run_one_after_the_other_off_the_callers_thread():
    worker, order = Worker(), []
    tasks = [
        worker.submit(str(n), lambda task, n=n: order.append((n, threading.current_thread().name))) for n in range(3)
    ]
    for task in tasks:
        task.wait(5)
    assert [n for n, _ in order] == [0, 1, 2]
    assert {name for _, name in order} == {"adaptwin-worker"}
    assert [t.state for t in tasks] == ["done"] * 3 and not worker.busy


def test_a_running_task_stops_at_its_next_report_and_the_next_one_runs():
    worker, started = Worker(), threading.Event()

    def forever(task):
        for n in range(10**9):
            started.set()
            task.update(n, 10**9, "Working")
            time.sleep(0.001)

    first = worker.submit("first", forever)
    second = worker.submit("second", lambda task: "ran")
    assert started.wait(5) and second.state == "waiting" and worker.running is first
    began = time.monotonic()
    worker.cancel(first.number)
    with pytest.raises(Cancelled):
        first.wait(5)
    assert time.monotonic() - began < 2 and first.state == "stopped"
    assert second.wait(5) == "ran"


def test_a_waiting_task_that_is_cancelled_never_starts():
    worker, go, ran = Worker(), threading.Event(), []
    worker.submit("holds", lambda task: go.wait(5))
    waiting = worker.submit("never", lambda task: ran.append(1))
    worker.cancel(waiting.number)
    go.set()
    wait_for(lambda: waiting.finished)
    assert waiting.state == "stopped" and not ran


def test_errors_are_kept_and_the_worker_lives():
    worker = Worker()

    def bad(task):
        raise ZeroDivisionError("by nought")

    def wrong(task):
        raise InputError("The file is empty; give another.")

    first, second = worker.submit("bad", bad), worker.submit("wrong", wrong)
    wait_for(lambda: second.finished)
    assert first.state == "failed" and first.error == "ZeroDivisionError: by nought" and "Traceback" in first.details
    assert second.error == "The file is empty; give another." and not second.details
    with pytest.raises(RuntimeError, match="by nought"):
        first.wait(1)
    assert worker.submit("good", lambda task: 5).wait(5) == 5


def test_who_sees_that_a_task_failed_sees_why(monkeypatch):
    seen = []

    def watched(task, name, value):
        object.__setattr__(task, name, value)
        if name == "state" and value == "failed":
            seen.append((task.error, task.details[:9]))

    monkeypatch.setattr(Task, "__setattr__", watched)
    worker = Worker()
    for error in (InputError("It is empty."), ValueError("odd")):

        def fail(task, error=error):
            raise error

        with pytest.raises(RuntimeError):
            worker.submit("work", fail).wait(10)
    assert seen == [("It is empty.", ""), ("ValueError: odd", "Traceback")]


def test_an_error_in_what_follows_is_an_error_of_the_task():
    def fails(result):
        raise ValueError(result)

    worker = Worker()
    task = worker.submit("x", lambda task: "result", fails)
    wait_for(lambda: task.finished)
    assert task.state == "failed" and "result" in task.error


def test_progress_does_not_flood_and_the_end_is_told():
    worker, seen = Worker(), []
    worker.observe(lambda change: seen.append(time.monotonic()), "revision")

    def busy(task):
        for n in range(20000):
            task.update(n, 20000)

    began = time.monotonic()
    task = worker.submit("busy", busy)
    task.wait(20)
    wait_for(lambda: not worker.busy)
    assert len(seen) <= 4 + (time.monotonic() - began) / 0.1 + 1
    assert worker.tasks[-1].to_dict()["state"] == "done"


def test_what_is_shown_of_a_task():
    worker, hold = Worker(), threading.Event()

    def half(task):
        task.update(0, 10, "Halfway")
        assert task.remaining is None, "nothing is done yet, so nothing can be said"
        task.update(5, 10, "Halfway")
        hold.wait(5)

    task = worker.submit("half", half)
    wait_for(lambda: task.done == 5)
    shown = task.to_dict()
    assert shown["text"] == "Halfway" and shown["total"] == 10 and shown["remaining"] >= 0 and not shown["stopping"]
    worker.cancel(task.number)
    assert task.to_dict()["stopping"]
    hold.set()
    task._over.wait(5)


def test_old_tasks_leave_the_list():
    worker = Worker()
    for n in range(KEPT + 10):
        worker.submit(str(n), lambda task: None).wait(5)
    wait_for(lambda: not worker.busy)
    assert len(worker.tasks) <= KEPT + 2 and worker.tasks[-1].number == KEPT + 10


def test_the_list_keeps_no_results_alive():
    worker = Worker()
    task = worker.submit("make", lambda job: Worker())  # anything large
    made = weakref.ref(task.wait(10))
    until = time.monotonic() + 5
    while worker.busy and time.monotonic() < until:
        time.sleep(0.01)
    assert made() is task.result and worker.tasks[-1].state == "done"
    del task
    gc.collect()
    assert made() is None and worker.tasks[-1].name == "make"


def test_a_worker_without_work_has_no_thread_and_nothing_keeps_it_alive():
    worker = Worker()
    for n in range(20):  # some while the thread is about to end
        assert worker.submit(str(n), lambda task, n=n: n).wait(5) == n
    wait_for(lambda: not any(t.name == "adaptwin-worker" for t in threading.enumerate()))
    gone = weakref.ref(worker)
    del worker
    gc.collect()
    assert gone() is None


def test_a_quiet_task_leaves_the_list_unless_it_failed():
    worker = Worker()
    worker.submit("quiet", lambda task: None, quiet=True).wait(5)
    failed = worker.submit("quiet too", lambda task: 1 / 0, quiet=True)
    wait_for(lambda: failed.finished and not worker.busy)
    assert [t.name for t in worker.tasks] == ["quiet too"]


def test_time_left_is_of_the_present_stage():
    worker, shown = Worker(), []

    def stages(task):
        task.update(0, 2, "Slow")
        time.sleep(0.3)
        task.update(1, 2)
        shown.append(task.remaining)
        task.update(0, 100, "Quick")
        time.sleep(0.01)
        task.update(50, 100)
        shown.append(task.remaining)

    worker.submit("stages", stages).wait(5)
    assert shown[0] > 0.2 and shown[1] < 0.2


LEAVING = """
import pathlib, sys, time
from adaptwin_widgets.jobs import Cancelled
from adaptwin_widgets.worker import Worker

def tune(job):
    try:
        for n in range(10_000):
            time.sleep(0.01)
            job.update(n, 10_000)
    except Cancelled:
        pathlib.Path(sys.argv[1]).write_text("saved")
        raise

worker = Worker()
task = worker.submit("tune", tune)
later = worker.submit("later", lambda job: pathlib.Path(sys.argv[1]).write_text("begun"))
while not task.done:
    time.sleep(0.01)
"""


def test_work_under_way_saves_itself_when_python_ends(tmp_path):
    kept = tmp_path / "kept"
    ended = subprocess.run([sys.executable, "-c", LEAVING, str(kept)], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0 and not ended.stderr, ended.stderr
    assert kept.read_text() == "saved"


def test_a_new_stage_is_told_at_once():
    """Its first report follows the last one of the stage before within microseconds."""
    worker, go, told = Worker(), threading.Event(), []
    worker.observe(lambda _: worker.running and told.append((worker.running.text, worker.running.done)), "revision")

    def work(task):
        for n in range(1001):
            task.update(n, 1000, "Observing")
        task.update(0, 5, "Scoring")
        go.wait(5)

    task = worker.submit("two stages", work)
    wait_for(lambda: told and told[-1] == ("Scoring", 0))
    assert len(told) < 20
    go.set()
    task.wait(5)


def test_it_counts_what_is_over_beyond_what_it_lists():
    worker = Worker()
    for n in range(KEPT + 11):
        worker.submit(str(n), lambda task: None).wait(5)
    worker.submit("quiet", lambda task: None, quiet=True).wait(5)
    assert worker.finished == KEPT + 11 and len(worker.tasks) <= KEPT + 1
