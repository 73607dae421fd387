"""Schedules, one step, and the jump: against exact fractions, quadrature and simulation."""

import dataclasses
import math
from collections.abc import Callable
from unittest.mock import patch

import mpmath
import numpy as np
import pytest
import sympy
import torch
from helpers import F64
from reference import alpha_bar, integrate, linear_beta, moments, normal_pdf
from torch.testing import assert_close

from ddpm_nb import _checks as check
from ddpm_nb.forward import Schedule, per_image, q_sample, q_step


@pytest.fixture(scope="module")
def linear() -> Schedule:
    return Schedule.linear()


def factors(step, t: int, schedule: Schedule) -> tuple[float, float]:
    """A step is linear: read off what multiplies the point and what multiplies the noise."""
    one, zero = torch.ones(1, dtype=F64), torch.zeros(1, dtype=F64)
    return step(one, t, zero, schedule).item(), step(zero, t, one, schedule).item()


@pytest.mark.equation("def-alpha-bar")
@pytest.mark.parametrize("T", [1000, 37])
def test_tables_are_products_of_exact_fractions(T: int) -> None:
    beta = linear_beta(T)
    schedule = Schedule.linear(T)
    assert schedule.T == T
    assert schedule.alpha_bar[0] == 1
    assert schedule.alpha.tolist() == pytest.approx(
        [float(1 - b) for b in beta], rel=1e-14
    )
    assert schedule.alpha_bar.tolist() == pytest.approx(alpha_bar(beta), rel=1e-12)
    for table in (schedule.beta, schedule.alpha, schedule.alpha_bar):
        assert table.shape == (T + 1,)
        assert table.dtype == F64


@pytest.mark.equation("def-linear")
def test_a_single_step_has_beta_1() -> None:
    assert Schedule.linear(1, 0.3, 0.7).beta.tolist() == [0, 0.3]


@pytest.mark.equation("def-linear")
def test_linear_schedule_is_the_paper_s(linear: Schedule) -> None:
    assert linear.beta.tolist() == pytest.approx(
        [float(b) for b in linear_beta(1000)], rel=1e-13
    )
    golden = {1: 0.9999, 500: 0.07858724288177821, 1000: 4.0358297653756754e-05}
    for t, value in golden.items():
        assert linear.alpha_bar[t].item() == pytest.approx(value, rel=1e-10)


@pytest.mark.equation("def-cosine")
@pytest.mark.parametrize(("T", "s"), [(1000, "0.008"), (50, "0.05")])
def test_cosine_schedule_follows_the_squared_cosine(T: int, s: str) -> None:
    """Against 40-digit arithmetic, up to the step where the cap is met."""
    schedule = Schedule.cosine(T, float(s))
    with mpmath.workdps(40):
        offset = mpmath.mpf(s)

        def f(t: int) -> mpmath.mpf:
            return (
                mpmath.cos((mpmath.mpf(t) / T + offset) / (1 + offset) * mpmath.pi / 2)
                ** 2
            )

        expected = [float(f(t) / f(0)) for t in range(T)]
    capped = (schedule.beta >= 0.999).nonzero().flatten().tolist()
    assert capped == [T]
    assert schedule.beta[T] == 0.999
    assert schedule.alpha_bar[:T].tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.equation("def-cosine")
def test_cosine_schedule_golden_end() -> None:
    assert Schedule.cosine().alpha_bar[-1].item() == pytest.approx(2.4288e-09, rel=1e-4)


@pytest.mark.equation("def-step")
@pytest.mark.parametrize("t", [1, 400, 1000])
def test_one_step_has_the_mean_and_variance_of_its_density(
    linear: Schedule, t: int
) -> None:
    beta = float(linear_beta(1000)[t])
    n, x_prev = 100_000, 0.7
    noise = torch.randn(n, dtype=F64, generator=torch.Generator().manual_seed(t))
    x = q_step(torch.full((n,), x_prev, dtype=F64), t, noise, linear)
    assert abs(x.mean() - (1 - beta) ** 0.5 * x_prev) < 4 * (beta / n) ** 0.5
    assert abs(x.var() / beta - 1) < 4 * (2 / n) ** 0.5


