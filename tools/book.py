"""What the book is: its pages in reading order, its chapters, their text and their equations."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import yaml

ROOT = Path(__file__).resolve().parent.parent
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
EQUATION = re.compile(r"\$\$\s*\(((?:eq|def)-[a-z0-9-]+)\)")


def toc_files(root: Path) -> list[str]:
    """Every page of _toc.yml, in reading order, such as `book/forward`."""

    def walk(node: Any) -> Iterator[str]:
        if isinstance(node, list):
            for item in node:
                yield from walk(item)
        elif isinstance(node, dict):
            for key, value in node.items():
                yield from [value] if key in ("root", "file") else walk(value)

    return list(walk(yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))))


def chapters(root: Path) -> list[str]:
    """The chapters in reading order: later ones load the models of earlier ones."""

    def views(name: str) -> list[Path]:
        return [root / f"book/{name}.ipynb", root / f"ddpm_nb/{name}.py"]

    # A new chapter may stand in one view only.
    named = [page.name for page in map(Path, toc_files(root)) if any(view.exists() for view in views(page.name))]
    strays = sorted({path.stem for path in root.glob("book/*.ipynb")} - set(named))
    if strays:
        raise SystemExit(f"not in _toc.yml: {', '.join(f'book/{name}.ipynb' for name in strays)}")
    return named


def notebooks(root: Path, asked: list[str]) -> list[Path]:
    """The notebooks of the chapters asked for, or of all, in reading order."""
    known = {name: path for name in chapters(root) if (path := root / f"book/{name}.ipynb").exists()}
    if unknown := sorted(set(asked) - set(known)):
        raise SystemExit(f"no such chapter: {', '.join(unknown)}; there are: {', '.join(known)}")
    return [path for name, path in known.items() if not asked or name in asked]


def read_notebook(path: Path) -> Any:
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]


def normalise(notebook: Any) -> Any:
    """Leave only what is stored: a run or a sync must change no more than it has to."""
    notebook.metadata = nbformat.from_dict(  # type: ignore[no-untyped-call]
        {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for cell in notebook.cells:
        for key in set(cell.metadata) - {"tags", "mystnb"}:
            del cell.metadata[key]
    return notebook


def write_notebook(notebook: Any, path: Path) -> None:
    text = nbformat.writes(normalise(notebook), version=4)  # type: ignore[no-untyped-call]
    write_if_new(path, text.rstrip("\n") + "\n")


def write_if_new(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Whole or not at all: an interrupted run must not leave half a notebook.
        new = path.with_name(path.name + ".new")
        new.write_text(text, encoding="utf-8")
        new.replace(path)


def sources(root: Path) -> list[Path]:
    """The files of all pages, in reading order; a generated page has none."""
    files = [root / f"{page}{suffix}" for page in toc_files(root) for suffix in (".ipynb", ".md")]
    return [path for path in files if path.exists()]


def prose(path: Path) -> str:
    """The Markdown of a page."""
    if path.suffix == ".ipynb":
        return "\n\n".join(cell.source for cell in read_notebook(path).cells if cell.cell_type == "markdown")
    return path.read_text(encoding="utf-8")


def labels(text: str) -> list[str]:
    """The equation labels of a page, in order: `eq-…` for results, `def-…` for definitions."""
    return EQUATION.findall(text)


def equations(root: Path) -> dict[str, str]:
    """Every equation label of the book, with the chapter it stands in.

    Raises:
        ValueError: A label stands twice.
    """
    home: dict[str, str] = {}
    for path in sources(root):
        for label in labels(prose(path)):
            if label in home:
                raise ValueError(f"{label} stands in {home[label]} and in {path.stem}")
            home[label] = path.stem
    return home


def files(root: Path, *, new: bool = True) -> list[str]:
    """The files that git tracks or, with `new`, would track, as paths from the root."""
    command = ["git", "ls-files", "-z", "--cached", *(["--others", "--exclude-standard"] if new else [])]
    names = subprocess.run(command, cwd=root, check=True, capture_output=True).stdout.decode().split("\0")
    return sorted({name for name in names if name and (root / name).is_file()})
