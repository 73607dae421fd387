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
# ![The chain with a handwritten 9, x_0, and the noisy x_t lit. In place of the arrow back from x_t stands the box of the network, ε_θ, and an arrow loops under it from its output to its input: the gradient step.](images/chain-training.svg)
#
# What keeps this loop going for days?
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
import json
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ddpm_nb import _devices, _runs
from ddpm_nb._data import fingerprint, to_float, training_set
from ddpm_nb._noise import CounterNoise
from ddpm_nb._options import Options, option, setting
from ddpm_nb.algorithms import TrainStep, sample
from ddpm_nb.forward import Schedule
from ddpm_nb.loss import simple_loss
from ddpm_nb.unet import UNet


# %% [markdown]
# ## An average of the weights: EMA
#
# Each gradient step is computed from a few pictures, a few times $t$ and one draw of noise for each. So the step points only roughly where it should. Late in training the weights stop drifting and fluctuate around a good point. The mean of many fluctuating points is nearer to it than any one of them.
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
# How much does the average fluctuate? Suppose the weights fluctuate independently from update to update, each with variance $s^2$. The variance of a sum of independent terms is the sum of their variances, each with its factor squared. For large $k$ what remains is a geometric series:
#
# $$
# \operatorname{Var}(\bar\theta_k) \;\to\; (1-d)^2\, s^2 \sum_{i=0}^{\infty} d^{\,2i} = \frac{(1-d)^2}{1-d^2}\,s^2 = \frac{1-d}{1+d}\; s^2 .
# $$ (eq-ema-variance)
#
# With $d = 0.9999$ the variance falls by a factor of about 20,000. (Real weights are correlated from one update to the next, so they gain less.)
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
# A simulation: the "weights" are 2,000 numbers that start at 5, drift to 0 and then fluctuate there with variance 1.

# %% mystnb={"image": {"alt": "Curves over 3,000 updates. Grey dots, one weight, come down from 5 to 0 at once and then fill the range from about minus 3 to 3. Its averages with d = 0.9 and 0.999 follow quickly; the first goes on fluctuating visibly, the second is almost a line at 0. A dashed line, the average with a constant 0.999 from the start, comes down slowly and is still near 2 after 1,000 updates."}} tags=["active-ipynb"]
# import matplotlib.pyplot as plt
#
# from ddpm_nb import _figures as fig
#
# fig.use_style()
# generator = torch.Generator().manual_seed(0)
# UPDATES, COPIES = 3000, 2000
#
#
# def drifting(k):
#     """Weights that have come to 0 after about 100 updates, but for the noise."""
#     return 5 * 0.97**k + torch.randn(COPIES, generator=generator)
#
#
# weights = nn.Linear(COPIES, 1, bias=False)
# averages = {decay: EMA(weights, decay) for decay in (0.9, 0.99, 0.999)}
# raw, smooth, constant = [], {decay: [] for decay in averages}, [5.0]
# for k in range(UPDATES):
#     weights.weight.data[0] = drifting(k)
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
# figure, ax = plt.subplots(figsize=(5.2, 3))
# ax.plot(range(0, UPDATES, 6), raw[::6], ".", color=fig.GREY, markersize=2)
# ax.plot(range(0, UPDATES, 6), constant[1::6], "--", color=fig.BLUE, linewidth=1)
# ax.text(800, 2.5, "0.999 from the start", color=fig.BLUE)
# for decay, place, color in ((0.9, 100, fig.ORANGE), (0.999, 700, fig.BLUE)):
#     ax.plot(range(0, UPDATES, 6), smooth[decay][::6], color=color)
#     ax.text(place, -3.7, f"d = {decay}", color=color)
# ax.set(xlabel="update", ylabel="one weight", ylim=(-4, 6))
# plt.show()

# %% [markdown]
# **Figure.** One weight (dots) and its averages. With $d = 0.9$ the average still fluctuates; with $d = 0.999$ it is nearly a line at 0. Begun with a constant 0.999 (dashed), it is late by more than a thousand updates.
#
# The averages come down with the weights, and the longer their memory, the less they fluctuate. The dashed line shows what the growing decay is good for.
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
# There is a subtlety that nearly every port of that code has lost. They trained on 8 devices, 16 pictures on each, and **each** device clipped its own gradient **before** the eight were averaged. Everybody else clips the mean. The two are not the same: when one of 8 devices has a huge gradient, clipping each bounds its share of the mean to $c/8$. Clipping the mean lets it set the direction of the whole step. `fit` offers both, and clips the mean unless told otherwise.

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
# def clip(g):
#     """Many gradients (..., 50) at once, each clipped to length 1."""
#     return g / g.norm(dim=-1, keepdim=True).clamp(min=1)
#
#
# parts = 0.12 + 0.05 * torch.randn(500, 8, 50, generator=generator)
# parts[:, 0] = 100 * torch.randn(500, 50, generator=generator) / 50**0.5
# good = parts[:, 1:].mean(1)
# for name, g in (("the mean", clip(parts.mean(1))), ("each", clip(parts).mean(1))):
#     angles = torch.cosine_similarity(g, good).acos().rad2deg()
#     low, high = angles.quantile(torch.tensor([0.025, 0.975]))
#     print(f"clip {name}: 95 % of the angles within {low:.0f} ... {high:.0f} degrees")

