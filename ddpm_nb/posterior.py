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
# ![The chain with two arrows lit that meet at x_{t−1}: one comes from the handwritten 9, x_0, the other leads back from the noisier x_t. Over them stands q(x_{t−1} | x_t, x_0).](images/chain-posterior.svg)
#
# Where was the walk one step before $x_t$, if it began at $x_0$?
#
# **What you bring.** One step and the jump, from [the forward process](forward.ipynb); what a model pays in all, Eq. [whole cost](#eq-joint-kl), from [the bound as a sum](bound.ipynb); and Bayes' rule.
#
# **What you take away.** The mean and the variance of that step back, and, for data that are a mixture of bells, the best possible guess of the noise in $x_t$. The rest of the book compares networks with it. You will see what this guess has to do with the slope of a density, and what it costs to say that each step back is a bell.

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

from ddpm_nb import _checks as check
from ddpm_nb.forward import Schedule, per_image
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
    t = check.t(t, schedule)
    alpha_bar, alpha_bar_prev = schedule.alpha_bar[t], schedule.alpha_bar[t - 1]
    return (1 - alpha_bar_prev) / (1 - alpha_bar) * schedule.beta[t]


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
    t = check.t(t, schedule)
    alpha_bar, alpha_bar_prev = schedule.alpha_bar[t], schedule.alpha_bar[t - 1]
    x_0_share = alpha_bar_prev.sqrt() * schedule.beta[t] / (1 - alpha_bar)
    x_t_share = schedule.alpha[t].sqrt() * (1 - alpha_bar_prev) / (1 - alpha_bar)
    return per_image(x_0_share, x_0) * x_0 + per_image(x_t_share, x_t) * x_t


# %% [markdown]
# To see that the algebra is right, do Bayes' rule *without* it, here for $x_0 = 0.6$. Lay a fine grid over all values of $x_{t-1}$, multiply the two densities at each grid point, and divide by the sum. The grid knows nothing of completed squares.

# %% mystnb={"image": {"alt": "Two panels with the density of x at t minus 1. At t = 20 and at t = 500, orange dots from Bayes' rule on a grid lie exactly on the blue bell from the formula. The dashed grey bell, the jump from x0 alone, is wider; at t = 500 the step back is much narrower than it."}} tags=["active-ipynb"]
# import math
#
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
#     mean, var = torch.as_tensor(mean), torch.as_tensor(var)
#     return gaussian_log_prob(x[:, None], mean, var).exp()
#
#
# figure, axes = plt.subplots(1, 2, figsize=(5.2, 2.8))
# for ax, t, x_t in zip(axes, (20, 500), (0.9, -1.2)):
#     alpha_bar, after = schedule.alpha_bar[t - 1], torch.full_like(grid, x_t)
#     jump = normal(grid, alpha_bar.sqrt() * x_0, 1 - alpha_bar)
#     step = normal(after, schedule.alpha[t].sqrt() * grid[:, None], schedule.beta[t])
#     on_grid = jump * step / torch.trapezoid(jump * step, grid)
#     mean = posterior_mean(x_0, x_t * torch.ones_like(x_0), t, schedule)
#     var = posterior_variance(t, schedule)
#     formula = normal(grid, mean, var)
#     assert (on_grid - formula).abs().max() < 1e-9 * formula.max()
#     near = (grid - mean).abs() < 4 * var.sqrt()
#     ax.plot(grid, jump, "--", color=fig.GREY)
#     ax.plot(grid[near], formula[near], color=fig.BLUE)
#     dots = mean + var.sqrt() * torch.linspace(-3, 3, 13, dtype=torch.float64)
#     there = on_grid[torch.searchsorted(grid, dots)]
#     ax.plot(dots, there, "o", color=fig.ORANGE, markersize=4)
#     ax.set(title=f"t = {t}", xlabel="$x_{t-1}$", yticks=[])
#     foot = ax.get_ylim()[1] * -0.04
#     ax.plot(x_t, foot, "^", color="black", clip_on=False)
#     ax.plot(float(x_0), foot, "s", color=fig.GREY, clip_on=False)
# axes[0].set(xlim=(0.1, 1.4))
# right = axes[1].transAxes
# axes[1].text(0.55, 0.9, "formula", color=fig.BLUE, transform=right)
# axes[1].text(0.55, 0.8, "Bayes on a grid", color=fig.ORANGE, transform=right)
# axes[1].text(0.55, 0.7, "jump from $x_0$", color=fig.GREY, transform=right)
# axes[1].text(0.55, 0.55, "▲ $x_t$", transform=right)
# axes[1].text(0.55, 0.45, "■ $x_0$", color=fig.GREY, transform=right)
# plt.show()

