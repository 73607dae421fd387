"""Keep the two views of each chapter equal: book/x.ipynb and ddpm_nb/x.py.

jupytext knows how to turn one view into the other. What it cannot know is which of them was edited: it asks the clock,
and after `git clone` the clock says nothing. Here the side that differs from the last state in which both agreed (the
last sync, else the last commit) is the edited one. When both were edited, nothing is touched.

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
from jupytext.combine import combine_inputs_with_outputs
from jupytext.config import load_jupytext_config

from tools.book import chapters, normalise, read_notebook, write_if_new, write_notebook

TEXT = "py:percent"


def committed(root: Path, path: str) -> str | None:
    """The file as it was at the last commit."""
    result = subprocess.run(["git", "show", f"HEAD:./{path}"], cwd=root, capture_output=True, check=False)
    return result.stdout.decode("utf-8") if result.returncode == 0 else None


def sync(root: Path, name: str, *, check: bool = False, winner: str | None = None) -> str | None:
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

    def as_text(notebook: Any) -> str:
        return str(jupytext.writes(normalise(notebook), fmt=TEXT, config=config))

    notebook = read_notebook(page) if page.exists() else None
    text = module.read_text(encoding="utf-8") if module.exists() else None
    page_text = as_text(notebook) if notebook is not None else None
    if text == page_text and text is not None:
        if not check:
            write_notebook(notebook, page)
            write_if_new(last, text)
        return None
    pair = f"book/{name}.ipynb and ddpm_nb/{name}.py"
    if check:
        raise ValueError(f"{pair} differ: run `make sync`")

    edited = winner
    if text is None or page_text is None:
        edited = "book" if text is None else "ddpm_nb"
    for base in (last.read_text(encoding="utf-8") if last.exists() else None, committed(root, f"ddpm_nb/{name}.py")):
        if edited is None and base is not None and base in (text, page_text):
            edited = "book" if base == text else "ddpm_nb"
    if edited is None:
        raise ValueError(
            f"{pair} were both edited: nothing was changed. "
            f"Undo one, or let one win: make sync FROM=book (or FROM=ddpm_nb)"
        )
    if edited == "ddpm_nb":
        new = jupytext.reads(text or "", fmt=TEXT, config=config)
        notebook = new if notebook is None else combine_inputs_with_outputs(new, notebook, fmt=TEXT)
    # The module is written from the notebook in both cases: a demonstration cell typed without its `# ` gets it back.
    text = as_text(notebook)
    write_notebook(notebook, page)
    write_if_new(module, text)
    write_if_new(last, text)
    return f"{name}: taken from {edited}/"


def main() -> int:
    """Sync or check all chapters, and say what was done."""
    parser = argparse.ArgumentParser(description="Keep both views of each chapter equal.")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--from", dest="winner", choices=["book", "ddpm_nb"])
    options = parser.parse_args()
    root = Path.cwd()
    names, failed, changed = chapters(root), False, 0
    for name in names:
        try:
            if done := sync(root, name, check=options.check, winner=options.winner):
                changed += 1
                print(done)
        except ValueError as error:
            print(error, file=sys.stderr)
            failed = True
    if not failed:
        state = f"brought together, {changed} changed" if changed else "equal"
        print(f"{'' if options.check else 'make sync: '}{len(names)} pairs {state}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
