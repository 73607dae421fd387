# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From data to noise: the forward process
#
# **The question.** How can we turn a picture into pure noise, step by step? And how do we reach step $t$ without walking there?
#
# ![The chain with its upper half lit: arrows q lead from a handwritten 9 at the left, through x_{t−1} and x_t, ever noisier, to pure noise at the right. One step is named q(x_t | x_{t−1}); a wide arc jumps from x_0 straight to x_t, q(x_t | x_0). A strip under each picture shows how much of it is signal: all of it, two thirds, half, none; the rest is noise.](images/chain-forward.svg)
#
# Can one jump replace all the steps from $x_0$ to $x_t$?
#
# **What you bring.** The normal distribution $\mathcal N(\mu, \sigma^2)$, and two rules for independent random numbers: means add, variances add.
#
# **What you take away.** One step of the forward process, the two usual noise schedules, and a formula that jumps from the picture $x_0$ to any $x_t$ at once. You will have its proof, its code, and a test that fails when the code is wrong.

# %% tags=["active-ipynb"]
# # In Colab this installs the book's package; elsewhere it is there, and nothing happens.
# import importlib.util
#
# if importlib.util.find_spec("ddpm_nb") is None:
#     %pip install --quiet --no-deps "ddpm_nb @ git+https://github.com/ddpm_nb/ddpm_nb"

