"""The promises that each chapter makes; each check is also shown a planted fault."""

import base64
import copy
import shutil
from pathlib import Path
from typing import Any

import nbformat
import promises
import pytest
from helpers import ROOT

from tools.book import chapters, equations, read_notebook
from tools.sync import sync

pytestmark = pytest.mark.fast
CHAPTERS = chapters(ROOT)

every_chapter = pytest.mark.parametrize("name", CHAPTERS)


def chapter(name: str) -> Any:
    return read_notebook(ROOT / f"book/{name}.ipynb")


def module(name: str) -> str:
    return (ROOT / f"ddpm_nb/{name}.py").read_text(encoding="utf-8")


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A copy of the book and the package, to plant a fault in."""
    for folder in ("book", "ddpm_nb"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for file in ("_toc.yml", "jupytext.toml"):
        shutil.copy(ROOT / file, tmp_path)
    return tmp_path


def test_chapters_and_modules_have_the_same_names() -> None:
    modules = {path.stem for path in (ROOT / "ddpm_nb").glob("[!_]*.py")}
    assert modules == set(CHAPTERS)


@every_chapter
def test_both_views_are_one_text(name: str) -> None:
    assert sync(ROOT, name, check=True) is None


def test_a_drifted_pair_is_found(planted: Path) -> None:
    path = planted / "ddpm_nb/forward.py"
    path.write_text(path.read_text().replace("Jump from x_0", "Leap from x_0", 1))
    with pytest.raises(ValueError, match="differ"):
        sync(planted, "forward", check=True)


def test_the_edited_view_wins_and_two_edited_ones_are_left_alone(planted: Path) -> None:
    page, module = planted / "book/forward.ipynb", planted / "ddpm_nb/forward.py"
    texts = [path.read_text() for path in (page, module)]

    def edit(*paths: Path) -> None:
        for path in paths:
            text = path.read_text().replace("Jump from x_0", f"{path.parent.name}: x_0")
            path.write_text(text)

    assert sync(planted, "forward") is None  # equal: from here on it is known
    edit(module)
    assert sync(planted, "forward") == "forward: taken from ddpm_nb/"
    assert "ddpm_nb: x_0" in page.read_text()
    module.write_text(texts[1])
    sync(planted, "forward")
    assert page.read_text() == texts[0]  # its outputs were kept on the way
    edit(page)
    assert sync(planted, "forward") == "forward: taken from book/"
    assert "book: x_0" in module.read_text()
    page.write_text(texts[0])
    module.write_text(texts[1] + "\n# A word.\n")
    with pytest.raises(ValueError, match="both edited: nothing was changed"):
        sync(planted, "forward")
    assert "A word" in module.read_text()
    assert sync(planted, "forward", winner="book") == "forward: taken from book/"
    assert module.read_text() == texts[1]


def test_a_notebook_outside_the_contents_is_found(planted: Path) -> None:
    shutil.copy(planted / "book/forward.ipynb", planted / "book/stray.ipynb")
    with pytest.raises(SystemExit, match=r"not in _toc\.yml: book/stray\.ipynb"):
        chapters(planted)


def test_a_label_that_stands_twice_is_found(planted: Path) -> None:
    with (planted / "book/slips.md").open("a") as file:
        file.write("\n$$ x $$ (eq-forward)\n")
    with pytest.raises(ValueError, match="eq-forward stands in forward and in slips"):
        equations(planted)


@every_chapter
def test_module_only_defines(name: str) -> None:
    assert promises.definitions_only(module(name)) == []


@pytest.mark.parametrize(
    "fault",
    [
        "print(1)",
        "x = f(1)",
        "for i in []: pass",
        "torch.manual_seed(0)",
        "if True: y = 1",
        "X = torch.randn(3)[0]",
        "class B: print(1)",
        "def f(x=print(2)): pass",
        "@print\ndef g(): pass",
    ],
)
def test_code_that_acts_on_import_is_found(fault: str) -> None:
    assert (
        len(promises.definitions_only(f'"""Doc."""\nimport torch\nA = 1e-5\n{fault}\n'))
        == 1
    )


@every_chapter
def test_plain_jupyter_shows_no_raw_markup(name: str) -> None:
    for cell in chapter(name).cells:
        if cell.cell_type == "markdown":
            assert promises.leftover_markup(cell.source) == []


@pytest.mark.parametrize(
    "fault",
    [
        "see {eq}`eq-forward`",
        "```{note}\nhello\n```",
        ":::{tip}\nhello\n:::",
        "(target)=\n# Title",
        "text\n+++\nmore",
        "a note[^1]",
        "a cost of 5$ here",
        "a **bold start",
        "$$\na \\\\[1.2ex]\nb\n$$ (eq-a)",
    ],
)
def test_raw_markup_is_found(fault: str) -> None:
    assert promises.leftover_markup(fault)


def test_mathematics_and_code_are_no_raw_markup() -> None:
    text = "An $x_{t}$, `{code}`, and\n\n$$\ny_{t}\n$$ (eq-y)\n\n| a | $b$ |\n|---|---|\n| 1 | **2** |"
    assert promises.leftover_markup(text) == []


def test_links_land_and_pictures_have_words() -> None:
    assert promises.dead_links(ROOT) == []
    assert promises.pictures_without_words(ROOT) == []


def test_a_picture_without_words_and_a_dead_link_are_found(planted: Path) -> None:
    path = planted / "book/forward.ipynb"
    book = read_notebook(path)
    drawn = next(cell for cell in book.cells if "mystnb" in cell.metadata)
    del drawn.metadata["mystnb"]
    book.cells[0].source += "\n\nSee [this](#eq-nowhere). ![](x.png)"
    nbformat.write(book, path)
    assert promises.dead_links(planted) == [
        "book/forward.ipynb: dead link #eq-nowhere",
        "book/forward.ipynb: dead link x.png",
    ]
    in_prose, in_output = promises.pictures_without_words(planted)
    assert "in the prose" in in_prose
    assert "no alt text worth the name" in in_output


@every_chapter
def test_outputs_are_those_of_one_clean_run(name: str) -> None:
    assert promises.stored_outputs(chapter(name)) == []


def test_cleared_outputs_are_found() -> None:
    """nbval's strict mode passes on a notebook without outputs, so this must not."""
    book = chapter("forward")
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    assert len(promises.stored_outputs(book)) > 5


