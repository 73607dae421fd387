"""The chapters at a glance: as cards, and as a map of what builds on what.

`<div class="chapter-cards">names</div>` becomes a card for each: the picture that opens it, its question, and how long
it takes to read. `<div class="chapter-map"></div>` becomes the map, drawn from the modules' imports and from the
equations that are used. It is a list, which any reader can hear and any screen can fold; the arcs beside it only show
the same at a glance.
"""

import json
import re
from html import escape
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

from functions import root
from mathml import to_mathml

CARDS = re.compile(r'<div class="chapter-cards">([\w ]+)</div>')
QUESTION = re.compile(r"\*\*The question\.\*\* (.+)")
WORDS_A_MINUTE = 200
PLACE = '<div class="chapter-map"></div>'
ROW, STEP = 68, 9  # pixels: the height of a row, and how much wider a longer arc swings


def needs(env: Any) -> dict[str, list[str]]:
    """For each chapter the earlier ones it builds on directly: those reached through another one are left out."""
    order: list[str] = env.book_chapters
    direct: dict[str, set[str]] = {name: set(env.book_needs[name]) for name in order}
    for name in order:
        for label in env.metadata[f"book/{name}"]["uses"]:
            page, _ = env.get_domain("math").equations[label]
            direct[name].add(Path(page).name)
    reached: dict[str, set[str]] = {}
    result = {}
    for i, name in enumerate(order):
        earlier = [other for other in order[:i] if other in direct[name]]
        reached[name] = set(earlier).union(*(reached[other] for other in earlier))
        result[name] = [other for other in earlier if not any(other in reached[between] for between in earlier)]
    return result


def draw(env: Any) -> str:
    order, direct = env.book_chapters, needs(env)
    middle = {name: (i + 0.5) * ROW for i, name in enumerate(order)}
    steps = [(name, other, order.index(name) - order.index(other)) for name in order for other in direct[name]]
    right = 14 + STEP * max((far for *_, far in steps), default=1)
    height = ROW * len(order)
    arcs = rows = ""
    for name, other, far in steps:
        x, top, end = right - 8 - STEP * far, middle[other] + 5, middle[name] - 5
        arcs += f'<path d="M{right - 5} {top}C{x} {top} {x} {end} {right - 6} {end}"/>'
    for number, name in enumerate(order, start=1):
        below = ", ".join(direct[name])
        if below:
            arcs += f'<path class="head" d="M{right - 8} {middle[name] - 9}l8 4l-8 4z"/>'
        rows += (
            f'<li><a href="{name}.html">{number}. {escape(env.titles[f"book/{name}"].astext())}</a> '
            f"<small>{escape(name)}: {'builds on ' + below if below else 'needs no other chapter'}</small></li>"
        )
    return (
        f'<div class="chapter-map" style="--row: {ROW}px">'
        f'<svg width="{right}" height="{height}" viewBox="0 0 {right} {height}" aria-hidden="true">{arcs}</svg>'
        f"<ol>{rows}</ol></div>"
    )


def card(app: Sphinx, name: str) -> str:
    """A link to a chapter: its drawing, its number and title, its question, and the minutes that its prose takes."""
    cells = json.loads((root(app) / f"book/{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    found = QUESTION.search(text)
    question = re.sub(r"\*\*?(.+?)\*\*?", r"<em>\1</em>", found[1] if found else "")
    question = re.sub(r"\$(.+?)\$", lambda formula: to_mathml(formula[1], display=False), question)
    minutes = round(len(re.sub(r"\$\$.*?\$\$", "", text, flags=re.S).split()) / WORDS_A_MINUTE)
    number, title = app.env.book_chapters.index(name) + 1, app.env.titles[f"book/{name}"].astext()  # type: ignore[attr-defined]
    return (
        f'<a class="chapter-card" href="{name}.html"><img src="../_images/chain-{name}.svg" alt="" loading="lazy" '
        f'width="270" height="126"><strong>{number}. {escape(title)}</strong> <span>{question}</span> '
        f"<small>{minutes} minutes to read</small></a>"
    )


def place(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    if PLACE in context.get("body", ""):
        context["body"] = context["body"].replace(PLACE, draw(app.env))
    context["body"] = CARDS.sub(
        lambda names: f'<div class="chapter-cards">{"".join(card(app, name) for name in names[1].split())}</div>',
        context.get("body", ""),
    )


def setup(app: Sphinx) -> ExtensionMetadata:
    app.setup_extension("functions")
    app.setup_extension("uses")
    app.connect("html-page-context", place)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
