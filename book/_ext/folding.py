"""Fold what a reader of a page does not need at once: the rest of a docstring, a long body, the code of a picture.

The notebooks know nothing of it, and no script is needed. A fold is a `<details>` whose summary is the first statement
of what it hides and a mark with which this reads as Python; the mark is never copied. What computes a labelled
equation, as its docstring says, stays open.
"""

import ast
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from itertools import groupby
from textwrap import dedent
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.typing import ExtensionMetadata
from sphinx.writers.html5 import HTML5Translator

SCREEN = 42  # lines: 700 pixels
LIMITS = (25, 12, 6, 2)  # a body of so many lines stands open; of fewer, where its cell is longer than a screen
LONG, FEW = LIMITS[0], LIMITS[-1]
CAPTION = "Figure."  # in bold, at the start of the paragraph under a picture
CALLED = {"forward", "__call__"}  # what a class is for: folded only when it is long
MARKS = (" ...", "  # …", ' …"""')
EQUATION = re.compile(r"Equation: (?:eq|def)-")
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Fold:
    """Lines first ... last; first ... head and the mark stay in sight."""

    first: int
    head: int
    last: int
    mark: str
    what: str

    @property
    def hidden(self) -> int:
        return self.last - self.head


def docstring(node: Any) -> ast.stmt | None:
    return node.body[0] if ast.get_docstring(node) is not None else None


def names_equation(node: Any) -> bool:
    return bool(EQUATION.search(ast.get_docstring(node) or ""))


def length(node: Any) -> int:
    """The lines of a function's body, without its docstring."""
    return sum(part.end_lineno - part.lineno + 1 for part in node.body if part is not docstring(node))


def is_check(statement: ast.stmt) -> bool:
    """Whether it only refuses bad input: an `if` that ends in `raise`, or a call of what is named a check."""
    if isinstance(statement, ast.If):
        return not statement.orelse and isinstance(statement.body[-1], ast.Raise)
    return isinstance(statement, ast.Expr) and "check" in ast.unparse(statement).partition("(")[0]


def is_field(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.AnnAssign)


def is_import(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Import | ast.ImportFrom)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


class Folder:
    """The folds of a cell in which bodies of more than `limit` lines are folded."""

    def __init__(self, lines: list[str], limit: int) -> None:
        self.lines, self.limit = lines, limit

    def fold(self, first: int, last: int, what: str) -> Iterator[Fold]:
        """Fold lines below their first statement, the head of a compound one, or the first line of a docstring."""
        for head in range(first, last):
            text = dedent("\n".join(self.lines[first - 1 : head]))
            for mark in MARKS:
                with suppress(SyntaxError):
                    ast.parse(text + mark)
                    yield Fold(first, head, last, mark, what)
                    return

    def docstring(self, node: Any, name: str) -> Iterator[Fold]:
        if text := docstring(node):
            yield from self.fold(text.lineno, text.end_lineno, f"the rest of the docstring of {name}")

    def runs(
        self, statements: list[ast.stmt], kind: Callable[[ast.stmt], bool], least: int, what: str
    ) -> Iterator[Fold]:
        """Fold each run of statements of one kind, if it is more than `least` lines long."""
        for found, run in groupby(statements, kind):
            lines = [line for part in run for line in (part.lineno, part.end_lineno)]
            if found and lines[-1] - lines[0] >= least:
                yield from self.fold(lines[0], lines[-1], what)

    def function(self, node: Any, name: str, equation: bool = False, method: bool = False) -> Iterator[Fold]:
        limit = LONG if node.name in CALLED else FEW if is_private(node.name) else self.limit
        text, long = docstring(node), length(node) > limit
        if equation or names_equation(node):
            yield from self.docstring(node, name)
            if long:
                yield from self.runs(node.body, is_check, FEW, f"checks of {name}")
        elif long and (method or not text):
            yield from self.fold(node.lineno, node.end_lineno, f"the body of {name}")
        elif long:
            yield from self.fold(text.lineno, node.end_lineno, f"the rest of {name}")
        else:
            yield from self.docstring(node, name)

    def class_(self, node: ast.ClassDef) -> Iterator[Fold]:
        yield from self.docstring(node, node.name)
        yield from self.runs(node.body, is_field, LONG, f"the other fields of {node.name}")
        for part in node.body:
            if isinstance(part, Function):
                equation = names_equation(node) and not is_private(part.name)
                yield from self.function(part, f"{node.name}.{part.name}", equation, method=True)

    def cell(self, tree: ast.Module) -> list[Fold]:
        found = [*self.docstring(tree, "the module")]
        if docstring(tree):  # the first cell of a chapter
            found += self.runs(tree.body, is_import, 1, "the other imports")
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                found += self.class_(node)
            elif isinstance(node, Function):
                found += self.function(node, node.name)
        return sorted(found, key=lambda part: part.first)


