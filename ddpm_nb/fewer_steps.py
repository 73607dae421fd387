# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Fewer steps with the same network
#
# **The question.** Algorithm 2 needs a thousand **network evaluations** for one picture (often written NFE, number of function evaluations). Can a network that is already trained draw with fifty, or twenty, and what does it cost?
#
# ![The chain with two long jumps back lit, p_θ: from noise, x_T, to x_t, and from there past x_{t−1}, which no arrow reaches, to a handwritten 9, x_0.](images/chain-fewer_steps.svg)
#
# How long may a step back be?
#
# **What you bring.** The jump from [the forward process](forward.ipynb), the step back from [the posterior](posterior.ipynb), $\hat x_0$ and the velocity from [the loss](loss.ipynb), and Algorithm 2 from [the two algorithms](algorithms.ipynb).
#
# **What you take away.** Three samplers that visit only some of the times: Algorithm 2 with strides, with the variance that its own errors ask for; DDIM, which needs no fresh noise; and a second-order rule, which looks one step back. All are derived, all use the network as it is, and all are rules for the loop of Algorithm 2. You will see how the quality falls with the number of steps, and pictures turned into noise and back.

# %% tags=["active-ipynb"]
# # In Colab this installs the book's package; elsewhere it is there, and nothing happens.
# import importlib.util
#
# if importlib.util.find_spec("ddpm_nb") is None:
#     %pip install --quiet --no-deps "ddpm_nb @ git+https://github.com/ddpm_nb/ddpm_nb"

