"""Who takes part: the networks, in each precision and layout, and one step of each."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._inductor import config as inductor

from benchmarks.ceiling import bare
from ddpm_nb import _layers, unet
from ddpm_nb.unet import UNet

TASKS = ("train", "sample")


@dataclass(frozen=True)
class Candidate:
    """One way to run one network."""

    name: str
    ours: bool
    precision: str = "float32"  # or "autocast" (bf16), or "weights" (all in bf16)
    channels_last: bool = False
    compiled: bool = False
    without: str = ""  # the trick that is taken away, of `WITHOUT`
    bare: bool = False  # its convolutions and products of matrices alone


OURS_32 = Candidate("ours, float32", True)
OURS_32_LAST = replace(OURS_32, name="ours, float32, channels_last", channels_last=True)
OURS_AUTOCAST = Candidate("ours, bf16 autocast, channels_last", True, "autocast", True)
OURS_WEIGHTS = Candidate("ours, bf16 weights, channels_last", True, "weights", True)
THEIRS_32 = Candidate("diffusers, float32", False)
THEIRS_32_LAST = replace(
    THEIRS_32, name="diffusers, float32, channels_last", channels_last=True
)
THEIRS_AUTOCAST = Candidate(
    "diffusers, bf16 autocast, channels_last", False, "autocast", True
)
THEIRS_WEIGHTS = Candidate(
    "diffusers, bf16 weights, channels_last", False, "weights", True
)


def compiled(candidate: Candidate) -> Candidate:
    """Return the candidate as torch.compile makes it."""
    return replace(candidate, name=f"{candidate.name}, compiled", compiled=True)


def bare_layers(candidate: Candidate) -> Candidate:
    """Return what is left of the candidate without all but its products."""
    return replace(candidate, name=f"bare layers of: {candidate.name}", bare=True)


CANDIDATES = {
    "train": (
        bare_layers(OURS_AUTOCAST),
        compiled(OURS_AUTOCAST),
        OURS_AUTOCAST,
        OURS_32_LAST,
        OURS_32,
        THEIRS_32,
        THEIRS_AUTOCAST,
        compiled(THEIRS_AUTOCAST),
    ),
    "sample": (
        bare_layers(OURS_WEIGHTS),
        compiled(OURS_WEIGHTS),
        OURS_WEIGHTS,
        OURS_32_LAST,
        OURS_32,
        THEIRS_32,
        THEIRS_32_LAST,
        THEIRS_WEIGHTS,
        compiled(THEIRS_WEIGHTS),
    ),
}


def torchs_dropout(layer: nn.Dropout, x: Tensor) -> Tensor:
    """Dropout with torch's own draw."""
    return F.dropout(x, layer.p, layer.training)


def plain_norm(layer: nn.GroupNorm, x: Tensor) -> Tensor:
    """GroupNorm in whatever precision comes; autocast must not interfere."""
    weight, bias = layer.weight, layer.bias
    with torch.autocast("cpu", enabled=False):
        return F.group_norm(x, layer.num_groups, weight, bias, layer.eps)


# Name -> (where it stands, its name there, what to put in its place). What is not a replacement of code is
# another candidate.
WITHOUT: dict[str, tuple[Any, str, Callable[..., Tensor]]] = {
    "the quick dropout": (_layers.Dropout, "forward", torchs_dropout),
    "attention by its formula": (unet, "attend", _layers.fused_attention),
    "GroupNorm in float32": (_layers.Norm, "forward", plain_norm),
}


@contextmanager
def trick_taken_away(name: str) -> Iterator[None]:
    """Put torch's plain way in the place of one trick, for a while."""
    if not name:
        yield
        return
    place, attribute, plain = WITHOUT[name]
    trick = getattr(place, attribute)
    setattr(place, attribute, plain)
    try:
        yield
    finally:
        setattr(place, attribute, trick)


def diffusers_network() -> nn.Module:
    """Return the CIFAR-10 network as diffusers builds it."""
    import diffusers

    build: Any = diffusers.UNet2DModel  # not typed in every version
    network: nn.Module = build(
        block_out_channels=(128, 256, 256, 256),
        layers_per_block=2,
        down_block_types=(
            "DownBlock2D",
            "AttnDownBlock2D",
            "DownBlock2D",
            "DownBlock2D",
        ),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        dropout=0.1,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
        attention_head_dim=None,
    )
    return network


def stepper(candidate: Candidate, task: str, batch: int) -> Callable[[], None]:
    """Return a function that runs one training or sampling step of the candidate."""
    if candidate.bare:
        return bare(stepper(replace(candidate, bare=False), task, batch))
    network = UNet.cifar10() if candidate.ours else diffusers_network()
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(batch, 3, 32, 32, generator=generator) for _ in range(2))
    t = torch.randint(1, 1001, (batch,), generator=generator)
    if candidate.precision == "weights":
        nn.Module.to(network, torch.bfloat16)  # diffusers' own `to` adds a warning
        x = x.to(torch.bfloat16)
    if candidate.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = x.to(memory_format=torch.channels_last)
    network.train(task == "train")
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-4, fused=True)
    if candidate.compiled:
        # Dynamo looks into a cached function of diffusers and says so, in forty lines.
        warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools")
        # A profile then names the kernels.
        inductor.cpp.enable_kernel_profile = True
    run = torch.compile(network) if candidate.compiled else network

    def predict() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, candidate.precision == "autocast"):
            out: Tensor = run(x, t) if candidate.ours else run(x, t - 1).sample
        return out

    def step() -> None:
        with trick_taken_away(candidate.without):
            if task == "sample":
                with torch.no_grad():
                    predict()
                return
            loss = F.mse_loss(predict().float(), noise)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return step


def ablation(task: str) -> tuple[Candidate, ...]:
    """Return our best, and our best without each trick that touches this task."""
    best = OURS_AUTOCAST if task == "train" else OURS_WEIGHTS
    variants = [
        replace(best, name="without channels_last", channels_last=False),
        replace(best, name="without bf16", precision="float32"),
    ]
    for trick in WITHOUT:
        if task == "sample" and trick == "the quick dropout":
            continue
        variants.append(replace(best, name=f"without {trick}", without=trick))
    return (best, *variants)
