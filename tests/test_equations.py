"""Every labelled equation has a marked test, and every mark and docstring names an equation that exists."""

import importlib
import re
from pathlib import Path

import pytest
from helpers import ROOT

import ddpm_nb
from tools import index
from tools.book import equations, labels

pytestmark = pytest.mark.fast
EQUATION_LINE = re.compile(
    r"^\s*Equation: ((?:eq|def)-[a-z0-9-]+(?:, (?:eq|def)-[a-z0-9-]+)*)\.", re.M
)


def uncovered(book: set[str], tests: set[str]) -> str:
    """What is labelled and not tested, or tested and not labelled; empty if nothing is."""
    lines = [f"{label}: no test is marked with it" for label in sorted(book - tests)]
    lines += [
        f"{label}: a test is marked with it, no equation is"
        for label in sorted(tests - book)
    ]
    return "\n".join(lines)


def test_labels_of_the_book_are_the_labels_of_the_tests() -> None:
    book = set(equations(ROOT))
    assert len(book) > 20
    assert uncovered(book, set(index.all_marked())) == ""


def test_a_missing_label_or_test_is_found() -> None:
    book, tests = set(equations(ROOT)), set(index.all_marked())
    assert "eq-forward: no test" in uncovered(book, tests - {"eq-forward"})
    assert "eq-forward: a test" in uncovered(book - {"eq-forward"}, tests)


def test_only_marks_on_tests_count() -> None:
    source = """
@pytest.mark.equation("eq-seen")
def test_a(): ...
@pytest.mark.equation("eq-helper")
def helper(): ...
# @pytest.mark.equation("eq-comment")
def test_b(): "eq-text"
"""
    assert index.marked(source) == {"eq-seen": ["test_a"]}


def test_labels_are_read_as_the_site_reads_them() -> None:
    text = "$$\nx = 1\n$$ (eq-one)\n\n$$ y $$ (def-two)\n\n$$ z $$\n\n$x$ (eq-no)"
    assert labels(text) == ["eq-one", "def-two"]


def test_docstrings_name_equations_of_their_own_chapter() -> None:
    book, named = equations(ROOT), set()
    for chapter in ddpm_nb._CHAPTERS:
        source = Path(
            importlib.import_module(f"ddpm_nb.{chapter}").__file__
        ).read_text()
        for line in EQUATION_LINE.findall(source):
            for label in line.split(", "):
                assert book.get(label) == chapter, f"{chapter}: {label}"
                named.add(label)
    assert len(named) > 15


def test_index_of_equations_is_up_to_date() -> None:
    assert index.PAGE.read_text(encoding="utf-8") == index.page(), "run `make sync`"


def test_index_of_equations_names_code_and_tests_of_each() -> None:
    about = next(
        text for text in index.page().split("\n**") if "](#eq-forward)\n" in text
    )
    assert about.startswith("The jump to any time**")
    assert r"x_t = \sqrt{\bar\alpha_t}" in about
    assert "In the paper: equation 4. Code: `q_sample`. Used in: [bound]" in about
    assert "✓" in about
    assert "- `test_forward::test_jump_is_the_walk`\n" in about


def test_index_of_equations_shows_each_formula_once() -> None:
    page, home = index.page(), equations(ROOT)
    entry = r"^\*\*[^*]+\*\*, \[([\w-]+)\]\(#\1\)\n\n\$\$\n(.+?)\n\$\$\n"
    shown = re.findall(entry, page, re.M | re.S)
    assert [label for label, _ in shown] == [*home]
    for label, formula in shown:
        chapter = ROOT / f"ddpm_nb/{home[label]}.py"
        text = re.sub("^# ?", "", chapter.read_text(encoding="utf-8"), flags=re.M)
        assert formula in text.partition(f"$$ ({label})")[0].rpartition("$$")[2]