# %% [markdown]
# ## Mirror images
#
# A horse that looks to the left could as well look to the right. So each time a picture is drawn, it is mirrored left to right with probability 1/2: twice the data, for nothing. Digits and letters must not be mirrored, and neither should anything else whose sides mean something.
#
# ## Half precision
#
# Most of the time goes into multiplying matrices, and hardware multiplies numbers of 16 bits faster than those of 32. There are two such formats. They spend their bits differently:
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
# So **mixed precision** is used: weights, their average and the optimizer's state stay in float32; only convolutions and matrix products get copies of 16 bits (torch calls it *autocast*).
#
# With bf16 that is all. With fp16 there is one more danger: gradients are small, and below its smallest normal number fp16 goes on in steps of $6\cdot10^{-8}$: what is less than half a step becomes 0. The cure is to multiply the loss by a large number before the gradients are computed, and to divide them by it afterwards. When something overflows, that step is skipped and the number is halved (torch calls it a *GradScaler*). A T4 has fast fp16 and no fast bf16; newer GPUs and CPUs have bf16, and then it is the better choice.
#
# `precision="auto"` lets the device decide: some updates in each format, and in both orders in which a picture's numbers can lie in memory. The most exact way stays unless another is at least 1.1 times as fast. A run that goes on keeps what its first session has found.

# %% tags=["active-ipynb"]
# tiny = torch.tensor(1e-8)
# print("1e-8 in fp16:", float(tiny.half()))
# print("scaled by 65536, and back:", f"{float((tiny * 65536).half()) / 65536:.2e}")

# %% [markdown]
# ## All choices in one place
#
# A run is described by one record. Its defaults are the paper's for CIFAR-10. It is written next to every result, so nobody has to remember how a picture was made.
#
# Each choice is one line: its default, its meaning and, where it has them, its bounds. The command line, the checks and a run that goes on all ask this line. So a new choice is a line here, and the code that does what it says. An `option` decides what is learned. A `setting` does not, or only makes the steps calmer: a run may go on with another one.
#
# First the network.

# %%
@dataclass(frozen=True, kw_only=True)
class NetworkOptions(Options):
    """Which network is trained."""

    channels: int = option(128, "the network's channels at full size")
    channel_mult: tuple[int, ...] = option(
        (1, 2, 2, 2), "for each size, from full size down: its channels over `channels`"
    )
    num_res_blocks: int = option(2, "residual blocks at each size on the way down")
    attention_levels: tuple[bool, ...] = option(
        (False, True, False, False), "for each size: attention after its blocks"
    )
    dropout: float = option(0.1, "share of numbers dropped in a block", low=0, below=1)
    norm_num_groups: int = option(32, "groups of the normalisations")

    def network(self, in_channels: int, num_classes: int = 0) -> UNet:
        """Return a fresh network for pictures with so many channels and labels."""
        names = [choice.name for choice in fields(NetworkOptions)]
        chosen = {name: getattr(self, name) for name in names}
        return UNet(in_channels=in_channels, num_classes=num_classes, **chosen)


# %% [markdown]
# Then the recipe of the sections above.

# %%
@dataclass(frozen=True, kw_only=True)
class RecipeOptions(NetworkOptions):
    """What the network learns, and by which steps."""

    schedule: Literal["linear", "cosine"] = option("linear", "the noise schedule")
    T: int = option(1000, "number of noise steps", low=1)
    batch_size: int = option(128, "pictures an update, all processes together", low=1)
    learning_rate: float = setting(2e-4, "Adam's rate after warm-up", above=0)
    warmup_steps: int = option(5000, "updates in which that rate grows from 0", low=0)
    clip: Literal["mean", "each", "none"] = option(
        "mean", "clip the mean gradient, that of each accumulation step, or none"
    )
    max_grad_norm: float = setting(1.0, "the gradient's greatest norm", above=0)
    flip: bool = option(True, "mirror each picture with probability 1/2")
    ema_decay: float = option(0.9999, "the average's decay", low=0, below=1)
    seed: int = option(0, "where all randomness starts", low=0, below=2**63)

    def noise_schedule(self) -> Schedule:
        """Return the noise schedule."""
        kind = Schedule.linear if self.schedule == "linear" else Schedule.cosine
        return kind(self.T)


