# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The two algorithms, line by line
#
# **The question.** How do a training loop and a sampler follow from the derivation, and do they really turn noise into data?
#
# **What you bring.** The jump to $x_t$ from [the forward process](forward.ipynb), the best noise prediction $\varepsilon^*$ from [the posterior](posterior.ipynb), and line 4's mean from [the loss](loss.ipynb).
#
# **What you take away.** Algorithm 1 and Algorithm 2 of the DDPM paper as two short generators that you can stop, plot and extend. You see them work twice: on points in the plane, where the perfect answer is known, and on handwritten digits.

# %% tags=["active-ipynb"]
# # In Colab this installs the book's package; elsewhere it is there, and nothing happens.
# import importlib.util
#
# if importlib.util.find_spec("ddpm_nb") is None:
#     %pip install --quiet --no-deps "ddpm_nb @ git+https://github.com/ddpm_nb/ddpm_nb"

# %%
"""Algorithms 1 and 2 of the DDPM paper, as generators: one small record a step.

The reader owns the loop: stop it, plot from it, average weights in it.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ddpm_nb._noise import Randomness, noise_for
from ddpm_nb.forward import Schedule
from ddpm_nb.loss import (
    Model,
    Variance,
    ask,
    denoising_mean,
    predict_x_0,
    reverse_variance,
    simple_loss,
)
from ddpm_nb.posterior import posterior_mean


# %% [markdown]
# ## Algorithm 1: training
#
# 1. **repeat**
# 2. $x_0 \sim q(x_0)$. Take clean pictures from the training set.
# 3. $t \sim \text{Uniform}(\{1,\dots,T\})$. Pick a noise level for each.
# 4. $\varepsilon \sim \mathcal N(0, I)$. Draw the noise.
# 5. Take a gradient step on $\lVert\varepsilon-\varepsilon_\theta(\sqrt{\bar\alpha_t}\,x_0+\sqrt{1-\bar\alpha_t}\,\varepsilon,\ t)\rVert^2$. Ask for the noise back, and improve.
# 6. **until** converged. You decide.
#
# Lines 3 and 4 and the loss of line 5 are the function `simple_loss`, which you met in [the loss](loss.ipynb). Line 2 is an iterator over batches, and lines 1 and 6 are a loop.
#
# **Line 2.** The training set is a finite sample of $q(x_0)$, and a batch is a sample of that sample.
#
# **Line 3.** The number $t$ is a *noise level*, not a round of training. Round 1 may well draw $t = 731$. The larger $t$, the smaller $\bar\alpha_t$ (a product of more numbers below 1; drawn in [the forward process](forward.ipynb)), and the more noise is in $x_t$. The simple loss is a mean over all $t$, where the bound has a sum of the same terms with weights. One $t$ drawn at random has this mean as its expectation, as in Eq. [one random t](#eq-one-random-t). So it gives the same gradient on average, at a thousandth of the cost; only noisier.
#
# **Line 5.** The network gets two inputs: the noisy picture, and $t$. It needs $t$, since how much noise to look for depends on it. Our loss is the mean over pixels, where the paper writes a sum: a constant factor, as [the loss](loss.ipynb) explains.
#
# **Line 6.** The loss falls fast and then hardly moves, because it has a floor above zero, while the samples may still get better. "Converged" is judged by looking at samples, or by measuring them, and not by the loss alone.
#
# Written as an equation, one round of lines 2 to 5 with plain gradient descent and the learning rate $\eta$ is
#
# $$
# \theta \leftarrow \theta - \eta\,\nabla_\theta\,\frac1B\sum_{i=1}^{B}\bigl\lVert\varepsilon_i-\varepsilon_\theta(x_{t_i},\,t_i)\bigr\rVert^2, \qquad x_{t_i} = \sqrt{\bar\alpha_{t_i}}\,x_{0,i}+\sqrt{1-\bar\alpha_{t_i}}\,\varepsilon_i ,
# $$ (def-training-step)
#
# with $B$ pictures, each with its own $t_i$ and $\varepsilon_i$. (Adam, which we use, takes a cleverer step along the same gradient.)
#
# The loop below is a generator. It hands you a record after each step and waits; whatever else should happen in training, you write in *your* loop.

# %%
@dataclass(frozen=True)
class TrainStep:
    """One step of Algorithm 1: its number, counted from 1, and its loss.

    The loss is a tensor () without gradient and stays on the model's device. Reading it
    out makes the computer wait, so do that now and then.
    """

    step: int
    loss: Tensor


def minibatches(
    x: Tensor, batch_size: int, generator: torch.Generator | None = None
) -> Iterator[Tensor]:
    """Yield batches of `x` without end: shuffle, go through, shuffle again.

    A last batch that would be smaller is left out; its pictures get their turn after
    the next shuffle.

    Args:
        x: (N, ...) the training set, on any device.
        batch_size: pictures a batch, from 1 to N.
        generator: where the shuffles come from; torch's global one if None.

    Raises:
        ValueError: if batch_size is not in 1 ... N.
    """
    if not 1 <= batch_size <= len(x):
        raise ValueError(f"batch_size: expected 1 ... {len(x)}, got {batch_size}")

    source = generator.device if generator is not None else "cpu"

    def endless() -> Iterator[Tensor]:
        while True:
            order = torch.randperm(len(x), generator=generator, device=source).to(
                x.device
            )
            for start in range(0, len(x) - batch_size + 1, batch_size):
                yield x[order[start : start + batch_size]]

    return endless()


def train_steps(
    model: nn.Module,
    batches: Iterable[Tensor],
    schedule: Schedule,
    optimizer: torch.optim.Optimizer,
    *,
    generator: torch.Generator | None = None,
) -> Iterator[TrainStep]:
    """Run Algorithm 1, one step at a time, while there are batches and you ask for more.

    Args:
        model: the network, noise = model(x_t, t); it is trained in place, in the mode
            that it is in.
        batches: clean pictures x_0 (B, ...), on the model's device.
        schedule: the noise schedule, on the same device.
        optimizer: holds the model's parameters and does the gradient step.
        generator: where t and the noise come from; torch's global one if None.

    Yields:
        one TrainStep a step.

    Equation: def-training-step. Paper: Algorithm 1.
    """
    for step, x_0 in enumerate(batches, start=1):
        loss = simple_loss(model, x_0, schedule, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        yield TrainStep(step, loss.detach())


def train(
    model: nn.Module,
    batches: Iterable[Tensor],
    schedule: Schedule,
    optimizer: torch.optim.Optimizer,
    steps: int,
    *,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Tensor:
    """Run `steps` steps of Algorithm 1 and return their losses, (steps,), on the CPU.

    There are fewer if the batches end. With `progress`, a bar shows how far it is.
    """
    run = islice(
        train_steps(model, batches, schedule, optimizer, generator=generator), steps
    )
    losses = [record.loss for record in tqdm(run, total=steps, disable=not progress)]
    return torch.stack(losses).cpu() if losses else torch.empty(0)


# %% [markdown]
# ## Algorithm 2: sampling
#
# 1. $x_T\sim\mathcal N(0, I)$. Start with pure noise.
# 2. **for** $t = T,\dots,1$ **do**. Walk back, from $T$ down to 1.
# 3. $z\sim\mathcal N(0,I)$ if $t>1$, else $z = 0$. Fresh noise, but none at the last step: there the mean is the answer itself, and noise would only dirty it.
# 4. $x_{t-1} = \frac{1}{\sqrt{\alpha_t}}\bigl(x_t-\frac{1-\alpha_t}{\sqrt{1-\bar\alpha_t}}\,\varepsilon_\theta(x_t,t)\bigr)+\sigma_t z$. One step back.
# 5. **end for**
# 6. **return** $x_0$. The picture.
#
# **Line 4** is one draw from $p_\theta(x_{t-1}\mid x_t)$, a normal distribution with the mean of Eq. [line 4's mean](#eq-denoising-mean) and the variance $\sigma_t^2$. (At $t = 1$ it returns the mean and draws nothing. The model of the bound would add noise of size $\sqrt{\beta_1} = 0.01$ there; the sampler leaves it out.)
#
# $$
# x_{t-1} = \mu_\theta(x_t, t) + \sigma_t\, z, \qquad \sigma_t^2 = \beta_t \ \text{ or }\ \tilde\beta_t .
# $$ (eq-sampling-step)
#
# The result stands on the *left*: it is $x_{t-1}$, one step less noisy than $x_t$. Its three factors, one by one: $\frac{1-\alpha_t}{\sqrt{1-\bar\alpha_t}}$ takes away *this step's share* of the predicted noise, not all of it. $\frac{1}{\sqrt{\alpha_t}}$ undoes the shrinking of the forward step. $\sigma_t z$ adds back the doubt: where $x_t$ came from is known only up to that much, and without it, all chains would run to the same few places.
#
# **Clipping.** Pixels lie in $[-1, 1]$, a predicted $\hat x_0$ need not. Instead of line 4 one can compute $\hat x_0$ from the noise, clip it to $[-1, 1]$, and take the mean of the step back from the clipped picture. Where nothing is clipped, that is line 4 exactly, by the derivation in [the loss](loss.ipynb); a check follows below. It can keep an early error from growing.

# %%
@dataclass(frozen=True)
class Step:
    """One step of Algorithm 2.

    Attributes:
        t: the time that was reached: T - 1 after the first step, 0 at the end.
        x: (B, ...) x_t.
        x_0_hat: (B, ...) the picture that the network saw in the noise at this step,
            clipped if asked for.
    """

    t: int
    x: Tensor
    x_0_hat: Tensor


@contextmanager
def _evaluating(model: Model) -> Iterator[None]:
    """Put a model into eval mode, without gradients; put back each part's mode afterwards."""
    parts = model.modules() if isinstance(model, nn.Module) else ()
    training = [part for part in parts if part.training]
    for part in training:
        part.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for part in training:
            part.training = True


