"""The tuner: what is chosen and refused, what its buttons do in every state, what it sends and how often."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from traitlets import Any as AnyTrait
from traitlets import Dict, HasTraits, Int, List

import adaptwin_widgets as aw
from adaptwin_widgets.choices import Choices
from adaptwin_widgets.curves import milestones, thin
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.figures import COLOURS
from adaptwin_widgets.run import TUNING, WRITING
from adaptwin_widgets.speech import Corpus, Utterance
from adaptwin_widgets.widgets.base import STYLE, View
from adaptwin_widgets.widgets.jobs import Jobs
from adaptwin_widgets.widgets.tuner import Tuner
from adaptwin_widgets.workbench import Workbench
from adaptwin_widgets.worker import Task, Worker

NOTHING = {"encoder_reduction": 0.0, "decoder_reduction": 0.0, "model_reduction": 0.0}
PLAN = SimpleNamespace(ranks={"encoder.0.query_key": [8]}, reductions={**NOTHING, "encoder_reduction": 0.3})


class Planner(HasTraits):
    revision = Int()
    plan = PLAN


class Bench(HasTraits):
    """A workbench that plays a tune: every step takes a millisecond and makes the loss a little smaller."""

    METHODS = ("ours", "uniform")
    at_work = Workbench.at_work
    tuning, unfinished, revision, small = Dict(), List(), Int(), AnyTrait(None)

    def __init__(self, length: int = 40, corpora: tuple[str, ...] = ("ann", "others")) -> None:
        super().__init__()
        self.speech = [speech(name, 60.0 * (i + 1)) for i, name in enumerate(corpora)]
        self.worker, self.planner, self.length = Worker(), Planner(), length
        self.choices = Choices(self.speech, self.METHODS)
        self.asked: list[dict[str, Any]] = []
        self.go_on, self.end = threading.Event(), ""
        self.go_on.set()

    def attempt(self, **asked: Any) -> Task:
        self.asked.append(asked)
        return self._submit("encoder-30", asked.get("steps") or self.length, 0)

    def resume(self, name: str) -> Task:
        one = next(one for one in self.unfinished if one["name"] == name)
        return self._submit(name, one["limit_steps"], one["steps"])

    def discard(self, name: str) -> None:
        self.unfinished = [one for one in self.unfinished if one["name"] != name]

    def pause(self) -> None:
        self.end = "paused"

    def stop(self) -> None:
        self.end = "stopped"

    def _submit(self, name: str, limit: int, done: int) -> Task:
        self.end = ""
        return self.worker.submit(f"Try {name}", lambda task: self._play(task, name, limit, done))

    def _play(self, task: Task, name: str, limit: int, done: int) -> None:
        state: dict[str, Any] = {"name": name, "limit_steps": limit, "steps": done, "seconds": 0.0}
        state |= {"losses": [], "held_out": [[0, 2.0]], "wer": []}
        self.tuning = {**state, "state": "preparing"}
        task.update(3, 4, "Listening to ann")
        self.go_on.wait(10)
        while state["steps"] < limit and not self.end:
            time.sleep(0.001)
            state["steps"] += 1
            state["seconds"] += 2.0
            state["losses"] = [*state["losses"], [state["steps"], 2.0 / state["steps"]]]
            if state["steps"] % 10 == 0:
                state["held_out"] = [*state["held_out"], [state["steps"], 1.0 + 1 / state["steps"]]]
                state["wer"] = [*state["wer"], [state["steps"], 12.5]]
            self.tuning = {**state, "state": "running"}
            task.update(state["steps"], limit, "Tuning")
        kept = [one for one in self.unfinished if one["name"] != name]
        if self.end == "paused":
            one = {key: state[key] for key in ("name", "steps", "seconds", "limit_steps")}
            self.unfinished = [*kept, {**one, "encoder_reduction": 0.3}]
        else:
            self.unfinished = kept
        self.tuning = {**state, "state": self.end or "done"}


def speech(name: str, seconds: float) -> Corpus:
    return Corpus([Utterance(f"{name}-1", Path(f"{name}.wav"), "One.", name, seconds)], name)


def settle(is_so: Callable[[], Any], seconds: float = 5) -> None:
    """Wait until something is so: what the page is sent comes from other threads."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def press(view: View, do: str, **more: Any) -> None:
    """What the page sends when somebody presses or types."""
    view._handle_custom_msg({"do": do, **more}, [])


