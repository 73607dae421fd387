"""What pages and chapters promise, checked in their source: each function returns the faults it found, a line each."""

import ast
import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin

from tools.book import prose, read_notebook, sources

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
DOTS = 230  # to the inch, of the book's pictures (ddpm_nb/_figures.py)
CODE = re.compile(r"^(```|~~~).*?^\1|`[^`\n]+`", re.M | re.S)
LINK = re.compile(r"\[[^\]]*\]\(<?([^)\s>]+)[^)]*\)")
PICTURE = re.compile(r"!\[([^\]]*)\]\(|<img\b(?![^>]*\balt=\"[^\"]+\")")
# `$$ … $$ (eq-name)`, `(name)=` and `id="name"`; headings are no anchors, for the site gives them other names.
ANCHOR = re.compile(r"\$\$\s*\(([\w-]+)\)|^\(([\w-]+)\)=\s*$|\bid=\"([\w-]+)\"", re.M)


def dead_links(root: Path) -> list[str]:
    """Links inside the book that lead nowhere: what the site's build finds too, found quickly."""
    texts = {path: prose(path) for path in sources(root)}
    known = {
        path: {name for match in ANCHOR.findall(text) for name in match}
        for path, text in texts.items()
    }
    everywhere = set().union(*known.values())
    found = []
    for path, text in texts.items():
        for target in LINK.findall(CODE.sub("", text)):
            file, _, anchor = unquote(target).partition("#")
            if re.match(r"[a-z]+:", target):
                continue  # another site; `make test` must not need the network
            there = [
                path.parent / f"{file}{suffix}" for suffix in ("", ".ipynb", ".md")
            ]
            page = next((option for option in there if file and option.is_file()), None)
            # Without a file, an equation's label is found on any page.
            names = known.get(page, set()) if page else everywhere
            if (file and page is None) or (anchor and anchor not in names):
                found.append(f"{path.relative_to(root)}: dead link {target}")
    return found


def pictures_without_words(root: Path) -> list[str]:
    """Pictures without alt text, in the prose and in outputs."""
    found = []
    for path in sources(root):
        for match in PICTURE.finditer(CODE.sub("", prose(path))):
            if not (match[1] or "").strip():
                found.append(
                    f"{path.relative_to(root)}: a picture without alt text in the prose"
                )
        for number, cell in enumerate(
            read_notebook(path).cells if path.suffix == ".ipynb" else [], start=1
        ):
            kinds = " ".join(
                kind
                for output in cell.get("outputs", [])
                for kind in output.get("data", {})
            )
            alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
            if "image/" in kinds and len(alt.split()) < 3:
                found.append(
                    f"{path.relative_to(root)}: the picture of cell {number} has no alt text worth the name"
                )
    return found


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
            ast.Import()
            | ast.ImportFrom()
            | ast.Expr(value=ast.Constant(value=str()))
            | ast.AnnAssign(value=None)
        ):
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
                kinds = [
                    kind
                    for kind, pattern in LEFTOVER.items()
                    if pattern.search(token.content)
                ]
                found += [f"{kind}: {token.content[:60]}" for kind in kinds]
    return found


def _python(source: str) -> ast.Module:
    """A cell's syntax tree; IPython's magics are left out."""
    return ast.parse(re.sub(r"^(\s*)[%!].*$", r"\1pass", source, flags=re.M))


def _run_here(node: ast.AST) -> Iterator[ast.AST]:
    """What running this cell runs. Bodies of functions and classes run later, or elsewhere."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.ClassDef):
            yield child
            yield from _run_here(child)


def _shows(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) in (
        "print",
        "plt.show",
        "display",
    )


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
        if not cell.outputs and any(map(_shows, _run_here(_python(cell.source)))):
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


def captions(notebook: Any) -> list[str]:
    """Complain of a picture without a caption under it that says what to see, and of one too wide for a phone.

    On a phone a picture is 358 pixels wide; type of 10 points shall have 9 pixels there.
    """
    found = []
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            if (data := output.get("data", {}).get("image/png")) is None:
                continue
            below = notebook.cells[number + 1 : number + 2]
            text = below[0].source.split("\n\n")[0] if below else ""
            if not text.startswith("**Figure.** ") or len(text.split()) < 10:
                found.append(f"cell {number + 1}: no caption")
            width = int.from_bytes(base64.b64decode(data)[16:20], "big") / DOTS * 96
            if 10 / 72 * 96 * min(1, 358 / width) < 9:
                found.append(f"cell {number + 1}: {width:.0f} pixels wide")
        if re.search(r"fontsize=[1-9]\b|fontsize=\"(x|small)", cell.source):
            found.append(f"cell {number + 1}: type below 10 points")
    return found


def own_style(code: str) -> list[str]:
    """What a chapter does to matplotlib's style by itself; `ddpm_nb/_figures.py` alone may."""
    return re.findall(r"rcParams|plt\.style|seaborn|\bdpi\b", code)