# %% [markdown]
# And how long it runs, on which machine, and what is written beside the result.

# %%
@dataclass(frozen=True, kw_only=True)
class TrainConfig(RecipeOptions):
    """Everything that decides how a run goes, but for the pictures.

    Each field carries its meaning (`ddpm-nb train --help` prints them all).

    Raises:
        ValueError: if a value makes no sense, or two of them do not fit together.

    Paper: appendix B.
    """

    steps: int = setting(800_000, "stop after so many updates, all sessions", low=0)
    max_minutes: float | None = setting(None, "stop this session after them", low=0)
    precision: Literal["float32", "bf16", "fp16", "auto"] = setting(
        "float32", "type of convolutions and matrix products; auto: what is fastest"
    )
    gradient_accumulation_steps: int = setting(
        1, "parts, one after the other, of a process's share of a batch", low=1
    )
    channels_last: bool = setting(True, "keep channels innermost in memory")
    compile: bool = setting(False, "compile the network first (takes minutes)")
    log_every: int = setting(50, "updates between two lines of the log", low=1)
    save_every: int = setting(1000, "updates between two checkpoints", low=1)
    save_minutes: float | None = setting(
        10.0, "save sooner, when the last checkpoint is so many minutes old", low=0
    )
    sample_every: int = setting(0, "updates between two sheets; 0 for none", low=0)
    samples: int = setting(16, "pictures on a sheet of samples", low=1)
    log_with: _runs.Tracker = setting("none", "where else to write the curves")

    def __post_init__(self) -> None:
        super().__post_init__()
        _runs.check_together(self)


# %% [markdown]
# ## One update
#
# Read it beside Algorithm 1: draw pictures, times and noise; ask the network; take the gradient; step. First the draw.
#
# **Several processes.** With `accelerate launch`, the same program runs once for each GPU, on one machine or on many. All processes start from the same seed, so all draw the *same* joint batch, the same times and the same noise. Then each works on its own share, and their gradients are averaged. So the result does not depend on how many there are (but for rounding, and for dropout, which each draws for itself). They must be of one kind, because GPUs of different kinds draw different random numbers from one seed.
#
# **The data set lives on the device.** CIFAR-10's 50,000 training pictures take 154 MB as bytes. A batch is then one indexing operation, and no worker processes are needed.

# %%
class Batches:
    """Joint batches, of which each process takes its share.

    Args:
        images: (N, C, H, W) the training set, on the device.
        config: how to train.
        accelerator: accelerate's, which knows the processes.
    """

    def __init__(self, images: Tensor, config: TrainConfig, accelerator: Any) -> None:
        share = config.batch_size // accelerator.num_processes
        first = share * accelerator.process_index
        self.images, self.config = images, config
        self.mine = slice(first, first + share)
        self.generator = torch.Generator(images.device).manual_seed(config.seed)
        self.order, self.next = torch.empty(0, dtype=torch.int64), 0

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """Draw the next batch; return this process's pictures x_0, times, noise."""
        size, mine = self.config.batch_size, self.mine
        source: Any = {"generator": self.generator, "device": self.images.device}
        if self.next + size > len(self.order):  # all have had their turn: shuffle
            self.order, self.next = torch.randperm(len(self.images), **source), 0
        chosen = self.order[self.next : self.next + size][mine]
        self.next += size
        flip = torch.rand(size, 1, 1, 1, **source)[mine] < 0.5
        t = torch.randint(1, self.config.T + 1, (size,), **source)[mine]
        noise = torch.randn(size, *self.images.shape[1:], **source)[mine]
        x_0 = to_float(self.images[chosen])
        return torch.where(flip & self.config.flip, x_0.flip(-1), x_0), t, noise


# %% [markdown]
# `Learner` holds what an update changes: weights, their average, Adam's state and the scaler. Its method `step` does one update.
#
# **Its own random numbers.** Dropout, and the network's first weights, draw from torch's global random numbers; torch offers no other way. So each learner keeps a state of its own, puts it in place for its step, and puts back what was there. Two that take turns learn what each would learn alone.
#
# **Accumulation.** Where the batch does not fit into memory, its parts go through the network one after the other, and their gradients add up. Each part's loss counts by its share. Only with the last part do the processes exchange gradients. To clip each part's gradient by itself, they must be kept apart until they are clipped.

