"""Run by tests/test_processes.py: in one process, in four by one `torchrun` or by two that find each other, and in two.

Arguments: the folder for results, how many processes there must be, what to do.
"""

import os
import sys
from pathlib import Path

import torch
from two_processes import CONFIG, gradient

from ddpm_nb import _cli
from ddpm_nb.training import TrainConfig, Trainer, fit

STOPPED, STEPS = 2, 4
COUNT = 7  # pictures, in batches of two: the last one is alone


def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (20, 1, 8, 8), generator=generator).byte()


def config(processes: int, steps: int = STEPS) -> TrainConfig:
    """Four pieces of a batch: each of four processes has one, alone one process has all."""
    pieces = 4 // processes
    return TrainConfig(**CONFIG, gradient_accumulation_steps=pieces, steps=steps)


def train(folder: Path, processes: int) -> None:
    """One update's gradient, a sheet, a whole run, and one that is stopped halfway."""
    trainer = Trainer(config(processes), images())
    accelerator = trainer.accelerator
    assert accelerator.num_processes == processes
    trainer.step()
    found = {"gradient": gradient(trainer), "sheet": trainer.sample(COUNT)}
    found["place"] = [accelerator.process_index, accelerator.local_process_index]
    whole = fit(config(processes), images(), folder / "whole", progress=False)
    found["weights"] = whole.model.state_dict()
    if processes > 1:
        fit(config(processes, STOPPED), images(), folder / "stopped", progress=False)
    torch.save(found, folder / f"rank{accelerator.process_index}.pt")


def go_on(folder: Path, processes: int) -> None:
    """Take up the run that was stopped."""
    trainer = fit(config(processes), images(), folder / "stopped", progress=False)
    assert (trainer.accelerator.num_processes, trainer.steps) == (processes, STEPS)


def sample(folder: Path, processes: int) -> None:
    """Draw with the command."""
    network, out = folder / "network.safetensors", folder / "drawn.png"
    words = ["sample", "--network", str(network), "--count", str(COUNT)]
    words += ["--batch-size", "2", "--device", "cpu", "--out", str(out)]
    assert _cli.main(words) == 0


def main(folder: Path, processes: int, *tasks: str) -> None:
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        {"train": train, "go_on": go_on, "sample": sample}[task](folder, processes)


if __name__ == "__main__":
    assert int(os.environ["WORLD_SIZE"]) == int(sys.argv[2])
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
