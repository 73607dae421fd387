# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The bound becomes a sum, one term a step
#
# **The question.** The bound for a chain holds one logarithm of two long products. How does it become something that can be trained one step at a time?
#
# ![The chain with its lower half lit: arrows lead from noise at the right back to a handwritten 9. Under them stands a sum with each term at its place: L_0 under x_0, L_{t−1} under the step from x_t back to x_{t−1}, L_T under x_T.](images/chain-bound.svg)
#
# What does each step add to the bound?
#
# **What you bring.** The bound for a chain, Eq. [chain bound](#eq-chain-elbo), from [the hidden variable](vae.ipynb); Bayes' rule; and the Markov property of [the forward process](forward.ipynb): given $x_{t-1}$, the step to $x_t$ does not look at anything earlier.
#
# **What you take away.** Three kinds of terms, each with a meaning: how far the end of the chain is from the noise that sampling starts with, how well each step back is learned, and how well the last step draws. And what a model pays in all: averaged over the data, the bound exceeds the entropy by exactly what the model's start and its steps back are wrong by. And the reason why training may pick one $t$ at random.

# %% tags=["active-ipynb"]
# # In Colab this installs the book's package; elsewhere it is there, and nothing happens.
# import importlib.util
#
# if importlib.util.find_spec("ddpm_nb") is None:
#     %pip install --quiet --no-deps "ddpm_nb @ git+https://github.com/ddpm_nb/ddpm_nb"