def _common_device(model: Model, schedule: Schedule) -> torch.device:
    """Return the device of the schedule, and refuse a network that is on another one."""
    device = schedule.beta.device
    weight = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    if weight is not None and weight.device != device:
        raise ValueError(
            f"schedule: expected its tables on the network's device, {weight.device}, "
            f"got {device}; use schedule.to(...)"
        )
    return device


def _step_back(
    model: Model,
    x: Tensor,
    t: int,
    z: Tensor | None,
    schedule: Schedule,
    variance: Variance,
    clip: bool,
) -> Step:
    """Take line 4, from x_t to x_{t-1}. Without z, no noise is added."""
    with _evaluating(model):
        noise = ask(model, x, torch.full(x.shape[:1], t, device=x.device))
        x_0_hat = predict_x_0(x, t, noise, schedule)
        if clip:
            x_0_hat = x_0_hat.clamp(-1, 1)
            mean = posterior_mean(x_0_hat, x, t, schedule)
        else:
            mean = denoising_mean(x, t, noise, schedule)
        if z is None:
            return Step(t - 1, mean, x_0_hat)
        sigma = reverse_variance(t, schedule, variance).sqrt()
        return Step(t - 1, mean + sigma.to(mean.dtype) * z, x_0_hat)


def sample_steps(
    model: Model,
    shape: tuple[int, ...],
    schedule: Schedule,
    *,
    variance: Variance = "large",
    clip: bool = False,
    generator: Randomness = None,
    dtype: torch.dtype | None = None,
) -> Iterator[Step]:
    """Run Algorithm 2, one step at a time, on the schedule's device.

    An `nn.Module` runs in eval mode; any other callable runs as it is. Neither gets
    gradients. Between two steps the model and the gradient mode are as you left them.

    Args:
        model: the network or any callable, noise = model(x_t, t), with t (B,) int64 in
            1 ... T.
        shape: the shape of the batch, (B, ...).
        schedule: the noise schedule.
        variance: sigma_t^2 is beta_t ("large") or beta-tilde_t ("small").
        clip: clip the predicted picture to [-1, 1] before the mean is taken.
        generator: where the noise comes from; torch's global one if None. A CPU
            generator gives the same noise on every device, but is copied over at each
            step; for speed, use one on the device. Or a list of generators, one a
            picture; or a function (pictures (B,), t) -> noise of x_t, such as
            `CounterNoise`, with which picture i of a seed is always the same.
        dtype: type of x, torch's default one if None. Keep it float32 or wider: a step
            changes x by less than half precision can hold.

    Yields:
        T records, t = T - 1 ... 0. The last one's x is the sample.

    Raises:
        ValueError: if `variance` is unknown, the network is on another device than the
            schedule, its answer has another shape than x, or the generators are not as
            many as the pictures.

    Equation: eq-sampling-step. Paper: Algorithm 2.
    """
    reverse_variance(1, schedule, variance)  # an unknown name is refused now
    device = _common_device(model, schedule)
    normal = noise_for(shape, device, generator, dtype)

    def walk() -> Iterator[Step]:
        x = normal(schedule.T)
        for t in range(schedule.T, 0, -1):
            z = normal(t - 1) if t > 1 else None
            step = _step_back(model, x, t, z, schedule, variance, clip)
            x = step.x
            yield step

    return walk()