# %% [markdown]
# **Figure.** Where the walk was one step before $x_t$ (▲), if it began at $x_0$ (■). Bayes' rule on the grid lies on the formula, to a billionth of the peak. The step back lies at $x_t$, narrow beside the jump, which does not know $x_t$.
#
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

# %%
def noised_mixture(
    mixture: GaussianMixture, t: int, schedule: Schedule
) -> GaussianMixture:
    """Return the distribution of x_t for x_0 from `mixture`: bumps, moved and widened.

    Equation: eq-mixture-marginal.
    """
    alpha_bar = schedule.alpha_bar[check.t(t, schedule, lowest=0)].cpu().double()
    return GaussianMixture(
        mixture.weights,
        alpha_bar.sqrt() * mixture.means,
        (alpha_bar * mixture.stds**2 + 1 - alpha_bar).sqrt(),
    )


# %% [markdown]
# Now ask for the noise. Take one coordinate within bump $k$. Given $\varepsilon$, $x_t$ is normal with mean $\sqrt{\bar\alpha_t}\,\mu_k+\sqrt{1-\bar\alpha_t}\,\varepsilon$ and variance $\bar\alpha_t s_k^2$. By Bayes' rule $p(\varepsilon\mid x_t)\propto p(\varepsilon)\,p(x_t\mid\varepsilon)$, and its exponent is again $-\tfrac12(A\varepsilon^2-2B\varepsilon+\dots)$, now with
#
# $$
# A = 1+\frac{1-\bar\alpha_t}{\bar\alpha_t s_k^2} = \frac{v_{k,t}}{\bar\alpha_t s_k^2}, \qquad B = \frac{\sqrt{1-\bar\alpha_t}}{\bar\alpha_t s_k^2}\,\bigl(x_t-\sqrt{\bar\alpha_t}\,\mu_k\bigr) .
# $$
#
# So the mean of $\varepsilon$ within bump $k$ is $B/A = \frac{\sqrt{1-\bar\alpha_t}}{v_{k,t}}\,(x_t-\sqrt{\bar\alpha_t}\,\mu_k)$.
#
# Which bump $x_t$ came from is not known, but Bayes' rule gives each a probability $r_k(x_t)$: in proportion to its weight times its density at $x_t$, and so that all add up to 1. (From logarithms of numbers, `torch.softmax` makes these numbers divided by their sum; so the code needs only the logarithms.) Average over it:
#
# $$
# \varepsilon^*(x_t, t) = \mathbb E[\varepsilon \mid x_t] = \sum_k r_k(x_t)\,\frac{\sqrt{1-\bar\alpha_t}}{v_{k,t}}\,\bigl(x_t-\sqrt{\bar\alpha_t}\,\mu_k\bigr),
# \qquad r_k(x_t) \propto \pi_k\,\mathcal N\bigl(x_t;\ \sqrt{\bar\alpha_t}\,\mu_k, v_{k,t} I\bigr) .
# $$ (eq-optimal-noise)
#
# Why is a conditional *mean* the best guess? Because the loss will be a squared error, and the mean of a distribution is the point with the smallest expected squared distance to it (Eq. [best guess](#eq-best-guess) in the next chapter proves it). A perfect network, with endless data and training, computes exactly $\varepsilon^*$ and nothing better.

# %%
def optimal_noise(
    mixture: GaussianMixture, schedule: Schedule
) -> Callable[[Tensor, int | Tensor], Tensor]:
    """Return the best possible noise predictor for data from `mixture`: E[noise | x_t].

    The result is a model like any other: ``noise = model(x_t, t)`` with points x_t (B, D)
    and t an int or (B,) int64 in 1 ... T. It works in float64 on the CPU (not every
    device has float64), and answers in the type of x_t, on its device. It raises
    ValueError if the shapes do not fit.

    Equation: eq-optimal-noise.
    """

    def model(x_t: Tensor, t: int | Tensor) -> Tensor:
        check.points("x_t", x_t, mixture.means.shape[1], batch=True)
        alpha_bar = check.per_image(schedule.alpha_bar[check.t(t, schedule)], x_t)
        alpha_bar = alpha_bar.cpu().double().reshape(-1, 1, 1)  # (B or 1, bump, D)
        var = alpha_bar * mixture.stds[:, None] ** 2 + 1 - alpha_bar
        offset = x_t.cpu().double()[:, None] - alpha_bar.sqrt() * mixture.means
        log_prob = -0.5 * (offset**2 / var + var.log()).sum(-1)
        responsibility = torch.softmax(mixture.weights.log() + log_prob, dim=1)
        noise = (1 - alpha_bar).sqrt() / var * offset
        return (responsibility[:, :, None] * noise).sum(1).to(x_t)

    return model

