# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How good is it?
#
# **The question.** Samples can please the eye and still be wrong: blurred, or all alike, or copied. Which numbers say how good a model is, and how sure are they?
#
# ![The chain with the whole way back lit, from noise to a handwritten 9. A bracket lies under each of the three arrows, and under these stands: bits plus bits plus bits.](images/chain-evaluation.svg)
#
# How many bits does the whole way back cost?
#
# **What you bring.** The bound as a sum of three kinds of terms, from [the bound](bound.ipynb); the divergence of two normal distributions, from [maximum likelihood](likelihood.ipynb); both algorithms, and [fewer steps](fewer_steps.ipynb).
#
# **What you take away.** The bound in bits per dimension, each term of it, with an error bar. The rate–distortion curve. The Fréchet distance and the Inception score, and why a small sample flatters nobody. And three ways to look inside the sampler: what it sees on the way, what it has decided by then, and what lies between two pictures.

# %% tags=["active-ipynb"]
# # In Colab this installs the book's package; elsewhere it is there, and nothing happens.
# import importlib.util
#
# if importlib.util.find_spec("ddpm_nb") is None:
#     %pip install --quiet --no-deps "ddpm_nb @ git+https://github.com/ddpm_nb/ddpm_nb"

# %%
"""Evaluation: bits per dimension, rate and distortion, Fréchet distance, views of the sampler."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypedDict, Unpack

import torch
from torch import Tensor
from tqdm import tqdm

from ddpm_nb import _checks as check
from ddpm_nb._devices import where_float64
from ddpm_nb._models import InBatches, InFloat64, evaluating
from ddpm_nb._noise import (
    Randomness,
    fresh_for_each,
    in_batches,
    noise_for,
    same_for_each,
    times_for,
)
from ddpm_nb.algorithms import ancestral, sample, sample_steps
from ddpm_nb.fewer_steps import timesteps
from ddpm_nb.forward import Schedule, q_sample
from ddpm_nb.likelihood import gaussian_kl, gaussian_log_prob
from ddpm_nb.loss import Model, Variance, predict_noise, predict_x_0, reverse_variance
from ddpm_nb.posterior import posterior_mean, posterior_variance

Decoder = Literal["exact", "tanh", "continuous"]
FirstStep = Literal["original", "beta"]


# %% [markdown]
# ## Bits per dimension
#
# The bound says how many **nats** a model needs, on average, to describe a picture: $-\log p_\theta(x_0)$ is at most
#
# $$
# L = \underbrace{\mathrm{KL}\bigl(q(x_T\mid x_0)\,\|\,p(x_T)\bigr)}_{\text{prior, } L_T}
# + \sum_{t=2}^{T}\underbrace{\mathbb E\,\mathrm{KL}\bigl(q(x_{t-1}\mid x_t,x_0)\,\|\,p_\theta(x_{t-1}\mid x_t)\bigr)}_{\text{steps, } L_{t-1}}
# + \underbrace{\mathbb E\bigl[-\log p_\theta(x_0\mid x_1)\bigr]}_{\text{decoder, } L_0} .
# $$
#
# Divided by $\ln 2$ it counts bits. Divided by the number $D$ of coordinates of a picture as well (pixels times channels), it can be compared between pictures of different sizes. That is the unit in which the paper reports:
#
# $$
# \text{bits per dimension} = \frac{L}{D\,\ln 2} .
# $$ (def-bits)
#
# It has a plain meaning. A good compressor that knows the model could store the picture in about $L/\ln 2$ bits. A file without any compression takes 8 bits for each of its numbers from 0 to 255.
#
# ### The prior and the steps
#
# Both are divergences of Gaussians, and Eq. [divergence of two normals](#eq-gaussian-kl) gives them in closed form. The step back that knows $x_0$ has the mean $\tilde\mu_t(x_t,x_0)$ of Eq. [posterior mean](#eq-posterior-mean) and the variance $\tilde\beta_t$. The model's step has the network's guess $\hat x_0$ in the place of $x_0$, and the variance $\sigma_t^2$ of the sampler:
#
# $$
# \begin{aligned}
# L_T &= \mathrm{KL}\Bigl(\mathcal N\bigl(\sqrt{\bar\alpha_T}\,x_0,\ (1-\bar\alpha_T)I\bigr)\,\Big\|\,\mathcal N(0,I)\Bigr) , \\
# L_{t-1} &= \mathbb E\,\mathrm{KL}\Bigl(\mathcal N\bigl(\tilde\mu_t(x_t,x_0),\ \tilde\beta_t I\bigr)\,\Big\|\,\mathcal N\bigl(\tilde\mu_t(x_t,\hat x_0),\ \sigma_t^2 I\bigr)\Bigr) .
# \end{aligned}
# $$ (eq-bits-terms)
#
# The expectation is over the noise in $x_t$. The code takes one draw of it for each picture.

# %%
def prior_cost(x_0: Tensor, schedule: Schedule) -> Tensor:
    """Return L_T in nats, (B,), for pictures x_0 (B, ...).

    Equation: eq-bits-terms. Paper: equation 5.
    """
    alpha_bar = schedule.alpha_bar[-1]
    zero, one = torch.zeros_like(alpha_bar), torch.ones_like(alpha_bar)
    return gaussian_kl(alpha_bar.sqrt() * x_0.flatten(1), 1 - alpha_bar, zero, one)


def step_cost(
    x_0: Tensor,
    x_0_hat: Tensor,
    x_t: Tensor,
    t: Tensor,
    schedule: Schedule,
    variance: Variance,
) -> Tensor:
    """Return L_{t-1} in nats, (B,), for one x_t of each picture.

    Args:
        x_0: (B, ...) the pictures.
        x_0_hat: (B, ...) the network's guesses, made from x_t.
        x_t: (B, ...) the noisy pictures.
        t: (B,) int64, their times, 2 ... T.
        schedule: the noise schedule.
        variance: the sampler's sigma_t^2, "large" or "small".

    Equation: eq-bits-terms. Paper: equation 5.
    """
    return gaussian_kl(
        posterior_mean(x_0, x_t, t, schedule).flatten(1),
        posterior_variance(t, schedule)[:, None],
        posterior_mean(x_0_hat, x_t, t, schedule).flatten(1),
        reverse_variance(t, schedule, variance)[:, None],
    )


# %% [markdown]
# ### The decoder: probabilities, not densities
#
# The last term needs care. Pixels are whole numbers from 0 to 255, laid on $[-1,1]$ with the distance $2/255$ from one to the next. A *density* at such a point is no probability: it can be made as large as one likes by making the Gaussian narrow, and then "bits" would mean nothing. So the last step gives every level the probability of the interval around it: the integral of the Gaussian over half a distance to each side. The first level and the last one get all that lies beyond them.
#
# Let there be $K$ levels; for pictures $K = 256$. Half a distance is $h = 1/(K-1)$. With $\Phi$ for the distribution function of the standard normal, $\mu$ for the mean and $\sigma_1^2$ for the variance of the last step,
#
# $$
# P(x_0\mid x_1) = \begin{cases}
# \Phi\bigl(\tfrac{x_0+h-\mu}{\sigma_1}\bigr) & x_0 = -1 \\
# \Phi\bigl(\tfrac{x_0+h-\mu}{\sigma_1}\bigr)-\Phi\bigl(\tfrac{x_0-h-\mu}{\sigma_1}\bigr) & \text{in between} \\
# 1-\Phi\bigl(\tfrac{x_0-h-\mu}{\sigma_1}\bigr) & x_0 = 1 ,
# \end{cases}
# $$ (def-decoder)
#
# for each coordinate. The intervals cover the line without gap or overlap, so the $K$ probabilities sum to 1.
#
# The authors' code uses an approximation of $\Phi$ that needs no special function, and never lets a probability fall below $10^{-12}$:
#
# $$
# \Phi(z) \approx \tfrac12\Bigl(1+\tanh\bigl(\sqrt{2/\pi}\,(z+0.044715\,z^3)\bigr)\Bigr) .
# $$ (def-tanh-cdf)

# %%
def tanh_cdf(z: Tensor) -> Tensor:
    """Return the authors' approximation of Phi(z).

    Equation: def-tanh-cdf.
    """
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


# %% [markdown]
# It is off by up to 0.00018, and published numbers contain that. Both are here; the exact one is the default. It is computed with logarithms of $\Phi$, on whichever side of the Gaussian is the smaller one: a difference of two numbers near 1 would have no digits left. The first level reaches down to $-\infty$ and the last one up to $+\infty$, so one line serves all three cases.

# %%
def log_mass(low: Tensor, high: Tensor) -> Tensor:
    """Return log(Phi(high) - Phi(low)), with all its digits.

    Equation: def-decoder.
    """
    # Phi(high) - Phi(low) = Phi(-low) - Phi(-high): take the side where both are small.
    flip = (low > 0) | (high == math.inf)
    small = torch.special.log_ndtr(torch.where(flip, -high, low))
    large = torch.special.log_ndtr(torch.where(flip, -low, high))
    return large + torch.log(-torch.expm1(small - large))


def discretized_log_prob(
    x_0: Tensor,
    mean: Tensor,
    var: float | Tensor,
    *,
    levels: int = 256,
    decoder: Literal["exact", "tanh"] = "exact",
) -> Tensor:
    """Return the log probability of each coordinate's level under a discretised normal.

    Args:
        x_0: (...) coordinates on the levels -1 ... 1.
        mean: (...) the normal's mean.
        var: its variance, positive; broadcasts.
        levels: how many levels there are, at least 2: 256 for pictures.
        decoder: "exact", or "tanh" for the formula of the paper's authors, which
            cuts off at 1e-12.

    Returns:
        (...) in nats, one for each coordinate.

    Raises:
        TypeError: if the number of levels is no whole number.
        ValueError: if there are fewer than 2 levels or the decoder is unknown.

    Equation: def-decoder, def-tanh-cdf. Paper: equation 13.
    """
    half = 1 / (check.whole("levels", levels, 2) - 1)
    sigma = torch.as_tensor(var, dtype=mean.dtype, device=mean.device).sqrt()
    low = torch.where(x_0 < half - 1, -math.inf, (x_0 - half - mean) / sigma)
    high = torch.where(x_0 > 1 - half, math.inf, (x_0 + half - mean) / sigma)
    if check.one_of("decoder", decoder, ("exact", "tanh")) == "tanh":
        return (tanh_cdf(high) - tanh_cdf(low)).clamp(min=1e-12).log()
    place = where_float64(mean.device)  # a device without it has no log_ndtr, either
    return log_mass(low.to(place), high.to(place)).to(mean.device)


# %% mystnb={"image": {"alt": "Two panels, one above the other. Above: a bell cut into bars, one for each of nine levels; the last bar at the right rises above the bell because it holds all that lies beyond it; the first ones are too small to be seen. Below: the error of the tanh approximation of the normal distribution function, a wave between minus 0.00018 and plus 0.00018."}} tags=["active-ipynb"]
# import matplotlib.pyplot as plt
#
# from ddpm_nb import _figures as fig
#
# fig.use_style()
# nine = torch.linspace(-1, 1, 9, dtype=torch.float64)
# centre, var = torch.tensor(0.55, dtype=torch.float64), 0.15
# log_p = discretized_log_prob(nine, centre.expand(9), var, levels=9)
# grid = torch.linspace(-1.6, 2.4, 400, dtype=torch.float64)
# bell = torch.exp(-((grid - centre) ** 2) / (2 * var)) / (2 * torch.pi * var) ** 0.5
#
# figure, (left, right) = plt.subplots(2, 1, figsize=(5, 4.6))
# left.bar(nine, log_p.exp(), 0.22, color=fig.BLUE)
# left.plot(grid, bell / 4, color=fig.ORANGE)  # an interval is 1/4 wide
# arrow = {"arrowstyle": "->", "color": fig.BLUE}
# place = {"xy": (1, 0.19), "xytext": (1.4, 0.2)}
# left.annotate("and all\nbeyond it", **place, color=fig.BLUE, arrowprops=arrow)
# left.set(xlabel="level", ylabel="probability")
# z = torch.linspace(-5, 5, 1001, dtype=torch.float64)
# right.plot(z, tanh_cdf(z) - torch.special.ndtr(z), color=fig.BLUE)
# right.set(xlabel="z", ylabel="tanh formula minus $\\Phi$")
# plt.show()
#
# all_levels = torch.linspace(-1, 1, 256, dtype=torch.float64)
# for mean in (0.0, 0.99, -3.0):
#     for sigma in (0.001, 0.01, 1.0):
#         centre = torch.tensor(mean, dtype=torch.float64)
#         log_p = discretized_log_prob(all_levels, centre, sigma**2)
#         assert (log_p.exp().sum() - 1).abs() < 1e-12

# %% [markdown]
# **Figure.** Above: a bell becomes nine probabilities, one a level; the last level takes all that lies beyond it. Below: what the tanh formula of the authors' code gets wrong, at most 0.0002. (For 256 levels and nine bells the probabilities add up to 1, to $10^{-12}$.)
#
# ### The variance of the last step
#
# Sampling needs no $\sigma_1$, because no noise is added there. The decoder does. With the small variance, $\tilde\beta_1 = 0$: there would be no Gaussian at all. The authors take $\tilde\beta_2$ for it, and they do so for *both* choices of the variance. That is worth knowing when numbers are compared, so the code offers it as `"original"`, and $\sigma_1^2 = \beta_1$ as `"beta"`.
#
# The mean of the last step is $\hat x_0$ itself. For data that are no pictures, a density stands in the place of the probability.

# %%
def first_variance(schedule: Schedule, first_step: FirstStep) -> Tensor:
    """Return sigma_1^2 of the decoder: beta-tilde_2 ("original") or beta_1 ("beta").

    Equation: def-decoder.
    """
    original = check.first_step(first_step, schedule) == "original"
    return posterior_variance(2, schedule) if original else schedule.beta[1]


def decoder_cost(
    x_0: Tensor, x_0_hat: Tensor, var: Tensor, decoder: Decoder, levels: int
) -> Tensor:
    """Return L_0 in nats, (B,), for pictures and guesses (B, ...) and the variance ().

    Equation: def-decoder. Paper: equation 13.
    """
    if decoder == "continuous":
        return -gaussian_log_prob(x_0.flatten(1), x_0_hat.flatten(1), var)
    log_p = discretized_log_prob(x_0, x_0_hat, var, levels=levels, decoder=decoder)
    return -log_p.flatten(1).sum(1)


# %% [markdown]
# ### What must come out
#
# Before measuring a network, measure cases whose answer is known.
#
# **A single point.** Let the data be one picture, on interior levels, and the network perfect. Then $\hat x_0 = x_0$ at every $t$, and all means are right. The steps still cost something if their variance is not $\tilde\beta_t$. With Eq. [divergence of two normals](#eq-gaussian-kl) and equal means, the steps and the decoder together cost, per dimension,
#
# $$
# \frac1{\ln2}\left[\;\sum_{t=2}^{T}\frac12\left(\frac{\tilde\beta_t}{\sigma_t^2}-1-\ln\frac{\tilde\beta_t}{\sigma_t^2}\right)\right] \;-\;\log_2\Bigl(2\,\Phi(h/\sigma_1)-1\Bigr) .
# $$ (eq-bits-point)
#
# The second part is there for either choice of the variances. It is the price of a last step that is wider than one level. The first is 0 for the small variance.
#
# **Gaussian data.** Let $x_0\sim\mathcal N(0,1)$, treated as continuous, with the perfect network, $\sigma_t^2 = \beta_t$ and a density in the place of the decoder's probability. Then $x_t$ and $x_{t-1}$ are jointly normal with variance 1 and covariance $\sqrt{\alpha_t}$. So the true step back, without $x_0$, is $\mathcal N(\sqrt{\alpha_t}\,x_t,\ \beta_t)$, and the model's is the same: $\varepsilon^* = \sqrt{1-\bar\alpha_t}\,x_t$ makes line 4's mean $(x_t-\beta_tx_t)/\sqrt{\alpha_t} = \sqrt{\alpha_t}\,x_t$. The whole model chain equals the data's chain, nothing is lost, and the bound is the entropy of the data:
#
# $$
# \mathbb E\left[\frac{L}{D\ln2}\right] = \tfrac12\log_2(2\pi e) .
# $$ (eq-bits-normal)
#
# **Never below.** For any data and any network, the mean of the bound over the data cannot lie below the entropy of the data: by Eq. [KL is not negative](#eq-kl-nonnegative) no model can describe data more briefly than their entropy. A number below it means a mistake.

# %% [markdown]
# ## An estimate with an error bar
#
# A whole evaluation takes $T$ network evaluations for each picture: $10{,}000\times1{,}000$ for CIFAR-10's test set. A training step on 128 pictures takes 128, and then the gradients, which are about twice as much work again. So one evaluation costs about as much as 26,000 steps of training, a thirtieth of the paper's 800,000. But the sum over $t$ can be estimated. Cut the times $2,\dots,T$ into $M$ blocks, the **strata**, with $w_m$ times in block $m$. For each picture draw *one* time $t_m$ from each block, evenly, and count it $w_m$ times:
#
# $$
# \mathbb E\left[\sum_{m=1}^{M} w_m\,L_{t_m-1}\right] = \sum_{m=1}^{M} w_m\cdot\frac1{w_m}\sum_{t\in\text{block }m} L_{t-1} = \sum_{t=2}^{T} L_{t-1} .
# $$ (eq-strata)
#
# The terms change fastest at small $t$, so the blocks are short there: their ends are the "quadratic" times of [fewer steps](fewer_steps.ipynb). With `num_timesteps=None`, every block holds one time, and all are visited.

# %%
def strata(T: int, num_timesteps: int | None) -> list[range]:
    """Cut the times 2 ... T into so many blocks; None for a block a time.

    Equation: eq-strata.
    """
    ends: Iterable[int] = range(T)
    if num_timesteps is not None:
        number = check.whole("num_timesteps", num_timesteps, 1, T - 1)
        ends = reversed(timesteps(T - 1, number, "quadratic"))
    return [range(low + 2, high + 2) for low, high in pairwise(ends)]


def guesses(
    model: Model,
    x_0: Tensor,
    schedule: Schedule,
    blocks: Iterable[range],
    clip: bool,
    generator: Randomness,
    dtype: torch.dtype,
) -> Iterator[tuple[range, Tensor, Tensor, Tensor]]:
    """Draw a time of each block for each picture, and let the network guess the picture.

    Args:
        model: noise = model(x_t, t).
        x_0: (B, ...) pictures.
        schedule: the noise schedule.
        blocks: blocks of times.
        clip: clip the guesses to [-1, 1].
        generator: where times and noise come from.
        dtype: the type in which noise is drawn.

    Yields:
        each block with t (B,), x_t (B, ...) and x_0-hat (B, ...).

    Equation: eq-strata.
    """
    time = times_for(x_0.shape, x_0.device, generator, schedule.T)
    noise = noise_for(x_0.shape, x_0.device, generator, dtype)
    for block in blocks:
        t = time(block)
        x_t = q_sample(x_0, t, noise(block[-1]).to(x_0), schedule)
        x_0_hat = predict_x_0(x_t, t, predict_noise(model, x_t, t), schedule)
        yield block, t, x_t, x_0_hat.clamp(-1, 1) if clip else x_0_hat


# %% [markdown]
# The estimate is right on average, for each picture by itself. Because every picture draws its own times, the totals of $B$ pictures are $B$ independent numbers, and the scatter between them contains everything that is random: the choice of pictures, of times, and of noise. So the 95 % interval of the mean is the usual one, $\text{mean}\pm1.96\;\text{standard deviation}/\sqrt B$. It speaks about the population from which the pictures were drawn. It needs some 30 pictures and 10 times for each; with fewer, the rare expensive times are often missed altogether, and the interval is too narrow and lies too low.

# %%
@dataclass(frozen=True, eq=False)
class BitsPerDim:
    """The bound for B pictures, in bits per dimension, term by term.

    All numbers are on the CPU, in float64.

    Attributes:
        prior: (B,) L_T.
        t: (M, B) int64, the times that were visited, from 2 up; M = T - 1 for all.
        steps: (M, B) L_{t-1} at these times.
        weight: (M,) how many times each row stands for: all 1 if all were visited.
        decoder: (B,) L_0.
        squared_error: (M + 1, B) mean squared error of x_0-hat, per coordinate, at
            t = 1 and then at the times `t`.
    """

    prior: Tensor
    t: Tensor
    steps: Tensor
    weight: Tensor
    decoder: Tensor
    squared_error: Tensor

    @property
    def total(self) -> Tensor:
        """The bound for each picture, (B,).

        Equation: def-bits, eq-strata.
        """
        return self.prior + (self.weight[:, None] * self.steps).sum(0) + self.decoder

    @property
    def mean(self) -> float:
        """The mean over the pictures."""
        return float(self.total.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the mean, for the population the pictures are drawn from.

        It needs at least some 30 pictures and 10 times a picture. With fewer it is too
        narrow, and mostly too low: the rare expensive times are missed.

        Raises:
            ValueError: if there is only one picture.

        Equation: eq-strata.
        """
        n = check.several("interval", self.total)
        half = 1.96 * float(self.total.std()) / math.sqrt(n)
        return self.mean - half, self.mean + half


