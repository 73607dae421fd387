"""The step back: against Bayes' rule on a grid, quadrature over x_0, and automatic differentiation."""

import numpy as np
import pytest
import torch
from helpers import F64, LINEAR
from hypothesis import given, strategies as st
from reference import (
    alpha_bar,
    bayes_on_a_grid,
    integrate,
    linear_beta,
    log_normal_pdf,
    normal_pdf,
)
from torch.testing import assert_close

from ddpm_nb.forward import Schedule, q_sample
from ddpm_nb.likelihood import GaussianMixture
from ddpm_nb.posterior import (
    noised_mixture,
    optimal_noise,
    posterior_mean,
    posterior_variance,
)

BETA = linear_beta(1000)
BAR = alpha_bar(BETA)


@pytest.mark.equation("eq-posterior-mean")
@pytest.mark.equation("eq-posterior-variance")
@given(st.integers(2, 1000), st.floats(-1, 1), st.floats(-2.5, 2.5))
def test_step_back_is_bayes_rule(t: int, x_0: float, x_t: float) -> None:
    """Prior q(x_{t-1} | x_0) times likelihood q(x_t | x_{t-1}) on a grid that knows no algebra."""
    beta, before = float(BETA[t]), BAR[t - 1]
    mean, variance = bayes_on_a_grid(
        lambda x: log_normal_pdf(x, before**0.5 * x_0, 1 - before),
        lambda x: log_normal_pdf(x_t, (1 - beta) ** 0.5 * x, beta),
    )
    got = posterior_mean(
        torch.tensor([x_0], dtype=F64), torch.tensor([x_t], dtype=F64), t, LINEAR
    )
    assert got.item() == pytest.approx(mean, rel=1e-8, abs=1e-9)
    assert posterior_variance(t, LINEAR).item() == pytest.approx(variance, rel=1e-7)


@pytest.mark.equation("eq-posterior-variance")
def test_posterior_variance_golden_numbers() -> None:
    """Counted from 0 there, from 1 here."""
    assert posterior_variance(2, LINEAR).item() == pytest.approx(
        5.4531876613021935e-05, rel=1e-10
    )
    assert posterior_variance(488, LINEAR).item() == pytest.approx(
        0.00979157198569, rel=1e-10
    )


@pytest.mark.equation("eq-posterior-mean")
@pytest.mark.equation("eq-posterior-variance")
def test_first_step_leads_back_to_x_0_for_sure() -> None:
    x_0, x_1 = torch.randn(2, 5, dtype=F64)
    assert posterior_variance(1, LINEAR) == 0
    assert_close(posterior_mean(x_0, x_1, 1, LINEAR), x_0, rtol=1e-12, atol=0)


@pytest.mark.equation("eq-posterior-mean")
@pytest.mark.equation("eq-posterior-variance")
def test_walking_back_from_the_end_restores_the_distribution() -> None:
    """Draw x_t by the jump, step back by the posterior: mean and variance must be those of the jump to t - 1."""
    schedule, t, n = Schedule([0.3, 0.5, 0.4]), 3, 400_000
    noise, z = torch.randn(2, n, dtype=F64, generator=torch.Generator().manual_seed(0))
    x_0 = torch.full((n,), 0.8, dtype=F64)
    back = posterior_mean(x_0, q_sample(x_0, t, noise, schedule), t, schedule)
    back = back + posterior_variance(t, schedule).sqrt() * z
    kept = 0.7 * 0.5
    assert abs(back.mean() - kept**0.5 * 0.8) < 4 * ((1 - kept) / n) ** 0.5
    assert abs(back.var() / (1 - kept) - 1) < 4 * (2 / n) ** 0.5


