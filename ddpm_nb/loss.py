# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The loss: predict the noise
#
# **The question.** The step back needs $x_0$, and a sampler does not have it. What should a network predict in its place, and which loss makes it learn that?
#
# ![The chain with a wide arc lit, named ε, that jumps from a handwritten 9, x_0, to the noisy x_t, and one arrow back from x_t to x_{t−1}. Under this stands the loss: the squared length of ε minus ε_θ(x_t, t).](images/chain-loss.svg)
#
# What must a network know about $x_t$ to take a step back?
#
# **What you bring.** The jump $x_t = \sqrt{\bar\alpha_t}\,x_0+\sqrt{1-\bar\alpha_t}\,\varepsilon$ from [the forward process](forward.ipynb), and the mean and variance of the step back from [the posterior](posterior.ipynb). What a network is, if you have never trained one: [one page](network.ipynb).
#
# **What you take away.** The step from "predict $x_0$" to "predict the noise", line 4 of Algorithm 2 derived, the loss that the paper trains with, and the weight that it leaves out.

# %% tags=["active-ipynb"]
# # In Colab this installs the book's package; elsewhere it is there, and nothing happens.
# import importlib.util
#
# if importlib.util.find_spec("ddpm_nb") is None:
#     %pip install --quiet --no-deps "ddpm_nb @ git+https://github.com/ddpm_nb/ddpm_nb"