def test_an_output_out_of_order_and_a_warning_are_found() -> None:
    book = chapter("forward")
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    code[3].execution_count += 5
    code[5].outputs = [nbformat.v4.new_output("stream", name="stderr", text="careful")]
    found = "\n".join(promises.stored_outputs(book))
    assert "run as 9, expected 4" in found
    assert "a warning" in found


@every_chapter
def test_cells_that_are_not_compared_assert(name: str) -> None:
    assert promises.uncompared_cells_assert(chapter(name)) == []


def test_an_uncompared_cell_without_assert_is_found() -> None:
    book = copy.deepcopy(chapter("algorithms"))
    cell = next(
        c for c in book.cells if "nbval-ignore-output" in c.metadata.get("tags", [])
    )
    cell.source = "print('trust me')"
    assert len(promises.uncompared_cells_assert(book)) == 1


@every_chapter
def test_chapter_opens_as_agreed(name: str) -> None:
    assert promises.opening(chapter(name)) == []


def test_all_chapters_install_in_the_same_way() -> None:
    assert len({chapter(name).cells[1].source for name in CHAPTERS}) == 1


def test_a_wrong_opening_is_found() -> None:
    book = chapter("forward")
    del book.cells[1]
    assert promises.opening(book)


@every_chapter
def test_pictures_are_drawn_in_the_book_s_style(name: str) -> None:
    """`use_style` comes before the first picture, so that all look alike and are sharp and readable in both themes."""
    code = "\n".join(c.source for c in chapter(name).cells if c.cell_type == "code")
    first = code.find("plt.s")  # plt.subplots, plt.show
    if first >= 0:
        assert 0 <= code.find("fig.use_style()") < first
    # Whoever sets sizes, styles or colour maps anew leaves the style.
    assert not promises.own_style(code)


@pytest.mark.parametrize("name", CHAPTERS)
def test_pictures_have_captions_and_can_be_read_on_a_phone(name: str) -> None:
    assert promises.captions(chapter(name)) == []


def test_a_picture_that_says_nothing_is_found() -> None:
    book = chapter("likelihood")
    at = next(i for i, cell in enumerate(book.cells) if cell.get("outputs"))
    book.cells[at + 1].source = "**Figure.** Two bells."
    wide = bytearray(24)
    wide[16:20] = (1300).to_bytes(4, "big")
    book.cells[at].outputs[0].data["image/png"] = base64.b64encode(wide).decode()
    book.cells[at].source += "\nax.text(1, 1, 'x', fontsize=9)"
    assert promises.captions(book) == [
        f"cell {at + 1}: no caption", f"cell {at + 1}: 543 pixels wide", f"cell {at + 1}: type below 10 points",
    ]  # fmt: skip


def test_a_style_of_its_own_is_found() -> None:
    assert promises.own_style("plt.style.use('ggplot')")
    assert promises.own_style("plt.rcParams['font.size'] = 3")
    assert promises.own_style("fig.savefig('x.png', dpi=300)")
    assert not promises.own_style("figure, axes = plt.subplots(1, 2, figsize=(5, 2))")
