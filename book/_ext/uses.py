"""Back-links: under each labelled equation, the code that computes it and the places where it is used.

A use is a link `Eq. [name](#eq-name)` in a chapter. Each gets an anchor, so that the way back leads to the sentence; it
is called by the number of its section.
"""

from html import escape
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata
from sphinx.writers.html5 import HTML5Translator


def note(app: Sphinx, doctree: nodes.document) -> None:
    """Mark each use of an equation, and remember it by the equation's label, with what Sphinx knows of the page."""
    uses = app.env.metadata[app.env.docname].setdefault("uses", {})
    for link in list(doctree.findall(addnodes.pending_xref)):
        label = str(link.get("reftarget", ""))
        if not label.startswith(("eq-", "def-")) or link.get("refdomain") == "math":
            continue
        found = uses.setdefault(label, {})
        anchor, section = f"use-{label}-{len(found) + 1}", link.parent
        while not isinstance(section, nodes.section):
            section = section.parent
        found[anchor] = section["ids"][0]
        link.parent.insert(link.parent.index(link), nodes.target("", "", ids=[anchor], names=[]))


def uses_html(translator: HTML5Translator, label: str) -> str:
    """The line under an equation: its code and its uses in the chapters, or nothing."""
    env: Any = translator.builder.env
    here = translator.builder.current_docname.removeprefix("book/")  # type: ignore[attr-defined]
    code = [
        f'<a href="#code-{name.partition(".")[0]}"><code>{escape(name)}</code></a>'
        for name in env.book_code.get(label, [])
        if env.book_home.get(name.partition(".")[0]) == here
    ]
    places: dict[str, str] = {}  # number of a section -> a link to its first use
    for chapter in env.book_chapters:
        numbers = env.toc_secnumbers[f"book/{chapter}"]
        for anchor, section in env.metadata[f"book/{chapter}"]["uses"].get(label, {}).items():
            number = ".".join(map(str, numbers.get(f"#{section}", numbers[""])))
            page = "" if chapter == here else f"{chapter}.html"
            places.setdefault(number, f'<a href="{page}#{anchor}" aria-label="section {number}">{number}</a>')
    parts = [
        f"{title}: {', '.join(links)}" for title, links in (("Code", code), ("Used in", [*places.values()])) if links
    ]
    return f'<p class="eq-uses">{" · ".join(parts)}</p>\n' if parts else ""


def setup(app: Sphinx) -> ExtensionMetadata:
    app.connect("doctree-read", note)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
