"""What a chapter promises, checked in its source: each function returns the faults it found, one line each."""

import ast
import re
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin

SHOWS = "active-ipynb"  # the tag of a cell that shows something: code in the notebook, a comment in the module
UNCOMPARED = "nbval-ignore-output"

DECORATORS = {
    "classmethod",
    "contextmanager",
    "dataclass",
    "property",
    "staticmethod",
    "torch.no_grad",
}

EQUATION = re.compile(r"\$\$\s*\(((?:eq|def)-[a-z0-9-]+)\)")
# What a plain Markdown reader (Colab, GitHub) would show as it stands.
LEFTOVER = {
    "a role": re.compile(r"\{[a-z][\w:.-]*\}"),
    "a colon fence": re.compile(r":::"),
    "a target": re.compile(r"^\([\w-]+\)=", re.M),
    "a comment": re.compile(r"^%", re.M),
    "a cell break": re.compile(r"^\+\+\+", re.M),
    "a footnote": re.compile(r"\[\^"),
    "an unresolved reference": re.compile(r"\]\["),
    "half-open mathematics": re.compile(r"\$|\\\(|\\\["),
    "half-open emphasis": re.compile(r"\*\*"),
}


def labels(text: str) -> list[str]:
    """The equation labels of a page, in order: `eq-…` for results, `def-…` for definitions."""
    return EQUATION.findall(text)


def _tags(cell: Any) -> list[str]:
    return list(cell.metadata.get("tags", []))


def _literal(node: ast.expr) -> bool:
    """A literal, or a name for a type such as ``Callable[[Tensor], Tensor]``."""
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError):
        return isinstance(node, ast.Subscript) and not _calls(node)
    return True


def _calls(node: ast.AST) -> bool:
    return any(isinstance(inner, ast.Call) for inner in ast.walk(node))


def _acts(node: ast.stmt) -> bool:
    """Would this statement, at the top of a module or a class, do more than define something?"""
    match node:
        case (
            ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant(value=str()))
        ):
            return False
        case ast.AnnAssign(value=None):
            return False
        case ast.AnnAssign(
            value=ast.Call(func=ast.Name(id="field" | "option" | "setting"), args=args)
        ):
            return not all(map(_literal, args))  # a field of a dataclass
        case ast.Assign(value=value) | ast.AnnAssign(value=ast.expr() as value):
            return not _literal(value)
        case ast.FunctionDef():
            defaults = [*node.args.defaults, *(d for d in node.args.kw_defaults if d)]
            return any(map(_calls, defaults)) or _decorated_oddly(node)
        case ast.ClassDef():
            return any(map(_acts, node.body)) or _decorated_oddly(node)
    return True


def _decorated_oddly(node: ast.FunctionDef | ast.ClassDef) -> bool:
    return any(
        ast.unparse(mark).split("(")[0] not in DECORATORS
        for mark in node.decorator_list
    )


def definitions_only(module: str) -> list[str]:
    """Complain about whatever a module would *do* on import, beyond defining things."""
    return [
        f"line {node.lineno}: `{ast.unparse(node)[:60]}` is no definition"
        for node in ast.parse(module).body
        if _acts(node)
    ]


def leftover_markup(markdown: str) -> list[str]:
    """Complain about what would be shown raw: MyST in plain Jupyter, but for labels; row spacing on the site."""
    parser = (
        MarkdownIt("commonmark")
        .enable("table")
        .use(dollarmath_plugin, allow_labels=True)
    )
    found = []
    for block in parser.parse(markdown):
        if block.type == "fence" and block.info.startswith("{"):
            found.append(f"a directive: {block.info}")
        if block.type.startswith("math_block") and re.search(
            r"\\\\\[\d", block.content
        ):
            found.append(f"a row's spacing: {block.content[:60]}")
        for token in block.children or ():
            if token.type == "text":
                found += [
                    f"{name}: {token.content[:60]}"
                    for name, pattern in LEFTOVER.items()
                    if pattern.search(token.content)
                ]
    return found


class _Shows(ast.NodeVisitor):
    """Does running this cell print or draw? Bodies of functions and classes run later, or elsewhere."""

    def __init__(self) -> None:
        self.found = False

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        pass

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        pass

    def visit_Call(self, node: ast.Call) -> None:
        self.found |= ast.unparse(node.func) in ("print", "plt.show", "display")
        self.generic_visit(node)


def _python(source: str) -> ast.Module:
    """A cell's syntax tree; IPython's magics are left out."""
    return ast.parse(re.sub(r"^(\s*)[%!].*$", r"\1pass", source, flags=re.M))


def stored_outputs(notebook: Any) -> list[str]:
    """Complain unless the outputs are those of one clean run from top to bottom."""
    found, count = [], 0
    for number, cell in enumerate(notebook.cells, start=1):
        if cell.cell_type != "code":
            continue
        count += 1
        if cell.execution_count != count:
            found.append(
                f"cell {number}: run as {cell.execution_count}, expected {count}"
            )
        visitor = _Shows()
        visitor.visit(_python(cell.source))
        if visitor.found and not cell.outputs:
            found.append(f"cell {number}: prints or draws, but stores no output")
        for output in cell.outputs:
            if output.output_type == "error" or output.get("name") == "stderr":
                found.append(f"cell {number}: stores an error or a warning")
    return found


def uncompared_cells_assert(notebook: Any) -> list[str]:
    """Complain about a cell whose output nobody compares and that asserts nothing either."""
    return [
        f"cell {number}: tagged {UNCOMPARED}, asserts nothing"
        for number, cell in enumerate(notebook.cells, start=1)
        if UNCOMPARED in _tags(cell)
        and not any(
            isinstance(node, ast.Assert) for node in ast.walk(_python(cell.source))
        )
    ]


def opening(notebook: Any) -> list[str]:
    """Complain unless a chapter opens with its title, then the install cell, then the module's docstring."""
    title, install, module = notebook.cells[:3]
    found = []
    if title.cell_type != "markdown" or not title.source.startswith("# "):
        found.append("cell 1: no title")
    if SHOWS not in _tags(install) or 'find_spec("ddpm_nb")' not in install.source:
        found.append("cell 2: does not install the package where it is missing")
    if (
        _tags(module)
        or module.cell_type != "code"
        or not ast.get_docstring(_python(module.source))
    ):
        found.append(
            "cell 3: the module's docstring must stand here, in an untagged cell"
        )
    return found


def equations(root: Path) -> dict[str, str]:
    """Every equation label of the book, with the chapter it stands in.

    Raises:
        ValueError: A label stands twice.
    """
    from tools.pages import prose
    from tools.sync import toc_files

    home: dict[str, str] = {}
    for page in toc_files(root):
        for path in (root / f"{page}.ipynb", root / f"{page}.md"):
            for label in labels(prose(path)) if path.exists() else ():
                if label in home:
                    raise ValueError(
                        f"{label} stands in {home[label]} and in {path.stem}"
                    )
                home[label] = path.stem
    return home


def own_style(code: str) -> list[str]:
    """What a chapter does to matplotlib's style by itself; `ddpm_nb/_figures.py` alone may."""
    return re.findall(r"rcParams|plt\.style|seaborn|\bdpi\b", code)