@pytest.mark.equation("eq-variance")
@pytest.mark.parametrize("variance", [1.0, 0.25, 4.0])
def test_variance_of_a_step_follows_the_recursion(
    linear: Schedule, variance: float
) -> None:
    """The variance of a linear map of independent numbers, from the factors of the code itself."""
    for t in (1, 2, 500, 1000):
        beta = float(linear_beta(1000)[t])
        signal, noise = factors(q_step, t, linear)
        assert signal**2 * variance + noise**2 == pytest.approx(
            (1 - beta) * variance + beta, rel=1e-13
        )


@pytest.mark.equation("eq-variance")
def test_variance_four_in_a_simulation() -> None:
    """Three big steps, so that an error of one index or sign shows."""
    schedule = Schedule([0.1, 0.5, 0.3])
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.randn(400_000, dtype=F64, generator=generator)
    expected = 4.0
    for t, beta in ((1, 0.1), (2, 0.5), (3, 0.3)):
        x = q_step(x, t, torch.randn(x.shape, dtype=F64, generator=generator), schedule)
        expected = 1 + (1 - beta) * (expected - 1)
        assert abs(x.var() / expected - 1) < 4 * (2 / len(x)) ** 0.5


@pytest.mark.equation("eq-two-gaussians")
@pytest.mark.parametrize(("a", "b"), [(0.6, 0.8), (2.0, 0.1), (1.0, 1.0)])
def test_two_normals_merge_by_quadrature(a: float, b: float) -> None:
    """The density of the sum is a convolution; carry it out on a grid."""
    grid = np.linspace(-20, 20, 16_001)
    for s in (0.0, 0.9, -2.5):
        density = integrate(
            normal_pdf(grid, 0, a * a) * normal_pdf(s - grid, 0, b * b), grid
        )
        assert density == pytest.approx(
            float(normal_pdf(s, 0, a * a + b * b)), rel=1e-10
        )


@pytest.mark.equation("eq-two-gaussians")
def test_two_normals_merge_in_symbols() -> None:
    """Characteristic functions multiply: E exp(iks) of N(0, v) is exp(-v k^2 / 2)."""
    a, b, k, y = sympy.symbols("a b k y", positive=True)

    def characteristic(v: sympy.Expr) -> sympy.Expr:
        density = sympy.exp(-(y**2) / (2 * v)) / sympy.sqrt(2 * sympy.pi * v)
        return sympy.integrate(2 * density * sympy.cos(k * y), (y, 0, sympy.oo))

    product = characteristic(a**2) * characteristic(b**2)
    assert sympy.simplify(product - characteristic(a**2 + b**2)) == 0


@pytest.mark.equation("eq-forward")
@pytest.mark.parametrize(
    "make",
    [Schedule.linear, lambda: Schedule.cosine(200), lambda: Schedule([0.3, 0.2, 0.6])],
)
def test_jump_is_the_walk(make: Callable[[], Schedule]) -> None:
    """Walk by single steps only, and collect what multiplies x_0 and the variance of all noise."""
    schedule = make()
    signal, variance = 1.0, 0.0
    for t in range(1, schedule.T + 1):
        step_signal, step_noise = factors(q_step, t, schedule)
        signal, variance = (
            step_signal * signal,
            step_signal**2 * variance + step_noise**2,
        )
        jump_signal, jump_noise = factors(q_sample, t, schedule)
        assert jump_signal == pytest.approx(signal, rel=1e-11)
        assert jump_noise**2 == pytest.approx(variance, rel=1e-11)


