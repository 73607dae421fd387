"""Equations are broken where a typesetter would break them, and nothing of them is lost."""

import importlib
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from helpers import ROOT

from tools.book import prose, sources


@pytest.fixture(scope="module")
def breaks() -> Iterator[Any]:
    sys.path.insert(0, str(ROOT / "book/_ext"))
    yield importlib.import_module("breaks")
    sys.path.remove(str(ROOT / "book/_ext"))


@pytest.mark.parametrize(
    ("tex", "pieces"),
    [
        (r"a = b + c", [["a", "= b", "+ c"]]),
        (
            r"-a = -b - c",
            [["-a", "= -b", "- c"]],
        ),  # the sign of a number is no place to break
        (r"x = (a + b) + \{c - d\}", [["x", "= (a + b)", r"+ \{c - d\}"]]),
        (
            r"x = \left[a + b\right] - \bigl(c = d\bigr)",
            [["x", r"= \left[a + b\right]", r"- \bigl(c = d\bigr)"]],
        ),
        (
            r"x = \Biggl[a + b\Biggr]",
            [["x", r"= \Biggl[a", r"+ b\Biggr]"]],
        ),  # an author's leave
        (r"x = \Biggl[-a + b\Biggr]", [["x", r"= \Biggl[-a", r"+ b\Biggr]"]]),
        (
            r"\sum_{t=2}^{T+1} a \ \ge\ \mathbb E",
            [[r"\sum_{t=2}^{T+1} a", r"\ge\ \mathbb E"]],
        ),
        (r"a = b, \qquad c = d", [["a", "= b,"], ["c", "= d"]]),
        (r"a \quad\text{and}\quad b", [["a"], [r"\text{and}"], ["b"]]),
        (r"\theta \leftarrow \theta - g", [[r"\theta", r"\leftarrow \theta", "- g"]]),
        (
            r"\lVert a - b\rVert + \lfloor c + d\rfloor",
            [[r"\lVert a - b\rVert", r"+ \lfloor c + d\rfloor"]],
        ),
    ],
)
def test_an_equation_is_cut_before_relations_and_signs(
    breaks: Any, tex: str, pieces: list[list[str]]
) -> None:
    assert breaks.clauses(tex) == pieces


def test_a_derivation_has_rows_of_three(breaks: Any) -> None:
    tex = r"\begin{aligned} a &= b + c && \text{so} \\ &= \frac{d \\ e}{f} \\ \end{aligned} ."
    first, second, *rest = breaks.lines(tex)
    assert first == ("a", ["= b", "+ c"], r"\text{so}")
    assert second == ("", [r"= \frac{d \\ e}{f}"], "")
    assert "".join(rest[0].right) + rest[0].left == "."
    assert breaks.lines("a = b") is None


def displayed() -> list[str]:
    chapters = [path for path in sources(ROOT) if path.suffix == ".ipynb"]
    return [
        tex
        for path in chapters
        for tex in re.findall(r"\$\$\n(.+?)\n\$\$", prose(path), re.S)
    ]


def bare(tex: str) -> str:
    """The marks alone: no spaces, no alignment."""
    return re.sub(
        r"\\(?:q?quad|[,;!:]|begin\{aligned\}|end\{aligned\})|\\\\|\\(?=\s|$)|[\s&]",
        "",
        tex,
    )


def test_nothing_of_the_book_s_equations_is_lost(breaks: Any) -> None:
    found = displayed()
    assert len(found) > 120
    for tex in found:
        assert all(depth >= 0 for _, depth in breaks.tokens(tex)), tex
        rows = breaks.lines(tex)
        parts = (
            [part for clause in breaks.clauses(tex) for part in clause]
            if rows is None
            else [part for row in rows for part in (row.left, *row.right, row.reason)]
        )
        assert bare("".join(part + " " for part in parts)) == bare(tex)