# %%
class Learner:
    """A network and what one update changes; `step` does the update.

    All its randomness begins at the configuration's seed. torch's global random numbers
    are left as they are.

    Args:
        config: how to train.
        images: (N, C, H, W) uint8, or floating-point in [-1, 1].
    """

    def __init__(self, config: TrainConfig, images: Tensor) -> None:
        if config.precision == "auto":
            config = _runs.fastest(config, images, Learner)
        self.config, self.accelerator = config, _runs.accelerator(config)
        self.device, self.steps = self.accelerator.device, 0
        self.images = training_set(images, config).to(self.device)
        self.fingerprint = fingerprint(images)
        self.batches = Batches(self.images, config, self.accelerator)
        self.noise_schedule = config.noise_schedule().to(self.device)
        _runs.warn_of_choices(self)

        with _runs.OwnChance(config.seed, self.device):
            self.model = config.network(images.shape[1]).to(self.device)
        self._layout = _runs.layout(self.model, config.channels_last)
        self.ema = EMA(self.model, config.ema_decay)
        self.optimizer = torch.optim.Adam(self.model.parameters(), fused=True)
        fp16 = config.precision == "fp16"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=fp16)
        # As it is called: perhaps compiled, and averaging gradients over processes.
        network: nn.Module = self.model
        if config.compile:
            parts = self.accelerator.num_processes * config.gradient_accumulation_steps
            # A graph writes gradients to the same places each time: none may wait there.
            network = _devices.compiled(network, self.device, graph=parts == 1)
        self._network = self.accelerator.prepare_model(network)
        # Each process has a dropout of its own.
        own = config.seed + 1 + self.accelerator.process_index
        self.chance = _runs.OwnChance(own, self.device)

    def step(self) -> TrainStep:
        """Do one update and return its record."""
        config = self.config
        rate = learning_rate(self.steps, config.learning_rate, config.warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with self.chance:
            loss, norm = self._gradient()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.ema.update(self.model)
        self.steps += 1
        return TrainStep(self.steps, loss, rate, norm)

    def _gradient(self) -> tuple[Tensor, Tensor]:
        """Leave the batch's clipped gradient in the weights; return loss and length."""
        self.optimizer.zero_grad(set_to_none=True)
        count = self.config.gradient_accumulation_steps
        parts = list(zip(*(drawn.chunk(count) for drawn in self.batches.draw())))
        if self.config.clip == "each":
            return self._mean_of_clipped(parts)
        losses = [
            self._backward(part, share=1 / count, last=part is parts[-1])
            for part in parts
        ]
        self.scaler.unscale_(self.optimizer)
        longest = self.config.max_grad_norm if self.config.clip == "mean" else math.inf
        norm = clip_gradients(list(self.model.parameters()), longest)
        return torch.stack(losses).mean(), norm

    def _mean_of_clipped(
        self, parts: list[tuple[Tensor, ...]]
    ) -> tuple[Tensor, Tensor]:
        """Clip each part's gradient, and only then take the mean."""
        losses, norms, weights = [], [], list(self.model.parameters())
        total = [torch.zeros_like(weight) for weight in weights]
        for part in parts:
            losses.append(self._backward(part, share=1, last=False))
            norms.append(clip_gradients(weights, self.config.max_grad_norm))
            for so_far, weight in zip(total, weights):
                if weight.grad is not None:
                    so_far += weight.grad
            self.optimizer.zero_grad(set_to_none=True)
        for so_far, weight in zip(total, weights):
            weight.grad = self.accelerator.reduce(so_far / len(parts), "mean")
        return torch.stack(losses).mean(), torch.stack(norms).max()

    def _backward(self, part: tuple[Tensor, ...], share: float, last: bool) -> Tensor:
        """Add a part's gradient; with the last, average the sum over processes."""
        together = nullcontext() if last else self.accelerator.no_sync(self._network)
        x_0, t, noise = part
        x_0 = x_0.contiguous(memory_format=self._layout)
        with together:
            with self._autocast():
                loss = simple_loss(
                    self._network, x_0, self.noise_schedule, t=t, noise=noise
                )
            self.scaler.scale(loss * share).backward()
        return loss.detach()

    def _autocast(self) -> torch.autocast:
        short = {"bf16": torch.bfloat16, "fp16": torch.float16}
        dtype = short.get(self.config.precision)
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)


# %% [markdown]
# Do the parts add up, and does clipping each do what it should? A batch of 32 in four accumulation steps must give the gradient of the whole batch, and with `clip="each"` one of length 1 at most. (The runs of this chapter are small, so they stay on the CPU, also where there is a GPU.)

# %% tags=["active-ipynb"]
# # The digits, and a small network for them.
# import os
#
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

