# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # One step back, when the start is known: the posterior
#
# **The question.** The forward process walks from $x_{t-1}$ to $x_t$. Given where the walk began, $x_0$, and where it is now, $x_t$, where was it one step ago?
#
# **What you bring.** One step and the jump, from [the forward process](forward.ipynb), and Bayes' rule.
#
# **What you take away.** The mean and the variance of that step back, and, for data that are a mixture of bells, the best possible guess of the noise in $x_t$. The rest of the book compares networks with it.

# %% tags=["active-ipynb"]
# # In Colab this installs the book's package; elsewhere it is there, and nothing happens.
# import importlib.util
#
# if importlib.util.find_spec("ddpm_nb") is None:
#     %pip install --quiet --no-deps "ddpm_nb @ git+https://github.com/ddpm_nb/ddpm_nb"

# %%
"""The step back with x_0 given, and the exact noise prediction for a mixture."""

from collections.abc import Callable

import torch
from torch import Tensor

from ddpm_nb.forward import Schedule, check_t, per_picture
from ddpm_nb.likelihood import GaussianMixture


# %% [markdown]
# ## Bayes, Markov, and a completed square
#
# We want $q(x_{t-1}\mid x_t, x_0)$. Everything stays conditioned on $x_0$; Bayes' rule swaps the other two:
#
# $$
# \begin{aligned}
# q(x_{t-1}\mid x_t, x_0)
# &= \frac{q(x_t\mid x_{t-1}, x_0)\; q(x_{t-1}\mid x_0)}{q(x_t\mid x_0)} && \text{Bayes' rule, given } x_0 \\
# &= \frac{q(x_t\mid x_{t-1})\; q(x_{t-1}\mid x_0)}{q(x_t\mid x_0)} && \text{Markov: a step looks only at } x_{t-1} .
# \end{aligned}
# $$
#
# All three densities on the right are known and normal: the first is one forward step, the other two are jumps. As a function of $x_{t-1}$ the denominator is a constant. Write $x$ for one coordinate of $x_{t-1}$, and $x_t$, $x_0$ for the same coordinate of the other two. For $t\ge2$ the exponent of the product of the other two is $-\tfrac12$ times
#
# $$
# \begin{aligned}
# &\frac{(x_t-\sqrt{\alpha_t}\,x)^2}{\beta_t} + \frac{(x-\sqrt{\bar\alpha_{t-1}}\,x_0)^2}{1-\bar\alpha_{t-1}} \\
# &\quad= \left(\frac{\alpha_t}{\beta_t}+\frac{1}{1-\bar\alpha_{t-1}}\right)x^2
#  - 2\left(\frac{\sqrt{\alpha_t}}{\beta_t}\,x_t+\frac{\sqrt{\bar\alpha_{t-1}}}{1-\bar\alpha_{t-1}}\,x_0\right)x + \dots && \text{sort by powers of } x
# \end{aligned}
# $$
#
# where the dots have no $x$. An exponent $-\tfrac12(Ax^2-2Bx+\dots)$ is a bell with variance $1/A$ and mean $B/A$, because $Ax^2-2Bx = A(x-B/A)^2 - B^2/A$. So the answer is a normal distribution, $\mathcal N(x_{t-1};\ \tilde\mu_t, \tilde\beta_t I)$. Its variance is
#
# $$
# \begin{aligned}
# \frac1A = \left(\frac{\alpha_t(1-\bar\alpha_{t-1})+\beta_t}{\beta_t\,(1-\bar\alpha_{t-1})}\right)^{-1}
# = \frac{1-\bar\alpha_{t-1}}{1-\bar\alpha_t}\,\beta_t ,
# && \text{because } \alpha_t(1-\bar\alpha_{t-1})+\beta_t = 1-\bar\alpha_t .
# \end{aligned}
# $$
#
# This variance has a name, and it does not depend on $x_t$ or $x_0$:
#
# $$
# \tilde\beta_t = \frac{1-\bar\alpha_{t-1}}{1-\bar\alpha_t}\;\beta_t .
# $$ (eq-posterior-variance)
#
# The mean $B/A$ is $\tilde\beta_t$ times the second bracket:
#
# $$
# \frac BA = \tilde\beta_t\left(\frac{\sqrt{\alpha_t}}{\beta_t}\,x_t+\frac{\sqrt{\bar\alpha_{t-1}}}{1-\bar\alpha_{t-1}}\,x_0\right), \qquad \frac{\tilde\beta_t}{\beta_t} = \frac{1-\bar\alpha_{t-1}}{1-\bar\alpha_t}, \quad \frac{\tilde\beta_t}{1-\bar\alpha_{t-1}} = \frac{\beta_t}{1-\bar\alpha_t} .
# $$
#
# With the term of $x_0$ first,
#
# $$
# \tilde\mu_t(x_t, x_0) = \frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1-\bar\alpha_t}\;x_0 \;+\; \frac{\sqrt{\alpha_t}\,(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}\;x_t .
# $$ (eq-posterior-mean)
#
# Read it as a compromise between two witnesses: $x_0$ says where the walk started, $x_t$ where it is now.
#
# **At $t = 1$** the derivation would divide by $1-\bar\alpha_0 = 0$, but nothing is left to derive: the step back leads to $x_0$ itself, for sure. The two formulas say the same: $\bar\alpha_0 = 1$ gives $\tilde\beta_1 = 0$ and $\tilde\mu_1 = x_0$.

