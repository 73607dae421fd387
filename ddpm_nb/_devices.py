"""What a device can do: the package asks this, and not a device's name, so that a device of another name is served."""

import os
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def has_float64(device: torch.device | str) -> bool:
    """Return whether it has double precision; MPS has none."""
    try:
        torch.empty((), dtype=torch.float64, device=device)
    except (TypeError, RuntimeError):
        return False
    return True


def where_float64(device: torch.device) -> torch.device:
    """Return the device where double precision is to be had: this one, or else the CPU."""
    return device if has_float64(device) else torch.device("cpu")


def fuses_attention(device: torch.device) -> bool:
    """Return whether one kernel computes attention there faster than the equation's three."""
    return device.type not in ("cpu", "mps")


def pins(device: torch.device) -> bool:
    """Return whether it can fetch from pinned memory of the CPU by itself, while the program goes on."""
    return device.type not in ("cpu", "mps", "meta")


def brought(x: Tensor, device: torch.device) -> Tensor:
    """Return x on a device; what was drawn on the CPU goes there without a wait, where that can be."""
    if x.device.type == "cpu" and pins(device):
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def copied(state: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Return a copy on the CPU of what is now in a state on a device; the program waits once, for all of it."""

    def copy(part: Any) -> Any:
        if isinstance(part, Tensor):
            place = torch.empty_like(part, device="cpu", pin_memory=pins(part.device))
            return place.copy_(part, non_blocking=True)
        if isinstance(part, dict):
            return {name: copy(value) for name, value in part.items()}
        return type(part)(map(copy, part)) if isinstance(part, list | tuple) else part

    made: dict[str, Any] = copy(state)
    torch.zeros((), device=device).item()  # comes after all of them, and is waited for
    return made


def records_graphs(device: torch.device) -> bool:
    """Return whether it can record a network's kernels as one graph, and launch them at once."""
    return device.type == "cuda"


def why_not_compiled() -> str:
    """Return what torch.compile lacks on this machine for a CPU's code, or "" if nothing."""
    default = "clang++" if sys.platform == "darwin" else "g++"
    compiler = os.environ.get("CXX", default)
    if not shutil.which(compiler):
        return f"there is no C++ compiler ({compiler})"
    header = Path(sysconfig.get_path("include"), "Python.h")
    return "" if header.exists() else f"there is no {header}"


def compiled(network: nn.Module, device: torch.device, graph: bool = True) -> nn.Module:
    """Compile a network; where the device can, its kernels become one graph, unless `graph` is false.

    A graph writes each answer to the same place: who keeps one past the next call must copy it.

    Raises:
        ValueError: if a CPU's code cannot be compiled here.
    """
    if device.type == "cpu" and (missing := why_not_compiled()):
        raise ValueError(f"compile: expected a machine that can compile, but {missing}")
    mode = "reduce-overhead" if graph and records_graphs(device) else None
    made: nn.Module = torch.compile(network, mode=mode)  # type: ignore[assignment]
    return made