# %% tags=["active-ipynb"]
# def first_gradient(clip, parts=1):
#     choice = TrainConfig(**small, clip=clip, gradient_accumulation_steps=parts)
#     learner = Learner(choice, images)
#     learner.step()
#     return torch.cat([p.grad.flatten() for p in learner.model.parameters()])
#
#
# whole, four = first_gradient("none"), first_gradient("none", 4)
# assert torch.allclose(whole, four, atol=1e-4)
# print(
#     f"length of the first gradient {whole.norm():.3f}, in four parts {four.norm():.3f}"
# )
# print(f"clip the mean {first_gradient('mean').norm():.3f}")
# print(f"clip each of four parts {first_gradient('each', 4).norm():.3f}")

# %% [markdown]
# ## Checkpoints
#
# A machine goes down, a session in Colab ends, somebody needs the GPU. Then the run must go on from the last checkpoint *as if nothing had happened*. That is stricter than it sounds. With the weights alone, the loss jumps at each resume: Adam has lost its running means, and the pictures are shuffled anew, so some are seen twice and some never. So everything goes in:
#
# | what | and without it |
# |---|---|
# | the weights and their average | there is no run to go on with |
# | Adam's running means, and how many updates they have seen | the next steps are as blind as the first ones |
# | the scaler of fp16 | it looks for its number anew, and may skip steps |
# | the order of the pictures, and the place in it | some come twice before others come once |
# | the states of all random numbers; dropout's for each process | the run goes on with other draws |
# | the number of updates | warm-up and the average's decay begin anew |
# | the configuration, and a fingerprint of the pictures | another run's state loads without a complaint, and the samples are noise |
#
# On a CPU the run then goes on bit for bit. On a GPU all that changes in a run is in the checkpoint, too, but the same sums are not always taken in the same order there (torch's convolutions promise none), so the last digits differ, with or without a resume.

