"""Independent answers to compare the package with: exact fractions, quadrature, Bayes' rule on a grid.

Nothing here imports ddpm_nb's formulas: an answer that used the code it checks would prove nothing.
"""

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


def linear_beta(T: int, beta_1: str = "0.0001", beta_T: str = "0.02") -> list[Fraction]:
    """beta_0 = 0 and beta_1 ... beta_T on a straight line, as exact fractions."""
    low, high = Fraction(beta_1), Fraction(beta_T)
    return [Fraction(0)] + [low + Fraction(i, T - 1) * (high - low) for i in range(T)]


def alpha_bar(beta: list[Fraction]) -> list[float]:
    """The products of (1 - beta), multiplied exactly and rounded once."""
    product, table = Fraction(1), []
    for b in beta:
        product *= 1 - b
        # Exact to 200 bits is exact enough, and keeps the fractions short.
        product = Fraction(round(product * 2**200), 2**200)
        table.append(float(product))
    return table


def normal_pdf(x: Array | float, mean: Array | float, var: Array | float) -> Array:
    """The density of N(mean, var), written from the textbook."""
    return np.exp(-((np.asarray(x) - mean) ** 2) / (2 * np.asarray(var))) / np.sqrt(
        2 * math.pi * np.asarray(var)
    )


def integrate(values: Array, grid: Array) -> float:
    """The trapezium rule: spectrally exact for smooth densities that vanish at both ends."""
    return float(np.trapezoid(values, grid))


def moments(density: Array, grid: Array) -> tuple[float, float]:
    """Mean and variance of a density on a grid, which need not be normalised."""
    mass = integrate(density, grid)
    mean = integrate(density * grid, grid) / mass
    return mean, integrate(density * (grid - mean) ** 2, grid) / mass


def log_normal_pdf(x: Array | float, mean: Array | float, var: Array | float) -> Array:
    """The logarithm of `normal_pdf`, for densities that would underflow."""
    return -((np.asarray(x) - mean) ** 2) / (2 * np.asarray(var)) - 0.5 * np.log(
        2 * math.pi * var
    )


def bayes_on_a_grid(
    log_prior: Callable[[Array], Array], log_likelihood: Callable[[Array], Array]
) -> tuple[float, float]:
    """Mean and variance of prior(x) likelihood(x), normalised, for a product with one peak in [-8, 8].

    The peak is searched on a coarse grid and then weighed on a fine one around it: no algebra.
    """
    grid = np.linspace(-8, 8, 40_001)
    for _ in range(3):
        log_product = log_prior(grid) + log_likelihood(grid)
        seen = grid[
            log_product > log_product.max() - 50
        ]  # exp(-50) of the peak is nothing
        margin = grid[1] - grid[0]
        grid = np.linspace(seen[0] - margin, seen[-1] + margin, 40_001)
    log_product = log_prior(grid) + log_likelihood(grid)
    return moments(np.exp(log_product - log_product.max()), grid)


def check_options(
    call: Callable[..., Tensor], choices: dict[str, tuple[object, object]]
) -> None:
    """Each option has the stated default, and another value of it changes the result."""
    stated = {name: default for name, (default, _) in choices.items()}
    plain = call()
    assert torch.equal(call(**stated), plain)
    for name, (_, other) in choices.items():
        assert not torch.equal(call(**{name: other}).to(plain), plain), name
