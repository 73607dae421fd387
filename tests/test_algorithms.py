"""Algorithms 1 and 2: the sampler against a known distribution and against diffusers, the loop against its promises."""

import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import pytest
import torch
from helpers import F64, Recorder, generator
from scipy.stats import chi2_contingency, ks_2samp
from torch import Tensor, nn
from torch.testing import assert_close

from ddpm_nb.algorithms import (
    Guided,
    Prediction,
    Step,
    ancestral,
    drop_labels,
    minibatches,
    sample,
    sample_steps,
    train,
    train_steps,
)
from ddpm_nb.forward import Schedule
from ddpm_nb.likelihood import GaussianMixture
from ddpm_nb.loss import Variance, denoising_mean, optimal_variance, vlb_weight
from ddpm_nb.posterior import noised_mixture, optimal_noise, posterior_variance

ANGLE = torch.arange(5) * 2 * math.pi / 5
RING = GaussianMixture(
    [0.10, 0.15, 0.20, 0.25, 0.30],
    1.5 * torch.stack([ANGLE.sin(), ANGLE.cos()], dim=1),
    [0.25] * 5,
)
FIFTY = Schedule.cosine(T=50, s=0.05)


def two_sample_p(x: Tensor, y: Tensor) -> float:
    """The smallest p-value of four tests, times four: both coordinates, the true log-density, the bumps' shares."""
    bumps = [
        torch.bincount(RING.log_joint(points).argmax(1), minlength=5).numpy()
        for points in (x, y)
    ]
    p = [ks_2samp(x[:, i], y[:, i]).pvalue for i in (0, 1)]
    p += [
        ks_2samp(RING.log_prob(x), RING.log_prob(y)).pvalue,
        chi2_contingency(bumps).pvalue,
    ]
    return min(1.0, 4 * min(p))


TRUTH = RING.sample(5000, generator(100)).double()


@pytest.mark.equation("eq-sampling-step")
@pytest.mark.parametrize(
    ("schedule", "variance"),
    [(Schedule.linear(), "large"), (Schedule.linear(), "small"), (FIFTY, "large")],
    ids=["T=1000 large", "T=1000 small", "T=50 large"],
)
def test_samples_with_the_exact_noise_pass_as_data(
    schedule: Schedule, variance: Variance
) -> None:
    x = sample(
        optimal_noise(RING, schedule),
        (5000, 2),
        schedule,
        ancestral(variance),
        generator=generator(1),
        dtype=F64,
    )
    assert two_sample_p(x, TRUTH) > 0.01


@pytest.mark.equation("eq-sampling-step")
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_test_sees_large_steps_as_well_as_mistakes(seed: int) -> None:
    """Fifty steps with the small variance: no mistake, and yet the samples are not the data."""
    x = sample(
        optimal_noise(RING, FIFTY),
        (5000, 2),
        FIFTY,
        ancestral("small"),
        generator=generator(seed),
        dtype=F64,
    )
    assert two_sample_p(x, RING.sample(5000, generator(100 + seed)).double()) < 1e-3


def end_variance(schedule: Schedule, variance: str, s: float) -> float:
    """The variance of x_0 for data N(0, s^2): each step back is the regression of x_{t-1} on x_t, plus noise."""
    kept = [1.0]
    for beta in schedule.beta[1:].tolist():
        kept.append(kept[-1] * (1 - beta))
    at = [k * s**2 + 1 - k for k in kept]  # the variance of x_t
    result = 1.0
    for t in range(schedule.T, 0, -1):
        beta = 1 - kept[t] / kept[t - 1]
        slope = (1 - beta) ** 0.5 * at[t - 1] / at[t]  # covariance over variance
        spread = beta * (
            1 if variance == "large" else (1 - kept[t - 1]) / (1 - kept[t])
        )
        result = slope**2 * result + (spread if t > 1 else 0)
    return result


NORMAL = GaussianMixture([1.0], [[0.0]], [0.5])


@pytest.mark.equation("eq-sampler-variance")
@pytest.mark.equation("eq-sampling-step")
@pytest.mark.parametrize("variance", ["large", "small"])
@pytest.mark.parametrize("T", [2, 10, 50])
def test_samples_of_normal_data_have_the_exact_variance(
    T: int, variance: Variance
) -> None:
    """However large the steps are, what Algorithm 2 returns is known for these data."""
    n, schedule = 200_000, Schedule.cosine(T=T, s=0.05)
    x = sample(
        optimal_noise(NORMAL, schedule),
        (n, 1),
        schedule,
        ancestral(variance),
        generator=generator(1),
        dtype=F64,
    )
    expected = end_variance(schedule, variance, 0.5)
    assert abs(x.var() / expected - 1) < 4 * (2 / n) ** 0.5
    assert abs(expected / 0.25 - 1) > 4 * (2 / n) ** 0.5  # and it is not the data's