# %%
class Trainer(Learner):
    """A learner that can stop at any moment and go on: Algorithm 1 for a long run.

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
            "generator": self.batches.generator.get_state(),
            "order": self.batches.order,
            "next": self.batches.next,
            "dropout": gather_object([self.chance.state]),
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
        _runs.restore_layout(self.optimizer)
        if state["scaler"]:  # empty if the run so far was not in fp16
            self.scaler.load_state_dict(state["scaler"])
        self.batches.order = state["order"].to(self.device)
        self.batches.next = state["next"]
        _runs.restore_chance(self, state)

    def start_from(self, network: nn.Module) -> None:
        """Begin with a trained network's weights, as the average too; Adam begins anew.

        Raises:
            ValueError: if it has other layers than the configuration's.
        """
        try:
            for mine in (self.model, self.ema.model):
                mine.load_state_dict(network.state_dict())
        except RuntimeError as error:
            raise ValueError(
                "start: expected a network of the configuration's layers, got another: "
                f"{error}"
            ) from error

    def sample(self, count: int) -> Tensor:
        """Draw pictures with the averaged weights, (count, C, H, W) on the CPU.

        Each process draws its part; all must call it. Picture i gets the noise of
        picture i of the configuration's seed, whatever the count and the number of
        processes, so one sheet can be compared with the next. The training's own random
        numbers are left alone.
        """
        part = -(-count // self.accelerator.num_processes)
        shape, first = self.images.shape[1:], part * self.accelerator.process_index
        noise = CounterNoise(self.config.seed, shape, first)
        with self._autocast():
            drawn = sample(
                self.ema.model,
                (part, *shape),
                self.noise_schedule,
                clip=True,
                generator=noise,
                dtype=torch.float32,
            )
        together: Tensor = self.accelerator.gather(drawn)
        return together[:count].cpu()

    def read(self, updates: list[TrainStep]) -> dict[str, Any]:
        """Return the mean of some updates as plain numbers; all processes must call it.

        Raises:
            FloatingPointError: if a loss is not finite.
        """
        return _runs.mean_of(updates, self.accelerator)


# %% [markdown]
# The file adds the configuration and the fingerprint. Before a run goes on, both are compared with what is given.

# %%
FORMAT = 1


def _content(trainer: Trainer) -> dict[str, Any]:
    """Return what a checkpoint holds; all processes must call it."""
    _runs.check_finite(trainer)
    return {
        "format": FORMAT,
        "config": asdict(trainer.config),
        "pictures": trainer.fingerprint,
        "state": trainer.state_dict(),
    }


def save_checkpoint(path: Path | str, trainer: Trainer) -> None:
    """Write everything that `load_checkpoint` needs; all processes must call it.

    What was there is kept beside it: `run.pt` becomes `run-before.pt`.

    Raises:
        FloatingPointError: if a weight is not finite. The last checkpoint stays.
        OSError: if the file cannot be written. The last checkpoint stays.
    """
    content = _content(trainer)
    if trainer.accelerator.is_main_process:
        _runs.write_checkpoint(Path(path), content)


def load_checkpoint(path: Path | str, trainer: Trainer) -> None:
    """Let a trainer go on where `save_checkpoint` was called.

    The trainer is changed only after everything has been checked.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged (then it says whether the one before is
            there), of another version, or belongs to another configuration or other
            pictures; it says to which.
    """
    saved = _runs.read_checkpoint(Path(path), FORMAT)
    with _runs.holding(path):
        config = TrainConfig.from_json(json.dumps(saved["config"]))
    _runs.check_same_run(path, config, saved, trainer)
    trainer.load_state_dict(saved["state"])


# %% [markdown]
# How the file is written matters, too. Four promises, which the code behind these calls keeps:
#
# - A checkpoint is either whole or not there. It is written to another name, pushed to the disk, and only then takes its own. A full disk or a power cut in between leaves the last one untouched.
# - The last two are kept. Disks fail, too.
# - A damaged file is noticed. Each part of the file carries a checksum, and all are verified before anything is used. It is refused by name; the one before it can take its place, and then a run repeats some steps but loses nothing.
# - Loading cannot run code. (Python's usual format, pickle, can hide a program in a file of weights.)
#
# Writing takes time, but the training need not stand still meanwhile: a checkpoint must only hold the state of *one moment*. So `fit` copies the state into the CPU's memory, waiting once for the device, and another thread writes the copy while the next steps run. (Without a copy, these steps would change the weights on their way to the disk, and the file would mix several moments.)
#
# The price is memory for one more copy, and a longer way back: a kill during a write costs that checkpoint, too. As the next one that is due waits for the write, a kill loses two intervals at most. A run that ends, or is asked to stop, waits until its last checkpoint is there; a write that fails ends the run.
#
# The trained network itself is small compared with a checkpoint, and it is what one gives away. So it gets a file of its own: the averaged weights, with the configuration inside. For how many channels and labels it is, its weights tell.

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
        network: a network that `config.network` has made, with labels or without;
            compiled or wrapped, too.
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
    notes |= {"height": str(height), "width": str(width)}
    _runs.write_network(Path(path), network, config, notes)


def load_network(path: Path | str) -> tuple[UNet, Schedule, dict[str, str]]:
    """Return a trained network in eval mode, its schedule, and the notes in the file.

    The notes say on what it was trained: `height`, `width`, `channels` of the pictures,
    what it predicts (`prediction`: "noise") and, where known, `levels`, the number of
    grey levels. How many labels it knows, says the network itself (`num_classes`). Files
    of older versions are read, too.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or was not written by `save_network`.
    """
    weights, notes = _runs.read_network(Path(path))
    with _runs.holding(path):
        config = TrainConfig.from_json(notes.pop("config"))
    network = config.network(*_runs.channels_and_labels(weights))
    _runs.fill(network, weights, path)
    return network.eval(), config.noise_schedule(), notes


# %% [markdown]
# ## The whole run
#
# `fit` puts it together. It starts a run, or goes on with the one that is in the folder: the same command does both. Beside the checkpoint it writes the averaged network, a log, and sheets of samples if asked for. `log_with="tensorboard"`, or another tracker that accelerate knows, shows the curves and the sheets there, too. Of several processes one writes; but *all* of them draw the samples, each a part of the sheet. (Where one draws alone, the others wait for it, and after some minutes they give up: a classic way to lose a run.)
#
# Somebody presses Ctrl-C, or the machine's owner takes it back (then a program gets the signal SIGTERM and has some seconds). Both are granted after the step at hand: `fit` saves, waits until the file is there, says so, and ends.

# %%
def fit(
    config: TrainConfig,
    images: Tensor,
    folder: Path | str,
    *,
    start: nn.Module | None = None,
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
    `log_every` steps; its minutes, too, are those of all sessions), and if asked for,
    `samples/` and what a tracker writes (`log_with`). With several processes, all must
    see it.

    Args:
        config: how to train.
        images: (N, C, H, W) uint8, or floating-point in [-1, 1].
        folder: where results go. A checkpoint there is taken up.
        start: a trained network to begin with, where there is no checkpoint; by
            chance if None.
        notes: what should be known about the network later, such as the data's name.
        progress: show a bar.

    Returns:
        the trainer; sample with its `ema.model`.

    Raises:
        FloatingPointError: if the loss is not finite. The last checkpoint is from
            before.
        ImportError: if the package of the tracker is missing.
        OSError: if something cannot be written; of a checkpoint, at a later step.
        TypeError: if the pictures are no tensor, or neither uint8 nor floating-point.
        ValueError: if the checkpoint is damaged, or belongs to another run; if another
            run is at work in the folder; if the launcher asks for what is not done; if
            `start` has other layers than the configuration's network.
    """
    now = time.monotonic()
    trainer = Trainer(_runs.settled(config, Path(folder)), images)
    if start is not None:
        trainer.start_from(start)  # a checkpoint replaces it
    run = _runs.Run(trainer, Path(folder), now, notes or {}, progress)
    with run.claim():
        if (checkpoint := run.found()) is not None:
            load_checkpoint(checkpoint, trainer)
        with run.session():
            if trainer.steps:  # killed between its checkpoint and its network?
                run.keep()
            while run.goes_on:
                run.note(trainer.step())
                if run.logs:
                    run.log()
                if run.draws:  # first: what a checkpoint has passed is not done again
                    run.sheet(trainer.sample(config.samples))
                if run.saves:
                    run.save(_content(trainer))  # written while the next steps run
    return trainer

