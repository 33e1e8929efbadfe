"""What a budget counts: parameters, multiply-adds, or time as it was measured on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from adaptwin_widgets.anatomy import Shape, Twin, full_rank, heads_of, parameters_per_rank, twins_of
from adaptwin_widgets.cost import cost, per_rank

TEXT = 100  # tokens written of 30 s of speech: about two and a half words a second


class Prices(Protocol):
    """What each rank costs, and all of a part. name: what is counted, in words."""

    @property
    def name(self) -> str: ...

    def each(self, config: Shape, twin: Twin) -> float:
        """One rank of one head of a twin, or one neuron."""

    def total(self, config: Shape, ranks: Mapping[str, list[int]], part: str) -> float:
        """What "encoder", "decoder" or "model" costs with these ranks; a twin that is not named is whole."""


class Parameters:
    """Parameters, exact to the last one; in one number format the bytes as well. The decoder's are those without the
    token embedding."""

    name = "parameters"

    def each(self, config: Shape, twin: Twin) -> int:
        return parameters_per_rank(config, twin)

    def total(self, config: Shape, ranks: Mapping[str, list[int]], part: str) -> int:
        return int(getattr(cost(config, ranks), part))


class MultiplyAdds:
    """Multiply-adds for 30 s of audio and the `TEXT` tokens that are written of it.

    The encoder's, with the stem; the decoder's, with the keys and values it makes of the audio and the output over all
    tokens.

    >>> prices, config = MultiplyAdds(), Shape(384, 4, 4, 6, 6, 1536, 1536, 51864, 80, 1500, 448)
    >>> encoder, decoder = (prices.total(config, {}, part) for part in ("encoder", "decoder"))
    >>> encoder + decoder == cost(config).audio + TEXT * cost(config).token
    True
    """

    name = "multiply-adds"

    def each(self, config: Shape, twin: Twin) -> int:
        _, audio, token = per_rank(config, twin)
        return audio + TEXT * token

    def total(self, config: Shape, ranks: Mapping[str, list[int]], part: str) -> int:
        return self.parts(config, ranks)[part]

    def parts(self, config: Shape, ranks: Mapping[str, list[int]]) -> dict[str, int]:
        """The total of every part."""
        own = cost(config, ranks)
        every = own.audio + TEXT * own.token
        encoder = sum(
            sum(ranks.get(str(twin), [full_rank(config, twin)] * heads_of(config, twin))) * self.each(config, twin)
            for twin in twins_of(config)
            if twin.side == "encoder"
        )
        return {"encoder": encoder, "decoder": every - encoder, "model": every}


@dataclass(frozen=True)
class Times:
    """Milliseconds for 30 s of audio and `TEXT` tokens, as `measure_times` found them.

    runtime, dtype: where. rank_ms: by the part and kind of a twin, of one rank of one head; whole_ms: of "encoder" and
    "decoder" in the original. head_ms: what a head of the encoder that goes as a whole saves beyond its ranks, the
    softmax over its scores above all.
    """

    runtime: str
    dtype: str
    rank_ms: Mapping[str, float]
    whole_ms: Mapping[str, float]
    head_ms: float = 0.0

    @property
    def name(self) -> str:
        return f"time in {self.runtime}, {self.dtype}"

    def each(self, config: Shape, twin: Twin) -> float:
        return self.rank_ms[f"{twin.part}.{twin.kind}"]

    def total(self, config: Shape, ranks: Mapping[str, list[int]], part: str) -> float:
        sides = ("encoder", "decoder") if part == "model" else (part,)
        whole = sum(self.whole_ms[side] for side in sides)
        for twin in twins_of(config):
            if twin.side in sides and str(twin) in ranks:
                gone = full_rank(config, twin) * heads_of(config, twin) - sum(ranks[str(twin)])
                whole -= gone * self.each(config, twin)
                if twin.part == "encoder" and twin.kind == "value_output":
                    whole -= ranks[str(twin)].count(0) * self.head_ms
        return whole


PARAMETERS = Parameters()
MULTIPLY_ADDS = MultiplyAdds()
"""For `RankPlan.for_budget(prices=)`: budgets are then of multiply-adds."""
COUNTS: dict[str, Prices] = {prices.name: prices for prices in (PARAMETERS, MULTIPLY_ADDS)}  # what needs no clock
