"""What makes speech harder to hear: noise, a telephone line, a room, another speed; the same every time.

What is drawn at random depends on the condition's `seed` and the utterance's id alone, so that every run, order and
machine hears the same.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .audio import SAMPLE_RATE, active_power
from .errors import InputError

HARD = 5.0  # dB of signal over noise, the least that is drawn: hard to follow
EXAMPLES = "noise:10, telephone, reverb:0.6, speed:0.9, or several joined by +"


class Condition(Protocol):
    """What can be done to an utterance's samples."""

    @property
    def name(self) -> str: ...
    def stretch(self, key: str) -> float:
        """How many times as long the utterance is afterwards."""

    def __call__(self, samples: np.ndarray, key: str) -> np.ndarray:
        """The samples [samples], float32 at 16 kHz, under the condition; `key` names the utterance."""


def draw(seed: int, key: str) -> np.random.Generator:
    """The random numbers of one utterance under one seed.

    >>> draw(0, "a").random() == draw(0, "a").random() != draw(0, "b").random()
    True
    """
    digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8]))


@dataclass(frozen=True)
class Noise:
    """White Gaussian noise at a signal-to-noise ratio in dB, measured over the active speech.

    >>> Noise(10).name, str(Noise(10)), str(Noise(2.5, seed=3))
    ('noise 10 dB', 'noise:10', 'noise:2.5:3')
    """

    snr_db: float
    seed: int = 0

    @property
    def name(self) -> str:
        return f"noise {self.snr_db:g} dB"

    def __str__(self) -> str:
        return f"noise:{self.snr_db:g}" + _seed(self.seed)

    def stretch(self, key: str) -> float:
        return 1.0

    def __call__(self, samples: np.ndarray, key: str) -> np.ndarray:
        """Return `samples` ([samples], float32) with the noise added; `key` names the utterance."""
        noise = draw(self.seed, key).standard_normal(len(samples))
        scale = math.sqrt(active_power(samples) / 10 ** (self.snr_db / 10))
        return (samples + scale * noise).astype(np.float32)


@dataclass(frozen=True)
class Telephone:
    """A fixed telephone line: its band, 8 kHz, and the 8 bits of G.711's µ-law.

    The band is about 300 to 3400 Hz; no two lines are alike, so its edges are drawn, from 200 to 400 Hz and from 3200
    to 3600 Hz. The speech is brought to −26 dB below overload before it is coded, as ITU-T P.56 levels are, and back.

    >>> Telephone().name, str(Telephone()), str(Telephone(seed=3))
    ('telephone', 'telephone', 'telephone:3')
    """

    seed: int = 0

    @property
    def name(self) -> str:
        return "telephone"

    def __str__(self) -> str:
        return "telephone" + _seed(self.seed)

    def stretch(self, key: str) -> float:
        return 1.0

    def __call__(self, samples: np.ndarray, key: str) -> np.ndarray:
        """Return `samples` ([samples], float32) as heard at the other end; `key` names the utterance."""
        import librosa
        import scipy.signal

        level = math.sqrt(active_power(samples))
        if not level:
            return samples
        random = draw(self.seed, key)
        band = random.uniform(200, 400), random.uniform(3200, 3600)
        filters = scipy.signal.butter(4, band, "bandpass", fs=SAMPLE_RATE, output="sos")
        line = scipy.signal.sosfilt(filters, samples.astype(np.float64) * (10 ** (-26 / 20) / level))
        line = librosa.resample(line, orig_sr=SAMPLE_RATE, target_sr=8000, res_type="soxr_hq").clip(-1, 1)
        line = librosa.mu_expand(librosa.mu_compress(line, mu=255, quantize=True), mu=255, quantize=True)
        line = librosa.resample(line, orig_sr=8000, target_sr=SAMPLE_RATE, res_type="soxr_hq")
        return _fitted(line * (level / 10 ** (-26 / 20)), len(samples))


@dataclass(frozen=True)
class Reverberation:
    """A room: its sound decays by 60 dB within `seconds`; as much energy comes from the walls as directly.

    Polack's model: white Gaussian noise under an exponential decay, drawn for every utterance, follows the direct sound
    by 2 ms. Length and active level stay as they were; what rings on after the clip's end is cut off.

    >>> Reverberation(0.6).name, str(Reverberation(0.6)), str(Reverberation(1, seed=3))
    ('reverberation 0.6 s', 'reverb:0.6', 'reverb:1:3')
    """

    seconds: float
    seed: int = 0

    @property
    def name(self) -> str:
        return f"reverberation {self.seconds:g} s"

    def __str__(self) -> str:
        return f"reverb:{self.seconds:g}" + _seed(self.seed)

    def stretch(self, key: str) -> float:
        return 1.0

    def __call__(self, samples: np.ndarray, key: str) -> np.ndarray:
        """Return `samples` ([samples], float32) as heard in the room; `key` names the utterance."""
        import scipy.signal

        power = active_power(samples)
        if not power:
            return samples
        time = np.arange(round(self.seconds * SAMPLE_RATE)) / SAMPLE_RATE
        room = draw(self.seed, key).standard_normal(len(time)) * 10 ** (-3 * time / self.seconds)
        room[: round(0.002 * SAMPLE_RATE)] = 0
        room /= math.sqrt((room**2).sum())
        room[0] = 1
        heard = scipy.signal.fftconvolve(samples.astype(np.float64), room)[: len(samples)]
        return (heard * math.sqrt(power / active_power(heard))).astype(np.float32)


