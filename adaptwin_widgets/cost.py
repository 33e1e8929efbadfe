"""What a plan costs, counted from the shapes alone: parameters, multiply-adds, bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from transformers import WhisperConfig

from adaptwin_widgets.anatomy import Shape, Twin, full_rank, heads_of, parameters_per_rank, twins_of

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


def cost(config: WhisperConfig | Shape, ranks: Mapping[str, list[int]] | None = None) -> Cost:
    """The exact cost of a Whisper of this shape with these ranks; without ranks, of the original.

    >>> cost(WhisperConfig(vocab_size=51864)).model       # tiny.en
    37760256
    """
    kept, config = {Twin.parse(str(key)): value for key, value in (ranks or {}).items()}, Shape.of(config)
    d, mel = config.d_model, config.num_mel_bins
    frames, positions = config.max_source_positions, config.max_target_positions
    parameters = {
        "encoder": (mel * 3 + 1) * d + (d * 3 + 1) * d + frames * d + 2 * d + config.encoder_layers * 4 * d,
        "decoder": positions * d + 2 * d + config.decoder_layers * 6 * d,
    }
    audio = 2 * frames * mel * 3 * d + frames * d * 3 * d
    token = d * config.vocab_size
    for twin in twins_of(config):
        own = sum(kept.get(twin, [full_rank(config, twin)] * heads_of(config, twin)))
        parameters[twin.side] += own * parameters_per_rank(config, twin)
        if twin.kind == "feed_forward" or twin.kind == "value_output":
            parameters[twin.side] += d  # the output's bias
        if twin.kind == "value_output" and twin not in kept and twin._replace(kind="query_key") not in kept:
            parameters[twin.side] += d  # the value's bias, which a compressed attention folds into the output's
        if twin.part == "encoder":
            audio += 2 * frames * d * own + (frames * frames * own if twin.kind != "feed_forward" else 0)
        elif twin.part == "cross":
            audio += frames * d * own  # keys or values of the audio, once
            token += d * own + frames * own
        else:
            token += 2 * d * own + (CONTEXT * own if twin.kind != "feed_forward" else 0)
    return Cost(parameters["encoder"], parameters["decoder"], d * config.vocab_size, audio, token)


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
