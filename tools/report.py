"""The last line of a command: what was done and where. A build that "works" but leaves no page is a failure too."""

import sys
import time

from tools.book import ROOT, chapters, toc_files

BUILD = ROOT / "_build"
INDEX = "_build/html/index.html"


def pages() -> int:
    """The number of pages of the built site; every page of the table of contents must be there."""
    missing = [page for page in toc_files(ROOT) if not (BUILD / f"html/{page}.html").exists()]
    if missing or not (ROOT / INDEX).exists():
        raise SystemExit(f"the site was built without these pages: {', '.join(missing) or INDEX}")
    return len(toc_files(ROOT))


def main(command: str) -> int:
    """Say what `make COMMAND` did."""
    seconds = round(time.time() - int((BUILD / "started").read_text()))
    count = len(chapters(ROOT))
    done = {
        "check": lambda: f"{count} chapters, nothing to complain about, in {seconds} s",
        "html": lambda: f"{pages()} pages built in {seconds} s: open {INDEX}",
        "book": lambda: f"{count} chapters run, {pages()} pages built in {seconds} s: open {INDEX}",
        "test": lambda: f"all tests, {count} notebooks, site of {pages()} pages: all passed in {seconds} s",
    }
    print(f"make {command}: {done[command]()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
