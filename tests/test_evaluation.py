"""Evaluation: against closed cases, enumeration, the original's formula, SciPy, and its own full count."""

import copy
import math
import sys
import types
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from helpers import F64, LINEAR, Recorder, generator, network, zero
from reference import check_options, normal_pdf
from samplers import algorithm_2, algorithm_2_steps
from scipy.linalg import sqrtm
from scipy.stats import chisquare, norm
from torch import Tensor, nn
from torch.testing import assert_close

from ddpm_nb._inception import inception
from ddpm_nb._models import InBatches
from ddpm_nb._noise import CounterNoise
from ddpm_nb.algorithms import Step, sample_steps
from ddpm_nb.evaluation import (
    BitsPerDim,
    bits_per_dim,
    collect_features,
    denoise,
    discretized_log_prob,
    frechet_distance,
    inception_score,
    interpolate,
    progressive,
    rate_distortion,
    shared_latents,
    tanh_cdf,
)
from ddpm_nb.forward import Schedule, q_sample
from ddpm_nb.likelihood import GaussianMixture
from ddpm_nb.posterior import optimal_noise

TWENTY = Schedule.linear(T=20, beta_1=0.01, beta_T=0.4)
LEVELS = torch.linspace(-1, 1, 256, dtype=F64)


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


# --- the decoder


@pytest.mark.equation("def-decoder")
@pytest.mark.parametrize("mean", [0.0, 0.3, -0.999, 1.0, 5.0, -40.0])
@pytest.mark.parametrize("sigma", [1e-3, 7e-3, 0.1, 1.0, 30.0])
def test_the_levels_have_all_the_mass(mean: float, sigma: float) -> None:
    log_p = discretized_log_prob(LEVELS, f64(mean).expand(256), sigma**2)
    assert abs(log_p.exp().sum() - 1) < 1e-12
    seven = torch.linspace(-1, 1, 7, dtype=F64)
    log_p = discretized_log_prob(seven, f64(mean).expand(7), sigma**2, levels=7)
    assert abs(log_p.exp().sum() - 1) < 1e-12


@pytest.mark.equation("def-decoder")
@pytest.mark.parametrize("level", [0, 1, 100, 254, 255])
@pytest.mark.parametrize("mean", [-0.9, 0.1, 0.99])
def test_a_level_has_the_area_of_its_stretch(level: int, mean: float) -> None:
    """The area by a fine sum under the textbook density."""
    sigma = 0.2
    centre = -1 + 2 * level / 255
    low = -6.0 if level == 0 else centre - 1 / 255
    high = 6.0 if level == 255 else centre + 1 / 255
    grid = np.linspace(low, high, 200_001)
    area = np.trapezoid(normal_pdf(grid, mean, sigma**2), grid)
    got = discretized_log_prob(f64(centre), f64(mean), sigma**2).exp().item()
    assert got == pytest.approx(area, rel=1e-7)


@pytest.mark.equation("def-decoder")
@pytest.mark.parametrize("side", [-1, 1])
def test_far_levels_keep_their_digits(side: int) -> None:
    """100 widths away: SciPy's logarithms, and a difference of them that cannot cancel."""
    half, sigma = 1 / 255, 0.01
    centre = side * 127 / 255
    mean = -side * 0.5
    near = (abs(centre - mean) - half) / sigma
    far = (abs(centre - mean) + half) / sigma
    expected = norm.logsf(near) + np.log1p(-np.exp(norm.logsf(far) - norm.logsf(near)))
    got = discretized_log_prob(f64(centre), f64(mean), sigma**2).item()
    assert got == pytest.approx(expected, rel=1e-12)
    assert got < -4000


@pytest.mark.equation("def-decoder")
@pytest.mark.parametrize("side", [-1, 1])
def test_an_outer_level_that_has_nearly_all_the_mass_keeps_its_digits(
    side: int,
) -> None:
    """The bell lies ten widths beyond the level's inner edge: what is missing from 1 is 8e-24."""
    mean = side * (1 - 1 / 255 + 10 * 0.01)
    got = discretized_log_prob(f64(float(side)), f64(mean), 0.01**2).item()
    assert got == pytest.approx(norm.logcdf(10), rel=1e-9, abs=0)


def original(x: np.ndarray, means: np.ndarray, log_scale: float) -> np.ndarray:
    """The authors' decoder, from its description: log-scales, the tanh CDF, cut-offs at 1e-12 and +-0.999."""

    def cdf(z: np.ndarray) -> np.ndarray:
        return 0.5 * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (z + 0.044715 * z**3)))

    upper = cdf(np.exp(-log_scale) * (x - means + 1.0 / 255.0))
    lower = cdf(np.exp(-log_scale) * (x - means - 1.0 / 255.0))
    inner = np.log(np.maximum(upper - lower, 1e-12))
    first = np.log(np.maximum(upper, 1e-12))
    last = np.log(np.maximum(1.0 - lower, 1e-12))
    return np.where(x < -0.999, first, np.where(x > 0.999, last, inner))


@pytest.mark.equation("def-tanh-cdf")
@pytest.mark.parametrize("sigma", [0.0074, 0.05, 1.0])
def test_the_tanh_decoder_is_the_originals(sigma: float) -> None:
    rng = np.random.default_rng(0)
    means = rng.uniform(-1.2, 1.2, (40, 256))
    x = np.broadcast_to(LEVELS.numpy(), (40, 256))
    expected = original(x, means, math.log(sigma))
    got = discretized_log_prob(
        torch.tensor(x.copy()), torch.tensor(means), sigma**2, decoder="tanh"
    )
    assert np.abs(got.exp().numpy() - np.exp(expected)).max() < 1e-12
    likely = expected > math.log(1e-3)  # elsewhere the formula itself cancels
    assert np.abs(got.numpy() - expected)[likely].max() < 1e-12
    assert got.min().item() == pytest.approx(expected.min(), abs=1e-9)  # the cut-off
    exact = discretized_log_prob(torch.tensor(x.copy()), torch.tensor(means), sigma**2)
    difference = (got.exp() - exact.exp()).abs().max()
    assert 1e-9 < difference < 4e-4  # twice the formula's error, and not the same


@pytest.mark.equation("def-tanh-cdf")
def test_the_tanh_formula_is_nearly_the_distribution_function() -> None:
    """Itself, and not only its differences: a half at 0, and within the 0.00018 that the page names."""
    z = torch.linspace(-8, 8, 4001, dtype=F64)
    assert tanh_cdf(f64(0.0)) == 0.5
    apart = float((tanh_cdf(z) - torch.special.ndtr(z)).abs().max())
    assert apart == pytest.approx(0.00018, abs=5e-6)


def test_the_decoder_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="levels: expected at least 2"):
        discretized_log_prob(f64(0.0), f64(0.0), 1.0, levels=1)
    with pytest.raises(TypeError, match=r"levels: expected an int, got 2\.5"):
        discretized_log_prob(f64(0.0), f64(0.0), 1.0, levels=2.5)
    with pytest.raises(ValueError, match=r"decoder: expected .*'gauss'"):
        discretized_log_prob(f64(0.0), f64(0.0), 1.0, decoder="gauss")


# --- bits per dimension, where the answer is known

POINT = -1 + 2 * 77 / 255
AT_POINT = GaussianMixture([1.0], [[POINT, POINT]], [1e-9])


@pytest.mark.equation("eq-bits-point")
@pytest.mark.equation("def-bits")
def test_a_single_point_costs_the_golden_numbers() -> None:
    """Steps 0 or 0.4864, decoder 1.3054 with beta-tilde_2 and 1.7128 with beta_1, for any D."""
    model = optimal_noise(AT_POINT, LINEAR)
    x_0 = torch.full((2, 2), POINT, dtype=F64)
    for variance, first, steps, decoder in (
        ("large", "original", 0.48641923, 1.30537766),
        ("small", "original", 0.0, 1.30537766),
        ("large", "beta", 0.48641923, 1.71284602),
    ):
        bits = bits_per_dim(
            model,
            x_0,
            LINEAR,
            variance=variance,
            first_step=first,
            generator=generator(),
        )
        assert bits.steps.shape == (999, 2)
        assert bits.steps.sum(0).tolist() == pytest.approx([steps] * 2, abs=1e-6)
        assert bits.decoder.tolist() == pytest.approx([decoder] * 2, abs=1e-6)
        prior = (4.0358297653756754e-05 * POINT**2) / 2 / math.log(2)
        assert bits.prior.tolist() == pytest.approx([prior] * 2, abs=1e-9)
        assert bits.mean == pytest.approx(prior + steps + decoder, abs=1e-6)


