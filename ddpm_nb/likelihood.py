# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Maximum likelihood is minimum KL divergence
#
# **The question.** We have data and a family of models $p_\theta$. What does it mean to choose the *best* model, and what does the usual recipe, maximum likelihood, really minimise?
#
# ![The chain of four pictures from a handwritten 9, x_0 at the left, to noise, x_T at the right; arrows named q lead right above them, arrows named p_θ lead back below. Only x_0 is lit. Under it two curves: the data's density q(x_0) with two bumps, and the model's p_θ(x_0), one wide bump that lies over both.](images/chain-likelihood.svg)
#
# Which $p_\theta$ is the best match for the data's $q$?
#
# **What you bring.** Probability densities, expectations, the logarithm.
#
# **What you take away.** The chain from "make the data likely" to "make a divergence small", a proof that this divergence is never negative, and the three tools that the rest of the book is tested with: the normal density, mixtures of normals, and the divergence of two normals.

# %% tags=["active-ipynb"]
# # In Colab this installs the book's package; elsewhere it is there, and nothing happens.
# import importlib.util
#
# if importlib.util.find_spec("ddpm_nb") is None:
#     %pip install --quiet --no-deps "ddpm_nb @ git+https://github.com/ddpm_nb/ddpm_nb"

# %%
"""Maximum likelihood and the KL divergence, for normal distributions and their mixtures.

Densities are per point: the last axis of x holds a point's coordinates.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddpm_nb import _checks as check


# %% [markdown]
# ## The tools: normal densities and mixtures
#
# For a point $x$ with $D$ independent coordinates, mean $\mu$ and variances $\sigma_1^2, \dots, \sigma_D^2$, the log of the normal density is a sum over coordinates:
#
# $$
# \log \mathcal N(x;\ \mu, \sigma^2) = -\frac12 \sum_{i=1}^{D} \left[\frac{(x_i-\mu_i)^2}{\sigma_i^2} + \log\left(2\pi\sigma_i^2\right)\right].
# $$ (def-gaussian)
#
# Up to constants it is a *squared distance*. Whenever you meet "the log of a normal density" in this book, think of a squared distance with a minus sign.

# %%
def gaussian_log_prob(x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """Return the log density of a normal distribution with independent coordinates.

    Args:
        x: (..., D) points.
        mean: (..., D) or broadcastable to it.
        var: (..., D) or broadcastable to it: variances, positive.

    Returns:
        (...) natural logarithm of the density, summed over the last axis.

    Equation: def-gaussian.
    """
    return -0.5 * ((x - mean) ** 2 / var + torch.log(2 * math.pi * var)).sum(-1)


# %% [markdown]
# A single bell is too simple to stand for data. A **mixture** of bells is not: it has several bumps, like real data, and yet its density can be written down, also after noise has been added. A draw from it first picks a bump $k$ with probability $\pi_k$, then draws from that bump:
#
# $$
# p(x) = \sum_{k=1}^{K} \pi_k\, \mathcal N\bigl(x;\ \mu_k, s_k^2 I\bigr), \qquad \sum_k \pi_k = 1 .
# $$ (def-mixture)
#
# Far from a bump its density is too small for a float. So the code keeps logarithms: $\log p(x) = \log\sum_k \exp\bigl(\log\pi_k + \log\mathcal N(x;\mu_k, s_k^2 I)\bigr)$, and `torch.logsumexp` computes a log of a sum of exponentials without ever forming them. The bumps have an axis of their own: `x[..., None, :]` makes points of shape (..., D) into (..., 1, D), and they meet all K bumps at once.
#
# ($I$ is the identity matrix: the same variance $s_k^2$ in every coordinate, no correlation.) The book uses mixtures as data whose answers are known: the density at every noise level, the best possible denoiser and, with draws, the smallest possible loss. A network can be measured against them.

# %%
@dataclass(frozen=True, eq=False, init=False)
class GaussianMixture:
    """A mixture of K round normal bumps in D dimensions.

    Args:
        weights: (K,) probabilities of the bumps; they sum to 1.
        means: (K, D) their centres.
        stds: (K,) their standard deviations, one for all coordinates of a bump.

    Attributes: the same three, as float64 tensors on the CPU: not every device has
        float64. Points may come from any device.

    Raises:
        ValueError: if the shapes do not fit, a weight or a standard deviation is not
            positive and finite, a mean is not finite, or the weights do not sum to 1
            within 1e-6.

    Equation: def-mixture.
    """

    weights: Tensor
    means: Tensor
    stds: Tensor

    def __init__(
        self,
        weights: Tensor | Sequence[float],
        means: Tensor | Sequence[Sequence[float]],
        stds: Tensor | Sequence[float],
    ) -> None:
        weights, means, stds = check.mixture(weights, means, stds)
        # A frozen record takes its fields through its dictionary.
        vars(self).update(weights=weights, means=means, stds=stds)

    def log_joint(self, x: Tensor) -> Tensor:
        """Return log(weight_k) + log N(x; bump k), (..., K), for points x (..., D)."""
        x, var = x.cpu().double()[..., None, :], self.stds[:, None] ** 2
        return self.weights.log() + gaussian_log_prob(x, self.means, var)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log density, (...) float64 on the CPU, of points x (..., D).

        Raises:
            ValueError: if the points have not as many coordinates as the mixture.

        Equation: def-mixture.
        """
        check.points("x", x, self.means.shape[1])
        # The bumps' densities add up, not their logarithms.
        return torch.logsumexp(self.log_joint(x), dim=-1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw n points, (n, D), in torch's default floating-point type, on the CPU."""
        bump = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        size = n, self.means.shape[1]
        noise = torch.randn(size, dtype=torch.float64, generator=generator)
        x = self.means[bump] + self.stds[bump, None] * noise
        return x.to(torch.get_default_dtype())


# %% [markdown]
# ## From "make the data likely" to a divergence
#
# Data $x^1, \dots, x^m$ (the upper index counts, it is no power) are drawn independently from $P_\text{data}$; from the forward process on we write $q(x_0)$ for it. **Maximum likelihood** picks the parameters $\theta$, later the weights of a network, under which this very sample is as likely as possible. With $\arg\max_\theta$ for the $\theta$ at which the maximum stands, follow what that means, line by line:
#
# $$
# \begin{aligned}
# \theta^* &= \arg\max_\theta \prod_{i=1}^{m} p_\theta(x^i) && \text{the likelihood of independent draws} \\
# &= \arg\max_\theta \sum_{i=1}^{m} \log p_\theta(x^i) && \log \text{ rises: the top stays in place} \\
# &= \arg\max_\theta \frac1m\sum_{i=1}^{m} \log p_\theta(x^i) && \text{dividing by } m \text{ keeps it too} \\
# &\approx \arg\max_\theta\ \mathbb E_{x\sim P_\text{data}}\bigl[\log p_\theta(x)\bigr] && \text{law of large numbers} \\
# &= \arg\max_\theta \int P_\text{data}(x)\log p_\theta(x)\,dx && \text{definition of the expectation} .
# \end{aligned}
# $$
#
# Only the fourth line is not exact: a training set is a finite sample and not the true distribution. For a fixed $\theta$ the average over $m$ points misses the expectation by about $\sigma/\sqrt m$, where $\sigma$ is the standard deviation of $\log p_\theta(x)$ for one point. (That the *place* of the maximum follows needs a little more: the average has to be close for all $\theta$ at once.)
#
# Now subtract something that has no $\theta$ in it, $\int P_\text{data}\log P_\text{data}$. That moves the height of the curve but not the place of its top, and it completes a well-known quantity, the **Kullback–Leibler divergence**
#
# $$
# \mathrm{KL}(P \,\|\, Q) = \int P(x)\,\log\frac{P(x)}{Q(x)}\,dx .
# $$ (def-kl)
#
# For a finite number of outcomes, such as a coin, the integral is a sum. Where $P(x) = 0$ the term counts as 0; where $P(x) > 0$ and $Q(x) = 0$ the divergence is infinite. With the natural logarithm it is measured in *nats*; divide by $\log 2$ and it is in *bits*.
#
# With the entropy $H(P) = -\int P\log P$, and with $\int P\log p_\theta - \int P\log P = \int P\log\frac{p_\theta}{P} = -\mathrm{KL}(P\,\|\,p_\theta)$ for $P = P_\text{data}$,
#
# $$
# \mathbb E_{x\sim P_\text{data}}\bigl[\log p_\theta(x)\bigr] = -\mathrm{KL}(P_\text{data}\,\|\,p_\theta) - H(P_\text{data}) .
# $$ (eq-likelihood-kl)
#
# The entropy does not depend on $\theta$. So the $\theta$ that makes the likelihood largest is the $\theta$ that makes the divergence smallest, provided that there is one, and that the entropy is finite (both can fail: see *Where people slip*). Note the two words that are easily lost: the expectation is not *equal* to a divergence, it equals *minus* the divergence *minus* an entropy.
#
# ## Why the divergence is never negative
#
# It would be useless to make a "distance" small if it could fall below zero. It cannot:
#
# $$
# \mathrm{KL}(P\,\|\,Q) \ge 0, \quad\text{and}\quad \mathrm{KL}(P\,\|\,Q) = 0 \text{ only for } P = Q .
# $$ (eq-kl-nonnegative)
#
# **Proof.** The logarithm lies below its tangent at 1: $\log u \le u - 1$, with equality only at $u = 1$. (The difference $\log u-(u-1)$ has the slope $1/u-1$: it rises up to $u=1$, is 0 there, and falls after it.) Use it for $u = Q(x)/P(x)$, wherever $P(x) > 0$:
#
# $$
# -\mathrm{KL}(P\,\|\,Q) = \int P\,\log\frac{Q}{P}\,dx \;\le\; \int P\left(\frac{Q}{P}-1\right)dx = \int_{P>0} Q\,dx - 1 \;\le\; 0 .
# $$
#
# Equality in the first place needs $Q = P$ wherever $P > 0$; then $Q$ has no mass left for anywhere else, so $P = Q$ (up to sets of probability zero, which no integral can see). $\blacksquare$ To say "it is zero when the two are the same" is true, but proves nothing about its sign.
#
# ## Two normal distributions
#
# For two normal distributions with independent coordinates the integral can be done by hand, coordinate by coordinate:
#
# $$
# \mathrm{KL}\bigl(\mathcal N(\mu_1,\sigma_1^2)\,\|\,\mathcal N(\mu_2,\sigma_2^2)\bigr)
# = \frac12\sum_{i=1}^{D}\left[\frac{\sigma_{1,i}^2}{\sigma_{2,i}^2} + \frac{(\mu_{1,i}-\mu_{2,i})^2}{\sigma_{2,i}^2} - 1 - \log\frac{\sigma_{1,i}^2}{\sigma_{2,i}^2}\right].
# $$ (eq-gaussian-kl)
#
# For one coordinate, with $x$ drawn from the first distribution:
#
# $$
# \begin{aligned}
# \mathrm{KL} &= \mathbb E\bigl[\log\mathcal N(x;\mu_1,\sigma_1^2) - \log\mathcal N(x;\mu_2,\sigma_2^2)\bigr] && \text{definition} \\
# &= \frac12\,\mathbb E\left[\frac{(x-\mu_2)^2}{\sigma_2^2} - \frac{(x-\mu_1)^2}{\sigma_1^2} + \log\frac{\sigma_2^2}{\sigma_1^2}\right] && \text{the densities; } 2\pi \text{ cancels} \\
# &= \frac12\left[\frac{\sigma_1^2+(\mu_1-\mu_2)^2}{\sigma_2^2} - 1 - \log\frac{\sigma_1^2}{\sigma_2^2}\right] && \text{the two means of squares.}
# \end{aligned}
# $$
#
# The last step uses $\mathbb E(x-\mu_1)^2 = \sigma_1^2$ and $\mathbb E(x-\mu_2)^2 = \sigma_1^2+(\mu_1-\mu_2)^2$, since $x-\mu_2 = (x-\mu_1)+(\mu_1-\mu_2)$ and the mixed term has mean 0. With several independent coordinates the logarithms add, and so do the divergences.

# %%
def gaussian_kl(mean_1: Tensor, var_1: Tensor, mean_2: Tensor, var_2: Tensor) -> Tensor:
    """Return KL(N(mean_1, var_1) || N(mean_2, var_2)) for independent coordinates.

    Args:
        mean_1: (..., D) mean of the first distribution.
        var_1: its variances; all four arguments broadcast against each other.
        mean_2: mean of the second distribution.
        var_2: its variances.

    Returns:
        (...) the divergence in nats, summed over the last axis.

    Equation: eq-gaussian-kl.
    """
    ratio = var_1 / var_2
    return 0.5 * (ratio + (mean_1 - mean_2) ** 2 / var_2 - 1 - ratio.log()).sum(-1)


# %% [markdown]
# **Correlated coordinates** have a covariance matrix $C$ in the place of the variances, and the density $\mathcal N(x;\mu,C) \propto \exp\bigl(-\tfrac12(x-\mu)^\top C^{-1}(x-\mu)\bigr)/\sqrt{\det C}$. The same three steps, with $\mathbb E\bigl[(x-\mu_1)^\top M (x-\mu_1)\bigr] = \operatorname{tr}(M C_1)$ for any matrix $M$ (the trace $\operatorname{tr}$ is the sum of the diagonal), give
#
# $$
# \mathrm{KL} = \frac12\Biggl[\operatorname{tr}\bigl(C_2^{-1}C_1\bigr) + (\mu_1-\mu_2)^\top C_2^{-1}(\mu_1-\mu_2) - D - \log\frac{\det C_1}{\det C_2}\Biggr].
# $$ (eq-gaussian-kl-full)
#
# With diagonal matrices it is the sum above. Only the linear model of [the hidden variable](vae.ipynb) needs it; whoever skips that model can skip this. (In the code a system of equations is solved where the formula has an inverse, and $\log\det$ is one function, not a log of a determinant: both keep more digits.)

# %%
def gaussian_kl_full(
    mean_1: Tensor, cov_1: Tensor, mean_2: Tensor, cov_2: Tensor
) -> Tensor:
    """Return KL(N(mean_1, cov_1) || N(mean_2, cov_2)) for correlated coordinates.

    Args:
        mean_1: (..., D) mean of the first distribution.
        cov_1: (..., D, D) its covariance; leading axes broadcast.
        mean_2: (..., D) mean of the second distribution.
        cov_2: (..., D, D) its covariance.

    Returns:
        (...) the divergence in nats.

    Equation: eq-gaussian-kl-full.
    """
    offset = (mean_1 - mean_2)[..., None]
    trace = torch.linalg.solve(cov_2, cov_1).diagonal(dim1=-2, dim2=-1).sum(-1)
    distance = (offset * torch.linalg.solve(cov_2, offset)).sum((-2, -1))
    log_ratio = torch.logdet(cov_1) - torch.logdet(cov_2)
    return 0.5 * (trace + distance - offset.shape[-2] - log_ratio)

# %% [markdown]
# ## One bell for two bumps: the direction matters
#
# The divergence is not symmetric. Fit *one* bell to data with two far-apart bumps, once by making $\mathrm{KL}(P_\text{data}\|p_\theta)$ small, which is maximum likelihood, and once the other way round.
#
# Under the integral of $\mathrm{KL}(P\|Q)$ stands $P\log(P/Q)$: where $P$ has mass and $Q$ has next to none, the price is enormous. Maximum likelihood therefore *covers* every bump, at the cost of putting mass between them, where there is no data. The reverse divergence charges the bell for mass where the data have none: the bell that makes it small *seeks* one bump and ignores the other.

# %% mystnb={"image": {"alt": "Data density with a small bump at minus 2 and a large one at plus 2. The bell fitted by maximum likelihood is wide and flat, covers both bumps, and has its top between them, where there is next to no data. The bell fitted with the divergence reversed sits tightly on the large bump."}} tags=["active-ipynb"]
# import matplotlib.pyplot as plt
#
# from ddpm_nb import _figures as fig
#
# fig.use_style()
# data = GaussianMixture(weights=[0.3, 0.7], means=[[-2.0], [2.0]], stds=[0.5, 0.5])
# grid = torch.linspace(-7, 7, 2001, dtype=torch.float64)
# log_p = data.log_prob(grid[:, None])
#
#
# def divergence(log_a, log_b):
#     return torch.trapezoid(log_a.exp() * (log_a - log_b), grid)
#
#
# def fit(loss):
#     mean = torch.tensor(0.5, requires_grad=True)
#     log_std = torch.tensor(0.0, requires_grad=True)
#     optimizer = torch.optim.Adam([mean, log_std], lr=0.05)
#     for _ in range(800):
#         log_q = gaussian_log_prob(grid[:, None], mean, (2 * log_std).exp())
#         optimizer.zero_grad()
#         loss(log_q).backward()
#         optimizer.step()
#     return mean.item(), log_std.exp().item()
#
#
# cover = fit(lambda log_q: divergence(log_p, log_q))
# seek = fit(lambda log_q: divergence(log_q, log_p))
#
# figure, ax = plt.subplots()
# ax.fill_between(grid, log_p.exp(), color="#d5d5d5")
# for (mean, std), color in ((cover, fig.BLUE), (seek, fig.ORANGE)):
#     mean, var = torch.tensor(mean), torch.tensor(std**2)
#     ax.plot(grid, gaussian_log_prob(grid[:, None], mean, var).exp(), color=color)
# ax.set(xlabel="x", ylabel="density", yticks=[])
# ax.text(-2.0, 0.26, "data", color=fig.GREY, ha="center")
# fig.label_line(ax, -6.9, 0.2, "KL(data ‖ bell):\ncovers both", fig.BLUE)
# fig.label_line(ax, 2.7, 0.62, "KL(bell ‖ data):\nseeks one bump", fig.ORANGE)
# plt.show()
# print(f"KL(data || bell): mean {cover[0]:.2f}, std {cover[1]:.2f}")
# print(f"KL(bell || data): mean {seek[0]:.2f}, std {seek[1]:.2f}")

# %% [markdown]
# **Figure.** The same data, fitted by one bell in both directions of the divergence. Look between the bumps: the blue bell is highest where there are hardly any data. The orange bell leaves the small bump out.
#
# <div class="live" data-figure="likelihood">
#
# **Guess first.** Put the bell on the large bump, and make it as wide. Which of the two divergences is small there, and what does the other one pay for?
#
# <details><summary>What to see</summary>
#
# $\mathrm{KL}(\text{data}\,\|\,\text{bell})$ pays wherever the data are and the bell is not: 9 nats, nearly all of them for the small bump that is left out. (A wider bell pays less.) The other, 0.36 here, pays wherever the bell is and the data are not.
#
# </details>
#
# </div>
#
# The covering bell has the mean and the variance of the data: $0.7\cdot 2 - 0.3\cdot 2 = 0.8$ and $0.25 + 4 - 0.64 = 3.61 = 1.9^2$. For one bell, maximum likelihood is moment matching: the mean of $\log\mathcal N(x;\mu,\sigma^2)$ over the data is $-\tfrac12\bigl[\log 2\pi\sigma^2 + (\operatorname{Var}[x]+(\mathbb E[x]-\mu)^2)/\sigma^2\bigr]$, and setting its derivatives to zero gives $\mu = \mathbb E[x]$ and $\sigma^2 = \operatorname{Var}[x]$.
#
# The bell on the *small* bump is a minimum of the reversed divergence too, but a worse one: it costs $-\log 0.3 = 1.20$ nats, the bell on the large bump $-\log 0.7 = 0.36$. Why? Where the bell has its mass, the data's density is $0.3$ times the bell (the other bump is far away). So $\log(\text{bell}/\text{data}) = -\log 0.3$ there, and the divergence is the mean of it.
#
# ## The average finds its expectation like $1/\sqrt m$
#
# The derivation replaced an average over $m$ points by an expectation. How good is that? Average $\log p$ over $m$ points, 400 times for each $m$, and look at the standard deviation of these averages, their scatter. (From 400 repeats a standard deviation is itself known to about $1/\sqrt{800}$, 3.5 %. The cell asks that every dot lie within 15 % of the line, four such errors.)

# %% mystnb={"image": {"alt": "Log-log plot of the scatter of the average log-likelihood against the number of points m from 10 to 10,000. The measured dots lie on a straight line that falls as one over the square root of m."}} tags=["active-ipynb"]
# generator = torch.Generator().manual_seed(0)
# sizes = (10, 30, 100, 300, 1000, 3000, 10_000)
#
#
# def averages(m):
#     """Return 400 averages of log p over m points each."""
#     return data.log_prob(data.sample(400 * m, generator)).reshape(400, m).mean(1)
#
#
# scatter = torch.stack([averages(m).std() for m in sizes])
# one_point = data.log_prob(data.sample(200_000, generator)).std()
# expected = one_point / torch.tensor(sizes).sqrt()
#
# figure, ax = plt.subplots(figsize=(4.5, 2.6))
# ax.loglog(sizes, expected, color=fig.BLUE)
# ax.loglog(sizes, scatter, "o", color=fig.ORANGE)
# ax.annotate(
#     "100 times the points", (3000, 1.05 * expected[2]), ha="center", va="bottom"
# )
# ax.annotate(
#     "", (100, expected[2]), (10_000, expected[2]), arrowprops={"arrowstyle": "<-"}
# )
# ax.annotate(
#     "", (10_000, expected[-1]), (10_000, expected[2]), arrowprops={"arrowstyle": "->"}
# )
# ax.text(9000, 0.04, "a tenth of\nthe scatter", ha="right", va="center")
# ax.set(xlabel="points in the average, m", ylabel="scatter of the average")
# fig.label_line(ax, 30, 0.08, r"$\sigma/\sqrt{m}$", fig.BLUE, ha="right")
# plt.show()
# assert ((scatter / expected - 1).abs() < 0.15).all()

# %% [markdown]
# **Figure.** Dots: the scatter of 400 averages. Line: $\sigma/\sqrt m$, where $\sigma$ is the scatter of a single point. To make the error ten times smaller, you need a hundred times as many points.
#
# ## Where people slip
#
# **"Find the largest $\theta$."** The student's notes, which [this book follows](bibliography.md), say it in passing; what is meant is the $\theta$ *for which the likelihood is largest*. And $p_\theta(x)$ is a density, not a probability: for continuous $x$ it can exceed 1, and the probability of any single picture is zero. (A model that gives whole grey levels has probabilities.)
#
# **The largest likelihood need not exist.** For a *sample* of real numbers the likelihood of some models can be made as large as you like. Take a mixture of two bells, one wide, over all points, and put the other on one of the points and make it narrower and narrower. At that point the density grows beyond all bounds; at the others it stays at least half of the wide bell's. The product of all densities grows too:

# %% tags=["active-ipynb"]
# points = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
# for width in (1, 1e-2, 1e-4, 1e-8, 1e-16):
#     model = GaussianMixture([0.5, 0.5], [[0.0], [2.0]], [1.0, width])
#     print(f"width {width:<6g} log-likelihood {model.log_prob(points).sum():6.1f}")

# %% [markdown]
# In practice a floor under the width, or a family too stiff to single out one point, keeps the maximum finite.
#
# **Densities for grey levels.** The same happens with endless *data* if these sit on grey levels, as all digital pictures do. Each level has a positive probability. A continuous model can put an ever narrower bell on each, and $\mathbb E\log p_\theta$ has no upper bound. $P_\text{data}$ then has no density, and the formula above would subtract an entropy of $-\infty$. Two ways out: the data get a little continuous noise, or the model gives a *probability* to each level ([the evaluation](evaluation.ipynb) does that), and sums take the place of the integrals.
#
# **Plausible is not typical.** A high density does not mean that samples look like this. In $D$ dimensions the density of $\mathcal N(0, I)$ is highest at the origin, yet for large $D$ practically no sample comes near it: the squared length of a sample is a sum of $D$ squares of mean 1 and variance 2, so it is $D$ give or take $\sqrt{2D}$.

# %% tags=["active-ipynb"]
# D = 3072  # as many coordinates as a CIFAR-10 picture
# samples = torch.randn(1000, D, generator=generator)
# length = samples.norm(dim=1)
# zero, one = torch.zeros(D), torch.ones(D)
# gain = gaussian_log_prob(zero, zero, one) - gaussian_log_prob(samples, zero, one)
# print(f"lengths of 1,000 samples: {length.min():.1f} to {length.max():.1f}")
# print(
#     f"the origin's log density is higher by {gain.min():.0f} to {gain.max():.0f} nats"
# )

# %% [markdown]
# A grey, empty picture is thus the most *plausible* one under pure noise, and not at all a *typical* one. Keep it in mind when a likelihood is used to judge pictures.
#
# ## Exercises
#
# **1.** Show that $\mathrm{KL}(P\|Q)$ of two normal distributions with the same variance $\sigma^2$ is $(\mu_1-\mu_2)^2/2\sigma^2$, and is then symmetric after all. *Hint:* which terms of the formula are left?
#
# <details><summary>Solution</summary>
#
# In Eq. [gaussian KL](#eq-gaussian-kl) the ratio of the variances is 1, so the first term cancels the $-1$ and the logarithm is 0.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 1
# a, b, var = torch.tensor([0.3]), torch.tensor([1.7]), torch.tensor([0.49])
# there, back = gaussian_kl(a, var, b, var), gaussian_kl(b, var, a, var)
# print(f"there {there:.4f}, back {back:.4f}, by hand {1.4**2 / (2 * 0.49):.4f}")

# %% [markdown]
# **2.** Estimate $\mathrm{KL}(P\|Q)$ for two normal distributions by drawing from $P$ and averaging $\log P - \log Q$. Is the formula within four error bars? *Hint:* of what is the divergence the expectation?
#
# <details><summary>Solution</summary>
#
# The divergence is an expectation under $P$, so an average over draws from $P$ estimates it, and the scatter of the summands over $\sqrt m$ is its error bar.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 2
# mean_1, var_1, mean_2, var_2 = (
#     torch.tensor([v], dtype=torch.float64) for v in (0.0, 1.0, 0.5, 2.0)
# )
# x = torch.randn(100_000, 1, dtype=torch.float64, generator=generator)
# terms = gaussian_log_prob(x, mean_1, var_1) - gaussian_log_prob(x, mean_2, var_2)
# error_bar = terms.std() / len(terms) ** 0.5
# formula = gaussian_kl(mean_1, var_1, mean_2, var_2)
# assert (terms.mean() - formula).abs() < 4 * error_bar
# print(f"drawn {terms.mean():.4f} ± {error_bar:.4f}, formula {formula:.4f}")

# %% [markdown]
# **3.** A model gives a coin "heads" with probability $\theta$; in the data, 7 of 10 tosses were heads. Where is the likelihood largest, and where is $\mathrm{KL}(\text{data}\|\text{model})$ smallest? *Hint:* write the log of the likelihood down, and set its derivative to 0.
#
# <details><summary>Solution</summary>
#
# Both at $\theta = 0.7$: the derivative of $7\log\theta + 3\log(1-\theta)$ is zero there, and the divergence is 0 when the two distributions agree.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 3
# theta = torch.linspace(0.01, 0.99, 99)
# log_likelihood = 7 * theta.log() + 3 * (1 - theta).log()
# kl = 0.7 * (0.7 / theta).log() + 0.3 * (0.3 / (1 - theta)).log()
# print(f"the most likely theta: {theta[log_likelihood.argmax()]:.2f}")
# print(f"the theta of the smallest divergence: {theta[kl.argmin()]:.2f}")

# %% [markdown]
# **4.** Move the two bumps of the first picture together, to $-a$ and $+a$. With $a = 2$ the bell of $\mathrm{KL}(\text{bell}\|\text{data})$ sits on one bump. From which $a$ on does it cover both? Guess first. *Hint:* copy the picture's cell and try; start the bell from several places, and keep the best.
#
# <details><summary>Solution</summary>
#
# From about $a = 1.05$ on: the bumps are then four of their widths apart. A bell across both pays for its mass in the valley between them, where there are hardly any data; a bell on one bump pays $-\log 0.7$ for leaving the other out. As the bumps come together the valley fills, and at some distance the first price falls below the second. The best bell jumps: its mean from about $a$ to $0.4\,a$, which is the data's own mean, $0.7a - 0.3a$.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 4
# for a in (2.0, 1.5, 1.1, 1.0, 0.75):
#     closer = GaussianMixture([0.3, 0.7], [[-a], [a]], [0.5, 0.5])
#     log_p = closer.log_prob(grid[:, None])
#     # All bells of a table of means and widths: slower than Adam, and never stuck.
#     means, stds = torch.linspace(-1, 2.5, 141), torch.linspace(0.3, 1.5, 61)
#     log_q = torch.stack(
#         [gaussian_log_prob(grid[:, None], m, stds[:, None, None] ** 2) for m in means]
#     )
#     cost = divergence(log_q, log_p)
#     best = divmod(int(cost.argmin()), len(stds))
#     print(f"a = {a}: mean {means[best[0]] / a:.2f} a, std {stds[best[1]]:.2f}")

# %% [markdown]
# ## Summary
#
# Maximum likelihood looks for the model under which the sample is most likely. For much data that is the model with the smallest divergence $\mathrm{KL}(P_\text{data}\|p_\theta)$, because the mean log-likelihood is minus this divergence, minus an entropy that has no $\theta$. The divergence is never negative, it is not symmetric, and in this direction it punishes a model that misses any part of the data.
#
# **The next question.** A model that draws pictures starts from a hidden variable. How likely is a picture under such a model? See [the hidden variable](vae.ipynb).