def sample(
    model: Model,
    shape: tuple[int, ...],
    schedule: Schedule,
    *,
    variance: Variance = "large",
    clip: bool = False,
    generator: Randomness = None,
    dtype: torch.dtype | None = None,
    progress: bool = False,
) -> Tensor:
    """Run Algorithm 2 to the end and return the samples, in `shape`.

    The arguments are those of `sample_steps`. With `progress`, a bar shows how far it is.
    """
    steps = sample_steps(
        model,
        shape,
        schedule,
        variance=variance,
        clip=clip,
        generator=generator,
        dtype=dtype,
    )
    for step in tqdm(steps, total=schedule.T, disable=not progress):
        x = step.x
    return x

# %% [markdown]
# **Picture 5 of seed 0.** A `torch.Generator` hands out one long row of numbers, and a batch takes them in turn. So the same seed gives other pictures when the batch has another size: picture 5 of 64 is not picture 5 of 8. Where that matters (many batches, several computers, one picture to be drawn again), number the noise. `CounterNoise` computes it from the seed, the number of the picture and $t$, and from nothing else. The numbers come from a *counter-based* generator, Philox ([Salmon and others, 2011](bibliography.md)): ten rounds of multiplying and mixing turn a counter into random bits, so no number has to wait for the one before. (Adding $i$ to the seed is no way out: picture 1 of seed 0 would be picture 0 of seed 1.)

# %% tags=["active-ipynb"]
# from ddpm_nb import CounterNoise
#
# short, shape = Schedule.cosine(T=20), (2,)
#
#
# def some_network(x_t, t):
#     return x_t.sin()
#
#
# eight = sample(some_network, (8, *shape), short, generator=CounterNoise(0, shape))
# fifth = CounterNoise(0, shape, first=5)
# alone = sample(some_network, (1, *shape), short, generator=fifth)
# print("picture 5, with others and alone, the same:", torch.equal(eight[5], alone[0]))

# %% [markdown]
# ## Points in the plane, with a perfect network
#
# First a case with a known answer. The data are five bumps on a circle, with unequal weights. For them the perfect noise predictor $\varepsilon^*$ is known (Eq. [optimal noise](#eq-optimal-noise)), so we can test the *sampler* alone, without any doubt about a network. Any callable is a model here.

# %% mystnb={"image": {"alt": "Five snapshots of 600 points in the plane at t = 999, 300, 100, 30 and 0. A round cloud of noise draws together into five separate round bumps on a circle, some with more points than others."}} tags=["active-ipynb"]
# import math
#
# import matplotlib.pyplot as plt
#
# from ddpm_nb import _figures as fig
# from ddpm_nb.likelihood import GaussianMixture
# from ddpm_nb.posterior import optimal_noise
#
# fig.use_style()
# angle = torch.arange(5) * 2 * math.pi / 5
# ring = GaussianMixture(
#     weights=[0.10, 0.15, 0.20, 0.25, 0.30],
#     means=1.5 * torch.stack([angle.sin(), angle.cos()], dim=1),
#     stds=[0.25] * 5,
# )
# schedule = Schedule.linear()
# exact = optimal_noise(ring, schedule)
#
# generator = torch.Generator().manual_seed(0)
# snapshots = {
#     step.t: step.x
#     for step in sample_steps(exact, (5000, 2), schedule, generator=generator)
# }
#
# figure, axes = plt.subplots(1, 5, figsize=(7.4, 1.8), sharex=True, sharey=True)
# for ax, t in zip(axes, (999, 300, 100, 30, 0)):
#     ax.plot(*snapshots[t][:600].T, ".", color=fig.BLUE, markersize=1.5)
#     ax.set(
#         title=f"t = {t}",
#         aspect="equal",
#         xlim=(-3.2, 3.2),
#         ylim=(-3.2, 3.2),
#         xticks=[],
#         yticks=[],
#     )
# plt.show()

# %% [markdown]
# It looks right. *Is* it right? A two-sample test decides: it compares 5,000 samples with 5,000 fresh draws from the true mixture. It looks at four things, each of which a wrong sampler can get wrong: the two coordinates, the true log-density of the points (too wide a bump has too many unlikely points), and how many points belong to each bump. A p-value is the probability that chance alone makes a difference at least this large. If both sets come from one distribution, each of the four p-values is below 0.0025 with probability at most 0.0025, and so the smallest is with probability at most 0.01. Multiplied by four, the smallest can therefore be read like a single p-value (Bonferroni).

# %% tags=["active-ipynb"]
# from scipy.stats import chi2_contingency, ks_2samp
#
#
# def two_sample_p(x, y, mixture):
#     """The smallest p-value of four tests, times four."""
#     x, y = x.double(), y.double()
#     bumps = [
#         torch.bincount(mixture.log_joint(points).argmax(1), minlength=5).numpy()
#         for points in (x, y)
#     ]
#     p = [ks_2samp(x[:, i], y[:, i]).pvalue for i in (0, 1)]
#     p += [
#         ks_2samp(mixture.log_prob(x), mixture.log_prob(y)).pvalue,
#         chi2_contingency(bumps).pvalue,
#     ]
#     return min(1.0, 4 * min(p))
#
#
# truth = ring.sample(5000, generator)
# p = two_sample_p(snapshots[0], truth, ring)
# assert p > 0.01
# print("1,000 steps: the test cannot tell samples and truth apart (p > 0.01):", p > 0.01)

# %% [markdown]
# A test that always passes is worth nothing, so let it look at *wrong* samplers. With only 50 steps mistakes show best. The 50 steps follow a cosine schedule (with a larger offset $s$, so that the first steps are not too small), and the correct sampler passes there too. Then we plant three mistakes: a forgotten square root ($\sigma_t^2$ where $\sigma_t$ should be), a network asked about $t-1$ instead of $t$, and noise added at the last step.