# %%
"""Fewer steps with the same network: Algorithm 2 with strides, DDIM, and second order.

A walk visits the times T >= tau_S > ... > tau_1 >= 1 and ends at 0, with one network
evaluation at each of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal, Unpack, get_args

import torch
from torch import Tensor

from ddpm_nb import _checks as check
from ddpm_nb._models import InBatches, evaluating
from ddpm_nb._noise import Randomness, noise_for
from ddpm_nb.algorithms import (
    Options,
    Prediction,
    Rule,
    Step,
    ancestral,
    sample,
    sample_steps,
)
from ddpm_nb.forward import Schedule, q_sample
from ddpm_nb.loss import (
    Model,
    Variance,
    denoising_mean,
    optimal_variance,
    predict_x_0,
)

Spacing = Literal["leading", "trailing", "linspace", "quadratic"]


# %% [markdown]
# ## Which times to visit
#
# Let $S$ be the number of steps that we can afford, from 1 to $T$. We pick $S$ whole numbers $\tau_1 < \tau_2 < \dots < \tau_S$ between 1 and $T$, and put $\tau_0 = 0$. The walk goes down: from $\tau_S$ to $\tau_{S-1}$, and so on, and its last step goes from $\tau_1$ to $0$. That takes $S$ network evaluations.
#
# How should they be spread? Cut the numbers $1,\dots,T$ into $S$ blocks: block $i$ holds the whole numbers $t$ with $(i-1)\,T/S < t \le i\,T/S$. No block is empty, because its length $T/S$ is at least 1. Take the first number of each block, or the last. Or lay $S$ points evenly from 1 to $T$, both ends included, counted down from $T$ and rounded to the nearest whole number. Or let the gaps grow, so that most steps fall where there is little noise. With $\lfloor\cdot\rfloor$ for rounding down, for $i = 1,\dots,S$:
#
# $$
# \begin{aligned}
# \tau_i &= \lfloor (i-1)\,T/S\rfloor + 1 && \text{leading: the first of each block} \\
# \tau_i &= \lfloor i\,T/S\rfloor && \text{trailing: the last of each block} \\
# \tau_i &= T-\bigl\lfloor (S-i)\tfrac{T-1}{S-1}+\tfrac12\bigr\rfloor && \text{linspace: both ends; } \tau_1 = T \text{ if } S = 1 \\
# \tau_i &= \max\bigl(\tau_{i-1}+1,\ \lceil T\,i^2/S^2\rceil\bigr) && \text{quadratic: dense near 0.}
# \end{aligned}
# $$ (def-timesteps)
#
# In all four, neighbours differ by at least 1, so no time is repeated, and there are exactly $S$ of them; with $S = T$ all four visit every time. Trailing, linspace and quadratic begin at $T$. (For quadratic: $T i^2/S^2 \le T-(S-i)$ for all $i$ from 0 to $S$. The left side is a parabola that opens upwards, the right side a straight line, and at both ends, $i = 0$ and $i = S$, the inequality holds. So there is always room left for the steps that remain, and $\tau_S = T$.) Leading begins below $T$, unless $S = T$. A section below shows how much of the signal that passes over.

# %%
def timesteps(T: int, steps: int, spacing: Spacing = "trailing") -> tuple[int, ...]:
    """Return the times that a walk of `steps` steps visits, from the highest down to 0.

    Args:
        T: the length of the full chain.
        steps: network evaluations, 1 ... T.
        spacing: "leading" (the first of each of `steps` equal blocks; never T, unless
            steps = T), "trailing" (the last of each block), "linspace" (evenly from T
            to 1) or "quadratic" (dense near 0). The last three begin at T.

    Returns:
        steps + 1 whole numbers: tau_S > ... > tau_1 >= 1, and 0 at the end.

    Raises:
        TypeError: if T or steps is no whole number.
        ValueError: if steps is not in 1 ... T, or the spacing is unknown.

    Equation: def-timesteps.
    """
    T = check.whole("T", T)
    steps = check.whole("steps", steps, 1, T)
    numbers = range(1, steps + 1)
    if spacing == "leading":
        times = [(i - 1) * T // steps + 1 for i in numbers]
    elif spacing == "trailing":
        times = [i * T // steps for i in numbers]
    elif spacing == "linspace":
        gaps = max(steps - 1, 1)
        # Whole numbers only: a float could round the wrong way at a half.
        times = [T - (2 * (steps - i) * (T - 1) + gaps) // (2 * gaps) for i in numbers]
    else:
        check.one_of("spacing", spacing, get_args(Spacing))
        times = [0]
        for i in numbers:
            times.append(max(times[-1] + 1, -(-T * i * i // steps**2)))  # rounds up
        del times[0]
    return (*reversed(times), 0)


# %% mystnb={"image": {"alt": "Four rows of ten dots between t = 1 and t = 1000. Leading: evenly from 1 to 901. Trailing: evenly from 100 to 1000. Linspace: evenly from 1 to 1000. Quadratic: dense near 0 and ever wider up to 1000."}} tags=["active-ipynb"]
# from itertools import pairwise
#
# import matplotlib.pyplot as plt
#
# from ddpm_nb import _figures as fig
#
# fig.use_style()
# spacings = ("leading", "trailing", "linspace", "quadratic")
# figure, ax = plt.subplots(figsize=(5.2, 2))
# for row, (spacing, color) in enumerate(zip(spacings, fig.COLORS)):
#     times = timesteps(1000, 10, spacing)[:-1]
#     ax.plot(times, [-row] * len(times), "o", color=color, markersize=5)
#     print(f"{spacing:9}", *times)
# ax.set(yticks=[0, -1, -2, -3], yticklabels=spacings, xlabel="t", ylim=(-3.6, 0.6))
# plt.show()
#
# # For T = 60, every number of steps: falling, no time twice, 0 at the end.
# for spacing in spacings:
#     for steps in range(1, 61):
#         times = timesteps(60, steps, spacing)
#         assert len(times) == steps + 1 and times[-1] == 0
#         assert all(t > s for t, s in pairwise(times))

# %% [markdown]
# **Figure.** Ten of 1,000 times, in four spacings. Leading never visits $T$, where the walk begins; quadratic has half of its times below $t = 300$.
#
# ## Algorithm 2 with strides
#
# Look at the data only at the chosen times. What is the step from $x_s$ to $x_t$, for two neighbours $s < t$ among them? Everything in between is a forward process too, so it is a jump. Exercise 2 of [the forward process](forward.ipynb) found it: $x_t = \sqrt{\bar\alpha_t/\bar\alpha_s}\;x_s$ plus fresh noise of variance $1-\bar\alpha_t/\bar\alpha_s$. That is one step of a forward process with a larger $\beta$:
#
# $$
# \beta'_i = 1-\frac{\bar\alpha_{\tau_i}}{\bar\alpha_{\tau_{i-1}}} , \qquad\text{so that}\qquad \bar\alpha'_i = \prod_{j=1}^{i}(1-\beta'_j) = \bar\alpha_{\tau_i} ,
# $$ (eq-respaced-beta)
#
# because the product telescopes and $\bar\alpha_0 = 1$. So $x_0, x_{\tau_1}, \dots, x_{\tau_S}$ *is* a diffusion chain with $S$ steps, and all that the book derived holds for it: the step back, line 4, both variances. Only its $\beta'_i$ are its own.
#
# And the network? It was trained to find the noise in $x_t$, whose distribution depends on $\bar\alpha_t$ alone. At step $i$ of the short chain that is $\bar\alpha'_i = \bar\alpha_{\tau_i}$: a level that the network knows, under the name $\tau_i$. So nothing has to be trained again. **Algorithm 2 with strides is line 4 with the schedule $\beta'$, and a network that is told $\tau_i$ at step $i$.** The code says just that: the loop of [the two algorithms](algorithms.ipynb) asks the network about the time $\tau_i$, and the rule takes line 4 of the short chain, at step $i$.

# %%
def respace(schedule: Schedule, timesteps: Sequence[int]) -> Schedule:
    """Return the schedule of the short chain that visits only `timesteps`.

    Its alpha_bar_i is the long chain's alpha_bar at tau_i.

    Args:
        schedule: the long chain's.
        timesteps: tau_S > ... > tau_1 and 0 at the end, as `timesteps` gives them.

    Raises:
        ValueError: if the times do not fall strictly from at most T to 0, or a step
            leaves no signal.

    Equation: eq-respaced-beta.
    """
    check.falling("timesteps", timesteps, schedule)
    # From beta again: 1 - alpha_bar of a table in float32 (on MPS) has lost its digits.
    alpha_bar = Schedule(schedule.beta[1:].cpu()).alpha_bar[list(reversed(timesteps))]
    beta = check.some_signal("timesteps", 1 - alpha_bar[1:] / alpha_bar[:-1])
    return Schedule(beta).to(schedule.beta.device)


def _two_steps(schedule: Schedule, t: int, s: int) -> Schedule:
    """Return the schedule of the chain x_0, x_s, x_t; of x_0, x_t if s = 0."""
    return respace(schedule, (t, s, 0) if s > 0 else (t, 0))


def strided(variance: Variance = "large") -> Rule:
    """Return the rule of Algorithm 2 with strides: line 4 of the chain that visits x_t and x_s.

    Args:
        variance: sigma^2 of a step is the short chain's beta' ("large") or its posterior
            variance ("small").

    Raises:
        ValueError: if the variance is unknown; at a step that leaves no signal.

    Equation: eq-respaced-beta. Source: Nichol and Dhariwal (2021), section 4.
    """
    line_4 = ancestral(variance)

    def rule(
        seen: Prediction, s: int, schedule: Schedule
    ) -> tuple[Tensor, Tensor | None]:
        short = _two_steps(schedule, seen.t, s)
        return line_4(replace(seen, t=short.T), short.T - 1, short)

    return rule


# %% [markdown]
# Try it where the answer is known: on the five bumps of [the two algorithms](algorithms.ipynb), with the perfect network for a chain of 1,000 steps.

# %% mystnb={"image": {"alt": "Four panels with 600 points each, for 5, 20, 100 and 1,000 steps of strided Algorithm 2. With 5 steps the points lie about a pentagon, most of them near its edge; with 20 there are five bumps with a few points between them; with 100 and 1,000 the bumps are clear and look alike."}} tags=["active-ipynb"]
# import math
#
# from ddpm_nb.likelihood import GaussianMixture
# from ddpm_nb.posterior import optimal_noise
#
# angle = torch.arange(5) * 2 * math.pi / 5
# ring = GaussianMixture(
#     weights=[0.10, 0.15, 0.20, 0.25, 0.30],
#     means=1.5 * torch.stack([angle.sin(), angle.cos()], dim=1),
#     stds=[0.25] * 5,
# )
# schedule = Schedule.linear()
# exact = optimal_noise(ring, schedule)
# generator = torch.Generator().manual_seed(0)
#
#
# def scatter(ax, x, color, title):
#     ax.plot(*x[:600].T, ".", color=color, markersize=1.5)
#     ax.set(title=title, aspect="equal", xticks=[], yticks=[])
#     ax.set(xlim=(-3.2, 3.2), ylim=(-3.2, 3.2))
#
#
# figure, axes = plt.subplots(2, 2, figsize=(4.4, 4.6))
# for ax, steps in zip(axes.flat, (5, 20, 100, 1000)):
#     times = timesteps(1000, steps)
#     x = sample(exact, (600, 2), schedule, strided(), times, generator=generator)
#     scatter(ax, x, fig.BLUE, f"{steps} steps")
# plt.show()

# %% [markdown]
# **Figure.** Algorithm 2 with strides and the perfect network. With 5 steps the bumps run together, with 20 some points still lie between them.
#
# With few steps the samples get worse, and the reason is known from [the posterior](posterior.ipynb): after a big step the true way back is not normal, and Algorithm 2 draws from a normal distribution all the same. Can we do better with the same few network evaluations?
#
# ## A family with the same marginals
#
# Start again from what training uses. It uses the jump, $x_t = \sqrt{\bar\alpha_t}\,x_0+\sqrt{1-\bar\alpha_t}\,\varepsilon$, for one $t$ at a time, and nothing else. Never are $x_t$ and $x_{t-1}$ of the *same* walk looked at together. So *any* process with these same distributions of single $x_t$ given $x_0$ has the same training. (Distributions of single members of a chain are called its **marginals**.) Let us look for the others. Song, Meng and Ermon (2021) found them; their sampler is called DDIM, for denoising diffusion implicit models.
#
# Take two times $s < t$. We are given $x_0$ and $x_t$, and want an $x_s$ with the right marginal,
#
# $$
# x_s = \sqrt{\bar\alpha_s}\,x_0 + \sqrt{1-\bar\alpha_s}\;\varepsilon', \qquad \varepsilon' \text{ standard normal and independent of } x_0 .
# $$
#
# Where can this noise come from? Two sources are at hand. One is the noise that is already in $x_t$. With $x_0$ given it can be read off: $\varepsilon = (x_t-\sqrt{\bar\alpha_t}\,x_0)/\sqrt{1-\bar\alpha_t}$. The other is fresh noise $z$. Take $\sigma$ of the fresh one. By Eq. [two normals](#eq-two-gaussians) the variances add, so $\sqrt{1-\bar\alpha_s-\sigma^2}$ must come from the old one:
#
# $$
# q_\sigma(x_s\mid x_t, x_0) = \mathcal N\!\Biggl(x_s;\ \sqrt{\bar\alpha_s}\,x_0 + \sqrt{1-\bar\alpha_s-\sigma^2}\;\frac{x_t-\sqrt{\bar\alpha_t}\,x_0}{\sqrt{1-\bar\alpha_t}},\ \sigma^2 I\Biggr), \qquad 0\le\sigma^2\le 1-\bar\alpha_s .
# $$ (def-ddim-family)
#
# Check it. Let $x_t$ have the right marginal, and draw $x_s$ from $q_\sigma$:
#
# $$
# \begin{aligned}
# x_s &= \sqrt{\bar\alpha_s}\,x_0 + \sqrt{1-\bar\alpha_s-\sigma^2}\;\varepsilon + \sigma z && \text{the fraction is } \varepsilon \\
# &= \sqrt{\bar\alpha_s}\,x_0 + \sqrt{1-\bar\alpha_s}\;\varepsilon' && \text{independent: variances add.}
# \end{aligned}
# $$
#
# where $\varepsilon'$ is standard normal and independent of $x_0$. So, for every $\sigma$ that is allowed,
#
# $$
# x_t\mid x_0 \sim \mathcal N\bigl(\sqrt{\bar\alpha_t}\,x_0,\ (1-\bar\alpha_t)I\bigr)
# \quad\Longrightarrow\quad
# x_s\mid x_0 \sim \mathcal N\bigl(\sqrt{\bar\alpha_s}\,x_0,\ (1-\bar\alpha_s)I\bigr) .
# $$ (eq-ddim-marginal)
#
# Begin with the right $x_{\tau_S}$, step down again and again, and every $x_{\tau_i}$ is right, with a $\sigma$ of its own at each step.

# %%
def ddim_mean(
    x_0: Tensor,
    x_t: Tensor,
    t: int,
    s: int,
    schedule: Schedule,
    sigma: float | Tensor = 0.0,
) -> Tensor:
    """Return the mean of x_s given x_t and x_0, for the member `sigma` of the family.

    Args:
        x_0: (B, ...) where the walk began, known or predicted.
        x_t: (B, ...) where it is at time t.
        t: the time of x_t, 1 ... T.
        s: the time to go to, 0 ... t - 1.
        schedule: the noise schedule.
        sigma: how much fresh noise will be added: 0 <= sigma^2 <= 1 - alpha_bar_s.

    Returns:
        (B, ...) the mean.

    Raises:
        ValueError: if s and t are no times with s < t, or sigma leaves its range. On an
            accelerator a sigma that is too large gives NaN instead: to look at numbers
            there would make the computer wait.

    Equation: def-ddim-family. Source: Song, Meng and Ermon (2021), equation 7.
    """
    check.down(t, s, schedule)
    alpha_bar_t, alpha_bar_s = schedule.alpha_bar[t], schedule.alpha_bar[s]
    old = check.remaining_variance(1 - alpha_bar_s, sigma)
    noise = (x_t - alpha_bar_t.sqrt() * x_0) / (1 - alpha_bar_t).sqrt()
    return alpha_bar_s.sqrt() * x_0 + old.sqrt() * noise


# %% [markdown]
# To see what $\sigma$ does, take one $x_0$ and draw many $x_t$ by the jump. Then go down to $x_s$ with the smallest $\sigma$, a middle one, and the largest. The picture shows $x_t$ and $x_s$ of each walk together.

# %% mystnb={"image": {"alt": "Three clouds of points, x at s against x at t. With sigma 0 the points lie on a straight rising line. With a middle sigma they form a tilted ellipse. With the largest sigma they form a cloud without tilt. The histograms of x at s, at the right of each, are the same in all three."}} tags=["active-ipynb"]
# t, s, n = 400, 150, 40_000
# x_0 = torch.full((n, 1), 0.8, dtype=torch.float64)
# noise, z = torch.randn(2, n, 1, dtype=torch.float64, generator=generator)
# x_t = q_sample(x_0, t, noise, schedule)
# variance = 1 - schedule.alpha_bar[s]
#
# figure, axes = plt.subplots(1, 3, figsize=(5.2, 2.6), sharex=True, sharey=True)
# names = ("0", "middle", "largest")
# for ax, share, name, color in zip(axes, (0, 0.5, 1), names, fig.COLORS):
#     sigma = (share * variance).sqrt()
#     x_s = ddim_mean(x_0, x_t, t, s, schedule, sigma) + sigma * z
#     ax.plot(x_t[:800], x_s[:800], ".", color=color, markersize=1.5)
#     ax.set(title=rf"$\sigma$: {name}", xlabel="$x_t$")
#     side = ax.inset_axes((1.0, 0, 0.16, 1), sharey=ax)
#     side.hist(x_s.flatten().numpy(), 40, orientation="horizontal", color=color)
#     side.axis("off")
#     mean_off = (x_s.mean() - schedule.alpha_bar[s].sqrt() * 0.8) / (variance / n).sqrt()
#     var_off = (x_s.var() / variance - 1) / (2 / n) ** 0.5
#     assert max(abs(mean_off), abs(var_off)) < 3.3  # standard errors
#     print(
#         f"{name:8} mean {x_s.mean():.3f}, variance {x_s.var():.3f};"
#         f" right: {schedule.alpha_bar[s].sqrt() * 0.8:.3f}, {variance:.3f}"
#     )
# axes[0].set_ylabel("$x_s$")
# plt.show()

# %% [markdown]
# **Figure.** $x_t$ and $x_s$ of 800 walks, for three $\sigma$. The histograms of $x_s$ at the right are the same; how $x_s$ depends on $x_t$ is not.
#
# The three differ in how $x_s$ depends on $x_t$. Each marginal is unchanged. The process that belongs to another $\sigma$ than that of $\eta = 1$ (defined next) is no longer Markov in the forward direction, but nobody has to walk it forward: training jumps.
#
# **How much fresh noise?** A number $\eta$ ("eta"), from 0 to 1, is used to dial it:
#
# $$
# \sigma_{t\to s}(\eta) = \eta\;\sqrt{\frac{1-\bar\alpha_s}{1-\bar\alpha_t}}\;\sqrt{1-\frac{\bar\alpha_t}{\bar\alpha_s}} .
# $$ (def-eta)
#
# **At $\eta = 1$** this is an old friend. Call the value $\tilde\sigma$: $\tilde\sigma^2 = \frac{1-\bar\alpha_s}{1-\bar\alpha_t}\,\beta'$ with $\beta' = 1-\bar\alpha_t/\bar\alpha_s$, the posterior variance $\tilde\beta'$ of the short chain. It is allowed: $1-\bar\alpha_t/\bar\alpha_s\le1-\bar\alpha_t$ because $\bar\alpha_s\le1$, so $\tilde\sigma^2\le1-\bar\alpha_s$. The mean is the posterior mean as well. To see it, write $a = \bar\alpha_t/\bar\alpha_s$ and look at the factor of $x_t$ in $q_\sigma$:
#
# $$
# \begin{aligned}
# 1-\bar\alpha_s-\tilde\sigma^2 &= (1-\bar\alpha_s)\,\frac{(1-\bar\alpha_t)-(1-a)}{1-\bar\alpha_t} && \text{common denominator} \\
# &= (1-\bar\alpha_s)\,\frac{a\,(1-\bar\alpha_s)}{1-\bar\alpha_t} && \bar\alpha_t = a\,\bar\alpha_s \\
# \frac{\sqrt{1-\bar\alpha_s-\tilde\sigma^2}}{\sqrt{1-\bar\alpha_t}} &= \frac{\sqrt a\,(1-\bar\alpha_s)}{1-\bar\alpha_t} && \text{root, and divide.}
# \end{aligned}
# $$
#
# That is the factor of $x_t$ in Eq. [posterior mean](#eq-posterior-mean), with $\sqrt{\alpha_t}$ become $\sqrt a$. The factors of $x_0$ then agree too, since both means lead from $x_t = \sqrt{\bar\alpha_t}\,x_0$ to $\sqrt{\bar\alpha_s}\,x_0$. So for $s = t-1$
#
# $$
# \eta = 1: \qquad q_\sigma(x_{t-1}\mid x_t,x_0) = \mathcal N\bigl(x_{t-1};\ \tilde\mu_t(x_t,x_0),\ \tilde\beta_t I\bigr) .
# $$ (eq-eta-one)
#
# DDPM's step back with the small variance is one member of the family. (The large variance is not: it has the same mean and more noise, so its marginals are wider than the forward process's.) **At $\eta = 0$** there is no fresh noise at all: given $x_0$ and $x_t$, the point $x_s$ is certain. Then the model is a rule that makes a picture from noise, without a density that could be written down. Such models are called **implicit**; hence the name.
#
# ## Why nothing is trained again
#
# Now $x_0$ is not known, and the network's $\hat x_0$ takes its place, as in Algorithm 2: the model's step is $p_\theta(x_s\mid x_t) = q_\sigma(x_s\mid x_t,\hat x_0)$. For $\sigma>0$ the bound of the new process has, for each step, a divergence between two normal distributions with the same variance $\sigma^2$, which is the squared distance of their means over $2\sigma^2$. In the means only $x_0$ and $\hat x_0$ differ, and $x_0-\hat x_0 = \frac{\sqrt{1-\bar\alpha_t}}{\sqrt{\bar\alpha_t}}(\varepsilon_\theta-\varepsilon)$ by Eq. [predicted picture](#eq-predict-x0). Hence
#
# $$
# \mathrm{KL}\bigl(q_\sigma(x_s\mid x_t,x_0)\,\|\,q_\sigma(x_s\mid x_t,\hat x_0)\bigr)
# = \frac{1}{2\sigma^2}\Biggl(\sqrt{\bar\alpha_s}\,\frac{\sqrt{1-\bar\alpha_t}}{\sqrt{\bar\alpha_t}}-\sqrt{1-\bar\alpha_s-\sigma^2}\Biggr)^{\!2}\,\lVert\varepsilon-\varepsilon_\theta(x_t,t)\rVert^2 .
# $$ (eq-ddim-weight)
#
# For every $\sigma>0$ it is a positive number times the squared error of the noise. The weight differs, the best answer does not: it is $\varepsilon^*(x_t,t)$ at every $t$, by Eq. [best guess](#eq-best-guess). And $L_\text{simple}$, which drops the weight, is the *same loss to the letter*. A network trained for DDPM is a network trained for the whole family. (The bracket is positive, since $\bar\alpha_s(1-\bar\alpha_t)/\bar\alpha_t = \bar\alpha_s/\bar\alpha_t-\bar\alpha_s > 1-\bar\alpha_s$. At $\sigma = 0$ the divergence has no finite value; that member is the limit of the others. So it is with the last step, $s = 0$, of all of them: as in DDPM, a decoder takes its place in the bound.)
#
# ## The sampler
#
# Put $\hat x_0$ into the family. The fraction becomes the network's answer $\hat\varepsilon = \varepsilon_\theta(x_t,t)$, and one step from $t$ down to $s$ reads
#
# $$
# x_s = \sqrt{\bar\alpha_s}\;\hat x_0 + \sqrt{1-\bar\alpha_s-\sigma^2}\;\hat\varepsilon + \sigma z .
# $$ (eq-ddim-step)
#
# In words: guess the picture and the noise, and mix them again at the lower level. **At the last step** $s = 0$ and $\bar\alpha_0 = 1$, so $\sigma = 0$ and the result is $\hat x_0$: no noise is added, and none is left. If $\hat x_0$ is clipped, the noise must be worked out again from the clipped picture, so that picture and noise still make up $x_t$. The loop does that for every rule: $\hat x_0$, $\hat\varepsilon$ and $x_t$ always fit together. So at $\eta = 0$ the rule is the jump of training, with the network's two guesses in the place of the picture and its noise.

# %%
def ddim_sigma(t: int, s: int, schedule: Schedule, eta: float) -> Tensor:
    """Return the standard deviation of the fresh noise in a step from t down to s.

    It is 0 for eta = 0, and at s = 0. For eta = 1 and s = t - 1 its square is
    beta-tilde_t.

    Args:
        t: 1 ... T.
        s: 0 ... t - 1.
        schedule: the noise schedule.
        eta: 0 ... 1.

    Returns:
        () float64.

    Raises:
        ValueError: if eta is not in 0 ... 1, or s and t are no times with s < t.

    Equation: def-eta. Source: Song, Meng and Ermon (2021), equation 16.
    """
    check.number("eta", eta, "from 0 to 1", lambda eta: 0 <= eta <= 1)
    check.down(t, s, schedule)
    alpha_bar_t, alpha_bar_s = schedule.alpha_bar[t], schedule.alpha_bar[s]
    posterior = (1 - alpha_bar_s) / (1 - alpha_bar_t) * (1 - alpha_bar_t / alpha_bar_s)
    return eta * posterior.sqrt()


# %% [markdown]
# One step, as a rule for the loop of [the two algorithms](algorithms.ipynb):

# %%
def ddim(eta: float = 0.0) -> Rule:
    """Return the rule of DDIM: from x_t to any other x_s, up or, for eta > 0, down only.

    Args:
        eta: how much fresh noise: 0 for none, 1 for as much as Algorithm 2 with the
            "small" variance.

    Raises:
        ValueError: if eta is not in 0 ... 1.

    Equation: eq-ddim-step. Source: Song, Meng and Ermon (2021), equation 12.
    """
    check.number("eta", eta, "from 0 to 1", lambda eta: 0 <= eta <= 1)

    def rule(
        seen: Prediction, s: int, schedule: Schedule
    ) -> tuple[Tensor, Tensor | None]:
        if eta == 0:  # then the step is the jump, with the network's two guesses
            return q_sample(seen.x_0_hat, s, seen.noise, schedule), None
        sigma = ddim_sigma(seen.t, s, schedule, eta)
        return ddim_mean(seen.x_0_hat, seen.x, seen.t, s, schedule, sigma), sigma

    return rule


# %% [markdown]
# And the walk in one call, with its times:

# %%
def ddim_sample_steps(
    model: Model,
    shape: Sequence[int],
    schedule: Schedule,
    steps: int,
    *,
    eta: float = 0.0,
    spacing: Spacing = "trailing",
    **options: Unpack[Options],
) -> Iterator[Step]:
    """Run DDIM with `steps` network evaluations, one at a time.

    Short for ``sample_steps(model, shape, schedule, ddim(eta), timesteps(schedule.T, steps,
    spacing))``, with its named arguments. With eta = 0 the noise is drawn once, for the
    start.
    """
    times = timesteps(schedule.T, steps, spacing)
    return sample_steps(model, shape, schedule, ddim(eta), times, **options)


def ddim_sample(
    model: Model,
    shape: Sequence[int],
    schedule: Schedule,
    steps: int,
    *,
    eta: float = 0.0,
    spacing: Spacing = "trailing",
    progress: bool = False,
    **options: Unpack[Options],
) -> Tensor:
    """Run DDIM to the end and return the samples, in `shape`; see `ddim_sample_steps`."""
    times = timesteps(schedule.T, steps, spacing)
    rule = ddim(eta)
    return sample(model, shape, schedule, rule, times, progress=progress, **options)


# %% [markdown]
# ## Why $z$ may go
#
# [The algorithms](algorithms.ipynb) showed what happens when $z$ is left out of Algorithm 2: all chains end in one place. Here it is left out, and nothing collapses. Why?
#
# Look at how wide $x_s$ is. In Algorithm 2 the mean of the step back takes away more noise than the step needs, and $\sigma z$ puts the missing part back. Without $z$ the walk is too narrow at every level; the network is told $t$, but sees points with too little noise in them. DDIM at $\eta = 0$ takes the *old* noise instead and scales it to just the right size, $\sqrt{1-\bar\alpha_s}$. The width is right without fresh noise.
#
# All chance then lies in the start: each $x_T$ leads to one picture, along one path. Here are the paths for two bumps, 30 % at $-1$ and 70 % at $+1$.

# %% mystnb={"image": {"alt": "Three panels with 8 chains each, t running from 1000 down to 0. Algorithm 2: jittery chains that end in both bumps. Algorithm 2 without z: smooth chains that all end near plus 1. DDIM: smooth chains that fan out and end in both bumps."}} tags=["active-ipynb"]
# pair = GaussianMixture(weights=[0.3, 0.7], means=[[-1.0], [1.0]], stds=[0.1, 0.1])
# exact_pair = optimal_noise(pair, schedule)
# n = 4000
# start = torch.randn(n, 1, generator=torch.Generator().manual_seed(3))
#
#
# def without_z(seen, s, schedule):  # a rule of one line
#     return denoising_mean(seen.x, seen.t, seen.noise, schedule), None
#
#
# walks = {
#     "Algorithm 2": sample_steps(exact_pair, (n, 1), schedule, generator=generator),
#     "without z": sample_steps(exact_pair, (n, 1), schedule, without_z, x_T=start),
#     "DDIM": ddim_sample_steps(exact_pair, (n, 1), schedule, 1000, x_T=start),
# }
# figure, axes = plt.subplots(1, 3, sharey=True, figsize=(5.2, 2.3))
# for ax, (name, walk), color in zip(axes, walks.items(), fig.COLORS):
#     path = torch.cat([step.x for step in walk], dim=1)
#     ax.plot(range(999, -1, -27), path[:8, ::27].T, color=color, linewidth=0.8)
#     ax.set(title=name, xlabel="t", xlim=(1000, 0), ylim=(-3, 3), xticks=[1000, 0])
#     left = (path[:, -1] < 0).float().mean()
#     bar = 1.96 * (left * (1 - left) / n).sqrt()
#     print(f"{name:12} {left:.1f} +- {bar:.2f} of {n} chains end in the left bump")
# axes[0].set_ylabel("$x_t$")
# plt.show()

# %% [markdown]
# **Figure.** Eight chains of each kind. Algorithm 2 jitters and finds both bumps. Without $z$ all meet in one place. DDIM has no $z$ either, and its curves fan out to both bumps.
#
# <div class="live" data-figure="paths">
#
# **Guess first.** Turn $\eta$ from 1 down to 0. The paths become smooth: does the share of walks that end in the left bump change with them?
#
# <details><summary>What to see</summary>
#
# Jagged or smooth, with enough evaluations the same 30 % end in the left bump, up to the chance of 400 draws. At $\eta = 0$ the start alone decides, and the dashed way back up leads to where the walk began: the closer, the more evaluations, from 5 on.
#
# </details>
#
# </div>
#
# ### A step is a turn
#
# At $\eta = 0$ the step has a plain picture. Take the angle from [the loss](loss.ipynb): $\cos\varphi_t = \sqrt{\bar\alpha_t}$ and $\sin\varphi_t = \sqrt{1-\bar\alpha_t}$. It grows from $\varphi_0 = 0$ to nearly a right angle. The network's guesses of picture, noise and velocity are tied together by $\hat x_0 = \cos\varphi_t\,x_t-\sin\varphi_t\,\hat v$ and $\hat\varepsilon = \sin\varphi_t\,x_t+\cos\varphi_t\,\hat v$. Put them into Eq. [DDIM step](#eq-ddim-step), whose $\sigma$ is 0:
#
# $$
# \begin{aligned}
# x_s &= \cos\varphi_s\,\hat x_0+\sin\varphi_s\,\hat\varepsilon && \text{the step} \\
# &= (\cos\varphi_s\cos\varphi_t+\sin\varphi_s\sin\varphi_t)\,x_t - (\cos\varphi_s\sin\varphi_t-\sin\varphi_s\cos\varphi_t)\,\hat v && \text{sort} ,
# \end{aligned}
# $$
#
# and by the addition theorems
#
# $$
# x_s = \cos(\varphi_t-\varphi_s)\;x_t-\sin(\varphi_t-\varphi_s)\;\hat v .
# $$ (eq-ddim-turn)
#
# One step turns the point by the angle $\varphi_t-\varphi_s$, as if the guesses $\hat x_0$ and $\hat\varepsilon$ stayed right all along the arc. As the steps get smaller, the walk follows a smooth curve with the direction $\hat v$ at every point. It has become a differential equation, $dx/d\varphi = \hat v$, and DDIM is a way to solve it with large steps.
#
# How large may they be? Take data with a known answer: $x_0\sim\mathcal N(0,1)$. Then $\varepsilon^* = \sin\varphi_t\,x_t$ (Exercise 3 of [the loss](loss.ipynb)), so that $\hat x_0 = (x_t-\sin^2\!\varphi_t\,x_t)/\cos\varphi_t = \cos\varphi_t\,x_t$, and $\hat v = 0$. Each step multiplies $x$ by $\cos(\varphi_t-\varphi_s)$, and the variance of the samples is
#
# $$
# \operatorname{Var}[x_0] = \prod_{i=1}^{S}\cos^2\bigl(\varphi_{\tau_i}-\varphi_{\tau_{i-1}}\bigr) .
# $$ (eq-ddim-shrink)
#
# It should be 1. With one step it is nearly 0: the single answer is the mean of all data. With $S$ equal turns of $\frac{\pi}{2S}$ each, it is $\cos^{2S}\frac{\pi}{2S}\approx 1-\frac{\pi^2}{4S}$: the error falls like $1/S$. So in this example the marginals are exactly right when $x_0$ is known, and right up to an error that vanishes with the size of the steps when the network guesses it.
#
# That is so for any data. Keep $x_0$ and $\varepsilon$ fixed and let the angle run: $x_\varphi = \cos\varphi\,x_0+\sin\varphi\,\varepsilon$ moves with the velocity $v = -\sin\varphi\,x_0+\cos\varphi\,\varepsilon$. How does the mean of a smooth function $f$ change on the way?
#
# $$
# \begin{aligned}
# \frac{d}{d\varphi}\,\mathbb E\,f(x_\varphi) &= \mathbb E\bigl[\nabla f(x_\varphi)\cdot v\bigr] && \text{chain rule} \\
# &= \mathbb E\bigl[\nabla f(x_\varphi)\cdot\mathbb E[v\mid x_\varphi]\bigr] && \text{first the mean for a given } x_\varphi .
# \end{aligned}
# $$ (eq-same-flow)
#
# The perfect network's $\hat v$ *is* $\mathbb E[v\mid x_\varphi]$: a mean squared error is smallest at the conditional mean ([the loss](loss.ipynb)). So points that follow $dx/d\varphi = \hat v(x)$ obey the same rule for every $f$ as the points of the forward process, and they begin with the same distribution. Then they have the same distribution at every angle. (That the rule leaves only one answer needs some smoothness, which we take for granted.) This curve is called the **probability-flow ODE** (Y. Song and others, 2021).

# %% mystnb={"image": {"alt": "Log-log plot: the missing variance against the number of steps from 1 to 1,000. Dots for DDIM lie on the line of the formula for cosine and linear schedules, both falling like one over the number of steps."}} tags=["active-ipynb"]
# one_bell = GaussianMixture([1.0], [[0.0]], [1.0])
# counts = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)
# figure, ax = plt.subplots(figsize=(5, 3))
# guide = torch.tensor([10.0, 1000.0])
# ax.loglog(guide, 0.7 / guide, ":", color=fig.GREY, linewidth=1.2)
# ax.text(
#     3, 0.012, "ten times the steps,\na tenth of the error", color=fig.GREY, va="top"
# )
# unit = torch.ones(1, 1, dtype=torch.float64)
# for name, table, color in (
#     ("linear", schedule, fig.BLUE),
#     ("cosine", Schedule.cosine(), fig.ORANGE),
# ):
#     model, phi = optimal_noise(one_bell, table), table.alpha_bar.sqrt().arccos()
#     missing, formula = [], []
#     for steps in counts:
#         end = ddim_sample(model, (1, 1), table, steps, x_T=unit)
#         missing.append(1 - float(end**2))
#         turns = phi[list(timesteps(1000, steps))].diff()
#         formula.append(1 - float(turns.cos().square().prod()))
#     ax.loglog(counts, formula, color=color, linewidth=1)
#     ax.loglog(counts, missing, "o", color=color, markersize=4)
#     fig.label_line(ax, 1.05 * counts[-1], formula[-1], name, color)
#     assert torch.allclose(
#         torch.tensor(missing), torch.tensor(formula), rtol=1e-6, atol=1e-9
#     )
# ax.set(xlabel="steps", ylabel="missing variance", xlim=(0.8, 3000))
# plt.show()

# %% [markdown]
# **Figure.** How much of the variance DDIM loses, for data $\mathcal N(0,1)$: dots are the sampler, lines the formula. They agree to six digits.
#
# ## From a picture to its noise, and back
#
# Without fresh noise, the way down is a curve that can be walked up as well: from a picture to *its* noise. To step up from $s$ to $t$ one would need $\hat\varepsilon$ at the upper end, where we have not arrived yet. So take the network's answer for the point that we have, at the time to which we go, $\hat\varepsilon = \varepsilon_\theta(x_s, t)$. (This also avoids $t = 0$, which the network does not know.) Solve the jump at $s$ for the picture, and jump to $t$:
#
# $$
# x_t = \sqrt{\bar\alpha_t}\;\frac{x_s-\sqrt{1-\bar\alpha_s}\;\hat\varepsilon}{\sqrt{\bar\alpha_s}} + \sqrt{1-\bar\alpha_t}\;\hat\varepsilon, \qquad \hat\varepsilon = \varepsilon_\theta(x_s,t) .
# $$ (eq-ddim-encode)
#
# The way down then asks $\varepsilon_\theta(x_t,t)$ and not $\varepsilon_\theta(x_s,t)$. So the round trip is not exact, but the smaller the steps, the less the two differ.
#
# It is the same rule as on the way down, with the times in rising order: the loop asks the network about the later of the two times, and the rule mixes $\hat x_0$ and $\hat\varepsilon$ at the level to which the step leads. (There may be more pictures than the network can hold at once. It gets one batch after the other.)

# %%
def ddim_encode(
    model: Model,
    x_0: Tensor,
    schedule: Schedule,
    steps: int,
    *,
    spacing: Spacing = "trailing",
    batch_size: int = 128,
) -> Tensor:
    """Walk DDIM's path upwards with eta = 0: from pictures to the noise they come from.

    `ddim_sample(..., x_T=...)` with the same steps and spacing leads back, up to an error
    that shrinks as the steps grow in number.

    Args:
        model: the network, noise = model(x_t, t).
        x_0: (B, ...) pictures.
        schedule: the noise schedule, on x_0's device.
        steps: network evaluations, 1 ... T.
        spacing: which times are visited; see `timesteps`.
        batch_size: how many pictures the network gets at once. Besides what it needs
            for them, the memory holds all pictures some five times.

    Returns:
        (B, ...) x at the highest of these times.

    Raises:
        ValueError, TypeError: as `timesteps`; if batch_size is no positive int.

    Equation: eq-ddim-encode. Source: Song, Meng and Ermon (2021), section 4.3.
    """
    up = timesteps(schedule.T, steps, spacing)[::-1]
    model = InBatches(model, batch_size)
    return sample(model, x_0.shape, schedule, ddim(), up, x_T=x_0)


# %% mystnb={"image": {"alt": "Log-log plot: root mean squared error per coordinate of a round trip of 2,000 points, against the number of steps from 5 to 1,000. It falls slowly at first, then faster: from 100 to 1,000 steps about seven times."}} tags=["active-ipynb"]
# x_0 = ring.sample(2000, torch.Generator().manual_seed(4)).double()
# errors, counts = [], (5, 10, 20, 50, 100, 200, 500, 1000)
# for steps in counts:
#     noise = ddim_encode(exact, x_0, schedule, steps)
#     back = ddim_sample(exact, (2000, 2), schedule, steps, x_T=noise)
#     errors.append(float((back - x_0).square().mean().sqrt()))
#
# figure, ax = plt.subplots(figsize=(5, 2.4))
# ax.loglog(counts, errors, "o-", color=fig.BLUE)
# ax.axhline(0.25, color=fig.GREY, linewidth=0.8, linestyle="--")
# ax.text(1000, 0.27, "width of a bump", color=fig.GREY, ha="right")
# ax.set(xlabel="steps up, and as many down", ylabel="error per coordinate")
# plt.show()
# assert all(a > b for a, b in pairwise(errors))
# assert abs(float(noise.var()) - 1) < 0.05
# print(
#     f"1,000 steps: {errors[-1]:.3f}, and the variance of the noise: {noise.var():.2f}"
# )

# %% [markdown]
# **Figure.** How far the points come back from where they were, after a way up and one down. With 100 steps each way it is little beside the width of a bump.
#
# ## Second order, from the same network evaluations
#
# DDIM holds $\hat x_0$ fixed during a step. What does that cost, and can the same network evaluations give more? As a clock take half the logarithm of the signal-to-noise ratio (Eq. [SNR](#def-snr)), $\lambda_t = \log\bigl(\sqrt{\bar\alpha_t}/\sqrt{1-\bar\alpha_t}\bigr)$. In angles, $e^\lambda = \cos\varphi/\sin\varphi$. It rises on the way down, and is infinite at $t = 0$. Follow the curve $dx/d\varphi = \hat v$, and measure $x$ in units of its noise, $\sin\varphi$:
#
# $$
# \begin{aligned}
# \frac{d}{d\varphi}\,\frac{x}{\sin\varphi} &= \frac{\sin\varphi\,\hat v-\cos\varphi\,x}{\sin^2\varphi} && \text{quotient rule, and } dx/d\varphi = \hat v \\
# &= -\frac{\hat x_0}{\sin^2\varphi} && \hat x_0 = \cos\varphi\,x-\sin\varphi\,\hat v \\
# \frac{d}{d\lambda}\,\frac{x}{\sin\varphi} &= e^\lambda\,\hat x_0 && e^\lambda \text{ has the slope } -1/\sin^2\varphi \text{ in } \varphi \text{, and } e^\lambda \text{ in } \lambda .
# \end{aligned}
# $$
#
# Integrate from $\lambda_t$ to $\lambda_s$, and multiply by the noise at the end, $\sin\varphi_s = \sqrt{1-\bar\alpha_s}$:
#
# $$
# x_s = \sqrt{1-\bar\alpha_s}\left(\frac{x_t}{\sqrt{1-\bar\alpha_t}}+\int_{\lambda_t}^{\lambda_s}e^\lambda\,\hat x_0(\lambda)\,d\lambda\right) .
# $$ (eq-exponential-integral)
#
# Here $\hat x_0(\lambda)$ is the network's picture at the point of the curve where the clock shows $\lambda$. The equation is exact. All that a sampler has to guess is how $\hat x_0$ changes during the step; the scaling and the weight $e^\lambda$ are known. A solver that works this way is called an **exponential integrator**.
#
# **First order.** Hold $\hat x_0$ fixed. Then the integral is $(e^{\lambda_s}-e^{\lambda_t})\,\hat x_0$, and since $e^{\lambda_t}\sqrt{1-\bar\alpha_t} = \sqrt{\bar\alpha_t}$, and the same at $s$,
#
# $$
# x_s = \sqrt{\bar\alpha_s}\,\hat x_0+\sqrt{1-\bar\alpha_s}\;\frac{x_t-\sqrt{\bar\alpha_t}\,\hat x_0}{\sqrt{1-\bar\alpha_t}} .
# $$ (eq-first-order)
#
# That is DDIM with $\eta = 0$, letter by letter: Eq. [the family](#def-ddim-family) with $\sigma = 0$.
#
# **Second order.** The integral is $e^{\lambda_s}-e^{\lambda_t}$ times a weighted mean of $\hat x_0$ over the step. DDIM takes the value at the beginning for this mean, which is off by about the length of the step. The value in the *middle* is better. (If $\hat x_0$ is a straight line in $\lambda$, its mean is the value at the centre of mass of $e^\lambda$. For a step of length $\lambda_s-\lambda_t = k$ that lies $k^2/12$ from the middle, nearly. So the mean is off by a multiple of $k^2$, the step by a multiple of $k^3$, and a walk, which has a number of steps in proportion to $1/k$, by a multiple of $k^2$.) The middle has not been seen. But the step before left a prediction behind, made at the time $r > t$. Draw the straight line in $\lambda$ through the two, and read it in the middle of the step:
#
# $$
# \tilde x_0 = \hat x_0(\lambda_t)+\frac{\lambda_s-\lambda_t}{2\,(\lambda_t-\lambda_r)}\bigl(\hat x_0(\lambda_t)-\hat x_0(\lambda_r)\bigr), \qquad
# x_s = \sqrt{\bar\alpha_s}\,\tilde x_0+\sqrt{1-\bar\alpha_s}\;\frac{x_t-\sqrt{\bar\alpha_t}\,\tilde x_0}{\sqrt{1-\bar\alpha_t}} .
# $$ (eq-multistep)
#
# So it is DDIM's step with $\tilde x_0$ in the place of $\hat x_0$, and no network evaluation more. Methods that look back at earlier steps are called **multistep**. Lu and others (2022) call this one DPM-Solver++(2M) (see the [bibliography](bibliography.md)).
#
# Two steps stay first order. The first has no prediction before it. The last leads to $t = 0$, where $\lambda$ is infinite: the interval has no middle, and the straight line would lead to infinity. First order has a limit there, $x_0 = \hat x_0$.

# %%
def multistep() -> Rule:
    """Return the rule of second order: DDIM's step with x_0_hat read in its middle.

    The straight line in lambda goes through this prediction and the one before. The
    first step, and the last one to t = 0, are DDIM's. Downwards only.

    Equation: eq-multistep. Source: Lu and others (2022), DPM-Solver++, algorithm 2.
    """

    def rule(seen: Prediction, s: int, schedule: Schedule) -> tuple[Tensor, None]:
        x_0, before = seen.x_0_hat, seen.before
        if before is not None and s > 0:
            log_snr = schedule.log_snr  # twice lambda: the ratio is the same
            ahead = log_snr[s] - log_snr[seen.t]
            behind = log_snr[seen.t] - log_snr[before.t]
            x_0 = x_0 + ahead / (2 * behind) * (x_0 - before.x_0_hat)
        return ddim_mean(x_0, seen.x, seen.t, s, schedule), None

    return rule


# %% [markdown]
# Does it keep its promise? Twice as many steps should halve DDIM's error, and quarter this one's. Test it where it shows cleanly: on the five bumps, with a schedule of its own for each number of steps. Its times are spread evenly in $\lambda$ between two levels, and compared at the lower one, before the last step to $t = 0$. The truth is a walk of 4,000 steps from the same noises, and the error is the median over the points. (A root mean square would be ruled by the few points near a border, which end in another bump.)

# %% mystnb={"image": {"alt": "Log-log plot: median error against the number of steps, 20 to 320, on the five bumps. DDIM falls along a line of slope minus 1, the second-order rule along one of slope minus 2, far below."}} tags=["active-ipynb"]
# def even_in_log_snr(steps):
#     """A schedule whose times 1 ... steps + 1 are even in lambda."""
#     ends = torch.tensor([0.9999, 4e-5], dtype=torch.float64).logit()
#     bar = torch.lerp(*ends, torch.linspace(0, 1, steps + 1).double()).sigmoid()
#     return Schedule(1 - bar / torch.cat([torch.ones(1), bar[:-1]]))
#
#
# def end(rule, steps):
#     table = even_in_log_snr(steps)
#     model, times = optimal_noise(ring, table), range(steps + 1, 0, -1)
#     return sample(model, x_T.shape, table, rule, times, x_T=x_T)
#
#
# own = torch.Generator().manual_seed(6)
# x_T = torch.randn(200, 2, generator=own, dtype=torch.float64)
# truth, counts = end(multistep(), 4000), (20, 40, 80, 160, 320)
# figure, ax = plt.subplots(figsize=(5, 2.4))
# for name, rule, order in (("DDIM", ddim(), 1), ("second order", multistep(), 2)):
#     ends = [end(rule, steps) for steps in counts]
#     errors = [float((x - truth).norm(dim=1).median()) for x in ends]
#     color = fig.COLORS[order - 1]
#     ax.loglog(counts, errors, "o-", color=color)
#     fig.label_line(ax, 1.05 * counts[-1], errors[-1], name, color)
#     slopes = [math.log2(a / b) for a, b in pairwise(errors[2:])]
#     print(f"{name:12} order {slopes[0]:.1f}, {slopes[1]:.1f} (80 to 160 to 320 steps)")
#     assert all(abs(slope - order) < 0.1 for slope in slopes)
# ax.set(xlabel="steps", ylabel="median error", xlim=(15, 1200))
# plt.show()

# %% [markdown]
# **Figure.** The error of both rules on the five bumps. Twice the steps halve DDIM's error, and quarter that of the second order.
#
# ### Evenly in $\lambda$, between two ends
#
# If the length of a step in $\lambda$ rules its error, the times should lie evenly in $\lambda$. But not over the whole range. It has no end at $t = 0$, and near $T$ the cosine schedule runs through a large piece of it in a few steps, where there is next to nothing to see. So state two ends. At $\lambda = -5$ a share $1/(1+e^{10})$ of the power is signal, less than a twenty-thousandth; the paper's linear schedule ends there. At $\lambda = 3$ the noise that is left is $1/\sqrt{1+e^6}$ wide, less than half of one of the digits' grey levels. (Pictures with 256 levels need a higher end.) Between the ends, take for each of the $S$ points the whole time whose $\lambda$ is nearest. Where two points would share a time, the later one moves down by as much as is needed, but never so far that too few times are left for the rest.
#
# Not every schedule reaches both ends. The paper's $\beta_t$ with only 500 steps stops well above $\lambda = -5$. Then the points are laid from the $\lambda$ that it does reach; else the first of them would crowd at $T$.

# %%
def log_snr_timesteps(
    schedule: Schedule,
    steps: int | None = None,
    low: float = -5.0,
    high: float = 3.0,
) -> tuple[int, ...]:
    """Return times that are even in lambda, half the log signal-to-noise ratio; 0 at the end.

    Args:
        schedule: the noise schedule.
        steps: network evaluations, at most as many as there are times between the ends;
            None for all of them.
        low: lambda at the first time. Where the schedule does not reach as far, the one
            that it reaches.
        high: lambda at the last time before 0, likewise.

    Returns:
        steps + 1 whole numbers that fall strictly; 0 at the end.

    Raises:
        TypeError: if steps is no whole number.
        ValueError: if low is not below high, or between them are fewer times than steps.
    """
    check.number("low", low, f"below high = {high}", lambda low: low < high)
    half_log_snr = schedule.log_snr[1:].cpu().double() / 2
    low, high = max(low, float(half_log_snr[-1])), min(high, float(half_log_snr[0]))

    def nearest(value: float) -> int:
        return 1 + int((half_log_snr - value).abs().argmin())

    first, last = nearest(low), nearest(high)
    there = first - last + 1
    steps = check.whole("steps", there if steps is None else steps, 1, there)
    times = [first]
    for i in range(1, steps):
        t = nearest(low + (high - low) * i / (steps - 1))
        times.append(max(min(t, times[-1] - 1), last + steps - 1 - i))
    return (*times, 0)


# %% [markdown]
# On the cosine schedule of the digits, with 500 steps, the whole range of $\lambda$ spends its first times where all is noise:

# %% tags=["active-ipynb"]
# digits_schedule = Schedule.cosine(T=500)
# whole = (digits_schedule.log_snr[[-1, 1]] / 2).tolist()
# for name, ends in (("whole range", whole), ("-5 to 3", (-5, 3))):
#     print(f"{name:12}", *log_snr_timesteps(digits_schedule, 10, *ends))

# %% [markdown]
# The command line has both, the rule and its times. In a clone of the book's repository this draws 64 digits, with 20 network evaluations each:
#
# ```
# ddpm-nb sample --network book/weights/digits.safetensors --out digits.png --method multistep --steps 20
# ```
#
# `--method ddim --spacing log_snr` gives the same times to DDIM, and `--spacing` without `log_snr` gives other times to the second-order rule. The file `digits.json` beside the picture says what was chosen.

# %% [markdown]
# ## The right variance, measured
#
# For those who keep Algorithm 2 there is a better $\sigma$ than the paper's two. [The loss](loss.ipynb) found it for a perfect network. For a network as it is, ask how far $x_s$ lies from the mean that line 4 gives it. In the short chain that mean is $\tilde\mu(x_t,\hat x_0)$, and by Eq. [posterior mean](#eq-posterior-mean) $x_0$ enters it with the factor $\sqrt{\bar\alpha_s}\,\beta'/(1-\bar\alpha_t)$:
#
# $$
# \begin{aligned}
# x_s-\tilde\mu(x_t,\hat x_0) &= x_s-\tilde\mu(x_t,x_0) \\
# &\quad+\frac{\sqrt{\bar\alpha_s}\,\beta'}{1-\bar\alpha_t}\,(x_0-\hat x_0) .
# \end{aligned}
# $$
#
# Hold $x_0$ and $x_t$ fixed. Then the first line has mean zero and variance $\tilde\beta'$, and the second does not move, so the mixed term of the square has mean zero. Per coordinate, with $d$ coordinates and $\hat x_0 = \hat x_0(x_t,t)$, the mean square is
#
# $$
# \sigma_{t\to s}^{*2} = \tilde\beta'+\frac{\bar\alpha_s\,\beta'^{\,2}}{(1-\bar\alpha_t)^2}\,\frac{\mathbb E\,\lVert x_0-\hat x_0\rVert^2}{d} .
# $$ (eq-analytic-variance)
#
# By the argument of [the loss](loss.ipynb), no other fixed variance costs fewer nats. It is Eq. [optimal variance](#eq-optimal-variance) of the short chain, with the network's error in the place of the error that no network avoids. That error can be measured: some pictures, fresh noise, and one network evaluation each, for each time that will be visited. If the sampler is going to clip, so must the measurement. (Bao, Li, Zhu and Zhang, 2022, call this the **analytic variance**, and write it with the mean square of the network's answer. That is the same for a perfect network. Bao, Li, Sun, Zhu and Zhang, 2022, allow for an imperfect one; see the [bibliography](bibliography.md).)

# %%
def x_0_error(
    model: Model,
    x_0: Tensor,
    schedule: Schedule,
    timesteps: Sequence[int],
    *,
    clip: bool = False,
    generator: Randomness = None,
    batch_size: int = 128,
) -> dict[int, float]:
    """Measure the mean squared error of the network's x_0_hat, per coordinate.

    Args:
        model: the network, noise = model(x_t, t).
        x_0: (B, ...) pictures, better those that it was not trained on.
        schedule: the noise schedule, on x_0's device.
        timesteps: the times that a walk will visit, falling to 0.
        clip: clip x_0_hat to [-1, 1], for a sampler that clips.
        generator: where the noise comes from; see `sample_steps`.
        batch_size: how many pictures the network gets at once.

    Returns:
        the error at each of the times but 0.

    Raises:
        ValueError: if the times do not fall strictly from at most T to 0.

    Equation: eq-analytic-variance.
    """
    noise = noise_for(x_0.shape, x_0.device, generator, x_0.dtype)
    model, errors = InBatches(model, batch_size), {}
    for t in check.falling("timesteps", timesteps, schedule)[:-1]:
        x_t = q_sample(x_0, t, noise(t), schedule)
        at = torch.full(x_0.shape[:1], t, device=x_0.device)
        with evaluating(model):
            x_0_hat = predict_x_0(x_t, t, model(x_t, at), schedule)
        x_0_hat = x_0_hat.clamp(-1, 1) if clip else x_0_hat
        errors[t] = float((x_0 - x_0_hat).square().mean())
    return errors


def analytic(x_0_error: Mapping[int, float]) -> Rule:
    """Return the rule of Algorithm 2 with strides and the analytic variance.

    Args:
        x_0_error: the network's error at each time of the walk; see `x_0_error`.

    Raises:
        ValueError: at a step whose error was not measured, or that leaves no signal.

    Equation: eq-analytic-variance. Source: Bao and others (2022), Analytic-DPM.
    """

    def rule(seen: Prediction, s: int, schedule: Schedule) -> tuple[Tensor, Tensor]:
        short = _two_steps(schedule, seen.t, s)
        error = check.known("x_0_error", x_0_error, seen.t)
        mean = denoising_mean(seen.x, short.T, seen.noise, short)
        return mean, optimal_variance(short.T, short, error).sqrt()

    return rule

# %% [markdown]
# ## How good with how many steps?
#
# Samples need a number, or two. The first asks whether the points lie in the right places in the right proportions. The **energy distance** of two distributions is twice the mean distance between a point of one and a point of the other, minus the mean distances within each. It is never negative, and zero only if the distributions are the same (Székely and Rizzo, 2013). From *samples* it can be estimated without bias, so for two samples of one distribution it comes out around zero, sometimes below. What is "around"? Measure true points against true points, 39 times with fresh points. A fortieth set would lie between the smallest and the largest of these numbers in 38 cases of 40, which is 95 %. That is the band. A sampler whose number lies within it cannot be told from the truth by samples of this size.
#
# The second number looks at the grain: how wide is a bump in the samples, divided by its true width? It shows noise that was left in, or detail that was lost. Pictures are thin sets in a space of many dimensions, so we take narrow bumps. The width is read off the median: of a round bump of width $\sigma$ in the plane, half of the points lie within $\sigma\sqrt{2\ln2}$ of the centre. (A root mean square would be ruled by a few points that stray between the bumps.) We cut the samples into eight parts and take the width in each. The mean has a 95 % interval: with $s$ for the standard deviation of the eight it reaches $2.36\,s/\sqrt8$ to each side (Student's $t$ with 7 degrees of freedom).

# %% mystnb={"image": {"alt": "Two panels, one above the other, against the number of steps from 1 to 1,000, for Algorithm 2 with large, small and analytic variance and for DDIM. Above: the energy distance falls from about 1 to the grey band of true points, which they reach between 10 and 100 steps. Below: the width of a bump. All begin far too wide. With 20 steps the analytic variance and DDIM are close to 1, the large variance above, the small one below; with 1,000 steps all are close to 1."}} tags=["active-ipynb", "nbval-ignore-output"]
# from scipy.stats import binomtest, t as student
#
#
# def energy_distance(x, y):
#     def within(z):
#         return torch.cdist(z, z).sum() / (len(z) * (len(z) - 1))
#
#     return float(2 * torch.cdist(x, y).mean() - within(x) - within(y))
#
#
# def interval(values):
#     """Mean of independent numbers, and half the width of its 95 % interval."""
#     values = torch.as_tensor(values, dtype=torch.float64)
#     wide = student.ppf(0.975, len(values) - 1) / len(values) ** 0.5
#     return float(values.mean()), float(wide * values.std())
#
#
# def chance(draw):
#     """The band that holds 95 % of what chance alone makes of the distance."""
#     values = [draw() for _ in range(39)]
#     return min(values), max(values)
#
#
# thin = GaussianMixture(ring.weights, ring.means, [0.05] * 5)
# exact_thin = optimal_noise(thin, schedule)
#
#
# def width(x, parts=8):
#     bump = thin.log_joint(x).argmax(1)
#     squared = (x - thin.means[bump]).square().sum(1).reshape(parts, -1)
#     return interval((squared.median(1).values / (2 * math.log(2))).sqrt() / 0.05)
#
#
# n, counts = 8000, (1, 2, 3, 5, 10, 20, 50, 100, 1000)
# truth = thin.sample(n, generator)
#
#
# def apart(cloud, parts=4):
#     """The energy distance to true points, as a mean over four parts of the cloud."""
#     pairs = zip(cloud.chunk(parts), truth.chunk(parts))
#     return sum(energy_distance(x, y) for x, y in pairs) / parts
#
#
# def measured(times):
#     """The rule of the analytic variance, its errors measured on 2,000 points."""
#     errors = x_0_error(exact_thin, truth[:2000], schedule, times, generator=generator)
#     return analytic(errors)
#
#
# samplers = {
#     "large": lambda times: strided("large"),
#     "small": lambda times: strided("small"),
#     "analytic": measured,
#     "DDIM": lambda times: ddim(),
# }
#
#
# def draw(sampler, steps, spacing):
#     times = timesteps(1000, steps, spacing)
#     rule = sampler(times)
#     return sample(exact_thin, (n, 2), schedule, rule, times, generator=generator)
#
#
# places, widths = {}, {}
# for name, sampler in samplers.items():
#     clouds = [draw(sampler, steps, "quadratic") for steps in counts]
#     places[name] = [apart(cloud) for cloud in clouds]
#     widths[name] = [width(cloud) for cloud in clouds]
# low, high = chance(lambda: apart(thin.sample(n, generator)))
#
# figure, (left, right) = plt.subplots(2, 1, figsize=(5.2, 5.4))
# for name, color in zip(samplers, fig.COLORS):
#     left.plot(counts, places[name], "o-", color=color, markersize=3)
#     height, bar = zip(*widths[name])
#     right.errorbar(counts, height, yerr=bar, color=color, marker="o", markersize=3)
# left.axhspan(low, high, color="#d8d8d8", linewidth=0)
# left.set(xscale="log", xlabel="steps", ylabel="energy distance")
# left.set_yscale("symlog", linthresh=1e-2, linscale=1)
# left.set_ylim(-8e-3, 4)
# left.set_yticks([0, 0.01, 0.1, 1], ["0", "0.01", "0.1", "1"])
# right.axhline(1, color="#d8d8d8", linewidth=4, zorder=0)
# right.set(xscale="log", xlabel="steps", ylabel="width / true width", ylim=(0, 4))
# fig.label_line(left, 1, -0.0045, "true points", fig.GREY)
# fig.label_line(right, 11, 2.0, "large", fig.BLUE)
# fig.label_line(right, 8, 0.4, "small", fig.ORANGE)
# fig.label_line(right, 200, 1.25, "analytic", fig.GREEN)
# fig.label_line(right, 60, 0.65, "DDIM", fig.PURPLE)
# plt.show()
# print("energy distance" + "".join(f"{name:>16}" for name in samplers))
# for i, steps in enumerate(counts):
#     cells = (f"{values[i]:16.4f}" for values in places.values())
#     print(f"{steps:9} steps" + "".join(cells))
# print(f"true points: from {low:.4f} to {high:.4f}")
# print("width / true width" + "".join(f"{name:>16}" for name in samplers))
# for i, steps in enumerate(counts):
#     cells = (f"{values[i][0]:8.2f} +- {values[i][1]:.2f}" for values in widths.values())
#     print(f"{steps:12} steps" + "".join(f"{cell:>16}" for cell in cells))
# wide, wide_bar = width(truth)
# print(f"true points: {wide:.2f} +- {wide_bar:.2f}")
# at_20, last = counts.index(20), counts.index(1000)
# few, many = ({name: v[i] for name, v in widths.items()} for i in (at_20, last))
# assert sum(few["small"]) < 0.85 < few["DDIM"][0] < 1.15 < few["large"][0]
# assert all(0.75 < v[0] < 1.1 for v in widths["analytic"][counts.index(5) :])
# assert all(sum(many[name]) < 1 for name in ("small", "DDIM"))
# assert all(values[0] > 50 * abs(values[-1]) for values in places.values())
# assert all(abs(values[at_20]) < 0.01 for values in places.values())

# %% [markdown]
# **Figure.** Above: how far the samples are from the truth as a whole; below 20 steps it is the same for all. Below: how wide a bump comes out; 1 is right. Here the samplers differ.
#
# With one step all four are the same: a single guess, the mean of the data. Where the points lie is all but settled after 20 steps, whichever sampler is used: of the distance that one step has, less than a hundredth is left. (Each distance is a mean over four sets of 2,000 points. True points leave the band once in twenty times, so DDIM's last number, the only one above it with 100 steps or more, may be chance. The spacing is "quadratic" here; other spacings follow.) The grain takes longer, and here they differ, by much more than their intervals. The large variance leaves noise in, the small one takes detail away, as [the loss](loss.ipynb) explained: the right variance lies between them. The analytic variance, which is measured, comes closest to the true width with 5 steps and with 20. DDIM does not have to choose.
#
# With all 1,000 steps DDIM and the small variance still stay a little below 1; their intervals do not reach it. The last step back returns a mean, and takes a little off these thin bumps. The rest was lost before: by DDIM because its steps are not infinitely small, by the small variance because it gives too little noise at every step.
#
# The spacing matters as much as the sampler. The widths with 20 steps, with their 95 % intervals:

# %% tags=["active-ipynb", "nbval-ignore-output"]
# print(f"{'':10}" + "".join(f"{name:>14}" for name in samplers))
# at_20_steps = {}
# for spacing in spacings:
#     row = [width(draw(sampler, 20, spacing)) for sampler in samplers.values()]
#     at_20_steps[spacing] = [value for value, _ in row]
#     print(f"{spacing:10}" + "".join(f"{v:8.2f} +- {bar:.2f}" for v, bar in row))
# for large, small, middle, deterministic in at_20_steps.values():
#     assert large > middle and large > deterministic > small - 0.02
# assert all(abs(at_20_steps[name][2] - 1) < 0.1 for name in ("leading", "linspace"))
# assert at_20_steps["leading"][0] > 2

# %% [markdown]
# Leading and linspace visit $t = 1$ just before the end, after a large step. With the large variance, that step has added a lot of noise, and one small step cannot take it away: this is the grain that many people see when they try Algorithm 2 with few steps. The analytic variance knows how wrong the guess is at each time, and has the right width there. Trailing ends with a large step that adds nothing and returns a mean: there the grain is lost, and the bumps come out far too narrow, whatever the variance. So do DDIM's with every spacing but quadratic, which puts its steps where the grain is decided. These bumps are thin, and the schedule is linear; other data may prefer another spacing. Measure it.
#
# ### Where 20 steps stand against all of them: the digits
#
# The same for the digits, with the network that [the two algorithms](algorithms.ipynb) trained: its chain has 500 steps. First look. All rows start from the same 32 noises, of which eight are shown, and DDIM takes them to $t = 0$ in fewer or more steps. Each number is a mean over the 32, with its 95 % interval.

# %% tags=["active-ipynb"]
# from safetensors.torch import load_file
# from sklearn.datasets import load_digits
#
# from ddpm_nb import _weights
# from ddpm_nb.unet import UNet
#
# images = torch.tensor(load_digits().images / 8 - 1, dtype=torch.float32)[:, None]
# digit_schedule = Schedule.cosine(T=500)
# unet = UNet.digits()
# _ = unet.load_state_dict(load_file(_weights.path("digits.safetensors")))

# %% mystnb={"image": {"alt": "Rows of eight 8\u00d78 pictures, for 1, 2, 5, 10, 20, 50 and 500 DDIM steps from the same eight noises. One step gives black and white speckle. Two steps give grey digits, and from 10 steps on the columns hardly change any more."}} tags=["active-ipynb", "nbval-ignore-output"]
# x_T = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(2))
# counts = (1, 2, 5, 10, 20, 50, 500)
# rows = [
#     ddim_sample(unet, x_T.shape, digit_schedule, steps, clip=True, x_T=x_T)
#     for steps in counts
# ]
# shown = [row[:8] for row in rows]
# fig.picture_rows(shown, [f"{steps}" for steps in counts], [""] * 8, size=0.55)
# plt.show()
# apart = [(row - rows[-1]).square().flatten(1).mean(1) for row in rows[:-1]]
# distance = [interval(values) for values in apart]
# print("distance to the picture of 500 steps, of 32 noises:")
# distance, same = [], []
# for steps, values in zip(counts, apart):
#     distance.append(interval(values)[0])
#     same.append(int((values < 0.125**2).sum()))
#     low, high = binomtest(same[-1], 32).proportion_ci(method="wilson")
#     print(
#         f"{steps:3} steps: mean square {distance[-1]:.3f} +- {interval(values)[1]:.3f}; "
#         f"less than a grey level: {same[-1]:2}, 95 %: {low:.0%} to {high:.0%}"
#     )
# assert distance[0] > distance[2] > distance[4] > distance[5]
# assert same[3] > 16 > same[2]

# %% [markdown]
# **Figure.** DDIM with 1 to 500 steps, from the same noise in each column. From 10 steps on the columns hardly change.
#
# <div class="live" data-figure="digits">
#
# **Guess first.** This is the network of the chapter, at work in your browser. Look at $\hat x_0$, what is left when the noise that was found is taken away: at which $t$ can you say which digit it will be? And is the finished digit one of the training pictures? ([The chapter on the algorithms](algorithms.ipynb) explains guidance, and the network that recites its training set.)
#
# <details><summary>What to see</summary>
#
# $\hat x_0$ is a blur at first, near the mean of all digits, and takes its shape in the middle of the walk; the last steps only clean it. (The very first $\hat x_0$ is black and white: near $T$ a small error of the network becomes a large one.) It stays at a distance from all training pictures, unless the noise comes from the network that recites. And choose 5 evaluations, draw 64 with DDIM, then with the second order: the same noises become mostly the same digits, and the second order's strokes are clearer.
#
# </details>
#
# </div>
#
# From 10 steps on, most noises become the same picture as with 500, to less than a grey level (0.125, root mean square): the rows follow one curve, with coarser or finer steps. With fewer steps more of the walks end elsewhere, and even with 20 or 50 one in many does: a curve that passes close to the border between two pictures needs fine steps. (A single step does worse than the theory says, and shows speckle instead of a mean: at $t = T$ of the cosine schedule, $\hat x_0$ multiplies the network's error by $\sqrt{(1-\bar\alpha_T)/\bar\alpha_T}$, a factor of about 10,000. Two steps are enough to mend it.)
#
# The curve can be walked up as well, from real digits to their noise, and down again:

# %% mystnb={"image": {"alt": "Three rows of eight 8\u00d78 pictures. Real digits from 0 to 7; the noise that DDIM makes of them; and the digits that come back from this noise, which look the same as the first row."}} tags=["active-ipynb", "nbval-ignore-output"]
# real = images[:64]
# noise = ddim_encode(unet, real, digit_schedule, 50)
# back = ddim_sample(unet, real.shape, digit_schedule, 50, clip=True, x_T=noise)
# rows = [x[:8] for x in (real, noise, back)]
# fig.picture_rows(rows, ["real", "noise", "back"], [""] * 8, size=0.56)
# plt.show()
# error, error_bar = interval((back - real).square().flatten(1).mean(1))
# wide, wide_bar = interval(noise.square().flatten(1).mean(1))
# print("64 pictures, means with 95 % intervals:")
# print(f"squared error {error:.4f} +- {error_bar:.4f}; of a grey level it is 0.0156")
# print(f"squared noise {wide:.2f} +- {wide_bar:.2f}; for the standard normal it is 1")
# assert error + error_bar < 0.125**2
# assert wide + wide_bar < 1

# %% [markdown]
# **Figure.** Real digits, the noise that DDIM finds for them in 50 steps up, and what 50 steps down make of this noise.
#
# They come back, to less than a grey level in the mean. (The way down is clipped, for the reason in the last paragraph.) Their noise is a little too narrow for the standard normal: these digits are flat in places, and a network that is not perfect does not turn flat places into full noise.
#
# Now two numbers again: the energy distance between 160 samples and the real digits, pixel by pixel; and, as the grain, the share of pixels that are neither white nor black, on the 17 levels of a file. For comparison, the same for 160 real digits that are not among the others. The band is made as before: 39 times other 160 real digits, drawn from all of them, are measured against the rest. The grain's intervals are those of a mean over 160 pictures.

# %% mystnb={"image": {"alt": "Two panels, one above the other, against the number of steps from 2 to 500, for Algorithm 2 and DDIM, with a grey band for real digits. Above: the energy distance falls for both and lies in the band from 20 steps on. Below: the share of grey pixels. Both samplers begin far above the real digits and come down close together; even at the right end they lie at the upper edge of the band."}} tags=["active-ipynb", "nbval-ignore-output"]
# n, counts = 160, (2, 5, 10, 20, 50)
# order = torch.randperm(len(images), generator=generator)
# real, held_out = images[order[n:]].flatten(1), images[order[:n]].flatten(1)
#
#
# def measures(pictures):
#     """Energy distance to the real digits; each picture's share of grey."""
#     levels = (pictures.flatten(1) * 8).round() / 8  # as a file would have it
#     grey = (levels.abs() < 1).double().mean(1)
#     return energy_distance(pictures.flatten(1), real), grey
#
#
# options = {"clip": True, "generator": generator}
# shape = (n, 1, 8, 8)
#
#
# def judged(rule, steps):
#     times = timesteps(500, steps)
#     return measures(sample(unet, shape, digit_schedule, rule, times, **options))
#
#
# digits = {
#     "Algorithm 2": {steps: judged(strided(), steps) for steps in (*counts, 500)},
#     "DDIM": {steps: judged(ddim(), steps) for steps in counts},
# }
# distance_of_real, grey_of_real = measures(held_out)
#
#
# def other_real_digits():
#     pictures = images[torch.randperm(len(images), generator=generator)].flatten(1)
#     return energy_distance(pictures[:n], pictures[n:])
#
#
# low, high = chance(other_real_digits)
# figure, (left, right) = plt.subplots(2, 1, figsize=(5.2, 4.6))
# for (name, values), color in zip(digits.items(), (fig.BLUE, fig.GREEN)):
#     heights, greys = zip(*values.values())
#     left.plot(list(values), heights, "o-", color=color, markersize=3)
#     share, bar = zip(*map(interval, greys))
#     right.errorbar(list(values), share, yerr=bar, color=color, marker="o", markersize=3)
#     for steps, height, g, b in zip(values, heights, share, bar):
#         print(f"{name:12} {steps:3} steps: {height:6.3f}, grey {g:.3f} +- {b:.3f}")
# real_grey, real_bar = interval(grey_of_real)
# left.axhspan(low, high, color="#d8d8d8", linewidth=0)
# right.axhspan(real_grey - real_bar, real_grey + real_bar, color="#d8d8d8", linewidth=0)
# print(
#     f"real digits: from {low:.3f} to {high:.3f}, grey {real_grey:.3f} +- {real_bar:.3f}"
# )
#
# print("differences in grey from Algorithm 2 with 500 steps:")
# base, base_bar = interval(digits["Algorithm 2"][500][1])
# for name, grey in (
#     ("Algorithm 2, 20 steps", digits["Algorithm 2"][20][1]),
#     ("DDIM, 20 steps", digits["DDIM"][20][1]),
#     ("real digits", grey_of_real),
# ):
#     share, bar = interval(grey)
#     bar = (bar**2 + base_bar**2) ** 0.5  # of two independent means
#     print(f"{name:22} {share - base:+.3f} +- {bar:.3f}")
# left.set(xscale="log", xlabel="steps", ylabel="energy distance")
# right.set(xscale="log", xlabel="steps", ylabel="share of grey pixels")
# fig.label_line(right, 2, real_grey, "real digits", fig.GREY)
# fig.label_line(right, 9, 0.6, "Algorithm 2", fig.BLUE)
# fig.label_line(right, 2.2, 0.47, "DDIM", fig.GREEN)
# plt.show()
# assert all(values[2][0] > 2 * high for values in digits.values())
# assert all(values[20][0] < 2 * high for values in digits.values())

