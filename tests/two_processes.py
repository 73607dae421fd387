"""Run by tests/test_training.py, in one process, and in two by `accelerate launch` or `torchrun`: steps, short runs.

Arguments: the folder for results, which way to clip, how many processes there must be.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from accelerate import Accelerator

from ddpm_nb import _runs
from ddpm_nb.training import TrainConfig, Trainer, fit, load_network, save_network

CONFIG = {
    "channels": 8, "channel_mult": (1, 2), "num_res_blocks": 1, "attention_levels": (False, True),
    "norm_num_groups": 4, "dropout": 0.0,
    "schedule": "cosine", "T": 10, "batch_size": 8, "warmup_steps": 0, "learning_rate": 1e-2,
    "save_every": 2, "log_every": 1, "sample_every": 2, "samples": 3,
}  # fmt: skip


def gradient(trainer: Trainer) -> list[torch.Tensor]:
    return [weight.grad for weight in trainer.model.parameters()]


def summing(self: Accelerator, tensor: torch.Tensor, reduction: str) -> torch.Tensor:
    """`reduce` as accelerate 1.0 has it: what it does not know is a sum."""
    torch.distributed.all_reduce(tensor := tensor.clone())
    return tensor / self.num_processes if reduction == "mean" else tensor


def main(folder: Path, clip: str, processes: int) -> None:
    torch.set_num_threads(1)
    pictures = torch.randint(
        0, 256, (20, 1, 8, 8), generator=torch.Generator().manual_seed(0)
    ).byte()
    folder.mkdir(parents=True, exist_ok=True)
    # Each of two processes has one piece; alone, one process has two.
    pieces = 2 // processes
    config = TrainConfig(
        **CONFIG, clip=clip, max_grad_norm=0.05, gradient_accumulation_steps=pieces
    )
    trainer = Trainer(config, pictures)
    assert trainer.accelerator.num_processes == processes
    rank = trainer.accelerator.process_index
    alone = {"fresh": trainer.sample(3)}
    update = trainer.step()
    line = trainer.read([update])
    if rank == 0:
        torch.save(gradient(trainer), folder / "gradient.pt")
        (folder / "line.json").write_text(json.dumps(line))
    # And in twice as many pieces: gradients meet once, with the last of them.
    config = TrainConfig(
        **CONFIG, clip=clip, max_grad_norm=0.05, gradient_accumulation_steps=2 * pieces
    )
    trainer = Trainer(config, pictures)
    trainer.step()
    alone["in pieces"] = gradient(trainer)
    # What one answers, all know.
    alone["highest"] = _runs.highest(
        trainer.accelerator, rank, -rank, rank == processes - 1
    )
    if rank == 0:
        wrapped = folder / "wrapped.safetensors"
        save_network(wrapped, trainer._network, config, height=8, width=8)
        load_network(wrapped)
    for steps in (3, 4):  # the second goes on where the first stopped
        config = TrainConfig(
            **CONFIG, clip=clip, gradient_accumulation_steps=pieces, steps=steps
        )
        trainer = fit(config, pictures, folder / "run", progress=False)
    alone["end"] = [
        trainer.model.state_dict(),
        trainer.ema.model.state_dict(),
        trainer.optimizer.state_dict(),
    ]
    if processes > 1:  # a folder that one of them does not see
        Accelerator.reduce = summing
        mine = folder / f"alone{rank}"
        if rank == 0:
            shutil.copytree(folder / "run", mine)
        trainer.accelerator.wait_for_everyone()
        config = TrainConfig(
            **CONFIG, clip=clip, gradient_accumulation_steps=pieces, steps=6
        )
        try:
            fit(config, pictures, mine, progress=False)
        except ValueError as error:
            alone["refused"] = str(error)
    torch.save(alone, folder / f"rank{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
