"""The workbench and the Studio on real weights and real (synthetic) speech: tries, pauses, going back, reopening."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import adaptwin_widgets as aw
from adaptwin_widgets.attempt import Try
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.plan import RankPlan
from adaptwin_widgets.run import WRITING
from adaptwin_widgets.workbench import Workbench, default_folder


@pytest.fixture(scope="module")
def demo():
    return aw.demo_speech()


@pytest.fixture(scope="module")
def learning(demo):
    return [demo["target_train"][:8], demo["general_train"][:8]]


@pytest.fixture(scope="module")
def scored(demo):
    return {"target": demo["target_dev"][:2], "general": demo["general_dev"][:2]}


@pytest.fixture(scope="module")
def begun(tiny_en, learning, scored, tmp_path_factory) -> Workbench:
    """Speech observed, the original scored."""
    bench = Workbench.open(tiny_en, learning, scored, folder=tmp_path_factory.mktemp("study") / "run", windows=4)
    bench.start()
    bench.start()  # a cell that is run again starts nothing twice
    assert [task.name for task in bench.worker.tasks] == ["Observe the speech", "Score the original"]
    for task in list(bench.worker.tasks):
        task.wait(300)
    return bench


@pytest.fixture
def bench(begun: Workbench, tiny_en, learning, scored, tmp_path: Path) -> Workbench:
    """A workbench of its own with what was begun."""
    shutil.copytree(begun.folder, tmp_path / "run")
    bench = Workbench(tiny_en, learning, scored, folder=tmp_path / "run", windows=4)
    bench.recipe = bench.attempts.recipe = begun.recipe
    bench.attempts._lessons = begun.attempts._lessons  # made once
    bench._observed(begun.recipe.spectra)
    return bench


def until(is_so: Callable[[], Any], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def steps(bench: Workbench) -> int:
    return bench.tuning.get("steps", 0)


def cut(bench: Workbench, share: float = 0.3) -> RankPlan:
    bench.planner.commit(bench.planner.budget("encoder", share))
    return bench.planner.plan


# -- the workbench ----------------------------------------------------------------------------------------------


def test_it_begins_with_the_original(begun: Workbench):
    assert begun.spectra.aware and begun.planner.spectra is begun.spectra
    assert [r.name for r in begun.study.records] == ["original"] and begun.current == "original"
    assert begun.small is None and (begun.folder / "frontier.html").is_file()


def test_opening_the_same_again_gives_the_same(begun: Workbench, tiny_en, learning, scored, tmp_path):
    assert Workbench.open(tiny_en, learning, scored, folder=begun.folder, windows=4) is begun
    other = Workbench.open(tiny_en, learning, scored, folder=tmp_path / "other", windows=4)
    assert other is not begun
    with pytest.raises(InputError, match="open with windows=4, not 8"):
        Workbench.open(tiny_en, learning, scored, folder=begun.folder, windows=8)
    shutil.rmtree(tmp_path / "other")
    assert Workbench.open(tiny_en, learning, scored, folder=tmp_path / "other", windows=4) is not other


def test_another_study_in_the_folder_is_refused(begun: Workbench, tiny_en, learning, scored):
    with pytest.raises(InputError, match="another|other"):
        Workbench(tiny_en, learning[:1], scored, folder=begun.folder)
    more = [learning[0].head(7), learning[1]]
    assert [c.name for c in more] == [c.name for c in learning]
    with pytest.raises(InputError, match="other recordings .*16 to learn from.*15 to learn from"):
        Workbench(tiny_en, more, scored, folder=begun.folder)


def test_without_a_folder_the_same_call_finds_the_same_study(begun: Workbench):
    about = begun.study.about
    assert default_folder(about) == default_folder(dict(reversed(about.items())))
    assert default_folder(about) != default_folder({**about, "seed": 1})
    assert default_folder(about).name.startswith("tiny.en-")


def test_a_try_without_tuning(bench: Workbench):
    plan = cut(bench)
    assert bench.current == "", "plan and model are no longer those of a try"
    bench.attempt(note="as it is").wait(300)
    record = bench.study["encoder-30"]
    assert bench.current == "encoder-30" and record.note == "as it is" and record.tuning is None
    assert set(record.scores) == {"target", "general"}
    assert bench.small.model.num_parameters() == plan.reductions["parameters_after"]
    assert aw.load(bench.study.folder / record.model).config.ranks == {k: list(v) for k, v in plan.ranks.items()}


def test_a_tune_pauses_within_a_step_goes_on_and_stops(bench: Workbench, tiny_en, learning, scored):
    cut(bench, 0.45)
    states, said = [], []
    bench.observe(lambda change: states.append(change.new.get("state")), "tuning")
    task = bench.attempt(steps=500, target_weight=0.7, transcripts=0.25, corpora=[c.name for c in learning])
    task.listeners.append(lambda job: said.append(job.text))
    until(lambda: steps(bench) >= 2)
    assert WRITING in said and "scoring" not in states, "the original writes, and it is still a tune"
    assert bench.tuning["state"] == "running" and bench.tuning["losses"] and bench.tuning["held_out"]
    at = steps(bench)
    bench.pause()
    until(lambda: task.finished)
    assert task.state == "stopped" and "encoder-45" not in bench.study
    (one,) = bench.unfinished
    assert one["name"] == "encoder-45" and at <= one["steps"] <= at + 1 and one["limit_steps"] == 500
    assert bench.tuning["state"] == "paused"

    later = Workbench(tiny_en, learning, scored, folder=bench.folder, windows=4)  # after a restart of the kernel
    later.recipe = later.attempts.recipe = bench.recipe
    assert later.unfinished == bench.unfinished
    with pytest.raises(InputError, match="no unfinished try called 'nothing'"):
        later.resume("nothing")
    task = later.resume("encoder-45")
    until(lambda: steps(later) > one["steps"])
    later.stop()
    task.wait(300)
    record = later.study["encoder-45"]
    assert later.tuning["state"] == "done" and not later.unfinished
    assert record.tuning["stopped"] and one["steps"] < record.tuning["steps"] < 500
    assert set(record.untuned) == set(record.scores) and record.settings["target_weight"] == 0.7
    assert record.settings["transcripts"] == record.tuning["settings"]["transcripts"] == 0.25
    assert not (later.study.point("encoder-45") / "tuning.safetensors").exists(), "it is not needed any more"


def test_work_on_a_plan_goes_on_while_a_try_is_made(bench: Workbench):
    cut(bench)
    task = bench.attempt()
    other = cut(bench, 0.2)
    task.wait(300)
    assert "encoder-30" in bench.study and bench.planner.plan == other
    assert bench.current == "" and bench.small is None, "what was made is not what is at hand"


def test_nobody_is_taken_back_by_a_try_of_another_method(bench: Workbench):
    cut(bench)
    task = bench.attempt(method="even")
    other = cut(bench, 0.2)
    task.wait(300)
    assert len(bench.study) == 2 and bench.planner.plan == other and bench.current == "" and bench.small is None


def test_what_is_saved_is_what_is_named(bench: Workbench, tmp_path: Path):
    view = aw.AtHand(bench)
    cut(bench)
    bench.attempt(method="uniform").wait(300)
    made = bench.study.records[1]
    until(lambda: view.info["can_save"])
    assert view.info["parameters"][1] == made.sizes["parameters_after"] == bench.small.model.num_parameters()
    cut(bench, 0.2)
    until(lambda: not view.info["can_save"])
    assert view.info["current"] == "" and view.info["parameters"][1] == bench.planner.plan.after.model
    with pytest.raises(InputError, match="no compressed model of this plan yet"):
        view.do_save(str(tmp_path / "other"))
    assert bench.present is bench.model, "that of another plan is not what is at hand"
    with pytest.raises(InputError, match="no small model of this plan yet"):
        bench.save(tmp_path / "other")
    bench.planner.undo()
    assert bench.current == made.name and bench.present is bench.small, "an undone change leaves the try at hand"
    bench.planner.redo()
    assert bench.current == ""
    hold = threading.Event()
    bench.worker.submit("a long tune", lambda task: hold.wait(60))
    loading = bench.go_back(made.name)
    until(lambda: view.info["loading"])
    assert not view.info["can_save"] and bench.small is None
    for take in (lambda: bench.present, lambda: bench.save(tmp_path / "none"), lambda: view.do_save(str(tmp_path))):
        with pytest.raises(InputError, match=r"not loaded yet|no compressed model"):
            take()
    hold.set()
    loading.wait(60)
    until(lambda: view.info["can_save"] and not view.info["loading"])
    assert bench.present is bench.small and not (tmp_path / "none").exists()


def test_going_back_brings_plan_and_model(bench: Workbench):
    plan = cut(bench)
    bench.attempt().wait(300)
    made = bench.small.model.state_dict()
    assert bench.go_back("original") is None
    assert bench.small is None and bench.current == "original" and bench.planner.plan.ranks == {}
    bench.go_back("encoder-30").wait(60)
    assert bench.planner.plan.ranks == plan.ranks and bench.current == "encoder-30"
    again = bench.small.model.state_dict()
    assert all((again[name] == value).all() for name, value in made.items())
    bench.planner.undo()
    assert bench.current in ("", "original")
    with pytest.raises(InputError, match="no try called 'encoder-99'"):
        bench.go_back("encoder-99")


def test_uniform_is_as_small(bench: Workbench):
    plan = cut(bench)
    bench.attempt(method="uniform").wait(300)
    (record,) = bench.study.records[1:]
    assert record.name == "encoder-30-uniform" or record.name.startswith("encoder-30")
    assert record.sizes["encoder_reduction"] == pytest.approx(plan.reductions["encoder_reduction"], abs=0.02)
    assert record.plan["ranks"] != plan.to_dict()["ranks"]


def test_even_is_as_small_with_all_heads_of_a_layer_alike(bench: Workbench):
    plan = cut(bench)
    bench.attempt(method="even").wait(300)
    (record,) = bench.study.records[1:]
    assert record.name.endswith("-even") and bench.current == record.name
    assert record.sizes["encoder_reduction"] == pytest.approx(plan.reductions["encoder_reduction"], abs=0.02)
    assert any(len(set(ranks)) > 1 for ranks in plan.ranks.values())
    assert all(len(set(ranks)) == 1 for ranks in record.plan["ranks"].values())


def test_even_measures_how_many_heads_it_needs(bench: Workbench, monkeypatch):
    """In the background, where damage is measured; else it takes no heads away."""
    asked: list[int] = []

    def measure(_, plans, *__, **___):
        asked.append(len(plans))
        return [2.0, 1.0]

    monkeypatch.setattr("adaptwin_widgets.recipe.measure_damage", measure)
    bench.planner.learn(
        bench.recipe.spectra, aw.Sensitivity({t: [(0.1, 1e-3), (0.5, 0.1)] for t in bench.planner.twins})
    )
    cut(bench)
    bench.attempt(method="even").wait(300)
    (record,) = bench.study.records[1:]
    assert asked == [2]
    assert [record.plan["ranks"][f"encoder.{i}.value_output"].count(0) for i in range(4)] == [2] * 4
    assert RankPlan.load(bench.study.point(record.name) / "plan.json").to_dict() == record.plan


def test_names_are_never_taken_twice(bench: Workbench):
    cut(bench)
    first, second = bench.attempt(), bench.attempt()
    first.wait(300), second.wait(300)
    assert [r.name for r in bench.study.records] == ["original", "encoder-30", "encoder-30_2"]


def test_the_models_are_timed_in_the_background(bench: Workbench):
    bench.take(aw.compress(bench.model, bench.planner.budget("encoder", 0.3), spectra=None))
    bench.time_parts(repeats=1, dtypes=("float32",)).wait(120)
    until(lambda: bench.speed is not None, 5)
    assert list(bench.speed["model"]) == ["original", "small"] and (bench.speed["encoder_ms"] > 0).all()


@pytest.mark.parametrize("form", ["transformers", "onnx"])
def test_what_is_at_hand_is_saved_for_every_runtime(bench: Workbench, tmp_path: Path, form: str):
    view = aw.AtHand(bench)
    bench.take(aw.compress(bench.model, bench.planner.budget("encoder", 0.3)))
    view.do_save(str(tmp_path / "taken"), form)
    until(lambda: view.saved, 120)
    own_file = {"transformers": "model.safetensors", "onnx": "encoder_model.onnx"}[form]
    assert (tmp_path / "taken" / own_file).is_file()
    assert f'"{tmp_path / "taken"}"' in view.saved


def test_a_note_is_kept(bench: Workbench):
    bench.note("original", "as delivered")
    assert aw.Study(bench.folder)["original"].note == "as delivered"


def test_an_unfinished_try_can_be_forgotten(bench: Workbench):
    cut(bench)
    task = bench.attempt(steps=500)
    until(lambda: bench.tuning.get("state") == "running")
    name = bench.tuning["name"]
    with pytest.raises(InputError, match="is being worked on"):
        bench.discard(name)
    bench.pause()
    until(lambda: task.finished)
    assert (bench.study.point(name) / "tuning.safetensors").is_file()
    hold = threading.Event()
    bench.worker.submit("something else", lambda task: hold.wait(60))
    again = bench.resume(name)
    for act in (bench.resume, bench.discard):
        with pytest.raises(InputError, match="waits its turn"):
            act(name)
    again.cancel()
    hold.set()
    until(lambda: again.finished)
    bench.discard(name)
    assert not bench.unfinished and not bench.study.point(name).exists(), "nor does the next of this name begin there"
    with pytest.raises(InputError, match="no unfinished try"):
        bench.discard(name)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"minutes": 1, "steps": 1}, "one of the two"),
        ({"minutes": 0}, "above 0"),
        ({"steps": -3}, "above 0"),
        ({"target_weight": 2}, "no share"),
        ({"transcripts": -1}, "no share"),
        ({"corpora": ["nobody"]}, "no speech called 'nobody'"),
        ({"corpora": []}, "no speech to tune on"),
        ({"method": "magic"}, "choose one of"),
    ],
)
def test_an_impossible_try_is_refused_before_anything_runs(bench: Workbench, asked: dict, says: str):
    cut(bench)
    with pytest.raises(InputError, match=says):
        bench.attempt(**asked)
    assert not bench.worker.tasks and not bench.unfinished


def test_speech_that_nobody_wrote_down_can_be_tuned_on(tiny_en, learning, scored, tmp_path: Path):
    silent = [replace(u, text="") for u in learning[0]]
    bench = Workbench(tiny_en, [aw.Corpus(silent, "unwritten")], scored, folder=tmp_path / "run", windows=2)
    cut(bench)
    bench.attempt(steps=1).wait(300)
    assert bench.study["encoder-30"].tuning["steps"] == 1 and not bench.tuning["wer"]


def test_a_recorded_try_is_not_made_again(bench: Workbench):
    plan = cut(bench)
    bench.attempt().wait(300)
    with pytest.raises(InputError, match="made and recorded already"):
        bench.attempts.make(Try("encoder-30"), plan)
    assert aw.load(bench.study.point("encoder-30") / "model").config.ranks


def test_a_plan_that_removes_nothing_is_no_try(bench: Workbench):
    with pytest.raises(InputError, match="removes nothing yet"):
        bench.attempt()


def test_a_model_made_elsewhere_can_be_taken(bench: Workbench, tiny_en):
    plan = bench.planner.budget("encoder", 0.2)
    elsewhere = aw.compress(tiny_en, plan)
    bench.take(elsewhere)
    assert bench.small is elsewhere and bench.planner.plan.ranks == plan.ranks and bench.current == ""
    with pytest.raises(InputError, match="not compressed"):
        bench.take(tiny_en)


def test_wrong_beginnings_are_refused(tiny_en, learning, scored, begun: Workbench):
    with pytest.raises(InputError, match="Give speech to learn from"):
        Workbench(tiny_en, [], scored)
    with pytest.raises(InputError, match="share"):
        Workbench(tiny_en, learning, {"target": learning[0]})
    with pytest.raises(InputError, match="compressed already"):
        Workbench(aw.compress(tiny_en, begun.planner.budget("encoder", 0.2)), learning, scored)


KILLED = """
import json, sys, time
import adaptwin_widgets as aw
demo = aw.demo_speech()
bench = aw.Workbench(aw.load("tiny.en"), [demo["target_train"][:8]], {"target": demo["target_dev"][:1]},
                     folder=sys.argv[1], windows=2)