# %% [markdown]
# ## The score: which way the data lie
#
# $\varepsilon^*$ has a second meaning, and for that the data need not be a mixture. Stand at a point $x_t$ among the noisy data. In which direction does their density grow? The answer is $\nabla\log q(x_t)$, the list of the slopes of $\log q(x_t)$ in every coordinate of $x_t$, and it is called the **score**. For any data,
#
# $$
# \nabla\log q(x_t) = -\frac{\mathbb E[\varepsilon\mid x_t]}{\sqrt{1-\bar\alpha_t}} ,
# \qquad
# \mathbb E[x_0\mid x_t] = \frac{x_t+(1-\bar\alpha_t)\,\nabla\log q(x_t)}{\sqrt{\bar\alpha_t}} .
# $$ (eq-tweedie)
#
# This is **Tweedie's formula**. The best guess of the picture is the noisy picture, moved *uphill*, and scaled.
#
# **Proof.** The noisy data are all jumps together, $q(x_t) = \int q(x_0)\,q(x_t\mid x_0)\,dx_0$. So
#
# $$
# \begin{aligned}
# \nabla\log q(x_t) &= \frac{\nabla q(x_t)}{q(x_t)} = \int\frac{q(x_0)\,\nabla q(x_t\mid x_0)}{q(x_t)}\,dx_0 && \text{slope of a log; slope of a sum} \\
# &= \int\frac{q(x_0)\,q(x_t\mid x_0)}{q(x_t)}\,\nabla\log q(x_t\mid x_0)\,dx_0 && \text{slope of a log, backwards} \\
# &= \mathbb E\bigl[\nabla\log q(x_t\mid x_0)\,\big|\,x_t\bigr] && \text{Bayes' rule: the fraction is } q(x_0\mid x_t) \\
# &= \mathbb E\left[-\frac{x_t-\sqrt{\bar\alpha_t}\,x_0}{1-\bar\alpha_t}\,\middle|\,x_t\right] && \text{a jump is a bell: a squared distance} \\
# &= -\frac{\mathbb E[\varepsilon\mid x_t]}{\sqrt{1-\bar\alpha_t}} && x_t-\sqrt{\bar\alpha_t}\,x_0 = \sqrt{1-\bar\alpha_t}\,\varepsilon .
# \end{aligned}
# $$
#
# For the second half take the mean of the jump for a given $x_t$, $x_t = \sqrt{\bar\alpha_t}\,\mathbb E[x_0\mid x_t]+\sqrt{1-\bar\alpha_t}\,\mathbb E[\varepsilon\mid x_t]$, put in the first half, and solve. $\blacksquare$
#
# **Why this matters.** Nobody can evaluate $q(x_t)$ for real pictures, and still less its slope. But the noise of a jump is *known*: we drew it ourselves. A network that is asked for this known noise, with a squared error, can at best answer with its mean given $x_t$. And that mean, divided by $-\sqrt{1-\bar\alpha_t}$, is the score, which stood in no training example. To ask for something known, and to find something that nobody knows: on this the book turns, and in the next chapter it returns as Eq. [hinge](#eq-hinge). Vincent (2011) found it for one level of noise and called it **denoising score matching** (see the [bibliography](bibliography.md)). [The next chapter](loss.ipynb) shows that the bound asks for the same thing.
#
# Here it is for five bumps on a circle, the data with which [the two algorithms](algorithms.ipynb) will be tested. The arrows are $-\varepsilon^*$, that is, the score times $\sqrt{1-\bar\alpha_t}$; the grey is the density of the noisy data. Each panel has its own unit: its longest arrow is as long as that of the others.

