"""The loss and its relatives: against grids, torch.distributions, golden numbers and simulation."""

import functools
import math
from unittest.mock import patch

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
    moments,
    normal_pdf,
)
from scipy.stats import chisquare
from torch import Tensor
from torch.testing import assert_close

from ddpm_nb.forward import Schedule, q_sample
from ddpm_nb.likelihood import GaussianMixture, gaussian_kl
from ddpm_nb.loss import (
    denoising_mean,
    noise_to_score,
    noise_to_v,
    optimal_variance,
    predict_x_0,
    reverse_variance,
    simple_loss,
    v_to_noise,
    vlb_weight,
    x_0_to_noise,
)
from ddpm_nb.posterior import (
    noised_mixture,
    optimal_noise,
    posterior_mean,
    posterior_variance,
)

BETA = linear_beta(1000)
BAR = alpha_bar(BETA)


def draws(seed: int = 0, n: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """x_0 and noise, (n, 3), and one time each, from 1 to T."""
    x_0, noise = torch.randn(
        2, n, 3, dtype=F64, generator=torch.Generator().manual_seed(seed)
    )
    return x_0, noise, torch.linspace(1, 1000, n).long()


@pytest.mark.equation("eq-predict-x0")
def test_the_true_noise_gives_the_picture_back() -> None:
    x_0, noise, t = draws()
    x_t = q_sample(x_0, t, noise, LINEAR)
    assert_close(predict_x_0(x_t, t, noise, LINEAR), x_0, rtol=1e-10, atol=1e-10)


@pytest.mark.equation("eq-predict-x0")
@pytest.mark.equation("eq-denoising-mean")
@pytest.mark.equation("eq-score")
@pytest.mark.equation("def-v")
@pytest.mark.equation("eq-v-inverse")
@pytest.mark.parametrize("t", [1, 2, 1000])
def test_factors_are_worked_out_in_double_precision(t: int) -> None:
    """For float32 pictures: with 1 - alpha_bar taken in float32, some are off in the fourth digit at t = 1.

    Every function is linear, so one picture and one noise of 1 show its factors. Exact fractions give the answers.
    """
    beta, bar = float(BETA[t]), BAR[t]
    rest, one, zero = 1 - bar, torch.ones(1), torch.zeros(1)
    factors = {
        predict_x_0: (bar**-0.5, -((rest / bar) ** 0.5)),
        denoising_mean: ((1 - beta) ** -0.5, -beta / (rest * (1 - beta)) ** 0.5),
        noise_to_v: (-((rest / bar) ** 0.5), bar**-0.5),
        v_to_noise: (rest**0.5, bar**0.5),
        x_0_to_noise: (rest**-0.5, -((bar / rest) ** 0.5)),
    }
    for at in (t, torch.tensor([t])):
        for function, (of_x_t, of_the_other) in factors.items():
            for x, other, exact in ((one, zero, of_x_t), (zero, one, of_the_other)):
                got = function(x, at, other, LINEAR)
                assert got.dtype == torch.float32
                assert got.item() == pytest.approx(exact, rel=1e-6), function.__name__
        score = noise_to_score(one, at, LINEAR)
        assert score.dtype == torch.float32
        assert score.item() == pytest.approx(-(rest**-0.5), rel=1e-6)


@pytest.mark.equation("eq-denoising-mean")
@pytest.mark.parametrize("t", [2, 30, 500, 1000])
def test_line_4_is_bayes_rule_when_the_noise_is_known(t: int) -> None:
    """Make x_t from x_0 with a known noise; the mean of the step back comes from a grid."""
    x_0, noise = 0.7, 0.4
    x_t = BAR[t] ** 0.5 * x_0 + (1 - BAR[t]) ** 0.5 * noise
    beta = float(BETA[t])
    mean, _ = bayes_on_a_grid(
        lambda x: log_normal_pdf(x, BAR[t - 1] ** 0.5 * x_0, 1 - BAR[t - 1]),
        lambda x: log_normal_pdf(x_t, (1 - beta) ** 0.5 * x, beta),
    )
    got = denoising_mean(
        torch.tensor([x_t], dtype=F64), t, torch.tensor([noise], dtype=F64), LINEAR
    )
    assert got.item() == pytest.approx(mean, rel=1e-7)


@pytest.mark.equation("eq-denoising-mean")
def test_line_4_is_the_posterior_mean_with_the_predicted_picture_put_in() -> None:
    x_t, noise, t = draws(1)
    x_0_hat = predict_x_0(x_t, t, noise, LINEAR)
    expected = posterior_mean(x_0_hat, x_t, t, LINEAR)
    assert_close(denoising_mean(x_t, t, noise, LINEAR), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.equation("eq-predict-x0")
@given(st.integers(1, 1000), st.floats(-1, 1), st.floats(-4, 4))
def test_noise_and_picture_each_give_the_other(
    t: int, x_0: float, noise: float
) -> None:
    """What the jump puts in, by exact fractions, comes out; and a changed picture is the one its noise stands for."""
    x_t = torch.tensor([BAR[t] ** 0.5 * x_0 + (1 - BAR[t]) ** 0.5 * noise], dtype=F64)
    picture = torch.tensor([x_0], dtype=F64)
    got = x_0_to_noise(x_t, t, picture, LINEAR)
    assert got.item() == pytest.approx(noise, rel=1e-9, abs=1e-9)
    other = x_0_to_noise(x_t, torch.tensor([t]), -picture / 2, LINEAR)
    back = predict_x_0(x_t, t, other, LINEAR)
    assert back.item() == pytest.approx(-x_0 / 2, rel=1e-9, abs=1e-9)


@pytest.mark.equation("eq-predict-x0")
def test_at_time_zero_the_picture_is_there_and_no_noise() -> None:
    x, noise = torch.randn(2, 3, 4)
    for t in (0, torch.zeros(3, dtype=torch.int64)):
        assert torch.equal(predict_x_0(x, t, noise, LINEAR), x)
        with pytest.raises(ValueError, match="t: expected 1"):
            x_0_to_noise(x, t, x, LINEAR)


def constant(value: float):
    return lambda x_t, t: torch.full_like(x_t, value)


@pytest.mark.equation("def-simple-loss")
def test_a_network_that_answers_zero_scores_the_power_of_the_noise() -> None:
    n = 200_000
    loss = simple_loss(
        constant(0.0), torch.ones(n, 1), LINEAR, torch.Generator().manual_seed(0)
    )
    assert abs(loss - 1) < 4 * (2 / n) ** 0.5
    loss = simple_loss(
        constant(0.5), torch.ones(n, 1), LINEAR, torch.Generator().manual_seed(0)
    )
    assert abs(loss - 1.25) < 4 * (3 / n) ** 0.5


@pytest.mark.equation("def-simple-loss")
@pytest.mark.parametrize("shape", [(1,), (3,), (2, 4, 4)])
def test_the_loss_is_a_mean_over_coordinates_too(shape: tuple[int, ...]) -> None:
    """Errors of 0, 1, 2, ... in the coordinates: their mean square is known, and no sum of squares equals it."""
    x_0 = torch.zeros(5, *shape, dtype=F64)
    noise = torch.randn(x_0.shape, dtype=F64)
    error = torch.arange(x_0.numel(), dtype=F64).view(x_0.shape)
    n = x_0.numel()
    loss = simple_loss(lambda x_t, t: noise + error, x_0, LINEAR, noise=noise)
    assert loss.shape == ()
    assert loss.item() == pytest.approx((n - 1) * (2 * n - 1) / 6, rel=1e-12)


@pytest.mark.equation("def-simple-loss")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, F64])
def test_the_network_is_asked_in_the_type_of_the_pictures(dtype: torch.dtype) -> None:
    seen: list[Tensor] = []
    loss = simple_loss(
        lambda x_t, t: seen.append(x_t) or x_t, torch.zeros(4, 2, dtype=dtype), LINEAR
    )
    assert seen[0].dtype == dtype
    assert loss.dtype == dtype