# %% tags=["active-ipynb"]
# fifty = Schedule.cosine(T=50, s=0.05)
# exact_50 = optimal_noise(ring, fifty)
#
#
# def planted(mistake, table, model, seed=1):
#     """Algorithm 2 written out once more, with one mistake planted in it."""
#     generator = torch.Generator().manual_seed(seed)
#     x = torch.randn(5000, 2, dtype=torch.float64, generator=generator)
#     for t in range(table.T, 0, -1):
#         asked = max(t - 1, 1) if mistake == "t off by one" else t
#         sigma = table.beta[t] if mistake == "root forgotten" else table.beta[t].sqrt()
#         z = torch.randn(x.shape, dtype=torch.float64, generator=generator)
#         if t == 1 and mistake != "noise at the last step":
#             z = torch.zeros_like(z)
#         x = denoising_mean(x, t, model(x, asked), table) + sigma * z
#     return x
#
#
# same_noise = torch.Generator().manual_seed(1)
# correct = sample(exact_50, (5000, 2), fifty, generator=same_noise, dtype=torch.float64)
# by_hand = planted(None, fifty, exact_50)
# print("correct, written twice, the same:", torch.allclose(correct, by_hand, atol=1e-9))
# for mistake in (None, "root forgotten", "t off by one", "noise at the last step"):
#     passes = []
#     for table, model in ((fifty, exact_50), (schedule, exact)):
#         p = two_sample_p(planted(mistake, table, model), truth, ring)
#         passes.append("passes" if p > 0.01 else "rejected" if p < 0.001 else "doubtful")
#     print(
#         f"{mistake or 'no mistake':22} 50 steps: {passes[0]:8}  1,000 steps: {passes[1]}"
#     )

# %% [markdown]
# Look at the second column. With 1,000 steps two of the three mistakes are not seen by this test: each step is so small that asking about a neighbouring $t$, or adding the last step's noise, changes next to nothing. Whoever changes a sampler should test it with few steps.
#
# Clipping can be checked in the same way. For data well inside $[-1, 1]$ nothing is clipped, and with and without it the sampler must walk the same path.

# %% tags=["active-ipynb"]
# inner = GaussianMixture(ring.weights, ring.means / 3, ring.stds / 3)
# free, clipped = (
#     list(
#         sample_steps(
#             optimal_noise(inner, fifty),
#             (500, 2),
#             fifty,
#             clip=clip,
#             generator=torch.Generator().manual_seed(2),
#             dtype=torch.float64,
#         )
#     )
#     for clip in (False, True)
# )
# print("nothing to clip:", all(bool(step.x_0_hat.abs().max() < 1) for step in free))
# print(
#     "the same path:",
#     all(torch.allclose(a.x, b.x, rtol=0, atol=1e-9) for a, b in zip(free, clipped)),
# )

# %% [markdown]
# ### How many steps?
#
# Why not jump at once? The first thing that the network gives is $\hat x_0$, the whole picture. So try chains of 1, 2, 5, 20 and 1,000 steps, each with its own cosine schedule and its own $\varepsilon^*$.

# %% mystnb={"image": {"alt": "Five panels with 600 points each, for 1, 2, 5, 20 and 1,000 steps. One step puts all points into one tiny heap near the middle, where there are no data. Two steps fill a pentagon. Five steps give five bumps with points between them. With 20 and with 1,000 steps the five bumps are clear."}} tags=["active-ipynb"]
# figure, axes = plt.subplots(1, 5, figsize=(7.4, 1.8), sharex=True, sharey=True)
# for ax, T in zip(axes, (1, 2, 5, 20, 1000)):
#     table = Schedule.cosine(T)
#     x = sample(optimal_noise(ring, table), (600, 2), table, generator=generator)
#     ax.plot(*x.T, ".", color=fig.BLUE, markersize=1.5)
#     ax.set(title=f"T = {T}", aspect="equal", xticks=[], yticks=[])
#     ax.set(xlim=(-3.2, 3.2), ylim=(-3.2, 3.2))
#     if T == 1:
#         centre = (ring.weights[:, None] * ring.means).sum(0)
#         print(
#             "one jump ends at the mean of the data:",
#             bool((x.mean(0) - centre).norm() < 0.1),
#         )
# plt.show()

# %% [markdown]
# One jump gives almost exactly the *mean* of all data, whatever the noise was: seen from pure noise, every data point is possible, and the best single answer is the average. Steps in between let each chain make up its mind.
#
# ### Large or small variance?
#
# With few steps the choice of $\sigma_t^2$ shows as well. Below is the width of the bumps in the samples, divided by the true width: 1.00 is right.

# %% tags=["active-ipynb", "nbval-ignore-output"]
# def width(x):
#     bump = ring.log_joint(x).argmax(1)
#     return float((x - ring.means[bump]).square().mean().sqrt() / 0.25)
#
#
# widths = {}
# print(f"true points:             {width(truth.double()):.2f}")
# for variance in ("large", "small"):
#     for table, model in ((fifty, exact_50), (schedule, exact)):
#         x = sample(
#             model,
#             (5000, 2),
#             table,
#             variance=variance,
#             generator=generator,
#             dtype=torch.float64,
#         )
#         widths[variance, table.T] = width(x)
#         print(f"{variance}, {table.T:4} steps:       {widths[variance, table.T]:.2f}")
# assert abs(widths["large", 1000] - 1) < 0.03
# assert abs(widths["small", 1000] - 1) < 0.03
# assert widths["small", 50] < 0.97

# %% [markdown]
# With 50 steps $\beta_t$ makes the bumps too wide and $\tilde\beta_t$ too narrow: the right one, Eq. [optimal variance](#eq-optimal-variance), lies between. With 1,000 steps both are right to about the error of such a measurement, one hundredth.
#
# ## A network that learns the same
#
# Now the network is no longer given; Algorithm 1 has to find it. For points in the plane a small one will do: three hidden layers, with the time as an extra vector of inputs. The loop shows what a generator is good for: learning rate, records and plots are *our* business, and stand in *our* loop.