@pytest.mark.equation("eq-bits-terms")
@pytest.mark.equation("def-bits")
def test_the_prior_term_has_the_golden_numbers() -> None:
    for value, golden in ((1.0, 2.9113e-05), (0.0, 5.8748e-10)):
        bits = bits_per_dim(
            network,
            torch.full((1, 3), value, dtype=F64),
            LINEAR,
            num_timesteps=1,
            decoder="continuous",
        )
        assert bits.prior.item() == pytest.approx(golden, rel=1e-4)


@pytest.mark.equation("eq-bits-normal")
def test_normal_data_cost_their_entropy() -> None:
    """Each term's mean in closed form: a quadratic in x_0 and the noise; the sum is the entropy to 1e-10.

    The terms are quadratic in (x_0, noise), so their means follow from values at a few points:
    E f = f(0,0) + half the second differences, for standard normal arguments.
    """
    model = optimal_noise(GaussianMixture([1.0], [[0.0]], [1.0]), TWENTY)

    def terms(x_0: float, noise: float, monkeypatch: pytest.MonkeyPatch) -> float:
        monkeypatch.setattr(
            "ddpm_nb.evaluation.noise_for",
            lambda shape, *rest: lambda t: torch.full(shape, noise, dtype=F64),
        )
        bits = bits_per_dim(
            model,
            torch.full((1, 1), x_0, dtype=F64),
            TWENTY,
            first_step="beta",
            clip=False,
            decoder="continuous",
        )
        return bits.mean

    with pytest.MonkeyPatch.context() as patch:
        at = {
            (x, e): terms(x, e, patch)
            for x, e in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
        }
    mean = at[0, 0]
    mean += (at[1, 0] + at[-1, 0] - 2 * at[0, 0]) / 2
    mean += (at[0, 1] + at[0, -1] - 2 * at[0, 0]) / 2
    assert mean == pytest.approx(0.5 * math.log2(2 * math.pi * math.e), abs=1e-10)


@pytest.mark.equation("eq-bits-normal")
def test_normal_data_cost_more_with_another_variance() -> None:
    model = optimal_noise(GaussianMixture([1.0], [[0.0]], [1.0]), TWENTY)
    x_0 = torch.randn(20_000, 1, dtype=F64, generator=generator())
    entropy = 0.5 * math.log2(2 * math.pi * math.e)
    options = {
        "first_step": "beta",
        "clip": False,
        "decoder": "continuous",
        "batch_size": 20_000,
    }
    large = bits_per_dim(model, x_0, TWENTY, generator=generator(1), **options)
    small = bits_per_dim(
        model, x_0, TWENTY, variance="small", generator=generator(1), **options
    )
    bar = (large.interval[1] - large.interval[0]) / 2
    assert abs(large.mean - entropy) < 2.5 * bar
    assert small.mean > entropy + 5 * bar


@pytest.mark.equation("def-bits")
@pytest.mark.parametrize("variance", ["large", "small"])
def test_never_below_the_entropy(variance: str) -> None:
    """Two pixels on four levels, with a known joint distribution."""
    rng = np.random.default_rng(3)
    table = rng.dirichlet(np.ones(16))
    entropy = -(table * np.log2(table)).sum() / 2  # per dimension
    level = torch.linspace(-1, 1, 4, dtype=F64)
    pairs = torch.cartesian_prod(level, level)
    schedule = Schedule.cosine(T=100)
    model = optimal_noise(
        GaussianMixture(torch.tensor(table), pairs, [1e-6] * 16), schedule
    )
    index = torch.tensor(rng.choice(16, 2000, p=table))
    bits = bits_per_dim(
        model,
        pairs[index],
        schedule,
        variance=variance,
        levels=4,
        batch_size=2000,
        generator=generator(),
    )
    # The pictures' own scatter is known exactly: compare with what these very pictures cost.
    own = -torch.tensor(np.log2(table))[index] / 2
    excess = bits.total - own
    bar = float(excess.std()) / 2000**0.5
    assert excess.mean() > -2 * bar
    assert excess.mean() < 1
    assert abs(float(own.mean()) - entropy) < 0.2


# --- each term, by another way


def by_hand(x: float, mean: float, var_1: float, mean_2: float, var_2: float) -> float:
    """KL by a fine sum over the textbook densities, in bits."""
    grid = np.linspace(mean - 12 * var_1**0.5, mean + 12 * var_1**0.5, 20_001)
    p, q = normal_pdf(grid, mean, var_1), normal_pdf(grid, mean_2, var_2)
    return float(np.trapezoid(p * np.log2(p / q), grid))


