"""Listen: words aligned, clips that got worse, pictures of sound, and the widget over them, without a browser."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from traitlets import Any as AnyTrait
from traitlets import HasTraits, Unicode
from transformers import WhisperFeatureExtractor

import adaptwin_widgets as aw
from adaptwin_widgets import comparison, listening
from adaptwin_widgets.alignment import Piece, align, count_errors, interlinear, worst_first
from adaptwin_widgets.comparison import stored_by
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.features import log_mel
from adaptwin_widgets.jobs import Cancelled
from adaptwin_widgets.listening import Listening
from adaptwin_widgets.score import normaliser, score_texts
from adaptwin_widgets.sound import mel_row, spectrogram, to_wav, waveform
from adaptwin_widgets.speech import Corpus, Utterance
from adaptwin_widgets.transcribe import Transcript
from adaptwin_widgets.whisper import Whisper
from adaptwin_widgets.widgets.listen import Listen
from adaptwin_widgets.worker import Worker

RATE = 16_000


# -- words --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("Good day.", "good DAY", [("equal", "good day", "good day")]),
        ("a red", "a very red", [("equal", "a", "a"), ("insert", "", "very"), ("equal", "red", "red")]),
        ("a red dog", "a dog", [("equal", "a", "a"), ("delete", "red", ""), ("equal", "dog", "dog")]),
        ("a red dog", "a bread dog", [("equal", "a", "a"), ("substitute", "red", "bread"), ("equal", "dog", "dog")]),
        ("twenty-one men", "21 men", [("equal", "21 men", "21 men")]),
        ("Mr. Brown, my favourite", "mister brown my favorite", [("equal", *["mister brown my favorite"] * 2)]),
        ("", "anything at all", [("insert", "", "anything at all")]),
        ("anything at all", "", [("delete", "anything at all", "")]),
        ("(laughs)", "[noise]", []),
    ],
)  # fmt: skip
def test_texts_are_aligned_by_words(reference, hypothesis, expected):
    assert [(kind, " ".join(r), " ".join(h)) for kind, r, h in align(reference, hypothesis)] == expected


def test_characters_are_aligned_where_words_are_not_spaced():
    assert align("はい。", "はえ", "ja") == [Piece("equal", ("は",), ("は",)), Piece("substitute", ("い",), ("え",))]


def test_errors_are_counted_as_the_score_counts_them():
    references = ["the cat sat on the mat", "a dog barked", "rain again", "", "up"]
    said = ["the cat sat on mat tonight", "a dog has parked", "rain again", "oh my", ""]
    for row in score_texts(references, said, list("abcde")).hypotheses:
        counts = count_errors(align(row.reference, row.hypothesis))
        expected = {
            "words": row.words, "substitute": row.substitutions, "insert": row.insertions, "delete": row.deletions,
        }  # fmt: skip
        assert counts == expected, row.id


def test_hypotheses_stand_under_each_other():
    reference = "the quick brown fox jumps"
    said = ["the very quick fox jumps over it", "a quick brown box", "", reference]
    columns = interlinear([align(reference, text) for text in said])
    assert [c.reference for c in columns if c.reference] == reference.split()
    for k, text in enumerate(said):  # reading along a row gives the hypothesis back
        cells = [c.heard[k] for c in columns if c.heard[k]]
        assert [cell.word for cell in cells if cell.kind != "delete"] == text.split()
        for column in columns:
            if column.reference:
                kind, word = column.heard[k]
                assert kind != "insert" and (kind == "substitute") == (word != column.reference)
    assert interlinear([]) == []


SAID = ["red green", "hot cold", "up down", "left right"]
IDS = ["a", "b", "c", "d"]


def test_clips_that_got_worse_come_first():
    before = score_texts(SAID, ["red", "hot cold", "up down", "off"], IDS)
    after = score_texts(SAID, ["red green", "hat called", "up", "off on"], IDS)
    assert worst_first(before, after) == ["b", "c", "d", "a"]  # +2, +1, 0, -1
    assert worst_first(after, before) == ["a", "d", "c", "b"]
    hard = score_texts(SAID, ["red green", "hot", "up down", "off on"], IDS)
    assert worst_first(hard, hard) == ["d", "b", "a", "c"]  # none got worse: those with most errors, then as they were


def test_scores_of_other_clips_are_not_compared():
    score = score_texts(SAID, SAID, IDS)
    with pytest.raises(InputError, match="not of the same utterances"):
        worst_first(score, score_texts(SAID, SAID, IDS[::-1]))
    with pytest.raises(InputError, match="not of the same utterances"):
        worst_first(score, score_texts(SAID[:3], SAID[:3], IDS[:3]))


# -- sound --------------------------------------------------------------------------------------------------------


def tone(hertz: float, seconds: float = 1.0, loudness: float = 0.5) -> np.ndarray:
    return (loudness * np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def test_the_wav_holds_the_samples():
    samples = tone(440) * 3  # too loud in places
    heard, rate = soundfile.read(io.BytesIO(to_wav(samples)), dtype="float32")
    assert rate == RATE and heard.shape == samples.shape
    assert np.abs(heard - np.clip(samples, -1, 1)).max() < 1e-4


@pytest.mark.parametrize("columns", [1, 7, 100, 16_000, 20_000])
def test_the_waveform_holds_every_extreme(columns):
    samples = tone(100) * np.linspace(0, 1, RATE, dtype=np.float32)
    wave = waveform(samples, columns)
    assert wave.shape == (columns, 2) and wave.dtype == np.float32
    assert (wave[:, 0] <= wave[:, 1]).all()
    assert wave.min() == samples.min() and wave.max() == samples.max()
    if columns == 100:  # each column is its own hundredth of a second
        assert np.allclose(wave[:, 1], samples.reshape(100, 160).max(1))
    assert (waveform(samples[:0], columns) == 0).all()


@pytest.mark.parametrize("rows", [80, 128])
@pytest.mark.parametrize("hertz", [300, 1000, 3000, 6000])
def test_a_tone_is_brightest_in_its_mel_band(hertz, rows):
    picture = spectrogram(tone(hertz), 1000, rows)
    assert picture.shape == (rows, 100) and picture.dtype == np.uint8 and picture.max() == 255
    brightest = picture[:, 20:80].argmax(0) + 0.5
    assert np.abs(brightest - mel_row(hertz, rows)).max() <= 1


def test_the_spectrogram_is_what_whisper_sees():
    rng = np.random.default_rng(0)
    samples = tone(500, 2.3) + 0.01 * rng.standard_normal(int(2.3 * RATE)).astype(np.float32)
    seen = log_mel([samples], WhisperFeatureExtractor())[0].numpy()
    picture = spectrogram(samples, 1000)
    assert picture.shape == (80, 230)
    assert np.abs(picture / 255 * 2 + seen.max() - 2 - seen[:, :230]).max() < 0.005  # half a step of 1/127
    narrow = spectrogram(samples, 23)
    assert (narrow == picture.reshape(80, 23, 10).max(2)).all()


def test_a_clip_longer_than_the_window_has_no_spectrogram():
    with pytest.raises(InputError, match=r"31\.0 s is longer"):
        spectrogram(tone(440, 31), 100)


# -- the widget, over models that say what they are told to ------------------------------------------------------


class Ears:
    """Stands in for transcribing: what a model says of a clip, by both names. A closed gate holds it up."""

    def __init__(self) -> None:
        self.says: dict[tuple[str, str], str] = {}
        self.calls: list[tuple[str, str]] = []
        self.open = threading.Event()
        self.open.set()
        self.tasks: list = []  # all that were asked for; a quiet one leaves the worker's list when it is over

    def transcribe(
        self, model: Whisper, sounds: list, *, language: str | None = None, job: Any = None
    ) -> list[Transcript]:
        found = []
        for sound in sounds:
            self.calls.append((model.source, sound.id))
            while not self.open.wait(0.005):
                job.check()
            said = self.says.get((model.source, sound.id), "one red apple")
            if said == "fail":
                raise RuntimeError("out of memory")
            assert len(sound.samples()) == round(sound.duration * RATE)
            found.append(Transcript(sound.id, said, (), sound.duration, "en", False))
        return found

    def evaluate(self, model: Whisper, corpus: Corpus, *, language: str | None = None, job: Any = None) -> Any:
        job.update(0, len(corpus), "Transcribing")
        said = [text.text for text in self.transcribe(model, list(corpus), job=job)]
        job.update(len(corpus))
        return score_texts([u.text for u in corpus], said, [u.id for u in corpus])


@pytest.fixture
def ears(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ears]:
    ears, submit = Ears(), Worker.submit
    tasks = ears.tasks
    monkeypatch.setattr(listening, "transcribe", ears.transcribe)
    monkeypatch.setattr(comparison, "evaluate", ears.evaluate)
    monkeypatch.setattr(Worker, "submit", lambda *args, **more: tasks.append(submit(*args, **more)) or tasks[-1])
    yield ears
    ears.open.set()
    for task in tasks:  # what a test leaves running would work with the next one's ears
        task.cancel()
        task._over.wait(5)


def whisper(name: str, mels: int = 80) -> Whisper:
    model = SimpleNamespace(config=SimpleNamespace(num_mel_bins=mels), generation_config=None)
    return Whisper(model, None, name)


@pytest.fixture
def speech(tmp_path: Path) -> dict[str, Corpus]:
    utterances = []
    for k, name in enumerate("abcde"):
        path = tmp_path / f"{name}.wav"
        soundfile.write(path, tone(300 + 100 * k, 0.5 + 0.1 * k), RATE)
        utterances.append(Utterance(name, path, "One red apple.", "ann", 0.5 + 0.1 * k))
    return {"target": Corpus(utterances[:4], "mine"), "general": Corpus(utterances[4:], "others")}


@pytest.fixture
def pair() -> dict[str, Whisper]:
    return {"original": whisper("big"), "encoder-30": whisper("little")}


def settle(is_so: Callable[[], Any], seconds: float = 5) -> None:
    """Wait until something is so: what the page is sent comes from the worker."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)


