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
# ![The chain with x_t lit. In place of the arrow back from x_t to x_{t−1} there is a box, wide at both ends and narrow in the middle: the network ε_θ(x_t, t).](images/chain-unet.svg)
#
# What is in the box that predicts the noise?
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
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ddpm_nb import _checks as check, _diffusers
from ddpm_nb._devices import fuses_attention
from ddpm_nb._layers import Dropout, Layer, Norm, fused_attention


# %% [markdown]
# ## The plan
#
# A noisy picture must be understood at two scales. What is it: a three or an eight? That is seen from afar, with few pixels. And which grain is noise? That is seen close up. A **U-Net** goes down to few pixels and many channels, and up again. On the way up each level gets back what the way down saw at the same size, through *skip connections*.
#
# ![The network for CIFAR-10 as a U. At the top left x_t comes in, 3 × 32 × 32 numbers; at the top right the predicted noise goes out, of the same shape. Boxes lead down on the left and up on the right, in four levels of 128 × 32 × 32, 256 × 16 × 16, 256 × 8 × 8 and 256 × 4 × 4 numbers. At each level an arrow leads across from the left to the right. At the bottom the two sides meet in one more box. That box and those of the second level are shaded: they have attention. The time t, as 512 numbers, goes to every block.](images/unet.svg)
#
# The network for CIFAR-10: each box holds residual blocks, two on the way down and at the bottom, three on the way up; it is as high as its pictures and as wide as its channels.
#
# Every residual block is told the time $t$: the same picture asks for another answer when it holds much noise than when it holds little.
#
# ## Time as a vector
#
# A network does not take well to one number that runs to 1000. So $t$ becomes $d$ numbers: $h = d/2$ waves from fast to slow, like the hands of many clocks, each with its sine and its cosine. With $t' = t-1$, which runs from 0 to $T-1$,
#
# $$
# \operatorname{emb}(t) = (\sin \omega_0 t', \dots, \sin \omega_{h-1} t', \cos \omega_0 t', \dots, \cos \omega_{h-1} t'), \qquad \omega_i = 10000^{-i/(h-1)}, \quad h = d/2 .
# $$ (def-time-embedding)
#
# Why not fewer numbers? One wave alone is ambiguous: it comes back to the same value after each period. One slow wave alone hardly changes from $t$ to $t+1$. Together they are like hours, minutes and seconds. The vector, of length $d = 128$ in the large network, then goes through two linear layers with an activation between them (128 → 512 → 512). This is done once, and every block gets the result.
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
    half = check.even("channels", channels, 4) // 2
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
# figure, ax = plt.subplots(figsize=(5, 2.4))
# vectors = time_embedding(torch.arange(1, 1001), 64)
# ax.imshow(vectors.T, aspect="auto", vmin=-1, vmax=1, extent=(1, 1000, 64, 0))
# ax.set(xlabel="t", ylabel="entry of the vector")
# ax.text(1010, 16, "sines", va="center")
# ax.text(1010, 48, "cosines", va="center")
# plt.show()

# %% [markdown]
# **Figure.** A column is the vector of one time $t$. The fast waves, on top of each half, tell neighbouring times apart; the slow ones, below, tell early from late.
#
# ## How weights begin
#
# All weights start Xavier-uniform: drawn evenly from an interval, chosen so that a layer neither amplifies nor shrinks what passes through. All biases start at 0. Three kinds of layers start *almost at zero*, with a gain of $10^{-5}$: the second convolution of each residual block, the last layer of each attention block, and the last convolution of the network. So at first each block passes on its input, or a 1×1 convolution of it where the number of channels changes, with next to nothing added; and the network predicts almost no noise.
#
# Why not exactly zero? A last layer of zeros would let no gradient through to what lies before it, and only that layer would move at the first step. A tiny one lets a tiny gradient through. At the first step that moves the head most, and what lies behind one tiny layer too. Behind two of them the gradient is smaller than the $10^{-8}$ that Adam adds to its divisor, and these weights hardly move. A few steps later the head and the second convolutions have grown, and all layers learn.

# %%
# The authors scale the variance by 1e-10; a gain scales the standard deviation.
ALMOST_ZERO = 1e-5