@pytest.mark.equation("eq-bits-terms")
@pytest.mark.equation("def-bits")
@pytest.mark.parametrize("variance", ["large", "small"])
@pytest.mark.parametrize("clip", [False, True])
def test_each_term_is_the_divergence_of_the_two_steps_back(
    variance: str, clip: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Posteriors by adding precisions, the model's mean from its own guess, divergences by quadrature."""
    draws: list[Tensor] = []

    def drawn(shape: tuple[int, ...], *rest: object) -> Tensor:
        draws.append(
            torch.randn(shape, dtype=F64, generator=generator(len(draws) + 10))
        )
        return draws[-1]

    monkeypatch.setattr(
        "ddpm_nb.evaluation.noise_for", lambda shape, *rest: lambda t: drawn(shape)
    )
    schedule = Schedule([0.1, 0.3, 0.4])
    x_0 = f64(0.2, -1.0, 1.0)[:, None]
    bits = bits_per_dim(
        network,
        x_0,
        schedule,
        variance=variance,
        clip=clip,
        levels=6,
        generator=generator(),
    )
    bar, beta = [1, 0.9, 0.9 * 0.7, 0.9 * 0.7 * 0.6], [0, 0.1, 0.3, 0.4]
    assert bits.t.tolist() == [[2] * 3, [3] * 3]
    assert bits.weight.tolist() == [1, 1]
    clipped = 0
    for i, start in enumerate(x_0[:, 0].tolist()):
        expected = {}
        for t in (1, 2, 3):
            eps = float(draws[t - 1][i, 0])
            x_t = bar[t] ** 0.5 * start + (1 - bar[t]) ** 0.5 * eps
            answer = float(network(f64(x_t)[:, None], torch.tensor([t])))
            guess = (x_t - (1 - bar[t]) ** 0.5 * answer) / bar[t] ** 0.5
            if clip:
                clipped += abs(guess) > 1
                guess = min(1.0, max(-1.0, guess))
            assert bits.squared_error[t - 1, i].item() == pytest.approx(
                (guess - start) ** 2, rel=1e-9, abs=1e-12
            )
            if t == 1:
                var = 1 / (0.7 / 0.3 + 1 / 0.1)  # the posterior's at t = 2
                low = -np.inf if start == -1 else start - 0.2
                high = np.inf if start == 1 else start + 0.2
                mass = norm.cdf((high - guess) / var**0.5) - norm.cdf(
                    (low - guess) / var**0.5
                )
                expected[t] = -np.log2(mass)
                continue
            var = 1 / ((1 - beta[t]) / beta[t] + 1 / (1 - bar[t - 1]))

            def mean(
                picture: float, x_t: float = x_t, t: int = t, var: float = var
            ) -> float:
                return var * (
                    (1 - beta[t]) ** 0.5 * x_t / beta[t]
                    + bar[t - 1] ** 0.5 * picture / (1 - bar[t - 1])
                )

            expected[t] = by_hand(
                start,
                mean(start),
                var,
                mean(guess),
                beta[t] if variance == "large" else var,
            )
        assert bits.decoder[i].item() == pytest.approx(expected[1], rel=1e-6)
        assert bits.steps[0, i].item() == pytest.approx(expected[2], rel=1e-6, abs=1e-9)
        assert bits.steps[1, i].item() == pytest.approx(expected[3], rel=1e-6, abs=1e-9)
        prior = by_hand(0, bar[3] ** 0.5 * start, 1 - bar[3], 0.0, 1.0)
        assert bits.prior[i].item() == pytest.approx(prior, rel=1e-6)
    assert (clipped > 0) == clip


@pytest.mark.equation("def-bits")
@pytest.mark.parametrize("size", [1, 2, 5])
def test_dimensions_are_averaged_and_batches_change_nothing(size: int) -> None:
    """A picture of six equal pixels with equal noise costs per dimension what one pixel costs, term by term."""
    x, noise = LEVELS[[3, 99, 200, 255, 0]][:, None], CounterNoise(0, (1,))
    one = bits_per_dim(network, x, LINEAR, num_timesteps=40, generator=noise)
    wide = bits_per_dim(
        network,
        x.repeat(1, 6).reshape(5, 1, 2, 3),
        LINEAR,
        num_timesteps=40,
        batch_size=size,
        generator=lambda pictures, t: (
            noise(pictures, t).repeat(1, 6).reshape(-1, 1, 2, 3)
        ),
    )
    assert one.t.shape == one.steps.shape == (40, 5)
    assert one.squared_error.shape == (41, 5)
    for name in ("prior", "t", "steps", "weight", "decoder", "squared_error", "total"):
        assert torch.allclose(getattr(wide, name), getattr(one, name), rtol=1e-9), name


# --- the estimate


@pytest.mark.equation("eq-strata")
@pytest.mark.parametrize("times", [1, 2, 7, 13, 19])
def test_blocks_cover_every_time_once(times: int) -> None:
    """Over many draws each time from 2 to T turns up in one block only, and blocks are as long as their weight."""
    x_0 = torch.zeros(4000, 1, dtype=F64)
    bits = bits_per_dim(
        network,
        x_0,
        TWENTY,
        num_timesteps=times,
        decoder="continuous",
        batch_size=4000,
        generator=generator(),
    )
    met = [set(row.tolist()) for row in bits.t]
    assert sorted(t for block in met for t in block) == list(range(2, 21))
    assert [len(block) for block in met] == bits.weight.tolist()
    for row, weight in zip(bits.t, bits.weight.tolist()):
        counts = row.bincount()[row.unique()].double()
        assert (counts / 4000 - 1 / weight).abs().max() < 5 * (1 / weight / 4000) ** 0.5


@pytest.mark.equation("eq-strata")
def test_intervals_cover_the_full_evaluation_95_times_of_100() -> None:
    """Populations of 4,000 pictures, evaluated at all times; 400 estimates from 60 pictures and 4 times each."""
    rng = generator(5)
    x_0 = LEVELS[torch.randint(0, 256, (4000, 3), generator=rng)]
    full = bits_per_dim(network, x_0, TWENTY, batch_size=4000, generator=rng).mean
    covered, widths = 0, []
    for _ in range(400):
        some = x_0[torch.randint(0, 4000, (60,), generator=rng)]
        low, high = bits_per_dim(
            network, some, TWENTY, num_timesteps=4, generator=rng
        ).interval
        covered += low < full < high
        widths.append(high - low)
    assert 0.91 <= covered / 400 <= 0.985
    assert np.mean(widths) < 0.5 * full


@pytest.mark.equation("eq-strata")
def test_the_interval_is_the_textbooks() -> None:
    one = torch.ones(4, dtype=F64)
    bits = BitsPerDim(
        prior=one,
        t=torch.tensor([[2] * 4, [5] * 4]),
        steps=torch.stack([f64(1, 2, 3, 4), f64(0, 0, 1, 1)]),
        weight=torch.tensor([1, 3]),
        decoder=2 * one,
        squared_error=torch.zeros(3, 4),
    )
    assert bits.total.tolist() == [4, 5, 9, 10]
    assert bits.mean == 7
    half = 1.96 * np.std([4, 5, 9, 10], ddof=1) / 2
    assert bits.interval == pytest.approx((7 - half, 7 + half))
    alone = BitsPerDim(
        *(getattr(bits, n)[..., :1] for n in ("prior", "t", "steps")),
        bits.weight,
        bits.decoder[:1],
        bits.squared_error[:, :1],
    )
    with pytest.raises(ValueError, match="interval: expected at least 2 pictures"):
        _ = alone.interval


@pytest.mark.equation("def-bits")
def test_a_full_evaluation_asks_about_every_time_once_and_quietly() -> None:
    net = Recorder()
    bits = bits_per_dim(net, torch.zeros(2, 1), TWENTY, levels=3)
    assert net.training
    assert net.seen == [([t, t], False, False) for t in range(1, 21)]
    assert bits.prior.dtype == F64
    assert not bits.total.requires_grad


def test_evaluation_refuses_bad_input() -> None:
    good = torch.zeros(2, 1)
    for wrong, message in (
        (good, "x_0: expected pictures on 256 levels"),
        (good + 3, "x_0: expected pictures on 256 levels"),
        (good * math.nan, "x_0: expected pictures on 256 levels"),
        (torch.zeros(0, 1), "x_0: expected shape"),
        (torch.zeros(3), "x_0: expected shape"),
    ):
        with pytest.raises(ValueError, match=message):
            bits_per_dim(network, wrong, TWENTY)
    for wrong in (torch.zeros(2, 1, dtype=torch.uint8), [0.0]):
        with pytest.raises(TypeError, match="x_0: expected a floating-point tensor"):
            bits_per_dim(network, wrong, TWENTY)
    on_level = torch.ones(2, 1)
    for option, message in (
        ({"num_timesteps": 0}, r"num_timesteps: expected 1 \.\.\. 19, got 0"),
        ({"num_timesteps": 20}, "num_timesteps: expected"),
        ({"variance": "huge"}, "variance: expected"),
        ({"first_step": "none"}, "first_step: expected"),
        ({"decoder": "none"}, "decoder: expected"),
        ({"levels": 1}, "levels: expected"),
    ):
        with pytest.raises(ValueError, match=message):
            bits_per_dim(network, on_level, TWENTY, **option)
    with pytest.raises(ValueError, match="for T = 1"):
        bits_per_dim(network, on_level, Schedule([0.5]))
    with pytest.raises(ValueError, match="variance: expected"):  # though no step has it
        bits_per_dim(
            network, on_level, Schedule([0.5]), first_step="beta", variance="huge"
        )
    alone = bits_per_dim(network, on_level, Schedule([0.5]), first_step="beta")
    assert alone.steps.shape == (0, 2)
    assert alone.total.isfinite().all()
    with pytest.raises(ValueError, match=r"use schedule\.to"):
        bits_per_dim(nn.Linear(1, 1, device="meta"), on_level, TWENTY)
    with pytest.raises(ValueError, match="model: expected an answer of shape"):
        bits_per_dim(lambda x, t: x[:, :1], torch.ones(2, 3), TWENTY)
    elsewhere = torch.ones(2, 3, device="meta")
    with pytest.raises(ValueError, match="x_0: expected pictures on cpu"):
        bits_per_dim(network, elsewhere, TWENTY, decoder="continuous")


def test_progress_is_off_unless_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    for progress in (False, True):
        bits_per_dim(
            network,
            torch.ones(4, 1),
            TWENTY,
            num_timesteps=1,
            batch_size=2,
            progress=progress,
        )
        out, err = capsys.readouterr()
        assert out == ""
        assert ("2/2" in err) == progress


# --- rate and distortion


@pytest.mark.equation("def-rate-distortion")
def test_the_curve_counts_what_has_been_sent() -> None:
    """Three steps, by hand: T = 4, so the rows are t = 2, 3, 4."""
    bits = BitsPerDim(
        prior=f64(0.1, 0.3),
        t=torch.tensor([[2, 2], [3, 3], [4, 4]]),
        steps=torch.stack([f64(4, 6), f64(2, 2), f64(1, 1)]),
        weight=torch.ones(3, dtype=torch.int64),
        decoder=f64(3, 5),
        squared_error=torch.stack(
            [f64(0, 0.02), f64(0.04, 0.04), f64(0.1, 0.4), f64(1, 1)]
        ),
    )
    curve = rate_distortion(bits, levels=11)
    assert curve.t.tolist() == [4, 3, 2, 1, 0]
    assert curve.rate.tolist() == pytest.approx([0.2, 1.2, 3.2, 8.2, 12.2])
    assert curve.rate[-1].item() == pytest.approx(bits.mean)
    expected = [5 * v**0.5 for v in (1, 0.25, 0.04, 0.01, 0)]
    assert curve.distortion.tolist() == pytest.approx(expected)


@pytest.mark.equation("def-rate-distortion")
def test_a_block_stands_at_the_mean_of_its_rates() -> None:
    """T = 5, blocks {2} and {3, 4, 5}, two bits a message: 0, 2 and 4 bits sent at t = 5, 4, 3."""
    bits = BitsPerDim(
        prior=f64(0.5),
        t=torch.tensor([[2], [4]]),
        steps=f64(7, 2)[:, None],
        weight=torch.tensor([1, 3]),
        decoder=f64(1),
        squared_error=f64(0, 1, 1)[:, None],
    )
    curve = rate_distortion(bits)
    assert curve.t.tolist() == [4, 2, 1, 0]
    assert curve.rate.tolist() == pytest.approx([2.5, 6.5, 13.5, 14.5])
    assert curve.distortion.tolist() == pytest.approx([127.5, 127.5, 0, 0])


@pytest.mark.equation("def-rate-distortion")
def test_the_curve_of_blocks_follows_the_full_curve() -> None:
    x_0 = LEVELS[torch.randint(0, 256, (3000, 2), generator=generator())]
    options = {"batch_size": 3000, "generator": generator()}
    full = rate_distortion(bits_per_dim(network, x_0, TWENTY, **options))
    few = rate_distortion(
        bits_per_dim(network, x_0, TWENTY, num_timesteps=6, **options)
    )
    assert len(few.t) == 8
    order = full.t.flip(0).numpy()
    for name in ("rate", "distortion"):
        values = getattr(full, name)
        between = np.interp(few.t.numpy(), order, values.flip(0).numpy())
        spread = float(values.max() - values.min())
        assert np.abs(getattr(few, name).numpy() - between).max() < 0.08 * spread


@pytest.mark.equation("def-rate-distortion")
def test_for_normal_data_the_distortion_is_the_scatter_of_x_0() -> None:
    """Var(x_0 | x_t) = 1 - alpha_bar_t for N(0, 1): the best guess misses by its root."""
    model = optimal_noise(GaussianMixture([1.0], [[0.0]], [1.0]), TWENTY)
    x_0 = torch.randn(40_000, 1, dtype=F64, generator=generator())
    bits = bits_per_dim(
        model,
        x_0,
        TWENTY,
        clip=False,
        decoder="continuous",
        batch_size=40_000,
        generator=generator(1),
    )
    curve = rate_distortion(bits, levels=3)
    expected = (1 - TWENTY.alpha_bar).sqrt().flip(0)
    assert curve.t.tolist() == list(range(20, -1, -1))
    assert_close(curve.distortion, expected, rtol=0.02, atol=1e-9)


# --- Fréchet distance and Inception score


def with_moments(n: int, mean: np.ndarray, cov: np.ndarray) -> Tensor:
    """Points whose sample mean and covariance are exactly these."""
    d = len(mean)
    x = np.random.default_rng(n).standard_normal((n, d))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T).reshape(d, d))).T
    return torch.tensor(x @ np.linalg.cholesky(cov).T + mean)


