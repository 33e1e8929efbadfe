"""The command line: one JSON object for programs, one sentence and status 2 for what cannot be."""

import errno
import json
import re
import shutil
import signal
import subprocess
import sys

import pandas as pd
import pytest

import adaptwin_widgets as aw
from adaptwin_widgets import cli
from adaptwin_widgets.run import Run


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Small manifests of demonstration speech, and broken ones."""
    folder = tmp_path_factory.mktemp("cli")
    demo = aw.demo_speech()
    for name, corpus in demo.items():
        corpus[:6].to_manifest(folder / f"{name}.jsonl")
    good = (folder / "target_train.jsonl").read_text().splitlines()
    (folder / "broken.jsonl").write_text("\n".join([good[0], '{"audio": ', good[1]]) + "\n")
    (folder / "gone.jsonl").write_text(json.dumps({"id": "a", "audio": "gone.flac", "text": "Hello."}) + "\n")
    (folder / "empty.jsonl").write_text("")
    return folder


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command in this process: (status, standard output, standard error)."""

    def _run(*words):
        monkeypatch.setattr(sys, "argv", ["adaptwin", *map(str, words)])
        status = 0
        try:
            cli.main()
        except SystemExit as stop:
            status = stop.code
        out, err = capsys.readouterr()
        return status, out, err

    return _run


def refused(result, *words):
    """Status 2, nothing on standard output, one sentence with these words on standard error."""
    status, out, err = result
    assert (status, out) == (2, "") and len(err.strip().splitlines()) == 1, err
    for word in words:
        assert word in err, err
    assert "Traceback" not in err


def test_what_cannot_be_is_one_sentence(run, files, tmp_path):
    train = files / "target_train.jsonl"
    refused(run("evaluate", "no/such-model", "--speech", train), "no/such-model", "tiny.en")
    refused(run("evaluate", "./nowhere", "--speech", train), "nowhere")
    refused(run("evaluate", "tiny.en", "--speech", files / "broken.jsonl"), "broken.jsonl", "line 2")
    refused(run("evaluate", "tiny.en", "--speech", files / "gone.jsonl"), "line 1", "gone.flac")
    refused(run("evaluate", "tiny.en", "--speech", files / "empty.jsonl"), "empty.jsonl")
    refused(run("evaluate", "tiny.en", "--speech", files / "nothing.jsonl"), "nothing.jsonl")
    refused(run("plan", "tiny.en", "--encoder", "0.97", "-o", tmp_path / "p.json"), "encoder=0.97", "at most 0.")
    refused(run("plan", "tiny.en", "-o", tmp_path / "p.json"), "budget")
    refused(run("plan", "tiny.en", "--encoder", "half", "-o", tmp_path / "p.json"), "--encoder", "half")
    refused(run("plan", "tiny.en", "--encoder", "0.1", "--method", "magic", "-o", tmp_path / "p.json"), "magic")
    refused(run("plan", "tiny.en", "--encoder", "0.1", "--windows", "0", "-o", tmp_path / "p.json"), "--windows", "'0'")
    refused(run("compress", "tiny.en", "--speech", train, "-o", tmp_path / "d"), "--plan")
    refused(run("tune", "tiny.en", "--teacher", "tiny.en", "--speech", train, "--steps", 1, "-o", tmp_path / "d"),
            "not compressed")  # fmt: skip
    refused(run("study", "tiny.en", "--speech", train, "--eval", f"target={train}", "-o", tmp_path / "s"), "share")
    refused(run("study", "tiny.en", "--speech", train, "--eval", "dev.jsonl", "-o", tmp_path / "s"), "--eval")
    refused(run("study", "tiny.en", "--speech", train, "--eval", "a=b", "--points", "x", "-o", tmp_path / "s"), "x")
    study = ("study", "tiny.en", "--speech", train, "--eval", f"target={train}", "-o", tmp_path / "s")
    refused(run(*study, "--workers", 0), "--workers", "'0'")
    refused(run(*study, "--workers", 2, "--scheduler", "tcp://localhost:8786"), "one of the two")
    refused(run("fly"), "fly")
    assert not list(tmp_path.iterdir())  # nothing half-written