# %% [markdown]
# Now the bound is a loop over the blocks. Before them stands $t = 1$, whose cost is the decoder's. The pictures come in batches, and everything but the network works in float64.

# %%
def bits_per_dim(
    model: Model,
    x_0: Tensor,
    schedule: Schedule,
    *,
    num_timesteps: int | None = None,
    variance: Variance = "large",
    first_step: FirstStep = "original",
    clip: bool = True,
    decoder: Decoder = "exact",
    levels: int = 256,
    batch_size: int = 128,
    generator: Randomness = None,
    progress: bool = False,
) -> BitsPerDim:
    """Evaluate the bound for pictures, in bits per dimension.

    Besides x_0 the memory holds one batch, and the three numbers of each visited time of
    each picture.

    Args:
        model: noise = model(x_t, t).
        x_0: (B, ...) pictures on `levels` levels from -1 to 1.
        schedule: the noise schedule, on x_0's device.
        num_timesteps: how many times a picture are visited, one drawn from each of so many
            blocks; None for all.
        variance: sigma_t^2 for t >= 2, "large" or "small".
        first_step: the variance of the last step back: beta-tilde_2 ("original", as the
            paper's authors) or beta_1 ("beta").
        clip: clip x_0-hat to [-1, 1] before the mean is taken, as the authors do.
        decoder: "exact", "tanh", or "continuous" for a density in the place of a
            probability: for data that are no pictures. Then `levels` is not used, and
            `clip` should be False.
        levels: how many grey levels the pictures have.
        batch_size: how many pictures the network gets at once.
        generator: where times and noise come from, as for `sample_steps`. With a list
            of generators, or by counter, the numbers of a picture do not depend on the
            other pictures, nor on batch_size. A callable is then asked for a block's
            noise by the block's last time, and for its times by that plus T.
        progress: show a bar.

    Returns:
        all terms. `.total` has the bound of each picture, `.mean` and `.interval` the
        mean with its 95 % interval.

    Raises:
        TypeError: if x_0 is no floating-point tensor, or a count no whole number.
        ValueError: if x_0 is not on the levels, `num_timesteps` is not in 1 ... T - 1, a name is
            unknown, there is no picture, T is 1 with "original", the generators are not
            as many as the pictures, or network, pictures and schedule are not on one
            device.

    Equation: def-bits, eq-strata. Paper: equation 5.
    """
    size = check.evaluation(model, x_0, schedule, batch_size, variance, decoder, levels)
    if schedule.beta.dtype != torch.float64:  # MPS has none: work on the CPU
        schedule = Schedule(schedule.beta[1:])
    blocks = [range(1, 2), *strata(schedule.T, num_timesteps)]
    var_1 = first_variance(schedule, first_step)
    batches, parts = in_batches(x_0, size, generator), []
    model = InFloat64(model, x_0)
    with evaluating(model):
        for images, rng in tqdm(batches, disable=not progress):
            x, rows = images.to(schedule.beta.device).double(), []
            walk = guesses(model, x, schedule, blocks, clip, rng, images.dtype)
            for block, t, x_t, x_0_hat in walk:
                if block[-1] == 1:
                    cost = decoder_cost(x, x_0_hat, var_1, decoder, levels)
                else:
                    cost = step_cost(x, x_0_hat, x_t, t, schedule, variance)
                rows.append((t, cost, (x_0_hat - x).square().flatten(1).mean(1)))
            columns = (torch.stack(column).cpu() for column in zip(*rows))
            parts.append((prior_cost(x, schedule).cpu(), *columns))
    prior, t, cost, error = (torch.cat(part, dim=-1) for part in zip(*parts))
    weight, unit = torch.tensor(list(map(len, blocks))), x_0[0].numel() * math.log(2)
    return BitsPerDim(
        prior / unit, t[1:], cost[1:] / unit, weight[1:], cost[0] / unit, error
    )