# %%
def posterior_variance(t: int | Tensor, schedule: Schedule) -> Tensor:
    """Return the variance of x_{t-1} given x_t and x_0 (the same for every coordinate).

    Args:
        t: an int, or int64 of any shape, in 1 ... T.
        schedule: the noise schedule.

    Returns:
        float64, the shape of t: beta-tilde_t. It is 0 at t = 1.

    Equation: eq-posterior-variance. Paper: equation 7.
    """
    t = check_t(t, schedule)
    return (
        (1 - schedule.alpha_bar[t - 1]) / (1 - schedule.alpha_bar[t]) * schedule.beta[t]
    )


def posterior_mean(
    x_0: Tensor, x_t: Tensor, t: int | Tensor, schedule: Schedule
) -> Tensor:
    """Return the mean of x_{t-1} given x_t and x_0.

    Args:
        x_0: (B, ...) where the walk began.
        x_t: (B, ...) where it is at time t.
        t: an int, or (B,) int64, in 1 ... T.
        schedule: the noise schedule.

    Returns:
        (B, ...) mu-tilde_t.

    Equation: eq-posterior-mean. Paper: equation 7.
    """
    t = check_t(t, schedule)
    alpha_bar, alpha_bar_prev = schedule.alpha_bar[t], schedule.alpha_bar[t - 1]
    x_0_share = alpha_bar_prev.sqrt() * schedule.beta[t] / (1 - alpha_bar)
    x_t_share = schedule.alpha[t].sqrt() * (1 - alpha_bar_prev) / (1 - alpha_bar)
    return per_picture(x_0_share, x_0) * x_0 + per_picture(x_t_share, x_t) * x_t


# %% [markdown]
# To see that the algebra is right, do Bayes' rule *without* it, here for $x_0 = 0.6$. Lay a fine grid over all values of $x_{t-1}$, multiply the two densities at each grid point, and divide by the sum. The grid knows nothing of completed squares.

# %% mystnb={"image": {"alt": "Two panels with the density of x at t minus 1. At t = 20 and at t = 500, orange dots from Bayes' rule on a grid lie exactly on the blue bell from the formula. The dashed grey bell, the jump from x0 alone, is wider; at t = 500 the step back is much narrower than it."}} tags=["active-ipynb"]
# import matplotlib.pyplot as plt
#
# from ddpm_nb import _figures as fig
# from ddpm_nb.likelihood import gaussian_log_prob
#
# fig.use_style()
# schedule = Schedule.linear()
# grid = torch.linspace(-3.5, 3.5, 70_001, dtype=torch.float64)
# x_0 = torch.tensor([0.6], dtype=torch.float64)
#
#
# def normal(x, mean, var):
#     return gaussian_log_prob(
#         x[:, None], torch.as_tensor(mean), torch.as_tensor(var)
#     ).exp()
#
#
# figure, axes = plt.subplots(1, 2)
# for ax, t, x_t in zip(axes, (20, 500), (0.9, -1.2)):
#     prior = normal(
#         grid, schedule.alpha_bar[t - 1].sqrt() * x_0, 1 - schedule.alpha_bar[t - 1]
#     )
#     step = normal(
#         torch.full_like(grid, x_t),
#         schedule.alpha[t].sqrt() * grid[:, None],
#         schedule.beta[t],
#     )
#     on_grid = prior * step / torch.trapezoid(prior * step, grid)
#     mean, var = (
#         posterior_mean(x_0, x_t * torch.ones_like(x_0), t, schedule),
#         posterior_variance(t, schedule),
#     )
#     formula = normal(grid, mean, var)
#     print(
#         f"t = {t}: largest difference below 1e-9 of the peak:",
#         bool((on_grid - formula).abs().max() < 1e-9 * formula.max()),
#     )
#     near = (grid - mean).abs() < 4 * var.sqrt()
#     ax.plot(grid, prior, "--", color=fig.GREY)
#     ax.plot(grid[near], formula[near], color=fig.BLUE)
#     dots = torch.linspace(
#         float(mean - 3 * var.sqrt()),
#         float(mean + 3 * var.sqrt()),
#         13,
#         dtype=torch.float64,
#     )
#     ax.plot(
#         dots,
#         on_grid[torch.searchsorted(grid, dots)],
#         "o",
#         color=fig.ORANGE,
#         markersize=4,
#     )
#     ax.set(title=f"t = {t}, $x_t$ = {x_t}", xlabel="$x_{t-1}$", yticks=[])
# axes[0].set(xlim=(0.1, 1.4))
# left = axes[0].transAxes
# axes[0].text(0.68, 0.85, "formula", color=fig.BLUE, transform=left)
# axes[0].text(0.68, 0.75, "Bayes on a grid", color=fig.ORANGE, transform=left)
# axes[0].text(0.05, 0.38, "jump\nfrom $x_0$", color=fig.GREY, transform=left)
# plt.show()