@pytest.mark.equation("eq-forward")
def test_jump_density_solves_the_chapman_kolmogorov_equation() -> None:
    """q(x_t | x_0) = integral of q(x_t | x_{t-1}) q(x_{t-1} | x_0), on a grid, with exact fractions as tables."""
    schedule = Schedule([0.3, 0.2, 0.6])
    x_0, grid = 1.4, np.linspace(-12, 12, 24_001)
    density = normal_pdf(grid, (1 - 0.3) ** 0.5 * x_0, 0.3)
    for t, beta in ((2, 0.2), (3, 0.6)):
        density = np.array(
            [
                integrate(density * normal_pdf(x, (1 - beta) ** 0.5 * grid, beta), grid)
                for x in grid[::40]
            ]
        )
        mean, variance = moments(density, grid[::40])
        signal, noise = factors(q_sample, t, schedule)
        assert mean == pytest.approx(signal * x_0, rel=1e-8)
        assert variance == pytest.approx(noise**2, rel=1e-8)
        density = (
            np.interp(grid, grid[::40], density)
            if t == 3
            else normal_pdf(grid, mean, variance)
        )


@pytest.mark.equation("eq-noise-sum")
@pytest.mark.parametrize("t", [1, 2, 700])
def test_total_noise_is_the_sum_of_the_steps(linear: Schedule, t: int) -> None:
    """Walk with noises w, build epsilon from them with exact fractions, jump: the same point."""
    beta = linear_beta(1000)
    bar = alpha_bar(beta)
    w = torch.randn(t + 1, 5, dtype=F64, generator=torch.Generator().manual_seed(0))
    x_0 = torch.linspace(-1, 1, 5, dtype=F64)
    x = x_0
    for s in range(1, t + 1):
        x = q_step(x, s, w[s], linear)
    total = sum(
        (float(beta[s]) * bar[t] / bar[s]) ** 0.5 * w[s] for s in range(1, t + 1)
    )
    noise = total / (1 - bar[t]) ** 0.5
    assert_close(q_sample(x_0, t, noise, linear), x, rtol=0, atol=1e-11)


@pytest.mark.equation("def-snr")
@pytest.mark.parametrize("t", [1, 300, 1000])
def test_snr_is_power_over_power(linear: Schedule, t: int) -> None:
    """Measure both powers in a simulation with data of unit power."""
    n = 200_000
    generator = torch.Generator().manual_seed(0)
    x_0, noise = torch.randn(2, n, dtype=F64, generator=generator)
    signal = q_sample(x_0, t, torch.zeros_like(noise), linear).square().mean()
    grain = q_sample(torch.zeros_like(x_0), t, noise, linear).square().mean()
    assert abs(linear.log_snr[t] - (signal / grain).log()) < 4 * (4 / n) ** 0.5


@pytest.mark.equation("def-snr")
@pytest.mark.parametrize(
    ("beta", "snr"), [([0.5], 1), ([0.2], 4), ([0.5, 0.5, 0.2], 0.25)]
)
def test_snr_of_round_numbers(beta: list[float], snr: float) -> None:
    """Half and half, four fifths to one fifth, and a product of three: 1, 4 and 1/4."""
    last = Schedule(beta).log_snr[-1]
    assert last.item() == pytest.approx(math.log(snr), abs=1e-14)
    assert last.dtype == F64


@pytest.mark.equation("def-snr")
def test_snr_falls_from_infinity(linear: Schedule) -> None:
    assert linear.log_snr[0] == torch.inf
    assert (linear.log_snr.diff() < 0).all()


@pytest.mark.equation("eq-forward")
def test_time_zero_is_the_picture_itself(linear: Schedule) -> None:
    x_0, noise = torch.randn(2, 3, 1, 4, 4)
    assert torch.equal(q_sample(x_0, 0, noise, linear), x_0)


@pytest.mark.equation("def-step")
@pytest.mark.equation("eq-forward")
def test_each_picture_gets_its_own_time(linear: Schedule) -> None:
    x, noise = torch.randn(2, 3, 2, 4, 4)
    t = torch.tensor([1, 500, 1000])
    for step in (q_step, q_sample):
        together = step(x, t, noise, linear)
        apart = [
            step(x[i : i + 1], int(t[i]), noise[i : i + 1], linear) for i in range(3)
        ]
        assert together.dtype == x.dtype
        assert torch.equal(together, torch.cat(apart))


