# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Training that lasts: averages, half precision, and a run that survives
#
# **The question.** The digits took two minutes. The paper's CIFAR-10 run takes 800,000 steps: hours to days on one GPU. What must be added to Algorithm 1 so that such a run ends well, ends soon, and survives what happens on the way?
#
# **What you bring.** Algorithm 1 from [the algorithms](algorithms.ipynb), the network from [the U-Net](unet.ipynb), and a picture of what a gradient step does.
#
# **What you take away.** `fit`, which trains on digits, on CIFAR-10 or on a folder of your own pictures, on a CPU, a GPU or many. Each of its parts, what it is for, and an experiment that shows what happens without it.

# %% tags=["active-ipynb"]
# # In Colab this installs the book's package; elsewhere it is there, and nothing happens.
# import importlib.util
#
# if importlib.util.find_spec("ddpm_nb") is None:
#     %pip install --quiet --no-deps "ddpm_nb @ git+https://github.com/ddpm_nb/ddpm_nb"

# %%
"""Training that lasts: Algorithm 1 with what a run of hours or weeks needs.

An average of the weights, warm-up, clipping, mixed precision, several processes, and
checkpoints from which a run goes on as if nothing had happened.
"""

import copy
import io
import json
import math
import numbers
import os
import platform
import sys
import time
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args, get_origin

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ddpm_nb import _runs
from ddpm_nb._data import (
    fingerprint,
    grey_levels,
    save_image_grid,
    to_float,
    training_set,
)
from ddpm_nb._files import write_whole
from ddpm_nb._noise import CounterNoise
from ddpm_nb.algorithms import TrainStep, sample
from ddpm_nb.forward import Schedule
from ddpm_nb.loss import simple_loss
from ddpm_nb.unet import UNet


# %% [markdown]
# ## An average of the weights
#
# Each gradient step is computed from a few pictures, a few times $t$ and one draw of noise for each. So the step points only roughly where it should. Late in training the weights no longer travel; they tremble around a good place. The mean of many trembling points is nearer to the middle than any one of them.
#
# An **exponential moving average** (EMA) is a running mean that slowly forgets. Write $\theta_k$ for the weights after update $k$, and $\bar\theta_k$ for their average. With a *decay* $d$ just below 1,
#
# $$
# \bar\theta_k = d_k\,\bar\theta_{k-1} + (1-d_k)\,\theta_k, \qquad d_k = \min\!\left(d,\ \frac{k-1}{k+8}\right) \quad (k \ge 1) .
# $$ (def-ema)
#
# At $k = 1$ the factor $d_1$ is 0, so the average begins as a copy. Then $d_k$ grows, until the constant $d$ takes over.
#
# How much does each $\theta_j$ count? Put the formula into itself, again and again:
#
# $$
# \bar\theta_k = \sum_{j=1}^{k} w_j\,\theta_j, \qquad w_j = (1-d_j)\;d_{j+1}\,d_{j+2}\cdots d_k .
# $$ (eq-ema-weights)
#
# The factors $w_j$ add up to 1: the copy has the factor 1, and each later update shares it out as $d_k$ and $1-d_k$.
#
# **Late in a long run** all these decays are $d$, and $w_j = (1-d)\,d^{\,k-j}$. Weights that are $1/(1-d)$ updates old count $1/e$ as much as today's. With the paper's $d = 0.9999$ that is 10,000 updates.
#
# **Early in a run** a constant $d$ would do harm. After 1,000 updates with 0.9999, the copy of the *first* weights would still count $0.9999^{999}\approx0.90$, and samples drawn with the average would be noise, however well the run goes. Therefore $d_k$ grows. What do the first $j$ weights count together after $k$ updates? At update $j$ it is all, and every later update multiplies it by its $d_i$:
#
# $$
# w_1+\dots+w_j = \prod_{i=j+1}^{k}\frac{i-1}{i+8} = \prod_{m=0}^{8}\frac{j+m}{k+m} \approx \left(\frac jk\right)^{\!9} ,
# $$ (eq-ema-start)
#
# as long as the constant has not taken over, because numerators and denominators cancel, but for nine of each. What lies in the first half of the run so far counts about $2^{-9}$, or 1 in 512. The average reaches back over about the last ninth.
#
# (The paper's authors have a constant $d$ from the beginning. Over 800,000 updates there is no difference. The growing decay is a custom of several libraries.)
#
# How much calmer is the average? Suppose the weights tremble independently, each with variance $s^2$. The variance of a sum of independent terms is the sum of their variances, each with its factor squared. For large $k$ what remains is a geometric series:
#
# $$
# \operatorname{Var}(\bar\theta_k) \;\to\; (1-d)^2\, s^2 \sum_{i=0}^{\infty} d^{\,2i} = \frac{(1-d)^2}{1-d^2}\,s^2 = \frac{1-d}{1+d}\; s^2 .
# $$ (eq-ema-variance)
#
# With $d = 0.9999$ the variance falls by a factor of about 20,000. (Real weights tremble with some memory from one update to the next, so they gain less.)
#
# The samples are always drawn with $\bar\theta$. The training itself goes on with $\theta$ and never looks at the average.

# %%
class EMA:
    """Exponential moving average of a model's weights.

    Args:
        model: the model that is trained. It is copied, and not touched.
        decay: how much of the average each update keeps, in [0, 1); the first ones keep
            less.

    Attributes:
        model: a model with the averaged weights, in eval mode and without gradients; in
            float32 where the model's own are shorter.
        updates: how many updates it has seen.

    Raises:
        ValueError: if decay is not in [0, 1).

    Equation: def-ema. Paper: appendix B.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay: expected a number in [0, 1), got {decay}")
        self.decay, self.updates = decay, 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        for mine in (*self.model.parameters(), *self.model.buffers()):
            if mine.dtype in (torch.float16, torch.bfloat16):
                mine.data = mine.data.float()

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the model's present weights.

        Buffers are no weights: they are copied each time, never averaged.
        """
        keep = min(self.decay, self.updates / (self.updates + 9))  # at first, a copy
        average: list[Tensor] = list(self.model.parameters())
        today = [w.to(mine.dtype) for w, mine in zip(model.parameters(), average)]
        torch._foreach_lerp_(average, today, 1 - keep)
        for mine, theirs in zip(self.model.buffers(), model.buffers()):
            mine.copy_(theirs)
        self.updates += 1


# %% [markdown]
# A simulation: the "weights" are 2,000 numbers that start at 5, travel towards 0 and then tremble there with variance 1.

# %% mystnb={"image": {"alt": "Curves over 3,000 updates. Grey dots, one trembling weight, come down from 5 to 0 at once and then fill the range from about minus 3 to 3. Its averages with d = 0.9 and 0.999 follow quickly; the first goes on trembling visibly, the second is almost a line at 0. A dashed line, the average with a constant 0.999 from the start, comes down slowly and is still near 2 after 1,000 updates."}} tags=["active-ipynb"]
# import matplotlib.pyplot as plt
#
# from ddpm_nb import _figures as fig
#
# fig.use_style()
# generator = torch.Generator().manual_seed(0)
# UPDATES, COPIES = 3000, 2000
#
#
# def tremble(k):
#     """Weights that have come to rest at 0 after about 100 updates, but for the noise."""
#     return 5 * 0.97**k + torch.randn(COPIES, generator=generator)
#
#
# weights = nn.Linear(COPIES, 1, bias=False)
# averages = {decay: EMA(weights, decay) for decay in (0.9, 0.99, 0.999)}
# raw, smooth, constant = [], {decay: [] for decay in averages}, [5.0]
# for k in range(UPDATES):
#     weights.weight.data[0] = tremble(k)
#     raw.append(weights.weight[0, 0].item())
#     constant.append(0.999 * constant[-1] + 0.001 * raw[-1])
#     for decay, average in averages.items():
#         average.update(weights)
#         smooth[decay].append(average.model.weight[0, 0].item())
#
# for decay, average in averages.items():
#     if decay < 0.999:  # the constant 0.999 would take over after 8,992 updates
#         ratio = average.model.weight.var().item() * (1 + decay) / (1 - decay)
#         print(
#             f"decay {decay}: variance over its formula, within 10 %: {abs(ratio - 1) < 0.1}"
#         )
#
# figure, ax = plt.subplots(figsize=(6, 2.6))
# ax.plot(range(0, UPDATES, 6), raw[::6], ".", color=fig.GREY, markersize=2)
# ax.plot(range(0, UPDATES, 6), constant[1::6], "--", color=fig.BLUE, linewidth=1)
# ax.text(800, 2.5, "0.999 from the start", color=fig.BLUE)
# for decay, place, color in ((0.9, 100, fig.ORANGE), (0.999, 700, fig.BLUE)):
#     ax.plot(range(0, UPDATES, 6), smooth[decay][::6], color=color)
#     ax.text(place, -3.6, f"d = {decay}", color=color)
# ax.set(xlabel="update", ylabel="one weight", ylim=(-4, 6))
# plt.show()

