"""How every picture of the book is drawn: one style, one set of colours, few helpers.

Only demonstration cells import this module; the package itself never needs matplotlib.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

# Told apart by colour-blind readers (after Okabe and Ito), darkened until text in them has a contrast of 4.5 : 1
# or more on white. The site shows pictures on a dark page with lightness inverted, so the same holds there.
BLUE, ORANGE, GREEN, PURPLE, GREY = (
    "#0060a0",
    "#b84a00",
    "#00704c",
    "#8f3a84",
    "#5c5c5c",
)
COLORS = (BLUE, ORANGE, GREEN, PURPLE, GREY)
# What has one colour through the whole book.
DATA, NOISE, SIGNAL, MODEL = BLUE, ORANGE, GREEN, PURPLE


def use_style() -> None:
    """Set matplotlib's defaults for the book: quiet axes, sharp on a double-density screen."""
    plt.rcParams.update(
        {
            # No wider than 5.2 inches: on a phone, 358 pixels wide, type of 10 points has 9.5 pixels then.
            "figure.figsize": (5.2, 2.4),
            "figure.dpi": 230,  # two dots for each of the 115 to the inch of a page
            "figure.constrained_layout.use": True,
            "savefig.bbox": "tight",
            "font.size": 10,
            "axes.titlesize": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": plt.cycler(color=COLORS),
            "image.cmap": "gray_r",
            "image.interpolation": "nearest",
            "legend.frameon": False,
            "lines.linewidth": 1.8,
        }
    )


def label_line(
    ax: Axes,
    x: float,
    y: float,
    text: str,
    color: str,
    *,
    ha: str = "left",
    va: str = "center",
) -> None:
    """Write `text` beside a line at (x, y) in the line's own colour: no legend to look up."""
    ax.annotate(
        text,
        (x, y),
        xytext=(4, 0),
        textcoords="offset points",
        color=color,
        ha=ha,
        va=va,
    )


def _tile(images: Tensor, columns: int) -> np.ndarray:
    """Put pictures (N, 1, H, W) or (N, 3, H, W) in [-1, 1] side by side, a thin white line between them."""
    images = images.detach().float().clamp(-1, 1).cpu()
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    blank = (
        -1.0 if channels == 1 else 1.0
    )  # white: grey pictures are drawn as ink on paper
    sheet = torch.full(
        (channels, rows * (height + 1) - 1, columns * (width + 1) - 1), blank
    )
    for i, picture in enumerate(images):
        top, left = (i // columns) * (height + 1), (i % columns) * (width + 1)
        sheet[:, top : top + height, left : left + width] = picture
    return sheet.permute(1, 2, 0).numpy()


def show_images(ax: Axes, images: Tensor, columns: int | None = None) -> None:
    """Show pictures (N, C, H, W) in [-1, 1] as one sheet with `columns` columns (default: one row)."""
    sheet = _tile(images, columns or len(images))
    if sheet.shape[2] == 1:
        ax.imshow(sheet[:, :, 0], vmin=-1, vmax=1)
    else:
        ax.imshow((sheet + 1) / 2)
    ax.set(xticks=[], yticks=[])
    for edge in ax.spines.values():  # a frame: else white borders melt into the page
        edge.set(visible=True, color="#c8c8c8", linewidth=0.6)


def picture_rows(
    rows: Sequence[Tensor],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    size: float = 0.8,
) -> Figure:
    """Draw a table of pictures: one tensor (N, C, H, W) a row, labels at the left and on top."""
    columns = len(column_labels)
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(size * columns, size * len(rows)), squeeze=False
    )
    for line, images, row_label in zip(axes, rows, row_labels, strict=True):
        for ax, picture in zip(line, images, strict=True):
            show_images(ax, picture[None])
        line[0].text(
            -0.15, 0.5, row_label, transform=line[0].transAxes, ha="right", va="center"
        )
    for ax, text in zip(axes[0], column_labels, strict=True):
        ax.set_title(text)
    return figure
