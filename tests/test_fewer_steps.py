"""Fewer steps: against diffusers on shared tables, Algorithm 2 itself, Monte Carlo, and cases with a closed answer."""

import copy
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers import F64, Recorder, generator, last, network
from hypothesis import given, strategies as st
from pretended import Pretended
from reference import check_options
from samplers import (
    algorithm_2,
    algorithm_2_steps,
    strided_sample,
    strided_sample_steps,
)
from torch import Tensor, nn
from torch.testing import assert_close

from ddpm_nb.algorithms import Rule, Step, sample, sample_steps
from ddpm_nb.fewer_steps import (
    analytic,
    ddim,
    ddim_encode,
    ddim_mean,
    ddim_sample,
    ddim_sample_steps,
    ddim_sigma,
    log_snr_timesteps,
    multistep,
    respace,
    strided,
    timesteps,
    x_0_error,
)
from ddpm_nb.forward import Schedule
from ddpm_nb.likelihood import GaussianMixture, gaussian_kl
from ddpm_nb.loss import noise_to_v, vlb_weight
from ddpm_nb.posterior import optimal_noise, posterior_mean, posterior_variance

SPACINGS = ("leading", "trailing", "linspace", "quadratic")
FORTY = Schedule.linear(T=40, beta_1=1e-3, beta_T=0.3)
every_spacing = pytest.mark.parametrize("spacing", SPACINGS)


def in_float32(schedule: Schedule) -> Schedule:
    """The same tables as a device without float64 holds them."""
    rounded = copy.copy(schedule)
    for name in ("beta", "alpha", "alpha_bar"):
        object.__setattr__(rounded, name, getattr(schedule, name).float())
    return rounded


# --- which times


@pytest.mark.equation("def-timesteps")
@every_spacing
@given(st.integers(1, 1200), st.data())
def test_no_time_is_skipped_or_repeated(
    spacing: str, T: int, data: st.DataObject
) -> None:
    steps = data.draw(st.integers(1, T))
    times = timesteps(T, steps, spacing)
    assert len(times) == steps + 1
    assert times[-1] == 0
    assert all(t > s for t, s in pairwise(times))
    assert times[0] <= T
    if spacing != "leading" or steps == T:
        assert times[0] == T
    if spacing in ("leading", "linspace") and steps > 1:
        assert times[-2] == 1
    if steps == T:
        assert times == (*range(T, 0, -1), 0)


@pytest.mark.equation("def-timesteps")
@given(st.integers(1, 400), st.data())
def test_leading_and_trailing_take_the_ends_of_equal_blocks(
    T: int, data: st.DataObject
) -> None:
    """Sort each time into its block by exact fractions, and take the first and the last."""
    steps = data.draw(st.integers(1, T))
    blocks: dict[int, list[int]] = {}
    for t in range(1, T + 1):
        blocks.setdefault(math.ceil(Fraction(t * steps, T)), []).append(t)
    assert len(blocks) == steps
    downward = sorted(blocks, reverse=True)
    assert timesteps(T, steps, "leading") == (*(min(blocks[i]) for i in downward), 0)
    assert timesteps(T, steps, "trailing") == (*(max(blocks[i]) for i in downward), 0)


@pytest.mark.equation("def-timesteps")
@given(st.integers(2, 1000), st.data())
def test_linspace_is_a_straight_line_rounded(T: int, data: st.DataObject) -> None:
    steps = data.draw(st.integers(2, T))
    line = np.linspace(T, 1, steps)
    times = np.array(timesteps(T, steps, "linspace")[:-1])
    assert np.abs(times - line).max() < 0.5 + 1e-9
    one = timesteps(T, 1, "linspace")
    assert one == (T, 0)


@pytest.mark.equation("def-timesteps")
@given(st.integers(1, 1000), st.data())
def test_quadratic_is_the_smallest_sequence_above_the_parabola(
    T: int, data: st.DataObject
) -> None:
    steps = data.draw(st.integers(1, T))
    times = timesteps(T, steps, "quadratic")[::-1]
    for i in range(1, steps + 1):
        parabola = Fraction(T * i * i, steps**2)
        assert times[i] >= parabola
        # One less would be under the parabola, or no longer above its neighbour.
        assert times[i] - 1 < parabola or times[i] - 1 == times[i - 1]


@pytest.mark.equation("def-timesteps")
@pytest.mark.parametrize(
    ("spacing", "steps"),
    [(spacing, n) for spacing in ("leading", "trailing") for n in (1, 2, 5, 8, 20, 40)]
    + [("linspace", n) for n in (1, 2, 4, 14, 40)],
)
def test_times_are_those_of_diffusers_where_nothing_is_rounded(
    spacing: str, steps: int
) -> None:
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(num_train_timesteps=40, timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    theirs = [int(t) + 1 for t in scheduler.timesteps]
    if (spacing, steps) == ("linspace", 1):
        theirs = [40]  # theirs is 1: pure noise, and a network that is told "no noise"
    assert list(timesteps(40, steps, spacing)[:-1]) == theirs


def test_bad_counts_and_names_are_refused() -> None:
    for steps in (0, -1, 41):
        with pytest.raises(ValueError, match=r"steps: expected 1 \.\.\. 40"):
            timesteps(40, steps)
    for wrong in (2.0, True, "5", np.float64(5), None):
        with pytest.raises(TypeError, match="steps: expected an int"):
            timesteps(40, wrong)
    with pytest.raises(TypeError, match="T: expected an int"):
        timesteps(40.0, 5)
    with pytest.raises(ValueError, match=r"spacing: expected .*'uniform'"):
        timesteps(40, 5, "uniform")


@pytest.mark.parametrize("kind", [np.int64, np.int8, np.uint8, torch.tensor])
@every_spacing
def test_whole_numbers_of_numpy_are_welcome(kind: type, spacing: str) -> None:
    """A small type must not overflow either: 100 * 100 does not fit into it."""
    times = timesteps(kind(100), kind(90), spacing)
    assert times == timesteps(100, 90, spacing)
    assert all(type(t) is int for t in times)


# --- Algorithm 2 with strides


@pytest.mark.equation("eq-respaced-beta")
@every_spacing
@pytest.mark.parametrize("steps", [1, 3, 7, 40])
def test_the_short_chain_has_the_levels_of_the_long_one(
    spacing: str, steps: int
) -> None:
    times = timesteps(40, steps, spacing)
    short = respace(FORTY, times)
    assert steps == short.T
    for i, t in enumerate(reversed(times)):
        exact = math.prod(1 - Fraction(float(b)) for b in FORTY.beta[1 : t + 1])
        assert short.alpha_bar[i].item() == pytest.approx(float(exact), rel=1e-13)


@pytest.mark.equation("eq-respaced-beta")
@pytest.mark.parametrize("schedule", [Schedule.linear(), Schedule.cosine()])
@pytest.mark.parametrize("steps", [10, 300, 1000])
def test_tables_in_float32_lose_no_beta(schedule: Schedule, steps: int) -> None:
    """Differences of float32 alpha_bars would be off by up to a hundredth."""
    times = timesteps(1000, steps)
    short = respace(in_float32(schedule), times)
    exact = respace(schedule, times)
    assert_close(short.beta, exact.beta, rtol=1e-6, atol=0)


@pytest.mark.equation("eq-respaced-beta")
def test_a_step_of_the_short_chain_is_a_walk_of_the_long_one() -> None:
    """Monte Carlo: from x_2 to x_5 in three steps has the factor and the variance of one step with beta'."""
    schedule, n = Schedule([0.1, 0.2, 0.3, 0.15, 0.4]), 400_000
    short = respace(schedule, (5, 2, 0))
    x, rng = torch.full((n,), 1.5, dtype=F64), generator()
    for beta in (0.3, 0.15, 0.4):
        x = (1 - beta) ** 0.5 * x + beta**0.5 * torch.randn(n, dtype=F64, generator=rng)
    beta = short.beta[2].item()
    assert abs(x.mean() - 1.5 * (1 - beta) ** 0.5) < 4 * (beta / n) ** 0.5
    assert abs(x.var() / beta - 1) < 4 * (2 / n) ** 0.5


@pytest.mark.parametrize(
    "times", [(0,), (), (3, 3, 0), (2, 3, 0), (4, 0), (3, 1), (3, -1)]
)
def test_times_that_do_not_fall_to_zero_are_refused(times: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="timesteps: expected whole numbers that fall"):
        respace(Schedule([0.1, 0.2, 0.3]), times)


def shared_tables(scheduler: object, schedule: Schedule) -> None:
    """Their tables are float32, and counted from 0; give them ours."""
    scheduler.betas, scheduler.alphas = schedule.beta[1:], schedule.alpha[1:]
    scheduler.alphas_cumprod = schedule.alpha_bar[1:]
    scheduler.one = scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=F64)
    scheduler.initial_alpha_cumprod = scheduler.one