# %% [markdown]
# First the known cases, each with its perfect network. One point:

# %% tags=["active-ipynb"]
# # Perfect networks for one point, for Gaussian data, and for four grey levels.
# from ddpm_nb.likelihood import GaussianMixture
# from ddpm_nb.posterior import optimal_noise
#
# schedule = Schedule.linear()
# point = 201 / 255 * 2 - 1  # an interior level
# at_point = optimal_noise(GaussianMixture([1.0], [[point]], [1e-9]), schedule)
# bell = optimal_noise(GaussianMixture([1.0], [[0.0]], [1.0]), schedule)
# four = torch.tensor([-1.0, -1 / 3, 1 / 3, 1.0], dtype=torch.float64)
# shares = torch.tensor([4, 2, 1, 1]) / 8
# best = optimal_noise(GaussianMixture(shares, four[:, None], [1e-6] * 4), schedule)
# generator = torch.Generator().manual_seed(0)

# %% tags=["active-ipynb"]
# x_0 = torch.full((2, 1), point, dtype=torch.float64)
# for variance in ("small", "large"):
#     bits = bits_per_dim(at_point, x_0, schedule, variance=variance, clip=False)
#     steps, last = bits.steps.sum(0).mean(), bits.decoder.mean()
#     print(f"one point, {variance}: steps {steps:.4f}, decoder {last:.4f} bits")

# %% [markdown]
# Gaussian data, and a density in the place of the decoder's probability:

# %% tags=["active-ipynb"]
# draws = torch.randn(2000, 1, dtype=torch.float64, generator=generator)
# density = {"first_step": "beta", "clip": False, "decoder": "continuous"}
# some = {"num_timesteps": 100, "generator": generator}
# bits = bits_per_dim(bell, draws, schedule, **density, **some)
# entropy = 0.5 * math.log2(2 * math.pi * math.e)
# low, high = bits.interval
# print(f"normal data: {low:.2f} to {high:.2f} bits; the entropy: {entropy:.2f}")
# assert low < entropy < high < low + 0.2

# %% [markdown]
# Four levels with the probabilities 1/2, 1/4, 1/8 and 1/8, an entropy of 1.75 bits:

# %% tags=["active-ipynb"]
# index = torch.multinomial(shares, 2000, replacement=True, generator=generator)
# x_0 = four[index, None]
# for variance in ("small", "large"):
#     bits = bits_per_dim(best, x_0, schedule, variance=variance, levels=4, **some)
#     low, high = bits.interval
#     print(f"four levels, {variance}: {bits.mean:.1f} bits; the entropy: 1.75")
#     assert 1.75 < high < low + 0.1

# %% [markdown]
# (The intervals are those of 2,000 draws; for the four levels they are narrower than 0.1 bits.) For these few points the small variance is nearly right, and the bound comes close to the entropy. The large one is too wide for data that have no width of their own, and every step pays for it. With Gaussian data it is the other way round: there the step back has exactly the variance $\beta_t$, as shown above.
#
# ## The digits in bits
#
# Now a real network. The 8×8 digits have 17 grey levels, 0 to 16, and not 256. So $K = 17$: a picture without compression takes $\log_2 17 = 4.09$ bits per pixel, and *that* is what the model has to beat. (These bits must not be compared with those of CIFAR-10, whose pixels have 256 levels.) The pictures are those that the network never saw.

