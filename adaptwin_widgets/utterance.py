"""One recording with its transcript, as a line of a manifest describes it."""

from __future__ import annotations

import json
import math
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from .audio import SAMPLE_RATE, audio_seconds, read_audio
from .conditions import Condition, parse_condition
from .errors import InputError

FIELDS = ("id", "audio", "text", "speaker", "start", "duration", "conditions")
# Thai, Lao, Burmese, Khmer; kana and Han.
UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]")
# How NeMo's manifests and the Hugging Face hub's audio folders call these fields.
OTHERS = {"audio_filepath": "audio", "file_name": "audio", "offset": "start", "transcription": "text"}
OVERLAP = 0.25  # seconds that two parts of a recording may share: subtitles' edges are not that exact


class Origin(NamedTuple):
    """Where an utterance was described: a file and, where it has lines, the line.

    >>> str(Origin("train.tsv", 3)), str(Origin("ann/1.txt"))
    ('train.tsv, line 3', 'ann/1.txt')
    """

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}, line {self.line}"


def prompt_key(text: str) -> str:
    """A transcript without case, punctuation and spacing: equal for two readings of one prompt.

    >>> prompt_key("Gad, do I  remember it.") == prompt_key("GAD DO I REMEMBER IT")
    True
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    # Letters, their marks, and numbers of any script; \\w would drop the vowel signs of Indic ones.
    return " ".join("".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in folded).split())


def word_count(text: str) -> float:
    """Words of a transcript; in scripts without spaces two letters count as one.

    >>> word_count("Good morning, Ann."), word_count("おはようございます"), word_count("...")
    (3, 4.5, 0)
    """
    key = prompt_key(text)
    letters = len(UNSPACED.findall(key))
    return len(UNSPACED.sub(" ", key).split()) + letters / 2 if letters else len(key.split())


@dataclass(frozen=True)
class Utterance:
    """One recording and what was said in it.

    >>> Utterance("a1", Path("a1.flac"), "Good morning.", speaker="ann", duration=1.2).prompt
    'good morning'

    `duration` is in seconds, as heard; `conditions` are applied whenever the samples are read; `more` keeps
    the manifest's other fields (licence, source). start: where in the recording it begins, in seconds, if it
    is a part of a longer one. origin: where it was described.
    """

    id: str
    audio: Path
    text: str
    speaker: str = ""
    duration: float = 0.0
    conditions: tuple[Condition, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    start: float | None = None
    origin: Origin | None = field(default=None, compare=False, repr=False)

    @property
    def prompt(self) -> str:
        """The transcript's `prompt_key`; unique to the recording where there is no transcript."""
        return prompt_key(self.text) or f"({self.path})"

    @property
    def path(self) -> str:
        """The audio file's absolute path, links resolved: what tells recordings apart."""
        return os.path.realpath(self.audio)

    @property
    def recorded(self) -> float:
        """Seconds it takes in the recording; other than `duration` under a condition that changes its speed."""
        return self.duration / math.prod(condition.stretch(self.id) for condition in self.conditions)

    def under(self, condition: Condition) -> Utterance:
        """The same utterance under a condition, on top of those it is under already."""
        duration = self.duration * condition.stretch(self.id)
        return replace(self, conditions=(*self.conditions, condition), duration=duration)

    def samples(self) -> np.ndarray:
        """Mono float32 samples at 16 kHz, shape [samples], with the conditions applied.

        >>> corpus[0].samples().shape            # doctest: +SKIP
        (29392,)

        Raises `InputError` for audio that cannot be read or is not as long as the manifest says.
        """
        recorded = self.recorded
        samples = read_audio(self.audio) if self.start is None else read_audio(self.audio, self.start, recorded)
        seconds = len(samples) / SAMPLE_RATE
        if abs(seconds - recorded) > 0.1:
            raise InputError(
                f"utterance {self.id!r} lasts {seconds:.2f} s in {self.audio}, not {recorded:.2f} s as "
                "the manifest says; correct its duration there, or leave the field out."
            )
        for condition in self.conditions:
            samples = condition(samples, self.id)
        return samples


