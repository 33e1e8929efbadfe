"""LoRA on the factors: a low-rank change of a matrix is trained, the matrix itself stays.

Source: Hu et al. 2022, "LoRA: low-rank adaptation of large language models", equation 3. A compressed attention reads
its matrices to pad them, so the change sits on the matrix (torch's parametrisation) and not in a layer around it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class LowRankChange(nn.Module):
    """``W`` becomes ``W + up @ down``. weight: [out, in]; up [out, rank] starts at zero, down [rank, in] at random.

    >>> change = LowRankChange(torch.eye(3), rank=2)
    >>> torch.equal(change(torch.eye(3)), torch.eye(3))
    True
    """

    def __init__(self, weight: Tensor, rank: int):
        super().__init__()
        rank = min(rank, *weight.shape)
        self.up = nn.Parameter(weight.new_zeros(weight.shape[0], rank))
        self.down = nn.Parameter(torch.randn(rank, weight.shape[1]).to(weight) * weight.shape[1] ** -0.5)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


def adapt(layer: nn.Module, rank: int) -> None:
    """Put a low-rank change on every matrix of a layer, and freeze everything else in it.

    >>> linear = nn.Sequential(nn.Linear(4, 3))
    >>> adapt(linear, 2)
    >>> sorted(name.split(".")[-1] for name, p in linear.named_parameters() if p.requires_grad)
    ['down', 'up']
    """
    layer.requires_grad_(False)
    for module in list(layer.modules()):
        if isinstance(module, nn.Linear):
            parametrize.register_parametrization(module, "weight", LowRankChange(module.weight.detach(), rank))


def settle(network: nn.Module) -> None:
    """Make the changes part of the matrices; nothing is left to be seen of them.

    >>> linear = nn.Sequential(nn.Linear(4, 3))
    >>> adapt(linear, 2)
    >>> settle(linear)
    >>> sorted(name for name, _ in linear.named_parameters())
    ['0.bias', '0.weight']
    """
    for module in list(network.modules()):
        if isinstance(module, nn.Linear) and parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
