"""Serve the book's pictures small and sharp, and say how large they are before they load.

The pictures are drawn with two dots for each pixel of a page (`ddpm_nb/_figures.py`) and stored as PNG. The site gets
WebP: drawings exactly as they are, or with fewer colours where they would be too heavy; photographs (class `photo`) as
well as the limit allows. What is drawn as SVG (`tools/drawings.py`) becomes part of its page, whose font and colours it
takes.
"""

import re
from itertools import chain
from pathlib import Path
from typing import Any

from PIL import Image
from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

LIMIT = 60_000  # bytes
IMAGE = re.compile(r'<img\b[^>]*\bsrc="(?:[^"]*/)?([^"/]+\.png)"[^>]*>')
DRAWING = re.compile(r'<img\b[^>]*\balt="([^"]*)"[^>]*\bsrc="[^"]*/([^"/]+\.svg)"[^>]*>')
DENSITY = 2  # dots of a picture for each pixel of a page
PHOTOS: dict[str, bool] = {}  # the pictures of the pages, by file name: whether it is a photograph


def as_webp(path: Path, photo: bool) -> None:
    """Put a WebP in the place of a PNG: the first that is light enough."""
    new = path.with_suffix(".webp")
    with Image.open(path) as opened:
        picture = opened.convert("RGBA" if photo else "RGB")
    fewer = (picture.quantize(colours, dither=Image.Dither.NONE).convert("RGB") for colours in (256, 128, 64, 32))
    drawn = ((version, {"lossless": True}) for version in chain([picture], fewer))
    taken = ((picture, {"quality": quality}) for quality in range(95, 20, -5))
    for version, options in taken if photo else drawn:
        version.save(new, method=6, **options)
        if new.stat().st_size <= LIMIT:
            break
    path.unlink()


def finish(app: Sphinx, error: Exception | None) -> None:
    """Rewrite every picture that was copied to the site."""
    if error is None and app.builder.format == "html":
        for name, photo in PHOTOS.items():
            as_webp(Path(app.outdir, "_images", name), photo)


def place(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Give each <img> its size, so that nothing jumps, and let it load only when the reader comes near."""
    if "body" not in context or app.builder.format != "html":
        return
    # Pictures are copied at the end of a build; here they are still where Sphinx found them.
    originals = {name: Path(app.srcdir, path) for path, name in app.builder.images.items()}

    def sized(match: re.Match[str]) -> str:
        tag, name = match[0], match[1]
        PHOTOS[name] = bool(re.search(r'\bclass="[^"]*\bphoto\b', tag))
        with Image.open(originals[name]) as picture:
            width, height = picture.size
        given = re.search(r'\bwidth="(\d+)"', tag)
        shown = int(given[1]) if given else round(width / DENSITY)
        size = f' width="{shown}"' * (not given) + f' height="{round(height * shown / width)}"'
        return re.sub(r"\s*/?>$", f'{size} loading="lazy" />', tag)

    def drawn(match: re.Match[str]) -> str:
        return originals[match[2]].read_text("utf-8").replace("<svg", f'<svg role="img" aria-label="{match[1]}"', 1)

    body = DRAWING.sub(drawn, IMAGE.sub(sized, context["body"]))
    context["body"] = re.sub(r"(/_images/[^\"/]+)\.png\"", r'\1.webp"', body)  # also where a picture links to itself


def setup(app: Sphinx) -> ExtensionMetadata:
    app.connect("html-page-context", place)
    app.connect("build-finished", finish)
    # Pages are written in one process, because PHOTOS is filled there and used at the end.
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": False}
