"""Where the twins of a Whisper are, and what each of their ranks costs.

A *twin* is a pair of weight matrices that act (nearly) only through their product: query with key,
value with output, and the two feed-forward matrices with the activation between them. The encoder's two convolutions,
its *stem* (Radford et al. 2022, section 2.2), are a feed-forward pair as well: each of the first one's channels is a
neuron that the second one reads at `TAPS` frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import WhisperConfig

from adaptwin_widgets.twins import exact

PARTS = ("stem", "encoder", "decoder", "cross")  # "decoder" is its self-attention, "cross" its attention to the audio
TAPS = 3  # frames that each of the stem's convolutions reads at once
KINDS = ("query_key", "value_output", "feed_forward")


class Twin(NamedTuple):
    """The address of one layer's twin; query-key and value-output twins hold one rank a head.

    >>> str(Twin("encoder", 0, "query_key"))
    'encoder.0.query_key'
    >>> Twin.parse("cross.3.value_output")
    Twin(part='cross', layer=3, kind='value_output')
    """

    part: str
    layer: int
    kind: str

    def __str__(self) -> str:
        return f"{self.part}.{self.layer}.{self.kind}"

    @classmethod
    def parse(cls, text: str) -> Twin:
        """Read an address back; raises `ValueError` when it is none."""
        part, layer, kind = text.split(".")
        absent = {"stem": ("query_key", "value_output"), "cross": ("feed_forward",)}.get(part, ())
        if part not in PARTS or kind not in KINDS or kind in absent:
            raise ValueError(f"{text} is no twin of a Whisper")
        return cls(part, int(layer), kind)

    @property
    def side(self) -> str:
        """``"encoder"`` or ``"decoder"``: the part of the model whose budget this twin belongs to."""
        return "encoder" if self.part in ("stem", "encoder") else "decoder"

    @property
    def place(self) -> str:
        """Where it is, in words: ``"layer 3"``, or ``"stem"``."""
        return "stem" if self.part == "stem" else f"layer {self.layer}"

    @property
    def taps(self) -> int:
        """In how many frames of its input the second matrix reads each neuron."""
        return TAPS if self.part == "stem" else 1


STEM = Twin("stem", 0, "feed_forward")


@dataclass(frozen=True)
class Shape:
    """The numbers of a Whisper's configuration that decide what its twins are and what they cost.

    Transformers' own configuration answers each look in microseconds; a plan under a moving slider takes thousands.

    >>> Shape.of(WhisperConfig(d_model=512)).d_model
    512
    """

    d_model: int
    encoder_layers: int
    decoder_layers: int
    encoder_attention_heads: int
    decoder_attention_heads: int
    encoder_ffn_dim: int
    decoder_ffn_dim: int
    vocab_size: int
    num_mel_bins: int
    max_source_positions: int
    max_target_positions: int

    @classmethod
    def of(cls, config: WhisperConfig | Shape) -> Shape:
        """The shape of a model's configuration."""
        return cls(**{field.name: int(getattr(config, field.name)) for field in fields(cls)})


def twins_of(config: WhisperConfig | Shape) -> Iterator[Twin]:
    """Every twin of a Whisper of this shape, in the order of the computation.

    >>> [str(t) for t in twins_of(WhisperConfig(encoder_layers=1, decoder_layers=0))]
    ['stem.0.feed_forward', 'encoder.0.query_key', 'encoder.0.value_output', 'encoder.0.feed_forward']
    """
    yield STEM
    for layer in range(config.encoder_layers):
        for kind in KINDS:
            yield Twin("encoder", layer, kind)
    for layer in range(config.decoder_layers):
        for part, kind in (
            ("decoder", "query_key"),
            ("decoder", "value_output"),
            ("cross", "query_key"),
            ("cross", "value_output"),
            ("decoder", "feed_forward"),
        ):
            yield Twin(part, layer, kind)


def heads_of(config: WhisperConfig | Shape, twin: Twin) -> int:
    """How many ranks the twin has: one a head, one for a feed-forward pair."""
    if twin.kind == "feed_forward":
        return 1
    return config.encoder_attention_heads if twin.part == "encoder" else config.decoder_attention_heads


def full_rank(config: WhisperConfig | Shape, twin: Twin) -> int:
    """The rank at which nothing is removed: the head dimension, or the number of neurons."""
    if twin.kind == "feed_forward":
        sizes = {"stem": config.d_model, "encoder": config.encoder_ffn_dim, "decoder": config.decoder_ffn_dim}
        return sizes[twin.part]
    return config.d_model // heads_of(config, twin)


def parameters_per_rank(config: WhisperConfig | Shape, twin: Twin) -> int:
    """How many parameters one rank (of one head) or one neuron holds, biases included.

    The value's bias folds into the output's (attention rows sum to one), the key has none.
    """
    if twin.part == "stem":
        return TAPS * (config.num_mel_bins + config.d_model) + 1
    return 2 * config.d_model + (0 if twin.kind == "value_output" else 1)


def layer_of(model: nn.Module, part: str, layer: int) -> nn.Module:
    """The transformer layer a twin sits in; the stem sits in the encoder itself."""
    return model.get_submodule(module_path(part, layer))


def pair_of(model: nn.Module, twin: Twin) -> dict[str, nn.Module]:
    """The two modules of a feed-forward pair by their names in the layer, or of the stem in the encoder."""
    place, names = layer_of(model, twin.part, twin.layer), ("conv1", "conv2") if twin.part == "stem" else ("fc1", "fc2")
    return {name: getattr(place, name) for name in names}


def matrices_of(pair: dict[str, nn.Module]) -> tuple[Tensor, Tensor]:
    """A pair's weights in float64: what each neuron reads [n, in], and the rows [n * taps, d] of what it says, the taps
    of a neuron side by side."""
    first, second = (exact(module.weight) for module in pair.values())
    return first.flatten(1), second.flatten(1).T


def encoder_input(model: nn.Module, features: Tensor) -> Tensor:
    """What the encoder's first layer reads, [B, frames, d], of log-mel features [B, mel, 2 * frames]."""
    encoder = model.model.encoder
    x = F.gelu(encoder.conv2(F.gelu(encoder.conv1(features))))
    # A sum keeps its first term's order in memory, and so would every layer's states: all that is done to them would
    # read across it.
    return x.transpose(1, 2).contiguous() + encoder.embed_positions.weight


def attention_name(part: str) -> str:
    """The attribute of a layer that holds this part's attention."""
    return "encoder_attn" if part == "cross" else "self_attn"


def attention_of(model: nn.Module, part: str, layer: int) -> nn.Module:
    """The attention module of a part and layer."""
    return getattr(layer_of(model, part, layer), attention_name(part))


def module_path(part: str, layer: int) -> str:
    """The dotted name of a layer, or of what holds the stem, inside the model, as in its state dictionary.

    >>> module_path("cross", 2), module_path("stem", 0)
    ('model.decoder.layers.2', 'model.encoder')
    """
    if part == "stem":
        return "model.encoder"
    return f"model.{'encoder' if part == 'encoder' else 'decoder'}.layers.{layer}"