# %% [markdown]
# **Figure.** Two measures of 160 digits against the number of steps; grey is what real digits have. By the first, 20 steps are enough for both samplers. By the second, 20 still leave too much grey.
#
# By the energy distance, a sample of this size cannot tell the 20 steps of either sampler from real digits: both lie within the band. The grain tells more: with 20 steps, each sampler leaves clearly more grey than Algorithm 2 with 500, and neither interval of these differences reaches 0. Between 500 steps and the real digits no difference can be told. That is a statement about one network, small pictures and small samples.
#
# ### Every sampler on the book's own networks
#
# How close does a walk come to where its noise belongs? Call the **limit** of a noise the picture that the second-order rule makes of it with all times. The distance to it is a root mean square over the picture's numbers, as a mean over pictures. `python -m benchmarks.samplers` (in a clone) measured it for the digits' network and for the small one of [CIFAR-10](cifar10.ipynb), from the same noises for all samplers; the points that follow are means over four seeds, with 95 % intervals. The two ends in $\lambda$ were chosen for each number of evaluations as those with the least distance, on other noises than these.

# %% mystnb={"image": {"alt": "Two panels, digits and cifar10-small: the distance to the limit against 5 to 100 network evaluations, both axes logarithmic. Both lines fall. The second order lies below DDIM everywhere, on the photographs by a factor of three and more from 15 evaluations on. A dashed line marks DDIM with 50 evaluations: the second order comes to it with about 20 on the digits, and is below it with 15 on the photographs."}} tags=["active-ipynb"]
# import json
#
# stored = json.loads(_weights.path("samplers.json").read_text())
# print(f"measured {stored['date']}, torch {stored['torch']}, on a CPU")
#
#
# rows = {
#     (name, row["sampler"], row["steps"]): row
#     for name, found in stored["networks"].items()
#     for row in found["rows"]
# }
#
#
# def of_seeds(name, sampler, steps, measure):
#     values = rows[name, sampler, steps][measure].values()
#     return torch.tensor([*values], dtype=torch.float64)
#
#
# figure, axes = plt.subplots(1, 2, figsize=(5.2, 2.8), sharey=True)
# for ax, (name, found) in zip(axes, stored["networks"].items()):
#     counts = [int(steps) for steps in found["ends"]["of_steps"]]
#     for sampler, color in (("DDIM", fig.PURPLE), ("second order", fig.GREEN)):
#         points = [of_seeds(name, sampler, steps, "distance") for steps in counts]
#         height, bar = zip(*map(interval, points))
#         ax.errorbar(counts, height, yerr=bar, color=color, marker="o", markersize=3)
#     goal = interval(of_seeds(name, "DDIM", 50, "distance"))[0]
#     ax.axhline(goal, color=fig.GREY, linewidth=0.8, linestyle="--")
#     ax.set(xscale="log", yscale="log", xlabel="evaluations", title=name)
#     ax.set_xticks([5, 20, 100], ["5", "20", "100"])
#     ax.minorticks_off()
# axes[0].set_ylabel("distance to the limit")
# fig.label_line(axes[0], 11, 0.16, "DDIM", fig.PURPLE)
# fig.label_line(axes[0], 5, 0.0065, "second order", fig.GREEN)
# fig.label_line(axes[0], 5, 0.015, "DDIM with 50", fig.GREY)
# plt.show()
# for name, steps in (("digits", 10), ("digits", 20), ("cifar10-small", 15)):
#     mine = of_seeds(name, "second order", steps, "distance")
#     mean, half = interval(mine - of_seeds(name, "DDIM", 50, "distance"))
#     what = f"{name}, second order with {steps} minus DDIM with 50"
#     print(f"{what:48}: {mean:+.4f} ± {half:.4f}")
# for name, found in stored["networks"].items():
#     print(f"{name}, chosen ends in lambda: distance, and from -4 to 3")
#     for steps, best in found["ends"]["of_steps"].items():
#         ends = f"{best['low']:g} to {best['high']:g}"
#         apart = best["distance"]
#         print(f"{steps:>5}: {ends:10} {apart[ends]:.3f} {apart['-4 to 3']:8.3f}")