# %% tags=["active-ipynb"]
# from ddpm_nb.unet import time_embedding
#
#
# class PlaneNet(nn.Module):
#     """A small network for points in the plane: noise = net(x_t, t)."""
#
#     def __init__(self, width=128):
#         super().__init__()
#         self.layers = nn.Sequential(
#             nn.Linear(2 + 128, width),
#             nn.SiLU(),
#             nn.Linear(width, width),
#             nn.SiLU(),
#             nn.Linear(width, width),
#             nn.SiLU(),
#             nn.Linear(width, 2),
#         )
#
#     def forward(self, x_t, t):
#         return self.layers(torch.cat([x_t, time_embedding(t, 128)], dim=1))
#
#
# torch.manual_seed(0)
# net = PlaneNet()
# points = ring.sample(50_000, generator)
# optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
# STEPS = 6000
# decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
#
# losses = []
# batches = minibatches(points, 512, generator)
# for record in train_steps(net, batches, schedule, optimizer, generator=generator):
#     decay.step()
#     losses.append(record.loss)
#     if record.step == STEPS:
#         break
# losses = torch.stack(losses)
# print(
#     "the loss has fallen below half of its start:",
#     bool(losses[-500:].mean() < 0.5 * losses[0]),
# )

# %% [markdown]
# How far is the learned network from the perfect one? Measure the mean squared distance $\lVert\varepsilon_\theta-\varepsilon^*\rVert^2$ at each $t$, per coordinate, and put it beside the floor: the error that even $\varepsilon^*$ makes.

# %% mystnb={"image": {"alt": "Two curves against t on a logarithmic scale. The floor, the error of the perfect network, falls from about 1 at t = 1 to less than 0.0001 at t = 1000. The distance between learned and perfect network lies ten to a thousand times lower up to t = 800, and above the floor only at the very end, where the floor is tiny."}} tags=["active-ipynb", "nbval-ignore-output"]
# from ddpm_nb.forward import q_sample
#
# test_points = ring.sample(20_000, generator)
# times = torch.tensor(
#     [1, 2, 5, 10, 20, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000]
# )
# distance, floor = [], []
# for t in times:
#     noise = torch.randn(test_points.shape, generator=generator)
#     x_t, t_all = (
#         q_sample(test_points, int(t), noise, schedule),
#         t.expand(len(test_points)),
#     )
#     with torch.no_grad():
#         learned, best = net(x_t, t_all), exact(x_t, t_all)
#     distance.append((learned - best).square().mean())
#     floor.append((noise - best).square().mean())
#
# figure, ax = plt.subplots(figsize=(5.4, 2.8))
# ax.plot(times, floor, color=fig.GREY)
# ax.plot(times, distance, "o-", color=fig.BLUE, markersize=4)
# ax.set(yscale="log", xlabel="t", ylabel="mean squared error per coordinate")
# fig.label_line(
#     ax, 330, 1.6 * floor[8], "floor: perfect network against the noise", fig.GREY
# )
# fig.label_line(ax, 60, 0.015, "learned network\nagainst the perfect one", fig.BLUE)
# plt.show()
# print("    t   distance   of the floor")
# for t, d, f in zip(times, distance, floor):
#     print(f"{int(t):5}   {d:.5f}    {d / f:9.2%}")
# assert max(distance) < 0.05

# %% [markdown]
# Up to $t = 600$ the distance is about a hundredth of the floor or less. So the loss hardly shows whether a network is good or perfect: between the two it falls by one hundredth.
#
# And here are its samples beside true ones.

# %% mystnb={"image": {"alt": "Two scatter plots side by side, true points and points sampled with the learned network. Both show five round bumps on a circle in the same places, with the fewest points at the top and the most at the upper left."}} tags=["active-ipynb"]
# learned_samples = sample(net, (5000, 2), schedule, generator=generator)
# figure, axes = plt.subplots(1, 2, figsize=(5, 2.5), sharex=True, sharey=True)
# for ax, cloud, title, color in zip(
#     axes,
#     (truth, learned_samples),
#     ("true", "Algorithm 2, learned network"),
#     (fig.GREY, fig.BLUE),
# ):
#     ax.plot(*cloud[:600].T, ".", color=color, markersize=1.5)
#     ax.set(title=title, aspect="equal", xticks=[], yticks=[])
# plt.show()
# share = torch.bincount(ring.log_joint(learned_samples).argmax(1), minlength=5) / 5000
# assert (share - ring.weights).abs().max() < 0.03
# print("each bump's share of the samples is right within 0.03")

# %% [markdown]
# ### What the learned model is worth in nats
#
# Samples that look right are one thing; the bound gives a number. Its terms are [the sum](bound.ipynb) of a prior term, one divergence for each $t\ge 2$, and the reconstruction. All are divergences of normal distributions, or a log density, so they can be evaluated on fresh points, with one noise for each point and $t$. On average it must lie below the true $\log q(x_0)$ of the same points, for two reasons: it is a bound on the model's $\log p_\theta(x_0)$, and on average no model beats the true density (Eq. [KL is not negative](#eq-kl-nonnegative)). With one noise for each $t$ it is an estimate, so an error bar belongs to it. How far below? And how much of the gap is the network's fault: how far below with $\varepsilon^*$, for the same noises?

# %% tags=["active-ipynb", "nbval-ignore-output"]
# from ddpm_nb.likelihood import gaussian_kl, gaussian_log_prob
# from ddpm_nb.posterior import posterior_variance
#
# fresh = ring.sample(2000, generator).double()
# ones = torch.ones(2, dtype=torch.float64)
# last = schedule.alpha_bar[-1]
# prior = gaussian_kl(last.sqrt() * fresh, (1 - last) * ones, 0 * ones, ones)
# cost = torch.stack([prior, prior])  # with the learned network, with the perfect one
# with torch.no_grad():
#     for t in range(1, 1001):
#         noise = torch.randn(fresh.shape, dtype=torch.float64, generator=generator)
#         x_t, var = q_sample(fresh, t, noise, schedule), schedule.beta[t] * ones
#         learned = net(x_t.float(), torch.full((2000,), t)).double()
#         for total, predicted in zip(cost, (learned, exact(x_t, t))):
#             mean = denoising_mean(x_t, t, predicted, schedule)
#             if t == 1:
#                 total -= gaussian_log_prob(fresh, mean, var)  # reconstruction
#             else:
#                 true_mean = posterior_mean(fresh, x_t, t, schedule)
#                 true_var = posterior_variance(t, schedule) * ones
#                 total += gaussian_kl(true_mean, true_var, mean, var)
#
# gaps = ring.log_prob(fresh) + cost
# gaps = torch.stack([*gaps, gaps[0] - gaps[1]])
# error_bars = gaps.std(dim=1) / len(fresh) ** 0.5
# print(f"exact log q:  {ring.log_prob(fresh).mean():.3f} nats a point")
# for name, gap, error_bar in zip(
#     ("bound below it, learned network", "with the perfect network", "the difference"),
#     gaps.mean(1),
#     error_bars,
# ):
#     print(f"{name:31}  {gap:6.3f} +- {error_bar:.3f}")
# assert gaps[0].mean() > -4 * error_bars[0]
# assert gaps[0].mean() < 1
# assert gaps[2].mean() > -4 * error_bars[2]  # no network beats the perfect one

