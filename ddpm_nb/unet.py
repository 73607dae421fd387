# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The network: a U-Net that predicts noise
#
# **The question.** Algorithms 1 and 2 need a function $\varepsilon_\theta(x_t, t)$: a noisy picture and a time go in, the noise comes out, in the shape of the picture. How is it built?
#
# **What you bring.** Convolutions and linear layers. Nothing from the other chapters.
#
# **What you take away.** The network of the DDPM paper as one class of building blocks, each explained where it is defined, with its sizes as parameters: large enough for CIFAR-10, small enough for 8×8 digits on a laptop.

# %% tags=["active-ipynb"]
# # In Colab this installs the book's package; elsewhere it is there, and nothing happens.
# import importlib.util
#
# if importlib.util.find_spec("ddpm_nb") is None:
#     %pip install --quiet --no-deps "ddpm_nb @ git+https://github.com/ddpm_nb/ddpm_nb"

# %%
"""The U-Net of the DDPM paper, which predicts the noise in a picture x_t at time t.

Shapes: B pictures, C channels, H x W pixels. Layer by layer as in the authors' code.
"""

import math
from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


# %% [markdown]
# ## The plan
#
# A noisy picture must be understood at two scales. What is it: a three or an eight? That is seen from afar, with few pixels. And which grain is noise? That is seen close up. A **U-Net** goes down to few pixels and many channels, and up again. On the way up each level gets back what the way down saw at the same size, through *skip connections*.
#
# ```
#  x_t ── stem ─┬─ blocks ───────────── skips ───────────── blocks ── head ── noise
#               └─ down ─┬─ blocks ──── skips ── blocks ── up ─┘
#                        └─ down ── middle, with attention ── up ─┘
# ```
#
# Every residual block is told the time $t$: the same picture asks for another answer when it holds much noise than when it holds little.
#
# ## Time as a vector
#
# A network does not take well to one number that runs to 1000. So $t$ becomes $d$ numbers: $h = d/2$ waves from fast to slow, like the hands of many clocks, each with its sine and its cosine. With $t' = t-1$, which runs from 0 to $T-1$,
#
# $$
# \operatorname{emb}(t) = \bigl(\sin \omega_0 t', \dots, \sin \omega_{h-1} t',\ \cos \omega_0 t', \dots, \cos \omega_{h-1} t'\bigr), \qquad \omega_i = 10000^{-i/(h-1)}, \quad h = d/2 .
# $$ (def-time-embedding)
#
# This is the only formula in the book whose time begins at 0. The published weights were trained so, and a network that reads them must do the same.

# %%
def time_embedding(t: Tensor, channels: int) -> Tensor:
    """Return a vector of sines and cosines for each time.

    Args:
        t: (B,) times 1 ... T. The first one is counted as 0, as in the authors' code.
        channels: the length of the vector; even, and at least 4.

    Returns:
        (B, channels) float32, whatever the network's type: sines first, then cosines.

    Raises:
        ValueError: if `channels` is odd or less than 4.

    Equation: def-time-embedding.
    """
    if channels % 2 or channels < 4:
        raise ValueError(f"channels: expected an even number >= 4, got {channels}")
    half = channels // 2
    index = torch.arange(half, dtype=torch.float32, device=t.device)
    frequency = torch.exp(-math.log(10_000) * index / (half - 1))
    angle = (t - 1).to(torch.float32)[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)


# %% mystnb={"image": {"alt": "The time embedding as a picture: time runs to the right from 1 to 1000, the 64 entries of the vector run down. The upper half are sines, the lower half cosines; in each half the stripes are fine at the top and become wider and wider downwards."}} tags=["active-ipynb"]
# import matplotlib.pyplot as plt
#
# from ddpm_nb import _figures as fig
#
# fig.use_style()
# figure, ax = plt.subplots(figsize=(5.2, 2.2))
# ax.imshow(
#     time_embedding(torch.arange(1, 1001), 64).T,
#     aspect="auto",
#     vmin=-1,
#     vmax=1,
#     extent=(1, 1000, 64, 0),
# )
# ax.set(xlabel="t", ylabel="entry of the vector")
# ax.text(1010, 16, "sines", va="center")
# ax.text(1010, 48, "cosines", va="center")
# plt.show()

