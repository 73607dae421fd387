"""The step back: against Bayes' rule on a grid, quadrature over x_0, and automatic differentiation."""

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from reference import (
    alpha_bar,
    bayes_on_a_grid,
    integrate,
    linear_beta,
    log_normal_pdf,
    normal_pdf,
)

from ddpm_nb.forward import Schedule, q_sample
from ddpm_nb.likelihood import GaussianMixture
from ddpm_nb.posterior import (
    noised_mixture,
    optimal_noise,
    posterior_mean,
    posterior_variance,
)

F64 = torch.float64
BETA = linear_beta(1000)
BAR = alpha_bar(BETA)
LINEAR = Schedule.linear()


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
    assert torch.allclose(posterior_mean(x_0, x_1, 1, LINEAR), x_0, rtol=1e-12, atol=0)


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
    assert torch.allclose(same, MIXTURE.log_prob(x), rtol=1e-12, atol=0)


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
        assert torch.allclose(
            together[i], -((1 - BAR[t[i]]) ** 0.5) * at.grad, rtol=1e-9, atol=0
        )


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
    with pytest.raises(ValueError, match=r"x_t: expected shape \(B, 1\)"):
        model(torch.zeros(4, 3), 5)
    with pytest.raises(ValueError, match="t: expected one time a point"):
        model(torch.zeros(1, 1), torch.tensor([1, 2, 3]))