@pytest.mark.equation("eq-respaced-beta")
@every_spacing
@pytest.mark.parametrize("steps", [1, 5, 7, 11, 40])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize(
    ("variance", "theirs"), [("large", "fixed_large"), ("small", "fixed_small")]
)
def test_strided_algorithm_2_is_that_of_diffusers(
    spacing: str, steps: int, clip: bool, variance: str, theirs: str
) -> None:
    """The same tables, times and noise: the same x, step by step, to 1e-10. 7 and 11 do not divide 40."""
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(
        num_train_timesteps=40, variance_type=theirs, clip_sample=clip
    )
    shared_tables(scheduler, FORTY)
    times = timesteps(40, steps, spacing)
    scheduler.set_timesteps(timesteps=[t - 1 for t in times[:-1]])
    x = torch.randn(6, 3, dtype=F64, generator=generator())
    rng = generator()
    torch.randn(6, 3, dtype=F64, generator=rng)  # the start has been drawn
    ours = strided_sample_steps(
        network,
        (6, 3),
        FORTY,
        steps,
        spacing=spacing,
        variance=variance,
        clip=clip,
        generator=generator(),
        dtype=F64,
    )
    for step, (t, s) in zip(ours, pairwise(times), strict=True):
        assert step.t == s
        x_t = x
        noise = network(x_t, torch.full((6,), t))
        their = scheduler.step(noise, t - 1, x_t, generator=rng)
        x = their.prev_sample
        if s == 0 and t > 1:
            # Theirs adds noise at a last step that does not begin at t = 1. Without it:
            # the mean, which is their predicted picture.
            x = their.pred_original_sample
        assert torch.allclose(step.x, x, rtol=0, atol=1e-10), f"t = {t}"


@pytest.mark.equation("eq-respaced-beta")
@pytest.mark.parametrize("variance", ["large", "small"])
def test_with_all_steps_it_is_algorithm_2(variance: str) -> None:
    options = {"variance": variance, "clip": True, "dtype": F64}
    one = strided_sample(network, (5, 2), FORTY, 40, generator=generator(), **options)
    two = algorithm_2(network, (5, 2), FORTY, generator=generator(), **options)
    assert_close(one, two, rtol=0, atol=1e-10)


# --- the family


@pytest.mark.equation("eq-ddim-marginal")
@pytest.mark.equation("def-ddim-family")
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("t", "s"), [(5, 2), (3, 1), (2, 0)])
def test_every_member_keeps_the_marginals(share: float, t: int, s: int) -> None:
    """Walk x_t there by single forward steps, step down with the family, and compare with a walk to s."""
    beta, n = [0.1, 0.2, 0.3, 0.15, 0.4], 200_000
    schedule, rng = Schedule(beta), generator()
    x_0 = torch.full((n,), 0.8, dtype=F64)
    x_t = x_0
    for b in beta[:t]:
        x_t = (1 - b) ** 0.5 * x_t + b**0.5 * torch.randn(n, dtype=F64, generator=rng)
    kept = math.prod(1 - b for b in beta[:s])
    sigma = (share * (1 - kept)) ** 0.5
    x_s = ddim_mean(x_0, x_t, t, s, schedule, sigma)
    x_s = x_s + sigma * torch.randn(n, dtype=F64, generator=rng)
    bar = 4 * ((1 - kept) / n) ** 0.5 + 1e-12
    assert abs(x_s.mean() - kept**0.5 * 0.8) < bar
    assert abs(x_s.var() - (1 - kept)) < 4 * (1 - kept) * (2 / n) ** 0.5 + 1e-12


@pytest.mark.equation("def-ddim-family")
def test_without_fresh_noise_the_old_noise_is_kept_to_the_last_digit() -> None:
    x_0, noise = torch.randn(2, 4, 3, dtype=F64, generator=generator())
    bar = FORTY.alpha_bar
    x_t = bar[30].sqrt() * x_0 + (1 - bar[30]).sqrt() * noise
    x_s = bar[12].sqrt() * x_0 + (1 - bar[12]).sqrt() * noise
    assert_close(ddim_mean(x_0, x_t, 30, 12, FORTY), x_s, rtol=0, atol=1e-12)
    assert_close(ddim_mean(x_0, x_t, 30, 0, FORTY), x_0, rtol=0, atol=1e-12)


def test_the_largest_sigma_is_allowed_and_a_larger_one_is_not() -> None:
    x = torch.ones(2, 1, dtype=F64)
    largest = (1 - FORTY.alpha_bar[12]).sqrt()
    assert_close(
        ddim_mean(x, x, 30, 12, FORTY, largest), FORTY.alpha_bar[12].sqrt() * x
    )
    for sigma in (1.001 * largest, -0.1, float("nan")):
        with pytest.raises(ValueError, match="sigma: expected"):
            ddim_mean(x, x, 30, 12, FORTY, sigma)
    for t, s in ((5, 5), (5, 6)):
        with pytest.raises(ValueError, match="s: expected a time below"):
            ddim_mean(x, x, t, s, FORTY)
    with pytest.raises(ValueError, match="t: expected"):
        ddim_sigma(41, 3, FORTY, 0.5)
    with pytest.raises(ValueError, match="t: expected"):
        ddim_sigma(4, -1, FORTY, 0.5)