def press(view: Listen, do: str, **more: Any) -> None:
    """What the page sends when somebody does something."""
    view._handle_custom_msg({"do": do, **more}, [])


def rows(view: Listen) -> dict[str, dict]:
    return {row["name"]: row for row in view.transcript["rows"]}


def done(view: Listen) -> bool:
    return all(row["state"] == "done" for row in view.transcript["rows"])


def messages_to_page(view: Listen, monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict, list]]:
    """States and buffers sent from now on."""
    sent: list[tuple[dict, list]] = []
    monkeypatch.setattr(
        view.comm, "send", lambda data, buffers=None, **_: sent.append((data.get("state", {}), list(buffers or [])))
    )
    return sent


def test_the_first_clip_is_shown_and_nothing_runs_until_somebody_looks(ears, pair, speech):
    view = Listen(pair, speech)
    assert view.corpora == ["target", "general"] and view.choice == {"corpus": "target", "position": 0}
    assert [clip[0] for clip in view.clips] == list("abcd") and view.clips[1] == ["b", "0.6 s", "One red apple."]
    assert view.audio[:4] == b"RIFF" and view.sound["seconds"] == 0.5
    assert view.transcript["asleep"] and not ears.calls and not view.listening.worker.tasks
    assert [column["reference"] for column in view.transcript["columns"]] == ["one", "red", "apple"]
    press(view, "wake")
    settle(lambda: done(view))
    assert not view.transcript["asleep"] and set(ears.calls) == {("big", "a"), ("little", "a")}
    press(view, "wake")  # a second view of it
    assert len(ears.tasks) == 1