def xavier(layer: Layer, gain: float = 1.0) -> Layer:
    """Return the layer with Xavier-uniform weights, times `gain`, and biases 0."""
    nn.init.xavier_uniform_(layer.weight, gain=gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


# %% [markdown]
# ## Normalisation and dropout
#
# **GroupNorm** divides the $C$ channels of a picture into groups of neighbours. Of all numbers in one group, over all its channels and pixels, it takes the mean and the variance, and shifts and scales the group to mean 0 and variance 1. Then each channel gets a learned factor and offset. No other picture of the batch has a say, so a picture is answered in the same way alone and in company. The small number $10^{-6}$ is added to the variance, so that a group of equal numbers does not divide by zero. It belongs to the published weights.
#
# **Dropout** acts in training only. It sets each number to 0 with a small probability $p$ and multiplies the others by $1/(1-p)$, so that the mean stays as it was. The network cannot rely on any single number.
#
# `Norm` and `Dropout` are torch's layers, made faster on a CPU; the section on speed below shows by how much. They stand in `ddpm_nb/_layers.py`.
#
# ## The residual block
#
# The workhorse: two rounds of normalisation, activation and 3×3 convolution. The *activation* SiLU is $x/(1+e^{-x})$, a smooth version of "keep what is positive". Between the two convolutions the time comes in, as one number added to each channel. Dropout acts before the second convolution. The input is added to the result, so the block only has to learn a *correction*.
#
# Shapes, for a block that makes 256 channels of 128 at 16×16: $x$ is (B, 128, 16, 16); after the first convolution (B, 256, 16, 16). The time comes as (B, 512), and a linear layer makes (B, 256) of it, one number a channel, the same at all pixels. The second convolution keeps (B, 256, 16, 16). The input has 128 channels and cannot be added to 256, so a 1×1 convolution, the *shortcut*, brings it to 256. Where the numbers are equal there is no shortcut layer, and the input is added as it is.

# %%
class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, convolution, twice; the time enters between; the input is added.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        time_channels: length of the time vector.
        dropout: share of the numbers that training drops before the second convolution.
        num_groups: groups of the normalisation; must divide both numbers of channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        time_channels: int,
        dropout: float,
        num_groups: int,
    ) -> None:
        super().__init__()
        self.norm_1 = Norm(in_channels, num_groups)
        self.conv_1 = xavier(nn.Conv2d(in_channels, out_channels, 3, padding=1))
        self.time = xavier(nn.Linear(time_channels, out_channels))
        self.norm_2 = Norm(out_channels, num_groups)
        self.dropout = Dropout(dropout)
        conv_2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_2 = xavier(conv_2, gain=ALMOST_ZERO)
        self.shortcut = (
            nn.Identity()
            if in_channels == out_channels
            else xavier(nn.Conv2d(in_channels, out_channels, 1))
        )

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map x (B, in_channels, H, W) to (B, out_channels, H, W).

        The time is (B, time_channels), after its activation.
        """
        h = self.conv_1(F.silu(self.norm_1(x)))
        h = h + rearrange(self.time(time), "b c -> b c 1 1")
        h = self.conv_2(self.dropout(F.silu(self.norm_2(h))))
        return h + self.shortcut(x)


# %% [markdown]
# ## Attention
#
# A 3×3 convolution sees only a pixel's direct neighbours. Attention lets every pixel look at all pixels at once. After a normalisation, each pixel $i$ asks with a query $q_i$, offers a key $k_i$ and carries a value $v_i$, each a vector of $C$ numbers ($C$ is the number of channels), made by a linear layer. It then collects the values, weighted by how well the keys answer its query. (Dividing by $\sqrt C$ keeps the products at order one, however many channels there are.)
#
# $$
# \operatorname{att}(q,k,v)_i = \sum_{j} a_{ij}\,v_j, \qquad a_{ij} = \frac{\exp(q_i\cdot k_j/\sqrt{C})}{\sum_{j'}\exp(q_i\cdot k_{j'}/\sqrt{C})} .
# $$ (def-attention)
#
# For each pixel $i$ the weights over all $j$ add up to 1.
#
# Shapes at 16×16 with 256 channels: $N = 16\cdot16 = 256$ pixels, so $q$, $k$, $v$ are (B, 256, 256), pixels by channels, and so is the table of weights $a$, pixels by pixels. The table has $N^2$ entries: at 32×32 it would be 16 times as large. That is why the paper puts attention at 16×16, and in the middle, where there are only 16 pixels. There is *one head*: one set of weights serves all channels. (Many networks divide the channels into heads that look at different places; the weights have the same shapes, and published weights do not say which was meant.)

# %%
def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Collect the values, weighted by how well each key answers the query.

    Args:
        query: (B, N, C) for N pixels.
        key: (B, N, C).
        value: (B, N, C).

    Returns:
        (B, N, C). On a GPU one kernel computes it, without the N x N table.

    Equation: def-attention.
    """
    if fuses_attention(query.device):
        return fused_attention(query, key, value)
    score = query @ rearrange(key, "b n c -> b c n") * query.shape[-1] ** -0.5
    return torch.softmax(score, dim=-1) @ value


class Attention(nn.Module):
    """Self-attention over all pixels, one head for all channels; the input is added.

    Args:
        channels: channels of input and output.
        num_groups: groups of the normalisation.

    Equation: def-attention.
    """

    def __init__(self, channels: int, num_groups: int) -> None:
        super().__init__()
        self.norm = Norm(channels, num_groups)
        self.query = xavier(nn.Linear(channels, channels))
        self.key = xavier(nn.Linear(channels, channels))
        self.value = xavier(nn.Linear(channels, channels))
        self.out = xavier(nn.Linear(channels, channels), gain=ALMOST_ZERO)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to the same shape."""
        # In one piece, or each of the three layers would keep a copy of its own.
        pixels = rearrange(self.norm(x), "b c h w -> b (h w) c").contiguous()
        seen = attend(self.query(pixels), self.key(pixels), self.value(pixels))
        return x + rearrange(self.out(seen), "b (h w) c -> b c h w", h=x.shape[2])


# %% [markdown]
# ## Half the size, twice the size
#
# Going down, a convolution with stride 2 halves height and width. It pads one row below and one column at the right, and nothing at the left and above, as the authors' framework does. Going up, each pixel is doubled in both directions and a convolution smooths the result.
#
# Why not average four pixels, or take every second one? A convolution can learn to do either, and anything between. And why not a transposed convolution on the way up? Its kernel covers some pixels more often than others, which leaves a checkerboard. After repeating pixels, every place is treated alike.

# %%
class Downsample(nn.Module):
    """Halve height and width (both even) with a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = xavier(nn.Conv2d(channels, channels, 3, stride=2))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H / 2, W / 2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double height and width: repeat each pixel, then convolve."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = xavier(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, 2 H, 2 W)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