@pytest.mark.equation("def-ddim-family")
@pytest.mark.parametrize("schedule", [Schedule.linear, Schedule.cosine])
@pytest.mark.parametrize("T", [20, 100, 1000])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_tables_in_float32_do_for_every_walk(
    schedule: object, T: int, eta: float
) -> None:
    """As on a device without float64: 1 - alpha_bar is then known to 6e-8 only."""
    exact = schedule(T=T)
    rounded = in_float32(exact)
    x_0, x_t = torch.randn(2, 50, 1, generator=generator())
    steps = {t for n in (1, 2, 5, 10, 20, T) for t in pairwise(timesteps(T, n))}
    for t, s in steps:
        sigma, close = (ddim_sigma(t, s, it, eta) for it in (exact, rounded))
        assert close.dtype == torch.float32
        mean = ddim_mean(x_0.double(), x_t.double(), t, s, exact, sigma)
        near = ddim_mean(x_0, x_t, t, s, rounded, close)
        # An error of 1e-6 in 1 - alpha_bar_s - sigma^2, under a root at worst.
        assert torch.allclose(near.double(), mean, rtol=0, atol=5e-3), (t, s)
        assert torch.allclose(close.double(), sigma, rtol=2e-3, atol=0), (t, s)
    model = optimal_noise(GaussianMixture([1.0], [[0.3]], [0.4]), exact)
    options = {"eta": eta, "clip": True}
    for n in (2, 5):
        one, two = (
            ddim_sample(model, (50, 1), it, n, generator=generator(), **options)
            for it in (exact, rounded)
        )
        assert torch.allclose(one, two, rtol=0, atol=5e-3), n


def test_a_sigma_out_of_range_is_no_rounding_in_float32_either() -> None:
    x, rounded = torch.ones(2, 1), in_float32(FORTY)
    largest = (1 - rounded.alpha_bar[12]).sqrt()
    for sigma in (largest, float(largest)):
        assert ddim_mean(x, x, 30, 12, rounded, sigma).isfinite().all()
    for sigma in (1.001 * largest, 1.001 * float(largest), -0.1, float("nan")):
        with pytest.raises(ValueError, match="sigma: expected"):
            ddim_mean(x, x, 30, 12, rounded, sigma)


@pytest.mark.parametrize(
    "rule", [ddim(), ddim(1.0), multistep(), strided(), strided("small")]
)
def test_no_step_waits_for_the_device(rule: Rule) -> None:
    """On a device that counts who looks at a number: six steps look as often as three."""
    waits = []
    with Pretended("cuda") as device:
        schedule = FORTY.to("cuda")
        for steps in (3, 6):
            before, times = device.waits, timesteps(40, steps)
            x = sample(network, (3, 2), schedule, rule, times, clip=True)
            waits.append(device.waits - before)
        assert x.device.type == "cuda"
    assert waits[0] == waits[1]


@pytest.mark.equation("def-eta")
def test_eta_dials_the_width_between_nothing_and_the_posterior() -> None:
    """The posterior of two neighbours of the short chain, by adding precisions: 1/var = a/beta' + 1/(1 - bar_s)."""
    bar = FORTY.alpha_bar
    for t, s in ((40, 39), (40, 20), (17, 3), (2, 1)):
        kept = float(bar[t] / bar[s])
        var = 1 / (kept / (1 - kept) + 1 / (1 - float(bar[s])))
        for eta in (0.0, 0.4, 1.0):
            got = ddim_sigma(t, s, FORTY, eta).item()
            assert got == pytest.approx(eta * var**0.5, rel=1e-10, abs=1e-15)
    assert ddim_sigma(9, 0, FORTY, 1.0) == 0


@pytest.mark.equation("eq-eta-one")
def test_at_eta_one_the_step_is_the_posterior() -> None:
    x_0, x_t = torch.randn(2, 4, 3, dtype=F64, generator=generator())
    for t in (1, 2, 17, 40):
        sigma = ddim_sigma(t, t - 1, FORTY, 1.0)
        assert (sigma**2).item() == pytest.approx(
            posterior_variance(t, FORTY).item(), rel=1e-12
        )
        assert_close(
            ddim_mean(x_0, x_t, t, t - 1, FORTY, sigma),
            posterior_mean(x_0, x_t, t, FORTY),
            rtol=0,
            atol=1e-12,
        )


@pytest.mark.equation("eq-eta-one")
@pytest.mark.equation("eq-ddim-step")
@pytest.mark.parametrize("clip", [False, True])
def test_ddim_with_eta_one_and_all_steps_is_algorithm_2_small(clip: bool) -> None:
    """The same noise, the noise prediction worked out again after clipping: every step equal to 1e-10."""
    options = {"clip": clip, "dtype": F64}
    ddim = ddim_sample_steps(
        network, (5, 2), FORTY, 40, eta=1.0, generator=generator(), **options
    )
    ddpm = algorithm_2_steps(
        network, (5, 2), FORTY, variance="small", generator=generator(), **options
    )
    clipped = 0
    for one, two in zip(ddim, ddpm, strict=True):
        assert one.t == two.t
        assert_close(one.x, two.x, rtol=0, atol=1e-10)
        assert_close(one.x_0_hat, two.x_0_hat, rtol=0, atol=1e-10)
        clipped += int((one.x_0_hat.abs() == 1).sum())
    assert (clipped > 0) == clip  # else the test would not see clipping


@pytest.mark.equation("eq-ddim-weight")
def test_the_bound_of_every_member_is_a_weighted_error_of_the_noise() -> None:
    """The divergence from two means that the code computes, against the formula typed here."""
    x_0, noise, wrong = torch.randn(3, 1, 3, dtype=F64, generator=generator())
    bar = FORTY.alpha_bar
    for t, s, eta in ((40, 33, 0.3), (20, 5, 1.0), (2, 1, 0.7)):
        a, b = float(bar[t]), float(bar[s])
        x_t = a**0.5 * x_0 + (1 - a) ** 0.5 * noise
        x_0_hat = (x_t - (1 - a) ** 0.5 * wrong) / a**0.5
        sigma = ddim_sigma(t, s, FORTY, eta)
        var = sigma**2 * torch.ones(3, dtype=F64)
        kl = gaussian_kl(
            ddim_mean(x_0, x_t, t, s, FORTY, sigma),
            var,
            ddim_mean(x_0_hat, x_t, t, s, FORTY, sigma),
            var,
        )
        v = float(sigma) ** 2
        weight = ((b * (1 - a) / a) ** 0.5 - (1 - b - v) ** 0.5) ** 2 / (2 * v)
        assert kl.item() == pytest.approx(
            weight * float((noise - wrong).square().sum()), rel=1e-9
        )
        if s == t - 1:
            one = float(ddim_sigma(t, s, FORTY, 1.0)) ** 2
            small = ((b * (1 - a) / a) ** 0.5 - (1 - b - one) ** 0.5) ** 2 / (2 * one)
            assert small == pytest.approx(
                vlb_weight(t, FORTY, "small").item(), rel=1e-9
            )


# --- the sampler


