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
# ![The chain with the whole way back lit: three arrows below the pictures lead from pure noise, x_T, through x_t and x_{t−1} to a handwritten 9, x_0. They are named p_θ(x_{t−1} | x_t).](images/chain-algorithms.svg)
#
# Do the steps back really lead from noise to data?
#
# **What you bring.** The jump to $x_t$ from [the forward process](forward.ipynb), the best noise prediction $\varepsilon^*$ from [the posterior](posterior.ipynb), line 4's mean, the weight and the best variance from [the loss](loss.ipynb), and Eq. [whole cost](#eq-joint-kl) from [the bound](bound.ipynb).
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

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, pairwise
from typing import TypedDict, Unpack

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ddpm_nb import _checks as check
from ddpm_nb._devices import brought
from ddpm_nb._models import evaluating
from ddpm_nb._noise import Randomness, noise_for
from ddpm_nb.forward import Schedule
from ddpm_nb.loss import (
    Model,
    Variance,
    denoising_mean,
    predict_noise,
    predict_x_0,
    reverse_variance,
    simple_loss,
    x_0_to_noise,
)


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
# with $B$ pictures, each with its own $t_i$ and $\varepsilon_i$. (Adam, which we use, starts from the same gradient and gives each weight a step of its own: Eq. [Adam](#def-adam).)
#
# The loop below is a generator. It hands you a record after each step and waits; whatever else should happen in training, you write in *your* loop.
#
# One mistake it looks for itself, because the loss alone does not tell: pictures on another scale. The jump mixes a picture with noise of variance 1, and fits pictures in $[-1, 1]$. With grey levels $0,\dots,255$ the noise is lost in the picture for most $t$; in pictures with values in $[0, 1]$ no pixel lies below 0, the middle grey. A loss may fall all the same. So the loop looks at its first batch, once, and warns. It does not refuse: a night sky, or the latent pictures of another network, may lie elsewhere with good reason, and only you know.

# %%
@dataclass(frozen=True)
class TrainStep:
    """One step of Algorithm 1: its number, counted from 1, and its loss.

    The loss is a tensor () without gradient and stays on the model's device. Reading it
    out makes the computer wait, so do that now and then. A trainer that has them adds
    the learning rate, and the gradient's norm before clipping, also a tensor ().
    """

    step: int
    loss: Tensor
    learning_rate: float | None = None
    grad_norm: Tensor | None = None


def train_steps(
    model: nn.Module,
    batches: Iterable[Tensor | tuple[Tensor, Tensor]],
    schedule: Schedule,
    optimizer: torch.optim.Optimizer,
    *,
    generator: torch.Generator | None = None,
) -> Iterator[TrainStep]:
    """Run Algorithm 1, one step at a time, while there are batches and you ask for more.

    Pictures (B, C, H, W) of the first batch that do not look like pictures in [-1, 1]
    are worth a warning; data of other shapes are taken as they are.

    Args:
        model: the network, noise = model(x_t, t); it is trained in place, in the mode
            that it is in.
        batches: clean pictures x_0 (B, ...), on the model's device; or pairs of pictures
            and labels (B,), and then noise = model(x_t, t, labels).
        schedule: the noise schedule, on the same device.
        optimizer: holds the model's parameters and does the gradient step.
        generator: where t and the noise come from; torch's global one if None.

    Yields:
        one TrainStep a step.

    Raises:
        TypeError: if a batch is no floating-point tensor.
        ValueError: if the model's answer does not have the shape of its input.

    Equation: def-training-step. Paper: Algorithm 1.
    """
    for step, batch in enumerate(batches, start=1):
        x_0, y = batch if isinstance(batch, tuple) else (batch, None)
        asked = model if y is None else partial(model, y=y)
        loss = simple_loss(asked, x_0, schedule, generator)
        if step == 1:
            check.scale("batches", x_0)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        yield TrainStep(step, loss.detach())


# %% [markdown]
# Line 2, if the whole training set is one tensor; and the loop of line 6, for as many steps as you say.

# %%
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
    check.whole("batch_size", batch_size, 1, len(x))
    source = generator.device if generator is not None else "cpu"

    def endless() -> Iterator[Tensor]:
        while True:
            order = torch.randperm(len(x), generator=generator, device=source)
            for start in range(0, len(x) - batch_size + 1, batch_size):
                yield x[brought(order[start : start + batch_size], x.device)]

    return endless()