def test_a_folder_of_something_else_is_not_overwritten(run, files, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    refused(run("compress", "tiny.en", "--speech", files / "target_train.jsonl", "--encoder", 0.2, "-o", tmp_path),
            str(tmp_path))  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def ask(run, *words):
    """Run with --json; the one object on standard output."""
    status, out, err = run(*words, "--json")
    assert status == 0, err
    return json.loads(out)


def test_spectra_and_plan_from_the_weights(run, tmp_path):
    found = ask(run, "spectra", "tiny.en", "-o", tmp_path / "spectra.csv")
    table = pd.read_csv(tmp_path / "spectra.csv")
    assert found["rows"] == len(table) and list(table.columns)[:3] == ["part", "layer", "kind"]
    for method in ("ours", "uniform", "adaptwin"):
        found = ask(run, "plan", "tiny.en", "--encoder", 0.2, "--method", method, "-o", tmp_path / "plan.json")
        assert found["encoder_reduction"] == pytest.approx(0.2, abs=0.02) and found["decoder_reduction"] == 0
        plan = aw.RankPlan.load(tmp_path / "plan.json")
        assert plan.after.model == found["parameters_after"] < found["parameters_before"] == 37760256
        assert found["damage"] is None, "which is measured on speech"


def test_a_plan_for_speech_tells_its_damage(run, files, tmp_path):
    words = ("plan", "tiny.en", "--speech", files / "target_train.jsonl", "--windows", 2, "--allocation", "energy",
             "-o", tmp_path / "plan.json")  # fmt: skip
    ours, harsher, theirs = (
        ask(run, *words, "--encoder", share, "--method", method)["damage"]
        for share, method in ((0.2, "ours"), (0.4, "ours"), (0.2, "adaptwin"))
    )
    assert 0 < ours < harsher < theirs, "which cuts by weights alone"
    _, out, _ = run(*words, "--encoder", 0.2, "--vocabulary", "en:12000")
    assert f"{ours:.2g} nats a token" in out, "of what a cut vocabulary leaves to be said"


def test_compress_tune_evaluate(run, files, tmp_path):
    train, dev = files / "target_train.jsonl", files / "target_dev.jsonl"
    small, better = tmp_path / "small", tmp_path / "better"
    ask(run, "plan", "tiny.en", "--encoder", 0.2, "-o", tmp_path / "plan.json")
    made = ask(run, "compress", "tiny.en", "--speech", train, "--plan", tmp_path / "plan.json", "-o", small)
    assert made["encoder_reduction"] == pytest.approx(0.2, abs=0.01) and made["seconds"] > 0
    tuned = ask(run, "tune", small, "--teacher", "tiny.en", "--speech", train, "--steps", 1, "-o", better)
    assert tuned["steps"] == 1 and tuned["audio_seconds_seen"] > 0 and tuned["seconds"] > 0
    assert tuned["parameters_after"] == made["parameters_after"]
    hypotheses = tmp_path / "hypotheses.jsonl"
    score = ask(run, "evaluate", better, "--speech", dev, "--limit", 3, "--against", "tiny.en",
                "--hypotheses", hypotheses, "--condition", "noise:20")  # fmt: skip
    assert score["utterances"] == 3 and score["wer_low"] <= score["wer"] <= score["wer_high"]
    assert {"words", "insertions", "deletions", "substitutions", "audio_seconds", "seconds"} <= set(score)
    assert score["difference_low"] <= score["difference"] <= score["difference_high"]
    rows = [json.loads(line) for line in hypotheses.read_text().splitlines()]
    assert [set(r) >= {"id", "reference", "hypothesis"} for r in rows] == [True] * 3


def test_a_study_goes_on_where_it_stopped(run, files, tmp_path):
    words = ("study", "tiny.en", "--speech", files / "target_train.jsonl", "--speech", files / "general_train.jsonl",
             "--eval", f"target={files / 'target_dev.jsonl'}", "--eval", f"general={files / 'general_dev.jsonl'}",
             "--steps", 1, "--allocation", "energy", "--windows", 6, "-o", tmp_path / "run")  # fmt: skip
    first = ask(run, *words, "--points", "0.3")
    assert [p["name"] for p in first["points"]] == ["original", "encoder-30"]
    lines = (tmp_path / "run" / "records.jsonl").read_bytes()
    again = ask(run, *words, "--points", "0.2,0.3")
    assert (tmp_path / "run" / "records.jsonl").read_bytes().startswith(lines)
    assert [p["name"] for p in again["points"]] == ["original", "encoder-30", "encoder-20"]
    assert (tmp_path / "run" / "frontier.html").stat().st_size > 1e6
    study = aw.Study(tmp_path / "run")
    assert set(study["encoder-20"].scores) == {"target", "general"} and study.about["windows"] == 6
    assert study.model("encoder-20").config.ranks == study.plan("encoder-20").ranks
    refused(run(*words, "--points", "0.3", "--seed", 7), "seed")


def test_speech_in_any_layout(run, files, tmp_path):
    demo = list(aw.demo_speech()["target_train"][:4])
    for u in demo:
        shutil.copy(u.audio, tmp_path / u.audio.name)
        (tmp_path / f"{u.audio.stem}.txt").write_text(u.text)
    (tmp_path / f"{demo[0].audio.stem}.txt").write_text("words " * 40)
    (tmp_path / demo[3].audio.name).write_bytes(b"")
    found = ask(run, "speech", tmp_path, "-o", tmp_path / "out" / "mine.jsonl", "--drop")
    assert found["utterances"] == 3 and [p["kind"] for p in found["skipped"]] == ["empty audio"]
    assert [s["id"] for s in found["check"]["suspects"]] == [demo[0].audio.stem]
    assert [u.text for u in aw.Corpus.from_manifest(tmp_path / "out" / "mine.jsonl")] == [u.text for u in demo[1:3]]
    status, out, _ = run("speech", tmp_path)
    assert status == 0 and "3 utterances" in out and "1 skipped" in out and "words per second" in out
    found = ask(run, "speech", files / "broken.jsonl", "--model", "tiny.en")  # which the others refuse
    assert found["utterances"] == 2 and found["skipped"][0]["line"] == 2 and found["check"]["model"] == "tiny.en"
    refused(run("speech", tmp_path / "nowhere"), "nowhere", "no such file")
    refused(run("speech", files / "empty.jsonl"), "empty.jsonl", "it is empty")

    # The others say what they skip, and go on: here to the next mistake.
    status, _, err = run("evaluate", "tiny.en", "--speech", tmp_path, "--limit", 1, "--condition", "speed:1.1+fog")
    assert status == 2 and "1 items of" in err and f"{demo[3].audio.name}: holds nothing" in err and "'fog'" in err
    status, _, err = run("compress", "tiny.en", "--speech", tmp_path, "--plan", "gone.json", "-o", tmp_path / "small")
    assert status == 2 and "1 of 3 transcripts of" in err and "gone.json" in err


def test_demo_speech_can_be_taken_away(run, tmp_path):
    found = ask(run, "demo", "-o", tmp_path / "mine")
    assert len(aw.Corpus.from_manifest(f"{found['speech']}/target/train.jsonl")) == 50
    assert list((tmp_path / "mine" / "notebooks").glob("*.ipynb"))


def test_without_a_command_the_help_is_shown_as_it_is(run):
    status, out, err = run()
    assert (status, out) == (2, "") and err.startswith("Usage: ") and "\n  evaluate " in err


def test_where_nothing_can_be_written_is_said_before_the_work(run, files, tmp_path, monkeypatch):
    (tmp_path / "thesis.txt").write_text("precious")
    inside = tmp_path / "thesis.txt" / "new"
    speech = ("--speech", "no.jsonl")  # what comes first in the work
    commands = {
        "spectra": ("no/model", "-o"), "plan": ("no/model", "--encoder", 0.2, "-o"), "speech": ("no.jsonl", "-o"),
        "evaluate": ("no/model", *speech, "--hypotheses"),
    }  # fmt: skip
    for command, words in commands.items():
        refused(run(command, *words, tmp_path), f"{tmp_path} is a folder; give a file")
        refused(run(command, *words, inside), "thesis.txt is a file; give another path")
    tune = ("tune", "no/model", "--teacher", "tiny.en", *speech, "--steps", 1, "-o")
    refused(run("compress", "no/model", *speech, "--encoder", 0.2, "-o", inside), "thesis.txt is a file")
    refused(run(*tune, inside), "thesis.txt is a file")
    refused(run("demo", "-o", inside), "thesis.txt is a file")
    refused(run("export", "no/model", "-o", inside), "thesis.txt is a file")
    refused(run("export", "no/model", "-o", tmp_path), "is not empty and holds no export")
    refused(run("export", "no/model", "-o", tmp_path / "new", "--dtype", "int9"), "'int9' is no number format")
    train, dev = files / "target_train.jsonl", files / "target_dev.jsonl"
    study = ("study", "tiny.en", "--speech", train, "--eval", f"a={dev}", "-o", tmp_path / "thesis.txt")
    refused(run(*study), "thesis.txt is a file")
    twice = ("study", "tiny.en", "--speech", train, "--eval", f"a={dev}", "--eval", f"a={train}", "-o")
    refused(run(*twice, tmp_path / "run"), "--eval a is given twice")
    away = ("study", "tiny.en", "--speech", train, "--eval", f"../a={dev}", "--points", 0.3, "-o", tmp_path / "run")
    refused(run(*away), "'../a', which no file can be")
    assert (tmp_path / "thesis.txt").read_text() == "precious" and len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr("os.access", lambda path, mode: False)
    refused(run("spectra", "no/model", "-o", tmp_path / "new.csv"), "you may not write to")


def test_what_the_system_refuses_is_one_sentence(run, tmp_path, monkeypatch):
    def full(*rest):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "plan.json"))

    monkeypatch.setattr("adaptwin_widgets.plan.write_atomically", full)
    refused(run("plan", "tiny.en", "--encoder", 0.2, "-o", tmp_path / "plan.json"),
            "plan.json cannot be used (No space left on device)")  # fmt: skip


