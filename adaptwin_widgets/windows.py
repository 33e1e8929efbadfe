"""Whole utterances packed into the 30 s windows that Whisper's encoder always computes."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .audio import SAMPLE_RATE
from .conditions import HARD, Condition, Noise, any_condition, draw
from .errors import InputError
from .utterance import Utterance

WINDOWS = 120  # of each corpus, to observe: with 40, a tenth to a quarter of the damage is that of too little speech
ROUGH = 0.25  # share of windows heard through noise, a telephone or a room, where nothing else is said
ZEROS = 1 / 2  # share of the windows of one utterance behind which there are zeros, as faster-whisper fills them


def require_observable(windows: int, target_weight: float) -> None:
    """Raise InputError for a number of windows, or a share of the target speaker's, with which nothing is observed."""
    if windows < 1:
        raise InputError(f"windows={windows} would observe nothing; give 1 or more, or leave it out for {WINDOWS}.")
    if not 0 < target_weight <= 1:
        raise InputError(f"The target's weight is {target_weight}; it has to be above 0 and at most 1.")


@dataclass(frozen=True)
class Window:
    """Whole utterances laid one after another, with silence between, to fill Whisper's 30 s.

    ``Window((utterance,))`` is one utterance that will be padded, as at recognition time.

    >>> from pathlib import Path
    >>> a, b = (Utterance(n, Path(n), f"Say {n}.", "ann", 2.0) for n in "ab")
    >>> window = Window((a, b), gap=0.5)
    >>> window.spans, window.duration, window.seconds, window.text
    ([(0.0, 2.0), (2.5, 4.5)], 4.5, 4.0, 'Say a. Say b.')
    """

    utterances: tuple[Utterance, ...]
    gap: float = 0.3

    @property
    def id(self) -> str:
        return "+".join(u.id for u in self.utterances)

    @property
    def text(self) -> str:
        return " ".join(u.text for u in self.utterances)

    @property
    def seconds(self) -> float:
        """Seconds of speech, the gaps not counted."""
        return math.fsum(u.duration for u in self.utterances)

    @property
    def duration(self) -> float:
        """Seconds from the first utterance's start to the last one's end."""
        return self.seconds + self.gap * (len(self.utterances) - 1)

    @property
    def spans(self) -> list[tuple[float, float]]:
        """Start and end of every utterance in seconds."""
        starts, clock = [], 0.0
        for u in self.utterances:
            starts.append((clock, clock + u.duration))
            clock += u.duration + self.gap
        return starts

    def under(self, condition: Condition) -> Window:
        """The same speech under a condition that changes no length; the silence between stays silence."""
        return Window(tuple(u.under(condition) for u in self.utterances), self.gap)

    def samples(self) -> np.ndarray:
        """Mono float32 samples at 16 kHz, shape [samples], `duration` seconds long."""
        if len(self.utterances) == 1:
            return self.utterances[0].samples()
        sound = np.zeros(round(self.duration * SAMPLE_RATE), np.float32)
        for u, (start, _) in zip(self.utterances, self.spans, strict=True):
            room = sound[round(start * SAMPLE_RATE) :]
            clip = u.samples()[: len(room)]
            room[: len(clip)] += clip
        return sound


def roughened(windows: Sequence[Window], share: float, seed: int = 0) -> list[Window]:
    """The windows, this share of them, evenly spread, under a condition drawn for each (`conditions.any_condition`).

    A small model that has only met quiet speech falls silent in noise that its original hears through.

    >>> from pathlib import Path
    >>> quiet = [Window((Utterance(n, Path(n), "Yes.", "ann", 2.0),)) for n in "abcd"]
    >>> [bool(w.utterances[0].conditions) for w in roughened(quiet, 0.5)]
    [False, True, False, True]

    Raises InputError for a share below 0 or above 1.
    """
    _require_share(share)
    return [
        w.under(any_condition(w.id, seed)) if int((i + 1) * share) > int(i * share) else w
        for i, w in enumerate(windows)
    ]