@pytest.mark.equation("eq-posterior-mean")
@pytest.mark.parametrize("t", [1, 2, 10, 1000])
def test_step_back_keeps_its_digits_for_pictures_in_float32(t: int) -> None:
    """At small t the shares hang on 1 - alpha_bar, 1e-4 at t = 1: taken in float32 it would be off by 1e-4."""
    x_0, x_t = torch.randn(2, 100, dtype=F64)
    exact = posterior_mean(x_0, x_t, t, LINEAR)
    got = posterior_mean(x_0.float(), x_t.float(), t, LINEAR)
    assert got.dtype == torch.float32
    scale = x_0.abs() + x_t.abs()
    assert ((got - exact).abs() / scale).max() < 4 * torch.finfo(torch.float32).eps
    assert posterior_variance(t, LINEAR).dtype == F64


@pytest.mark.equation("eq-posterior-mean")
@pytest.mark.equation("eq-posterior-variance")
def test_each_picture_of_a_batch_takes_its_own_step_back() -> None:
    """A batch of pictures at four times against each pixel by itself, by Bayes' rule on a grid."""
    t = torch.tensor([2, 40, 300, 1000])
    x_0, x_t = torch.randn(2, 4, 3, 2, 2, dtype=F64)
    together = posterior_mean(x_0, x_t, t, LINEAR)
    assert together.shape == x_0.shape
    for i, c, j, k in ((0, 0, 0, 0), (1, 2, 1, 0), (2, 1, 0, 1), (3, 2, 1, 1)):
        before, beta = BAR[t[i] - 1], float(BETA[t[i]])
        start, now = float(x_0[i, c, j, k]), float(x_t[i, c, j, k])
        mean, variance = bayes_on_a_grid(
            lambda x: log_normal_pdf(x, before**0.5 * start, 1 - before),  # noqa: B023
            lambda x: log_normal_pdf(now, (1 - beta) ** 0.5 * x, beta),  # noqa: B023
        )
        assert together[i, c, j, k].item() == pytest.approx(mean, rel=1e-8, abs=1e-9)
        assert posterior_variance(t, LINEAR)[i].item() == pytest.approx(
            variance, rel=1e-7
        )


MIXTURE = GaussianMixture([0.3, 0.7], [[-1.0], [1.2]], [0.2, 0.5])
X_0 = np.linspace(-6, 8, 28_001)
PRIOR = 0.3 * normal_pdf(X_0, -1.0, 0.04) + 0.7 * normal_pdf(X_0, 1.2, 0.25)
POINTS = (-2.0, -0.4, 0.1, 1.7)


@pytest.mark.equation("eq-mixture-marginal")
@pytest.mark.parametrize("t", [1, 40, 300, 1000])
def test_noised_mixture_is_the_integral_over_x_0(t: int) -> None:
    for x_t in POINTS:
        likelihood = normal_pdf(x_t, BAR[t] ** 0.5 * X_0, 1 - BAR[t])
        density = (
            noised_mixture(MIXTURE, t, LINEAR)
            .log_prob(torch.tensor([x_t]))
            .exp()
            .item()
        )
        assert density == pytest.approx(integrate(PRIOR * likelihood, X_0), rel=1e-7)


@pytest.mark.equation("eq-mixture-marginal")
def test_without_noise_the_mixture_is_itself() -> None:
    x = torch.tensor([[-1.0], [0.3], [2.0]], dtype=F64)
    same = noised_mixture(MIXTURE, 0, LINEAR).log_prob(x)
    assert_close(same, MIXTURE.log_prob(x), rtol=1e-12, atol=0)


@pytest.mark.equation("eq-optimal-noise")
@pytest.mark.parametrize("t", [5, 40, 300, 1000])
def test_optimal_noise_is_the_mean_over_x_0(t: int) -> None:
    """E[noise | x_t]: weigh each x_0 by how well it explains x_t, average the noise that it would need."""
    for x_t in POINTS:
        weight = PRIOR * normal_pdf(x_t, BAR[t] ** 0.5 * X_0, 1 - BAR[t])
        noise = (x_t - BAR[t] ** 0.5 * X_0) / (1 - BAR[t]) ** 0.5
        expected = integrate(weight * noise, X_0) / integrate(weight, X_0)
        got = optimal_noise(MIXTURE, LINEAR)(torch.tensor([[x_t]], dtype=F64), t).item()
        assert got == pytest.approx(expected, rel=1e-6, abs=1e-7)


