"""Draw the book's own digits model at work, from noise to digits: python -m tools.pictures.

`noise-to-digits.png` is a table for the README; `hero.png` the frames that the first page plays, a row for each digit,
from t = 500 at the left to 0 at the right.
"""

import sys

import matplotlib

matplotlib.use("Agg")

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from ddpm_nb import Schedule, UNet, sample_steps
from ddpm_nb._figures import picture_rows, use_style
from tools.book import ROOT

WEIGHTS, PICTURE = ROOT / "book/weights/digits.safetensors", ROOT / "book/images/noise-to-digits.png"
HERO = ROOT / "book/_web/hero.png"
TIMES, DIGITS, SEED = (499, 350, 250, 150, 100, 50, 20, 0), 5, 0
SHOWN, EVERY = 4, 20  # of the first page: digits, and steps from frame to frame


def way_from_noise() -> dict[int, Tensor]:
    """All x_t of one run of Algorithm 2 that draws the digits, x_500 to x_0."""
    model, shape = UNet.digits(), (DIGITS, 1, 8, 8)
    model.load_state_dict(load_file(WEIGHTS))
    generator = torch.Generator().manual_seed(SEED)
    x_T = torch.randn(shape, generator=generator)
    steps = sample_steps(model, shape, Schedule.cosine(T=500), clip=True, x_T=x_T, generator=generator)
    return {500: x_T} | {step.t: step.x for step in steps}


def frames(way: dict[int, Tensor]) -> Tensor:
    """The first page's frames as one grey picture, (8 digits high, 8 frames wide) uint8; black ink on white."""
    rows = [torch.cat([way[t][i, 0] for t in range(500, -1, -EVERY)], dim=1) for i in range(SHOWN)]
    return (127.5 * (1 - torch.cat(rows).clamp(-1, 1))).round().byte()


def main() -> int:
    """Sample a few digits and draw their way from noise."""
    way = way_from_noise()
    Image.fromarray(frames(way).numpy()).save(HERO, optimize=True)
    use_style()
    rows = [torch.stack([way[t][i] for t in TIMES]) for i in range(DIGITS)]
    figure = picture_rows(rows, [""] * DIGITS, [f"t = {t}" for t in TIMES], size=0.85)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE)
    print(f"{PICTURE.relative_to(ROOT)}: drawn with {WEIGHTS.relative_to(ROOT)}, seed {SEED}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