@pytest.mark.equation("eq-ddim-step")
@every_spacing
@pytest.mark.parametrize("steps", [1, 5, 7, 11, 40])
@pytest.mark.parametrize(
    ("eta", "clip"),
    [(0.0, False), (0.6, False), (1.0, False), (0.0, True), (0.6, True)],
)
def test_ddim_is_that_of_diffusers(
    spacing: str, steps: int, eta: float, clip: bool
) -> None:
    """Shared tables, times and noise: the same x to 1e-10, also where the count does not divide T."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(num_train_timesteps=40, clip_sample=clip)
    shared_tables(scheduler, FORTY)
    scheduler.set_timesteps(1)
    times = timesteps(40, steps, spacing)
    x = torch.randn(6, 3, dtype=F64, generator=generator())
    rng = generator()
    torch.randn(6, 3, dtype=F64, generator=rng)
    ours = ddim_sample_steps(
        network,
        (6, 3),
        FORTY,
        steps,
        spacing=spacing,
        eta=eta,
        clip=clip,
        generator=generator(),
        dtype=F64,
    )
    for step, (t, s) in zip(ours, pairwise(times), strict=True):
        # Theirs steps down by (chain length) // (number of steps), a fixed stride; ours
        # follows the times. Tell it the stride of this step.
        scheduler.register_to_config(num_train_timesteps=t - s)
        noise = network(x, torch.full((6,), t))
        x = scheduler.step(
            noise, t - 1, x, eta=eta, use_clipped_model_output=clip, generator=rng
        ).prev_sample
        assert step.t == s
        assert torch.allclose(step.x, x, rtol=0, atol=1e-10), f"t = {t}"


@pytest.mark.equation("eq-ddim-step")
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_one_step_has_the_stated_mean_and_width(eta: float) -> None:
    """For a network that answers 0, x_s is a share of x_T, scaled, plus noise of the dialled width."""
    schedule, n = Schedule([0.1, 0.3, 0.4]), 200_000
    a, b = 0.9 * 0.7 * 0.6, 0.9 * 0.7
    walk = ddim_sample_steps(
        lambda x, t: torch.zeros_like(x),
        (n, 1),
        schedule,
        3,
        eta=eta,
        generator=generator(),
        dtype=F64,
    )
    x_3 = torch.randn(n, 1, dtype=F64, generator=generator())
    fresh = next(walk).x - (b / a) ** 0.5 * x_3  # x_0-hat = x_3 / sqrt(a), no noise
    var = eta**2 * (1 - b) / (1 - a) * 0.4
    assert abs(fresh.mean()) < 4 * (var / n) ** 0.5 + 1e-12
    assert abs(fresh.var() - var) < 4 * var * (2 / n) ** 0.5 + 1e-12


@pytest.mark.equation("def-timesteps")
@pytest.mark.equation("eq-ddim-step")
@pytest.mark.parametrize("walk", [strided_sample_steps, ddim_sample_steps])
@every_spacing
def test_samplers_visit_the_times_and_call_the_network_quietly(
    walk: object, spacing: str
) -> None:
    net = Recorder()
    records = []
    for step in walk(
        net, (2, 1), Schedule.linear(T=50), 7, spacing=spacing, generator=generator()
    ):
        assert torch.is_grad_enabled()
        assert net.training
        records.append(step)
    times = timesteps(50, 7, spacing)
    assert [step.t for step in records] == list(times[1:])
    assert net.seen == [([t, t], False, False) for t in times[:-1]]
    assert all(isinstance(step, Step) and not step.x.requires_grad for step in records)


@pytest.mark.equation("eq-ddim-step")
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_last_step_returns_the_predicted_picture_without_noise(eta: float) -> None:
    rng, drawn = generator(), generator()
    *_, last = ddim_sample_steps(
        network, (5, 2), FORTY, 3, eta=eta, generator=rng, dtype=F64
    )
    for _ in range(3 if eta > 0 else 1):  # the start, and the first two of three steps
        torch.randn(5, 2, dtype=F64, generator=drawn)
    assert torch.equal(rng.get_state(), drawn.get_state())
    assert last.t == 0
    assert_close(last.x, last.x_0_hat, rtol=0, atol=1e-12)


@pytest.mark.equation("eq-ddim-step")
def test_without_eta_the_start_decides_everything() -> None:
    x_T = torch.randn(3, 1, dtype=F64, generator=generator())
    one = ddim_sample(network, (3, 1), FORTY, 6, x_T=x_T, generator=generator(1))
    two = ddim_sample(network, (3, 1), FORTY, 6, x_T=x_T, generator=generator(2))
    assert torch.equal(one, two)
    rng = generator()
    drawn = ddim_sample(network, (3, 1), FORTY, 6, generator=rng, dtype=F64)
    assert torch.equal(one, drawn)
    once = generator()
    torch.randn(3, 1, dtype=F64, generator=once)
    assert torch.equal(rng.get_state(), once.get_state())  # asked once, for the start
    noisy = ddim_sample(
        network, (3, 1), FORTY, 6, x_T=x_T, eta=0.5, generator=generator(1)
    )
    assert not torch.allclose(one, noisy)


# --- a step is a turn


@pytest.mark.equation("eq-ddim-turn")
def test_a_step_turns_by_the_difference_of_two_angles() -> None:
    """The velocity from its own definition; angles from the tables."""
    x_T = torch.randn(4, 3, dtype=F64, generator=generator())
    phi = FORTY.alpha_bar.sqrt().arccos()
    x = x_T
    for step, (t, s) in zip(
        ddim_sample_steps(network, (4, 3), FORTY, 9, x_T=x_T),
        pairwise(timesteps(40, 9)),
    ):
        times = torch.full((4,), t)
        v = noise_to_v(x, times, network(x, times), FORTY)
        turned = (phi[t] - phi[s]).cos() * x - (phi[t] - phi[s]).sin() * v
        assert_close(step.x, turned, rtol=0, atol=1e-10)
        x = step.x


@pytest.mark.equation("eq-same-flow")
@pytest.mark.parametrize("k", [0.5, 1.3, 2.7])
def test_means_move_as_the_perfect_velocity_says(k: float) -> None:
    """d/dphi E cos(k x): by the characteristic function of a mixture, and as a mean over the perfect velocity."""
    weights, means, std = np.array([0.3, 0.7]), np.array([-1.0, 0.6]), 0.2
    mixture = GaussianMixture(list(weights), means[:, None].tolist(), [std, std])
    schedule = Schedule.linear()

    def mean_of_cosine(phi: float) -> float:
        var = np.cos(phi) ** 2 * std**2 + np.sin(phi) ** 2
        return float(
            weights @ (np.cos(k * np.cos(phi) * means) * np.exp(-(k**2) * var / 2))
        )

    x = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    for t in (30, 200, 600):
        signal, noise = schedule.alpha_bar[t].sqrt(), (1 - schedule.alpha_bar[t]).sqrt()
        phi, h = float(torch.arctan2(noise, signal)), 1e-5
        slope = (mean_of_cosine(phi + h) - mean_of_cosine(phi - h)) / (2 * h)
        times = torch.full((len(x),), t)
        predicted = optimal_noise(mixture, schedule)(x[:, None], times)[:, 0]
        velocity = (predicted - noise * x) / signal
        width = (signal**2 * std**2 + noise**2).sqrt()
        bumps = torch.distributions.Normal(signal * torch.tensor(means), width)
        density = bumps.log_prob(x[:, None]).exp() @ torch.tensor(weights)
        moved = torch.trapezoid(density * -k * (k * x).sin() * velocity, x)
        assert float(moved) == pytest.approx(slope, abs=1e-7)


@pytest.mark.equation("eq-ddim-shrink")
@every_spacing
@pytest.mark.parametrize("steps", [1, 2, 7, 40])
def test_variance_for_standard_normal_data(spacing: str, steps: int) -> None:
    """Monte Carlo through the sampler against the product of squared cosines."""
    model = optimal_noise(GaussianMixture([1.0], [[0.0]], [1.0]), FORTY)
    x = ddim_sample(
        model,
        (50_000, 1),
        FORTY,
        steps,
        spacing=spacing,
        generator=generator(),
        dtype=F64,
    )
    times = timesteps(40, steps, spacing)
    angle = [math.acos(float(FORTY.alpha_bar[t]) ** 0.5) for t in times]
    var = math.prod(math.cos(a - b) ** 2 for a, b in pairwise(angle))
    assert x.var().item() == pytest.approx(var, rel=4 * (2 / 50_000) ** 0.5)


def gaussian_recursion(times: tuple[int, ...], eta: float, std: float) -> float:
    """The variance of the samples for data N(0, std^2) and the exact network, by hand.

    x_0-hat = E[x_0 | x_t] and the noise are multiples of x_t; the variance follows step by step.
    """
    bar = [float(v) for v in FORTY.alpha_bar]
    var = 1.0
    for t, s in pairwise(times):
        total = bar[t] * std**2 + 1 - bar[t]
        picture = bar[t] ** 0.5 * std**2 / total
        noise = (1 - bar[t]) ** 0.5 / total
        fresh = eta**2 * (1 - bar[s]) / (1 - bar[t]) * (1 - bar[t] / bar[s])
        factor = bar[s] ** 0.5 * picture + (1 - bar[s] - fresh) ** 0.5 * noise
        var = factor**2 * var + fresh
    return var


@pytest.mark.equation("eq-ddim-step")
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [3, 40])
def test_variance_for_normal_data_follows_a_recursion(eta: float, steps: int) -> None:
    model = optimal_noise(GaussianMixture([1.0], [[0.0]], [0.4]), FORTY)
    x = ddim_sample(
        model, (50_000, 1), FORTY, steps, eta=eta, generator=generator(), dtype=F64
    )
    expected = gaussian_recursion(timesteps(40, steps), eta, 0.4)
    assert x.var().item() == pytest.approx(expected, rel=4 * (2 / 50_000) ** 0.5)


@pytest.mark.equation("eq-ddim-marginal")
def test_marginals_come_out_right_as_the_steps_get_small() -> None:
    """Normal data, no fresh noise: the curve keeps x / (its standard deviation), and the error falls like 1 / steps."""
    schedule = Schedule.cosine(T=2000)
    model = optimal_noise(GaussianMixture([1.0], [[0.0]], [0.4]), schedule)
    x_T = torch.tensor([[-1.3], [0.7], [2.0]], dtype=F64)
    last = float(schedule.alpha_bar[-1])
    limit = 0.4 * x_T / (0.16 * last + 1 - last) ** 0.5
    errors = [
        float((ddim_sample(model, (3, 1), schedule, n, x_T=x_T) - limit).abs().max())
        for n in (125, 250, 500)
    ]
    assert errors[2] < 0.01
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.15)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.15)


# --- up and down again


def parent(seen: list[int]) -> object:
    def model(x: Tensor, t: Tensor) -> Tensor:
        seen.extend(t.unique().tolist())
        return network(x, t)

    return model


@pytest.mark.equation("eq-ddim-encode")
@pytest.mark.parametrize("steps", [1, 5, 8, 40])
def test_encoding_is_that_of_diffusers(steps: int) -> None:
    from diffusers import DDIMInverseScheduler

    scheduler = DDIMInverseScheduler(num_train_timesteps=40, clip_sample=False)
    shared_tables(scheduler, FORTY)
    scheduler.set_timesteps(40)
    x = x_0 = torch.randn(4, 3, dtype=F64, generator=generator())
    seen: list[int] = []
    ours = ddim_encode(parent(seen), x_0, FORTY, steps)
    times = timesteps(40, steps)[::-1]
    assert seen == list(times[1:])
    for s, t in pairwise(times):
        scheduler.register_to_config(num_train_timesteps=40 * (t - s))
        noise = network(x, torch.full((4,), t))
        x = scheduler.step(noise, t - 1, x).prev_sample
    assert_close(ours, x, rtol=0, atol=1e-10)


@pytest.mark.equation("eq-ddim-encode")
def test_a_step_up_is_undone_by_a_step_down_with_the_same_noise() -> None:
    """For a network that ignores x, up and down is exact."""

    def constant(x: Tensor, t: Tensor) -> Tensor:
        return (0.1 * t.to(x.dtype)[:, None]).sin().expand_as(x)

    x_0 = torch.randn(4, 3, dtype=F64, generator=generator())
    for spacing in SPACINGS:
        x_T = ddim_encode(constant, x_0, FORTY, 7, spacing=spacing)
        back = ddim_sample(constant, (4, 3), FORTY, 7, spacing=spacing, x_T=x_T)
        assert_close(back, x_0, rtol=0, atol=1e-10)


@pytest.mark.equation("eq-ddim-encode")
def test_the_round_trip_gets_better_with_more_steps() -> None:
    schedule = Schedule.cosine(T=400)
    mixture = GaussianMixture([0.4, 0.6], [[-1.0, 0.5], [1.0, -0.3]], [0.3, 0.4])
    model = optimal_noise(mixture, schedule)
    x_0 = mixture.sample(300, generator()).double()
    errors = []
    for steps in (25, 50, 100, 200, 400):
        x_T = ddim_encode(model, x_0, schedule, steps)
        back = ddim_sample(model, (300, 2), schedule, steps, x_T=x_T)
        errors.append(float((back - x_0).square().mean().sqrt()))
    assert all(b < 0.7 * a for a, b in pairwise(errors))
    assert errors[-1] < 0.01
    assert x_T.var().item() == pytest.approx(1, rel=0.15)


# --- promises


def walks(**options: object) -> Iterator[object]:
    for function in (strided_sample_steps, ddim_sample_steps):
        yield lambda function=function, **more: function(
            **{
                "model": network,
                "shape": (2, 1),
                "schedule": FORTY,
                "steps": 4,
                **options,
                **more,
            }
        )


def test_bad_arguments_are_refused_before_the_first_step() -> None:
    for walk in walks():
        with pytest.raises(ValueError, match="steps: expected"):
            walk(steps=41)
        with pytest.raises(ValueError, match="spacing: expected"):
            walk(spacing="even")
        with pytest.raises(ValueError, match=r"use schedule\.to"):
            walk(model=nn.Linear(1, 1, device="meta"))
    with pytest.raises(ValueError, match="variance"):
        strided_sample_steps(network, (2, 1), FORTY, 4, variance="huge")
    for eta in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="eta: expected"):
            ddim_sample_steps(network, (2, 1), FORTY, 4, eta=eta)
    with pytest.raises(ValueError, match=r"x_T: expected shape \(2, 1\)"):
        ddim_sample_steps(network, (2, 1), FORTY, 4, x_T=torch.zeros(3, 1))


def test_an_answer_of_another_shape_is_refused() -> None:
    for sampler in (strided_sample, ddim_sample):
        with pytest.raises(ValueError, match="model: expected an answer of shape"):
            sampler(lambda x, t: x[:, :1], (4, 3), FORTY, 3)
    with pytest.raises(ValueError, match="model: expected an answer of shape"):
        ddim_encode(lambda x, t: x[:, :1], torch.zeros(4, 3), FORTY, 3)


@pytest.mark.parametrize("sampler", [strided_sample, ddim_sample])
def test_progress_bars_are_off_unless_asked_for(
    sampler: object, capsys: pytest.CaptureFixture[str]
) -> None:
    for progress in (False, True):
        sampler(network, (2, 1), FORTY, 4, progress=progress)
        out, err = capsys.readouterr()
        assert out == ""
        assert ("4/4" in err) == progress


@pytest.mark.equation("eq-ddim-step")
def test_clipping_keeps_the_picture_in_range_and_ends_there() -> None:
    def zero(x: Tensor, t: Tensor) -> Tensor:
        return torch.zeros_like(x)

    records = list(
        ddim_sample_steps(zero, (50, 1), FORTY, 5, clip=True, generator=generator())
    )
    assert all(step.x_0_hat.abs().max() <= 1 for step in records)
    assert records[-1].x.abs().max() <= 1 + 1e-6


@pytest.mark.equation("def-timesteps")
def test_linspace_rounds_a_half_as_the_formula_says() -> None:
    # T = 4 and S = 3: the middle one is 4 - floor(1.5 + 0.5).
    assert timesteps(4, 3, "linspace") == (4, 2, 1, 0)


def test_the_short_forms_hand_every_option_on() -> None:
    kinds = (
        (strided_sample, strided_sample_steps, {"variance": "small"}),
        (ddim_sample, ddim_sample_steps, {"eta": 0.5}),
    )
    for draw, walk, own in kinds:
        for option in ({}, {"clip": True}, {"spacing": "leading"}, own):
            options = {"dtype": F64, **option}
            *_, last = walk(network, (3, 2), FORTY, 7, generator=generator(), **options)
            x = draw(network, (3, 2), FORTY, 7, generator=generator(), **options)
            assert torch.equal(x, last.x)
            assert x.dtype == F64
        assert draw(network, (2, 1), FORTY, 5, **own).dtype == torch.float32


def test_a_network_elsewhere_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="on the network's device, meta"):
        strided_sample_steps(nn.Linear(1, 1, device="meta"), (2, 1), FORTY, 3)


def test_encoding_neither_trains_nor_records() -> None:
    seen = []

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            seen.append((self.training, torch.is_grad_enabled()))
            return self.one * x

    model = Model()
    assert not ddim_encode(model, torch.zeros(2, 1), FORTY, 3).requires_grad
    assert seen == [(False, False)] * 3
    assert model.training


def test_a_step_that_leaves_no_signal_is_refused() -> None:
    with pytest.raises(ValueError, match="more steps are needed"):
        next(strided_sample_steps(network, (2, 1), Schedule.linear(T=4000), 1))


@pytest.mark.parametrize("size", [1, 2, 5, None])
def test_encoding_takes_the_pictures_in_batches(size: int | None) -> None:
    seen: list[int] = []

    def spy(x: Tensor, t: Tensor) -> Tensor:
        seen.append(len(x))
        return network(x, t)

    x = torch.randn(5, 3, dtype=F64, generator=generator())
    options = {} if size is None else {"batch_size": size}
    ours = ddim_encode(spy, x, FORTY, 4, **options)
    assert seen == {1: [1] * 5, 2: [2, 2, 1], 5: [5], None: [5]}[size] * 4
    whole = ddim_encode(network, x, FORTY, 4, batch_size=5)
    assert_close(ours, whole, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="batch_size: expected at least 1, got 0"):
        ddim_encode(network, x, FORTY, 4, batch_size=0)


# --- options: left out, each is what the page says; given, each makes a difference


X = torch.randn(3, 2, dtype=F64, generator=torch.Generator().manual_seed(1))
STRIDED = {
    "spacing": ("trailing", "leading"),
    "variance": ("large", "small"),
    "clip": (False, True),
    "dtype": (None, F64),
}
DDIM = {
    "eta": (0.0, 0.5),
    "spacing": ("trailing", "leading"),
    "clip": (False, True),
    "x_T": (None, X),
    "dtype": (None, F64),
}


@pytest.mark.parametrize(
    ("call", "choices"),
    [
        (
            lambda **o: torch.tensor(timesteps(40, 7, **o)),
            {"spacing": ("trailing", "leading")},
        ),
        (
            lambda **o: last(
                strided_sample_steps(
                    network, (3, 2), FORTY, 7, generator=generator(), **o
                )
            ),
            STRIDED,
        ),
        (
            lambda **o: strided_sample(
                network, (3, 2), FORTY, 7, generator=generator(), **o
            ),
            STRIDED,
        ),
        (
            lambda **o: last(
                ddim_sample_steps(network, (3, 2), FORTY, 7, generator=generator(), **o)
            ),
            DDIM,
        ),
        (
            lambda **o: ddim_sample(
                network, (3, 2), FORTY, 7, generator=generator(), **o
            ),
            DDIM,
        ),
        (
            lambda **o: ddim_encode(network, X, FORTY, 7, **o),
            {"spacing": ("trailing", "leading")},
        ),
        (lambda **o: ddim_mean(X, -X, 30, 12, FORTY, **o), {"sigma": (0.0, 1e-3)}),
    ],
    ids=lambda value: None,
)
def test_every_option_has_its_stated_default_and_arrives(
    call: Callable[..., Tensor], choices: dict[str, tuple[object, object]]
) -> None:
    check_options(call, choices)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_every_point_of_a_walk_keeps_the_type_it_began_with(dtype: torch.dtype) -> None:
    for eta in (0.0, 0.5):
        options = {"eta": eta, "generator": generator()}
        begun = ddim_sample_steps(network, (3, 2), FORTY, 4, x_T=X.to(dtype), **options)
        asked = ddim_sample_steps(network, (3, 2), FORTY, 4, dtype=dtype, **options)
        for step in (*begun, *asked):
            assert step.x.dtype == step.x_0_hat.dtype == dtype
    assert ddim_encode(network, X.to(dtype), FORTY, 4).dtype == dtype


# --- second order


BUMPS = ([0.3, 0.7], [-1.0, 0.6], 0.2)


def best_picture(x: np.ndarray, phi: float) -> np.ndarray:
    """E[x_0 | x] for two bumps, by Bayes' rule on their weights."""
    weights, means, std = (np.asarray(v)[..., None] for v in BUMPS)
    signal, noise = np.cos(phi), np.sin(phi)
    var = signal**2 * std**2 + noise**2
    share = weights * np.exp(-((x - signal * means) ** 2) / (2 * var))
    inside = means + signal * std**2 / var * (x - signal * means)
    return (share * inside).sum(0) / share.sum(0)