# %% [markdown]
# The averages come down with the weights, and the longer their memory, the calmer they are. The dashed line shows what the growing decay is good for.
#
# ## The first steps: warm-up
#
# Adam divides each gradient by a running estimate of its size. In the beginning that estimate rests on one or two batches, so the first steps are large and badly aimed. The paper lets the learning rate grow from 0. With $k = 0$ for the first update, a *warm-up* of $W$ updates and the final rate $\eta$,
#
# $$
# \eta_k = \eta\,\min\!\left(\frac{k}{W},\, 1\right) .
# $$ (def-warmup)
#
# The first update has the rate 0: it moves no weight, but Adam sees a gradient and begins its estimates.

# %%
def learning_rate(step: int, rate: float, warmup_steps: int) -> float:
    """Return the learning rate of an update: it grows from 0 on a line, then stays.

    Args:
        step: which update, counted from 0.
        rate: the final learning rate.
        warmup_steps: how many updates the growth takes; with 0 there is none.

    Equation: def-warmup. Paper: appendix B gives the final rate; the warm-up stands in
    the authors' code.
    """
    return rate * min(step / warmup_steps, 1.0) if warmup_steps else rate


# %% [markdown]
# ## Rare huge gradients: clipping
#
# Now and then one batch gives a gradient many times longer than the others. One such step can undo hours. So the gradient $g$ is made shorter when it is longer than $c$, and its direction stays:
#
# $$
# \operatorname{clip}(g) = g\,\min\!\left(1,\, \frac{c}{\lVert g\rVert}\right) .
# $$ (def-clip)
#
# Here $g$ holds the gradients of all weights as one long vector. The paper does not mention clipping. The authors' code clips, with $c = 1$.
#
# There is a subtlety that nearly every port of that code has lost. They trained on 8 devices, 16 pictures on each, and **each** device clipped its own gradient **before** the eight were averaged. Everybody else clips the mean. The two are not the same: when one of 8 pieces has a huge gradient, clipping each bounds its share of the mean to $c/8$. Clipping the mean lets it set the direction of the whole step. `fit` offers both, and clips the mean unless told otherwise.