def test_a_chosen_clip_is_heard_seen_and_read(ears, pair, speech):
    ears.says = {("big", "c"): "one red apple", ("little", "c"): "one bread and apple"}
    view = Listen(pair, speech)
    press(view, "choose", corpus="target", position=2)
    settle(lambda: done(view))
    assert view.choice == {"corpus": "target", "position": 2} and view.sound["id"] == "c"
    heard, _ = soundfile.read(io.BytesIO(view.audio), dtype="float32")
    assert np.allclose(heard, speech["target"][2].samples(), atol=1e-4)
    wave = np.frombuffer(view.wave, np.float32).reshape(-1, 2)
    assert wave.shape[0] == 1500 and wave.max() == pytest.approx(view.sound["peak"]) == pytest.approx(0.5, abs=1e-3)
    mel = np.frombuffer(view.mel, np.uint8).reshape(view.sound["rows"], view.sound["frames"])
    assert mel.shape == (80, 70) and abs(mel[:, 30].argmax() + 0.5 - mel_row(500)) <= 1
    assert [round(share, 2) for _, share in view.sound["ticks"]] == [0.16, 0.33, 0.56, 0.78]
    original, small = rows(view)["original"], rows(view)["encoder-30"]
    assert original["errors"] == "0 errors in 3 words" and small["errors"] == "2 errors in 3 words"
    assert small["counts"] == {"words": 3, "substitute": 1, "insert": 1, "delete": 0}
    assert original["time"].endswith(" s") and float(original["speed"]) > 1
    kinds = [[cell and tuple(cell) for cell in column["heard"]] for column in view.transcript["columns"]]
    assert tuple(kinds[-1]) == (("equal", "apple"), ("equal", "apple"))
    assert sorted(cell[1][0] for cell in kinds) == ["equal", "equal", "insert", "substitute"]