# %% [markdown]
# **Figure.** How far a walk ends from where its noise belongs. Dashed: DDIM with 50 evaluations. The second order comes to it with 20 on the digits, and passes it with 15 on the photographs.
#
# With as many evaluations the second order is closer everywhere. On the small photographs it passes DDIM's 50 evaluations with 15. On the digits it takes 20 to come as close, and the interval of that difference includes 0.
#
# **The ends matter as much as the order.** The second list shows, for the noises on which they were chosen, the best ends and their distance beside that of fixed ends. On the digits they move outward as the evaluations grow. ($-5$ was the lowest that was tried. Lower ends down to $-7$, tried afterwards for 20 evaluations with 100 digits and two seeds, brought the least distance from 0.0222 to 0.0217: next to nothing.) With the lower end at $-4$ a walk on the photographs hardly comes closer from 15 evaluations on, however many it spends: it begins as if nothing of the picture were there yet, and a little is. So `log_snr_timesteps` begins at $-5$.
#
# Does it show in the pictures? For the digits, 4 × 1,000 samples are compared with all real digits: the energy distance, the Fréchet distance of the pixels ([the evaluation](evaluation.ipynb) explains it), and the share about which the judge of [the two algorithms](algorithms.ipynb) is sure. Each line is a difference to DDIM with 50 evaluations, taken within a seed.

