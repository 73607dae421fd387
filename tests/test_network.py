"""A layer, a gradient step and Adam, against loops, differences, closed forms, and torch."""

import math

import pytest
import torch
from helpers import F64, generator
from torch.testing import assert_close

from ddpm_nb.network import adam_step, gradient_step, layer, line_gradient


@pytest.mark.equation("eq-line-gradient")
def test_the_slopes_of_a_line_s_loss_are_those_of_differences() -> None:
    x, y = torch.randn(2, 7, dtype=F64, generator=generator())

    def loss(w: float, b: float) -> float:
        return sum((w * float(u) + b - float(v)) ** 2 for u, v in zip(x, y)) / 7

    for w, b in ((0.3, -0.2), (-1.5, 2.0)):
        slope, height = line_gradient(w, b, x, y)
        h = 1e-4  # of a parabola a central difference is exact, but for rounding
        assert float(slope) == pytest.approx(
            (loss(w + h, b) - loss(w - h, b)) / (2 * h), rel=1e-8
        )
        assert float(height) == pytest.approx(
            (loss(w, b + h) - loss(w, b - h)) / (2 * h), rel=1e-8
        )


@pytest.mark.equation("eq-line-gradient")
def test_the_slopes_vanish_at_the_line_of_least_squares() -> None:
    x, y = torch.randn(2, 20, dtype=F64, generator=generator(1))
    table = torch.stack([x, torch.ones_like(x)], dim=1)
    w, b = torch.linalg.lstsq(table, y[:, None]).solution[:, 0]
    assert_close(
        torch.stack(line_gradient(float(w), float(b), x, y)),
        torch.zeros(2, dtype=F64),
        atol=1e-12,
        rtol=0,
    )


@pytest.mark.equation("def-gradient-step")
@pytest.mark.parametrize("rate", [0.1, 0.9, 1.1])
def test_gradient_steps_in_a_parabola_shrink_by_one_factor(rate: float) -> None:
    """For the loss c w^2 / 2 the step multiplies w by 1 - rate c: 20 steps by its power of 20."""
    c, w = 2.0, torch.tensor([3.0, -1.0], dtype=F64)
    start = w
    for _ in range(20):
        w = gradient_step(w, c * w, rate)
    assert_close(w, start * (1 - rate * c) ** 20)
    assert (w.abs().max() < 3) == (rate < 1)  # beyond 2 / c it grows


@pytest.mark.equation("def-gradient-step")
def test_a_gradient_step_is_torch_s_sgd() -> None:
    w = torch.nn.Parameter(torch.randn(5, dtype=F64, generator=generator()))
    sgd = torch.optim.SGD([w], lr=0.3)
    w.grad = torch.randn(5, dtype=F64, generator=generator(1))
    mine = gradient_step(w.detach().clone(), w.grad, 0.3)
    sgd.step()
    assert_close(mine, w.detach(), rtol=1e-14, atol=0)


@pytest.mark.equation("def-layer")
def test_a_layer_is_a_loop_over_rows() -> None:
    x, weight, bias = (
        torch.randn(n, dtype=F64, generator=generator(i))
        for i, n in enumerate(((4, 3), (5, 3), (5,)))
    )
    wanted = torch.zeros(4, 5, dtype=F64)
    for i in range(4):
        for j in range(5):
            u = float(bias[j]) + sum(
                float(weight[j, k]) * float(x[i, k]) for k in range(3)
            )
            wanted[i, j] = u / (1 + math.exp(-u))
    assert_close(layer(x, weight, bias), wanted)


@pytest.mark.equation("def-layer")
def test_a_bend_is_flat_at_the_left_and_straight_at_the_right() -> None:
    u = torch.tensor([[-40.0], [0.0], [40.0]], dtype=F64)
    one, zero = torch.ones(1, 1, dtype=F64), torch.zeros(1, dtype=F64)
    assert_close(
        layer(u, one, zero)[:, 0],
        torch.tensor([0.0, 0.0, 40.0], dtype=F64),
        atol=1e-12,
        rtol=0,
    )


@pytest.mark.equation("def-adam")
@pytest.mark.parametrize(("rate", "betas"), [(1e-3, (0.9, 0.999)), (0.05, (0.5, 0.9))])
def test_adam_is_torch_s_adam(rate: float, betas: tuple[float, float]) -> None:
    draw = generator()
    w = torch.nn.Parameter(torch.randn(6, dtype=F64, generator=draw))
    adam = torch.optim.Adam([w], lr=rate, betas=betas)
    mine = w.detach().clone()
    m, v = torch.zeros_like(mine), torch.zeros_like(mine)
    for k in range(1, 60):
        w.grad = torch.randn(6, dtype=F64, generator=draw) * torch.tensor(
            [1e-6, 1e-3, 1, 1, 30, 1e5], dtype=F64
        )
        mine, m, v = adam_step(mine, w.grad, m, v, k, rate, betas)
        adam.step()
    assert_close(mine, w.detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.equation("def-adam")
def test_adam_s_step_has_the_length_of_the_rate_whatever_the_slope() -> None:
    """For a slope that stays, both running means are that slope and its square, as soon as they are corrected."""
    g = torch.tensor([1e-4, -3.0, 1e6], dtype=F64)
    w, m, v = (torch.zeros(3, dtype=F64) for _ in range(3))
    for k in range(1, 8):
        w, m, v = adam_step(w, g, m, v, k, 0.01)
        assert_close(
            w, -0.01 * k * g.sign(), rtol=2e-4, atol=0
        )  # the small eps beside a slope of 1e-4


def test_adam_counts_its_steps_from_1() -> None:
    zero = torch.zeros(1)
    with pytest.raises(ValueError, match=r"k: expected .*1.*, got 0"):
        adam_step(zero, zero, zero, zero, 0)