# %% tags=["active-ipynb"]
# # The digits, their network and its schedule; and how bits are asked for and reported.
# from safetensors.torch import load_file
# from sklearn.datasets import load_digits
# from sklearn.model_selection import train_test_split
#
# from ddpm_nb import _weights
# from ddpm_nb.unet import UNet
#
# images, labels = load_digits(return_X_y=True)
# images = torch.tensor(images / 8 - 1, dtype=torch.float32).reshape(-1, 1, 8, 8)
# train_images, test_images, train_labels, test_labels = train_test_split(
#     images, torch.tensor(labels), test_size=0.25, stratify=labels, random_state=0
# )
# digit_schedule = Schedule.cosine(T=500)
# unet = UNet.digits()
# _ = unet.load_state_dict(load_file(_weights.path("digits.safetensors")))
#
#
# def digit_bits(images, **choice):
#     return bits_per_dim(unet, images, digit_schedule, levels=17, **choice)
#
#
# def report(name, bits):
#     low, high = bits.interval
#     print(f"{name:32} {bits.mean:.3f} bits per pixel, 95 %: {low:.3f} to {high:.3f}")

# %% tags=["active-ipynb", "nbval-ignore-output"]
# few = digit_bits(test_images[:48], generator=generator)
# many = digit_bits(test_images, num_timesteps=40, generator=generator)
# report("48 pictures, all 500 times:", few)
# report("450 pictures, 40 times each:", many)
# steps = many.total - many.prior - many.decoder
# for name, part in (("prior", many.prior), ("steps", steps), ("decoder", many.decoder)):
#     print(f"  of that {name:8} {part.mean():.4f}")
# assert many.mean < math.log2(17)
# assert abs(few.mean - many.mean) < few.interval[1] - few.interval[0] + 0.1

# %% mystnb={"image": {"alt": "Two panels, one above the other, against t on a logarithmic axis. Above: bits of each step. From about 0.4 bits at the smallest t the cost of a step falls by several orders of magnitude towards t = 500. A thin line for the full evaluation and dots for the estimate with 40 times a picture lie on each other. Below: the share of all steps' bits that is paid up to a t. It passes one half at a t of about 15 and is close to 1 from t = 100 on."}} tags=["active-ipynb", "nbval-ignore-output"]
# figure, (above, below) = plt.subplots(2, 1, figsize=(5.2, 4.8), sharex=True)
# above.loglog(few.t[:, 0], few.steps.mean(1), color=fig.BLUE, linewidth=0.8)
# above.plot(
#     many.t.double().mean(1), many.steps.mean(1), "o", color=fig.ORANGE, markersize=4
# )
# above.set(ylabel="bits per pixel of one step")
# fig.label_line(above, 2, 0.0006, "all times, 48 pictures", fig.BLUE)
# fig.label_line(above, 12, 0.15, "40 blocks, 450 pictures", fig.ORANGE)
# steps = few.steps.mean(1)
# paid = steps.cumsum(0) / steps.sum()
# half = int(few.t[(paid > 0.5).nonzero()[0, 0], 0])
# below.semilogx(few.t[:, 0], paid, color=fig.BLUE)
# below.plot([1, half, half], [0.5, 0.5, 0], ":", color=fig.GREY, linewidth=1.2)
# below.text(1.1 * half, 0.04, f"half of the bits: t ≤ {half}", color=fig.GREY)
# below.set(xlabel="t", ylabel="share paid up to t", ylim=(0, 1.02))
# plt.show()
# assert steps[0] > 100 * steps[-1]

# %% [markdown]
# **Figure.** Above: what each step costs. Dots, from few times a picture, lie on the line, from all. Below: the same, added up from the smallest $t$ on. The dozen steps next to the data cost as much as all the others together.
#
# The bound is well below the 4.09 bits of a plain file. Most of it is spent at small $t$, on the finest grain. The decoder costs nothing here: the noise in $x_1$ is far narrower than the distance of two of the 17 levels, so $x_1$ already says which level it is. With 256 levels it is different. There one level is about as wide as the noise in $x_1$, and the decoder has to guess.
#
# What would other choices have said? The same pictures with the small variance, and without clipping:

# %% tags=["active-ipynb", "nbval-ignore-output"]
# def ten_times(**choice):
#     rng = torch.Generator().manual_seed(1)
#     return digit_bits(test_images, num_timesteps=10, generator=rng, **choice)
#
#
# base = ten_times()
# report("as before, 10 times each:", base)
# choices = {"small variance": {"variance": "small"}, "no clipping": {"clip": False}}
# for name, choice in choices.items():
#     difference = ten_times(**choice).total - base.total
#     bar = 1.96 * float(difference.std()) / len(difference) ** 0.5
#     print(f"{name:15} {float(difference.mean()):+.3f} +- {bar:.3f} bits")
#     assert float(difference.mean()) > -bar

# %% [markdown]
# All three used the same times and the same noise. So what the pictures and the times have in common drops out of the *differences*. For the small variance the difference is known better than the number itself, and it costs more. Without clipping the difference is not settled: its interval contains 0. An error of the noise at large $t$ becomes a large error of $\hat x_0$, and a few such pictures are enough to make the interval wide.
#
# ## Rate and distortion
#
# Read the bound as a way to send a picture. The sender first sends $x_T$, then $x_{T-1}$, and so on; $L_T$ is the price of the first message, $L_{t-1}$ of the one that leads from $x_t$ to $x_{t-1}$. (Why is a divergence a price? If sender and receiver share random numbers, a draw from $q$ can be sent to somebody who knows $p$ for about $\mathrm{KL}(q\|p)$ nats. We take that from the paper, section 4.3.) After the message $x_t$ the receiver has paid the **rate**, and can already guess the picture, $\hat x_0(x_t)$. The root of its mean squared error, in grey levels, is the **distortion**:
#
# $$
# R(t) = L_T + \sum_{s=t+1}^{T} L_{s-1}, \qquad D(t) = \frac{K-1}{2}\sqrt{\mathbb E\,\frac{\lVert x_0-\hat x_0(x_t)\rVert^2}{D}} ,
# $$ (def-rate-distortion)
#
# with the number of coordinates $D$ under the root. At $t = 0$ everything has been sent: $R(0) = L$, and $D(0) = 0$. The evaluation above has recorded both already.

# %%
@dataclass(frozen=True, eq=False)
class RateDistortion:
    """Rate and distortion after each message, from t = T down to 0.

    Attributes:
        t: (M + 2,) the times; a block's mean time if not all were visited.
        rate: (M + 2,) bits per dimension that have been sent.
        distortion: (M + 2,) root mean squared error of x_0-hat in grey levels.
    """

    t: Tensor
    rate: Tensor
    distortion: Tensor


def rate_distortion(bits: BitsPerDim, levels: int = 256) -> RateDistortion:
    """Return the rate–distortion curve that belongs to an evaluation, over its pictures.

    If only some times were visited, rate and distortion are means over each block.

    Args:
        bits: what `bits_per_dim` returned.
        levels: how many grey levels the pictures have; the distortion is counted in them.

    Equation: def-rate-distortion. Paper: figure 5.
    """
    cost, weight = bits.steps.mean(1).flip(0), bits.weight.flip(0)  # from T down
    prior, sent = bits.prior.mean(), (weight * cost).cumsum(0)
    # In a block of w times, (w - 1) / 2 of its messages have been sent on average.
    rate = prior + sent - weight * cost + (weight - 1) / 2 * cost
    before_last = prior + (weight * cost).sum()
    error = bits.squared_error.mean(1).flip(0).sqrt() * (levels - 1) / 2
    ends = torch.stack([before_last, before_last + bits.decoder.mean()])
    t = torch.cat([bits.t.double().mean(1).flip(0), rate.new_tensor([1, 0])])
    distortion = torch.cat([error, error.new_zeros(1)])
    return RateDistortion(t, torch.cat([rate, ends]), distortion)


# %% mystnb={"image": {"alt": "Distortion in grey levels against the rate in bits per pixel. It falls steeply from 8 to one grey level within the first half bit and then flattens: most of the bits buy the last grey level. Five small pictures of one digit stand along the curve: a blot at the left, then a rough digit, then the digit, ever sharper."}} tags=["active-ipynb", "nbval-ignore-output"]
# curve = rate_distortion(few, levels=17)
# figure, ax = plt.subplots(figsize=(5.2, 3.2))
# ax.plot(curve.rate, curve.distortion, ".-", color=fig.BLUE, markersize=3)
# ax.set(xlabel="rate, bits per pixel", ylabel="distortion, grey levels", ylim=(0, 9))
# one = test_images[2:3]
# noise = torch.randn(one.shape, generator=torch.Generator().manual_seed(0))
# for i, t in enumerate((480, 300, 200, 100, 10)):
#     at = torch.tensor([t])
#     x_t = q_sample(one, at, noise, digit_schedule)
#     with torch.no_grad():
#         guess = predict_x_0(x_t, at, unet(x_t, at), digit_schedule).clamp(-1, 1)
#     place = int((curve.t - t).abs().argmin())
#     small = ax.inset_axes((0.2 + 0.16 * i, 0.62, 0.15, 0.24))
#     fig.show_images(small, guess)
#     small.set_title(f"t = {t}")
#     below, on_curve = (
#         (0.275 + 0.16 * i, 0.62),
#         (curve.rate[place], curve.distortion[place]),
#     )
#     line = {"arrowstyle": "-", "color": fig.GREY, "linewidth": 0.6}
#     ax.annotate("", on_curve, below, textcoords=ax.transAxes, arrowprops=line)
# plt.show()
# assert curve.distortion[0] > curve.distortion[len(curve.t) // 2] > 0.5
# assert (curve.rate.diff() > 0).all()

