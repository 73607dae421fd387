"""Serve the book's pictures small and sharp, and say how large they are before they load.

The pictures are drawn with two dots for each pixel of a page (`ddpm_nb/_figures.py`). matplotlib writes them in full
colour, though they have few colours; a palette keeps every one that an eye tells apart, at a third of the bytes.
Photographs (class `photo`) have too many colours for that and become WebP.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx
    from sphinx.util.typing import ExtensionMetadata

LIMIT = 60_000  # bytes
IMAGE = re.compile(r"<img\b[^>]*>")
DENSITY = 2  # dots of a picture for each pixel of a page
PHOTOS: set[str] = set()  # the file names of photographs, found on the pages


def shrink(path: Path) -> None:
    """Rewrite a PNG with as many colours as fit into the limit, unless that makes it larger."""
    size = path.stat().st_size
    with Image.open(path) as opened:
        picture = opened.convert("RGBA")
    if picture.getextrema()[3][0] == 255:  # opaque throughout
        picture = picture.convert("RGB")
    new = path.with_suffix(".new")
    for colours in (256, 128, 64, 32):
        method = (
            Image.Quantize.FASTOCTREE
            if picture.mode == "RGBA"
            else Image.Quantize.MEDIANCUT
        )
        small = picture.quantize(colours, method=method, dither=Image.Dither.NONE)
        small.save(new, format="PNG", optimize=True)
        if new.stat().st_size <= LIMIT:
            break
    if new.stat().st_size < size:
        new.replace(path)
    else:
        new.unlink()


def as_webp(path: Path) -> None:
    """Put a WebP in the place of a PNG, as good as the limit allows."""
    new = path.with_suffix(".webp")
    with Image.open(path) as picture:
        for quality in range(95, 20, -5):
            picture.save(new, quality=quality, method=6)
            if new.stat().st_size <= LIMIT:
                break
    path.unlink()


def finish(app: Sphinx, error: Exception | None) -> None:
    """After the build: every picture that was copied to the site."""
    if error is None and app.builder.format == "html":
        for path in sorted(Path(app.outdir, "_images").glob("*.png")):
            if path.name in PHOTOS:
                as_webp(path)
            else:
                shrink(path)


def sized(tag: str, original: Path) -> str:
    """An <img> with its size, so that nothing jumps, and loaded only when the reader comes near."""
    with Image.open(original) as picture:
        width, height = picture.size
    given = re.search(r'\bwidth="(\d+)"', tag)
    shown = int(given[1]) if given else round(width / DENSITY)
    attributes = "" if given else f' width="{shown}"'
    attributes += f' height="{round(height * shown / width)}" loading="lazy"'
    return re.sub(r"\s*/?>$", f"{attributes} />", tag)


def place(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    if "body" not in context or app.builder.format != "html":
        return
    # Pictures are copied at the end of a build; here they are still where Sphinx found them.
    originals = {
        name: Path(app.srcdir, path) for path, name in app.builder.images.items()
    }

    def one(match: re.Match[str]) -> str:
        tag = match[0]
        name = re.search(r'\bsrc="(?:[^"]*/)?([^"/]+\.png)"', tag)
        if not name or name[1] not in originals:
            return tag
        tag = sized(tag, originals[name[1]])
        if re.search(r'\bclass="[^"]*\bphoto\b', tag):
            PHOTOS.add(name[1])
            tag = tag.replace(name[1], f"{name[1][:-4]}.webp")
        return tag

    context["body"] = IMAGE.sub(one, context["body"])


def setup(app: Sphinx) -> ExtensionMetadata:
    app.connect("html-page-context", place)
    app.connect("build-finished", finish)
    # Pages are written in one process, because PHOTOS is filled there and used at the end.
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": False}
