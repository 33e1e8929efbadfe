"""What a plan costs, counted from the shapes alone: parameters, multiply-adds, bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from transformers import WhisperConfig

from adaptwin_widgets.anatomy import TAPS, Shape, Twin, full_rank, heads_of, parameters_per_rank, twins_of

CONTEXT = 50  # the text position, in tokens, at which a decoded token is priced
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}


@dataclass(frozen=True)
class Cost:
    """encoder, decoder, embedding: parameters; the embedding is tied to the output projection, counted once and
    not part of the decoder. audio: multiply-adds for 30 s of audio (encoder, and the keys and values the decoder
    reads from it); token: multiply-adds for one decoded token, the 50th.

    >>> cost = Cost(encoder=8, decoder=10, embedding=20, audio=100, token=5)
    >>> cost.model, cost.bytes("float16")
    (38, 76)
    """

    encoder: int
    decoder: int
    embedding: int
    audio: int
    token: int

    @property
    def model(self) -> int:
        return self.encoder + self.decoder + self.embedding

    def bytes(self, dtype: str = "float32") -> int:
        """Size of the weights stored in a number format."""
        return self.model * BYTES[dtype]


def cost(
    config: WhisperConfig | Shape, ranks: Mapping[str, list[int]] | None = None, *, embedding: int | None = None
) -> Cost:
    """The exact cost of a Whisper of this shape with these ranks; without ranks, of the original.

    embedding: the rank of the token embedding, if it is two factors.

    >>> cost(WhisperConfig(vocab_size=51864)).model       # tiny.en
    37760256
    """
    kept, config = {Twin.parse(str(key)): value for key, value in (ranks or {}).items()}, Shape.of(config)
    d = config.d_model
    frames, positions = config.max_source_positions, config.max_target_positions
    parameters = {
        "encoder": frames * d + 2 * d + config.encoder_layers * 4 * d,
        "decoder": positions * d + 2 * d + config.decoder_layers * 6 * d,
    }
    audio = 0
    table = config.vocab_size * (embedding or d)
    basis = (embedding or 0) * d  # read once by the lookup, once by the output
    token = table + 2 * basis
    for twin in twins_of(config):
        own = sum(kept.get(twin, [full_rank(config, twin)] * heads_of(config, twin)))
        each = per_rank(config, twin)
        parameters[twin.side] += own * each[0]
        audio += own * each[1]
        token += own * each[2]
        if twin.kind == "feed_forward" or twin.kind == "value_output":
            parameters[twin.side] += d  # the output's bias
        if twin.kind == "value_output" and twin not in kept and twin._replace(kind="query_key") not in kept:
            parameters[twin.side] += d  # the value's bias, which a compressed attention folds into the output's
    return Cost(parameters["encoder"], parameters["decoder"], table + basis, audio, token)


def sizes(config: WhisperConfig) -> tuple[Cost, Cost]:
    """The cost of a model's original and of the model itself, read off its configuration.

    >>> before, after = sizes(WhisperConfig(vocab_size=51864))
    >>> before == after
    True
    """
    shape = Shape.of(config)
    before = replace(shape, vocab_size=getattr(config, "original_vocab_size", None) or shape.vocab_size)
    rank = getattr(config, "embedding_rank", None)
    return cost(before), cost(shape, getattr(config, "ranks", None), embedding=rank)


def per_rank(config: Shape, twin: Twin) -> tuple[int, int, int]:
    """What one rank of one head (or one neuron) costs: parameters, multiply-adds for 30 s of audio, and for a token.

    >>> per_rank(Shape.of(WhisperConfig()), Twin("cross", 0, "query_key"))
    (769, 576000, 1884)
    """
    d, frames, attends = config.d_model, config.max_source_positions, twin.kind != "feed_forward"
    if twin.part == "stem":  # the first convolution speaks twice for each frame of the encoder
        audio, token = TAPS * frames * (2 * config.num_mel_bins + d), 0
    elif twin.part == "encoder":
        audio, token = 2 * frames * d + frames * frames * attends, 0
    elif twin.part == "cross":
        audio, token = frames * d, d + frames  # keys or values of the audio, once
    else:
        audio, token = 0, 2 * d + CONTEXT * attends
    return parameters_per_rank(config, twin), audio, token


def reductions(before: Cost, after: Cost) -> dict[str, float | int]:
    """The keys every command reports: parameters before and after, and the fractions removed.

    >>> small = Cost(4, 10, 20, 0, 0)
    >>> reductions(Cost(8, 10, 20, 0, 0), small)["encoder_reduction"]
    0.5
    """
    return {
        "parameters_before": before.model,
        "parameters_after": after.model,
        "encoder_reduction": 1 - after.encoder / before.encoder,
        "decoder_reduction": 1 - after.decoder / before.decoder,
        "model_reduction": 1 - after.model / before.model,
    }