# %% tags=["active-ipynb"]
# def against_ddim(sampler, steps, measure, scale):
#     mine = of_seeds("digits", sampler, steps, measure)
#     mean, half = interval(scale * (mine - of_seeds("digits", "DDIM", 50, measure)))
#     return f"{mean:+7.1f} ± {half:4.1f}"
#
#
# measures = {"energy": ("energy × 1000", 1000), "frechet": ("Fréchet × 100", 100)}
# measures["judge"] = ("sure, points", 100)
# print(f"{'':25}" + "".join(f"{title:>16}" for title, _ in measures.values()))
# for steps in (5, 10, 20, 50, 100, 500):
#     for sampler in ("Algorithm 2", "analytic variance", "DDIM", "second order"):
#         cells = (
#             against_ddim(sampler, steps, measure, scale)
#             for measure, (_, scale) in measures.items()
#         )
#         print(f"{steps:4} {sampler:20}" + "".join(f"{cell:>16}" for cell in cells))
# for sampler, steps in (("Algorithm 2", 500), ("DDIM", 50), ("second order", 10)):
#     share, half = interval(of_seeds("digits", sampler, steps, "judge"))
#     print(f"the judge is sure, {sampler} with {steps}: {share:.1%} ± {half:.1%}")

# %% [markdown]
# With 10 evaluations the second order is where DDIM is with 50: neither the energy distance nor the Fréchet distance differs by more than its interval. With 5 it is far ahead of the others. But both distances know only how the pictures lie together, and the judge looks at each. With 100 evaluations or more it is sure about more of Algorithm 2's pictures than of DDIM's or the second order's, whose shares hardly change from 20 evaluations on. So the walks without fresh noise come to their limit soon, and the judge likes this limit less. The analytic variance convinces it sooner than the large one, with 5 to 20 evaluations, and is worse in both distances; from 100 on it hardly matters.
#
# **Which one, then?** For few evaluations the second order, its ends moved outward as the evaluations grow; where a hundred can be paid, Algorithm 2. That is what two small networks say, and of Algorithm 2 the digits' alone. Measure yours.
#
# ### What others measured on the paper's network
#
# These are Fréchet distances on CIFAR-10 with 50,000 samples (smaller is better), as collected by Li, Chen and Zeng (2023, Table 1; see the [bibliography](bibliography.md)) for the network of the DDPM paper. Nothing of this was measured here:
#
# | network evaluations | 12 | 15 | 20 | 50 |
# |---|---|---|---|---|
# | Algorithm 2, large variance | 246 | 198 | 137 | 32.6 |
# | DDIM, quadratic spacing | 11.02 | 8.92 | 6.94 | 4.73 |
# | DDIM with the analytic variance | 11.68 | 9.16 | 7.20 | 4.28 |
# | DPM-Solver, up to third order | 4.65 | – | 3.81 | 3.49 |
#
# With all 1,000 steps Algorithm 2 reaches 3.16 there, and DDIM 3.95. Song, Meng and Ermon (2021, Table 1) report for a network of their own:
#
# | steps | 10 | 20 | 50 | 100 | 1,000 |
# |---|---|---|---|---|---|
# | DDIM, $\eta = 0$ | 13.36 | 6.84 | 4.67 | 4.16 | 4.04 |
# | DDIM, $\eta = 1$ | 41.07 | 18.36 | 8.01 | 5.78 | 4.73 |
# | Algorithm 2, large variance | 367.43 | 133.37 | 32.72 | 9.99 | 3.17 |
#
# ## Where people slip
#
# **"No $z$ when $t = 1$."** With strides the last step starts at $\tau_1$, which need not be 1. A loop that asks `if t > 1` then adds noise to the finished picture, and with few steps it is a lot of noise. The rule is: no noise when the walk arrives at 0.