@pytest.mark.equation("eq-exponential-integral")
@pytest.mark.parametrize(("start", "stop"), [(1.5, 1.0), (1.0, 0.3), (1.4, 0.1)])
def test_the_flow_is_an_integral_of_the_picture_in_lambda(
    start: float, stop: float
) -> None:
    """Solve dx/dphi = v numerically; integrate the pictures along that curve by quadrature."""
    from scipy.integrate import quad, solve_ivp

    curve = solve_ivp(
        lambda phi, x: (np.cos(phi) * x - best_picture(x, phi)) / np.sin(phi),
        (start, stop),
        [0.4],
        rtol=1e-11,
        atol=1e-12,
        dense_output=True,
    ).sol

    def integrand(level: float) -> float:
        phi = np.arctan2(1, np.exp(level))
        return float(np.exp(level) * best_picture(curve(phi), phi)[0])

    ends = [float(-np.log(np.tan(phi))) for phi in (start, stop)]
    area = quad(integrand, *ends, epsabs=1e-11)[0]
    x = np.sin(stop) * (0.4 / np.sin(start) + area)
    assert x == pytest.approx(curve(stop)[0], abs=1e-8)


@pytest.mark.equation("eq-first-order")
@pytest.mark.parametrize(("t", "s"), [(40, 30), (30, 12), (12, 1)])
def test_ddim_solves_the_flow_whose_picture_stays(t: int, s: int) -> None:
    """The differential equation with a fixed picture, solved numerically."""
    from scipy.integrate import solve_ivp

    x_0, x_t = 0.7, -1.3
    phi = FORTY.alpha_bar.sqrt().arccos()
    end = solve_ivp(
        lambda phi, x: (np.cos(phi) * x - x_0) / np.sin(phi),
        (float(phi[t]), float(phi[s])),
        [x_t],
        rtol=1e-11,
        atol=1e-12,
    ).y[0, -1]
    x = torch.tensor([[x_t]], dtype=F64)

    def model(x: Tensor, times: Tensor) -> Tensor:
        bar = FORTY.alpha_bar[times][:, None]
        return (x - bar.sqrt() * x_0) / (1 - bar).sqrt()

    step = sample(model, (1, 1), FORTY, ddim(), (t, s), x_T=x)
    assert step.item() == pytest.approx(end, abs=1e-8)
    assert torch.allclose(ddim_mean(x * 0 + x_0, x, t, s, FORTY), step)