# %% [markdown]
# The step back lies almost at $x_t$: one step is short, so $x_t$ is by far the better witness of where the walk was a moment ago. Only at the smallest $t$ does $x_0$ count as much.
#
# ## When the start is not known
#
# A sampler has no $x_0$: that is what it wants to find. Without it, the step back $q(x_{t-1}\mid x_t)$ depends on the whole distribution of the data. For real data nobody knows it. For a **mixture of bells** it can be written down, and so can the best guess of the noise.
#
# Let the data be a mixture of bumps with weights $\pi_k$, centres $\mu_k$ and standard deviations $s_k$. The jump moves each bump and brings its width nearer to 1, and mixes nothing: within bump $k$, $x_0 = \mu_k+s_k u$ with a standard normal $u$, and by Eq. [two Gaussians](#eq-two-gaussians) the noises $\sqrt{\bar\alpha_t}\,s_k u$ and $\sqrt{1-\bar\alpha_t}\,\varepsilon$ merge into one. At time $t$ the data are a mixture again:
#
# $$
# q(x_t) = \sum_k \pi_k\,\mathcal N\bigl(x_t;\ \sqrt{\bar\alpha_t}\,\mu_k,\ v_{k,t} I\bigr), \qquad v_{k,t} = \bar\alpha_t s_k^2 + 1-\bar\alpha_t .
# $$ (eq-mixture-marginal)
#
# Now ask for the noise. Take one coordinate within bump $k$. Given $\varepsilon$, $x_t$ is normal with mean $\sqrt{\bar\alpha_t}\,\mu_k+\sqrt{1-\bar\alpha_t}\,\varepsilon$ and variance $\bar\alpha_t s_k^2$. By Bayes' rule $p(\varepsilon\mid x_t)\propto p(\varepsilon)\,p(x_t\mid\varepsilon)$, and its exponent is again $-\tfrac12(A\varepsilon^2-2B\varepsilon+\dots)$, now with
#
# $$
# A = 1+\frac{1-\bar\alpha_t}{\bar\alpha_t s_k^2} = \frac{v_{k,t}}{\bar\alpha_t s_k^2}, \qquad B = \frac{\sqrt{1-\bar\alpha_t}}{\bar\alpha_t s_k^2}\,\bigl(x_t-\sqrt{\bar\alpha_t}\,\mu_k\bigr) .
# $$
#
# So the mean of $\varepsilon$ within bump $k$ is $B/A = \frac{\sqrt{1-\bar\alpha_t}}{v_{k,t}}\,(x_t-\sqrt{\bar\alpha_t}\,\mu_k)$.
#
# Which bump $x_t$ came from is not known, but Bayes' rule gives each a probability $r_k(x_t)$. Average over it:
#
# $$
# \varepsilon^*(x_t, t) = \mathbb E[\varepsilon \mid x_t] = \sum_k r_k(x_t)\,\frac{\sqrt{1-\bar\alpha_t}}{v_{k,t}}\,\bigl(x_t-\sqrt{\bar\alpha_t}\,\mu_k\bigr),
# \qquad r_k(x_t) \propto \pi_k\,\mathcal N\bigl(x_t;\ \sqrt{\bar\alpha_t}\,\mu_k, v_{k,t} I\bigr) .
# $$ (eq-optimal-noise)
#
# Why is a conditional *mean* the best guess? Because the loss will be a squared error, and the mean of a distribution is the point with the smallest expected squared distance to it (Eq. [best guess](#eq-best-guess) in the next chapter proves it). A perfect network, with endless data and training, computes exactly $\varepsilon^*$ and nothing better.

