"""What people see of a try: how far its tune is while it runs, and how far those got that wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from adaptwin_widgets.attempt import Attempts, Try
from adaptwin_widgets.jobs import Job
from adaptwin_widgets.plan import RankPlan
from adaptwin_widgets.run import TUNING, WRITING, Progress, stored_progress

EVERY = 0.2  # seconds between two states of a running tune
CURVES = (("losses", "loss"), ("held_out", "held_out"), ("wer", "wer"))  # and where they are in a run's history


class Live:
    """The state of a tune under way. tell: called with each as JSON types: name, state, limit, steps, curves."""

    def __init__(self, how: Try, tell: Callable[[dict[str, Any]], None]):
        self.tell = tell
        self.progress: Progress | None = None
        self.shown: dict[str, Any] = {"name": how.name, **_limit(how)}
        self._last = 0.0

    def show(self, state: str) -> None:
        """Tell a new state, with what the tune has reached."""
        found: dict[str, Any] = {"state": state}
        if self.progress is not None:
            found |= {"steps": self.progress.steps, "seconds": self.progress.seconds}
            for key, name in CURVES:
                found[key] = [[h["step"], h[name]] for h in self.progress.history if name in h]
        self.shown = {**self.shown, **found}
        self.tell(self.shown)

    def stepped(self, progress: Progress) -> None:
        """Listen to a tune's steps (`tune.tune`, on_progress)."""
        self.progress = progress
        if time.monotonic() - self._last >= EVERY:
            self._last = time.monotonic()
            self.show("running")

    def scoring(self, job: Job) -> None:
        """Listen to the try's job: the tune's own reports come through `stepped`; a later one of another kind is the
        scoring after it."""
        if self.progress and job.text not in (TUNING, WRITING) and self.shown["state"] == "running":
            self.show("scoring")


def unfinished(attempts: Attempts) -> list[dict[str, Any]]:
    """The tries that can be gone on with: name, share of the encoder removed, limit, steps and seconds so far."""
    found = []
    for how in attempts.unfinished():
        place = attempts.study.point(how.name)
        reduction = RankPlan.load(place / "plan.json").reductions["encoder_reduction"]
        progress = stored_progress(place / "tuning.safetensors")
        found.append({"name": how.name, "encoder_reduction": reduction, **_limit(how), **progress})
    return found


def _limit(how: Try) -> dict[str, Any]:
    return {"limit_seconds": how.minutes * 60} if how.minutes else {"limit_steps": how.steps}
