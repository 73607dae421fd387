# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A hidden variable, and a bound on the likelihood
#
# **The question.** A model that draws pictures starts from noise: it draws a hidden variable $z$ and turns it into a picture. How likely is a *given* picture under such a model? And what can be done when that number cannot be computed?
#
# ![The chain with a single step: only its ends are lit, a handwritten 9 named x and a picture of pure noise named z. One arrow above leads from x to z, q(z | x); one below leads back, p_θ(x | z). The pictures between are almost white.](images/chain-vae.svg)
#
# How likely is a picture $x$, if any $z$ may have made it?
#
# **What you bring.** Maximum likelihood, the divergence and the fact that it is never negative, from [maximum likelihood](likelihood.ipynb).
#
# **What you take away.** The lower bound on the likelihood, derived twice; a model small enough that bound, gap and exact likelihood can be put side by side; and the same bound for a chain $x_0, x_1, \dots, x_T$, which is where diffusion begins.

# %% tags=["active-ipynb"]
# # In Colab this installs the book's package; elsewhere it is there, and nothing happens.
# import importlib.util
#
# if importlib.util.find_spec("ddpm_nb") is None:
#     %pip install --quiet --no-deps "ddpm_nb @ git+https://github.com/ddpm_nb/ddpm_nb"

# %%
"""The evidence lower bound, and a linear model whose exact likelihood is known.

In this chapter z is the latent variable, as everywhere in the literature on
variational autoencoders; in the chapters on sampling z is the sampler's noise.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ddpm_nb import _checks as check
from ddpm_nb.likelihood import gaussian_kl, gaussian_kl_full, gaussian_log_prob


# %% [markdown]
# ## An integral over everything that may have happened
#
# The model draws $z$ from a fixed, simple distribution, $p(z) = \mathcal N(0, I)$. A network turns it into a distribution over pictures, $p_\theta(x\mid z)$. The same picture may come from many $z$, some with more and some with less probability. Its likelihood collects them all:
#
# $$
# p_\theta(x) = \int p(z)\,p_\theta(x\mid z)\,dz .
# $$ (def-latent)
#
# ### Hit or miss does not work
#
# What is $p_\theta(x\mid z)$? A first idea: the network draws the picture $G(z)$, so let $p_\theta(x\mid z)$ be 1 if $G(z) = x$ and 0 otherwise. Then the likelihood of $x$ is the share of all $z$ that hit it *exactly*. Try it with a generous generator: it draws each pixel of a digit from that pixel's own true distribution. How many of 100,000 drawings agree with a given digit, when only the first pixels are compared, and then more and more of them?

# %% mystnb={"image": {"alt": "How many of 100,000 drawings hit a given digit exactly, on a logarithmic scale, against the number of pixels that are compared. Five curves, each in the colour of the frame of its digit. All fall steeply from 100,000 and end after 5 to 10 of the 64 pixels."}} tags=["active-ipynb"]
# import matplotlib.pyplot as plt
# from sklearn.datasets import load_digits
#
# from ddpm_nb import _figures as fig
#
# fig.use_style()
# generator = torch.Generator().manual_seed(0)
# digits = torch.tensor(load_digits().data)  # (1797, 64), 17 grey levels
# pick = torch.randint(len(digits), (100_000, 64), generator=generator)
# drawings = digits.gather(0, pick)  # pixel j of a drawing is pixel j of a random digit
#
# figure, ax = plt.subplots(figsize=(5, 3))
# exact_hits = 0
# for i, color in enumerate(fig.COLORS):
#     digit = digits[100 * i]
#     # 1 as long as all pixels so far agree, 0 from the first that does not
#     so_far = (drawings == digit).cumprod(dim=1)
#     hits = so_far.sum(dim=0)
#     exact_hits += int(hits[-1])
#     last = int((hits > 0).sum())
#     ax.semilogy(range(1, last + 1), hits[:last], ".-", color=color)
#     thumbnail = ax.inset_axes((0.48 + 0.105 * i, 0.78, 0.1, 0.2))
#     fig.show_images(thumbnail, digit.reshape(1, 1, 8, 8) / 8 - 1)
#     for edge in thumbnail.spines.values():
#         edge.set(color=color, linewidth=2)
# ax.set(xlabel="pixels compared, of 64", ylabel="exact hits of 100,000")
# plt.show()
# print(f"exact hits with all 64 pixels, for the five digits together: {exact_hits}")
# shares = [(digits == digits[100 * i]).double().mean(0).log10().sum() for i in range(5)]
# print("true shares:", ", ".join(f"1e{share:.0f}" for share in shares))

# %% [markdown]
# **Figure.** How many of 100,000 drawings agree with a digit in its first pixels, for five digits. Each further pixel costs a factor. Long before all 64 are compared, no drawing is left.
#
# With all 64 pixels none of the drawings hits. The true share is not zero: it is the product of the 64 pixels' own shares, printed above to the nearest power of ten. But our estimate is 0 and its logarithm $-\infty$, for a good model and for a bad one alike, and a small change of the model changes nothing: there is no slope to follow. (A generator whose neighbouring pixels fit together would hit more often, but still far too seldom. If pixels were real numbers with a density, none would ever hit: a single point has probability zero.)
#
# ### A bell around the drawing
#
# So a near miss must count. Let the network draw the *centre* of a bell: $p_\theta(x\mid z) = \mathcal N(x;\, G(z), \sigma^2 I)$. Then
#
# $$
# -\log p_\theta(x\mid z) = \frac{\lVert x-G(z)\rVert^2}{2\sigma^2} + \frac{D}{2}\log(2\pi\sigma^2) .
# $$ (eq-squared-distance)
#
# A likely picture is now one that lies *close* to the drawing. That is all that the student's notes, which [this book follows](bibliography.md), mean by "we look at the distance between $x$ and $G(z)$".
#
# ### And still the integral is out of reach
#
# Could we average $p_\theta(x\mid z)$ over many drawn $z$? The average is right in expectation. But for a given picture almost every $z$ draws something else, and the few that fit decide everything. We need a model in which the right answer is known. Here is one: a *linear* network.
#
# $$
# z\sim\mathcal N(0, I_K), \qquad x\mid z\ \sim\ \mathcal N(Wz+b,\ \sigma^2 I_D) .
# $$ (def-linear-vae)
#
# Here $W$ is a matrix of $D\times K$ numbers and $b$ a list of $D$ numbers; the drawing is $G(z) = Wz+b$, and $I$ is the identity matrix: variance 1 in each coordinate, no correlation. This model needs a little linear algebra. Without it, take Eq. [linear likelihood](#eq-linear-likelihood) and Eq. [linear posterior](#eq-linear-posterior) as given: for this model $p(x)$ and $p(z\mid x)$ are known. Read on at *The bound*, and pass over its last formula. A normal density whose coordinates are correlated has a matrix $C$, the covariance, in the place of the variance:
#
# $$
# \mathcal N(x;\ \mu, C) = \frac{1}{\sqrt{(2\pi)^D\det C}}\,\exp\left(-\tfrac12\,(x-\mu)^\top C^{-1}(x-\mu)\right) .
# $$
#
# One fact about it we take without proof: linear maps and sums of independent normal numbers are normal. ([The next chapter](forward.ipynb) proves it for two numbers.) So the integral can be done:
#
# $$
# p(x) = \mathcal N\bigl(x;\ b,\ WW^\top+\sigma^2 I\bigr) .
# $$ (eq-linear-likelihood)
#
# The mean is $b$, since $z$ and the noise have mean 0. The covariance is $\mathbb E[(Wz)(Wz)^\top] + \sigma^2 I$, because $z$ and the noise are independent and the mixed terms have mean 0; and $\mathbb E[zz^\top] = I$.
#
# Which $z$ could have produced a given $x$? By Bayes' rule $p(z\mid x)\propto p(z)\,p(x\mid z)$ (equal up to a factor that has no $z$), and its exponent is $-\tfrac12$ times
#
# $$
# \lVert z\rVert^2 + \frac{\lVert x-b-Wz\rVert^2}{\sigma^2}
# = z^\top\Bigl(I+\frac{W^\top W}{\sigma^2}\Bigr)z - \frac{2}{\sigma^2}\,z^\top W^\top(x-b) + \dots
# $$
#
# where the dots have no $z$. Call the matrix in the bracket $A$, and let $B = W^\top(x-b)/\sigma^2$. Since $A$ is symmetric, $z^\top A z - 2z^\top B = (z-A^{-1}B)^\top A\,(z-A^{-1}B) - B^\top A^{-1}B$, as multiplying out shows. That is the exponent of a normal density with mean $A^{-1}B$ and covariance $A^{-1}$:
#
# $$
# p(z\mid x) = \mathcal N(z;\ m, S), \qquad S = \Bigl(I+\frac{W^\top W}{\sigma^2}\Bigr)^{-1}, \qquad m = \frac{1}{\sigma^2}\,S\,W^\top (x-b) .
# $$ (eq-linear-posterior)
#
# ## The bound
#
# Now the idea of the variational autoencoder. Bring in a second distribution, $q(z\mid x)$, the **encoder**: a guess, for each picture, of the $z$ that it came from. Any density will do that is positive exactly where $p_\theta(x,z)$ is, a normal density for instance. Then, for every such $q$,
#
# $$
# \begin{aligned}
# \log p_\theta(x) &= \int q(z\mid x)\,\log p_\theta(x)\,dz && q \text{ integrates to } 1 \\
# &= \int q(z\mid x)\,\log\frac{p_\theta(x, z)}{p_\theta(z\mid x)}\,dz && p_\theta(x,z) = p_\theta(z\mid x)\,p_\theta(x) \\
# &= \int q(z\mid x)\,\log\left(\frac{p_\theta(x, z)}{q(z\mid x)}\cdot\frac{q(z\mid x)}{p_\theta(z\mid x)}\right)dz && \text{times one} \\
# &= \mathbb E_q\left[\log\frac{p_\theta(x,z)}{q(z\mid x)}\right] + \mathbb E_q\left[\log\frac{q(z\mid x)}{p_\theta(z\mid x)}\right] && \text{log of a product.}
# \end{aligned}
# $$
#
# The second term is a divergence. So *exactly*, without any approximation,
#
# $$
# \log p_\theta(x) = \underbrace{\mathbb E_{q(z\mid x)}\left[\log\frac{p_\theta(x,z)}{q(z\mid x)}\right]}_{\text{the bound}} + \underbrace{\mathrm{KL}\bigl(q(z\mid x)\,\|\,p_\theta(z\mid x)\bigr)}_{\text{the gap, } \ge\, 0} .
# $$ (eq-elbo)
#
# The gap is not negative, by Eq. [KL is not negative](#eq-kl-nonnegative), so the first term lies below $\log p_\theta(x)$: the **evidence lower bound**. The gap is zero for one encoder only, $q(z\mid x) = p_\theta(z\mid x)$.
#
# **The same by Jensen's inequality**, as many texts have it: the log of a mean is at least the mean of the log, and so
#
# $$
# \log p_\theta(x) = \log \mathbb E_q\left[\frac{p_\theta(x,z)}{q(z\mid x)}\right] \ \ge\ \mathbb E_q\left[\log\frac{p_\theta(x,z)}{q(z\mid x)}\right].
# $$
#
# The first sign: $q$ cancels under the integral, and $\int p_\theta(x,z)\,dz = p_\theta(x)$ stays. The second is [the tangent](likelihood.ipynb) once more: put $u = Y/\mathbb E[Y]$ into $\log u\le u-1$ and take the mean; the right side becomes 0, so $\mathbb E[\log Y]\le\log\mathbb E[Y]$. It is shorter, but it does not say how large the gap is.
#
# **Two terms that can be computed.** Split $p_\theta(x,z) = p(z)\,p_\theta(x\mid z)$:
#
# $$
# \text{bound} = \mathbb E_{q(z\mid x)}\bigl[\log p_\theta(x\mid z)\bigr] - \mathrm{KL}\bigl(q(z\mid x)\,\|\,p(z)\bigr) .
# $$ (eq-elbo-split)
#
# The first term asks for good drawings: decode what was encoded, and come close to $x$. The second asks the encoder not to stray from $p(z)$.

# %%
def elbo(log_likelihood: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """Return the evidence lower bound for a normal encoder and the prior N(0, I).

    Args:
        log_likelihood: (...) E_q[log p(x | z)], exact or averaged over draws of z.
        mean: (..., K) the encoder's mean.
        var: (..., K) the encoder's variances.

    Returns:
        (...) the bound on log p(x), in nats.

    Raises:
        ValueError: if there is not one log_likelihood a point.

    Equation: eq-elbo-split.
    """
    kl = gaussian_kl(mean, var, torch.zeros_like(mean), torch.ones_like(var))
    return check.shape("log_likelihood", log_likelihood, kl.shape) - kl


# %% [markdown]
# For the linear model and an encoder with mean $\mu$ and variances $v_k$ the first term is exact too. Write $z = \mu + (z-\mu)$. The mixed term has mean 0. With $W_k$ the $k$-th column of $W$, what is left is $\lVert\sum_k W_k(z_k-\mu_k)\rVert^2$; there the products of different $k$ have mean 0 too, since the encoder's coordinates are independent. So
#
# $$
# \mathbb E_q\lVert x-b-Wz\rVert^2 = \lVert x-b-W\mu\rVert^2 + \sum_{k=1}^{K} v_k\,\lVert W_k\rVert^2 .
# $$

# %%
@dataclass(frozen=True, eq=False)
class LinearGaussianVAE:
    """A variational autoencoder with a linear decoder: likelihood and gap are exact.

    Args:
        weight: (D, K) W.
        bias: (D,) b.
        noise_var: sigma^2, the variance of each pixel around the decoder's drawing.

    Raises:
        ValueError: if the shapes do not fit or noise_var is not positive.

    Equation: def-linear-vae.
    """

    weight: Tensor
    bias: Tensor
    noise_var: float

    def __post_init__(self) -> None:
        check.linear_model(self.weight, self.bias, self.noise_var)

    def decode(self, z: Tensor) -> Tensor:
        """Return G(z) = W z + b, (..., D), for z (..., K)."""
        return z @ self.weight.T + self.bias

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw n points x, (n, D). The noise comes from the CPU.

        Equation: def-linear-vae.
        """
        (D, K), dtype = self.weight.shape, self.weight.dtype
        z = torch.randn(n, K, dtype=dtype, generator=generator).to(self.weight)
        noise = torch.randn(n, D, dtype=dtype, generator=generator).to(self.bias)
        return self.decode(z) + self.noise_var**0.5 * noise

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the exact log p(x), (...), for x (..., D).

        Equation: eq-linear-likelihood.
        """
        eye = torch.eye(len(self.bias)).to(self.weight)
        covariance = self.weight @ self.weight.T + self.noise_var * eye
        return torch.distributions.MultivariateNormal(self.bias, covariance).log_prob(x)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean (..., K) and covariance (K, K) of p(z | x).

        Equation: eq-linear-posterior.
        """
        eye = torch.eye(self.weight.shape[1]).to(self.weight)
        covariance = (eye + self.weight.T @ self.weight / self.noise_var).inverse()
        return (x - self.bias) @ self.weight @ covariance / self.noise_var, covariance

    def expected_log_likelihood(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """Return E_q[log p(x | z)] exactly, for z ~ N(mean, var) with (..., K) each.

        The mean of eq-squared-distance over z: the squared distance of the mean's
        drawing, plus the sum of var_k times the squared length of W's k-th column.

        Equation: eq-squared-distance.
        """
        noise_var = torch.full_like(self.bias, self.noise_var)
        spread = (var * self.weight.square().sum(0)).sum(-1) / (2 * self.noise_var)
        return gaussian_log_prob(x, self.decode(mean), noise_var) - spread

    def gap(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """Return KL(q(z | x) || p(z | x)) for the encoder N(mean, var), (...).

        Equation: eq-elbo.
        """
        return gaussian_kl_full(mean, torch.diag_embed(var), *self.posterior(x))

# %% [markdown]
# Now see the average fail. Take hidden variables of $K$ = 2, 8 and 32 numbers, pictures of $2K$ numbers and $\sigma^2 = 0.1$. For each $K$ draw ten models at random and one $x$ from each, and average $p(x\mid z)$ over more and more $z$ drawn from $p(z)$. The exact answer is known here, so each curve can show how far off the estimate of $\log p(x)$ still is.

# %% mystnb={"image": {"alt": "How many nats the estimated log-likelihood is off, against the number of drawn z, both axes logarithmic: three bundles of ten curves. With 2 hidden numbers they fall to about a tenth of a nat or less. With 8 they fall to some ten nats. With 32 they hardly fall, and stay at thousands of nats after 100,000 draws."}} tags=["active-ipynb"]
# figure, ax = plt.subplots(figsize=(5, 3))
# n = torch.logspace(0, 5, 60).long()
# for K, color in ((2, fig.BLUE), (8, fig.GREEN), (32, fig.ORANGE)):
#     off, d = [], []
#     for _ in range(10):
#         weight = torch.randn(2 * K, K, dtype=torch.float64, generator=generator)
#         model = LinearGaussianVAE(weight, torch.zeros(2 * K, dtype=torch.float64), 0.1)
#         x = model.sample(1, generator)[0]
#         z = torch.randn(100_000, K, dtype=torch.float64, generator=generator)
#         log_p = gaussian_log_prob(x, model.decode(z), torch.full((2 * K,), 0.1))
#         # The log of a sum of n densities, less log n, is the log of their mean.
#         estimate = torch.logcumsumexp(log_p, 0)[n - 1] - n.log()
#         off.append((estimate - model.log_prob(x)).abs())
#         prior = torch.zeros(K, dtype=torch.float64), torch.eye(K, dtype=torch.float64)
#         d.append(gaussian_kl_full(*model.posterior(x), *prior))
#         ax.loglog(n, off[-1], color=color, linewidth=0.7)
#     last, d = torch.stack(off)[:, -1], torch.stack(d)
#     ax.text(1.4e5, last.median(), f"K = {K}", color=color, va="center")
#     print(
#         f"K = {K:<2}  after 100,000 draws off by {last.min():.1f} to {last.max():.1f} nats;"
#         f"  d from {d.min():.0f} to {d.max():.0f}"
#     )
# ax.axhline(1, color=fig.GREY, linewidth=0.8, linestyle=":")
# ax.text(1.4e5, 1, "1 nat", color=fig.GREY, va="center")
# ax.set(
#     xlabel="draws of z",
#     ylabel="nats off",
#     ylim=(1e-3, 1e5),
#     yticks=[1e-3, 1e-1, 10, 1000, 1e5],
# )
# plt.show()

# %% [markdown]
# **Figure.** How far the average over draws is off, for ten random models of each size. With two hidden numbers some thousand draws are enough. With 32 even 100,000 leave it thousands of nats off.
#
# Why? The $z$ that fit $x$ are a tiny part of all $z$. To find them by luck takes about $e^{d}$ draws, where $d = \mathrm{KL}(p(z\mid x)\,\|\,p(z))$: $d$ is the mean of $\log\bigl(p(z\mid x)/p(z)\bigr)$ where the posterior has its mass, so the posterior is about $e^d$ times as dense there as $p(z)$, and only about one draw in $e^d$ falls there. And $\log 100{,}000$ is 11.5: compare it with the $d$ of the ten models, printed above. (How far off a smaller number of draws leaves us, $d$ does not tell.) The bound needs no such luck: it draws $z$ from $q(z\mid x)$, which points at the few $z$ that matter.
#
# ## Bound plus gap is the likelihood
#
# With the linear model all three numbers of Eq. [bound and gap](#eq-elbo) are exact. Take some arbitrary encoder, and add:

# %% tags=["active-ipynb"]
# F64 = torch.float64
# weight = torch.tensor([[1, 0.8], [0.5, 1], [-0.7, 0.4], [0.3, -0.6]], dtype=F64)
# bias = torch.tensor([0.1, -0.2, 0, 0.3], dtype=F64)
# model = LinearGaussianVAE(weight, bias, noise_var=0.3)
# x = model.sample(5, generator)
# mean = torch.randn(5, 2, dtype=F64, generator=generator)
# var = torch.rand(5, 2, dtype=F64, generator=generator)
#
# bound = elbo(model.expected_log_likelihood(x, mean, var), mean, var)
# gap = model.gap(x, mean, var)
# assert torch.allclose(bound + gap, model.log_prob(x), rtol=0, atol=1e-10)
# print("  bound      gap      sum   log p(x)")
# for row in torch.stack([bound, gap, bound + gap, model.log_prob(x)], dim=1):
#     print("  ".join(f"{number:7.3f}" for number in row))

# %% [markdown]
# ## An encoder learns to close the gap
#
# Now *train* an encoder: a linear map for the mean and one variance for each hidden number. It never sees the exact posterior; it only makes the bound large. Since $\log p_\theta(x)$ does not depend on the encoder, a larger bound *is* a smaller gap.

# %% mystnb={"image": {"alt": "The mean bound against the training step. It comes in from below the edge of the picture, climbs steeply, and levels off a hair below the dashed line of the exact log-likelihood."}} tags=["active-ipynb"]
# encoder = torch.nn.Linear(4, 2, dtype=torch.float64)
# log_var = torch.zeros(2, dtype=torch.float64, requires_grad=True)
# torch.nn.init.zeros_(encoder.weight)
# torch.nn.init.zeros_(encoder.bias)
# optimizer = torch.optim.Adam([*encoder.parameters(), log_var], lr=0.02)
# data = model.sample(2000, generator)
# exact = model.log_prob(data).mean()
#
# bounds = []
# for _ in range(400):
#     mean, var = encoder(data), log_var.exp().expand(len(data), 2)
#     bound = elbo(model.expected_log_likelihood(data, mean, var), mean, var).mean()
#     optimizer.zero_grad()
#     (-bound).backward()
#     optimizer.step()
#     bounds.append(bound.item())
#
# figure, ax = plt.subplots(figsize=(5, 2.6))
# ax.plot(bounds, color=fig.BLUE)
# ax.axhline(exact, color=fig.ORANGE, linestyle="--")
# ax.set(xlabel="training step", ylabel="nats", ylim=(exact - 4, exact + 0.6))
# ax.fill_between(range(400), bounds, exact, color=fig.PURPLE, alpha=0.2, linewidth=0)
# ax.text(130, exact - 1.15, "the gap", color=fig.PURPLE)
# ax.annotate("", (90, exact - 0.3), (128, exact - 0.95), arrowprops={"arrowstyle": "->"})
# ax.text(
#     395, exact + 0.1, "exact log p(x), mean over the data", color=fig.ORANGE, ha="right"
# )
# ax.text(395, exact - 0.75, "bound", color=fig.BLUE, ha="right")
# plt.show()
#
# mean, var = encoder(data).detach(), log_var.detach().exp().expand(len(data), 2)
# left = model.gap(data, mean, var).mean()
# assert abs(exact - bounds[-1] - left) < 1e-3
# print(f"gap at the start: {exact - bounds[0]:.1f} nats, at the end: {left:.2f} nats")

# %% [markdown]
# **Figure.** The bound, while the encoder learns, and the exact likelihood above it. The shaded gap is $\mathrm{KL}\bigl(q(z\mid x)\,\|\,p(z\mid x)\bigr)$, mean over the data. It shrinks, and a thin strip is left.
#
# The gap closes, but not quite. The true posterior has *correlated* hidden numbers, since its covariance $S$ is not diagonal, and our encoder cannot say that. What is left is the price of a too simple $q$, and not of too little training: Exercise 3 computes the smallest gap that such an encoder can have, and this one has it.
#
# ## The same bound for a chain
#
# Now read the hidden variable as a whole chain. Instead of one $z$ take $x_1, \dots, x_T$, each as large as the picture; write $x_{1:T}$ for all of them together. Instead of a trained encoder take a *fixed* one, the forward process that adds noise step by step:
#
# $$
# q(x_{1:T}\mid x_0) = \prod_{t=1}^{T} q(x_t\mid x_{t-1}) .
# $$ (def-chain-encoder)
#
# The decoder is a chain as well. It starts with noise and walks back:
#
# $$
# p_\theta(x_{0:T}) = p(x_T)\prod_{t=1}^{T}p_\theta(x_{t-1}\mid x_t) .
# $$ (def-chain-model)
#
# Nothing in the derivation of the bound cared what $z$ was. Put $x_0$ for $x$ and $x_{1:T}$ for $z$:
#
# $$
# \log p_\theta(x_0) = \log\int p_\theta(x_{0:T})\,dx_{1:T} \ \ge\ \mathbb E_{q(x_{1:T}\mid x_0)}\left[\log\frac{p_\theta(x_{0:T})}{q(x_{1:T}\mid x_0)}\right].
# $$ (eq-chain-elbo)
#
# | | variational autoencoder | diffusion |
# |---|---|---|
# | hidden variable | $z$, small | $x_1,\dots,x_T$, each as large as $x_0$ |
# | encoder | a network, trained | adding noise, fixed |
# | decoder | a network, one step | a network, used $T$ times |
# | what training moves | encoder and decoder | the decoder alone |
#
# The last row is the remarkable one. In an autoencoder the encoder learns to fit the decoder. Here the encoder stands still, and the decoder has to learn to undo it. Both sides of Eq. [bound and gap](#eq-elbo) then depend on the decoder: as the bound rises, the likelihood rises or the gap shrinks, and the bound does not say which.
#
# Check the bound where everything can be counted: a chain on three states with two steps. The sums run over all nine paths.

# %% tags=["active-ipynb"]
# def random_table(*shape):
#     table = torch.rand(*shape, dtype=torch.float64, generator=generator) + 0.1
#     return table / table.sum(-1, keepdim=True)
#
#
# q_1, q_2 = random_table(3, 3), random_table(3, 3)  # q_1[i, j] = q(x_1 = j | x_0 = i)
# p_end = random_table(3)  # p(x_2)
# p_1, p_0 = random_table(3, 3), random_table(3, 3)  # p(x_1 | x_2), p(x_0 | x_1)

# %% [markdown]
# Each letter below names an axis: $a$, $b$, $c$ for the states $x_0$, $x_1$, $x_2$. Equal letters run together, and here none is summed over.

# %% tags=["active-ipynb"]
# joint = torch.einsum("c,cb,ba->abc", p_end, p_1, p_0)  # p(x_0 = a, x_1 = b, x_2 = c)
# path = torch.einsum("ab,bc->abc", q_1, q_2)  # q(x_1 = b, x_2 = c | x_0 = a)
# log_likelihood = joint.sum((1, 2)).log()
# bound = (path * (joint / path).log()).sum((1, 2))
# posterior = joint / joint.sum((1, 2), keepdim=True)
# gap = (path * (path / posterior).log()).sum((1, 2))
# assert torch.allclose(bound + gap, log_likelihood, rtol=0, atol=1e-12)
# for a in range(3):
#     print(
#         f"x_0 = {a}: bound {bound[a]:.4f} + gap {gap[a]:.4f} = {bound[a] + gap[a]:.4f},"
#         f" log p(x_0) = {log_likelihood[a]:.4f}"
#     )

# %% [markdown]
# ## Where people slip
#
# **"It is not negative, because it is zero when the two agree."** That does not follow: $\sin$ is zero at 0 as well. The gap is a divergence, and that divergences are never negative has [a proof](likelihood.ipynb).
#
# **Forgetting that the bound holds for each picture.** The encoder gets one $x$ and answers for that $x$. Averaging $q(z\mid x)$ over all pictures and comparing *that* with $p(z)$ is another quantity.
#
# **Reading a larger bound as a better model.** A bound can grow because the model got better, or because the gap got smaller. The bound alone cannot tell which. One has to know the likelihood, as here, or to estimate it with draws from an encoder close to the posterior. (From the exact posterior one draw is enough: Exercise 2.)
#
# ## Exercises
#
# **1.** A model without any matrix: it flips a hidden fair coin $z$. With $z = 1$ it says "yes" with probability 0.9, with $z = 0$ with probability 0.2. It said "yes". An encoder that has not looked answers $q(z\mid x) = \tfrac12$ for both. How large are the bound, the gap and $\log p(x)$? And which encoder has no gap? *Hint:* Eq. [bound and two terms](#eq-elbo-split) has a divergence from $p(z)$; how large is it here?
#
# <details><summary>Solution</summary>
#
# $p(x) = \tfrac12\cdot0.9+\tfrac12\cdot0.2 = 0.55$. The encoder equals $p(z)$, so its divergence from it is 0, and the bound is the mean of $\log p(x\mid z)$: $\tfrac12(\log 0.9+\log 0.2) = -0.857$. The likelihood is $\log 0.55 = -0.598$, so the gap is 0.260 nats. There is no gap for $q(z{=}1\mid x) = 0.45/0.55 = 9/11$, the posterior.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 1
# likelihood = torch.tensor([0.2, 0.9])  # of "yes", for z = 0 and z = 1
# truth = (0.5 * likelihood).sum().log()
# for guess in (1 / 2, 9 / 11):
#     q = torch.tensor([1 - guess, guess])
#     bound = (q * (0.5 * likelihood / q).log()).sum()
#     print(f"q(z = 1) = {guess:.3f}: bound {bound:.3f}, gap {truth - bound:.3f}")

# %% [markdown]
# **2.** For which $W$ can an encoder with *independent* coordinates close the gap? *Hint:* try orthogonal columns.
#
# <details><summary>Solution</summary>
#
# Exactly for those whose columns are orthogonal. The gap is 0 for $q(z\mid x) = p(z\mid x)$ only, so $S$ must be diagonal. By Eq. [linear posterior](#eq-linear-posterior) it is so when $W^\top W$ is, and its entries are the products of the columns.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 2
# weight = torch.tensor([[1, 0], [0, 2], [0, 0]], dtype=F64)
# straight = LinearGaussianVAE(weight, torch.zeros(3, dtype=F64), noise_var=0.5)
# x = straight.sample(4, generator)
# mean, covariance = straight.posterior(x)
# gap = straight.gap(x, mean, covariance.diag().expand(4, 2))
# print("gaps, to 12 digits:", *(f"{abs(g):.12f}" for g in gap.tolist()))

# %% [markdown]
# **3.** Estimate $\log p(x)$ for the model with 32 hidden numbers by drawing $z$ from the exact posterior and averaging $p(x,z)/p(z\mid x)$. How many draws do you need? *Hint:* what does Bayes' rule say of this ratio?
#
# <details><summary>Solution</summary>
#
# One. The ratio is $p(x)$ for every $z$: that is Bayes' rule. The better the encoder, the fewer draws are needed.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 3
# weight = torch.randn(64, 32, dtype=torch.float64, generator=generator)
# large = LinearGaussianVAE(weight, torch.zeros(64, dtype=torch.float64), 0.1)
# x = large.sample(1, generator)[0]
# mean, covariance = large.posterior(x)
# posterior = torch.distributions.MultivariateNormal(mean, covariance)
# z = posterior.sample()
# log_joint = gaussian_log_prob(z, torch.zeros_like(z), torch.ones_like(z))
# log_joint += gaussian_log_prob(x, large.decode(z), torch.full_like(x, 0.1))
# print(
#     f"one draw: {log_joint - posterior.log_prob(z):.6f}, exact: {large.log_prob(x):.6f}"
# )

# %% [markdown]
# **4.** For equal means, $\mathrm{KL}\bigl(\mathcal N(m,V)\,\|\,\mathcal N(m,S)\bigr) = \tfrac12\bigl(\operatorname{tr}(S^{-1}V) - K - \log\det V + \log\det S\bigr)$. Which *diagonal* $V$ makes it smallest? How large is the gap that our trained encoder could not close? *Hint:* set the derivative for one entry of $V$ to 0.
#
# <details><summary>Solution</summary>
#
# Let $v_k$ be the entries of $V$. What depends on $v_k$ is $\tfrac12\bigl((S^{-1})_{kk}\,v_k - \log v_k\bigr)$; its derivative is zero at $v_k = 1/(S^{-1})_{kk}$. Then the trace is $K$, and what is left is $\tfrac12\bigl(\log\det S - \sum_k\log v_k\bigr)$.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 4
# _, covariance = model.posterior(data)
# best_var = 1 / torch.linalg.inv(covariance).diag()
# smallest = 0.5 * (torch.logdet(covariance) - best_var.log().sum())
# print(f"smallest gap: {smallest:.2f} nats, the trained encoder's: {left:.2f}")
# assert (left - smallest).abs() < 0.01

# %% [markdown]
# ## Summary
#
# With a hidden variable the likelihood is an integral that in general cannot be computed. Any encoder gives a lower bound, and the gap is the divergence between the encoder and the true posterior. Diffusion uses the same bound, with a chain of noisy pictures as hidden variable and a fixed encoder that adds noise.
#
# **The next question.** What exactly does this encoder do to a picture? See [the forward process](forward.ipynb).
