"""The page of functions, made from the docstrings, and the links between it, the chapters and the equations.

Sphinx's autodoc reads the modules; this extension says which, resolves the labels of equations that the docstrings
name, and links every mention of a function: its definition in a chapter, a call in a code cell, a name in prose. The
site's search learns here how chapters and functions are weighed.
"""

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.typing import ExtensionMetadata

PACKAGE = "ddpm_nb"
PAGE = "book/functions"
EQUATION = re.compile(r"Equation: ((?:eq|def)-[\w-]+(?:,\s+(?:eq|def)-[\w-]+)*)\.")
LABEL = re.compile(r"(?:eq|def)-[\w-]+")

# A definition or a call as Pygments writes it; a call of a method has a dot before its name. In a summary, which is
# clicked itself, nothing is linked.
DEFINITION = re.compile(
    r'(?P<before>(?:^|<pre><span></span>)<span class="k">(?:def|class)</span><span class="w"> </span>)'
    r'(?P<span><span class="n[fc]">(?P<name>\w+)</span>)',
    re.M,
)
CALL = re.compile(
    r'(?s:<summary>.*?</summary>)|(?P<before>(?<!<span class="o">\.</span>))'
    r'(?P<span><span class="n">(?P<name>\w+)</span>)(?=<span class="p">\(|<span class="o">\.</span>)'
)


def root(app: Sphinx) -> Path:
    """The checkout: the nearest folder above the sources that holds the package (`make` builds from a copy)."""
    source = Path(app.srcdir).resolve()
    return next(folder for folder in (source, *source.parents) if (folder / PACKAGE / "__init__.py").exists())


def numbered(app: Sphinx) -> list[str]:
    """The chapters in reading order: the pages of the table of contents that are modules too."""
    pages: Any = app.config.external_site_map  # type: ignore[attr-defined]
    names = [Path(page).name for page in pages]
    return [name for name in names if (root(app) / f"{PACKAGE}/{name}.py").exists()]


def rooms(chapters: list[str]) -> list[str]:
    """The chapters, and after them the modules without a page that hold public names."""
    public = importlib.import_module(PACKAGE)._CHAPTERS
    return [*chapters, *(name for name in public if name.startswith("_"))]


def documented(room: str) -> dict[str, Any]:
    """What a module defines and explains, by name; of one without a page, what the package offers."""
    module = importlib.import_module(f"{PACKAGE}.{room}")
    public = importlib.import_module(PACKAGE)._CHAPTERS
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (name in public[room] or not room.startswith("_"))
        and (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == module.__name__
        and value.__doc__
    }


def parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A function, or a class and its explained methods, such as `Schedule.cosine`."""
    yield name, value
    for key, member in vars(value).items() if inspect.isclass(value) else ():
        method = inspect.isfunction(member) or isinstance(member, classmethod | staticmethod | property)
        if method and member.__doc__ and not key.startswith("_"):
            yield f"{name}.{key}", member


def collect(app: Sphinx) -> None:
    """Import the chapters, and note for all that follows what they define and what they need."""
    sys.path.insert(0, str(root(app)))
    env: Any = app.env
    env.book_chapters = numbered(app)
    env.book_home, env.book_code, env.book_needs = {}, {}, {}
    for chapter in env.book_chapters:
        text = (root(app) / f"{PACKAGE}/{chapter}.py").read_text(encoding="utf-8")
        env.book_needs[chapter] = set(re.findall(rf"^\s*from {PACKAGE}\.(\w+) import", text, re.M))
    for room in rooms(env.book_chapters):
        for name, part in (pair for item in documented(room).items() for pair in parts(*item)):
            env.book_home.setdefault(name, room)
            for labels in EQUATION.findall(" ".join(part.__doc__.split())):
                for label in LABEL.findall(labels):
                    env.book_code.setdefault(label, []).append(name)


def write_page(app: Sphinx, docname: str, source: list[str]) -> None:
    """One section a chapter, so that a new chapter needs no entry here."""
    if docname != PAGE:
        return
    chapters = app.env.book_chapters  # type: ignore[attr-defined]
    for room in rooms(chapters):
        if names := documented(room):
            title, where = room, f"Derived in [the chapter]({room}.ipynb)."
            if room not in chapters:
                title, where = room.strip("_"), "The engine behind several chapters."
            source[0] += (
                f"\n\n## {title}\n\n{where}\n\n"
                f"```{{eval-rst}}\n.. automodule:: {PACKAGE}.{room}\n   :members: {', '.join(names)}\n```\n"
            )


def resolve(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Make a plain docstring safe for Sphinx, link the labels in it, and link to where the code stands."""
    text = "\n".join(lines)
    # The docstrings are plain text; only `code` is marked. Whatever else has a meaning in reStructuredText is escaped.
    pieces = re.split(r"(``?[^`]+``?)", text)
    pieces[1::2] = [f"``{piece.strip('`')}``" for piece in pieces[1::2]]
    pieces[::2] = [re.sub(r"([\\*|]|_(?!\w))", r"\\\1", piece) for piece in pieces[::2]]
    text = EQUATION.sub(
        lambda match: "Equation: " + ", ".join(f":eq:`{label}`" for label in LABEL.findall(match[1])) + ".",
        "".join(pieces),
    )
    chapter, _, member = name.removeprefix(f"{PACKAGE}.").partition(".")
    if member and "." not in member and not chapter.startswith("_"):
        text = f"{text.rstrip()}\n\n`Code and derivation <{chapter}.html#code-{member}>`__"
    lines[:] = [*text.split("\n"), ""]