def test_everything_binary_comes_in_one_message(ears, pair, speech, monkeypatch):
    view = Listen(pair, speech)
    sent = messages_to_page(view, monkeypatch)
    view.choose("target", "b")
    settle(lambda: done(view))
    binary = [(state, buffers) for state, buffers in sent if buffers]
    assert len(binary) == 1
    state, buffers = binary[0]
    assert len(buffers) == 3 and state["choice"]["position"] == 1 and state["sound"]["id"] == "b"
    assert sorted(map(len, buffers)) == sorted(map(len, (view.audio, view.wave, view.mel)))
    assert not any("clips" in state for state, _ in sent)  # the list is sent once a corpus
    view.choose("general")
    assert [state["clips"][0][0] for state, _ in sent if "clips" in state] == ["e"]


@pytest.mark.parametrize(
    ("corpus", "clip", "sentence"),
    [
        ("nobody", 0, "there is no corpus 'nobody'; choose 'target' or 'general'."),
        ("target", "z", "the corpus 'target' has no clip 'z'; 'a' is its first."),
        ("target", 4, "the corpus 'target' has clips 0 to 3, no clip 4."),
        ("target", -1, "the corpus 'target' has clips 0 to 3, no clip -1."),
    ],
)
def test_what_does_not_exist_is_refused(ears, pair, speech, corpus, clip, sentence):
    view = Listen(pair, speech)
    with pytest.raises(InputError) as raised:
        view.choose(corpus, clip)
    assert str(raised.value) == sentence
    assert view.choice == {"corpus": "target", "position": 0}
    press(view, "choose", corpus=corpus, position=clip)
    assert view.error == {"sentence": sentence}
    press(view, "choose", corpus="target", position=1)
    assert view.error == {}


def test_wrong_arguments_are_refused(pair, speech):
    with pytest.raises(InputError, match="not 'modles'; leave it out"):
        Listen(pair, speech, modles=1)
    with pytest.raises(InputError, match=r"models\['a'\] is of type str, not Whisper; make one with aw.load"):
        Listen({"a": "tiny.en"}, speech)
    with pytest.raises(InputError, match="speech must map names"):
        Listen(pair)
    with pytest.raises(InputError, match="models must map names"):
        Listen({}, speech)
    with pytest.raises(InputError, match="'none' holds no utterances"):
        Listen(pair, {"none": Corpus([])})
    with pytest.raises(InputError, match="there is no order 'loudest'"):
        Listen(pair, speech).listening.arrange("loudest")
    with pytest.raises(InputError, match="not known yet; find them first"):
        Listen(pair, speech).listening.arrange("worst")


def test_moving_on_quickly_leaves_the_last_clip_shown(ears, pair, speech):
    ears.says = {("big", name): f"one red {name}" for name in "abcd"}
    ears.open.clear()
    view = Listen(pair, speech)
    for position in (0, 1, 2, 3):
        press(view, "choose", corpus="target", position=position)
        assert view.sound["id"] == "abcd"[position]  # sound does not wait for the models
        settle(lambda position=position: ("big", "abcd"[position]) in ears.calls)
        assert rows(view)["original"]["note"] == "transcribing …" and rows(view)["encoder-30"]["note"] == "waiting …"
    ears.open.set()
    settle(lambda: done(view))
    assert view.choice["position"] == 3 and rows(view)["original"]["text"] == "one red d"
    settle(lambda: [task.state for task in ears.tasks] == ["stopped"] * 3 + ["done"])
    assert ("little", "a") not in ears.calls  # what is left of an older clip is dropped


