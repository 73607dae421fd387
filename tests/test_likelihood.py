"""Normal densities, mixtures, and the KL divergence against quadrature and torch.distributions."""

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from reference import integrate, moments, normal_pdf
from scipy.stats import norm
from torch.testing import assert_close

from ddpm_nb.bound import chain_bound
from ddpm_nb.likelihood import (
    GaussianMixture,
    gaussian_kl,
    gaussian_kl_full,
    gaussian_log_prob,
)

finite = st.floats(-3, 3)
positive = st.floats(0.1, 5)


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.equation("def-gaussian")
@pytest.mark.parametrize(("mean", "var"), [(0.0, 1.0), (-1.3, 0.04), (2.0, 9.0)])
def test_normal_density_has_mass_mean_and_variance(mean: float, var: float) -> None:
    grid = np.linspace(mean - 12 * var**0.5, mean + 12 * var**0.5, 20_001)
    density = (
        gaussian_log_prob(torch.tensor(grid)[:, None], column(mean), column(var))
        .exp()
        .numpy()
    )
    assert integrate(density, grid) == pytest.approx(1, abs=1e-12)
    assert moments(density, grid) == pytest.approx((mean, var), rel=1e-10, abs=1e-12)


@pytest.mark.equation("def-gaussian")
def test_normal_density_adds_up_over_coordinates() -> None:
    x, mean, var = torch.randn(3, 7, 4, dtype=torch.float64).unbind(0)
    var = var.exp()
    expected = torch.distributions.Normal(mean, var.sqrt()).log_prob(x).sum(-1)
    assert_close(gaussian_log_prob(x, mean, var), expected, rtol=1e-12, atol=0)


@pytest.fixture
def mixture() -> GaussianMixture:
    return GaussianMixture([0.3, 0.7], [[-1.0, 0.5], [1.5, -0.5]], [0.3, 0.6])


@pytest.mark.equation("def-mixture")
def test_mixture_density_is_the_weighted_sum_of_bumps(mixture: GaussianMixture) -> None:
    grid = np.linspace(-7, 7, 701)
    x, y = np.meshgrid(grid, grid, indexing="ij")
    points = torch.tensor(np.stack([x, y], axis=-1))
    density = mixture.log_prob(points).exp().numpy()
    by_hand = 0.3 * normal_pdf(x, -1, 0.09) * normal_pdf(
        y, 0.5, 0.09
    ) + 0.7 * normal_pdf(x, 1.5, 0.36) * normal_pdf(y, -0.5, 0.36)
    assert np.allclose(density, by_hand, rtol=1e-12, atol=1e-300)
    assert np.trapezoid(np.trapezoid(density, grid), grid) == pytest.approx(
        1, abs=1e-10
    )


@pytest.mark.equation("def-mixture")
def test_each_bump_of_a_sample_has_its_share_its_centre_and_round_independent_noise() -> (
    None
):
    """Bumps so far apart that each point tells where it came from: count, then look at each bump by itself."""
    weights, centres, widths = [0.3, 0.5, 0.2], [[-90, 0, 9], [0, 3, 3], [90, 5, -9]], [2, 0.5, 1]  # fmt: skip
    mixture, n = GaussianMixture(weights, centres, widths), 200_000
    x = mixture.sample(n, torch.Generator().manual_seed(0)).double()
    bump = 1 + (x[:, 0] / 90).round().long()
    for k, (weight, width) in enumerate(zip(weights, widths, strict=True)):
        noise = (x[bump == k] - mixture.means[k]) / width
        m = len(noise)
        assert abs(m / n - weight) < 4 * (weight * (1 - weight) / n) ** 0.5
        assert (noise.mean(0).abs() < 4 / m**0.5).all()
        # Covariance I: each coordinate has variance 1, and no two move together.
        off = (noise.T @ noise / m - torch.eye(3, dtype=torch.float64)).abs()
        assert (off < 4 * (2 / m) ** 0.5).all()
        assert (noise**4).mean(0).numpy() == pytest.approx(3, abs=4 * (96 / m) ** 0.5)
    assert x.shape == (n, 3)
    # Neighbours in the sample have nothing to do with each other.
    same = sum(weight**2 for weight in weights)
    together = (bump[1:] == bump[:-1]).double().mean()
    assert abs(together - same) < 6 * (same * (1 - same) / n) ** 0.5
    later = x[1:] - mixture.means[bump[1:]]
    before = x[:-1] - mixture.means[bump[:-1]]
    products = later * before
    assert (products.mean(0).abs() < 4 * products.std(0) / n**0.5).all()
    assert mixture.sample(3).dtype == torch.get_default_dtype()