# %% [markdown]
# A run of 20 steps, and the same in two parts: 10 steps; then a new trainer, which goes on to 20. Are the results equal, bit for bit? (This is on a CPU.)

# %% tags=["active-ipynb"]
# # The three runs.
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

# %% tags=["active-ipynb"]
# def equal(a, b):
#     return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters()))
#
#
# def logged(folder):
#     return [json.loads(line)["loss"] for line in (folder / "log.jsonl").open()]
#
#
# assert equal(straight.model, resumed.model)
# assert equal(straight.ema.model, resumed.ema.model)
# assert logged(workshop / "straight") == logged(workshop / "parts")
# for name in ("straight", "parts"):
#     print(f"losses, {name:9}", *(f"{loss:.6f}" for loss in logged(workshop / name)))
# print("in the folder:", *sorted(p.name for p in (workshop / "parts").glob("[!.]*")))

# %% [markdown]
# ## Your own pictures
#
# A folder of pictures in any usual format (8 bits a channel) and of any size will do. Each is cut to the shape that you ask for, a square if you name one number (`size=32`) and oblong if two (`size=(32, 48)`, height and width), and scaled. The network halves the size three times, so 32 pixels, or any other multiple of 8, fit the paper's network. `load_folder` reads them. Here is such a folder: 300 discs and squares, each of another size, place and colour. A small network learns them for a short while, in bf16.

# %% mystnb={"image": {"alt": "Two rows of eight small colour pictures. Upper row, the data: a disc or a square in one colour on a ground of another. Lower row, drawn after a short training: mottled patches of colour; here and there a spot, most without a clear shape.", "classes": "photo"}} tags=["active-ipynb", "nbval-ignore-output"]
# from PIL import Image, ImageDraw
#
# from ddpm_nb import load_folder
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
# figure = fig.picture_rows(rows, ["", ""], [""] * 8, size=0.62)
# figure.set_facecolor("none")
# plt.show()
# losses = logged(workshop / "own")
# assert losses[-1] < losses[0] / 2 and drawn.shape == (8, 3, 16, 16)

# %% [markdown]
# **Figure.** Above: eight pictures of the folder. Below: eight that were drawn after 300 steps.
#
# That is far too short a training for good ones. It shows that all parts work together, and the same call with `steps=100_000` is the real thing. On the command line:
#
# ```
# ddpm-nb train --data path/to/pictures --size 32 --out runs/mine --precision bf16
# accelerate launch -m ddpm_nb train --data cifar10 --out runs/cifar10
# ```
#
# The second line uses all GPUs of the machine. On several machines, `accelerate config` asks for their addresses once.
#
# Few pictures, or little time? Then do not begin with random weights. `--start` takes a trained network, with its size and its schedule; only Adam and the average begin anew:
#
# ```
# ddpm-nb train --data path/to/pictures --out runs/mine --start runs/cifar10
# ```

# %% [markdown]
# ## Does the average help?
#
# Train the small network on the digits for a while, five times from five seeds. Each time evaluate both networks, today's weights and their average, on the same 1,797 inputs: each digit once, with one time and one noise.

