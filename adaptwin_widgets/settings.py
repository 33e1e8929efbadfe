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
RATE = 0.04  # 1.0e-4 for tiny, 7.8e-5 for base: as the best does under Adam (Yang et al. 2022, µP)


@dataclass
class Settings:
    """How to tune. learning_rate: peak; default: `RATE` over the model's width; warmup: steps; batch_size: 30 s windows
    a step; target_weight: share of the first corpus; weights: of the distances (layers, encoder, decoder), see
    `distill.Distance`; check_every: steps between two looks at the held-out loss; layerwise: share of the run, from its
    beginning, in which every layer is tuned alone towards the teacher's (`Distance.local`); lora: rank of a low-rank
    change of every matrix, tuned instead of the matrices (0: the matrices themselves); rough: share of windows heard
    through noise, a telephone or a room (`windows.roughened`); decoder: its learning rate over the encoder's, for it
    soon forgets the words that the tuned speech does not hold; transcripts: how much of what the decoder is to say is
    their word, where there are any, and not the original's distribution over all words."""

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
        if not (isinstance(self.lora, int) and self.lora >= 0):
            raise InputError(f"lora={self.lora} is no rank; give a whole number, 0 for none.")

    def rate(self, width: int) -> float:
        """The peak learning rate for a model of this width.

        >>> Settings().rate(400), Settings(learning_rate=2e-5).rate(400)
        (0.0001, 2e-05)
        """
        return RATE / width if self.learning_rate is None else self.learning_rate

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
