"""Run chapters from top to bottom, two at a time, and store their outputs in the notebooks.

    python -m tools.execute ROOT [CHAPTER ...]

ROOT holds _toc.yml and book/. `make execute` gives the checkout itself, `make book` a copy of it.
"""

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from tools.book import ROOT, notebooks, read_notebook, write_notebook

ANSI = re.compile(r"\x1b\[[0-9;]*m")
LAST_LINES = 12
# One thread each (the Makefile says so): torch's threads wait for one another where cores are few.
WORKERS = 2
SECONDS = ROOT / "_build/seconds.json"


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


def each(paths: list[Path], work: Callable[[Path], object], *, goes_on: bool = False, workers: int = 1) -> list[str]:
    """Do the work for each chapter, one line each; which of them failed. The first ends it, unless it goes on."""
    failed, waiting, seconds = list[str](), [path.stem for path in paths], last_seconds()

    def timed(path: Path) -> float:
        begun = time.monotonic()
        work(path)
        return time.monotonic() - begun

    with ThreadPoolExecutor(workers) as pool:
        runs = {pool.submit(timed, path): path.stem for path in paths}
        for number, done in enumerate(as_completed(runs), start=1):
            name = runs[done]
            waiting.remove(name)
            place = f"[{number}/{len(paths)}] {name}"
            try:
                seconds[name] = done.result()
            except ChapterError as error:
                failed.append(name)
                print(f"{place} failed\nchapter {name}: {error}", flush=True)
                if not goes_on:
                    pool.shutdown(cancel_futures=True)
                    break
            else:
                print(f"{place} {seconds[name]:.1f} s{still(waiting, seconds, workers)}", flush=True)
    SECONDS.parent.mkdir(exist_ok=True)
    SECONDS.write_text(json.dumps(seconds))
    return failed


def last_seconds() -> dict[str, float]:
    """How long each chapter took when it ran last on this machine."""
    seconds: dict[str, float] = json.loads(SECONDS.read_text()) if SECONDS.exists() else {}
    return seconds


def still(waiting: list[str], seconds: dict[str, float], workers: int) -> str:
    """What is still to come and, if all of it ran here before, for how long."""
    if not waiting:
        return ""
    left = [seconds.get(name) for name in waiting]
    known = [s for s in left if s is not None]
    about = f", about {sum(known) / workers:.0f} s" if len(known) == len(left) else ""
    return f" (still {', '.join(waiting)}{about})"


def main() -> int:
    """Run the chapters, the long ones at the end of the book first; stop at a failure.

    Where models are written, the chapters that train them go before all others.
    """
    parser = argparse.ArgumentParser(description="Run chapters and store their outputs.")
    parser.add_argument("root", type=Path)
    parser.add_argument("chapters", nargs="*", metavar="CHAPTER", help="default: all")
    options = parser.parse_args()
    paths, start = notebooks(options.root, options.chapters)[::-1], time.monotonic()
    asks = "DDPM_NB_WRITE_WEIGHTS"
    trains = [path for path in paths if os.environ.get(asks) and asks in path.read_text(encoding="utf-8")]
    for group in (trains, [path for path in paths if path not in trains]):
        if each(group, lambda path: write_notebook(run(path), path), workers=WORKERS):
            return 1
    if options.root == Path("."):  # `make book` has its own last line, and runs copies
        seconds = time.monotonic() - start
        print(f"make execute: {len(paths)} chapters run in {seconds:.0f} s: outputs stored in book/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