# %%
"""The forward process: noise schedules, one step, and the jump from x_0 to x_t.

t runs from 1 to T, as in the paper (Ho, Jain and Abbeel, 2020). Tables have T + 1
entries, and entry 0 means "no noise yet", so the code reads like the equations.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ddpm_nb import _checks as check
from ddpm_nb._devices import has_float64


# %% [markdown]
# ## One step
#
# Let $x_0$ be a data point: a picture, written as a list of numbers between $-1$ and $1$. The forward process makes a chain $x_0 \to x_1 \to \dots \to x_T$. Each step shrinks what is there a little and adds a little fresh noise:
#
# $$
# x_t = \sqrt{1-\beta_t}\; x_{t-1} + \sqrt{\beta_t}\; w_t, \qquad w_t \sim \mathcal N(0, I).
# $$ (def-step)
#
# The number $\beta_t$, between 0 and 1, says how much noise step $t$ adds. The noise $w_t$ is drawn anew at every step, independent of everything before. We call it $w$, as in *walk*; the letter $\varepsilon$ is kept for something else, further down.
#
# The same step, written as a conditional density: given $x_{t-1}$, the next point is normal with mean $\sqrt{1-\beta_t}\,x_{t-1}$ and variance $\beta_t$ in every coordinate,
#
# $$
# q(x_t \mid x_{t-1}) = \mathcal N\bigl(x_t;\ \sqrt{1-\beta_t}\,x_{t-1},\ \beta_t I\bigr).
# $$
#
# **Why the square roots?** Look at one coordinate, and at its variance. Multiplying a random number by $c$ multiplies its variance by $c^2$, and the variances of independent numbers add:
#
# $$
# \operatorname{Var}[x_t] = (1-\beta_t)\operatorname{Var}[x_{t-1}] + \beta_t .
# $$ (eq-variance)
#
# If $\operatorname{Var}[x_{t-1}] = 1$, the right-hand side is $1-\beta_t+\beta_t = 1$. The noise takes over, but the numbers neither grow nor shrink, and the network that has to look at them sees the same scale at every $t$. A variance that is not 1 moves towards 1: subtract 1 on both sides and you get $\operatorname{Var}[x_t]-1 = (1-\beta_t)(\operatorname{Var}[x_{t-1}]-1)$.

# %% [markdown]
# ## The schedule: how much noise, and when
#
# The numbers $\beta_1, \dots, \beta_T$ are chosen by hand before training. The student's notes that [this book follows](bibliography.md) compare them with a learning rate. That helps in one way: both are small numbers, set in advance, that say how big a step is. It fails in another: a learning rate changes how fast a network learns, while the $\beta_t$ change *what it has to learn*. Why so many of them, and so small? Because only a small step has a step back that is nearly a bell: see [the posterior](posterior.ipynb).
#
# Two numbers made from them appear everywhere:
#
# $$
# \alpha_t = 1-\beta_t, \qquad \bar\alpha_t = \prod_{s=1}^{t} \alpha_s, \qquad \bar\alpha_0 = 1 .
# $$ (def-alpha-bar)
#
# Read $\bar\alpha_t$ as "how much of the picture's power is left at time $t$"; the picture itself is multiplied by $\sqrt{\bar\alpha_t}$. (*Power* is the mean square of the numbers: a factor $c$ changes it by $c^2$.) It starts at 1 and falls at every step.
#
# **The linear schedule** is the paper's. The $\beta_t$ lie on a straight line from $\beta_1 = 0.0001$ to $\beta_T = 0.02$, with $T = 1000$:
#
# $$
# \beta_t = \beta_1 + \frac{t-1}{T-1}\,(\beta_T - \beta_1) .
# $$ (def-linear)
#
# **The cosine schedule** (Nichol and Dhariwal, 2021) says instead how $\bar\alpha_t$ should fall, and takes the $\beta_t$ that make it so:
#
# $$
# f(t) = \cos^2\!\left(\frac{t/T+s}{1+s}\cdot\frac{\pi}{2}\right), \qquad
# \beta_t = \min\!\left(1-\frac{f(t)}{f(t-1)},\ 0.999\right), \qquad s = 0.008 .
# $$ (def-cosine)
#
# Up to the cap this gives $\bar\alpha_t = f(t)/f(0)$, because the product telescopes. The cap is needed at the very end only. There $f(T) = 0$, so without it $\beta_T = 1$ and $\alpha_T = 0$, and the step back, which divides by $\sqrt{\alpha_T}$, would divide by zero. The small offset $s$ keeps the first $\beta_t$ from being too tiny.
#
# In the code a schedule is three tables. They hold $T+1$ numbers, and number 0 stands for "no noise yet": $\beta_0 = 0$ and $\bar\alpha_0 = 1$. So `alpha_bar[t]` *is* $\bar\alpha_t$, and nobody has to remember an off-by-one.

# %%
@dataclass(frozen=True, eq=False, init=False)
class Schedule:
    """A noise schedule: the tables beta, alpha and alpha_bar, for t = 0 ... T.

    Entry 0 of each table means "no noise yet": ``beta[0] = 0`` and
    ``alpha[0] = alpha_bar[0] = 1``. The tables are on the CPU until `to` moves them.

    Args:
        beta: beta_1 ... beta_T, T numbers strictly between 0 and 1.

    Attributes:
        T: the number of steps.
        beta: (T + 1,) float64, the variance of the noise that step t adds.
        alpha: (T + 1,) float64, 1 - beta.
        alpha_bar: (T + 1,) float64, the product of alpha_1 ... alpha_t.

    Raises:
        ValueError: if `beta` is not a list of numbers strictly between 0 and 1.

    Equation: def-alpha-bar. Paper: section 2.
    """

    T: int
    beta: Tensor
    alpha: Tensor
    alpha_bar: Tensor

    def __init__(self, beta: Tensor | Sequence[float]) -> None:
        steps = check.betas(beta)
        beta = torch.cat([steps.new_zeros(1), steps])
        alpha, alpha_bar = 1 - beta, torch.cumprod(1 - beta, dim=0)
        # A frozen record takes its fields through its dictionary.
        vars(self).update(T=len(steps), beta=beta, alpha=alpha, alpha_bar=alpha_bar)

    @classmethod
    def linear(cls, T: int = 1000, beta_1: float = 1e-4, beta_T: float = 0.02) -> Self:
        """Return the paper's schedule: beta goes on a line from beta_1 to beta_T.

        With T = 1 the only step has beta_1.

        Raises:
            ValueError: if T is not a positive integer, or a beta lies outside (0, 1).

        Equation: def-linear. Paper: section 4.
        """
        T = check.positive("T", T)
        return cls(torch.linspace(beta_1, beta_T, T, dtype=torch.float64, device="cpu"))

    @classmethod
    def cosine(cls, T: int = 1000, s: float = 0.008) -> Self:
        """Return the schedule whose alpha_bar falls like a squared cosine.

        Every beta is at most 0.999.

        Raises:
            ValueError: if T is not a positive integer, or s is negative.

        Equation: def-cosine. Source: Nichol and Dhariwal (2021), equation 17.
        """
        T, s = check.positive("T", T), check.number("s", s, ">= 0", lambda s: s >= 0)
        t = torch.arange(T + 1, dtype=torch.float64, device="cpu")
        f = torch.cos((t / T + s) / (1 + s) * math.pi / 2) ** 2
        return cls((1 - f[1:] / f[:-1]).clamp(max=0.999))

    @property
    def log_snr(self) -> Tensor:
        """Logarithm of the signal-to-noise ratio, (T + 1,) float64; infinite at t = 0.

        Equation: def-snr.
        """
        return torch.logit(self.alpha_bar)

    def to(self, device: torch.device | str) -> Self:
        """Return the same schedule with its tables on `device`.

        They are float32 on MPS, which has no float64; there 1 - alpha_bar, at the smallest
        t of 1,000, is off by up to a thousandth.
        """
        dtype = torch.float64 if has_float64(device) else torch.float32
        moved, tables = copy.copy(self), ("beta", "alpha", "alpha_bar")
        vars(moved).update({x: getattr(self, x).to(device, dtype) for x in tables})
        return moved


# %% [markdown]
# A batch usually holds pictures at different times: `t` is then one integer a picture. The tables are looked up in float64, and every factor is worked out in float64 too; only the finished factor is cast to the type of the picture. (The section on slips shows what goes wrong otherwise.) One small helper, `per_image`, does this for every equation of the book. What must not come in at all, such as a $t$ outside $1,\dots,T$, is refused by `check`: a module without a chapter, so that a function here is its equation and little else.

# %%
def per_image(value: Tensor, x: Tensor) -> Tensor:
    """Shape one number a picture, (B,) or (), so that it multiplies x, (B, ...).

    Returns a tensor (B, 1, ..., 1) on x's device, or () where it was, for a number that
    all pictures share; in x's dtype.

    Raises:
        TypeError: if x does not hold floating-point numbers.
        ValueError: if the number of values is neither one for all nor one a picture.
    """
    factor = check.per_image(value, x)
    if factor.dim() == 0:
        return factor.to(x.dtype)  # a number on the CPU serves every device
    return factor.to(x).reshape(-1, *[1] * (x.dim() - 1))


# %% [markdown]
# Now one step, Eq. [step](#def-step), in code. The noise comes in as an argument: the function is then the equation and nothing else, and a test can hand in any noise it likes.

# %%
def q_step(
    x_prev: Tensor, t: int | Tensor, noise: Tensor, schedule: Schedule
) -> Tensor:
    """Take one step of the forward process, from x_{t-1} to x_t.

    Args:
        x_prev: (B, ...) the points x_{t-1}.
        t: an int, or (B,) int64, in 1 ... T.
        noise: (B, ...) w_t, standard normal: the noise of this one step.
        schedule: the noise schedule.

    Returns:
        (B, ...) x_t.

    Raises:
        ValueError: if the noise has not the shape of the points, or t leaves its range.

    Equation: def-step. Paper: equation 2.
    """
    check.noise(noise, x_prev)
    beta = schedule.beta[check.t(t, schedule)]
    return (
        per_image((1 - beta).sqrt(), x_prev) * x_prev
        + per_image(beta.sqrt(), noise) * noise
    )


# %% [markdown]
# Here are both schedules, and what they do to $\bar\alpha_t$, the share of the picture's power that is left.

# %% mystnb={"image": {"alt": "Two panels against t from 0 to 1000. Left: beta. The linear schedule is a straight line up to 0.02; the cosine schedule stays below it until about t = 890, then shoots up and leaves the frame at the top. Right: alpha-bar, the share of the power that is left. The linear schedule has lost nearly everything by t = 600; the cosine schedule falls gently from 1 to 0 over the whole range."}} tags=["active-ipynb"]
# import matplotlib.pyplot as plt
#
# from ddpm_nb import _figures as fig
#
# fig.use_style()
# linear, cosine = Schedule.linear(), Schedule.cosine()
# t = torch.arange(1001)
#
# figure, (left, right) = plt.subplots(1, 2, figsize=(5.2, 2.6))
# for name, schedule, color in (
#     ("linear", linear, fig.BLUE),
#     ("cosine", cosine, fig.ORANGE),
# ):
#     left.plot(t[1:], schedule.beta[1:], color=color)
#     right.plot(t, schedule.alpha_bar, color=color)
# left.set(ylim=(0, 0.05), xlabel="t", title=r"noise added, $\beta_t$")
# right.set(xlabel="t", title=r"power left, $\bar\alpha_t$", yticks=[0, 0.5, 1])
# fig.label_line(left, 480, 0.0145, "linear", fig.BLUE, ha="right")
# fig.label_line(left, 850, 0.03, "cosine", fig.ORANGE, ha="right")
# fig.label_line(right, 230, 0.35, "linear", fig.BLUE, ha="right")
# fig.label_line(right, 530, 0.55, "cosine", fig.ORANGE)
# plt.show()

# %% [markdown]
# **Figure.** The paper's linear schedule and the cosine. Look at $t = 600$: with the linear schedule nearly nothing of the picture's power is left; with the cosine, a third. (The cosine's last $\beta_t$ leave the frame; they go up to 0.999.)
#
# ## Two normal numbers merge into one
#
# To jump over many steps we need one fact. If $u$ and $v$ are independent standard normal numbers, then a weighted sum of them is a *single* normal number:
#
# $$
# a\,u + b\,v \;\sim\; \mathcal N(0,\ a^2+b^2) .
# $$ (eq-two-gaussians)
#
# That the mean is 0 and the variance $a^2+b^2$ follows from the two rules above. That the sum is again *normal* is special, and needs a proof. Write $c^2 = a^2+b^2$, with $a$ and $b$ not zero. The density of a sum of two independent numbers at the point $s$ collects all ways to split $s$ into $y$ and $s-y$:
#
# $$
# p(s) = \int \mathcal N(y; 0, a^2)\,\mathcal N(s-y; 0, b^2)\,dy
#      \;\propto\; \int \exp\!\left(-\frac{1}{2}\left[\frac{y^2}{a^2}+\frac{(s-y)^2}{b^2}\right]\right)dy .
# $$
#
# Multiply out the bracket and collect powers of $y$. Then complete the square:
#
# $$
# \begin{aligned}
# \frac{y^2}{a^2}+\frac{(s-y)^2}{b^2}
# &= \frac{c^2}{a^2b^2}\,y^2 - \frac{2s}{b^2}\,y + \frac{s^2}{b^2}
#    && \text{because } \tfrac1{a^2}+\tfrac1{b^2} = \tfrac{c^2}{a^2b^2} \\
# &= \frac{c^2}{a^2b^2}\left(y-\frac{a^2}{c^2}s\right)^{2} - \frac{a^2}{b^2c^2}\,s^2 + \frac{s^2}{b^2}
#    && \text{complete the square in } y \\
# &= \frac{c^2}{a^2b^2}\left(y-\frac{a^2}{c^2}s\right)^{2} + \frac{s^2}{c^2}
#    && \text{because } \tfrac{1}{b^2}\left(1-\tfrac{a^2}{c^2}\right) = \tfrac{1}{c^2} .
# \end{aligned}
# $$
#
# The last term has no $y$ in it and moves in front of the integral. What stays inside is a bell curve in $y$. Its area depends on its width, which is the same for every $s$, and not on where its middle lies. So the integral is a constant, and $p(s) \propto \exp(-s^2/2c^2)$: the density of $\mathcal N(0, c^2)$. For vectors of independent coordinates the same holds coordinate by coordinate. $\blacksquare$
#
# ## The jump: from $x_0$ to $x_t$ at once
#
# Walk two steps, and put the first into the second:
#
# $$
# \begin{aligned}
# x_2 &= \sqrt{\alpha_2}\,x_1 + \sqrt{\beta_2}\,w_2 && \text{one step} \\
#     &= \sqrt{\alpha_2}\left(\sqrt{\alpha_1}\,x_0+\sqrt{\beta_1}\,w_1\right) + \sqrt{\beta_2}\,w_2 && \text{one step, for } x_1 \\
#     &= \sqrt{\alpha_1\alpha_2}\,x_0 + \left(\sqrt{\alpha_2\beta_1}\,w_1 + \sqrt{\beta_2}\,w_2\right) && \text{sort.}
# \end{aligned}
# $$
#
# The bracket holds two independent noises. By Eq. [two Gaussians](#eq-two-gaussians) they merge into one, of variance $\alpha_2\beta_1+\beta_2 = \alpha_2(1-\alpha_1) + 1-\alpha_2 = 1-\alpha_1\alpha_2 = 1-\bar\alpha_2$. The pattern holds for every $t$:
#
# $$
# x_t = \sqrt{\bar\alpha_t}\;x_0 + \sqrt{1-\bar\alpha_t}\;\varepsilon, \qquad \varepsilon \sim \mathcal N(0, I),
# $$ (eq-forward)
#
# or, as a density, $q(x_t \mid x_0) = \mathcal N\bigl(x_t;\ \sqrt{\bar\alpha_t}\,x_0,\ (1-\bar\alpha_t) I\bigr)$.
#
# **Proof by induction.** For $t = 1$, Eq. [forward](#eq-forward) is the definition of a step, since $\bar\alpha_1 = 1-\beta_1$, with $\varepsilon = w_1$. Now let it hold for $t-1$, with some noise $\varepsilon'$ that is made of $w_1, \dots, w_{t-1}$ only. Then
#
# $$
# \begin{aligned}
# x_t &= \sqrt{\alpha_t}\,x_{t-1} + \sqrt{\beta_t}\,w_t && \text{one step} \\
#     &= \sqrt{\alpha_t}\left(\sqrt{\bar\alpha_{t-1}}\,x_0 + \sqrt{1-\bar\alpha_{t-1}}\;\varepsilon'\right) + \sqrt{\beta_t}\,w_t && \text{the formula for } t-1 \\
#     &= \sqrt{\bar\alpha_t}\,x_0 + \left(\sqrt{\alpha_t(1-\bar\alpha_{t-1})}\;\varepsilon' + \sqrt{\beta_t}\,w_t\right) && \alpha_t\bar\alpha_{t-1} = \bar\alpha_t .
# \end{aligned}
# $$
#
# The fresh noise $w_t$ knows nothing of $\varepsilon'$, so the two merge into one noise of variance
#
# $$
# \alpha_t(1-\bar\alpha_{t-1}) + \beta_t = \alpha_t - \bar\alpha_t + 1 - \alpha_t = 1-\bar\alpha_t .
# $$
#
# Call it $\sqrt{1-\bar\alpha_t}\,\varepsilon$. It is made of $w_1,\dots,w_t$ only, so it is independent of $x_0$. That is the formula for $t$. $\blacksquare$

# %%
def q_sample(x_0: Tensor, t: int | Tensor, noise: Tensor, schedule: Schedule) -> Tensor:
    """Jump from x_0 straight to x_t.

    Args:
        x_0: (B, ...) data.
        t: an int, or (B,) int64, in 0 ... T; t = 0 gives x_0 back.
        noise: (B, ...) epsilon, standard normal: the total noise of all t steps.
        schedule: the noise schedule.

    Returns:
        (B, ...) x_t.

    Raises:
        ValueError: if the noise has not the shape of the points, or t leaves its range.

    Equation: eq-forward. Paper: equation 4.
    """
    check.noise(noise, x_0)
    alpha_bar = schedule.alpha_bar[check.t(t, schedule, lowest=0)]
    return (
        per_image(alpha_bar.sqrt(), x_0) * x_0
        + per_image((1 - alpha_bar).sqrt(), noise) * noise
    )

# %% [markdown]
# ### Two noises, two letters
#
# Many readers take $\varepsilon$ for the noise of step $t$. It is not: it is the *total* noise of all $t$ steps, and each step's $w_s$ has its share in it. Follow the noise of step $s$: it enters with the factor $\sqrt{\beta_s}$, and every later step shrinks it by another $\sqrt{\alpha}$, together $\sqrt{\alpha_{s+1}\cdots\alpha_t} = \sqrt{\bar\alpha_t/\bar\alpha_s}$. So
#
# $$
# \sqrt{1-\bar\alpha_t}\;\varepsilon \;=\; \sum_{s=1}^{t} \sqrt{\beta_s\,\frac{\bar\alpha_t}{\bar\alpha_s}}\;w_s .
# $$ (eq-noise-sum)
#
# This is an identity between numbers, not only between distributions, so it can be checked to rounding: walk $t$ steps with noises $w_1, \dots, w_t$, work out $\varepsilon$ from them, and jump with that $\varepsilon$. Both must arrive at the same point.

# %% tags=["active-ipynb"]
# generator = torch.Generator().manual_seed(0)
# x_0 = torch.randn(3, dtype=torch.float64, generator=generator)
# w = torch.randn(1001, 3, dtype=torch.float64, generator=generator)
# x = x_0
# for s in range(1, 501):
#     x = q_step(x, s, w[s], linear)  # w[s] is the noise of step s
#
# s = torch.arange(1, 501)
# share = linear.beta[s] * linear.alpha_bar[500] / linear.alpha_bar[s]
# noise = (share.sqrt()[:, None] * w[1:501]).sum(0) / (1 - linear.alpha_bar[500]).sqrt()
# jump = q_sample(x_0, 500, noise, linear)
# assert torch.allclose(x, jump, rtol=0, atol=1e-12)
# for name, point in (("walked", x), ("jumped", jump)):
#     print(name, *(f"{number:.10f}" for number in point))

# %% [markdown]
# The last step's share of the variance is $\beta_t/(1-\bar\alpha_t)$.

# %% tags=["active-ipynb"]
# for t in (1, 2, 100, 500):
#     last = linear.beta[t] / (1 - linear.alpha_bar[t])
#     print(f"share of the last step in the variance of the noise at t = {t}: {last:.1%}")

# %% [markdown]
# At $t = 500$ it is only about one hundredth. Remember this when we walk back: the network will predict the *total* noise, and a step back removes only a small share of it, except for the last few.
#
# ## Jump = walk, seen
#
# Take numbers from two narrow bumps, one at $-1$ with weight 0.3 and one at $+1$ with weight 0.7. Let 20,000 of them walk, one step at a time. The grey histograms show where they are. The blue line is computed without any walking: by Eq. [forward](#eq-forward), each bump has moved to $\pm\sqrt{\bar\alpha_t}$ and has become wider.

# %% mystnb={"image": {"alt": "Four panels for t = 0, 100, 300 and 1000. Grey histograms of 20,000 walking numbers and a blue curve computed by the jump formula lie on each other in every panel: two sharp bumps at minus one and plus one, then two wide bumps, then one lopsided hill, then the standard normal bell."}} tags=["active-ipynb"]
# from ddpm_nb.likelihood import GaussianMixture
#
# bumps = GaussianMixture(weights=[0.3, 0.7], means=[[-1.0], [1.0]], stds=[0.1, 0.1])
# x = bumps.sample(20_000, generator)
# seen = {0: x}
# for t in range(1, 1001):
#     x = q_step(x, t, torch.randn(x.shape, generator=generator), linear)
#     seen[t] = x
#
# grid = torch.linspace(-3.5, 3.5, 701, dtype=torch.float64)
# figure, axes = plt.subplots(2, 2, sharex=True, figsize=(5.2, 3.4))
# for ax, t in zip(axes.flat, (0, 100, 300, 1000)):
#     alpha_bar = linear.alpha_bar[t]
#     moved = GaussianMixture(
#         weights=bumps.weights,
#         means=alpha_bar.sqrt() * bumps.means,
#         stds=(alpha_bar * bumps.stds**2 + 1 - alpha_bar).sqrt(),
#     )
#     ax.hist(seen[t][:, 0], bins=80, range=(-3.5, 3.5), density=True, color="#b5b5b5")
#     ax.plot(grid, moved.log_prob(grid[:, None]).exp(), color=fig.BLUE)
#     ax.set(title=f"t = {t}", yticks=[])
#     ax.spines["left"].set_visible(False)
# for ax in axes[1]:
#     ax.set(xlabel="$x_t$")
# axes[0, 0].text(-3.4, 2.2, "walked", color=fig.GREY)
# axes[0, 0].text(-3.4, 1.8, "jumped", color=fig.BLUE)
# plt.show()
#
# # Of the data: 0.3 * (-1) + 0.7 * 1 = 0.4 is the mean; the centres have the variance
# # 1 - 0.4**2 = 0.84, and the width of the bumps adds 0.1**2 = 0.01.
# for t in (100, 300, 1000):
#     alpha_bar = linear.alpha_bar[t]
#     mean, variance = alpha_bar.sqrt() * 0.4, alpha_bar * (0.84 + 0.01) + 1 - alpha_bar
#     error_bar = (variance / 20_000).sqrt()
#     assert (seen[t].mean() - mean).abs() < 4 * error_bar
#     assert (seen[t].var() / variance - 1).abs() < 4 * (2 / 20_000) ** 0.5
#     print(
#         f"t = {t:4}: mean walked {seen[t].mean():.3f}, jumped {mean:.3f} (± {error_bar:.3f});"
#         f" variance {seen[t].var():.3f}, {variance:.3f}"
#     )

# %% [markdown]
# **Figure.** Grey: 20,000 numbers that walked step by step. Blue: the density that the jump predicts. They lie on each other at every $t$, while two sharp bumps become one bell.
#
# And on a picture. Below is a handwritten digit (from scikit-learn's set of 8×8 scans). In the first row it walks with a fresh $w_t$ at each step. In the second it jumps to each $t$ with one and the same $\varepsilon$. Any single picture differs, because the noise differs; how *much* of the digit is left is the same.

# %% mystnb={"image": {"alt": "Two rows of a handwritten zero at t = 0, 50, 100, 200, 400 and 1000. In both rows the digit is clear at 50 and 100, torn by noise at 200, a guess at 400 and gone at 1000; only the grain of the noise differs between the rows."}} tags=["active-ipynb"]
# from sklearn.datasets import load_digits
#
# digit = torch.tensor(load_digits().images[0] / 8 - 1, dtype=torch.float32)[None, None]
# times = (0, 50, 100, 200, 400, 1000)
#
# x, walked = digit, [digit]
# for t in range(1, 1001):
#     x = q_step(x, t, torch.randn(x.shape, generator=generator), linear)
#     if t in times:
#         walked.append(x)
# noise = torch.randn(digit.shape, generator=generator)
# jumped = [q_sample(digit, t, noise, linear) for t in times]
# fig.picture_rows(
#     [torch.cat(walked), torch.cat(jumped)],
#     ["walk", "jump"],
#     [f"t = {t}" for t in times],
#     size=0.83,
# )
# plt.show()

# %% [markdown]
# **Figure.** One digit, walked and jumped to the same times. The grain of the noise differs; what is left of the digit does not. At $t = 200$ it is torn, at $t = 400$ a guess, at $t = 1000$ gone.
#
# ## How much signal is left
#
# In Eq. [forward](#eq-forward) the signal has power $\bar\alpha_t$ (for data of unit power) and the noise has power $1-\bar\alpha_t$. Their ratio is the **signal-to-noise ratio**:
#
# $$
# \operatorname{SNR}(t) = \frac{\bar\alpha_t}{1-\bar\alpha_t} .
# $$ (def-snr)
#
# It falls at every step, because $\bar\alpha_t$ does. It fixes $\bar\alpha_t$, and $\bar\alpha_t$ fixes $q(x_t\mid x_0)$. So at equal SNR two schedules show the network the same noisy pictures; they only spend their steps differently. The logarithm puts very large and very small values on one axis.
#
# In the code it is `schedule.log_snr`. At the end the signal must be gone. Sampling will start from pure noise $\mathcal N(0, I)$, so $q(x_T \mid x_0)$ must be so close to $\mathcal N(0, I)$ that nobody can tell the two apart, whatever $x_0$ was. That asks for $\bar\alpha_T \approx 0$. It is easy to get wrong: keep the two end points of the linear schedule, but take only 100 steps between them.

# %% tags=["active-ipynb"]
# short = Schedule.linear(T=100)
# print(f"linear, T = 1000:  alpha_bar_T = {linear.alpha_bar[-1]:.1e}")
# print(f"cosine, T = 1000:  alpha_bar_T = {cosine.alpha_bar[-1]:.1e}")
# print(f"linear, T = 100:  alpha_bar_T = {short.alpha_bar[-1]:.1e}")

# %% [markdown]
# With $T = 100$ more than a third of the signal's power is still there at the end. A sampler that starts from pure noise then starts from a place where the forward process never arrives. When you change $T$, scale the $\beta_t$ by $1000/T$ (for $T$ above 20; at 20 and below, $\beta_T$ would reach 1), or use the cosine schedule, which is defined through $t/T$.

# %% mystnb={"image": {"alt": "Log signal-to-noise ratio against t over T for three schedules. Linear with 1000 steps falls from about 9 to minus 10; cosine falls in a long even slope and dives at the end, below the edge of the picture; linear with 100 steps stops near minus 0.6, far above the other two, where signal and noise are still about equal."}} tags=["active-ipynb"]
# schedules = {"linear": linear, "cosine": cosine, "linear, T = 100": short}
# figure, ax = plt.subplots(figsize=(5.2, 2.8))
# for (name, schedule), color in zip(schedules.items(), fig.COLORS):
#     u = torch.arange(1, schedule.T + 1) / schedule.T
#     ax.plot(u, schedule.log_snr[1:], color=color)
# ax.axhline(0, color=fig.GREY, linewidth=0.8, linestyle=":")
# ax.text(1.07, 0, "as much\nnoise\nas signal", color=fig.GREY, va="center")
# ax.set(xlabel="t / T", ylabel="log SNR", ylim=(-12, 11))
# fig.label_line(ax, 0.62, -7.0, "linear", fig.BLUE, ha="right")
# fig.label_line(ax, 0.9, -9.5, "cosine", fig.ORANGE, ha="right")
# fig.label_line(ax, 1.0, 1.6, "linear, T = 100", fig.GREEN, ha="right")
# plt.show()

# %% [markdown]
# **Figure.** How the signal-to-noise ratio falls. Where a curve ends matters: the first two end in noise; the green one stops where signal and noise are about equal.
#
# And what the network then sees, at five places of each schedule, with the same noise:

# %% mystnb={"image": {"alt": "Three rows of a zero, noised at t over T = 0.1, 0.3, 0.5, 0.7 and 1, with the same noise in each. With linear and cosine nothing of it is left at the end; with linear T = 100 its outline still shows through at the end, though the noise in it makes it read as a five."}} tags=["active-ipynb"]
# places = (0.1, 0.3, 0.5, 0.7, 1.0)
# rows = [
#     torch.cat([q_sample(digit, round(u * s.T), noise, s) for u in places])
#     for s in schedules.values()
# ]
# names = ["linear", "cosine", "linear,\nT = 100"]
# fig.picture_rows(rows, names, [f"t/T = {u}" for u in places], size=0.88)
# plt.show()

# %% [markdown]
# **Figure.** The same digit, the same noise, three schedules. The last column is where sampling will start. With $T = 100$ the digit still shows through there.
#
# <div class="live" data-figure="forward">
#
# **Guess first.** Take 100 steps in the place of 1,000, and leave the two ends of $\beta$ as they are. How much of the digit is left at the end? And which last $\beta$ makes it go?
#
# <details><summary>What to see</summary>
#
# The digit, the two bumps and the curve follow one number, $\bar\alpha_t$. With 100 steps it ends at 0.36, and the digit never goes; a last $\beta$ of 0.14, seven times as large, brings it below 0.001.
#
# </details>
#
# </div>
#
# Linear and cosine both arrive. They differ on the way: the linear schedule spends its last third on pictures in which nothing is left to see, while the cosine schedule spreads the loss of detail over the whole range. Nichol and Dhariwal found that this matters most for small pictures; this book follows them with its 8×8 digits.
#
# ## Where people slip
#
# **Swapping the square roots.** The lecture's slide, as the notes report it, had the step wrong; the notes give the right form without saying what the slide had. The natural slip is $x_t = \sqrt{\beta_t}\,x_{t-1} + \sqrt{1-\beta_t}\,w_t$. It is a sneaky one: the variance *still* stays 1, since the squares of the factors still add to 1. But $\beta_1 = 0.0001$, so after a single step the picture's share of the power is one ten-thousandth.
#
# **Taking $\alpha_t$ for $\bar\alpha_t$.** The jump with the product's bar forgotten is one step's worth of noise at any $t$. The picture never becomes noise: at $t = 1000$ its share of the power is still $\alpha_{1000} = 0.98$.

# %% mystnb={"image": {"alt": "Three rows of the same handwritten zero at t = 1, 100, 400 and 1000. Right formula: clear, noisy, faint, gone. Swapped roots: pure noise already at t = 1. Bar forgotten: the zero is clearly visible at every t, even at 1000."}} tags=["active-ipynb"]
# def swapped_walk(t):
#     x = digit
#     for s in range(1, t + 1):
#         fresh = torch.randn(x.shape, generator=generator)
#         x = (
#             per_image(linear.beta[s].sqrt(), x) * x
#             + per_image((1 - linear.beta[s]).sqrt(), x) * fresh
#         )
#     return x
#
#
# def without_bar(t):
#     return (
#         per_image(linear.alpha[t].sqrt(), digit) * digit
#         + per_image((1 - linear.alpha[t]).sqrt(), digit) * noise
#     )
#
#
# times = (1, 100, 400, 1000)
# rows = [
#     torch.cat([f(t) for t in times])
#     for f in (lambda t: q_sample(digit, t, noise, linear), swapped_walk, without_bar)
# ]
# fig.picture_rows(
#     rows,
#     ["right", "roots swapped", "bar forgotten"],
#     [f"t = {t}" for t in times],
#     size=1.0,
# )
# plt.show()
#
# many = torch.randn(100_000, generator=generator)
# wrong = linear.beta[1].sqrt() * many + (1 - linear.beta[1]).sqrt() * torch.randn(
#     100_000, generator=generator
# )
# correlation = torch.corrcoef(torch.stack([many, wrong.float()]))[0, 1]
# # Four error bars: 2 / 100,000 under the root for a variance, 1 / 100,000 for this.
# assert abs(wrong.var() - 1) < 0.018 and abs(correlation - 0.01) < 0.013
# print(
#     f"roots swapped, one step: variance {wrong.var():.2f}, correlation with x_0 {correlation:.2f}"
# )

# %% [markdown]
# **Figure.** Row 2 looks like good noise at once: after one step nothing is left to learn from. Row 3 keeps the digit for ever.
#
# **Tables in low precision.** Half precision cannot tell $\bar\alpha_1 = 0.9999$ from 1. Then $1-\bar\alpha_1 = 0$: the first step adds no noise at all, and a formula that divides by it breaks down. In single precision it comes out 0.02 % too large. So the tables of this book are float64, and so are the factors made from them.

# %% tags=["active-ipynb"]
# for dtype in (torch.float16, torch.float32, torch.float64):
#     noise_power = float(1 - linear.alpha_bar[1].to(dtype))
#     print(f"1 - alpha_bar_1 in {dtype!s:14}: {noise_power:.8f}")

# %% [markdown]
# ## Exercises
#
# **1.** With the same $\beta$ at every step, how many steps does it take until less than 1 % of the signal's power is left? Give the formula and the number for $\beta = 0.01$. *Hint:* what is $\bar\alpha_t$ when all factors are the same?
#
# <details><summary>Solution</summary>
#
# $\bar\alpha_t = (1-\beta)^t < 0.01$ means $t > \ln 0.01 / \ln(1-\beta)$ (dividing by $\ln(1-\beta)$, which is negative, turns the inequality round). For $\beta = 0.01$ the first such $t$ is 459.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 1
# constant = Schedule([0.01] * 500)
# first = int((constant.alpha_bar < 0.01).nonzero()[0])
# print(f"counted: {first}, by the formula: {math.log(0.01) / math.log(1 - 0.01):.1f}")

# %% [markdown]
# **2.** Jump from $x_s$ to $x_t$ with $0 < s < t$. Guess the formula, then check that jumping to $s$ and from there to $t$ gives the right mean factor and the right variance. *Hint:* whoever stands at $x_s$ may call it the start of a chain of $t-s$ steps.
#
# <details><summary>Solution</summary>
#
# Everything between $s$ and $t$ is again a forward process, with the product $\alpha_{s+1}\cdots\alpha_t = \bar\alpha_t/\bar\alpha_s$ in the place of $\bar\alpha_t$:
#
# $$x_t = \sqrt{\bar\alpha_t/\bar\alpha_s}\;x_s + \sqrt{1-\bar\alpha_t/\bar\alpha_s}\;\varepsilon' ,$$
#
# where $\varepsilon'$ is the noise of the steps $s+1,\dots,t$ alone.
#
# Two jumps: the mean factor is $\sqrt{\bar\alpha_t/\bar\alpha_s}\,\sqrt{\bar\alpha_s} = \sqrt{\bar\alpha_t}$, and the variance is $(\bar\alpha_t/\bar\alpha_s)(1-\bar\alpha_s) + 1 - \bar\alpha_t/\bar\alpha_s = 1-\bar\alpha_t$.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 2
# ratio = linear.alpha_bar[700] / linear.alpha_bar[200]
# variance = ratio * (1 - linear.alpha_bar[200]) + (1 - ratio)
# print(f"variance, two jumps: {variance:.12f}, one: {1 - linear.alpha_bar[700]:.12f}")

# %% [markdown]
# **3.** Which $\beta_T$ does a linear schedule of $T = 100$ steps with $\beta_1 = 0.0001$ need, so that it ends at the same $\bar\alpha_T$ as the paper's? Compare with the rule of thumb "scale by $1000/T$", which says 0.2. Before you compute: will it be more, or less? *Hint:* $\log\bar\alpha_T$ is a sum of $\log(1-\beta_t)$.
#
# <details><summary>Solution</summary>
#
# $\bar\alpha_T$ falls as $\beta_T$ grows, so bisection finds it. Two effects pull in opposite directions. One $\beta$ of 0.1 takes away more than ten of 0.01, because $\ln(1-\beta) < -\beta$ and the difference grows like $\beta^2/2$: a smaller $\beta_T$ is enough. But $\beta_1$ was not scaled, which asks for a larger one. The first effect wins.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 3
# low, high = 0.01, 0.9
# for _ in range(60):
#     middle = (low + high) / 2
#     end = Schedule.linear(100, 1e-4, middle).alpha_bar[-1]
#     too_high = end > linear.alpha_bar[-1]
#     low, high = (middle, high) if too_high else (low, middle)
# print(f"beta_T = {middle:.3f}")

# %% [markdown]
# **4.** Data of variance 4 goes through the forward process. What is its variance at time $t$? When is it below 1.01 (linear schedule)? *Hint:* signal and noise are independent.
#
# <details><summary>Solution</summary>
#
# By Eq. [forward](#eq-forward), $4\bar\alpha_t + 1-\bar\alpha_t = 1 + 3\bar\alpha_t$. It drops below 1.01 when $\bar\alpha_t < 1/300$.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 4
# variance = torch.empty(1001, dtype=torch.float64)
# variance[0] = 4
# for t in range(1, 1001):
#     variance[t] = (1 - linear.beta[t]) * variance[t - 1] + linear.beta[t]
# for t in (100, 500, 751):
#     formula = 1 + 3 * linear.alpha_bar[t]
#     print(
#         f"t = {t}: variance, step by step {variance[t]:.6f}, by the formula {formula:.6f}"
#     )
# print("below 1.01 from t =", int((variance < 1.01).nonzero()[0]))

# %% [markdown]
# ## Summary
#
# One step shrinks the picture by $\sqrt{1-\beta_t}$ and adds noise of variance $\beta_t$, so that unit variance stays unit variance. Independent normal noises merge into one, and so $t$ steps are a single jump: $x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\varepsilon$, where $\varepsilon$ is the total noise and not the last step's. A schedule must bring $\bar\alpha_T$ close to 0.
#
# **The next question.** The bound compares this process with a model that walks back. How does it split into single steps? See [the bound as a sum](bound.ipynb).