# %% mystnb={"image": {"alt": "Four panels with arrows over the plane, at t = 20, 100, 300 and 700. At t = 20 five grey bumps on a circle, and nearly every arrow points to the bump that is nearest. At t = 100 the bumps are wider, and arrows between two of them are short. At t = 300 the bumps have flowed into one grey hill, densest towards the heavier bumps, and at t = 700 it is round: all arrows point to the middle."}} tags=["active-ipynb"]
# angle = torch.arange(5) * 2 * torch.pi / 5
# ring = GaussianMixture(
#     weights=[0.10, 0.15, 0.20, 0.25, 0.30],
#     means=1.5 * torch.stack([angle.sin(), angle.cos()], dim=1),
#     stds=[0.25] * 5,
# )
# best = optimal_noise(ring, schedule)
# coarse, fine = (torch.linspace(-2.6, 2.6, n, dtype=torch.float64) for n in (9, 121))
# points, plane = torch.cartesian_prod(coarse, coarse), torch.cartesian_prod(fine, fine)
#
# figure, axes = plt.subplots(2, 2, figsize=(4.6, 4.8))
# for ax, t in zip(axes.flat, (20, 100, 300, 700)):
#     density = noised_mixture(ring, t, schedule).log_prob(plane).exp().reshape(121, 121)
#     levels = density.max() * torch.tensor([0.1, 0.3, 0.5, 0.7, 1])
#     ax.contourf(fine, fine, density.T, levels, cmap="Greys", vmax=2 * levels[-1])
#     arrows = -best(points, t)
#     ax.quiver(
#         *points.T,
#         *arrows.T,
#         color=fig.BLUE,
#         angles="xy",
#         scale_units="xy",
#         scale=float(arrows.norm(dim=1).max()) / 0.8,
#         width=0.01,
#     )
#     ax.set(title=f"t = {t}", xticks=[], yticks=[], aspect="equal")
# plt.show()
#
# at = points.clone().requires_grad_()
# noised_mixture(ring, 100, schedule).log_prob(at).sum().backward()
# slopes = (1 - schedule.alpha_bar[100]).sqrt() * at.grad
# assert torch.allclose(slopes, -best(points, 100), rtol=0, atol=1e-10)

# %% [markdown]
# **Figure.** The score of five noisy bumps (arrows; the grey is their density). With much noise all arrows lead to the middle, and nothing is decided yet. With less noise they part, each to a bump of its own. A sampler goes through these fields from the last to the first. (At $t = 100$ the arrows agree to $10^{-10}$ with the slopes of $\log q$ by automatic differentiation.)
#
# ## The step back without the start
#
# And the step back itself? Bayes' rule once more: $q(x_{t-1}\mid x_t) \propto q(x_t\mid x_{t-1})\,q(x_{t-1})$. Draw it for the same $x_t = 0.1$ and the same data, two bumps noised up to $t = 100$: once after a big step, once after a small one.

# %% mystnb={"image": {"alt": "Two panels with the density of the previous point when only the present point is known. After one big step, with beta 0.9, it has two humps, one for each bump of the data. After a small step, with beta 0.01, it is a single hump around the present point, and the bell with its mean and variance lies on it."}} tags=["active-ipynb"]
# bumps = GaussianMixture(weights=[0.3, 0.7], means=[[-1.0], [1.0]], stds=[0.15, 0.15])
# before = noised_mixture(bumps, 100, schedule)
#
#
# def step_back(data, x_t, beta):
#     """Return q(x_{t-1} | x_t) on the grid, the bell of its mean and variance, their KL."""
#     step = normal(torch.full_like(grid, x_t), (1 - beta) ** 0.5 * grid[:, None], beta)
#     back = data.log_prob(grid[:, None]).exp() * step
#     back = back / torch.trapezoid(back, grid)
#     mean = torch.trapezoid(back * grid, grid)
#     var = torch.trapezoid(back * (grid - mean) ** 2, grid)
#     log_bell = gaussian_log_prob(grid[:, None], mean, var)
#     log_ratio = back.clamp(min=1e-300).log() - log_bell
#     return back, log_bell.exp(), torch.trapezoid(back * log_ratio, grid)
#
#
# figure, axes = plt.subplots(1, 2, figsize=(5.2, 2.8))
# for ax, beta in zip(axes, (0.9, 0.01)):
#     back, bell, kl = step_back(before, 0.1, beta)
#     print(f"beta = {beta}: divergence from the bell {kl:.3f} nats")
#     ax.fill_between(grid, back, color="#cfdbe6")
#     ax.plot(grid, back, color=fig.BLUE)
#     ax.plot(grid, bell, "--", color=fig.ORANGE)
#     ax.plot(0.1, ax.get_ylim()[1] * -0.04, "^", color="black", clip_on=False)
#     ax.set(
#         title=rf"a step with $\beta$ = {beta}",
#         xlabel="$x_{t-1}$",
#         yticks=[],
#         xlim=(-2.2, 2.2),
#     )
# right = axes[1].transAxes
# axes[1].text(0.02, 0.92, "true step", color=fig.BLUE, transform=right)
# axes[1].text(0.02, 0.82, "its bell", color=fig.ORANGE, transform=right)
# axes[1].text(0.02, 0.72, "▲ $x_t$", transform=right)
# plt.show()
# sharp = step_back(bumps, 0.0, 0.02)[2]
# print(f"beta = 0.02 from the sharp bumps, at x_t = 0: {sharp:.3f} nats")

