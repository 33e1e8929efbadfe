"""Hear a clip, see it, and read what each model makes of it, the errors marked."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import numpy as np
import traitlets

from adaptwin_widgets.alignment import align, count_errors, interlinear
from adaptwin_widgets.audio import SAMPLE_RATE
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.listening import Clip, Listening, Reading
from adaptwin_widgets.score import WITHOUT_SPACES
from adaptwin_widgets.sound import mel_row, spectrogram, to_wav, waveform
from adaptwin_widgets.speech import Corpus
from adaptwin_widgets.whisper import Whisper
from adaptwin_widgets.widgets.base import View, source
from adaptwin_widgets.worker import Task, Worker

COLUMNS = 1500  # of both pictures: as many as the widest screen shows, and at most 170 kB
TICKS = (500, 1000, 2000, 4000)  # Hz
MARKS = {"equal": "{}", "substitute": "<u>{}</u>", "insert": "<ins>+{}</ins>", "delete": "<del>{}</del>"}


class Listen(View):
    """Clips to hear, their waveform and log-mel spectrogram, and every model's transcript beside the reference.

    clips, choice, order: what can be chosen and what is. audio, wave, mel, sound: the chosen clip, in one message.
    transcript: words, errors and times. search: the clips that got worse. All are made from `listening` alone.

    >>> import adaptwin_widgets as aw                                                     # doctest: +SKIP
    >>> listen = Listen({"original": model, "small": small}, {"target": aw.demo_speech()["target_dev"]})
    ...                                                                                   # doctest: +SKIP
    >>> listen.choose("target", 3)                                                        # doctest: +SKIP

    models: by name; the first is compared with the last. worker: where models run; one of its own by default. A
    `Listening` in place of models and speech gives one more view of it. A clip costs a pass of every model, and for
    the first clip a second one, so that the time of the first model is not that of warming up.

    Raises `InputError` for models or speech of another kind, and for other arguments.
    """

    _esm = "".join(map(source, ("dom.js", "parts.js", "clip.js", "listen.js")))
    corpora: traitlets.List = traitlets.List().tag(sync=True)
    clips: traitlets.List = traitlets.List().tag(sync=True)
    choice = traitlets.Dict().tag(sync=True)
    ranking = traitlets.Dict().tag(sync=True)
    audio = traitlets.Bytes().tag(sync=True)
    wave = traitlets.Bytes().tag(sync=True)
    mel = traitlets.Bytes().tag(sync=True)
    sound = traitlets.Dict().tag(sync=True)
    transcript = traitlets.Dict().tag(sync=True)
    search = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        models: Mapping[str, Whisper] | Listening,
        speech: Mapping[str, Corpus] | None = None,
        *,
        worker: Worker | None = None,
        **unknown: Any,
    ):
        if unknown:
            raise InputError(f"Listen takes models, speech and worker, not {next(iter(unknown))!r}; leave it out.")
        if not isinstance(models, Listening):
            models = Listening(models, {} if speech is None else speech, worker=worker)
        super().__init__(corpora=list(models.speech))
        self.listening = models
        self._clip: Clip | None = None
        with self.listening.lock:
            self._show()
            self.listening.observe(self._show, "revision")

    @classmethod
    def of(cls, workbench: Any) -> Listen:
        """For a workbench: its original, its small model as that changes, and its evaluation sets.

        >>> Listen.of(workbench)                                                          # doctest: +SKIP
        """
        return cls(Listening.of(workbench))

    def choose(self, corpus: str | None = None, clip: str | int | None = None) -> None:
        """Take a clip by its id or position; see `Listening.choose`."""
        self.listening.choose(corpus, clip)

    def find_worse(self) -> Task:
        """Find the clips that got worse, in the background; see `Listening.find_worse`."""
        return self.listening.find_worse()

    def do_choose(self, corpus: str, position: int | None = None) -> None:
        self.listening.choose(corpus, position)

    def do_arrange(self, order: str) -> None:
        self.listening.arrange(order)

    def do_find(self) -> None:
        self.listening.find_worse()

    def do_cancel(self) -> None:
        if self.listening.search is not None:
            self.listening.worker.cancel(self.listening.search.number)

    def do_wake(self) -> None:
        self.listening.wake()

    def do_again(self) -> None:
        self.listening.choose(self.listening.clip.corpus, self.listening.clip.position)

    def close(self) -> None:
        if hasattr(self, "listening"):
            self.listening.unobserve(self._show, "revision")
            del self.listening
        super().close()

    def _show(self, _: Any = None) -> None:
        """Everything as it is now, in one message; called under the lock of `listening`."""
        listening, clip = self.listening, self.listening.clip
        with self.hold_sync():
            if clip is not self._clip:
                if self._clip is None or clip.corpus != self._clip.corpus:
                    utterances = listening.speech[clip.corpus]
                    self.clips = [[u.id, f"{u.duration:.1f} s", " ".join(u.text.split())] for u in utterances]
                self.choice = {"corpus": clip.corpus, "position": clip.position}
                self._draw(clip)
                self._clip = clip
            self.transcript = transcript_of(listening)
            self.ranking, self.search = ranking_of(listening), search_of(listening)

    def _draw(self, clip: Clip) -> None:
        samples = clip.samples
        sound = {"id": clip.utterance.id, "seconds": clip.utterance.duration, "problem": clip.problem}
        if samples is None:
            self.audio = self.wave = self.mel = b""
            self.sound = sound
            return
        rows = next(iter(self.listening.models.values())).config.num_mel_bins
        try:
            mel = spectrogram(samples, COLUMNS, rows)
        except InputError as error:  # longer than Whisper's window; it can still be heard
            mel, sound["problem"] = np.zeros((rows, 0), np.uint8), str(error)
        wave = waveform(samples, min(COLUMNS, len(samples)))
        self.audio, self.wave, self.mel = to_wav(samples), wave.tobytes(), mel.tobytes()
        self.sound = sound | {
            "seconds": len(samples) / SAMPLE_RATE, "rows": rows, "frames": mel.shape[1],
            "peak": float(np.abs(wave).max()), "ticks": [[hertz, mel_row(hertz, rows) / rows] for hertz in TICKS],
        }  # fmt: skip

    def summary(self) -> str:
        """The chosen clip and its transcripts as they are, for a page without a kernel."""
        clip, said = self.listening.clip, self.transcript
        lines = [("reference", html.escape(clip.utterance.text), "")]
        for k, row in enumerate(said["rows"]):
            words = [word for column in said["columns"] if (word := column["heard"][k])]
            text = " ".join(MARKS[kind].format(html.escape(word)) for kind, word in words)
            lines.append((row["name"], text, ", ".join(filter(None, (row["errors"], row["time"], row["note"])))))
        cells = ((html.escape(name), text, html.escape(numbers)) for name, text, numbers in lines)
        table = "".join(f"<tr><th>{name}</th><td>{text}</td><td>{numbers}</td></tr>" for name, text, numbers in cells)
        return f"<p>{html.escape(f'{clip.corpus}, {clip.utterance.id}')}</p><table>{table}</table>"


def transcript_of(listening: Listening) -> dict[str, Any]:
    """What the page shows of the texts: columns of words (see `alignment.interlinear`), and a row for each model.

    A row's words are its cells in the columns; counts, errors, time and speed are empty until they are known, and
    note then says why. speed: seconds of sound a second, "times real time".
    """
    reference, readings = listening.clip.utterance.text, listening.readings
    heard = {name: reading.text for name, reading in readings.items() if reading.text is not None}
    language = next((reading.language for reading in readings.values() if reading.text is not None), "en")
    pieces = {name: align(reference, text, language) for name, text in heard.items()}
    columns = interlinear([*pieces.values(), align(reference, reference, language)])
    places = {name: k for k, name in enumerate(pieces)}
    return {
        "reference": reference,
        "asleep": listening.asleep,
        "columns": [
            {
                "reference": column.reference,
                "heard": [column.heard[places[name]] if name in places else None for name in readings],
            }
            for column in columns
        ],
        "rows": [
            _row(listening, name, reading, count_errors(pieces[name]) if name in pieces else {})
            for name, reading in readings.items()
        ],
    }


def _row(listening: Listening, name: str, reading: Reading, counts: dict[str, int]) -> dict[str, Any]:
    wrong = sum(counts[kind] for kind in ("substitute", "insert", "delete")) if counts else 0
    seconds, clip = reading.seconds, listening.clip
    unit = "character" if reading.language in WITHOUT_SPACES else "word"
    unit += "s" * (counts.get("words") != 1)
    return {
        "name": name, "state": reading.state, "text": reading.text,
        "note": _note(listening, reading), "counts": counts,
        "wrong": wrong, "unit": unit,
        "errors": f"{wrong} {'error' if wrong == 1 else 'errors'} in {counts['words']} {unit}" if counts else "",
        "time": f"{seconds:.2f} s" if seconds else "",
        "speed": f"{clip.utterance.duration / seconds:.1f}" if seconds else "",
        "looped": reading.looped, "error": reading.error, "details": reading.details,
    }  # fmt: skip


def _note(listening: Listening, reading: Reading) -> str:
    """Why something is not known yet."""
    if reading.state == "running":
        return "transcribing …" if reading.text is None else "measuring the time …"
    if reading.state == "waiting" and not listening.asleep and listening.clip.samples is not None:
        return f"waiting until “{listening.behind}” is over" if listening.behind else "waiting …"
    return "stopped" if reading.state == "stopped" else ""


def ranking_of(listening: Listening) -> dict[str, Any]:
    """What the page shows of a comparison: the order of the clips, and errors before and after by position."""
    found = listening.comparison
    if found is None:
        return {"order": listening.order, "positions": [], "errors": [], "summary": ""}
    before, after = (sum(errors) for errors in zip(*found.errors, strict=True))
    first, last = found.models
    return {
        "order": listening.order,
        "positions": found.order if listening.order == "worst" else [],
        "errors": [list(pair) for pair in found.errors],
        "summary": f"From {first} to {last}, {found.worse} of {len(found.order)} clips got worse, "
        f"{found.better} better; errors went from {before} to {after}, in {found.scores[0].words} words"
        + ("." if found.measured else " (from the study's files)."),
    }


def search_of(listening: Listening) -> dict[str, Any]:
    """What the page shows of the search: whether it can begin, how far it is, why it failed."""
    task = listening.search
    told = task.to_dict() if task is not None else {}
    active = task is not None and not task.finished
    return {
        "can": len(listening.models) > 1 and not active,
        "why": "" if len(listening.models) > 1 else "There is only one model; make a smaller one to compare with.",
        "active": active,
        "stopping": bool(told.get("stopping")),
        "share": round(told["done"] / told["total"], 3) if active and told["total"] else None,
        "text": (told["text"] or told["state"]) if active else "",
        "error": told.get("error", "") if told.get("state") == "failed" else "",
        "details": told.get("details", ""),
    }
