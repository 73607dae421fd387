r"""Set the book's mathematics as MathML while the site is built.

A page then needs no script and no other host to show an equation, a screen reader can read it, and a formula
that cannot be set stops a strict build instead of reaching the reader.

Equation numbers, ids and permalinks are made exactly as Sphinx's own renderers make them.
"""

import re
from base64 import b64encode
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.application import Sphinx
from sphinx.locale import _
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number
from sphinx.util.typing import ExtensionMetadata
from sphinx.writers.html5 import HTML5Translator

from breaks import clauses, lines
from uses import uses_html

# Chromium does not stretch a bracket that carries a script itself, as in \bigr)^2, but does so in a row.
BRACKET_WITH_SCRIPT = re.compile(r"(<(?:msup|msub|msubsup)>)(<mo\b[^>]*\bminsize=[^>]*>[^<]*</mo>)")

MARKS = re.compile(r"[.,;:!?)\]’”…]+")

FONT, FONT_CSS = "stix-two-math-subset.woff2", "math-font.css"

logger = logging.getLogger(__name__)


def to_mathml(tex: str, *, display: bool) -> str:
    """Return `tex` as a `<math>` element that carries its TeX source; raise `LatexError` if it cannot be set."""
    # Unknown commands stay errors. The annotation is not drawn: it is there for those who copy.
    converter = LatexToMathML(annotation=True, fancy_error=False)
    mathml = converter.convert_with_local_state(tex.strip(), displaystyle=display)
    return BRACKET_WITH_SCRIPT.sub(r"\1<mrow>\2</mrow>", mathml)


def _convert(node: nodes.Element, tex: str, *, display: bool) -> str:
    try:
        return to_mathml(tex, display=display)
    except LatexError as error:
        logger.warning("formula cannot be set: %s in: %s", error, tex.strip(), location=node, type="mathml")
        return f'<code class="math-error">{escape(tex)}</code>'


def _pieces(node: nodes.Element, parts: list[str], kind: str) -> str:
    """Pieces of an equation as formulas of their own, between which a line may end."""
    # With nothing before it, a sign would be taken for that of a number, and stand closer.
    marked = [part if kind != "right" and not place else "{}" + part for place, part in enumerate(parts)]
    inner = "<wbr>".join(
        _convert(node, part, display=True).replace(' display="block"', ' displaystyle="true"') for part in marked
    )
    return f'<span class="{kind}">{inner}</span>'


def _displayed(node: nodes.Element) -> str:
    """An equation that can be broken: clauses side by side, or the lines of a derivation."""
    derivation = lines(node.astext())
    if derivation is None:
        inner = " ".join(_pieces(node, clause, "clause") for clause in clauses(node.astext()))
        return f'<div class="clauses">{inner}</div>'
    rows = (
        "".join(
            _pieces(node, [part for part in parts if part], kind)
            for parts, kind in (([line.left], "left"), (line.right, "right"), ([line.reason], "reason"))
        )
        for line in derivation
    )
    return f'<div class="lines">{"".join(f"<div>{row}</div>" for row in rows)}</div>'


def visit_math(translator: HTML5Translator, node: nodes.math) -> None:
    translator.body.append(translator.starttag(node, "span", "", CLASS="math notranslate nohighlight"))
    translator.body.append(_convert(node, node.astext(), display=False) + "</span>")
    if mark := node.get("mark"):
        translator.body[-2:] = [f'<span class="joined">{"".join(translator.body[-2:])}{mark}</span>']
    raise nodes.SkipNode


def visit_displaymath(translator: HTML5Translator, node: nodes.math_block) -> None:
    translator.body.append(translator.starttag(node, "div", "", CLASS="math notranslate nohighlight"))
    if node["number"]:
        number = get_node_equation_number(translator, node)
        translator.body.append(f'<span class="eqno">({number})')
        translator.add_permalink_ref(node, _("Link to this equation"))
        translator.body.append("</span>")
    # The box that scrolls is inside, so that the number stays in sight beside a long equation.
    translator.body.append('<div class="math-scroll">' + _displayed(node) + "</div></div>\n")
    if node.get("label"):
        translator.body.append(uses_html(translator, node["label"]))
    raise nodes.SkipNode


class JoinMarks(SphinxPostTransform):
    """Put what may not begin a line, as the full stop after a formula, into one unbroken piece with it."""

    default_priority = 400

    def run(self, **kwargs: Any) -> None:
        for node in list(self.document.findall(nodes.math)):
            after = node.next_node(descend=False, siblings=True)
            mark = MARKS.match(after.astext()) if isinstance(after, nodes.Text) else None
            if after is not None and mark:
                node["mark"] = mark[0]
                after.parent.replace(after, nodes.Text(after.astext()[mark.end() :]))


FONT_FACE = """/* One font for mathematics, so that a page looks the same on every system: a subset of STIX Two Math
   (licence: fonts/OFL.txt) that keeps the MATH table, without which roots, bars and brackets do not fit. It stands
   here as data, so that it is there when the first formula is drawn: a font that comes later makes the page jump. */
@font-face {
  font-family: "STIX Two Math";
  src: url("data:font/woff2;base64,%s") format("woff2");
}
"""


def write_font(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        static = Path(app.outdir, "_static")
        font = static / "fonts" / FONT
        text = FONT_FACE % b64encode(font.read_bytes()).decode()
        (static / FONT_CSS).write_text(text, encoding="ascii")
        font.unlink()


def setup(app: Sphinx) -> ExtensionMetadata:
    app.add_css_file(FONT_CSS)
    app.connect("build-finished", write_font)
    app.add_post_transform(JoinMarks)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_displaymath, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
