"""The bound as three terms, against the definition summed over every path of small chains."""

import itertools

import pytest
import torch
from torch import Tensor

from ddpm_nb.bound import chain_bound

F64 = torch.float64


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
