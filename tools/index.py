"""Write book/equations.md: each labelled equation with its chapter, source, function and tests.

python -m tools.index            write the page
python -m tools.index --check    fail when the page is not up to date
"""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator

from tools.book import ROOT, equations, write_if_new

PAGE = ROOT / "book/equations.md"
# The section of the notes that a chapter answers to.
NOTES = {
    "likelihood": "Maximum Likelihood Estimation",
    "vae": "VAE; DDPM: Compute pθ(x)",
    "forward": "單個 q(XT | XT-1) 算法; q(XT | X0)",
    "bound": "噪聲預測",
    "posterior": "q(Xt-1 | Xt, X0)",
    "loss": "KL Divergence between 向前 and 向後; Denoise function 化簡",
    "algorithms": "Algorithm 1; Algorithm 2",
}
HEAD = (
    "# Index of equations\n\n"
    "Every labelled equation of the book, in reading order: where it stands, the number that it or "
    "its closest relative has in the paper (Ho, Jain and Abbeel, 2020), the code that computes it, "
    "and the tests that check it. Where no code stands, the package computes nothing with it, and "
    "the test checks the equation alone. This page is generated from the chapters, the docstrings "
    "and the tests.\n\n"
)
EQUATIONS = re.compile(r"Equation: ((?:eq|def)-[\w-]+(?:, (?:eq|def)-[\w-]+)*)\.")
PAPER = re.compile(r"Paper: ([^.]*(?:\.\d[^.]*)?)\.")


def docstrings(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every function and class of a module with its docstring, as one line."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            yield prefix + child.name, " ".join((ast.get_docstring(child) or "").split())
            yield from docstrings(child, f"{prefix}{child.name}.")


def functions() -> dict[str, tuple[list[str], str]]:
    """For each label named in a docstring of the package: the functions, and the place in the paper."""
    found: dict[str, tuple[list[str], str]] = {}
    for module in sorted((ROOT / "ddpm_nb").glob("*.py")):
        for name, text in docstrings(ast.parse(module.read_text(encoding="utf-8"))):
            paper = PAPER.search(text)
            for labels in EQUATIONS.findall(text):
                for label in labels.split(", "):
                    names, source = found.get(label, ([], ""))
                    found[label] = [*names, name], source or (paper[1] if paper else "")
    return found


def marked(source: str) -> dict[str, list[str]]:
    """For each label, the tests of one file that carry ``@pytest.mark.equation("…")`` with it."""
    found: dict[str, list[str]] = defaultdict(list)
    for test in ast.walk(ast.parse(source)):
        if isinstance(test, ast.FunctionDef) and test.name.startswith("test_"):
            for mark in test.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.equation":
                    found[ast.literal_eval(mark.args[0])].append(test.name)
    return found


def all_marked() -> dict[str, list[str]]:
    """For each label, the tests that are marked with it, as `file::test`."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        for label, names in marked(path.read_text(encoding="utf-8")).items():
            found[label] += [f"{path.stem}::{name}" for name in names]
    return found


def page() -> str:
    """The whole page."""
    home, tests, known = equations(ROOT), all_marked(), functions()
    text = HEAD
    for chapter in dict.fromkeys(home.values()):
        text += f"## In [{chapter}]({chapter}.ipynb)\n\nSection of the notes: {NOTES.get(chapter, '—')}.\n\n"
        text += "| equation | number | in the paper | code | tests |\n|---|---|---|---|---|\n"
        for label in (label for label, where in home.items() if where == chapter):
            names, paper = known.get(label, ([], ""))
            code = ", ".join(f"`{name}`" for name in names) or "—"
            checks = "<br>".join(f"`{name}`" for name in tests[label])
            text += f"| `{label}` | [{label}](#{label}) | {paper or '—'} | {code} | {checks} |\n"
        text += "\n"
    return text.rstrip("\n") + "\n"


def main(*, check: bool) -> int:
    """Write or check the page."""
    if not check:
        write_if_new(PAGE, page())
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page():
        print("book/equations.md is not up to date: run `make sync`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv))