@pytest.mark.equation("eq-without-noise")
def test_without_noise_a_normal_chain_shrinks_by_every_root() -> None:
    """Data N(0, 1): line 4 alone takes x_T to x_T times the root of alpha-bar_T."""
    schedule = Schedule.linear()
    unit = optimal_noise(GaussianMixture([1.0], [[0.0]], [1.0]), schedule)
    x_T = torch.tensor([[-2.0], [0.1], [3.0]], dtype=F64)
    x = x_T
    for t in range(1000, 0, -1):
        x = denoising_mean(x, t, unit(x, t), schedule)
    log_shrunk = 0.5 * sum(math.log1p(-b) for b in schedule.beta[1:].tolist())
    assert_close(x, x_T * math.exp(log_shrunk), rtol=1e-9, atol=0)
    assert math.exp(log_shrunk) < 0.01


@pytest.mark.equation("eq-line-4-drift")
def test_line_4_without_noise_moves_by_half_of_x_and_the_whole_score() -> None:
    """The score by automatic differentiation; what is left over falls in proportion to beta."""
    left = []
    for beta in (1e-3, 1e-4, 1e-5):
        schedule = Schedule([0.5, beta])
        x = torch.linspace(-2.5, 2.5, 40, dtype=F64).reshape(20, 2).requires_grad_()
        log_q = noised_mixture(RING, 2, schedule).log_prob(x).sum()
        (score,) = torch.autograd.grad(log_q, x)
        x = x.detach()
        noise = optimal_noise(RING, schedule)(x, 2)
        move = (denoising_mean(x, 2, noise, schedule) - x) / beta
        left.append((move - (x / 2 + score)).abs().max().item())
    assert left[0] < 0.01
    assert left[1] / left[0] == pytest.approx(0.1, rel=0.05)
    assert left[2] / left[1] == pytest.approx(0.1, rel=0.05)


POINTS = torch.tensor(
    [[0.5, -0.5, 0.1], [0.4, -0.3, 0.1], [-0.9, 0.2, 0.6], [0.0, 0.8, -0.7]], dtype=F64
)


def training_set_noise(x_t: Tensor, kept: float) -> Tensor:
    """The equation: a softmax of distances to the training points."""
    square = ((x_t[:, None] - kept**0.5 * POINTS) ** 2).sum(-1)
    weight = torch.softmax(-square / (2 * (1 - kept)), dim=1)
    return (x_t - kept**0.5 * (weight @ POINTS)) / (1 - kept) ** 0.5


@pytest.mark.equation("eq-training-set-noise")
@pytest.mark.parametrize("t", [1, 4, 10, 40])
def test_the_perfect_network_of_a_training_set_is_a_softmax_over_it(t: int) -> None:
    """It is the limit of narrow bumps, and no other answer has a smaller loss on the training set."""
    schedule = Schedule.cosine(T=40)
    kept = schedule.alpha_bar[t].item()
    narrow = optimal_noise(GaussianMixture([0.25] * 4, POINTS, [1e-7] * 4), schedule)
    which = torch.arange(4000) % 4
    noise = torch.randn(4000, 3, dtype=F64, generator=generator())
    x_t = kept**0.5 * POINTS[which] + (1 - kept) ** 0.5 * noise
    answer = training_set_noise(x_t, kept)
    assert_close(answer, narrow(x_t, t), rtol=0, atol=1e-6)
    # The slope of the loss is zero in every direction: against functions of x_t, with its error bar.
    error = noise - answer
    for direction in (torch.ones_like(x_t), x_t, x_t.sin(), answer, (3 * x_t).cos()):
        product = (error * direction).sum(1)
        assert abs(product.mean()) <= 4 * product.std() / 4000**0.5 + 1e-12


def test_the_perfect_network_of_a_training_set_recites_it() -> None:
    schedule = Schedule.cosine(T=200)
    narrow = optimal_noise(GaussianMixture([0.25] * 4, POINTS, [1e-4] * 4), schedule)
    x = sample(narrow, (64, 3), schedule, generator=generator(), dtype=F64)
    distance, which = torch.cdist(x, POINTS).min(dim=1)
    assert distance.max() < 1e-3
    assert len(which.unique()) == 4


