"""The page of functions, made from the docstrings, and the links between it, the chapters and the equations.

Sphinx's autodoc reads the modules; this extension says which, resolves the labels of equations that the docstrings
name, and links every mention of a function: its definition in a chapter, a call in a code cell, a name in prose.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform

if TYPE_CHECKING:
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment
    from sphinx.util.typing import ExtensionMetadata

PACKAGE = "ddpm_nb"
PAGE = "book/functions"
EQUATION = re.compile(r"Equation: ((?:eq|def)-[\w-]+(?:,\s+(?:eq|def)-[\w-]+)*)\.")
LABEL = re.compile(r"(?:eq|def)-[\w-]+")

# A definition or a call as Pygments writes it; a call of a method has a dot before its name.
DEFINITION = re.compile(
    r'(?P<before>(?:^|<pre><span></span>)<span class="k">(?:def|class)</span><span class="w"> </span>)'
    r'(?P<span><span class="n[fc]">(?P<name>\w+)</span>)',
    re.M,
)
CALL = re.compile(
    r'(?P<before>(?<!<span class="o">\.</span>))'
    r'(?P<span><span class="n">(?P<name>\w+)</span>)(?=<span class="p">\(|<span class="o">\.</span>)'
)


def root(app: Sphinx) -> Path:
    """The checkout: the nearest folder above the sources that holds the package (`make` builds from a copy)."""
    source = Path(app.srcdir).resolve()
    return next(
        folder
        for folder in (source, *source.parents)
        if (folder / PACKAGE / "__init__.py").exists()
    )


def numbered(app: Sphinx) -> list[str]:
    """The chapters in reading order: the pages of the table of contents that are modules too."""
    site: Any = app.config.external_site_map  # type: ignore[attr-defined]

    def walk(page: Any) -> list[str]:
        below = [item for tree in page.subtrees for item in tree.items]
        return [
            page.docname,
            *(
                name
                for item in below
                if str(item) in site
                for name in walk(site[str(item)])
            ),
        ]

    names = [Path(page).name for page in walk(site.root)]
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


def methods(name: str, value: Any) -> list[str]:
    """The explained methods of a class, such as `Schedule.cosine`."""
    members = vars(value).items() if inspect.isclass(value) else ()
    kinds = (classmethod, staticmethod, property)
    return [
        f"{name}.{key}"
        for key, member in members
        if not key.startswith("_")
        and (inspect.isfunction(member) or isinstance(member, kinds))
        and member.__doc__
    ]


def equations_of(name: str, value: Any) -> dict[str, list[str]]:
    """For each label that the docstrings of a function, or of a class and its methods, name: who computes it."""
    found: dict[str, list[str]] = {}
    members = vars(value).items() if inspect.isclass(value) else ()
    texts = [(name, value.__doc__)] + [
        (f"{name}.{key}", getattr(member, "__doc__", None))
        for key, member in members
        if not key.startswith("_")
    ]
    for who, text in texts:
        for match in EQUATION.findall(" ".join((text or "").split())):
            for label in LABEL.findall(match):
                found.setdefault(label, []).append(who)
    return found


def imports(path: Path) -> set[str]:
    """The chapters whose code a module needs."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.module.removeprefix(f"{PACKAGE}.")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").startswith(f"{PACKAGE}.")
    }


def collect(app: Sphinx) -> None:
    """Import the chapters, and note for all that follows what they define."""
    if str(root(app)) not in sys.path:
        sys.path.insert(0, str(root(app)))
    env: Any = app.env
    env.book_chapters = numbered(app)
    env.book_home, env.book_code, env.book_needs = {}, {}, {}
    for room in rooms(env.book_chapters):
        if room in env.book_chapters:
            env.book_needs[room] = imports(root(app) / f"{PACKAGE}/{room}.py")
        for name, value in documented(room).items():
            for full in (name, *methods(name, value)):
                env.book_home.setdefault(full, room)
            for label, names in equations_of(name, value).items():
                env.book_code.setdefault(label, []).extend(names)


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


def resolve(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Make a plain docstring safe for Sphinx, link the labels in it, and link to where the code stands."""
    text = "\n".join(lines)
    # The docstrings are plain text; only `code` is marked. Whatever else has a meaning in reStructuredText is escaped.
    parts = re.split(r"(``?[^`]+``?)", text)
    for i, part in enumerate(parts):
        if i % 2:
            parts[i] = f"``{part.strip('`')}``"
        else:
            parts[i] = re.sub(r"([\\*|])", r"\\\1", part)
            parts[i] = re.sub(r"_(?!\w)", r"\\_", parts[i])
    text = EQUATION.sub(
        lambda match: (
            "Equation: "
            + ", ".join(f":eq:`{label}`" for label in LABEL.findall(match[1]))
            + "."
        ),
        "".join(parts),
    )
    short = name.removeprefix(f"{PACKAGE}.")
    chapter, _, member = short.partition(".")
    if member and "." not in member and not chapter.startswith("_"):
        text = text.rstrip() + (
            f"\n\n`Code and derivation <{chapter}.html#code-{member}>`__"
        )
    lines[:] = [*text.split("\n"), ""]


def plain(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, child: nodes.TextElement
) -> nodes.TextElement | None:
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
    if (
        common
        and chapter in order
        and here in order
        and order.index(here) < order.index(chapter)
    ):
        return None
    return f"{PACKAGE}.{chapter}.{name}"


class LinkNames(SphinxPostTransform):
    """Link `posterior_mean` in prose to the page of functions."""

    default_priority = 700

    def run(self, **options: Any) -> None:
        for node in list(self.document.findall(nodes.literal)):
            if isinstance(node.parent, nodes.reference):
                continue
            name = node.astext().partition("(")[0].removeprefix(f"{PACKAGE}.")
            anchor = target(self.env, name, self.env.docname)
            if anchor is None or isinstance(node.parent, nodes.title):
                continue
            uri = self.app.builder.get_relative_uri(self.env.docname, PAGE)
            link = nodes.reference(
                "", "", internal=True, refuri=f"{uri}#{anchor}", classes=["api"]
            )
            node.replace_self(link)
            link += node


def link_code(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Link definitions and calls in the code cells of a page."""
    if "body" not in context or pagename == PAGE:
        return
    env: Any = app.env
    here = Path(pagename).name

    def link(match: re.Match[str], definition: bool) -> str:
        name = match["name"]
        anchor = target(env, name, pagename)
        if anchor is None or (definition and env.book_home[name] != here):
            return match[0]
        uri = app.builder.get_relative_uri(pagename, PAGE)
        own = f' id="code-{name}"' if definition else ""
        return f'{match["before"]}<a class="api"{own} href="{uri}#{anchor}">{match["span"]}</a>'

    body = DEFINITION.sub(lambda match: link(match, True), context["body"])
    context["body"] = CALL.sub(lambda match: link(match, False), body)


def setup(app: Sphinx) -> ExtensionMetadata:
    app.setup_extension("sphinx.ext.autodoc")
    app.setup_extension("sphinx.ext.napoleon")
    app.connect("builder-inited", collect)
    app.connect("source-read", write_page)
    # Before napoleon, which turns the sections of a docstring into fields.
    app.connect("autodoc-process-docstring", resolve, priority=400)
    app.connect("missing-reference", plain)
    app.connect("html-page-context", link_code)
    app.add_post_transform(LinkNames)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
