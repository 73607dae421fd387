"""The drawings: as their source makes them, one at the head of each chapter, legible on a phone."""

import re
from pathlib import Path

import pytest
from helpers import ROOT

from tools import drawings
from tools.book import chapters, read_notebook

pytestmark = pytest.mark.fast
CHAPTERS = chapters(ROOT)
SIZE = re.compile(r"font(?:-size)?:\s*([\d.]+)px")
PHONE = 358  # pixels that a page of 390 leaves for a picture


def opening(name: str) -> list[str]:
    """The blocks of a chapter's first cell."""
    text: str = read_notebook(ROOT / f"book/{name}.ipynb").cells[0].source
    return text.split("\n\n")


def test_drawings_are_what_their_source_draws(tmp_path: Path) -> None:
    drawings.main(tmp_path)
    drawn = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert set(drawn) == {"unet.svg", *(f"chain-{name}.svg" for name in CHAPTERS)}
    for name, text in drawn.items():
        stored = (ROOT / "book/images" / name).read_text(encoding="utf-8")
        assert stored == text, f"{name} is old: python -m tools.drawings"


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_opens_with_its_chain_and_a_question(name: str) -> None:
    _, question, picture, short = opening(name)[:4]
    assert question.startswith("**The question.** ")
    assert re.fullmatch(
        rf"!\[The chain .{{80,}}\]\(images/chain-{name}\.svg\)", picture
    )
    assert short.endswith("?") and len(short) < 80


def test_each_chain_is_told_in_its_own_words() -> None:
    told = {opening(name)[2].partition("](")[0] for name in CHAPTERS}
    assert len(told) == len(CHAPTERS)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "book/images").glob("*.svg")), ids=lambda p: p.stem
)
def test_type_has_nine_pixels_on_a_phone(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    wide = float(re.search(r'viewBox="\S+ \S+ (\S+) ', text)[1])  # type: ignore[index]
    sizes = [float(size) for size in SIZE.findall(text)]
    assert len(sizes) >= 3
    assert min(sizes) * PHONE / wide >= 9
