"""Every symbol of every numbered equation stands on the notation page, for the chapter that uses it."""

import re

import pytest
from helpers import ROOT

from tools.book import prose, toc_files

pytestmark = pytest.mark.fast
PAGE = ROOT / "book" / "notation.md"

EQUATION = re.compile(r"^\$\$\n((?:(?!\$\$).)*?)\n?\$\$ \(((?:eq|def)-[\w-]+)\)", re.M | re.S)  # fmt: skip
# What TeX needs to set a formula, and functions that have the same name everywhere.
PLAIN = re.compile(
    r"\\(d?frac|tfrac|sqrt|left|right|middle|[bB]igg?[lrm]?|[lr]?(?:floor|ceil)|[lr]?Vert|mid|underbrace|q?quad|[cl]?dots|cdot"
    r"|times|leq?|geq?|approx|propto|sim|to|leftarrow|(Long)?[rR]ightarrow|sum|prod|int|infty|in|top"
    r"|log|ln|exp|sin|cos|tanh|min|max|det)"
)
ACCENTS = {r"\bar", r"\hat", r"\tilde"}
STYLES = {r"\mathbb", r"\mathcal", r"\mathbf"}
TOKEN = re.compile(r"\\[A-Za-z]+|\\.|[A-Za-z]|'+|\^\*|_\\text\{[^}]*\}|\S")


def symbols(tex: str) -> set[str]:
    r"""The symbols of a formula: letters with their accent, primes or star, and upright names.

    Indices count as letters of their own: `x_t` holds x and t. Words do not, but one in an index belongs to its letter.
    """
    tex = re.sub(r"(?<!_)\\text\{(?:[^{}$]|\{[^}]*\}|\$[^$]*\$)*\}", " ", tex)
    tex = re.sub(r"\\(?:begin|end)\{\w+\}|\[\d\.\d*ex\]", " ", tex)
    tex = re.sub(
        r"\\frac\{d\}\{d|(?<![A-Za-z])d(?=[xz]|\\lambda)", " ", tex
    )  # d/dx, dx
    # First the star, then the index.
    tex = re.sub(r"(_(?:\w|\{[^}]*\}))\^\*", r"^*\1", tex.replace("^{*", "^*{"))
    names = re.compile(r"\\(?:operatorname|mathrm)\{(\w+)\}")
    found, accent = set(names.findall(tex)), ""
    tokens = TOKEN.findall(names.sub(" ", tex))
    for i, token in enumerate(tokens):
        if token in ACCENTS | STYLES:
            accent = token
        elif re.fullmatch(r"[A-Za-z]|\\[A-Za-z]+", token) and not PLAIN.fullmatch(
            token
        ):
            after = "".join(tokens[i + 1 : i + 2])
            marked = after.startswith(("'", "^*", r"_\text"))
            found.add(accent + token + (after if marked else ""))
            accent = ""
    return found


def equations() -> list[tuple[str, str, str]]:
    """Chapter, label and formula of each numbered equation of the book."""
    files = [ROOT / f"{page}.ipynb" for page in toc_files(ROOT)]
    return [
        (path.stem, label, tex)
        for path in files
        if path.exists()
        for tex, label in EQUATION.findall(prose(path))
    ]


def rows(page: str) -> list[tuple[set[str], str]]:
    """For each row of the page's tables: its symbols, and where they mean what it says (empty: in the whole book)."""
    found, several = [], False
    for line in page.splitlines():
        several |= line.startswith("## Letters with more than one meaning")
        cells = [cell.strip() for cell in line.split(" | ")]
        if line.startswith("| $"):
            # What stands in an index or in brackets is not explained by this row.
            bare = re.sub(r"_(?:\{[^}]*\}|\w)|\(.*?\)(?=[^)]|$)", "", cells[0])
            found.append((symbols(bare.strip("|$ ")), cells[-1] if several else ""))
    return found


def missing(page: str, book: list[tuple[str, str, str]]) -> list[str]:
    """What stands in a numbered equation and not on the page, one line each."""
    table = rows(page)
    return [
        f"{chapter}, {label}: {symbol}"
        for chapter, label, tex in book
        for symbol in sorted(symbols(tex))
        if not any(
            symbol in here
            and (not where or where.startswith("elsewhere") or f"({chapter}." in where)
            for here, where in table
        )
    ]


def test_every_symbol_of_every_numbered_equation_is_on_the_page() -> None:
    book = equations()
    assert len(book) > 70
    assert missing(PAGE.read_text(encoding="utf-8"), book) == []


@pytest.mark.parametrize(
    ("tex", "expected"),
    [
        (r"\bar\alpha_t = \prod_{s=1}^{t}\alpha_s", {r"\bar\alpha", r"\alpha", "s", "t"}),
        (r"\varepsilon^*(x_t) = \mathbb E[\varepsilon]", {r"\varepsilon^*", r"\varepsilon", r"\mathbbE", "x", "t"}),
        (r"\sigma_t^{*2} + \hat x'_0", {r"\sigma^*", r"\hatx'", "t"}),
        (r"L_\text{simple}\ \text{ for bell } \operatorname{clip}(g)", {r"L_\text{simple}", "clip", "g"}),
        (r"\int P(x)\log P(x)\,dx \Psi", {"P", "x", r"\Psi"}),
    ],
)  # fmt: skip
def test_symbols_are_read_as_a_reader_sees_them(tex: str, expected: set[str]) -> None:
    assert symbols(tex) == expected


def test_a_symbol_that_leaves_the_page_or_enters_an_equation_is_found() -> None:
    page, book = PAGE.read_text(encoding="utf-8"), equations()
    for line in (r"| $\tilde\beta_t$ |", r"| $\nabla", "| $v_{k,t}$ |", r"| $\Phi$ |"):
        cut = "\n".join(row for row in page.splitlines() if not row.startswith(line))
        assert cut != page.rstrip("\n")
        assert missing(cut, book), line
    assert missing(page, [("loss", "eq-new", r"\Psi = x_t")]) == [r"loss, eq-new: \Psi"]
    # A letter with several meanings has a line for each chapter that uses it.
    assert missing(page, [("vae", "eq-new", "f(x) = w_t")]) == ["vae, eq-new: f", "vae, eq-new: w"]  # fmt: skip


def test_every_word_of_the_glossary_has_a_meaning() -> None:
    rows = re.findall(
        r"^\| (.+?) \| (.+?) \|(.*)\|$",
        (PAGE.parent / "glossary.md").read_text(encoding="utf-8"),
        re.M,
    )
    assert len(rows) > 40
    assert [english for english, _, meaning in rows if not meaning.strip()] == []