# %% [markdown]
# ## All together
#
# A **block** is a residual block, followed by attention where the level has it.

# %%
class Block(nn.Module):
    """A residual block, followed by attention if asked for."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        attention: bool,
        time_channels: int,
        dropout: float,
        num_groups: int,
    ) -> None:
        super().__init__()
        self.residual = ResidualBlock(
            in_channels, out_channels, time_channels, dropout, num_groups
        )
        self.attention = (
            Attention(out_channels, num_groups) if attention else nn.Identity()
        )

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map x and the time as `ResidualBlock` does."""
        return self.attention(self.residual(x, time))


# %% [markdown]
# A **level** is a few blocks of one size and the change of size that leads to the next level. The levels make the U.
#
# Every result on the way down is put aside: the stem's, each block's, each halved picture's. On the way up each block takes the latest of them back, concatenated as extra channels. What was put aside last is used first, so sizes always fit. The way up has one block more a level than the way down, and so the numbers come out even. The order of concatenation, first what comes from below and then what was put aside, belongs to the published weights too.
#
# Why skips at all? The middle has 4×4 pixels. Where exactly an edge lies, and which grain is noise, cannot be kept there. The skips carry it past.
#
# The walk through the U, in pictures:

# %%
class Level(nn.Module):
    """The blocks of one size, and the change of size behind them, if there is one."""

    def __init__(self, blocks: Iterable[Block], resize: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.resize = resize


def run_u(
    down: Iterable[Any],
    middle: Iterable[Any],
    up: Iterable[Any],
    h: Tensor,
    time: Tensor,
) -> Tensor:
    """Take pictures down, through the middle and up again.

    Args:
        down: the levels of the way down.
        middle: the blocks at the bottom.
        up: the levels of the way up.
        h: (B, C, H, W), what the stem gives.
        time: (B, time_channels), after its activation.

    Returns:
        (B, C', H, W), where C' are the channels of the last level.
    """
    skips = [h]
    for level in down:
        for block in level.blocks:
            h = block(h, time)
            skips.append(h)
        if level.resize is not None:
            h = level.resize(h)
            skips.append(h)

    for block in middle:
        h = block(h, time)

    for level in up:
        for block in level.blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), time)
        if level.resize is not None:
            h = level.resize(h)
    return h


# %% [markdown]
# To build the U, the same walk is taken with numbers of channels in the place of pictures:

# %%
def build_u(
    block: Callable[[int, int, bool], Block],
    channels: int,
    levels: Sequence[tuple[int, bool]],
    num_res_blocks: int,
) -> tuple[nn.ModuleList, nn.ModuleList, nn.ModuleList]:
    """Return the way down, the middle and the way up.

    Args:
        block: makes a block, from its channels in and out and whether it has attention.
        channels: channels of what the stem gives.
        levels: from full size down, the channels of each level and whether its blocks
            have attention.
        num_res_blocks: blocks a level on the way down.
    """
    down, up = nn.ModuleList(), nn.ModuleList()
    h, skips = channels, [channels]
    for i, (width, attends) in enumerate(levels, 1):
        blocks = []
        for _ in range(num_res_blocks):
            blocks.append(block(h, width, attends))
            h = width
            skips.append(h)
        resize = Downsample(h) if i < len(levels) else None
        down.append(Level(blocks, resize))
        if resize is not None:
            skips.append(h)

    middle = nn.ModuleList([block(h, h, True), block(h, h, False)])

    for width, attends in reversed(levels):
        blocks = []
        for _ in range(num_res_blocks + 1):
            blocks.append(block(h + skips.pop(), width, attends))
            h = width
        up.append(Level(blocks, Upsample(h) if skips else None))
    return down, middle, up


# %% [markdown]
# The network is the U between a first and a last convolution, and the two layers that the time goes through.
#
# **Labels.** Some training sets say what a picture shows: which digit, which animal. A network may be told. Each label gets a vector of its own, a row of a table that is learned like any weight, and it is added to the time's. So every block hears of it, on the way that is there already. One more row, the *null label*, means "I do not say". With it the same network answers with and without a label, and [the chapter on the algorithms](algorithms.ipynb) makes use of both. The rows start at zero: at first a label changes nothing.