@pytest.mark.equation("def-simple-loss")
@pytest.mark.parametrize(
    ("generator", "drawn_on"), [(torch.Generator(), "cpu"), (None, "meta")]
)
def test_times_and_noise_are_drawn_at_the_generator_and_moved_to_the_pictures(
    generator: torch.Generator | None, drawn_on: str
) -> None:
    """Here the device "meta" stands for any that is not the CPU."""
    asked: list[Tensor] = []
    with (
        patch.object(torch, "randint", wraps=torch.randint) as times,
        patch.object(torch, "randn", wraps=torch.randn) as noise,
    ):
        loss = simple_loss(
            lambda x_t, t: asked.extend((x_t, t)) or x_t,
            torch.zeros(4, 2, device="meta"),
            LINEAR.to("meta"),
            generator,
        )
    for draw in (times, noise):
        assert draw.call_args.kwargs["device"] == torch.device(drawn_on)
    assert {x.device.type for x in (*asked, loss)} == {"meta"}


@pytest.mark.equation("def-simple-loss")
def test_times_and_noise_are_drawn_on_the_cpu_for_pictures_there() -> None:
    """Also where torch was told to make its tensors elsewhere."""
    with torch.device("meta"):
        loss = simple_loss(constant(0.5), torch.zeros(4, 2, device="cpu"), LINEAR)
    assert loss.isfinite()