# %% [markdown]
# ## Handwritten digits
#
# The same two algorithms, with a picture in the place of a point: scikit-learn's 1,797 handwritten digits, 8×8 pixels, grey. The network is [the U-Net](unet.ipynb) in its smallest size. A quarter of the digits is kept aside; the network never sees them.
#
# Two things help a small network in a short time, and both stand in our loop: the learning rate rises at first and then falls, and we keep a *running average* of the weights, which samples better than the weights themselves. The schedule is the cosine one with 500 steps, since on small pictures the linear one spends too many steps on nothing.

# %% mystnb={"image": {"alt": "Training loss on the digits against the step, on a logarithmic scale: it falls steeply in the first 200 steps and then more and more slowly, without an end in sight, to about 0.13."}} tags=["active-ipynb", "nbval-ignore-output"]
# import copy
# import time
#
# from sklearn.datasets import load_digits
# from sklearn.model_selection import train_test_split
# from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
#
# from ddpm_nb.unet import UNet
#
# images, labels = load_digits(return_X_y=True)
# images = torch.tensor(images / 8 - 1, dtype=torch.float32).reshape(
#     -1, 1, 8, 8
# )  # from 0 ... 16 to [-1, 1]
# train_images, test_images, train_labels, test_labels = train_test_split(
#     images, labels, test_size=0.25, stratify=labels, random_state=0
# )
#
# torch.manual_seed(0)
# generator = torch.Generator().manual_seed(0)
# digit_schedule = Schedule.cosine(T=500)
# unet = UNet.digits()
# average = AveragedModel(unet, multi_avg_fn=get_ema_multi_avg_fn(0.995))
# optimizer = torch.optim.Adam(unet.parameters(), lr=2e-3, fused=True)
# STEPS = 2400
# one_cycle = torch.optim.lr_scheduler.LambdaLR(
#     optimizer,
#     lambda step: min(1.0, step / 100) * 0.5 * (1 + math.cos(math.pi * step / STEPS)),
# )
#
# start, losses, younger = time.perf_counter(), [], {}
# for record in train_steps(
#     unet,
#     minibatches(train_images, 64, generator),
#     digit_schedule,
#     optimizer,
#     generator=generator,
# ):
#     one_cycle.step()
#     average.update_parameters(unet)
#     losses.append(record.loss)
#     if record.step in (600, 1200):
#         younger[record.step] = copy.deepcopy(average)
#     if record.step % 500 == 0:
#         seconds = time.perf_counter() - start
#         recent = torch.stack(losses[-100:]).mean()
#         print(f"step {record.step:5}   loss {recent:.3f}   {seconds:4.0f} s")
#     if record.step == STEPS:
#         break
#
# losses = torch.stack(losses)
# figure, ax = plt.subplots(figsize=(5.4, 2.4))
# ax.semilogy(losses, color=fig.BLUE, linewidth=0.4, alpha=0.5)
# ax.semilogy(losses.unfold(0, 50, 1).mean(1), color=fig.BLUE)
# ax.set(xlabel="training step", ylabel="loss")
# plt.show()
# assert losses[-200:].mean() < 0.2

# %% [markdown]
# Now Algorithm 2, all 500 steps, for 64 digits at once. The upper picture follows eight of them on their way from noise.

# %% mystnb={"image": {"alt": "Eight rows of pictures, read from left to right: pure noise at t = 500, then t = 300, 200, 100, 50, and at t = 0 eight digits, most of them easy to read. Large shapes appear first, clean strokes last."}} tags=["active-ipynb", "nbval-ignore-output"]
# generator.manual_seed(1)
# keep = (500, 300, 200, 100, 50, 0)
# shape = (64, 1, 8, 8)
# trail = {}
# for step in sample_steps(
#     average, shape, digit_schedule, clip=True, generator=generator
# ):
#     trail[step.t] = step.x
# trail[500] = torch.randn(
#     shape, generator=torch.Generator().manual_seed(1)
# )  # line 1's draw, again
# digits = trail[0]
#
# figure = fig.picture_rows(
#     [torch.stack([trail[t][i] for t in keep]) for i in range(8)],
#     [""] * 8,
#     [f"t = {t}" for t in keep],
#     size=0.75,
# )
# plt.show()
# assert digits.shape == shape and digits.isfinite().all()

# %% mystnb={"image": {"alt": "Two sheets of 64 digits each, side by side: real scans at the left, samples of the model at the right. Both show all ten digits in many handwritings; a few samples are hard to read."}} tags=["active-ipynb", "nbval-ignore-output"]
# figure, axes = plt.subplots(1, 2, figsize=(7, 3.6))
# for ax, pictures, title in zip(
#     axes, (test_images[:64], digits), ("real digits", "samples")
# ):
#     fig.show_pictures(ax, pictures, columns=8)
#     ax.set_title(title)
# plt.show()
# assert digits.min() >= -1.5 and digits.max() <= 1.5

# %% [markdown]
# ### A judge who has seen only real digits
#
# Are these digits? Let a classifier say, one that was trained on the real ones and tells how sure it is. Ours is a jury of 45 small support vector machines, one for each pair of digits. Each gives the probability $r_{ij}$ that a picture shows $i$ rather than $j$, and they are combined to one probability for each digit by $p_i \propto 1/\bigl(\sum_{j\ne i} 1/r_{ij} - 8\bigr)$ (Price and others, 1995). Why? If $r_{ij} = p_i/(p_i+p_j)$, then $1/r_{ij} = 1+p_j/p_i$, and the sum over the nine others is $9+(1-p_i)/p_i = 8+1/p_i$. To be sure of a three, the jury must prefer three to each of the nine others.
#
# First the judge must be judged: it has to be right about digits that it never saw, and it must *not* be sure about noise, or about digits whose pixels were shuffled.

