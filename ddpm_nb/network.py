# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A network in one page
#
# **The question.** The next chapter asks a network to guess the noise in a picture. What is a network, and how does it learn?
#
# ![The chain with the step back lit as a box, the network, that takes the noisy x_t and answers. In the box: weights θ.](images/chain-network.svg)
#
# What is inside the box, and who sets its weights?
#
# **What you bring.** Derivatives and the chain rule. No matrices: a table of numbers is all that is needed.
#
# **What you take away.** A layer, a gradient step, Adam, and the two modes of a network. Whoever has trained a network before may go on to [the loss](loss.ipynb).

# %% tags=["active-ipynb"]
# # In Colab this installs the book's package; elsewhere it is there, and nothing happens.
# import importlib.util
#
# if importlib.util.find_spec("ddpm_nb") is None:
#     %pip install --quiet --no-deps "ddpm_nb @ git+https://github.com/ddpm_nb/ddpm_nb"

# %%
"""A layer, a gradient step and Adam, as small as they are."""

from torch import Tensor

from ddpm_nb import _checks as check


# %% [markdown]
# ## A line, fitted by hand
#
# Ten points $(x_i, y_i)$ are given, and a line $wx+b$ is to follow them. The line is the smallest network there is, with two **weights** $\theta = (w, b)$. How badly it follows the points, a single number says, the **loss**: here the mean of the squared distances,
#
# $$
# L(w, b) = \frac1n\sum_{i=1}^{n}(wx_i+b-y_i)^2 .
# $$
#
# How does it change when $w$ or $b$ changes a little? By the chain rule, the square brings a factor 2, and the bracket its own derivative, which is $x_i$ or 1:
#
# $$
# \frac{\partial L}{\partial w} = \frac2n\sum_{i=1}^{n}(wx_i+b-y_i)\,x_i, \qquad \frac{\partial L}{\partial b} = \frac2n\sum_{i=1}^{n}(wx_i+b-y_i) .
# $$ (eq-line-gradient)