@pytest.mark.equation("def-step")
@pytest.mark.equation("eq-forward")
def test_factors_are_rounded_once(linear: Schedule) -> None:
    """Half a unit in float32's last digit from the exact factor, at every t.

    With 1 - alpha_bar taken in float32 the first factor of the noise would be off in its fifth digit.
    """
    beta = [float(b) for b in linear_beta(1000)[1:]]
    bar = alpha_bar(linear_beta(1000))[1:]
    exact = {
        q_step: ([(1 - b) ** 0.5 for b in beta], [b**0.5 for b in beta]),
        q_sample: ([b**0.5 for b in bar], [(1 - b) ** 0.5 for b in bar]),
    }
    one, zero, t = torch.ones(1000), torch.zeros(1000), torch.arange(1, 1001)
    for step, (signal, noise) in exact.items():
        for x, w, factor in ((one, zero, signal), (zero, one, noise)):
            got = step(x, t, w, linear)
            assert got.dtype == torch.float32
            error = np.abs(got.double().numpy() - factor)
            assert (error < 0.501 * np.spacing(got.numpy())).all()


@pytest.mark.equation("def-alpha-bar")
@pytest.mark.parametrize(
    "beta", [[0.1, 0.0], [0.1, 1.0], [-0.1], [float("nan")], [], [[0.1, 0.2]]]
)
def test_schedule_refuses_bad_betas(beta: list[float]) -> None:
    with pytest.raises(ValueError, match="beta"):
        Schedule(beta)


def test_schedule_error_names_the_step() -> None:
    with pytest.raises(ValueError, match=r"beta_2 = 1\.5"):
        Schedule([0.1, 1.5, 2.0])


@pytest.mark.parametrize("T", [0, -3, 2.5, True])
def test_schedule_refuses_bad_T(T: int) -> None:
    for make in (Schedule.linear, Schedule.cosine):
        with pytest.raises(ValueError, match="T:"):
            make(T)


def test_cosine_refuses_negative_offset() -> None:
    with pytest.raises(ValueError, match="s:"):
        Schedule.cosine(10, -0.1)


TABLES = ("beta", "alpha", "alpha_bar")


@pytest.mark.equation("def-alpha-bar")
def test_schedule_is_frozen_and_moves(linear: Schedule) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        linear.T = 5
    moved = linear.to("meta")
    assert moved.T == 1000
    for name in TABLES:
        assert getattr(moved, name).device.type == "meta"
        assert getattr(moved, name).dtype == F64
        assert getattr(linear, name).device.type == "cpu"
    for name in TABLES:
        assert torch.equal(getattr(linear.to("cpu"), name), getattr(linear, name))


@pytest.mark.equation("def-alpha-bar")
@pytest.mark.parametrize(
    "make", [Schedule.linear, Schedule.cosine, lambda: Schedule([0.1, 0.2])]
)
def test_a_schedule_begins_on_the_cpu(make: Callable[[], Schedule]) -> None:
    """Also where torch was told to make its tensors elsewhere."""
    with torch.device("meta"):
        schedule = make()
    for name in TABLES:
        assert torch.equal(getattr(schedule, name), getattr(make(), name))


@pytest.mark.equation("def-alpha-bar")
def test_a_tensor_of_betas_comes_to_the_cpu_as_it_is() -> None:
    """On MPS to ask for float64 in the same breath would fail; here another tensor shows that it was asked to come."""
    beta = torch.tensor([0.1, 0.2])
    assert torch.equal(Schedule(beta).beta[1:], beta.double())
    with patch.object(torch.Tensor, "cpu", return_value=torch.tensor([0.5])):
        assert Schedule(beta).beta.tolist() == [0, 0.5]