# %% mystnb={"image": {"alt": "By how many per cent the error of today's weights is above that of their average, against the step, from 1 to 160 on a logarithmic axis: five thin lines, close together. They begin at 0, fall to about minus 9 at step 20, rise through 0 about step 40, and reach 2 to 4 at step 160."}} tags=["active-ipynb", "nbval-ignore-output"]
# import statistics
#
# from ddpm_nb.forward import q_sample
#
# SEEDS, MARKS = 5, (1, 5, 10, 20, 40, 80, 160)
# draws = torch.Generator().manual_seed(1)
# t = torch.randint(1, 501, (len(images),), generator=draws)
# noise = torch.randn(images.shape, generator=draws)
# x_t = q_sample(images, t, noise, TrainConfig(**small).noise_schedule())
#
#
# @torch.no_grad()
# def score(network):
#     """The error of a network on the CPU, where the inputs are."""
#     return float((network(x_t, t) - noise).square().mean())
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
# figure, ax = plt.subplots(figsize=(5.2, 2.6))
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
# **Figure.** By how much the error of today's weights is above that of their average, in five runs. Below 0 the average is behind; from about step 40 on it is ahead.
#
# It does. After 160 steps the average was the better one in all five runs. Only in the first updates, while the weights still move fast, it lags behind; at step 20 it was the worse one in all five. The intervals (95 %, over the five seeds) are narrow beside both differences.
#
# Half precision, too: the loss of this trained network in bf16, beside float32.

# %% tags=["active-ipynb"]
# with torch.autocast("cpu", torch.bfloat16):
#     short = score(trainer.ema.model)
# long = score(trainer.ema.model)
# assert abs(short / long - 1) < 0.02
# print(f"loss {long:.3f} in float32, {short:.3f} in bf16")

# %% [markdown]
# ## Where people slip
#
# **Sampling with the trained weights instead of their average.** The pictures look worse for no visible reason. The authors published both sets of weights. Carried over to PyTorch ([pytorch_diffusion](https://github.com/pesser/pytorch_diffusion), its table of results), they have a Fréchet distance to the training data of 12.14 without the average and 3.21 with it. (The distance is explained in [the evaluation](evaluation.ipynb); smaller is better. That table's column "EMA" has yes and no the wrong way round; its text and the models' names tell which is which.)
#
# **An average that also averages buffers.** A buffer is a table that a model carries along and does not learn. A noise schedule kept as a buffer would be averaged with itself, and in half precision it drifts. Here buffers are copied.
#
# **A loss that jumps after a resume.** Leave Adam's running means out of the checkpoint, and see. Five seeds again, and each run goes on from the same state in both ways:

# %% tags=["active-ipynb", "nbval-ignore-output"]
# def jump(seed):
#     choice = TrainConfig(**small | {"warmup_steps": 0, "seed": seed})
#     trainer = Trainer(choice, images)
#     for _ in range(80):
#         trainer.step()
#     state, losses = copy.deepcopy(trainer.state_dict()), []
#     for adam in (state["optimizer"], state["optimizer"] | {"state": {}}):
#         trainer.load_state_dict(copy.deepcopy(state | {"optimizer": adam}))
#         losses.append(sum(float(trainer.step().loss) for _ in range(5)))
#     return losses[1] / losses[0] - 1
#
#
# jumps = [jump(seed) for seed in range(SEEDS)]
# mean, half = interval(jumps)
# print(f"without Adam's means the next five losses rise by {mean:.0%} ± {half:.0%}")
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
# other = TrainConfig(**{**plan, "T": 1000}, steps=30)
# try:
#     fit(other, images, workshop / "parts", progress=False)
# except ValueError as error:
#     print(str(error).replace(str(workshop), "..."))

# %% [markdown]
# ## Exercises
#
# **1.** How many updates old may weights be, roughly, and still count in the average, at $k = 100$ and at $k = 10{,}000$? When does $d = 0.9999$ take over? *Hint:* with a constant $d$ weights that are $1/(1-d)$ updates old still count $1/e$.
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
# **2.** Adam moves a weight by $\eta\,\hat m/\sqrt{\hat v}$, where $\hat m$ and $\hat v$ are running means of the gradient and of its square. How far does the very first update with a rate $\eta > 0$ move each weight, if there is no warm-up? What does that mean for a weight whose gradient is nearly 0? *Hint:* put one gradient $g$ into both running means.
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
# **3.** How much memory do weights, gradients, Adam's two means and the average take for the 35.7 million weights of the CIFAR-10 network in float32? And its checkpoint? *Hint:* how many numbers are kept for each weight?
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
# Algorithm 1 stays as it is. Around it: an average of the weights, with which one samples; a learning rate that grows from 0; gradients of bounded length; mirrored pictures; 16 bits where they are safe; and checkpoints that hold everything, so that a run goes on as if nothing had happened.
#
# **The next question.** One picture takes a thousand network evaluations. Are fewer steps enough? See [fewer steps](fewer_steps.ipynb).
