"""A map of the chapters: what builds on what, drawn from the modules' imports and from the equations that are used.

It replaces `<div class="chapter-map"></div>` on a page. The map is a list, which any reader can hear and any screen can
fold; the arcs beside it only show the same at a glance.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.util.typing import ExtensionMetadata

PLACE = '<div class="chapter-map"></div>'
ROW, STEP = 68, 9  # pixels: the height of a row, and how much wider a longer arc swings


def needs(env: Any) -> dict[str, list[str]]:
    """For each chapter the earlier ones it builds on directly: those reached through another one are left out."""
    order: list[str] = env.book_chapters
    direct: dict[str, set[str]] = {name: set(env.book_needs[name]) for name in order}
    for label, pages in env.book_uses.items():
        home = env.book_labels.get(label)
        for page, anchors in pages.items():
            name = Path(page).name
            if anchors and name in direct and home in direct:
                direct[name].add(home)
    reached: dict[str, set[str]] = {}
    result = {}
    for i, name in enumerate(order):
        earlier = [other for other in order[:i] if other in direct[name]]
        reached[name] = set(earlier).union(*(reached[other] for other in earlier))
        result[name] = [
            other
            for other in earlier
            if not any(other in reached[between] for between in earlier)
        ]
    return result


def draw(env: Any) -> str:
    order, direct = env.book_chapters, needs(env)
    middle = {name: (i + 0.5) * ROW for i, name in enumerate(order)}
    longest = max(
        (
            order.index(name) - order.index(other)
            for name in order
            for other in direct[name]
        ),
        default=1,
    )
    right = 14 + STEP * longest
    arcs = ""
    for name in order:
        for other in direct[name]:
            far = order.index(name) - order.index(other)
            x, top, end = right - 8 - STEP * far, middle[other] + 5, middle[name] - 5
            arcs += (
                f'<path d="M{right - 5} {top}C{x} {top} {x} {end} {right - 6} {end}"/>'
            )
    heads = "".join(
        f'<path class="head" d="M{right - 8} {middle[name] - 9}l8 4l-8 4z"/>'
        for name in order
        if direct[name]
    )
    rows = ""
    for number, name in enumerate(order, start=1):
        title = env.titles[f"book/{name}"].astext()
        below = ", ".join(direct[name])
        rows += (
            f'<li><a href="{name}.html">{number}. {escape(title)}</a> '
            f"<small>{escape(name)}: {'builds on ' + below if below else 'needs no other chapter'}</small></li>"
        )
    height = ROW * len(order)
    return (
        f'<div class="chapter-map" style="--row: {ROW}px">'
        f'<svg width="{right}" height="{height}" viewBox="0 0 {right} {height}" aria-hidden="true">{arcs}{heads}</svg>'
        f"<ol>{rows}</ol></div>"
    )


def note_labels(app: Sphinx, doctree: nodes.document) -> None:
    """Remember in which chapter each labelled equation stands."""
    env: Any = app.env
    for equation in doctree.findall(nodes.math_block):
        if equation.get("label"):
            env.book_labels[equation["label"]] = Path(env.docname).name


def start(app: Sphinx, env: Any, docnames: list[str]) -> None:
    if not hasattr(env, "book_labels"):
        env.book_labels = {}


def merge(app: Sphinx, env: Any, docnames: list[str], other: Any) -> None:
    env.book_labels.update(other.book_labels)


def place(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    if PLACE in context.get("body", ""):
        context["body"] = context["body"].replace(PLACE, draw(app.env))


def setup(app: Sphinx) -> ExtensionMetadata:
    app.setup_extension("functions")
    app.setup_extension("uses")
    app.connect("env-before-read-docs", start)
    app.connect("env-merge-info", merge)
    app.connect("doctree-read", note_labels)
    app.connect("html-page-context", place)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