# %%
def line_gradient(w: float, b: float, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return how the mean squared distance of y (n,) from w x + b changes with w and b.

    Equation: eq-line-gradient.
    """
    distance = w * x + b - y
    return 2 * (distance * x).mean(), 2 * distance.mean()


# %% [markdown]
# All these derivatives in one list are the **gradient** $\nabla_\theta L$. Each says: raise this weight a little, and the loss rises by so much. So move each weight the other way, in proportion. That is a **gradient step**, and $\eta$, a small number, is the **learning rate**:
#
# $$
# \theta \leftarrow \theta - \eta\,\nabla_\theta L .
# $$ (def-gradient-step)

# %%
def gradient_step(theta: Tensor, gradient: Tensor, rate: float) -> Tensor:
    """Return the weights after a step against the gradient.

    Equation: def-gradient-step.
    """
    return theta - rate * gradient


# %% [markdown]
# Ten points around the line $2x+1$, and a start at $w = b = 0$:

# %% tags=["active-ipynb"]
# import torch
#
# generator = torch.Generator().manual_seed(0)
# x = torch.linspace(-1, 1.5, 10)
# y = 2 * x + 1 + 0.3 * torch.randn(10, generator=generator)
#
#
# def descend(rate, steps):
#     """The weights after each step, (steps + 1, 2)."""
#     way = [torch.zeros(2)]
#     for _ in range(steps):
#         w, b = way[-1]
#         gradient = torch.stack(line_gradient(w, b, x, y))
#         way.append(gradient_step(way[-1], gradient, rate))
#     return torch.stack(way)
#
#
# def loss(w, b):
#     return (w * x + b - y).square().mean()
#
#
# way = descend(rate=0.2, steps=50)
# for k in (0, 1, 2, 10, 50):
#     w, b = way[k]
#     print(f"after {k:2} steps: w = {w:5.2f}, b = {b:5.2f}, loss {loss(w, b):.3f}")
# table = torch.stack([x, torch.ones(10)], dim=1)
# best = torch.linalg.lstsq(table, y[:, None]).solution[:, 0]
# print(f"the best line:  w = {best[0]:5.2f}, b = {best[1]:5.2f}, loss {loss(*best):.3f}")
# assert (way[50] - best).abs().max() < 1e-3

# %% mystnb={"image": {"alt": "Two panels. Above: ten points around a rising line; the fitted line lies flat at the start, rises a little after one step, and follows the points after ten. Below: the loss as rings around its lowest point over the plane of w and b. A path of small steps walks down into the middle. A second path, with a learning rate of 0.95, jumps from one side of the valley to the other and does not come nearer."}} tags=["active-ipynb", "nbval-ignore-output"]
# import matplotlib.pyplot as plt
#
# from ddpm_nb import _figures as fig
#
# fig.use_style()
# figure, (left, right) = plt.subplots(2, 1, figsize=(5.2, 5.6), height_ratios=(2, 3))
# left.plot(x, y, "o", color=fig.BLUE, markersize=4)
# for k, strength in ((0, 0.3), (1, 0.55), (10, 1)):
#     w, b = way[k]
#     left.plot(x, w * x + b, color=fig.PURPLE, alpha=strength)
#     fig.label_line(
#         left, 1.53, float(w * 1.5 + b), f"{k} steps" if k != 1 else "1 step", fig.PURPLE
#     )
# left.set(xlabel="x", ylabel="y", xlim=(-1.05, 1.9))
# w, b = torch.meshgrid(
#     torch.linspace(-1.2, 5.2, 81), torch.linspace(-1.4, 3.6, 61), indexing="ij"
# )
# heights = (w[..., None] * x + b[..., None] - y).square().mean(-1)
# right.contour(w, b, heights, [0.2, 0.5, 1, 2, 4, 7], colors=fig.GREY, linewidths=0.7)
# fast = descend(rate=0.95, steps=3)
# right.plot(*way.T, ".-", color=fig.PURPLE, markersize=5)
# right.plot(*fast.T, ".-", color=fig.ORANGE, markersize=5, linewidth=1)
# fig.label_line(right, 0.25, 1.1, "rate 0.2", fig.PURPLE)
# fig.label_line(right, 3.6, 2.4, "rate 0.95", fig.ORANGE)
# right.set(xlabel="w", ylabel="b", xlim=(-1.2, 5.2), ylim=(-1.4, 3.6))
# plt.show()
# assert loss(*fast[3]) > 0.5 * loss(*fast[0])

# %% [markdown]
# **Figure.** Above: the line after 0, 1 and 10 steps. Below: the loss over $w$ and $b$, as the rings of a valley. Small steps walk down into it. Steps that are too long jump across, and climb.
#
# Nobody writes down the derivatives of a million weights. torch notes every operation on the way to the loss, and goes back over them with the chain rule: after `loss.backward()`, the derivative for each weight lies in its `.grad`. The same numbers come out as by hand:

# %% tags=["active-ipynb"]
# theta = torch.tensor([0.5, 0.0], requires_grad=True)
# loss(*theta).backward()
# by_hand = torch.stack(line_gradient(0.5, 0.0, x, y))
# print("torch:  ", *(f"{g:.5f}" for g in theta.grad.tolist()))
# print("by hand:", *(f"{g:.5f}" for g in by_hand.tolist()))

# %% [markdown]
# With many points, each step takes the mean over a few of them only, drawn at random: a **batch**. Its gradient is right on average, and costs a fraction.
#
# ## A layer
#
# A line cannot follow a curve. A **layer** takes a list of numbers $x$ and makes another list of it. Each number of the result has a row of weights of its own: it multiplies the inputs with them, adds them up, adds a number $b_j$, and then *bends* the result:
#
# $$
# h_j = s\Bigl(\sum_k W_{jk}\,x_k + b_j\Bigr), \qquad s(u) = \frac{u}{1+e^{-u}} .
# $$ (def-layer)
#
# The bend $s$, called SiLU, is a hinge with a rounded corner: nearly 0 for $u$ far below 0, nearly $u$ far above. Without it, two layers would be no more than one (exercise 1). With it, a second layer can add up many hinges with different places and slopes, and such a sum comes as close to any curve as you like, if there are enough of them.

# %%
def layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the numbers h (B, out) that a layer makes of x (B, in).

    Args:
        x: (B, in), a list of numbers for each example.
        weight: (out, in), a row of weights for each result.
        bias: (out,).

    Equation: def-layer.
    """
    u = x @ weight.T + bias
    return u * u.sigmoid()


# %% [markdown]
# Here is a network of two layers, the last one without a bend, with 16 hinges between. They begin at 16 places, with weight 0 in the second layer. The network learns a wave from 40 points. `backward` finds the gradient, and the step is ours.

# %% tags=["active-ipynb"]
# u = torch.linspace(-3, 3, 40)[:, None]
# target = u.sin()
# places = torch.linspace(-3, 3, 16)  # of the hinges; half of them open to the left
# slopes = torch.tensor([1.0, -1.0]).repeat(8)
# weights = [slopes[:, None], -slopes * places, torch.zeros(1, 16), torch.zeros(1)]
#
#
# def network(x):
#     weight, bias, last_weight, last_bias = weights
#     return layer(x, weight, bias) @ last_weight.T + last_bias
#
#
# for _ in range(2000):
#     weights = [w.requires_grad_() for w in weights]
#     error = (network(u) - target).square().mean()
#     error.backward()
#     weights = [gradient_step(w.detach(), w.grad, 0.02) for w in weights]
# print(f"mean squared error after 2,000 steps: {error.item():.6f}")
# assert error < 1e-3

# %% mystnb={"image": {"alt": "Two panels, one above the other, over x from minus 3 to 3. Above: 16 thin curves, each a rounded hinge times its weight, some rising, some falling, with bends at different places. Below: their sum, which follows 40 points on a sine wave."}} tags=["active-ipynb", "nbval-ignore-output"]
# figure, (above, below) = plt.subplots(2, 1, figsize=(5.2, 4.2), sharex=True)
# weight, bias, last_weight, last_bias = weights
# above.plot(
#     u, layer(u, weight, bias) * last_weight, color=fig.PURPLE, alpha=0.5, linewidth=1
# )
# above.set(ylabel="16 hinges")
# below.plot(u, target, "o", color=fig.BLUE, markersize=3)
# below.plot(u, network(u), color=fig.PURPLE)
# below.set(xlabel="x", ylabel="their sum")
# plt.show()
# assert above.lines

# %% [markdown]
# **Figure.** Above: what each of the 16 hinges adds. Below: their sum, and the points from which it was learned.
#
# That is all a network is: layers, one after another, with weights that a loss has set. The network for pictures has some 36 million weights, and its layers are made for pictures: [the U-Net](unet.ipynb) looks at each pixel with the same few weights. The way in which it learns is the same.
#
# ## Adam: a step of its own for each weight
#
# The valley in the picture is steeper in one direction than in another. In a large network some directions are thousands of times steeper, and one learning rate for all must be small enough for the steepest. **Adam** gives each weight a step of its own. It keeps two running means for each weight: $m$ of its derivative $g$, and $v$ of the square. The step is their ratio, so that a weight with small derivatives moves as far as one with large ones:
#
# $$
# m_k = b_1 m_{k-1} + (1-b_1)\,g, \qquad v_k = b_2 v_{k-1} + (1-b_2)\,g^2, \qquad \theta \leftarrow \theta - \eta\;\frac{m_k/(1-b_1^k)}{\sqrt{v_k/(1-b_2^k)}+\epsilon} .
# $$ (def-adam)
#
# Usually $b_1 = 0.9$ and $b_2 = 0.999$ (they are called $\beta_1$, $\beta_2$ in the literature, but $\beta_t$ is noise in this book), and $\epsilon = 10^{-8}$ only keeps the division from failing. Both means start at 0, and would be too small at first; the divisions by $1-b^k$ correct that. In the first step the ratio is $g/|g|$: every weight moves by $\eta$. Where the derivative keeps its sign, the weight goes on like that; where it changes its sign from step to step, $m$ is small, and the weight stays.

# %%
def adam_step(
    theta: Tensor,
    gradient: Tensor,
    m: Tensor,
    v: Tensor,
    k: int,
    rate: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weights after step k of Adam, k = 1, 2, ..., and its two running means.

    Args:
        theta: the weights, of any shape.
        gradient: their derivatives.
        m: running mean of the derivatives, zeros before step 1.
        v: running mean of their squares, zeros before step 1.
        k: which step it is.
        rate: the learning rate.
        betas: how much of m and v each step keeps.
        eps: keeps the division from failing.

    Raises:
        ValueError: if k is below 1.

    Equation: def-adam. Source: Kingma and Ba (2015), Algorithm 1.
    """
    (keep_m, keep_v), k = betas, check.whole("k", k, 1)
    m = keep_m * m + (1 - keep_m) * gradient
    v = keep_v * v + (1 - keep_v) * gradient**2
    step = (m / (1 - keep_m**k)) / ((v / (1 - keep_v**k)).sqrt() + eps)
    return theta - rate * step, m, v

# %% [markdown]
# A valley that is 10,000 times steeper across than along, $L = \tfrac12(\theta_1^2+10^4\,\theta_2^2)$, from $(1, 1)$:

# %% tags=["active-ipynb"]
# steep = torch.tensor([1.0, 1e4])
# theta = torch.ones(2)
# rate = 1.9e-4  # at 2e-4 it would swing for ever
# for _ in range(500):
#     theta = gradient_step(theta, steep * theta, rate)
# print("gradient steps:", *(f"{value:8.5f}" for value in theta.tolist()))
#
# theta, m, v = torch.ones(2), torch.zeros(2), torch.zeros(2)
# for k in range(1, 501):
#     theta, m, v = adam_step(theta, steep * theta, m, v, k, rate=0.01)
# print("Adam:          ", *(f"{value:8.5f}" for value in theta.tolist()))
# assert theta.abs().max() < 0.05

# %% [markdown]
# After 500 gradient steps the first weight has hardly moved. Adam has brought both close to 0, and both in the same way: the steepness drops out of the ratio.
#
# ## Two modes
#
# A few layers do one thing while the network learns and another when it is used. **Dropout** is the one in this book: in training it sets each number to 0 with probability $p$, and divides the others by $1-p$, so that the mean stays; the network learns not to rely on any single number. In use it does nothing. `network.train()` and `network.eval()` switch between the two. (`torch.no_grad()` is something else: it only keeps torch from noting operations for a `backward` that will not come, which saves memory and time.)

# %% tags=["active-ipynb"]
# torch.manual_seed(0)
# dropout, ones = torch.nn.Dropout(0.25), torch.ones(12)
# print("train:", *(f"{value:.2f}" for value in dropout.train()(ones).tolist()))
# print("eval: ", *(f"{value:.2f}" for value in dropout.eval()(ones).tolist()))

# %% [markdown]
# ## Where it goes wrong
#
# **Gradients that add up.** `backward` *adds* to `.grad`. Who forgets to empty it (`optimizer.zero_grad()`) walks with the sum of all gradients so far.

# %% tags=["active-ipynb"]
# theta = torch.tensor([0.5, 0.0], requires_grad=True)
# for _ in range(2):
#     loss(*theta).backward()
# print("after two calls:", *(f"{g:.5f}" for g in theta.grad.tolist()))
# assert torch.allclose(theta.grad, 2 * by_hand)

# %% [markdown]
# **The wrong mode.** A sampler that leaves the network in training mode draws with dropout: the pictures are spoilt, and no error is raised. The samplers of this book switch to `eval` and back by themselves.
#
# ## Exercises
#
# **1.** Why are two layers without a bend no more than one? *Hint:* put the first into the second, for one number.
#
# <details><summary>Solution</summary>
#
# With $h = wx+b$ and $y = w'h+b'$, the result is $y = w'w\,x + w'b+b'$: again a line, with other weights. With lists of numbers the same happens row by row.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 1
# first, second = torch.randn(2, 3, 3, generator=generator)
# x_3 = torch.randn(5, 3, generator=generator)
# both = (x_3 @ first.T) @ second.T
# apart = (both - x_3 @ (second @ first).T).abs().max()
# print(f"two layers and one: {apart:.1e} apart")
# assert apart < 1e-5

# %% [markdown]
# **2.** For the loss $\tfrac12c\,\theta^2$, which learning rates lead to 0? Which one does so in a single step? Which rate is the best for *two* weights at once, with $c_1 = 1$ and $c_2 = 10$? *Hint:* by which factor does a step multiply $\theta$?
#
# <details><summary>Solution</summary>
#
# By $1-\eta c$. It shrinks for $0<\eta<2/c$, and is 0 for $\eta = 1/c$. With two weights the slower one counts: the larger of $|1-\eta|$ and $|1-10\eta|$ is smallest where they are equal, $1-\eta = 10\eta-1$, so $\eta = 2/11$, and the factor is $9/11$. The steeper the valley in one direction against the other, the nearer this factor comes to 1.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 2
# rates = torch.linspace(0.01, 0.3, 30_000, dtype=torch.float64)
# factor = torch.maximum((1 - rates).abs(), (1 - 10 * rates).abs())
# print(f"best rate {rates[factor.argmin()]:.4f} (2/11 = {2 / 11:.4f}),", end=" ")
# print(f"factor {factor.min():.4f} (9/11 = {9 / 11:.4f})")

# %% [markdown]
# **3.** Multiply the loss by 1,000. What happens to a gradient step, and what to a step of Adam? *Hint:* by what do $m$ and $\sqrt v$ change?
#
# <details><summary>Solution</summary>
#
# The gradient step becomes 1,000 times as long, and will probably leave the valley. In Adam, $m$ and $\sqrt v$ both grow by 1,000, and their ratio stays (but for $\epsilon$). So Adam's learning rate does not depend on the units of the loss.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 3
# zero, g = torch.zeros(2), torch.tensor([0.3, -2.0])
# for scale in (1, 1000):
#     moved, _, _ = adam_step(zero, scale * g, zero, zero, 1)
#     print(
#         f"loss times {scale:4}: Adam moves",
#         *(f"{value:.6f}" for value in moved.tolist()),
#     )

# %% [markdown]
# ## Summary
#
# A network is layers with weights. The loss says how bad the weights are, the gradient which way is down, and the learning rate how far to go; Adam takes a step of its own for each weight. torch finds the gradient, and the modes `train` and `eval` say whether the network learns or is used.
#
# **The next question.** What should a network predict, and which loss makes it learn that? See [the loss](loss.ipynb).