@pytest.mark.equation("def-mixture")
def test_points_in_float32_are_weighed_in_float64(mixture: GaussianMixture) -> None:
    x = mixture.sample(50, torch.Generator().manual_seed(3)).float()
    assert torch.equal(mixture.log_prob(x), mixture.log_prob(x.double()))
    assert mixture.log_prob(x).dtype == torch.float64


@pytest.mark.equation("def-mixture")
def test_same_generator_same_sample(mixture: GaussianMixture) -> None:
    """Bumps and places both come from it: torch's own random numbers are not touched."""
    before = torch.get_rng_state()
    draws = [mixture.sample(5, torch.Generator().manual_seed(7)) for _ in range(2)]
    assert torch.equal(*draws)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (([0.5, 0.6], [[0.0], [1.0]], [1.0, 1.0]), "weights"),
        (([1.5, -0.5], [[0.0], [1.0]], [1.0, 1.0]), "weights"),
        (([0.5, 0.5], [[0.0], [1.0]], [1.0, 0.0]), "stds"),
        (([0.5, 0.5], [[0.0], [1.0]], [1.0, float("nan")]), "stds"),
        (([0.5, 0.5], [[0.0], [1.0]], [1.0, float("inf")]), "stds"),
        (([0.5, 0.5], [[0.0], [float("nan")]], [1.0, 1.0]), "means"),
        (([1.0], [[0.0], [1.0]], [1.0, 1.0]), "shapes"),
        (([0.5, 0.5], [0.0, 1.0], [1.0, 1.0]), "shapes"),
    ],
)
def test_mixture_names_what_is_wrong(
    arguments: tuple[list[float], ...], names: str
) -> None:
    with pytest.raises(ValueError, match=names):
        GaussianMixture(*arguments)


def test_mixture_refuses_points_of_another_dimension(mixture: GaussianMixture) -> None:
    with pytest.raises(ValueError, match="2 coordinates"):
        mixture.log_prob(torch.zeros(5, 3))


@pytest.mark.equation("eq-gaussian-kl")
@given(finite, positive, finite, positive)
def test_kl_of_two_normals_is_its_integral(
    m1: float, v1: float, m2: float, v2: float
) -> None:
    grid = np.linspace(m1 - 14 * v1**0.5, m1 + 14 * v1**0.5, 20_001)
    log_ratio = (
        0.5 * np.log(v2 / v1)
        - (grid - m1) ** 2 / (2 * v1)
        + (grid - m2) ** 2 / (2 * v2)
    )
    integral = integrate(normal_pdf(grid, m1, v1) * log_ratio, grid)
    assert gaussian_kl(
        column(m1), column(v1), column(m2), column(v2)
    ).item() == pytest.approx(integral, rel=1e-9, abs=1e-9)


@pytest.mark.equation("eq-gaussian-kl")
def test_kl_of_two_normals_agrees_with_torch() -> None:
    m1, s1, m2, s2 = torch.randn(4, 6, 5, dtype=torch.float64).unbind(0)
    p, q = (torch.distributions.Normal(m, s.exp()) for m, s in ((m1, s1), (m2, s2)))
    expected = torch.distributions.kl_divergence(p, q).sum(-1)
    assert_close(
        gaussian_kl(m1, p.variance, m2, q.variance), expected, rtol=1e-10, atol=0
    )