# %%
def noised_mixture(
    mixture: GaussianMixture, t: int, schedule: Schedule
) -> GaussianMixture:
    """Return the distribution of x_t for x_0 from `mixture`: bumps, moved and widened.

    Equation: eq-mixture-marginal.
    """
    alpha_bar = schedule.alpha_bar[check_t(t, schedule, lowest=0)].to(
        mixture.means.device
    )
    return GaussianMixture(
        mixture.weights,
        alpha_bar.sqrt() * mixture.means,
        (alpha_bar * mixture.stds**2 + 1 - alpha_bar).sqrt(),
    )


def optimal_noise(
    mixture: GaussianMixture, schedule: Schedule
) -> Callable[[Tensor, int | Tensor], Tensor]:
    """Return the best possible noise predictor for data from `mixture`: E[noise | x_t].

    The result is a model like any other: ``noise = model(x_t, t)`` with points x_t (B, D)
    and t an int or (B,) int64 in 1 ... T. It works in float64, on x_t's device, and
    answers in the type of x_t. It raises ValueError if the shapes do not fit.

    Equation: eq-optimal-noise.
    """

    def model(x_t: Tensor, t: int | Tensor) -> Tensor:
        if x_t.dim() != 2 or x_t.shape[1] != mixture.means.shape[1]:
            raise ValueError(
                f"x_t: expected shape (B, {mixture.means.shape[1]}), "
                f"got {tuple(x_t.shape)}"
            )
        weights, means, stds = (
            v.to(x_t.device) for v in (mixture.weights, mixture.means, mixture.stds)
        )
        alpha_bar = schedule.alpha_bar[check_t(t, schedule)].to(x_t.device)
        if alpha_bar.shape not in ((), x_t.shape[:1]):
            raise ValueError(
                f"t: expected one time a point, got shape {tuple(alpha_bar.shape)}"
            )
        alpha_bar = alpha_bar.reshape(-1, 1, 1)  # (B or 1, bump, D)
        var = alpha_bar * stds[:, None] ** 2 + 1 - alpha_bar
        offset = x_t[:, None, :] - alpha_bar.sqrt() * means
        log_prob = -0.5 * (offset**2 / var + var.log()).sum(-1)
        responsibility = torch.softmax(weights.log() + log_prob, dim=1)
        noise = (1 - alpha_bar).sqrt() / var * offset
        return (responsibility[:, :, None] * noise).sum(1).to(x_t.dtype)

    return model

# %% [markdown]
# And the step back itself? Bayes' rule once more: $q(x_{t-1}\mid x_t) \propto q(x_t\mid x_{t-1})\,q(x_{t-1})$. Draw it for the same $x_t = 0.1$ and the same data, two bumps noised up to $t = 100$: once after a big step, once after a small one.