# %% [markdown]
# **Figure.** How far the best guess is from the picture, when so many bits have been sent. The small pictures are such guesses of one digit. Its kind is known after a small part of the bits; the rest buys its grain.
#
# How many of the bits bring the error below 4, 2 and 1 grey levels? The interval of such a share comes from the **bootstrap**: draw 48 of the 48 pictures with repetition, 300 times, and see how the share scatters.

# %% tags=["active-ipynb"]
# # The share of the bits after which the distortion is below a limit, and the t.
# def share_below(limit, index):
#     rows = {name: value[..., index] for name, value in vars(few).items()}
#     some = BitsPerDim(**rows | {"weight": few.weight})
#     curve = rate_distortion(some, levels=17)
#     i = int((curve.distortion < limit).nonzero()[0])
#     return float(curve.rate[i] / curve.rate[-1]), int(curve.t[i])

# %% tags=["active-ipynb", "nbval-ignore-output"]
# again = torch.randint(48, (300, 48), generator=generator)
# for limit in (4, 2, 1):
#     share, t = share_below(limit, torch.arange(48))
#     drawn = torch.tensor([share_below(limit, index)[0] for index in again])
#     low, high = drawn.quantile(torch.tensor([0.025, 0.975]))
#     bits = f"{share:.1%} of the bits, 95 %: {low:.1%} to {high:.1%}"
#     print(f"below {limit} grey levels after {bits}, at t = {t}")
#     assert share < 0.9

# %% [markdown]
# And how good is the first guess, when next to nothing has been sent? Compare it, picture by picture, with the picture that is right on average, the mean of all digits.

# %% tags=["active-ipynb", "nbval-ignore-output"]
# middle = train_images.mean(0)
# always = (test_images[:48] - middle).square().flatten(1).mean(1).double()
# off = always.mean().sqrt() * 8
# print(f"the mean of all digits, for everybody: {off:.1f} grey levels")
# worse = few.squared_error[-1] - always
# bar = 1.96 * float(worse.std()) / 48**0.5
# print(f"squared error at t = 500 minus that one: {worse.mean():.2f} +- {bar:.2f}")
# assert worse.mean() > bar

# %% [markdown]
# The first guesses, at the left end of the curve, are *worse* than the mean of all digits: the interval of the difference lies above 0. At $t$ near $T$ the network's small error of the noise is multiplied by $\sqrt{(1-\bar\alpha_t)/\bar\alpha_t}$ on the way to $\hat x_0$, for this schedule by up to 10,000. Clipping keeps the damage within $[-1,1]$, and the samplers correct it in the next steps.
#
# The curve is the paper's Figure 5 in small. A small part of the bits brings most of the picture; the rest buys the last level. That is the paper's remark about its own model: more than half of its bits describe distortions that nobody would see. (There the half is the decoder: 1.78 bits of steps bring the picture within an error of 0.95 of the 255 levels, and the decoder takes 1.97 more; section 4.3. With 17 levels $x_1$ has decided already, and the last level is paid for at small $t$.) A model can therefore be excellent to the eye and mediocre in bits, or the other way round. Bits and looks are two questions, and the second needs another number.
#
# ## The Fréchet distance
#
# Compare two *sets* of pictures: samples and real ones. Pixel by pixel makes no sense, because no sample has a partner. So describe each picture by a list of features, such as the answers of a layer of a classifier, and compare the two clouds of features. Take only the mean $m$ and the covariance $C$ of each cloud. The distance of two normal distributions with these is
#
# $$
# d^2 = \lVert m_1-m_2\rVert^2 + \operatorname{tr}\Bigl(C_1+C_2-2\,\bigl(C_1^{1/2}\,C_2\,C_1^{1/2}\bigr)^{1/2}\Bigr) .
# $$ (def-frechet)
#
# A root of a matrix $C$ means the symmetric matrix, without negative eigenvalues, whose square is $C$. Where does the formula come from? Pair the points of the two distributions in the cheapest way, so that the mean squared distance between partners is as small as possible; that smallest value is $d^2$. In one dimension the cheapest pairing keeps the order. So $x = m_1+\sigma_1z$ goes with $m_2+\sigma_2z$, and the cost is $(m_1-m_2)^2+(\sigma_1-\sigma_2)^2$. In several dimensions, if both clouds have the same axes, each axis does this by itself:
#
# $$
# d^2 = \lVert m_1-m_2\rVert^2 + \sum_i\bigl(\sigma_{1,i}-\sigma_{2,i}\bigr)^2 ,
# $$ (eq-frechet-axes)
#
# and since $(\sigma_1-\sigma_2)^2 = \sigma_1^2+\sigma_2^2-2\sqrt{\sigma_1^2\sigma_2^2}$, that is the formula above for diagonal $C$. The general formula does the same for axes that differ (Dowson and Landau, 1982). With the features of one certain network, trained on ImageNet in 2015, it is called **FID**, the Fréchet Inception distance (Heusel and others, 2017). It is always reported as $d^2$.
#
# How to take the root of a product? $C_1C_2$ is not symmetric, and general matrix roots of nearly singular matrices are fragile: rounding makes them complex. Two symmetric roots are safe. With $A = C_1^{1/2}$ and $B = C_2^{1/2}$, the eigenvalues of $(AB)(AB)^\mathsf T = C_1^{1/2}C_2\,C_1^{1/2}$ are the squares of the singular values of $AB$. So the trace of the root is the sum of the singular values of $AB$. No small number is squared and rooted again.

# %%
def matrix_root(covariance: Tensor) -> Tensor:
    """Return the symmetric root of a covariance matrix (D, D).

    Equation: def-frechet.
    """
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def frechet_distance(features_1: Tensor, features_2: Tensor) -> float:
    """Return the squared Fréchet distance of two sets of features, as FID is reported.

    It is biased upwards for small sets: compare only numbers from sets of one size.

    Args:
        features_1: (N, D), one row a picture, N at least 2.
        features_2: (M, D).

    Raises:
        ValueError: if the shapes do not fit, or a number is not finite.

    Equation: def-frechet. Source: Heusel and others (2017).
    """
    check.clouds(features_1=features_1, features_2=features_2)
    one, two = features_1.cpu().double(), features_2.cpu().double()
    cov_1, cov_2 = (x.T.cov().reshape(x.shape[1], -1) for x in (one, two))
    roots = torch.linalg.svdvals(matrix_root(cov_1) @ matrix_root(cov_2)).sum()
    apart = (one.mean(0) - two.mean(0)).square().sum()
    return float(apart + cov_1.trace() + cov_2.trace() - 2 * roots)


# %% [markdown]
# Features come batch by batch. `collect_features` follows the papers' 50,000 pictures unless told otherwise, and refuses a supply that ends before.

# %%
def collect_features(
    features: Callable[..., Tensor], batches: Iterable[Tensor], n: int = 50_000
) -> Tensor:
    """Return the features of the first `n` pictures, (n, D), on the CPU.

    The papers use 50,000 samples; with fewer the Fréchet distance comes out larger. The
    memory holds one batch of pictures, and the features of all.

    Args:
        features: any callable on pictures (B, C, H, W) in [-1, 1], to (B, D). A module
            is put into eval mode meanwhile.
        batches: pictures, such as ``(sample(model, shape, schedule) for _ in ...)``;
            no more is drawn than needed.
        n: how many pictures.

    Raises:
        TypeError: if a batch does not hold floating-point numbers.
        ValueError: if the batches end before n pictures, or the features of a batch are
            not one row a picture.
    """
    have, n, rows = 0, check.whole("n", n, 1), []
    for batch in batches:
        with evaluating(features):
            found = check.described(features(check.images("batches", batch)), batch)
        rows.append(found[: n - have].cpu())
        have += len(rows[-1])
        if have == n:  # before another batch is drawn
            break
    check.enough(have, n)
    return torch.cat(rows)


# %% [markdown]
# Here the features are those of a small classifier of our own, trained on the real training digits: 20 numbers before its last layer. So this is a Fréchet distance, and it is *not* FID; nobody else's number can be compared with it. And all that follows is said of one classifier, trained once.

# %% tags=["active-ipynb"]
# # The classifier sees the training digits with some noise.
# from torch import nn
#
# torch.manual_seed(0)
# body = nn.Sequential(
#     nn.Flatten(), nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, 20), nn.SiLU()
# )
# head = nn.Linear(20, 10)
# adam = torch.optim.Adam([*body.parameters(), *head.parameters()], lr=3e-3)
# for _ in range(600):
#     index = torch.randint(len(train_images), (128,), generator=generator)
#     shaken = train_images[index] + 0.2 * torch.randn(128, 1, 8, 8, generator=generator)
#     loss = nn.functional.cross_entropy(head(body(shaken)), train_labels[index])
#     adam.zero_grad()
#     loss.backward()
#     adam.step()

# %% tags=["active-ipynb", "nbval-ignore-output"]
# with torch.no_grad():
#     right = (head(body(test_images)).argmax(1) == test_labels).float().mean()
# print(f"the classifier is right about {right:.1%} of the unseen digits")
# assert right > 0.95

