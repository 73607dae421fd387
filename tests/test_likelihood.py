"""Normal densities, mixtures, and the KL divergence against quadrature and torch.distributions."""

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from reference import integrate, moments, normal_pdf

from ddpm_nb.likelihood import GaussianMixture, gaussian_kl, gaussian_log_prob

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
    assert torch.allclose(gaussian_log_prob(x, mean, var), expected, rtol=1e-12, atol=0)


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
def test_mixture_samples_have_the_right_shares_means_and_widths(
    mixture: GaussianMixture,
) -> None:
    n = 200_000
    x = mixture.sample(n, torch.Generator().manual_seed(0)).double()
    left = x[:, 0] < 0.25  # 4.2 and 2.1 standard deviations from the two centres
    # The share of the right bump that leaks over the border is Phi(-1.25 / 0.6).
    share = 0.3 + 0.7 * float(
        torch.special.ndtr(torch.tensor(-1.25 / 0.6, dtype=torch.float64))
    )
    assert abs(left.double().mean() - share) < 4 * (share * (1 - share) / n) ** 0.5
    mean = torch.tensor(
        [0.3 * -1 + 0.7 * 1.5, 0.3 * 0.5 - 0.7 * 0.5], dtype=torch.float64
    )
    var = (
        torch.tensor(
            [0.3 * 1.09 + 0.7 * (2.25 + 0.36), 0.3 * 0.34 + 0.7 * 0.61]
        ).double()
        - mean**2
    )
    assert ((x.mean(0) - mean).abs() < 4 * (var / n).sqrt()).all()
    assert ((x.var(0) / var - 1).abs() < 4 * (3 / n) ** 0.5).all()
    assert x.shape == (n, 2)
    assert mixture.sample(3).dtype == torch.get_default_dtype()


def test_same_generator_same_sample(mixture: GaussianMixture) -> None:
    draws = [mixture.sample(5, torch.Generator().manual_seed(7)) for _ in range(2)]
    assert torch.equal(*draws)


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
    assert torch.allclose(
        gaussian_kl(m1, p.variance, m2, q.variance), expected, rtol=1e-10, atol=0
    )


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


@pytest.mark.equation("def-kl")
def test_kl_is_not_symmetric() -> None:
    """A narrow bell inside a wide one: log-ratios of a factor 4 in width, by hand in both directions."""
    narrow_wide = gaussian_kl(column(0), column(1), column(0), column(16)).item()
    wide_narrow = gaussian_kl(column(0), column(16), column(0), column(1)).item()
    assert narrow_wide == pytest.approx(np.log(4) - 15 / 32, rel=1e-12)
    assert wide_narrow == pytest.approx(7.5 - np.log(4), rel=1e-12)


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
    p, q = np.array(a) / np.sum(a), np.array(b) / np.sum(b)
    assert np.sum(p * np.log(p / q)) >= -1e-12
    assert (np.log(q / p) <= q / p - 1 + 1e-15).all()  # the tangent that the proof uses


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


def full_kl(
    difference: torch.Tensor, c1: torch.Tensor, c2: torch.Tensor
) -> torch.Tensor:
    """The equation as the chapter prints it; the package does not compute it."""
    return 0.5 * (
        torch.trace(torch.linalg.inv(c2) @ c1)
        + difference @ torch.linalg.inv(c2) @ difference
        - len(difference)
        - torch.log(torch.linalg.det(c1) / torch.linalg.det(c2))
    )


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
    full = full_kl(turn @ (m1 - m2), c1, c2)
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
    assert abs(terms.mean() - full_kl(mean, c1, c2)) < 4 * terms.std() / n**0.5
