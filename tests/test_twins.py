"""The closed forms against brute force on small random layers."""

import pytest
import torch

from adaptwin_widgets import twins


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def random_moment(generator, *shape):
    """A second moment with a wide spectrum, like real activations have."""
    n = shape[-1]
    x = torch.randn(*shape[:-1], 4 * n, n, generator=generator, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(*shape[:-1], n, n, generator=generator, dtype=torch.float64)).Q
    x = x * torch.logspace(1, -1, n, dtype=torch.float64) @ turn
    return x.mT @ x / (4 * n)


def score_error(query, key, p, t):
    """Mean squared error of the score for independent queries and keys with these moments, and P Tᵀ for I."""
    gap = torch.eye(len(query), dtype=torch.float64) - p @ t.mT
    return torch.trace(gap.mT @ query @ gap @ key).item()


def test_query_key_error_is_the_tail_sum(generator):
    query, key = random_moment(generator, 3, 8), random_moment(generator, 3, 8)
    found = twins.query_key(query, key)
    for h in range(3):
        for r in (0, 1, 5, 8):
            error = score_error(query[h], key[h], found.query[h, :, :r], found.key[h, :, :r])
            assert error == pytest.approx(found.values[h, r:].square().sum().item(), rel=1e-4, abs=1e-4)


def test_query_key_measured_on_samples(generator):
    """The same error from real scores of sampled queries and keys, biases included."""
    x = torch.randn(400, 6, generator=generator, dtype=torch.float64)
    wq, bq = torch.randn(6, 4, generator=generator).double(), torch.randn(4, generator=generator).double()
    wk = torch.randn(6, 4, generator=generator).double()
    q, k = x @ wq + bq, x @ wk
    k = k - k.mean(0)
    found = twins.query_key((q.T @ q / 400)[None], (k.T @ k / 400)[None])
    p, t = found.query[0, :, :2], found.key[0, :, :2]
    error = ((q @ p) @ (k @ t).T - q @ k.T).square().mean().item()
    assert error == pytest.approx(found.values[0, 2:].square().sum().item(), rel=1e-4)


def test_query_key_beats_weight_only_and_random(generator):
    query, key = random_moment(generator, 1, 8), random_moment(generator, 1, 8)
    ours = twins.query_key(query, key)
    white = twins.query_key(torch.eye(8).double()[None], torch.eye(8).double()[None])
    best = score_error(query[0], key[0], ours.query[0, :, :3], ours.key[0, :, :3])
    assert best < 0.9 * score_error(query[0], key[0], white.query[0, :, :3], white.key[0, :, :3])
    for _ in range(20):
        basis = torch.linalg.qr(torch.randn(8, 3, generator=generator, dtype=torch.float64)).Q
        assert best < 0.9 * score_error(query[0], key[0], basis, basis)


def test_query_key_is_the_numerical_optimum(generator):
    query, key = random_moment(generator, 1, 6), random_moment(generator, 1, 6)
    found = twins.query_key(query, key)
    best = found.values[0, 2:].square().sum().item()
    p = torch.randn(6, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    t = torch.randn(6, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([p, t], max_iter=2000, tolerance_change=1e-14, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        gap = torch.eye(6, dtype=torch.float64) - p @ t.mT
        value = torch.trace(gap.mT @ query[0] @ gap @ key[0])
        value.backward()
        return value

    optimiser.step(loss)
    assert loss().item() == pytest.approx(best, rel=1e-3)


def test_value_output_error_is_the_tail_sum(generator):
    covariance = random_moment(generator, 2, 8)
    output = torch.randn(2, 8, 12, generator=generator, dtype=torch.float64)
    found = twins.value_output(covariance, output)
    for h in range(2):
        for r in (0, 3, 8):
            gap = output[h] - found.value[h, :, :r] @ found.output[h, :r]
            error = torch.trace(gap.T @ covariance[h] @ gap).item()
            assert error == pytest.approx(found.values[h, r:].square().sum().item(), rel=1e-4, abs=1e-4)


def test_value_output_beats_any_other_subspace(generator):
    covariance = random_moment(generator, 1, 8)
    output = torch.randn(1, 8, 12, generator=generator, dtype=torch.float64)
    best = twins.value_output(covariance, output).values[0, 3:].square().sum().item()
    for _ in range(20):
        basis = torch.linalg.qr(torch.randn(8, 3, generator=generator, dtype=torch.float64)).Q
        reduced = basis.T @ covariance[0] @ basis
        gap = output[0] - basis @ torch.linalg.solve(reduced, basis.T @ covariance[0] @ output[0])
        assert torch.trace(gap.T @ covariance[0] @ gap).item() > best


def removal_error(covariance, output, kept):
    """What is lost when these neurons stay and their output rows are refitted by least squares."""
    inner = torch.linalg.solve(covariance[kept][:, kept], covariance[kept] @ output)
    gap = output.clone()
    gap[kept] -= inner
    return torch.trace(gap.T @ covariance @ gap).item()


def test_feed_forward_values_are_the_refitted_errors(generator):
    covariance = random_moment(generator, 10)
    output = torch.randn(10, 4, generator=generator, dtype=torch.float64)
    found = twins.feed_forward(covariance, output, block=1)
    for kept in (9, 6, 3):
        error = removal_error(covariance, output, found.order[:kept])
        assert found.values[kept:].square().sum().item() == pytest.approx(error, rel=0.05)


def test_feed_forward_first_removal_is_the_cheapest_of_all(generator):
    covariance = random_moment(generator, 7)
    output = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    first = int(twins.feed_forward(covariance, output, block=1).order[-1])
    errors = [removal_error(covariance, output, torch.tensor([j for j in range(7) if j != i])) for i in range(7)]
    assert first == min(range(7), key=errors.__getitem__)


def test_feed_forward_order_beats_norms(generator):
    covariance = random_moment(generator, 40)
    output = torch.randn(40, 8, generator=generator, dtype=torch.float64)
    ours = removal_error(covariance, output, twins.feed_forward(covariance, output).order[:20])
    norms = output.norm(dim=1) * covariance.diagonal().sqrt()
    assert ours < removal_error(covariance, output, norms.argsort(descending=True)[:20])


def test_refit_returns_an_exact_prior_and_solves_least_squares(generator):
    z = torch.randn(200, 5, generator=generator, dtype=torch.float64)
    y = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    second, cross = z.T @ z / 200, z.T @ y / 200
    plain = torch.linalg.lstsq(z, y).solution
    torch.testing.assert_close(twins.refit(second, cross, torch.zeros(5, 3), ridge=0), plain)
    torch.testing.assert_close(twins.refit(second, second @ plain, plain, ridge=0.5), plain)


def test_a_moment_of_deficient_rank_is_no_error():
    rank_one = torch.ones(1, 4, 4, dtype=torch.float64)
    found = twins.query_key(rank_one, rank_one)
    assert torch.isfinite(found.query).all() and found.values[0, 0] == pytest.approx(4, rel=1e-3)
    assert found.values[0, 1] < 1e-3


def test_values_alone_are_those_of_the_factors(generator):
    mixed = torch.randn(3, 200, 16, generator=generator, dtype=torch.float64)
    covariance, output = mixed.mT @ mixed / 200, torch.randn(3, 16, 40, generator=generator)
    values = twins.value_output(covariance, output).values
    torch.testing.assert_close(twins.value_output_values(covariance, output), values, rtol=1e-6, atol=1e-8)
