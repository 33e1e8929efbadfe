"""Choose how the next try is tuned, start it, watch it, and pause, resume or stop it."""

from __future__ import annotations

import html
from typing import Any

import traitlets

from adaptwin_widgets.choices import Choices
from adaptwin_widgets.curves import milestones, thin
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.run import WRITING
from adaptwin_widgets.widgets.base import View, source
from adaptwin_widgets.widgets.pace import Throttle, left, spell
from adaptwin_widgets.worker import Task

PER_SECOND = 5  # messages to the page at most
HEADLINES = {
    "preparing": "preparing", "running": "tuning", "paused": "paused", "stopped": "stopped early", "scoring": "scoring",
    "done": "done", "failed": "failed",
}  # fmt: skip
CURVES = {"losses": "Loss", "held_out": "Held-out loss", "wer": "Held-out WER, %"}
METHODS = {
    "ours": "Your plan as it is, with the ranks you see.",
    "even": "As small as your plan, all heads of a layer alike: fastest in CTranslate2 and onnxruntime.",
    "uniform": "For comparison: as small as your plan, but every twin loses the same share.",
}


class Tuner(View):
    """Controls and curves of a workbench's tune.

    form: the choices and what is wrong with them; live: how far the tune is (see `live_of`). Both are made from the
    workbench alone, so that every view of it shows the same. choices: see `Choices`.

    >>> tuner = Tuner(workbench, minutes=3)                     # doctest: +SKIP
    >>> tuner.start()                                           # doctest: +SKIP
    >>> tuner.stop()       # within one step; keeps the best state so far and scores it     # doctest: +SKIP

    Raises InputError for choices that do not exist; `start` and the others for what cannot be done now.
    """

    _esm = source("dom.js") + source("parts.js") + source("tuner.js")
    form = traitlets.Dict().tag(sync=True)
    live = traitlets.Dict().tag(sync=True)

    def __init__(self, workbench: Any, **choices: Any):
        super().__init__()
        self.workbench = workbench
        self.choices: Choices = workbench.choices
        self.choices.put(**choices)
        if choices and self.choices.problem:
            raise InputError(self.choices.problem)
        self._asked = ""
        self._show = Throttle(self, self._refresh, 1 / PER_SECOND)
        self._observing(True)
        self._fill()
        self._show.now()

    # -- what the buttons do ----------------------------------------------------------------------------------

    def start(self, tune: bool = True) -> Task:
        """Compress the plan, tune it as chosen (or not at all), score it, and add it to the study; while other work
        runs, it waits its turn."""
        if reason := obstacle(self.workbench):
            raise InputError(reason)
        task = self.workbench.attempt(**self.choices.arguments(tune))
        self.choices.note = ""  # it was that try's
        return task

    def pause(self, name: str = "") -> None:
        """Stop within one step and keep the checkpoint. name: of the try that is meant, if it still runs."""
        self._ask("pause", name)

    def stop(self, name: str = "") -> None:
        """Stop within one step; the best state so far is kept and scored. name: as for `pause`."""
        self._ask("stop", name)

    def resume(self, name: str) -> Task:
        """Go on with an unfinished try."""
        self._known(name)
        return self.workbench.resume(name)

    def discard(self, name: str) -> None:
        """Forget an unfinished try and its checkpoint."""
        self._known(name)
        self.workbench.discard(name)

    def cancel(self, name: str = "") -> None:
        """Ask the running task to stop, whatever it does now. name: as for `pause`."""
        self._require_running(name)
        if (task := self.workbench.worker.running) is not None:
            self.workbench.worker.cancel(task.number)

    def check(self) -> Task:
        """Let the original hear the speech to tune on, in the background, for transcripts that do not match it."""
        model, choices = self.workbench.model, self.choices
        return self.workbench.worker.submit("Check the transcripts", lambda task: choices.check(model, task))

    def _ask(self, what: str, name: str) -> None:
        self._require_running(name)
        if self.workbench.tuning.get("state") != "running":
            raise InputError(f"No tune is running, so there is nothing to {what}.")
        self._asked = what
        getattr(self.workbench, what)()
        self._show()

    def _require_running(self, name: str) -> None:
        running = self.workbench.worker.running
        if name and (running is None or running.name != f"Try {name}"):
            raise InputError(f"{name} does not run any more, so nothing was stopped.")

    def _known(self, name: str) -> None:
        if name not in [one["name"] for one in waiting(self.workbench)]:
            raise InputError(f"There is no unfinished try {name!r}; it was finished or discarded, or it runs.")

    def do_start(self, tune: bool = True) -> None:
        self.start(tune)

    def do_set(self, name: str, value: Any) -> None:
        self.choices.put(**{name: value})

    do_pause, do_stop, do_resume, do_discard, do_cancel, do_check = pause, stop, resume, discard, cancel, check

    # -- what is shown ----------------------------------------------------------------------------------------

    def _observing(self, on: bool) -> None:
        self._show.follow(self.workbench, ["tuning", "unfinished"], on)
        (self.choices.observe if on else self.choices.unobserve)(self._fill)

    def close(self) -> None:
        if hasattr(self, "workbench"):
            self._observing(False)
            del self.workbench
        super().close()

    def _fill(self, _: Any = None) -> None:
        chosen = self.choices
        self.form = {
            **{name: getattr(chosen, name) for name in chosen.trait_names()},
            "corpora": [
                {"name": c.name, "minutes": round(c.seconds / 60, 1), "chosen": c.name in chosen.corpora}
                for c in chosen.speech
            ],
            "methods": [{"name": name, "means": METHODS.get(name, "")} for name in chosen.methods],
            "mixes": chosen.mixes, "written": chosen.written, "label": chosen.label, "problem": chosen.problem,
        }  # fmt: skip

    def _refresh(self) -> None:
        if not hasattr(self, "workbench"):  # closed while a timer ran
            return
        live = live_of(self.workbench)
        if live["state"] != "running":
            self._asked = ""
        self.live = {**live, "asked": self._asked}

    def summary(self) -> str:
        """State and last values, for a page without a kernel."""
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in self.live["table"]
        )
        head = "".join(f"<th>{name}</th>" for name in ("", "First", "Lowest", "Last", "At step"))
        table = f"<table><tr>{head}</tr>{rows}</table>" if rows else ""
        return f"<p>{html.escape(self.live['headline'])} {html.escape(self.live['time'])}</p>{table}"