def in_noise(windows: Sequence[Window], share: float, seed: int = 0) -> list[list[tuple[Window, float]]]:
    """How each window is heard, and how much that counts: this share of them, in whole windows and the last ones, half
    as they are and half through noise as loud as it may get; the others as they are.

    For a few windows that have to stand for all that speech is heard through, where a draw would be luck.

    >>> from pathlib import Path
    >>> quiet = [Window((Utterance(n, Path(n), "Yes.", "ann", 2.0),)) for n in "abc"]
    >>> [[(str(*w.utterances[0].conditions), share) for w, share in ways] for ways in in_noise(quiet, 0.25)]
    [[('', 1.0)], [('', 1.0)], [('', 0.5), ('noise:5', 0.5)]]

    Raises InputError for a share below 0 or above 1.
    """
    _require_share(share)
    quiet = len(windows) - math.floor(share * len(windows) + 0.5)
    noise = Noise(HARD, seed)
    return [[(w, 1.0)] if i < quiet else [(w, 0.5), (w.under(noise), 0.5)] for i, w in enumerate(windows)]


def _require_share(rough: float) -> None:
    if not 0 <= rough <= 1:
        raise InputError(f"rough={rough} is no share of the windows; give a number from 0 to 1.")


def zero_filled(windows: Iterable[Window], seed: int = 0) -> list[bool]:
    """Which windows have zeros in the features behind their speech (`features.log_mel`): of one utterance, half.

    faster-whisper fills a window so, where Whisper's own code appends silence, and a small model has to bear both.

    >>> from pathlib import Path
    >>> one, two = (Utterance(n, Path(n), "Yes.", "ann", 2.0) for n in "bc")
    >>> zero_filled([Window((one,)), Window((two,)), Window((one, two))])
    [True, False, False]
    """
    return [len(w.utterances) == 1 and draw(seed, f"{w.id}/zeros").random() < ZEROS for w in windows]


def pack(corpus: Iterable[Utterance], seconds: float = 30.0, gap: float = 0.3, seed: int = 0) -> list[Window]:
    """Lay whole utterances into as few windows as first-fit decreasing finds, each in exactly one.

    Speakers are packed apart first; only windows left partly empty are then joined. The order
    within windows and of the windows is shuffled by `seed`.

    >>> from pathlib import Path
    >>> speech = [Utterance(str(d), Path(str(d)), "", "ann", d) for d in (20.0, 9.0, 15.0, 14.0)]
    >>> sorted(round(w.seconds) for w in pack(speech))
    [29, 29]

    `seconds` is the window's length, `gap` the silence between utterances, both in seconds.
    Raises `InputError` that names an utterance longer than the window.
    """
    by_speaker: dict[str, list[tuple[Utterance, ...]]] = {}
    for u in corpus:
        if u.duration > seconds:
            raise InputError(
                f"utterance {u.id!r} lasts {u.duration:.1f} s, longer than the window of {seconds:g} s; "
                "cut it at pauses or leave it out."
            )
        by_speaker.setdefault(u.speaker, []).append((u,))
    bins = [b for units in by_speaker.values() for b in _first_fit(units, seconds, gap)]
    bins = _first_fit(bins, seconds, gap)
    order = random.Random(seed)
    order.shuffle(bins)
    return [Window(tuple(order.sample(b, len(b))), gap) for b in bins]


def _first_fit(units: list[tuple[Utterance, ...]], seconds: float, gap: float) -> list[tuple[Utterance, ...]]:
    """Put each unit, longest first, into the first bin with room for it and a gap."""
    sized = sorted(((Window(unit, gap).duration, unit) for unit in units), key=lambda pair: -pair[0])
    bins: list[tuple[Utterance, ...]] = []
    ends: list[float] = []
    for length, unit in sized:
        room = seconds + 1e-9 - gap - length
        place = next((i for i, end in enumerate(ends) if end <= room), None)
        if place is None:
            bins.append(unit)
            ends.append(length)
        else:
            bins[place] += unit
            ends[place] += gap + length
    return bins