@pytest.mark.equation("eq-frechet-axes")
def test_common_axes_give_the_sum_of_squared_differences() -> None:
    rng = np.random.default_rng(1)
    turn, _ = np.linalg.qr(rng.standard_normal((5, 5)))
    one, two = np.array([0.1, 1, 2, 3, 0.5]), np.array([2, 1, 0.3, 4, 0.01])
    mean_1, mean_2 = rng.standard_normal((2, 5))
    expected = ((mean_1 - mean_2) ** 2).sum() + ((one - two) ** 2).sum()
    got = frechet_distance(
        with_moments(40, mean_1, turn @ np.diag(one**2) @ turn.T),
        with_moments(60, mean_2, turn @ np.diag(two**2) @ turn.T),
    )
    assert got == pytest.approx(expected, rel=1e-10)


@pytest.mark.equation("def-frechet")
def test_different_axes_give_what_scipy_gives() -> None:
    rng = np.random.default_rng(2)
    for d in (1, 2, 7):
        roots = rng.standard_normal((2, d, d))
        cov_1, cov_2 = (a @ a.T + 0.1 * np.eye(d) for a in roots)
        mean_1, mean_2 = rng.standard_normal((2, d))
        expected = ((mean_1 - mean_2) ** 2).sum() + np.trace(
            cov_1 + cov_2 - 2 * sqrtm(cov_1 @ cov_2).real
        )
        x, y = with_moments(30, mean_1, cov_1), with_moments(50, mean_2, cov_2)
        assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)
        assert frechet_distance(y, x) == pytest.approx(expected, rel=1e-9)


@pytest.mark.equation("def-frechet")
def test_shifts_copies_and_singular_clouds() -> None:
    x = torch.randn(
        8, 20, dtype=F64, generator=generator()
    )  # fewer pictures than features
    shift = torch.linspace(-1, 1, 20, dtype=F64)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(x, x + shift) == pytest.approx(float(shift.square().sum()))
    doubled = frechet_distance(x, 2 * x)
    expected = float(x.var(dim=0).sum() + x.mean(0).square().sum())
    assert doubled == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(x.float(), x.float() + 1) == pytest.approx(20, rel=1e-5)


@pytest.mark.equation("def-frechet")
def test_small_samples_are_biased_upwards() -> None:
    rng = generator()
    small, large = (
        np.mean(
            [frechet_distance(*torch.randn(2, n, 5, generator=rng)) for _ in range(20)]
        )
        for n in (20, 200)
    )
    assert small > 5 * large > 0


def test_features_of_the_wrong_shape_are_refused() -> None:
    good = torch.randn(5, 3)
    for wrong in (torch.randn(5, 4), torch.randn(1, 3), torch.randn(5)):
        with pytest.raises(ValueError, match="features_2: expected shape"):
            frechet_distance(good, wrong)
    with pytest.raises(ValueError, match="features_1: expected finite"):
        frechet_distance(good * math.inf, good)


def supply(count: list[int]) -> Iterator[Tensor]:
    while True:
        count.append(1)
        yield torch.full((4, 1, 2, 2), float(len(count)))


@pytest.mark.equation("def-frechet")
def test_features_are_collected_until_there_are_enough() -> None:
    pulled: list[int] = []
    found = collect_features(lambda x: x.flatten(1)[:, :3], supply(pulled), n=10)
    assert found[:, 0].tolist() == [1.0] * 4 + [2.0] * 4 + [3.0] * 2
    assert len(pulled) == 3  # nothing is drawn that is not used
    with pytest.raises(ValueError, match="expected 50000 pictures, got 8"):
        collect_features(lambda x: x.flatten(1), [torch.zeros(8, 1, 2, 2)])
    with pytest.raises(TypeError, match="batches: expected a floating-point"):
        collect_features(
            lambda x: x.flatten(1), [torch.zeros(8, 3, dtype=torch.uint8)], n=8
        )
    with pytest.raises(ValueError, match=r"features: expected shape \(8, D\)"):
        collect_features(lambda x: x.mean(0)[None], [torch.zeros(8, 3)], n=8)


@pytest.mark.equation("def-inception-score")
def test_inception_score_of_cases_that_are_known() -> None:
    sure = torch.eye(10, dtype=F64).repeat(5, 1)
    assert inception_score(sure, splits=5) == pytest.approx((10, 0))
    assert inception_score(torch.full((20, 10), 0.1)) == pytest.approx((1, 0), abs=1e-6)
    # Two classes, 3/4 against 1/4: the mutual information of a noisy bit, 1 - H(1/4) bits.
    noisy = f64(0.75, 0.25, 0.25, 0.75).reshape(2, 2).repeat(3, 1)
    information = 1 + 0.25 * math.log2(0.25) + 0.75 * math.log2(0.75)
    assert inception_score(noisy, splits=1)[0] == pytest.approx(2**information)
    # One part is sure of one class, the other of all ten: scores 1 and 10.
    mixed = torch.cat([torch.eye(10)[:1].repeat(10, 1), torch.eye(10)])
    assert inception_score(mixed, splits=2) == pytest.approx((5.5, 4.5))