# %% tags=["active-ipynb"]
# from itertools import combinations
#
# import numpy as np
# from sklearn.calibration import CalibratedClassifierCV
# from sklearn.svm import SVC
#
#
# class Judge:
#     """For each picture, the probability of each digit."""
#
#     def __init__(self, pictures, labels):
#         self.pairs = {}
#         for i, j in combinations(range(10), 2):
#             either = (labels == i) | (labels == j)
#             machine = CalibratedClassifierCV(SVC(C=10, gamma=0.064), ensemble=False)
#             machine.fit(self.flat(pictures[either]), labels[either] == i)
#             self.pairs[i, j] = machine
#
#     @staticmethod
#     def flat(pictures):
#         return np.asarray(pictures.flatten(1), dtype=np.float64)
#
#     def probability(self, pictures):
#         inverse = np.full((len(pictures), 10), -8.0)
#         for (i, j), machine in self.pairs.items():
#             r = machine.predict_proba(self.flat(pictures))[:, 1].clip(1e-7, 1 - 1e-7)
#             inverse[:, i] += 1 / r
#             inverse[:, j] += 1 / (1 - r)
#         p = 1 / inverse
#         return p / p.sum(axis=1, keepdims=True)
#
#     def sure(self, pictures):
#         """The share of the pictures that it gives to one digit with probability >= 0.8."""
#         return float((self.probability(pictures).max(axis=1) >= 0.8).mean())
#
#
# judge = Judge(train_images, train_labels)
# right = (judge.probability(test_images).argmax(axis=1) == test_labels).mean()
# noise = torch.randn(2000, 64, generator=generator).clamp(-1, 1)
# rng = np.random.default_rng(0)
# shuffled = torch.tensor(rng.permuted(np.tile(test_images.flatten(1), (4, 1)), axis=1))
# print("right about 98 % or more of the unseen digits:", bool(right >= 0.98))
# print("sure about 90 to 96 % of them:", 0.90 <= judge.sure(test_images) <= 0.96)
# print("sure about at most 2 % of the noise:", judge.sure(noise) <= 0.02)
# print("sure about at most 2 % of the shuffled digits:", judge.sure(shuffled) <= 0.02)

# %% tags=["active-ipynb", "nbval-ignore-output"]
# many = sample(average, (192, 1, 8, 8), digit_schedule, clip=True, generator=generator)
# kinds = np.bincount(judge.probability(digits).argmax(axis=1), minlength=10)
# print(
#     f"the judge is sure about {judge.sure(test_images):.0%} of the unseen real digits,"
# )
# print(
#     f"about {judge.sure(digits):.0%} of the 64 samples, and {judge.sure(many):.0%} of 192 others"
# )
# print("how often each digit 0 ... 9 appears:", kinds)
# assert judge.sure(digits) >= 0.75
# assert (kinds > 0).all()

# %% [markdown]
# After the first few hundred steps the loss falls only slowly. Do the samples still get better? Here is the model as it was after 600 and 1,200 steps, with the same 64 noises.

# %% tags=["active-ipynb", "nbval-ignore-output"]
# verdicts = []
# for step, model in (*younger.items(), (STEPS, average)):
#     pictures = sample(
#         model,
#         shape,
#         digit_schedule,
#         clip=True,
#         generator=torch.Generator().manual_seed(1),
#     )
#     verdicts.append(judge.sure(pictures))
#     recent = losses[step - 200 : step].mean()
#     print(f"step {step:5}   loss {recent:.3f}   sure about {verdicts[-1]:.0%}")
# assert verdicts[0] < verdicts[-1]

# %% [markdown]
# A small step of the loss is a large one of the pictures: that is why line 6 is not decided by the loss alone.
#
# What did clipping buy? Sample the same 64 noises once more without it.

# %% tags=["active-ipynb", "nbval-ignore-output"]
# free = sample(
#     average, shape, digit_schedule, generator=torch.Generator().manual_seed(1)
# )
# print(
#     f"sure about {judge.sure(digits):.0%} with clipping, {judge.sure(free):.0%} without"
# )
# print(
#     f"largest pixel: {digits.abs().max():.2f} with clipping, {free.abs().max():.2f} without"
# )
# assert free.isfinite().all()

# %% [markdown]
# On these small pictures clipping keeps the pixels in range and does little else. It could matter more in the first step of the cosine schedule. There $1/\sqrt{\alpha_T} = 31.6$, and without clipping an error of the noise enters $x_{T-1}$ with this factor.

# %% [markdown]
# Or are they copies? A model that only recites its training set would satisfy the judge too. So measure, for each sample, the distance to the nearest training picture, and compare with the same distance for digits that were kept aside. Samples that are copies would lie much closer.

# %% mystnb={"image": {"alt": "Two rows of eight digits. Each sample in the upper row stands above the training picture nearest to it. The pairs show the same digit in similar but visibly different handwriting."}} tags=["active-ipynb", "nbval-ignore-output"]
# def nearest(pictures):
#     return torch.cdist(pictures.flatten(1), train_images.flatten(1)).min(dim=1)
#
#
# (sample_distance, index), (real_distance, _) = nearest(digits), nearest(test_images)
# ratio = float(sample_distance.median() / real_distance.median())
# too_close = float((sample_distance < real_distance.quantile(0.05)).float().mean())
# print("median distance to the nearest training picture,")
# print(f"samples over unseen digits: {ratio:.2f}")
# print(f"samples as close as the closest 5 % of the unseen digits: {too_close:.0%}")
# fig.picture_rows(
#     [digits[:8], train_images[index[:8]]], ["sample", "nearest"], [""] * 8, size=0.8
# )
# plt.show()
# assert ratio >= 0.8
# assert too_close <= 0.25

# %% tags=["active-ipynb", "hide-cell"]
# # `make execute` runs this chapter to store its results: then the book keeps the weights.
# import os
#
# if os.environ.get("DDPM_NB_WRITE_WEIGHTS") == "1":
#     from pathlib import Path
#
#     from safetensors.torch import save_file
#
#     Path("weights").mkdir(exist_ok=True)
#     save_file(average.module.state_dict(), "weights/digits.safetensors")