@pytest.mark.equation("eq-optimal-noise")
@pytest.mark.equation("eq-tweedie")
def test_optimal_noise_in_the_plane_is_the_slope_of_the_log_density() -> None:
    """Tweedie's formula: E[noise | x_t] = -sqrt(1 - alpha_bar) grad log q(x_t); the slope by autograd."""
    plane = GaussianMixture(
        [0.2, 0.5, 0.3], [[-1, 0.5], [1.0, 1.0], [0.2, -1.5]], [0.1, 0.4, 0.7]
    )
    x = torch.randn(3, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([3, 250, 900])
    together = optimal_noise(plane, LINEAR)(x, t)
    for i in range(3):
        at = x[i].clone().requires_grad_()
        noised_mixture(plane, int(t[i]), LINEAR).log_prob(at).backward()
        assert at.grad is not None
        assert_close(
            together[i], -((1 - BAR[t[i]]) ** 0.5) * at.grad, rtol=1e-9, atol=0
        )


@pytest.mark.equation("eq-tweedie")
@pytest.mark.parametrize("t", [1, 30, 400])
@pytest.mark.parametrize("sign", [-1, 1])
def test_slope_of_the_log_density_is_a_mean_for_data_without_bells(
    t: int, sign: int
) -> None:
    """Data spread evenly over [-1, 1]: q(x_t) is a difference of two error functions, its slope by autograd."""
    keep, width = BAR[t] ** 0.5, (1 - BAR[t]) ** 0.5
    x_0 = np.linspace(-1, 1, 400_001)
    for distance in (0.0, 0.6, keep, keep + width):
        at = sign * distance
        x_t = torch.tensor(at, dtype=F64, requires_grad=True)
        left, right = (torch.special.ndtr((x_t + c) / width) for c in (-keep, keep))
        (right - left).log().backward()
        weight = normal_pdf(at, keep * x_0, 1 - BAR[t])
        mass = integrate(weight, x_0)
        noise = integrate(weight * (at - keep * x_0) / width, x_0) / mass
        picture = integrate(weight * x_0, x_0) / mass
        score = float(x_t.grad)
        assert score == pytest.approx(-noise / width, rel=1e-6, abs=1e-8)
        assert picture == pytest.approx(
            (at + (1 - BAR[t]) * score) / keep, rel=1e-6, abs=1e-8
        )


@pytest.mark.equation("eq-optimal-noise")
@pytest.mark.equation("eq-tweedie")
def test_optimal_noise_of_a_training_set_is_the_slope_of_its_noised_density() -> None:
    """Three points with chances: log q(x_t) as a plain sum of three bells, its slope by autograd."""
    points = torch.tensor([[-1.0, 0.2], [0.4, 1.0], [0.8, -0.9]], dtype=F64)
    chances = torch.tensor([0.2, 0.3, 0.5], dtype=F64)
    model = optimal_noise(GaussianMixture(chances, points, [1e-9] * 3), LINEAR)
    for t in (100, 400, 800):
        x_t = torch.randn(6, 2, dtype=F64, requires_grad=True)
        squares = (x_t[:, None] - BAR[t] ** 0.5 * points).square().sum(-1)
        bells = chances * torch.exp(-squares / (2 * (1 - BAR[t])))
        (score,) = torch.autograd.grad(bells.sum(1).log().sum(), x_t)
        expected = -((1 - BAR[t]) ** 0.5) * score
        assert_close(model(x_t.detach(), t), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.equation("eq-optimal-noise")
def test_optimal_noise_keeps_its_digits_for_points_in_float32() -> None:
    """One sharp bump far from the origin, at t = 1: an offset taken in float32 would lose its digits."""
    far = GaussianMixture([1.0], [[100.1]], [1e-3])
    x_t = BAR[1] ** 0.5 * 100.1 + torch.tensor([[-0.02], [0.003], [0.01]])
    var = BAR[1] * 1e-6 + 1 - BAR[1]
    offset = x_t.numpy().astype(np.float64) - BAR[1] ** 0.5 * 100.1
    expected = (1 - BAR[1]) ** 0.5 / var * offset
    got = optimal_noise(far, LINEAR)(x_t, 1)
    assert got.numpy() == pytest.approx(expected, rel=1e-6)


def three_bells(density: np.ndarray, grid: np.ndarray, beta: float) -> list[float]:
    """The divergences of the true step back from three bells, averaged over x_t, on a grid that knows no algebra."""
    joint = density * normal_pdf(grid[:, None], (1 - beta) ** 0.5 * grid, beta)
    joint /= joint.sum()
    at = joint.sum(1)
    back = joint / at[:, None]
    mean = (back * grid).sum(1)
    var = (back * (grid - mean[:, None]) ** 2).sum(1)
    log_back = np.log(back.clip(1e-300)) - np.log(grid[1] - grid[0])
    return [
        (joint * (log_back - log_normal_pdf(grid, mean[:, None], bell_var))).sum()
        for bell_var in (var[:, None], at @ var, beta)
    ]


@pytest.mark.equation("eq-step-cost")
@pytest.mark.parametrize("wide", [0.35, 0.5])
def test_cost_of_a_small_step_falls_with_its_third_or_second_power(wide: float) -> None:
    """Two bumps; the three means of slopes of log q from automatic differentiation. The remainder must vanish too."""
    grid = np.linspace(-5, 5, 1601)
    x = torch.tensor(grid, requires_grad=True)
    bumps = 0.3 * torch.exp(-((x + 1) ** 2) / (2 * wide**2)) + 0.7 * torch.exp(
        -((x - 1) ** 2) / (2 * wide**2)
    )
    slopes = [bumps.log()]
    for _ in range(3):
        (slope,) = torch.autograd.grad(slopes[-1].sum(), x, create_graph=True)
        slopes.append(slope)
    density = bumps.detach().numpy() / bumps.detach().numpy().sum()
    second, third = (slope.detach().numpy() for slope in slopes[2:])
    mean_second = density @ second
    limits = [
        density @ third**2 / 12,
        density @ (second - mean_second) ** 2 / 4,
        density @ (1 + second) ** 2 / 4,
    ]
    off = []
    for beta in (2e-3, 1e-3):
        costs = three_bells(density, grid, beta)
        powers = (beta**3, beta**2, beta**2)
        off.append(
            [
                cost / power / limit - 1
                for cost, power, limit in zip(costs, powers, limits, strict=True)
            ]
        )
    for larger, smaller in zip(*off, strict=True):
        assert abs(smaller) < 0.06
        assert smaller == pytest.approx(larger / 2, rel=0.1)  # of the next order


@pytest.mark.equation("eq-step-cost")
def test_normal_data_of_variance_one_cost_nothing() -> None:
    grid = np.linspace(-7, 7, 1401)
    costs = three_bells(normal_pdf(grid, 0, 1), grid, 0.05)
    assert costs == pytest.approx([0, 0, 0], abs=1e-10)


def test_optimal_noise_answers_in_the_type_of_its_input() -> None:
    x = torch.zeros(4, 1)
    assert (
        optimal_noise(MIXTURE, LINEAR)(x, torch.tensor([1, 2, 3, 4])).dtype
        == torch.float32
    )


def test_times_outside_are_refused() -> None:
    x = torch.zeros(1, 1)
    for call in (
        lambda: posterior_variance(0, LINEAR),
        lambda: posterior_mean(x, x, 1001, LINEAR),
        lambda: optimal_noise(MIXTURE, LINEAR)(x, 0),
        lambda: noised_mixture(MIXTURE, 1001, LINEAR),
    ):
        with pytest.raises(ValueError, match="t: expected"):
            call()


def test_points_and_times_that_would_broadcast_are_refused() -> None:
    model = optimal_noise(MIXTURE, LINEAR)
    for shape in ((4, 3), (2, 4, 1), (1,)):
        with pytest.raises(ValueError, match=r"x_t: expected shape \(B, 1\)"):
            model(torch.zeros(shape), 5)
    with pytest.raises(ValueError, match="t: expected one time a point"):
        model(torch.zeros(1, 1), torch.tensor([1, 2, 3]))