def test_inception_score_refuses_what_are_no_probabilities() -> None:
    for wrong in (torch.ones(4, 3), -torch.eye(3), torch.full((4, 2), math.nan)):
        with pytest.raises(ValueError, match="probabilities: expected rows"):
            inception_score(wrong, splits=1)
    for splits in (0, 5):
        with pytest.raises(ValueError, match=r"splits: expected 1 \.\.\. 4"):
            inception_score(torch.full((4, 2), 0.5), splits=splits)


# --- the papers' Inception, through a stand-in: the real one needs a download


class FakeExtractor(nn.Module):
    """Takes what torch-fidelity takes, answers with numbers that show what came in."""

    made: list[tuple[str, list[str], object]]

    def __init__(
        self, name: str, features_list: list[str], feature_extractor_weights_path=None
    ) -> None:
        super().__init__()
        self.made.append((name, features_list, feature_extractor_weights_path))

    def forward(self, x: Tensor) -> tuple[Tensor]:
        assert x.dtype == torch.uint8
        return (x.flatten(1).float(),)


@pytest.fixture
def fake_fidelity(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    package = types.ModuleType("torch_fidelity")
    module = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    FakeExtractor.made = []
    module.FeatureExtractorInceptionV3 = FakeExtractor
    monkeypatch.setitem(sys.modules, "torch_fidelity", package)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return FakeExtractor.made


def test_inception_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ImportError, match="pip install torch-fidelity"):
        inception()


@pytest.mark.equation("def-frechet")
def test_inception_gets_bytes_rounded_to_the_nearest_level(
    fake_fidelity: list[object],
) -> None:
    describe = inception(weights_path="file.pth")
    assert fake_fidelity == [("inception-v3-compat", ["2048"], "file.pth")]
    level = torch.arange(256)
    exact = (level / 127.5 - 1).repeat(3).reshape(1, 3, 16, 16)
    assert describe(exact).flatten().tolist() == level.repeat(3).tolist()
    moved = exact + torch.where(exact < 0, 0.45, -0.45) * 2 / 255
    assert describe(moved).flatten().tolist() == level.repeat(3).tolist()
    outside = torch.tensor([-7.0, 1.01, 7.0]).reshape(1, 3, 1, 1)
    assert describe(outside).tolist() == [[0, 255, 255]]
    for wrong in (torch.zeros(2, 1, 8, 8), torch.zeros(3, 8, 8)):
        with pytest.raises(ValueError, match=r"expected shape \(B, 3, H, W\)"):
            describe(wrong)


@pytest.mark.equation("def-inception-score")
def test_inception_gives_probabilities_on_request(fake_fidelity: list[object]) -> None:
    describe = inception("probabilities")
    assert fake_fidelity[0][1] == ["logits_unbiased"]
    p = describe(torch.tensor([-1.0, -1.0, 1 / 127.5 - 1]).reshape(1, 3, 1, 1))
    assert p.tolist() == [
        pytest.approx([1 / (2 + math.e)] * 2 + [math.e / (2 + math.e)])
    ]
    with pytest.raises(ValueError, match="output: expected"):
        inception("pixels")


# --- views of the sampler


@pytest.mark.equation("eq-predict-x0")
def test_progressive_generation_sees_each_time_as_the_sampler_does() -> None:
    """x_0-hat at t is the guess made from x_t: recompute it from the points of the walk."""
    shape = (3, 2)
    start = torch.randn(shape, dtype=F64, generator=generator())
    points = {20: start}
    for step in sample_steps(
        network, shape, TWENTY, clip=True, generator=generator(), dtype=F64
    ):
        points[step.t] = step.x
    times = (20, 7, 1, 0, 13)
    frames = progressive(
        network, shape, TWENTY, times, generator=generator(), dtype=F64
    )
    assert frames.shape == (5, 3, 2)
    for t, frame in zip(times, frames):
        if t == 0:
            assert torch.equal(frame, points[0])
            continue
        bar = TWENTY.alpha_bar[t]
        noise = network(points[t], torch.full((3,), t))
        guess = (points[t] - (1 - bar).sqrt() * noise) / bar.sqrt()
        assert torch.allclose(frame, guess.clamp(-1, 1), rtol=0, atol=1e-10), t
    for wrong in ((), (21,), (-1, 3)):
        with pytest.raises(
            ValueError, match=r"timesteps: expected some of 0 \.\.\. 20"
        ):
            progressive(network, shape, TWENTY, wrong)


@pytest.mark.equation("eq-sampling-step")
@pytest.mark.parametrize("variance", ["large", "small"])
@pytest.mark.parametrize("clip", [False, True])
def test_a_walk_from_the_top_is_algorithm_2(variance: str, clip: bool) -> None:
    options = {"variance": variance, "clip": clip}
    whole = algorithm_2(
        network, (3, 2), TWENTY, generator=generator(), dtype=F64, **options
    )
    rng = generator()
    x_T = torch.randn(3, 2, dtype=F64, generator=rng)
    assert torch.equal(
        denoise(network, x_T, 20, TWENTY, generator=rng, **options), whole
    )


@pytest.mark.equation("eq-sampling-step")
def test_a_walk_visits_the_times_from_t_down() -> None:
    net = Recorder()
    records = list(
        sample_steps(
            net, (2, 1), TWENTY, timesteps=range(5, -1, -1), x_T=torch.zeros(2, 1)
        )
    )
    assert [step.t for step in records] == [4, 3, 2, 1, 0]
    assert net.seen == [([t, t], False, False) for t in (5, 4, 3, 2, 1)]
    assert all(isinstance(step, Step) and not step.x.requires_grad for step in records)
    assert net.training


def test_walks_refuse_bad_input_at_once() -> None:
    x = torch.zeros(4, 1)
    for t in (0, 21):
        with pytest.raises(ValueError, match="t: expected"):
            denoise(network, x, t, TWENTY)
    with pytest.raises(TypeError, match="t: expected an int"):
        denoise(network, x, torch.tensor([3] * 4), TWENTY)
    with pytest.raises(ValueError, match="variance: expected"):
        denoise(network, x, 3, TWENTY, variance="huge")
    with pytest.raises(ValueError, match=r"use schedule\.to"):
        denoise(nn.Linear(1, 1, device="meta"), x, 3, TWENTY)
    with pytest.raises(ValueError, match="n: expected at least 1"):
        shared_latents(network, x, 3, 0, TWENTY)
    with pytest.raises(ValueError, match="x_0_other: expected shape"):
        interpolate(network, x, x[:2], 3, (0, 1), TWENTY)
    with pytest.raises(ValueError, match="lambdas: expected at least one"):
        interpolate(network, x, x, 3, (), TWENTY)


@pytest.mark.equation("eq-sampling-step")
def test_shared_latents_share_the_start_and_nothing_else() -> None:
    net = Recorder()
    x_t = torch.randn(2, 1, generator=generator())
    ends = shared_latents(net, x_t, 6, 5, TWENTY, generator=generator())
    assert ends.shape == (5, 2, 1)
    assert [seen[0] for seen in net.seen] == [[t] * 10 for t in (6, 5, 4, 3, 2, 1)]
    assert len(ends[:, 0].unique()) == 5
    # From t = 1 there is no fresh noise: all endings are one.
    same = shared_latents(network, x_t.double(), 1, 3, TWENTY)
    assert_close(same, same[:1].expand(3, 2, 1))
    # Picture i of every ending began at x_t[i].
    far = torch.tensor([[-50.0], [50.0]], dtype=F64)
    zero = shared_latents(lambda x, t: 0 * x, far, 3, 4, TWENTY, clip=False)
    assert (zero[:, 0] < 0).all()
    assert (zero[:, 1] > 0).all()


@pytest.mark.equation("def-interpolation")
@pytest.mark.parametrize("t", [1, 9, 20])
def test_the_ends_of_an_interpolation_are_plain_denoisings(t: int) -> None:
    """The same generator: one noise for both pictures, then the noise of the walk."""
    a, b = torch.randn(2, 3, 1, 2, 2, dtype=F64, generator=generator(1))
    mixed = interpolate(network, a, b, t, (0, 0.3, 1), TWENTY, generator=generator())
    assert mixed.shape == (3, 3, 1, 2, 2)
    for row, x_0 in ((0, a), (2, b)):
        rng = generator()
        noise = torch.randn(3, 1, 2, 2, dtype=F64, generator=rng)
        x_t = q_sample(x_0, t, noise, TWENTY)
        plain = denoise(network, x_t, t, TWENTY, clip=True, generator=rng)
        assert_close(mixed[row], plain, rtol=0, atol=1e-10)
    assert not torch.allclose(mixed[1], mixed[0], atol=1e-3)


