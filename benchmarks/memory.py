"""Peak memory of one candidate, in a process of its own.

    python -m benchmarks.memory train "ours, float32" --batch 16

Read is VmHWM on Linux: the most that the process held at once, its libraries included. (getrusage's ru_maxrss, which is
read elsewhere, begins on Linux with the peak of the process that started this one.)
"""

import argparse
import subprocess
import sys
from pathlib import Path

import diffusers  # noqa: F401  our processes hold it too, so that a difference is the networks'
import torch

from benchmarks.candidates import CANDIDATES, TASKS, stepper

STATUS = Path("/proc/self/status")
METER = "VmHWM" if STATUS.exists() else "ru_maxrss"
STEPS = 3


def peak() -> int:
    """Return the most bytes that this process has held at once."""
    if METER == "VmHWM":
        lines = STATUS.read_text().splitlines()
        kilobytes = next(s.split()[1] for s in lines if s.startswith("VmHWM"))
        return 1024 * int(kilobytes)
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def peak_of(name: str, task: str, batch: int, threads: int) -> int:
    """Return the peak in bytes of a fresh process that runs three steps of the candidate."""
    command = [sys.executable, "-m", "benchmarks.memory", task, name]
    command += ["--batch", str(batch), "--threads", str(threads)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return int(done.stdout.split()[-1])


def main() -> None:
    """Run three steps and print the peak in bytes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory")
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("name")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    named = {c.name: c for c in CANDIDATES[options.task]}
    step = stepper(named[options.name], options.task, options.batch)
    for _ in range(STEPS):
        step()
    print(peak())


if __name__ == "__main__":
    main()