# %% tags=["active-ipynb"]
# for steps in (10, 50, 1000):
#     times = timesteps(1000, steps)
#     last = respace(schedule, times).beta[1].sqrt()
#     print(f"{steps:4} steps: tau_1 = {times[-2]:3}, the noise would be {last:.3f} wide")

# %% [markdown]
# **Steps that skip.** Well-known code takes every $\lfloor T/S\rfloor$-th time. When $S$ does not divide $T$, that leaves out the upper end: with $T = 1000$ and $S = 600$ the stride is 1, and the walk visits the times 1 to 600 only. The network is told that there is some signal left, and gets pure noise.
#
# **The old $\beta_t$ with the new stride.** Whoever takes only every 20th step of Algorithm 2 and leaves $\beta_t$ as it is, removes about a twentieth of the noise that has to go.

# %% mystnb={"image": {"alt": "Two panels of points after 50 steps. With the right beta prime: five round bumps. With the old beta: one shapeless cloud of noise."}} tags=["active-ipynb"]
# def walk_with(tables, seed=5):
#     """Algorithm 2 in 50 steps; tables(t, s) gives the beta of a step from t to s."""
#     generator = torch.Generator().manual_seed(seed)
#     x = torch.randn(4000, 2, generator=generator)
#     for t, s in pairwise(timesteps(1000, 50)):
#         beta, root = tables(t, s), (1 - schedule.alpha_bar[t]).sqrt()
#         z = torch.randn(x.shape, generator=generator) if s > 0 else torch.zeros(1)
#         mean = (x - beta / root * exact(x, t)) / (1 - beta).sqrt()
#         x = (mean + beta.sqrt() * z).float()
#     return x
#
#
# variants = {
#     "right": lambda t, s: 1 - schedule.alpha_bar[t] / schedule.alpha_bar[s],
#     "old beta": lambda t, s: schedule.beta[t],
# }
# figure, axes = plt.subplots(1, 2, figsize=(4.2, 2.1))
# truth = ring.sample(4000, generator)
# for ax, (name, tables) in zip(axes, variants.items()):
#     x = walk_with(tables)
#     scatter(ax, x, fig.BLUE if name == "right" else fig.ORANGE, name)
#     print(f"{name:8} energy distance {energy_distance(x, truth):.2f}")
# plt.show()

