r"""Where a displayed equation may be broken, so that it fits a phone: before relations and signs, as a typesetter does.

`\qquad` parts an equation into clauses; a clause is pieces, each but the first with a sign before it. The lines of
`aligned` are rows of a left side, pieces of a right side, and a reason. Nothing in brackets is broken, but in those
that are written `\Biggl[ … \Biggr]`.
"""

import re
from typing import NamedTuple

TOKEN = re.compile(
    r"\\begin\{\w+\}|\\end\{\w+\}|\\(?:left|right|[bB]igg?[lr])(?![a-zA-Z])\s*(?:\\[a-zA-Z]+|\\?.)|\\[a-zA-Z]+|\\.|.",
    re.S,
)
OPEN = re.compile(r"\\begin|\\left(?!arrow)|\\[bB]igl|\\biggl|\\l(?:Vert|vert|floor|ceil|angle)|\\?\{|[(\[]")
CLOSE = re.compile(r"\\end|\\right(?!arrow)|\\[bB]igr|\\biggr|\\r(?:Vert|vert|floor|ceil|angle)|\\?\}|[)\]]")
RELATIONS = {*"=<>", *[r"\le", r"\ge", r"\approx", r"\propto", r"\sim", r"\to", r"\Longrightarrow", r"\leftarrow"]}
SIGNS = {"+", "-"}
SPACES = {*[r"\,", r"\;", r"\!", r"\quad", r"\qquad"], "\\ ", "\\:"}
SPACE_AT_END = re.compile(r"(?:\\[,;!: ]?\s*)+$")
LINES = re.compile(r"\\begin\{aligned\}(.*)\\end\{aligned\}\s*([.,;]?)", re.S)


class Line(NamedTuple):
    """A line of an aligned derivation."""

    left: str
    right: list[str]
    reason: str


def tokens(tex: str) -> list[tuple[str, int]]:
    """Each token with how deep it stands in brackets, braces and environments."""
    found, depth = [], 0
    for token in TOKEN.findall(tex):
        depth -= bool(CLOSE.match(token))
        found.append((token, depth))
        depth += bool(OPEN.match(token))
    return found


def parted(tex: str, at: set[str]) -> list[str]:
    """The parts between tokens that stand in no bracket."""
    parts = [""]
    for token, depth in tokens(tex):
        if depth == 0 and token in at:
            parts.append("")
        else:
            parts[-1] += token
    return [part.strip() for part in parts]


def pieces(tex: str) -> list[str]:
    """A clause, cut before its relations and before the signs between its terms."""
    cut, before = [""], ""
    for token, depth in tokens(tex):
        between = before not in RELATIONS | SIGNS | {""} and not before.startswith(r"\Biggl")
        if depth == 0 and between and token in RELATIONS | SIGNS:
            cut.append("")
        cut[-1] += token
        if token.strip() and token not in SPACES and token != "&":
            before = token
    return [SPACE_AT_END.sub("", piece.strip()).strip() for piece in cut]


def clauses(tex: str) -> list[list[str]]:
    """An equation's clauses, each in its pieces."""
    return [pieces(part) for part in parted(tex, {r"\quad", r"\qquad"}) if part]


def lines(tex: str) -> list[Line] | None:
    """The lines of an aligned derivation; None if it is no such."""
    whole = LINES.fullmatch(tex.strip())
    if whole is None:
        return None
    found = []
    for row in parted(whole[1] + whole[2], {r"\\"}):
        left, right, *reason = [*parted(row, {"&"}), ""]
        found.append(Line(left, [piece for clause in clauses(right) for piece in clause], " ".join(reason).strip()))
    return found