@pytest.mark.equation("eq-vlb-weight")
@pytest.mark.equation("eq-best-guess")
@pytest.mark.equation("eq-optimal-variance")
def test_the_gap_of_the_perfect_network_is_what_its_steps_diverge() -> None:
    """The bound above the entropy, by formulas and a grid; and draws of each step back, with their error bar."""
    t = torch.arange(1, 51)
    exact, beta = optimal_noise(RING, FIFTY), FIFTY.beta[1:]
    axis = torch.arange(-6, 6, 0.1, dtype=F64)
    grid = torch.cartesian_prod(axis, axis)

    def integral(values: Tensor, time: int) -> Tensor:
        return (noised_mixture(RING, time, FIFTY).log_prob(grid).exp() @ values) * 0.01

    floor = torch.stack(
        [1 - integral(exact(grid, i).square().mean(1), i) for i in range(1, 51)]
    )
    entropy = -integral(RING.log_prob(grid), 0)
    last, square = FIFTY.alpha_bar[-1], RING.sample(10**5, generator()).square().mean()
    ratio = posterior_variance(t[1:], FIFTY) / beta[1:]
    gap = (
        last * square - last - (1 - last).log()  # the prior
        + (ratio - 1 - ratio.log()).sum()
        + (2 * math.pi * beta[0]).log()
        + (2 * vlb_weight(t, FIFTY) * floor).sum()
        - entropy
    )  # fmt: skip
    kept = FIFTY.alpha_bar[t]
    best = optimal_variance(t, FIFTY, floor * (1 - kept) / kept)
    saved = (best / beta - 1 - (best / beta).log()).sum()

    def log_normal(x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        return -((x - mean).square().sum(1) / var) / 2 - (2 * math.pi * var).log()

    n, rng = 20_000, generator(1)
    costs, error = torch.zeros(2, dtype=F64), torch.zeros(2, dtype=F64)
    for i in range(1, 51):
        before, alpha = FIFTY.alpha_bar[i - 1], FIFTY.alpha[i]
        x_0 = RING.sample(n, rng).double()
        z, w = torch.randn(2, n, 2, dtype=F64, generator=rng)
        x_s = before.sqrt() * x_0 + (1 - before).sqrt() * z
        x_t = alpha.sqrt() * x_s + (1 - alpha).sqrt() * w
        true = (  # Bayes' rule for x_{t-1} given x_t
            noised_mixture(RING, i - 1, FIFTY).log_prob(x_s)
            + log_normal(x_t, alpha.sqrt() * x_s, 1 - alpha)
            - noised_mixture(RING, i, FIFTY).log_prob(x_t)
        )
        mean = denoising_mean(x_t, i, exact(x_t, i), FIFTY)
        for j, var in enumerate((beta[i - 1], best[i - 1])):
            cost = true - log_normal(x_s, mean, var)
            costs[j] += cost.mean()
            error[j] += cost.var() / n
    for cost, expected, variance in zip(costs, (gap, gap - saved), error, strict=True):
        assert abs(cost - expected) < 4 * variance.sqrt() < 0.3 * expected
    assert saved > 0.2 * gap


class WrongTime:
    """The exact network, asked about t - 1."""

    def __init__(self) -> None:
        self.model = optimal_noise(RING, FIFTY)

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.model(x_t, (t - 1).clamp(min=1))


def with_extra_noise_at_the_end() -> Tensor:
    *_, last = sample_steps(
        optimal_noise(RING, FIFTY), (5000, 2), FIFTY, generator=generator(1), dtype=F64
    )
    return last.x + FIFTY.beta[1].sqrt() * torch.randn(
        5000, 2, dtype=F64, generator=generator(2)
    )


def with_wrong_sigma(monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """sigma^2 in the place of sigma."""
    monkeypatch.setattr(
        "ddpm_nb.algorithms.reverse_variance",
        lambda t, schedule, variance: schedule.beta[t] ** 2,
    )
    return sample(
        optimal_noise(RING, FIFTY), (5000, 2), FIFTY, generator=generator(1), dtype=F64
    )


def test_the_test_rejects_wrong_samplers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A two-sample test that accepts everything would prove nothing. The correct one passes, above."""
    wrong_time = sample(
        WrongTime(), (5000, 2), FIFTY, generator=generator(1), dtype=F64
    )
    for x in (wrong_time, with_extra_noise_at_the_end(), with_wrong_sigma(monkeypatch)):
        assert two_sample_p(x, TRUTH) < 1e-3


def test_the_exact_case_sees_the_same_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """At fifty steps, where the right sampler has its exact variance, each mistake is many error bars away."""
    n, model = 200_000, optimal_noise(NORMAL, FIFTY)

    def off(model: Callable[[Tensor, Tensor], Tensor], extra: float = 0) -> float:
        """How many error bars the variance is away."""
        x = sample(model, (n, 1), FIFTY, generator=generator(1), dtype=F64)
        x = x + extra * torch.randn(n, 1, dtype=F64, generator=generator(2))
        ratio = x.var() / end_variance(FIFTY, "large", 0.5)
        return abs(ratio - 1).item() / (2 / n) ** 0.5

    assert off(model) < 4
    assert off(lambda x, t: model(x, (t - 1).clamp(min=1))) > 6
    assert off(model, extra=FIFTY.beta[1].sqrt().item()) > 6
    monkeypatch.setattr(
        "ddpm_nb.algorithms.reverse_variance",
        lambda t, schedule, variance: schedule.beta[t] ** 2,
    )
    assert off(model) > 6


@pytest.mark.equation("eq-sampling-step")
@pytest.mark.parametrize("variance", ["large", "small"])
def test_one_step_has_the_stated_mean_and_variance(variance: Variance) -> None:
    """For a network that answers 0, one step is x / sqrt(alpha_T) plus noise of variance sigma_T^2."""
    schedule, n = Schedule([0.1, 0.3, 0.4]), 200_000
    steps = sample_steps(
        lambda x, t: torch.zeros_like(x),
        (n, 1),
        schedule,
        ancestral(variance),
        generator=generator(),
        dtype=F64,
    )
    x_3 = torch.randn(n, 1, dtype=F64, generator=generator())
    jump = next(steps).x - x_3 / 0.6**0.5
    expected = (
        0.4 if variance == "large" else 0.4 * (1 - 0.9 * 0.7) / (1 - 0.9 * 0.7 * 0.6)
    )
    assert abs(jump.mean()) < 4 * (expected / n) ** 0.5
    assert abs(jump.var() / expected - 1) < 4 * (2 / n) ** 0.5


@pytest.mark.equation("eq-sampling-step")
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize(
    ("variance", "theirs"), [("large", "fixed_large"), ("small", "fixed_small")]
)
def test_every_step_is_that_of_diffusers(
    variance: Variance, theirs: str, clip: bool
) -> None:
    """The same tables, the same network, the same noise: the same x and predicted picture, step by step."""
    from diffusers import DDPMScheduler

    schedule = Schedule.linear(T=40, beta_1=1e-3, beta_T=0.3)
    scheduler = DDPMScheduler(
        num_train_timesteps=40,
        trained_betas=schedule.beta[1:].tolist(),
        variance_type=theirs,
        clip_sample=clip,
    )
    # Their tables are float32; give them ours.
    scheduler.betas, scheduler.alphas = schedule.beta[1:], schedule.alpha[1:]
    scheduler.alphas_cumprod, scheduler.one = (
        schedule.alpha_bar[1:],
        torch.tensor(1.0, dtype=F64),
    )
    scheduler.set_timesteps(40)

    def network(x: Tensor, t: Tensor) -> Tensor:
        return (x * (1 + 0.02 * t[:, None])).sin()

    x = torch.randn(6, 3, dtype=F64, generator=generator())
    rng = generator()
    torch.randn(6, 3, dtype=F64, generator=rng)  # x_T has been drawn
    ours = sample_steps(
        network,
        (6, 3),
        schedule,
        ancestral(variance),
        clip=clip,
        generator=generator(),
        dtype=F64,
    )
    for step in ours:
        t = step.t  # theirs counts from 0
        noise = network(x, torch.full((6,), t + 1))
        out = scheduler.step(noise, t, x, generator=rng)
        x = out.prev_sample
        assert torch.allclose(step.x, x, rtol=0, atol=1e-10), f"t = {t + 1}"
        assert torch.allclose(
            step.x_0_hat, out.pred_original_sample, rtol=0, atol=1e-9
        ), f"t = {t + 1}"


def test_a_rule_may_ask_again_and_look_back() -> None:
    """Heun's method on the curve of DDIM: two network evaluations a step, and an error that falls with its square."""
    two = GaussianMixture([0.4, 0.6], [[-1.0], [1.0]], [0.5, 0.5])
    schedule = Schedule.linear()
    model = optimal_noise(two, schedule)
    x_T = torch.linspace(-2, 2, 9, dtype=F64)[:, None]
    ratio = ((1 - schedule.alpha_bar) / schedule.alpha_bar).sqrt()

    def heun(seen: Prediction, s: int, schedule: Schedule) -> tuple[Tensor, None]:
        """In x / root(alpha_bar) against root(1 / alpha_bar - 1), of which the slope is the noise."""
        rooted = schedule.alpha_bar[s].sqrt()
        here, step = (
            seen.x / schedule.alpha_bar[seen.t].sqrt(),
            ratio[s] - ratio[seen.t],
        )
        x = rooted * (here + step * seen.noise)
        if s > 0:
            then = seen.predict(x, s)
            assert (then.t, then.x is x, then.before) == (s, True, None)
            x = rooted * (here + step * (seen.noise + then.noise) / 2)
        return x, None

    def end(times: Sequence[int]) -> Tensor:
        return sample(model, (9, 1), schedule, heun, times, x_T=x_T)

    def spread(steps: int) -> tuple[int, ...]:
        """Times whose ratios lie evenly on a logarithmic scale, as far as whole numbers allow."""
        wanted = torch.logspace(ratio[1000].log10(), ratio[5].log10(), steps, dtype=F64)
        return (*(int((ratio - r).abs().argmin()) for r in wanted), 0)

    finest = end(range(1000, -1, -1))
    errors = [(end(spread(n)) - finest).abs().max().item() for n in (10, 20, 40)]
    assert errors[0] > 2.5 * errors[1] > 2.5 * 2.5 * errors[2], errors


def test_a_rule_sees_the_prediction_before_and_no_further() -> None:
    seen_by: list[tuple[int, int | None]] = []

    def rule(seen: Prediction, s: int, schedule: Schedule) -> tuple[Tensor, None]:
        before = seen.before
        assert before is None or before.before is None
        seen_by.append((seen.t, None if before is None else before.t))
        return seen.x, None

    sample(lambda x, t: x, (2, 1), Schedule.linear(T=4), rule)
    assert seen_by == [(4, None), (3, 4), (2, 3), (1, 2)]


@pytest.mark.equation("eq-sampling-step")
def test_sampler_visits_every_time_once_and_calls_the_network_quietly() -> None:
    net = Recorder()
    net.train()
    net.frozen.eval()
    records = []
    for step in sample_steps(net, (2, 1), Schedule.linear(T=7), generator=generator()):
        assert torch.is_grad_enabled()
        assert net.training
        assert net.dropout.training
        assert not net.frozen.training
        records.append(step)
    assert [step.t for step in records] == [6, 5, 4, 3, 2, 1, 0]
    assert net.seen == [([t, t], False, False) for t in (7, 6, 5, 4, 3, 2, 1)]
    assert all(isinstance(step, Step) and not step.x.requires_grad for step in records)


def test_modes_come_back_even_when_the_network_fails() -> None:
    net = Recorder()
    net.forward = lambda x, t: 1 / 0
    with pytest.raises(ZeroDivisionError):
        next(sample_steps(net, (2, 1), Schedule.linear(T=3)))
    assert net.training
    assert torch.is_grad_enabled()


@pytest.mark.equation("eq-sampling-step")
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("variance", ["large", "small"])
def test_no_noise_at_the_last_step(variance: Variance, clip: bool) -> None:
    """Two runs whose generators differ from the step to x_t on: the same x_0 for t = 1, another for t = 2."""

    def run(reached: int, seed: int) -> Tensor:
        rng = generator()
        for step in sample_steps(
            optimal_noise(RING, FIFTY),
            (4, 2),
            FIFTY,
            ancestral(variance),
            clip=clip,
            generator=rng,
            dtype=F64,
        ):
            if step.t == reached:
                rng.manual_seed(seed)
        return step.x

    assert torch.equal(run(1, seed=1), run(1, seed=2))
    assert not torch.equal(run(2, seed=1), run(2, seed=2))


@pytest.mark.equation("eq-sampling-step")
@pytest.mark.parametrize("T", [1, 3])
def test_the_last_step_is_the_mean(T: int) -> None:
    """A network that answers 0: the last step only undoes the shrinking."""
    steps = list(
        sample_steps(
            lambda x, t: torch.zeros_like(x),
            (4, 1),
            Schedule([0.2, 0.3, 0.4][:T]),
            generator=generator(),
            dtype=F64,
        )
    )
    x_1 = steps[-2].x if T > 1 else torch.randn(4, 1, dtype=F64, generator=generator())
    assert_close(steps[-1].x, x_1 / 0.8**0.5, rtol=1e-14, atol=0)


@pytest.mark.equation("eq-sampling-step")
@pytest.mark.parametrize("dtype", [None, F64])
@pytest.mark.parametrize("clip", [None, False, True])
@pytest.mark.parametrize("variance", [None, "large", "small"])
def test_sample_is_the_end_of_the_same_steps(
    variance: Variance | None, clip: bool | None, dtype: torch.dtype | None
) -> None:
    """Whatever is asked for is handed on; what is not asked for is the large variance, no clipping, float32."""

    def wide(x: Tensor, t: Tensor) -> Tensor:
        return -x.sin()  # pictures beyond [-1, 1], so that clipping shows

    schedule = Schedule.linear(T=12, beta_1=0.01, beta_T=0.3)
    rule = None if variance is None else ancestral(variance)
    asked = {"rule": rule, "clip": clip, "dtype": dtype}
    asked = {name: value for name, value in asked.items() if value is not None}
    ends = {
        (v, c): list(
            sample_steps(
                wide,
                (3, 2),
                schedule,
                ancestral(v),
                clip=c,
                generator=generator(),
                dtype=dtype,
            )
        )[-1].x
        for v in ("large", "small")
        for c in (False, True)
    }
    x = sample(wide, (3, 2), schedule, generator=generator(), **asked)
    *_, last = sample_steps(wide, (3, 2), schedule, generator=generator(), **asked)
    same = [key for key, end in ends.items() if torch.equal(end, x)]
    assert same == [(variance or "large", bool(clip))]
    assert torch.equal(last.x, x)
    assert x.dtype == (dtype or torch.float32)


def test_clipping_keeps_the_predicted_picture_in_range() -> None:
    schedule = Schedule.linear(T=20, beta_1=0.01, beta_T=0.3)

    def zero(x: Tensor, t: Tensor) -> Tensor:
        return torch.zeros_like(x)

    free = list(sample_steps(zero, (50, 1), schedule, generator=generator()))
    clipped = list(
        sample_steps(zero, (50, 1), schedule, clip=True, generator=generator())
    )
    assert max(step.x_0_hat.abs().max() for step in free) > 1
    assert all(step.x_0_hat.abs().max() <= 1 for step in clipped)
    assert (
        clipped[-1].x.abs().max() <= 1 + 1e-6
    )  # at t = 1 the mean is the clipped picture itself


@pytest.mark.parametrize("clip", [False, True])
def test_same_seed_same_sample(clip: bool) -> None:
    torch.manual_seed(0)
    net, schedule = Recorder(), Schedule.linear(T=9)
    before = torch.get_rng_state()
    draws = [
        sample(net, (3, 1), schedule, clip=clip, generator=generator(5))
        for _ in range(2)
    ]
    assert torch.equal(*draws)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(
        draws[0], sample(net, (3, 1), schedule, clip=clip, generator=generator(6))
    )


def test_sampling_refuses_an_unknown_variance_at_once() -> None:
    """Before the first step, not in the middle of a long run."""
    with pytest.raises(ValueError, match="'huge'"):
        ancestral("huge")  # type: ignore[arg-type]


def endless(x: Tensor) -> Iterator[Tensor]:
    while True:
        yield x


@pytest.mark.equation("def-training-step")
def test_training_finds_the_constant_noise_of_a_single_point() -> None:
    """At T = 1 and x_0 = 0 the noise is x_1 / sqrt(beta): one weight, known in advance."""
    torch.manual_seed(0)
    layer = nn.Linear(1, 1, bias=False)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.layer(x)

    net = Net()
    losses = train(
        net,
        endless(torch.zeros(64, 1)),
        Schedule([0.25]),
        torch.optim.Adam(net.parameters(), lr=0.05),
        300,
        generator=generator(),
    )
    assert losses.shape == (300,)
    assert layer.weight.item() == pytest.approx(2, abs=1e-3)
    assert losses[-1] < 1e-5 < losses[0]


class OneWeight(nn.Module):
    """noise = w x_t, in float64; it writes down what it was asked, and in which mode."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.3, dtype=F64))
        self.asked: list[tuple[Tensor, Tensor, bool]] = []

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.asked.append((x.clone(), t.clone(), self.training))
        return self.w * x


@pytest.mark.equation("def-training-step")
@pytest.mark.parametrize("mode", [True, False], ids=["train mode", "eval mode"])
def test_a_training_step_is_one_gradient_step_and_counts_from_one(mode: bool) -> None:
    """Three steps of line 5 by hand, with the slope of a one-weight network from calculus."""
    alpha_bar = (0.7, 0.7 * 0.6)
    x_0 = torch.randn(5, 3, 2, dtype=F64, generator=generator(1))
    net = OneWeight().train(mode)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    steps = train_steps(
        net, endless(x_0), Schedule([0.3, 0.4]), optimizer, generator=generator()
    )
    weight = 0.3
    for number in (1, 2, 3):  # the slopes of earlier steps must be gone
        record = next(steps)
        x_t, t, training = net.asked[-1]
        kept = torch.tensor([alpha_bar[i - 1] for i in t.tolist()], dtype=F64)
        kept = kept.reshape(5, 1, 1)
        noise = (x_t - kept.sqrt() * x_0) / (1 - kept).sqrt()
        error = noise - weight * x_t
        assert record.step == number
        assert record.loss.item() == pytest.approx((error**2).mean().item(), rel=1e-9)
        assert not record.loss.requires_grad
        assert training is net.training is mode
        weight += (
            0.1 * 2 * (error * x_t).mean().item()
        )  # minus the rate times the slope
        assert net.w.item() == pytest.approx(weight, rel=1e-9)


@pytest.mark.equation("def-training-step")
def test_every_draw_of_training_comes_from_the_generator() -> None:
    """Times and noises: the same seed trains the same network, whatever torch's own seed is."""

    def weight(seed: int, global_seed: int) -> float:
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        net = OneWeight()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        batches = endless(torch.ones(4, 1, dtype=F64))
        schedule = Schedule.linear(T=50)
        train(net, batches, schedule, optimizer, 3, generator=generator(seed))
        assert torch.equal(torch.get_rng_state(), before)
        return net.w.item()

    assert weight(0, 1) == weight(0, 2) != weight(1, 1)


PICTURES = torch.linspace(-1, 1, 32).reshape(2, 1, 4, 4)


def warnings_of_training(batches: list[Tensor]) -> list[str]:
    net = OneWeight()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(net, batches, Schedule([0.5]), optimizer, 10)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    ("batch", "range_"),
    [
        ((PICTURES + 1) / 2, r"\[0, 1\]"),
        ((PICTURES + 1) * 127.5, r"\[0, 255\]"),
        (PICTURES * 1.5, r"\[-1.5, 1.5\]"),
        (PICTURES * float("nan"), r"\[nan, nan\]"),
    ],
    ids=["0 to 1", "0 to 255", "above 1", "nan"],
)
def test_pictures_on_another_scale_are_one_warning_that_says_what_to_do(
    batch: Tensor, range_: str
) -> None:
    (message,) = warnings_of_training([batch] * 3)
    assert re.search(
        f"batches: .* lies in {range_}.* x / 127.5 - 1.* 2 \\* x - 1", message
    )


@pytest.mark.parametrize(
    "batches",
    [
        [PICTURES],
        [PICTURES[:1] * 0.1 - 0.2],  # a dark one
        [PICTURES.double() * 1.0],
        [PICTURES, PICTURES * 2],  # one look, at the first batch
        [torch.full((4, 2), 7.0)],  # points of the plane
        [torch.full((4, 16), 7.0)],
        [],
    ],
    ids=["[-1, 1]", "dark", "float64", "later", "points", "flat", "none"],
)
def test_other_data_train_without_a_word(batches: list[Tensor]) -> None:
    assert warnings_of_training(batches) == []


def test_pictures_of_whole_numbers_are_refused() -> None:
    with pytest.raises(
        TypeError, match=r"x_0: expected a floating-point tensor.*, got torch\.uint8"
    ):
        warnings_of_training([torch.zeros(2, 1, 4, 4, dtype=torch.uint8)])


def test_the_look_at_the_first_batch_waits_for_a_device_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A number that leaves a tensor is a wait on a GPU: pictures cost one read more than points, in three steps."""
    reads: list[int] = []
    for name in ("tolist", "item", "__float__", "__bool__", "__int__"):
        real = getattr(Tensor, name)

        def counted(self: Tensor, real: Callable[..., object] = real) -> object:
            reads.append(self.numel())
            return real(self)

        monkeypatch.setattr(Tensor, name, counted)

    def reads_of(x_0: Tensor) -> int:
        reads.clear()
        net = OneWeight()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        assert len(list(train_steps(net, [x_0] * 3, Schedule([0.5]), optimizer))) == 3
        return len(reads)

    assert reads_of(PICTURES) == reads_of(PICTURES.flatten(1)) + 1


@pytest.mark.equation("def-training-step")
def test_training_stops_when_the_batches_end_or_the_reader_leaves() -> None:
    net = Recorder()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    three = [torch.zeros(2, 1)] * 3
    assert len(train(net, three, Schedule([0.5]), optimizer, 10)) == 3
    assert len(train(net, [], Schedule([0.5]), optimizer, 10)) == 0
    pulled = []

    def counted() -> Iterator[Tensor]:
        for i in range(100):
            pulled.append(i)
            yield torch.zeros(2, 1)

    assert len(train(net, counted(), Schedule([0.5]), optimizer, 4)) == 4
    assert len(pulled) == 4  # nothing is drawn that is not used


@pytest.mark.equation("def-training-step")
@pytest.mark.parametrize("n", [12, 14], ids=["even", "two left over"])
def test_minibatches_show_every_picture_at_most_once_a_round(n: int) -> None:
    """Line 2: full batches only; who is left out of one round has a turn in another."""
    x = torch.arange(n)
    batches = list(islice(minibatches(x, 4, generator()), 30))
    assert all(batch.shape == (4,) for batch in batches)
    rounds = [torch.cat(batches[i : i + 3]) for i in range(0, 30, 3)]
    assert all(len(seen.unique()) == 12 for seen in rounds)
    assert torch.equal(torch.cat(rounds).unique(), x)
    assert not torch.equal(rounds[0], rounds[1])


@pytest.mark.equation("def-training-step")
def test_minibatches_are_shuffled_by_the_generator_alone() -> None:
    """The same seed gives the same batches, another one others, and torch's own generator is left alone."""
    x = torch.arange(12)
    before = torch.get_rng_state()
    first, again, other = (
        torch.cat(list(islice(minibatches(x, 4, generator(seed)), 6)))
        for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first[:12], x)


@pytest.mark.parametrize("size", [0, 13, -1])
def test_minibatches_refuse_a_wrong_size_at_once(size: int) -> None:
    with pytest.raises(ValueError, match=r"batch_size: expected 1 \.\.\. 12"):
        minibatches(torch.arange(12), size)


@pytest.mark.parametrize("run", [train, sample], ids=["train", "sample"])
def test_progress_bars_are_off_unless_asked_for(
    run: Callable[..., Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    net, schedule = Recorder(), Schedule([0.5, 0.5])
    for progress in (False, True):
        if run is train:
            optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
            train(
                net,
                endless(torch.zeros(2, 1)),
                schedule,
                optimizer,
                2,
                progress=progress,
            )
        else:
            sample(net, (2, 1), schedule, progress=progress)
        out, err = capsys.readouterr()
        assert out == ""
        assert ("2/2" in err) == progress


def test_sampling_refuses_an_answer_of_another_shape() -> None:
    with pytest.raises(ValueError, match="model: expected an answer of shape"):
        sample(lambda x, t: x[:, :1], (4, 3), Schedule.linear(T=3))


def test_sampling_refuses_a_network_on_another_device_at_once() -> None:
    with pytest.raises(ValueError, match=r"use schedule\.to"):
        sample_steps(nn.Linear(1, 1, device="meta"), (1, 1), Schedule.linear(T=3))


# --- labels

CLASSES = [
    GaussianMixture([0.4, 0.6], torch.tensor([[1.0, 0.5], [-0.5, 1.2]]), [0.3, 0.5]),
    GaussianMixture([1.0], torch.tensor([[0.2, -1.0]]), [0.6]),
]
SHARES = [0.3, 0.7]  # of the two classes among all points
BOTH = GaussianMixture(
    [0.12, 0.18, 0.7],
    torch.cat([c.means for c in CLASSES]).float(),
    [0.3, 0.5, 0.6],
)


def by_label(x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
    """The perfect network for points of two classes, and for points of any."""
    if y is None:
        return optimal_noise(BOTH, FIFTY)(x, t)
    answers = [optimal_noise(points, FIFTY)(x, t) for points in CLASSES]
    return torch.stack(answers)[y, torch.arange(len(x))]


@pytest.mark.equation("eq-guidance")
@pytest.mark.parametrize("w", [-1.0, 0.0, 0.7, 3.0])
@pytest.mark.parametrize("label", [0, 1])
def test_guidance_follows_the_slope_of_the_label_s_probability(
    w: float, label: int
) -> None:
    """Against the gradient of log q(x_t) + (1 + w) log q(y given x_t), taken by autograd from the densities."""
    x = torch.randn(40, 2, dtype=F64, generator=generator(3))
    for t in (1, 7, 30):
        x.requires_grad_()
        each = [noised_mixture(c, t, FIFTY).log_prob(x) for c in CLASSES]
        joint = torch.stack(each) + torch.tensor(SHARES, dtype=F64).log()[:, None]
        all_points = joint.logsumexp(0)
        target = all_points + (1 + w) * (joint[label] - all_points)
        (slope,) = torch.autograd.grad(target.sum(), x)
        noise = -((1 - FIFTY.alpha_bar[t]) ** 0.5) * slope
        x = x.detach()
        guided = Guided(by_label, torch.tensor(label), w)
        got = guided(x, torch.full((40,), t))
        assert_close(got, noise, rtol=1e-7, atol=1e-7)
        assert (got - by_label(x, torch.full((40,), t))).abs().max() > 0.01 or w == -1


def test_a_guided_network_is_a_network() -> None:
    """Labels differ from picture to picture; without guidance there is one evaluation a step, with it two."""
    y = torch.tensor([0, 1, 1, 0] * 250)
    drawn = sample(Guided(by_label, y), (1000, 2), FIFTY, generator=generator())
    for label in (0, 1):
        truth = CLASSES[label].sample(500, generator(1)).double()
        assert ks_2samp(drawn[y == label][:, 0], truth[:, 0]).pvalue > 0.001
        assert ks_2samp(drawn[y == label][:, 1], truth[:, 1]).pvalue > 0.001
    calls: list[Tensor | None] = []

    def counted(x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        calls.append(y)
        return torch.zeros_like(x)

    x, t = torch.zeros(4, 2), torch.ones(4, dtype=torch.int64)
    Guided(counted, torch.tensor(1))(x, t)
    assert [y.tolist() if y is not None else y for y in calls] == [[1, 1, 1, 1]]
    Guided(counted, torch.tensor(1), 2.0)(x, t)
    assert len(calls) == 3 and calls[2] is None


@pytest.mark.parametrize("w", [math.inf, -math.inf, math.nan])
def test_guidance_without_end_is_refused(w: float) -> None:
    with pytest.raises(
        ValueError, match=f"scale: expected a number that is finite, got {w}"
    ):
        Guided(by_label, torch.tensor(0), w)


def test_a_share_of_the_labels_is_dropped() -> None:
    y = torch.arange(10_000) % 10
    dropped = drop_labels(y, 10, 0.2, generator())
    gone = dropped == 10
    # Five standard deviations of a share of 10,000.
    assert abs(gone.double().mean() - 0.2) < 5 * (0.2 * 0.8 / 10_000) ** 0.5
    assert torch.equal(dropped[~gone], y[~gone]) and dropped.dtype == torch.int64
    assert all(abs(gone[y == k].double().mean() - 0.2) < 0.07 for k in range(10))
    assert torch.equal(drop_labels(y, 10, 0.0), y)
    assert (drop_labels(y, 10, 1.0) == 10).all()
    assert torch.equal(drop_labels(y, 10, 0.2, generator()), dropped)  # by its own
    gone = drop_labels(y, 10, generator=generator()) == 10  # a tenth, unless told
    assert abs(gone.double().mean() - 0.1) < 5 * (0.1 * 0.9 / 10_000) ** 0.5
    with pytest.raises(
        ValueError, match=r"share: expected a number in \[0, 1\], got 2"
    ):
        drop_labels(y, 10, 2)


def test_training_hands_each_picture_its_label() -> None:
    """A network that answers with a number a label, trained on pictures of noise alone, learns nothing else."""
    seen: list[list[int]] = []

    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = nn.Embedding(3, 2)

        def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            seen.append(y.tolist())
            rows: Tensor = self.rows(y)
            return rows

    model = Table()
    before = model.rows.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pairs = [(torch.zeros(4, 2), torch.tensor([0, 2, 2, 0]))] * 2
    losses = train(model, pairs, FIFTY, optimizer, 5, generator=generator())
    assert len(losses) == 2 and seen == [[0, 2, 2, 0]] * 2
    moved = (model.rows.weight != before).any(dim=1)
    assert moved.tolist() == [True, False, True]