def test_clips_passed_while_the_worker_is_busy_are_never_begun(ears, pair, speech):
    worker, gate = Worker(), threading.Event()
    worker.submit("tune", lambda task: gate.wait(5))
    view = Listen(pair, speech, worker=worker)
    for position in (0, 1, 2, 3):
        press(view, "choose", corpus="target", position=position)
    gate.set()
    settle(lambda: done(view))
    assert {name for _, name in ears.calls} == {"d"}


def test_a_clip_seen_before_costs_no_second_pass(ears, pair, speech):
    view = Listen(pair, speech)
    view.choose("target", "a")
    settle(lambda: done(view))
    assert ears.calls.count(("big", "a")) == 2  # the first run of a model warms it up and is not timed
    view.choose("target", "b")
    settle(lambda: done(view))
    assert ears.calls.count(("big", "b")) == 1
    calls = len(ears.calls)
    view.choose("target", "a")
    assert done(view) and rows(view)["original"]["time"]
    assert len(ears.calls) == calls


def test_one_model_is_enough_to_listen(ears, pair, speech):
    view = Listen({"original": pair["original"]}, speech)
    view.choose("general", "e")
    settle(lambda: done(view))
    assert list(rows(view)) == ["original"]
    assert not view.search["can"] and "only one model" in view.search["why"]
    press(view, "find")
    assert "there is only one model" in view.error["sentence"]


def test_a_missing_file_is_named_and_nothing_runs(ears, pair, speech):
    speech["target"][1].audio.unlink()
    view = Listen(pair, speech)
    press(view, "choose", corpus="target", position=1)
    assert "no such audio file" in view.sound["problem"] and view.audio == view.mel == b""
    assert not view.error and not ears.calls and not view.listening.worker.tasks
    press(view, "choose", corpus="target", position=2)
    settle(lambda: done(view))
    assert view.sound["problem"] == "" and view.audio


def test_a_clip_longer_than_the_window_can_still_be_heard(ears, pair, tmp_path):
    soundfile.write(tmp_path / "long.wav", tone(200, 31), RATE)
    view = Listen(pair, {"target": Corpus([Utterance("long", tmp_path / "long.wav", "Much.", "ann", 31.0)])})
    assert "longer than Whisper's window" in view.sound["problem"]
    assert len(view.audio) > 31 * RATE and view.wave and view.mel == b""


def test_a_model_that_fails_leaves_the_others(ears, pair, speech):
    ears.says[("big", "b")] = "fail"
    view = Listen(pair, speech)
    view.choose("target", "b")
    settle(lambda: rows(view)["encoder-30"]["state"] == "done")
    failed = rows(view)["original"]
    assert failed["state"] == "failed" and failed["error"] == "RuntimeError: out of memory"
    assert "Traceback" in failed["details"] and failed["text"] is None
    with pytest.raises(RuntimeError, match="original cannot transcribe 'b': RuntimeError: out of memory"):
        view.listening.wait()
    del ears.says["big", "b"]
    press(view, "again")
    settle(lambda: done(view))
    assert rows(view)["original"]["error"] == ""


def test_stopped_from_elsewhere_is_said(ears, pair, speech):
    ears.open.clear()
    view = Listen(pair, speech)
    view.choose("target", "a")
    settle(lambda: ears.calls)
    view.listening.worker.cancel_all()
    settle(lambda: {row["state"] for row in view.transcript["rows"]} == {"stopped"})
    assert rows(view)["original"]["note"] == "stopped"
    ears.open.set()
    press(view, "again")
    settle(lambda: done(view))


def test_other_work_that_comes_first_is_named(ears, pair, speech):
    worker, gate = Worker(), threading.Event()
    worker.submit("Try encoder-45", lambda task: gate.wait(5))
    settle(lambda: worker.running)
    view = Listen(pair, speech, worker=worker)
    view.choose("target", "a")
    assert rows(view)["original"]["note"] == "waiting until “Try encoder-45” is over"
    gate.set()
    settle(lambda: done(view))


