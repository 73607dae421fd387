"""Write book/equations.md: each labelled equation with its chapter, source, function and tests.

python -m tools.index            write the page
python -m tools.index --check    fail when the page is not up to date
"""

import argparse
import ast
import re
import sys
from pathlib import Path

from tools.promises import equations
from tools.sync import write_if_new

PAGE = Path("book/equations.md")
# The section of the notes that each chapter answers to.
NOTES = {
    "likelihood": "Maximum Likelihood Estimation",
    "vae": "VAE; DDPM: Compute pθ(x)",
    "forward": "單個 q(XT | XT-1) 算法; q(XT | X0)",
    "bound": "噪聲預測",
    "posterior": "q(Xt-1 | Xt, X0)",
    "loss": "KL Divergence between 向前 and 向後; Denoise function 化簡",
    "algorithms": "Algorithm 1; Algorithm 2",
    "unet": "—",
    "training": "—",
    "fewer_steps": "—",
    "evaluation": "—",
    "cifar10": "—",
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


def functions(chapter: str) -> dict[str, tuple[list[str], str]]:
    """For each label named in a docstring of a chapter: the functions, and the place in the paper."""
    found: dict[str, tuple[list[str], str]] = {}

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.FunctionDef | ast.ClassDef):
                continue
            name = f"{prefix}{child.name}"
            text = " ".join((ast.get_docstring(child) or "").split())
            paper = PAPER.search(text)
            for labels in EQUATIONS.findall(text):
                for label in labels.split(", "):
                    names, source = found.get(label, ([], ""))
                    found[label] = (
                        [*names, name],
                        source or (paper[1] if paper else ""),
                    )
            visit(child, f"{name}.")

    module = Path(f"ddpm_nb/{chapter}.py")
    if module.exists():  # a page of text has no code
        visit(ast.parse(module.read_text(encoding="utf-8")), "")
    return found


def marked(source: str) -> dict[str, list[str]]:
    """For each label, the tests of one file that carry ``@pytest.mark.equation("…")`` with it."""
    found: dict[str, list[str]] = {}
    for test in ast.walk(ast.parse(source)):
        if not isinstance(test, ast.FunctionDef) or not test.name.startswith("test_"):
            continue
        for mark in test.decorator_list:
            if (
                isinstance(mark, ast.Call)
                and ast.unparse(mark.func) == "pytest.mark.equation"
            ):
                found.setdefault(ast.literal_eval(mark.args[0]), []).append(test.name)
    return found


def tests() -> dict[str, list[str]]:
    """For each label, the tests that are marked with it, as `file::test`."""
    found: dict[str, list[str]] = {}
    for path in sorted(Path("tests").glob("test_*.py")):
        for label, names in marked(path.read_text(encoding="utf-8")).items():
            found.setdefault(label, []).extend(f"{path.stem}::{name}" for name in names)
    return found


def page() -> str:
    """The whole page."""
    home, marked = equations(Path.cwd()), tests()
    chapters = {chapter: functions(chapter) for chapter in dict.fromkeys(home.values())}
    text = HEAD
    for chapter, known in chapters.items():
        text += f"## In [{chapter}]({chapter}.ipynb)\n\nSection of the notes: {NOTES.get(chapter, '—')}.\n\n"
        text += "| equation | number | in the paper | code | tests |\n|---|---|---|---|---|\n"
        for label in (label for label, where in home.items() if where == chapter):
            names, paper = known.get(label, ([], ""))
            code = ", ".join(f"`{name}`" for name in names) or "—"
            checks = "<br>".join(f"`{name}`" for name in marked.get(label, []))
            text += f"| `{label}` | [{label}](#{label}) | {paper or '—'} | {code} | {checks} |\n"
        text += "\n"
    return text.rstrip("\n") + "\n"


def main() -> int:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description="Generate the index of equations.")
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page():
            print(
                "book/equations.md is not up to date: run `make sync`", file=sys.stderr
            )
            return 1
        return 0
    write_if_new(PAGE, page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
