"""Algorithms 1 and 2: the sampler against a known distribution and against diffusers, the loop against its promises."""

import math
from collections.abc import Callable, Iterator
from itertools import islice

import pytest
import torch
from scipy.stats import chi2_contingency, ks_2samp
from torch import Tensor, nn

from ddpm_nb.algorithms import (
    Step,
    minibatches,
    sample,
    sample_steps,
    train,
    train_steps,
)
from ddpm_nb.forward import Schedule
from ddpm_nb.likelihood import GaussianMixture
from ddpm_nb.posterior import optimal_noise

F64 = torch.float64
ANGLE = torch.arange(5) * 2 * math.pi / 5
RING = GaussianMixture(
    [0.10, 0.15, 0.20, 0.25, 0.30],
    1.5 * torch.stack([ANGLE.sin(), ANGLE.cos()], dim=1),
    [0.25] * 5,
)
FIFTY = Schedule.cosine(T=50, s=0.05)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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
    schedule: Schedule, variance: str
) -> None:
    x = sample(
        optimal_noise(RING, schedule),
        (5000, 2),
        schedule,
        variance=variance,
        generator=generator(1),
        dtype=F64,
    )
    assert two_sample_p(x, TRUTH) > 0.01


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
    """A two-sample test that accepts everything would prove nothing."""
    wrong_time = sample(
        WrongTime(), (5000, 2), FIFTY, generator=generator(1), dtype=F64
    )
    for x in (wrong_time, with_extra_noise_at_the_end(), with_wrong_sigma(monkeypatch)):
        assert two_sample_p(x, TRUTH) < 1e-3


class Recorder(nn.Module):
    """A small network that writes down how it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.dropout = nn.Dropout(0.5)
        self.frozen = nn.BatchNorm1d(
            1
        ).eval()  # a part that its owner put into eval mode
        self.seen: list[tuple[list[int], bool, bool, bool]] = []

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.seen.append(
            (t.tolist(), self.training, torch.is_grad_enabled(), self.dropout.training)
        )
        return self.layer(x)


@pytest.mark.equation("eq-sampling-step")
@pytest.mark.parametrize("variance", ["large", "small"])
def test_one_step_has_the_stated_mean_and_variance(variance: str) -> None:
    """For a network that answers 0, one step is x / sqrt(alpha_T) plus noise of variance sigma_T^2."""
    schedule, n = Schedule([0.1, 0.3, 0.4]), 200_000
    steps = sample_steps(
        lambda x, t: torch.zeros_like(x),
        (n, 1),
        schedule,
        variance=variance,
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
    variance: str, theirs: str, clip: bool
) -> None:
    """The same tables, the same network, the same noise: the same x, step by step, to 1e-10."""
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
        variance=variance,
        clip=clip,
        generator=generator(),
        dtype=F64,
    )
    for step in ours:
        t = step.t  # theirs counts from 0
        noise = network(x, torch.full((6,), t + 1))
        x = scheduler.step(noise, t, x, generator=rng).prev_sample
        assert torch.allclose(step.x, x, rtol=0, atol=1e-10), f"t = {t + 1}"


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
    assert net.seen == [([t, t], False, False, False) for t in (7, 6, 5, 4, 3, 2, 1)]
    assert all(isinstance(step, Step) and not step.x.requires_grad for step in records)


def test_modes_come_back_even_when_the_network_fails() -> None:
    net = Recorder()
    net.forward = lambda x, t: 1 / 0
    with pytest.raises(ZeroDivisionError):
        next(sample_steps(net, (2, 1), Schedule.linear(T=3)))
    assert net.training
    assert torch.is_grad_enabled()


@pytest.mark.equation("eq-sampling-step")
def test_no_noise_at_the_last_step() -> None:
    """The last step must not depend on the generator: two runs that differ only there agree."""
    schedule = Schedule([0.2])
    x = sample(
        lambda x, t: torch.zeros_like(x),
        (4, 1),
        schedule,
        generator=generator(),
        dtype=F64,
    )
    x_1 = torch.randn(4, 1, dtype=F64, generator=generator())
    assert torch.allclose(x, x_1 / 0.8**0.5, rtol=1e-14, atol=0)


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
        sample_steps(lambda x, t: x, (1, 1), Schedule.linear(T=3), variance="huge")


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


@pytest.mark.equation("def-training-step")
def test_a_training_step_is_one_gradient_step_and_counts_from_one() -> None:
    """Line 5 by hand, with plain gradient descent: the new weight is the old one minus lr times the slope."""
    torch.manual_seed(0)
    net = Recorder()
    old = net.layer.weight.detach().clone()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    steps = train_steps(
        net,
        endless(torch.ones(8, 1)),
        Schedule([0.5]),
        optimizer,
        generator=generator(),
    )
    record = next(steps)
    assert record.step == 1
    assert not record.loss.requires_grad
    assert torch.equal(net.layer.weight, old - 0.1 * net.layer.weight.grad)
    slope = net.layer.weight.grad.clone()
    assert next(steps).step == 2
    assert not torch.equal(
        net.layer.weight.grad, slope
    )  # zeroed in between, not added up


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
def test_minibatches_show_every_picture_once_a_round() -> None:
    x = torch.arange(12)
    batches = list(islice(minibatches(x, 4, generator()), 6))
    assert all(batch.shape == (4,) for batch in batches)
    rounds = [torch.cat(batches[:3]), torch.cat(batches[3:])]
    for seen in rounds:
        assert torch.equal(seen.sort().values, x)
    assert not torch.equal(*rounds)


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