# %%
"""The simple loss, its weight in the bound, line 4's mean, and other predictions."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from ddpm_nb import _checks as check
from ddpm_nb._devices import brought
from ddpm_nb.forward import Schedule, per_image, q_sample
from ddpm_nb.posterior import posterior_variance

Model = Callable[[Tensor, Tensor], Tensor]
Variance = Literal["large", "small"]


# %% [markdown]
# ## Noise and picture: each gives the other
#
# The jump ties three things together: $x_0$, $\varepsilon$ and $x_t$. The network sees $x_t$. If it guesses the noise, it has guessed the picture too. Write $\hat\varepsilon$ for a guess of the noise, and $\hat x_0$ for the picture that goes with it; the network's guess is $\varepsilon_\theta(x_t,t)$. Solve the jump for $x_0$:
#
# $$
# \hat x_0 = \frac{x_t-\sqrt{1-\bar\alpha_t}\;\hat\varepsilon}{\sqrt{\bar\alpha_t}} .
# $$ (eq-predict-x0)
#
# Read the other way, the same equation gives the noise that goes with a picture: $\hat\varepsilon = (x_t-\sqrt{\bar\alpha_t}\,\hat x_0)/\sqrt{1-\bar\alpha_t}$. A sampler needs it when it has changed the picture, by clipping it to $[-1,1]$ for instance.

# %%
def predict_x_0(
    x_t: Tensor, t: int | Tensor, noise: Tensor, schedule: Schedule
) -> Tensor:
    """Return the picture that x_t was made from, if `noise` is the noise in it.

    Args:
        x_t: (B, ...) noisy pictures.
        t: an int, or (B,) int64, in 0 ... T; at t = 0 the picture is x_t itself.
        noise: (B, ...) the total noise in x_t, known or predicted.
        schedule: the noise schedule.

    Returns:
        (B, ...) x_0-hat, not clipped.

    Equation: eq-predict-x0. Paper: equation 15.
    """
    alpha_bar = schedule.alpha_bar[check.t(t, schedule, lowest=0)]
    signal = x_t - per_image((1 - alpha_bar).sqrt(), noise) * noise
    return signal / per_image(alpha_bar.sqrt(), x_t)


def x_0_to_noise(
    x_t: Tensor, t: int | Tensor, x_0: Tensor, schedule: Schedule
) -> Tensor:
    """Return the noise in x_t, if x_t was made from the picture `x_0`.

    This is the inverse of `predict_x_0`. A sampler needs it when it has changed the
    predicted picture, by clipping it for instance.

    Args:
        x_t: (B, ...) noisy pictures.
        t: an int, or (B,) int64, in 1 ... T.
        x_0: (B, ...) the pictures, known or predicted.
        schedule: the noise schedule.

    Returns:
        (B, ...) the total noise.

    Equation: eq-predict-x0.
    """
    alpha_bar = schedule.alpha_bar[check.t(t, schedule)]
    rest = x_t - per_image(alpha_bar.sqrt(), x_0) * x_0
    return rest / per_image((1 - alpha_bar).sqrt(), x_t)


# %% [markdown]
# ## Line 4 of Algorithm 2
#
# Put this $\hat x_0$ into the mean of the step back, Eq. [posterior mean](#eq-posterior-mean), and simplify:
#
# $$
# \begin{aligned}
# \tilde\mu_t(x_t,\hat x_0)
# &= \frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1-\bar\alpha_t}\cdot\frac{x_t-\sqrt{1-\bar\alpha_t}\,\hat\varepsilon}{\sqrt{\bar\alpha_t}} + \frac{\sqrt{\alpha_t}(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}\,x_t && \text{put in } \hat x_0 \\
# &= \frac{\beta_t}{(1-\bar\alpha_t)\sqrt{\alpha_t}}\left(x_t-\sqrt{1-\bar\alpha_t}\,\hat\varepsilon\right) + \frac{\alpha_t(1-\bar\alpha_{t-1})}{(1-\bar\alpha_t)\sqrt{\alpha_t}}\,x_t && \bar\alpha_t = \alpha_t\bar\alpha_{t-1} \\
# &= \frac{1}{\sqrt{\alpha_t}}\left(\frac{\beta_t+\alpha_t-\bar\alpha_t}{1-\bar\alpha_t}\,x_t - \frac{\beta_t}{\sqrt{1-\bar\alpha_t}}\,\hat\varepsilon\right) && \text{collect } x_t \text{ and } \hat\varepsilon .
# \end{aligned}
# $$
#
# Since $\beta_t+\alpha_t = 1$, the fraction in front of $x_t$ is 1. We *choose* what remains as the form of the model's mean, with the network's guess in it. It is the mean in line 4 of Algorithm 2:
#
# $$
# \mu_\theta(x_t, t) = \frac{1}{\sqrt{\alpha_t}}\left(x_t - \frac{\beta_t}{\sqrt{1-\bar\alpha_t}}\;\varepsilon_\theta(x_t, t)\right).
# $$ (eq-denoising-mean)
#
# The paper writes $1-\alpha_t$ for $\beta_t$; they are the same number.

# %%
def denoising_mean(
    x_t: Tensor, t: int | Tensor, noise: Tensor, schedule: Schedule
) -> Tensor:
    """Return the mean of the step back from x_t to x_{t-1}, given the predicted noise.

    Args:
        x_t: (B, ...) noisy pictures.
        t: an int, or (B,) int64, in 1 ... T.
        noise: (B, ...) the predicted total noise in x_t.
        schedule: the noise schedule.

    Returns:
        (B, ...) mu_theta.

    Equation: eq-denoising-mean. Paper: equation 11, and line 4 of Algorithm 2.
    """
    t = check.t(t, schedule)
    share = schedule.beta[t] / (1 - schedule.alpha_bar[t]).sqrt()
    less_noisy = x_t - per_image(share, noise) * noise
    return less_noisy / per_image(schedule.alpha[t].sqrt(), x_t)


# %% [markdown]
# ### Why the noise, and not the picture?
#
# Each gives the other, so a perfect network may predict either. A learned network makes errors, and then the choice says *how much an error matters at which $t$*. Let the guess be off by 1 in one pixel, and see how far that moves the step back. For the noise, Eq. [line 4's mean](#eq-denoising-mean) has the factor, $\beta_t/\sqrt{\alpha_t(1-\bar\alpha_t)}$. For the picture, Eq. [posterior mean](#eq-posterior-mean) has it, $\sqrt{\bar\alpha_{t-1}}\,\beta_t/(1-\bar\alpha_t)$. In grey levels, of which 127.5 are a length of 1:

# %% tags=["active-ipynb"]
# schedule = Schedule.linear()
# print("an error of 1 in    the noise   the picture    moves the pixel by")
# for at in (1, 10, 100, 500, 1000):
#     beta, left = schedule.beta[at], 1 - schedule.alpha_bar[at]
#     by_noise = beta / (schedule.alpha[at] * left).sqrt()
#     by_picture = schedule.alpha_bar[at - 1].sqrt() * beta / left
#     print(
#         f"t = {at:<12}  {127.5 * by_noise:8.2f}  {127.5 * by_picture:12.3f}    grey levels"
#     )

# %% [markdown]
# An error of the noise moves the step back by about as much at every $t$: about one to three grey levels. So one network, with one loss for all $t$, cares about the right things. An error of the picture weighs about 8,000 times as much at $t = 1$ as at $t = 1000$. And at large $t$ no guess of the picture can be good: hardly anything of it is left in $x_t$. A plain squared error of the picture would spend the network's efforts there, where they change nothing.
#
# A weight in the loss could repair that. By the jump $\lVert\hat\varepsilon-\varepsilon\rVert^2 = \frac{\bar\alpha_t}{1-\bar\alpha_t}\lVert\hat x_0-x_0\rVert^2$, so the noise is the picture with a weight, the signal-to-noise ratio. There is a second reason: the noise has mean 0 and variance 1 at every $t$, so the network's last layer always answers on the same scale. The paper tried other targets and got its best pictures with this one.
#
# ## The hinge: why $x_0$ may be given in training
#
# Something is odd here. The bound asks that the model's step back $p_\theta(x_{t-1}\mid x_t)$ be close to $q(x_{t-1}\mid x_t,x_0)$. But the second knows $x_0$, and the sampler never will. Is the model trained on a question that it can never be asked?
#
# What the sampler really needs is $q(x_{t-1}\mid x_t)$, the step back of *all* data together. Take $t\ge 2$, and average the bound's divergence over the $x_0$ that are possible for a given $x_t$, for any density $p$ that does not know $x_0$. (Drawing $x_0$ and then $x_t$, or $x_t$ and then $x_0$, gives the same pairs, so the bound may be averaged in this order.)
#
# $$
# \begin{aligned}
# &\mathbb E_{q(x_0\mid x_t)}\,\mathrm{KL}\bigl(q(x_{t-1}\mid x_t,x_0)\,\|\,p\bigr) \\
# &\quad= \mathbb E\left[\log\frac{q(x_{t-1}\mid x_t,x_0)}{p(x_{t-1})}\right] && \text{both as one, over } x_0 \text{ and } x_{t-1} \text{ given } x_t \\
# &\quad= \mathbb E\left[\log\frac{q(x_{t-1}\mid x_t)}{p(x_{t-1})}\right] + \mathbb E\left[\log\frac{q(x_{t-1}\mid x_t,x_0)}{q(x_{t-1}\mid x_t)}\right] && \text{times one, inside the log.}
# \end{aligned}
# $$
#
# The first term has no $x_0$ in it any more, and drawing $x_0$ and then $x_{t-1}$ is the same as drawing $x_{t-1}$ from $q(x_{t-1}\mid x_t)$. So it is a divergence. The second term has no $p$ in it: it is the **mutual information** of $x_0$ and $x_{t-1}$ for this one $x_t$ (elsewhere the word often means an average over $x_t$): how much $x_0$ would still tell about $x_{t-1}$, in nats. Hence
#
# $$
# \mathbb E_{q(x_0\mid x_t)}\,\mathrm{KL}\bigl(q(x_{t-1}\mid x_t,x_0)\,\|\,p\bigr) = \mathrm{KL}\bigl(q(x_{t-1}\mid x_t)\,\|\,p\bigr) + I(x_0;\,x_{t-1}\mid x_t) .
# $$ (eq-hinge)
#
# The two divergences differ by a constant, so **the same $p$ is best for both**. Training with $x_0$ in hand teaches the step back without it. Here are the two, as functions of the mean of $p$, for one $x_t$ between two bumps.

# %% mystnb={"image": {"alt": "Two parabolas against the mean of p. The upper one is the divergence with x0 given, averaged over x0; the lower one is the divergence without x0. They have the same shape and their lowest points lie at the same mean, marked by a dotted vertical line."}} tags=["active-ipynb"]
# import matplotlib.pyplot as plt
#
# from ddpm_nb import _figures as fig
# from ddpm_nb.likelihood import GaussianMixture, gaussian_kl, gaussian_log_prob
# from ddpm_nb.posterior import noised_mixture, posterior_mean
#
# fig.use_style()
# coarse = Schedule([0.5, 0.3, 0.4, 0.5])  # big steps: the constant can be seen
# bumps = GaussianMixture(weights=[0.3, 0.7], means=[[-1.0], [1.0]], stds=[0.1, 0.1])
# t, x_t = 2, torch.tensor([0.2], dtype=torch.float64)
# grid = torch.linspace(-5, 5, 4001, dtype=torch.float64)[:, None]
#
#
# def normalised(log_density):
#     density = log_density.exp()
#     return density / torch.trapezoid(density, grid[:, 0])
#
#
# def normal(x, mean, var):
#     return gaussian_log_prob(x, mean, var * torch.ones(1, dtype=torch.float64))
#
#
# alpha_bar, var = coarse.alpha_bar[t], coarse.beta[t]
# x_0_given = normalised(
#     bumps.log_prob(grid) + normal(x_t, alpha_bar.sqrt() * grid, 1 - alpha_bar)
# )
# step = normal(x_t, coarse.alpha[t].sqrt() * grid, coarse.beta[t])
# back = normalised(noised_mixture(bumps, t - 1, coarse).log_prob(grid) + step)
# tilde_mean = posterior_mean(grid, x_t.expand_as(grid), t, coarse)
# tilde_var = posterior_variance(t, coarse).expand(1)
#
# means = torch.linspace(-0.6, 1.6, 45, dtype=torch.float64)
# with_x_0, without = [], []
# for mean in means:
#     each = gaussian_kl(tilde_mean, tilde_var, mean, var.expand(1))  # one for each x_0
#     with_x_0.append(torch.trapezoid(x_0_given * each, grid[:, 0]))
#     log_ratio = back.clamp(min=1e-300).log() - normal(grid, mean, var)
#     without.append(torch.trapezoid(back * log_ratio, grid[:, 0]))
# with_x_0, without = torch.stack(with_x_0), torch.stack(without)
#
# figure, ax = plt.subplots(figsize=(5.2, 2.8))
# ax.plot(means, with_x_0, color=fig.BLUE)
# ax.plot(means, without, color=fig.ORANGE)
# ax.axvline(means[without.argmin()], color=fig.GREY, linestyle=":")
# ax.set(xlabel="mean of p", ylabel="nats")
# place = 0.3
# i = int((means - place).abs().argmin())
# ax.annotate(
#     "", (place, with_x_0[i]), (place, without[i]), arrowprops={"arrowstyle": "<->"}
# )
# ax.text(place + 0.04, 0.62, "same distance\neverywhere", va="bottom")
# fig.label_line(ax, 0.26, 1.3, "$x_0$ given, averaged", fig.BLUE, ha="right")
# fig.label_line(ax, 1.35, 0.45, "without $x_0$", fig.ORANGE, ha="right")
# plt.show()
# difference = with_x_0 - without
# assert difference.max() - difference.min() < 1e-6
# assert with_x_0.argmin() == without.argmin()
# print(f"distance of the curves: {difference.min():.5f} to {difference.max():.5f} nats")

# %% [markdown]
# **Figure.** What a mean of $p$ costs, against the step back that knows $x_0$ (blue, averaged) and against the one that does not (orange). The curves have the same shape at a fixed distance, so their lowest points (dotted) agree. Who trains with the blue one gets the orange one right.
#
# ## The loss
#
# The bound has one divergence for each $t \ge 2$, Eq. [bound](#eq-bound): of the true step back $\mathcal N(\tilde\mu_t, \tilde\beta_t I)$ from the model's, $p_\theta(x_{t-1}\mid x_t) = \mathcal N(\mu_\theta, \sigma_t^2 I)$, where $\sigma_t^2$ is a number that we choose. By Eq. [divergence of two normals](#eq-gaussian-kl) it is $\lVert\tilde\mu_t-\mu_\theta\rVert^2/(2\sigma_t^2)$ plus a number that has only the two variances in it and no $\theta$. Both means are line 4, once with the true noise and once with the predicted one, so their difference is $\frac{\beta_t}{\sqrt{\alpha_t}\sqrt{1-\bar\alpha_t}}(\varepsilon_\theta-\varepsilon)$. The part with $\theta$ is
#
# $$
# \frac{\lVert\tilde\mu_t-\mu_\theta\rVert^2}{2\sigma_t^2} = \frac{\beta_t^2}{2\sigma_t^2\,\alpha_t\,(1-\bar\alpha_t)}\;\lVert\varepsilon-\varepsilon_\theta(x_t,t)\rVert^2 .
# $$ (eq-vlb-weight)
#
# At $t = 1$ the bound has $-\log p_\theta(x_0\mid x_1)$ instead. With $\sigma_1^2 = \beta_1$ it has the same part with $\theta$, because $\tilde\mu_1 = x_0$. (With $\tilde\beta_1 = 0$ there would be no density. The paper counts the probability of a whole grey level here; that changes $L_0$, not the idea.)
#
# What variance $\sigma_t^2$ should the step back have? The paper uses $\beta_t$ ("large") and $\tilde\beta_t$ ("small"). Neither is learned; a section below says for which data each is right.

# %%
def reverse_variance(t: int | Tensor, schedule: Schedule, variance: Variance) -> Tensor:
    """Return sigma_t^2, the variance of one step of the sampler.

    It is beta_t for "large" and beta-tilde_t for "small".

    Returns:
        float64, the shape of t.

    Raises:
        ValueError: if `variance` is neither "large" nor "small".

    Paper: section 3.2.
    """
    check.one_of("variance", variance, ("large", "small"))
    if variance == "small":
        return posterior_variance(t, schedule)
    return schedule.beta[check.t(t, schedule)]


def vlb_weight(
    t: int | Tensor, schedule: Schedule, variance: Variance = "large"
) -> Tensor:
    """Return the weight of ||noise - prediction||^2 in the bound, which L_simple drops.

    Args:
        t: an int, or int64 of any shape, in 1 ... T (from 2 for "small", because
            beta-tilde_1 is 0).
        schedule: the noise schedule.
        variance: the sampler's sigma_t^2, "large" or "small".

    Returns:
        float64, the shape of t: nats per unit of squared error summed over coordinates.

    Equation: eq-vlb-weight. Paper: equation 12.
    """
    t = check.t(t, schedule, lowest=2 if variance == "small" else 1)
    var = reverse_variance(t, schedule, variance)
    return schedule.beta[t] ** 2 / (
        2 * var * schedule.alpha[t] * (1 - schedule.alpha_bar[t])
    )


# %% [markdown]
# The paper then *drops the factor in front*. May one do that? For each $t$ the best answer is the same, whatever positive number stands in front: Eq. [best guess](#eq-best-guess), further down. A perfect network wins under both losses. The weight only decides at which $t$ an imperfect one takes more care. What is left is the simple loss: draw a picture, a time and a noise, and ask for the noise back.
#
# $$
# L_\text{simple}(\theta) = \mathbb E_{x_0,\ t,\ \varepsilon}\Bigl[\bigl\lVert\varepsilon-\varepsilon_\theta\bigl(\sqrt{\bar\alpha_t}\,x_0+\sqrt{1-\bar\alpha_t}\,\varepsilon,\ t\bigr)\bigr\rVert^2\Bigr], \qquad t\sim\text{Uniform}\{1,\dots,T\} .
# $$ (def-simple-loss)
#
# The code takes the *mean* over all numbers of a batch where the formula has a sum over the coordinates of a picture. That divides the loss by a constant, so its minimum stays where it is, and a loss can be compared between picture sizes: a network that always answers 0 scores about 1.

# %%
def predict_noise(model: Model, x_t: Tensor, t: Tensor) -> Tensor:
    """Return the model's answer at x_t, and refuse one of another shape.

    Raises:
        ValueError: if the answer does not have the shape of x_t.
    """
    return check.answer(model(x_t, t), x_t)


def simple_loss(
    model: Model,
    x_0: Tensor,
    schedule: Schedule,
    generator: torch.Generator | None = None,
    *,
    t: Tensor | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """Return the loss of Algorithm 1 for one batch: the mean squared error of the noise.

    Each picture gets its own time and its own noise. Both are drawn on the generator's
    device and moved to x_0's, unless they are given.

    Args:
        model: noise = model(x_t, t), with t (B,) int64 in 1 ... T on x_t's device.
        x_0: (B, ...) clean pictures.
        schedule: the noise schedule, on x_0's device.
        generator: where the randomness comes from; torch's global one if None.
        t: (B,) int64 times on x_0's device, if they are not to be drawn.
        noise: (B, ...) noise on x_0's device, if it is not to be drawn.

    Returns:
        () the mean over pictures and coordinates.

    Raises:
        TypeError: if x_0 is no floating-point tensor.
        ValueError: if the model's answer does not have the shape of its input.

    Equation: def-simple-loss. Paper: equation 14.
    """
    check.images("x_0", x_0)
    device = x_0.device if generator is None else generator.device
    source: Any = {"generator": generator, "device": device}
    if t is None:  # line 3 of Algorithm 1
        t = torch.randint(1, schedule.T + 1, x_0.shape[:1], **source)
    if noise is None:  # line 4
        noise = torch.randn(x_0.shape, dtype=x_0.dtype, **source)
    t, noise = brought(t, x_0.device), brought(noise, x_0.device)
    x_t = q_sample(x_0, t, noise, schedule)
    return (noise - predict_noise(model, x_t, t)).square().mean()  # line 5


# %% [markdown]
# ### Two bells slide together
#
# The variances are fixed, so only the means can move. Draw the true step back as a filled bell and the model's as a line, for a network that is far off, closer, and right. The divergence is *half* the squared distance of the means, in units of the line's width, plus the constant, which is nearly 0 here.

# %% mystnb={"image": {"alt": "Three panels, each with the same filled bell, the true step back, and an outlined bell of the same height, the model's. From left to right the outlined bell slides from far to the right onto the filled one, and the divergence written above the panels falls from 7.97 to 1.12 to 0.00 nats."}} tags=["active-ipynb"]
# true_mean, at = 0.0, 500
# true_var, model_var = posterior_variance(at, schedule), schedule.beta[at]
# grid = torch.linspace(-0.7, 0.9, 801, dtype=torch.float64)[:, None]
# figure, axes = plt.subplots(1, 3, figsize=(5.2, 2.2), sharey=True)
# for ax, model_mean in zip(axes, (0.4, 0.15, 0.0)):
#     mean = torch.tensor([model_mean], dtype=torch.float64)
#     zero = torch.zeros_like(mean)
#     kl = gaussian_kl(zero, true_var.expand(1), mean, model_var.expand(1))
#     true = normal(grid, true_mean, true_var).exp()
#     ax.fill_between(grid[:, 0], true, color="#d5d5d5")
#     ax.plot(grid, normal(grid, mean, model_var).exp(), color=fig.BLUE)
#     ax.set(title=f"{kl:.2f} nats", xlabel="$x_{t-1}$", yticks=[])
# axes[0].text(-0.7, 3.6, "true", color=fig.GREY)
# axes[0].text(0.95, 3.6, "model", color=fig.BLUE, ha="right")
# plt.show()

# %% [markdown]
# **Figure.** The divergence of the model's step back (line) from the true one (filled), above each panel. The loss asks the line to slide onto the bell.
#
# Below is the dropped weight for the paper's schedule. It falls steeply at small $t$: in the bound the first steps, where only the finest grain is open, count many times as much as those in the middle. (It rises again at the end: once $\bar\alpha_t\approx0$ it is about $\beta_t/2$, and $\beta_t$ grows.) $L_\text{simple}$ counts all $t$ alike: compared with the bound, it cares less for the smallest $t$ and more for the rest. What that does to a network is measured further down.

# %% mystnb={"image": {"alt": "The weight in the bound, on a logarithmic scale, against t. It starts at 0.5, falls steeply at first and then slowly to a minimum of 0.005 near t = 350, and rises slowly again to 0.01 at t = 1000. Both axes are logarithmic. A dashed flat line, what the simple loss counts, crosses it near t = 100: left of it the bound asks for more, right of it for less."}} tags=["active-ipynb"]
# t = torch.arange(1, 1001)
# weight = vlb_weight(t, schedule)
# lowest = int(t[weight.argmin()])
#
# flat = weight.mean()
# figure, ax = plt.subplots(figsize=(5.2, 2.8))
# ax.loglog(t, weight, color=fig.BLUE)
# ax.axhline(flat, color=fig.ORANGE, linestyle="--")
# ax.fill_between(
#     t, weight, flat, where=weight > flat, color=fig.BLUE, alpha=0.15, linewidth=0
# )
# ax.fill_between(
#     t, weight, flat, where=weight < flat, color=fig.ORANGE, alpha=0.2, linewidth=0
# )
# ax.text(2.2, 0.3, "the bound", color=fig.BLUE)
# ax.text(1000, 1.15 * flat, "simple loss", color=fig.ORANGE, ha="right")
# ax.set(xlabel="t", ylabel="weight of the squared error", xlim=(1, 1000))
# plt.show()
# crossing = int(t[weight < flat][0])
# print(f"below its mean from t = {crossing} on")
# for at in (1, 2, 10, lowest, 1000):
#     print(f"weight at t = {at}: {weight[at - 1]:.4f}")

# %% [markdown]
# **Figure.** How much a squared error counts at each $t$: in the bound, and in the simple loss, scaled to the same mean. Left of the crossing the bound asks for more care, right of it the simple loss.
#
# ### The same bound, by signal and noise
#
# With the small variance, $\sigma_t^2 = \tilde\beta_t$, the bound has a shorter form. Both steps back then have the same variance, so Eq. [weight](#eq-vlb-weight) is the whole divergence: no constant is left out. Take $t\ge2$, and ask for the error of the picture in the place of the error of the noise: by Eq. [predicted picture](#eq-predict-x0), $\lVert\varepsilon-\varepsilon_\theta\rVert^2 = \frac{\bar\alpha_t}{1-\bar\alpha_t}\lVert x_0-\hat x_0\rVert^2$. The factor in front of $\lVert x_0-\hat x_0\rVert^2$ is then
#
# $$
# \begin{aligned}
# \frac{\beta_t^2}{2\tilde\beta_t\,\alpha_t(1-\bar\alpha_t)}\cdot\frac{\bar\alpha_t}{1-\bar\alpha_t}
# &= \frac{\beta_t^2\,\bar\alpha_{t-1}}{2\tilde\beta_t\,(1-\bar\alpha_t)^2} && \bar\alpha_t = \alpha_t\bar\alpha_{t-1} \\
# &= \frac{\beta_t\,\bar\alpha_{t-1}}{2\,(1-\bar\alpha_{t-1})(1-\bar\alpha_t)} && \text{put in } \tilde\beta_t = \tfrac{1-\bar\alpha_{t-1}}{1-\bar\alpha_t}\beta_t \\
# &= \frac{\bar\alpha_{t-1}(1-\bar\alpha_t)-\bar\alpha_t(1-\bar\alpha_{t-1})}{2\,(1-\bar\alpha_{t-1})(1-\bar\alpha_t)} && \beta_t\,\bar\alpha_{t-1} = \bar\alpha_{t-1}-\bar\alpha_t \\
# &= \frac12\left(\frac{\bar\alpha_{t-1}}{1-\bar\alpha_{t-1}}-\frac{\bar\alpha_t}{1-\bar\alpha_t}\right) && \text{split the fraction.}
# \end{aligned}
# $$
#
# In the bracket stand two signal-to-noise ratios, Eq. [SNR](#def-snr). With the mean over the data and the noise,
#
# $$
# \mathbb E_{q(x_0)}[L_{t-1}] = \tfrac12\bigl(\operatorname{SNR}(t-1)-\operatorname{SNR}(t)\bigr)\;\mathbb E\,\lVert x_0-\hat x_0(x_t,t)\rVert^2 , \qquad t\ge2,\ \sigma_t^2 = \tilde\beta_t .
# $$ (eq-snr-bound)
#
# A step costs half of what the SNR loses in it, times the error of the picture. Draw that error against the SNR: the sum over $t$ is half of an area made of rectangles, one a step, and the schedule says only where they are cut. The drops add up to $\operatorname{SNR}(1)-\operatorname{SNR}(T)$ wherever the cuts lie. So with ever finer steps, and a network that is told the SNR, the sum becomes half the area under one curve, and depends on the schedule through these two ends alone. (Exercise 4 has a case with an exact answer. The form is due to Kingma, Salimans, Poole and Ho, 2021; Luo, 2022, derives it as well: see the [bibliography](bibliography.md).)
#
# ## The best answer is a mean
#
# For one $x_t$, many $x_0$ are possible, and with them many $\varepsilon$. The network has to give *one* answer $c$. Which is best? Add and subtract the mean $\varepsilon^* = \mathbb E[\varepsilon\mid x_t]$ inside the square:
#
# $$
# \mathbb E\bigl[\lVert\varepsilon-c\rVert^2\,\big|\,x_t\bigr]
# = \lVert c-\varepsilon^*\rVert^2 + \mathbb E\bigl[\lVert\varepsilon-\varepsilon^*\rVert^2\,\big|\,x_t\bigr] .
# $$ (eq-best-guess)
#
# The mixed term, $2(\varepsilon^*-c)\cdot\mathbb E[\varepsilon-\varepsilon^*\mid x_t]$, is zero because the mean of a deviation from the mean is zero. The second term does not depend on $c$. So the best answer is $c = \varepsilon^*(x_t,t)$, and no network can do better than the second term.
#
# With $\varepsilon^*$ line 4 is exactly the mean of $q(x_{t-1}\mid x_t)$, although *one* guess stands there in the place of all possible $x_0$. For $\tilde\mu_t$ is a straight-line function of $x_0$, so the mean over $x_0$ may be taken inside: $\mathbb E[x_{t-1}\mid x_t] = \tilde\mu_t\bigl(x_t, \mathbb E[x_0\mid x_t]\bigr)$, and $\mathbb E[x_0\mid x_t]$ is $\hat x_0$ with $\varepsilon^*$ put in.
#
# ## The floor of the loss
#
# How low can the loss go, then? Not to zero: the second term stays, the scatter of the noise around its mean. Take the answer $c = 0$ in Eq. [best guess](#eq-best-guess), and average over $x_t$: in one coordinate $1 = \mathbb E\,|\varepsilon^*|^2+\mathbb E\,|\varepsilon-\varepsilon^*|^2$. So the floor is $1-\mathbb E\,|\varepsilon^*|^2$. For a mixture of bells that is an integral over $x_t$, with no drawing and no error bar; here for the two bumps of the hinge, at $\pm1$ with width 0.1.

# %% mystnb={"image": {"alt": "The smallest possible squared error of the noise against t, which has a logarithmic axis. It starts near 1 at t = 1, falls to a valley of 0.12 near t = 90, rises to a second, lower hill of 0.43 near t = 220, and then falls to zero."}} tags=["active-ipynb"]
# from ddpm_nb.posterior import optimal_noise
#
# best = optimal_noise(bumps, schedule)
# line = torch.linspace(-8, 8, 6401, dtype=torch.float64)[:, None]
#
#
# def floor(mixture, t):
#     """Return 1 - E|best answer|^2: an integral over x_t, for data of one coordinate."""
#     density = noised_mixture(mixture, t, schedule).log_prob(line).exp()
#     answer = optimal_noise(mixture, schedule)(line, t)[:, 0]
#     return 1 - torch.trapezoid(density * answer**2, line[:, 0])
#
#
# floor_t = torch.logspace(0, 3, 300).round().long().unique()
# lowest_loss = torch.stack([floor(bumps, at) for at in floor_t.tolist()])
#
# figure, ax = plt.subplots(figsize=(5.2, 3))
# ax.plot(floor_t, lowest_loss, color=fig.BLUE)
# ax.fill_between(floor_t, lowest_loss, color=fig.BLUE, alpha=0.12, linewidth=0)
# ax.text(1.3, 0.45, "noise or data?\nNobody can tell", color=fig.GREY)
# ax.text(240, 0.5, "which bump?", color=fig.GREY, ha="center")
# ax.text(90, 0.03, "easy to see", color=fig.GREY, ha="center")
# error = r"$\mathbb{E}\,|\varepsilon-\varepsilon^*|^2$"
# ax.set(xscale="log", xlabel="t", ylabel=error, ylim=(0, 1.05))
# plt.show()
# for at in (1, 100, 200, 1000):
#     print(f"floor at t = {at}: {floor(bumps, at):.5f}")

# %% [markdown]
# **Figure.** The smallest loss that any network can have at each $t$, for two bumps. Two doubts keep it above 0: at small $t$ the noise is too weak to be told from the data, near $t = 200$ two bumps flow into each other.
#
# At $t = 1$ there is hardly any noise in $x_1$, far less than the data's own spread, and it cannot be told from the data: the loss there is about 1 even for the best network. Then the noise outgrows the width of a bump, and becomes easy to see. The second hill, near $t = 200$, is a doubt of another kind: the two bumps flow into each other, and it is open which of them a point came from. At large $t$ nearly all of $x_t$ is noise, and the noise is easy to predict.
#
# A training loss that stops falling above zero is therefore no sign of failure by itself: it may have come near its floor.
#
# ### What the dropped weight does
#
# A perfect network does not care about the weight; a small one, trained for a short time, does. Train the same network in three ways on the two bumps: with the simple loss, with the weight as a factor, and with $t$ *drawn* in proportion to the weight, which has the same mean. A single run of each would prove nothing: the result depends on the start and on the draws. So 64 networks learn side by side in each way, from the same 64 starts.
#
# Then ask three questions. How far is each network from $\varepsilon^*$, at every $t$? (A squared distance, averaged over $x_t$.) What does it cost in nats? (The sum of these distances, with the weights of the bound.) And what does one see of it? For that let Algorithm 2, the sampler of [the next chapter](algorithms.ipynb), run from the same noise with the network and with $\varepsilon^*$, and count how often the two end in different bumps.

# %% mystnb={"image": {"alt": "Mean distance to the perfect network against t, both axes logarithmic, for three ways of training, each with a narrow band, its 95 percent interval. With the weight as a factor the networks are the farthest from about t = 10 on. With t drawn by weight they are the closest up to about t = 100, most clearly at the smallest t. With the simple loss they are the farthest at t = 1 and the closest from about t = 150 on."}} tags=["active-ipynb", "nbval-ignore-output"]
# from ddpm_nb.algorithms import sample
#
# SEEDS = 64
#
#
# def train(chance, factor, steps=1200):
#     """Train one network a seed, on t drawn by `chance`, its error times `factor`."""
#     generator = torch.Generator().manual_seed(0)
#     torch.manual_seed(0)
#     nets = [
#         torch.nn.Sequential(
#             torch.nn.Linear(2, 16),
#             torch.nn.SiLU(),
#             torch.nn.Linear(16, 16),
#             torch.nn.SiLU(),
#             torch.nn.Linear(16, 1),
#         )
#         for _ in range(SEEDS)
#     ]
#     weights, _ = torch.func.stack_module_state(nets)
#     answer = torch.vmap(lambda w, x: torch.func.functional_call(nets[0], w, x))
#     clock = schedule.log_snr.float() / 4  # how the networks are told the time
#
#     def model(x_t, t):  # the first points are for the first network, and so on
#         seen = torch.stack([x_t[:, 0], clock[t]], dim=1)
#         return answer(weights, seen.view(SEEDS, -1, 2)).view_as(x_t)
#
#     optimizer = torch.optim.Adam(weights.values(), lr=1e-2)
#     decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
#     for _ in range(steps):
#         x_0 = bumps.sample(SEEDS * 256, generator)
#         t = 1 + torch.multinomial(chance, len(x_0), True, generator=generator)
#         noise = torch.randn(x_0.shape, generator=generator)
#         error = (noise - model(q_sample(x_0, t, noise, schedule), t)).square()
#         optimizer.zero_grad()
#         ((factor[t - 1, None] * error).sum() / 256).backward()
#         optimizer.step()
#         decay.step()
#     return model
#
#
# generator = torch.Generator().manual_seed(1)
# t = torch.arange(1, 1001).repeat(SEEDS * 20)
# x_0 = bumps.sample(len(t), generator)
# x_t = q_sample(x_0, t, torch.randn(x_0.shape, generator=generator), schedule)
# perfect = best(x_t, t)
#
#
# def ends_right(model):
#     noise = torch.Generator().manual_seed(2)
#     return sample(model, (SEEDS * 1000, 1), schedule, generator=noise) > 0
#
#
# def interval(values):
#     """Return the mean over the seeds and the half-width of its 95 % interval."""
#     return values.mean(0), 2 * values.std(0) / SEEDS**0.5
#
#
# equal, share = torch.ones(1000), (weight / weight.mean()).float()
# edges = torch.tensor([1, 2, 5, 10, 20, 50, 100, 200, 500, 1001])
# right_bump, measured = ends_right(best), {}
# middle = (edges[:-1] * (edges[1:] - 1)).sqrt()
# figure, ax = plt.subplots(figsize=(5.2, 3))
# drawn_as = []
# for name, chance, factor, color, x, y in (
#     ("simple loss", equal, equal, fig.BLUE, 2.4, 0.09),
#     ("weight as a factor", equal, share, fig.ORANGE, 6, 0.2),
#     ("t drawn by weight", share, equal, fig.GREEN, 1, 0.003),
# ):
#     model = train(chance, factor)
#     with torch.no_grad():
#         distance = (model(x_t, t) - perfect).square().view(SEEDS, 20, 1000).mean(1)
#     astray = (ends_right(model) != right_bump).view(SEEDS, -1).double().mean(1)
#     measured[name] = {
#         "distance at t < 10": distance[:, :9].mean(1),
#         "distance at t >= 200": distance[:, 199:].mean(1),
#         "nats": (weight * distance).sum(1),
#         "ends in the other bump": astray,
#     }
#     groups = distance.split(edges.diff().tolist(), dim=1)
#     mean, half = interval(torch.stack([group.mean(1) for group in groups], dim=1))
#     ax.loglog(middle, mean, "o-", color=color, markersize=4)
#     drawn_as.append((mean, color))
#     ax.fill_between(middle, mean - half, mean + half, color=color, alpha=0.2)
#     fig.label_line(ax, x, y, name, color)
# best_way = torch.stack([mean for mean, _ in drawn_as]).argmin(0)
# for low, high, way in zip(edges, edges[1:], best_way):
#     ax.axvspan(low, high, ymax=0.04, color=drawn_as[way][1], linewidth=0)
# ax.set(xlabel="t", ylabel=r"distance to $\varepsilon^*$", xlim=(1, 1000))
# plt.show()
#
# simple, signs = measured.pop("simple loss"), {}
# print(f"as a multiple of the simple loss's, over {SEEDS} seeds (95 % interval)")
# for name, results in measured.items():
#     signs[name] = []
#     for what, value in results.items():
#         mean, half = interval((value / simple[what]).log())
#         low, middle, high = (x.exp() for x in (mean - half, mean, mean + half))
#         print(f"{name:18}  {what:22}  {middle:.2f}  ({low:.2f} to {high:.2f})")
#         signs[name].append(int(low > 1) - int(high < 1))
# assert signs["weight as a factor"] == [-1, 1, 1, 1]
# assert signs["t drawn by weight"] == [-1, 1, -1, 1]

# %% [markdown]
# **Figure.** How far the trained networks are from the perfect one; bands are 95 % intervals over 64 seeds. The bar at the foot has the colour of the closest: $t$ drawn by weight wins at small $t$, the simple loss from about $t = 100$ on.
#
# As a factor, the weight helps at the smallest $t$ and makes the network worse at large $t$, and worse on the whole even by the bound's own measure: the gradient is dominated by the few points of a batch that happened to draw a small $t$, and varies much from batch to batch. With $t$ drawn by weight the mean is the same without that scatter, and what remains is the choice itself: closer at the smallest $t$, farther at large $t$, cheaper in nats. And yet *more* points go astray.
#
# If drawing $t$ by its weight wins in nats, why does the paper drop the weight? Because a nat is not what one sees. In Eq. [weight](#eq-vlb-weight) an error is counted as a squared shift of the mean, *in units of the step's own spread* $\sigma_t$, and at small $t$ that unit is tiny. Give the network an error of the size of the noise itself, $\lVert\varepsilon-\varepsilon_\theta\rVert^2 = 1$ in a coordinate, and read off both: the nats, and the shift of a pixel in grey levels (of 256, so that 127.5 of them are a length of 1).

# %% tags=["active-ipynb"]
# for at in (1, 10, 100, 500, 1000):
#     scale = (schedule.alpha[at] * (1 - schedule.alpha_bar[at])).sqrt()
#     nats, shift = vlb_weight(at, schedule), schedule.beta[at] / scale
#     print(f"t = {at:4}: {nats:.3f} nats, {127.5 * shift:.1f} grey levels")

# %% [markdown]
# The shift is of the same order at every $t$: one to three grey levels, which nobody sees. At $t = 1$ it is expensive, and all that is lost is one grey level of grain. At large $t$ it costs next to nothing; but there an error that lasts over hundreds of steps adds up, and those steps decide to which bump a point goes, or what a picture shows. The paper says so (section 3.4): without the weight the network can attend to the harder tasks at larger $t$. And it measured both on CIFAR-10 (its table 1): trained with the weight, at most 3.70 bits per dimension and an FID of 13.51; without, at most 3.75 bits and an FID of 3.17. Worse in nats, better to look at. Nichol and Dhariwal (2021), who want the nats, draw $t$ more often where the bound is large.
#
# ## Which variance?
#
# The mean of the step back is settled. Its variance $\sigma_t^2$ was left open, between $\beta_t$ and $\tilde\beta_t$. Which number is best? The divergence from the true step back is the mean of $-\log p_\theta(x_{t-1}\mid x_t)$, plus something without $\sigma_t$. By Eq. [normal density](#def-gaussian) that mean is $\tfrac12\bigl(\mathbb E(x_{t-1}-\mu_\theta)^2/\sigma_t^2+\log\sigma_t^2\bigr)$ and a constant, per coordinate. With the mean right, $\mathbb E(x_{t-1}-\mu_\theta)^2$ is the true variance of $x_{t-1}$ given $x_t$, averaged over $x_t$; call it $V$. (The step back need not be normal for this.) Its slope in $\sigma_t^2$ is zero at $\sigma_t^2 = V$. To find $V$, write $m = \mathbb E[x_{t-1}\mid x_t]$ and split $x_{t-1}-m = (x_{t-1}-\tilde\mu_t)+(\tilde\mu_t-m)$. The mixed term of the square has mean zero, as in Eq. [best guess](#eq-best-guess). So $V$ has two parts: the scatter that remains when $x_0$ is known as well, and the scatter of the mean $\tilde\mu_t$ because $x_0$ is *not* known. The first is $\tilde\beta_t$. In the second, $x_0$ enters $\tilde\mu_t$ with the factor of Eq. [posterior mean](#eq-posterior-mean). For one coordinate, averaged over $x_t$:
#
# $$
# \sigma_t^{*2} = \tilde\beta_t + \frac{\bar\alpha_{t-1}\,\beta_t^2}{(1-\bar\alpha_t)^2}\;\mathbb E\bigl[\operatorname{Var}(x_0\mid x_t)\bigr] .
# $$ (eq-optimal-variance)
#
# How large can that last factor be? Compare with the best guess that is a straight line, $c\,x_t$ with one number $c$. Let a coordinate of the data have mean 0 and variance $s^2$ (a mean that is not 0 may be subtracted from $x_0$, and $\sqrt{\bar\alpha_t}$ times it from $x_t$). By Eq. [forward](#eq-forward), $\mathbb E[x_0x_t] = \sqrt{\bar\alpha_t}\,s^2$, which we call $B$, and $\mathbb E[x_t^2] = \bar\alpha_ts^2+1-\bar\alpha_t$, which we call $A$. Then
#
# $$
# \begin{aligned}
# \mathbb E\,(x_0-c\,x_t)^2 &= s^2-2Bc+Ac^2 && \text{multiply out} \\
# &= A\left(c-\frac BA\right)^2+s^2-\frac{B^2}{A} && \text{complete the square in } c,
# \end{aligned}
# $$
#
# and this is smallest at $c = B/A$. What is left there is $s^2-B^2/A = s^2\,(A-\bar\alpha_ts^2)/A$:
#
# $$
# \min_c\,\mathbb E\,(x_0-c\,x_t)^2 = \frac{s^2\,(1-\bar\alpha_t)}{\bar\alpha_ts^2+1-\bar\alpha_t} .
# $$ (eq-linear-guess)
#
# The conditional mean is the best guess of all, so $\mathbb E[\operatorname{Var}(x_0\mid x_t)]$ is at most this. Now to the two ends.
#
# If the data are **a single point**, nothing about $x_0$ is open, its variance is 0, and $\sigma_t^{*2} = \tilde\beta_t$. If the data are **normal with variance 1**, then the conditional mean *is* a straight line: the exponent of $q(x_0)\,q(x_t\mid x_0)$ is a square in $x_0$ whose middle is a multiple of $x_t$. So Eq. [straight-line guess](#eq-linear-guess) with $s = 1$ is exact, $\operatorname{Var}(x_0\mid x_t) = 1-\bar\alpha_t$ (of the unit variance of $x_0$, $x_t$ explains the share $\bar\alpha_t$), and
#
# $$
# \sigma_t^{*2} = \frac{(1-\bar\alpha_{t-1})\beta_t + \bar\alpha_{t-1}\beta_t^2}{1-\bar\alpha_t}
# = \beta_t\,\frac{1-\bar\alpha_{t-1}(1-\beta_t)}{1-\bar\alpha_t} = \beta_t .
# $$
#
# All data whose coordinates have variance at most 1, as all pixels in $[-1,1]$ have, lie between: the right side of Eq. [straight-line guess](#eq-linear-guess) grows with $s^2$ (divide above and below by $s^2$), and for $s^2\le1$ it is at most $1-\bar\alpha_t$. So the paper's two choices are the two ends, and they differ much only at small $t$. (Bao, Li, Zhu and Zhang, 2022, found $\sigma_t^{*2}$, written with the score; they estimate it for a trained network and so need fewer steps: *Analytic-DPM* in the [bibliography](bibliography.md).)

# %%
def optimal_variance(
    t: int | Tensor, schedule: Schedule, x_0_variance: float | Tensor
) -> Tensor:
    """Return the variance of one step back for a network that predicts the mean exactly.

    Args:
        t: an int, or int64 of any shape, in 1 ... T.
        schedule: the noise schedule.
        x_0_variance: E[Var(x_0 | x_t)] at these t, per coordinate; broadcasts with t.

    Returns:
        float64, sigma*_t^2: beta-tilde_t for a variance of 0, beta_t for 1 - alpha_bar_t.

    Equation: eq-optimal-variance.
    """
    t = check.t(t, schedule)
    alpha_bar, alpha_bar_prev = schedule.alpha_bar[t], schedule.alpha_bar[t - 1]
    x_0_share = alpha_bar_prev.sqrt() * schedule.beta[t] / (1 - alpha_bar)
    return posterior_variance(t, schedule) + x_0_share**2 * x_0_variance


# %% [markdown]
# For the two bumps, $\operatorname{Var}(x_0\mid x_t)$ follows from the floor of the loss: $\hat x_0$ is wrong by $\sqrt{1-\bar\alpha_t}/\sqrt{\bar\alpha_t}$ times the error of the noise. So the right variance can be drawn between the paper's two.

# %% mystnb={"image": {"alt": "Variance of the step back divided by beta, against t on a logarithmic scale. The large choice is the constant 1. The small choice rises from 0 at t = 1 towards 1. The right variance for two bumps lies between them everywhere: 0.99 at t = 1, falling to 0.97 near t = 25, and on the small choice from about t = 75 on, where all three are near 1."}} tags=["active-ipynb"]
# many_t = torch.logspace(0, 3, 60).round().long().unique()
# floors = torch.stack([floor(bumps, at) for at in many_t.tolist()])
# x_0_variance = floors * (1 - schedule.alpha_bar[many_t]) / schedule.alpha_bar[many_t]
# right = optimal_variance(many_t, schedule, x_0_variance)
# small, large = (reverse_variance(many_t, schedule, name) for name in ("small", "large"))
#
# figure, ax = plt.subplots(figsize=(5.2, 2.8))
# ax.fill_between(many_t, small / large, 1, color=fig.BLUE, alpha=0.12, linewidth=0)
# ax.text(1.1, 0.93, "other data:\nin here", color=fig.GREY, va="top")
# for variance, color in ((large, fig.GREY), (right, fig.ORANGE), (small, fig.BLUE)):
#     ax.plot(many_t, variance / large, color=color)
# ax.set(xscale="log", xlabel="t", ylabel=r"variance / $\beta_t$", ylim=(-0.05, 1.15))
# fig.label_line(ax, 200, 1.08, r'"large", $\beta_t$', fig.GREY)
# fig.label_line(ax, 3.2, 0.4, r'"small", $\tilde\beta_t$', fig.BLUE)
# fig.label_line(ax, 1.0, 1.06, "right for two bumps", fig.ORANGE)
# plt.show()
# assert ((small < right) & (right < large)).all()

# %% [markdown]
# **Figure.** The paper's two variances, as shares of $\beta_t$. Whatever the data in $[-1,1]$, the right one lies in the shaded wedge, which is open at small $t$ only. For the two bumps it begins near the upper edge.
#
# ## Other things to predict
#
# The noise is one way to say what the network knows; there are others, and each is a change of units. The **score** of a density is the slope of its logarithm, in every coordinate: $\nabla\log q$, as in [the posterior](posterior.ipynb). By the jump, $\log q(x_t\mid x_0) = -\lVert x_t-\sqrt{\bar\alpha_t}x_0\rVert^2/\bigl(2(1-\bar\alpha_t)\bigr)$ plus a constant, so its slope in $x_t$ is $-(x_t-\sqrt{\bar\alpha_t}x_0)/(1-\bar\alpha_t)$, and $x_t-\sqrt{\bar\alpha_t}x_0 = \sqrt{1-\bar\alpha_t}\,\varepsilon$:
#
# $$
# s = -\frac{\varepsilon}{\sqrt{1-\bar\alpha_t}} .
# $$ (eq-score)
#
# This is the score of one jump. Its mean over the $x_0$ that are possible for a given $x_t$ is the score of all noisy data, $\nabla\log q(x_t)$: Eq. [Tweedie's formula](#eq-tweedie). So $\varepsilon^*$ in the place of $\varepsilon$ gives that score, and a network trained with the simple loss learns it.

# %%
def noise_to_score(noise: Tensor, t: int | Tensor, schedule: Schedule) -> Tensor:
    """Return the score, the gradient of log q(x_t), for the best noise prediction.

    Args:
        noise: (B, ...) the noise prediction at x_t.
        t: an int, or (B,) int64, in 1 ... T.
        schedule: the noise schedule.

    Returns:
        (B, ...) the score.

    Equation: eq-score.
    """
    alpha_bar = schedule.alpha_bar[check.t(t, schedule)]
    return -noise / per_image((1 - alpha_bar).sqrt(), noise)


# %% [markdown]
# The **velocity** (Salimans and Ho, 2022) is noise and picture turned by an angle:
#
# $$
# v = \sqrt{\bar\alpha_t}\;\varepsilon - \sqrt{1-\bar\alpha_t}\;x_0 .
# $$ (def-v)
#
# Since $\bar\alpha_t+(1-\bar\alpha_t) = 1$, there is an angle $\varphi$ with $\cos\varphi = \sqrt{\bar\alpha_t}$ and $\sin\varphi = \sqrt{1-\bar\alpha_t}$. Then $x_t = \cos\varphi\,x_0+\sin\varphi\,\varepsilon$ and $v = \cos\varphi\,\varepsilon-\sin\varphi\,x_0$: a rotation, which is undone by turning back:
#
# $$
# \varepsilon = \sqrt{1-\bar\alpha_t}\;x_t + \sqrt{\bar\alpha_t}\;v .
# $$ (eq-v-inverse)
#
# What is it for? The noise is a poor thing to ask for where $x_t$ is all noise: the answer is $x_t$ itself, and tells nothing of the picture. The picture is a poor thing to ask for where $x_t$ is all picture, for the same reason. The velocity is neither: it goes from $\varepsilon$, where there is no noise yet, to $-x_0$, where there is nothing else. So it serves samplers of very few steps, which must guess a picture from pure noise at once: with $\bar\alpha_t = 0$, Eq. [predicted picture](#eq-predict-x0) divides by 0, and $\hat x_0 = \sqrt{\bar\alpha_t}\,x_t-\sqrt{1-\bar\alpha_t}\,v$ does not. (Salimans and Ho brought it in to train such samplers.)

# %%
def noise_to_v(
    x_t: Tensor, t: int | Tensor, noise: Tensor, schedule: Schedule
) -> Tensor:
    """Return the velocity v that says the same as `noise` at x_t.

    Args:
        x_t: (B, ...) noisy pictures.
        t: an int, or (B,) int64, in 1 ... T.
        noise: (B, ...) the noise in x_t.
        schedule: the noise schedule.

    Returns:
        (B, ...) v.

    Equation: def-v. Source: Salimans and Ho (2022).
    """
    alpha_bar = schedule.alpha_bar[check.t(t, schedule)]
    x_0 = predict_x_0(x_t, t, noise, schedule)
    return (
        per_image(alpha_bar.sqrt(), noise) * noise
        - per_image((1 - alpha_bar).sqrt(), x_0) * x_0
    )


def v_to_noise(x_t: Tensor, t: int | Tensor, v: Tensor, schedule: Schedule) -> Tensor:
    """Return the noise that says the same as the velocity `v` at x_t.

    This is the inverse of `noise_to_v`.

    Equation: eq-v-inverse. Source: Salimans and Ho (2022).
    """
    alpha_bar = schedule.alpha_bar[check.t(t, schedule)]
    return (
        per_image((1 - alpha_bar).sqrt(), x_t) * x_t
        + per_image(alpha_bar.sqrt(), v) * v
    )

# %% [markdown]
# ## Where people slip
#
# **"Subtract the predicted noise."** Line 4 does not remove the predicted noise. Of the noise that is in $x_t$, which is $\sqrt{1-\bar\alpha_t}\,\hat\varepsilon$, one step takes away $\frac{\beta_t}{\sqrt{1-\bar\alpha_t}}\hat\varepsilon$: the share $\beta_t/(1-\bar\alpha_t)$.

# %% tags=["active-ipynb"]
# for at in (1, 10, 500, 1000):
#     share = schedule.beta[at] / (1 - schedule.alpha_bar[at])
#     print(f"t = {at}: one step removes {share:.1%} of the predicted noise")

# %% [markdown]
# **The root under the bar.** $1-\bar\alpha_t$ in the place of $\sqrt{1-\bar\alpha_t}$ in line 4 is an easy slip. At $t = 1$ of the paper's schedule the two differ by a factor of 100.
#
# ## Exercises
#
# **1.** Check that line 4 is the mean of the step back with $\hat x_0$ put in, for random numbers. *Hint:* `predict_x_0`, `posterior_mean` and `denoising_mean` are all you need.
#
# <details><summary>Solution</summary>
#
# Compute both sides: the derivation above says that they agree to rounding.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 1
# from ddpm_nb.posterior import posterior_mean
#
# x_t, noise = torch.randn(2, 5, 3, dtype=torch.float64, generator=generator)
# t = torch.tensor([1, 2, 50, 500, 1000])
# x_0_hat = predict_x_0(x_t, t, noise, schedule)
# line_4 = denoising_mean(x_t, t, noise, schedule)
# mean = posterior_mean(x_0_hat, x_t, t, schedule)
# for at, row, other in zip(t, line_4, mean):
#     print(f"t = {at:4}: line 4 {row[0]:.10f}, posterior mean {other[0]:.10f}")

# %% [markdown]
# **2.** How large is the factor from $\hat\varepsilon$ to $\hat x_0$ at $t = T$? What does an error of 0.01 in the noise do to $\hat x_0$ there? And why does the sampler hardly feel it? *Hint:* with which factor does $\hat x_0$ stand in the mean of the step back?
#
# <details><summary>Solution</summary>
#
# The factor is $\sqrt{1-\bar\alpha_T}/\sqrt{\bar\alpha_T}$, about 157 for the paper's schedule. An error of 0.01 becomes one of 1.6, nearly the whole range of a pixel. So $\hat x_0$ at large $t$ is no picture to look at. The step itself hardly feels it: in its mean $\hat x_0$ has next to no weight there.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 2
# factor = ((1 - schedule.alpha_bar[1000]) / schedule.alpha_bar[1000]).sqrt()
# print(f"{factor:.0f}, so 0.01 becomes {0.01 * factor:.1f}")
# one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
# print(f"weight of x_0 in the mean: {posterior_mean(one, zero, 1000, schedule)[0]:.5f}")

# %% [markdown]
# **3.** With data $x_0\sim\mathcal N(0, 1)$, what is $\varepsilon^*$, and what is the floor of the loss at time $t$? *Hint:* this is a mixture of one bump.
#
# <details><summary>Solution</summary>
#
# Then $x_t\sim\mathcal N(0,1)$ too, and Eq. [optimal noise](#eq-optimal-noise) gives $\varepsilon^* = \sqrt{1-\bar\alpha_t}\,x_t$. The floor is $1-(1-\bar\alpha_t) = \bar\alpha_t$: variance minus what is explained.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 3
# standard = GaussianMixture([1.0], [[0.0]], [1.0])
# t = torch.tensor([1, 200, 700])
# floors = torch.stack([floor(standard, at) for at in t.tolist()])
# for at, lowest in zip(t, floors):
#     print(f"t = {at:3}: floor {lowest:.6f}, alpha_bar_t {schedule.alpha_bar[at]:.6f}")

# %% [markdown]
# **4.** With the data of exercise 3 and a perfect network, sum Eq. [SNR form](#eq-snr-bound) over $t = 2,\dots,T$. What does the sum become when the steps get ever finer, with $\log\operatorname{SNR}$ falling from 6 to $-6$? Cut the way in two manners, evenly in $\log\operatorname{SNR}$ and evenly in $\bar\alpha_t$. *Hint:* write the error of the picture as a function of the SNR, and the sum as an integral.
#
# <details><summary>Solution</summary>
#
# The error of the picture is $1-\bar\alpha_t = 1/(1+\operatorname{SNR}(t))$. The rectangles become the integral $\frac12\int\frac{d\,\mathrm{SNR}}{1+\mathrm{SNR}} = \frac12\ln\frac{1+\operatorname{SNR}(1)}{1+\operatorname{SNR}(T)}$, from the last SNR to the first. With the ends $e^6$ and $e^{-6}$ that is $\frac12\ln e^6 = 3$ nats, wherever it is cut. With few steps the manner of cutting matters a great deal.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 4
# ends = torch.tensor([6.0, -6.0], dtype=torch.float64)
# for T in (10, 100, 1000, 10_000):
#     u = torch.linspace(0, 1, T, dtype=torch.float64)
#     in_log_snr = torch.lerp(*ends, u).sigmoid()
#     in_alpha_bar = torch.lerp(*ends.sigmoid(), u)
#     sums = []
#     for alpha_bar in (in_log_snr, in_alpha_bar):
#         drops = -(alpha_bar / (1 - alpha_bar)).diff()
#         sums.append(0.5 * (drops * (1 - alpha_bar[1:])).sum())
#     print(f"T = {T:5}: {sums[0]:.3f} and {sums[1]:.3f} nats")

# %% [markdown]
# ## Summary
#
# The jump turns a guess of the noise into a guess of the picture and back. With it, the mean of the step back becomes line 4 of Algorithm 2. The bound asks for a weighted squared error of the noise (or, with the small variance, for the error of the picture times half the drop of the signal-to-noise ratio); the paper drops the weight, which costs nats and helps what one sees. The loss has a floor above zero, which it reaches when the network answers with the mean of what is possible.
#
# **The next question.** How do a training loop and a sampler follow from this, line by line? See [the two algorithms](algorithms.ipynb).