# %%
@torch.no_grad()
def clip_gradients(parameters: Sequence[Tensor], max_norm: float) -> Tensor:
    """Shorten the gradient, all weights taken as one vector, to a given length.

    Args:
        parameters: the weights; their `grad` is changed in place.
        max_norm: the greatest length that is left as it is; positive.

    Returns:
        () the gradient's length before clipping, on its device.

    Equation: def-clip.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    # A gradient of length 0 is left alone: min(1, c / 0) = 1.
    torch._foreach_mul_(gradients, (max_norm / norm).clamp(max=1.0))
    return norm


# %% [markdown]
# Eight gradients, seven of length about one and one that is a hundred times longer, drawn anew 500 times. How far does each way turn the step away from the mean of the seven?

# %% tags=["active-ipynb"]
# def clipped(g):
#     weight = nn.Parameter(torch.zeros(50))
#     weight.grad = g.clone()
#     clip_gradients([weight], 1.0)
#     return weight.grad
#
#
# def angle(a, b):
#     return float(torch.rad2deg(torch.acos(torch.cosine_similarity(a, b, dim=0))))
#
#
# angles = {"the mean": [], "each": []}
# for _ in range(500):
#     pieces = torch.randn(8, 50, generator=generator) * 0.05 + 0.12
#     pieces[0] = 100 * torch.randn(50, generator=generator) / 50**0.5
#     good = pieces[1:].mean(0)
#     each = torch.stack([clipped(g) for g in pieces]).mean(0)
#     angles["the mean"].append(angle(clipped(pieces.mean(0)), good))
#     angles["each"].append(angle(each, good))
# for name, values in angles.items():
#     low, high = torch.tensor(values).quantile(torch.tensor([0.025, 0.975]))
#     print(f"clip {name}: 95 % of the angles within {low:.0f} ... {high:.0f} degrees")

# %% [markdown]
# ## Mirror images
#
# A horse that looks to the left could as well look to the right. So each time a picture is drawn, it is mirrored left to right with probability 1/2: twice the data, for nothing. Digits and letters must not be mirrored, and neither should anything else whose sides mean something.
#
# ## Half precision
#
# Most of the time goes into multiplying matrices, and hardware multiplies short numbers faster than long ones. There are two short formats. Both have 16 bits, and they spend them differently:
#
# | format | bits for the size | bits for the digits | smallest normal number | smallest step above 1 |
# |---|---|---|---|---|
# | float32 | 8 | 23 | about 1e-38 | 1.2e-7 |
# | bf16 | 8 | 7 | about 1e-38 | 0.0078 |
# | fp16 | 5 | 10 | 6.1e-5 | 0.00098 |
#
# Neither can hold the *weights*. An update changes a weight by about $10^{-4}$ of its size, and that is lost:

# %% tags=["active-ipynb"]
# for dtype in (torch.bfloat16, torch.float16, torch.float32):
#     weight = torch.ones((), dtype=dtype)
#     print(f"{dtype!s:15} 1 + 0.0002 = {float(weight + 0.0002):.4f}")

# %% [markdown]
# So **mixed precision** is used: weights, their average and the optimizer's memory stay in float32; only convolutions and matrix products get short copies (torch calls it *autocast*).
#
# With bf16 that is all. With fp16 there is one more danger: gradients are small, and below its smallest normal number fp16 goes on in steps of $6\cdot10^{-8}$: what is less than half a step becomes 0. The cure is to multiply the loss by a large number before the gradients are computed, and to divide them by it afterwards. When something overflows, that step is skipped and the number is halved (torch calls it a *GradScaler*). A T4 has fast fp16 and no fast bf16; newer GPUs and CPUs have bf16, and then it is the better choice.

# %% tags=["active-ipynb"]
# tiny = torch.tensor(1e-8)
# print("1e-8 in fp16:", float(tiny.half()))
# print("scaled by 65536, and back:", f"{float((tiny * 65536).half()) / 65536:.2e}")

# %% [markdown]
# ## All choices in one place
#
# A run is described by one record. Its defaults are the paper's for CIFAR-10. It is written next to every result, so nobody has to remember how a picture was made.

# %%
def option(default: Any, meaning: str) -> Any:
    """Return a field of a configuration that carries its own explanation."""
    return field(default=default, metadata={"help": meaning})


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides how a run goes, but for the pictures.

    Each field carries its meaning (`ddpm-nb train --help` prints them all).

    Raises:
        ValueError: if a value makes no sense, or two of them do not fit together.

    Paper: appendix B.
    """

    channels: int = option(128, "the network's channels at full size")
    channel_mult: tuple[int, ...] = option(
        (1, 2, 2, 2), "for each size, from full size down: its channels over `channels`"
    )
    num_res_blocks: int = option(2, "residual blocks at each size on the way down")
    attention_levels: tuple[bool, ...] = option(
        (False, True, False, False), "for each size: attention after its blocks"
    )
    dropout: float = option(0.1, "share of numbers dropped in each block")
    norm_num_groups: int = option(32, "groups of the normalisations")

    schedule: Literal["linear", "cosine"] = option("linear", "the noise schedule")
    T: int = option(1000, "number of noise steps")

    batch_size: int = option(128, "pictures an update, all processes together")
    learning_rate: float = option(2e-4, "Adam's learning rate after warm-up")
    warmup_steps: int = option(5000, "updates in which the learning rate grows from 0")
    clip: Literal["mean", "each", "none"] = option(
        "mean", "clip the mean gradient, each piece's before the mean, or none"
    )
    max_grad_norm: float = option(1.0, "the gradient's greatest length")
    flip: bool = option(True, "mirror each picture with probability 1/2")
    ema_decay: float = option(
        0.9999, "how much the averaged weights keep; less in the first updates"
    )
    seed: int = option(0, "where all randomness starts")

    steps: int = option(800_000, "stop after so many updates, all sessions together")
    max_minutes: float | None = option(None, "stop this session after so many minutes")

    precision: Literal["float32", "bf16", "fp16"] = option(
        "float32", "type of convolutions and matrix products"
    )
    gradient_accumulation_steps: int = option(
        1, "work each process's share of a batch off in so many pieces (saves memory)"
    )
    channels_last: bool = option(True, "keep channels innermost in memory")
    compile: bool = option(False, "compile the network first (takes minutes)")

    log_every: int = option(50, "updates between two lines of the log")
    save_every: int = option(1000, "updates between two checkpoints")
    save_minutes: float | None = option(
        10.0, "save sooner, when the last checkpoint is so many minutes old"
    )
    sample_every: int = option(0, "updates between two sheets of samples; 0 for none")
    samples: int = option(16, "pictures on a sheet")
    tensorboard: bool = option(False, "write TensorBoard's files too")

    def __post_init__(self) -> None:
        for f in fields(self):
            value = _plain(f.name, f.type, getattr(self, f.name))
            object.__setattr__(self, f.name, value)
        for name, smallest in _SMALLEST.items():
            value = getattr(self, name)
            if value is not None and not value >= smallest:
                raise ValueError(f"{name}: expected at least {smallest}, got {value}")
        for name in ("dropout", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"{name}: expected a number in [0, 1), got {getattr(self, name)}"
                )
        for name in ("learning_rate", "max_grad_norm"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(
                    f"{name}: expected a positive number, got {getattr(self, name)}"
                )
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name}: expected one of {', '.join(choices)}, "
                    f"got {getattr(self, name)!r}"
                )
        if self.batch_size % self.gradient_accumulation_steps:
            raise ValueError(
                f"gradient_accumulation_steps: expected a divisor of batch_size = {self.batch_size}, "
                f"got {self.gradient_accumulation_steps}"
            )
        if self.clip == "each" and self.precision == "fp16":
            raise ValueError(
                "clip: 'each' expected with float32 or bf16, got fp16, whose scaled "
                "gradients have no length before the whole batch is done"
            )

    def network(self, in_channels: int) -> UNet:
        """Return a fresh network for pictures with so many channels."""
        return UNet(
            in_channels=in_channels,
            channels=self.channels,
            channel_mult=self.channel_mult,
            num_res_blocks=self.num_res_blocks,
            attention_levels=self.attention_levels,
            dropout=self.dropout,
            norm_num_groups=self.norm_num_groups,
        )

    def noise_schedule(self) -> Schedule:
        """Return the noise schedule."""
        if self.schedule == "linear":
            return Schedule.linear(self.T)
        return Schedule.cosine(self.T)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the configuration that `json.dumps(asdict(config))` has written.

        What an older version called otherwise, it has under today's name; what that
        version did not know yet has its default, which stands for what it did.

        Raises:
            ValueError: if the text is something else, or has an option that this
                version does not know.
        """
        try:
            values = json.loads(text)
        except ValueError:
            values = None
        if not isinstance(values, dict):
            raise ValueError(f"text: expected a configuration, got {text[:80]!r}")
        values = {_OLD_NAMES.get(name, name): value for name, value in values.items()}
        unknown = sorted(values.keys() - {f.name for f in fields(cls)})
        if unknown:
            raise ValueError(
                f"text: expected options of this version, got {', '.join(unknown)}, "
                "which another version of ddpm_nb has written"
            )
        return cls(**values)


def _plain(name: str, kind: Any, value: Any) -> Any:
    """Return an option as Python's own number or tuple; numpy's are welcome."""
    if get_origin(kind) is Literal or (value is None and type(None) in get_args(kind)):
        return value
    if get_origin(kind) is tuple:
        if isinstance(value, Iterable):  # JSON and the command line bring lists
            return tuple(_plain(name, get_args(kind)[0], part) for part in value)
        raise ValueError(f"{name}: expected one for each size, got {value!r}")
    words, allowed, make = {
        bool: ("True or False", bool, bool),
        int: ("a whole number", numbers.Integral, int),
    }.get(kind, ("a number", numbers.Real, float))
    if not isinstance(value, allowed) or (kind is not bool and isinstance(value, bool)):
        raise ValueError(f"{name}: expected {words}, got {value!r}")
    return make(value)


_OLD_NAMES = {
    "multipliers": "channel_mult",
    "blocks": "num_res_blocks",
    "attention": "attention_levels",
    "groups": "norm_num_groups",
    "warmup": "warmup_steps",
    "clip_length": "max_grad_norm",
    "minutes": "max_minutes",
    "pieces": "gradient_accumulation_steps",
}

_SMALLEST = {
    "batch_size": 1,
    "warmup_steps": 0,
    "steps": 0,
    "max_minutes": 0,
    "gradient_accumulation_steps": 1,
    "log_every": 1,
    "save_every": 1,
    "save_minutes": 0,
    "sample_every": 0,
    "samples": 1,
}
_CHOICES = {
    "schedule": ("linear", "cosine"),
    "clip": ("mean", "each", "none"),
    "precision": ("float32", "bf16", "fp16"),
}
# A run may go on with another budget, on another machine, and with a calmer step. All
# else decides what it learns.
_MAY_CHANGE = {
    "steps",
    "max_minutes",
    "learning_rate",
    "max_grad_norm",
    "precision",
    "gradient_accumulation_steps",
    "channels_last",
    "compile",
    "log_every",
    "save_every",
    "save_minutes",
    "sample_every",
    "samples",
    "tensorboard",
}


# %% [markdown]
# ## One update
#
# `Trainer` holds what changes during a run: weights, their average, Adam's memory, the scaler, the random states and the order of the pictures. Its method `step` does one update. Read it beside Algorithm 1: draw pictures, times and noise; ask the network; take the gradient; step.
#
# **Its own random numbers.** Dropout, and the network's first weights, draw from torch's global random numbers; torch offers no other way. So each trainer keeps a state of its own, puts it in place for its step, and puts back what was there. Two trainers that take turns learn what each would learn alone.
#
# **Several processes.** With `accelerate launch`, the same program runs once for each GPU, on one machine or on many. All processes start from the same seed, so all draw the *same* joint batch, the same times and the same noise. Then each works on its own share, and their gradients are averaged. So the result does not depend on how many there are (but for rounding, and for dropout, which each draws for itself). They must be of one kind, because GPUs of different kinds draw different random numbers from one seed.
#
# **The data set lives on the device.** CIFAR-10's 50,000 training pictures take 154 MB as bytes. A batch is then one indexing operation, and no worker processes are needed.

# %%
class Trainer:
    """Algorithm 1 with everything that a long run needs; `step` does one update.

    All its randomness begins at the configuration's seed. torch's global random numbers
    are left as they are.

    Args:
        config: how to train.
        images: (N, C, H, W) uint8, or floating-point in [-1, 1].

    Attributes:
        steps: how many updates have been done.
        model: the network that is trained.
        ema: its average; sample with `ema.model`.
        noise_schedule: the schedule, on the device.

    Raises:
        TypeError: if the pictures are no tensor, or neither uint8 nor floating-point.
        ValueError: if they have another shape, too few are given, or a floating-point
            one leaves [-1, 1] (NaN does, too); if the batch cannot be shared out; if
            the launcher asks for another precision.

    Paper: Algorithm 1, appendix B.
    """

    def __init__(self, config: TrainConfig, images: Tensor) -> None:
        with warnings.catch_warnings():
            # In a notebook without ipywidgets it complains about a bar nobody asked for.
            warnings.simplefilter("ignore")
            from accelerate import Accelerator

        self.config = config
        # Precision is our own affair: accelerate's refuses fp16 on a CPU. And only where
        # it is told "cpu" do several processes without a GPU find one another.
        self.accelerator = Accelerator(mixed_precision="no", cpu=_runs.no_accelerator())
        self.device = self.accelerator.device
        _runs.check_launch(self.accelerator, config.precision)
        processes = self.accelerator.num_processes
        _runs.check_shares(config, processes)
        halvings = len(config.channel_mult) - 1
        self.fingerprint = fingerprint(
            training_set(images, config.batch_size, halvings)
        )
        if images.is_floating_point():
            images = images.float()
        self.images = images.to(self.device)
        self.noise_schedule = config.noise_schedule().to(self.device)
        left = float(self.noise_schedule.alpha_bar[-1])
        if left > 0.001 and self.accelerator.is_main_process:
            warnings.warn(
                f"schedule, T: {config.schedule} with T = {config.T} leaves a share of "
                f"{left:.2g} of a picture's power at t = T, but sampling starts from "
                "noise alone: samples will be flawed; use more steps, or cosine",
                stacklevel=2,
            )
        if config.precision == "bf16" and self.device.type == "cuda":
            major, _ = torch.cuda.get_device_capability(self.device)
            if major < 8:
                warnings.warn(
                    "precision: this GPU only imitates bf16, slowly; use fp16",
                    stacklevel=2,
                )

        self._chance = _seeded(config.seed, self.device)
        with self._own_chance():
            self.model = config.network(images.shape[1]).to(self.device)
        self._layout = torch.contiguous_format
        if config.channels_last:
            self._layout = torch.channels_last
            for weight in self.model.parameters():
                if weight.dim() == 4:
                    weight.data = weight.data.contiguous(memory_format=self._layout)
        self.ema = EMA(self.model, config.ema_decay)
        self._weights: list[Tensor] = list(self.model.parameters())
        self.optimizer = torch.optim.Adam(self._weights, fused=True)
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=config.precision == "fp16"
        )
        # The network as it is called: perhaps compiled, and wrapped so that gradients
        # are averaged over processes while they are computed.
        network = torch.compile(self.model) if config.compile else self.model
        self._network = self.accelerator.prepare_model(network)

        self.steps = 0
        self._generator = torch.Generator(self.device).manual_seed(config.seed)
        self._order, self._next = torch.empty(0, dtype=torch.int64), 0
        # From here on they feed dropout alone; each process has its own.
        rank = self.accelerator.process_index
        self._chance = _seeded(config.seed + 1 + rank, self.device)

    def step(self) -> TrainStep:
        """Do one update and return its record."""
        config = self.config
        rate = learning_rate(self.steps, config.learning_rate, config.warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with self._own_chance():
            loss, norm = self._gradient()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.ema.update(self.model)
        self.steps += 1
        return TrainStep(self.steps, loss, rate, norm)

    @contextmanager
    def _own_chance(self) -> Iterator[None]:
        """Put this trainer's random state in place of the global one, for a while."""
        others = _random_state(self.device)
        _set_random_state(self._chance, self.device)
        try:
            yield
        finally:
            self._chance = _random_state(self.device)
            _set_random_state(others, self.device)

    def _draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """Draw this process's share of the next batch: pictures, times, noise.

        Every process draws the joint batch and takes its part.
        """
        size, source = self.config.batch_size, self._generator
        if self._next + size > len(self._order):
            self._order = torch.randperm(
                len(self.images), generator=source, device=self.device
            )
            self._next = 0
        chosen = self._order[self._next : self._next + size]
        self._next += size
        flip = torch.rand(size, generator=source, device=self.device) < 0.5
        t = torch.randint(
            1, self.config.T + 1, (size,), generator=source, device=self.device
        )
        noise = torch.randn(
            (size, *self.images.shape[1:]), generator=source, device=self.device
        )
        share = size // self.accelerator.num_processes
        mine = slice(share * self.accelerator.process_index, None)
        x_0 = to_float(self.images[chosen[mine][:share]])
        if self.config.flip:
            x_0 = torch.where(flip[mine][:share, None, None, None], x_0.flip(-1), x_0)
        return x_0, t[mine][:share], noise[mine][:share]

    def _gradient(self) -> tuple[Tensor, Tensor]:
        """Leave the batch's clipped gradient in the weights; return loss and length."""
        config = self.config
        self.optimizer.zero_grad(set_to_none=True)
        pieces = list(
            zip(
                *(
                    part.chunk(config.gradient_accumulation_steps)
                    for part in self._draw()
                )
            )
        )
        if config.clip == "each":
            return self._mean_of_clipped(pieces)
        losses = [self._backward(piece, last=piece is pieces[-1]) for piece in pieces]
        self.scaler.unscale_(self.optimizer)
        max_norm = config.max_grad_norm if config.clip == "mean" else float("inf")
        return torch.stack(losses).mean(), clip_gradients(self._weights, max_norm)

    def _mean_of_clipped(
        self, pieces: list[tuple[Tensor, ...]]
    ) -> tuple[Tensor, Tensor]:
        """Clip each piece's gradient, and only then take the mean."""
        losses, lengths = [], []
        total = [torch.zeros_like(weight) for weight in self._weights]
        for piece in pieces:
            losses.append(self._backward(piece, last=False))
            lengths.append(clip_gradients(self._weights, self.config.max_grad_norm))
            for part, weight in zip(total, self._weights):
                if weight.grad is not None:
                    part += weight.grad
            self.optimizer.zero_grad(set_to_none=True)
        for weight, part in zip(self._weights, total):
            weight.grad = self.accelerator.reduce(part / len(pieces), "mean")
        return torch.stack(losses).mean(), torch.stack(lengths).max()

    def _backward(self, piece: tuple[Tensor, ...], last: bool) -> Tensor:
        """Add one piece's gradient; with the last, average it over processes."""
        x_0, t, noise = piece
        # "each" takes the mean over pieces itself, after clipping.
        share = (
            1
            if self.config.clip == "each"
            else 1 / self.config.gradient_accumulation_steps
        )
        alone: AbstractContextManager[Any] = (
            nullcontext() if last else self.accelerator.no_sync(self._network)
        )
        with alone:
            with self._autocast():
                loss = simple_loss(
                    self._network,
                    x_0.contiguous(memory_format=self._layout),
                    self.noise_schedule,
                    t=t,
                    noise=noise,
                )
            self.scaler.scale(loss * share).backward()
        return loss.detach()

    def _autocast(self) -> torch.autocast:
        short = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(
            self.config.precision
        )
        return torch.autocast(self.device.type, short, enabled=short is not None)

    def sample(self, count: int) -> Tensor:
        """Draw pictures with the averaged weights, (count, C, H, W) on the CPU.

        Each process draws its part; all must call it. Picture i gets the noise of
        picture i of the configuration's seed, whatever the count and the number of
        processes, so one sheet can be compared with the next. The training's own random
        numbers are left alone.
        """
        part = -(-count // self.accelerator.num_processes)
        first = part * self.accelerator.process_index
        shape = self.images.shape[1:]
        with self._autocast():
            drawn = sample(
                self.ema.model,
                (part, *shape),
                self.noise_schedule,
                clip=True,
                generator=CounterNoise(self.config.seed, shape, first),
                dtype=torch.float32,
            )
        together: Tensor = self.accelerator.gather(drawn)
        return together[:count].cpu()

    def read(self, updates: list[TrainStep]) -> dict[str, Any]:
        """Return the mean of some updates as plain numbers; all processes must call it.

        Raises:
            FloatingPointError: if a loss is not finite.
        """
        losses = self.accelerator.reduce(torch.stack([u.loss for u in updates]), "mean")
        finite = losses.isfinite()
        if not finite.all():
            first = updates[int((~finite).nonzero()[0])].step
            raise FloatingPointError(
                f"images, config: expected a finite loss, got {losses[~finite][0]} at "
                f"step {first}. Nothing was saved since. Go on with a lower "
                "learning_rate or max_grad_norm, and with bf16 or float32 instead of fp16"
            )
        length = float(
            torch.stack(
                [u.grad_norm for u in updates if u.grad_norm is not None]
            ).mean()
        )
        return {
            "step": self.steps,
            "loss": float(losses.mean()),
            "learning_rate": updates[-1].learning_rate,
            # A step that fp16 skipped has no length; JSON has no infinity.
            "grad_norm": length if math.isfinite(length) else None,
        }

    def highest(self, *numbers: int) -> list[int]:
        """Return the highest of each number over all processes; all must call it."""
        if self.accelerator.num_processes == 1:
            return list(numbers)
        mine = torch.tensor([numbers], device=self.device)
        # Not `reduce` with "max": accelerate before 1.14 takes it for a sum.
        return self.accelerator.gather(mine).amax(0).tolist()

    def state_dict(self) -> dict[str, Any]:
        """Return everything that changes during a run; all processes must call it."""
        from accelerate.utils import gather_object

        return {
            "steps": self.steps,
            "model": self.model.state_dict(),
            "ema": self.ema.model.state_dict(),
            "ema_updates": self.ema.updates,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "generator": self._generator.get_state(),
            "order": self._order,
            "next": self._next,
            "dropout": gather_object([self._chance]),
            "device": self.device.type,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was called.

        On another kind of device the random numbers start anew, and with another number
        of processes dropout's do; all else is as it was.
        """
        self.steps = state["steps"]
        self.model.load_state_dict(state["model"])
        self.ema.model.load_state_dict(state["ema"])
        self.ema.updates = state["ema_updates"]
        self.optimizer.load_state_dict(state["optimizer"])
        for weight, memory in self.optimizer.state.items():
            for name in ("exp_avg", "exp_avg_sq"):
                # In the weight's layout, not the file's: fused Adam walks both in step.
                memory[name] = torch.empty_like(weight).copy_(memory[name])
        if state["scaler"]:  # empty if the run so far was not in fp16
            self.scaler.load_state_dict(state["scaler"])
        self._order, self._next = state["order"].to(self.device), state["next"]
        # Another kind of device has other random numbers, and another number of
        # processes other shares: then they start afresh, from a new place.
        process, fresh = self.accelerator.process_index, self.config.seed + self.steps
        same_kind = state["device"] == self.device.type
        if same_kind:
            self._generator.set_state(state["generator"].cpu())
        else:
            self._generator.manual_seed(fresh)
        if same_kind and len(state["dropout"]) == self.accelerator.num_processes:
            saved = state["dropout"][process]
            self._chance = {kind: part.cpu() for kind, part in saved.items()}
        else:
            self._chance = _seeded(fresh + 1 + process, self.device)


def _random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the state of torch's global random numbers, on the CPU and on a device."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def _set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    if "mps" in state:
        torch.mps.set_rng_state(state["mps"])


def _seeded(seed: int, device: torch.device) -> dict[str, Tensor]:
    """Return the state that `torch.manual_seed` gives, and leave the present one."""
    others = _random_state(device)
    torch.manual_seed(seed)
    state = _random_state(device)
    _set_random_state(others, device)
    return state


# %% [markdown]
# Does clipping each piece do what it should, and do the pieces add up? A batch of 32 in four pieces must give the gradient of the whole batch, and with `clip="each"` a shorter one. (The runs of this chapter are small, so they stay on the CPU, also where there is a GPU.)

# %% tags=["active-ipynb"]
# from sklearn.datasets import load_digits
#
# os.environ["ACCELERATE_USE_CPU"] = "true"  # before the first trainer of this session
# images = torch.tensor(load_digits().images / 8 - 1, dtype=torch.float32)[:, None]
# small = {
#     "channels": 16,
#     "channel_mult": (1, 2),
#     "num_res_blocks": 1,
#     "attention_levels": (False, True),
#     "norm_num_groups": 8,
#     "dropout": 0.0,
#     "schedule": "cosine",
#     "T": 500,
#     "flip": False,
#     "batch_size": 32,
#     "learning_rate": 2e-3,
#     "warmup_steps": 20,
#     "ema_decay": 0.99,
# }
#
#
# def first_gradient(**choice):
#     trainer = Trainer(TrainConfig(**small, **choice), images)
#     trainer.step()
#     return torch.cat([p.grad.flatten() for p in trainer.model.parameters()])
#
#
# whole = first_gradient(clip="none")
# print("length of the first gradient above 1:", bool(whole.norm() > 1))
# print(
#     "in pieces the same:",
#     torch.allclose(
#         whole, first_gradient(clip="none", gradient_accumulation_steps=4), atol=1e-4
#     ),
# )
# print(f"clip the mean: {first_gradient().norm():.3f}")
# print(
#     "clip each piece: at most 1:",
#     bool(first_gradient(clip="each", gradient_accumulation_steps=4).norm() < 1.0001),
# )

# %% [markdown]
# ## Checkpoints
#
# A machine goes down, a session in Colab ends, somebody needs the GPU. Then the run must go on from the last checkpoint *as if nothing had happened*. That is stricter than it sounds. A checkpoint that holds only the weights makes the loss jump at each resume: Adam has lost its memory, and the pictures are shuffled anew, so some are seen twice and some never. So everything goes in. On a CPU the run then goes on bit for bit. On a GPU all that changes in a run is in the checkpoint, too, but the same sums are not always taken in the same order there (torch's convolutions promise none), so the last digits differ, with or without a resume.
#
# Four more promises:
#
# - A checkpoint is either whole or not there. It is written to another name, pushed to the disk, and only then takes its own. A full disk or a power cut in between leaves the last one untouched.
# - The last two are kept. Disks fail, too.
# - A damaged file is noticed. Each part of the file carries a checksum, and all are verified before anything is used. It is refused by name; the one before it can take its place, and then a run repeats some steps but loses nothing.
# - Loading cannot run code. (Python's usual format, pickle, can hide a program in a file of weights.)

# %%
FORMAT = 1


def _before(path: Path) -> Path:
    """Return where the checkpoint before the one at `path` is kept."""
    return path.with_name(f"{path.stem}-before{path.suffix}")


def save_checkpoint(path: Path | str, trainer: Trainer) -> None:
    """Write everything that `load_checkpoint` needs; all processes must call it.

    What was there is kept beside it: `run.pt` becomes `run-before.pt`.

    Raises:
        FloatingPointError: if a weight is not finite. The last checkpoint stays.
        OSError: if the file cannot be written. The last checkpoint stays.
    """
    state = trainer.state_dict()
    tensors = {
        "model": trainer.model.parameters(),
        "ema": trainer.ema.model.parameters(),
        "optimizer": [m["exp_avg_sq"] for m in trainer.optimizer.state.values()],
    }
    for name, parts in tensors.items():
        finite = all(bool(part.isfinite().all()) for part in parts)
        if any(
            trainer.highest(not finite)
        ):  # or one would stop, and others wait for it
            raise FloatingPointError(
                f"trainer: expected finite numbers after step {trainer.steps}, got "
                f"others in its {name}; nothing was saved"
            )
    if not trainer.accelerator.is_main_process:
        return
    buffer = io.BytesIO()
    torch.save(
        {
            "format": FORMAT,
            "config": asdict(trainer.config),
            "pictures": trainer.fingerprint,
            "state": state,
        },
        buffer,
    )
    path = Path(path)
    write_whole(path, buffer.getvalue(), before=_before(path))


def load_checkpoint(path: Path | str, trainer: Trainer) -> None:
    """Let a trainer go on where `save_checkpoint` was called.

    The trainer is changed only after everything has been checked.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged (then it says whether the one before is
            there), of another version, or belongs to another configuration or other
            pictures; it says to which.
    """
    path, before = Path(path), _before(Path(path))
    if not path.exists():
        raise FileNotFoundError(
            f"path: expected a checkpoint, got {path}: no such file"
        )
    # What is refused here is not touched; it may be worth a look.
    instead = (
        f". The one before is there: move {path.name} away, rename {before.name} to "
        f"{path.name}, and the run goes on from there"
        if before.exists()
        else ""
    )
    try:
        with zipfile.ZipFile(path) as parts:
            if (part := parts.testzip()) is not None:
                raise zipfile.BadZipFile(f"its part {part}")
    except Exception as error:  # a damaged directory raises many kinds
        raise ValueError(
            f"path: expected a whole checkpoint, got {path}: damaged or cut off "
            f"({error}){instead}"
        ) from error
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        version, config = saved["format"], saved["config"]
        images, state = saved["pictures"], saved["state"]
        processes = len(state["dropout"])
    except Exception as error:  # torch raises many kinds; all mean the same here
        raise ValueError(
            f"path: expected a checkpoint of ddpm_nb, got {path}: something else"
            f"{instead}"
        ) from error
    if version != FORMAT:
        raise ValueError(
            f"path: expected a checkpoint of format {FORMAT}, got {version}: "
            f"{path} was written by another version of ddpm_nb"
        )
    try:
        config = asdict(TrainConfig.from_json(json.dumps(config)))
    except ValueError as error:
        raise ValueError(
            f"path: {path} holds another configuration: {error}"
        ) from error
    clipped = config["gradient_accumulation_steps"] * processes
    mine = asdict(trainer.config)
    for name, value in config.items():
        if name not in _MAY_CHANGE and mine[name] != value:
            raise ValueError(
                f"{name}: expected {value!r}, with which {path} was trained, "
                f"got {mine[name]!r}"
            )
    pieces = (
        trainer.config.gradient_accumulation_steps * trainer.accelerator.num_processes
    )
    if trainer.config.clip == "each" and pieces != clipped:
        raise ValueError(
            f"gradient_accumulation_steps: expected {clipped} over all processes, with which {path} was "
            f"trained (each is clipped by itself), got {pieces}"
        )
    if images != trainer.fingerprint:
        raise ValueError(
            f"images: expected those with which {path} was trained, got others (a "
            "folder is also read otherwise by another version of Pillow)"
        )
    trainer.load_state_dict(state)


# %% [markdown]
# The trained network itself is small compared with a checkpoint, and it is what one gives away. So it gets a file of its own: the averaged weights, with the configuration inside.

# %%
def save_network(
    path: Path | str,
    network: nn.Module,
    config: TrainConfig,
    *,
    height: int,
    width: int,
    **notes: str,
) -> None:
    """Write a network's weights, with the configuration that rebuilds it.

    Args:
        path: the file, by custom `*.safetensors`.
        network: a network that `config.network` has made; compiled or wrapped, too.
        config: that configuration.
        height: of the pictures that it was trained on.
        width: of these pictures.
        notes: what else should be known: how many grey `levels` they have, data,
            hardware, hours.

    Raises:
        OSError: if the file cannot be written; an older one stays as it was.
        TypeError: if the network is none.
        ValueError: if the configuration makes another network, which could not be
            loaded again.
    """
    from safetensors.torch import save

    if not isinstance(network, nn.Module):
        raise TypeError(f"network: expected a network, got {type(network)}")
    weights = _without_wrapper(network.state_dict())
    channels = len(weights["head.bias"]) if "head.bias" in weights else 3
    with torch.device("meta"):  # sizes alone
        expected = config.network(channels).state_dict()
    for name in sorted(weights.keys() | expected.keys()):
        got, right = (
            tuple(part[name].shape) if name in part else "none"
            for part in (weights, expected)
        )
        if got != right:
            raise ValueError(
                f"network: expected one that config makes, got {name} of shape {got}, "
                f"there it is {right}"
            )
    about = {
        **notes,
        "config": json.dumps(asdict(config)),
        "height": str(height),
        "width": str(width),
        "channels": str(channels),
        "prediction": "noise",
    }
    write_whole(Path(path), save(weights, metadata=about))


def _without_wrapper(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights without what torch.compile, DDP or AveragedModel add."""
    plain = {}
    for name, weight in weights.items():
        parts = [p for p in name.split(".") if p not in ("_orig_mod", "module")]
        if parts != ["n_averaged"]:
            plain[".".join(parts)] = weight.contiguous()
    return plain


def load_network(path: Path | str) -> tuple[UNet, Schedule, dict[str, str]]:
    """Return a trained network in eval mode, its schedule, and the notes in the file.

    The notes say on what it was trained: `height`, `width`, `channels` of the pictures,
    what it predicts (`prediction`: "noise") and, where known, `levels`, the number of
    grey levels. Files of older versions are read, too.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or was not written by `save_network`.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"path: expected a network, got {path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            about = dict(file.metadata() or {})
        weights = _without_wrapper(load_file(path))
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"path: expected a network, got {path}: damaged ({error})"
        ) from error
    if "config" not in about or "stem.weight" not in weights:
        raise ValueError(
            f"path: expected a file of save_network, got {path}: weights without a "
            "configuration"
        )
    try:
        config = TrainConfig.from_json(about.pop("config"))
    except ValueError as error:
        raise ValueError(
            f"path: {path} holds another configuration: {error}"
        ) from error
    channels = weights["stem.weight"].shape[1]
    network = config.network(channels)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"path: expected weights that fit their configuration, got {path}: {error}"
        ) from error
    if "height" not in about:  # the first version noted the width alone, as the size
        size = about.pop("size", "8" if channels == 1 else "32")
        about |= {"height": size, "width": size}
    about = {"channels": str(channels), "prediction": "noise"} | about
    return network.eval(), config.noise_schedule(), dict(sorted(about.items()))


# %% [markdown]
# ## The whole run
#
# `fit` puts it together. It starts a run, or goes on with the one that is in the folder: the same command does both. Beside the checkpoint it writes the averaged network, a log, and sheets of samples if asked for. Of several processes one writes; but *all* of them draw the samples, each a part of the sheet. (Where one draws alone, the others wait for it, and after some minutes they give up: a classic way to lose a run.)
#
# Somebody presses Ctrl-C, or the machine's owner takes it back (then a program gets the signal SIGTERM and has some seconds). Both are granted after the step at hand: `fit` saves, says so, and ends.

# %%
def fit(
    config: TrainConfig,
    images: Tensor,
    folder: Path | str,
    *,
    notes: dict[str, str] | None = None,
    progress: bool = True,
) -> Trainer:
    """Train, or go on training, until the budget of steps or minutes is spent.

    Ctrl-C and SIGTERM end it, too: it saves, says so, and then the signal takes its
    usual course. With several processes that is at the next step that is logged.

    The folder gets `config.json`, `checkpoint.pt` (all that is needed to go on) and the
    one before, `network.safetensors` (the averaged weights, with the steps, the minutes
    of all sessions, the hardware of the last one, the pictures' height, width and grey
    levels, and `notes`), `log.jsonl` (one line every
    `log_every` steps; its minutes, too, are those of all sessions), `samples/` and
    `tensorboard/` if asked for. With several processes, all must see it.

    Args:
        config: how to train.
        images: (N, C, H, W) uint8, or floating-point in [-1, 1].
        folder: where results go. A checkpoint there is taken up.
        notes: what should be known about the network later, such as the data's name.
        progress: show a bar.

    Returns:
        the trainer; sample with its `ema.model`.

    Raises:
        FloatingPointError: if the loss is not finite. The last checkpoint is from
            before.
        OSError: if something cannot be written.
        TypeError: if the pictures are no tensor, or neither uint8 nor floating-point.
        ValueError: if the checkpoint is damaged, or belongs to another run; if another
            run is at work in the folder; if the launcher asks for what is not done.
    """
    start, trainer = time.monotonic(), Trainer(config, images)
    writes = trainer.accelerator.is_main_process
    with _runs.claimed(Path(folder)) if writes else nullcontext():
        _run(trainer, Path(folder), start, notes or {}, progress)
    return trainer


def _run(
    trainer: Trainer, folder: Path, start: float, notes: dict[str, str], progress: bool
) -> None:
    """Take up what is in the folder, and train until the budget is spent."""
    config, accelerator = trainer.config, trainer.accelerator
    checkpoint = folder / "checkpoint.pt"
    before = _before(checkpoint)
    if checkpoint.exists():
        load_checkpoint(checkpoint, trainer)
    elif before.exists():  # killed when one had made way and the next was not yet there
        load_checkpoint(before, trainer)
    elif (folder / "network.safetensors").exists():
        raise ValueError(
            f"folder: expected a run with its checkpoint.pt, or none, got {folder} with "
            "a network and no checkpoint; nothing there was changed"
        )
    most, least = trainer.highest(trainer.steps, -trainer.steps)
    if most != -least:
        raise ValueError(
            f"folder: expected one that all processes see, got {folder}: some found a "
            f"checkpoint of step {-least}, others of step {most}"
        )
    log = _Log(folder, config, trainer.steps) if accelerator.is_main_process else None
    levels = grey_levels(trainer.images) if log is not None else None

    def keep(minutes: float) -> None:
        about = {
            "steps": str(trainer.steps),
            "minutes": f"{minutes:.1f}",
            "hardware": _hardware(trainer.device, accelerator.num_processes),
            **({"levels": str(levels)} if levels else {}),
            **notes,
        }
        height, width = trainer.images.shape[-2:]
        save_network(
            folder / "network.safetensors",
            trainer.ema.model,
            config,
            height=height,
            width=width,
            **about,
        )

    if log is not None and trainer.steps:
        keep(log.minutes)  # the last session may have been killed after its checkpoint
    limit, patience = (
        math.inf if given is None else given
        for given in (config.max_minutes, config.save_minutes)
    )
    bar = tqdm(
        total=config.steps,
        initial=trainer.steps,
        disable=None if log is not None and progress else True,  # None: in terminals
        unit="step",
    )
    recent: list[TrainStep] = []
    over, due, saved = limit <= 0, False, (time.monotonic() - start) / 60
    with _runs.StopSignals(alone=accelerator.num_processes == 1) as stop:
        with bar:
            while trainer.steps < config.steps and not over:
                recent.append(trainer.step())
                step, minutes = trainer.steps, (time.monotonic() - start) / 60
                bar.update()
                # Processes must stop together; asking each other at every step would cost.
                if accelerator.num_processes == 1 or step % config.log_every == 0:
                    late, old, asked = trainer.highest(
                        minutes >= limit, minutes - saved >= patience, stop.received
                    )
                    over, due = bool(late or asked), bool(old)
                    if asked:
                        stop.received = asked
                saves = (
                    step % config.save_every == 0 or step == config.steps or over or due
                )
                if saves or step % config.log_every == 0:
                    line = trainer.read(recent)
                    recent = []
                    bar.set_postfix(loss=f"{line['loss']:.4f}")
                    if log is not None:
                        log.line(line | {"minutes": round(log.minutes + minutes, 3)})
                # Samples first: what a checkpoint has passed is never done again.
                if config.sample_every and step % config.sample_every == 0:
                    drawn = trainer.sample(config.samples)
                    if log is not None:
                        log.sheet(step, drawn)
                if saves:
                    save_checkpoint(checkpoint, trainer)
                    saved, due = minutes, False
                    if log is not None:
                        keep(log.minutes + minutes)
        if log is not None:
            log.close()
            if stop.received:
                print(
                    f"{stop.name}: stopped after step {trainer.steps}, which is saved in "
                    f"{folder}; the same call goes on from there",
                    file=sys.stderr,
                )
        accelerator.wait_for_everyone()  # a process that ends takes others with it


class _Log:
    """What a run writes for its reader, by the one process that writes."""

    def __init__(self, folder: Path, config: TrainConfig, steps: int) -> None:
        self.folder, self.path = folder, folder / "log.jsonl"
        # A killed run may leave the part of a file, and lines beyond its checkpoint.
        for name in (
            "config.json",
            "checkpoint.pt",
            "network.safetensors",
            "log.jsonl",
        ):
            (folder / f"{name}.part").unlink(missing_ok=True)
        for part in (folder / "samples").glob("*.png.part"):
            part.unlink()
        text = json.dumps(asdict(config), indent=1)
        write_whole(folder / "config.json", text.encode())
        old = self.path.read_text().splitlines() if self.path.exists() else []
        kept = [line for line in old if _step_of(line) <= steps]
        # How long the earlier sessions took, together.
        self.minutes: float = json.loads(kept[-1]).get("minutes", 0.0) if kept else 0.0
        write_whole(self.path, "".join(line + "\n" for line in kept).encode())
        self.writer: Any = None
        if config.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(folder / "tensorboard", purge_step=steps + 1)

    def line(self, values: dict[str, Any]) -> None:
        size = self.path.stat().st_size
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(values) + "\n")
        except OSError as error:
            os.truncate(self.path, size)
            raise OSError(
                error.errno,
                f"folder: cannot write {self.path} ({error.strerror}); the last "
                "checkpoint is whole",
            ) from error
        if self.writer is not None:
            for name in ("loss", "learning_rate", "grad_norm"):
                if values[name] is not None:
                    self.writer.add_scalar(name, values[name], values["step"])
            self.writer.flush()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()

    def sheet(self, step: int, images: Tensor) -> None:
        (self.folder / "samples").mkdir(exist_ok=True)
        save_image_grid(self.folder / "samples" / f"{step:08}.png", images)
        if self.writer is not None:
            self.writer.add_images("samples", (images.clamp(-1, 1) + 1) / 2, step)


def _hardware(device: torch.device, processes: int) -> str:
    if device.type == "cuda":
        return f"{processes} x {torch.cuda.get_device_name(device)}"
    cores = f"{processes} x {torch.get_num_threads()} threads"
    return f"{device.type} ({platform.machine()}), {cores}"


def _step_of(line: str) -> float:
    """Return a log line's step; infinity for one that was cut off."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")

# %% [markdown]
# A run of 20 steps, and the same in two parts: 10 steps; then a new trainer, which goes on to 20. Are the results equal, bit for bit? (This is on a CPU.)

# %% tags=["active-ipynb"]
# import tempfile
#
# workshop = Path(tempfile.mkdtemp())
# # 20 % dropout: its random numbers must go on, too
# plan = {**small, "dropout": 0.2, "save_every": 5, "log_every": 5}
# straight = fit(
#     TrainConfig(**plan, steps=20), images, workshop / "straight", progress=False
# )
# fit(TrainConfig(**plan, steps=10), images, workshop / "parts", progress=False)
# resumed = fit(TrainConfig(**plan, steps=20), images, workshop / "parts", progress=False)
#
#
# def equal(a, b):
#     return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters()))
#
#
# def logged(folder):
#     return [json.loads(line)["loss"] for line in (folder / "log.jsonl").open()]
#
#
# print("weights equal:", equal(straight.model, resumed.model))
# print("averages equal:", equal(straight.ema.model, resumed.ema.model))
# print("losses equal:", logged(workshop / "straight") == logged(workshop / "parts"))
# print("in the folder:", *sorted(p.name for p in (workshop / "parts").glob("[!.]*")))

# %% [markdown]
# ## Your own pictures
#
# A folder of pictures in any usual format (8 bits a channel) and of any size will do. Each is cut to the shape that you ask for, a square if you name one number (`size=32`) and oblong if two (`size=(32, 48)`, height and width), and scaled. The network halves the size three times, so 32 pixels, or any other multiple of 8, fit the paper's network. `load_folder` reads them. Here is such a folder: 300 discs and squares, each of another size, place and colour. A small network learns them for a short while, in bf16.

# %% mystnb={"image": {"alt": "Two rows of eight small colour pictures. Upper row, the data: a disc or a square in one colour on a ground of another. Lower row, drawn after a short training: mottled patches of colour; here and there a spot, most without a clear shape.", "classes": "photo"}} tags=["active-ipynb", "nbval-ignore-output"]
# from PIL import Image, ImageDraw
#
# shapes = workshop / "shapes"
# shapes.mkdir(exist_ok=True)
# for i in range(300):
#     side = 48  # load_folder scales
#     ground, ink = torch.randint(0, 256, (2, 3), generator=generator).tolist()
#     x, y, r = torch.randint(12, 30, (3,), generator=generator).tolist()
#     image = Image.new("RGB", (side, side), tuple(ground))
#     box = (x - r // 2, y - r // 2, x + r // 2, y + r // 2)
#     draw = ImageDraw.Draw(image)
#     (draw.ellipse if i % 2 else draw.rectangle)(box, fill=tuple(ink))
#     image.save(shapes / f"{i:03}.png")
#
# own = load_folder(shapes, size=16)
# choice = {**small, "flip": True, "precision": "bf16", "steps": 300, "save_every": 300}
# start = time.perf_counter()
# run = fit(TrainConfig(**choice), own, workshop / "own", progress=False)
# print(f"{run.steps} steps in {time.perf_counter() - start:.0f} s")
# drawn = run.sample(8)
# rows = [to_float(own[:8]), drawn]
# figure = fig.picture_rows(rows, ["", ""], [""] * 8, size=0.7)
# figure.set_facecolor("none")
# plt.show()
# losses = logged(workshop / "own")
# assert losses[-1] < losses[0] / 2 and drawn.shape == (8, 3, 16, 16)

# %% [markdown]
# Above: eight pictures of the folder. Below: eight that were drawn. That is far too short a training for good ones. It shows that all parts work together, and the same call with `steps=100_000` is the real thing. On the command line:
#
# ```
# ddpm-nb train --data path/to/pictures --size 32 --out runs/mine --precision bf16
# accelerate launch -m ddpm_nb train --data cifar10 --out runs/cifar10
# ```
#
# The second line uses all GPUs of the machine. On several machines, `accelerate config` asks for their addresses once.

# %% [markdown]
# ## Does the average help?
#
# Train the small network on the digits for a while, five times from five seeds, and each time ask both networks, today's weights and their average, the same 1,797 questions: each digit once, with one time and one noise.

# %% mystnb={"image": {"alt": "By how many per cent the error of today's weights is above that of their average, against the step, from 1 to 160 on a logarithmic axis: five thin lines, close together. They begin at 0, fall to about minus 9 at step 20, rise through 0 about step 40, and reach 2 to 4 at step 160."}} tags=["active-ipynb", "nbval-ignore-output"]
# import statistics
#
# from ddpm_nb.forward import q_sample
#
# SEEDS, MARKS = 5, (1, 5, 10, 20, 40, 80, 160)
# draws = torch.Generator().manual_seed(1)
# ask_t = torch.randint(1, 501, (len(images),), generator=draws)
# ask_noise = torch.randn(images.shape, generator=draws)
# table = TrainConfig(**small).noise_schedule()
# questions = q_sample(images, ask_t, ask_noise, table)
#
#
# @torch.no_grad()
# def score(network):
#     """The error of a network on the CPU, where the questions are."""
#     return float((network(questions, ask_t) - ask_noise).square().mean())
#
#
# def interval(values):
#     """A mean and its 95 % interval, for five values (Student's t, 4 degrees)."""
#     return statistics.mean(values), 2.776 * statistics.stdev(values) / SEEDS**0.5
#
#
# now, averaged = torch.zeros(2, SEEDS, len(MARKS))
# for seed in range(SEEDS):
#     trainer = Trainer(TrainConfig(**small, seed=seed), images)
#     for k in range(1, MARKS[-1] + 1):
#         trainer.step()
#         if k in MARKS:
#             now[seed, MARKS.index(k)] = score(trainer.model)
#             averaged[seed, MARKS.index(k)] = score(trainer.ema.model)
#
# gain = 100 * (now / averaged - 1)
# figure, ax = plt.subplots(figsize=(5.2, 2.4))
# ax.axhline(0, color=fig.GREY, linewidth=0.8)
# ax.semilogx(MARKS, gain.T, ".-", color=fig.BLUE, linewidth=0.8)
# ax.set(xlabel="step", ylabel="gain by the average (%)")
# plt.show()
# for k in (20, 160):
#     mean, half = interval(gain[:, MARKS.index(k)].tolist())
#     print(f"step {k}: today's error above the average's by {mean:.1f} ± {half:.1f} %")
# assert (averaged < now)[:, MARKS.index(160)].all()
# assert (averaged > now)[:, MARKS.index(20)].all()

# %% [markdown]
# It does. After 160 steps the average was the better one in all five runs. Only in the first updates, while the weights travel fast, it lags behind; at step 20 it was the worse one in all five. The intervals (95 %, over the five seeds) are narrow beside both differences.
#
# Half precision, too: the loss of this trained network in bf16, beside float32.

# %% tags=["active-ipynb"]
# with torch.autocast("cpu", torch.bfloat16):
#     short = score(trainer.ema.model)
# long = score(trainer.ema.model)
# print("bf16 within 2 % of float32:", abs(short / long - 1) < 0.02)

# %% [markdown]
# ## Where people slip
#
# **Sampling with the trained weights instead of their average.** The pictures look worse for no visible reason. The authors published both sets of weights. Carried over to PyTorch ([pytorch_diffusion](https://github.com/pesser/pytorch_diffusion), its table of results), they have a Fréchet distance to the training data of 12.14 without the average and 3.21 with it. (The distance is explained in [the evaluation](evaluation.ipynb); smaller is better. That table's column "EMA" has yes and no the wrong way round; its text and the models' names tell which is which.)
#
# **An average that also averages buffers.** A buffer is a table that a model carries along and does not learn. A noise schedule kept as a buffer would be averaged with itself, and in half precision it drifts. Here buffers are copied.
#
# **A loss that jumps after a resume.** Leave Adam's memory out of the checkpoint, and see. Five seeds again, and each run goes on from the same state in both ways:

# %% tags=["active-ipynb", "nbval-ignore-output"]
# def jump(seed):
#     trainer = Trainer(TrainConfig(**{**small, "warmup_steps": 0, "seed": seed}), images)
#     for _ in range(80):
#         trainer.step()
#     state, losses = copy.deepcopy(trainer.state_dict()), []
#     for memory in (state["optimizer"], state["optimizer"] | {"state": {}}):
#         trainer.load_state_dict(copy.deepcopy(state))
#         trainer.optimizer.load_state_dict(copy.deepcopy(memory))
#         losses.append(sum(float(trainer.step().loss) for _ in range(5)))
#     return losses[1] / losses[0] - 1
#
#
# jumps = [jump(seed) for seed in range(SEEDS)]
# mean, half = interval(jumps)
# print(f"without Adam's memory the next five losses rise by {mean:.0%} ± {half:.0%}")
# assert min(jumps) > 0.05

# %% [markdown]
# **Pictures left in [0, 1].** The noise has mean 0, so the network expects pictures around 0. `to_float` maps bytes to $[-1,1]$; a floating-point picture outside is refused:

# %% tags=["active-ipynb"]
# try:
#     Trainer(TrainConfig(**small), images * 8)
# except ValueError as error:
#     print(error)

# %% [markdown]
# **Going on with another configuration.** The weights of another $T$ load without a complaint, and the samples are noise. Here the checkpoint remembers:

# %% tags=["active-ipynb"]
# try:
#     fit(
#         TrainConfig(**{**plan, "T": 1000}, steps=30),
#         images,
#         workshop / "parts",
#         progress=False,
#     )
# except ValueError as error:
#     print(str(error).replace(str(workshop), "..."))

# %% [markdown]
# ## Exercises
#
# **1.** How many updates old may weights be, roughly, and still count in the average, at $k = 100$ and at $k = 10{,}000$? When does $d = 0.9999$ take over?
#
# <details><summary>Solution</summary>
#
# Weights that are $1/(1-d_k) = (k+8)/9$ updates old still count about $1/e$: 12 at $k = 100$, and 1,112 at $k = 10{,}000$. The constant takes over where $(k+8)/9 = 10{,}000$, at $k = 89{,}992$.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 1
# for k in (100, 10_000, 89_992):
#     d = min(0.9999, (k - 1) / (k + 8))
#     print(f"k = {k:6}: reaches back {1 / (1 - d):.0f} updates")

# %% [markdown]
# **2.** Adam moves a weight by $\eta\,\hat m/\sqrt{\hat v}$, where $\hat m$ and $\hat v$ are running means of the gradient and of its square. How far does the very first update with a rate $\eta > 0$ move each weight, if there is no warm-up? What does that mean for a weight whose gradient is nearly 0?
#
# <details><summary>Solution</summary>
#
# After one gradient $g$, $\hat m = g$ and $\hat v = g^2$. So every weight moves by $\eta$, up or down, however small its gradient is. A weight that hardly matters is moved as far as the most important one. Warm-up makes these blind steps short.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 2
# weight = nn.Parameter(torch.zeros(3))
# adam = torch.optim.Adam([weight], lr=0.1)
# weight.grad = torch.tensor([1e-4, 1.0, -100.0])
# adam.step()
# print(weight.detach())

# %% [markdown]
# **3.** How much memory do weights, gradients, Adam's two means and the average take for the 35.7 million weights of the CIFAR-10 network in float32? And its checkpoint?
#
# <details><summary>Solution</summary>
#
# Five numbers of 4 bytes for each weight: $5\cdot 4\cdot 35.7$ million bytes, 715 MB. A checkpoint holds no gradients: 572 MB. (What a batch needs on its way through the network comes on top, and is more.)
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 3
# count = sum(p.numel() for p in UNet.cifar10().parameters())
# print(
#     f"{5 * 4 * count / 1e6:.0f} MB in training, {4 * 4 * count / 1e6:.0f} MB in a checkpoint"
# )

# %% tags=["active-ipynb", "hide-cell"]
# # Leave nothing behind.
# import shutil
#
# shutil.rmtree(workshop)

# %% [markdown]
# ## Summary
#
# Algorithm 1 stays as it is. Around it: an average of the weights, with which one samples; a learning rate that grows from 0; gradients of bounded length; mirrored pictures; short numbers where they are safe; and checkpoints that hold everything, so that a run goes on as if nothing had happened.
#
# **The next question.** A trained network is asked a thousand times for one picture. Are fewer steps enough? See [fewer steps](fewer_steps.ipynb).