@pytest.mark.equation("def-interpolation")
def test_interpolation_mixes_at_t_and_visits_t_down_to_1() -> None:
    seen: list[tuple[int, Tensor]] = []

    def spy(x: Tensor, t: Tensor) -> Tensor:
        assert len(t.unique()) == 1
        seen.append((int(t[0]), x))
        return network(x, t)

    a, b = torch.randn(2, 2, 3, dtype=F64, generator=generator(1))
    interpolate(spy, a, b, 7, (0.25, 0.5), TWENTY, generator=generator())
    assert [t for t, _ in seen] == [7, 6, 5, 4, 3, 2, 1]
    noise = torch.randn(2, 3, dtype=F64, generator=generator())
    bar = math.prod(1 - float(v) for v in TWENTY.beta[1:8])
    for share, x_t in zip((0.25, 0.5), seen[0][1].chunk(2)):
        double = (1 - share) * a + share * b
        expected = bar**0.5 * double + (1 - bar) ** 0.5 * noise
        assert_close(x_t, expected, rtol=0, atol=1e-12)
    # The walk's noise is shared too: equal starts stay equal.
    same = interpolate(network, a, a, 7, (0, 0.5, 1), TWENTY, generator=generator())
    assert_close(same, same[:1].expand_as(same), rtol=0, atol=1e-10)


# --- options that must arrive


@pytest.mark.equation("eq-strata")
def test_the_blocks_are_the_quadratic_ones() -> None:
    """The times that stand at the ends: 999 times in four blocks, dense near 2."""
    x = torch.ones(4000, 1, dtype=F64)
    bits = bits_per_dim(
        zero, x, LINEAR, num_timesteps=4, generator=generator(), batch_size=4000
    )
    assert bits.t.amin(1).tolist() == pytest.approx([2, 65, 252, 564], abs=2)
    assert bits.t.amax(1).tolist() == pytest.approx([64, 251, 563, 1000], abs=2)


@pytest.mark.equation("def-tanh-cdf")
def test_the_decoder_s_name_reaches_it() -> None:
    exact, tanh = (
        bits_per_dim(
            zero,
            LEVELS[:, None],
            TWENTY,
            num_timesteps=1,
            decoder=name,
            generator=generator(),
        ).decoder
        for name in ("exact", "tanh")
    )
    assert (exact - tanh).abs().max() > 1e-9


def test_the_generator_decides_everything() -> None:
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        results.append(
            bits_per_dim(
                network,
                torch.ones(8, 2),
                TWENTY,
                num_timesteps=3,
                generator=generator(),
            )
        )
    one, two = results
    assert torch.equal(one.t, two.t)
    assert torch.equal(one.total, two.total)
    assert one.total.dtype == F64  # though the pictures are float32


def test_nan_features_are_refused_on_both_sides() -> None:
    good = torch.randn(5, 3, generator=generator())
    for name, pair in (
        ("features_1", (good * math.nan, good)),
        ("features_2", (good, good * math.nan)),
    ):
        with pytest.raises(ValueError, match=f"{name}: expected finite"):
            frechet_distance(*pair)


def test_features_are_not_recorded_for_a_gradient() -> None:
    seen, layer = [], nn.Linear(1, 1)

    def describe(x: Tensor) -> Tensor:
        seen.append(torch.is_grad_enabled())
        return layer(x.flatten(1))

    batch = torch.zeros(2, 1, 1, 1)
    assert not collect_features(describe, [batch], n=2).requires_grad
    assert seen == [False]


def test_features_come_from_a_network_in_eval_mode_which_is_left_as_it_was() -> None:
    """Batch norm and dropout would describe a picture by its neighbours, and by chance."""
    describe = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Dropout(0.5))
    describe[2].eval()  # one part's mode is its own
    x = torch.randn(6, 1, 2, 2, generator=generator())
    found = collect_features(describe, x.split(2), n=6)
    assert_close(found, x.flatten(1) / (1 + 1e-5) ** 0.5)
    assert [part.training for part in describe] == [True, True, False]
    assert describe[1].num_batches_tracked == 0


@pytest.mark.equation("def-inception-score")
def test_the_score_is_the_exponential_of_the_mean() -> None:
    p = np.array([[1.0, 0, 0], [0.6, 0.3, 0.1], [0.2, 0.2, 0.6]])
    mean = p.mean(0)
    kl = [sum(a * math.log(a / b) for a, b in zip(row, mean) if a > 0) for row in p]
    score, _ = inception_score(torch.tensor(p), splits=1)
    assert score == pytest.approx(math.exp(sum(kl) / 3), rel=1e-12)


@pytest.mark.parametrize("variance", ["large", "small"])
@pytest.mark.parametrize("clip", [False, True])
def test_the_views_hand_variance_and_clip_on(variance: str, clip: bool) -> None:
    options = {"variance": variance, "clip": clip}
    walk = list(
        algorithm_2_steps(
            network, (2, 3), TWENTY, generator=generator(), dtype=F64, **options
        )
    )
    seen = progressive(
        network, (2, 3), TWENTY, (5, 0), generator=generator(), dtype=F64, **options
    )
    assert torch.equal(seen[0], walk[15].x_0_hat)
    assert torch.equal(seen[1], walk[-1].x)

    x = torch.randn(2, 3, dtype=F64, generator=generator(3))
    plain = denoise(
        network, x.repeat(4, 1), 9, TWENTY, generator=generator(), **options
    )
    ends = shared_latents(network, x, 9, 4, TWENTY, generator=generator(), **options)
    assert torch.equal(ends.flatten(0, 1), plain)

    rng = generator()
    noise = torch.randn(2, 3, dtype=F64, generator=rng)
    noisy = q_sample(x, 9, noise, TWENTY)
    end = denoise(network, noisy, 9, TWENTY, generator=rng, **options)
    mixed = interpolate(
        network, x, -x, 9, (0,), TWENTY, generator=generator(), **options
    )
    assert_close(mixed[0], end, rtol=0, atol=1e-12)