# %% [markdown]
# ## How weights begin
#
# All weights start Xavier-uniform (drawn evenly from an interval chosen so that a layer neither blows up nor shrinks what passes through), all biases at 0. Three kinds of layers start *almost at zero*, with a gain of $10^{-5}$: the second convolution of each residual block, the last layer of each attention block, and the last convolution of all. So in the beginning each block passes on its input, or a 1×1 convolution of it where the number of channels changes, with next to nothing added; and the network answers "no noise". Training starts from there quietly.

# %%
# The authors scale the variance by 1e-10; a gain scales the standard deviation.
ALMOST_ZERO = 1e-5


def _start(layer: nn.Conv2d | nn.Linear, gain: float) -> None:
    nn.init.xavier_uniform_(layer.weight, gain=gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _linear(channels_in: int, channels_out: int, gain: float = 1.0) -> nn.Linear:
    layer = nn.Linear(channels_in, channels_out)
    _start(layer, gain)
    return layer


def _conv(
    channels_in: int,
    channels_out: int,
    size: int = 3,
    stride: int = 1,
    gain: float = 1.0,
) -> nn.Conv2d:
    """Return a convolution that keeps the size; with a stride, `Downsample` pads."""
    padding = size // 2 if stride == 1 else 0
    layer = nn.Conv2d(channels_in, channels_out, size, stride, padding)
    _start(layer, gain)
    return layer


def _norm(channels: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels, eps=1e-6)


# %% [markdown]
# ## The residual block
#
# The workhorse. Twice: normalise, bend, convolve 3×3. *Normalise*: GroupNorm shifts and scales each group of channels of a picture to mean 0 and variance 1, and then gives each channel a learned factor and offset. *Bend*: SiLU is $x/(1+e^{-x})$, a smooth version of "keep what is positive". (Before the second convolution, dropout sets a random share of the numbers to 0 in training.) Between the two convolutions the time comes in, as one number added to each channel. The input is added to the result, so the block only has to learn a *correction*.

# %%
class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, convolution, twice; the time enters between; the input is added.

    Args:
        channels_in: channels of the input.
        channels_out: channels of the output.
        time_channels: length of the time vector.
        dropout: share of the numbers that training drops before the second convolution.
        groups: groups of the normalisation; must divide both numbers of channels.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        time_channels: int,
        dropout: float,
        groups: int,
    ) -> None:
        super().__init__()
        self.norm_1 = _norm(channels_in, groups)
        self.conv_1 = _conv(channels_in, channels_out)
        self.time = _linear(time_channels, channels_out)
        self.norm_2 = _norm(channels_out, groups)
        self.dropout = nn.Dropout(dropout)
        self.conv_2 = _conv(channels_out, channels_out, gain=ALMOST_ZERO)
        self.shortcut = (
            nn.Identity()
            if channels_in == channels_out
            else _conv(channels_in, channels_out, size=1)
        )

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map x (B, channels_in, H, W) to (B, channels_out, H, W).

        The time is (B, time_channels).
        """
        h = self.conv_1(F.silu(self.norm_1(x)))
        h = h + rearrange(self.time(F.silu(time)), "b c -> b c 1 1")
        h = self.conv_2(self.dropout(F.silu(self.norm_2(h))))
        shortcut: Tensor = self.shortcut(x)
        return shortcut + h


# %% [markdown]
# ## Attention
#
# A 3×3 convolution sees only a pixel's direct neighbours. Attention lets every pixel look at all pixels at once. After a normalisation, each pixel $i$ asks a question $q_i$, offers a key $k_i$ and carries a value $v_i$, each a vector of $C$ numbers ($C$ is the number of channels), made by a linear layer. It then collects the values, weighted by how well the keys answer its question. (Dividing by $\sqrt C$ keeps the products at order one, however many channels there are.)
#
# $$
# \operatorname{att}(q,k,v)_i = \sum_{j} a_{ij}\,v_j, \qquad a_{ij} = \frac{\exp(q_i\cdot k_j/\sqrt{C})}{\sum_{j'}\exp(q_i\cdot k_{j'}/\sqrt{C})} .
# $$ (def-attention)
#
# For each pixel $i$ the weights over all $j$ add up to 1. (The softmax over the other index is an easy slip: shapes fit and nothing crashes.)

# %%
class Attention(nn.Module):
    """Self-attention over all pixels, one head for all channels; the input is added.

    Args:
        channels: channels of input and output.
        groups: groups of the normalisation.

    Equation: def-attention.
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = _norm(channels, groups)
        self.query, self.key, self.value = (
            _linear(channels, channels) for _ in range(3)
        )
        self.out = _linear(channels, channels, gain=ALMOST_ZERO)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to the same shape."""
        pixels = rearrange(self.norm(x), "b c h w -> b 1 (h w) c")  # one head
        seen = F.scaled_dot_product_attention(
            self.query(pixels), self.key(pixels), self.value(pixels)
        )
        return x + rearrange(self.out(seen), "b 1 (h w) c -> b c h w", h=x.shape[2])


# %% [markdown]
# ## Half the size, twice the size
#
# Going down, a convolution with stride 2 halves height and width. It pads one row below and one column at the right, and nothing at the left and above, as the authors' framework does. Going up, each pixel is doubled in both directions and a convolution smooths the result.

# %%
class Downsample(nn.Module):
    """Halve height and width (both even) with a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _conv(channels, channels, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H / 2, W / 2)."""
        halved: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return halved


class Upsample(nn.Module):
    """Double height and width: repeat each pixel, then convolve."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, 2 H, 2 W)."""
        doubled: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return doubled