# %%
class UNet(nn.Module):
    """The noise predictor of the DDPM paper: noise = unet(x_t, t), or unet(x_t, t, y).

    Args:
        in_channels: channels of the pictures: 3 for colour, 1 for grey.
        channels: channels at full size; a multiple of `norm_num_groups`, and of 2, at least 4.
        channel_mult: for each level, from full size down, its channels over `channels`.
        num_res_blocks: residual blocks a level on the way down (one more on the way up).
        attention_levels: for each level, whether its blocks are followed by attention. The
            middle always has one.
        dropout: share of numbers that training drops in each block.
        norm_num_groups: groups of every normalisation.
        num_classes: how many labels the pictures may have; 0 for a network without. One
            more, the last, is the null label: "I do not say".

    Attributes:
        config: the arguments, as a dictionary: `UNet(**unet.config)` builds the same.
        provenance: where the weights come from: "new", or what `from_diffusers` knows
            of them, in words; above all whether they are an average (EMA).

    Raises:
        ValueError: if the sizes do not fit together.

    Paper: section 4 and appendix B.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        num_res_blocks: int = 2,
        attention_levels: Sequence[bool] = (False, True, False, False),
        dropout: float = 0.1,
        norm_num_groups: int = 32,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = check.unet_sizes(
            in_channels=in_channels,
            channels=channels,
            channel_mult=channel_mult,
            num_res_blocks=num_res_blocks,
            attention_levels=attention_levels,
            dropout=dropout,
            norm_num_groups=norm_num_groups,
            num_classes=num_classes,
        )
        size = SimpleNamespace(**self.config)
        self.in_channels, self.num_classes = size.in_channels, size.num_classes
        self.channels, self.provenance = size.channels, "new"
        time_channels = 4 * size.channels
        widths = [m * size.channels for m in size.channel_mult]
        self.time = nn.Sequential(
            xavier(nn.Linear(size.channels, time_channels)),
            nn.SiLU(),
            xavier(nn.Linear(time_channels, time_channels)),
        )
        if size.num_classes:
            self.label = nn.Embedding(size.num_classes + 1, time_channels)
            nn.init.zeros_(self.label.weight)
        self.stem = xavier(nn.Conv2d(size.in_channels, size.channels, 3, padding=1))
        self.down, self.middle, self.up = build_u(
            partial(
                Block,
                time_channels=time_channels,
                dropout=size.dropout,
                num_groups=size.norm_num_groups,
            ),
            size.channels,
            list(zip(widths, size.attention_levels)),
            size.num_res_blocks,
        )
        self.norm = Norm(widths[0], size.norm_num_groups)
        head = nn.Conv2d(widths[0], size.in_channels, 3, padding=1)
        self.head = xavier(head, gain=ALMOST_ZERO)

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Predict the noise in x_t.

        Args:
            x_t: (B, in_channels, H, W); both sizes divisible by 2 to the number of
                halvings.
            t: (B,) int64 times 1 ... T.
            y: (B,) int64 labels 0 ... num_classes, of which the last is the null label.
                None: the null label for all, if the network knows labels.

        Returns:
            the predicted noise, in the shape and type of x_t.

        Raises:
            TypeError: if t or y is not int64.
            ValueError: if the channels or the size of x_t do not fit, if t is not one
                time a picture, or y not one label that the network knows.
        """
        x = check.unet_input(x_t, t, self.in_channels, len(self.down))
        x = x.to(self.stem.weight.dtype)
        time = self.time(time_embedding(t, self.channels).to(x.dtype))
        if (y := check.labels(y, t, self.num_classes)) is not None:
            time = time + self.label(y)
        h = run_u(self.down, self.middle, self.up, self.stem(x), F.silu(time))
        return self.head(F.silu(self.norm(h))).to(x_t.dtype)

    @classmethod
    def cifar10(cls) -> Self:
        """Return the paper's network for 32x32 colour pictures (35.7 million weights)."""
        return cls()

    @classmethod
    def digits(cls) -> Self:
        """Return a small network for 8x8 grey digits and their labels."""
        return cls(
            in_channels=1,
            channels=16,
            channel_mult=(1, 2),
            num_res_blocks=1,
            attention_levels=(False, True),
            dropout=0.0,
            norm_num_groups=8,
            num_classes=10,
        )

    @classmethod
    def from_diffusers(cls, source: str | Path) -> Self:
        """Return a network with weights that diffusers' `UNet2DModel` wrote.

        Args:
            source: a folder with `config.json` and `diffusion_pytorch_model.safetensors`,
                or with a folder `unet` that has both; or a name on the Hugging Face hub,
                such as "google/ddpm-cifar10-32" (needs huggingface_hub).

        Returns:
            the network in float32 and in `eval` mode. Its `provenance` says whether the
            weights are an average (EMA), as far as that is known.

        Raises:
            ValueError: if the configuration describes another network, or a weight or a
                file does not fit, with its name.
            FileNotFoundError: if there is no such folder, name or file. Pickles (`.bin`,
                `.ckpt`) are never read.
            ConnectionError: if the hub cannot be reached.
            ImportError: if a package is missing.
        """
        return _diffusers.load_unet(cls, source)

    def save_diffusers(self, folder: str | Path, size: _diffusers.Size = None) -> None:
        """Write the two files that `UNet2DModel.from_pretrained(folder)` reads.

        Args:
            folder: is made if it is not there.
            size: height and width of the pictures, which diffusers' pipelines ask for.

        Raises:
            ImportError: if safetensors is missing.
            ValueError: if something was put around a layer, so that its weights have
                other names. (`torch.compile` is no harm.)
        """
        _diffusers.save(self, self.config, folder, size)

# %% [markdown]
# ## Weights from elsewhere
#
# The paper's network has been trained and published before. The library diffusers keeps one as two files: `config.json` names the sizes, a `safetensors` file holds the weights. There the same layers have other names. `UNet.from_diffusers` and `save_diffusers` translate; the tables stand in `ddpm_nb/_diffusers.py`.
#
# The danger is not that loading fails. It is that loading *works* and the network is another one: with other padding, another epsilon or 32 heads instead of one, every weight has the same shape. So each key of the configuration is compared with what this network does, and a key that is missing counts as diffusers' own default, which is mostly another value. Here one number of a configuration is changed:

# %% tags=["active-ipynb"]
# import json
# import tempfile
#
# with tempfile.TemporaryDirectory() as folder:
#     UNet.digits().save_diffusers(folder)
#     file = Path(folder) / "config.json"
#     file.write_text(json.dumps(json.loads(file.read_text()) | {"freq_shift": 0}))
#     try:
#         UNet.from_diffusers(folder)
#     except ValueError as error:
#         print(error)

# %% [markdown]
# That would be a network whose clocks run at other speeds. A whole pipeline brings its noise schedule, too, in `scheduler_config.json`; the command `ddpm-nb sample --diffusers` reads it, and refuses one that it cannot follow.

# %% [markdown]
# ## A look inside
#
# The large network is the paper's for CIFAR-10. The small one draws the digits of [the chapter on the algorithms](algorithms.ipynb).

# %% tags=["active-ipynb"]
# for name, net in (("cifar10", UNet.cifar10()), ("digits", UNet.digits())):
#     count = sum(p.numel() for p in net.parameters())
#     print(f"UNet.{name}(): {count:,} parameters")

# %% [markdown]
# To see shapes, no numbers need to flow: on the device `meta` torch computes shapes alone. Each part of the large network reports what it gives, in the order of computing.

# %% tags=["active-ipynb"]
# results = []
#
#
# def report(name, part, inputs, out):
#     attends = isinstance(getattr(part, "attention", None), Attention)
#     results.append((name, out.shape[1], out.shape[2], attends))
#
#
# net = UNet.cifar10().to("meta")
# for name, part in net.named_modules():
#     if isinstance(part, Block | Downsample | Upsample) or name in ("stem", "head"):
#         part.register_forward_hook(partial(report, name))
# with torch.device("meta"):
#     net(torch.empty(1, 3, 32, 32), torch.tensor([1]))
# for name, channels, size, attends in results:
#     print(f"{name:18} {channels:3} x {size:2} x {size:2}{'  attention' * attends}")

# %% [markdown]
# Where do the weights lie, and where does the work go? A weight of a convolution works once for each pixel. So the same block costs 64 times as much at 32×32 as at 4×4.

# %% tags=["active-ipynb"]
# net = UNet.cifar10()
# weights, work = dict.fromkeys((32, 16, 8, 4), 0), dict.fromkeys((32, 16, 8, 4), 0)
# for name, _, size, _ in results:
#     for layer in net.get_submodule(name).modules():
#         if isinstance(layer, nn.Conv2d | nn.Linear):
#             # The time's layer works once a picture, all others once a pixel.
#             once = isinstance(layer, nn.Linear) and layer.in_features == 512
#             weights[size] += layer.weight.numel()
#             work[size] += layer.weight.numel() * (1 if once else size**2)
# sums = sum(2 * size**4 * channels for _, channels, size, attends in results if attends)
# total = sum(work.values())
# print(f"multiplications with weights, one picture: {total / 1e9:.2f} billion")
# print(f"and in the two sums of attention: {sums / 1e9:.2f} billion")

# %% mystnb={"image": {"alt": "Two bars of the same length, each cut into shares for 32\u00d732, 16\u00d716, 8\u00d78 and 4\u00d74 pixels. Of the weights, 32\u00d732 has the smallest share and the other three have about equal ones. Of the multiplications, 32\u00d732 and 16\u00d716 have nearly everything, and 4\u00d74 next to nothing."}} tags=["active-ipynb"]
# figure, axes = plt.subplots(2, 1, figsize=(5.2, 1.8))
# shades = ("#003a63", "#0060a0", "#5a9bc9", "#a9cbe2")
# for ax, parts, title in zip(axes, (weights, work), ("weights", "multiplications")):
#     left = 0.0
#     for (size, part), shade in zip(parts.items(), shades):
#         share = part / sum(parts.values())
#         ax.barh(0, share, left=left, color=shade)
#         if share > 0.1:
#             ink = "white" if shade < "#5a" else "black"
#             place = {"ha": "center", "va": "center", "color": ink}
#             ax.text(left + share / 2, 0, f"{size}×{size}", **place)
#         left += share
#     ax.set(yticks=[0], yticklabels=[title], xticks=[], xlim=(0, 1))
#     ax.spines[:].set_visible(False)
# plt.show()

# %% [markdown]
# **Figure.** Shares of the weights and of the work, by the size of the pictures. Most weights lie where pictures are small, most of the work is done where they are large.
#
# How far does a pixel see? Take a number in the middle of some layer's result, and ask which pixels of the picture change it: its gradient, pixel by pixel. Here with random weights, drawn so that no block is nearly silent.

# %% tags=["active-ipynb"]
# # A network whose weights all have a random value of order one.
# def redraw(net, seed=0):
#     generator = torch.Generator().manual_seed(seed)
#     with torch.no_grad():
#         for p in net.parameters():
#             fan_in = p[0].numel() if p.dim() > 1 else 1
#             p.copy_(torch.randn(p.shape, generator=generator) / fan_in**0.5)
#     return net.eval()

