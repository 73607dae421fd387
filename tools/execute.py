"""Run chapters from top to bottom, in reading order, and store their outputs in the notebooks.

    python -m tools.execute ROOT [CHAPTER ...]

ROOT holds _toc.yml and book/. `make execute` gives the checkout itself, `make book` a copy of it.
"""

import argparse
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from tools.book import notebooks, read_notebook, write_notebook

ANSI = re.compile(r"\x1b\[[0-9;]*m")
LAST_LINES = 12


class ChapterError(Exception):
    """A chapter did not run to its end; the message names the cell and shows why."""


def where(notebook: Any) -> str:
    """The cell that failed: its place, counted as the reader counts, and its first line."""
    for number, cell in enumerate(notebook.cells, start=1):
        if any(output.output_type == "error" for output in cell.get("outputs", [])):
            return f"cell {number} of {len(notebook.cells)} ({cell.source.strip().splitlines()[0]})"
    return "a cell"


def run(path: Path, kernel: str = "python3", env: dict[str, str] | None = None) -> Any:
    """Run one notebook in its own folder and return it with the new outputs.

    Raises:
        ChapterError: A cell raised, or the kernel died.
    """
    notebook = read_notebook(path)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        notebook,
        timeout=None,  # a cell may train
        kernel_name=kernel,
        # Otherwise each kernel warns about a connection that never leaves the machine.
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,  # the clock would change every notebook at every run
        coalesce_streams=True,  # how print is cut into messages is chance
    )
    # MPLBACKEND from the caller's shell would take the pictures out of the notebook.
    env = {key: value for key, value in (env or os.environ).items() if key != "MPLBACKEND"}
    try:
        client.execute(env=env)
    except CellExecutionError as error:
        lines = ANSI.sub("", str(error.traceback)).strip().splitlines()[-LAST_LINES:]
        raise ChapterError(f"{where(notebook)} raised:\n" + "\n".join(lines)) from None
    except DeadKernelError:
        raise ChapterError("the kernel died (out of memory?)") from None
    return notebook


def each(paths: list[Path], work: Callable[[Path], object], *, goes_on: bool = False) -> list[str]:
    """Do the work for each chapter, one line each; which of them failed. The first ends it, unless it goes on."""
    failed = []
    for number, path in enumerate(paths, start=1):
        begun = time.monotonic()
        print(f"[{number}/{len(paths)}] {path.stem} ...", end="", flush=True)
        try:
            work(path)
            print(f" {time.monotonic() - begun:.1f} s", flush=True)
        except ChapterError as error:
            failed.append(path.stem)
            print(f" failed\nchapter {path.stem}: {error}", flush=True)
            if not goes_on:
                break
    return failed


def main() -> int:
    """Run the chapters; stop at a failure, because later ones build on it."""
    parser = argparse.ArgumentParser(description="Run chapters and store their outputs.")
    parser.add_argument("root", type=Path)
    parser.add_argument("chapters", nargs="*", metavar="CHAPTER", help="default: all")
    options = parser.parse_args()
    paths, start = notebooks(options.root, options.chapters), time.monotonic()
    if each(paths, lambda path: write_notebook(run(path), path)):
        return 1
    if options.root == Path("."):  # `make book` has its own last line, and runs copies
        seconds = time.monotonic() - start
        print(f"make execute: {len(paths)} chapters run in {seconds:.0f} s: outputs stored in book/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
