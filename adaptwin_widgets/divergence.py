"""The distance between two distributions over a large vocabulary, a few positions at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ROWS = 4  # positions at once: what is computed of them stays near the processor


class Divergence(torch.autograd.Function):
    """KL divergence of the softmax of `ours` [N, V] from that of `theirs`, nats a position, the mean over N; the share
    `said` [N] of it is the cross-entropy with `labels` [N] instead.

    >>> from torch.nn import functional as F
    >>> (ours, theirs), labels = torch.randn(2, 6, 50), torch.arange(6)
    >>> divergence = F.kl_div(ours.log_softmax(-1), theirs.softmax(-1), reduction="batchmean")
    >>> torch.allclose(Divergence.apply(ours, theirs, labels, torch.zeros(6)), divergence, atol=1e-6)
    True
    >>> torch.allclose(Divergence.apply(ours, theirs, labels, torch.ones(6)), F.cross_entropy(ours, labels), atol=1e-6)
    True

    The gradient for our logits is the difference of the two distributions, the labels being a part of the second (soft
    and hard targets: Hinton et al. 2015, section 2); `theirs` has none.
    """

    @staticmethod
    def forward(ctx: Any, ours: Tensor, theirs: Tensor, labels: Tensor, said: Tensor) -> Tensor:
        learnt = ctx.needs_input_grad[0]
        gradient = torch.empty_like(ours) if learnt else None
        total = ours.new_zeros((), dtype=torch.float32)
        for start in range(0, len(ours), ROWS):
            rows = slice(start, start + ROWS)
            q, p = (logits[rows].float().log_softmax(-1) for logits in (ours, theirs))
            label, hard = labels[rows, None], said[rows, None]
            chances = p.exp().mul_(1 - hard)
            total += p.sub_(q).mul_(chances).sum() - (hard * q.gather(1, label)).sum()
            if gradient is not None:
                gradient[rows] = q.exp_().sub_(chances.scatter_add_(1, label, hard))
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return total / len(ours)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (difference,) = ctx.saved_tensors
        return difference * (gradient / len(difference)), None, None, None