@dataclass(frozen=True)
class Speed:
    """Played at `low` to `high` times the speed, drawn for every utterance; its pitch changes with it.

    One factor where they are equal. This is the speed perturbation of Ko et al. 2015, "Audio augmentation for speech
    recognition", which resamples.

    >>> Speed(0.9).name, str(Speed(0.9)), Speed(0.8, 1.25, seed=3).name, str(Speed(0.8, 1.25, seed=3))
    ('speed 0.9', 'speed:0.9', 'speed 0.8 to 1.25', 'speed:0.8-1.25:3')
    """

    low: float
    high: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "high", self.high or self.low)

    @property
    def name(self) -> str:
        return f"speed {self.low:g}" + (f" to {self.high:g}" if self.high != self.low else "")

    def __str__(self) -> str:
        return f"speed:{self.low:g}" + (f"-{self.high:g}" if self.high != self.low else "") + _seed(self.seed)

    def stretch(self, key: str) -> float:
        return 1 / draw(self.seed, key).uniform(self.low, self.high)

    def __call__(self, samples: np.ndarray, key: str) -> np.ndarray:
        """Return `samples` ([samples], float32) resampled to [samples · stretch]; `key` names the utterance."""
        import librosa

        stretch = self.stretch(key)
        played = librosa.resample(samples, orig_sr=SAMPLE_RATE, target_sr=SAMPLE_RATE * stretch, res_type="soxr_hq")
        return _fitted(played, round(len(samples) * stretch))


def any_condition(key: str, seed: int = 0) -> Noise | Telephone | Reverberation:
    """One of the conditions that change no length, drawn for `key`: half the time noise, else a telephone or a room.

    >>> any_condition("a"), any_condition("c")
    (Reverberation(seconds=0.8, seed=0), Noise(snr_db=9.4, seed=0))
    """
    random = draw(seed, f"{key}/condition")
    kind, amount = random.random(), random.random()
    if kind < 0.5:
        return Noise(round(HARD + 20 * amount, 1), seed)  # to hardly heard
    return Telephone(seed) if kind < 0.75 else Reverberation(round(0.2 + 0.8 * amount, 2), seed)


def parse_condition(text: str) -> Condition:
    """The condition written as text; each may end in ``:SEED``.

    ``noise:SNR`` (dB), ``telephone``, ``reverb:SECONDS`` (to decay by 60 dB), ``speed:FACTOR`` or ``speed:LOW-HIGH``.

    >>> parse_condition("noise:10"), parse_condition("speed:0.9-1.1:7")
    (Noise(snr_db=10.0, seed=0), Speed(low=0.9, high=1.1, seed=7))

    Raises `InputError` for anything else.
    """
    kind, *values = str(text).strip().split(":")
    try:
        condition = _parse(kind, values)
    except ValueError as error:
        raise InputError(f"condition {text!r} is unknown; write {EXAMPLES}.") from error
    return condition


def _parse(kind: str, values: list[str]) -> Condition:
    if kind == "telephone" and len(values) <= 1:
        return Telephone(*map(int, values))
    if kind not in ("noise", "reverb", "speed") or not 1 <= len(values) <= 2:
        raise ValueError(kind)
    seed = int(values[1]) if len(values) > 1 else 0
    if kind == "speed":
        bounds = [float(bound) for bound in values[0].split("-")]
        if len(bounds) > 2 or not 0.25 <= bounds[0] <= bounds[-1] <= 4:  # beyond it nobody speaks
            raise ValueError(values[0])
        return Speed(bounds[0], bounds[-1], seed)
    amount = float(values[0])
    if not (-200 <= amount <= 200) or (kind == "reverb" and not 0.01 <= amount <= 20):  # float32 ends there
        raise ValueError(values[0])
    return Noise(amount, seed) if kind == "noise" else Reverberation(amount, seed)


def _seed(seed: int) -> str:
    return f":{seed}" if seed else ""


def _fitted(samples: np.ndarray, size: int) -> np.ndarray:
    """Cut or padded to [size], float32: resampling may be off by a sample."""
    return np.pad(samples[:size], (0, max(0, size - len(samples)))).astype(np.float32)
