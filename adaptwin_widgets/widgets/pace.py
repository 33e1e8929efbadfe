"""Time in widgets: how often they send, and how a span of time is said."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from adaptwin_widgets.widgets.base import View


class Throttle:
    """Call it as often as you like: `send` runs at once, then at most every `seconds`, and always after the last call.

    `send` must read the present state itself. It runs on the caller's thread or on a timer's, never on two at once,
    so that an older state cannot overtake a newer one. What it raises is shown in the widget: the caller is often the
    worker, which has to live.

    >>> from adaptwin_widgets.widgets.base import View
    >>> sent = []
    >>> throttle = Throttle(View(), lambda: sent.append(len(sent)), seconds=60)
    >>> for _ in range(1000): throttle()
    >>> sent
    [0]
    """

    def __init__(self, view: View, send: Callable[[], None], seconds: float):
        self.view, self.send, self.seconds = view, send, seconds
        self._lock, self._sending = threading.Lock(), threading.RLock()
        self._next = 0.0
        self._timer: threading.Timer | None = None

    def __call__(self, *_: Any) -> None:
        with self._lock:
            if self._timer is not None:
                return  # what comes later reads the state of then
            wait = self._next - time.monotonic()
            if wait > 0 and self._later(wait):
                return
            self._next = time.monotonic() + self.seconds
        self.now()

    def follow(self, bench: Any, names: list[str], on: bool = True) -> None:
        """Call it with every change of these traits of a workbench, of its work and, not at once, of its plan; or no
        more."""
        for model, what, call in (
            (bench, names, self), (bench.worker, "revision", self), (bench.planner, "revision", self.soon),
        ):  # fmt: skip
            (model.observe if on else model.unobserve)(call, what)

    def soon(self, *_: Any) -> None:
        """The same, but not at once: for what follows a moving hand and must not stand in its way."""
        with self._lock:
            if self._timer is not None or self._later(self.seconds):
                return
        self.now()

    def _later(self, wait: float) -> bool:
        timer = threading.Timer(wait, self._late)
        timer.daemon = True
        try:
            timer.start()
        except RuntimeError:  # no threads here (JupyterLite): now, then
            return False
        self._timer = timer
        return True

    def _late(self) -> None:
        with self._lock:
            self._timer = None
            self._next = time.monotonic() + self.seconds
        self.now()

    def now(self) -> None:
        """Send without waiting."""
        with self._sending:
            try:
                self.send()
            except Exception as error:
                sentence = f"This view cannot be brought up to date: {type(error).__name__}: {error}"
                self.view.error = {"sentence": sentence, "details": traceback.format_exc()}


def spell(seconds: float) -> str:
    """A span of time in words, with no more digits than anybody reads.

    >>> spell(0.2), spell(42.4), spell(123), spell(1500), spell(7300)
    ('under 1 s', '42 s', '2 min 3 s', '25 min', '2 h 2 min')
    """
    if seconds < 1:
        return "under 1 s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    if seconds < 600:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def left(seconds: float | None) -> str:
    """How long something will still take, as roughly as it is known; empty where it is not.

    >>> left(100), left(64), left(33), left(3), left(None)
    ('about 2 min left', 'about 1 min left', 'about 35 s left', 'a few seconds left', '')
    """
    if seconds is None:
        return ""
    if seconds < 5:
        return "a few seconds left"
    if seconds < 57.5:
        return f"about {5 * round(seconds / 5)} s left"
    return f"about {spell(60 * max(1, round(seconds / 60)))} left"
