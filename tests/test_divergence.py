"""The divergence of two distributions, and its gradient, are torch's own."""

import pytest
import torch
from torch.nn import functional as F

from adaptwin_widgets.divergence import ROWS, Divergence


def plain(ours, theirs, labels, said):
    ours, theirs = (logits.float().log_softmax(-1) for logits in (ours, theirs))
    divergence = F.kl_div(ours, theirs, log_target=True, reduction="none").sum(-1)
    return ((1 - said) * divergence + said * F.nll_loss(ours, labels, reduction="none")).mean()


@pytest.mark.parametrize("count", [1, ROWS, 2 * ROWS + 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_value_and_gradient_are_those_of_torch(count, dtype):
    torch.manual_seed(0)
    theirs = 3 * torch.randn(count, 200)
    theirs[::2, 7] = -1e4  # a token that must not come
    ours = (theirs + torch.randn(count, 200)).to(dtype).requires_grad_()
    theirs, labels, said = theirs.to(dtype), torch.randint(8, 200, (count,)), torch.rand(count).round(decimals=1)
    found = []
    for divergence in (Divergence.apply, plain):
        ours.grad = None
        value = divergence(ours, theirs, labels, said)
        (0.3 * value).backward()
        found.append((value.detach(), ours.grad))
    (value, gradient), (true, expected) = found
    assert value.dtype == torch.float32 and gradient.dtype == dtype
    torch.testing.assert_close(value, true, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, expected, rtol=1e-5 if dtype == torch.float32 else 2e-2, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(Divergence.apply(ours, theirs, labels, said), true, rtol=1e-5, atol=1e-6)


def test_what_is_no_number_stays_none():
    ours = torch.zeros(2, 5)
    ours[0, 0] = float("nan")
    assert Divergence.apply(ours, torch.zeros(2, 5), torch.ones(2, dtype=torch.long), torch.ones(2)).isnan()