# %% [markdown]
# **Figure.** Where was the walk before $x_t = 0.1$ (▲), when nobody knows its start? Blue: the truth. Dashed: the bell with the same mean and variance. After a small step the two can hardly be told apart.
#
# <div class="live" data-figure="posterior">
#
# **Guess first.** Make $\beta$ smaller and smaller. At which $\beta$ do the two humps become one? And is that $\beta$ the same for data that are sharper?
#
# <details><summary>What to see</summary>
#
# The true step back is a product: where the data may be, times from where $x_t$ can be reached. The humps become one only when $\sqrt\beta$ is far smaller than the distance of the bumps: at $x_t = 0.1$ an eighth of it, for the sharper data a thirtieth. Smaller still, the second factor decides alone, and it is a bell. The hardest place is between the bumps; move $x_t$, and larger steps will do.
#
# </details>
#
# </div>
#
# After a big step there are two places from which $x_t = 0.1$ may have come, and no bell describes that. After a small step the past lies close by, and a bell fits far better. The reason: as a function of $x_{t-1}$, the factor $q(x_t\mid x_{t-1})$ is a bell of width about $\sqrt{\beta}$. Over so short a distance $\log q(x_{t-1})$ is nearly a straight line, and a straight line added to the exponent of a bell moves the bell and leaves its width alone (complete the square). **This is why diffusion takes many small steps:** each step back may then be a simple normal distribution, and a network needs to find only its mean.
#
# How small is small? $\sqrt\beta$ must be short against the distance over which the slope of $\log q(x_{t-1})$ changes. For the sharp bumps themselves even $\beta = 0.02$ is too large: halfway between them the step back has two humps, and the last divergence above is large. That is one reason why schedules begin with tiny steps.

# %% [markdown]
# ## How fast: what a bell costs
#
# DDPM says that every step back is a bell. What does that cost? Eq. [whole cost](#eq-joint-kl) answers: a model whose means are right pays, above the entropy of the data and the cost of its start, the divergences between the true steps back and its bells, one for each step, averaged over $x_t$. So look at one step of size $\beta$ away from some distribution $q(x_{t-1})$, and at three bells. All three have the right mean for each $x_t$. They differ in their variance:
#
# 1. the true variance of the step back *for each $x_t$*: no bell does better;
# 2. one number for all $x_t$, the best there is: the average of these variances;
# 3. the number $\beta$ itself, one of the paper's two choices. (The other is $\tilde\beta_t$, which is right when $x_0$ is known: see [the loss](loss.ipynb).)
#
# The last two are of DDPM's kind: its $\sigma_t^2$ does not look at $x_t$.
#
# **How the cost shrinks with $\beta$** can be computed. Take one coordinate, and write $\ell(x)$ for the logarithm of $q(x_{t-1})$ at $x$. Measure $x_{t-1}$ in units of a step, $x_{t-1} = x_t/\sqrt{1-\beta}+\sqrt\beta\,u$. By Bayes' rule the exponent of the step back is that of the forward step, $-\tfrac12(1-\beta)u^2$, plus $\ell(x_{t-1})$. Expand $\ell$ around the point $x_t/\sqrt{1-\beta}$, and write $\ell',\ell'',\ell'''$ for its first three slopes there:
#
# $$
# \log q(x_{t-1}\mid x_t) = \text{const} - \tfrac12u^2 + \sqrt\beta\,\ell'\,u + \tfrac12\beta\,(1+\ell'')\,u^2 + \tfrac16\beta^{3/2}\,\ell'''\,u^3 + \dots
# $$
#
# - The term with $u$ is a straight line. It moves the bell, and the mean takes care of it.
# - The term with $u^2$ changes the width: the variance is no longer $\beta$ but about $\beta\,\bigl(1+\beta(1+\ell'')\bigr)$.
# - The term with $u^3$ makes one flank longer than the other: the step back is *skewed*. A bell has no cube in its exponent. This is the first thing that no bell can say.
#
# What does a small mistake cost? Let $\delta = \log q-\log p$ be small. Since $p$ sums to 1, $1 = \mathbb E_q[p/q] = \mathbb E_q[e^{-\delta}] \approx 1-\mathbb E\delta+\tfrac12\mathbb E\delta^2$, so $\mathrm{KL} = \mathbb E\delta \approx \tfrac12\mathbb E\delta^2$: half a mean square. Now $u$ is nearly standard normal, and the means of $u^2, u^4, u^6$ are 1, 3, 15:
#
# - **Bell 1** leaves the cube. Of $u^3$ the mean of the bell takes away the best straight line, $3u$. What is left has the mean square $\mathbb E(u^3-3u)^2 = 15-18+9 = 6$. The cost is $\tfrac12\cdot\tfrac1{36}\beta^3\ell'''^2\cdot6$.
# - **Bells 2 and 3** miss the variance by a small share $\rho$. Then $\delta\approx\tfrac12\rho\,(u^2-1)$, and since $\mathbb E(u^2-1)^2 = 2$ the cost is $\rho^2/4$. The share is $\rho = \beta(1+\ell'')$ for bell 3. Bell 2 takes away its average.
#
# Averaged over $x_t$ (so are $\mathbb E$ and $\operatorname{Var}$ on the right), for one small step,
#
# $$
# \begin{aligned}
# \mathbb E\,\mathrm{KL} &\approx \frac{\beta^3}{12}\;\mathbb E\bigl[\ell'''^{\,2}\bigr] && \text{bell 1, the true variance for each } x_t \\
# \mathbb E\,\mathrm{KL} &\approx \frac{\beta^2}{4}\;\operatorname{Var}\bigl[\ell''\bigr] && \text{bell 2, the best fixed variance} \\
# \mathbb E\,\mathrm{KL} &\approx \frac{\beta^2}{4}\;\mathbb E\bigl[(1+\ell'')^2\bigr] && \text{bell 3, the variance } \beta .
# \end{aligned}
# $$ (eq-step-cost)
#
# (For normal data of variance 1, $\ell'' = -1$ and $\ell''' = 0$ everywhere, and all three are zero.) In a picture with logarithmic axes a power is a straight line, and the exponent is its slope: 3 for the first bell, 2 for the others. Below are the true costs, by sums over a fine grid, for the data of the last picture. First comes one step, then the sum over $n$ equal steps that walk from there until half of the power is left.

