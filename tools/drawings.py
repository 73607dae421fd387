"""Draw the chain that opens each chapter, and the U-Net, as SVG: python -m tools.drawings [FOLDER].

One source for all: the same chain x_0 … x_T each time, q above it, p_θ below, with another part lit. It is 360 units
wide, so that its text is legible on a phone. The site sets the colours of each theme (book.css); elsewhere it is black
on white.
"""

import re
import sys
from base64 import b64encode
from collections.abc import Sequence
from io import BytesIO
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor

from ddpm_nb import Schedule, UNet, q_step
from ddpm_nb._figures import DATA, MODEL, NOISE, SIGNAL
from ddpm_nb.cifar10 import load_digits
from tools.book import ROOT

FOLDER, SHEET = ROOT / "book/images", ROOT / "book/weights/cifar10-small-sheet.png"
# Ten steps, so that a single one can be seen: the pictures are x_0, x_4, x_5 and x_10 of one walk with q.
SCHEDULE, SEED, DIGIT, SAMPLE = Schedule.cosine(T=10), 0, 9, (7, 2)
TIMES = (0, 4, 5, 10)
WIDTH, SIDE, TOP, CENTRES = 360, 48, 50, (30, 136, 224, 330)
UP, DOWN = 45, 122  # where arcs end
COLOURS = {"d": ("data", DATA), "m": ("model", MODEL), "n": ("noise", NOISE), "s": ("signal", SIGNAL)}
STYLE = """
.drawing text{font:14px 'STIX Two Math',serif;text-anchor:middle;fill:var(--ink,#000)}
.drawing .sub{font-size:10px}.drawing .word{font-size:12.5px}.drawing .g{fill:var(--quiet,#5c5c5c)}
.drawing path{fill:none;stroke:var(--line,#a8a8a8)}.drawing .lit{stroke-width:1.8}
.drawing .head{fill:var(--line,#a8a8a8);stroke:none}.drawing .ink{fill:var(--ink,#000);stroke:none}
.drawing .far{opacity:.4}.drawing .farther{opacity:.13}.drawing .soft{fill-opacity:.22}
.drawing .paper{fill:var(--paper,#fff)}.drawing image{image-rendering:pixelated}
""" + "".join(
    f".drawing .lit.{key}{{stroke:var(--{name},{color})}}"
    f".drawing :is(tspan,.head).{key}{{fill:var(--{name},{color})}}\n"
    for key, (name, color) in COLOURS.items()
)


def walk(x: Tensor) -> list[Tensor]:
    """The pictures at TIMES on one walk of q from x (1, C, H, W)."""
    generator, way = torch.Generator().manual_seed(SEED), [x.double()]
    for t in range(1, SCHEDULE.T + 1):
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        way.append(q_step(way[-1], torch.tensor([t]), noise, SCHEDULE))
    return [way[t][0].clamp(-1, 1) for t in TIMES]


def picture(x: Tensor, left: float) -> str:
    """A grey picture (1, H, W) as squares of ink in eight strengths, a coloured one (3, H, W) as pixels."""
    if len(x) == 3:
        file = BytesIO()  # BMP: the same bytes whatever library compresses
        Image.fromarray((127.5 * (x + 1)).round().byte().permute(1, 2, 0).numpy()).save(file, "BMP")
        data = b64encode(file.getvalue()).decode()
        return f'<image x="{left}" y="{TOP}" width="{SIDE}" height="{SIDE}" href="data:image/bmp;base64,{data}"/>'
    size, squares = SIDE // x.shape[2], dict[int, str]()
    for row, pixels in enumerate((4 * (x[0] + 1)).round().int().tolist()):
        column = 0
        for level, run in groupby(pixels):
            count = len(list(run))
            # A little over the edge: else pale seams show between squares.
            box = f"M{left + size * column} {TOP + size * row}h{size * count}.1v{size}.1h-{size * count}.1z"
            squares[level] = squares.get(level, "") + box
            column += count
    return "".join(f'<path class="ink" opacity="{n / 8}" d="{d}"/>' for n, d in sorted(squares.items()) if n)


def letters(formula: str) -> str:
    """Letters in italics, as formulas on the page have them."""
    for first, last, italic in (("a", "z", 0x1D44E), ("A", "Z", 0x1D434), ("α", "ω", 0x1D6FC)):
        formula = "".join(chr(ord(c) - ord(first) + italic) if first <= c <= last else c for c in formula)
    return formula


