"""Recordings of a person reading prompts: checked one by one, kept on this machine as a corpus.

A folder holds ``manifest.jsonl``, which `Corpus.from_manifest` reads, and ``audio/`` with 16 kHz FLAC files.
"""

from __future__ import annotations

import io
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import resample_poly

from adaptwin_widgets.audio import SAMPLE_RATE, active_power
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.files import write_atomically
from adaptwin_widgets.frontier import signed
from adaptwin_widgets.score import score_texts
from adaptwin_widgets.speech import Corpus, Utterance
from adaptwin_widgets.transcribe import transcribe
from adaptwin_widgets.whisper import Whisper

FULL = 0.99  # of the largest value: a sample from here on counts as clipped
CLIPPED = 0.001  # share of clipped samples from which a take is refused
QUIET = -45.0  # dB below full scale: speech that is softer drowns in the noise of most microphones
SHORTEST, LONGEST = 0.5, 30.0  # seconds
UNLIKE = 50.0  # percent of wrong words from which the take is taken for another sentence


@dataclass(frozen=True)
class Verdict:
    """What is to be said of one take.

    good: it can be kept as it is. problem: one sentence, empty where it is good. doubtful: the only problem is that the
    model heard other words, which may be the model's fault. heard: by the model. seconds; level: dB of full scale.
    """

    good: bool
    problem: str = ""
    doubtful: bool = False
    heard: str = ""
    seconds: float = 0.0
    level: float = 0.0


def prompts() -> list[str]:
    """Sentences to read, about ten minutes of them, with every sound of English in many places.

    >>> len(prompts()), prompts()[0]
    (120, 'The north wind and the sun argued about who was stronger.')
    """
    return (Path(__file__).parent / "prompts.txt").read_text(encoding="utf-8").splitlines()


def check_sound(samples: np.ndarray) -> Verdict:
    """Whether a take is long and loud enough and not clipped; samples: float32 [n] at 16 kHz.

    >>> tone = np.sin(np.arange(16000) * 0.1)
    >>> check_sound(0.3 * tone).good, check_sound(0.001 * tone).problem
    (True, 'Hardly anything was heard (−63 dB); move nearer to the microphone, or choose another one.')
    """
    seconds = len(samples) / SAMPLE_RATE
    level = 10 * float(np.log10(max(active_power(samples), 1e-12)))
    problem = ""
    if seconds < SHORTEST:
        problem = "That was too short; press record, read the sentence, then press stop."
    elif seconds > LONGEST:
        problem = f"That was longer than {LONGEST:.0f} seconds; read the one sentence only."
    elif level < QUIET:
        heard = f"Hardly anything was heard ({signed(level, 0)} dB)"
        problem = f"{heard}; move nearer to the microphone, or choose another one."
    elif (share := float(np.mean(np.abs(samples) >= FULL))) > CLIPPED:
        problem = f"The sound is clipped ({share:.1%} of it); move away from the microphone, or turn it down."
    return Verdict(not problem, problem, seconds=seconds, level=level)


def check(samples: np.ndarray, prompt: str, model: Whisper) -> Verdict:
    """`check_sound`, and whether the model hears the prompt in it; samples: float32 [n] at 16 kHz.

    >>> check(samples, "Good morning.", model).heard                                      # doctest: +SKIP
    'Good morning.'
    """
    verdict = check_sound(samples)
    if not verdict.good:
        return verdict
    heard = transcribe(model, [Recording(samples)])[0].text
    score = score_texts([prompt], [heard], ["take"])
    if score.wer < UNLIKE:
        return replace(verdict, heard=heard)
    problem = f"The model heard: “{heard}”. Read it again, or keep it if that is the model's mistake."
    return replace(verdict, good=False, doubtful=True, problem=problem, heard=heard)


class Takes:
    """A folder of takes; each is on disk, whole, before the next begins.

    >>> import tempfile
    >>> takes = Takes(tempfile.mkdtemp(), speaker="ann")
    >>> takes.keep(0.1 * np.sin(np.arange(16000, dtype=np.float32) * 0.1), "One.").duration
    1.0
    >>> takes.corpus
    Corpus('ann', 1 utterances, 1 speakers, 0.0 min)

    Raises InputError for a manifest that is there and cannot be read.
    """

    def __init__(self, folder: str | Path, speaker: str = "me"):
        self.folder, self.speaker = Path(folder).expanduser(), speaker
        self.manifest = self.folder / "manifest.jsonl"
        self.utterances: list[Utterance] = []
        if self.manifest.is_file() and self.manifest.stat().st_size:
            self.utterances = list(Corpus.from_manifest(self.manifest))

    @property
    def corpus(self) -> Corpus:
        """All takes so far."""
        return Corpus(self.utterances, self.speaker)

    def of(self, prompt: str) -> Utterance | None:
        """The take of a prompt."""
        return next((u for u in self.utterances if u.text == prompt), None)

    def keep(self, samples: np.ndarray, prompt: str) -> Utterance:
        """Write a take and add it to the manifest; an earlier one of the same prompt makes room for it.

        samples: float32 [n] at 16 kHz. A take that is replaced has another name, so that a crash in between leaves
        the old one or the new one, never half of either.
        """
        old = self.of(prompt)
        name = self._name(prompt)
        path = self.folder / "audio" / f"{name}.flac"
        sound = io.BytesIO()
        soundfile.write(sound, np.clip(samples, -1, 1), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        write_atomically(path, sound.getvalue())
        take = Utterance(name, path, prompt, self.speaker, round(len(samples) / SAMPLE_RATE, 3))
        rest = [take if u is old else u for u in self.utterances]
        self.utterances = rest if old is not None else [*rest, take]
        self.corpus.to_manifest(self.manifest)
        if old is not None:
            Path(old.path).unlink(missing_ok=True)
        return take

    def _name(self, prompt: str) -> str:
        """The speaker, the prompt's first words, and a number that is free."""
        words = "-".join(re.findall(r"[a-z0-9]+", f"{self.speaker} {prompt}".lower())[:5]) or "take"
        taken = {u.id for u in self.utterances}
        return next(n for n in (f"{words}-{i}" for i in range(1, 10**6)) if n not in taken)


class Recording:
    """Samples that are on no disk yet, as `transcribe` takes them."""

    id = "take"

    def __init__(self, samples: np.ndarray):
        self._samples = np.ascontiguousarray(samples, dtype=np.float32)
        self.duration = len(samples) / SAMPLE_RATE

    def samples(self) -> np.ndarray:
        """Float32 [n] at 16 kHz."""
        return self._samples


def from_microphone(data: bytes | memoryview, rate: int) -> np.ndarray:
    """Float32 samples at 16 kHz from those of a browser, at its own rate, little-endian.

    >>> from_microphone(np.zeros(48000, "<f4").tobytes(), 48000).shape
    (16000,)

    Raises InputError for a rate no browser has, and for samples that are not finite.
    """
    samples = np.frombuffer(data, "<f4")
    if not 8000 <= rate <= 384_000 or not len(samples) or not np.isfinite(samples).all():
        raise InputError("The browser sent no sound that can be read; reload the page and record again.")
    if rate != SAMPLE_RATE:
        shared = math.gcd(rate, SAMPLE_RATE)
        samples = resample_poly(samples, SAMPLE_RATE // shared, rate // shared)
    return np.ascontiguousarray(samples, dtype=np.float32)
