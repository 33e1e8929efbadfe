"""What a decoder needs to know of one attention layer, whoever owns its weights.

The batched decoder in `transcribe` reads every attention layer, the original's and a compressed one's,
through `packed_attention`, so it needs no case for either.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class PackedAttention:
    """One attention layer as four matrices, all heads with the same dimensions.

    With d the model width, H heads, Dk the query-key and Dv the value-output dimension of every head (the two
    may differ), a head h owns the rows ``h * Dk : (h + 1) * Dk`` of `q_weight` and `k_weight`, the rows
    ``h * Dv : (h + 1) * Dv`` of `v_weight` and the same columns of `out_weight`. Ragged ranks are padded with
    zeros to the layer's largest; zero rows and columns change nothing. Weights are stored as
    `torch.nn.Linear` stores them (output x input).

    >>> from types import SimpleNamespace
    >>> linear = lambda bias: nn.Linear(8, 8, bias=bias)
    >>> layer = SimpleNamespace(q_proj=linear(True), k_proj=linear(False), v_proj=linear(True),
    ...                         out_proj=linear(True), num_heads=2, scaling=0.5)
    >>> packed = packed_attention(layer)
    >>> packed.heads, packed.key_dim, packed.value_dim, packed.scale
    (2, 4, 4, 0.5)

    Raises ValueError where the shapes do not fit together.
    """

    q_weight: Tensor  # [H * Dk, d]
    q_bias: Tensor | None  # [H * Dk]
    k_weight: Tensor  # [H * Dk, d]
    k_bias: Tensor | None  # [H * Dk]; Whisper has none
    v_weight: Tensor  # [H * Dv, d]
    v_bias: Tensor | None  # [H * Dv]
    out_weight: Tensor  # [d, H * Dv]
    out_bias: Tensor | None  # [d]
    heads: int
    key_dim: int
    value_dim: int
    scale: float  # what query times key is multiplied by: 64 ** -0.5 in Whisper, also after compression

    def __post_init__(self) -> None:
        width = self.q_weight.shape[1]
        keys, values = (self.heads * self.key_dim, width), (self.heads * self.value_dim, width)
        expected = {
            "q_weight": keys,
            "q_bias": keys[:1],
            "k_weight": keys,
            "k_bias": keys[:1],
            "v_weight": values,
            "v_bias": values[:1],
            "out_weight": (width, values[0]),
            "out_bias": (width,),
        }
        for name, shape in expected.items():
            tensor = getattr(self, name)
            if tensor is not None and tuple(tensor.shape) != shape:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {shape}")


def packed_attention(attention: nn.Module) -> PackedAttention:
    """The weights of one attention layer, original (`WhisperAttention`) or compressed.

    >>> from transformers import WhisperConfig
    >>> from transformers.models.whisper.modeling_whisper import WhisperAttention
    >>> layer = WhisperAttention(128, num_heads=2, is_decoder=True, layer_idx=0, config=WhisperConfig())
    >>> packed_attention(layer).q_weight.shape
    torch.Size([128, 128])

    A layer with a method ``packed()`` answers for itself; any other must have transformers' ``q_proj``,
    ``k_proj``, ``v_proj``, ``out_proj``, ``num_heads`` and ``scaling``. The tensors are the layer's own,
    detached, not copies. Raises ValueError where their shapes do not fit together.
    """
    own = getattr(attention, "packed", None)
    if own is not None:
        return own()
    heads = attention.num_heads

    def weight(name: str) -> Tensor:
        return getattr(attention, name).weight.detach()

    def bias(name: str) -> Tensor | None:
        found = getattr(attention, name).bias
        return None if found is None else found.detach()

    return PackedAttention(
        q_weight=weight("q_proj"),
        q_bias=bias("q_proj"),
        k_weight=weight("k_proj"),
        k_bias=bias("k_proj"),
        v_weight=weight("v_proj"),
        v_bias=bias("v_proj"),
        out_weight=weight("out_proj"),
        out_bias=bias("out_proj"),
        heads=heads,
        key_dim=weight("q_proj").shape[0] // heads,
        value_dim=weight("v_proj").shape[0] // heads,
        scale=float(attention.scaling),
    )