def text(x: float, y: float, parts: str) -> str:
    """A line centred at x: parts `colour:formula` or `word:words`, divided by `;`; `_t` and `_{t−1}` are indices."""
    spans, low = "", 0
    for look, _, formula in (part.partition(":") for part in parts.split(";")):
        for i, piece in enumerate(re.split(r"_(?:\{(.+?)\}|(.))", formula)):
            if piece:
                index = i % 3 > 0
                move = f' dy="{3 * (index - low)}"' if index != low else ""
                shown = piece if look.startswith("word") else letters(piece)
                spans, low = f'{spans}<tspan class="{look}{" sub" * index}"{move}>{shown}</tspan>', index
    return f'<text x="{x}" y="{y}">{spans}</text>'


def line(points: Sequence[Sequence[float]], colour: str = "", *, curve: bool = False, head: bool = True) -> str:
    """A line through points, or a curve from the first to the last, with an arrow's head at its end."""
    end = np.array(points[-1], dtype=float)
    along = (end - points[-2]) / np.linalg.norm(end - points[-2])
    foot, across = end - 7 * along, 3.2 * np.array([-along[1], along[0]])
    stops = [f"{x:.4g} {y:.4g}" for x, y in [*points[:-1], end - 5 * along * head]]
    tip = "L".join(f"{x:.4g} {y:.4g}" for x, y in (end, foot + across, foot - across))
    drawn = f'<path class="{colour and colour + " lit"}" d="M{stops[0]}{"C" if curve else "L"}{" ".join(stops[1:])}"/>'
    return drawn + head * f'<path class="head {colour}" d="M{tip}z"/>'


def box(left: float, top: float, width: float, height: float, look: str) -> str:
    return f'<path class="{look}" d="M{left:.4g} {top:.4g}h{width:.4g}v{height:.4g}h-{width:.4g}z"/>'


def arc(start: int, end: int, marks: str) -> str:
    """An arrow from one picture to another: above them to the right, below them to the left."""
    way, above = (1, "~" not in marks) if end > start else (-1, "~" in marks)
    gap, far, lean = {"^": (0, 100, 12), "v": (0, 62, 5)}.get(marks[-1:], (9 * way, 30, 4))
    a, b, y, side = CENTRES[start] + gap, CENTRES[end] - gap, UP if above else DOWN, -1 if above else 1
    part = (b - a) / lean
    points = [(a, y), (a + part, y + side * far), (b - part, y + side * far), (b, y)]
    return line(points, marks.strip("^v~"), curve=True)


def hill(colour: str, *bells: Sequence[float]) -> str:
    """A density: bells with their middle, width and height."""
    x = np.arange(8, 136, 4)
    heights = [height * np.exp(-(((x - middle) / width) ** 2) / 2) for middle, width, height in bells]
    return line(np.stack([x, 204 - np.sum(heights, axis=0)], axis=1).tolist(), colour, head=False)


def shares() -> str:
    """Under each picture, how much of its variance is signal and how much noise."""
    strips = ""
    for t, centre in zip(TIMES, CENTRES, strict=True):
        left, part = centre - SIDE / 2, SIDE * float(SCHEDULE.alpha_bar[t])
        strips += box(left, 99, part, 4, "head s") + box(left + part, 99, SIDE - part, 4, "head n")
    return strips


PARTS = {
    "hills": hill("d", (44, 10, 38), (88, 11, 28)) + hill("m", (66, 25, 28)),
    "shares": shares(),
    "network": line(
        [(158, 131), (180, 138), (202, 131), (202, 157), (180, 150), (158, 157), (158, 130)], "m", head=False
    )
    + line([(224, DOWN), (224, 144), (203, 144)], "m")
    + line([(157, 144), (136, 144), (136, DOWN)], "m"),
    "loop": line([(136, 160), (136, 202), (224, 202), (224, 160)], "m", curve=True),
    "brackets": "".join(
        line([(a, 149), (a, 155), (b, 155), (b, 149)], "m", head=False) for a, b in ((6, 130), (142, 218), (230, 354))
    ),
}