# %% mystnb={"image": {"alt": "Two log-log plots, one above the other, with three curves each. Above, the cost of one step against its size beta, from 0.9 down to 0.005. For large steps the curves lie close together. For small ones they are straight lines: from 0.1 to 0.01 the best fixed variance becomes 112 times cheaper, and the variance for each point, far below, 293 times. Below, the sum over n steps, for n from 1 to 64: the fixed variances fall along a line of slope minus 1, the other along slope minus 2."}} tags=["active-ipynb"]
# x = torch.linspace(-4.5, 4.5, 601, dtype=torch.float64)
#
#
# def costs(data, beta):
#     """Return the averaged divergence of the step back from each of the three bells."""
#     distance = x[:, None] - (1 - beta) ** 0.5 * x  # rows: x_t, columns: x_{t-1}
#     joint = data.log_prob(x[:, None]).exp() * torch.exp(-(distance**2) / (2 * beta))
#     at = joint.sum(1, keepdim=True) / joint.sum()  # q(x_t)
#     back = joint / joint.sum(1, keepdim=True)  # q(x_{t-1} | x_t)
#     mean = (back * x).sum(1, keepdim=True)
#     var = (back * (x - mean) ** 2).sum(1, keepdim=True)
#     entropy = (at * torch.special.entr(back)).sum() + (x[1] - x[0]).log()
#
#     def cost(bell_var):  # the mean of -log(bell), minus the entropy
#         minus_log = (var / bell_var + torch.log(2 * torch.pi * bell_var)) / 2
#         return (at * minus_log).sum() - entropy
#
#     return torch.stack([cost(var), cost((at * var).sum()), cost(torch.tensor(beta))])
#
#
# def walk(data, n):
#     """Return the sum of the costs of n equal steps that leave half of the power."""
#     beta, total = 1 - 0.5 ** (1 / n), 0
#     for _ in range(n):
#         total = total + costs(data, beta)
#         data = noised_mixture(data, 1, Schedule([beta]))
#     return total
#
#
# sizes = [0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005]
# counts = [1, 2, 4, 8, 16, 32, 64]
# one_step = torch.stack([costs(before, beta) for beta in sizes])
# in_all = torch.stack([walk(before, n) for n in counts])
#
# figure, (left, right) = plt.subplots(2, 1, figsize=(4.8, 6.4))
# names = ("own variance for each $x_t$", "best fixed variance", r"variance $\beta$")
# for i, color in enumerate((fig.GREEN, fig.ORANGE, fig.BLUE)):
#     left.loglog(sizes, one_step[:, i], "o-", color=color, markersize=3.5)
#     right.loglog(counts, in_all[:, i], "o-", color=color, markersize=3.5)
#     right.text(0.03, 0.05 + 0.1 * i, names[i], color=color, transform=right.transAxes)
# many = torch.tensor(counts[-3:])
# for i, power, beside in ((0, -2, 0.5), (2, -1, 2.0)):  # dashed lines beside the curves
#     guide = beside * in_all[-1, i] * (many / many[-1]) ** power
#     right.loglog(many, guide, "--", color=fig.GREY, linewidth=1.2)
#     place, ha = (31, "left") if power == -1 else (26, "right")
#     right.text(
#         place,
#         1.4**-power * guide[1] / 2.2 ** (power < -1),
#         f"slope ${power}$",
#         color=fig.GREY,
#         ha=ha,
#     )
# high, low = sizes.index(0.1), sizes.index(0.01)  # a tenth of the step
# for i, color in ((1, fig.ORANGE), (0, fig.GREEN)):
#     above, below = one_step[high, i], one_step[low, i]
#     left.plot([0.1, 0.01, 0.01], [above, above, below], ":", color=color, linewidth=1.2)
#     where = (0.0105, 1.3 * above) if i else (0.0125, 0.7 * below)
#     left.text(*where, f"÷ {above / below:.0f}", color=color)
# left.set(xlabel=r"size of the step, $\beta$", ylabel="nats", title="one step")
# right.set_ylabel("nats")
# right.set(xlabel="number of steps, n", title="n steps over the same way", xticks=counts)
# right.set_xticklabels([str(n) for n in counts])
# right.minorticks_off()
# plt.show()
#
#
# def slope(values, at):
#     return ((values[-1] / values[-2]).log() / math.log(at[-1] / at[-2])).tolist()
#
#
# print("one step, nats    own variance   best fixed       beta")
# for beta in (0.1, 0.01):
#     row = one_step[sizes.index(beta)]
#     print(f"beta = {beta:<13}", *(f"{value:12.2e}" for value in row))
# print("smaller by a factor", *(f"{f:10.0f}  " for f in one_step[5] / one_step[8]))
# print("slope at the end  ", *(f"{s:12.2f}" for s in slope(one_step, sizes)))
# print("slope of the sum  ", *(f"{s:12.2f}" for s in slope(in_all, counts)))

