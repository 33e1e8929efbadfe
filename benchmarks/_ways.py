"""Ways to tune that the package does not have, for the ablation: each takes the place of a function there."""

from __future__ import annotations

import contextlib
import copy
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import adaptwin_widgets as aw
from adaptwin_widgets.anatomy import encoder_input
from adaptwin_widgets.distill import Batch, Distance, Lessons, _off, endless
from adaptwin_widgets.divergence import Divergence
from adaptwin_widgets.run import Run

step, best_model, states = Run.step, Run.best_model, Distance.states
WINDOWS = 40  # to solve output matrices on
RIDGE = 0.01  # of the mean of the inputs' squares, towards the matrix as it is
FRAMES = 50  # a second: clips are cropped to whole seconds


def averaged(self: Run, fraction: float) -> None:
    """A step; the weights of all steps of the last quarter of a run are averaged."""
    step(self, fraction)
    if fraction >= 3 / 4:
        seen, mean = self.__dict__.get("average", (0, {n: torch.zeros_like(p) for n, p in self.parameters.items()}))
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


def cropped(self: Distance, network: nn.Module, batch: Batch, words: object = None) -> tuple[Tensor, Tensor, Tensor]:
    """`Distance.terms` of an encoder that hears no more than the speech there is; the teacher hears all 30 s."""
    ends = [sample.window.spans[-1][1] for sample in batch.samples]
    frames = min(batch.frames.shape[1], FRAMES * (1 + int(max(ends))))
    targets = [t.float() for t in self.targets(batch)]
    encoder, features, weights = network.model.encoder, batch.features[..., : 2 * frames], batch.frames[:, :frames]
    with self.fast(short=True):
        heard = F.gelu(encoder.conv2(F.gelu(encoder.conv1(features)))).transpose(1, 2).contiguous()
        found = [heard + encoder.embed_positions.weight[:frames]]
        for layer in encoder.layers:
            found.append(layer(found[-1], None))
        found = [*found[1:], encoder.layer_norm(found[-1])]
        out = network.model.decoder(input_ids=batch.ids, encoder_hidden_states=found[-1], use_cache=False)
        chosen = batch.tokens.bool()
        ours = network.proj_out(out.last_hidden_state[chosen])
        with torch.no_grad():
            theirs = self.teacher.model.proj_out(self.answers(batch, targets[-1]))
            theirs = endless(theirs, chosen, network.config.eos_token_id)
    off = [_off(s, t[:, :frames], v, weights) for s, t, v in zip(found, targets, self.variance, strict=True)]
    labels = F.pad(batch.ids[:, 1:], (0, 1), value=self.teacher.config.eos_token_id)[chosen]
    said = batch.said[:, None].expand_as(batch.ids)[chosen]
    of_frames, of_tokens = batch.share
    divergence = Divergence.apply(ours, theirs, labels, said)
    return of_frames * torch.stack(off[:-1]).mean(), of_frames * off[-1], of_tokens * divergence


def compiled(self: Distance, network: nn.Module, features: Tensor) -> list[Tensor]:
    """`Distance.states` with every layer of the small model compiled; blocks of attention are no torch's own."""
    if network is self.teacher.model:
        return states(self, network, features)
    encoder = network.model.encoder
    for layer in encoder.layers:
        if "quick" not in layer.__dict__:
            layer.__dict__["quick"] = torch.compile(layer, dynamic=False)
    found = [encoder_input(network, features)]
    for layer in encoder.layers:
        found.append(layer.__dict__["quick"](found[-1], None))
    return [*found[1:], encoder.layer_norm(found[-1])]


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
