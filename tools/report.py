"""The last line of a command: what was done and where, counted from what the command left."""

import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from tools.sync import chapters, toc_files

ROOT = Path.cwd()
BUILD = ROOT / "_build"
INDEX = "_build/html/index.html"
# The longest cell trains for two minutes on two cores; a slow machine may take several times that.
CELL_TIMEOUT_S = 1800


def pages() -> int:
    """The number of pages of the built site; every page of the table of contents must be there."""
    missing = [
        page for page in toc_files(ROOT) if not (BUILD / f"html/{page}.html").exists()
    ]
    if missing or not (ROOT / INDEX).exists():
        raise SystemExit(
            f"the site was built without these pages: {', '.join(missing) or INDEX}"
        )
    return len(toc_files(ROOT))


def results(name: str) -> dict[str, int]:
    """The counts of one pytest run."""
    suite = ElementTree.parse(BUILD / f"{name}.xml").getroot().find("testsuite")
    if suite is None:
        raise SystemExit(f"_build/{name}.xml holds no test run")
    return {
        key: int(suite.get(key, 0))
        for key in ("tests", "skipped", "failures", "errors")
    }


def reasons(name: str) -> str:
    """Why tests of a run were skipped."""
    skips = ElementTree.parse(BUILD / f"{name}.xml").getroot().iter("skipped")
    return "; ".join(sorted({str(skip.get("message")) for skip in skips}))


def run_nbval() -> int:
    """Run every chapter alone in a folder, and compare each output with the stored one (nbval's strict mode)."""
    shutil.rmtree(BUILD / "alone", ignore_errors=True)
    notebooks = []
    for name in chapters(ROOT):
        folder = BUILD / "alone" / name
        folder.mkdir(parents=True)
        notebooks.append(str(shutil.copy(ROOT / f"book/{name}.ipynb", folder)))
    command = [sys.executable, "-m", "pytest", "-q", "--nbval", "--nbval-current-env"]
    command += [
        f"--nbval-cell-timeout={CELL_TIMEOUT_S}",
        "--nbval-kernel-startup-timeout=120",
    ]
    # The tests' own rules on warnings are not for nbval: the cells run in another process.
    command += [
        "-p",
        "no:cacheprovider",
        "-o",
        "filterwarnings=default",
        "-o",
        "testpaths=",
    ]
    return subprocess.run(
        [*command, f"--junitxml={BUILD / 'nbval.xml'}", *notebooks], check=False
    ).returncode


def main(command: str) -> int:
    """Say what `make COMMAND` did."""
    if command == "nbval":
        return run_nbval()
    seconds = round(time.time() - int((BUILD / "started").read_text()))
    if command == "book":
        count = len(chapters(ROOT))
        pages()
        print(f"make book: {count} chapters run and built in {seconds} s: open {INDEX}")
    elif command == "html":
        print(f"make html: {pages()} pages built in {seconds} s: open {INDEX}")
    elif command == "check":
        print(
            f"make check: {len(chapters(ROOT))} chapters, nothing to complain about, in {seconds} s"
        )
    elif command == "test":
        tests = results("tests")
        ran = tests["tests"] - tests["skipped"]
        skipped = (
            f" ({tests['skipped']} skipped: {reasons('tests')})"
            if tests["skipped"]
            else ""
        )
        cells = results("nbval")
        print(
            f"make test: {ran} tests{skipped}, {len(chapters(ROOT))} notebooks "
            f"({cells['tests']} cells), site of {pages()} pages: all passed in {seconds} s"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