# %% tags=["active-ipynb"]
# # Three layers to watch, and how much each pixel changes the middle of their results.
# net = UNet(channels=32, norm_num_groups=8)
# watched = {
#     "two blocks at 32×32": net.down[0].blocks[1],
#     "a block at 16×16": net.down[1].blocks[0].residual,
#     "… and its attention": net.down[1].blocks[0].attention,
# }
# kept = []
# for part in watched.values():
#     part.register_forward_hook(lambda part, inputs, out: kept.append(out))
#
#
# def influence(seed):
#     generator = torch.Generator().manual_seed(100 + seed)
#     x = torch.randn(1, 3, 32, 32, generator=generator).requires_grad_()
#     kept.clear()
#     redraw(net, seed)(x, torch.tensor([500]))
#     middle = [out[0, :, out.shape[2] // 2, out.shape[3] // 2].sum() for out in kept]
#     gradients = [torch.autograd.grad(m, x, retain_graph=True)[0] for m in middle]
#     return torch.stack([gradient[0].abs().sum(0) for gradient in gradients])

# %% mystnb={"image": {"alt": "Three pictures of 32 by 32 pixels, with a scale beside them: how much one number in the middle depends on each pixel. After two blocks at full size, a small strong square in the middle, and elsewhere a faint fog, a thousandth as strong or less. After a block at half size, a larger square. After attention the square is the same, and the fog everywhere else is clearly stronger."}} tags=["active-ipynb"]
# figure, axes = plt.subplots(1, 3, figsize=(5.2, 2.3))
# titles = ("two blocks\nat 32×32", "a block\nat 16×16", "and its\nattention")
# for ax, title, picture in zip(axes, titles, influence(seed=0)):
#     shade = (picture / picture.max()).clamp(min=1e-4).log10()
#     drawn = ax.imshow(shade, vmin=-4, vmax=0)
#     ax.set(title=title, xticks=[], yticks=[])
# bar = figure.colorbar(drawn, ax=axes, ticks=[-4, -2, 0], shrink=0.7)
# bar.ax.set_yticklabels(["1/10,000", "1/100", "strongest"])
# plt.show()

# %% [markdown]
# **Figure.** How much one number in the middle of a layer's result depends on each pixel of the picture. The square grows from layer to layer; only attention makes the rest clearly stronger.
#
# The square is what convolutions reach: it grows with each, and twice as fast after a halving. The faint fog outside is GroupNorm: it takes the mean over all pixels, so strictly each of them counts everywhere. But a mean cannot tell *where* something was. Attention can.
#
# The picture shows one network with random weights. Now ten of them. *Far* is what lies outside the middle 17×17 pixels.

# %% tags=["active-ipynb"]
# seen = torch.stack([influence(seed) for seed in range(10)])
# far = seen.clone()
# far[:, :, 8:25, 8:25] = 0
# shares = far.sum((2, 3)) / seen.sum((2, 3))
# print("share of the influence that comes from far away, ten random networks:")
# for name, share in zip(watched, shares.T):
#     # 2.26: Student's t for ten values, 95 %
#     width = 2.26 * share.std() / 10**0.5
#     print(f"{name:20} {share.mean():.3f} ± {width:.3f}")
# more = int((shares[:, 2] > shares[:, 1]).sum())
# print(f"attention raises it in {more} of 10")

# %% [markdown]
# The numbers are means of ten with their 95 % intervals. The intervals of the first two layers overlap: what convolutions reach lies within the 17×17 pixels, and from beyond there is only the fog. Attention raises the share from far away in each of the ten, to more than twice as much in the mean, even with random weights. Training decides where it looks.

# %% [markdown]
# At the start the answer is nearly zero everywhere, as promised above:

# %% tags=["active-ipynb"]
# torch.manual_seed(0)
# noise = UNet.digits()(torch.randn(2, 1, 8, 8), torch.tensor([1, 1000]))
# assert noise.abs().max() < 1e-3
# print(f"largest number in the first answer: {noise.abs().max():.0e}")

# %% [markdown]
# ## Speed
#
# On a CPU, arithmetic is not everything. `make bench` runs one training step and one sampling step in turn with diffusers' network and prints ratios; with `--ablate` it takes one trick away at a time. What it printed on one machine is kept in `benchmarks/README.md`. A trick that brought nothing measurable is gone. These stayed:
#
# - **Half precision.** Many server CPUs of recent years multiply numbers of 16 bits (bfloat16: the range of float32, with about three digits) at least twice as fast. Convolutions are most of the work, so this is the largest gain. In training, `torch.autocast` keeps the weights in float32 and rounds them for each product; a network that only samples can be rounded for good: `net.to(torch.bfloat16)`. It still takes and gives float32 pictures.
# - **`net.to(memory_format=torch.channels_last)`.** A picture's numbers then lie in memory pixel by pixel, all channels of a pixel side by side, as convolutions like to read them. And `rearrange(x, "b c h w -> b (h w) c")` in the attention costs nothing: that *is* the order. Shapes and results stay as they are.
# - **Attention by its formula.** For 256 pixels the table of weights is small. Two products of matrices in half precision are quicker on a CPU than torch's combined kernel, which works in small pieces. On a GPU that kernel never writes the table down, and the code chooses it there. (That choice is not measured by itself.)
# - **GroupNorm in float32.** For few channels a group and channels_last, torch's kernel for half precision is slow on CPUs, and its sums are less exact.
# - **Dropout** from 16 random bits a number. Torch's own draw takes one random number for each decision, one after the other, on one core only. So the more cores compute, the more this brings.
#
# **On a GPU** the layers are so quick that starting them is what costs. One training update is some 2,600 operators, each a small program or several, the *kernels*, and Python starts each by itself. `torch.compile` merges many of them into few, and CUDA can record the rest as one *graph*, which is launched at once: `TrainConfig(compile=True)` does both, on one GPU and with the batch in one piece. On one NVIDIA H200, in bf16, this took the training from 2,039 pictures a second to 5,836 ([the table](gpu.md), one run; not compiled, fp16 had 2,567).
#
# Here are the last three of the list alone, on one core and tensors of the network's own sizes. The results are compared, the times are only printed.

