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

The ceiling is one more candidate: the convolutions and matrix products of our own step, each called alone with
tensors of the same shape, type and layout. Peak memory is that of a process with one candidate, three steps.

Goals stand beside their figures. Where one is missed, the operators that take most of the time are listed, and the
exit status is 1.
"""

import argparse
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.candidates import (
    CANDIDATES,
    TASKS,
    Candidate,
    ablation,
    stepper,
)
from benchmarks.ceiling import flop
from benchmarks.goals import (
    Times,
    goals,
    ratios,
    spread,
    time_by_operator,
    verdict,
)
from benchmarks.memory import METER, peak_of
from ddpm_nb._devices import why_not_compiled


def measure(
    steps: dict[str, Callable[[], None]], task: str, rounds: int
) -> dict[str, Times]:
    """Return (seconds, processor seconds) a step: for each candidate, one pair a round."""
    for name, step in steps.items():
        print(f"\r{task}: first step of {name:60}", end="", flush=True)
        step()  # it allocates, chooses kernels and, where asked to, compiles: minutes
    print()
    seconds: dict[str, Times] = {name: [] for name in steps}
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


def ablate(task: str, batch: int, rounds: int) -> None:
    """Print what each trick brings."""
    best, *others = ablation(task)
    steps = {c.name: stepper(c, task, batch) for c in (best, *others)}
    seconds = measure(steps, task, rounds)
    print(f"\n| {task}: {best.name} | times as fast as that: wall | processor |")
    print("|---|---|---|")
    for other in others:
        pair = seconds[other.name], seconds[best.name]
        wall, processor = (spread(ratios(*pair, clock)) for clock in (0, 1))
        print(f"| {other.name} | {wall} | {processor} |")
    print(flush=True)


def compare(
    task: str, candidates: Sequence[Candidate], batch: int, rounds: int, threads: int
) -> bool:
    """Print speed and memory of the candidates, and the goals; return whether all are met."""
    steps = {c.name: stepper(c, task, batch) for c in candidates}
    seconds = measure(steps, task, rounds)
    peaks = {}
    for c in candidates:
        if not c.bare:
            peaks[c.name] = peak_of(c.name, task, batch, threads)
            print(f"\r{task}: memory of {len(peaks)}", end="", flush=True)
    print(f"\n\n| {task} | pictures a second, median | peak memory, MB ({METER}) |")
    print("|---|---|---|")
    for name, times in seconds.items():
        wall = statistics.median(wall for wall, _ in times)
        memory = f"{peaks[name] / 1e6:.0f}" if name in peaks else ""
        print(f"| {name} | {batch / wall:.1f} | {memory} |")
    bare = next(c.name for c in candidates if c.bare)
    print(f"\nThe products of one step: {flop(steps[bare]) / 1e9:.0f} GFLOP.\n")
    judged = goals(task, candidates, seconds, peaks)
    print(verdict(judged), flush=True)
    for name in dict.fromkeys(goal.ours for goal in judged if not goal.met):
        print(f"\nWhere the time goes, {task}, {name}:\n")
        print(time_by_operator(steps[name]))
    print(flush=True)
    return all(goal.met for goal in judged)


def main() -> int:
    """Measure and print tables in Markdown; return 1 if a goal is missed, else 0."""
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
    tasks = options.tasks or TASKS
    if options.ablate:
        for task in tasks:
            ablate(task, options.batch, options.rounds)
        return 0
    missing = why_not_compiled()
    if missing:
        print(f"Compiled candidates are left out: {missing}.", flush=True)
    met = []
    for task in tasks:
        candidates = [c for c in CANDIDATES[task] if not (missing and c.compiled)]
        met.append(
            compare(task, candidates, options.batch, options.rounds, options.threads)
        )
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
