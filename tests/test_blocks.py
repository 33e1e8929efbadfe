"""Attention in blocks is torch's own, forward and backward, and is taken only where that is so."""

import pytest
import torch
from torch.nn import functional as F

from adaptwin_widgets import distill
from adaptwin_widgets.blocks import Blocks, InBlocks


def gradients(attend, tensors, gradient):
    tensors = [t.detach().clone().requires_grad_() for t in tensors]
    out = attend(*tensors)
    out.backward(gradient.to(out.dtype))
    return [out.detach(), *(t.grad for t in tensors)]


def drawn(queries: int, keys: int, key: int, value: int) -> list[torch.Tensor]:
    """q, k, v and a gradient of two clips with three heads, as views of what a projection gives."""
    torch.manual_seed(0)
    sizes = ((queries, key), (keys, key), (keys, value), (queries, value))
    return [torch.randn(2, frames, 3, width).transpose(1, 2) for frames, width in sizes]


@pytest.mark.parametrize("sizes", [(1200, 1200, 16, 16), (7, 90, 8, 8), (501, 3, 8, 5)])
def test_values_and_gradients_are_those_of_torch(sizes):
    *tensors, gradient = drawn(*sizes)
    theirs = gradients(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=1.0), tensors, gradient)
    for ours, true in zip(gradients(Blocks.apply, tensors, gradient), theirs, strict=True):
        torch.testing.assert_close(ours, true, rtol=1e-4, atol=1e-5)
    short = gradients(Blocks.apply, [t.bfloat16() for t in tensors], gradient)
    for ours, true in zip(short, theirs, strict=True):
        assert ours.dtype == torch.bfloat16 and (ours.float() - true).norm() < 0.03 * true.norm()


def test_only_what_is_plain_and_short_goes_in_blocks(monkeypatch):
    taken = []
    monkeypatch.setattr(Blocks, "apply", lambda q, k, v: taken.append(q) or v)
    q, k, v, _ = (t.bfloat16() for t in drawn(5, 5, 4, 4))
    with InBlocks():
        F.scaled_dot_product_attention(q.float(), k.float(), v.float())
        F.scaled_dot_product_attention(q, k, v, is_causal=True)
        F.scaled_dot_product_attention(q, k, v, attn_mask=torch.ones(5, 5, dtype=torch.bool))
        assert not taken
        F.scaled_dot_product_attention(q, k, v, attn_mask=None, dropout_p=0.0, scale=0.5, is_causal=False)
    assert torch.equal(taken[0], q * 0.5)
    F.scaled_dot_product_attention(q, k, v)
    assert len(taken) == 1


@pytest.mark.parametrize("fused", [True, False])
def test_a_tune_takes_what_is_faster_here(tiny_en, monkeypatch, fused):
    taken = []
    plain = Blocks.apply
    monkeypatch.setattr(Blocks, "apply", lambda *three: taken.append(three[0].shape) or plain(*three))
    monkeypatch.setattr(distill, "fused_attention", lambda device, dtype: fused)
    distance = distill.Distance(tiny_en, torch.bfloat16)
    features = torch.zeros(1, 80, 3000)
    with torch.no_grad(), distance.fast():
        distance.states(tiny_en.model, features)
    assert taken == [] if fused else len(taken) == tiny_en.config.encoder_layers
    exact = distill.Distance(tiny_en, torch.float32)
    with torch.no_grad(), exact.fast():
        exact.states(tiny_en.model, features)
    assert len(taken) in (0, tiny_en.config.encoder_layers), "nothing in float32"
