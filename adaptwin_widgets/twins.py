"""The closed forms: plain functions on tensors, no model, no speech.

Notation (row vectors, as in the papers; a PyTorch weight is the transpose): an attention head computes
``Q = X Wq + bq`` and ``K = X Wk``, mixes values ``Z = A X Wv`` and adds ``Z Wo``; a feed-forward pair
computes ``gelu(X W1 + b1) W2 + b2``. All functions work in float64 and take a batch of heads first.

Sources: "after AdaPTwin" (arXiv 2406.08904) for compressing the pairs jointly; the activation-aware optimum of a
query-key product is that of A3 (ICML 2026) and KQ-SVD (AISTATS 2026); weight-only spectra are CLOVER's
(ICML 2025); the removal order of neurons is Optimal Brain Surgeon (Hassibi & Stork, 1993) with whole
neurons as its unit. Weighting keys by the attention they receive is this project's own.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from adaptwin_widgets.errors import InputError

RIDGE = 1e-6  # relative to the mean variance: keeps a Cholesky factor of unused directions finite


class QueryKey(NamedTuple):
    """The factored product of queries and keys, one head a row of the batch.

    values: [H, m] singular values, descending; query, key: [H, dh, m] the maps ``P`` and ``T`` that turn
    the head's ``Wq`` and ``Wk`` into their compressed columns (take the first r).
    """

    values: Tensor
    query: Tensor
    key: Tensor


class ValueOutput(NamedTuple):
    """The factored product of values and output. values: [H, m]; value: [H, dh, m] ``P``; output: [H, m, d]."""

    values: Tensor
    value: Tensor
    output: Tensor


class FeedForward(NamedTuple):
    """Neurons in the order of their worth. values: [n], root of what removing each adds to the squared error,
    descending; order: [n], indices of the neurons, the most valuable first."""

    values: Tensor
    order: Tensor


def exact(x: Tensor) -> Tensor:
    """A tensor in float64, in which all of this is reckoned; on the CPU where its device has none (Apple's).

    >>> exact(torch.ones(2)).dtype
    torch.float64
    """
    return x.detach().to("cpu" if x.device.type == "mps" else x.device, torch.float64)


def covariance(mean: Tensor, second: Tensor) -> Tensor:
    """Covariance [n, n], float64, from a mean [n] and a second moment [n, n], where the mean is.

    >>> covariance(torch.tensor([2.0]), torch.tensor([[5.0]])).tolist()
    [[1.0]]
    """
    mean = exact(mean)
    return exact(second.to(mean.device)) - torch.outer(mean, mean)


def cholesky(moment: Tensor, ridge: float = RIDGE) -> Tensor:
    """Upper factor ``R`` with ``C + ridge = Rᵀ R`` of a batch of covariances [..., n, n], in float64.

    >>> cholesky(torch.eye(2) * 4.0).round(decimals=3).tolist()
    [[2.0, 0.0], [0.0, 2.0]]
    """
    moment = exact(moment)
    if not moment.isfinite().all():
        raise InputError("The model's weights or activations hold values that are no numbers; take another model.")
    moment = (moment + moment.mT) / 2
    scale = moment.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1e-30)
    eye = torch.eye(moment.shape[-1], dtype=moment.dtype, device=moment.device)
    while True:  # a covariance from float32 sums may miss positive definiteness by more than the ridge
        factor, info = torch.linalg.cholesky_ex(moment + ridge * scale[..., None, None] * eye, upper=True)
        if not info.any():
            return factor
        ridge *= 10


def query_key(query: Tensor, key: Tensor) -> QueryKey:
    """Best low-rank form of every head's score ``q kᵀ`` for queries and keys with these second moments.

    query: [H, dh, dh] second moment of the queries, bias included; key: [H, dh, dh] covariance of the keys,
    centred per utterance because a softmax forgives a constant per row. With ``Cq = RqᵀRq``, ``Ck = RkᵀRk``
    and ``Rq Rkᵀ = U S Vᵀ``: ``P = Rq⁻¹ U S^½`` and ``T = Rk⁻¹ V S^½``. Cutting to rank r leaves the mean squared
    score error ``sum(values[r:]**2)``, the least any bilinear form of rank r can leave (A3, KQ-SVD).

    >>> eye = torch.eye(2)[None]
    >>> query_key(4 * eye, eye).values.round(decimals=3).tolist()
    [[2.0, 2.0]]
    """
    rq, rk = cholesky(query), cholesky(key)
    u, s, vh = torch.linalg.svd(rq @ rk.mT, full_matrices=False)
    root = s.clamp_min(0).sqrt()[..., None, :]
    return QueryKey(
        s,
        torch.linalg.solve_triangular(rq, u * root, upper=True),
        torch.linalg.solve_triangular(rk, vh.mT * root, upper=True),
    )


def value_output(covariance: Tensor, output: Tensor) -> ValueOutput:
    """Best low-rank form of every head's contribution ``Z Wo``.

    covariance: [H, dh, dh] of the mixed values ``Z = A X Wv``; output: [H, dh, d] the head's rows of ``Wo``.
    With ``C = RᵀR`` and ``R Wo = U S Vᵀ``: ``P = R⁻¹ U`` and ``O = Uᵀ R Wo``; cutting to rank r leaves
    ``sum(values[r:]**2)`` of squared output error a row.

    >>> value_output(torch.eye(2)[None], 3 * torch.eye(2)[None]).values.tolist()
    [[3.0..., 3.0...]]
    """
    r = cholesky(covariance)
    image = r @ exact(output)
    # With image = Lᵀ Q, Q orthonormal, the left side of the small L's decomposition is all of the image's.
    u, s, _ = torch.linalg.svd(torch.linalg.qr(image.mT, mode="r").R.mT, full_matrices=False)
    return ValueOutput(s, torch.linalg.solve_triangular(r, u, upper=True), u.mT @ image)


def value_output_values(covariance: Tensor, output: Tensor) -> Tensor:
    """The values of `value_output` alone [H, dh], from a small Gram matrix: four times as fast, exact to 1e-8 of the
    largest, which is enough to draw and not to factor.

    >>> value_output_values(torch.eye(2)[None], 3 * torch.eye(2)[None]).tolist()
    [[3.0..., 3.0...]]
    """
    image = cholesky(covariance) @ exact(output)
    return torch.linalg.eigvalsh(image @ image.mT).clamp_min(0).sqrt().flip(-1)


def feed_forward(covariance: Tensor, output: Tensor, block: int | None = None, taps: int = 1) -> FeedForward:
    """The order in which neurons can go when the rest of the output matrix is refitted each time.

    covariance: [n, n] of the neurons' activations; output: [n, d] the matrix ``W2``. Removing neuron i and
    refitting adds ``‖w_i‖² / [C⁻¹]_ii`` to the squared error, w_i being its row of the matrix refitted so far
    (Optimal Brain Surgeon). The cheapest `block` neurons (a 64th of all) go at a time, then the inverse is
    downdated. taps: rows that a neuron has in both, one after the other, and that go together; the error is then
    ``tr(w_iᵀ [C⁻¹]_ii⁻¹ w_i)``.

    >>> feed_forward(torch.eye(3), torch.tensor([[1.0], [3.0], [2.0]])).order.tolist()
    [1, 2, 0]
    """
    n = len(covariance) // taps
    block = block or max(1, n // 64)
    inverse = torch.cholesky_inverse(cholesky(covariance), upper=True)
    w = exact(output).clone()
    names = torch.arange(n, device=w.device)
    alive = torch.ones(n, dtype=torch.bool, device=w.device)
    removed, costs = [], []
    while alive.any():
        cost = _cost(inverse, w, taps, alive)
        chosen = torch.topk(cost, min(block, int(alive.sum())), largest=False).indices
        removed.append(names[chosen])
        costs.append(cost[chosen])
        alive[chosen] = False
        # Downdate: what is left of the inverse and of the refitted weights once these neurons are gone.
        own = rows_of(chosen, taps)
        rows = inverse[own]
        gain = torch.linalg.solve(rows[:, own], rows)
        w.addmm_(gain.mT, w[own], alpha=-1)
        inverse.addmm_(gain.mT, rows, alpha=-1)
        if alive.sum() < 0.8 * len(alive):  # work only on what is left
            left = rows_of(alive.nonzero()[:, 0], taps)
            inverse, w, names = inverse[left][:, left], w[left], names[alive]
            alive = torch.ones(len(names), dtype=torch.bool, device=w.device)
    values = torch.cat(costs).clamp_min(0).sqrt()
    # Costs are nearly ascending by construction; a running maximum makes the spectrum monotone.
    return FeedForward(values.cummax(0).values.flip(0), torch.cat(removed).flip(0))


def rows_of(neurons: Tensor, taps: int) -> Tensor:
    """The rows of some neurons [k] in a matrix that has `taps` of each.

    >>> rows_of(torch.tensor([0, 2]), 3).tolist()
    [0, 1, 2, 6, 7, 8]
    """
    return (neurons[:, None] * taps + torch.arange(taps, device=neurons.device)).flatten()


def _cost(inverse: Tensor, w: Tensor, taps: int, alive: Tensor) -> Tensor:
    """What removing each neuron adds to the squared error [n], infinite for one that is gone."""
    if taps == 1:  # nearly all pairs: a division, at half the time
        return (w.square().sum(1) / inverse.diagonal().clamp_min(1e-300)).masked_fill_(~alive, torch.inf)
    blocks = inverse.unflatten(0, (-1, taps)).unflatten(-1, (-1, taps)).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    blocks = torch.where(alive[:, None, None], blocks, torch.eye(taps, dtype=w.dtype, device=w.device))
    own = w.unflatten(0, (-1, taps))
    return (own * torch.linalg.solve(blocks, own)).sum((1, 2)).masked_fill_(~alive, torch.inf)


def balance(first: Tensor, second: Tensor) -> Tensor:
    """The factor [m] by which to multiply the columns of one matrix [d, m], and to divide those of another [n, m], so
    that their norms are alike and ``first @ second.T`` stays what it is.

    The closed forms may leave all of a component's size in one factor (the other has unit variance): columns apart by
    a factor of 1e7. In 8 bits the largest then drown the others, and a step of an optimiser that is small for one
    factor is a leap for the product.

    >>> balance(torch.tensor([[8.0]]), torch.tensor([[2.0]])).tolist()
    [0.5]
    """
    ours, theirs = first.norm(dim=0), second.norm(dim=0)
    used = (ours > 0) & (theirs > 0)
    return torch.where(used, theirs / ours.where(used, torch.ones_like(ours)), 1.0).sqrt()


def refit(second: Tensor, cross: Tensor, prior: Tensor, ridge: float = 1e-4) -> Tensor:
    """Least squares with a ridge that pulls towards `prior` instead of zero.

    Solves ``min_W E‖Zr W − Y‖² + λ‖W − prior‖²`` for ``second = cov Zr`` [m, m], ``cross = cov(Zr, Y)`` [m, d]
    and λ = `ridge` times the mean variance; an exact prior therefore comes back unchanged.

    >>> refit(torch.eye(2), 2 * torch.eye(2), 2 * torch.eye(2)).tolist()
    [[2.0, 0.0], [0.0, 2.0]]
    """
    second, cross, prior = exact(second), exact(cross), exact(prior)
    if not len(second):
        return prior
    damped = second + ridge * second.diagonal().mean() * torch.eye(len(second), device=second.device)
    return prior + torch.linalg.solve(damped, cross - second @ prior)