# %% mystnb={"image": {"alt": "Two panels with the density of the previous point when only the present point is known. After one big step, with beta 0.9, it has two humps, one for each bump of the data. After a small step, with beta 0.01, it is a single hump around the present point, and the bell with its mean and variance lies on it."}} tags=["active-ipynb"]
# bumps = GaussianMixture(weights=[0.3, 0.7], means=[[-1.0], [1.0]], stds=[0.15, 0.15])
# before = noised_mixture(bumps, 100, schedule)
#
#
# def step_back(data, x_t, beta):
#     """Return q(x_{t-1} | x_t) on the grid, the bell of its mean and variance, their KL."""
#     step = normal(
#         torch.full_like(grid, x_t),
#         (1 - beta) ** 0.5 * grid[:, None],
#         torch.tensor(beta),
#     )
#     back = data.log_prob(grid[:, None]).exp() * step
#     back = back / torch.trapezoid(back, grid)
#     mean = torch.trapezoid(back * grid, grid)
#     var = torch.trapezoid(back * (grid - mean) ** 2, grid)
#     log_bell = gaussian_log_prob(grid[:, None], mean, var)
#     log_ratio = back.clamp(min=1e-300).log() - log_bell
#     return back, log_bell.exp(), torch.trapezoid(back * log_ratio, grid)
#
#
# figure, axes = plt.subplots(1, 2)
# for ax, beta in zip(axes, (0.9, 0.01)):
#     back, bell, kl = step_back(before, 0.1, beta)
#     print(f"beta = {beta}: divergence from the bell {kl:.3f} nats")
#     ax.fill_between(grid, back, color="#cfdbe6")
#     ax.plot(grid, back, color=fig.BLUE)
#     ax.plot(grid, bell, "--", color=fig.ORANGE)
#     ax.set(
#         title=rf"one step with $\beta$ = {beta}",
#         xlabel="$x_{t-1}$",
#         yticks=[],
#         xlim=(-2.2, 2.2),
#     )
# left = axes[0].transAxes
# axes[0].text(0.03, 0.93, "true step back", color=fig.BLUE, transform=left)
# axes[0].text(
#     0.03,
#     0.85,
#     "bell with the same\nmean and variance",
#     color=fig.ORANGE,
#     transform=left,
#     va="top",
# )
# plt.show()
# sharp = step_back(bumps, 0.0, 0.02)[2]
# print(f"beta = 0.02 from the sharp bumps, at x_t = 0: {sharp:.3f} nats")

# %% [markdown]
# After a big step there are two places from which $x_t = 0.1$ may have come, and no bell describes that. After a small step the past lies close by, and a bell fits far better. The reason: as a function of $x_{t-1}$, the factor $q(x_t\mid x_{t-1})$ is a bell of width about $\sqrt{\beta}$. Over so short a distance $\log q(x_{t-1})$ is nearly a straight line, and a straight line added to the exponent of a bell moves the bell and leaves its width alone (complete the square). **This is why diffusion takes many small steps:** each step back may then be a simple normal distribution, and a network needs to find only its mean.
#
# How small is small? $\sqrt\beta$ must be short against the distance over which the slope of $\log q(x_{t-1})$ changes. For the sharp bumps themselves even $\beta = 0.02$ is too large: halfway between them the step back has two humps, and the last divergence above is large. That is one reason why schedules begin with tiny steps.

# %% [markdown]
# How fast does the step back become normal? Take the same data, one more step of size $\beta$, and compute the divergence between the true step back and the bell with the same mean and variance, averaged over all $x_t$.

# %% mystnb={"image": {"alt": "Log-log plot of the averaged divergence between the true step back and a bell, against the step size beta from 0.9 down to 0.01. It falls with every smaller step, and ever more steeply."}} tags=["active-ipynb"]
# coarse = torch.linspace(-4.5, 4.5, 1801, dtype=torch.float64)
# density = before.log_prob(coarse[:, None]).exp()
# sizes = torch.tensor(
#     [0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01], dtype=torch.float64
# )
#
# averaged = []
# for beta in sizes:
#     centre = (
#         1 - beta
#     ).sqrt() * coarse  # where the step lands on average, for each x_{t-1}
#     step = torch.exp(-((coarse[:, None] - centre) ** 2) / (2 * beta))
#     joint = step * density / (2 * torch.pi * beta).sqrt()  # rows: x_t, columns: x_{t-1}
#     at = torch.trapezoid(joint, coarse, dim=1)  # q(x_t)
#     back = joint / at[:, None].clamp(min=1e-300)
#     mean = torch.trapezoid(back * coarse, coarse, dim=1)[:, None]
#     var = torch.trapezoid(back * (coarse - mean) ** 2, coarse, dim=1)[:, None]
#     bell = -0.5 * ((coarse - mean) ** 2 / var + (2 * torch.pi * var).log())
#     kl = torch.trapezoid(back * (back.clamp(min=1e-300).log() - bell), coarse, dim=1)
#     likely = at > 1e-8
#     averaged.append(torch.trapezoid((at * kl)[likely], coarse[likely]))
# averaged = torch.stack(averaged)
#
# figure, ax = plt.subplots(figsize=(5, 2.6))
# ax.loglog(sizes, averaged, "o-", color=fig.BLUE)
# ax.set(xlabel=r"size of the step, $\beta$", ylabel="averaged KL, nats")
# plt.show()
# print("it falls with every smaller step:", bool((averaged.diff() < 0).all()))
# factor = averaged[5] / averaged[-1]
# print("from beta = 0.1 to 0.01 it falls by more than a factor 100:", bool(factor > 100))