@pytest.mark.equation("def-simple-loss")
def test_a_network_that_knows_the_only_picture_scores_zero() -> None:
    """For data that are one point the noise follows from x_t: no formula of the loss is used here."""
    x_0 = torch.full((500, 2), 0.3, dtype=F64)

    def perfect(x_t: Tensor, t: Tensor) -> Tensor:
        bar = torch.tensor([BAR[i] for i in t.tolist()], dtype=F64)[:, None]
        return (x_t - bar.sqrt() * 0.3) / (1 - bar).sqrt()

    assert simple_loss(perfect, x_0, LINEAR, torch.Generator().manual_seed(0)) < 1e-20


@pytest.mark.equation("def-simple-loss")
def test_times_and_noise_that_are_given_are_used() -> None:
    """Whoever knows them scores zero; an answer that does not depend on the drawn noise scores 2."""
    generator = torch.Generator().manual_seed(0)
    n = 20_000
    x_0 = torch.randn(n, 1, dtype=F64, generator=generator)
    noise = torch.randn(n, 1, dtype=F64, generator=generator)
    t = torch.randint(1, LINEAR.T + 1, (n,), generator=generator)

    def knows(x_t: Tensor, asked: Tensor) -> Tensor:
        bar = torch.tensor([BAR[i] for i in t.tolist()], dtype=F64)[:, None]
        return (x_t - bar.sqrt() * x_0) / (1 - bar).sqrt()

    assert simple_loss(knows, x_0, LINEAR, t=t, noise=noise) < 1e-20
    fixed = simple_loss(lambda x_t, t: noise, x_0, LINEAR, generator, t=t)
    assert abs(fixed - 2) < 4 * (8 / n) ** 0.5
    seen = []
    simple_loss(lambda x_t, t: seen.append(t) or x_t, x_0, LINEAR, generator, t=t)
    assert torch.equal(seen[0], t)


@pytest.mark.equation("def-simple-loss")
def test_times_are_uniform_and_the_network_sees_the_right_noise_level() -> None:
    schedule, n, seen = Schedule.linear(10, 0.01, 0.3), 50_000, {}

    def spy(x_t: Tensor, t: Tensor) -> Tensor:
        seen.update(x_t=x_t, t=t)
        return torch.zeros_like(x_t)

    simple_loss(spy, torch.zeros(n, 1), schedule, torch.Generator().manual_seed(0))
    counts = torch.bincount(seen["t"], minlength=11)
    assert seen["t"].dtype == torch.int64
    assert counts[0] == 0
    assert len(counts) == 11
    assert chisquare(counts[1:]).pvalue > 1e-3
    bar = alpha_bar(linear_beta(10, "0.01", "0.3"))
    for t in range(1, 11):
        x = seen["x_t"][seen["t"] == t]
        assert abs(x.var() / (1 - bar[t]) - 1) < 4 * (2 / len(x)) ** 0.5


