"""Back-links: under each labelled equation, the code that computes it and the places where it is used.

A use is a link `Eq. [name](#eq-name)` in a chapter. Each gets an anchor, so that the way back leads to the sentence.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx import addnodes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment
    from sphinx.util.typing import ExtensionMetadata
    from sphinx.writers.html5 import HTML5Translator


def note(app: Sphinx, doctree: nodes.document) -> None:
    """Mark each use of an equation, and remember it by the equation's label."""
    env: Any = app.env
    for link in list(doctree.findall(addnodes.pending_xref)):
        label = str(link.get("reftarget", ""))
        if not label.startswith(("eq-", "def-")) or link.get("refdomain") == "math":
            continue
        uses = env.book_uses.setdefault(label, {}).setdefault(env.docname, [])
        anchor = f"use-{label}-{len(uses) + 1}"
        uses.append(anchor)
        link.parent.insert(
            link.parent.index(link), nodes.target("", "", ids=[anchor], names=[])
        )


def start(app: Sphinx, env: Any, docnames: list[str]) -> None:
    """Sphinx keeps what stands in its environment; the first build begins with nothing."""
    if not hasattr(env, "book_uses"):
        env.book_uses = {}


def forget(app: Sphinx, env: Any, docname: str) -> None:
    for pages in getattr(env, "book_uses", {}).values():
        pages.pop(docname, None)


def merge(
    app: Sphinx, env: Any, docnames: Iterable[str], other: BuildEnvironment | Any
) -> None:
    for label, pages in other.book_uses.items():
        env.book_uses.setdefault(label, {}).update(pages)


def uses_html(translator: HTML5Translator, label: str) -> str:
    """The line under an equation: its code and its uses in the chapters, or nothing."""
    env: Any = translator.builder.env
    here = translator.builder.current_docname  # type: ignore[attr-defined]
    parts = []
    code = [
        f'<a href="#code-{name.partition(".")[0]}"><code>{escape(name)}</code></a>'
        for name in env.book_code.get(label, [])
        if env.book_home.get(name.partition(".")[0]) == Path(here).name
    ]
    if code:
        parts.append("Code: " + ", ".join(code))
    places = []
    for page, anchors in env.book_uses.get(label, {}).items():
        chapter = Path(page).name
        if chapter not in env.book_chapters:
            continue
        uri = "" if page == here else translator.builder.get_relative_uri(here, page)
        name = "here" if page == here else chapter
        links = [
            f'<a href="{uri}#{anchor}"'
            + (f' aria-label="{name}, use {i}">{i}</a>' if i > 1 else f">{name}</a>")
            for i, anchor in enumerate(anchors, start=1)
        ]
        places.append((env.book_chapters.index(chapter), " ".join(links)))
    if places:
        parts.append("Used: " + ", ".join(html for _, html in sorted(places)))
    return f'<p class="eq-uses">{" · ".join(parts)}</p>\n' if parts else ""


def setup(app: Sphinx) -> ExtensionMetadata:
    app.connect("env-before-read-docs", start)
    app.connect("env-purge-doc", forget)
    app.connect("env-merge-info", merge)
    app.connect("doctree-read", note)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