# %% [markdown]
# **Figure.** Fifty steps of Algorithm 2, with the $\beta'$ of the long steps and with the old $\beta_t$. The second never leaves the noise.
#
# **Beginning below $T$.** The spacing "leading" begins at $\tau_S < T$. The walk starts from pure noise all the same, where the forward process still holds some signal at $\tau_S$. With 10 steps of the cosine schedule that share is not small. (A share $p$ of the power means that the picture is there with the factor $\sqrt p$.)

# %% tags=["active-ipynb"]
# cosine = Schedule.cosine()
# for steps in (5, 10, 50):
#     first = timesteps(1000, steps, "leading")[0]
#     share = cosine.alpha_bar[first]
#     print(
#         f"{steps:2} steps: begins at {first}; the signal's share of the power: {share:.3f}"
#     )

# %% [markdown]
# **A clipped picture with the old noise.** Clip $\hat x_0$ and keep $\hat\varepsilon$, and the two no longer make up $x_t$. Some libraries do that unless told otherwise. Then $\eta = 1$ is no longer Algorithm 2. (Ours works $\hat\varepsilon$ out again; a test compares it with Algorithm 2, clipped, to $10^{-10}$.)
#
# ## Exercises
#
# **1.** Show that at $\eta = 1$ and $s = t-1$ the weight in Eq. [weight](#eq-ddim-weight) is the one of the bound, Eq. [weight](#eq-vlb-weight), for the small variance. *Hint:* which two distributions does each weight compare?
#
# <details><summary>Solution</summary>
#
# There the family's step is DDPM's posterior, so the divergences are the same divergence. In numbers:
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 1
# from ddpm_nb.loss import vlb_weight
#
# for t in (2, 50, 1000):
#     var = ddim_sigma(t, t - 1, schedule, 1.0) ** 2
#     bar_t, bar_s = schedule.alpha_bar[t], schedule.alpha_bar[t - 1]
#     ratio = ((1 - bar_t) / bar_t * bar_s).sqrt()
#     weight = (ratio - (1 - bar_s - var).sqrt()) ** 2 / (2 * var)
#     print(
#         f"t = {t:4}: {weight:.8f}, of the bound {vlb_weight(t, schedule, 'small'):.8f}"
#     )

