"""The lower bound: against quadrature, Monte Carlo with its error bar, and a chain counted path by path."""

import itertools

import numpy as np
import pytest
import torch
from helpers import F64, generator
from reference import integrate, normal_pdf
from torch import Tensor
from torch.testing import assert_close

from ddpm_nb.bound import chain_bound
from ddpm_nb.likelihood import gaussian_log_prob
from ddpm_nb.vae import LinearGaussianVAE, elbo

WEIGHT = torch.tensor([[1.0, 0.8], [0.5, 1.0], [-0.7, 0.4]], dtype=F64)
MODEL = LinearGaussianVAE(WEIGHT, torch.tensor([0.1, -0.2, 0.3], dtype=F64), 0.3)
LINE = LinearGaussianVAE(
    torch.tensor([[1.7]], dtype=F64), torch.tensor([0.4], dtype=F64), 0.2
)
GRID = np.linspace(-9, 9, 36_001)  # z, for the model on a line


def draws(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Points and an arbitrary encoder for each."""
    x = MODEL.sample(n, generator(1))
    mean = torch.randn(n, 2, dtype=F64, generator=generator(2))
    return x, mean, torch.rand(n, 2, dtype=F64, generator=generator(3)) + 0.05


def column(value: float) -> Tensor:
    return torch.tensor([value], dtype=F64)


@pytest.mark.equation("def-latent")
@pytest.mark.equation("eq-linear-likelihood")
@pytest.mark.parametrize("x", [-3.0, 0.4, 2.2])
def test_likelihood_is_the_integral_over_the_hidden_variable(x: float) -> None:
    density = normal_pdf(GRID, 0, 1) * normal_pdf(x, 1.7 * GRID + 0.4, 0.2)
    assert LINE.log_prob(column(x)).exp().item() == pytest.approx(
        integrate(density, GRID), rel=1e-10
    )


@pytest.mark.equation("def-linear-vae")
@pytest.mark.equation("eq-linear-likelihood")
def test_samples_have_the_covariance_of_the_likelihood() -> None:
    n = 400_000
    x = MODEL.sample(n, generator())
    expected = (WEIGHT @ WEIGHT.T + 0.3 * torch.eye(3, dtype=F64)).numpy()
    assert (x.mean(0) - MODEL.bias).abs().max() < 4 * (expected.max() / n) ** 0.5
    assert (
        np.abs(np.cov(x.T.numpy()) - expected).max()
        < 4 * expected.max() * (2 / n) ** 0.5
    )
    # The spread of x for a given z is the noise alone, and its centre is the decoder's drawing.
    assert torch.equal(MODEL.decode(torch.zeros(2, dtype=F64)), MODEL.bias)


@pytest.mark.equation("def-linear-vae")
def test_same_generator_same_points() -> None:
    """Latents and noise both come from it: torch's own random numbers are not touched."""
    before = torch.get_rng_state()
    assert torch.equal(MODEL.sample(4, generator(5)), MODEL.sample(4, generator(5)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.equation("eq-linear-posterior")
@pytest.mark.parametrize("x", [-3.0, 0.4, 2.2])
def test_posterior_is_bayes_rule_on_a_grid(x: float) -> None:
    product = normal_pdf(GRID, 0, 1) * normal_pdf(x, 1.7 * GRID + 0.4, 0.2)
    mass = integrate(product, GRID)
    mean = integrate(product * GRID, GRID) / mass
    var = integrate(product * (GRID - mean) ** 2, GRID) / mass
    got_mean, got_covariance = LINE.posterior(column(x))
    assert got_mean.item() == pytest.approx(mean, rel=1e-9, abs=1e-12)
    assert got_covariance.item() == pytest.approx(var, rel=1e-9)


@pytest.mark.equation("eq-linear-posterior")
def test_bayes_rule_holds_for_every_hidden_value() -> None:
    """p(z) p(x | z) / p(z | x) must not depend on z, and is p(x)."""
    x = MODEL.sample(1, generator())[0]
    z = torch.randn(50, 2, dtype=F64, generator=generator(1))
    mean, covariance = MODEL.posterior(x)
    log_posterior = torch.distributions.MultivariateNormal(mean, covariance).log_prob(z)
    log_joint = gaussian_log_prob(
        z, torch.zeros(2, dtype=F64), torch.ones(2, dtype=F64)
    ) + gaussian_log_prob(x, MODEL.decode(z), torch.full((3,), 0.3, dtype=F64))
    assert_close(
        log_joint - log_posterior, MODEL.log_prob(x).expand(50), rtol=1e-10, atol=0
    )


@pytest.mark.equation("eq-squared-distance")
def test_expected_log_likelihood_is_the_mean_of_torchs_over_the_encoder() -> None:
    """Gauss-Hermite sums over both hidden numbers are exact for squares; the density is torch's, pixel by pixel."""
    x, mean, var = draws(3)
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    two = torch.cartesian_prod(torch.tensor(nodes), torch.tensor(nodes))
    share = torch.cartesian_prod(torch.tensor(weights), torch.tensor(weights)).prod(1)
    z = mean[:, None] + var.sqrt()[:, None] * two
    drawing = torch.einsum("dk,bnk->bnd", WEIGHT, z) + MODEL.bias
    log_p = torch.distributions.Normal(drawing, 0.3**0.5).log_prob(x[:, None]).sum(-1)
    expected = (log_p * share / share.sum()).sum(1)
    got = MODEL.expected_log_likelihood(x, mean, var)
    assert_close(got, expected, rtol=1e-12, atol=0)


@pytest.mark.equation("eq-elbo")
@pytest.mark.equation("eq-elbo-split")
def test_bound_plus_gap_is_the_likelihood_for_any_encoder() -> None:
    x, mean, var = draws(200)
    bound = elbo(MODEL.expected_log_likelihood(x, mean, var), mean, var)
    gap = MODEL.gap(x, mean, var)
    assert_close(bound + gap, MODEL.log_prob(x), rtol=0, atol=1e-10)
    assert (gap > 0).all()


@pytest.mark.equation("eq-elbo")
@pytest.mark.equation("eq-elbo-split")
@pytest.mark.parametrize(("mean", "var"), [(0.3, 0.5), (-1.0, 0.1)])
def test_bound_and_gap_are_their_integrals(mean: float, var: float) -> None:
    """On a line both expectations under the encoder are integrals over z."""
    x = 1.1
    q = normal_pdf(GRID, mean, var)
    joint = normal_pdf(GRID, 0, 1) * normal_pdf(x, 1.7 * GRID + 0.4, 0.2)
    keep = q > 1e-250
    log_ratio = np.log(joint[keep]) - np.log(q[keep])
    bound = integrate(q[keep] * log_ratio, GRID[keep])
    log_p = np.log(integrate(joint, GRID))
    x_, m_, v_ = column(x), column(mean), column(var)
    got = elbo(LINE.expected_log_likelihood(x_, m_, v_), m_, v_).item()
    assert got == pytest.approx(bound, rel=1e-9)
    assert LINE.gap(x_, m_, v_).item() == pytest.approx(log_p - bound, rel=1e-8)


@pytest.mark.equation("eq-elbo")
def test_no_gap_is_left_for_the_exact_posterior() -> None:
    """With one hidden number the posterior's covariance is diagonal, so an encoder can be exact."""
    x = LINE.sample(5, generator())
    mean, covariance = LINE.posterior(x)
    assert_close(
        LINE.gap(x, mean, covariance.expand(5, 1)),
        torch.zeros(5, dtype=F64),
        atol=1e-12,
        rtol=1e-5,
    )


@pytest.mark.equation("def-chain-encoder")
@pytest.mark.equation("def-chain-model")
@pytest.mark.equation("eq-chain-elbo")
def test_chain_bound_counted_path_by_path() -> None:
    """Both products as plain loops over all paths: they normalise, the bound lies below, and the gap is a KL."""
    rng = np.random.default_rng(0)

    def table(*shape: int) -> np.ndarray:
        rows = rng.random(shape) + 0.1
        return rows / rows.sum(-1, keepdims=True)

    states, T = 3, 3
    forward, reverse, prior = (
        table(T, states, states),
        table(T, states, states),
        table(states),
    )
    q = np.zeros([states] * (T + 1))  # q(x_1 ... x_T | x_0)
    p = np.zeros([states] * (T + 1))  # p(x_0 ... x_T)
    for path in itertools.product(range(states), repeat=T + 1):
        q[path] = np.prod(
            [forward[t - 1, path[t - 1], path[t]] for t in range(1, T + 1)]
        )
        p[path] = prior[path[T]] * np.prod(
            [reverse[t - 1, path[t], path[t - 1]] for t in range(1, T + 1)]
        )
    axes = tuple(range(1, T + 1))
    assert q.sum(axes) == pytest.approx(np.ones(states), rel=1e-12)
    assert p.sum() == pytest.approx(1, rel=1e-12)
    log_likelihood = np.log(p.sum(axes))
    bound = (q * np.log(p / q)).sum(axes)
    true_posterior = p / p.sum(axes, keepdims=True)
    gap = (q * np.log(q / true_posterior)).sum(axes)
    assert bound + gap == pytest.approx(log_likelihood, rel=1e-12)
    assert (gap > 0).all()
    terms = chain_bound(
        [torch.tensor(f) for f in forward],
        [torch.tensor(r) for r in reverse],
        torch.tensor(prior),
    )
    assert -terms.total.numpy() == pytest.approx(bound, rel=1e-12)


@pytest.mark.parametrize(
    ("weight", "bias", "noise_var", "message"),
    [
        (torch.zeros(3), torch.zeros(3), 1.0, "weight, bias"),
        (torch.zeros(3, 2), torch.zeros(2), 1.0, "weight, bias"),
        (torch.zeros(3, 2), torch.zeros(3), 0.0, "noise_var"),
        (torch.zeros(3, 2), torch.zeros(3), float("nan"), "noise_var"),
    ],
)
def test_models_that_do_not_fit_are_refused(
    weight: Tensor, bias: Tensor, noise_var: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        LinearGaussianVAE(weight, bias, noise_var)


def test_a_likelihood_that_would_broadcast_is_refused() -> None:
    _, mean, var = draws(5)
    with pytest.raises(ValueError, match="log_likelihood: expected shape"):
        elbo(torch.zeros(5, 1, dtype=F64), mean, var)