@pytest.mark.equation("eq-multistep")
def test_a_picture_on_a_straight_line_is_integrated_to_third_order() -> None:
    """Against quadrature of the integral: half as long a step, an eighth of the error."""
    from scipy.integrate import quad

    def error(k: float) -> float:
        levels = np.array([0.3 - 0.8 * k, 0.3, 0.3 + k])  # of r, t, s
        bar = torch.tensor(1 / (1 + np.exp(-2 * levels[::-1].copy())), dtype=F64)
        table = Schedule(1 - bar / torch.cat([torch.ones(1, dtype=F64), bar[:-1]]))

        def model(x: Tensor, t: Tensor) -> Tensor:  # its picture is 2 - lambda
            bar = table.alpha_bar[t][:, None]
            return (x - bar.sqrt() * (2 - bar.logit() / 2)) / (1 - bar).sqrt()

        x_r = torch.ones(1, 1, dtype=F64)
        walk = sample_steps(model, (1, 1), table, multistep(), (3, 2, 1), x_T=x_r)
        x_t, x_s = (step.x.item() for step in walk)
        noise_t, noise_s = (1 / (1 + np.exp(2 * levels[1:]))) ** 0.5
        area = quad(lambda v: np.exp(v) * (2 - v), *levels[1:], epsabs=1e-14)[0]
        return x_s - noise_s * (x_t / noise_t + area)

    errors = [error(k) for k in (0.2, 0.1, 0.05)]
    for a, b in pairwise(errors):
        assert a / b == pytest.approx(8, rel=0.1)