def can(tuner: Tuner) -> set[str]:
    return {name for name, does in tuner.live["can"].items() if does}


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.end = "stopped"
    bench.go_on.set()


# -- what is chosen -------------------------------------------------------------------------------------------


def test_the_form_shows_the_speech_and_what_start_will_do(bench: Bench):
    form = Tuner(bench).form
    assert form["corpora"] == [
        {"name": "ann", "minutes": 1.0, "chosen": True},
        {"name": "others", "minutes": 2.0, "chosen": True},
    ]
    assert form["label"] == "Compress, tune 5 min, score"
    assert [method["name"] for method in form["methods"]] == ["ours", "uniform"]
    assert all(method["means"] for method in form["methods"])
    assert (form["problem"], form["target_weight"], form["mixes"]) == ("", 0.5, True)


def test_start_asks_for_what_is_chosen(bench: Bench):
    tuner = Tuner(bench, unit="steps")
    for name, value in {
        "steps": 30,
        "target_weight": 0.8,
        "transcripts": 0.25,
        "method": "uniform",
        "note": "second try",
    }.items():
        press(tuner, "set", name=name, value=value)
    assert tuner.form["label"] == "Compress, tune 30 steps, score"
    press(tuner, "start")
    settle(lambda: tuner.live["state"] == "done")
    assert bench.asked == [
        {
            "steps": 30, "method": "uniform", "target_weight": 0.8, "transcripts": 0.25, "corpora": ["ann", "others"],
            "note": "second try",
        }
    ]  # fmt: skip
    assert tuner.form["note"] == "", "the note was that try's"


def test_only_compress_and_score_needs_no_limit(bench: Bench):
    tuner = Tuner(bench)
    press(tuner, "set", name="minutes", value=None)
    press(tuner, "start", tune=False)
    assert tuner.error == {}
    assert bench.asked == [{"method": "ours", "note": ""}]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"minutes": -3}, "A tune of -3 minutes is none; give a number above 0."),
        ({"minutes": 0}, "A tune of 0 minutes is none; give a number above 0."),
        ({"minutes": math.inf}, "A tune of inf minutes is none; give a number above 0."),
        ({"minutes": math.nan}, "A tune of nan minutes is none; give a number above 0."),
        ({"minutes": None}, "How long to tune is empty; give a number of minutes."),
        ({"unit": "steps", "steps": 2.5}, "A tune cannot end after 2.5 steps; give a whole number."),
        ({"unit": "hours"}, "A tune cannot be limited by 'hours'; choose minutes or steps."),
        ({"target_weight": 1.4}, "The target speaker's share is 140 %; give a number from 0 to 100 %."),
        ({"target_weight": None}, "The target speaker's share is empty; give a number from 0 to 100 %."),
        ({"transcripts": -0.2}, "The transcripts' share is -20 %; give a number from 0 to 100 %."),
        ({"transcripts": None}, "The transcripts' share is empty; give a number from 0 to 100 %."),
        ({"corpora": []}, "No speech is chosen; choose at least one corpus to tune on."),
        ({"corpora": ["bob"]}, "There is no speech 'bob'; choose from ann, others."),
        ({"method": "magic"}, "There is no method 'magic'; choose ours or uniform."),
    ],
)
def test_what_cannot_be_is_said_and_starts_nothing(bench: Bench, wrong: dict[str, Any], sentence: str):
    tuner = Tuner(bench)
    for name, value in wrong.items():
        press(tuner, "set", name=name, value=value)
    assert tuner.form["problem"] == sentence
    press(tuner, "start")
    assert tuner.error["sentence"] == sentence
    assert bench.asked == [] and not bench.worker.busy
    with pytest.raises(InputError, match="give|choose"):
        Tuner(Bench(), **wrong)


