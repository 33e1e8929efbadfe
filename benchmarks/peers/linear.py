"""What the peers that look at single matrices need: moments of every encoder linear, and its low-rank replacement.

A replaced matrix is kept as the product of its two factors, because word errors do not depend on how it is stored;
what it costs is counted from the rank: r (in + out) numbers and the bias.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import adaptwin_widgets as aw
from adaptwin_widgets.cost import cost
from adaptwin_widgets.features import log_mel
from adaptwin_widgets.observe import calibration_windows, corpus_weights, frame_weights
from adaptwin_widgets.twins import cholesky

NAMES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "fc1", "fc2")
STRIDE = 3


@dataclass
class Moments:
    """Of a linear's inputs [in] and [in, in], on the same speech and with the same weights as `observe`."""

    mean: Tensor
    second: Tensor

    @property
    def covariance(self) -> Tensor:
        return self.second - torch.outer(self.mean, self.mean)


def linears(network: nn.Module) -> dict[str, nn.Linear]:
    """Every matrix of the encoder's layers."""
    return {
        f"{i}.{name}": layer.get_submodule(name)
        for i, layer in enumerate(network.model.encoder.layers)
        for name in NAMES
    }


def moments(model: aw.Whisper, speech: Sequence[aw.Corpus], windows: int = 40, seed: int = 0) -> dict[str, Moments]:
    """Run the speech that `observe` would run through the encoder."""
    chosen = linears(model.model)
    sums = {name: [0.0, torch.zeros(m.in_features), torch.zeros(m.in_features, m.in_features)]
            for name, m in chosen.items()}  # fmt: skip
    weights = torch.empty(0)

    def watch(name: str) -> Callable:
        def add(module: nn.Module, args: tuple) -> None:
            x, w = args[0][:, ::STRIDE].flatten(0, 1), weights[:, ::STRIDE].flatten()
            total = sums[name]
            total[0] += float(w.sum())
            total[1] += w @ x
            total[2] += (x * w[:, None]).mT @ x

        return add

    handles = [module.register_forward_pre_hook(watch(name)) for name, module in chosen.items()]
    try:
        with torch.no_grad():
            for corpus, share in zip(speech, corpus_weights(list(speech), 0.5), strict=True):
                heard = calibration_windows(corpus, windows, seed)
                for i in range(0, len(heard), 4):
                    batch = heard[i : i + 4]
                    frames = frame_weights(batch, model)
                    weights = frames * (share / len(heard))
                    model.model.model.encoder(log_mel([w.samples() for w in batch], model.processor.feature_extractor,
                                                      model.device))  # fmt: skip
    finally:
        for handle in handles:
            handle.remove()
    return {name: Moments(mean.double() / n, second.double() / n) for name, (n, mean, second) in sums.items()}


@dataclass
class Factored:
    """A matrix [out, in] in the order in which its directions are worth keeping.

    energy: [m], descending. at: the matrix and the bias that are left of rank r.
    """

    energy: Tensor
    at: Callable[[int], tuple[Tensor, Tensor]]


def output_pca(linear: nn.Linear, seen: Moments) -> Factored:
    """LiteASR (EMNLP 2025): the principal components of the outputs, the mean of what is cut kept in the bias."""
    weight = linear.weight.detach().double()
    energy, basis = torch.linalg.eigh(weight @ seen.covariance @ weight.mT)
    energy, basis = energy.flip(0).clamp_min(0), basis.flip(1)
    bias = _bias(linear)

    def at(rank: int) -> tuple[Tensor, Tensor]:
        kept = basis[:, :rank] @ basis[:, :rank].mT
        return kept @ weight, bias + (weight - kept @ weight) @ seen.mean

    return Factored(energy, at)


def whitened_svd(linear: nn.Linear, seen: Moments) -> Factored:
    """SVD-LLM (ICLR 2025): the SVD of the matrix times the Cholesky factor of its inputs' second moment."""
    weight = linear.weight.detach().double()
    factor = cholesky(seen.second)  # upper: second = factor.mT @ factor
    u, s, vh = torch.linalg.svd(weight @ factor.mT, full_matrices=False)

    def at(rank: int) -> tuple[Tensor, Tensor]:
        left = torch.linalg.solve_triangular(factor, (s[:rank, None] * vh[:rank]).mT, upper=True)
        return u[:, :rank] @ left.mT, _bias(linear)

    return Factored(s.square(), at)


def _bias(linear: nn.Linear) -> Tensor:
    return torch.zeros(linear.out_features, dtype=torch.float64) if linear.bias is None else linear.bias.double()


def replaced(model: aw.Whisper, factored: dict[str, Factored], ranks: dict[str, int]) -> tuple[aw.Whisper, int]:
    """The model with its encoder's matrices at these ranks, and the encoder's parameters as they would be stored."""
    network = copy.deepcopy(model.model)
    count = cost(model.config).encoder
    for name, linear in linears(network).items():
        rank = ranks[name]
        if rank * (linear.in_features + linear.out_features) >= linear.weight.numel():
            continue  # stored dense, it is smaller
        weight, bias = factored[name].at(rank)
        count -= linear.weight.numel() - rank * (linear.in_features + linear.out_features)
        linear.weight.data = weight.float()
        if linear.bias is None and bias.any():
            count += len(bias)
        linear.bias = nn.Parameter(bias.float()) if linear.bias is not None or bias.any() else None
    return aw.Whisper(network, model.processor, model.source), count


def parameters(model: aw.Whisper, ranks: dict[str, int]) -> int:
    """The encoder's parameters at these ranks, biases aside."""
    count = cost(model.config).encoder
    for name, linear in linears(model.model).items():
        count -= max(0, linear.weight.numel() - ranks[name] * (linear.in_features + linear.out_features))
    return count


def bisect(size_at: Callable[[float], int], wanted: float) -> float:
    """The share in [0, 1], of what grows with the size, at which the size just fits."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if size_at(middle) <= wanted else (low, middle)
    return low