bench.planner.commit(bench.planner.budget("encoder", 0.3))
task = bench.attempt(minutes=10)
while True:
    time.sleep(0.2)
    print(json.dumps([task.error, bench.tuning.get("steps", 0), bench.tuning.get("seconds", 0)]), flush=True)
"""


@pytest.mark.slow
def test_a_killed_kernel_loses_at_most_the_last_half_minute(tmp_path: Path, tiny_en, demo):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "run")]
    began = 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            error, steps, seconds = json.loads(line)
            assert not error
            began = began or (seconds if steps else 0.0)
            if steps and seconds > began + 55:
                process.kill()
                break
    bench = Workbench(tiny_en, [demo["target_train"][:8]], {"target": demo["target_dev"][:1]},
                      folder=tmp_path / "run", windows=2)  # fmt: skip
    (one,) = bench.unfinished
    assert one["steps"] and seconds - one["seconds"] <= 30
    task = bench.resume(one["name"])
    until(lambda: task.error or bench.tuning.get("steps", 0) > one["steps"], 300)
    bench.pause()
    until(lambda: task.finished)
    assert not task.error and bench.unfinished[0]["steps"] > one["steps"]


# -- the Studio -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def studio(begun: Workbench, tiny_en, learning, scored):
    return aw.Studio(tiny_en, learning, scored, folder=begun.folder, windows=4)


def test_a_cell_that_is_run_again_shows_the_same_widgets(studio, begun: Workbench, tiny_en, learning, scored):
    again = aw.Studio(tiny_en, learning, scored, folder=begun.folder, windows=4)
    assert again.workbench is studio.workbench is begun and again.picker is studio.picker
    assert not begun.worker.busy, "what is known is not found out again"


def test_the_frontier_comes_once_the_picker_is_on_the_screen(tiny_en, learning, scored, begun: Workbench, tmp_path):
    shutil.copytree(begun.folder, tmp_path / "run")
    studio = aw.Studio(tiny_en, learning, scored, folder=tmp_path / "run", windows=4, start=False)
    twin = aw.Studio(tiny_en, learning, scored, folder=tmp_path / "run", windows=4, start=False)
    assert "frontier" not in studio.workbench.views
    studio.picker._handle_custom_msg({"do": "shown"}, [])
    assert studio.frontier is twin.frontier and not studio.picker.error
    assert all(studio.frontier in one._sections["frontier"].children for one in (studio, twin))
    later = aw.Studio(tiny_en, learning, scored, folder=tmp_path / "run", windows=4, start=False)
    assert later._sections["frontier"].children[-1] is studio.frontier


def test_the_next_cell_works_with_it_both_ways(studio, tiny_en):
    assert studio.model is tiny_en and studio.study is studio.workbench.study
    plan = RankPlan.for_budget(studio.workbench.spectra, encoder=0.25)
    studio.plan = plan
    assert studio.picker.state["numbers"]["encoder"][1] == plan.reductions["parameters_after"] - (
        tiny_en.model.num_parameters() - studio.picker.state["numbers"]["encoder"][0]
    )
    small = aw.compress(tiny_en, studio.workbench.planner.budget("encoder", 0.2))
    studio.model = small
    assert studio.model is small and studio.plan.ranks == dict(small.config.ranks)
    studio.workbench.go_back("original")
    assert studio.model is tiny_en and studio.plan.ranks == {}


def test_a_page_without_a_kernel_has_text(studio):
    bundle = studio._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    assert "ranks kept" in data["text/html"] and "original" in data["text/html"] and "<script" not in data["text/html"]


def test_a_studio_says_what_it_does_not_know(tiny_en, learning, scored):
    with pytest.raises(InputError, match=r"no option 'colour'; its options are folder"):
        aw.Studio(tiny_en, learning, scored, colour="red")
    with pytest.raises(InputError, match="eval="):
        aw.Studio(tiny_en, learning)


def test_corpora_of_one_name_are_told_apart(tiny_en, learning, scored, tmp_path: Path):
    for corpus in learning:
        assert corpus.name != "train"
    alike = [aw.Corpus(corpus, "train") for corpus in learning]
    bench = Workbench(tiny_en, alike, scored, folder=tmp_path / "run")
    assert [c.name for c in bench.speech] == ["train", "train 2"] and alike[1].name == "train"
    bench.choices.put(corpora=["train 2"])
    assert bench.choices.arguments()["corpora"] == ["train 2"] and not bench.choices.problem
    assert Workbench.open(tiny_en, alike, scored, folder=tmp_path / "run").recipe.speech[1].name == "train 2"


def test_a_name_that_no_file_can_have_is_refused(tiny_en, learning, scored, tmp_path: Path):
    for name in ("../escaped", "a/b", "", ".hidden"):
        with pytest.raises(InputError, match="which no file can be"):
            Workbench(tiny_en, learning, {name: scored["target"]}, folder=tmp_path / "run")