def test_clips_that_got_worse_are_found_and_shown(ears, pair, speech, monkeypatch):
    ears.says = {("big", "a"): "one red", ("little", "c"): "one bread table", ("little", "d"): "one apple"}
    view = Listen(pair, speech)
    view.choose("target", "b")
    settle(lambda: done(view))
    press(view, "find")
    settle(lambda: view.ranking["positions"] and not view.search["active"])
    assert view.ranking["order"] == "worst" and view.ranking["positions"] == [2, 3, 1, 0]
    assert view.ranking["errors"] == [[1, 0], [0, 0], [0, 2], [0, 1]]
    summary = "From original to encoder-30, 2 of 4 clips got worse, 1 better; errors went from 1 to 3, in 12 words."
    assert view.ranking["summary"] == summary
    settle(lambda: view.choice["position"] == 2 and done(view))  # the worst one is taken
    assert rows(view)["encoder-30"]["errors"] == "2 errors in 3 words"
    assert ("big", "d") in ears.calls and ears.calls.count(("big", "c")) == 2  # once in the search, once for the time
    press(view, "arrange", order="corpus")
    assert view.ranking["positions"] == [] and view.ranking["errors"]
    view.choose("general")
    assert view.ranking["errors"] == [] and view.search["can"]
    view.choose("target")
    assert view.ranking["errors"]


def test_a_clip_chosen_during_the_search_stays(ears, pair, speech):
    ears.says = {("little", "c"): "one bread table"}
    view = Listen(pair, speech)
    ears.open.clear()
    press(view, "find")
    settle(lambda: ears.calls)
    assert view.search["active"] and view.search["text"] == "Transcribing with original"
    press(view, "find")  # pressed twice
    assert len(ears.tasks) == 1
    press(view, "choose", corpus="target", position=3)
    ears.open.set()
    settle(lambda: view.ranking["positions"] and done(view))
    assert view.choice["position"] == 3 and view.ranking["positions"][0] == 2


def test_the_search_can_be_cancelled_and_says_when_it_fails(ears, pair, speech):
    view = Listen(pair, speech)
    ears.open.clear()
    press(view, "find")
    settle(lambda: ears.calls)
    press(view, "cancel")
    settle(lambda: not view.search["active"])
    assert view.search["can"] and view.search["error"] == "" and not view.ranking["errors"]
    ears.open.set()
    ears.says["little", "a"] = "fail"
    press(view, "find")
    settle(lambda: view.search["error"])
    assert view.search["error"] == "RuntimeError: out of memory" and "Traceback" in view.search["details"]


def test_a_corpus_with_its_noisy_copy_is_told_apart(ears, pair, speech):
    both = speech["target"] + speech["target"].with_noise(10)
    view = Listen(pair, {"both": both})
    press(view, "choose", corpus="both", position=6)
    settle(lambda: done(view))
    assert view.sound["id"] == "c" and view.audio != to_wav(both[2].samples())
    view.find_worse()
    settle(lambda: sorted(view.ranking["positions"]) == list(range(8)))


# -- a workbench -------------------------------------------------------------------------------------------------


class Bench(HasTraits):
    """As much of a workbench as Listen sees."""

    small = AnyTrait(None, allow_none=True)
    current = Unicode("original")

    def __init__(self, model: Whisper, evaluations: dict[str, Corpus], folder: Path):
        super().__init__()
        self.model, self.evaluations, self.worker = model, evaluations, Worker()
        self.study = Files(folder)


class Files(dict):
    """As much of a study as Listen sees: records by name, hypotheses in files."""

    def __init__(self, folder: Path):
        self.folder = folder

    def hypotheses_file(self, name: str, evaluation: str) -> Path:
        return self.folder / f"{name}.{evaluation}.jsonl"

    def write(self, name: str, evaluation: str, corpus: Corpus, said: list[str]) -> None:
        self[name] = SimpleNamespace(scores={evaluation: {"language": "en"}})
        score = score_texts([u.text for u in corpus], said, [u.id for u in corpus])
        score.write_hypotheses(self.hypotheses_file(name, evaluation))


@pytest.fixture
def bench(pair, speech, tmp_path) -> Bench:
    return Bench(pair["original"], speech, tmp_path)


