"""A frozen matrix is turned into 16 bits once, and what is computed with it stays the same to the last bit."""

import gc
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from adaptwin_widgets import distill, shortened
from adaptwin_widgets.shortened import Short, Shortened


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(0)
    found = nn.Sequential(nn.Linear(16, 8), nn.GELU(), nn.Linear(8, 16), nn.LayerNorm(16))
    found[0].requires_grad_(False)
    return found


def learnt(network: nn.Module, mode: AbstractContextManager = nullcontext()) -> list[torch.Tensor]:  # noqa: B008
    x = torch.linspace(-1, 1, 32).view(2, 16).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16), mode:
        out = network(x)
    network.zero_grad(set_to_none=True)
    out.float().square().sum().backward()
    return [out, x.grad, *(p.grad for p in network.parameters() if p.requires_grad)]


def test_outputs_and_gradients_are_those_of_autocast(network):
    short = Short(torch.bfloat16)
    for _ in range(2):
        for ours, theirs in zip(learnt(network, Shortened(short)), learnt(network), strict=True):
            assert torch.equal(ours, theirs)
    assert [matrix.shape for matrix in short.kept] == [(8, 16)], "what is learnt is not kept"


def test_a_matrix_that_changes_is_turned_again(network):
    short = Short(torch.bfloat16)
    before = learnt(network, Shortened(short))[0]
    with torch.no_grad():
        network[0].weight.mul_(2)
    after = learnt(network, Shortened(short))[0]
    assert not torch.equal(before, after) and torch.equal(after, learnt(network)[0])


def test_what_is_gone_is_not_held_and_no_more_than_the_limit(network, monkeypatch):
    short = Short(torch.bfloat16)
    learnt(network, Shortened(short))
    monkeypatch.setattr(shortened, "BYTES", 16 * 8 * 2)
    other = nn.Parameter(torch.ones(3, 3), requires_grad=False)
    assert torch.equal(short.of(other), other.bfloat16()) and len(short.kept) == 1
    del network[0]
    gc.collect()
    assert len(short.kept) == 0
    short.of(other)
    assert len(short.kept) == 1


def test_a_tune_turns_what_is_frozen_once(tiny_en, monkeypatch):
    turned = []
    plain = Short.of
    monkeypatch.setattr(Short, "of", lambda self, matrix: turned.append(matrix) or plain(self, matrix))
    distance = distill.Distance(tiny_en, torch.bfloat16)
    features = torch.zeros(1, 80, 3000)
    with torch.no_grad(), distance.fast():
        plain_states = distance.states(tiny_en.model, features)
    assert not turned, "the teacher hears a window once"
    with torch.no_grad(), distance.fast(short=True):
        states = distance.states(tiny_en.model, features)
    assert len(turned) == 6 * tiny_en.config.encoder_layers
    assert all(map(torch.equal, states, plain_states))
    exact = distill.Distance(tiny_en, torch.float32)
    with torch.no_grad(), exact.fast(short=True):
        F.linear(torch.ones(1, 384), tiny_en.model.proj_out.weight)
    assert not exact.short.kept