# %% [markdown]
# **Figure.** What a bell costs. Above: ten times smaller steps cost a hundred times less with a fixed variance, and more than that with the variance of each $x_t$ (dotted). Below: the same way in $n$ steps. With a fixed variance, twice as many steps halve the cost.
#
# Ten times smaller steps means ten times as many. With a fixed variance each costs a hundred times less, once the steps are small enough: the slopes at the end come close to 2. And $\beta^2$ times a number of steps that grows like $1/\beta$ leaves $\beta$: **the sum over $T$ steps falls like $1/T$.** Twice as many steps, half of what the bells cost. With the variance of each $x_t$ it would fall like $1/T^2$; in the table these slopes are still on their way to 3 and $-2$. So it takes many small steps *because* the bells are so simple. A network that predicts a variance too (Nichol and Dhariwal, 2021) can do with fewer. (All this holds where the steps are short against the bends of $\log q$. Near the data, where they are sharpest, the steps have to be the smallest.)
#
# None of these costs is the network's fault. They are what the *form* of the model costs when its means are perfect.
#
# ## Where people slip
#
# **Direction.** A heading of the student's notes, which [this book follows](bibliography.md), calls $q(x_{t-1}\mid x_t,x_0)$ "the distribution from $x_{t-1}$ to $x_t$". It is the other way round: from $x_t$ back to $x_{t-1}$.
#
# **The forgotten denominator, and the shifted table.** Public code has computed $\tilde\beta_t$ without dividing by $1-\bar\alpha_t$, or with $\bar\alpha_{t-1}$ shifted to the wrong side. Both mistakes keep the variance positive, so nothing looks wrong (the shifted table only runs out at $t = T$). A check against Bayes' rule on a grid finds either at once.

# %% tags=["active-ipynb"]
# t = 20
# right = posterior_variance(t, schedule)
# noise_power = 1 - schedule.alpha_bar
# no_denominator = noise_power[t - 1] * schedule.beta[t]
# wrong_side = noise_power[t + 1] / noise_power[t] * schedule.beta[t]
# print(f"without the denominator: {no_denominator / right:.3f} of the right variance")
# print(f"with the table shifted:  {wrong_side / right:.3f} of the right variance")

# %% [markdown]
# ## Exercises
#
# **1.** Show that $\tilde\beta_t < \beta_t$ for every $t$. What does it mean? *Hint:* which is larger, $\bar\alpha_{t-1}$ or $\bar\alpha_t$?
#
# <details><summary>Solution</summary>
#
# $\bar\alpha_{t-1} > \bar\alpha_t$, so the fraction in Eq. [posterior variance](#eq-posterior-variance) is below 1. For normal data of variance 1, $\beta_t$ is the variance of the step back when $x_0$ is *not* known ([the loss](loss.ipynb) shows it). Knowing $x_0$ makes it smaller.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 1
# t = torch.arange(1, 1001)
# share = posterior_variance(t, schedule) / schedule.beta[t]
# print(
#     "at t = 1, 2, 10, 100, 1000:",
#     *(f"{share[i - 1]:.4f}" for i in (1, 2, 10, 100, 1000)),
# )
# print(f"largest: 1 - {1 - share.max():.1e}")