def test_it_follows_the_workbench(ears, bench, pair):
    view = Listen.of(bench)
    assert Listen.of(bench).listening is view.listening and view.listening.worker is bench.worker
    view.choose("target", "b")
    settle(lambda: done(view))
    assert list(rows(view)) == ["original"]
    bench.current, bench.small = "encoder-30", pair["encoder-30"]
    assert list(rows(view)) == ["original", "encoder-30"]
    assert rows(view)["original"]["state"] == "done"  # what is known stays
    assert view.transcript["asleep"] and ("little", "b") not in ears.calls
    press(view, "wake")
    settle(lambda: done(view))
    assert ears.calls.count(("big", "b")) == 2
    bench.current = "encoder-45"  # going back to another try, whose model is still being loaded
    assert list(rows(view)) == ["original", "encoder-30"]
    bench.small = whisper("other")
    assert list(rows(view)) == ["original", "encoder-45"] and rows(view)["encoder-45"]["text"] is None
    bench.current, bench.small = "original", None
    assert list(rows(view)) == ["original"]
    assert {key[0] for key in view.listening._cache} == {id(bench.model)}


def test_texts_of_the_study_are_not_transcribed_again(ears, bench, pair, speech):
    same = ["one red apple"] * 4
    bench.study.write("original", "target", speech["target"], same)
    bench.study.write("encoder-30", "target", speech["target"], [*same[:3], "one apple"])
    bench.current, bench.small = "encoder-30", pair["encoder-30"]
    view = Listen.of(bench)
    assert rows(view)["encoder-30"]["errors"] == "0 errors in 3 words" and not rows(view)["encoder-30"]["time"]
    view.find_worse().wait(5)
    assert view.ranking["positions"][0] == 3 and "from the study's files" in view.ranking["summary"]
    settle(lambda: view.choice["position"] == 3 and done(view))
    assert rows(view)["encoder-30"]["errors"] == "1 error in 3 words" and rows(view)["encoder-30"]["time"]
    assert {name for _, name in ears.calls} == {"d"}  # only to take its time


def test_files_of_other_speech_or_damaged_ones_are_left_alone(ears, bench, speech):
    bench.study.write("original", "target", speech["target"][:3], ["no"] * 3)
    view = Listen.of(bench)
    assert rows(view)["original"]["text"] is None
    for damaged in ('{"id": "a"', '{"id": "a"}\n', "[1]\n"):
        bench.study.hypotheses_file("original", "target").write_text(damaged)
        assert stored_by(bench.study, "original", "target") is None
    view.choose("target", "a")
    settle(lambda: done(view))
    assert rows(view)["original"]["text"] == "one red apple"


def test_models_that_change_during_the_search_end_it(ears, bench, pair):
    bench.current, bench.small = "encoder-30", pair["encoder-30"]
    view = Listen.of(bench)
    ears.open.clear()
    task = view.find_worse()
    settle(lambda: ears.calls)
    bench.current, bench.small = "encoder-45", whisper("other")
    with pytest.raises(Cancelled):
        task.wait(5)
    assert not view.ranking["errors"] and not view.search["active"] and view.search["can"]


def test_closed_it_follows_no_more(ears, bench, monkeypatch):
    view, other = Listen.of(bench), Listen.of(bench)
    view.close()
    other.choose("target", "c")
    settle(lambda: done(other))
    assert view.sound["id"] == "a"


def test_a_page_without_a_kernel_shows_the_words(ears, pair, speech):
    ears.says = {("little", "a"): "won <red> and apple"}
    view = Listen(pair, speech)
    view.choose("target", "a")
    settle(lambda: done(view))
    summary = view.summary()
    assert "<u>won</u>" in summary and "One red apple." in summary and "in 3 words" in summary
    assert "<red>" not in summary and "script" not in summary


# -- a real model ------------------------------------------------------------------------------------------------


def test_a_real_clip(tiny_en):
    corpus = aw.demo_speech()["target_dev"]
    shown = Listening({"original": tiny_en}, {"target": corpus})
    shown.choose("target", 1)
    shown.wait(60)
    reading = shown.readings["original"]
    assert reading.state == "done" and 0.01 < reading.seconds < 60
    assert reading.text == aw.transcribe(tiny_en, [corpus[1]])[0].text
    errors = count_errors(align(corpus[1].text, reading.text, reading.language))
    assert errors["words"] == len(normaliser("en")(corpus[1].text).split())
    assert sum(errors.values()) - errors["words"] <= errors["words"] // 3  # it does hear something
