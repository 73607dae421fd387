"""How fast is the U-Net on a CPU, and what does each trick bring? Side by side with diffusers.

    python -m benchmarks                     both tasks, 15 rounds
    python -m benchmarks train --rounds 3    one task, quickly
    python -m benchmarks --ablate            what each trick brings

A machine's speed changes from minute to minute, most of all when it is shared. So the candidates take
turns: each round runs every one of them once, in a new random order, and only ratios within a round
count. Printed is the median of these ratios, and between which two the middle half of them lies.

Two clocks: the one on the wall, and the processor time of this process, summed over its threads. The first is
what a user waits for. The second leaves out the time that other programs had; it knows nothing of a thread
that waits for another one.

Training is one step of Algorithm 1 on the CIFAR-10 network: forward, backward, one Adam step. Sampling is
one forward pass without gradients.
"""

import argparse
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
    without: str = ""  # the trick that is taken away, of `WITHOUT`


@dataclass(frozen=True)
class Comparison:
    """`fast` against `slow`: how many times as fast is it?"""

    fast: str
    slow: str
    target: str


OURS_32 = Candidate("ours, float32", True)
OURS_32_LAST = Candidate("ours, float32, channels_last", True, channels_last=True)
OURS_AUTOCAST = Candidate("ours, bf16 autocast, channels_last", True, "autocast", True)
OURS_WEIGHTS = Candidate("ours, bf16 weights, channels_last", True, "weights", True)
THEIRS_32 = Candidate("diffusers, float32", False)
THEIRS_AUTOCAST = Candidate(
    "diffusers, bf16 autocast, channels_last", False, "autocast", True
)
THEIRS_WEIGHTS = Candidate(
    "diffusers, bf16 weights, channels_last", False, "weights", True
)
THEIRS_32_LAST = Candidate(
    "diffusers, float32, channels_last", False, channels_last=True
)

CANDIDATES = {
    "train": (
        OURS_AUTOCAST,
        OURS_32_LAST,
        OURS_32,
        THEIRS_32,
        THEIRS_AUTOCAST,
    ),
    "sample": (
        OURS_WEIGHTS,
        OURS_32_LAST,
        OURS_32,
        THEIRS_32,
        THEIRS_32_LAST,
        THEIRS_WEIGHTS,
    ),
}
COMPARISONS = {
    "train": (
        Comparison(OURS_AUTOCAST.name, THEIRS_32.name, ">= 2"),
        Comparison(OURS_AUTOCAST.name, THEIRS_AUTOCAST.name, ">= 1"),
        Comparison(OURS_32.name, THEIRS_32.name, ">= 1"),
        Comparison(OURS_32_LAST.name, THEIRS_32.name, "(shown)"),
    ),
    "sample": (
        Comparison(OURS_WEIGHTS.name, THEIRS_32.name, ">= 2"),
        Comparison(OURS_WEIGHTS.name, THEIRS_WEIGHTS.name, ">= 1"),
        Comparison(OURS_32.name, THEIRS_32.name, ">= 1"),
        Comparison(OURS_32_LAST.name, THEIRS_32_LAST.name, ">= 1"),
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

    def predict() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, candidate.precision == "autocast"):
            out: Tensor = network(x, t) if candidate.ours else network(x, t - 1).sample
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


def measure(
    candidates: tuple[Candidate, ...], task: str, batch: int, rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Return (seconds, processor seconds) a step: for each candidate, one pair a round."""
    steps = {c.name: stepper(c, task, batch) for c in candidates}
    for step in steps.values():
        step()  # the first one allocates and chooses kernels
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    order = list(steps)
    shuffle = random.Random(0)
    for number in range(rounds):
        shuffle.shuffle(order)
        for name in order:
            wall, work = time.perf_counter(), time.process_time()
            steps[name]()
            spent = time.perf_counter() - wall, time.process_time() - work
            seconds[name].append(spent)
        print(f"\r{task}: round {number + 1} of {rounds}", end="", flush=True)
    print()
    return seconds


def ratio(slow: list[tuple[float, float]], fast: list[tuple[float, float]]) -> str:
    """Return the median of slow / fast, round by round, and the middle half: both clocks."""
    cells = []
    for clock in (0, 1):
        ratios = [a[clock] / b[clock] for a, b in zip(slow, fast, strict=True)]
        if len(ratios) < 2:
            cells.append(f"{ratios[0]:.2f}")
            continue
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
    return " | ".join(cells)


def ablation(task: str) -> tuple[Candidate, ...]:
    """Return our best, and our best without each trick that touches this task."""
    best = OURS_AUTOCAST if task == "train" else OURS_WEIGHTS
    variants = [
        Candidate("without channels_last", True, best.precision, False),
        Candidate("without bf16", True, "float32", True),
    ]
    for trick in WITHOUT:
        if task == "sample" and trick == "the quick dropout":
            continue
        variants.append(
            Candidate(f"without {trick}", True, best.precision, True, trick)
        )
    return (best, *variants)


def machine(threads: int, batch: int, rounds: int) -> str:
    """Return what a reader must know to judge the numbers."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        name = next(
            (s.split(": ")[1] for s in lines if s.startswith("model name")), name
        )
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    packages = ", ".join(f"{p} {version(p)}" for p in ("torch", "diffusers"))
    return (
        f"{time.strftime('%Y-%m-%d')}, {name}, {torch.backends.cpu.get_cpu_capability()}, "
        f"{os.cpu_count()} cores, {threads} threads{load}; Python {platform.python_version()}, "
        f"{packages}; batch {batch}, {rounds} rounds"
    )


def main() -> None:
    """Measure and print tables in Markdown."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("tasks", nargs="*", choices=[*TASKS, []], default=[])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--ablate", action="store_true", help="take tricks away, one by one"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(machine(options.threads, options.batch, options.rounds), flush=True)
    for task in options.tasks or TASKS:
        if options.ablate:
            candidates = ablation(task)
            seconds = measure(candidates, task, options.batch, options.rounds)
            best, *others = candidates
            print(
                f"\n| {task}: {best.name} | times as fast as that: wall | processor |"
            )
            print("|---|---|---|")
            for other in others:
                print(
                    f"| {other.name} | {ratio(seconds[other.name], seconds[best.name])} |"
                )
            continue
        seconds = measure(CANDIDATES[task], task, options.batch, options.rounds)
        print(f"\n| {task} | pictures a second, median |\n|---|---|")
        for name, times in seconds.items():
            wall = statistics.median(wall for wall, _ in times)
            print(f"| {name} | {options.batch / wall:.1f} |")
        print(
            f"\n| {task}: this | against | times as fast: wall | processor | target |"
        )
        print("|---|---|---|---|---|")
        for pair in COMPARISONS[task]:
            times_as_fast = ratio(seconds[pair.slow], seconds[pair.fast])
            print(f"| {pair.fast} | {pair.slow} | {times_as_fast} | {pair.target} |")
        print(flush=True)


if __name__ == "__main__":
    main()
