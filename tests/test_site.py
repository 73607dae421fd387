"""The built site, as a reader meets it: in a real browser, with no other host to ask.

`make html` builds what is looked at here.
"""

from __future__ import annotations

import functools
import io
import os
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup

ROOT = Path(__file__).parent.parent
SITE = ROOT / "_build" / "html"
# Without index.html, which only sends the reader on.
PAGES = sorted(
    {
        p.relative_to(SITE).as_posix()
        for p in SITE.rglob("*.html")
        if "_static" not in p.parts
    }
    - {"index.html"}
)

PHONE, DESK = {"width": 360, "height": 740}, {"width": 1280, "height": 900}
GET_A_BROWSER = "no browser: install one with `apt-get install chromium` or `python -m playwright install chromium`"

every_page = pytest.mark.parametrize("page", PAGES or ["(no page)"])


def chapters() -> list[str]:
    """The pages of the numbered parts of the table of contents."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf8"))
    return [
        f"{c['file']}.html"
        for part in toc["parts"]
        if part.get("numbered")
        for c in part["chapters"]
    ]


@pytest.fixture(scope="session", autouse=True)
def site() -> Path:
    if not (SITE / "index.html").exists():
        pytest.fail("the site is not built: run `make html`", pytrace=False)
    return SITE


# ---- What the files say ----------------------------------------------------------------------------------


@functools.cache
def soup(page: str) -> BeautifulSoup:
    return BeautifulSoup((SITE / page).read_text(encoding="utf8"), "html.parser")


@functools.cache
def ids(page: str) -> frozenset[str]:
    return frozenset(tag["id"] for tag in soup(page).find_all(id=True))


def article(page: str) -> BeautifulSoup | Any:
    return soup(page).find("article") or BeautifulSoup("", "html.parser")


def test_every_page_of_the_table_of_contents_is_built() -> None:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf8"))
    wanted = {
        toc["root"],
        *(c["file"] for part in toc["parts"] for c in part["chapters"]),
    }
    assert {f"{name}.html" for name in wanted} <= set(PAGES)
    assert f'url={toc["root"]}.html"' in (SITE / "index.html").read_text(
        encoding="utf8"
    ), "index.html leads elsewhere"


@every_page
def test_links_land(page: str) -> None:
    broken = []
    for tag in soup(page).find_all(True):
        for attribute in ("href", "src"):
            url = urlsplit(tag.get(attribute, ""))
            if url.scheme or url.netloc or not (url.path or url.fragment):
                continue
            target = (
                (SITE / page).parent / unquote(url.path) if url.path else SITE / page
            )
            if not target.resolve().is_file():
                broken.append(tag[attribute])
            elif url.fragment and target.suffix == ".html":
                name = target.resolve().relative_to(SITE.resolve()).as_posix()
                if unquote(url.fragment) not in ids(name):
                    broken.append(tag[attribute])
    assert not broken


@every_page
def test_nothing_is_taken_from_another_host(page: str) -> None:
    """What a page names, also where a browser might not ask for it today (preloads, sources, frames)."""
    loaded = [tag.get("src") for tag in soup(page).find_all(src=True)]
    loaded += [
        tag.get("href")
        for tag in soup(page).find_all("link")
        if "canonical" not in (tag.get("rel") or [])
    ]
    assert [url for url in loaded if urlsplit(url).netloc] == []


@every_page
def test_pictures_have_words(page: str) -> None:
    for image in soup(page).find_all("img"):
        alt = (image.get("alt") or "").strip()
        assert alt, f"no alt text: {image.get('src')}"
        assert not re.search(r"\.(png|jpe?g|svg|gif|webp)$|^\S*/", alt, re.I), (
            f"alt text is a file name: {alt}"
        )


@every_page
def test_mathematics_is_set(page: str) -> None:
    body = BeautifulSoup(
        str(article(page)), "html.parser"
    )  # a copy: parts are cut out of it below
    formulas = body.select(".math")
    assert all(formula.find("math") for formula in formulas)
    assert not body.select(".math-error, merror")
    if page in chapters():
        assert formulas, "a chapter without mathematics"
    for tag in body.select("annotation, pre, code, script"):
        tag.decompose()
    raw = re.findall(
        r"\\[A-Za-z]{2,}.{0,30}|\$[^\s$][^$]*\$|\\[(\[].{0,30}", body.get_text()
    )
    assert not raw, f"TeX that was not set: {raw}"


def equation_numbers() -> dict[tuple[str, str], str]:
    """(page, id) -> the number shown, "(2.1)"."""
    numbers: dict[tuple[str, str], str] = {}
    for page in PAGES:
        for number in soup(page).select("div.math > .eqno"):
            numbers[page, str(number.find_parents("div")[0]["id"])] = next(
                iter(number.strings)
            ).strip()
    return numbers


def test_no_two_equations_share_a_number() -> None:
    numbers = list(equation_numbers().values())
    assert numbers
    assert sorted(numbers) == sorted(set(numbers))
    assert all(re.fullmatch(r"\((\d+\.)?\d+\)", number) for number in numbers), numbers


def test_links_to_equations_show_the_number() -> None:
    numbers, checked = equation_numbers(), 0
    for page in PAGES:
        for link in article(page).select('a[href*="#equation-"]:not(.headerlink)'):
            path, _, fragment = str(link["href"]).partition("#")
            target = (
                ((SITE / page).parent / path)
                .resolve()
                .relative_to(SITE.resolve())
                .as_posix()
                if path
                else page
            )
            assert link.get_text() == numbers[target, fragment], f"{page}: {link}"
            checked += 1
    assert checked


@every_page
def test_tables_and_folds_say_what_they_are(page: str) -> None:
    assert all(table.find("th") for table in article(page).find_all("table")), (
        "a table without headers"
    )
    assert all(fold.find("summary") for fold in article(page).find_all("details")), (
        "a fold without a summary"
    )


# ---- What a browser shows ----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import Error, sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    with sync_playwright() as playwright:
        # Playwright's own browser first: it is the one that belongs to the pinned version.
        own = Path(playwright.chromium.executable_path).exists()
        path = (
            None
            if own
            else next((f for name in names if (f := shutil.which(name))), None)
        )
        try:
            started = playwright.chromium.launch(
                executable_path=path,
                args=[
                    "--no-sandbox",
                    "--headless",
                    "--disable-gpu",
                    "--disable-background-networking",
                ],
            )
        except Error:
            if os.environ.get("CI") == "true":
                pytest.fail(GET_A_BROWSER, pytrace=False)
            pytest.skip(GET_A_BROWSER)
        yield started
        started.close()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(QuietHandler, directory=str(SITE))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@dataclass
class Visit:
    """What was seen on one page. Pages are visited once; the tests below ask the notes."""

    foreign: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    themes: dict[str, dict[str, Any]] = field(default_factory=dict)
    sideways: list[str] = field(default_factory=list)


# Images that did not load.
IMAGES = (
    "[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src)"
)

# The page's background, and the texts whose contrast with what is behind them is below 4.5 (WCAG AA).
COLOURS = """() => {
  const rgba = text => { const n = text.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3]));
  const light = c => c.map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = e => e ? over(rgba(getComputedStyle(e).backgroundColor), behind(e.parentElement)) : [255, 255, 255];
  const page = behind(document.body);
  const texts = document.createTreeWalker(document.querySelector("article") || document.body, NodeFilter.SHOW_TEXT);
  const bad = new Map();
  const seen = new Set();
  while (texts.nextNode()) {
    const e = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || seen.has(e) || !e.getClientRects().length
        || !e.checkVisibility({checkOpacity: true, checkVisibilityCSS: true})
        || e.closest(".headerlink, button, script, style")) continue;
    seen.add(e);
    const below = behind(e), a = light(over(rgba(getComputedStyle(e).color), below)), b = light(below);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const name = e.tagName + "." + e.className + " " + ratio.toFixed(2);
    if (ratio < 4.5) bad.set(name, texts.currentNode.data.slice(0, 30));
  }
  return {background: light(page), texts: seen.size, bad: [...bad].slice(0, 10)};
}"""

# What makes a page wider than the screen: what sticks out and lies in no box that scrolls by itself.
SIDEWAYS = """() => {
  const root = document.scrollingElement;
  const scrolls = e => e && e !== document.body && (["auto", "scroll"].includes(getComputedStyle(e).overflowX)
    || scrolls(e.parentElement));
  const out = [...document.querySelectorAll("article *")].filter(
    e => e.getBoundingClientRect().right > innerWidth + 1 && !scrolls(e) && !e.closest("math"));
  const names = out.slice(0, 5).map(e => e.tagName + "." + e.className + " " + e.textContent.trim().slice(0, 40));
  return root.scrollWidth > innerWidth ? ["page is " + root.scrollWidth + " px wide", ...names] : names;
}"""


def corner_of_first_drawing(tab: Any) -> list[Any] | None:
    """A pixel just inside the corner of the first picture that is no photograph, and one just outside."""
    from PIL import Image

    drawing = tab.locator("article img:not(.photo)").first
    if not drawing.count() or not drawing.is_visible():
        return None
    drawing.scroll_into_view_if_needed()
    box = drawing.bounding_box()
    clip = {"x": box["x"] - 6, "y": box["y"] + 1, "width": 12, "height": 6}
    pixels = Image.open(io.BytesIO(tab.screenshot(clip=clip))).convert("RGB")
    return [pixels.getpixel((9, 3)), pixels.getpixel((1, 3))]


@pytest.fixture(scope="session")
def visits(browser: Any, address: str) -> Iterator[Any]:
    notes: dict[str, Visit] = {}

    def visit(page: str) -> Visit:
        if page in notes:
            return notes[page]
        note = notes[page] = Visit()
        context = browser.new_context(viewport=DESK, color_scheme="light")
        tab = context.new_page()

        def ask(route: Any) -> None:
            if route.request.url.startswith(address):
                route.continue_()
            else:
                note.foreign.append(route.request.url)
                route.abort()

        context.route(lambda url: not url.startswith(("data:", "blob:")), ask)
        tab.on(
            "console",
            lambda m: (
                note.complaints.append(m.text)
                if m.type in ("error", "warning")
                else None
            ),
        )
        tab.on("pageerror", lambda error: note.complaints.append(str(error)))
        tab.on(
            "response",
            lambda r: (
                note.complaints.append(f"{r.status} {r.url}")
                if r.status >= 400
                else None
            ),
        )
        tab.goto(address + page, wait_until="networkidle")
        note.images = tab.evaluate(IMAGES)
        for theme in ("light", "dark"):
            tab.emulate_media(color_scheme=theme)
            tab.wait_for_function(
                f"document.documentElement.dataset.theme === '{theme}'"
            )
            # The theme fades links and buttons into their new colours; look when that is over.
            tab.add_style_tag(
                content="* { transition: none !important }"
            ) if theme == "light" else None
            note.themes[theme] = {
                **tab.evaluate(COLOURS),
                "corner": corner_of_first_drawing(tab),
            }
        tab.set_viewport_size(PHONE)
        note.sideways = tab.evaluate(SIDEWAYS)
        context.close()
        return note

    yield visit


@every_page
def test_asks_no_other_host(page: str, visits: Any) -> None:
    assert visits(page).foreign == []


@every_page
def test_nothing_goes_wrong(page: str, visits: Any) -> None:
    assert visits(page).complaints == []


@every_page
def test_pictures_load(page: str, visits: Any) -> None:
    assert visits(page).images == []


@every_page
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_both_themes(page: str, theme: str, visits: Any) -> None:
    seen = visits(page).themes[theme]
    assert seen["background"] < 0.05 if theme == "dark" else seen["background"] > 0.8
    assert seen["bad"] == [], "too little contrast"
    if seen["corner"]:
        inside, outside = seen["corner"]
        apart = max(abs(a - b) for a, b in zip(inside, outside, strict=True))
        assert apart <= 12, f"the picture's own background shows: {inside} on {outside}"


@every_page
def test_fits_a_phone(page: str, visits: Any) -> None:
    assert visits(page).sideways == []


# How many formulas are drawn, how many pictures, how much text.
SEEN = """() => ({
  formulas: [...document.querySelectorAll("article .math math")]
    .filter(m => m.getBoundingClientRect().width > 0).length,
  images: [...document.querySelectorAll("article img")].filter(i => i.naturalWidth > 0).length,
  text: (document.querySelector("article") || document.body).innerText.length,
})"""


def expected(page: str) -> tuple[int, int]:
    """Formulas and pictures of a page that are not folded away."""
    shown = [
        tag
        for tag in article(page).select(".math math, img")
        if not tag.find_parent("details")
    ]
    return sum(tag.name == "math" for tag in shown), sum(
        tag.name == "img" for tag in shown
    )


@every_page
def test_reads_without_scripts(page: str, browser: Any, address: str) -> None:
    context = browser.new_context(java_script_enabled=False, viewport=DESK)
    tab = context.new_page()
    tab.goto(address + page)
    formulas, images = expected(page)
    seen = tab.evaluate(SEEN)
    context.close()
    assert (seen["formulas"] >= formulas, seen["images"] >= images) == (True, True), (
        seen
    )
    assert seen["text"] > (500 if page in chapters() else 0)


@every_page
def test_opens_from_a_folder(page: str, browser: Any) -> None:
    context = browser.new_context(viewport=DESK)
    tab = context.new_page()
    complaints: list[str] = []
    tab.on(
        "console",
        lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None,
    )
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on(
        "request",
        lambda r: complaints.append(r.url) if r.url.startswith("http") else None,
    )
    tab.goto((SITE / page).as_uri(), wait_until="load")
    tab.evaluate("document.fonts.ready")
    formulas, images = expected(page)
    seen = tab.evaluate(SEEN)
    if formulas:
        loaded = "[...document.fonts].filter(f => f.status === 'loaded').map(f => f.family.replaceAll('\"', ''))"
        assert "STIX Two Math" in tab.evaluate(loaded)
    context.close()
    assert complaints == []
    assert (seen["formulas"] >= formulas, seen["images"] >= images) == (True, True), (
        seen
    )
