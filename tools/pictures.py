"""Draw the picture of the first page with the book's own digits model: noise becomes digits.

python -m tools.images
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import torch
from safetensors.torch import load_file

from ddpm_nb import Schedule, UNet, sample_steps
from ddpm_nb._figures import picture_rows, use_style

WEIGHTS, PICTURE = (
    Path("book/weights/digits.safetensors"),
    Path("book/images/noise-to-digits.png"),
)
TIMES, DIGITS, SEED = (499, 350, 250, 150, 100, 50, 20, 0), 5, 0


def main() -> int:
    """Sample a few digits and keep their way from noise."""
    model = UNet.digits()
    model.load_state_dict(load_file(WEIGHTS))
    steps = sample_steps(
        model,
        (DIGITS, 1, 8, 8),
        Schedule.cosine(T=500),
        clip=True,
        generator=torch.Generator().manual_seed(SEED),
    )
    way = {step.t: step.x for step in steps if step.t in TIMES}
    use_style()
    figure = picture_rows(
        [torch.stack([way[t][i] for t in TIMES]) for i in range(DIGITS)],
        [""] * DIGITS,
        [f"t = {t}" for t in TIMES],
        size=0.85,
    )
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE)
    print(f"{PICTURE}: drawn with {WEIGHTS}, seed {SEED}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