def plain(app: Sphinx, env: Any, node: Any, child: nodes.TextElement) -> nodes.TextElement | None:
    """Types of other packages are shown, not linked: the build asks no other host for their addresses."""
    ours = str(node.get("reftarget", "")).startswith(PACKAGE)
    return child if node.get("refdomain") == "py" and not ours else None


def target(env: Any, name: str, docname: str) -> str | None:
    """The anchor of `name` on the page of functions, if that is what `name` means on this page.

    A single common word (`sample`, `train`) is taken for the function only from its own chapter on.
    """
    chapter = env.book_home.get(name)
    if chapter is None or docname == PAGE:
        return None
    here, order = Path(docname).name, env.book_chapters
    common = name.islower() and "_" not in name
    if common and chapter in order and here in order and order.index(here) < order.index(chapter):
        return None
    return f"{PACKAGE}.{chapter}.{name}"


class LinkNames(SphinxPostTransform):
    """Link `posterior_mean` in prose to the page of functions."""

    default_priority = 700

    def run(self, **options: Any) -> None:
        uri = self.app.builder.get_relative_uri(self.env.docname, PAGE)
        for node in list(self.document.findall(nodes.literal)):
            name = node.astext().partition("(")[0].removeprefix(f"{PACKAGE}.")
            anchor = target(self.env, name, self.env.docname)
            if anchor is None or isinstance(node.parent, nodes.reference | nodes.title):
                continue
            link = nodes.reference("", "", internal=True, refuri=f"{uri}#{anchor}", classes=["api"])
            node.replace_self(link)
            link += node


def link_code(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Link definitions and calls in the code cells of a page."""
    if "body" not in context or pagename == PAGE:
        return
    home = app.env.book_home  # type: ignore[attr-defined]
    uri = app.builder.get_relative_uri(pagename, PAGE)

    def link(match: re.Match[str], definition: bool) -> str:
        name = match["name"]
        anchor = target(app.env, name, pagename)
        if anchor is None or (definition and home[name] != Path(pagename).name):
            return match[0]
        own = f' id="code-{name}"' if definition else ""
        return f'{match["before"]}<a class="api"{own} href="{uri}#{anchor}">{match["span"]}</a>'

    body = DEFINITION.sub(lambda match: link(match, True), context["body"])
    context["body"] = CALL.sub(lambda match: link(match, False), body)


def weigh_search(app: Sphinx, config: Any) -> None:
    """Sphinx would look for the file where the build was started."""
    config.html_search_scorer = str(Path(__file__).with_name("search_weights.js"))


def setup(app: Sphinx) -> ExtensionMetadata:
    app.setup_extension("sphinx.ext.autodoc")
    app.setup_extension("sphinx.ext.napoleon")
    app.connect("config-inited", weigh_search)
    app.connect("builder-inited", collect)
    app.connect("source-read", write_page)
    # Before napoleon, which turns the sections of a docstring into fields.
    app.connect("autodoc-process-docstring", resolve, priority=400)
    app.connect("missing-reference", plain)
    app.connect("html-page-context", link_code)
    app.add_post_transform(LinkNames)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
