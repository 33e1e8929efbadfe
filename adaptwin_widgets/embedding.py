"""The token embedding as a product: one table of rows, read by the input lookup and by the output projection.

It is a twin of its own kind: E [V, d] ≈ A B with A [V, r] and B [r, d]. Both ends share the two factors, and both get
faster: logits are A (B h), a token's row is its row of A times B.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adaptwin_widgets.twins import cholesky, exact

EMBEDDING = "model.decoder.embed_tokens.weight"  # its table's name in a state dictionary
UNIFORM = 0.1  # share of all tokens alike in the weight of a token: the unlikely must not become likely
INPUT = 0.5  # weight of an error of the row itself, which the input reads, beside that of the logits


def factor(
    embedding: Tensor, rank: int, second: Tensor | None = None, chances: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The best A [V, r] and B [r, d] for what the decoder's states and the tokens' frequencies look like, float64.

    With h the decoder's final state, ``M = E[h hᵀ] / tr·d + λ I`` (the first term is the error of the logits, the
    second that of the input's rows) and w_v the frequency of token v, it minimises

        Σ_v w_v (e_v − b_v)ᵀ M (e_v − b_v) = ‖W½ (E − A B) Rᵀ‖²,  M = RᵀR,  W = diag(w)

    by the truncated SVD ``W½ E Rᵀ = U S Vᵀ``: ``A = E Rᵀ V_r`` and ``B = V_rᵀ R⁻ᵀ`` (R⁻ᵀ is the inverse of Rᵀ).
    second: E[h hᵀ] [d, d], the identity if not given. chances: the mean probability of each token [V], all alike if
    not given; a tenth of a uniform one is mixed in.

    >>> table, basis = factor(torch.tensor([[1.0, 1.0], [2.0, 2.0]]), 1)
    >>> (table @ basis).round(decimals=6).tolist()
    [[1.0, 1.0], [2.0, 2.0]]
    """
    e = exact(embedding)
    size, d = e.shape
    metric = torch.eye(d, dtype=torch.float64, device=e.device)
    if second is not None:
        second = exact(second).to(e.device)
        metric = second * d / second.trace() + INPUT * metric
    weight = torch.full((size,), 1.0 / size, dtype=torch.float64, device=e.device)
    if chances is not None:
        chances = exact(chances).to(e.device)
        weight = (1 - UNIFORM) * chances / chances.sum() + UNIFORM * weight
    r = cholesky(metric)
    image = e @ r.mT
    _, vectors = torch.linalg.eigh(image.mT @ (image * weight[:, None]))  # V, from a Gram matrix of d x d
    chosen = vectors.flip(-1)[:, :rank]
    return image @ chosen, torch.linalg.solve_triangular(r, chosen, upper=True).mT


class FactoredEmbedding(nn.Module):
    """A token's row as a row of `weight` [V, r] times `basis` [r, d].

    >>> FactoredEmbedding(100, 4, 16)(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 16])
    """

    def __init__(self, size: int, rank: int, width: int):
        super().__init__()
        self.weight, self.basis = nn.Parameter(torch.empty(size, rank)), nn.Parameter(torch.empty(rank, width))

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight) @ self.basis


class FactoredOutput(FactoredEmbedding):
    """Logits [..., V] of states [..., d]; its parameters are those of the embedding."""

    def forward(self, states: Tensor) -> Tensor:
        return F.linear(F.linear(states, self.basis), self.weight)


class Rows(NamedTuple):
    """The rows of a model's embedding: table [V, d], or [V, r] with a basis [r, d]."""

    table: Tensor
    basis: Tensor | None

    @classmethod
    def of(cls, model: nn.Module) -> Rows:
        """Those of a Whisper, factored or not; the model's own tensors, detached."""
        own = model.model.decoder.embed_tokens
        basis = getattr(own, "basis", None)
        return cls(own.weight.detach(), None if basis is None else basis.detach())

    def dense(self) -> Tensor:
        """[V, d]: multiplied out, for runtimes that cannot hold factors."""
        return self.table if self.basis is None else self.table @ self.basis

    def to(self, dtype: torch.dtype) -> Rows:
        return Rows(self.table.to(dtype), None if self.basis is None else self.basis.to(dtype))

    def wide(self, rows: Tensor) -> Tensor:
        """Rows of the table as the decoder reads them, [..., d]."""
        return rows if self.basis is None else rows @ self.basis

    def narrow(self, states: Tensor) -> Tensor:
        """States [..., d] as the table's rows are multiplied with them."""
        return states if self.basis is None else F.linear(states, self.basis)