# %% [markdown]
# Chance decides in all that follows. So every number is a mean of several independent ones, with the 95 % interval of Student's t, and a difference of two means has Welch's.

# %% tags=["active-ipynb"]
# # How means and their differences are reported.
# from scipy.stats import t as student
#
#
# def interval(values):
#     """Mean of independent numbers, and half the width of its 95 % interval."""
#     values = torch.as_tensor(values, dtype=torch.float64)
#     wide = student.ppf(0.975, len(values) - 1) / len(values) ** 0.5
#     return float(values.mean()), float(wide * values.std())
#
#
# def difference(a, b):
#     """Difference of two means, and half of its 95 % interval."""
#     parts = [values.var() / len(values) for values in (a, b)]
#     of_each = sum(p**2 / (len(v) - 1) for p, v in zip(parts, (a, b)))
#     bar = student.ppf(0.975, float(sum(parts) ** 2 / of_each)) * sum(parts) ** 0.5
#     return float(a.mean() - b.mean()), float(bar)
#
#
# def show(name, values):
#     middle, bar = interval(values)
#     print(f"{name:28} {middle:6.2f} +- {bar:.2f}")

# %% [markdown]
# First see what the size of the sample does. Draw real digits and compare them with other real digits, twelve times for each size; a bar is the standard deviation of the twelve. The truth is 0. How fast does the distance fall? Each of the twelve gives a slope of its own on logarithmic axes.

# %% mystnb={"image": {"alt": "Fr\u00e9chet distance between two sets of real digits against the size of the sets from 30 to 800, on logarithmic axes, with error bars. It falls with the size, and is never zero."}} tags=["active-ipynb", "nbval-ignore-output"]
# everything = collect_features(body, images.split(256), n=len(images))
# sizes, table = (30, 60, 125, 250, 500, 800), torch.empty(12, 6, dtype=torch.float64)
# for column, n in enumerate(sizes):
#     for row in range(12):
#         order = torch.randperm(len(everything), generator=generator)
#         halves = everything[order[:n]], everything[order[n : 2 * n]]
#         table[row, column] = frechet_distance(*halves)
# log_n = torch.tensor(sizes, dtype=torch.float64).log()
# log_n -= log_n.mean()
# slope, bar = interval(table.log() @ log_n / log_n.square().sum())
# print(f"slope on logarithmic axes: {slope:.2f} +- {bar:.2f}")
# assert -1.3 < slope < -0.9
#
# means = table.mean(0).tolist()
# figure, ax = plt.subplots(figsize=(5, 2.8))
# bars, guide = table.std(0), torch.tensor([30.0, 800.0])
# ax.plot(guide, means[0] * 0.6 * 30 / guide, ":", color=fig.GREY, linewidth=1.2)
# ax.text(32, 3, "one over the number", color=fig.GREY)
# ax.errorbar(sizes, means, yerr=bars, color=fig.BLUE, marker="o", markersize=4)
# ax.set(xscale="log", yscale="log", xlabel="pictures in each set", ylabel="$d^2$")
# ax.set_xticks(sizes, [str(n) for n in sizes])
# ax.minorticks_off()
# plt.show()
# print("real against real:", "  ".join(f"{n}: {m:.2f}" for n, m in zip(sizes, means)))
# assert all(a > b for a, b in pairwise(means))

# %% [markdown]
# **Figure.** The distance of two sets of *real* digits. It should be 0. It falls about like one over the number of pictures (dotted), and a bar is the scatter of twelve draws.
#
# Two samples of one and the same distribution never have distance 0: their means and covariances differ by chance, and every difference counts as distance. The excess falls about like one over the number of pictures. So a distance means something only beside a baseline of the same size; and an FID of 2,000 samples must not be put beside one of 50,000.
#
# Now the model's samples, drawn by DDIM, against the training digits. There are eight sets of 112 noises. Every number of steps starts from the same noises: then two of them can be compared set by set, and what is special in a set drops out. Beside them stand the real digits that were kept aside. They make only four sets of this size, so their interval is wide.

# %% tags=["active-ipynb"]
# # Sets of 112: noises for eight, four of digits kept aside, eight of clipped noise; and each set's distance.
# from ddpm_nb.fewer_steps import ddim_sample
#
# n = 112
# x_T = torch.randn(8 * n, 1, 8, 8, generator=generator)
# order = torch.randperm(len(test_images), generator=generator)
# kept_aside = test_images[order[: 4 * n]].split(n)
# noise = torch.randn(8 * n, 1, 8, 8, generator=generator).clamp(-1, 1).split(n)
# real = collect_features(body, train_images.split(256), n=len(train_images))
#
#
# def distances_of(sets):
#     features = (collect_features(body, [x], n=n) for x in sets)
#     return torch.tensor([frechet_distance(one, real) for one in features])

# %% tags=["active-ipynb", "nbval-ignore-output"]
# drawn, distances = {}, {}
# for steps in (2, 5, 20, 50):
#     x = ddim_sample(unet, x_T.shape, digit_schedule, steps, clip=True, x_T=x_T)
#     drawn[steps] = x.split(n)
#     distances[steps] = distances_of(drawn[steps])
#     show(f"samples, {steps} steps:", distances[steps])
# of_unseen = distances_of(kept_aside)
# show("real digits kept aside:", of_unseen)
# show("noise:", distances_of(noise))
# print("differences")  # set by set, where the noises are the same
# for a, b in ((5, 20), (20, 50)):
#     show(f"{a} steps - {b} steps:", distances[a] - distances[b])
# apart, bar = difference(distances[50], of_unseen)
# print(f"{'50 steps - real digits:':28} {apart:6.2f} +- {bar:.2f}")
# assert distances[2].mean() > 2 * distances[5].mean()
# assert distances[50].mean() < 2 * distances[5].mean()

# %% [markdown]
# Two steps are bad, five are better, and 20 better still: set by set, the interval of the difference from five does not reach 0. Between 20 and 50 steps the interval contains 0 and is narrow: if there is a difference, it is small beside the distance itself. Samples and real digits kept aside cannot be told apart by this measure and these few pictures. That does not make them alike: with four sets of real digits the interval leaves room for a difference that is not small.
#
# ### The Inception score
#
# An older number asks a classifier two things. Is it *sure* about each picture? And does it see *all kinds* of them? With $p(y\mid x)$ for its probabilities for a picture, and $p(y)$ for their mean over the pictures,
#
# $$
# \operatorname{IS} = \exp\Bigl(\mathbb E_x\,\mathrm{KL}\bigl(p(y\mid x)\,\|\,p(y)\bigr)\Bigr) .
# $$ (def-inception-score)
#
# It lies between 1 (every picture gets the same answer) and the number of classes (sure each time, and all classes equally often). It never looks at real pictures: a model that recites one perfect picture of each class gets the best mark. The custom is to cut 50,000 samples into 10 parts and to report mean and standard deviation.

# %%
def inception_score(probabilities: Tensor, splits: int = 10) -> tuple[float, float]:
    """Return the Inception score: mean and standard deviation over equal parts.

    Args:
        probabilities: (N, K) a classifier's probabilities, rows that sum to 1.
        splits: how many parts, 1 ... N. With one part the deviation is 0.

    Raises:
        ValueError: if the rows are no probabilities, or there are more parts than rows.

    Equation: def-inception-score. Source: Salimans and others (2016).
    """
    p = check.probabilities(probabilities.cpu().double())
    parts = p.tensor_split(check.whole("splits", splits, 1, len(p)))
    scores = torch.stack([_score(part) for part in parts])
    return float(scores.mean()), float(scores.std(correction=0))


def _score(p: Tensor) -> Tensor:
    kl = torch.special.xlogy(p, p).sum(1) - torch.special.xlogy(p, p.mean(0)).sum(1)
    return kl.mean().exp()


# %% [markdown]
# The papers' network stands in the package as `inception` (with the extra `[eval]`). It gives the features for the FID or the probabilities for the score. Our own classifier answers here:

# %% tags=["active-ipynb", "nbval-ignore-output"]
# sets = {"samples, 50 steps": drawn[50], "real": kept_aside, "noise": noise}
# scores = {}
# for name, each in sets.items():
#     with torch.no_grad():
#         answers = [head(body(x)).softmax(1) for x in each]
#     scores[name] = torch.tensor([inception_score(p, splits=1)[0] for p in answers])
#     show(f"{name}:", scores[name])
# apart, bar = difference(scores["samples, 50 steps"], scores["real"])
# print(f"{'samples - real:':28} {apart:6.2f} +- {bar:.2f}")
# assert all(float(v.min()) >= 1 and float(v.max()) <= 10 for v in scores.values())

# %% [markdown]
# The samples get less than as many real digits: eight sets against four, and the interval of the difference does not reach 0. The classifier is less sure about some of them, or some digits are rarer than they should be; the score does not say which. The score of noise shows its weakness: this classifier was never taught to say "none of these".
#
# ## Looking inside the sampler
#
# **Progressive generation.** At every $t$ the sampler holds a guess $\hat x_0$ of the finished picture. Watch it: large features appear first, details last. (The paper's Figure 6.)