def train(
    model: nn.Module,
    batches: Iterable[Tensor | tuple[Tensor, Tensor]],
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
# 4. $x_{t-1} = \dfrac{1}{\sqrt{\alpha_t}}\Bigl(x_t-\dfrac{1-\alpha_t}{\sqrt{1-\bar\alpha_t}}\,\varepsilon_\theta(x_t,t)\Bigr)+\sigma_t z$. One step back.
# 5. **end for**
# 6. **return** $x_0$. The picture.
#
# **Line 4** is one draw from $p_\theta(x_{t-1}\mid x_t)$, a normal distribution with the mean of Eq. [line 4's mean](#eq-denoising-mean) and the variance $\sigma_t^2$. (At $t = 1$ it returns the mean and draws nothing. The model of the bound would add noise of size $\sqrt{\beta_1} = 0.01$ there; the sampler leaves it out.)
#
# $$
# x_{t-1} = \mu_\theta(x_t, t) + \sigma_t\, z, \qquad \sigma_t^2 = \beta_t \ \text{ or }\ \tilde\beta_t .
# $$ (eq-sampling-step)
#
# The result stands on the *left*: it is $x_{t-1}$, one step less noisy than $x_t$. Its three factors, one by one: $(1-\alpha_t)/\sqrt{1-\bar\alpha_t}$ takes away *this step's share* of the predicted noise, not all of it. $1/\sqrt{\alpha_t}$ undoes the shrinking of the forward step. $\sigma_t z$ adds back the doubt: where $x_t$ came from is known only up to that much, and without it, all chains would run to the same few places.
#
# **Clipping.** Pixels lie in $[-1, 1]$, a predicted $\hat x_0$ need not. One can compute $\hat x_0$ from the noise, clip it to $[-1, 1]$, and take the mean of the step back from the clipped picture: that is line 4 with another noise, the one that leads from the clipped picture to $x_t$. Where nothing is clipped nothing changes, by the derivation in [the loss](loss.ipynb); a check follows below. It can keep an early error from growing.

# %%
@dataclass(frozen=True)
class Prediction:
    """What the network makes of x_t: all that a sampler's rule goes by.

    Attributes:
        t: the time.
        x: (B, ...) x_t.
        noise: (B, ...) the noise that the network finds in x_t.
        x_0_hat: (B, ...) the picture that is left: x, noise and x_0_hat fit together.
        predict: asks the network again, about points x at a time t in 1 ... T; for a rule
            that needs more than one network evaluation a step.
        before: the prediction of the step before, without its own; None at the first.
    """

    t: int
    x: Tensor
    noise: Tensor
    x_0_hat: Tensor
    predict: Callable[[Tensor, int], "Prediction"]
    before: "Prediction | None" = None


# From what is predicted at t to the time s: the mean of x_s, and the standard
# deviation of the noise to add (None: no noise).
Rule = Callable[[Prediction, int, Schedule], tuple[Tensor, Tensor | None]]


def ancestral(variance: Variance = "large") -> Rule:
    """Return the rule of Algorithm 2: line 4, from x_t to x_{t-1}.

    Args:
        variance: sigma_t^2 is beta_t ("large") or beta-tilde_t ("small").

    Equation: eq-sampling-step. Paper: Algorithm 2.
    """
    check.one_of("variance", variance, ("large", "small"))

    def rule(seen: Prediction, s: int, schedule: Schedule) -> tuple[Tensor, Tensor]:
        t = check.next_time(seen.t, s)
        mean = denoising_mean(seen.x, t, seen.noise, schedule)
        return mean, reverse_variance(t, schedule, variance).sqrt()

    return rule


# %% [markdown]
# Line 4 is a **rule**: what the network makes of $x_t$ goes in, the mean of $x_{t-1}$ and its $\sigma_t$ come out. The rest of Algorithm 2 is the loop around it, lines 1, 2, 3, 5 and 6, and any other sampler has the same loop. [Fewer steps](fewer_steps.ipynb) has other rules. So the loop is written once. It clips, if asked to, before the rule is called; it draws the noise, and none for the step to $t = 0$; it hands over the prediction of the step before, and a way to ask the network again, for rules that need them. So a sampler of your own is a function of a few lines. The loop is a generator, like the one of Algorithm 1: it yields a small record at each step, and you own what happens between two of them.

# %%
@dataclass(frozen=True)
class Step:
    """One step of a sampler.

    Attributes:
        t: the time that was reached: T - 1 after the first step of Algorithm 2, 0 at
            the end.
        x: (B, ...) x_t.
        x_0_hat: (B, ...) the picture that the network saw in the noise at this step,
            clipped if asked for.
    """

    t: int
    x: Tensor
    x_0_hat: Tensor


# %% [markdown]
# The loop, with the lines of Algorithm 2 at its lines:

# %%
def sample_steps(
    model: Model,
    shape: Sequence[int],
    schedule: Schedule,
    rule: Rule | None = None,
    timesteps: Sequence[int] | None = None,
    *,
    x_T: Tensor | None = None,
    clip: bool = False,
    generator: Randomness = None,
    dtype: torch.dtype | None = None,
) -> Iterator[Step]:
    """Run a sampler, Algorithm 2 by default, one step at a time.

    It runs on the schedule's device. An `nn.Module` runs in eval mode; any other
    callable runs as it is. Neither gets gradients. Between two steps the model and the
    gradient mode are as you left them.

    Args:
        model: the network or any callable, noise = model(x_t, t), with t (B,) int64 in
            1 ... T. On a step up it is asked about the time to which it goes.
        shape: the shape of the batch, (B, ...).
        schedule: the noise schedule.
        rule: how x_s follows from what the network makes of x_t; `ancestral()` if None.
        timesteps: the times to visit, the start's first; T, T - 1, ... 0 if None.
        x_T: begin with these points instead of fresh noise; they have `shape`.
        clip: clip the predicted picture to [-1, 1]; the noise is then worked out again.
        generator: where the noise comes from; torch's global one if None. A CPU
            generator gives the same noise on every device, drawn there and copied over
            at each step; for speed, use one on the device. Or a list of generators, one a
            picture; or a function (images (B,), t) -> noise of x_t, such as
            `CounterNoise`, with which picture i of a seed is always the same.
        dtype: type of x, torch's default one if None; x_T keeps its own. Keep it float32
            or wider: a step changes x by less than half precision can hold.

    Yields:
        one record for each step. The last one's x is the sample.

    Raises:
        TypeError: if a time is no whole number, or x_T no floating-point tensor.
        ValueError: if a time leaves 0 ... T, x_T has not `shape`, the network is on
            another device than the schedule, its answer has another shape than x, or the
            generators are not as many as the pictures.

    Equation: eq-sampling-step. Paper: Algorithm 2.
    """
    device, rule = check.device(model, schedule), rule or ancestral()
    timesteps = range(schedule.T, -1, -1) if timesteps is None else timesteps
    visited = check.times("timesteps", timesteps, schedule)
    dtype = dtype if x_T is None else check.start(x_T, shape).dtype
    normal = noise_for(shape, device, generator, dtype)
    tables = Schedule(schedule.beta[1:])  # on the CPU, whose numbers cost no waiting

    def predict(x: Tensor, t: int, asked: int | None = None) -> Prediction:
        at = torch.full(x.shape[:1], asked or t, device=device)
        noise = predict_noise(model, x, at)
        x_0_hat = predict_x_0(x, t, noise, tables)
        if clip:
            x_0_hat = x_0_hat.clamp(-1, 1)
            noise = x_0_to_noise(x, t, x_0_hat, tables)
        return Prediction(t, x, noise, x_0_hat, predict)

    def walk() -> Iterator[Step]:
        x, before = normal(visited[0]) if x_T is None else x_T, None  # line 1
        for t, s in pairwise(visited):  # line 2
            with evaluating(model):
                seen = predict(x, t, asked=max(t, s))
                x, sigma = rule(replace(seen, before=before), s, tables)  # line 4
                if sigma is not None and s > 0:  # line 3: no noise at the last step
                    x = x + sigma * normal(s)
                before = seen
            yield Step(s, x, seen.x_0_hat)

    return walk()


# %% [markdown]
# If only the end is wanted, `sample` runs the loop and keeps the last record.

# %%
class Options(TypedDict, total=False):
    """The named arguments of `sample_steps`, for those who hand them on."""

    x_T: Tensor | None
    clip: bool
    generator: Randomness
    dtype: torch.dtype | None


def sample(
    model: Model,
    shape: Sequence[int],
    schedule: Schedule,
    rule: Rule | None = None,
    timesteps: Sequence[int] | None = None,
    *,
    progress: bool = False,
    **options: Unpack[Options],
) -> Tensor:
    """Run a sampler to the end and return the samples, in `shape`.

    The arguments are those of `sample_steps`. With `progress`, a bar shows how far it is.
    """
    steps = sample_steps(model, shape, schedule, rule, timesteps, **options)
    total = schedule.T if timesteps is None else len(timesteps) - 1
    for step in tqdm(steps, total=total, disable=not progress):
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
#     return 0.7 * x_t
#
#
# eight = sample(some_network, (8, *shape), short, generator=CounterNoise(0, shape))
# fifth = CounterNoise(0, shape, first=5)
# alone = sample(some_network, (1, *shape), short, generator=fifth)
# for name, point in (("among others", eight[5]), ("alone", alone[0])):
#     print(f"picture 5 {name:13}", *(f"{number:.6f}" for number in point))

# %% [markdown]
# ## Points in the plane, with a perfect network
#
# First a case with a known answer. The data are five bumps on a circle, with unequal weights. For them the perfect noise predictor $\varepsilon^*$ is known (Eq. [optimal noise](#eq-optimal-noise)), so we can test the *sampler* alone, without any doubt about a network. Any callable is a model here.

# %% mystnb={"image": {"alt": "Six snapshots of 600 points in the plane, in two rows, at t = 999, 500, 300, 100, 30 and 0. A round cloud of noise draws together into five separate round bumps on a circle, some with more points than others."}} tags=["active-ipynb"]
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
# figure, axes = plt.subplots(2, 3, figsize=(5.2, 3.7), sharex=True, sharey=True)
# for ax, t in zip(axes.flat, (999, 500, 300, 100, 30, 0)):
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
# **Figure.** Algorithm 2 with the perfect network. For 700 steps there is one cloud; the five bumps appear in the last 300.
#
# It looks right. *Is* it right? A two-sample test compares 5,000 samples with 5,000 fresh draws from the true mixture. It looks at four things, each of which a wrong sampler can get wrong: the two coordinates, the true log-density of the points (too wide a bump has too many unlikely points), and how many points belong to each bump. A p-value is the probability that chance alone makes a difference at least this large. If both sets come from one distribution, each of the four p-values is below 0.0025 with probability at most 0.0025, and so the smallest is with probability at most 0.01. Multiplied by four, the smallest can therefore be read like a single p-value (Bonferroni).

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
# print(f"1,000 steps: p = {p:.2f}")

# %% [markdown]
# A $p$ above 0.01: this test cannot tell the samples and the truth apart.
#
# That was one run. And what does such a test decide? Not whether the program is right. It asks whether the *samples* have the data's distribution, and a sampler without a mistake may miss that as well, because its steps are too large. Both must be looked at.
#
# ### Large or small variance?
#
# First a sampler without a mistake, and with only 50 steps. They follow a cosine schedule (with a larger offset $s$, so that the first steps are not too small). Three variances are tried: the paper's two, $\beta_t$ and $\tilde\beta_t$, and the best one between them, $\sigma_t^{*2}$ of Eq. [optimal variance](#eq-optimal-variance). For that one we need to know how much of the noise $x_t$ leaves open, $\mathbb E\operatorname{Var}(\varepsilon\mid x_t)$. The variance of $\varepsilon$ is 1, and it is the variance of its conditional mean $\varepsilon^*$ plus this mean of its conditional variance. So the open part is $1-\mathbb E[\varepsilon^{*2}]$ per coordinate. In the plane the mean over $x_t$ is an integral that a sum over a grid gives to many digits.

# %% tags=["active-ipynb"]
# from ddpm_nb.posterior import noised_mixture
#
#
# def floor(table, model, fineness=0.4):
#     """E Var(noise | x_t) per coordinate, for t = 1 ... T."""
#     errors = []
#     for t in range(1, table.T + 1):
#         q = noised_mixture(ring, t, table)
#         step = fineness * q.stds.max()
#         half = q.means.abs().max() + 6 * q.stds.max()
#         axis = torch.arange(-half, half, step, dtype=torch.float64)
#         grid = torch.cartesian_prod(axis, axis)
#         density = q.log_prob(grid).exp() * step**2
#         errors.append(1 - density @ model(grid, t).square().mean(dim=1))
#     return torch.stack(errors)
#
#
# fifty = Schedule.cosine(T=50, s=0.05)
# exact_50 = optimal_noise(ring, fifty)
# floors = {50: floor(fifty, exact_50), 1000: floor(schedule, exact)}
# finer = floor(fifty, exact_50, fineness=0.2)  # a finer grid changes nothing
# assert torch.allclose(floors[50], finer, rtol=0, atol=1e-5)
# for t in (1, 10, 25, 50):
#     print(f"t = {t:2}: {floors[50][t - 1]:.5f} of the noise's variance is open")

# %% [markdown]
# The mean of $\operatorname{Var}(x_0\mid x_t)$ follows from it: a wrong noise makes $\hat x_0$ wrong by $\sqrt{1-\bar\alpha_t}/\sqrt{\bar\alpha_t}$ times as much. `ancestral` offers the paper's two variances. For the third we write a rule of our own: line 4, with any list of variances.

# %% tags=["active-ipynb"]
# from ddpm_nb.loss import optimal_variance
# from ddpm_nb.posterior import posterior_variance
#
#
# def variances(table):
#     """The three choices of sigma_t^2, for t = 1 ... T."""
#     t = torch.arange(1, table.T + 1)
#     open_x_0 = floors[table.T] * (1 - table.alpha_bar[t]) / table.alpha_bar[t]
#     return {
#         "large": table.beta[t],
#         "small": posterior_variance(t, table),
#         "best": optimal_variance(t, table, open_x_0),
#     }
#
#
# def with_variance(sigma_squared):
#     """Line 4 with any variances: a rule for the loop of `sample_steps`."""
#
#     def rule(seen, s, table):
#         mean = denoising_mean(seen.x, seen.t, seen.noise, table)
#         return mean, sigma_squared[seen.t - 1].sqrt()
#
#     return rule
#
#
# by_name = sample(exact_50, (20, 2), fifty, generator=torch.Generator().manual_seed(1))
# rule = with_variance(variances(fifty)["large"])
# by_hand = sample(
#     exact_50, (20, 2), fifty, rule, generator=torch.Generator().manual_seed(1)
# )
# assert torch.allclose(by_name, by_hand)
# for name, x in (("`ancestral`", by_name), ("our rule", by_hand)):
#     print(f"{name:11} ({x[0, 0]:.4f}, {x[0, 1]:.4f})")

# %% [markdown]
# One walk, of one seed. If asked for, it makes a mistake; the mistakes come later.

# %% tags=["active-ipynb"]
# def walk_back(table, model, sigma_squared, seed, mistake=None):
#     n = 20_000 if table.T == 50 else 5_000  # 1,000 steps take twenty times as long
#     options = {"generator": torch.Generator().manual_seed(seed), "dtype": torch.float64}
#     networks = {"t off by one": lambda x_t, t: model(x_t, (t - 1).clamp(min=1))}
#     network = networks.get(mistake, model)
#     variance = sigma_squared**2 if mistake == "root forgotten" else sigma_squared
#     x = sample(network, (n, 2), table, with_variance(variance), **options)
#     if mistake == "noise at the last step":
#         x = x + sigma_squared[0].sqrt() * torch.randn(x.shape, **options)
#     return x

# %% [markdown]
# Each variance gets the test, for three seeds and now with 20,000 points (one seed and 5,000 points for the 1,000 steps); each seed has its own noises and its own true points. Beside it stands the width of the bumps, divided by the true width. A hair below 1.00 is right, since a point that strays far is counted to the bump next door; true points stand in the first line. (The interval holds 95 % of such measurements. A variance estimated from $N$ normal numbers has the relative error $\sqrt{2/N}$, and its root half of that.)

# %% tags=["active-ipynb"]
# def rejected(x, seed):
#     """Does the test see that these are no data? Each seed has its own true points."""
#     points = ring.sample(len(x), torch.Generator().manual_seed(100 + seed))
#     return two_sample_p(x, points, ring) < 0.01
#
#
# def width(x):
#     bump = ring.log_joint(x).argmax(1)
#     ratio = float((x - ring.means[bump]).square().mean().sqrt() / 0.25)
#     return ratio, 1.96 * ratio / (2 * x.numel()) ** 0.5

# %% [markdown]
# The table:

# %% tags=["active-ipynb", "nbval-ignore-output"]
# widths, no = {}, {}
# print("steps  variance   rejected   width")
# ratio, error = width(ring.sample(60_000, generator).double())
# print(f"           true points      {ratio:.3f} +- {error:.3f}")
# for table, model, seeds in ((fifty, exact_50, 3), (schedule, exact, 1)):
#     for name, variance in variances(table).items():
#         runs = [walk_back(table, model, variance, seed) for seed in range(1, seeds + 1)]
#         no[table.T, name] = sum(rejected(x, seed) for seed, x in enumerate(runs, 1))
#         widths[table.T, name] = ratio, error = width(torch.cat(runs))
#         print(
#             f"{table.T:5}  {name:8}     {no[table.T, name]} of {seeds}    {ratio:.3f} +- {error:.3f}"
#         )
# assert no[50, "small"] == 3 and no[50, "best"] == 0
# assert not any(no[1000, name] for name in ("large", "small", "best"))
# assert no[50, "large"] >= 1
# assert widths[50, "small"][0] < 0.95 and widths[50, "large"][0] > 1.01
# assert abs(widths[50, "best"][0] - 1) < 0.02
# assert all(abs(widths[1000, name][0] - 1) < 0.04 for name in ("large", "small", "best"))

# %% [markdown]
# No mistake is in any of these. With 50 steps and $\tilde\beta_t$ the test rejects every run all the same: the bumps are much too narrow, and that is the price of the large steps with this variance. With $\beta_t$ they are a little too wide; the width shows it, the test in some runs only. With $\sigma_t^{*2}$ the width is right within about a hundredth, and no run is rejected. With 1,000 steps none is rejected, and what is left of the difference needs more points than this, or an exact case.
#
# **An exact case.** Let the data be one normal distribution, $\mathcal N(0, s^2)$. Then $x_t$ has the variance $v_t = \bar\alpha_t s^2+1-\bar\alpha_t$, and Eq. [optimal noise](#eq-optimal-noise) with a single bump says $\varepsilon^* = \sqrt{1-\bar\alpha_t}\,x_t/v_t$. Line 4 then multiplies $x_t$ by $(1-\beta_t/v_t)/\sqrt{\alpha_t}$. Since $v_t = \alpha_t v_{t-1}+\beta_t$, that is $\sqrt{\alpha_t}\,v_{t-1}/v_t$. So the samples stay normal, with a variance $V_t$ that starts at $V_T = 1$ and goes
#
# $$
# V_{t-1} = \alpha_t\left(\frac{v_{t-1}}{v_t}\right)^{\!2} V_t + \sigma_t^2 \quad (t\ge2), \qquad V_0 = \alpha_1\left(\frac{v_0}{v_1}\right)^{\!2} V_1 .
# $$ (eq-sampler-variance)
#
# The last step has no noise. Here is $\sqrt{V_0}/s$, the width of the samples over the true one, for a bump as narrow as ours. No sample is drawn, so there is no interval.

# %% tags=["active-ipynb"]
# def exact_width(table, sigma_squared, s):
#     """The width of the samples over that of the data, for data N(0, s^2)."""
#     v = table.alpha_bar * s**2 + 1 - table.alpha_bar
#     V = torch.ones((), dtype=torch.float64)
#     for t in range(table.T, 0, -1):
#         V = table.alpha[t] * (v[t - 1] / v[t]) ** 2 * V
#         if t > 1:
#             V = V + sigma_squared[t - 1]
#     return float(V.sqrt() / s)
#
#
# for table in (fifty, schedule):
#     for name in ("large", "small"):
#         ratio = exact_width(table, variances(table)[name], s=0.25)
#         print(f"{table.T:5} steps, {name}: {ratio:.3f}")

# %% [markdown]
# So a difference is left with 1,000 steps too: with $\tilde\beta_t$ more than one hundredth, about the error of the measurement above.
#
# ### Does the test see a mistake?
#
# A test that always passes is worth nothing, so let it look at *wrong* samplers. It must be able to tell a mistake from the size of the steps; so take the best variance, with which the correct sampler passes at 50 steps, and plant three mistakes. They are a forgotten square root ($\sigma_t^2$ where $\sigma_t$ should be), a network asked about $t-1$ instead of $t$, and noise added at the last step.

# %% tags=["active-ipynb"]
# print("                         50 steps, 3 seeds   1,000 steps, 1 seed")
# for mistake in (None, "root forgotten", "t off by one", "noise at the last step"):
#     seen = []
#     for table, model, seeds in ((fifty, exact_50, 3), (schedule, exact, 1)):
#         best = variances(table)["best"]
#         runs = [
#             walk_back(table, model, best, seed, mistake) for seed in range(1, seeds + 1)
#         ]
#         count = sum(rejected(x, seed) for seed, x in enumerate(runs, 1))
#         seen.append(f"rejected {count} of {seeds}")
#     print(f"{mistake or 'no mistake':22}    {seen[0]}        {seen[1]}")

# %% [markdown]
# Look at the second column, where one seed and a quarter of the points must do. With 1,000 steps two of the three mistakes were not seen: each step is so small that asking about a neighbouring $t$, or adding the last step's noise, changes next to nothing. Whoever changes a sampler should test it with few steps, and with a variance for which few steps are enough; or against an exact case, such as the one above.
#
# Clipping can be checked too. For data well inside $[-1, 1]$ nothing is clipped, and with and without it the sampler must walk the same path.

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
# largest = max(float(step.x_0_hat.abs().max()) for step in free)
# assert all(torch.allclose(a.x, b.x, rtol=0, atol=1e-9) for a, b in zip(free, clipped))
# print(f"largest coordinate of a predicted point: {largest:.2f}, so nothing is clipped")
# for a, b in zip(free[9::20], clipped[9::20]):
#     print(f"t = {a.t:2}: {a.x[0, 0]:.8f} without, {b.x[0, 0]:.8f} with clipping")

# %% [markdown]
# ### How many steps?
#
# Why not jump at once? The first thing that the network gives is $\hat x_0$, the whole picture. So try chains of 1, 2, 5, 20 and 1,000 steps, each with its own cosine schedule and its own $\varepsilon^*$.

# %% mystnb={"image": {"alt": "Five panels with 600 points each, for 1, 2, 5, 20 and 1,000 steps, and a sixth with points of the data. One step puts all points into one tiny heap near the middle, where there are no data. Two steps fill a pentagon. Five steps give five bumps with points between them. With 20 and with 1,000 steps the five bumps are clear."}} tags=["active-ipynb"]
# figure, axes = plt.subplots(2, 3, figsize=(5.2, 3.7), sharex=True, sharey=True)
# clouds = {}
# for T in (1, 2, 5, 20, 1000):
#     table = Schedule.cosine(T)
#     x = sample(optimal_noise(ring, table), (600, 2), table, generator=generator)
#     clouds[f"T = {T}"] = x
# clouds["data"] = truth[:600]
# for ax, (name, x) in zip(axes.flat, clouds.items()):
#     color = fig.GREY if name == "data" else fig.BLUE
#     ax.plot(*x.T, ".", color=color, markersize=1.5)
#     ax.set(title=name, aspect="equal", xticks=[], yticks=[])
#     ax.set(xlim=(-3.2, 3.2), ylim=(-3.2, 3.2))
# plt.show()
# centre = (ring.weights[:, None] * ring.means).sum(0)
# assert (clouds["T = 1"].mean(0) - centre).norm() < 0.1
# for name, point in (
#     ("one jump ends at", clouds["T = 1"].mean(0)),
#     ("mean of the data", centre),
# ):
#     print(f"{name}: ({point[0]:.2f}, {point[1]:.2f})")

# %% [markdown]
# **Figure.** Chains of 1 to 1,000 steps with their perfect networks, and the data. One step gives the average of everything, where there are no data at all.
#
# <div class="live" data-figure="ring">
#
# **Guess first.** Take the fresh noise $z$ away, and leave all else as it is. Where will 300 points end at $t = 0$? Then pull the marked point to another start: does it end in the bump next to where it began?
#
# <details><summary>What to see</summary>
#
# Without $z$ all points end close to one place in one bump, however good the network. With it the end is hardly decided by the start: the same $z$ takes the marked point to the same bump from nearly everywhere, and new noise takes it elsewhere. Few evaluations leave points outside the circles (three standard deviations of each bump). The forgotten root shows with 50 evaluations and still more with 1,000; the other two mistakes cannot be seen, and need the tests of this chapter.
#
# </details>
#
# </div>
#
# One jump gives almost exactly the *mean* of all data, whatever the noise was: seen from pure noise, every data point is possible, and the best single answer is the average. Steps in between let each chain make up its mind.
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

# %% [markdown]
# Algorithm 1 trains it, with a learning rate that falls along half a cosine.

# %% tags=["active-ipynb"]
# import os
#
# from safetensors.torch import save_file
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
# assert losses[-500:].mean() < 0.5 * losses[0]
# print(f"loss: first {losses[0]:.2f}, mean of the last 500 {losses[-500:].mean():.2f}")
# if (
#     os.environ.get("DDPM_NB_WRITE_WEIGHTS") == "1"
# ):  # `make execute`: for the live figure
#     save_file(net.state_dict(), "weights/plane.safetensors")

# %% [markdown]
# How far is the learned network from the perfect one? Measure the mean squared distance $\lVert\varepsilon_\theta-\varepsilon^*\rVert^2$ at some $t$, per coordinate and on 20,000 points, and put it beside the floor: the error that even $\varepsilon^*$ makes, which the grid has given at every $t$.

# %% mystnb={"image": {"alt": "Two curves against t on a logarithmic scale. The floor, the error of the perfect network, falls from about 1 at t = 1 to less than 0.0001 at t = 1000. The distance between learned and perfect network lies ten to a thousand times lower up to t = 800, and above the floor only at the very end, where the floor is tiny."}} tags=["active-ipynb", "nbval-ignore-output"]
# from ddpm_nb.forward import q_sample
#
# test_points = ring.sample(20_000, generator)
# times = torch.tensor(
#     [1, 2, 5, 10, 20, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000]
# )
# distance = []
# for t in times:
#     noise = torch.randn(test_points.shape, generator=generator)
#     x_t = q_sample(test_points, int(t), noise, schedule)
#     with torch.no_grad():
#         learned = net(x_t, t.expand(len(test_points)))
#     distance.append((learned - exact(x_t, int(t))).square().mean())
#
# figure, ax = plt.subplots(figsize=(5.2, 3.2))
# ax.plot(range(1, 1001), floors[1000], color=fig.GREY)
# ax.plot(times, distance, "o-", color=fig.BLUE, markersize=4)
# ax.fill_between(
#     times, distance, floors[1000][times - 1], color=fig.GREY, alpha=0.15, linewidth=0
# )
# ax.text(
#     330,
#     0.009,
#     "up to t = 800: a factor of 10\nto more than 1,000",
#     color=fig.GREY,
#     ha="center",
# )
# ax.set(yscale="log", xlabel="t", ylabel="squared error, a coordinate")
# fig.label_line(ax, 1000, 1.1, "floor: perfect against the noise", fig.GREY, ha="right")
# fig.label_line(ax, 0, 2e-5, "learned against perfect", fig.BLUE)
# plt.show()
# print("    t   distance   of the floor")
# for t, d, f in zip(times, distance, floors[1000][times - 1]):
#     print(f"{int(t):5}   {d:.5f}    {d / f:9.2%}")
# assert max(distance) < 0.05

# %% [markdown]
# **Figure.** How far the learned network is from the perfect one (blue), beside the error that even the perfect one makes (grey). The loss that training sees is their sum, so nearly all of it is floor.
#
# (At the largest $t$ the last column passes 100 %. There the floor is nearly 0, because the noise is nearly all of $x_t$: a small error is many times next to nothing.)
#
# This is one network, from one run of training. Up to $t = 600$ its distance is about a hundredth of the floor or less. So the loss hardly shows whether a network is good or perfect: between the two it falls by one hundredth.
#
# And here are its samples beside true ones.

# %% mystnb={"image": {"alt": "Two scatter plots side by side, true points and points sampled with the learned network. Both show five round bumps on a circle in the same places, with the fewest points at the top and the most at the upper left."}} tags=["active-ipynb"]
# learned_samples = sample(net, (5000, 2), schedule, generator=generator)
# figure, axes = plt.subplots(1, 2, figsize=(5, 2.5), sharex=True, sharey=True)
# for ax, cloud, title, color in zip(
#     axes,
#     (truth, learned_samples),
#     ("true", "learned network"),
#     (fig.GREY, fig.BLUE),
# ):
#     ax.plot(*cloud[:600].T, ".", color=color, markersize=1.5)
#     ax.set(title=title, aspect="equal", xticks=[], yticks=[])
# plt.show()
# share = torch.bincount(ring.log_joint(learned_samples).argmax(1), minlength=5) / 5000
# assert (share - ring.weights).abs().max() < 0.03
# for name, shares in (("true", ring.weights), ("samples", share)):
#     print(f"share of each bump, {name:8}", *(f"{part:.3f}" for part in shares))

# %% [markdown]
# **Figure.** True points, and points drawn by Algorithm 2 with the learned network.
#
# ### What the learned model is worth in nats
#
# Samples that look right are one thing; the bound gives a number. On average $L$ lies above the entropy of the data, and Eq. [whole cost](#eq-joint-kl) says by how much: by the divergence of the two ends at $x_T$, plus what each step back of the model diverges from the true one. How large is this gap? And whose fault is it: the network's, or that of a chain of normal steps, which even the perfect network must take?
#
# Write the gap as a sum with one part for each cause. The network enters $L$ only through the squared error, times the weight of Eq. [weight](#eq-vlb-weight). By Eq. [best guess](#eq-best-guess) the mean of this error is the floor plus the squared distance to $\varepsilon^*$, so **the network's share** of the gap is $\sum_t\text{weight}_t\;\mathbb E\lVert\varepsilon_\theta-\varepsilon^*\rVert^2$. All the rest is the gap of the perfect network, and needs no sample: with the floor known, every term of [the bound](bound.ipynb) is a formula. It has three parts. The end of the chain is $\mathrm{KL}(q(x_T)\,\|\,\mathcal N(0,I))$. **The variance's share** is what $\beta_t$ costs more than the best choice, $\tfrac12(\sigma_t^{*2}/\beta_t-1-\log(\sigma_t^{*2}/\beta_t))$ for each coordinate and $t$ (put both into the cost of [the loss](loss.ipynb), "Which variance?"). What remains is **the bell's share**: the true step back is not normal.

# %% tags=["active-ipynb"]
# from ddpm_nb.loss import vlb_weight
#
# t = torch.arange(1, 1001)
# weight, beta = vlb_weight(t, schedule), schedule.beta[1:]
# axis = torch.arange(-4, 4, 0.05, dtype=torch.float64)
# grid = torch.cartesian_prod(axis, axis)
# log_q = ring.log_prob(grid)
# entropy = -(log_q.exp() * log_q).sum() * 0.05**2
#
# # The bound with the perfect network, by its three terms; a point has two coordinates.
# last = schedule.alpha_bar[-1]
# square = ring.weights @ (ring.means.square() + ring.stds[:, None] ** 2)  # E x_0^2
# prior = 0.5 * (last * square - last - (1 - last).log()).sum()
# ratio = posterior_variance(t[1:], schedule) / beta[1:]
# steps = (ratio - 1 - ratio.log() + 2 * weight[1:] * floors[1000][1:]).sum()
# reconstruction = (2 * math.pi * beta[0]).log() + 2 * weight[0] * floors[1000][0]
# perfect = prior + steps + reconstruction - entropy

# %% [markdown]
# And its parts: the end of the chain by a sum over a grid, the variance by its formula, the rest by subtraction.

# %% tags=["active-ipynb"]
# at_T = noised_mixture(ring, 1000, schedule)
# grid, cell = 2 * grid, 0.1**2  # x_T spreads as far as 5 or so
# log_ratio = at_T.log_prob(grid) + 0.5 * grid.square().sum(1) + math.log(2 * math.pi)
# end = (at_T.log_prob(grid).exp() * log_ratio).sum() * cell
# ratio = variances(schedule)["best"] / beta
# variance_share = (ratio - 1 - ratio.log()).sum()
# print("the gap of the perfect network, in nats a point")
# print(f"    end of the chain       {end:.6f}")
# print(f"    variance               {variance_share:.4f}")
# print(f"    steps are not normal   {perfect - end - variance_share:.4f}")
# print(f"    together               {perfect:.4f}")
# assert 0 < end < 1e-5 and variance_share > 0 and perfect > end + variance_share

# %% [markdown]
# Only the network's share has to be measured on points. It can be measured in two ways, with the same noises: as the difference of the two bounds, $\sum_t\text{weight}_t\,(\lVert\varepsilon-\varepsilon_\theta\rVert^2-\lVert\varepsilon-\varepsilon^*\rVert^2)$ at each point, or directly by the distance. Their means are equal, again by Eq. [best guess](#eq-best-guess). But the difference contains the product of $\varepsilon-\varepsilon^*$ and $\varepsilon^*-\varepsilon_\theta$, which has mean zero and a large scatter.

# %% tags=["active-ipynb", "nbval-ignore-output"]
# n = 2000
# fresh = ring.sample(n, generator).double()
# difference, share = torch.zeros(2, n, dtype=torch.float64)
# with torch.no_grad():
#     for at in range(1, 1001):
#         noise = torch.randn(fresh.shape, dtype=torch.float64, generator=generator)
#         x_t = q_sample(fresh, at, noise, schedule)
#         learned = net(x_t.float(), torch.full((n,), at)).double()
#         best = exact(x_t, at)
#         worse = (noise - learned).square() - (noise - best).square()
#         difference += weight[at - 1] * worse.sum(1)
#         share += weight[at - 1] * (learned - best).square().sum(1)
#
# errors = [1.96 * x.std() / n**0.5 for x in (difference, share)]
# print("the network's share, in nats a point")
# print(f"    as a difference        {difference.mean():.4f} +- {errors[0]:.4f}")
# print(f"    by the distance        {share.mean():.4f} +- {errors[1]:.4f}")
# assert abs(difference.mean() - share.mean()) < 2 * errors[0]
# assert share.mean() - errors[1] > perfect  # most of the gap is the network's

# %% [markdown]
# The interval holds 95 % of such measurements on fresh points and noises. It says nothing about other runs of training: this is one network. For this one the answer is clear. The whole gap is a few hundredths of a nat, and the larger part of it is the network's fault. What the chain itself costs is smaller, nearly half of it because $\beta_t$ is not the best variance, and the rest because a step back is not quite normal; the end of the chain costs nothing that matters. More and smaller steps should make the chain's part smaller, by Eq. [cost of a step](#eq-step-cost). Whether more training makes the network's part smaller, one run cannot say.
#
# Had we measured the perfect network's gap too, with one noise for each point and $t$, the error bar would have been several times the gap: most of that scatter is in $\lVert\varepsilon-\varepsilon^*\rVert^2$, whose mean is known. What can be computed should not be sampled.

# %% [markdown]
# ## Handwritten digits
#
# The same two algorithms, with a picture in the place of a point: scikit-learn's 1,797 handwritten digits, 8×8 pixels, grey. The network is [the U-Net](unet.ipynb) in its smallest size. A quarter of the digits is kept aside; the network never sees them.
#
# The digits come with labels: somebody has written down which digit each is. The network is told, $\varepsilon_\theta(x_t,t,y)$ with the label $y$, but not always. Three pictures in ten come with the *null label*, written $\varnothing$, which means "I do not say". So one network learns two things: $\varepsilon_\theta(x_t,t,y)$, the noise in a picture of a digit that is named, and $\varepsilon_\theta(x_t,t)$, short for the null label, the noise in a picture of any digit. This section asks for the second, and the section on labels below for both.

# %%
def drop_labels(
    y: Tensor, null: int, share: float = 0.1, generator: torch.Generator | None = None
) -> Tensor:
    """Return labels of which a random share gave way to the null label.

    Args:
        y: (B,) int64 labels.
        null: the null label; for a `UNet` its `num_classes`.
        share: how likely each label is to be dropped, in [0, 1].
        generator: where the choice comes from; torch's global one if None.

    Raises:
        ValueError: if the share is not in [0, 1].

    Source: Ho and Salimans (2022), Algorithm 1.
    """
    check.number("share", share, "in [0, 1]", lambda p: 0 <= p <= 1)
    at = y.device if generator is None else generator.device
    drawn = torch.rand(y.shape, generator=generator, device=at)
    return torch.where(brought(drawn, y.device) < share, null, y)


# %% [markdown]
# Two things help a small network in a short time, and both stand in our loop: the learning rate rises at first and then falls, and we keep a *running average* $\bar\theta$ of the weights, $\bar\theta\leftarrow0.995\,\bar\theta+0.005\,\theta$ after each step, which samples better than the weights themselves ([training](training.ipynb) tells why, and measures it). The schedule is the cosine one with 500 steps, since on small pictures the linear one spends too many steps on nothing.
#
# The whole training takes minutes. `make execute`, which makes the book's own results, does it, and keeps the averaged weights in `book/weights/`. Run by you, the cell takes the first 600 steps, and then the kept weights come in.

# %% mystnb={"image": {"alt": "Training loss on the digits against the step, on a logarithmic scale: it falls steeply in the first 200 steps and then more and more slowly, without an end in sight, to about 0.11."}} tags=["active-ipynb", "nbval-ignore-output"]
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
#
# def labelled_batches(generator):
#     """Pairs of 64 pictures and their labels, some of them dropped."""
#     y = torch.tensor(train_labels)
#     for i in minibatches(torch.arange(len(y)), 64, generator):
#         yield train_images[i], drop_labels(y[i], unet.num_classes, 0.3, generator)
#
#
# torch.manual_seed(0)
# generator = torch.Generator().manual_seed(0)
# digit_schedule = Schedule.cosine(T=500)
# unet = UNet.digits()
# average = AveragedModel(unet, multi_avg_fn=get_ema_multi_avg_fn(0.995))
# optimizer = torch.optim.Adam(unet.parameters(), lr=2e-3, fused=True)
# STEPS, whole = 10_000, os.environ.get("DDPM_NB_WRITE_WEIGHTS") == "1"
# one_cycle = torch.optim.lr_scheduler.LambdaLR(
#     optimizer,
#     lambda step: min(1.0, step / 100) * 0.5 * (1 + math.cos(math.pi * step / STEPS)),
# )
#
# start, losses = time.perf_counter(), []
# for record in train_steps(
#     unet,
#     labelled_batches(generator),
#     digit_schedule,
#     optimizer,
#     generator=generator,
# ):
#     one_cycle.step()
#     average.update_parameters(unet)
#     losses.append(record.loss)
#     if record.step % 600 == 0:
#         seconds = time.perf_counter() - start
#         recent = torch.stack(losses[-100:]).mean()
#         print(f"step {record.step:5}   loss {recent:.3f}   {seconds:4.0f} s")
#     if record.step == 600:
#         younger = copy.deepcopy(average)
#     if record.step == (STEPS if whole else 600):
#         break
#
# losses = torch.stack(losses)
# figure, ax = plt.subplots(figsize=(5.2, 2.4))
# ax.semilogy(losses, color=fig.BLUE, linewidth=0.4, alpha=0.5)
# ax.semilogy(losses.unfold(0, 50, 1).mean(1), color=fig.BLUE)
# ax.set(xlabel="training step", ylabel="loss")
# plt.show()
# assert losses[-200:].mean() < 0.25

# %% [markdown]
# **Figure.** The training loss, and its mean over 50 steps: it falls fast, and then hardly at all.

# %% tags=["active-ipynb"]
# # The weights after all steps: kept by `make execute`, and loaded by everybody.
# from pathlib import Path
#
# from safetensors.torch import load_file
#
# from ddpm_nb import _weights
# from ddpm_nb.cifar10 import digits_config
# from ddpm_nb.training import save_network
#
# if whole:
#     Path("weights").mkdir(exist_ok=True)
#     save_network(
#         "weights/digits.safetensors",
#         average.module,
#         replace(digits_config(), clip="none"),
#         height=8,
#         width=8,
#         levels="17",
#         pictures="scikit-learn's digits, training set",
#         recipe="chapter algorithms: 3 labels in 10 dropped, the rate falls to 0",
#     )
# network = average.module.eval()
# _ = network.load_state_dict(load_file(_weights.path("digits.safetensors")))

# %% [markdown]
# Now Algorithm 2, all 500 steps, for 64 digits at once. Here are four of them on their way from noise.

# %% mystnb={"image": {"alt": "Four rows of pictures, read from left to right: pure noise at t = 500, then t = 300, 200, 100, 50, and at t = 0 four digits, 2, 9, 8 and 9. Large shapes appear first, clean strokes last."}} tags=["active-ipynb", "nbval-ignore-output"]
# generator.manual_seed(1)
# keep = (500, 300, 200, 100, 50, 0)
# shape = (64, 1, 8, 8)
# trail = {}
# for step in sample_steps(
#     network, shape, digit_schedule, clip=True, generator=generator
# ):
#     trail[step.t] = step.x
# trail[500] = torch.randn(
#     shape, generator=torch.Generator().manual_seed(1)
# )  # line 1's draw, again
# digits = trail[0]
#
# figure = fig.picture_rows(
#     [torch.stack([trail[t][i] for t in keep]) for i in range(4)],
#     [""] * 4,
#     [f"t = {t}" for t in keep],
#     size=0.85,
# )
# plt.show()
# assert digits.shape == shape and digits.isfinite().all()

# %% [markdown]
# **Figure.** Four digits on their way out of the noise. The large shapes come first, clean strokes last. At $t = 200$ most can be guessed.

# %% mystnb={"image": {"alt": "Two sheets of 64 digits each, side by side: real scans at the left, samples of the model at the right. Both show all ten digits in many handwritings; a few samples are hard to read."}} tags=["active-ipynb", "nbval-ignore-output"]
# figure, axes = plt.subplots(1, 2, figsize=(5.2, 2.8))
# for ax, pictures, title in zip(
#     axes, (test_images[:64], digits), ("real digits", "samples")
# ):
#     fig.show_images(ax, pictures, columns=8)
#     ax.set_title(title)
# plt.show()
# assert digits.min() >= -1.5 and digits.max() <= 1.5

# %% [markdown]
# **Figure.** Real digits that the network has not seen, and digits that it drew.
#
# ### A judge who has seen only real digits
#
# Are these digits? Let a classifier say, one that was trained on the real ones and tells how sure it is. Ours is a jury of 45 small support vector machines, one for each pair of digits. Each gives the probability $r_{ij}$ that a picture shows $i$ rather than $j$, and they are combined to one probability for each digit by $p_i \propto 1/\bigl(\sum_{j\ne i} 1/r_{ij} - 8\bigr)$ (Price and others, 1995). Why? If $r_{ij} = p_i/(p_i+p_j)$, then $1/r_{ij} = 1+p_j/p_i$, and the sum over the nine others is $9+(1-p_i)/p_i = 8+1/p_i$. To be sure of a three, the jury must prefer three to each of the nine others.
#
# (In the code, `CalibratedClassifierCV` turns the distance of a picture from a machine's border into the probability $r_{ij}$, fitted on pictures that this machine has not learned from.)
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
#         """Which pictures does it give to one digit with probability >= 0.8?"""
#         return self.probability(pictures).max(axis=1) >= 0.8
#
#
# judge = Judge(train_images, train_labels)
# right = (judge.probability(test_images).argmax(axis=1) == test_labels).mean()
# noise = torch.randn(2000, 64, generator=generator).clamp(-1, 1)
# rng = np.random.default_rng(0)
# shuffled = torch.tensor(rng.permuted(np.tile(test_images.flatten(1), (4, 1)), axis=1))
# sure = [judge.sure(pictures).mean() for pictures in (test_images, noise, shuffled)]
# print(f"right about {right:.1%} of the unseen digits")
# for name, part in zip(("the unseen digits", "noise", "shuffled digits"), sure):
#     print(f"sure about {part:.1%} of {name}")
# assert right >= 0.98 and 0.90 <= sure[0] <= 0.96 and max(sure[1:]) <= 0.02

# %% [markdown]
# Now the samples: the 64 digits above and 192 more. A share of $n$ pictures is itself uncertain; behind it stands the 95 % interval (Wilson's) for other noises and the same network.

# %% tags=["active-ipynb", "nbval-ignore-output"]
# from scipy.stats import binomtest
#
#
# def share(yes):
#     """How many are true, and between which shares that leaves the truth."""
#     low, high = binomtest(int(yes.sum()), len(yes)).proportion_ci(method="wilson")
#     return f"{yes.mean():4.0%} of {len(yes)} ({low:.0%} to {high:.0%})", low, high
#
#
# more = sample(network, (192, 1, 8, 8), digit_schedule, clip=True, generator=generator)
# many = torch.cat([digits, more])
# kinds = np.bincount(judge.probability(many).argmax(axis=1), minlength=10)
# print("the judge is sure about")
# print("    unseen real digits:", share(judge.sure(test_images))[0])
# print("    samples:           ", share(judge.sure(many))[0])
# print("how often each digit 0 ... 9 appears:", kinds)
# assert judge.sure(many).mean() >= 0.75
# assert (kinds > 0).all()

# %% [markdown]
# After the first few hundred steps the loss falls only slowly. Do the samples still get better? Here is the model as it was after 600 steps, with the same 64 noises. Beside it stands the loss of both on the training pictures, for the same draws of times and noises.

# %% tags=["active-ipynb", "nbval-ignore-output"]
# def same_noise():
#     return torch.Generator().manual_seed(1)
#
#
# def loss_of(model, pictures, draws=8):
#     """The mean of the loss over some draws of times and noises, and its interval."""
#     chance = torch.Generator().manual_seed(3)
#     with torch.no_grad():
#         runs = torch.stack(
#             [simple_loss(model, pictures, digit_schedule, chance) for _ in range(draws)]
#         )
#     return runs.mean(), 2.36 * runs.std() / draws**0.5
#
#
# early = sample(younger, shape, digit_schedule, clip=True, generator=same_noise())
# verdicts = {}
# for step, model, pictures in ((600, younger, early), (STEPS, network, digits)):
#     verdicts[step] = share(judge.sure(pictures))
#     loss, _ = loss_of(model.eval(), train_images)
#     print(f"step {step:5}   loss {loss:.3f}   sure about {verdicts[step][0]}")
# assert verdicts[600][2] < verdicts[STEPS][1]  # the two intervals do not meet

# %% [markdown]
# Between 600 and 10,000 steps the loss falls by less than a third, and the share of good digits rises by far more than 64 noises leave uncertain. So, in this run at least, a small step of the loss is a large one of the pictures: that is why line 6 is not decided by the loss alone.
#
# What did clipping buy? Sample the same 64 noises once more without it.

# %% tags=["active-ipynb", "nbval-ignore-output"]
# free = sample(network, shape, digit_schedule, generator=same_noise())
# with_it, without = judge.sure(digits), judge.sure(free)
# only_with, only_without = (with_it & ~without).sum(), (without & ~with_it).sum()
# print(f"sure only with clipping: {only_with}, only without: {only_without}")
# largest = [float(pictures.abs().max()) for pictures in (digits, free)]
# print(f"largest pixel: {largest[0]:.2f} with clipping, {largest[1]:.2f} without")
# assert abs(only_with - only_without) <= 3 * max(1, only_with + only_without) ** 0.5
# assert free.isfinite().all()

# %% [markdown]
# Each noise gives two digits, and only those pairs count about which the judge changes its mind. If clipping made no difference, each of them would fall to either side with probability one half, and the two numbers would differ by about the root of their sum. They differ by no more than a few such roots, so 64 pairs show no difference in quality. What clipping does do is to keep the pixels in range. It could matter more in the first step of the cosine schedule. There $1/\sqrt{\alpha_T} = 31.6$, and without clipping an error of the noise enters $x_{T-1}$ with this factor.

# %% [markdown]
# ### A label to ask for
#
# The network has learned with labels, so we can ask for a seven. What the label changes can be said exactly. Write $q_t$ for the distribution of $x_t$, and $q_t(x_t\mid y)$ for that of the pictures with label $y$. By Bayes' rule, with the logarithm and the gradient in $x_t$ taken, and $\log p(y)$ gone because it does not depend on $x_t$,
#
# $$
# \nabla\log q_t(x_t\mid y) = \nabla\log q_t(x_t) + \nabla\log q_t(y\mid x_t) .
# $$
#
# A perfect network's noise is $-\sqrt{1-\bar\alpha_t}$ times such a gradient (Eq. [score](#eq-score)). So the difference of its two answers, with the label and without, is the direction in which the label becomes more likely. *Guidance* goes further in that direction than the label alone asks, by a factor $1+w$:
#
# $$
# \begin{aligned}
# \tilde\varepsilon(x_t,t,y) &= \varepsilon_\theta(x_t,t,y) + w\,\bigl(\varepsilon_\theta(x_t,t,y)-\varepsilon_\theta(x_t,t)\bigr) \\
# &= -\sqrt{1-\bar\alpha_t}\;\nabla\bigl[\log q_t(x_t) + (1+w)\log q_t(y\mid x_t)\bigr] .
# \end{aligned}
# $$ (eq-guidance)
#
# The second equality holds for the perfect network. With $w=0$ this is the label's own noise. With $w>0$ the pictures are more clearly what was asked for, and less varied. There is a price: the distributions $q_t(x_t)\,q_t(y\mid x_t)^{1+w}$, one for each $t$, are not those of one forward process that starts from any data. So no derivation says what a guided chain draws in the end; one has to look.
#
# A guided network is a network again, `noise = model(x_t, t)`. No sampler needs to know.

# %%
class Guided(nn.Module):
    """The noise in pictures of given labels, as a model that any sampler takes.

    Args:
        model: a network that knows labels, noise = model(x_t, t, y), and without a label
            noise = model(x_t, t).
        y: () or (B,) int64 label of all pictures, or of each, on the model's device.
        scale: the w of the equation; 0 for the label alone, with one network evaluation
            a step in the place of two.

    Raises:
        ValueError: if the scale is not finite.

    Equation: eq-guidance. Source: Ho and Salimans (2022), equation 6.
    """

    def __init__(self, model: Callable[..., Tensor], y: Tensor, scale: float = 0.0):
        super().__init__()
        self.model, self.y = model, y
        self.scale = check.number("scale", scale, "that is finite", math.isfinite)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the noise in x_t (B, ...) at the times t (B,)."""
        noise = self.model(x_t, t, self.y.expand(len(x_t)))
        if self.scale == 0:
            return noise
        return noise + self.scale * (noise - self.model(x_t, t))

# %% mystnb={"image": {"alt": "Four rows of ten digits. In each column the digit 0 to 9 was asked for; all four rows begin with the same noise in a column. In the first row, without a label, the digits are any. In the second, with the label alone, nearly all are the digit asked for. In the third and fourth, with guidance 1 and 3, they are plainer and more alike."}} tags=["active-ipynb", "nbval-ignore-output"]
# asked_for = torch.arange(10)
# ten = torch.randn(10, 1, 8, 8, generator=same_noise())
# names = ("no label", "w = 0", "w = 1", "w = 3")
# models = [network, *(Guided(network, asked_for, w) for w in (0.0, 1.0, 3.0))]
# rows = [
#     sample(model, ten.shape, digit_schedule, x_T=ten, clip=True, generator=same_noise())
#     for model in models
# ]
# fig.picture_rows(rows, names, [str(y) for y in range(10)], size=0.5)
# plt.show()
# assert judge.probability(rows[2]).argmax(axis=1).tolist() == asked_for.tolist()

# %% [markdown]
# **Figure.** The same ten noises in each row; above, the digit that was asked for. Without a label any digit comes. The larger $w$, the plainer the digits, and the more alike.
#
# How often is it the digit that was asked for? 300 noises, thirty for each digit; the judge names the most probable digit, sure or not. The spread is the mean distance between two pictures of the same label, over that of the training pictures; it stands here without an interval, for one run.

# %% tags=["active-ipynb", "nbval-ignore-output"]
# def spread(pictures, y):
#     """The mean distance between two pictures of one label, over all labels."""
#     return np.mean([torch.pdist(pictures[y == k].flatten(1)).mean() for k in range(10)])
#
#
# wanted = torch.arange(300) % 10
# real_spread = spread(train_images, torch.tensor(train_labels))
# right = {}
# for w in (0.0, 1.0, 3.0):
#     model = Guided(network, wanted, w)
#     drawn = sample(
#         model, (300, 1, 8, 8), digit_schedule, clip=True, generator=same_noise()
#     )
#     right[w] = judge.probability(drawn).argmax(axis=1) == wanted.numpy()
#     print(f"w = {w:g}: as asked {share(right[w])[0]},", end=" ")
#     print(f"spread {spread(drawn, wanted) / real_spread:.2f}")
# assert right[0.0].mean() > 0.85
# assert right[1.0].mean() >= right[0.0].mean()

# %% [markdown]
# The file of this network says how the network is built, with its labels (`save_network` wrote it; see [training](training.ipynb)). So the command line can draw from it. In a clone of the book's repository, the first line draws 64 sevens, and the second one picture of each digit, with more guidance:
#
# ```
# ddpm-nb sample --network book/weights/digits.safetensors --out sevens.png --label 7 --guidance 1
# ddpm-nb sample --network book/weights/digits.safetensors --out ten.png --label 0,1,2,3,4,5,6,7,8,9 --guidance 3 --count 10
# ```

# %% [markdown]
# Or are they copies? A model that only recites its training set would satisfy the judge too. So measure, for each of the 256 samples, the distance to the nearest training picture, and compare with the same distance for digits that were kept aside. Samples that are copies would lie much closer. (The interval of the ratio comes from drawing both sets of distances again, with replacement, a thousand times: the bootstrap.)

# %% mystnb={"image": {"alt": "Two rows of eight digits. Each sample in the upper row stands above the training picture nearest to it. The pairs show the same digit in similar but visibly different handwriting."}} tags=["active-ipynb", "nbval-ignore-output"]
# def nearest(pictures):
#     return torch.cdist(pictures.flatten(1), train_images.flatten(1)).min(dim=1)
#
#
# (sample_distance, index), (real_distance, _) = nearest(many), nearest(test_images)
#
#
# def median_again(distance):
#     """The medians of a thousand sets drawn from `distance`, with replacement."""
#     n = len(distance)
#     return distance[torch.randint(n, (1000, n), generator=generator)].median(1).values
#
#
# ratio = float(sample_distance.median() / real_distance.median())
# ratios = median_again(sample_distance) / median_again(real_distance)
# low, high = ratios.quantile(torch.tensor([0.025, 0.975]))
# too_close = share((sample_distance < real_distance.quantile(0.05)).numpy())
# print("median distance to the nearest training picture,")
# print(f"samples over unseen digits: {ratio:.2f} ({low:.2f} to {high:.2f})")
# print(f"samples as close as the closest 5 % of the unseen digits: {too_close[0]}")
# fig.picture_rows(
#     [digits[:8], train_images[index[:8]]], ["sample", "nearest"], [""] * 8, size=0.55
# )
# plt.show()
# assert low >= 0.85
# assert too_close[2] <= 0.2

# %% [markdown]
# **Figure.** Samples, and under each the nearest of all training pictures.
#
# They are no copies: in this run the samples lie nearly as far from the training pictures as unseen digits do. *Nearly*, for the interval of the ratio does not reach 1, and a few more of them than of the unseen digits lie close to a training picture. So long a training on so few pictures begins to show.
#
# ### The perfect network recites
#
# That should surprise you. On the ring, "perfect" meant perfect for the *population*, from which points can be drawn without end. A training run never sees the population. Its loss is a mean over $N$ training pictures $x^{(1)},\dots,x^{(N)}$, and the network that makes *this* loss smallest answers with the mean of the noise over those pictures alone. That is Eq. [optimal noise](#eq-optimal-noise) with a bump on each training picture and widths that go to 0:
#
# $$
# \varepsilon^*_N(x_t,t) = \frac{x_t-\sqrt{\bar\alpha_t}\,\hat x_0}{\sqrt{1-\bar\alpha_t}}, \qquad \hat x_0 = \sum_{i=1}^N w_i\,x^{(i)}, \qquad w_i \propto \exp\left(-\frac{\lVert x_t-\sqrt{\bar\alpha_t}\,x^{(i)}\rVert^2}{2(1-\bar\alpha_t)}\right), \quad \sum_i w_i = 1 .
# $$ (eq-training-set-noise)
#
# The predicted picture is a weighted mean of training pictures, and the weights are a softmax of distances. At large $t$ all pictures take part; at small $t$ the nearest one takes all. And at $t = 1$ line 4 returns $\hat x_0$ itself (exercise 1 shows it for a single point). So Algorithm 2 must end on a training picture. Here are both, the perfect network for this training set and the learned one, with the same 64 noises (one seed).

# %% mystnb={"image": {"alt": "Three rows of eight digits. In the upper two rows, the samples of the perfect network and the nearest training pictures, each pair is the same picture. The third row, samples of the learned network from the same noises, shows digits too, often of the same kind as above, but never the same picture."}} tags=["active-ipynb", "nbval-ignore-output"]
# memory = train_images.flatten(1).double()
#
#
# def recite(x_t, t):
#     """The network with the smallest loss on the training set."""
#     alpha_bar = digit_schedule.alpha_bar[t][:, None]
#     x = x_t.flatten(1).double()
#     square = torch.cdist(x / alpha_bar.sqrt(), memory).square()
#     weight = torch.softmax(-0.5 * alpha_bar / (1 - alpha_bar) * square, dim=1)
#     noise = (x - alpha_bar.sqrt() * (weight @ memory)) / (1 - alpha_bar).sqrt()
#     return noise.to(x_t.dtype).reshape(x_t.shape)
#
#
# recited = sample(recite, shape, digit_schedule, clip=True, generator=same_noise())
# distance, index = nearest(recited)
# print("distance to the nearest training picture")
# print(f"recites   {distance.max():.2f} (the largest of 64)")
# print(f"learned   {nearest(digits).values.median():.2f} (median of 64)")
# print(f"unseen    {real_distance.median():.2f} (median of {len(test_images)})")
# fig.picture_rows(
#     [recited[:8], train_images[index[:8]], digits[:8]],
#     ["recited", "nearest", "learned"],
#     [""] * 8,
#     size=0.55,
# )
# plt.show()
# assert distance.max() < 0.001

# %% [markdown]
# **Figure.** The perfect network for this training set recites: each of its samples *is* a training picture. The learned one, from the same noises, does not.
#
# And here is what Algorithm 1 makes small, the loss: on the training pictures, and on the unseen ones. (The intervals are 95 %, from eight draws of times and noises for every picture.)

# %% tags=["active-ipynb", "nbval-ignore-output"]
# print("loss      training pictures    unseen ones")
# table = {}
# for name, model in (("recites", recite), ("learned", network)):
#     for pictures in (train_images, test_images):
#         table[name, len(pictures)] = loss_of(model, pictures)
#     line = "       ".join(f"{m:.3f} +- {e:.3f}" for m, e in list(table.values())[-2:])
#     print(f"{name}   {line}")
# n, unseen = len(train_images), len(test_images)
# assert table["recites", n][0] < table["learned", n][0]
# assert table["recites", unseen][0] > table["learned", unseen][0]

# %% [markdown]
# Read the table by rows. The reciter is better than our network at what Algorithm 1 asks, the loss on the training set, and much worse on pictures that it has not seen. So the samples are new because the network does *not* reach the minimum of its loss. It misses it, and in a useful way. **Why does a learned network not recite?** It is perhaps the deepest question about these models, and it is not settled. This much is known:
#
# - *They can recite.* Carlini and others (2023) drew more than a thousand training pictures out of large trained models.
# - *With enough pictures they do not.* Kadkhodaie and others (2024) trained two networks on two halves of a data set that share no picture. With few pictures each network recites its own; with enough, both learn nearly the same function, and from the same noise they draw nearly the same new picture. The cause must then lie in what the networks bring along. The authors find that their networks shrink a picture's coefficients in a basis that is adapted to it, with waves along its contours.
# - *What they bring along can be written down, for simple networks.* A convolution looks at a neighbourhood (locality), and does the same everywhere (equivariance). Kamb and Ganguli (2024) work out the best network under these two constraints. It puts new pictures together from patches of the training pictures, and predicts, noise by noise, much of what trained convolutional networks draw.
# - *Time matters.* Bonnaire and others (2025) find two ages in training: one at which samples become good, which does not depend on the number of pictures $N$, and a later one at which reciting begins, which grows in proportion to $N$. Between the two, one can stop. Only above a number of pictures that depends on the model does reciting never begin.
# - *For the perfect network* of Eq. [training-set noise](#eq-training-set-noise), Biroli and others (2024) compute at which $t$ a chain falls to one training picture, from the number of pictures and the dimension.
#
# All five are in the [bibliography](bibliography.md).

# %% [markdown]
# ## Where people slip
#
# **"No $z$ when $t = 0$."** So the student's notes, which [this book follows](bibliography.md), say of line 3, and in a loop that counts $t = T-1,\dots,0$ it is right. In the paper's count the last step is $t = 1$. Mix the two, `if t > 0` in a loop that ends at 1, and noise is added to the finished picture. At 50 steps the test above rejects it; at 1,000 steps, with one seed and fewer points, it did not. The sizes say why:

# %% tags=["active-ipynb"]
# for name, table in (("T = 1000, linear", schedule), ("T = 50, cosine", fifty)):
#     sigma_1 = table.beta[1].sqrt()
#     print(f"sigma_1 with {name}: {sigma_1:.3f} = {sigma_1 / (2 / 255):.1f} grey levels")

# %% [markdown]
# **Leaving out $z$ everywhere.** "Noise makes pictures worse, so add none." Take two bumps, 30 % at $-1$ and 70 % at $+1$, and a *perfect* network. Without $z$ all of these 2,000 chains end in the middle of the heavier bump, and the other one is never seen.

# %% mystnb={"image": {"alt": "Two panels with 8 chains each, t running from 1000 down to 0. With z the chains jitter; seven end near plus 1 and one near minus 1. Without z they are smooth curves that all end at the same place, near plus 1."}} tags=["active-ipynb"]
# pair = GaussianMixture(weights=[0.3, 0.7], means=[[-1.0], [1.0]], stds=[0.1, 0.1])
# exact_pair = optimal_noise(pair, schedule)
#
#
# def without_z(seen, s, table):
#     return denoising_mean(seen.x, seen.t, seen.noise, table), None
#
#
# figure, axes = plt.subplots(1, 2, sharey=True, figsize=(5.2, 2.4))
# kinds = (("with z", ancestral(), fig.BLUE), ("without z", without_z, fig.ORANGE))
# for ax, (name, rule, color) in zip(axes, kinds):
#     generator = torch.Generator().manual_seed(0)
#     x_T = torch.randn(2000, 1, generator=generator)
#     options = {"x_T": x_T, "generator": generator}
#     walk = sample_steps(exact_pair, x_T.shape, schedule, rule, **options)
#     path = torch.cat([x_T, *(step.x for step in walk)], dim=1)  # (2000, 1001)
#     ax.plot(range(1000, -1, -50), path[:8, ::50].T, color=color, linewidth=0.6)
#     ax.set(title=name, xlabel="t", xlim=(1000, 0), ylim=(-3, 3))
#     end = path[:, -1]
#     left = (end < 0).float().mean()
#     print(f"{name + ':':10} {left:.0%} of the chains end in the left bump")
# print(f"without z: all end between {end.min():.2f} and {end.max():.2f}")
# axes[0].set_ylabel("$x_t$")
# plt.show()

# %% [markdown]
# **Figure.** Eight chains with and without the fresh noise $z$, from the same starts. Without it they all meet, and end in the middle of the heavier bump.
#
# Why the *middle* of a bump, and why one bump? If each chain only went where the average of all possible starts lies, all would end near the mean of the data, at 0.4. Look at how far line 4 moves a point when $z$ is left out. The noise that it takes away is the score, $\varepsilon^* = -\sqrt{1-\bar\alpha_t}\,\nabla\log q(x_t)$ by Eq. [Tweedie's formula](#eq-tweedie), and $1/\sqrt{\alpha_t} = 1+\tfrac12\beta_t+\dots$ So
#
# $$
# \mu(x_t,t) - x_t = \beta_t\left(\tfrac12\,x_t + \nabla\log q(x_t)\right) + O(\beta_t^2) .
# $$ (eq-line-4-drift)
#
# Which move *without noise* would keep the distribution right? Forwards, a small step shrinks the points by $\tfrac12\beta_t x$ and spreads them by noise of variance $\beta_t$. Take one coordinate, and write a dash for a slope. Such noise changes a density $q$ by $\tfrac12\beta_tq'' = \bigl(q\cdot\tfrac12\beta_t(\log q)'\bigr)'$, nearly, for $(\log q)' = q'/q$. And when every point $x$ is carried by a small way $c(x)$, the density changes by $-(q\,c)'$: what flows in, less what flows out. So the noise does the same as a move by $c = -\tfrac12\beta_t(\log q)'$; in more coordinates, by $-\tfrac12\beta_t\nabla\log q$. Backwards, then, a point must be carried by $\beta_t\bigl(\tfrac12x_t+\tfrac12\nabla\log q(x_t)\bigr)$: **half** the score. (This flow is called the *probability flow*; DDIM, in [fewer steps](fewer_steps.ipynb), follows it.) Line 4 has the whole score, because its $z$ spreads the points again, and the second half makes up for that. Leave $z$ out, and the second half climbs the density, step by step, with nothing against it: the variance collapses, and each chain climbs to a mode. At large $t$ the density of $x_t$ has one mode only, and all chains meet there; when it splits into two, all stand on the heavier side.
#
# For data $\mathcal N(0,1)$ this is exact, for every $\beta_t$. There $v_t = 1$ in Eq. [the sampler's variance](#eq-sampler-variance), and without $z$ each step multiplies $x_t$ by $\sqrt{\alpha_t}$. The chain that should keep its variance of 1 ends as
#
# $$
# x_0 = \sqrt{\alpha_1}\cdots\sqrt{\alpha_T}\;x_T = \sqrt{\bar\alpha_T}\;x_T .
# $$ (eq-without-noise)

# %% tags=["active-ipynb"]
# unit = GaussianMixture(weights=[1.0], means=[[0.0]], stds=[1.0])
# exact_unit = optimal_noise(unit, schedule)
# x_T = torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None]
# x = sample(exact_unit, x_T.shape, schedule, without_z, x_T=x_T)
# shrunk = schedule.alpha_bar[-1].sqrt()
# assert torch.allclose(x, shrunk * x_T)
# print("starts:", *(f"{number:8.4f}" for number in x_T[:, 0]))
# print("ends:  ", *(f"{number:8.4f}" for number in x[:, 0]))
# print(f"the standard deviation at the end: {shrunk:.4f}, where 1 is right")

# %% [markdown]
# ## Exercises
#
# **1.** The data are a single point $\mu$ and the network is perfect. Show that the last step of Algorithm 2 lands on $\mu$ from any $x_1$. *Hint:* at $t = 1$, $\bar\alpha_1 = \alpha_1$.
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
# for start, end in zip(x_1, x_0):
#     print(f"from ({start[0]:.2f}, {start[1]:.2f}) to ({end[0]:.6f}, {end[1]:.6f})")

# %% [markdown]
# **2.** Swap the order: take line 4, and clip the *mean* to $[-1, 1]$ instead of $\hat x_0$. Why is that wrong? *Hint:* how widely do the points $x_{t-1}$ spread at large $t$?
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
# **3.** The generator hands you $\hat x_0$ at every step. At which $t$ does the network know which bump a point will end in? Guess before you measure. *Hint:* `log_joint` tells the bump of a point; compare that of $\hat x_0$ with that of the end.
#
# <details><summary>Solution</summary>
#
# Compare the bump nearest to $\hat x_0$ with the bump in which the chain ends, for 2,000 chains (so a share is known within 0.02). At $t = 900$ the guess is right about as often as one bump, named for all chains, would be: nothing is decided. At $t = 500$ it does a little better. At $t = 300$ the guess is right for more than half. At $t = 100$ nearly all are decided.
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
# Algorithm 1 draws a picture, a time and a noise, and asks for the noise back. Algorithm 2 starts from pure noise and takes line 4 once for each $t$, with fresh noise at all steps but the last. A two-sample test of its samples sees mistakes *and* steps that are too large: with 50 steps and the small variance a correct sampler fails it, with 1,000 steps it passes. The bound of the learned network lies a few hundredths of a nat above the entropy, most of it by the network's own errors. On digits, one run of training gave samples most of which a judge accepts, and which lie nearly as far from the training pictures as unseen digits do. The network with the smallest loss on the training set would recite it.
#
# **The next question.** What is inside the network that drew the digits? See [the U-Net](unet.ipynb).
