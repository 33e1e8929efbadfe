"""Ways to tune that the package does not have, for the ablation: each takes the place of a function there."""

from __future__ import annotations

import contextlib
import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import adaptwin_widgets as aw
from adaptwin_widgets.anatomy import encoder_input
from adaptwin_widgets.distill import Batch, Distance, Lessons, _off
from adaptwin_widgets.run import Run
from adaptwin_widgets.vocabulary import Shared

step, best_model = Run.step, Run.best_model
heard, states, terms = Distance.heard, Distance.states, Distance.terms
WINDOWS = 40  # to solve output matrices on
RIDGE = 0.01  # of the mean of the inputs' squares, towards the matrix as it is
FRAMES = 50  # a second: clips are cropped to whole seconds


def averaged(self: Run, fraction: float) -> None:
    """A step; the weights of all steps of the last quarter of a run are averaged."""
    step(self, fraction)
    if fraction >= 3 / 4:
        if "average" not in self.__dict__:
            self.__dict__["average"] = 0, {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        seen, mean = self.__dict__["average"]
        for name, p in self.parameters.items():
            mean[name].lerp_(p.detach(), 1 / (seen + 1))
        self.__dict__["average"] = seen + 1, mean


def mean_as_best(self: Run) -> nn.Module:
    """The network with that average, whatever the looks at held-out speech found."""
    self.best = self.__dict__["average"][1]
    return best_model(self)


def on_own_inputs(self: Distance, network: nn.Module, batch: Batch, layers: object) -> Tensor:
    """How far every encoder layer alone is from the teacher's, each on what the small model's layers before it say."""
    targets, errors = [t.float() for t in self.targets(batch)], []
    with self.fast():
        hidden = encoder_input(network, batch.features)
        for layer, target, variance in zip(network.model.encoder.layers, targets, self.variance, strict=False):
            hidden = layer(hidden.detach(), None)
            errors.append(_off(hidden, target, variance, batch.frames))
    return torch.stack(errors).mean()


def cropped(self: Distance, network: nn.Module, batch: Batch, words: Shared | None = None) -> tuple[Tensor, ...]:
    """The distances of an encoder that hears no more than the speech there is; with the three below."""
    end = max(sample.window.spans[-1][1] for sample in batch.samples)
    frames = min(batch.frames.shape[1], FRAMES * (1 + int(end)))
    less = {"features": batch.features[..., : 2 * frames], "frames": batch.frames[:, :frames]}
    return terms(self, network, Cropped(**{**vars(batch), **less}, whole=batch), words)


@dataclass
class Cropped(Batch):
    """A batch that lacks the end of another, whole one."""

    whole: Batch | None = None


def all_heard(self: Distance, batch: Batch, rows: slice = slice(None)) -> Tensor:
    """What the teacher hears: all of it."""
    return heard(self, getattr(batch, "whole", batch), rows)


def as_long(network: nn.Module, features: Tensor) -> Tensor:
    """`encoder_input` of features [B, mel, 2 * frames] of any length."""
    encoder = network.model.encoder
    x = F.gelu(encoder.conv2(F.gelu(encoder.conv1(features)))).transpose(1, 2).contiguous()
    return x + encoder.embed_positions.weight[: x.shape[1]]


def where_heard(ours: Tensor, theirs: Tensor, variance: Tensor, weights: Tensor) -> Tensor:
    """The squared error on the frames that the small model hears."""
    return _off(ours, theirs[:, : ours.shape[1]], variance, weights)


def compiled(self: Distance, network: nn.Module, features: Tensor) -> list[Tensor]:
    """`Distance.states` with every layer of the small model compiled; blocks of attention are no torch's own."""
    if network is not self.teacher.model:
        for layer in network.model.encoder.layers:
            if layer._compiled_call_impl is None:
                layer.compile(dynamic=False)
    return states(self, network, features)


@torch.no_grad()
def solved_anew(small: aw.Whisper, lessons: Lessons) -> aw.Whisper:
    """Layer after layer, attention's output matrix and then the second of the feed-forward pair, solved by least
    squares: from what it reads in the model as it is by then to what the teacher's says (as Frantar and Alistarh 2022
    solve on a compressed model's own inputs), with a ridge towards the matrix as it is."""
    network, teacher, distance = copy.deepcopy(small.model), lessons.distance.teacher.model, lessons.distance
    batches = [lessons.batch(i) for i in range(WINDOWS // lessons.order.batch_size)]
    names = [f"{i}.{name}" for i in range(len(network.model.encoder.layers)) for name in ("self_attn", "fc2")]
    said = [_said(teacher.model.encoder.layers, names, distance, distance.heard(batch)) for batch in batches]
    for number, name in enumerate(names):
        module = network.model.encoder.layers.get_submodule(name)
        matrix = module.out_proj if name.endswith("self_attn") else module
        outer = torch.zeros(matrix.in_features, matrix.in_features, dtype=torch.float64)
        across = torch.zeros(matrix.in_features, matrix.out_features, dtype=torch.float64)
        for batch, answers in zip(batches, said, strict=True):
            hidden = _heard(network, module, batch)
            x = (_mixed(module, hidden) if matrix is not module else hidden).flatten(0, 1).double()
            weighed = (x * batch.frames.flatten()[:, None]).T
            outer += weighed @ x
            across += weighed @ (answers[number] - matrix.bias).flatten(0, 1).double()
        ridge = RIDGE * outer.diagonal().mean() * torch.eye(len(outer), dtype=outer.dtype)
        matrix.weight.copy_(torch.linalg.solve(outer + ridge, across + ridge @ matrix.weight.double().T).T)
    return replace(small, model=network)


def _said(layers: nn.Module, names: list[str], distance: Distance, features: Tensor) -> list[Tensor]:
    """What modules of the teacher's layers say."""
    found: list[Tensor] = []
    hook = lambda m, args, out: found.append(out[0] if isinstance(out, tuple) else out)  # noqa: E731
    handles = [layers.get_submodule(name).register_forward_hook(hook) for name in names]
    states(distance, distance.teacher.model, features)
    for handle in handles:
        handle.remove()
    return found


class _Enough(Exception):
    """What is asked for is known."""


def _heard(network: nn.Module, module: nn.Module, batch: Batch) -> Tensor:
    """What a module of the encoder reads."""
    found: list[Tensor] = []

    def hook(m: nn.Module, args: tuple, kwargs: dict) -> None:
        found.append(args[0] if args else kwargs["hidden_states"])
        raise _Enough

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    with contextlib.suppress(_Enough):
        network.model.encoder(batch.features)
    handle.remove()
    return found[0]


def _mixed(attention: nn.Module, hidden: Tensor) -> Tensor:
    """What the output matrix of a compressed attention reads, [B, T, sum of value ranks]."""
    matrix = attention.out_proj
    size = matrix.in_features
    attention.out_proj = nn.Linear(size, matrix.out_features)
    attention.out_proj.weight.copy_(torch.eye(matrix.out_features, size))
    attention.out_proj.bias.zero_()
    said = attention(hidden_states=hidden, attention_mask=None)[0][..., :size]
    attention.out_proj = matrix
    return said