# %% [markdown]
# **2.** DDIM with one step: what does it return, for any $\eta$? *Hint:* how large is $\sigma$ in a step to $t = 0$?
#
# <details><summary>Solution</summary>
#
# With $S = 1$ (trailing) the only step goes from $T$ to 0, where $\sigma = 0$: it returns $\hat x_0(x_T, T)$, the network's best guess from pure noise. That is nearly the mean of the data.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 2
# x = ddim_sample(exact, (500, 2), schedule, 1, eta=1.0, generator=generator)
# centre = (ring.weights[:, None] * ring.means).sum(0)
# far = (x - centre).norm(dim=1).max()
# print(f"the farthest of 500 points from the mean of the data: {far:.3f}")

# %% [markdown]
# **3.** For data $\mathcal N(0, w^2)$, where does the curve through $x_T$ end, in the limit of small steps? *Hint:* the curve keeps the marginals right. What does it do to $x$ divided by its standard deviation?
#
# <details><summary>Solution</summary>
#
# The curve keeps the marginals right, and every step multiplies $x$ by a positive number that does not depend on $x$. So $x_t$ divided by its standard deviation, $\sqrt{\bar\alpha_t w^2+1-\bar\alpha_t}$, stays the same along the curve. It ends at $w\,x_T/\sqrt{\bar\alpha_T w^2+1-\bar\alpha_T}$.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 3
# narrow = GaussianMixture([1.0], [[0.0]], [0.3])
# x_T = torch.tensor([[1.7]], dtype=torch.float64)
# last = schedule.alpha_bar[-1]
# limit = 0.3 * x_T / (0.09 * last + 1 - last).sqrt()
# for steps in (10, 100, 1000):
#     model = optimal_noise(narrow, schedule)
#     end = ddim_sample(model, (1, 1), schedule, steps, x_T=x_T)
#     print(f"{steps:4} steps: off by {float((end - limit).abs()):.1e}")

# %% [markdown]
# **4.** Mix two noises, $\cos(\vartheta)\,a+\sin(\vartheta)\,b$, and let DDIM draw from the mixture. Why not mix them with weights $1-\vartheta$ and $\vartheta$? Will you see the difference? *Hint:* compute the variance halfway.
#
# <details><summary>Solution</summary>
#
# The mixture must look like noise to the network: variance 1. Squares of cosine and sine add to 1; those of $1-\vartheta$ and $\vartheta$ do not, and halfway the variance is only one half. In the one pair of noises drawn here the pictures hardly show it: this network, with clipping, copes with half the variance. In many dimensions it does more harm. There the length of a noise is nearly fixed, and a point that is only $\sqrt{1/2}$ as long is one that the network never met.
#
# </details>

# %% mystnb={"image": {"alt": "Two rows of nine pictures, from one digit at the left to another at the right. In the upper row the noise is turned, in the lower row averaged. The rows are nearly alike; in the middle both are blurred."}} tags=["active-ipynb", "hide-cell", "nbval-ignore-output"]
# # Solution 4
# a, b = torch.randn(2, 1, 1, 8, 8, generator=torch.Generator().manual_seed(11))
# share = torch.linspace(0, 1, 9)[:, None, None, None]
# turned = (share * math.pi / 2).cos() * a + (share * math.pi / 2).sin() * b
# averaged = (1 - share) * a + share * b
# rows = [
#     ddim_sample(unet, (9, 1, 8, 8), digit_schedule, 50, clip=True, x_T=x)
#     for x in (turned, averaged)
# ]
# fig.picture_rows(rows, ["turned", "averaged"], [""] * 9, size=0.47)
# plt.show()
# assert averaged[4].var() < 0.8 * turned[4].var()

# %% [markdown]
# **Figure.** From one digit to another in nine mixtures of two noises, without training in between. Averaged noise is too quiet in the middle, and still the rows are nearly alike.

# %% [markdown]
# ## Summary
#
# A chain that visits only some of the times is a diffusion chain with its own $\beta'$, and the network knows its noise levels already. Besides DDPM's step back there is a whole family with the same marginals and the same loss. Its member without fresh noise, DDIM, turns each noise into one picture along a smooth curve, which can be walked with few steps and in both directions. A look at the prediction before makes each step downwards second order, without another network evaluation.
#
# **The next question.** Energy distances, widths, shares of grey: how is a model measured properly, and how sure is the number? See [the evaluation](evaluation.ipynb).