# %% tags=["active-ipynb", "nbval-ignore-output"]
# from torch.utils.benchmark import Timer  # on one core
#
# generator = torch.Generator().manual_seed(0)
# x = torch.randn(16, 128, 32, 32, generator=generator).to(torch.bfloat16)
# x = x.to(memory_format=torch.channels_last).requires_grad_()
# out = torch.randn_like(x)
# qkv = torch.randn(3, 16, 256, 256, generator=generator).to(torch.bfloat16)
# norm, drop = Norm(128, 32), Dropout(0.1)
#
#
# def plain_norm(x):
#     return F.group_norm(x, 32, norm.weight, norm.bias, norm.eps)
#
#
# def milliseconds(call):
#     return 1000 * Timer(call, globals=globals()).blocked_autorange().median
#
#
# for torchs, ours in (
#     ("fused_attention(*qkv)", "attend(*qkv)"),
#     ("plain_norm(x).backward(out)", "norm(x).backward(out)"),
#     ("F.dropout(x, 0.1)", "drop(x)"),
# ):
#     print(f"{torchs:28} {milliseconds(torchs):6.2f} ms, ", end="")
#     print(f"{ours:22} {milliseconds(ours):6.2f} ms")
# assert (fused_attention(*qkv) - attend(*qkv)).float().abs().max() < 0.02
# assert (plain_norm(x) - norm(x)).float().abs().max() < 0.05
# assert abs((drop(x) == 0).float().mean() - 0.1) < 0.001

# %% [markdown]
# ## Where people slip
#
# **Pictures whose size does not fit.** Each halving needs an even size. A 28×28 picture can be halved twice (28, 14, 7) and not three times. Some public code fails deep inside with two shapes that do not match, or pads without a word. Here the error names the rule and the sizes that work:

# %% tags=["active-ipynb"]
# try:
#     UNet(channels=32)(torch.zeros(1, 3, 28, 28), torch.tensor([1]))
# except ValueError as error:
#     print(error)

# %% [markdown]
# **Everything fits, and the network is another one.** The next six slips change no shape of any weight. A file of weights loads, nothing crashes, and training hides much of it. To see the damage, take one network with random weights, make one slip at a time, and compare answers.

# %% tags=["active-ipynb"]
# # Five slips, each in the place of what is right. (The sixth needs no code.)
# def wrong_axis(query, key, value):
#     score = query @ key.mT * query.shape[-1] ** -0.5
#     return torch.softmax(score, dim=1) @ value
#
#
# def many_heads(*qkv):
#     q, k, v = (rearrange(part, "b n (h c) -> b h n c", h=8) for part in qkv)
#     return rearrange(F.scaled_dot_product_attention(q, k, v), "b h n c -> b n (h c)")
#
#
# def cosines_first(t, channels, right=time_embedding):
#     sin, cos = right(t, channels).chunk(2, dim=1)
#     return torch.cat([cos, sin], dim=1)
#
#
# def even_padding(self, x):
#     return F.conv2d(x, self.conv.weight, self.conv.bias, stride=2, padding=1)
#
#
# def other_eps(self, x):
#     return F.group_norm(x, self.num_groups, self.weight, self.bias, 1e-5)

# %% tags=["active-ipynb", "nbval-ignore-output"]
# from unittest.mock import patch
#
# slips = {
#     "softmax over the other axis": patch("__main__.attend", wrong_axis),
#     "8 heads": patch("__main__.attend", many_heads),
#     "cosines before sines": patch("__main__.time_embedding", cosines_first),
#     "padding on all sides": patch("__main__.Downsample.forward", even_padding),
#     "eps 1e-5": patch("__main__.Norm.forward", other_eps),
# }
# generator = torch.Generator().manual_seed(2)
# x_t = torch.randn(8, 3, 32, 32, generator=generator)
# t = torch.randint(1, 1001, (8,), generator=generator)
# net = redraw(UNet(channels=32, norm_num_groups=8)).requires_grad_(False)
# right, answers = net(x_t, t), {"t one too large": net(x_t, t + 1)}
# for name, slip in slips.items():
#     with slip:
#         answers[name] = net(x_t, t)
# assert torch.equal(net(x_t, t), right)  # all is put back
# changes = {name: (a - right).norm() / right.norm() for name, a in answers.items()}
# for name, value in changes.items():
#     print(f"{name:28} changes the answer by {value:.0e} of its size")
# assert 0 < changes.pop("eps 1e-5") < 1e-4
# assert min(changes.values()) > 1e-3

