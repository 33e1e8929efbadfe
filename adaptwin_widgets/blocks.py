"""Attention for 16-bit numbers on a CPU, to hear and to learn: one head and one block of queries after the other.

Where a CPU multiplies 16-bit matrices fast, torch's fused kernel makes no use of it; the products alone take about half
its time, forward and backward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

QUERIES = 500  # encoder queries a block of scores: 500 x 1500 x 2 bytes stay near the core that made them


class Blocks(torch.autograd.Function):
    """softmax(q kᵀ) v for q [B, H, T, D], k [B, H, S, D] and v [B, H, S, E]; nothing of size T x S is kept.

    With P the softmax and G the gradient of the output O: ``dV = Pᵀ G``, ``dS = P ∘ (G Vᵀ − rowsum(G ∘ O))``,
    ``dQ = dS K``, ``dK = dSᵀ Q`` (Dao et al. 2022, FlashAttention, algorithm 4); P is made anew, which is a product.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        (batch, heads, frames, _), width = q.shape, v.shape[-1]
        out = v.new_empty(batch, frames, heads, width).transpose(1, 2)  # as the next product reads it
        room = q.new_empty(min(QUERIES, frames), k.shape[2])
        for b, h, start in _blocks(q):
            weights = _weights(q[b, h, start : start + QUERIES], k[b, h], room)
            out[b, h, start : start + QUERIES] = weights @ v[b, h]
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, out = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        # The row sum as one more column of the product: nothing is rounded between the two.
        minus = (gradient.float() * out.float()).sum(-1, keepdim=True).neg().to(gradient.dtype)
        with_sum, with_one = torch.cat([gradient, minus], -1), torch.cat([v, torch.ones_like(v[..., :1])], -1)
        room, second = (q.new_empty(min(QUERIES, q.shape[2]), k.shape[2]) for _ in range(2))
        for b, h, start in _blocks(q):
            some = slice(start, start + QUERIES)
            queries, keys = q[b, h, some], k[b, h]
            weights = _weights(queries, keys, room)
            scores = torch.mm(with_sum[b, h, some], with_one[b, h].T, out=second[: len(queries)]).mul_(weights)
            dq[b, h, some] = scores @ keys
            dk[b, h].addmm_(scores.T, queries)
            dv[b, h].addmm_(weights.T, gradient[b, h, some])
        return dq, dk, dv


class InBlocks(TorchFunctionMode):
    """Within it torch's own attention is `Blocks`, where nothing is masked and the numbers have 16 bits.

    >>> q, k, v = torch.randn(3, 1, 2, 10, 4).bfloat16()
    >>> with InBlocks():
    ...     ours = F.scaled_dot_product_attention(q, k, v)
    >>> torch.allclose(ours, F.scaled_dot_product_attention(q, k, v), atol=0.03)
    True
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func is not F.scaled_dot_product_attention or not _suits(*args, **given):
            return func(*args, **given)
        q, k, v = args[:3]
        scale = given.get("scale")
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        with torch.autocast(q.device.type, enabled=False):  # all is of one format already
            return Blocks.apply(q if scale == 1 else q * scale, k, v)


def _suits(*args: Any, **given: Any) -> bool:
    if len(args) != 3 or set(given) - {"attn_mask", "dropout_p", "scale", "is_causal", "enable_gqa"}:
        return False
    plain = given.get("attn_mask") is None and not any(given.get(n) for n in ("dropout_p", "is_causal", "enable_gqa"))
    return plain and args[0].dtype in (torch.bfloat16, torch.float16)


def _blocks(q: Tensor) -> list[tuple[int, int, int]]:
    batch, heads, frames, _ = q.shape
    return [(b, h, start) for b in range(batch) for h in range(heads) for start in range(0, frames, QUERIES)]


def _weights(queries: Tensor, keys: Tensor, room: Tensor) -> Tensor:
    scores = torch.mm(queries, keys.T, out=room[: len(queries)])
    return torch.softmax(scores, -1, out=scores)
