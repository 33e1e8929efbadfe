"""How to tune: what a person may change, and what a method that chose the ranks brings along."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from adaptwin_widgets.errors import InputError
from adaptwin_widgets.plan import ADAPTWIN
from adaptwin_widgets.whisper import Whisper
from adaptwin_widgets.windows import ROUGH

# The settings that prepared speech depends on.
LESSONS = ("batch_size", "target_weight", "dtype", "seed", "rough", "transcripts")
RATE = 0.018  # over the width: as the best rate falls under Adam (Yang et al. 2022, µP)
NEAR = 0.01  # a model nearer its original than that has still to learn the speaker
FAR = 1.0  # no better than an untrained one, and so far that no rate was tried
LONG = 1000  # steps, beyond which no rate was tried


@dataclass
class Settings:
    """How to tune. learning_rate: peak; default: by how far the model is from its original and how many steps there are
    (`rate`); warmup: steps; batch_size: 30 s windows a step; target_weight: share of the first corpus; weights: of the
    distances (layers, encoder, decoder), see `distill.Distance`; check_every: steps between two looks at the held-out
    loss; layerwise: share of the run, from its beginning, in which every layer is tuned alone towards the teacher's
    (`Distance.local`); lora: rank of a low-rank change of every matrix, tuned instead of the matrices (0: the matrices
    themselves); rough: share of windows heard through noise, a telephone or a room (`windows.roughened`); decoder: its
    learning rate over the encoder's, for it soon forgets the words that the tuned speech does not hold; transcripts:
    how much of what the decoder is to say is their word, where there are any, and not the original's distribution over
    all words."""

    learning_rate: float | None = None
    warmup: int = 10
    batch_size: int = 2
    target_weight: float = 0.5
    weights: tuple[float, float, float] = (0.5, 1.0, 1.0)
    check_every: int = 40
    dtype: str = "auto"
    seed: int = 0
    layerwise: float = 0.0
    lora: int = 0
    rough: float = ROUGH
    decoder: float = 0.1
    transcripts: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.target_weight <= 1:
            raise InputError(f"The target's weight is {self.target_weight}; it has to be at least 0 and at most 1.")
        require_shares(transcripts=self.transcripts)
        if not 0 <= self.layerwise <= 1:
            raise InputError(f"layerwise={self.layerwise} is no share of a run; give a number from 0 to 1.")
        for name, least in (("warmup", 0), ("batch_size", 1), ("check_every", 1)):
            value = getattr(self, name)
            if not (isinstance(value, int) and value >= least):
                raise InputError(f"{name}={value} is no count; give a whole number of at least {least}.")
        if not (sum(self.weights) > 0 and min(self.weights) >= 0):
            raise InputError(
                f"weights={self.weights} weigh nothing, or less; give three numbers from 0 up, not all of them 0."
            )
        if not (isinstance(self.lora, int) and self.lora >= 0):
            raise InputError(f"lora={self.lora} is no rank; give a whole number, 0 for none.")

    def rate(self, width: int, distance: float, steps: float) -> float:
        """The peak rate for a model of this width, so far from its original (`Run.distance`), in so many steps.

        Adam moves every weight by the rate, however little is wrong with it. distance is a square, so its root is how
        far there is to go, and a step is a share of that; more steps average out what larger ones spoil. The power
        of the steps and `RATE` are measured (benchmarks/README.md, "The learning rate").

        >>> [round(Settings(learning_rate=given).rate(400, 0.25, 81), 7) for given in (None, 2e-5)]
        [6.75e-05, 2e-05]
        >>> Settings().rate(400, 30.0, 81) == Settings().rate(400, 1.0, 81)
        True
        """
        if self.learning_rate is not None:
            return self.learning_rate
        return RATE * min(max(distance, NEAR), FAR) ** 0.5 * min(steps, LONG) ** 0.25 / width

    @classmethod
    def adaptwin(cls, **more: Any) -> Settings:
        """The paper's recipe as far as it is known: every layer alone, then the whole, LoRA of rank 16 throughout.

        A reconstruction from the abstract of arXiv 2406.08904 and a summary of it; the rank, the rate (LoRA's usual
        one) and the share are ours.

        >>> Settings.adaptwin(seed=1).lora
        16
        """
        return cls(**{"layerwise": 0.5, "lora": 16, "learning_rate": 1e-3, "decoder": 1.0, **more})


def require_shares(**shares: float) -> None:
    """Raise InputError for what is no share, by its name."""
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise InputError(f"{name}={value} is no share; give a number from 0 to 1.")


def check_limits(minutes: float | None, steps: int | None, needed: bool = True) -> None:
    """Raise InputError unless one of the limits of a tune is given, or none where it is not needed, and above 0."""
    if (minutes is None) == (steps is None) and (needed or steps is not None):
        raise InputError("Say how long to tune: minutes or steps, one of the two.")
    if (minutes is not None and not minutes > 0) or (steps is not None and not steps > 0):
        raise InputError(f"A tune of {minutes if steps is None else steps} is none; give a number above 0.")


def settings_for(small: Whisper, **more: Any) -> Settings:
    """How a model is tuned when nobody says otherwise: as the method that chose its ranks would have it."""
    made_by = (small.notes.get("plan") or {}).get("method")
    return Settings.adaptwin(**more) if made_by == ADAPTWIN else Settings(**more)