# %% [markdown]
# ## All together
#
# A **block** is a residual block, followed by attention where the level has it. A **level** is a few blocks and the change of size that leads to the next level.
#
# Every result on the way down is put aside: the stem's, each block's, each halved picture's. On the way up each block takes the latest of them back, glued on as extra channels. What was put aside last is used first, so sizes always fit. The way up has one block more a level than the way down, and so the numbers come out even.

# %%
class Block(nn.Module):
    """A residual block, followed by attention if asked for."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        time_channels: int,
        dropout: float,
        groups: int,
        attention: bool,
    ) -> None:
        super().__init__()
        self.residual = ResidualBlock(
            channels_in, channels_out, time_channels, dropout, groups
        )
        self.attention = Attention(channels_out, groups) if attention else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map x (B, channels_in, H, W) to (B, channels_out, H, W).

        The time is (B, time_channels).
        """
        h: Tensor = self.attention(self.residual(x, time))
        return h


class DownLevel(nn.Module):
    """The blocks of one size on the way down, then the halving (none at the last)."""

    def __init__(self, blocks: Sequence[Block], resize: Downsample | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.resize = resize

    def forward(self, h: Tensor, time: Tensor) -> list[Tensor]:
        """Return every result in order: each block's, and the halved picture."""
        results = []
        for block in self.blocks:
            h = block(h, time)
            results.append(h)
        if self.resize is not None:
            results.append(self.resize(h))
        return results


class UpLevel(nn.Module):
    """The blocks of one size on the way up, then the doubling (none at full size)."""

    def __init__(self, blocks: Sequence[Block], resize: Upsample | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.resize = resize

    def forward(self, h: Tensor, skips: list[Tensor], time: Tensor) -> Tensor:
        """Map h to the next level's input; each block takes the last of `skips`."""
        for block in self.blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), time)
        return h if self.resize is None else self.resize(h)


