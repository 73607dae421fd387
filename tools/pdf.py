"""The whole book as one PDF: the built pages in reading order, printed by Chromium: python -m tools.pdf.

Two passes: the first finds on which sheet each chapter begins, the second prints these numbers into the contents.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from bs4 import BeautifulSoup, Tag
from pypdf import PdfReader

from tools.book import ROOT, toc_files

SITE = ROOT / "_build" / "html"
WORK = SITE / "_print.html"  # beside the pages, so that their pictures and styles are found
OUT = ROOT / "_build" / "book.pdf"
LEFT_OUT = {"book/functions"}  # look-ups that make sense on a screen only
FOOT = (
    '<div style="width: 100%; font: 8pt sans-serif; color: #555; text-align: center">'
    '<span class="pageNumber"></span></div>'
)
BOOK = """<!DOCTYPE html>
<html lang="en" data-theme="light"><head><meta charset="utf-8"><title>{title}</title>{styles}</head>
<body class="book-print">
<header><p class="book-title">{title}</p><p>{author}</p><p>{copyright}</p></header>
<nav aria-label="Contents"><p class="contents">Contents</p><ol>{rows}</ol></nav>
<main class="bd-main"><div class="bd-content"><div class="bd-article-container"><div class="bd-article">
{texts}
</div></div></div></main></body></html>"""


def soup(page: str) -> BeautifulSoup:
    text = (SITE / f"{page}.html").read_text(encoding="utf-8")
    # The summary of a fold in code is code too: its blanks count.
    return BeautifulSoup(text, "html.parser", preserve_whitespace_tags={"pre", "summary"})


def article(page: str) -> Tag:
    """The text of a page, its anchors and links made unique in the whole book."""
    body = soup(page).find("article")
    if not isinstance(body, Tag):
        raise SystemExit(f"make pdf: {page}.html has no article")
    for useless in body.select(".headerlink, script, .eq-uses, nav"):
        useless.decompose()
    for tag in body.find_all(id=True):
        tag["id"] = f"{page}--{tag['id']}"
    for tag in body.find_all(href=True):
        target = moved(page, str(tag["href"]))
        if target is None:
            tag.unwrap()
        else:
            tag["href"] = target
    for image in body.find_all("img", src=True):
        image["src"] = (SITE / page).parent.joinpath(str(image["src"])).resolve().as_uri()
        del image["loading"]
    for fold in body.find_all("details"):
        fold["open"] = ""
    body.name, body["class"], body["id"] = "section", "page", page
    return body


def moved(page: str, href: str) -> str | None:
    """Where a link leads within the one document, or None if that is not in it; links to other hosts stay."""
    if re.match(r"[a-z]+:", href):
        return href
    path, _, fragment = href.partition("#")
    target = (SITE / page).parent.joinpath(path).resolve() if path else SITE / f"{page}.html"
    name = target.relative_to(SITE.resolve()).as_posix().removesuffix(".html")
    if name in LEFT_OUT or name not in toc_files(ROOT):
        return None
    return f"#{name}--{fragment}" if fragment else f"#{name}"


def title_of(body: Tag) -> str:
    heading = body.find("h1")
    return heading.get_text().strip() if heading else ""


def document(pages: dict[str, Tag], numbers: dict[str, int]) -> str:
    """One document: title, contents, pages."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    files = [str(link["href"]).partition("?")[0] for link in soup(next(iter(pages))).select('link[rel="stylesheet"]')]
    styles = [f'<link rel="stylesheet" href="{(SITE / "book" / file).resolve().as_uri()}">' for file in files]
    rows = [
        f'<li><a href="#{page}">{title_of(body)}</a><span>{numbers.get(page, "")}</span></li>'
        for page, body in pages.items()
    ]
    return BOOK.format(**config, styles="".join(styles), rows="".join(rows), texts="".join(map(str, pages.values())))


def browser(playwright: Any, *arguments: str) -> Any:
    """Chromium, without a window: playwright's own, which belongs to the pinned version, or the system's."""
    found = None
    if not Path(playwright.chromium.executable_path).exists():
        found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        if found is None:
            raise SystemExit(
                "no browser: install one with `apt-get install chromium` or "
                "`.venv/bin/python -m playwright install chromium`"
            )
    return playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu", *arguments])


def printed(tab: Any, text: str) -> None:
    """Print one document."""
    WORK.write_text(text, encoding="utf-8")
    tab.goto(WORK.as_uri(), wait_until="load")
    tab.evaluate("document.fonts.load('1em \"STIX Two Math\"').then(() => document.fonts.ready)")
    tab.evaluate("Promise.all([...document.images].map(image => image.decode()))")
    tab.pdf(
        path=OUT,
        format="A4",
        margin={"top": "18mm", "bottom": "20mm", "left": "20mm", "right": "20mm"},
        display_header_footer=True,
        header_template="<span></span>",
        footer_template=FOOT,
        print_background=True,
        outline=True,
        tagged=True,
    )
    WORK.unlink()


def starts(pages: dict[str, Tag]) -> dict[str, int]:
    """On which sheet each page of the site begins, from the outline that Chromium makes of the headings."""

    def plain(title: str) -> str:  # a long title stands in the outline as it was broken into lines
        return re.sub(r"\s+", "", title)

    reader = PdfReader(OUT)
    tops = [entry for entry in reader.outline if not isinstance(entry, list)]
    found = {plain(str(entry.title)): (reader.get_destination_page_number(entry) or 0) + 1 for entry in tops}
    numbers = {page: found.get(plain(title_of(body)), 0) for page, body in pages.items()}
    if lost := [page for page, number in numbers.items() if not number]:
        raise SystemExit(f"make pdf: not found in the printed book: {', '.join(lost)}")
    return numbers


def main() -> int:
    """Print the book."""
    from playwright.sync_api import sync_playwright

    pages = {page: article(page) for page in toc_files(ROOT) if page not in LEFT_OUT}
    with sync_playwright() as playwright:
        tab = browser(playwright).new_page()
        printed(tab, document(pages, {}))
        numbers = starts(pages)
        printed(tab, document(pages, numbers))
    if starts(pages) != numbers:
        raise SystemExit("make pdf: the numbers in the contents moved the pages")
    fonts = shutil.which("fc-list")
    if fonts and not subprocess.check_output([fonts, ":lang=zh-tw"]):
        print(
            "make pdf: no font here has Chinese characters; the glossary shows boxes in their place. "
            "Install one, such as Noto Sans CJK, and print again."
        )
    size = f"{len(PdfReader(OUT).pages)} sheets, {OUT.stat().st_size / 1e6:.1f} MB"
    print(f"make pdf: {size}: open {OUT.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
