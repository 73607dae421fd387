"""Write what the live figures need of the book's networks, as scripts: python -m tools.live.

Your own network, in the place of the digits': python -m tools.live --network FILE [--web FOLDER]

A large weight travels as whole numbers from -127 to 127, with a scale for each of its rows; a small one stays as it is,
in 32 bits. (The first and the last convolution are small, and rounding these shows most.) The same files come out on
every machine.
"""

import argparse
import gzip
import json
import sys
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ddpm_nb import Schedule
from ddpm_nb.cifar10 import load_digits
from ddpm_nb.training import load_network
from tools.book import ROOT

WEB, WEIGHTS = ROOT / "book/_web/live", ROOT / "book/weights"
SMALL = 1000  # numbers


def eighths(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of a weight as whole numbers -127 ... 127, and the rows' scales."""
    scale = (weight.flatten(1).abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
    return (weight.flatten(1) / scale[:, None]).round().to(torch.int8), scale


def large(weight: Tensor) -> bool:
    """Return whether a weight is rounded."""
    return weight.dim() > 1 and weight.numel() > SMALL


def pack(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return weights as `unpack` in nn.js reads them."""
    small, exact = [torch.empty(0, dtype=torch.int8)], []
    for weight in weights.values():
        if large(weight):
            whole, scale = eighths(weight)
            small.append(whole.flatten())
            exact.append(scale)
        else:
            exact.append(weight.flatten())
    return {
        "shapes": {name: list(weight.shape) for name, weight in weights.items()},
        "rounded": [name for name, weight in weights.items() if large(weight)],
        "small": b64encode(torch.cat(small).numpy().tobytes()).decode(),
        "exact": b64encode(torch.cat(exact).numpy().tobytes()).decode(),
    }


def network(file: Path) -> dict[str, Any]:
    """Return a network's record for the page.

    Raises:
        ValueError: if the page could not show it: pictures that are not square, neither grey nor colour, or another
            schedule than the book's two.
    """
    model, schedule, notes = load_network(file)
    if notes["height"] != notes["width"]:
        raise ValueError(f"network: expected square pictures, got {notes['height']} x {notes['width']}")
    if model.in_channels not in (1, 3):
        raise ValueError(f"network: expected 1 or 3 channels, got {model.in_channels}")
    kinds = {"cosine": Schedule.cosine(schedule.T), "linear": Schedule.linear(schedule.T)}
    kind = next((name for name, table in kinds.items() if torch.equal(table.beta, schedule.beta)), None)
    if kind is None:
        raise ValueError("network: expected the linear or the cosine schedule")
    return {
        "schedule": {"kind": kind, "T": schedule.T},
        "size": int(notes["width"]),
        "config": model.config,
        "weights": pack(model.state_dict()),
    }


def pictures() -> dict[str, Any]:
    """Return the digits' training pictures, one letter a pixel, a for -1 to q for 1, and their labels."""
    images, labels, _ = load_digits()
    levels = ((images.flatten(1) + 1) * 8).round().byte()
    return {
        "rows": ["".join(chr(97 + level) for level in row) for row in levels.tolist()],
        "labels": "".join(map(str, labels.tolist())),
    }


def write(web: Path, name: str, target: str, record: dict[str, Any] | None) -> None:
    """Write one script, and say how heavy it is."""
    text = f"// By tools/live.py: do not edit.\n{target} = {json.dumps(record, separators=(',', ':'))};\n"
    path = web / f"data-{name}.js"
    path.write_text(text, encoding="utf-8")
    print(f"{path.name}: {len(gzip.compress(text.encode(), mtime=0)) / 1000:.0f} kB after gzip")


def main(arguments: list[str] | None = None) -> int:
    """Write the scripts."""
    parser = argparse.ArgumentParser(prog="tools.live", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--network", type=Path, help="a .safetensors file of ddpm_nb, to be shown in place of the digits'"
    )
    parser.add_argument("--web", type=Path, default=WEB, help="the folder with nn.js")
    given = parser.parse_args(arguments)
    try:
        record = network(given.network or WEIGHTS / "digits.safetensors")
    except (OSError, ValueError) as error:
        parser.exit(1, f"tools.live: {error}\n")
    networks = "(globalThis.ddpm.networks ??= {})"
    write(given.web, "digits", f"{networks}.digits", record)
    # What another network was trained on is not known here; then nothing is compared with it.
    write(given.web, "pictures", "globalThis.ddpm.trainingPictures", None if given.network else pictures())
    write(given.web, "plane", f"{networks}.plane", {"weights": pack(load_file(WEIGHTS / "plane.safetensors"))})
    return 0


if __name__ == "__main__":
    sys.exit(main())
