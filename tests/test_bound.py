"""The bound as three terms, against the definition summed over every path of small chains."""

import itertools
import math

import numpy as np
import pytest
import torch
from helpers import F64
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from ddpm_nb.bound import chain_bound
from ddpm_nb.forward import Schedule, q_sample
from ddpm_nb.likelihood import gaussian_kl, gaussian_log_prob
from ddpm_nb.posterior import posterior_mean, posterior_variance


def table(*shape: int, seed: int) -> Tensor:
    rows = (
        torch.rand(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))
        + 0.1
    )
    return rows / rows.sum(-1, keepdim=True)


def chain(
    states: int, T: int, seed: int = 0
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    forward = list(table(T, states, states, seed=seed))
    return (
        forward,
        list(table(T, states, states, seed=seed + 1)),
        table(states, seed=seed + 2),
    )


def by_paths(
    forward: list[Tensor], reverse: list[Tensor], prior: Tensor
) -> tuple[list[float], list[float]]:
    """Minus the bound from its definition, and -log p(x_0), for each x_0: plain sums over all paths."""
    states, T = len(prior), len(forward)
    loss, likelihood = [0.0] * states, [0.0] * states
    for path in itertools.product(range(states), repeat=T + 1):
        q, p = 1.0, float(prior[path[T]])
        for t in range(1, T + 1):
            q *= float(forward[t - 1][path[t - 1], path[t]])
            p *= float(reverse[t - 1][path[t], path[t - 1]])
        loss[path[0]] += q * float(torch.tensor(q / p, dtype=F64).log())
        likelihood[path[0]] += p
    return loss, [-float(torch.tensor(p, dtype=F64).log()) for p in likelihood]


@pytest.mark.equation("eq-bound-start")
@pytest.mark.equation("eq-bound")
@pytest.mark.parametrize(("states", "T"), [(2, 1), (3, 2), (3, 4), (4, 5)])
def test_three_terms_are_the_definition(states: int, T: int) -> None:
    forward, reverse, prior = chain(states, T)
    loss, minus_log_p = by_paths(forward, reverse, prior)
    bound = chain_bound(forward, reverse, prior)
    assert bound.total.tolist() == pytest.approx(loss, rel=1e-12)
    assert all(a >= b for a, b in zip(bound.total.tolist(), minus_log_p, strict=True))
    assert bound.steps.shape == (T - 1, states)


@pytest.mark.equation("eq-bound")
def test_each_term_is_what_its_name_says() -> None:
    """Every term by itself, from joint probabilities summed over paths."""
    states, T = 3, 3
    forward, reverse, prior = chain(states, T, seed=10)
    bound = chain_bound(forward, reverse, prior)
    for start in range(states):
        q = torch.zeros([states] * T, dtype=F64)  # q(x_1, x_2, x_3 | x_0 = start)
        for path in itertools.product(range(states), repeat=T):
            q[path] = (
                forward[0][start, path[0]]
                * torch.stack([forward[t][path[t - 1], path[t]] for t in (1, 2)]).prod()
            )
        last = q.sum((0, 1))
        assert bound.prior[start].item() == pytest.approx(
            float((last * (last / prior).log()).sum()), rel=1e-12
        )
        first = q.sum((1, 2))
        expected = -sum(
            float(first[j] * reverse[0][j, start].log()) for j in range(states)
        )
        assert bound.reconstruction[start].item() == pytest.approx(expected, rel=1e-12)
        for row, (pair, back) in enumerate(
            ((q.sum(2), reverse[1]), (q.sum(0), reverse[2]))
        ):  # pair[x_{t-1}, x_t]
            expected = 0.0
            for j in range(states):
                posterior = pair[:, j] / pair[:, j].sum()
                expected += float(
                    pair[:, j].sum() * (posterior * (posterior / back[j]).log()).sum()
                )
            assert bound.steps[row, start].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.equation("eq-bound")
def test_a_perfect_model_of_one_start_pays_nothing() -> None:
    forward, _, _ = chain(3, 4)
    jump, reverse = torch.eye(3, dtype=F64)[0], []
    for step in forward:
        pair = jump[:, None] * step + 1e-300
        jump = pair.sum(0)
        reverse.append((pair / jump).T)
    assert chain_bound(forward, reverse, jump).total[0].item() == pytest.approx(
        0, abs=1e-12
    )


def counted_kl(q: np.ndarray, p: np.ndarray) -> float:
    """A divergence as a plain sum over outcomes; those that q never has count as 0."""
    return math.fsum(
        a * math.log(a / b) for a, b in zip(q.flat, p.flat, strict=True) if a > 0
    )


@pytest.mark.equation("eq-kl-chain")
def test_divergence_of_pairs_splits_in_both_ways() -> None:
    """Counted on tables: the whole, and its two parts with either member as the first."""
    q, p = (table(12, seed=seed).reshape(3, 4).numpy() for seed in (0, 1))
    whole = counted_kl(q, p)
    for a, b in ((q, p), (q.T, p.T)):
        first = counted_kl(a.sum(1), b.sum(1))
        second = sum(
            row.sum() * counted_kl(row / row.sum(), other / other.sum())
            for row, other in zip(a, b, strict=True)
        )
        assert first > 0.01 and second > 0.01
        assert first + second == pytest.approx(whole, rel=1e-12)


@pytest.mark.equation("eq-kl-chain")
def test_divergence_of_a_normal_pair_splits_into_the_codes_divergences() -> None:
    """The left side is torch's, for two planes; the right side is `gaussian_kl`, once and in the mean."""
    mean_q, mean_p = torch.tensor([[0.3, -0.5], [0.0, 0.4]], dtype=F64)
    cov_q = torch.tensor([[1.2, 0.5], [0.5, 0.8]], dtype=F64)
    cov_p = torch.tensor([[0.9, -0.3], [-0.3, 1.5]], dtype=F64)
    whole = kl_divergence(
        MultivariateNormal(mean_q, cov_q), MultivariateNormal(mean_p, cov_p)
    )
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)  # exact for squares
    a = mean_q[0] + cov_q[0, 0].sqrt() * torch.tensor(nodes)[:, None]

    def second(mean: Tensor, cov: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of b given a, by regression."""
        slope = cov[0, 1] / cov[0, 0]
        return mean[1] + slope * (a - mean[0]), (cov[1, 1] - slope * cov[0, 1])[None]

    inner = gaussian_kl(*second(mean_q, cov_q), *second(mean_p, cov_p))
    mean_of_inner = float((torch.tensor(weights / weights.sum()) * inner).sum())
    first = gaussian_kl(mean_q[:1], cov_q[:1, 0], mean_p[:1], cov_p[:1, 0])
    assert first.item() + mean_of_inner == pytest.approx(whole.item(), rel=1e-12)


@pytest.mark.equation("eq-joint-kl")
@pytest.mark.parametrize(("states", "T"), [(2, 1), (3, 3), (4, 4)])
def test_the_bound_above_the_entropy_is_the_divergence_of_the_chains(
    states: int, T: int
) -> None:
    """All paths counted: the code's bound, the divergence of the joint tables, and start plus steps."""
    forward, reverse, prior = chain(states, T, seed=20)
    data = table(states, seed=23)
    q, p = np.empty([states] * (T + 1)), np.empty([states] * (T + 1))
    for path in np.ndindex(*q.shape):
        q[path], p[path] = float(data[path[0]]), float(prior[path[T]])
        for t in range(1, T + 1):
            q[path] *= float(forward[t - 1][path[t - 1], path[t]])
            p[path] *= float(reverse[t - 1][path[t], path[t - 1]])
    joint = counted_kl(q, p)

    def marginal(*members: int) -> np.ndarray:
        return q.sum(tuple(set(range(T + 1)) - set(members)))

    start = counted_kl(marginal(T), prior.numpy())
    steps = 0.0
    for t in range(1, T + 1):
        pair = marginal(t - 1, t)
        for j in range(states):
            at = pair[:, j].sum()
            steps += at * counted_kl(pair[:, j] / at, reverse[t - 1][j].numpy())
    assert start + steps == pytest.approx(joint, rel=1e-12)
    entropy = -math.fsum(x * math.log(x) for x in data.tolist())
    excess = float((data * chain_bound(forward, reverse, prior).total).sum()) - entropy
    assert excess == pytest.approx(joint, rel=1e-11)
    # Split at the other end: what the model draws is off by no more.
    drawn = p.sum(tuple(range(1, T + 1)))
    assert 0 < counted_kl(data.numpy(), drawn) < joint


@pytest.mark.equation("eq-joint-kl")
@pytest.mark.parametrize("T", [1, 2, 4])
def test_for_a_normal_chain_too(T: int) -> None:
    """Normal data, normal steps: chains are normal in T + 1 dimensions, where torch knows the divergence."""
    schedule = Schedule([0.3, 0.5, 0.2, 0.6][:T])
    data_mean, data_var = 0.7, 0.5
    back = [  # p(x_{t-1} | x_t) = N(slope x_t + shift, var), and p(x_T) = N(0, 1)
        (0.9 - 0.1 * t, 0.2 * t - 0.3, 0.4 + 0.1 * t) for t in range(T + 1)
    ]

    # Each member as a mixture of T + 1 independent normal numbers, and a mean.
    q_rows, q_mean = torch.zeros(T + 1, T + 1, dtype=F64), torch.zeros(T + 1, dtype=F64)
    q_rows[0, 0], q_mean[0] = data_var**0.5, data_mean
    for t in range(1, T + 1):
        kept = (1 - schedule.beta[t]).sqrt()
        q_rows[t], q_mean[t] = kept * q_rows[t - 1], kept * q_mean[t - 1]
        q_rows[t, t] = schedule.beta[t].sqrt()
    p_rows, p_mean = torch.zeros_like(q_rows), torch.zeros_like(q_mean)
    p_rows[T, T] = 1
    for t in range(T, 0, -1):
        slope, shift, var = back[t]
        p_rows[t - 1], p_mean[t - 1] = slope * p_rows[t], slope * p_mean[t] + shift
        p_rows[t - 1, t - 1] = var**0.5
    q_cov, p_cov = q_rows @ q_rows.T, p_rows @ p_rows.T
    joint = kl_divergence(
        MultivariateNormal(q_mean, q_cov), MultivariateNormal(p_mean, p_cov)
    ).item()

    one, zero = torch.ones(1, dtype=F64), torch.zeros(1, dtype=F64)
    nodes, weights = np.polynomial.hermite_e.hermegauss(6)  # exact for squares
    nodes, weights = torch.tensor(nodes), torch.tensor(weights / weights.sum())

    def step_back(x_t: Tensor, t: int) -> tuple[Tensor, Tensor]:
        slope, shift, var = back[t]
        return slope * x_t + shift, var * one

    # The bound as the code's pieces give it: averaged over x_0 (rows) and the noise (columns).
    x_0, noise = torch.meshgrid(data_mean + data_var**0.5 * nodes, nodes, indexing="ij")
    x_0, noise = x_0[..., None], noise[..., None]
    last = schedule.alpha_bar[T]
    loss = gaussian_kl(last.sqrt() * x_0, (1 - last) * one, zero, one)
    for t in range(1, T + 1):
        x_t = q_sample(x_0, t, noise, schedule)
        if t == 1:
            loss = loss - gaussian_log_prob(x_0, *step_back(x_t, t))
        else:
            known = posterior_mean(x_0, x_t, t, schedule)
            var = posterior_variance(t, schedule) * one
            loss = loss + gaussian_kl(known, var, *step_back(x_t, t))
    entropy = 0.5 * math.log(2 * math.pi * math.e * data_var)
    excess = float((weights[:, None] * weights * loss).sum()) - entropy
    assert excess == pytest.approx(joint, rel=1e-10)

    # Start and steps, with the true step back from the covariance of two neighbours.
    total = gaussian_kl(q_mean[T:], q_cov[T, T:], zero, one).item()
    for t in range(1, T + 1):
        slope = q_cov[t - 1, t] / q_cov[t, t]
        x_t = (q_mean[t] + q_cov[t, t].sqrt() * nodes)[:, None]
        true_mean = q_mean[t - 1] + slope * (x_t - q_mean[t])
        true_var = (q_cov[t - 1, t - 1] - slope * q_cov[t - 1, t])[None]
        each = gaussian_kl(true_mean, true_var, *step_back(x_t, t))
        total += float((weights * each).sum())
    assert total == pytest.approx(joint, rel=1e-10)


@pytest.mark.equation("eq-one-random-t")
def test_one_random_term_has_the_sum_as_its_mean() -> None:
    """Simulate line 3: walk, draw t, turn the step round by Bayes' rule; the mean must meet the definition."""
    forward, reverse, prior = chain(3, 6, seed=5)
    n, T, generator = 100_000, 6, torch.Generator().manual_seed(0)
    walk, jump = [torch.zeros(n, dtype=torch.int64)], [torch.eye(3, dtype=F64)]
    for step in forward:
        walk.append(torch.multinomial(step[walk[-1]], 1, generator=generator)[:, 0])
        jump.append(jump[-1] @ step)
    x, f, r, q = (torch.stack(tables) for tables in (walk, forward, reverse, jump))
    t, i = torch.randint(2, T + 1, (n,), generator=generator), torch.arange(n)
    now, before = x[t, i], x[t - 1, i]
    back = f[t - 1, before, now] * q[t - 1, 0, before] / q[t, 0, now]
    estimates = (T - 1) * (back / r[t - 1, now, before]).log()
    bound = chain_bound(forward, reverse, prior)
    the_rest = float(bound.prior[0] + bound.reconstruction[0])
    loss, _ = by_paths(forward, reverse, prior)
    error_bar = float(estimates.std()) / n**0.5
    assert abs(float(estimates.mean()) + the_rest - loss[0]) < 4 * error_bar
    assert abs(float(estimates.mean() - bound.steps[:, 0].sum())) < 4 * error_bar


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f, r, p: (f[:1], r, p), "one table a step in both, got 1 and 2"),
        (lambda f, r, p: ([], [], p), "one table a step"),
        (lambda f, r, p: ([f[0], 2 * f[1]], r, p), "forward: expected positive rows"),
        (lambda f, r, p: (f, [r[0], r[1][:2]], p), "reverse: expected positive rows"),
        (lambda f, r, p: (f, r, p - p[0]), "prior: expected positive rows"),
    ],
)
def test_tables_that_do_not_fit_are_refused(change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chain_bound(*change(*chain(3, 2)))