def drawing(top: int, bottom: int, body: str) -> str:
    high = bottom - top
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="drawing" viewBox="0 {top} {WIDTH} {high}" '
        f'width="{1.5 * WIDTH:g}" height="{1.5 * high:g}"><style>{STYLE}</style>'
        f'<rect class="paper" y="{top}" width="{WIDTH}" height="{high}"/>{body}</svg>\n'
    )


def chain(pictures: Sequence[Tensor], look: dict[str, Any]) -> str:
    """One chain, as chains.yml describes it."""
    arcs = look.get("arcs", "01 12 23 10 21 32").split()
    body = "".join(arc(int(what[0]), int(what[1]), what[2:]) for what in arcs)
    names = look.get("names", ("x_0", "x_{t−1}", "x_t", "x_T"))
    for x, centre, colour, name in zip(pictures, CENTRES, look["lit"], names, strict=True):
        how = "" if colour != "-" else "far" if name else "farther"
        frame = box(centre - SIDE / 2, TOP, SIDE, SIDE, how or f"lit {colour}")
        body += f'<g class="{how}">{picture(x, centre - SIDE // 2)}{frame}</g>'
        body += text(centre, TOP + SIDE + 16, f"{'g' * bool(how)}:{name}") if name else ""
    body += "".join(text(x, TOP + 28, "g:⋯") for x in (83, 277) if all(names))
    body += "".join(PARTS[part] for part in look.get("parts", ()))
    body += "".join(text(*label) for label in look["labels"])
    return drawing(look.get("from", 0), look.get("to", 168), body)


def unet() -> str:
    """The paper's U-Net: a box a level and side, its height the size of the picture, its width the channels."""
    with torch.device("meta"):
        config = UNet.cifar10().config
    levels = list(zip(config["channel_mult"], config["attention_levels"], strict=True))
    body, y, boxes = "", 44.0, []
    for i, (wide, attends) in enumerate(levels):
        channels, size = config["channels"] * wide, 32 >> i
        width, height, left = channels / 11, 14 + 1.2 * size, 28 + 27 * i
        middle = y + height / 2
        for x in (left, WIDTH - left - width):
            body += box(x, y, width, height, "lit m" + " head m soft" * attends)
        body += line([(left + width + 4, middle), (WIDTH - left - width - 4, middle)])
        body += text(WIDTH / 2, middle - 5, f":{channels} × {size} × {size}")
        boxes.append((left, left + width / 2, y + height, middle))
        y += height + 18
    for (_, x, low, _), (left, _, _, middle) in pairwise(boxes):
        body += line([(x, low), (x, middle), (left - 2, middle)], "m")
        body += line([(WIDTH - left, middle), (WIDTH - x, middle), (WIDTH - x, low + 2)], "m")
    _, x, low, _ = boxes[-1]
    body += line([(x, low), (x, y + 8), (WIDTH / 2 - 14, y + 8)], "m") + box(
        WIDTH / 2 - 12, y, 24, 18, "lit m head soft"
    )
    body += line([(WIDTH / 2 + 12, y + 8), (WIDTH - x, y + 8), (WIDTH - x, low + 2)], "m")
    x = boxes[0][1]
    body += line([(x, 22), (x, 42)], "n") + line([(WIDTH - x, 44), (WIDTH - x, 24)], "m")
    body += text(x, 14, ":x_t") + text(WIDTH - x, 14, "m:ε_θ(x_t, t)")
    body += "".join(text(at, 14, f":{config['in_channels']} × 32 × 32") for at in (92, 240))
    body += text(WIDTH / 2, y + 42, f":t;word:, as {4 * config['channels']} numbers, goes to every block")
    return drawing(0, int(y) + 68, body + text(WIDTH / 2, y + 60, "word:shaded: with attention"))


def main(folder: Path = FOLDER) -> int:
    """Write all drawings."""
    with Image.open(SHEET) as opened:
        sheet = torch.tensor(np.array(opened.convert("RGB"))).permute(2, 0, 1) / 127.5 - 1
    row, column = (32 * place for place in SAMPLE)
    digit, sample = load_digits().images[DIGIT], sheet[:, row : row + 32, column : column + 32]
    for name, look in yaml.safe_load((FOLDER / "chains.yml").read_text(encoding="utf-8")).items():
        pictures = walk((sample if name == "cifar10" else digit)[None])
        (folder / f"chain-{name}.svg").write_text(chain(pictures, look), encoding="utf-8")
    (folder / "unet.svg").write_text(unet(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
