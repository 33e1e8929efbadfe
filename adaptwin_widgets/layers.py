"""The layers of a Whisper as plain tensors, laid out for fast inference."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adaptwin_widgets.blocks import Blocks
from adaptwin_widgets.packed import PackedAttention


class Affine(NamedTuple):
    """Weight [out, in] and bias [out] of a linear map."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class Norm(NamedTuple):
    """Gain and bias of a layer norm, and what keeps it from dividing by zero."""

    weight: Tensor
    bias: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class FeedForward(NamedTuple):
    """Norm, first map, activation, second map; a low-rank map is two maps in a row."""

    norm: Norm
    up: list[Affine]
    activation: nn.Module
    down: list[Affine]

    def __call__(self, x: Tensor) -> Tensor:
        for affine in self.up:
            x = affine(x)
        x = self.activation(x)
        for affine in self.down:
            x = affine(x)
        return x


class SelfAttention(NamedTuple):
    """Query (scaled), key and value in one map."""

    norm: Norm
    project: Affine
    out: Affine
    heads: int
    key_dim: int
    value_dim: int

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys [B, H, T, Dk] and values [B, H, T, Dv] of x [B, T, d], as views of one tensor."""
        sizes = [self.heads * self.key_dim] * 2 + [self.heads * self.value_dim]
        parts = self.project(x).split(sizes, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        return q, k, v


class Hearing(NamedTuple):
    """The encoder's attention: queries (scaled), keys and values of one group of heads after the other in one map.

    groups: (heads, query-key dimension, value-output dimension); heads of like ranks share a group.
    """

    norm: Norm
    project: Affine
    out: Affine
    groups: list[tuple[int, int, int]]

    def __call__(self, x: Tensor, fused: bool) -> Tensor:
        """What x [B, T, d], already normed, finds in itself, [B, T, d]."""
        sizes = [size for heads, key, value in self.groups for size in (heads * key, heads * key, heads * value)]
        parts = iter(self.project(x).split(sizes, dim=-1))
        found = []
        for heads, _, _ in self.groups:
            q, k, v = (next(parts).unflatten(-1, (heads, -1)).transpose(1, 2) for _ in range(3))
            found.append(attend(q, k, v, fused))
        return self.out(found[0] if len(found) == 1 else torch.cat(found, -1))


class CrossAttention(NamedTuple):
    """Query map (scaled) for the decoder's side, key and value maps for the encoder's."""

    norm: Norm
    query: Affine
    key: Affine
    value: Affine
    out: Affine
    heads: int
    key_dim: int
    value_dim: int


def attend(q: Tensor, k: Tensor, v: Tensor, fused: bool) -> Tensor:
    """Attention of every frame to every frame, [B, T, H * Dv].

    q (scaled) and k: [B, H, T, Dk]; v: [B, H, T, Dv]. fused: by torch's own kernel; else one head and one
    block of queries at a time, which is quicker where a CPU multiplies 16-bit numbers fast and the fused
    kernel does not use it.

    >>> q, k, v = torch.randn(3, 1, 2, 10, 4)
    >>> torch.allclose(attend(q, k, v, True), attend(q, k, v, False), atol=1e-6)
    True
    """
    batch, heads, frames, dim = v.shape
    if fused:
        if q.shape[-1] != dim:  # the fused kernels want one dimension; zeros change nothing
            size = max(q.shape[-1], dim)
            q, k, v = (F.pad(x, (0, size - x.shape[-1])) for x in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, scale=1.0)[..., :dim]
        return mixed.transpose(1, 2).reshape(batch, frames, heads * dim)
    return Blocks.apply(q, k, v).transpose(1, 2).flatten(2)


def affine(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Affine:
    return Affine(weight.detach().to(dtype), None if bias is None else bias.detach().to(dtype))


def norm(layer: nn.LayerNorm) -> Norm:
    return Norm(layer.weight.detach().float(), layer.bias.detach().float(), layer.eps)


def projections(p: PackedAttention) -> tuple[Tensor, Tensor]:
    """Queries (scaled), keys and values as one weight and one bias."""
    weight = torch.cat([p.q_weight * p.scale, p.k_weight, p.v_weight])
    return weight, torch.cat([bias_of(p, "q") * p.scale, bias_of(p, "k"), bias_of(p, "v")])


def bias_of(p: PackedAttention, name: str) -> Tensor:
    """A bias, zeros where there is none."""
    bias, weight = getattr(p, f"{name}_bias"), getattr(p, f"{name}_weight")
    return weight.new_zeros(len(weight)) if bias is None else bias