# %% [markdown]
# **2.** Do the two shares in Eq. [posterior mean](#eq-posterior-mean) add up to 1? When nearly? *Hint:* write $a = \sqrt{\bar\alpha_{t-1}}$ and $b = \sqrt{\alpha_t}$.
#
# <details><summary>Solution</summary>
#
# Only at $t = 1$, where they are 1 and 0. With $a = \sqrt{\bar\alpha_{t-1}}$ and $b = \sqrt{\alpha_t}$, so that $\bar\alpha_t = a^2b^2$, the sum is
#
# $$\frac{a(1-b^2)+b(1-a^2)}{1-a^2b^2} = \frac{(a+b)(1-ab)}{(1-ab)(1+ab)} = \frac{a+b}{1+ab} = 1-\frac{(1-a)(1-b)}{1+ab} .$$
#
# It is a little below 1 whenever $a$ or $b$ is close to 1: early in the chain, and everywhere when the steps are small.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 2
# one = torch.ones(1000, dtype=torch.float64)
# t = torch.arange(1, 1001)
# shares = posterior_mean(one, one, t, schedule)  # x_0 = x_t = 1: their sum
# a, b = schedule.alpha_bar[t - 1].sqrt(), schedule.alpha[t].sqrt()
# assert torch.allclose(shares, 1 - (1 - a) * (1 - b) / (1 + a * b), rtol=1e-10)
# print(f"smallest sum of the two shares: {shares.min():.3f}")

# %% [markdown]
# **3.** For data that are a single point, what does $\varepsilon^*$ become? *Hint:* let the width of a single bump go to 0.
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
# generator = torch.Generator().manual_seed(0)
# noise = torch.randn(4, 2, dtype=torch.float64, generator=generator)
# x_t = q_sample(point.means.expand(4, 2), 300, noise, schedule)
# guess = optimal_noise(point, schedule)(x_t, 300)
# for name, numbers in (("drawn  ", noise[0]), ("guessed", guess[0])):
#     print(name, *(f"{number:.6f}" for number in numbers))

# %% [markdown]
# **4.** In the picture with two humps, $x_t = 0.1$ and $\beta = 0.9$, the right hump is the higher one. Which $x_t$ makes both equally high? And at which $\beta$ does the valley between them vanish there? Guess, then try. *Hint:* the bumps have the weights 0.3 and 0.7; `step_back` gives the curve.
#
# <details><summary>Solution</summary>
#
# Each hump is a bump of the data times the density of the step. So $x_t$ must lie nearer to the lighter bump, by as much as the factor $7/3$ asks. With $\beta = 0.9$ the step keeps only $\sqrt{0.1}$ of $x_{t-1}$; then $x_t$ says little about it, and must go far, to about $-1.3$. The valley vanishes late, between $\beta = 0.03$ and $0.02$: $q(x_t\mid x_{t-1})$ must be so narrow that between two points of the valley only the nearer counts.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 4
# def humps(x_t, beta):
#     """Return the heights of the left and the right hump, and of the valley between."""
#     back = step_back(before, x_t, beta)[0]
#     left, right = (int(part.argmax()) for part in (back[:35_000], back[35_000:]))
#     return back[left], back[35_000 + right], back[left : 35_000 + right + 1].min()
#
#
# for beta in (0.9, 0.5, 0.2, 0.1, 0.05, 0.03, 0.02):
#     low, high = -4.0, 1.0
#     for _ in range(30):
#         middle = (low + high) / 2
#         left, right, _ = humps(middle, beta)
#         low, high = (middle, high) if left > right else (low, middle)
#     left, right, valley = humps(middle, beta)
#     print(f"beta = {beta}: x_t = {middle:.2f}, valley {valley / left:.0%} of the humps")

# %% [markdown]
# ## Summary
#
# With $x_0$ given, the step back is a normal distribution whose mean and variance are known in closed form. Without $x_0$ it depends on the data; for small steps it is nearly normal, and what a bell of fixed variance still costs falls like $1/T$ in all. The best possible noise predictor $\varepsilon^*$ is the score in other units, whatever the data are; for a mixture of bells it is known.
#
# **The next question.** A network does not know $x_0$. What should it predict, and with which loss? See [the loss](loss.ipynb); and before that, what a network is: [one page](network.ipynb).