@pytest.mark.equation("def-alpha-bar")
@pytest.mark.parametrize("make", [Schedule.linear, Schedule.cosine])
def test_where_there_is_no_float64_the_tables_are_float32(
    make: Callable[[], Schedule], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On MPS: each table rounded once; 1 - alpha_bar, which loses digits there, still good to a thousandth."""
    schedule, to = make(), torch.Tensor.to
    with monkeypatch.context() as patch:  # only the type of the move: there is no MPS
        patch.setattr(torch.Tensor, "to", lambda x, device, dtype: to(x, dtype))
        moved = schedule.to("mps")
    for name in TABLES:
        exact = getattr(schedule, name)
        assert getattr(moved, name).dtype == torch.float32
        assert torch.equal(getattr(moved, name), exact.float())
    lost = (1 - moved.alpha_bar[1:]) / (1 - schedule.alpha_bar[1:]) - 1
    assert lost.abs().max() < 1e-3


@pytest.mark.parametrize("t", [0, 1001, torch.tensor([1, 0]), torch.tensor([1001]), -1])
def test_times_outside_are_refused(linear: Schedule, t: int | torch.Tensor) -> None:
    with pytest.raises(ValueError, match="t: expected 1"):
        check.t(t, linear)


@pytest.mark.parametrize("t", [1.5, torch.tensor([1.0]), "1", True])
def test_times_of_a_wrong_type_are_refused(linear: Schedule, t: object) -> None:
    with pytest.raises(TypeError, match="t: expected an int"):
        check.t(t, linear)


def test_noise_of_another_shape_is_refused(linear: Schedule) -> None:
    """Broadcasting would give all pictures of a batch the same noise."""
    x = torch.zeros(4, 1, 8, 8)
    for step in (q_step, q_sample):
        with pytest.raises(ValueError, match="noise: expected the shape of the points"):
            step(x, 5, x[:1], linear)


def test_integer_pictures_are_refused(linear: Schedule) -> None:
    """Cast to their type every factor below 1 would become 0."""
    x = torch.full((2, 1, 8, 8), 255, dtype=torch.uint8)
    with pytest.raises(TypeError, match=r"uint8; scale pictures to \[-1, 1\]"):
        q_sample(x, 10, x, linear)


def test_times_on_another_device_than_the_schedule_are_refused(
    linear: Schedule,
) -> None:
    with pytest.raises(ValueError, match=r"use schedule\.to"):
        check.t(torch.ones(3, dtype=torch.int64, device="meta"), linear)


def test_numpy_s_integers_count_as_integers() -> None:
    assert Schedule.linear(np.int64(10)).T == 10
    x, noise, schedule = torch.ones(2, 3), torch.ones(2, 3), Schedule.linear(10)
    for t in (np.int64(7), np.int8(7), np.uint16(7)):
        for jump in (q_sample, q_step):
            one, two = (jump(x, time, noise, schedule) for time in (t, 7))
            assert torch.equal(one, two)


def test_one_time_a_picture(linear: Schedule) -> None:
    x = torch.zeros(3, 2)
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        q_sample(x, torch.tensor([1, 2]), x, linear)
    assert per_image(torch.tensor([1.0, 2.0, 3.0]), x).shape == (3, 1)


@pytest.mark.parametrize("shape", [(), (3,)])
def test_a_factor_comes_in_the_type_and_on_the_device_of_the_pictures(
    shape: tuple[int, ...],
) -> None:
    """One number for all pictures stays where it is: on the CPU it serves every device, and nothing waits."""
    value = torch.full(shape, 0.5, dtype=F64)
    for dtype, device in ((torch.float32, "cpu"), (torch.bfloat16, "meta")):
        x = torch.zeros(3, 2, dtype=dtype, device=device)
        got = per_image(value, x)
        assert got.dtype == (got * x).dtype == dtype
        assert got.device.type == (device if shape else "cpu")
        assert (got * x).device.type == device