# %%
def progressive(
    model: Model,
    shape: tuple[int, ...],
    schedule: Schedule,
    timesteps: Sequence[int],
    *,
    variance: Variance = "large",
    clip: bool = True,
    batch_size: int = 128,
    generator: Randomness = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return what the sampler sees on its way: x_0-hat from x_t, at the given times.

    Args:
        model: noise = model(x_t, t).
        shape: the shape of the batch, (B, ...).
        schedule: the noise schedule.
        timesteps: from 0 ... T, in any order. For 0 it is the finished sample.
        variance: as for `sample_steps`.
        clip: as for `sample_steps`.
        batch_size: how many pictures the network gets at once. Besides what it needs
            for them, the memory holds all pictures some ten times, and the result.
        generator: as for `sample_steps`.
        dtype: as for `sample_steps`.

    Returns:
        (len(timesteps), B, ...), in their order.

    Raises:
        TypeError: if a time or batch_size is no whole number.
        ValueError: if there are no times, one leaves its range, or as `sample_steps`.

    Paper: figure 6.
    """
    seen, wanted = {}, check.some_times("timesteps", timesteps, schedule)
    model, rule = InBatches(model, batch_size), ancestral(variance)
    for step in sample_steps(
        model, shape, schedule, rule, clip=clip, generator=generator, dtype=dtype
    ):
        if step.t + 1 in wanted:  # the guess was made from the point before the step
            seen[step.t + 1] = step.x_0_hat
    seen[0] = step.x
    return torch.stack([seen[t] for t in wanted])


# %% mystnb={"image": {"alt": "Six rows of pictures, what the sampler sees at t = 500, 400, 300, 200, 100, 50 and 0. At t = 500 black and white speckle, at t = 400 grey blurs, at t = 300 rough digits; from t = 200 on the digit stays what it is and gets sharper."}} tags=["active-ipynb", "nbval-ignore-output"]
# times = (500, 400, 300, 200, 100, 50, 0)
# frames = progressive(
#     unet,
#     (6, 1, 8, 8),
#     digit_schedule,
#     times,
#     generator=torch.Generator().manual_seed(1),
# )
# fig.picture_rows(
#     list(frames.transpose(0, 1)), [""] * 6, [f"t = {t}" for t in times], size=0.72
# )
# plt.show()
# apart = [interval(row) for row in (frames[:-1] - frames[-1]).square().mean((2, 3, 4))]
# print("mean squared distance to the end, over the six:")
# print("  ".join(f"t = {t}: {d:.3f} +- {bar:.3f}" for t, (d, bar) in zip(times, apart)))
# assert apart[0][0] > apart[3][0] > apart[5][0]

# %% [markdown]
# **Figure.** What the sampler believes it is drawing, on the way down. At $t = 400$ anything is possible; at $t = 200$ the digit is chosen, and only gets sharper.
#
# **Shared latents.** Stop at some $t$ and finish the walk several times, with fresh noise each time. What the endings have in common was decided by then. (Figure 7.) This needs a walk that starts at a given $x_t$: Algorithm 2 from line 2 on, with $t$ in the place of $T$.

# %%
class Walk(TypedDict, total=False):
    """Named arguments of `denoise`, for those who hand them on."""

    variance: Variance
    batch_size: int


def denoise(
    model: Model,
    x_t: Tensor,
    t: int,
    schedule: Schedule,
    *,
    variance: Variance = "large",
    clip: bool = False,
    batch_size: int = 128,
    generator: Randomness = None,
) -> Tensor:
    """Run Algorithm 2 from x_t, at time t, to the end and return the pictures, (B, ...).

    Args:
        model: noise = model(x_t, t).
        x_t: (B, ...) the points to begin with.
        t: their time, 1 ... T.
        schedule: the noise schedule, on x_t's device.
        variance: sigma_t^2, "large" or "small".
        clip: as for `sample_steps`.
        batch_size: how many pictures the network gets at once. Besides what it needs
            for them, the memory holds all pictures some ten times.
        generator: where the noise comes from, as for `sample_steps`.

    Raises:
        TypeError: if x_t is no floating-point tensor, or a count no whole number.
        ValueError: if t leaves its range, or as `sample_steps`.

    Paper: Algorithm 2, from line 2 on.
    """
    down = range(check.whole("t", t, 1, schedule.T), -1, -1)
    model, rule = InBatches(model, batch_size), ancestral(variance)
    shape = check.images("x_t", x_t).shape
    return sample(
        model, shape, schedule, rule, down, x_T=x_t, clip=clip, generator=generator
    )


def shared_latents(
    model: Model,
    x_t: Tensor,
    t: int,
    n: int,
    schedule: Schedule,
    *,
    clip: bool = True,
    generator: Randomness = None,
    **options: Unpack[Walk],
) -> Tensor:
    """Finish each x_t `n` times, each time with fresh noise.

    Args:
        model: noise = model(x_t, t).
        x_t: (B, ...) points at time t.
        t: 1 ... T. For t = 1 all endings are equal: the last step adds no noise.
        n: how many endings each gets, at least 1.
        schedule: the noise schedule.
        clip: as for `sample_steps`.
        generator: as for `sample_steps`; a list has B generators. A callable is asked
            for the first endings as ever, for the second with T + 1 added to each time,
            for the third with 2 (T + 1), and so on.
        options: `variance` and `batch_size` of `denoise`; there are n B pictures.

    Returns:
        (n, B, ...).

    Raises:
        TypeError, ValueError: if n is no whole number or below 1, or as `denoise`.

    Paper: figure 7.
    """
    n = check.whole("n", n, 1)
    start = check.images("x_t", x_t).repeat(n, *[1] * (x_t.dim() - 1))
    rng = fresh_for_each(generator, n, schedule.T)
    end = denoise(model, start, t, schedule, clip=clip, generator=rng, **options)
    return end.reshape(n, *x_t.shape)


# %% mystnb={"image": {"alt": "Three rows of pictures. At the left a real five, noised to t = 400, 200 and 75; then six endings each. From t = 400 the endings are different digits, from t = 200 sixes, fives and a nine that resemble each other, and from t = 75 nearly the same five."}} tags=["active-ipynb", "nbval-ignore-output"]
# chosen = [int((test_labels == digit).nonzero()[0]) for digit in (5, 0, 1, 3, 7, 8)]
# originals = test_images[chosen]  # the first is shown
# rows, spread = [], []
# for t in (400, 200, 75):
#     fresh = torch.randn(originals.shape, generator=torch.Generator().manual_seed(5))
#     x_t = q_sample(originals, t, fresh, digit_schedule)
#     ends = shared_latents(unet, x_t, t, 6, digit_schedule, generator=generator)
#     rows.append(torch.cat([originals[:1], x_t[:1], ends[:, 0]]))
#     spread.append(interval(ends.var(dim=0).flatten(1).mean(1)))
# fig.picture_rows(
#     rows,
#     [f"t = {t}" for t in (400, 200, 75)],
#     ["real", "$x_t$", "endings", *[""] * 5],
#     size=0.56,
# )
# plt.show()
# print("variance between six endings of one digit, over six digits:")
# for t, (v, bar) in zip((400, 200, 75), spread):
#     print(f"t = {t:3}: {v:.3f} +- {bar:.3f}")
# assert spread[0][0] > spread[1][0] > spread[2][0]

# %% [markdown]
# **Figure.** One real five, noised to three times, and six ways to end from there. What the endings share was decided by then: at $t = 400$ hardly anything, at $t = 75$ all but details.
#
# ### Between two pictures
#
# Halfway between two pictures, pixel by pixel, lies no picture but a double exposure. The latents are a better place to meet. Noise both pictures to the same $t$ with the *same* noise, mix there, and walk back:
#
# $$
# \bar x_t = (1-\lambda)\,x_t+\lambda\,x'_t, \qquad x_t = \sqrt{\bar\alpha_t}\,x_0+\sqrt{1-\bar\alpha_t}\,\varepsilon, \quad x'_t = \sqrt{\bar\alpha_t}\,x'_0+\sqrt{1-\bar\alpha_t}\,\varepsilon .
# $$ (def-interpolation)
#
# Because the noise is the same, the mixture is $\sqrt{\bar\alpha_t}$ times the double exposure plus that noise, at full strength: just what the network expects at $t$. The noise hides the fine structure that shows the double exposure, and the walk back puts in a structure of its own. With $t$ near 0 the double exposure stays. At a middle $t$ the walk back decides for one of the two. At a large $t$ both begin to be forgotten, and the noise decides what comes out. The walk back must begin at the same $t$; its noise is shared by all $\lambda$ as well, so that only $\lambda$ changes along a row. (Figure 8.)

# %%
def interpolate(
    model: Model,
    x_0: Tensor,
    x_0_other: Tensor,
    t: int,
    lambdas: Sequence[float],
    schedule: Schedule,
    *,
    clip: bool = True,
    generator: Randomness = None,
    **options: Unpack[Walk],
) -> Tensor:
    """Mix pairs of pictures at time t and denoise the mixtures.

    Args:
        model: noise = model(x_t, t).
        x_0: (B, ...) pictures, met at weight 0.
        x_0_other: (B, ...) their partners, met at weight 1.
        t: the time at which they are mixed, 1 ... T.
        lambdas: the shares of the partner, 0 ... 1.
        schedule: the noise schedule, on the pictures' device.
        clip: as for `sample_steps`.
        generator: where the noise comes from, as for `sample_steps`; a list has B
            generators.
        options: `variance` and `batch_size` of `denoise`; there are len(lambdas) B
            mixtures.

    Returns:
        (len(lambdas), B, ...). With weight 0 it is a plain `denoise` of the noised x_0.

    Raises:
        ValueError: if the shapes differ, there are no lambdas, or as `denoise`.

    Equation: def-interpolation. Paper: figure 8.
    """
    check.pairs(x_0, x_0_other, lambdas)
    normal = noise_for(x_0.shape, x_0.device, generator, x_0.dtype)
    noise, n = normal(t), len(lambdas)
    one, other = (q_sample(x, t, noise, schedule) for x in (x_0, x_0_other))
    mixed = torch.cat([(1 - share) * one + share * other for share in lambdas])
    rng = same_for_each(normal, n)
    end = denoise(model, mixed, t, schedule, clip=clip, generator=rng, **options)
    return end.reshape(n, *x_0.shape)

# %% mystnb={"image": {"alt": "Four rows from one real digit at the left to another at the right. First row: pixel by pixel, a double exposure in the middle. Then mixed at t = 75, 200 and 350. At 75 and at 200 every picture is a zero or a six, with a jump near the middle. At 350 the left half are dark blots that resemble neither end, and at the right there are sixes."}} tags=["active-ipynb", "nbval-ignore-output"]
# one, other = test_images[test_labels == 0][:1], test_images[test_labels == 6][:1]
# shares = (0, 0.2, 0.4, 0.5, 0.6, 0.8, 1)
# rows = [torch.cat([(1 - share) * one + share * other for share in shares])]
# for t in (75, 200, 350):
#     rng = torch.Generator().manual_seed(3)
#     mixed = interpolate(unet, one, other, t, shares, digit_schedule, generator=rng)
#     rows.append(mixed[:, 0])
# rows = [torch.cat([one, row, other]) for row in rows]
# names = ["real", *[f"{share:g}" for share in shares], "real"]
# fig.picture_rows(
#     rows, ["pixels", *[f"t = {t}" for t in (75, 200, 350)]], names, size=0.49
# )
# plt.show()
#
# # How much of the picture at weight 0 is kept?
# real_ones, kept = test_images[:12], []
# for t in (75, 200, 350):
#     walk = (t, (0,), digit_schedule)
#     (end,) = interpolate(unet, real_ones, real_ones.flip(0), *walk, generator=generator)
#     kept.append(interval((end - real_ones).square().flatten(1).mean(1)))
# print("squared distance of weight 0 to its picture, over 12 pictures:")
# print("  ".join(f"{e:.3f} +- {bar:.3f}" for e, bar in kept))
# assert kept[0][0] < kept[1][0] < kept[2][0]

# %% [markdown]
# **Figure.** From a zero to a six. Mixed pixel by pixel the middle shows both at once. Mixed at $t = 75$ or $t = 200$ it is one or the other. At $t = 350$ too much is forgotten, also at the ends.
#
# ## Where people slip
#
# **A density for a probability.** Replace the decoder by a density and make the last step narrow: the "bits" fall without end, although nothing has been learned.

# %% tags=["active-ipynb"]
# x_0 = torch.full((2, 1), point, dtype=torch.float64)
# last_step = {"first_step": "beta", "clip": False}
# for beta_1 in (1e-4, 1e-8, 1e-12):
#     narrow = Schedule([beta_1, 0.5])
#     model = optimal_noise(GaussianMixture([1.0], [[point]], [1e-12]), narrow)
#     for decoder in ("exact", "continuous"):
#         bits = bits_per_dim(model, x_0, narrow, decoder=decoder, **last_step)
#         cost = round(float(bits.decoder[0]), 2) + 0.0  # no "-0.00"
#         print(f"beta_1 = {beta_1:g}, {decoder:10}: {cost:7.2f} bits")

# %% [markdown]
# **Pictures in the wrong range.** A picture left in $[0,1]$ has no level below grey. The samplers cannot know; the evaluation can, because every second of its levels lies between two of ours.

# %% tags=["active-ipynb"]
# try:
#     bits_per_dim(unet, (test_images[:2] + 1) / 2, digit_schedule, levels=17)
# except ValueError as error:
#     print(error)

# %% [markdown]
# **A distance that rewards copies.** Neither the Fréchet distance nor the Inception score can tell a good model from one that recites its training pictures: a set of training pictures gets the distance of real ones. Copying shows in the distance to the nearest training picture ([the two algorithms](algorithms.ipynb)), and in bits, on training and test pictures side by side:

# %% tags=["active-ipynb", "nbval-ignore-output"]
# seen = digit_bits(train_images[:450], num_timesteps=40, generator=generator)
# report("450 training pictures:", seen)
# report("450 test pictures:", many)
# bar = 1.96 * float((seen.total.var() / 450 + many.total.var() / 450).sqrt())
# print(f"{'training - test:':32} {seen.mean - many.mean:+.3f} +- {bar:.3f}")
# assert bar < many.mean - seen.mean < 1.5

# %% tags=["active-ipynb", "nbval-ignore-output"]
# order = torch.randperm(len(train_images), generator=generator)
# of_seen = distances_of(train_images[order[: 12 * n]].split(n))
# show("Fréchet, training pictures:", of_seen)
# show("Fréchet, unseen real digits:", of_unseen)
# apart, bar = difference(of_seen, of_unseen)
# print(f"{'training - unseen:':28} {apart:6.2f} +- {bar:.2f}")
# assert abs(apart) < of_unseen.mean()

# %% [markdown]
# The network has begun to learn its training pictures by heart: in bits they are cheaper, and the interval of the difference does not reach 0. The Fréchet distance does not show it. (Twelve sets of training pictures, four of unseen ones; 0 lies well within the interval of their difference. With so few sets a small difference would not be seen.)
#
# **An interval that counts pixels.** With $B$ pictures there are $B$ independent numbers, not $B$ times the number of pixels: the pixels of one picture share its difficulty. Dividing by the root of the number of pixels gives an interval that is far too narrow.
#
# **Noise to $t$, denoise from $t-1$.** Interpolation in well-known code begins the walk back one step too late. The network is then told that there is a little less noise than there is, and what is too much stays in the picture. With 1,000 steps nobody notices; so a test counts the times.
#
# ## Exercises
#
# **1.** How many bits per dimension does the prior term cost at most, for the paper's schedule and pixels in $[-1,1]$? *Hint:* it is a divergence of two bells.
#
# <details><summary>Solution</summary>
#
# Per coordinate $\tfrac12\bigl(\bar\alpha_T x_0^2+(1-\bar\alpha_T)-1-\ln(1-\bar\alpha_T)\bigr)$ nats: it is largest at $|x_0| = 1$, and $\bar\alpha_T$ is about 0.00004. It is next to nothing: the forward process arrives.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 1
# for value in (1.0, 0.0):
#     x_0 = torch.full((1, 1), value, dtype=torch.float64)
#     bits = bits_per_dim(bell, x_0, schedule, num_timesteps=1, decoder="continuous")
#     print(f"x_0 = {value:g}: {float(bits.prior[0]):.4e} bits")

# %% [markdown]
# **2.** Two clouds of features have the same mean and covariances $C$ and $4C$. What is their Fréchet distance? *Hint:* both clouds have the same axes.
#
# <details><summary>Solution</summary>
#
# Same axes, and each $\sigma_i$ against $2\sigma_i$: $\sum_i\sigma_i^2 = \operatorname{tr}C$.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 2
# points = torch.randn(500, 6, dtype=torch.float64, generator=generator)
# cloud = points @ torch.randn(6, 6, dtype=torch.float64, generator=generator)
# cloud = cloud - cloud.mean(0)
# expected = float(cloud.T.cov().trace())
# print(f"distance {frechet_distance(cloud, 2 * cloud):.6f}, trace {expected:.6f}")

# %% [markdown]
# **3.** A model recites one perfect picture of each of the ten digits. What are its Inception score and its Fréchet distance? Which of the two would you believe? *Hint:* the score asks for clear pictures and for all classes; what does it not ask for?
#
# <details><summary>Solution</summary>
#
# The score is nearly 10, the best there is. The Fréchet distance is well above that of real digits: the ten pictures have the right classes and hardly any variety within them.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 3
# with torch.no_grad():
#     sure = head(body(train_images)).softmax(1)
#     ten = train_images[sure.argmax(0)].repeat(26, 1, 1, 1)
#     score, _ = inception_score(head(body(ten)).softmax(1), splits=1)
# recited = frechet_distance(collect_features(body, [ten], n=260), real)
# worst = float(of_unseen.max())
# print(f"score {score:.1f} of 10")
# print(f"distance {recited:.0f}, where sets of real digits have at most {worst:.0f}")
# assert score > 9.5 and recited > worst

# %% [markdown]
# **4.** With which $t$ does an interpolation return its own end points exactly? *Hint:* what is done to an end point on the way?
#
# <details><summary>Solution</summary>
#
# With none, in general: the end points are noised and denoised too. But at $t = 1$ there is so little noise that they come back almost unchanged, and the mixtures are the double exposures.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 4
# mixed = interpolate(unet, one, other, 1, (0, 0.5, 1), digit_schedule)
# double = (one + other) / 2
# far, off = (mixed[0] - one).abs().max(), (mixed[1] - double).square().mean()
# print(f"end point: off by at most {far:.2f}; middle: mean square off {off:.3f}")
# assert far < 0.1 and off < 0.05

# %% [markdown]
# ## Summary
#
# The bound in bits per dimension is prior, steps and decoder; the decoder gives probabilities to levels. A few random times a picture estimate it, with an interval that the scatter between pictures provides. Most bits pay for what nobody sees. The Fréchet distance compares clouds of features, and is too large for small samples. And the sampler can be watched: large features are settled early, details late.
#
# **The next question.** All parts are there. What does it take to train the paper's network on photographs? See [CIFAR-10](cifar10.ipynb).