def test_a_value_of_a_wrong_kind_and_an_unknown_choice_are_refused(bench: Bench):
    tuner = Tuner(bench)
    press(tuner, "set", name="minutes", value="soon")
    assert tuner.error["sentence"] == "minutes cannot be 'soon'; give a number."
    press(tuner, "set", name="rate", value=3)
    assert tuner.error["sentence"].startswith("'rate' cannot be chosen; choose corpora, method, minutes")
    press(tuner, "set", name="minutes", value=2)
    assert tuner.error == {}, "what works takes the error away"
    with pytest.raises(InputError, match="'minute' cannot be chosen"):
        Tuner(bench, minute=3)


def test_transcripts_that_may_not_match_are_shown_before_anything_is_tuned(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    assert [row["name"] for row in Tuner(bench).form["doubts"]] == ["ann", "others"], "a word in a minute"
    fine = Utterance("good", Path("good.wav"), "A sentence of six words.", "ann", 2.0)
    fast = Utterance("fast", Path("fast.wav"), "Far too many words for a second of speech.", "ann", 1.0)
    mute = Utterance("mute", Path("mute.wav"), "", "bob", 60.0)
    bench.speech = [Corpus([fine, fast], "ann"), Corpus([mute], "bob"), Corpus([fine], "cy")]
    bench.choices, bench.model = Choices(bench.speech, bench.METHODS), SimpleNamespace(source="tiny.en")
    tuner = Tuner(bench)
    (row,) = tuner.form["doubts"]  # unlabelled speech has nothing to be wrong
    assert (row["name"], row["sentence"]) == ("ann", "1 of 2 transcripts may not match, judged by the speed of speech.")
    assert [(one["id"], one["reason"]) for one in row["worst"]] == [("fast", "9.0 words per second")]

    def hear(model: Any, corpus: Corpus, **_: Any) -> list[SimpleNamespace]:
        return [SimpleNamespace(text="Nothing that was written", language="en") for _ in corpus]

    monkeypatch.setattr("adaptwin_widgets.mismatch.transcribe", hear)
    press(tuner, "check")
    settle(lambda: not bench.worker.busy)
    assert bench.worker.tasks[-1].name == "Check the transcripts"
    first, second = tuner.form["doubts"]
    assert (first["name"], second["name"]) == ("ann", "cy")
    assert first["sentence"] == "2 of 2 transcripts may not match, judged by the speed of speech and tiny.en."
    assert "100 % word errors" in second["worst"][0]["reason"]
    assert second["worst"][0]["heard"] == "Nothing that was written"
    press(tuner, "set", name="doubts", value=[])
    assert tuner.error["sentence"].startswith("'doubts' cannot be chosen")


def test_speech_without_transcripts_has_no_share_of_them():
    unwritten = Corpus([Utterance("ann-1", Path("ann.wav"), "", "ann", 10.0)], "ann")
    choices = Choices([unwritten, speech("bob", 10)], ("ours",))
    assert choices.written and choices.arguments()["transcripts"] == aw.Settings().transcripts
    choices.put(corpora=["ann"], transcripts=None)
    assert not choices.written and "transcripts" not in choices.arguments()


@pytest.mark.parametrize(
    ("chosen", "weight"), [(["ann", "bob", "cy"], 0.9), (["ann"], 1.0), (["bob", "cy"], 0.4), (["cy", "ann"], 0.9)]
)
def test_the_share_is_the_targets_and_other_speech_counts_by_duration(chosen: list[str], weight: float):
    choices = Choices([speech("ann", 10), speech("bob", 20), speech("cy", 30)], ("ours",))
    choices.put(corpora=chosen, target_weight=0.9)
    asked = choices.arguments()
    assert asked["target_weight"] == pytest.approx(weight)
    assert asked["corpora"] == [name for name in ("ann", "bob", "cy") if name in chosen], "the first is the target's"
    assert choices.mixes == (weight == 0.9)


# -- states and buttons ---------------------------------------------------------------------------------------


def test_nothing_can_start_while_the_plan_keeps_everything(bench: Bench):
    bench.planner.plan = SimpleNamespace(ranks={}, reductions=NOTHING)
    tuner = Tuner(bench)
    assert tuner.live["plan"] == "keeps everything"
    assert tuner.live["obstacle"] == "The plan keeps everything; choose lower ranks first."
    press(tuner, "start")
    assert tuner.error["sentence"] == tuner.live["obstacle"]
    assert "start" not in can(tuner)
    bench.planner.plan = PLAN
    bench.planner.revision += 1
    settle(lambda: "start" in can(tuner))
    assert tuner.live["plan"] == "encoder −30.0 %"


def test_what_is_started_while_other_work_runs_waits_its_turn(bench: Bench):
    tuner, leave = Tuner(bench), threading.Event()
    bench.worker.submit("Score the original", lambda task: leave.wait(10))
    settle(lambda: tuner.live["queue"] == "Running: Score the original.")
    press(tuner, "start")
    settle(lambda: tuner.live["queue"] == "Running: Score the original. Waiting: Try encoder-30.")
    assert tuner.live["state"] == "" and tuner.error == {}
    leave.set()
    settle(lambda: tuner.live["state"] == "done" and not tuner.live["queue"])


def test_a_tune_from_its_start_to_its_end(bench: Bench):
    tuner = Tuner(bench, unit="steps", steps=40)
    assert can(tuner) == {"start"}
    assert (tuner.live["headline"], tuner.live["share"], tuner.live["table"]) == ("No tune is running.", None, [])
    bench.go_on.clear()
    press(tuner, "start")
    settle(lambda: tuner.live["share"] == 0.75)
    assert can(tuner) == {"start", "cancel"}
    assert tuner.live["headline"] == "encoder-30: preparing"
    assert tuner.live["time"].startswith("Listening to ann")
    bench.go_on.set()
    settle(lambda: tuner.live["state"] == "done" and not tuner.live["queue"])
    assert tuner.live["headline"] == "encoder-30: done"
    assert tuner.live["time"] == "step 40 of 40 · 1 min 20 s"
    assert tuner.live["table"] == [
        ["Loss", "2.00", "0.0500", "0.0500", "40"],
        ["Held-out loss", "2.00", "1.02", "1.02", "40"],
        ["Held-out WER, %", "12.5", "12.5", "12.5", "40"],
    ]
    assert tuner.live["curves"]["wer"] == [[10, 12.5], [20, 12.5], [30, 12.5], [40, 12.5]]


@pytest.mark.parametrize(
    ("limit", "share", "time_said"),
    [
        ({"limit_steps": 200}, 0.25, "step 50 of 200 · 2 min · about 6 min left"),
        ({"limit_seconds": 160.0}, 0.75, "step 50 · 2 min of 2 min 40 s · about 40 s left"),
    ],
)
def test_the_time_that_is_left(bench: Bench, limit: dict[str, Any], share: float, time_said: str):
    tuner = Tuner(bench)
    bench.tuning = {"name": "a", "state": "running", "steps": 50, "seconds": 120.0, **limit}
    settle(lambda: tuner.live["state"] == "running")
    assert (tuner.live["share"], tuner.live["time"]) == (share, time_said)


def test_while_the_original_transcribes_the_tuner_says_so(bench: Bench):
    tuner, go_on = Tuner(bench), threading.Event()

    def work(task: Task) -> None:
        bench.tuning = {"name": "a", "state": "running", "steps": 0, "seconds": 3.0, "limit_seconds": 60.0}
        task.update(3, 60, WRITING)
        go_on.wait(10)
        task.update(9, 60, TUNING)
        bench.tuning = {**bench.tuning, "steps": 1, "seconds": 9.0}

    bench.worker.submit("Try a", work)
    settle(lambda: tuner.live["time"] == "step 0 · 3 s of 1 min · about 55 s left · the original transcribes")
    assert tuner.live["share"] == 0.05 and {"pause", "stop"} <= can(tuner)
    go_on.set()
    settle(lambda: tuner.live["time"] == "step 1 · 9 s of 1 min · about 50 s left")


@pytest.mark.parametrize("what", ["pause", "stop"])
def test_pause_and_stop_only_ask_and_the_page_sees_it(bench: Bench, what: str):
    bench.length = 100_000
    tuner = Tuner(bench)
    press(tuner, "start")
    settle(lambda: tuner.live["state"] == "running")
    assert can(tuner) == {"start", "pause", "stop"}
    began = time.monotonic()
    press(tuner, what)
    assert time.monotonic() - began < 0.05
    settle(lambda: tuner.live["state"] == {"pause": "paused", "stop": "stopped"}[what] and not bench.worker.busy)
    settle(lambda: not tuner.live["queue"])
    assert tuner.live["asked"] == "" and tuner.error == {}
    assert can(tuner) == {"start"} | ({"resume"} if what == "pause" else set())
    press(tuner, what)
    assert tuner.error["sentence"] == f"No tune is running, so there is nothing to {what}."


def test_a_press_that_came_late_ends_no_other_try(bench: Bench):
    """A kernel that runs a cell hears it when the try is over and the next one runs."""
    bench.length = 100_000
    tuner = Tuner(bench)
    press(tuner, "start")
    settle(lambda: tuner.live["state"] == "running")
    for what in ("pause", "stop", "cancel"):
        tuner._receive(tuner, {"do": what, "name": "encoder-15"}, [])
        assert tuner.error["sentence"] == "encoder-15 does not run any more, so nothing was stopped."
        assert not bench.worker.running.cancelled and not bench.end
    tuner._receive(tuner, {"do": "stop", "name": "encoder-30"}, [])
    settle(lambda: not bench.worker.busy)
    assert bench.end == "stopped" and tuner.error == {}


def test_what_was_asked_is_shown_until_it_is_so(bench: Bench):
    tuner = Tuner(bench)
    bench.tuning = {"name": "a", "state": "running", "steps": 1, "seconds": 1.0, "limit_steps": 9}
    press(tuner, "pause")
    settle(lambda: tuner.live["asked"] == "pause")
    bench.tuning = {**bench.tuning, "steps": 2}
    time.sleep(0.3)
    assert tuner.live["asked"] == "pause"
    bench.tuning = {**bench.tuning, "state": "paused"}
    settle(lambda: tuner.live["asked"] == "")


def test_an_unfinished_try_can_be_resumed_or_discarded(bench: Bench):
    bench.unfinished = [
        {"name": "a", "steps": 30, "seconds": 61.0, "limit_steps": 40, "encoder_reduction": 0.3},
        {"name": "b", "steps": 3, "seconds": 30.0, "limit_seconds": 300.0, "encoder_reduction": 0.45},
        {"name": "c", "steps": 0, "seconds": 0.0, "limit_steps": None, "encoder_reduction": 0.6},
    ]
    tuner = Tuner(bench)
    assert tuner.live["unfinished"] == [
        {"name": "a", "line": "encoder −30.0 % · step 30 of 40 · 1 min 1 s"},
        {"name": "b", "line": "encoder −45.0 % · step 3 · 30 s of 5 min"},
        {"name": "c", "line": "encoder −60.0 % · without tuning"},  # it was to be compressed and scored alone
    ]
    press(tuner, "discard", name="b")
    settle(lambda: len(tuner.live["unfinished"]) == 2)
    press(tuner, "discard", name="c")
    settle(lambda: len(tuner.live["unfinished"]) == 1)
    press(tuner, "discard", name="b")
    assert tuner.error["sentence"] == "There is no unfinished try 'b'; it was finished or discarded, or it runs."
    bench.go_on.clear()
    press(tuner, "resume", name="a")
    settle(lambda: tuner.live["state"] == "preparing")
    assert tuner.live["unfinished"] == [], "it runs"
    assert tuner.error == {}
    press(tuner, "resume", name="a")
    assert tuner.error["sentence"].endswith("it was finished or discarded, or it runs."), "not twice at once"
    bench.go_on.set()
    settle(lambda: tuner.live["state"] == "done")
    assert tuner.live["time"].startswith("step 40 of 40")


def test_a_tune_that_failed_says_why(bench: Bench):
    tuner = Tuner(bench)
    bench.worker.submit("Try a", lambda task: 1 / 0)
    settle(lambda: not bench.worker.busy)
    bench.tuning = {"name": "a", "state": "failed"}
    settle(lambda: tuner.live["state"] == "failed")
    assert tuner.live["headline"] == "a: failed"
    assert tuner.live["error"]["sentence"] == "ZeroDivisionError: division by zero"
    assert "Traceback" in tuner.live["error"]["details"]
    bench.tuning = {"name": "b", "state": "preparing"}
    settle(lambda: tuner.live["error"] == {})


def test_cancel_while_preparing(bench: Bench):
    tuner = Tuner(bench)
    bench.go_on.clear()
    press(tuner, "start")
    settle(lambda: "cancel" in can(tuner))
    press(tuner, "cancel")
    assert bench.worker.tasks[0].cancelled
    bench.end = "paused"
    bench.go_on.set()
    settle(lambda: tuner.live["state"] == "paused" and not tuner.live["queue"])
    assert "resume" in can(tuner)
    press(tuner, "discard", name="encoder-30")
    settle(lambda: tuner.live["headline"] == "encoder-30: cancelled")
    assert "resume" not in can(tuner)


# -- what is sent ---------------------------------------------------------------------------------------------


def test_a_quick_tune_does_not_flood_the_page_and_its_end_arrives(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    tuner = Tuner(bench, unit="steps", steps=700)
    sent: list[dict] = []
    monkeypatch.setattr(tuner.comm, "send", lambda data, **_: sent.append(data["state"]))
    began, changes = time.monotonic(), [0]
    bench.observe(lambda _: changes.__setitem__(0, changes[0] + 1), "tuning")
    tuner.start()
    settle(lambda: not bench.worker.busy)
    settle(lambda: tuner.live["state"] == "done" and not tuner.live["queue"])
    seconds = time.monotonic() - began
    lives = [message["live"] for message in sent if "live" in message]
    assert changes[0] > 700 > 10 * len(lives)
    assert 2 < len(lives) <= 5 * seconds + 2
    assert lives[-1]["table"][0][-1] == "700"
    assert all(len(live["curves"]["losses"]) <= 300 for live in lives)
    assert lives[-1]["curves"]["losses"][-1] == [700, 0.002857]
    time.sleep(0.3)
    del sent[:]
    bench.worker.changed()  # nothing is different
    time.sleep(0.3)
    assert sent == []


def test_two_views_and_one_made_later_show_the_same(bench: Bench):
    first, second = Tuner(bench), Tuner(bench)
    press(first, "set", name="steps", value=25)
    press(second, "set", name="unit", value="steps")
    assert first.form == second.form and first.form["label"] == "Compress, tune 25 steps, score"
    press(second, "start")
    settle(lambda: not first.live["queue"] and first.live["state"] == "done")
    settle(lambda: first.live == second.live)
    second.close()
    third = Tuner(bench)
    assert (third.form, third.live) == (first.form, first.live)
    press(first, "set", name="steps", value=26)
    assert third.form["steps"] == 26 and second.form["steps"] == 25, "a closed view is left alone"


def test_a_page_without_a_kernel_shows_the_last_values(bench: Bench):
    tuner = Tuner(bench, unit="steps", steps=20)
    tuner.start()
    settle(lambda: tuner.live["state"] == "done")
    assert "encoder-30: done step 20 of 20" in tuner.summary()
    assert "<td>Loss</td><td>2.00</td><td>0.100</td><td>0.100</td><td>20</td>" in tuner.summary()


# -- curves ---------------------------------------------------------------------------------------------------


def test_a_short_curve_is_whole_and_a_long_one_keeps_its_peaks_and_ends():
    assert thin([[1, 2.0], [2, 1.23456]]) == [[1, 2.0], [2, 1.235]]
    values = [[step, 1.0 + 0.001 * math.sin(step)] for step in range(5000)]
    values[3333][1], values[4444][1] = 9.0, 0.1
    for length in (299, 300, 301, 599, 1023, 1024, 4097, 5000):
        curve = thin(values[:length])
        steps = [step for step, _ in curve]
        assert len(curve) <= 300 and steps == sorted(set(steps))
        assert (steps[0], steps[-1]) == (0, length - 1)
    assert [3333, 9.0] in curve and [4444, 0.1] in curve
    assert thin([]) == []


def test_what_is_not_finite_reaches_neither_chart_nor_json():
    curve = [[0, 1.0], [1, math.nan], [2, math.inf]]
    assert thin(curve) == [[0, 1.0]]
    assert milestones(curve) == (1.0, 1.0, math.inf)
    assert milestones([]) is None


def test_the_curves_have_the_colours_of_the_figures():
    drawn = re.findall(r"aw-(?:line|fill)-\w+ \{ (?:stroke|fill): (#\w+)", STYLE)
    assert len(drawn) == 8
    assert {colour.upper() for colour in drawn} <= set(COLOURS)


# -- a real workbench -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_real_tune_is_paused_found_again_resumed_and_stopped(tiny_en, tmp_path: Path):
    demo = aw.demo_speech()
    speech = [demo["target_train"].head(6), demo["general_train"].head(6)]

    def opened() -> Workbench:
        return Workbench(tiny_en, speech, {"target": demo["target_dev"].head(3)}, folder=tmp_path, windows=4)

    bench = opened()
    bench.planner.commit(bench.planner.budget("encoder", 0.2))
    tuner, jobs = Tuner(bench, unit="steps", steps=500, target_weight=0.7, note="paused once"), Jobs(bench.worker)
    press(tuner, "start")
    settle(lambda: tuner.live["state"] == "running" and tuner.live["can"]["pause"], seconds=300)
    assert jobs.state["tasks"][0]["share"] is not None
    press(tuner, "pause")
    settle(lambda: tuner.live["can"]["resume"], seconds=60)
    [unfinished] = tuner.live["unfinished"]
    assert unfinished["line"].startswith("encoder −20.0 % · step ")

    bench = opened()  # the kernel was restarted
    tuner = Tuner(bench)
    assert tuner.live["unfinished"] == [unfinished]
    press(tuner, "resume", name=unfinished["name"])
    settle(lambda: tuner.live["state"] == "running" and len(tuner.live["table"]) == 3, seconds=300)
    press(tuner, "stop")
    settle(lambda: not tuner.live["queue"], seconds=300)
    record = bench.study[unfinished["name"]]
    assert 0 < record.tuning["steps"] < 500
    assert (record.note, record.settings["target_weight"]) == ("paused once", 0.7)
    assert tuner.live["state"] == "done" and tuner.live["unfinished"] == [] and tuner.error == {}
    assert [label for label, *_ in tuner.live["table"]] == ["Loss", "Held-out loss", "Held-out WER, %"]