# %% [markdown]
# Ten times smaller steps means ten times as many. But each costs more than a hundred times less. So, at this $t$ at least, many small steps cost less together.
#
# ## Where people slip
#
# **Direction.** A heading of the student's notes, which [this book follows](bibliography.md), calls $q(x_{t-1}\mid x_t,x_0)$ "the distribution from $x_{t-1}$ to $x_t$". It is the other way round: from $x_t$ back to $x_{t-1}$.
#
# **The forgotten denominator, and the shifted table.** Public code has computed $\tilde\beta_t$ without dividing by $1-\bar\alpha_t$, or with $\bar\alpha_{t-1}$ shifted to the wrong side. Both mistakes keep the variance positive, so nothing looks wrong (the shifted table only runs out at $t = T$). A check against Bayes' rule on a grid finds either at once.

# %% tags=["active-ipynb"]
# t = 20
# right = posterior_variance(t, schedule)
# no_denominator = (1 - schedule.alpha_bar[t - 1]) * schedule.beta[t]
# wrong_side = (
#     (1 - schedule.alpha_bar[t + 1]) / (1 - schedule.alpha_bar[t]) * schedule.beta[t]
# )
# print(f"without the denominator: {no_denominator / right:.3f} of the right variance")
# print(f"with the table shifted:  {wrong_side / right:.3f} of the right variance")

# %% [markdown]
# ## Exercises
#
# **1.** Show that $\tilde\beta_t < \beta_t$ for every $t$. What does it mean?
#
# <details><summary>Solution</summary>
#
# $\bar\alpha_{t-1} > \bar\alpha_t$, so the fraction in Eq. [posterior variance](#eq-posterior-variance) is below 1. For normal data of variance 1, $\beta_t$ is the variance of the step back when $x_0$ is *not* known ([the loss](loss.ipynb) shows it). Knowing $x_0$ makes it smaller.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 1
# t = torch.arange(1, 1001)
# print(bool((posterior_variance(t, schedule) < schedule.beta[t]).all()))

# %% [markdown]
# **2.** Do the two shares in Eq. [posterior mean](#eq-posterior-mean) add up to 1? When nearly?
#
# <details><summary>Solution</summary>
#
# Only at $t = 1$, where they are 1 and 0. With $u = \sqrt{\bar\alpha_{t-1}}$ and $r = \sqrt{\alpha_t}$, so that $\bar\alpha_t = u^2r^2$, the sum is
#
# $$\frac{u(1-r^2)+r(1-u^2)}{1-u^2r^2} = \frac{(u+r)(1-ur)}{(1-ur)(1+ur)} = \frac{u+r}{1+ur} = 1-\frac{(1-u)(1-r)}{1+ur} .$$
#
# It is a little below 1 whenever $u$ or $r$ is close to 1: early in the chain, and everywhere when the steps are small.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 2
# one = torch.ones(1000, dtype=torch.float64)
# t = torch.arange(1, 1001)
# shares = posterior_mean(
#     one, one, t, schedule
# )  # with x_0 = x_t = 1 the mean is their sum
# u, r = schedule.alpha_bar[t - 1].sqrt(), schedule.alpha[t].sqrt()
# print(torch.allclose(shares, 1 - (1 - u) * (1 - r) / (1 + u * r), rtol=1e-10))
# print(f"smallest sum of the two shares: {shares.min():.3f}")

# %% [markdown]
# **3.** For data that are a single point, what does $\varepsilon^*$ become?
#
# <details><summary>Solution</summary>
#
# With one bump of width $s \to 0$, $v = 1-\bar\alpha_t$ and $\varepsilon^* = (x_t-\sqrt{\bar\alpha_t}\mu)/\sqrt{1-\bar\alpha_t}$: the jump, solved for the noise. Nothing is left to guess.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 3
# from ddpm_nb.forward import q_sample
#
# point = GaussianMixture([1.0], [[0.5, -0.2]], [1e-9])
# noise = torch.randn(
#     4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
# )
# x_t = q_sample(point.means.expand(4, 2), 300, noise, schedule)
# print(torch.allclose(optimal_noise(point, schedule)(x_t, 300), noise, atol=1e-6))

# %% [markdown]
# ## Summary
#
# With $x_0$ given, the step back is a normal distribution whose mean and variance are known in closed form. Without $x_0$ it depends on the data; for small steps it is nearly normal. For a mixture of bells everything is known, including the best possible noise predictor $\varepsilon^*$.
#
# **The next question.** A network does not know $x_0$. What should it predict, and with which loss? See [the loss](loss.ipynb).