def even_in_lambda(steps: int) -> Schedule:
    """Times 1 ... steps + 1, even in the log signal-to-noise ratio between two levels."""
    high, low = torch.tensor([0.9999, 4e-5], dtype=F64).logit()
    bar = torch.linspace(float(high), float(low), steps + 1, dtype=F64).sigmoid()
    return Schedule(1 - bar / torch.cat([torch.ones(1, dtype=F64), bar[:-1]]))


CIRCLE = [[1.5 * math.sin(a), 1.5 * math.cos(a)] for a in np.arange(5) * 0.4 * math.pi]
SHARES = [0.10, 0.15, 0.20, 0.25, 0.30]


@pytest.mark.equation("eq-first-order")
@pytest.mark.equation("eq-multistep")
@pytest.mark.parametrize(
    ("mixture", "reference"),
    [
        (GaussianMixture(SHARES, CIRCLE, [0.25] * 5), 4000),
        (GaussianMixture(SHARES, CIRCLE, [0.05] * 5), 4000),
        (GaussianMixture([0.3, 0.7], [[-1.0], [1.0]], [0.1, 0.1]), 20_000),
    ],
    ids=["ring", "thin ring", "pair"],
)
def test_ddim_has_order_one_and_multistep_order_two(
    mixture: GaussianMixture, reference: int
) -> None:
    """Median error at the same level of noise, against many steps; slopes from 80 to 160 to 320 steps."""
    x_T = torch.randn(200, mixture.means.shape[1], dtype=F64, generator=generator())

    def end(rule: Rule, steps: int) -> Tensor:
        table = even_in_lambda(steps)
        model, times = optimal_noise(mixture, table), range(steps + 1, 0, -1)
        return sample(model, x_T.shape, table, rule, times, x_T=x_T)

    truth = end(multistep(), reference)
    for rule, order in ((ddim(), 1), (multistep(), 2)):
        ends = [end(rule, steps) for steps in (80, 160, 320)]
        errors = [float((x - truth).norm(dim=1).median()) for x in ends]
        for a, b in pairwise(errors):
            assert math.log2(a / b) == pytest.approx(order, abs=0.1)


@pytest.mark.equation("eq-multistep")
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("schedule", [Schedule.linear(), Schedule.cosine()])
def test_multistep_is_that_of_diffusers(schedule: Schedule, steps: int) -> None:
    """With their float32 tables replaced by float64 ones: the same x, step by step, to 1e-5."""
    from diffusers import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler(
        solver_order=2, algorithm_type="dpmsolver++", solver_type="midpoint"
    )
    mixture = GaussianMixture([0.4, 0.6], [[-1.0, 0.5], [1.0, -0.3]], [0.3, 0.4])
    model, times = optimal_noise(mixture, schedule), log_snr_timesteps(schedule, steps)
    scheduler.set_timesteps(timesteps=[t - 1 for t in times[:-1]])
    scheduler.sigmas = (-schedule.log_snr[list(times)] / 2).exp()
    x = torch.randn(6, 2, dtype=F64, generator=generator())
    ours = sample_steps(model, (6, 2), schedule, multistep(), times, x_T=x)
    for step, t in zip(ours, times, strict=False):
        noise = model(x, torch.full((6,), t))
        x = scheduler.step(noise, t - 1, x).prev_sample
        assert_close(step.x, x, rtol=0, atol=1e-5)
    assert step.t == 0