class UNet(nn.Module):
    """The noise predictor of the DDPM paper: noise = unet(x_t, t).

    Args:
        picture_channels: channels of the pictures: 3 for colour, 1 for grey.
        channels: channels at full size; a multiple of `groups`, and of 2, at least 4.
        multipliers: for each level, from full size down, its channels over `channels`.
        blocks: residual blocks a level on the way down (one more on the way up).
        attention: for each level, whether its blocks are followed by attention. The
            middle always has one.
        dropout: share of numbers that training drops in each block.
        groups: groups of every normalisation.

    Raises:
        ValueError: if the sizes do not fit together.

    Paper: section 4 and appendix B.
    """

    def __init__(
        self,
        *,
        picture_channels: int = 3,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 2,
        attention: Sequence[bool] = (False, True, False, False),
        dropout: float = 0.1,
        groups: int = 32,
    ) -> None:
        super().__init__()
        if not multipliers or len(multipliers) != len(attention):
            raise ValueError(
                "multipliers, attention: expected one entry a level in both, got "
                f"{tuple(multipliers)} and {tuple(attention)}"
            )
        for name, value in (("picture_channels", picture_channels), ("groups", groups)):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        if any(not isinstance(m, int) or m < 1 for m in multipliers):
            raise ValueError(
                f"multipliers: expected positive integers, got {tuple(multipliers)}"
            )
        if channels % groups or channels % 2 or channels < 4:
            raise ValueError(
                f"channels: expected an even multiple of groups = {groups}, at least 4, "
                f"got {channels}"
            )
        if blocks < 1:
            raise ValueError(f"blocks: expected at least 1, got {blocks}")
        self.channels, self.picture_channels = channels, picture_channels
        self.smallest_step = 2 ** (len(multipliers) - 1)
        time_channels = 4 * channels

        def block(channels_in: int, channels_out: int, attention: bool) -> Block:
            return Block(
                channels_in, channels_out, time_channels, dropout, groups, attention
            )

        self.time = nn.Sequential(
            _linear(channels, time_channels),
            nn.SiLU(),
            _linear(time_channels, time_channels),
        )
        self.stem = _conv(picture_channels, channels)

        levels = list(zip((m * channels for m in multipliers), attention, strict=True))
        width, skips = (
            channels,
            [channels],
        )  # what comes in, and what has been put aside
        self.down = nn.ModuleList()
        for i, (level_width, attends) in enumerate(levels):
            row = []
            for _ in range(blocks):
                row.append(block(width, level_width, attends))
                width = level_width
                skips.append(width)
            last = i == len(levels) - 1
            self.down.append(DownLevel(row, None if last else Downsample(width)))
            if not last:
                skips.append(width)

        self.middle = nn.ModuleList(
            [block(width, width, True), block(width, width, False)]
        )

        self.up = nn.ModuleList()
        for i, (level_width, attends) in reversed(list(enumerate(levels))):
            row = []
            for _ in range(blocks + 1):
                row.append(block(width + skips.pop(), level_width, attends))
                width = level_width
            self.up.append(UpLevel(row, Upsample(width) if i else None))

        self.norm = _norm(width, groups)
        self.head = _conv(width, picture_channels, gain=ALMOST_ZERO)

    @classmethod
    def cifar10(cls) -> Self:
        """Return the paper's network for 32x32 colour pictures (35.7 million weights)."""
        return cls()

    @classmethod
    def digits(cls) -> Self:
        """Return a small network for 8x8 grey pictures, for a few minutes on a CPU."""
        return cls(
            picture_channels=1,
            channels=32,
            multipliers=(1, 2),
            blocks=1,
            attention=(False, True),
            dropout=0.0,
            groups=8,
        )

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Predict the noise in x_t.

        Args:
            x_t: (B, picture_channels, H, W); both sizes divisible by 2 to the number of
                halvings.
            t: (B,) int64 times 1 ... T.

        Returns:
            the predicted noise, in the shape of x_t.

        Raises:
            TypeError: if t is not int64.
            ValueError: if the channels or the size of x_t do not fit, or t is not one
                time a picture.
        """
        self._check(x_t, t)
        time = self.time(time_embedding(t, self.channels).to(x_t.dtype))
        skips = [self.stem(x_t)]
        for level in self.down:
            skips += level(skips[-1], time)
        h = skips[-1]
        for block in self.middle:
            h = block(h, time)
        for level in self.up:
            h = level(h, skips, time)
        noise: Tensor = self.head(F.silu(self.norm(h)))
        return noise

    def _check(self, x_t: Tensor, t: Tensor) -> None:
        if x_t.dim() != 4 or x_t.shape[1] != self.picture_channels:
            raise ValueError(
                f"x_t: expected (B, {self.picture_channels}, H, W), "
                f"got shape {tuple(x_t.shape)}"
            )
        if x_t.shape[2] % self.smallest_step or x_t.shape[3] % self.smallest_step:
            raise ValueError(
                f"x_t: expected height and width divisible by {self.smallest_step}, "
                f"got {x_t.shape[2]} x {x_t.shape[3]}"
            )
        if t.dtype != torch.int64:
            raise TypeError(f"t: expected int64, got {t.dtype}")
        if t.shape != x_t.shape[:1]:
            raise ValueError(
                f"t: expected one time a picture, shape ({len(x_t)},), "
                f"got shape {tuple(t.shape)}"
            )

# %% [markdown]
# ## A look inside
#
# How many numbers does it learn, and which shapes pass through it? The large network is the paper's for CIFAR-10. The small one draws the digits of [the chapter on the algorithms](algorithms.ipynb).

# %% tags=["active-ipynb"]
# torch.manual_seed(0)
# for name, net in (("cifar10", UNet.cifar10()), ("digits", UNet.digits())):
#     count = sum(p.numel() for p in net.parameters())
#     print(f"UNet.{name}(): {count:,} parameters")
#
# shapes = []
# net = UNet.digits()
# for name, part in net.named_modules():
#     if name in ("stem", "head") or name.endswith(("resize", "residual")):
#         part.register_forward_hook(
#             lambda part, inputs, out, name=name: shapes.append(
#                 (name, tuple(out.shape[1:]))
#             )
#         )
# x = torch.randn(2, 1, 8, 8)
# noise = net(x, torch.tensor([1, 1000]))
# for name, shape in shapes:
#     print(f"{name:26} {shape}")

# %% [markdown]
# At the start the answer is nearly zero everywhere, as promised above:

# %% tags=["active-ipynb"]
# print("largest number in the first answer below 0.001:", bool(noise.abs().max() < 1e-3))

# %% [markdown]
# ## Where people slip
#
# **Pictures whose size does not fit.** Each halving needs an even size. A 28×28 picture can be halved twice (28, 14, 7) and not three times. Some public code fails deep inside with two shapes that do not match, or pads without a word. Here the error names the rule:

# %% tags=["active-ipynb"]
# try:
#     UNet(channels=32)(torch.zeros(1, 3, 28, 28), torch.tensor([1]))
# except ValueError as error:
#     print(error)

# %% [markdown]
# **Comparing two networks at their start.** Since a fresh network answers almost zero, any two of them agree. A test of equality must first give every weight a random value that is not tiny.
#
# ## Exercises
#
# **1.** Swap two pixels of the input of an attention block. What happens to its output?
#
# <details><summary>Solution</summary>
#
# The same two pixels are swapped in the output, and nothing else changes: attention does not know where a pixel lies. Only the convolutions around it do.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 1
# block = Attention(32, 32)
# nn.init.normal_(block.out.weight)
# x = torch.randn(1, 32, 2, 2)
# swapped = x.flip(3)
# print(torch.allclose(block(swapped), block(x).flip(3), atol=1e-4))

# %% [markdown]
# **2.** The embedding of $t+k$ is a rotation of that of $t$, pair by pair, with angles that depend on $k$ alone. Check it.
#
# <details><summary>Solution</summary>
#
# The addition theorems: $\sin(a+b) = \sin a\cos b+\cos a\sin b$ and $\cos(a+b) = \cos a\cos b-\sin a\sin b$, with $a = \omega_i t'$ and $b = \omega_i k$.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 2
# sin, cos = time_embedding(torch.tensor([100]), 64).chunk(2, dim=1)
# turn_sin, turn_cos = time_embedding(torch.tensor([8]), 64).chunk(2, dim=1)  # t' = 7
# rotated = torch.cat(
#     [sin * turn_cos + cos * turn_sin, cos * turn_cos - sin * turn_sin], dim=1
# )
# print(torch.allclose(rotated, time_embedding(torch.tensor([107]), 64), atol=1e-4))

# %% [markdown]
# **3.** How many skip connections does the CIFAR-10 network have?
#
# <details><summary>Solution</summary>
#
# One from the stem, two blocks at each of four levels, and three halvings: $1+8+3 = 12$. On the way up, $4\cdot 3 = 12$ blocks take them back.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 3
# net = UNet.cifar10()
# given = 1 + sum(len(level.blocks) + (level.resize is not None) for level in net.down)
# taken = sum(len(level.blocks) for level in net.up)
# print(given, taken)

# %% [markdown]
# ## Summary
#
# The network is a U: down to few pixels, up again, with skip connections across. Residual blocks do the work, the time enters each of them, attention lets distant pixels talk. It starts by answering "no noise" and has to learn the rest.
#
# **The next question.** You have met all parts of the book's first version. Go back to [the two algorithms](algorithms.ipynb) and train this network on pictures of your own.