def test_a_study_that_cannot_be_leaves_no_folder(run, files, tmp_path):
    words = ("study", "tiny.en", "--speech", files / "target_train.jsonl", "--eval",
             f"target={files / 'target_dev.jsonl'}", "-o", tmp_path / "run")  # fmt: skip
    refused(run(*words, "--minutes", 1, "--steps", 10), "minutes or steps, one of the two")
    refused(run(*words, "--steps", 0), "A tune of 0 is none")
    refused(run(*words, "--minutes", -1), "A tune of -1.0 is none")
    refused(run(*words, "--points", "0.15,0.3,45"), "encoder=45.0 is no fraction")
    refused(run(*words, "--points", "0.15,0.99"), "encoder=0.99 cannot be met")
    refused(run(*words, "--target-weight", 50), "target's weight is 50")
    refused(run(*words, "--transcripts", 50), "transcripts=50.0 is no share")
    assert not (tmp_path / "run").exists()


def test_ctrl_c_ends_a_tune_with_the_best_so_far(run, files, tmp_path, monkeypatch):
    train, small, better = files / "target_train.jsonl", tmp_path / "small", tmp_path / "better"
    model = aw.load("tiny.en")
    aw.compress(model, aw.RankPlan.for_budget(aw.spectra(model), encoder=0.2)).save_pretrained(small)
    tune = ("tune", small, "--teacher", "tiny.en", "--speech", train, "--steps", 3, "-o", better)
    refused(run(*tune, "--target-weight", 50), "target's weight is 50.0")
    refused(run(*tune, "--transcripts", -1), "transcripts=-1.0 is no share")
    step = Run.step

    def interrupted(self, fraction):
        step(self, fraction)
        if self.progress.steps == 2:
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # where tests run in the background it is ignored
    monkeypatch.setattr(Run, "step", interrupted)
    status, out, _ = run(*tune)
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler
    assert status == 0 and out.startswith("Stopped after 2 steps") and "--resume" in out
    assert aw.load(better).notes["tuning"]["stopped"] and (tmp_path / "better.tuning").is_file()
    monkeypatch.setattr(Run, "step", step)
    assert ask(run, *tune, "--resume")["steps"] == 3

    monkeypatch.chdir(small)  # a model in its own place, which has no name
    refused(run("tune", ".", "--teacher", "tiny.en", "--speech", "no.jsonl", "--steps", 1, "-o", "."), "no.jsonl")


def test_an_evaluation_says_the_language(run, files):
    status, out, _ = run("evaluate", "tiny.en", "--speech", files / "target_dev.jsonl", "--limit", 2)
    assert status == 0 and re.match(r"[\d.]+ % word errors in English, 95 % interval .*; 2 utterances in", out)


def test_the_installed_command_fails_cleanly():
    found = subprocess.run([sys.executable, "-m", "adaptwin_widgets.cli", "evaluate", "tiny.en"],
                           capture_output=True, text=True, check=False)  # fmt: skip
    assert found.returncode == 2 and found.stdout == "" and "--speech" in found.stderr
