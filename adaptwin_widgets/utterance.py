"""One recording with its transcript, as a line of a manifest describes it."""

from __future__ import annotations

import json
import math
import os
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .audio import SAMPLE_RATE, Noise, audio_seconds, parse_condition, read_audio
from .errors import InputError

FIELDS = ("id", "audio", "text", "speaker", "duration", "conditions")


def prompt_key(text: str) -> str:
    """A transcript without case, punctuation and spacing: equal for two readings of one prompt.

    >>> prompt_key("Gad, do I  remember it.") == prompt_key("GAD DO I REMEMBER IT")
    True
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    # Letters, their marks, and numbers of any script; \\w would drop the vowel signs of Indic ones.
    return " ".join("".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in folded).split())


@dataclass(frozen=True)
class Utterance:
    """One recording and what was said in it.

    >>> Utterance("a1", Path("a1.flac"), "Good morning.", speaker="ann", duration=1.2).prompt
    'good morning'

    `duration` is in seconds; `conditions` are applied whenever the samples are read; `more` keeps
    the manifest's other fields (licence, source).
    """

    id: str
    audio: Path
    text: str
    speaker: str = ""
    duration: float = 0.0
    conditions: tuple[Noise, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def prompt(self) -> str:
        """The transcript's `prompt_key`; unique to the recording where there is no transcript."""
        return prompt_key(self.text) or f"({self.path})"

    @property
    def path(self) -> str:
        """The audio file's absolute path, links resolved: what tells recordings apart."""
        return os.path.realpath(self.audio)

    def samples(self) -> np.ndarray:
        """Mono float32 samples at 16 kHz, shape [samples], with the conditions applied.

        >>> corpus[0].samples().shape            # doctest: +SKIP
        (29392,)

        Raises `InputError` for audio that cannot be read or is not as long as the manifest says.
        """
        samples = read_audio(self.audio)
        seconds = len(samples) / SAMPLE_RATE
        if abs(seconds - self.duration) > 0.1:
            raise InputError(
                f"utterance {self.id!r} lasts {seconds:.2f} s in {self.audio}, not {self.duration:.2f} s as "
                "the manifest says; correct its duration there, or leave the field out."
            )
        for condition in self.conditions:
            samples = condition(samples, self.id)
        return samples


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
    if not isinstance(row.get("audio"), str) or not row["audio"]:
        raise InputError("no 'audio' field; add the path of the audio file, relative to the manifest.")
    if not isinstance(row.get("text"), str):
        raise InputError("no 'text' field; add the transcript.")
    audio = folder / row["audio"]
    if not audio.is_file():
        raise InputError(f"audio file {audio} is missing; correct the path or take the line out.")
    duration = row.get("duration")
    if duration is None:
        duration = audio_seconds(audio)
    elif isinstance(duration, bool) or not isinstance(duration, int | float) or not 0 < duration < math.inf:
        raise InputError(f"duration {duration!r} is not a number of seconds; correct it or leave it out.")
    conditions = row.get("conditions", [])
    if not isinstance(conditions, list):
        raise InputError("'conditions' is not a list; write it as a list of texts.")
    return Utterance(
        id=str(row.get("id") or audio.stem),
        audio=audio,
        text=row["text"],
        speaker=str(row.get("speaker") or ""),
        duration=float(duration),
        conditions=tuple(map(parse_condition, conditions)),
        more={key: value for key, value in row.items() if key not in FIELDS},
    )