# %% [markdown]
# - **Softmax over the other axis.** Then the weights with which a pixel *is looked at* add up to 1, and the collected values have any size. A network that is trained with the slip learns to live with it. Only a comparison with the formula finds it.
# - **Padding on all sides** shifts every halved picture by one pixel of the larger one, three times.
# - **Cosines before sines.** Half of the time vector changes place, and every block is told another time.
# - **Another epsilon** changes next to nothing here, where no group is nearly constant. A comparison of these answers with a tolerance of $10^{-5}$ lets it through. In float64 one can ask for $10^{-10}$, and then it is found. In a trained network a group may be nearly constant, and then it counts.
# - **Head count.** `attention_head_dim=8`, a common default, means many heads. Same weights, other network. `from_diffusers` refuses it.
# - **$t$ one too large** is hard to see, because the embedding is smooth. It is the same slip as asking about $t$ where $t-1$ is meant.
#
# **Comparing two networks at their start.** Since a fresh network answers almost zero, any two of them agree. A test of equality must first give every weight a random value that is not tiny, as above.

# %% [markdown]
# ## Exercises
#
# **1.** Swap two pixels of the input of an attention block. What happens to its output? And what would you have to add to the network, if it had no convolutions at all? *Hint:* in which order does the sum over $j$ take the pixels?
#
# <details><summary>Solution</summary>
#
# The same two pixels are swapped in the output, and nothing else changes: attention does not know where a pixel lies. Only the convolutions around it do. Without them each pixel would have to be told its place: by a vector of sines and cosines of its row and column, for instance, as the time has one.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 1
# torch.manual_seed(0)
# block = Attention(32, 32)
# nn.init.normal_(block.out.weight)
# x = torch.randn(1, 32, 2, 2)
# swapped = x.flip(3)
# first, second = block(x)[0, 0, 0].tolist(), block(swapped)[0, 0, 0].tolist()
# print(
#     f"two neighbours, before {first[0]:.3f} {first[1]:.3f}, swapped {second[0]:.3f} {second[1]:.3f}"
# )
# assert torch.allclose(block(swapped), block(x).flip(3), atol=1e-4)

# %% [markdown]
# **2.** The embedding of $t+k$ is a rotation of that of $t$, pair by pair, with angles that depend on $k$ alone. Check it. *Hint:* the addition theorems of sine and cosine.
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
# there = time_embedding(torch.tensor([107]), 64)
# assert torch.allclose(rotated, there, atol=1e-4)
# for name, vector in (("rotated", rotated), ("t = 107", there)):
#     print(name, *(f"{number:6.3f}" for number in vector[0, :32:6]))

# %% [markdown]
# **3.** How many skip connections does the CIFAR-10 network have? *Hint:* everything that the way down computes is put aside, the stem's result too.
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
# print(f"put aside: {given}, taken back: {taken}")

# %% [markdown]
# **4.** Which sizes of pictures does a network with $L$ levels take? Build one for grey pictures of 28×28. *Hint:* how often is the size halved?
#
# <details><summary>Solution</summary>
#
# It halves $L-1$ times, so height and width must be multiples of $2^{L-1}$; they need not be equal. $28 = 4\cdot7$ can be halved twice: three levels.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 4
# net = UNet(
#     in_channels=1,
#     channels=32,
#     channel_mult=(1, 2, 2),
#     attention_levels=(False, True, False),
# )
# for height, width in ((28, 28), (28, 12)):
#     answer = net(torch.zeros(1, 1, height, width), torch.tensor([1]))
#     print(f"{height} x {width} in, {answer.shape[2]} x {answer.shape[3]} out")

# %% [markdown]
# **5.** A picture is moved by one pixel to the right, with its right edge coming in again at the left. Is the answer of the network moved in the same way? And by eight pixels, with four levels? *Hint:* what does a convolution with stride 2 see after a move by one?
#
# <details><summary>Solution</summary>
#
# Neither, exactly. A convolution without stride would move along, apart from the edges, which are padded with zeros. Halving keeps every second place, so only moves by multiples of $2^{L-1} = 8$ pass it. Then the edges remain: zeros come in where the picture ends. Below, over the whole picture and in ten networks with random weights, the move by one is compared with the move by eight.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 5
# t = torch.tensor([300])
#
#
# def off(net, x, move):
#     with torch.no_grad():
#         moved, answer = net(x.roll(move, 3), t), net(x, t).roll(move, 3)
#     return float((moved - answer).norm() / answer.norm())
#
#
# smaller = 0
# for seed in range(10):
#     net = redraw(UNet(channels=32, norm_num_groups=8), seed)
#     x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
#     smaller += off(net, x, 8) < off(net, x, 1)
# print(f"moving by 8 changes less than moving by 1 in {smaller} of 10 random networks")

# %% [markdown]
# ## Summary
#
# The network is a U: down to few pixels, up again, with skip connections across. Residual blocks do the work, the time enters each of them, attention lets distant pixels talk. It starts by answering "no noise" and has to learn the rest. Many slips leave every shape as it is; only a comparison with an independent network, at random weights and small tolerance, finds them.
#
# **The next question.** A run on photographs takes days. What keeps it on its way, and what if the machine goes down? See [training](training.ipynb).
