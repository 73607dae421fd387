"""Run by tests/test_training.py: start the same small run again and again, kill it at random moments, and look.

Each child is forked from this process, which has torch in memory but has not used it yet: so a child starts in
milliseconds, and most kills meet a run that trains or writes. Prints one JSON line for each killed child.

Arguments: the folder of the run, how many kills.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from accelerate import Accelerator

from ddpm_nb.training import TrainConfig, fit

CONFIG = {
    "channels": 8, "channel_mult": (1,), "num_res_blocks": 1, "attention_levels": (False,),
    "norm_num_groups": 4, "dropout": 0.2,
    "schedule": "cosine", "T": 10, "batch_size": 8, "warmup_steps": 5, "save_every": 2, "log_every": 1,
}  # fmt: skip


def pictures() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (20, 1, 4, 4), generator=generator).byte()


def run(folder: Path, steps: int, **choice: int) -> None:
    torch.set_num_threads(1)
    config = TrainConfig(**{**CONFIG, **choice}, steps=steps)
    fit(config, pictures(), folder, progress=False)


def logged(folder: Path) -> int:
    """The last step of which the log tells."""
    log = folder / "log.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    whole = [line for line in lines if line.endswith("}")]
    return int(json.loads(whole[-1])["step"]) if whole else 0


def saved(folder: Path) -> int:
    """The step of the checkpoint with which the run will go on."""
    last, before = folder / "checkpoint.pt", folder / "checkpoint-before.pt"
    path = last if last.exists() else before
    return int(torch.load(path)["state"]["steps"]) if path.exists() else 0


def slow_down() -> None:
    """Make the disk slow, so that kills meet runs that write."""
    sync = os.fsync

    def slowly(file: int) -> None:
        time.sleep(0.03)
        sync(file)

    os.fsync = slowly


def main(folder: Path, kills: int) -> None:
    # Imports that happen on first use: done here, or each child would spend its life on them.
    Accelerator()
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    chance = random.Random(0)
    for _ in range(kills):
        before = logged(folder)
        child = os.fork()
        if child == 0:
            slow_down()
            run(folder, 10**9)
            os._exit(1)  # never: the budget has no end
        while logged(folder) <= before and os.waitpid(child, os.WNOHANG) == (0, 0):
            time.sleep(0.002)  # it has to get going first
        time.sleep(chance.uniform(0, 0.3))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        reached = logged(folder)
        print(
            json.dumps(
                {
                    "killed": os.WIFSIGNALED(status),
                    "before": before,
                    "reached": reached,
                    "saved": saved(folder),
                    "writing": any(folder.glob("*.part")),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