def test_float32_pictures_are_judged_in_float64(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The network gets float32; everything else would lose digits at t = 1."""
    monkeypatch.setattr(
        "ddpm_nb.evaluation.noise_for",
        lambda shape, *more: lambda t: torch.full(shape, 0.5, dtype=more[-1]),
    )
    x = torch.full((4, 3), 77 / 127.5 - 1)
    one, two = (
        bits_per_dim(zero, pictures, LINEAR).total for pictures in (x, x.double())
    )
    assert_close(one, two, rtol=1e-9, atol=0)


def test_inception_evaluates_where_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """One version of the package leaves its batch norms in training mode."""

    class Extractor(nn.Module):
        def __init__(self, *given: object, **options: object) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> tuple[Tensor]:
            assert not self.training
            return (x.flatten(1) * self.norm.weight[:1],)

    module = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = Extractor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("t"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    found = inception(device="meta")(torch.zeros(2, 3, 4, 4))
    assert found.device.type == "meta"


def test_bytes_are_no_pictures_to_walk_from() -> None:
    x = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    with pytest.raises(TypeError, match="x_t: expected a floating-point"):
        denoise(network, x, 3, TWENTY)
    with pytest.raises(TypeError, match="x_0: expected a floating-point"):
        interpolate(network, x, x, 3, (0.5,), TWENTY)
    with pytest.raises(TypeError, match=r"timesteps: expected an int, got 3\.5"):
        progressive(network, (2, 1), TWENTY, (3.5,))
    with pytest.raises(ValueError, match="n: expected at least 1"):
        collect_features(nn.Flatten(), [x.float()], n=0)


# --- a picture's numbers are its own


def sources(n: int, shape: tuple[int, ...]) -> dict[str, object]:
    """Everything but a plain generator, for pictures 0 ... n - 1."""
    noise = CounterNoise(7, shape)
    return {
        "counter": noise,
        "function": lambda pictures, t: noise(pictures, t).double(),
        "list": [generator(seed) for seed in range(n)],
    }


KINDS = ("counter", "function", "list")
ROWS = ("prior", "t", "steps", "decoder", "squared_error", "total")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("times", [None, 4])
def test_a_picture_s_bits_depend_on_no_other_picture(
    kind: str, times: int | None
) -> None:
    """Whatever the batch, and however many pictures are given; from number 2 on as well."""
    x_0 = LEVELS[torch.randint(0, 256, (8, 3), generator=generator())]

    def bits(n: int, size: int, first: int = 0) -> BitsPerDim:
        source = sources(8, (3,))[kind]
        if isinstance(source, list):
            source = source[first : first + n]
        elif first:
            source = CounterNoise(7, (3,), first=first)
        return bits_per_dim(
            network,
            x_0[first : first + n],
            TWENTY,
            num_timesteps=times,
            batch_size=size,
            generator=source,
        )

    whole = bits(8, 8)
    for n, size, first in ((8, 1, 0), (8, 3, 0), (3, 2, 0), (5, 4, 2)):
        part = bits(n, size, first)
        for name in ROWS:
            value = getattr(whole, name)[..., first : first + n]
            assert torch.equal(getattr(part, name), value), (name, n, size)
    assert len({tuple(column) for column in whole.steps.T.tolist()}) == 8


@pytest.mark.parametrize("times", [None, 3])
def test_the_source_decides_the_noise_of_each_time(times: int | None) -> None:
    """The x_t that the network sees, from the noise that the source has for it."""
    seen: list[tuple[Tensor, Tensor]] = []

    def spy(x: Tensor, t: Tensor) -> Tensor:
        seen.append((x, t))
        return network(x, t)

    noise = CounterNoise(3, (2,))
    x_0 = LEVELS[torch.tensor([[0, 7], [99, 255], [128, 3]])]
    bits = bits_per_dim(spy, x_0, TWENTY, num_timesteps=times, generator=noise)
    # Quadratic blocks of 2 ... 20 for three times: they end at 4, 10 and 20.
    blocks = range(1, 21) if times is None else (1, 4, 10, 20)
    for last, (x_t, t) in zip(blocks, seen, strict=True):
        expected = q_sample(x_0, t, noise(torch.arange(3), last).double(), TWENTY)
        assert_close(x_t, expected, rtol=0, atol=1e-12)
        assert (t <= last).all()
        assert times is not None or (t == last).all()
    assert torch.equal(torch.stack([t for _, t in seen[1:]]), bits.t)


@pytest.mark.equation("eq-strata")
@pytest.mark.parametrize("kind", KINDS)
def test_times_by_a_source_are_even_and_independent(kind: str) -> None:
    """All times of a block equally often (chi squared), blocks and noise uncorrelated, the estimate unbiased."""
    n = 6000
    x_0 = torch.zeros(n, 1, dtype=F64) + LEVELS[200]
    options = {"batch_size": n, "generator": sources(n, (1,))[kind]}
    points: list[Tensor] = []

    def spy(x: Tensor, t: Tensor) -> Tensor:
        points.append(x)
        return network(x, t)

    bits = bits_per_dim(spy, x_0, LINEAR, num_timesteps=4, **options)
    position = []
    for row, low, w in zip(bits.t, (2, 65, 252, 564), bits.weight.tolist()):
        assert row.min() >= low
        assert row.max() < low + w
        share = (row.double() - low + 0.5) / w
        position.append(share)
        count = torch.histc(share, min(w, 20), 0, 1).numpy()
        even = torch.histc((torch.arange(w) + 0.5).double() / w, min(w, 20), 0, 1)
        assert chisquare(count, (even / w * n).numpy()).pvalue > 1e-4
    signal = LINEAR.alpha_bar[bits.t].sqrt()
    noise = [(x[:, 0] - root * x_0[:, 0]) for x, root in zip(points[1:], signal)]
    table = torch.corrcoef(torch.stack([*position, *noise]))
    assert (table - torch.eye(8)).abs().max() < 4.5 / n**0.5

    full = bits_per_dim(network, x_0, TWENTY, **options)
    some = bits_per_dim(network, x_0, TWENTY, num_timesteps=5, **options)
    difference = some.total - full.total
    assert abs(difference.mean()) < 4 * difference.std() / n**0.5


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_decides_every_view_and_each_picture_alone(kind: str) -> None:
    """Two pictures of five, in batches of three and of one: the same endings and the same mixtures."""
    x, y = torch.randn(2, 5, 3, dtype=F64, generator=generator(3))

    def views(n: int, size: int, endings: int) -> list[Tensor]:
        def source() -> object:
            made = sources(5, (3,))[kind]
            return made[:n] if isinstance(made, list) else made

        many = {"batch_size": size}
        return [
            shared_latents(
                network, x[:n], 9, endings, TWENTY, generator=source(), **many
            ),
            interpolate(
                network, x[:n], y[:n], 9, (0, 0.4), TWENTY, generator=source(), **many
            ),
            progressive(
                network, (n, 3), TWENTY, (7, 0), generator=source(), dtype=F64, **many
            ),
            denoise(network, x[:n], 9, TWENTY, clip=True, generator=source(), **many)[
                None
            ],
        ]

    for whole, part in zip(views(5, 15, 3), views(2, 3, 3)):
        assert_close(part, whole[:, :2], rtol=0, atol=1e-12)
        assert whole.std(dim=1).min() > 1e-3
    if kind != "list":  # by counter an ending does not depend on how many there are
        shared, more = views(2, 1, 2)[0], views(2, 1, 4)[0]
        assert_close(shared, more[:2], rtol=0, atol=1e-12)
        # The first ending is the plain one, and no two are alike.
        assert_close(more[0], views(2, 1, 1)[3][0], rtol=0, atol=1e-12)
    endings = views(2, 1, 4)[0]
    apart = torch.cdist(endings[:, 0], endings[:, 0]) + torch.eye(4)
    assert apart.min() > 1e-3


def test_the_two_noises_of_an_interpolation_are_different_ones() -> None:
    """What is put into x_t is the source's noise of t, and line 4 adds that of t - 1, ..., 1."""
    asked: list[int] = []
    noise = CounterNoise(1, (2,))

    def source(pictures: Tensor, t: int) -> Tensor:
        asked.append(t)
        assert pictures.tolist() == [0, 1, 2]
        return noise(pictures, t)

    x = torch.zeros(3, 2)
    interpolate(network, x, x, 6, (0, 0.5, 1), TWENTY, generator=source)
    assert asked == [6, 5, 4, 3, 2, 1]


def test_generators_must_be_as_many_as_pictures() -> None:
    x = torch.ones(4, 2)
    for n in (3, 5):
        rngs = [generator(i) for i in range(n)]
        for call in (
            lambda: bits_per_dim(network, x, TWENTY, batch_size=2, generator=rngs),  # noqa: B023
            lambda: shared_latents(network, x, 3, 2, TWENTY, generator=rngs),  # noqa: B023
            lambda: interpolate(network, x, x, 3, (0, 1), TWENTY, generator=rngs),  # noqa: B023
        ):
            with pytest.raises(ValueError, match="generator: expected one"):
                call()


# --- many pictures


class Sizes:
    """A network that writes down how many pictures it got, and mixes none of them."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.seen.append(len(x))
        assert len(t) == len(x)
        return network(x, t)


def test_no_view_gives_the_network_more_than_a_batch() -> None:
    """In batches of 1, 4 and 128 the results are those of all at once."""
    x, y = torch.randn(2, 6, 3, dtype=F64, generator=generator(3))
    a, b = x[:2], y[:2]
    for view, times in (
        (lambda net, **o: denoise(net, x, 5, TWENTY, **o), 5),
        (lambda net, **o: shared_latents(net, a, 5, 3, TWENTY, **o), 5),
        (lambda net, **o: interpolate(net, a, b, 5, (0, 0.3, 1), TWENTY, **o), 5),
        (lambda net, **o: progressive(net, (6, 3), TWENTY, (4, 0), dtype=F64, **o), 20),
    ):
        results = []
        for size, seen in ((6, [6]), (1, [1] * 6), (4, [4, 2]), (128, [6])):
            net = Sizes()
            results.append(view(net, batch_size=size, generator=generator()))
            assert net.seen == seen * times
            assert_close(results[-1], results[0], rtol=0, atol=1e-12)
        net = Sizes()
        many = view(net, generator=generator())
        assert torch.equal(many, results[-1])  # 128 is the default
        with pytest.raises(ValueError, match="batch_size: expected at least 1"):
            view(net, batch_size=0)
        with pytest.raises(TypeError, match="batch_size: expected an int"):
            view(net, batch_size=2.0)
    with pytest.raises(ValueError, match="batch_size: expected at least 1"):
        bits_per_dim(network, torch.ones(2, 1), TWENTY, batch_size=0)


def test_the_levels_are_looked_at_in_all_batches() -> None:
    x_0 = torch.ones(5, 1)
    x_0[4] = 0.5
    with pytest.raises(ValueError, match="x_0: expected pictures on 256 levels"):
        bits_per_dim(network, x_0, TWENTY, batch_size=2)


def test_views_in_batches_leave_a_module_as_it_was() -> None:
    net = Recorder()
    walk = sample_steps(InBatches(net, 2), (3, 1), TWENTY, timesteps=(2, 1, 0))
    for step in walk:
        assert net.training
        assert not step.x.requires_grad
    shared_latents(net, torch.zeros(3, 1), 2, 2, TWENTY, batch_size=4)
    progressive(net, (3, 1), TWENTY, (0,))
    assert net.training
    assert {seen[1:] for seen in net.seen} == {(False, False)}


# --- off the CPU


def test_tables_in_float32_are_worked_out_again_in_float64() -> None:
    """As on a device without float64. 1 - alpha_bar_1 of a rounded table has four digits; a beta has seven."""
    rounded = copy.copy(LINEAR)
    for name in ("beta", "alpha", "alpha_bar"):
        object.__setattr__(rounded, name, getattr(LINEAR, name).float())
    x_0 = LEVELS[torch.randint(0, 256, (5, 3), generator=generator())].float()

    def quiet(x: Tensor, t: Tensor) -> Tensor:
        assert x.dtype == torch.float32
        return x.tanh()

    for times in (None, 30):
        for decoder in ("exact", "tanh", "continuous"):
            exact, near = (
                bits_per_dim(
                    quiet,
                    x_0,
                    schedule,
                    num_timesteps=times,
                    decoder=decoder,
                    generator=generator(),
                )
                for schedule in (LINEAR, rounded)
            )
            assert torch.equal(exact.t, near.t)
            for name in ("prior", "steps", "decoder", "total"):
                value = getattr(near, name)
                assert value.dtype == F64
                assert torch.allclose(value, getattr(exact, name), rtol=2e-5), name
    assert all(v.dtype == F64 for v in vars(rate_distortion(near)).values())


def test_numbers_without_float64_are_judged_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What asks for float64 has come to the CPU before; for log_ndtr, see test_devices.py."""
    moved: list[int] = []
    cpu = Tensor.cpu

    def note(x: Tensor) -> Tensor:
        moved.append(id(x))
        return cpu(x)

    monkeypatch.setattr(Tensor, "cpu", note)
    p = torch.full((4, 2), 0.5)
    inception_score(p, splits=1)
    assert id(p) in moved


def test_whole_numbers_of_numpy_are_welcome_here_too() -> None:
    x = torch.ones(4, 2)
    two, three = np.int64(2), np.int8(3)
    bits = bits_per_dim(
        network, x, TWENTY, num_timesteps=three, batch_size=two, generator=generator()
    )
    assert bits.t.shape == (3, 4)
    assert shared_latents(network, x, three, two, TWENTY).shape == (2, 4, 2)
    assert denoise(network, x, three, TWENTY, batch_size=two).shape == (4, 2)
    assert len(progressive(network, (1, 2), TWENTY, np.arange(0, 4))) == 4
    assert len(collect_features(nn.Flatten(), [x], n=three)) == 3
    assert inception_score(torch.full((4, 2), 0.5), splits=two)[1] == 0
    for call in (
        lambda: bits_per_dim(network, x, TWENTY, num_timesteps=2.0),
        lambda: bits_per_dim(network, x, TWENTY, num_timesteps=True),
        lambda: shared_latents(network, x, 3, 2.0, TWENTY),
        lambda: denoise(network, x, 3.0, TWENTY),
        lambda: collect_features(nn.Flatten(), [x], n=3.0),
        lambda: inception_score(torch.full((4, 2), 0.5), splits=2.0),
    ):
        with pytest.raises(TypeError, match="expected an int, got"):
            call()


# --- options: left out, each is what the page says; given, each makes a difference

COARSE = LEVELS[torch.randint(0, 16, (130, 2), generator=torch.Generator()) * 17]
X, Y = torch.randn(2, 4, 3, dtype=F64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("call", "choices"),
    [
        (
            lambda **o: (
                bits_per_dim(network, COARSE, TWENTY, generator=generator(), **o).total
            ),
            {
                "num_timesteps": (None, 18),
                "variance": ("large", "small"),
                "first_step": ("original", "beta"),
                "clip": (True, False),
                "decoder": ("exact", "tanh"),
                "levels": (256, 16),
                "batch_size": (128, 65),
            },
        ),
        (
            lambda **o: discretized_log_prob(COARSE, 0.9 * COARSE, 1e-4, **o),
            {"levels": (256, 16), "decoder": ("exact", "tanh")},
        ),
        (
            lambda **o: denoise(network, X, 9, TWENTY, generator=generator(), **o),
            {"variance": ("large", "small"), "clip": (False, True)},
        ),
        (
            lambda **o: progressive(
                network, (4, 3), TWENTY, (9, 0), generator=generator(), **o
            ),
            {
                "variance": ("large", "small"),
                "clip": (True, False),
                "dtype": (None, F64),
            },
        ),
        (
            lambda **o: shared_latents(
                network, X, 9, 2, TWENTY, generator=generator(), **o
            ),
            {"variance": ("large", "small"), "clip": (True, False)},
        ),
        (
            lambda **o: interpolate(
                network, X, Y, 9, (0.3,), TWENTY, generator=generator(), **o
            ),
            {"variance": ("large", "small"), "clip": (True, False)},
        ),
        (
            lambda **o: (
                rate_distortion(
                    bits_per_dim(network, COARSE, TWENTY, generator=generator()), **o
                ).distortion
            ),
            {"levels": (256, 255)},
        ),
        (
            lambda **o: torch.tensor(
                inception_score(torch.tensor([[0.1, 0.9], [0.6, 0.4]] * 10), **o)
            ),
            {"splits": (10, 7)},
        ),
    ],
    ids=lambda value: None,
)
def test_every_option_has_its_stated_default_and_arrives(
    call: Callable[..., Tensor], choices: dict[str, tuple[object, object]]
) -> None:
    check_options(call, choices)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("size", [2, 3])
def test_a_plain_generator_keeps_its_meaning(dtype: torch.dtype, size: int) -> None:
    """Batch after batch, block after block: the times, then the noise. Stored numbers hang on it."""
    seen: list[tuple[Tensor, Tensor]] = []

    def spy(x: Tensor, t: Tensor) -> Tensor:
        seen.append((x, t))
        return network(x, t)

    x_0, rng = (
        LEVELS[torch.tensor([[0, 7], [99, 255], [128, 3]])].to(dtype),
        generator(),
    )
    bits_per_dim(
        spy, x_0, TWENTY, num_timesteps=3, batch_size=size, generator=generator()
    )
    asked = iter(seen)
    for batch in x_0.split(size):
        for first, end in ((1, 1), (2, 4), (5, 10), (11, 20)):  # quadratic blocks
            t = torch.randint(first, end + 1, (len(batch),), generator=rng)
            noise = torch.randn(batch.shape, generator=rng, dtype=dtype)
            x_t, told = next(asked)
            assert torch.equal(told, t)
            expected = q_sample(batch.double(), t, noise.double(), TWENTY)
            assert torch.equal(x_t, expected.to(dtype))
    assert next(asked, None) is None


def test_inception_records_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    class Extractor(nn.Module):
        def __init__(self, *given: object, **options: object) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> tuple[Tensor]:
            return (x.flatten(1) * self.weight,)

    module = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = Extractor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("t"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for output in ("features", "probabilities"):
        found = inception(output)(torch.zeros(2, 3, 4, 4))
        assert not found.requires_grad
    assert found.dtype == F64