# %% [markdown]
# ## Where people slip
#
# **"No $z$ when $t = 0$."** So the student's notes, which [this book follows](bibliography.md), say of line 3, and in a loop that counts $t = T-1,\dots,0$ it is right. In the paper's count the last step is $t = 1$. Mix the two, `if t > 0` in a loop that ends at 1, and noise is added to the finished picture. At 50 steps the test above rejects it; at 1,000 steps nobody notices. The sizes say why:

# %% tags=["active-ipynb"]
# for name, table in (("T = 1000, linear", schedule), ("T = 50, cosine", fifty)):
#     sigma_1 = table.beta[1].sqrt()
#     print(f"sigma_1 with {name}: {sigma_1:.3f} = {sigma_1 / (2 / 255):.1f} grey levels")

# %% [markdown]
# **Leaving out $z$ everywhere.** "Noise makes pictures worse, so add none." Take two bumps, 30 % at $-1$ and 70 % at $+1$, and a *perfect* network. Without $z$ every chain drifts to the middle of the heavier bump, and the other one is never seen.

# %% mystnb={"image": {"alt": "Two panels with 8 chains each, t running from 1000 down to 0. With z the chains jitter; seven end near plus 1 and one near minus 1. Without z they are smooth curves that all end at the same place, near plus 1."}} tags=["active-ipynb"]
# pair = GaussianMixture(weights=[0.3, 0.7], means=[[-1.0], [1.0]], stds=[0.1, 0.1])
# exact_pair = optimal_noise(pair, schedule)
#
#
# def chains(with_z, n=2000, seed=0):
#     generator = torch.Generator().manual_seed(seed)
#     x = torch.randn(n, 1, generator=generator)
#     path = [x]
#     for t in range(1000, 0, -1):
#         z = (
#             torch.randn(x.shape, generator=generator)
#             if with_z and t > 1
#             else torch.zeros_like(x)
#         )
#         x = (
#             denoising_mean(x, t, exact_pair(x, t), schedule)
#             + schedule.beta[t].sqrt() * z
#         )
#         path.append(x)
#     return torch.cat(path, dim=1)  # (n, 1001)
#
#
# figure, axes = plt.subplots(1, 2, sharey=True, figsize=(5.4, 2.0))
# for ax, with_z, color in zip(axes, (True, False), (fig.BLUE, fig.ORANGE)):
#     path = chains(with_z)
#     ax.plot(range(1000, -1, -50), path[:8, ::50].T, color=color, linewidth=0.6)
#     ax.set(
#         title="with z" if with_z else "without z",
#         xlabel="t",
#         xlim=(1000, 0),
#         ylim=(-3, 3),
#     )
#     end = path[:, -1]
#     left, name = (end < 0).float().mean(), "with z:" if with_z else "without z:"
#     print(f"{name:10} {left:.1f} of the chains end in the left bump")
#     if not with_z:
#         print(f"without z: all end between {end.min():.2f} and {end.max():.2f}")
# axes[0].set_ylabel("$x_t$")
# plt.show()

# %% [markdown]
# The mean of the step back points towards the *average* of all starts that are possible, given $x_t$. The noise is what lets a chain choose.
#
# ## Exercises
#
# **1.** The data are a single point $\mu$ and the network is perfect. Show that the last step of Algorithm 2 lands on $\mu$ from any $x_1$.
#
# <details><summary>Solution</summary>
#
# Here $\varepsilon^*(x_1,1) = (x_1-\sqrt{\alpha_1}\,\mu)/\sqrt{\beta_1}$, because $\bar\alpha_1 = \alpha_1$. Line 4 with $z = 0$ gives $\frac1{\sqrt{\alpha_1}}\bigl(x_1-\frac{\beta_1}{\sqrt{\beta_1}}\,\varepsilon^*\bigr) = \frac1{\sqrt{\alpha_1}}\,\sqrt{\alpha_1}\,\mu = \mu$.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 1
# point = GaussianMixture([1.0], [[0.3, -0.8]], [1e-9])
# x_1 = torch.randn(5, 2, dtype=torch.float64, generator=generator)
# x_0 = denoising_mean(x_1, 1, optimal_noise(point, schedule)(x_1, 1), schedule)
# print(torch.allclose(x_0, point.means.expand(5, 2), atol=1e-9))

# %% [markdown]
# **2.** Swap the order: take line 4, and clip the *mean* to $[-1, 1]$ instead of $\hat x_0$. Why is that wrong?
#
# <details><summary>Solution</summary>
#
# At large $t$ the points $x_{t-1}$ *should* spread beyond $[-1, 1]$: they are nearly standard normal, and 32 % of their coordinates lie outside. The mean must spread as widely, since one step's noise adds only $\beta_t$ to the variance. Only $\hat x_0$ is a picture that has to stay in range.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 2
# outside = (torch.randn(100_000, generator=generator).abs() > 1).float().mean()
# print(f"{outside:.2f} of the coordinates of x_T lie outside [-1, 1]")

# %% [markdown]
# **3.** The generator hands you $\hat x_0$ at every step. At which $t$ does the network know which bump a point will end in?
#
# <details><summary>Solution</summary>
#
# Compare the bump nearest to $\hat x_0$ with the bump in which the chain ends. At $t = 900$ the network names the same bump for every chain, the one nearest to the mean of the data: nothing is decided. At $t = 500$ it does a little better. At $t = 300$ the guess is right for more than half, though almost none is certain yet. At $t = 100$ nearly all are decided.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 3
# guesses = {
#     step.t: ring.log_joint(step.x_0_hat).argmax(1)
#     for step in sample_steps(
#         exact, (2000, 2), schedule, generator=torch.Generator().manual_seed(0)
#     )
# }
# for t in (900, 500, 300, 100):
#     right = (guesses[t] == guesses[0]).float().mean()
#     print(f"t = {t}: the guess is right for {right:.2f} of the chains")

# %% [markdown]
# ## Summary
#
# Algorithm 1 draws a picture, a time and a noise, and asks for the noise back. Algorithm 2 starts from pure noise and takes line 4 once for each $t$, with fresh noise at all steps but the last. With a perfect network its samples pass the test of this chapter; with a learned one it draws digits most of which a judge accepts, and which lie no closer to the training pictures than unseen digits do.
#
# **The next question.** What is inside the network that drew the digits? See [the U-Net](unet.ipynb).
