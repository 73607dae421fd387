"""What several tests use."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from ddpm_nb.algorithms import Step
from ddpm_nb.forward import Schedule

ROOT = Path(__file__).resolve().parent.parent
F64 = torch.float64
LINEAR = Schedule.linear()


def run(
    command: list[str], cwd: Path = ROOT, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, however it ends; what it says is kept."""
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(x: Tensor, t: Tensor) -> Tensor:
    """Some function of x and t, so that asking about a wrong t shows."""
    return (x * (1 + 0.03 * t.to(x).view(-1, *[1] * (x.dim() - 1)))).sin()


def zero(x: Tensor, t: Tensor) -> Tensor:
    """The network that finds no noise."""
    return torch.zeros_like(x)


def last(steps: Iterator[Step]) -> Tensor:
    return list(steps)[-1].x


class Recorder(nn.Module):
    """A small network that writes down how it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.dropout = nn.Dropout(0.5)
        # A part that its owner put into eval mode.
        self.frozen = nn.BatchNorm1d(1).eval()
        self.seen: list[tuple[list[int], bool, bool]] = []

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Write down the times, whether any part is training, and whether gradients are on."""
        training = any(part.training for part in self.modules())
        self.seen.append((t.tolist(), training, torch.is_grad_enabled()))
        return self.layer(x)
