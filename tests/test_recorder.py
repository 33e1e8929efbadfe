"""Recording prompts: what is refused and why, what is on disk afterwards, and the widget over it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import adaptwin_widgets as aw
from adaptwin_widgets import takes
from adaptwin_widgets.takes import Takes, check, check_sound, from_microphone


@pytest.fixture(scope="module")
def clip():
    return aw.demo_speech()["target_dev"][0]


def test_the_prompts_are_many_and_varied():
    said = takes.prompts()
    assert len(said) == len(set(said)) >= 100
    assert all(re.fullmatch(r"[A-Z].{20,90}[.?]", prompt) for prompt in said)
    letters = "".join(said).lower()
    assert set("abcdefghijklmnopqrstuvwxyz") <= set(letters)


@pytest.mark.parametrize(
    ("samples", "problem"),
    [
        (np.zeros(16000), "Hardly anything"),
        (0.2 * np.sin(np.arange(4000) * 0.1), "too short"),
        (0.2 * np.sin(np.arange(31 * 16000) * 0.1), "longer than 30 seconds"),
        (np.clip(3 * np.sin(np.arange(16000) * 0.1), -1, 1), "clipped"),
    ],
)
def test_what_is_no_good_is_refused_with_a_reason(samples, problem):
    verdict = check_sound(samples.astype(np.float32))
    assert not verdict.good and not verdict.doubtful and problem in verdict.problem


def test_the_model_hears_whether_it_was_the_prompt(tiny_en, clip):
    right = check(clip.samples(), clip.text, tiny_en)
    assert right.good and "lemon cake" in right.heard
    wrong = check(clip.samples(), "Charles watched the cheerful children.", tiny_en)
    assert wrong.doubtful and not wrong.good and "lemon cake" in wrong.problem


def test_takes_are_a_corpus_on_disk_and_a_new_take_replaces_the_old(tmp_path, clip):
    one, two = clip.samples(), clip.samples()[:16000]
    folder = tmp_path / "ann's voice"
    first = Takes(folder, "ann")
    old = first.keep(one, "Good morning?")
    first.keep(one, "Über 9 – ja!")
    new = first.keep(two, "Good morning?")
    assert not Path(old.path).exists() and Path(new.path).is_file()
    corpus = aw.Corpus.from_manifest(folder / "manifest.jsonl")
    assert [u.text for u in corpus] == ["Good morning?", "Über 9 – ja!"] and list(corpus.speakers) == ["ann"]
    assert np.allclose(corpus[0].samples(), two, atol=1e-4)
    assert corpus[0].duration == 1.0
    again = Takes(folder, "ann")  # the next day
    again.keep(two, "A third.")
    assert len(aw.Corpus.from_manifest(folder / "manifest.jsonl")) == 3
    assert sorted(p.name for p in folder.rglob("*") if p.name.startswith(".")) == []


def test_the_browsers_rate_becomes_ours_and_nonsense_is_refused():
    tone = (0.3 * np.sin(2 * np.pi * 440 * np.arange(48000) / 48000)).astype("<f4")
    samples = from_microphone(tone.tobytes(), 48000)
    assert len(samples) == 16000 and np.abs(np.fft.rfft(samples)).argmax() == 440
    for data, rate in ((b"", 48000), (np.float32([np.nan]).tobytes(), 48000), (tone.tobytes(), 7)):
        with pytest.raises(aw.InputError, match="no sound that can be read"):
            from_microphone(data, rate)


def test_the_widget_keeps_refuses_asks_and_goes_on(tiny_en, tmp_path, clip):
    prompts = [clip.text, "Charles watched the cheerful children.", "Third."]
    recorder = aw.Recorder(tiny_en, tmp_path / "me", prompts=prompts)
    data = clip.samples().astype("<f4").tobytes()

    def send(index: int, sound: bytes) -> dict:
        recorder._receive(recorder, {"do": "take", "rate": 16000, "index": index}, [memoryview(sound)])
        while recorder.worker.busy:
            recorder.worker.tasks[-1].wait(60)
        assert not recorder.error
        return recorder.verdict

    assert send(0, data)["state"] == "kept" and list(recorder.taken) == prompts[:1]
    refused = send(1, np.zeros(16000, "<f4").tobytes())
    assert refused["state"] == "refused" and len(recorder.corpus) == 1
    recorder._receive(recorder, {"do": "keep"}, [])
    assert "no take to keep" in recorder.error["sentence"]
    assert send(1, data)["state"] == "doubtful" and len(recorder.corpus) == 1
    recorder._receive(recorder, {"do": "keep"}, [])
    assert recorder.verdict["state"] == "kept" and len(recorder.corpus) == 2
    recorder._receive(recorder, {"do": "take", "rate": 16000, "index": 9}, [memoryview(data)])
    assert "no prompt" in recorder.error["sentence"]
    again = aw.Recorder(tiny_en, tmp_path / "me", prompts=prompts)
    assert again.index == 2 and len(again.corpus) == 2, "another day goes on where this one ended"
    assert "2 takes" in again.summary()


def until(is_so: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def test_a_check_that_fails_or_is_stopped_is_said_and_over(tiny_en, tmp_path, clip, monkeypatch):
    recorder = aw.Recorder(tiny_en, tmp_path / "me", prompts=[clip.text])
    data = clip.samples().astype("<f4").tobytes()
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(recorder.takes, "keep", lambda *_: (_ for _ in ()).throw(full))
    recorder.take(data, 16000, 0)
    until(lambda: not recorder.worker.busy and recorder.error)
    assert "No space left" in recorder.error["sentence"] and recorder.verdict == {}
    hold = threading.Event()
    recorder.worker.submit("something else", lambda task: hold.wait(30))
    recorder.take(data, 16000, 0)
    assert recorder.verdict["state"] == "checking"
    recorder.worker.cancel_all()
    hold.set()
    until(lambda: not recorder.worker.busy)
    assert recorder.verdict == {} and not recorder.taken


@pytest.mark.parametrize("prompts", [[], ["One.", "One."], ["One.", " "]])
def test_prompts_that_cannot_be_read_are_refused(tiny_en, tmp_path, prompts):
    with pytest.raises(aw.InputError, match="each given once"):
        aw.Recorder(tiny_en, tmp_path, prompts=prompts)
