"""The whole book as one PDF: the built pages in reading order, printed by Chromium.

    python -m tools.pdf

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

from tools.sync import toc_files

ROOT = Path.cwd()
SITE = ROOT / "_build" / "html"
WORK = (
    SITE / "_print.html"
)  # beside the pages, so that their pictures and styles are found
OUT = ROOT / "_build" / "book.pdf"
# Look-ups that make sense on a screen only.
LEFT_OUT = {"book/functions"}
FOOT = (
    '<div style="width: 100%; font: 8pt sans-serif; color: #555; text-align: center">'
    '<span class="pageNumber"></span></div>'
)


def article(page: str) -> Tag:
    """The text of a page, its anchors and links made unique in the whole book."""
    soup = BeautifulSoup(
        (SITE / f"{page}.html").read_text(encoding="utf-8"),
        "html.parser",
        # The summary of a fold in code is code too: its blanks count.
        preserve_whitespace_tags={"pre", "summary"},
    )
    body = soup.find("article")
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
        image["src"] = str(
            (SITE / page).parent.joinpath(str(image["src"])).resolve().as_uri()
        )
        del image["loading"]
    for fold in body.find_all("details"):
        fold["open"] = ""
    body.name = "section"
    body["class"] = "page"
    body["id"] = page
    return body


def moved(page: str, href: str) -> str | None:
    """Where a link leads within the one document, or None if that is not in it; links to other hosts stay."""
    if re.match(r"[a-z]+:", href):
        return href
    path, _, fragment = href.partition("#")
    target = (
        (SITE / page).parent.joinpath(path).resolve() if path else SITE / f"{page}.html"
    )
    name = target.relative_to(SITE.resolve()).as_posix().removesuffix(".html")
    if name in LEFT_OUT or name not in toc_files(ROOT):
        return None
    return f"#{name}--{fragment}" if fragment else f"#{name}"


def title_of(body: Tag) -> str:
    heading = body.find("h1")
    return heading.get_text().strip() if heading else ""


def plain(title: str) -> str:
    return re.sub(r"\s+", "", title)


def document(pages: dict[str, Tag], numbers: dict[str, int]) -> str:
    """One document: title, contents, pages."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    first = BeautifulSoup(
        (SITE / f"{next(iter(pages))}.html").read_text(encoding="utf-8"), "html.parser"
    )
    files = [
        str(link["href"]).partition("?")[0]
        for link in first.select('link[rel="stylesheet"]')
    ]
    styles = "".join(
        f'<link rel="stylesheet" href="{(SITE / "book" / file).resolve().as_uri()}">'
        for file in files
    )
    rows = "".join(
        f'<li><a href="#{page}">{title_of(body)}</a><span>{numbers.get(page, "")}</span></li>'
        for page, body in pages.items()
    )
    texts = "".join(str(body) for body in pages.values())
    return (
        f'<!DOCTYPE html><html lang="en" data-theme="light"><head><meta charset="utf-8">'
        f'<title>{config["title"]}</title>{styles}</head><body class="book-print">'
        f'<header><p class="book-title">{config["title"]}</p>'
        f"<p>{config['author']}</p><p>{config['copyright']}</p></header>"
        f'<nav aria-label="Contents"><p class="contents">Contents</p><ol>{rows}</ol></nav>'
        f'<main class="bd-main"><div class="bd-content"><div class="bd-article-container">'
        f'<div class="bd-article">{texts}</div></div></div></main>'
        "</body></html>"
    )


def printed(browser: Any, text: str) -> None:
    """Print one document."""
    WORK.write_text(text, encoding="utf-8")
    tab = browser.new_page()
    tab.goto(WORK.as_uri(), wait_until="load")
    tab.evaluate(
        "document.fonts.load('1em \"STIX Two Math\"').then(() => document.fonts.ready)"
    )
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
    tab.close()
    WORK.unlink()


def starts(pages: dict[str, Tag]) -> dict[str, int]:
    """On which sheet each page of the site begins, from the outline that Chromium makes of the headings."""
    reader = PdfReader(OUT)
    tops = [entry for entry in reader.outline if not isinstance(entry, list)]
    # A long title stands in the outline as it was broken into lines.
    found = {
        plain(str(entry.title)): (reader.get_destination_page_number(entry) or 0) + 1
        for entry in tops
    }
    numbers = {
        page: found.get(plain(title_of(body)), 0) for page, body in pages.items()
    }
    lost = [page for page, number in numbers.items() if not number]
    if lost:
        raise SystemExit(f"make pdf: not found in the printed book: {', '.join(lost)}")
    return numbers


def main() -> int:
    """Print the book."""
    from playwright.sync_api import Error, sync_playwright

    if not (SITE / "index.html").exists():
        raise SystemExit("make pdf: build the site first: make html")
    pages = {page: article(page) for page in toc_files(ROOT) if page not in LEFT_OUT}
    with sync_playwright() as playwright:
        own = Path(playwright.chromium.executable_path).exists()
        names = ("chromium", "chromium-browser", "google-chrome")
        path = (
            None
            if own
            else next((f for name in names if (f := shutil.which(name))), None)
        )
        try:
            browser = playwright.chromium.launch(
                executable_path=path, args=["--no-sandbox", "--disable-gpu"]
            )
        except Error:
            raise SystemExit(
                "make pdf: no browser: install one with `apt-get install chromium` or "
                "`.venv/bin/python -m playwright install chromium`"
            ) from None
        printed(browser, document(pages, {}))
        numbers = starts(pages)
        printed(browser, document(pages, numbers))
        browser.close()
    if starts(pages) != numbers:
        raise SystemExit("make pdf: the numbers in the contents moved the pages")
    sheets = len(PdfReader(OUT).pages)
    fonts = shutil.which("fc-list")
    if fonts and not subprocess.check_output([fonts, ":lang=zh-tw"]):
        print(
            "make pdf: no font here has Chinese characters; the glossary shows boxes in their place. "
            "Install one, such as Noto Sans CJK, and print again."
        )
    print(
        f"make pdf: {sheets} sheets, {OUT.stat().st_size / 1e6:.1f} MB: open {OUT.relative_to(ROOT)}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