@pytest.mark.equation("eq-vlb-weight")
@pytest.mark.parametrize("variance", ["large", "small"])
def test_weighted_error_is_the_kl_between_true_and_modelled_step(variance: str) -> None:
    """Both steps as distributions of torch's, with the same variance; torch works out their divergence."""
    x_0, noise, t = draws(2)
    t = t.clamp(min=2)
    guess = noise + torch.randn(
        noise.shape, dtype=F64, generator=torch.Generator().manual_seed(3)
    )
    x_t = q_sample(x_0, t, noise, LINEAR)
    sigma = (
        LINEAR.beta[t] if variance == "large" else posterior_variance(t, LINEAR)
    ).sqrt()
    true = torch.distributions.Normal(
        posterior_mean(x_0, x_t, t, LINEAR), sigma[:, None]
    )
    model = torch.distributions.Normal(
        denoising_mean(x_t, t, guess, LINEAR), sigma[:, None]
    )
    expected = torch.distributions.kl_divergence(true, model).sum(1)
    got = vlb_weight(t, LINEAR, variance) * (noise - guess).square().sum(1)
    assert_close(got, expected, rtol=1e-8, atol=0)


@pytest.mark.equation("eq-vlb-weight")
def test_weight_golden_numbers() -> None:
    golden = {2: 0.27269, 10: 0.073717, 100: 0.0100813, 1000: 0.0102045}
    for t, weight in golden.items():
        assert vlb_weight(t, LINEAR).item() == pytest.approx(weight, rel=1e-4)
    weights = vlb_weight(torch.arange(1, 1001), LINEAR)
    assert torch.equal(weights, vlb_weight(torch.arange(1, 1001), LINEAR, "large"))
    assert weights.dtype == F64
    assert weights.argmin() + 1 == 349
    assert weights.min().item() == pytest.approx(0.0050, abs=5e-5)


@pytest.mark.equation("eq-snr-bound")
@pytest.mark.parametrize("t", [2, 3])
@pytest.mark.parametrize("guess", [-1.3, 0.1, 0.9])
def test_a_step_costs_half_the_loss_of_snr_times_the_error_of_the_picture(
    t: int, guess: float
) -> None:
    """The divergence of two steps back, for the true picture and for the guess, both by Bayes' rule on a grid."""
    x_0, x_t, beta, bar = 0.7, -0.4, [0.0, 0.3, 0.5, 0.4][t], [0.7, 0.35][t - 2]

    def step_back(picture: float) -> np.ndarray:
        density = normal_pdf(GRID, bar**0.5 * picture, 1 - bar) * normal_pdf(
            x_t, (1 - beta) ** 0.5 * GRID, beta
        )
        return density / integrate(density, GRID)

    true, model = step_back(x_0), step_back(guess)
    divergence = integrate(true * np.log(true / model), GRID)
    snr = COARSE.log_snr.exp()
    assert (0.5 * (snr[t - 1] - snr[t]) * (x_0 - guess) ** 2).item() == pytest.approx(
        divergence, rel=1e-9
    )


@pytest.mark.equation("eq-snr-bound")
def test_the_weight_of_the_small_variance_is_a_drop_of_snr() -> None:
    """Nats per squared error of the picture: the code's weight, in the unit of the picture, against exact fractions."""
    snr = [math.inf] + [bar / (1 - bar) for bar in BAR[1:]]
    t = range(2, 1001)
    weights = vlb_weight(torch.tensor(t), LINEAR, "small").tolist()
    got = [w * snr[i] for i, w in zip(t, weights, strict=True)]
    assert got == pytest.approx([(snr[i - 1] - snr[i]) / 2 for i in t], rel=1e-9)