# %%
"""The bound of a chain as prior, steps and reconstruction, exact for a few states.

States are numbered 0 ... S - 1, and a distribution over them is a row of a table.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddpm_nb import _checks as check


# %% [markdown]
# ## The derivation
#
# Training *minimises*, so look at minus the bound, and call it $L$. Start with the definition, and put in the two products:
#
# $$
# L = \mathbb E_q\left[-\log\frac{p_\theta(x_{0:T})}{q(x_{1:T}\mid x_0)}\right]
#   = \mathbb E_q\left[-\log p(x_T) - \sum_{t=1}^{T}\log\frac{p_\theta(x_{t-1}\mid x_t)}{q(x_t\mid x_{t-1})}\right].
# $$ (eq-bound-start)
#
# The expectation runs over the forward process, $x_{1:T}\sim q(x_{1:T}\mid x_0)$, for a given $x_0$. The fractions are awkward: above stands a step *back*, below a step *forward*. Turn the lower one round.
#
# **Markov, then Bayes.** A step forward does not look at $x_0$ once $x_{t-1}$ is given, so we may add $x_0$ to the condition for free. Then Bayes' rule, with everything given $x_0$, turns it round. For $t \ge 2$:
#
# $$
# \begin{aligned}
# q(x_t\mid x_{t-1}) &= q(x_t\mid x_{t-1}, x_0) && \text{Markov} \\
# &= q(x_{t-1}\mid x_t, x_0)\,\frac{q(x_t\mid x_0)}{q(x_{t-1}\mid x_0)} && \text{Bayes' rule, given } x_0 .
# \end{aligned}
# $$
#
# Why not for $t = 1$? There $x_{t-1}$ *is* $x_0$, and nothing is left to turn round. So split that step off first:
#
# $$
# L = \mathbb E_q\Biggl[-\log p(x_T) - \sum_{t=2}^{T}\log\frac{p_\theta(x_{t-1}\mid x_t)}{q(x_t\mid x_{t-1})} - \log\frac{p_\theta(x_0\mid x_1)}{q(x_1\mid x_0)}\Biggr] .
# $$
#
# Put the turned step into the sum:
#
# $$
# L = \mathbb E_q\Biggl[-\log p(x_T) - \sum_{t=2}^{T}\log\frac{p_\theta(x_{t-1}\mid x_t)}{q(x_{t-1}\mid x_t,x_0)} - \sum_{t=2}^{T}\log\frac{q(x_{t-1}\mid x_0)}{q(x_t\mid x_0)} - \log\frac{p_\theta(x_0\mid x_1)}{q(x_1\mid x_0)}\Biggr] .
# $$
#
# **The sum telescopes.** In the second sum each denominator is the next numerator. Written out,
#
# $$
# \sum_{t=2}^{T}\log\frac{q(x_{t-1}\mid x_0)}{q(x_t\mid x_0)}
# = \log\frac{q(x_1\mid x_0)}{q(x_2\mid x_0)} + \log\frac{q(x_2\mid x_0)}{q(x_3\mid x_0)} + \dots + \log\frac{q(x_{T-1}\mid x_0)}{q(x_T\mid x_0)}
# = \log\frac{q(x_1\mid x_0)}{q(x_T\mid x_0)} .
# $$
#
# Its $q(x_1\mid x_0)$ cancels the one in the last term, and its $q(x_T\mid x_0)$ goes to $p(x_T)$:
#
# $$
# L = \mathbb E_q\Biggl[\log\frac{q(x_T\mid x_0)}{p(x_T)} + \sum_{t=2}^{T}\log\frac{q(x_{t-1}\mid x_t,x_0)}{p_\theta(x_{t-1}\mid x_t)} - \log p_\theta(x_0\mid x_1)\Biggr] .
# $$
#
# **Divergences appear.** The first term depends on $x_T$ only, and its mean is a divergence. In the sum, draw $x_t$ first and then $x_{t-1}$ from $q(x_{t-1}\mid x_t,x_0)$: the inner mean is a divergence too. The result is
#
# $$
# L = \underbrace{\mathrm{KL}\bigl(q(x_T\mid x_0)\,\|\,p(x_T)\bigr)}_{L_T} + \sum_{t=2}^{T}\underbrace{\mathbb E_{q(x_t\mid x_0)}\,\mathrm{KL}\bigl(q(x_{t-1}\mid x_t,x_0)\,\|\,p_\theta(x_{t-1}\mid x_t)\bigr)}_{L_{t-1}} + \underbrace{\mathbb E_{q(x_1\mid x_0)}\bigl[-\log p_\theta(x_0\mid x_1)\bigr]}_{L_0} .
# $$ (eq-bound)
#
# Bayes' rule and the Markov property were all it took. Nothing was assumed about normal distributions.
#
# ## What each term says
#
# | term | name | what it costs |
# |---|---|---|
# | $L_T$ | prior | how far the end of the chain, for this $x_0$, is from the $p(x_T)$ that sampling starts with. No $\theta$ in it: a good schedule makes it almost nothing |
# | $L_{t-1}$, $t = 2,\dots,T$ | steps | how far the model's step back is from the true one *that knows $x_0$* |
# | $L_0$ | reconstruction | how well $x_0$ is drawn when $x_1$ is given |
#
# The student's notes, which [this book follows](bibliography.md), call the middle term the divergence between "forward $q(x_t\mid x_{t-1})$ and backward $p_\theta(x_t\mid x_{t-1})$". Their formula is right and the sentence is not: both distributions in it walk *back*, from $x_t$ to $x_{t-1}$. The notes keep only this term. The minus sign, $L_T$ and $L_0$ belong to the bound as well.
#
# **What is $L_T$ worth, for pictures?** By Eq. [forward](#eq-forward), $q(x_T\mid x_0)$ is a bell for each number of the picture, and Eq. [gaussian KL](#eq-gaussian-kl) compares it with $p(x_T) = \mathcal N(0, I)$. The numbers lie between $-1$ and 1. So take the worst, $\pm1$, and the paper's schedule:

# %% tags=["active-ipynb"]
# import math
#
# from ddpm_nb.forward import Schedule
# from ddpm_nb.likelihood import gaussian_kl
#
# left = Schedule.linear().alpha_bar[-1:]
# zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
# cost = gaussian_kl(left.sqrt(), 1 - left, zero, one) / math.log(2)
# print(f"L_T: at most {cost:.1e} bits a number,")
# print(f"{3072 * cost:.2f} bits for a CIFAR-10 picture of 32 x 32 x 3 = 3,072 numbers")

# %% [markdown]
# To store a CIFAR-10 picture without any loss takes more than 10,000 bits: the paper's model needs 3.75 a number at most (Table 1). Against that $L_T$ is nothing.
#
# In the code the three kinds of terms make one record.

# %%
@dataclass(frozen=True, eq=False)
class ChainBound:
    """The three kinds of terms of the bound, in nats, for each start x_0 = 0 ... S - 1.

    Attributes:
        prior: (S,) L_T.
        steps: (T - 1, S) L_{t-1} for t = 2 ... T, in this order.
        reconstruction: (S,) L_0.
    """

    prior: Tensor
    steps: Tensor
    reconstruction: Tensor

    @property
    def total(self) -> Tensor:
        """The bound on -log p(x_0), (S,)."""
        return self.prior + self.steps.sum(0) + self.reconstruction


# %% [markdown]
# ## Checked by counting
#
# On a chain with a few states every expectation is a finite sum. Nothing is estimated, and the two sides of the derivation can be compared to twelve digits. The forward tables are $q(x_t = j\mid x_{t-1} = i)$, the model's are $p(x_{t-1} = i\mid x_t = j)$, and products of forward tables are the jumps. The loop goes from $t$ to $t+1$. `pair` has three axes, for $x_0$, $x_{t-1}$ and $x_t$: the probability of coming by $x_{t-1}$ to $x_t$, for each start. Divided by its sum over $x_{t-1}$ it is the step back that knows $x_0$.

# %%
def chain_bound(
    forward: Sequence[Tensor], reverse: Sequence[Tensor], prior: Tensor
) -> ChainBound:
    """Return the terms of the bound for a chain on S states, exactly.

    Args:
        forward: T tables (S, S) for t = 1 ... T: row i is q(x_t | x_{t-1} = i).
        reverse: T tables (S, S) for t = 1 ... T: row j is p(x_{t-1} | x_t = j).
        prior: (S,) p(x_T).

    Returns:
        the terms for every x_0.

    Raises:
        ValueError: if the shapes do not fit, an entry is not positive, or a row does not
            sum to 1.

    Equation: eq-bound. Paper: equation 5.
    """
    check.chain(forward, reverse, prior)
    jump = forward[0]  # row i is q(x_t | x_0 = i), here for t = 1
    reconstruction = -(jump * reverse[0].log().T).sum(1)
    steps = []
    for step, back in zip(forward[1:], reverse[1:], strict=True):
        pair = jump[:, :, None] * step  # (x_0, x_{t-1}, x_t): q(x_{t-1}, x_t | x_0)
        jump = pair.sum(1)
        posterior = pair / jump[:, None, :]  # q(x_{t-1} | x_t, x_0)
        steps.append((pair * (posterior / back.T).log()).sum((1, 2)))
    return ChainBound(
        prior=(jump * (jump / prior).log()).sum(1),
        steps=torch.stack(steps) if steps else jump.new_zeros(0, len(prior)),
        reconstruction=reconstruction,
    )

# %% [markdown]
# Take four states, five steps, and tables drawn at random.

# %% tags=["active-ipynb"]
# import itertools
#
# generator = torch.Generator().manual_seed(0)
#
#
# def random_table(*shape):
#     table = torch.rand(*shape, dtype=torch.float64, generator=generator) + 0.1
#     return table / table.sum(-1, keepdim=True)
#
#
# S, T = 4, 5
# forward = [random_table(S, S) for _ in range(T)]
# reverse = [random_table(S, S) for _ in range(T)]
# prior = random_table(S)

# %% [markdown]
# For the left side count *all* paths, and use the definition, Eq. [start](#eq-bound-start).

# %% tags=["active-ipynb"]
# definition, likelihood = torch.zeros(2, S, dtype=torch.float64)
# for path in itertools.product(range(S), repeat=T + 1):  # all (x_0, ..., x_T)
#     steps = list(zip(forward, reverse, path, path[1:]))
#     log_q = sum(q[here, there].log() for q, _, here, there in steps)
#     log_p = sum(p[there, here].log() for _, p, here, there in steps)
#     log_p = prior[path[T]].log() + log_p
#     definition[path[0]] += log_q.exp() * (log_q - log_p)
#     likelihood[path[0]] += log_p.exp()

# %% [markdown]
# The right side is the three terms.

# %% tags=["active-ipynb"]
# total = chain_bound(forward, reverse, prior).total
# assert torch.allclose(total, definition, rtol=0, atol=1e-12)
# assert (total > -likelihood.log()).all()
# print(f"{S ** (T + 1):,} paths counted")
# for x_0 in range(S):
#     print(
#         f"x_0 = {x_0}: definition {definition[x_0]:.6f}, three terms {total[x_0]:.6f},"
#         f" above -log p(x_0) = {-likelihood[x_0].log():.6f}"
#     )

# %% [markdown]
# ## What the whole bound costs
#
# The bound speaks of one $x_0$. Averaged over the data it becomes a divergence of two whole chains, and falls into steps again, this time without $x_0$ in any condition. One tool is needed.
#
# **The chain rule of the divergence.** Let $q(a,b)$ and $p(a,b)$ be two distributions of a pair. Then the divergence of the pairs is that of the first members, plus the mean divergence of the second members when the first is given:
#
# $$
# \mathrm{KL}\bigl(q(a,b)\,\|\,p(a,b)\bigr) = \mathrm{KL}\bigl(q(a)\,\|\,p(a)\bigr) + \mathbb E_{q(a)}\,\mathrm{KL}\bigl(q(b\mid a)\,\|\,p(b\mid a)\bigr) .
# $$ (eq-kl-chain)
#
# **Proof.** Every mean is taken over $q(a,b)$:
#
# $$
# \begin{aligned}
# \mathbb E\left[\log\frac{q(a,b)}{p(a,b)}\right]
# &= \mathbb E\left[\log\frac{q(a)\,q(b\mid a)}{p(a)\,p(b\mid a)}\right] && \text{each pair as first member, then second} \\
# &= \mathbb E\left[\log\frac{q(a)}{p(a)}\right] + \mathbb E\left[\log\frac{q(b\mid a)}{p(b\mid a)}\right] && \text{log of a product.}
# \end{aligned}
# $$
#
# The first mean has no $b$ in it: it is $\mathrm{KL}(q(a)\|p(a))$. In the second draw $a$ first, then $b$: the inner mean is a divergence. $\blacksquare$ Which member is called the first is free. So the same divergence may be split in two ways, and we shall use both.
#
# **The forward chain, read backwards.** With the data in front, the forward process is one distribution of all its members, $q(x_{0:T}) = q(x_0)\,q(x_{1:T}\mid x_0)$. Turn its steps round with Bayes' rule, now *without* $x_0$: $q(x_t\mid x_{t-1}) = q(x_{t-1}\mid x_t)\,q(x_t)/q(x_{t-1})$. (Nobody can compute that for real pictures. It is true all the same.) The fractions telescope:
#
# $$
# q(x_{0:T}) = q(x_0)\prod_{t=1}^{T}q(x_t\mid x_{t-1})
# = q(x_0)\prod_{t=1}^{T}\frac{q(x_t)}{q(x_{t-1})}\,q(x_{t-1}\mid x_t)
# = q(x_T)\prod_{t=1}^{T}q(x_{t-1}\mid x_t) .
# $$
#
# That is a product of the same form as the model's, Eq. [chain model](#def-chain-model). Now average $L$ over the data and take away their entropy $H(q(x_0)) = -\mathbb E\log q(x_0)$, which has to be finite. All means are over $q(x_{0:T})$:
#
# $$
# \begin{aligned}
# \mathbb E[L] - H
# &= \mathbb E\left[\log\frac{q(x_{1:T}\mid x_0)}{p_\theta(x_{0:T})}\right] + \mathbb E\bigl[\log q(x_0)\bigr] && \text{definition of } L \text{ and of } H \\
# &= \mathbb E\left[\log\frac{q(x_{0:T})}{p_\theta(x_{0:T})}\right] && \text{logs add: this is } \mathrm{KL}\bigl(q(x_{0:T})\,\|\,p_\theta(x_{0:T})\bigr) \\
# &= \mathbb E\left[\log\frac{q(x_T)}{p(x_T)}\right] + \sum_{t=1}^{T}\mathbb E\left[\log\frac{q(x_{t-1}\mid x_t)}{p_\theta(x_{t-1}\mid x_t)}\right] && \text{both chains as products from the end.}
# \end{aligned}
# $$
#
# Each mean is a divergence, as in the chain rule. So, for every model,
#
# $$
# \begin{aligned}
# \mathbb E_{q(x_0)}[L] - H\bigl(q(x_0)\bigr) &= \mathrm{KL}\bigl(q(x_{0:T})\,\|\,p_\theta(x_{0:T})\bigr) \\
# &= \mathrm{KL}\bigl(q(x_T)\,\|\,p(x_T)\bigr) + \sum_{t=1}^{T}\mathbb E_{q(x_t)}\,\mathrm{KL}\bigl(q(x_{t-1}\mid x_t)\,\|\,p_\theta(x_{t-1}\mid x_t)\bigr) .
# \end{aligned}
# $$ (eq-joint-kl)
#
# Read it from left to right. The entropy is the part of the bill that no model can save. All the rest has two causes only: the model *starts* wrong, or its *steps back* are wrong. No $x_0$ stands in these steps: they are the ones that a sampler can take. And split the divergence of the chains at the other end, with $a = x_0$ and $b = x_{1:T}$ in the chain rule:
#
# $$
# \mathrm{KL}\bigl(q(x_{0:T})\,\|\,p_\theta(x_{0:T})\bigr)
# = \mathrm{KL}\bigl(q(x_0)\,\|\,p_\theta(x_0)\bigr) + \mathbb E_{q(x_0)}\,\mathrm{KL}\bigl(q(x_{1:T}\mid x_0)\,\|\,p_\theta(x_{1:T}\mid x_0)\bigr) .
# $$
#
# The first part is what [maximum likelihood](likelihood.ipynb) wants small: how far the pictures that the model draws are from the data. The second is the gap of [the bound](vae.ipynb), averaged over the data. Neither is negative. So *the drawn pictures are off by at most what the start and the steps are off by, added up*. That is why it is enough to learn single steps.
#
# Two later chapters stand on this equation. [The posterior](posterior.ipynb) asks how much a step costs if it must be a bell, and so how many steps are needed. [The two algorithms](algorithms.ipynb) measure what a learned network adds to the bill.
#
# ## What a good model pays
#
# For a chain of a few states the *best* step back can be computed. By the equation it is
#
# $$
# q(x_{t-1}\mid x_t) = \sum_{x_0} q(x_0\mid x_t)\,q(x_{t-1}\mid x_t, x_0) ,
# $$
#
# the steps that know $x_0$, averaged over the starts that $x_t$ leaves possible: it makes every divergence of the sum 0, and nothing makes one smaller (Eq. [KL is not negative](#eq-kl-nonnegative)). The terms $L_{t-1}$ of Eq. [bound](#eq-bound) are not 0 even for this step: there it is compared with a step that knows $x_0$, and it does not know $x_0$. What it pays there is its share of the entropy.
#
# Let the forward process be a walk on a ring of twelve states that jumps anywhere with probability 0.3, and otherwise stays or goes to a neighbour. Let the data sit on three neighbouring states. Here is what the best model pays, in bits, averaged over the data.

# %% mystnb={"image": {"alt": "Bars with the cost in bits of each term for a chain of 12 steps, on a logarithmic axis. The orange bar at the left, the reconstruction, costs most, nearly a bit; the blue bars, the steps, cost less and less as t grows; the green bar at the right, the prior, is the smallest."}} tags=["active-ipynb"]
# import matplotlib.pyplot as plt
#
# from ddpm_nb import _figures as fig
#
# fig.use_style()
# S, T = 12, 12
# stay = torch.eye(S, dtype=torch.float64)
# walk = 0.7 * (0.5 * stay + 0.25 * stay.roll(1, 1) + 0.25 * stay.roll(-1, 1)) + 0.3 / S
# forward = [walk] * T
# data = torch.zeros(S, dtype=torch.float64)
# data[3:6] = torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64)
#
# marginals, reverse = [data], []
# for step in forward:
#     pair = marginals[-1][:, None] * step  # q(x_{t-1}, x_t)
#     marginals.append(pair.sum(0))
#     best = (pair / marginals[-1]).T + 1e-300  # q(x_{t-1} | x_t), rows for x_t
#     reverse.append(best / best.sum(1, keepdim=True))
# prior = torch.full((S,), 1 / S, dtype=torch.float64)
#
# bound = chain_bound(forward, reverse, prior)
#
#
# def bits(nats):
#     return float((data * nats).sum()) / math.log(2)
#
#
# costs = [bits(term) for term in (bound.reconstruction, *bound.steps, bound.prior)]
# figure, ax = plt.subplots(figsize=(5.2, 2.8))
# ax.bar(range(T + 1), costs, color=[fig.ORANGE, *[fig.BLUE] * (T - 1), fig.GREEN])
# ax.set(
#     xlabel="term",
#     ylabel="bits",
#     yscale="log",
#     ylim=(1e-5, 2),
#     xticks=range(0, T + 1, 2),
# )
# ax.set_xticklabels([f"$L_{{{t}}}$" for t in range(0, T + 1, 2)])
# ax.text(0.6, 0.9, "reconstruction", color=fig.ORANGE)
# ax.text(5.6, 0.02, "steps", color=fig.BLUE)
# ax.text(T + 0.4, 1.5 * costs[-1], "prior", color=fig.GREEN, ha="right")
# plt.show()
#
# entropy = bits(-data.clamp(min=1e-300).log())
# end = (marginals[-1] * (marginals[-1] / prior).log()).sum()  # KL(q(x_T) || p(x_T))
# drawn = prior  # what the model draws: its start, then its steps
# for step_back in reversed(reverse):
#     drawn = drawn @ step_back
# off = (data * (data / drawn).clamp(min=1e-300).log()).sum()  # KL(q(x_0) || p(x_0))
# print("L_0 ... L_12 in bits:", *(f"{cost:.3f}" for cost in costs))
# print(f"the sum of all terms:    {sum(costs):.6f} bits")
# print(f"the entropy of the data: {entropy:.6f} bits")
# print(f"the difference:          {sum(costs) - entropy:.3e} bits")
# print(f"KL(q(x_T) || p(x_T)):    {end / math.log(2):.3e} bits")
# print(f"KL(q(x_0) || p(x_0)):    {off / math.log(2):.1e} bits")

# %% [markdown]
# **Figure.** What each term costs the best model. Most is paid at the left, where the last details of $x_0$ are decided; each step further from the data costs less.
#
# The model pays the entropy of the data and hardly more. What it pays above it, the difference, is $\mathrm{KL}(q(x_T)\,\|\,p(x_T))$, as Eq. [whole cost](#eq-joint-kl) says: this model's steps back are right, only its start is not. Split the same difference at the other end: next to nothing of it is a fault of what the model draws, $\mathrm{KL}(q(x_0)\,\|\,p_\theta(x_0))$ in the last line. The steps, all of them right, repair the wrong start. Nearly all of the difference is the gap of the bound.
#
# Most of the cost sits at the small $t$, where the details are decided. The prior term is almost nothing: after twelve steps the chain has forgotten where it began.
#
# ## One random $t$ is enough
#
# The bound is a sum of many terms, and each needs a run of the network. Draw one $t$ from $2,\dots,T$ at random instead, and multiply its term by their number $T-1$:
#
# $$
# \mathbb E_{t\sim\text{Uniform}\{2,\dots,T\}}\bigl[(T-1)\,L_{t-1}\bigr] = \sum_{t=2}^{T} L_{t-1} .
# $$ (eq-one-random-t)
#
# That is the definition of a mean, read backwards. A gradient step with the single term therefore points in the right direction *on average*, at a fraction of the cost. The price is scatter: terms differ in size, and a step follows only one of them. A batch with a different $t$ for each picture averages much of it away. Line 3 of Algorithm 1 does the same, with $t$ from $1$ to $T$: there $L_0$ is the term $t = 1$, and the constant factor, which moves no minimum, is dropped. (The loss of Algorithm 1 drops one thing more, a weight that depends on $t$: see [the loss](loss.ipynb).)

# %% mystnb={"image": {"alt": "Histograms of the estimated sum of all steps, from one random t and from a batch of 128 of them. From one random t: a few separate grey bars, the tallest at 0, the farthest near 2 bits. From the mean over 128 random t: one narrow blue hill around the dashed line of the true sum, 0.25 bits."}} tags=["active-ipynb"]
# terms = torch.tensor(costs[1:-1])
# true_sum = terms.sum()
# one = len(terms) * terms[torch.randint(len(terms), (20_000,), generator=generator)]
# many = torch.randint(len(terms), (20_000, 128), generator=generator)
# batch = len(terms) * terms[many].mean(1)
#
# figure, ax = plt.subplots(figsize=(5.2, 2.6))
# ax.hist(one, bins=60, density=True, color="#b5b5b5")
# ax.hist(batch, bins=40, density=True, color=fig.BLUE)
# ax.axvline(true_sum, color=fig.ORANGE, linestyle="--")
# ax.set(xlabel="estimate of the sum, bits", yticks=[])
# top = ax.get_ylim()[1]
# ax.annotate(
#     "mean over 128 random t", (true_sum * 1.2, 0.3 * top), (0.6, 0.55 * top),
#     color=fig.BLUE, arrowprops={"arrowstyle": "->", "color": fig.BLUE},
# )  # fmt: skip
# ax.text(true_sum * 1.15, 0.9 * top, "the sum", color=fig.ORANGE)
# rare = float(one.max())
# ax.annotate(
#     "one random t", (rare, 0.04 * top), (rare, 0.25 * top),
#     color=fig.GREY, ha="right", arrowprops={"arrowstyle": "->", "color": fig.GREY},
# )  # fmt: skip
# plt.show()
# error_bar = one.std() / 20_000**0.5
# assert (one.mean() - true_sum).abs() < 4 * error_bar
# print(
#     f"mean of the estimates {one.mean():.3f} ± {error_bar:.3f}, the sum {true_sum:.3f}"
# )

# %% [markdown]
# **Figure.** Grey: estimates of the sum from one $t$ each; they are right on average only, and a rare one is far too large. Blue: means over 128 of them, close to the sum.
#
# With these few terms the whole sum would be cheaper than a batch of 128. With $T = 1000$ it would not: the batch costs 128 runs of the network, the whole sum 999 for every picture.
#
# ## Where people slip
#
# **Turning all steps round.** The trick with Bayes' rule is for $t\ge 2$. At $t = 1$ it would bring in $q(x_0\mid x_1,x_0)$, a certainty: for continuous pictures it has no density whose logarithm one could take. On a few states it is simply 1, and the divergence for $t = 1$ is then $-\log p_\theta(x_0\mid x_1)$, that is, $L_0$ itself. So a sum that starts at 1 and also carries an $L_0$ counts it twice.
#
# **Leaving out $x_0$.** Without $x_0$ in the condition, Bayes' rule reads $q(x_t\mid x_{t-1}) = q(x_{t-1}\mid x_t)\,q(x_t)/q(x_{t-1})$. That is true as well, but $q(x_{t-1}\mid x_t)$ needs the distribution of all data, which nobody knows. With $x_0$ given, everything is known: see [the posterior](posterior.ipynb).
#
# **The sign.** The notes *maximise* the bound and *minimise* the divergences. Both are right, since the bound holds the divergences with a minus sign.
#
# ## Exercises
#
# **1.** Give the model the exact reverse of the forward process started at one certain $x_0$, and the exact end $q(x_T\mid x_0)$ as prior. What is left of the bound? *Hint:* go through the three kinds of terms.
#
# <details><summary>Solution</summary>
#
# Every divergence is zero. The last step back leads to $x_0$ for sure, so $L_0 = 0$ too: the model draws this one $x_0$ always, and its $-\log p(x_0)$ is 0.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 1
# steps = [random_table(3, 3) for _ in range(4)]
# jump, back = torch.eye(3, dtype=torch.float64)[0], []
# for step in steps:
#     pair = jump[:, None] * step + 1e-300
#     jump = pair.sum(0)
#     back.append((pair / jump).T)
# print(f"{chain_bound(steps, back, jump).total[0]:.12f}")

# %% [markdown]
# **2.** Show with the ring that the prior term falls with every step added to the chain. Then prove that it cannot rise. *Hint:* two chains take the same step, one from $q(x_T\mid x_0)$, one from $p(x_T)$; split the divergence of their pairs $(x_T, x_{T+1})$ in both ways, by Eq. [chain rule](#eq-kl-chain).
#
# <details><summary>Solution</summary>
#
# Let two chains take the same step, one from $q(x_T\mid x_0)$, one from $p(x_T)$, and split the divergence of the pairs $(x_T, x_{T+1})$ in both ways, by Eq. [chain rule](#eq-kl-chain). With $x_T$ first it is the divergence of $x_T$ alone, since the step is the same. With $x_{T+1}$ first it is the divergence of $x_{T+1}$ plus a mean divergence of the steps back, which is not negative. So the divergence of $x_{T+1}$ is not larger. On the ring the uniform $p$ stays uniform, so this is the prior term of the longer chain; the cell shows that it falls strictly.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 2
# bounds = [chain_bound(forward[:n], reverse[:n], prior) for n in range(1, T + 1)]
# priors = torch.stack([bound.prior for bound in bounds])
# assert (priors.diff(dim=0) < 0).all()
# print("largest over x_0:", *(f"{float(row.max()):.1e}" for row in priors[::3]))

# %% [markdown]
# **3.** For $T = 1$ the sum over steps is empty. Which bound remains, and what is it in the words of [the hidden variable](vae.ipynb)? *Hint:* what plays the part of $z$?
#
# <details><summary>Solution</summary>
#
# $\mathrm{KL}(q(x_1\mid x_0)\|p(x_1)) - \mathbb E_q[\log p_\theta(x_0\mid x_1)]$: the bound of a variational autoencoder with $z = x_1$, with its sign turned.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 3
# q, p, end = random_table(3, 3), random_table(3, 3), random_table(3)
# by_hand = (q * ((q / end).log() - p.log().T)).sum(1)
# print("chain_bound:", *(f"{cost:.6f}" for cost in chain_bound([q], [p], end).total))
# print("by hand:    ", *(f"{cost:.6f}" for cost in by_hand))

# %% [markdown]
# ## Summary
#
# Bayes' rule turns each forward step round, a telescoping sum clears away the rest, and the bound falls into a prior term without parameters, one divergence for each step back, and a reconstruction. Averaged over the data it is their entropy, plus what the model's start and its steps back are wrong by. Since it is a sum, one random term of it is enough for a training step.
#
# **The next question.** Each divergence compares with $q(x_{t-1}\mid x_t,x_0)$. What is that distribution? See [the posterior](posterior.ipynb).