def discrete_kl(p: list[float], q: list[float]) -> float:
    """The book's divergence of two finite distributions: the prior term of a chain that forgets its start."""
    forward = torch.tensor([p] * len(p), dtype=torch.float64)
    back = torch.full_like(forward, 1 / len(p))
    prior = torch.tensor(q, dtype=torch.float64)
    return chain_bound([forward], [back], prior).prior[0].item()


@pytest.mark.equation("def-kl")
def test_kl_is_what_a_code_for_the_wrong_distribution_costs() -> None:
    """Chances that are powers of 1/2 have codes of whole bits, so the mean extra length can be counted."""
    p, p_bits = [1 / 2, 1 / 4, 1 / 8, 1 / 8], [1, 2, 3, 3]
    q, q_bits = [1 / 8, 1 / 2, 1 / 4, 1 / 8], [3, 1, 2, 3]
    for a, a_bits, b_bits in ((p, p_bits, q_bits), (q, q_bits, p_bits)):
        extra = sum(x * (l_b - l_a) for x, l_a, l_b in zip(a, a_bits, b_bits, strict=True))  # fmt: skip
        b = q if a is p else p
        assert discrete_kl(a, b) == pytest.approx(extra * np.log(2), rel=1e-12)
    assert discrete_kl(p, q) != pytest.approx(discrete_kl(q, p), rel=0.01)


@pytest.mark.equation("def-kl")
@pytest.mark.parametrize(
    "case", [(0.0, 1.0, 0.7, 1.5), (0.0, 1.0, 0.0, 4.0), (0.0, 4.0, 0.5, 1.0)]
)
def test_kl_of_densities_is_the_limit_of_counting_in_cells(
    case: tuple[float, float, float, float],
) -> None:
    """Cut the line into cells, take each cell's probability from distribution functions, and refine."""
    m1, s1, m2, s2 = case
    exact = gaussian_kl(column(m1), column(s1**2), column(m2), column(s2**2)).item()
    counted = []
    for cell in (1.0, 0.5, 0.25):
        edges = np.arange(-32, 32 + cell / 2, cell)
        p, q = (
            np.where(  # from the nearer tail, where a difference keeps its digits
                edges[:-1] < 0,
                np.diff(norm.cdf(edges, m, s)),
                -np.diff(norm.sf(edges, m, s)),
            )
            for m, s in ((m1, s1), (m2, s2))
        )
        counted.append(float(np.sum(p * np.log(p / q))))
    assert counted[0] < counted[1] < counted[2] < exact  # merging outcomes hides some
    # The loss falls with the square of the cells: extrapolate.
    limit = counted[2] + (counted[2] - counted[1]) / 3
    assert exact == pytest.approx(limit, rel=2e-3)


@pytest.mark.equation("def-kl")
@given(finite, positive, finite, positive, finite, positive)
def test_kl_does_not_depend_on_units(
    m1: float, v1: float, m2: float, v2: float, shift: float, scale: float
) -> None:
    """A divergence compares two densities at the same point, so a change of variables cancels."""
    before = gaussian_kl(column(m1), column(v1), column(m2), column(v2))
    after = gaussian_kl(
        scale * column(m1) + shift,
        scale**2 * column(v1),
        scale * column(m2) + shift,
        scale**2 * column(v2),
    )
    assert after.item() == pytest.approx(before.item(), rel=1e-9, abs=1e-9)


@pytest.mark.equation("eq-kl-nonnegative")
@given(finite, positive, finite, positive)
def test_kl_is_never_negative(m1: float, v1: float, m2: float, v2: float) -> None:
    kl = gaussian_kl(column(m1), column(v1), column(m2), column(v2)).item()
    assert kl >= -1e-12
    if abs(m1 - m2) > 1e-3 or abs(v1 - v2) > 1e-2:
        assert kl > 0
    assert gaussian_kl(column(m1), column(v1), column(m1), column(v1)).item() == 0