def folds(source: str) -> list[Fold]:
    """What is folded in a cell that defines something, from its top to its end."""
    lines, tree = source.split("\n"), ast.parse(source)
    for limit in LIMITS:
        found = Folder(lines, limit).cell(tree)
        if len(lines) - sum(part.hidden for part in found) <= SCREEN:
            break
    return found


def lines_of(number: int) -> str:
    return "1 line" if number == 1 else f"{number} lines"


def render(highlighted: str, found: list[Fold]) -> str:
    """Put some lines of a highlighted cell into `<details>`; Pygments ends each span with its line."""
    lines = highlighted.rstrip("\n").split("\n")

    def pre(first: int, last: int) -> str:
        text = "".join(f"{line}\n" for line in lines[first - 1 : last])
        return f"<pre><span></span>{text}</pre>" if text else ""

    html, done = "", 0
    for part in found:
        head = "\n".join(lines[part.first - 1 : part.head])
        html += (
            f'{pre(done + 1, part.first - 1)}<details class="fold"><summary>{head}'
            f'<span class="fold-mark" aria-hidden="true">{part.mark}</span>'
            f'<span class="visually-hidden"> {escape(part.what)}, {lines_of(part.hidden)}</span>\n</summary>'
            f"{pre(part.head + 1, part.last)}</details>"
        )
        done = part.last
    return f'<div class="folded">{html}{pre(done + 1, len(lines))}</div>'


def visit_literal_block(translator: HTML5Translator, node: nodes.literal_block) -> None:
    try:
        type(translator).visit_literal_block(translator, node)
    finally:  # it leaves by an exception that says: go on behind this node
        if found := node.parent.get("folds"):
            html = translator.body[-1]
            start, end = html.index("<pre>"), html.index("</pre>")
            code = html[start:end].removeprefix("<pre><span></span>")
            translator.body[-1] = html[:start] + render(code, found) + html[end:].removeprefix("</pre>")


def raw(html: str) -> nodes.raw:
    return nodes.raw("", html, format="html")


class FoldCells(SphinxPostTransform):
    """Say what is folded in each cell; put the code of a picture under it, that of a solution into the solution."""

    default_priority = 190  # before myst-nb wraps hidden cells
    formats = ("html",)

    def run(self, **options: Any) -> None:
        self.figures = 0
        for cell in list(self.document.findall(nodes.container)):
            if cell.get("nb_element") != "cell_code":
                continue
            code, *outputs = cell.children
            text, before = code.astext(), cell.previous_sibling()
            lines = text.split("\n")
            what = "picture" if cell.next_node(nodes.image) else "result"
            hidden = cell.attributes.pop("hide_mode", None)
            if "tag_active-ipynb" not in cell["classes"]:
                code["folds"] = folds(text)
            elif hidden and before is not None and before.astext() == "</details>":
                if what == "picture":
                    self.caption(cell)
                cell.parent.remove(before)
                cell.parent.insert(cell.parent.index(cell) + 1, before)
            elif not outputs:  # it prepares or tidies up: its first comment says what
                code["folds"] = [*Folder(lines, LONG).fold(1, len(lines), "the rest of this cell")]
            elif what == "picture" or len(lines) > LONG:
                if what == "picture":
                    self.caption(cell)
                summary = f"<summary>Code of this {what}, {lines_of(len(lines))}</summary>"
                cell[:] = [*outputs, raw(f'<details class="code-below">{summary}'), code, raw("</details>")]

    def caption(self, cell: nodes.Element) -> None:
        """The paragraph after a picture's cell, if it begins with CAPTION, goes under the picture and gets a number."""
        text = cell.next_node(descend=False, siblings=True)
        if not isinstance(text, nodes.paragraph) or not text.astext().startswith(CAPTION):
            return
        self.figures += 1
        chapter = self.env.toc_secnumbers.get(self.env.docname, {}).get("", ())
        text.parent.remove(text)
        text.next_node(nodes.strong)[:] = [nodes.Text(f"Figure {'.'.join(map(str, [*chapter[:1], self.figures]))}.")]
        picture = cell.next_node(nodes.image)
        parts = [raw("<figure>"), picture.deepcopy(), raw("<figcaption>"), text, raw("</figcaption></figure>")]
        picture.parent.replace(picture, parts)  # not `replace_self`, which hands its classes on


def setup(app: Sphinx) -> ExtensionMetadata:
    app.add_node(nodes.literal_block, override=True, html=(visit_literal_block, None))
    app.add_post_transform(FoldCells)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