def test_multistep_goes_down_only() -> None:
    with pytest.raises(ValueError, match="s: expected a time below t = 3"):
        sample(network, (3, 2), FORTY, multistep(), (3, 9))


@given(st.integers(1, 300), st.data())
def test_times_in_lambda_fall_between_their_ends(T: int, data: st.DataObject) -> None:
    schedule = data.draw(st.sampled_from([Schedule.cosine(T), FORTY]))
    level = [math.log(float(a / (1 - a))) / 2 for a in schedule.alpha_bar[1:]]
    low, high = sorted(data.draw(st.tuples(*[st.floats(-9, 9)] * 2)))
    if high - low < 1e-3:
        high += 1
    first, last = (
        1 + min(range(len(level)), key=lambda i: abs(level[i] - end))
        for end in (low, high)
    )
    steps = data.draw(st.integers(1, first - last + 1))
    times = log_snr_timesteps(schedule, steps, low, high)
    assert len(times) == steps + 1
    assert (times[0], times[-1]) == (first, 0)
    assert all(t > s for t, s in pairwise(times))
    assert times[-2] == (last if steps > 1 else first)
    with pytest.raises(
        ValueError, match=rf"steps: expected 1 \.\.\. {first - last + 1}"
    ):
        log_snr_timesteps(schedule, first - last + 2, low, high)


def test_times_in_lambda_are_even_where_there_is_room() -> None:
    schedule = Schedule.cosine(T=500)
    times = log_snr_timesteps(schedule, 10)
    level = schedule.log_snr / 2
    wanted = torch.linspace(-5, 3, 10, dtype=F64)
    for t, value in zip(times[:-1], wanted, strict=True):
        off = (level[t] - value).abs()
        assert off <= (level[t - 1] - value).abs()
        assert off <= (level[t + 1] - value).abs()
    with pytest.raises(ValueError, match="low: expected a number below high = 3"):
        log_snr_timesteps(schedule, 10, low=3.0)
    with pytest.raises(TypeError, match="steps: expected an int"):
        log_snr_timesteps(schedule, 10.0)


@pytest.mark.parametrize(
    "schedule",
    [Schedule.linear(T=500), Schedule.linear(T=250), Schedule(torch.full((60,), 0.05))],
    ids=["linear 500", "linear 250", "beta 0.05"],
)
@pytest.mark.parametrize("steps", [2, 5, 10])
def test_times_in_lambda_are_even_where_the_schedule_ends_early(
    schedule: Schedule, steps: int
) -> None:
    """No end of theirs is reached, so both are the schedule's own: no gap is far from the mean gap.

    A time is nearest to its point, so it is off by at most half a step of the chain.
    """
    level = (schedule.log_snr / 2).tolist()
    assert level[-1] > -5 and level[1] < 9
    times = log_snr_timesteps(schedule, steps, high=9.0)
    assert (times[0], times[-2]) == (schedule.T, 1)
    mean = (level[1] - level[-1]) / (steps - 1)
    for t, s in pairwise(times[:-1]):
        rounding = (level[t - 1] - level[t + 1 if t < schedule.T else t]) / 2
        rounding += (level[s - 1 if s > 1 else s] - level[s + 1]) / 2
        assert abs(level[s] - level[t] - mean) <= rounding


def test_a_walk_in_lambda_wastes_no_step_at_the_noisy_end() -> None:
    """As the linear schedule of 500 steps once did: 500, 499, 492, ..."""
    times = log_snr_timesteps(Schedule.linear(T=500), 10)
    assert times[0] == 500 and times[1] < 450


@pytest.mark.parametrize("schedule", [Schedule.cosine(T=50), Schedule.linear(T=50)])
def test_without_a_number_of_steps_all_times_in_between_are_visited(
    schedule: Schedule,
) -> None:
    times = log_snr_timesteps(schedule)
    level = schedule.log_snr / 2
    inside = [t for t in range(50, 0, -1) if -5 <= level[t] <= 3]
    assert set(inside) <= set(times)
    # Besides, at each end one time at most, the nearest.
    assert len(times) - 1 <= len(inside) + 2
    assert times == (*range(times[0], times[-2] - 1, -1), 0)


# --- the analytic variance


def pair_and_a_bad_network() -> tuple[GaussianMixture, Callable[..., Tensor]]:
    pair = GaussianMixture([0.3, 0.7], [[-0.9], [0.6]], [0.2, 0.3])
    perfect = optimal_noise(pair, FORTY)
    return pair, lambda x, t: 0.8 * perfect(x, t) + 0.1 * x


@pytest.mark.equation("eq-analytic-variance")
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize(("t", "s"), [(30, 12), (12, 5), (3, 2)])
def test_the_analytic_variance_is_the_mean_square_of_what_the_mean_misses(
    clip: bool, t: int, s: int
) -> None:
    """Walk the forward chain by Gauss-Hermite quadrature, and look how far x_s lies from the sampler's mean."""
    pair, model = pair_and_a_bad_network()
    nodes, shares = np.polynomial.hermite_e.hermegauss(60)
    shares = shares / shares.sum()
    e_0, e_s, e_t = np.meshgrid(nodes, nodes, nodes, indexing="ij")
    weights = np.einsum("i,j,k->ijk", shares, shares, shares)
    bar_s, bar_t = FORTY.alpha_bar[s].item(), FORTY.alpha_bar[t].item()
    x_0 = pair.sample(100_000, generator()).double()
    error = x_0_error(model, x_0, FORTY, (t, 0), clip=clip, generator=generator(1))

    def go(x_t: np.ndarray, noise: float) -> np.ndarray:
        """The sampler's step from x_t to x_s, with this noise."""
        x = torch.tensor(x_t.reshape(-1, 1))
        step = sample(
            model,
            x.shape,
            FORTY,
            analytic(error),
            (t, s),
            x_T=x,
            clip=clip,
            generator=lambda images, t: x.new_full(x.shape, noise),
        )
        return step.numpy().reshape(x_t.shape)

    squares = 0.0
    for share, mean, std in zip(pair.weights, pair.means[:, 0], pair.stds):
        x_s = bar_s**0.5 * (mean.item() + std.item() * e_0) + (1 - bar_s) ** 0.5 * e_s
        kept = bar_t / bar_s
        x_t = kept**0.5 * x_s + (1 - kept) ** 0.5 * e_t
        squares += share.item() * (weights * (x_s - go(x_t, 0.0)) ** 2).sum()
    sigma = go(np.zeros(1), 1.0) - go(np.zeros(1), 0.0)
    assert sigma.item() ** 2 == pytest.approx(squares, rel=0.01)


def test_a_walk_at_other_times_than_were_measured_is_refused() -> None:
    pair, model = pair_and_a_bad_network()
    errors = x_0_error(model, pair.sample(50, generator()), FORTY, (40, 20, 0))
    assert sorted(errors) == [20, 40]
    with pytest.raises(ValueError, match=r"at t = 30 too, got those at \[20, 40\]"):
        sample(model, (2, 1), FORTY, analytic(errors), (40, 30, 0))
    with pytest.raises(ValueError, match="timesteps: expected whole numbers that fall"):
        x_0_error(model, pair.sample(50), FORTY, (20, 40, 0))