def fields_of(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of a manifest's line under our names, where it has others' for the audio.

    >>> fields_of({"audio_filepath": "a.wav", "offset": 1.5, "text": "One."})
    {'audio': 'a.wav', 'start': 1.5, 'text': 'One.'}
    """
    if "audio" in row or not OTHERS.keys() & row.keys():
        return row
    return {OTHERS.get(key, key): value for key, value in row.items()}


def parse_line(line: bytes, folder: Path) -> Utterance:
    """The utterance that one line of a manifest describes; audio is relative to `folder`.

    >>> parse_line(b'{"audio": "a.wav"}', Path("."))
    Traceback (most recent call last):
    ...
    adaptwin_widgets.errors.InputError: no 'text' field; add the transcript.

    Raises `InputError`; the caller adds the file's name and the line's number.
    """
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8; save the manifest as UTF-8.") from error
    except ValueError as error:
        raise InputError("not valid JSON; write one JSON object a line.") from error
    if not isinstance(row, dict):
        raise InputError('not a JSON object; write {"audio": ..., "text": ...}.')
    row = fields_of(row)
    if not isinstance(row.get("audio"), str) or not row["audio"]:
        raise InputError("no 'audio' field; add the path of the audio file, relative to the manifest.")
    if not isinstance(row.get("text"), str):
        raise InputError("no 'text' field; add the transcript.")
    audio = folder / row["audio"]
    if not is_file(audio):
        raise InputError(f"audio file {audio} is missing; correct the path or take the line out.")
    start, duration = row.get("start"), row.get("duration")
    if start is not None and (not _is_number(start) or start < 0):
        raise InputError(f"start {start!r} is not a number of seconds; correct it or leave it out.")
    if duration is None:
        duration = audio_seconds(audio) - (start or 0)
        if duration <= 0 and start is not None:
            raise InputError(f"it starts at {start} s, after the end of {audio}; correct the start.")
    elif not _is_number(duration) or duration <= 0:
        raise InputError(f"duration {duration!r} is not a number of seconds; correct it or leave it out.")
    conditions = row.get("conditions", [])
    if not isinstance(conditions, list):
        raise InputError("'conditions' is not a list; write it as a list of texts.")
    name = str(row.get("id") or audio.stem)
    applied = tuple(map(parse_condition, conditions))
    return Utterance(
        id=name,
        audio=audio,
        text=row["text"],
        speaker=str(row.get("speaker") or ""),
        duration=float(duration) * math.prod(condition.stretch(name) for condition in applied),
        conditions=applied,
        more={key: value for key, value in row.items() if key not in FIELDS},
        start=None if start is None else float(start),
    )


def manifest_lines(path: Path) -> Iterator[tuple[Origin, bytes]]:
    """The lines of a manifest that are not empty, and where they are; a byte order mark is taken away.

    Raises `InputError` for a file that cannot be read.
    """
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        kind = "is a folder" if path.is_dir() else "cannot be read" if path.exists() else "no such file"
        raise InputError(f"{path}: {kind}; give the path of a JSON-lines manifest.") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield Origin(str(path), number), line


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name that no file can have is none.

    >>> is_file(Path("x" * 9999))
    False
    """
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def to_row(utterance: Utterance, folder: str) -> dict[str, Any]:
    """What `parse_line` reads, for a manifest that lies in `folder`.

    >>> to_row(Utterance("a", Path("/speech/a.wav"), "One.", "ann", 1.5), "/speech")["audio"]
    'a.wav'
    """
    u = utterance
    row: dict[str, Any] = {"id": u.id, "audio": _relative(u.path, folder), "text": u.text, "speaker": u.speaker}
    if u.start is not None:
        row["start"] = u.start
    row |= {"duration": u.recorded, **u.more}
    if u.conditions:
        row["conditions"] = [str(condition) for condition in u.conditions]
    return row


def recordings(utterances: Iterable[Utterance]) -> list[str]:
    """The recording of every utterance: one name where they hear the same sound.

    Parts of one file are recordings of their own unless they overlap by more than a quarter of a second.

    >>> long = [Utterance(str(at), Path("x.wav"), "", "", 3.0, start=at) for at in (0.0, 3.0, 5.0)]
    >>> first, second, third = recordings(long)
    >>> first == second, second == third
    (False, True)
    """
    utterances = list(utterances)
    names = [u.path for u in utterances]
    by_file: dict[str, list[int]] = {}
    for i, path in enumerate(names):
        by_file.setdefault(path, []).append(i)
    for path, members in by_file.items():
        if all(utterances[i].start is None for i in members):
            continue
        end, part = -math.inf, path
        for i in sorted(members, key=lambda i: utterances[i].start or 0):
            u = utterances[i]
            start = u.start or 0
            if start > end - OVERLAP:
                part = f"{path}@{start}"
            names[i] = part
            end = max(end, math.inf if u.start is None else start + u.recorded)
    return names


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf


def _relative(path: str, folder: str) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive, on Windows
        return Path(path).as_posix()
