"""Draw the first page's picture with the book's own digits model, from noise to digits: python -m tools.pictures."""

import sys

import matplotlib

matplotlib.use("Agg")

import torch
from safetensors.torch import load_file

from ddpm_nb import Schedule, UNet, sample_steps
from ddpm_nb._figures import picture_rows, use_style
from tools.book import ROOT

WEIGHTS, PICTURE = ROOT / "book/weights/digits.safetensors", ROOT / "book/images/noise-to-digits.png"
TIMES, DIGITS, SEED = (499, 350, 250, 150, 100, 50, 20, 0), 5, 0


def main() -> int:
    """Sample a few digits and keep their way from noise."""
    model = UNet.digits()
    model.load_state_dict(load_file(WEIGHTS))
    generator = torch.Generator().manual_seed(SEED)
    steps = sample_steps(model, (DIGITS, 1, 8, 8), Schedule.cosine(T=500), clip=True, generator=generator)
    way = {step.t: step.x for step in steps if step.t in TIMES}
    use_style()
    rows = [torch.stack([way[t][i] for t in TIMES]) for i in range(DIGITS)]
    figure = picture_rows(rows, [""] * DIGITS, [f"t = {t}" for t in TIMES], size=0.85)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE)
    print(f"{PICTURE.relative_to(ROOT)}: drawn with {WEIGHTS.relative_to(ROOT)}, seed {SEED}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
