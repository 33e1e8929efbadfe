"""What a decoder needs to know of one attention layer, whoever owns its weights.

The batched decoder in `transcribe` reads every attention layer, the original's and a compressed one's,
through `packed_attention`, so it needs no case for either.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

GROUP_COST = 12  # what one more call of the attention kernel costs, in ranks of one head (measured, base, CPU)
GRAIN = 8  # ranks are padded to a multiple of this inside a kernel call: vector units work in such blocks


class Group(NamedTuple):
    """Heads that share one call of the attention kernel, all padded to `dim`."""

    heads: list[int]
    dim: int


def group_heads(sizes: list[int], cost: int = GROUP_COST, grain: int = GRAIN) -> list[Group]:
    """Split heads into groups of similar size so that padding plus the price of the calls is least.

    Heads of size 0 are gone and in no group, unless all are: something has to answer for the layer.

    >>> group_heads([8, 64, 0, 8, 8, 60, 64])
    [Group(heads=[0, 3, 4], dim=8), Group(heads=[5, 1, 6], dim=64)]
    """
    left = [h for h, size in enumerate(sizes) if size] or range(len(sizes))
    order = sorted(left, key=lambda h: sizes[h])
    padded = [max(grain, -(-sizes[h] // grain) * grain) for h in order]
    best: list[tuple[float, list[Group]]] = [(0.0, [])]
    for end in range(1, len(order) + 1):
        best.append(
            min(
                (best[start][0] + (end - start) * padded[end - 1] + cost,
                 [*best[start][1], Group(order[start:end], padded[end - 1])])
                for start in range(end)
            )
        )  # fmt: skip
    return best[-1][1]


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
    ranks: tuple[tuple[int, int], ...] = ()  # of every head, (query-key, value-output): what is used of its dimensions

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

    @property
    def left(self) -> list[int]:
        """The heads that are left: where no value gets through, nobody hears what a head attends to. The first stays,
        for something has to answer for the layer."""
        return [h for h, (_, value) in enumerate(self.ranks) if value] or [0] if self.ranks else list(range(self.heads))

    def pick(self, heads: list[int], key_dim: int, value_dim: int) -> PackedAttention:
        """Some of the heads alone, cut to dimensions that hold all they use or padded with zeros to larger ones;
        outputs of all picks add up, with one output bias."""

        def rows(weight: Tensor | None, own: int, dim: int) -> Tensor | None:
            if weight is None:
                return None
            split = weight.unflatten(0, (self.heads, own))[heads]
            return F.pad(split, (*(0, 0) * (split.dim() - 2), 0, dim - own)).flatten(0, 1)  # a negative pad cuts

        out = self.out_weight.unflatten(1, (self.heads, self.value_dim))[:, heads]
        return replace(
            self,
            q_weight=rows(self.q_weight, self.key_dim, key_dim), q_bias=rows(self.q_bias, self.key_dim, key_dim),
            k_weight=rows(self.k_weight, self.key_dim, key_dim), k_bias=rows(self.k_bias, self.key_dim, key_dim),
            v_weight=rows(self.v_weight, self.value_dim, value_dim),
            v_bias=rows(self.v_bias, self.value_dim, value_dim),
            out_weight=F.pad(out, (0, value_dim - self.value_dim)).flatten(1),
            heads=len(heads), key_dim=key_dim, value_dim=value_dim, ranks=(),
        )  # fmt: skip

    def grouped(self, fused: bool) -> list[PackedAttention]:
        """Heads of like ranks together, so that small ones cost less.

        fused: for a kernel that takes many heads at once and one dimension; else every rank for itself, a little
        rounded up.
        """
        if not self.ranks:
            return [self]
        left = self.left
        if fused:
            sizes = [max(pair) if h in left else 0 for h, pair in enumerate(self.ranks)]
            return [
                self.pick(heads, min(dim, self.key_dim), min(dim, self.value_dim)) for heads, dim in group_heads(sizes)
            ]
        alike: dict[tuple[int, int], list[int]] = {}
        for head in left:
            key, value = (max(GRAIN, -(-rank // GRAIN) * GRAIN) for rank in self.ranks[head])
            alike.setdefault((min(key, self.key_dim), min(value, self.value_dim)), []).append(head)
        return [self.pick(heads, key, value) for (key, value), heads in alike.items()]

    def padded(self, dim: int) -> PackedAttention:
        """The same attention with `dim` query-key and value-output dimensions a head, for runtimes that have one."""
        return self.pick(list(range(self.heads)), dim, dim)


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