def obstacle(workbench: Any) -> str:
    """Why nothing can be started now, in one sentence; empty if it can."""
    return "" if workbench.planner.plan.ranks else "The plan keeps everything; choose lower ranks first."


def queue(workbench: Any) -> str:
    """What runs and waits before anything new begins; empty if nothing does."""
    names = [task.name for task in workbench.worker.tasks if not task.finished]
    waits = f" Waiting: {', '.join(names[1:])}." if names[1:] else ""
    return f"Running: {names[0]}.{waits}" if names else ""


def waiting(workbench: Any) -> list[dict[str, Any]]:
    """The unfinished tries that are neither worked on nor queued."""
    return [one for one in workbench.unfinished if not workbench.at_work(one["name"])]


def live_of(workbench: Any) -> dict[str, Any]:
    """Everything the page shows of a workbench's tune, as JSON types.

    share: 0 to 1 of what runs now, None while unknown; time: used and left, in words; curves: thinned, [step, value];
    table: label, first, lowest, last value, its step; can: which buttons do something.
    """
    tuning, running, plan = workbench.tuning, workbench.worker.running, workbench.planner.plan
    state, name = tuning.get("state", ""), tuning.get("name", "")
    unfinished = waiting(workbench)
    resumable = name in [one["name"] for one in unfinished]
    if state == "paused" and not resumable and not workbench.at_work(name):
        state = "cancelled"  # before there was anything to go on with
    return {
        "name": name, "state": state, **_progress({**tuning, "state": state}, running), "plan": _plan(plan),
        "curves": {key: thin(tuning.get(key, [])) for key in CURVES},
        "table": [row for key in CURVES if (row := _row(key, tuning.get(key, [])))],
        "unfinished": [{"name": one["name"], "line": _unfinished(one)} for one in unfinished],
        "error": _error(workbench) if state == "failed" else {},
        "obstacle": obstacle(workbench), "queue": queue(workbench),
        "can": {
            "start": not obstacle(workbench), "pause": state == "running", "stop": state == "running",
            "resume": state == "paused" and resumable,
            "cancel": state in ("preparing", "scoring") and running is not None,
        },
    }  # fmt: skip


def _progress(tuning: dict[str, Any], running: Task | None) -> dict[str, Any]:
    """The headline, the share done and the time in words."""
    state, share, time = tuning["state"], None, ""
    headline = f"{tuning['name']}: {HEADLINES.get(state, state)}" if state else "No tune is running."
    if state in ("preparing", "scoring") and running is not None:
        share = min(running.done / running.total, 1.0) if running.total > 0 else None
        time = " · ".join(filter(None, (running.text, left(running.remaining))))
    elif "steps" in tuning:
        spent, time, remaining = _spent(tuning)
        share = spent if state in ("running", "paused") else None
        time += f" · {left(remaining)}" if state == "running" and remaining is not None else ""
        if state == "running" and running is not None and running.text == WRITING:
            time += " · the original transcribes"
    return {"headline": headline, "share": share, "time": time}


def _spent(tuning: dict[str, Any]) -> tuple[float, str, float | None]:
    """The share of its limit that a tune has used, that in words, and the seconds left."""
    steps, seconds = tuning["steps"], tuning["seconds"]
    if limit := tuning.get("limit_seconds"):
        return min(seconds / limit, 1.0), f"step {steps} · {spell(seconds)} of {spell(limit)}", max(limit - seconds, 0)
    if (limit := tuning.get("limit_steps")) is None:
        return 0.0, "without tuning", None
    remaining = seconds / steps * max(limit - steps, 0) if steps else None
    return min(steps / limit, 1.0), f"step {steps} of {limit} · {spell(seconds)}", remaining


def _plan(plan: Any) -> str:
    """What the plan removes, in words."""
    reductions = plan.reductions
    removed = {part: reductions[f"{part}_reduction"] for part in ("encoder", "decoder", "model")}
    return ", ".join(f"{part} −{100 * share:.1f} %" for part, share in removed.items() if share) or "keeps everything"


def _unfinished(one: dict[str, Any]) -> str:
    return f"encoder −{100 * one['encoder_reduction']:.1f} % · {_spent(one)[1]}"


def _row(key: str, points: list) -> list[str] | None:
    """One line of the table: label, first, lowest, last, step."""
    if (values := milestones(points)) is None:
        return None
    digits = ".1f" if key == "wer" else "#.3g"
    return [CURVES[key], *(f"{value:{digits}}".rstrip(".") for value in values), f"{points[-1][0]:,}"]


def _error(workbench: Any) -> dict[str, str]:
    """What made the tune fail: the newest task that did."""
    failed = [task for task in workbench.worker.tasks if task.state == "failed"]
    if not failed:
        return {"sentence": "The tune failed; the list of jobs says why."}
    return {"sentence": failed[-1].error, "details": failed[-1].details}