@pytest.mark.equation("eq-score")
@pytest.mark.parametrize("t", [1, 200, 1000])
def test_score_of_the_best_noise_is_the_slope_of_the_log_density(t: int) -> None:
    mixture = GaussianMixture([0.3, 0.7], [[-1.0, 0.0], [1.0, 0.5]], [0.2, 0.4])
    x = torch.randn(
        5, 2, dtype=F64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    noised_mixture(mixture, t, LINEAR).log_prob(x).sum().backward()
    with torch.no_grad():
        score = noise_to_score(optimal_noise(mixture, LINEAR)(x, t), t, LINEAR)
    assert_close(score, x.grad, rtol=1e-9, atol=0)


@pytest.mark.equation("def-v")
def test_v_is_the_velocity_on_the_circle() -> None:
    """With x = cos(a) x_0 + sin(a) noise, v is dx/da: take it as a difference quotient."""
    x_0, noise, t = draws(4)
    bar = torch.tensor([BAR[i] for i in t.tolist()], dtype=F64)[:, None]
    angle, h = bar.sqrt().acos(), 1e-6
    ahead, behind = (
        (angle + d).cos() * x_0 + (angle + d).sin() * noise for d in (h, -h)
    )
    x_t = q_sample(x_0, t, noise, LINEAR)
    v = noise_to_v(x_t, t, noise, LINEAR)
    assert_close(v, (ahead - behind) / (2 * h), atol=1e-8, rtol=1e-5)
    assert_close(x_t**2 + v**2, x_0**2 + noise**2, rtol=1e-9, atol=0)


@pytest.mark.equation("eq-v-inverse")
def test_v_and_noise_say_the_same() -> None:
    """From a v built of x_0 and noise by turning, the noise must come back."""
    x_0, noise, t = draws(5)
    bar = torch.tensor([BAR[i] for i in t.tolist()], dtype=F64)[:, None]
    x_t, v = torch.unbind(
        torch.stack([bar.sqrt(), (1 - bar).sqrt(), -(1 - bar).sqrt(), bar.sqrt()])
        .view(2, 2, -1, 1)
        .mul(torch.stack([x_0, noise]))
        .sum(1)
    )
    assert_close(v_to_noise(x_t, t, v, LINEAR), noise, atol=1e-12, rtol=1e-5)


BUMPS = GaussianMixture([0.3, 0.7], [[-1.0], [1.2]], [0.2, 0.5])
COARSE = Schedule([0.3, 0.5, 0.4])
GRID = np.linspace(-7, 7, 2801)


@functools.cache
def before(t: int) -> np.ndarray:
    """The density of x_{t-1} on GRID, up to a factor: the data, and for t > 1 a sum over all jumps."""
    bar = [1.0, 0.7, 0.35][t - 1]
    data = 0.3 * normal_pdf(GRID, -1.0, 0.04) + 0.7 * normal_pdf(GRID, 1.2, 0.25)
    if t == 1:
        return data
    jump = normal_pdf(GRID[None], bar**0.5 * GRID[:, None], 1 - bar)
    return np.trapezoid(data[:, None] * jump, GRID, axis=0)


def by_quadrature(t: int, x_t: float) -> tuple[np.ndarray, np.ndarray]:
    """Densities on GRID of x_0 given x_t, and of x_{t-1} given x_t: sums over a grid, no algebra of ours."""
    bar, beta = [0.7, 0.35, 0.21][t - 1], [0.3, 0.5, 0.4][t - 1]
    x_0 = before(1) * normal_pdf(x_t, bar**0.5 * GRID, 1 - bar)
    back = before(t) * normal_pdf(x_t, (1 - beta) ** 0.5 * GRID, beta)
    return x_0 / integrate(x_0, GRID), back / integrate(back, GRID)


@pytest.mark.equation("eq-hinge")
@pytest.mark.parametrize("x_t", [-0.8, 0.2])
def test_knowing_x_0_costs_a_constant(x_t: float) -> None:
    """The divergence with x_0 given, from the code's own posterior, against both sides' terms on a grid."""
    t = 2
    x_0_density, back = by_quadrature(t, x_t)
    x_0 = torch.tensor(GRID)[:, None]
    mean = posterior_mean(x_0, torch.full_like(x_0, x_t), t, COARSE)
    var = posterior_variance(t, COARSE).expand(1)

    def averaged(to_mean: float, to_var: float) -> float:
        target = torch.tensor([to_mean], dtype=F64), torch.tensor([to_var], dtype=F64)
        return integrate(x_0_density * gaussian_kl(mean, var, *target).numpy(), GRID)

    given = normal_pdf(GRID[None], mean.numpy(), var.numpy())  # (x_0, x_{t-1})
    log_ratio = np.log(np.maximum(given, 1e-300)) - np.log(np.maximum(back, 1e-300))
    information = integrate(
        x_0_density * np.trapezoid(given * log_ratio, GRID, axis=1), GRID
    )
    assert information > 0.1
    for to_mean, to_var in ((0.0, 0.5), (0.7, 0.3), (-1.0, 1.0)):
        log_p = log_normal_pdf(GRID, to_mean, to_var)
        divergence = integrate(back * (np.log(np.maximum(back, 1e-300)) - log_p), GRID)
        assert averaged(to_mean, to_var) == pytest.approx(
            divergence + information, rel=1e-6
        )


@pytest.mark.equation("eq-best-guess")
@pytest.mark.parametrize("answer", [-1.0, 0.0, 0.4])
def test_the_best_answer_is_the_conditional_mean(answer: float) -> None:
    """The expected squared error of a constant answer at one x_t, by quadrature over x_0."""
    t, x_t, bar = 2, 0.2, 0.35
    x_0_density, _ = by_quadrature(t, x_t)
    noise = (x_t - bar**0.5 * GRID) / (1 - bar) ** 0.5
    best = optimal_noise(BUMPS, COARSE)(torch.tensor([[x_t]], dtype=F64), t).item()
    error = integrate(x_0_density * (noise - answer) ** 2, GRID)
    floor = integrate(x_0_density * (noise - best) ** 2, GRID)
    assert error == pytest.approx((answer - best) ** 2 + floor, rel=1e-7)


@pytest.mark.equation("eq-optimal-variance")
@pytest.mark.parametrize("t", [1, 2, 3])
def test_optimal_variance_is_the_mean_variance_of_the_true_step_back(t: int) -> None:
    """Average both variances over x_t; the one of x_{t-1} comes from the grid alone."""
    bar = [1.0, 0.7, 0.35, 0.21][t]
    points = np.linspace(-5, 5, 201)
    marginal = 0.3 * normal_pdf(
        points, -(bar**0.5), bar * 0.04 + 1 - bar
    ) + 0.7 * normal_pdf(points, 1.2 * bar**0.5, bar * 0.25 + 1 - bar)
    densities = [by_quadrature(t, x_t) for x_t in points]
    x_0_variance, back_variance = (
        integrate(marginal * [moments(pair[i], GRID)[1] for pair in densities], points)
        for i in (0, 1)
    )
    got = optimal_variance(t, COARSE, x_0_variance)
    assert got.item() == pytest.approx(back_variance, rel=1e-4)


def error_of_the_best_line(t: int, variance: float) -> float:
    bar = [1.0, 0.7, 0.35, 0.21][t]
    return variance * (1 - bar) / (bar * variance + 1 - bar)


@pytest.mark.equation("eq-linear-guess")
@pytest.mark.parametrize("t", [1, 2, 3])
def test_the_best_line_through_simulated_pairs_leaves_this_error(t: int) -> None:
    """Two unequal bumps, so that the best guess is no line: numpy finds the line by least squares."""
    n, generator = 400_000, torch.Generator().manual_seed(t)
    x_0 = BUMPS.sample(n, generator).double()
    noise = torch.randn(n, 1, dtype=F64, generator=generator)
    x_t = q_sample(x_0, t, noise, COARSE)
    slope, shift = np.polyfit(x_t[:, 0].numpy(), x_0[:, 0].numpy(), 1)
    squares = (x_0 - slope * x_t - shift).square()
    exact = error_of_the_best_line(t, 0.3 * 0.04 + 0.7 * 0.25 + 0.3 * 0.7 * 2.2**2)
    assert abs(squares.mean() - exact) < 4 * squares.std() / n**0.5


@pytest.mark.equation("eq-linear-guess")
@pytest.mark.equation("eq-optimal-variance")
@pytest.mark.parametrize("s", [0.3, 1.0, 1.7])
@pytest.mark.parametrize("t", [1, 2, 3])
def test_for_normal_data_the_best_line_is_the_best_guess(t: int, s: float) -> None:
    """The variance of the step back with this error put in, against Bayes' rule on a grid."""
    bar, beta = [1.0, 0.7, 0.35][t - 1], [0.3, 0.5, 0.4][t - 1]
    _, variance = bayes_on_a_grid(
        lambda x: log_normal_pdf(x, 0.0, bar * s**2 + 1 - bar),
        lambda x: log_normal_pdf(0.3, (1 - beta) ** 0.5 * x, beta),
    )
    got = optimal_variance(t, COARSE, error_of_the_best_line(t, s**2))
    assert got.item() == pytest.approx(variance, rel=1e-7)


@pytest.mark.equation("eq-optimal-variance")
def test_optimal_variance_is_exact_at_both_ends() -> None:
    t = torch.arange(1, 1001)
    point = optimal_variance(t, LINEAR, 0.0)
    normal = optimal_variance(t, LINEAR, 1 - LINEAR.alpha_bar[t])
    assert_close(point, posterior_variance(t, LINEAR), rtol=1e-12, atol=0)
    assert_close(normal, LINEAR.beta[t], rtol=1e-10, atol=0)


def test_reverse_variance_offers_the_paper_s_two_choices() -> None:
    t = torch.tensor([1, 2, 1000])
    assert torch.equal(reverse_variance(t, LINEAR, "large"), LINEAR.beta[t])
    assert torch.equal(
        reverse_variance(t, LINEAR, "small"), posterior_variance(t, LINEAR)
    )
    with pytest.raises(ValueError, match="'medium'"):
        reverse_variance(1, LINEAR, "medium")


@pytest.mark.equation("eq-vlb-weight")
def test_small_variance_has_no_weight_at_the_first_step() -> None:
    with pytest.raises(ValueError, match="t: expected 2"):
        vlb_weight(1, LINEAR, "small")
    assert math.isfinite(vlb_weight(1, LINEAR, "large"))


def test_answer_of_another_shape_is_refused() -> None:
    """Broadcasting would otherwise make a wrong loss without a word."""
    with pytest.raises(ValueError, match="model: expected an answer of shape"):
        simple_loss(lambda x_t, t: x_t[:, :1], torch.zeros(4, 3), LINEAR)


@pytest.mark.equation("def-simple-loss")
def test_times_and_noise_come_from_the_generator_alone() -> None:
    """The same generator, the same questions to the network, whatever the global one does; and it is left alone."""
    seen: list[tuple[Tensor, Tensor]] = []
    for _ in range(2):
        before = torch.get_rng_state()
        simple_loss(
            lambda x_t, t: seen.append((x_t, t)) or x_t,
            torch.zeros(8, 2),
            LINEAR,
            torch.Generator().manual_seed(3),
        )
        assert torch.equal(torch.get_rng_state(), before)
        torch.rand(1)
    (x_t, t), again = seen
    assert torch.equal(x_t, again[0])
    assert torch.equal(t, again[1])
    assert len(t.unique()) > 1


@pytest.mark.equation("def-simple-loss")
def test_gradient_reaches_the_network() -> None:
    """A network that answers c everywhere: the slope of the mean of (noise - c)^2 in c is 2 (c - mean noise)."""
    noise = torch.randn(6, 3, dtype=F64)
    c = torch.tensor(0.3, dtype=F64, requires_grad=True)
    simple_loss(
        lambda x_t, t: c.expand_as(x_t), torch.ones_like(noise), LINEAR, noise=noise
    ).backward()
    assert c.grad.item() == pytest.approx(2 * (0.3 - noise.mean().item()), rel=1e-12)


@pytest.mark.parametrize(
    ("x_0", "came"),
    [
        (torch.zeros(4, 3, dtype=torch.uint8), "torch.uint8"),
        (torch.zeros(4, 3, dtype=torch.int64), "torch.int64"),
        (torch.zeros(4, 3, dtype=torch.complex64), "torch.complex64"),
        ([torch.zeros(4, 3)], "list"),
        (np.zeros((4, 3)), "ndarray"),
    ],
)
def test_pictures_that_are_no_floats_are_refused(x_0: object, came: str) -> None:
    with pytest.raises(
        TypeError, match=rf"x_0: expected a floating-point tensor.*, got {came}"
    ):
        simple_loss(constant(0.0), x_0, LINEAR)
