"""What the peers that look at single matrices need: moments of every encoder linear, and its low-rank replacement.

A replaced matrix becomes two linears one after the other, of r (in + out) numbers and the bias; `merged` writes their
product into one again, because word errors do not depend on how it is stored and the decoder wants a plain Whisper.
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
from adaptwin_widgets.observe import STRIDE, calibration_windows, corpus_weights, evened, frame_weights
from adaptwin_widgets.twins import cholesky
from adaptwin_widgets.windows import ROUGH, WINDOWS, roughened

NAMES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "fc1", "fc2")


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


def moments(model: aw.Whisper, speech: Sequence[aw.Corpus], seed: int = 0) -> dict[str, Moments]:
    """Run the speech that `observe` would run through the encoder."""
    chosen = linears(model.model)
    found = {
        name: Moments(torch.zeros(m.in_features).double(), torch.zeros(m.in_features, m.in_features).double())
        for name, m in chosen.items()
    }
    weights = torch.empty(0)

    def watch(name: str) -> Callable:
        def add(module: nn.Module, args: tuple) -> None:
            x, w = args[0][:, ::STRIDE].flatten(0, 1), weights[:, ::STRIDE].flatten()
            found[name].mean += w @ x
            found[name].second += (x * w[:, None]).mT @ x

        return add

    handles = [module.register_forward_pre_hook(watch(name)) for name, module in chosen.items()]
    try:
        with torch.no_grad():
            for corpus, share in zip(speech, corpus_weights(list(speech), 0.5), strict=True):
                heard = roughened(calibration_windows(corpus, WINDOWS, seed), ROUGH, seed)
                frames = evened(frame_weights(heard, model))
                frames *= share / frames[:, ::STRIDE].sum()
                for i in range(0, len(heard), 4):
                    weights = frames[i : i + 4]
                    sounds = [w.samples() for w in heard[i : i + 4]]
                    model.model.model.encoder(log_mel(sounds, model.processor.feature_extractor, model.device))
    finally:
        for handle in handles:
            handle.remove()
    return found


@dataclass
class Factored:
    """A matrix [out, in] in the order in which its directions are worth keeping.

    energy: [m], descending. at: for a rank r, the matrix that is left as two, [out, r] and [r, in], and its bias.
    """

    energy: Tensor
    at: Callable[[int], tuple[Tensor, Tensor, Tensor]]


def output_pca(linear: nn.Linear, seen: Moments) -> Factored:
    """LiteASR (EMNLP 2025): the principal components of the outputs, the mean of what is cut kept in the bias."""
    weight = linear.weight.detach().double()
    energy, basis = torch.linalg.eigh(weight @ seen.covariance @ weight.mT)
    energy, basis = energy.flip(0).clamp_min(0), basis.flip(1)
    bias = _bias(linear)

    def at(rank: int) -> tuple[Tensor, Tensor, Tensor]:
        up, down = basis[:, :rank], basis[:, :rank].mT @ weight
        return up, down, bias + (weight - up @ down) @ seen.mean

    return Factored(energy, at)


def whitened_svd(linear: nn.Linear, seen: Moments) -> Factored:
    """SVD-LLM (ICLR 2025): the SVD of the matrix times the Cholesky factor of its inputs' second moment."""
    weight = linear.weight.detach().double()
    factor = cholesky(seen.second)  # upper: second = factor.mT @ factor
    u, s, vh = torch.linalg.svd(weight @ factor.mT, full_matrices=False)

    def at(rank: int) -> tuple[Tensor, Tensor, Tensor]:
        down = torch.linalg.solve_triangular(factor, (s[:rank, None] * vh[:rank]).mT, upper=True)
        return u[:, :rank], down.mT, _bias(linear)

    return Factored(s.square(), at)


def _bias(linear: nn.Linear) -> Tensor:
    return torch.zeros(linear.out_features, dtype=torch.float64) if linear.bias is None else linear.bias.double()


def replaced(model: aw.Whisper, factored: dict[str, Factored], ranks: dict[str, int]) -> tuple[aw.Whisper, int]:
    """The model with its encoder's matrices at these ranks, and the encoder's parameters."""
    network = copy.deepcopy(model.model)
    for name, linear in linears(network).items():
        rank = ranks[name]
        if rank * (linear.in_features + linear.out_features) >= linear.weight.numel():
            continue  # stored dense, it is smaller
        up, down, bias = factored[name].at(rank)
        scale = (up.norm(dim=0) / down.norm(dim=1)).sqrt()  # as large as each other, or neither can be tuned well
        first, second = nn.Linear(linear.in_features, rank, bias=False), nn.Linear(rank, linear.out_features)
        first.weight.data, second.weight.data = (scale[:, None] * down).float(), (up / scale).float()
        second.bias = nn.Parameter(bias.float()) if linear.bias is not None or bias.any() else None
        _put(network, name, nn.Sequential(first, second))
    count = sum(p.numel() for p in network.model.encoder.parameters())
    return aw.Whisper(network, model.processor, model.source), count


@torch.no_grad()
def merged(small: aw.Whisper) -> aw.Whisper:
    """The model with one matrix again where `replaced` made two; changes it."""
    for name, pair in linears(small.model).items():
        if isinstance(pair, nn.Sequential):
            first, second = pair
            whole = nn.Linear(first.in_features, second.out_features, bias=second.bias is not None)
            whole.weight.copy_(second.weight @ first.weight)
            if second.bias is not None:
                whole.bias = second.bias
            _put(small.model, name, whole)
    return small


def _put(network: nn.Module, name: str, module: nn.Module) -> None:
    layer, _, place = name.partition(".")
    parent, _, place = place.rpartition(".")
    setattr(network.model.encoder.layers[int(layer)].get_submodule(parent), place, module)


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
