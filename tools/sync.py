"""Keep the two views of each chapter equal: book/x.ipynb and ddpm_nb/x.py.

jupytext knows how to turn one view into the other. What it cannot know is which of them was edited:
it asks the clock, and after `git clone` the clock says nothing. Here the side that differs from the
last state in which both agreed (the last sync, else the last commit) is the edited one. When both
were edited, nothing is touched.

    python -m tools.sync                 bring all pairs together
    python -m tools.sync --check         change nothing, fail when a pair differs
    python -m tools.sync --from book     on a conflict: the notebooks win (or: --from ddpm_nb)
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import yaml
from jupytext.combine import combine_inputs_with_outputs
from jupytext.config import load_jupytext_config

TEXT = "py:percent"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def toc_files(root: Path) -> list[str]:
    """Every page of _toc.yml, in reading order, such as `book/forward`."""

    def walk(node: Any) -> list[str]:
        if isinstance(node, list):
            return [name for item in node for name in walk(item)]
        if not isinstance(node, dict):
            return []
        own = [node[key] for key in ("root", "file") if key in node]
        return own + [
            name
            for key in ("parts", "chapters", "sections")
            for name in walk(node.get(key))
        ]

    return walk(yaml.safe_load((root / "_toc.yml").read_text()))


def chapters(root: Path) -> list[str]:
    """The chapters in reading order: later ones load the models of earlier ones."""
    in_toc = [Path(page).name for page in toc_files(root)]
    # A new chapter may stand in one view only.
    named = [
        name
        for name in in_toc
        if (root / f"book/{name}.ipynb").exists()
        or (root / f"ddpm_nb/{name}.py").exists()
    ]
    strays = sorted({path.stem for path in root.glob("book/*.ipynb")} - set(named))
    if strays:
        raise SystemExit(
            f"not in _toc.yml: {', '.join(f'book/{name}.ipynb' for name in strays)}"
        )
    return named


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


def as_text(notebook: Any, config: Any) -> str:
    """The module's view of a notebook."""
    return str(jupytext.writes(normalise(notebook), fmt=TEXT, config=config))


def as_notebook(text: str, old: Any, config: Any) -> Any:
    """The notebook of a module, with the outputs and cell ids of the old notebook."""
    new = jupytext.reads(text, fmt=TEXT, config=config)
    return combine_inputs_with_outputs(new, old, fmt=TEXT) if old is not None else new


def committed(root: Path, path: str) -> str | None:
    """The file as it was at the last commit."""
    result = subprocess.run(
        ["git", "show", f"HEAD:./{path}"], cwd=root, capture_output=True, check=False
    )
    return result.stdout.decode("utf-8") if result.returncode == 0 else None


def sync(
    root: Path, name: str, *, check: bool = False, winner: str | None = None
) -> str | None:
    """Bring one pair together.

    Args:
        root: The folder that holds book/ and ddpm_nb/.
        name: The chapter.
        check: Change nothing.
        winner: Which view wins when both were edited: "book" or "ddpm_nb".

    Returns:
        What was done, or None when the pair was equal already.

    Raises:
        ValueError: The pair differs and `check` was asked for, or both views were edited.
    """
    page, module = root / f"book/{name}.ipynb", root / f"ddpm_nb/{name}.py"
    last = root / f"_build/synced/{name}.py"  # the text at the last sync
    config = load_jupytext_config(str(page))
    notebook = read_notebook(page) if page.exists() else None
    text = module.read_text(encoding="utf-8") if module.exists() else None
    page_text = as_text(notebook, config) if notebook is not None else None

    if text == page_text and text is not None:
        if not check:
            write_notebook(notebook, page)
            write_if_new(last, text)
        return None
    if check:
        raise ValueError(
            f"book/{name}.ipynb and ddpm_nb/{name}.py differ: run `make sync`"
        )

    bases = [last.read_text(encoding="utf-8") if last.exists() else None]
    bases.append(committed(root, f"ddpm_nb/{name}.py"))
    edited = winner
    if text is None or page_text is None:
        edited = "book" if text is None else "ddpm_nb"
    for base in bases:
        if edited is None and base is not None and base in (text, page_text):
            edited = "book" if base == text else "ddpm_nb"
    if edited is None:
        raise ValueError(
            f"book/{name}.ipynb and ddpm_nb/{name}.py were both edited: nothing was changed. "
            f"Undo one, or let one win: make sync FROM=book (or FROM=ddpm_nb)"
        )
    if edited == "ddpm_nb":
        notebook = as_notebook(text or "", notebook, config)
    # The module is written from the notebook in both cases: a demonstration cell typed without
    # its `# ` gets it back.
    text = as_text(notebook, config)
    write_notebook(notebook, page)
    write_if_new(module, text)
    write_if_new(last, text)
    return f"{name}: taken from {edited}/"


def main() -> int:
    """Sync or check all chapters, and say what was done."""
    parser = argparse.ArgumentParser(
        description="Keep both views of each chapter equal."
    )
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--from", dest="winner", choices=["book", "ddpm_nb"])
    options = parser.parse_args()
    root = Path.cwd()
    names, failed, changed = chapters(root), False, 0
    for name in names:
        try:
            done = sync(root, name, check=options.check, winner=options.winner)
        except ValueError as error:
            print(error, file=sys.stderr)
            failed = True
            continue
        if done:
            changed += 1
            print(done)
    if failed:
        return 1
    state = (
        "equal"
        if options.check or not changed
        else f"brought together, {changed} changed"
    )
    print(f"{'' if options.check else 'make sync: '}{len(names)} pairs {state}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
