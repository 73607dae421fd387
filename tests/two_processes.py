"""Run by tests/test_training.py, in one process and through `accelerate launch` in two: one step, then a short run.

Arguments: the folder for results, and which way to clip.
"""

import json
import sys
from pathlib import Path

import torch

from ddpm_nb.training import TrainConfig, Trainer, fit

CONFIG = {
    "channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (False, True), "groups": 4, "dropout": 0.0,
    "T": 10, "batch_size": 8, "warmup": 0, "learning_rate": 1e-2,
    "save_every": 2, "log_every": 1, "sample_every": 2, "samples": 3,
}  # fmt: skip


def main(folder: Path, clip: str) -> None:
    torch.set_num_threads(1)
    pictures = torch.randint(
        0, 256, (20, 1, 8, 8), generator=torch.Generator().manual_seed(0)
    ).byte()
    # Each of two processes has one piece; alone, one process has two.
    trainer = Trainer(TrainConfig(**CONFIG, clip=clip, clip_length=0.05), pictures)
    pieces = 2 // trainer.accelerator.num_processes
    config = TrainConfig(**CONFIG, clip=clip, clip_length=0.05, pieces=pieces)
    trainer = Trainer(config, pictures)
    update = trainer.step()
    line = trainer.read([update])
    rank = trainer.accelerator.process_index
    folder.mkdir(parents=True, exist_ok=True)
    if trainer.accelerator.is_main_process:
        gradient = [weight.grad for weight in trainer.model.parameters()]
        torch.save(gradient, folder / "gradient.pt")
        (folder / "line.json").write_text(json.dumps(line))
    for steps in (3, 4):  # the second goes on where the first stopped
        config = TrainConfig(**CONFIG, clip=clip, pieces=pieces, steps=steps)
        trainer = fit(config, pictures, folder / "run", progress=False)
    mine = [
        trainer.model.state_dict(),
        trainer.ema.model.state_dict(),
        trainer.optimizer.state_dict(),
    ]
    torch.save(mine, folder / f"rank{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
