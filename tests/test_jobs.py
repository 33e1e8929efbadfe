"""Jobs: what Ctrl-C does to work that can end early with what it has."""

import signal
import threading

import pytest

from adaptwin_widgets.jobs import Cancelled, Job, interruptible


def interrupt():
    signal.raise_signal(signal.SIGINT)


@pytest.fixture(autouse=True)
def usual():
    """Ctrl-C as Python has it, whatever started the tests; a test that leaves another handler is told."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


def test_the_first_cancels_and_the_second_interrupts(capfd):
    job = Job()
    with interruptible(job):
        interrupt()
        assert job.cancelled and "Ctrl-C again" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            interrupt()
    with pytest.raises(KeyboardInterrupt):
        interrupt()


def test_work_with_nothing_to_end_with_is_interrupted():
    job = Job()
    with pytest.raises(KeyboardInterrupt), interruptible(job):
        interrupt()
        job.check()


def test_where_it_is_ignored_or_not_heard_it_stays_so():
    seen = []

    def elsewhere():
        with interruptible(Job()):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
    job = Job()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interruptible(job):
        interrupt()
    assert not job.cancelled and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_step_of_other_work_stops_with_it_and_not_the_other_way_round():
    whole = Job("whole")
    part = whole.silent()
    part.cancel()
    assert part.cancelled and not whole.cancelled
    whole.cancel()
    assert whole.silent().cancelled
    with pytest.raises(Cancelled):
        Job("part", parent=whole).update(1)