@pytest.mark.equation("eq-kl-nonnegative")
@given(
    st.lists(positive, min_size=4, max_size=4),
    st.lists(positive, min_size=4, max_size=4),
)
def test_kl_of_discrete_distributions_is_never_negative(
    a: list[float], b: list[float]
) -> None:
    p, q = ([x / sum(row) for x in row] for row in (a, b))
    assert discrete_kl(p, q) >= -1e-12
    if max(abs(x - y) for x, y in zip(p, q, strict=True)) > 1e-3:
        assert discrete_kl(p, q) > 1e-7
    assert discrete_kl(p, p) == 0


@pytest.mark.equation("eq-likelihood-kl")
@pytest.mark.parametrize(("mean", "var"), [(0.8, 3.61), (-0.5, 1.0), (2.0, 0.5)])
def test_expected_log_likelihood_is_minus_kl_minus_entropy(
    mean: float, var: float
) -> None:
    """For one normal distribution as data all three terms are known without any quadrature of ours."""
    data_mean, data_var = 0.3, 2.0
    n = 400_000
    x = data_mean + data_var**0.5 * torch.randn(
        n, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    log_p = gaussian_log_prob(x, column(mean), column(var))
    kl = gaussian_kl(column(data_mean), column(data_var), column(mean), column(var))
    entropy = torch.distributions.Normal(data_mean, data_var**0.5).entropy()
    error_bar = log_p.std() / n**0.5
    assert abs(log_p.mean() - (-kl - entropy)) < 4 * error_bar


@pytest.mark.equation("eq-gaussian-kl-full")
def test_kl_with_covariances_is_the_sum_along_shared_axes() -> None:
    """Rotate two diagonal cases by one matrix: a divergence does not see it, so the code's sum must come back."""
    generator = torch.Generator().manual_seed(0)
    m1, m2, log_1, log_2 = torch.randn(4, 3, dtype=torch.float64, generator=generator)
    v1, v2 = log_1.exp(), log_2.exp()
    turn, _ = torch.linalg.qr(
        torch.randn(3, 3, dtype=torch.float64, generator=generator)
    )
    c1, c2 = turn @ v1.diag() @ turn.T, turn @ v2.diag() @ turn.T
    full = gaussian_kl_full(turn @ m1, c1, turn @ m2, c2)
    assert full.item() == pytest.approx(gaussian_kl(m1, v1, m2, v2).item(), rel=1e-10)


@pytest.mark.equation("eq-gaussian-kl-full")
def test_kl_with_covariances_is_a_mean_of_log_ratios() -> None:
    """Two covariances without shared axes, by drawing from the first and averaging."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 3, 3, dtype=torch.float64, generator=generator)
    eye = torch.eye(3, dtype=torch.float64)
    c1, c2 = a @ a.T + eye, b @ b.T + eye
    mean = torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64)
    p = torch.distributions.MultivariateNormal(mean, c1)
    q = torch.distributions.MultivariateNormal(torch.zeros_like(mean), c2)
    n = 200_000
    x = (
        mean
        + torch.randn(n, 3, dtype=torch.float64, generator=generator) @ p.scale_tril.T
    )
    terms = p.log_prob(x) - q.log_prob(x)
    full = gaussian_kl_full(mean, c1, torch.zeros_like(mean), c2)
    assert abs(terms.mean() - full) < 4 * terms.std() / n**0.5


@pytest.mark.equation("eq-gaussian-kl-full")
def test_kl_with_covariances_agrees_with_torch_for_a_batch() -> None:
    m1, m2 = torch.randn(2, 5, 4, dtype=torch.float64)
    roots = torch.randn(2, 5, 4, 4, dtype=torch.float64)
    c1, c2 = roots @ roots.mT + torch.eye(4, dtype=torch.float64)
    p, q = (
        torch.distributions.MultivariateNormal(m, c) for m, c in ((m1, c1), (m2, c2))
    )
    expected = torch.distributions.kl_divergence(p, q)
    full = gaussian_kl_full(m1, c1, m2, c2)
    assert_close(full, expected, rtol=1e-10, atol=0)
    # One second distribution for the whole batch, as an encoder's gap needs it.
    alone = gaussian_kl_full(m1, c1, m2[0], c2[0])
    assert alone[0].item() == pytest.approx(expected[0].item(), rel=1e-10)
    assert alone.shape == (5,)
