"""Write book/equations.md: each labelled equation with its chapter, source, function and tests.

python -m tools.index            write the page
python -m tools.index --check    fail when the page is not up to date
"""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator

from tools.book import ROOT, equations, prose, sources, write_if_new

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
    "Every labelled equation of the book, in reading order: what it says, what it is called, the number "
    "that leads to where it is derived, the number that it or its closest relative has in the paper (Ho, "
    "Jain and Abbeel, 2020), the code that computes it, the other chapters that use it, and the tests that "
    "check it (✓). Where no code stands, the package computes nothing with it, and the test checks the "
    "equation alone. This page is generated from the chapters, the docstrings and the tests.\n\n"
)
NAMES = ROOT / "tools/equations.txt"
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


def entry(
    label: str, name: str, home: str, texts: dict[str, str], functions: list[str], paper: str, tests: list[str]
) -> str:
    """One equation: its name, number and formula, and where it is used, computed and tested."""
    link = re.compile(rf"\]\(#{label}\)")
    formula = re.search(rf"^\$\$\n((?:(?!\$\$).)*?)\n\$\$ \({label}\)", texts[home], re.M | re.S)
    used = [f"[{chapter}]({chapter}.ipynb)" for chapter, text in texts.items() if chapter != home and link.search(text)]
    said = formula[1].rstrip(" .,") if formula else ""
    facts = {"In the paper": [paper] if paper else [], "Code": [f"`{name}`" for name in functions], "Used in": used}
    told = " ".join(f"{what}: {', '.join(those)}." for what, those in facts.items() if those)
    checks = "".join(f"- `{test}`\n" for test in tests)
    tick = f"✓ {len(tests)} {'test' if len(tests) == 1 else 'tests'}"
    return (
        f"**{name}**, [{label}](#{label})\n\n$$\n{said}\n$$\n\n"
        + (f"{told}\n\n" if told else "")
        + f"<details><summary>{tick}</summary>\n\n{checks}\n</details>\n\n"
    )


def page() -> str:
    """The whole page."""
    home, tests, known = equations(ROOT), all_marked(), functions()
    texts = {path.stem: prose(path) for path in sources(ROOT) if path.suffix == ".ipynb"}
    names = dict(line.split(" ", 1) for line in NAMES.read_text(encoding="utf-8").splitlines())
    text = HEAD
    for chapter in dict.fromkeys(home.values()):
        title = re.search(r"^# (.+)", texts[chapter], re.M)
        text += f"## [{title[1] if title else chapter}]({chapter}.ipynb)\n\n"
        text += f"Section of the notes: {NOTES[chapter]}.\n\n" if chapter in NOTES else ""
        for label in (label for label, where in home.items() if where == chapter):
            text += entry(label, names[label], chapter, texts, *known.get(label, ([], "")), tests[label])
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
