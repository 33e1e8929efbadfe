"""Sound as Whisper wants it (mono, 16 kHz, float32), and the conditions that make it harder to hear."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from .errors import InputError

SAMPLE_RATE = 16_000
"""Samples per second of all audio inside the package (what every Whisper was trained on)."""


def read_audio(path: str | Path) -> np.ndarray:
    """Read an audio file of any rate and channel count as mono at 16 kHz.

    Channels are averaged; other rates are resampled with librosa (soxr, high quality).

    >>> read_audio("clip.flac").shape        # doctest: +SKIP
    (48000,)

    Returns float32 samples of shape [samples], nominally within -1 and 1.
    Raises `InputError` for a file that is missing, empty, holds NaN, or is of a format libsndfile
    cannot read (it reads WAV, FLAC, OGG Vorbis, Opus, MP3, AIFF and more; not AAC/M4A).
    """
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        if not Path(path).is_file():
            raise InputError(f"{path}: no such audio file; correct the path.") from error
        raise InputError(f"{path}: cannot be read as audio; convert it to FLAC, WAV, OGG or MP3.") from error
    mono = samples.mean(axis=1) if samples.shape[1] != 1 else samples[:, 0]
    if not mono.size:
        raise InputError(f"{path}: holds no audio samples; leave it out or record it again.")
    if not np.isfinite(mono).all():
        raise InputError(f"{path}: holds samples that are not finite numbers; convert or record it again.")
    if rate != SAMPLE_RATE:
        import librosa  # slow to import, and most corpora are at 16 kHz already

        mono = librosa.resample(mono, orig_sr=rate, target_sr=SAMPLE_RATE, res_type="soxr_hq")
    return np.ascontiguousarray(mono, dtype=np.float32)


def audio_seconds(path: str | Path) -> float:
    """Duration in seconds, from the file's header.

    >>> audio_seconds("clip.flac")           # doctest: +SKIP
    3.0

    Raises `InputError` for a file that libsndfile cannot read.
    """
    try:
        header = soundfile.info(str(path))
    except (soundfile.LibsndfileError, OSError) as error:
        raise InputError(f"{path}: cannot be read as audio; convert it to FLAC, WAV, OGG or MP3.") from error
    return header.frames / header.samplerate


def active_power(samples: np.ndarray) -> float:
    """Mean power of the part of a clip in which somebody speaks (0 for silence).

    A frame of 20 ms counts as active when it is less than 15.9 dB below the active level itself,
    found by iteration: the margin of ITU-T P.56, method B, with plain frames for its envelope.

    >>> tone = np.sin(np.arange(16000) * 0.1)
    >>> round(active_power(np.concatenate([tone, np.zeros(48000)])), 2)
    0.5
    """
    width = SAMPLE_RATE // 50
    frames = np.pad(samples.astype(np.float64), (0, -len(samples) % width)).reshape(-1, width)
    power = (frames**2).mean(axis=1)
    level = power.mean()
    for _ in range(50):  # converges in a handful of rounds; the bound is for pathological input
        active = power[power > level * 10**-1.59]
        if not active.size or math.isclose(active.mean(), level, rel_tol=1e-6):
            break
        level = active.mean()
    return float(level)


@dataclass(frozen=True)
class Noise:
    """White Gaussian noise at a signal-to-noise ratio in dB, measured over the active speech.

    The noise depends on `seed` and on the utterance's id alone: the same in every run and order.

    >>> Noise(10).name, str(Noise(10)), str(Noise(2.5, seed=3))
    ('noise 10 dB', 'noise:10', 'noise:2.5:3')
    """

    snr_db: float
    seed: int = 0

    @property
    def name(self) -> str:
        return f"noise {self.snr_db:g} dB"

    def __str__(self) -> str:
        return f"noise:{self.snr_db:g}" + (f":{self.seed}" if self.seed else "")

    def __call__(self, samples: np.ndarray, key: str) -> np.ndarray:
        """Return `samples` ([samples], float32) with the noise added; `key` names the utterance."""
        digest = hashlib.sha256(f"{self.seed}/{key}".encode()).digest()
        noise = np.random.default_rng(int.from_bytes(digest[:8])).standard_normal(len(samples))
        scale = math.sqrt(active_power(samples) / 10 ** (self.snr_db / 10))
        return (samples + scale * noise).astype(np.float32)


def parse_condition(text: str) -> Noise:
    """The condition written as ``noise:SNR`` or ``noise:SNR:SEED`` (SNR in dB).

    >>> parse_condition("noise:10")
    Noise(snr_db=10.0, seed=0)

    Raises `InputError` for anything else.
    """
    kind, *values = str(text).strip().split(":")
    try:
        if kind != "noise" or not 1 <= len(values) <= 2:
            raise ValueError(text)
        condition = Noise(float(values[0]), *map(int, values[1:]))
        if not math.isfinite(condition.snr_db):
            raise ValueError(text)
    except ValueError as error:
        raise InputError(f"condition {text!r} is unknown; write noise:10 for noise at 10 dB.") from error
    return condition
