"""The built site, as a reader meets it: in a real browser, with no other host to ask.

`make html` builds what is looked at here.
"""

from __future__ import annotations

import ast
import copy
import functools
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup
from helpers import ROOT
from PIL import Image
from pypdf import PdfReader

from tools.book import toc_files

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
ZOOMED = {
    "width": 640,
    "height": 450,
}  # what a page is given when DESK is zoomed to 200 %
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


@pytest.fixture(scope="module", autouse=True)
def site() -> Path:
    if not (SITE / "index.html").exists():
        pytest.fail("the site is not built: run `make html`", pytrace=False)
    return SITE


# ---- What the files say ----------------------------------------------------------------------------------


@functools.cache
def soup(page: str) -> BeautifulSoup:
    # The summary of a fold in code is code too: its blanks count.
    return BeautifulSoup(
        (SITE / page).read_text(encoding="utf8"),
        "html.parser",
        preserve_whitespace_tags={"pre", "summary"},
    )


@functools.cache
def elements(page: str) -> list[Any]:
    return soup(page).find_all(True)


@functools.cache
def ids(page: str) -> frozenset[str]:
    return frozenset(tag["id"] for tag in elements(page) if tag.has_attr("id"))


@functools.cache
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
    for tag in elements(page):
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
    loaded = [tag["src"] for tag in elements(page) if tag.has_attr("src")]
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
        link = image.find_parent("a")
        if alt == "" and link is not None and link.get_text().strip():
            continue  # it only decorates a link whose words say all
        assert alt, f"no alt text: {image.get('src')}"
        assert not re.search(r"\.(png|jpe?g|svg|gif|webp)$|^\S*/", alt, re.I), (
            f"alt text is a file name: {alt}"
        )


def test_a_picture_stands_over_its_caption_and_has_a_number() -> None:
    found = 0
    for number, page in enumerate(chapters(), start=1):
        figures = article(page).find_all("figure")
        for count, figure in enumerate(figures, start=1):
            picture, caption = figure.find_all(["img", "figcaption"])
            assert (picture.name, caption.name) == ("img", "figcaption")
            assert caption.strong.get_text() == f"Figure {number}.{count}."
        found += len(figures)
        assert "Figure. " not in article(page).get_text(), "a caption without its picture"  # fmt: skip
    assert found > 10


@every_page
def test_mathematics_is_set(page: str) -> None:
    body = copy.copy(article(page))  # parts are cut out of it below
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


@functools.cache
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
def test_no_line_begins_with_the_mark_after_a_formula(page: str) -> None:
    for formula in article(page).select("span.math"):
        after = formula.next_sibling
        if formula.parent.get("class") != ["joined"] and isinstance(after, str):
            assert not re.match(r"[.,;:!?)\]’”…]", after), (
                f"{formula.get_text()} | {after[:20]}"
            )


@every_page
def test_tables_and_folds_say_what_they_are(page: str) -> None:
    # Sphinx's own index is laid out with tables, and says so.
    tables = article(page).select("table:not(.indextable)")
    assert all(table.find("th") for table in tables), "a table without headers"
    assert all(fold.find("summary") for fold in article(page).find_all("details")), (
        "a fold without a summary"
    )


def test_every_use_of_an_equation_is_linked_back() -> None:
    """From under each equation a link leads to each section that uses it, and is called by the section's number."""
    uses: dict[str, set[str]] = {}
    back: dict[str, set[str]] = {}
    for page in chapters():
        for link in article(page).select('a[href*="#equation-"]:not(.headerlink)'):
            section = link.find_parent("section")["id"]
            label = str(link["href"]).partition("#")[2]
            uses.setdefault(label, set()).add(f"{page}#{section}")
        for line in article(page).select("p.eq-uses"):
            equation = line.find_previous("div", class_="math")["id"]
            for link in line.select('a[href*="#use-"]'):
                path, _, fragment = str(link["href"]).partition("#")
                target = f"book/{path}" if path else page
                section = soup(target).find(id=fragment).find_parent("section")
                number = section.select_one(".section-number").get_text().strip(" .")
                assert link.get_text() == number
                assert link["aria-label"] == f"section {number}"
                back.setdefault(equation, set()).add(f"{target}#{section['id']}")
    assert uses == back
    assert len(uses) > 10


def test_every_function_is_explained_and_linked_both_ways() -> None:
    import ddpm_nb

    functions = soup("book/functions.html")
    for name, chapter in ddpm_nb._HOME.items():
        entry = functions.find("dt", id=f"ddpm_nb.{chapter}.{name}")
        assert entry, f"no entry for {name}"
        if chapter.startswith("_"):  # it has no page
            continue
        assert f"{chapter}.html#code-{name}" in {
            link["href"] for link in entry.find_parent("dl").find_all("a", href=True)
        }
        code = soup(f"book/{chapter}.html").find(id=f"code-{name}")
        assert code["href"] == f"functions.html#ddpm_nb.{chapter}.{name}"


def test_equations_are_linked_with_the_functions_that_name_them() -> None:
    """A docstring's `Equation: eq-…` is a link, and under that equation the function is named."""
    numbers, checked = equation_numbers(), 0
    for entry in article("book/functions.html").select("dl.py > dt.sig[id]"):
        name = str(entry["id"]).partition(".")[2].partition(".")[2]
        text = entry.find_next_sibling("dd")
        for link in text.find_all("a", href=re.compile("#equation-")):
            if link.find_parent("dl", class_="py") is not entry.parent:
                continue
            page, _, fragment = str(link["href"]).partition("#")
            assert link.get_text() == numbers[f"book/{page}", fragment]
            under = soup(f"book/{page}").find(id=fragment).find_next_sibling("p")
            if f"book/{page}" == f"book/{str(entry['id']).split('.')[1]}.html":
                assert name in [code.get_text() for code in under.find_all("code")]
            checked += 1
    assert checked > 10


def test_pages_lead_to_their_source() -> None:
    """Colab, download, edit and report, with addresses that name files of this repository."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf8"))
    home = config["repository"]["url"]
    for page in PAGES:
        if not page.startswith("book/"):
            continue
        links = {
            a.get_text(strip=True): str(a["href"])
            for a in soup(page).select("nav.page-links a")
        }
        kinds = ["Edit", "Report an error"]
        if page in chapters():
            kinds = ["Open in Colab", "Download", *kinds]
            name = Path(page).stem
            assert links["Open in Colab"].endswith(f"/blob/main/book/{name}.ipynb")
            assert (SITE / page).parent.joinpath(links["Download"]).read_bytes() == (
                ROOT / f"book/{name}.ipynb"
            ).read_bytes()
        assert list(links) == kinds
        assert links["Report an error"].startswith(f"{home}/issues/new?title=")
        edit = links["Edit"].removeprefix(f"{home}/edit/main/")
        assert (ROOT / edit).is_file(), edit


def test_the_map_shows_what_is_imported() -> None:
    """Every import of one chapter by another can be walked on the map, and no arc leads backwards."""
    rows = soup("book/run.html").select(".chapter-map li")
    names = [Path(str(row.a["href"])).stem for row in rows]
    assert [f"book/{name}.html" for name in names] == [
        page for page in chapters() if (ROOT / f"ddpm_nb/{Path(page).stem}.py").exists()
    ]
    reached: dict[str, set[str]] = {}
    for name, row in zip(names, rows, strict=True):
        below = row.small.get_text().partition("builds on ")[2]
        direct = [part for part in below.split(", ") if part]
        assert set(direct) <= set(reached)
        reached[name] = set(direct).union(*(reached[other] for other in direct))
        module = (ROOT / f"ddpm_nb/{name}.py").read_text(encoding="utf8")
        assert (
            set(re.findall(r"^from ddpm_nb\.([a-z]\w*) import", module, re.M))
            <= reached[name]
        )
    arcs = soup("book/run.html").select(".chapter-map svg path:not(.head)")
    assert len(arcs) == sum(
        len(row.small.get_text().partition("builds on ")[2].split(", "))
        for row in rows
        if "builds on" in row.small.get_text()
    )


@every_page
def test_pictures_are_light_sharp_and_sized(page: str) -> None:
    for image in article(page).find_all("img"):
        path = (SITE / page).parent / image["src"]
        if path.is_relative_to(SITE / "_static"):
            continue  # the theme's own signs
        if path.suffix == ".svg":
            continue  # sharp at any size; nothing jumps, for its width and height are set
        assert path.stat().st_size <= 60_000, f"{image['alt']}: {path.stat().st_size}"
        with Image.open(path) as picture:
            width, height = picture.size
            if "photo" in image.get("class", []):  # else a white frame on a dark page
                assert picture.convert("RGBA").getpixel((0, 0))[3] == 0
        # Two dots for each pixel of the page, and the same shape.
        shown = int(image["width"])
        assert width >= 1.9 * shown
        assert abs(int(image["height"]) - height * shown / width) <= 1
        assert image["loading"] == "lazy"


# ---- What is folded ---------------------------------------------------------------------------------------


def shown(box: Any) -> str:
    """The code that stands in sight when every fold of a cell is closed, its marks included."""
    box = copy.copy(box)
    for tag in box.select(".visually-hidden, details.fold > pre"):
        tag.decompose()
    return str(box.get_text())


def whole(box: Any) -> str:
    """What the copy button takes."""
    box = copy.copy(box)
    for tag in box.select(".visually-hidden, .fold-mark"):
        tag.decompose()
    return str(box.get_text())


@functools.cache
def cells(page: str) -> list[Any]:
    return article(page).select(".cell_input .highlight")


@functools.cache
def sources(page: str) -> list[tuple[str, list[str]]]:
    """The code of each cell of a notebook, and its tags."""
    notebook = json.loads((ROOT / page).with_suffix(".ipynb").read_text("utf8"))
    return [
        ("".join(cell["source"]), cell["metadata"].get("tags", []))
        for cell in notebook["cells"]
        if cell["cell_type"] == "code" and cell["source"]
    ]


chapter = pytest.mark.parametrize("page", chapters())


@chapter
def test_folded_code_is_whole(page: str) -> None:
    """Nothing of a cell is lost on its page, and nothing is added to it."""
    assert [whole(box).strip() for box in cells(page)] == [
        source.strip() for source, _ in sources(page)
    ]


@chapter
def test_what_is_left_in_sight_reads_as_python(page: str) -> None:
    boxes = article(page).select(".folded")
    assert len(boxes) >= 2  # how to install, and the imports
    for box in boxes:
        ast.parse(shown(box))


def functions(code: str) -> dict[str, tuple[str, list[ast.stmt]]]:
    """The functions and methods of a cell: the docstrings that speak for each, and its body.

    For a public method speaks also the docstring of its class.
    """
    found = {}
    for node in ast.parse(code).body:
        for part in node.body if isinstance(node, ast.ClassDef) else [node]:
            if isinstance(part, ast.FunctionDef):
                words = ast.get_docstring(part) or ""
                if isinstance(node, ast.ClassDef) and not re.match("_(?!_)", part.name):
                    words += ast.get_docstring(node) or ""
                name = part.name if part is node else f"{node.name}.{part.name}"
                found[name] = words, part.body
    return found


def is_check(statement: ast.stmt) -> bool:
    """Whether it only refuses bad input."""
    if isinstance(statement, ast.If):
        return isinstance(statement.body[-1], ast.Raise) and not statement.orelse
    return bool(re.match(r"[\w.]*check[\w.]*\(", ast.unparse(statement)))


@chapter
def test_what_computes_an_equation_is_never_folded(page: str) -> None:
    """Each statement of a function that names an equation, but for docstring and checks, is in sight."""
    hidden = []
    for box, (source, tags) in zip(cells(page), sources(page), strict=True):
        if "active-ipynb" in tags:
            continue
        in_sight = functions(shown(box))
        for name, (words, body) in functions(source).items():
            if re.search("Equation: (eq|def)-", words):
                seen = [ast.unparse(statement) for statement in in_sight[name][1]]
                documented = isinstance(body[0], ast.Expr)
                hidden += [
                    name
                    for statement in body[documented:]
                    if ast.unparse(statement) not in seen and not is_check(statement)
                ]
                assert not box.find_parent("details"), name
    assert hidden == []


@chapter
def test_the_code_of_a_picture_stands_folded_under_it(page: str) -> None:
    pictures = [c for c in article(page).select("div.cell") if c.find("img")]
    assert pictures
    for cell in pictures:
        code = cell.find("details", class_="code-below")
        if "tag_hide-cell" in cell["class"]:  # it is in the fold of a solution
            assert cell.find_parent("details")
        else:
            assert cell.find("img").find_next("details") is code
            assert code.find(class_="cell_input")


@chapter
def test_a_fold_is_one_fold_and_says_what_it_hides(page: str) -> None:
    for fold in article(page).find_all("details"):
        outer = fold.find_parent("details")
        assert outer is None, f"two clicks: {outer.summary.get_text()}"
        name = fold.summary.get_text().strip()
        answers = ("Solution", "What to see")
        assert re.search(r", (1 line|\d+ lines)$", name) or name in answers, name
    for cell in article(page).select(".tag_hide-cell:has(.output)"):
        assert cell.find_parent("details").summary.get_text() == "Solution"


# ---- What a browser shows ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
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
                    # No name leads anywhere: a page that asks another host gets nothing, and is heard asking.
                    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                ],
            )
        except Error:
            if os.environ.get("CI") == "true":
                pytest.fail(GET_A_BROWSER, pytrace=False)
            pytest.skip(GET_A_BROWSER)
        yield started
        started.close()


@pytest.mark.parametrize(("ci", "result"), [("true", "1 error"), ("", "1 skipped")])
def test_without_a_browser_one_line_says_how_to_get_one(ci: str, result: str) -> None:
    nowhere = {"PATH": "/nowhere", "PLAYWRIGHT_BROWSERS_PATH": "/nowhere", "CI": ci}
    test = f"{__file__}::test_a_link_to_an_equation_shows_it"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "--noconftest", test],
        env={**os.environ, **nowhere},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert GET_A_BROWSER in run.stdout
    assert result in run.stdout.splitlines()[-1]


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class QuietServer(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A browser that leaves a page hangs up; what is missing on a page, the browser itself says."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = QuietServer(
        ("127.0.0.1", 0), functools.partial(QuietHandler, directory=str(SITE))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


class Tab:
    """A tab that writes down what goes wrong on the page it shows. Each kind of visit uses one tab for all pages."""

    def __init__(self, browser: Any, home: str, **options: Any) -> None:
        self.context = browser.new_context(viewport=DESK, **options)
        self.page = self.context.new_page()
        self.home = home
        self.foreign: list[str] = []
        self.complaints: list[str] = []
        self.page.on("console", self.hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("response", self.look)
        self.page.on("request", self.note)

    def hear(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def look(self, response: Any) -> None:
        if response.status >= 400:
            self.complaints.append(f"{response.status} {response.url}")

    def note(self, request: Any) -> None:
        if not request.url.startswith((self.home, "data:", "blob:")):
            self.foreign.append(request.url)

    def open(self, page: str) -> Any:
        self.foreign, self.complaints = [], []
        self.page.goto(self.home + page, wait_until="load")
        return self.page


@pytest.fixture(scope="module")
def tabs(browser: Any, address: str) -> Iterator[dict[str, Tab]]:
    folder = SITE.as_uri() + "/"
    kept = {
        "served": Tab(browser, address, color_scheme="light"),
        "folder": Tab(browser, folder),
        "no scripts": Tab(browser, address, java_script_enabled=False),
    }
    # How much of what is in sight moves while a page loads and is scrolled through (Chromium's own measure).
    kept["served"].context.add_init_script(
        "window.shift = 0; new PerformanceObserver(list => list.getEntries().forEach(e => {"
        # The contents of the page unfold where the reader is; that is no jump of the text.
        " if (!e.sources.every(s => s.node?.parentElement?.closest('.page-toc'))) window.shift += e.value;"
        "})).observe({type: 'layout-shift', buffered: true});"
    )
    yield kept
    for tab in kept.values():
        tab.context.close()


@dataclass
class Visit:
    """What was seen on one page. Pages are visited once; the tests below ask the notes."""

    foreign: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    shift: float = 0
    themes: dict[str, dict[str, Any]] = field(default_factory=dict)
    sideways: dict[str, list[str]] = field(default_factory=dict)
    cut: dict[str, list[str]] = field(default_factory=dict)


# Go through the page as a reader does, so that lazy pictures load; then name those that did not.
IMAGES = """async () => {
  for (let y = 0; y < document.body.scrollHeight; y += innerHeight) {
    scrollTo({top: y, behavior: "instant"});
    await new Promise(requestAnimationFrame);
  }
  await Promise.allSettled([...document.images].filter(i => i.checkVisibility()).map(i => i.decode()));
  await new Promise(requestAnimationFrame);
  const missing = [...document.images].filter(i => i.checkVisibility() && !i.naturalWidth).map(i => i.src);
  scrollTo({top: 0, behavior: "instant"});
  return missing;
}"""

# What axe would look at a thousand times over: of the parts of code that have one colour it is left the first, and
# formulas, whose parts inherit everything and have no roles, and more than a dozen functions it is not shown.
THIN = """() => {
  document.querySelectorAll("math").forEach(m => m.replaceChildren());
  const seen = new Set();
  document.querySelectorAll(".highlight span[class]").forEach(s => {
    if (seen.has(s.className)) s.replaceWith(...s.childNodes);
    else seen.add(s.className);
  });
  [...document.querySelectorAll("dl.py")].slice(12).forEach(entry => entry.remove());
  document.querySelectorAll("article").forEach(a => a.normalize());
}"""
AXE = """async rules => {
  const found = await axe.run({preload: false, resultTypes: ["violations"], ...(rules ? {runOnly: rules} : {})});
  return found.violations.filter(v => ["serious", "critical"].includes(v.impact))
    .map(v => `${v.id}: ${v.help}: ${v.nodes.slice(0, 3).map(n => n.html.slice(0, 160)).join(" | ")}`);
}"""
# Only these depend on the theme.
OF_COLOURS = ["color-contrast", "link-in-text-block"]

# The lightness of the page's background, 0 ... 1.
BACKGROUND = """() => getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/g).slice(0, 3)
  .map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0)"""

# What makes a page wider than the screen: what sticks out and lies in no box that scrolls by itself.
# And what scrolls by itself but cannot be reached with the Tab key.
SIDEWAYS = """() => {
  const root = document.scrollingElement;
  const scrolls = e => e && e !== document.body && (["auto", "scroll"].includes(getComputedStyle(e).overflowX)
    || scrolls(e.parentElement));
  const out = [...document.querySelectorAll("article *")].filter(
    e => e.getBoundingClientRect().right > innerWidth + 1 && !scrolls(e) && !e.closest("math"));
  const names = out.slice(0, 5).map(e => e.tagName + "." + e.className + " " + e.textContent.trim().slice(0, 40));
  if (root.scrollWidth > innerWidth) names.push("page is " + root.scrollWidth + " px wide");
  const stuck = [...document.querySelectorAll("article *")].filter(
    e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth && !e.closest("math") && e.tabIndex < 0
      && ["auto", "scroll"].includes(getComputedStyle(e).overflowX) && !e.querySelector("a[href], [tabindex='0']"));
  return names.concat(stuck.slice(0, 5).map(e => "no keys reach " + e.outerHTML.slice(0, 80)));
}"""


# Equations that are wider than their room, the folded ones too.
CUT = """() => {
  const folds = [...document.querySelectorAll("article details:not([open])")];
  folds.forEach(fold => fold.open = true);
  const cut = [...document.querySelectorAll(".math-scroll")].filter(e => e.scrollWidth > e.clientWidth + 1)
    .map(e => `${e.scrollWidth} px where ${e.clientWidth} are: ${e.querySelector("annotation").textContent}`);
  folds.forEach(fold => fold.open = false);
  return cut;
}"""


def corner_of_first_drawing(tab: Any) -> list[Any] | None:
    """A pixel just inside the corner of the first picture that is no photograph, and one just outside."""
    drawing = tab.locator("article img:not(.photo)").first
    if not drawing.count() or not drawing.is_visible():
        return None
    drawing.scroll_into_view_if_needed()
    box = drawing.bounding_box()
    clip = {"x": box["x"] - 6, "y": box["y"] + 1, "width": 12, "height": 6}
    pixels = Image.open(io.BytesIO(tab.screenshot(clip=clip))).convert("RGB")
    return [pixels.getpixel((9, 3)), pixels.getpixel((1, 3))]


@pytest.fixture(scope="module")
def visits(tabs: dict[str, Tab]) -> Any:
    from axe_playwright_python import base

    axe = (Path(base.__file__).parent / "axe.min.js").read_text(encoding="utf8")

    @functools.cache
    def visit(page: str) -> Visit:
        note, served = Visit(), tabs["served"]
        tab = served.open(page)
        note.images = tab.evaluate(IMAGES)
        note.shift = tab.evaluate("window.shift")
        # The theme fades links and buttons into their new colours; look when that is over.
        tab.add_style_tag(content="* { transition: none !important }")
        for name, size in (("phone", PHONE), ("200 %", ZOOMED)):
            tab.set_viewport_size(size)
            note.sideways[name] = tab.evaluate(SIDEWAYS)
            if note.sideways[name]:  # scripts wait until the size has settled
                tab.wait_for_timeout(400)
                note.sideways[name] = tab.evaluate(SIDEWAYS)
            note.cut[name] = tab.evaluate(CUT)
        tab.set_viewport_size(DESK)
        note.cut["desk"] = tab.evaluate(CUT)
        for theme in ("dark", "light"):
            tab.emulate_media(color_scheme=theme)
            tab.wait_for_function(
                f"document.documentElement.dataset.theme === '{theme}'"
            )
            note.themes[theme] = {
                "background": tab.evaluate(BACKGROUND),
                "corner": corner_of_first_drawing(tab),
            }
        tab.evaluate(THIN)
        tab.evaluate(axe)
        note.themes["light"]["axe"] = tab.evaluate(AXE)
        tab.emulate_media(color_scheme="dark")
        tab.wait_for_function("document.documentElement.dataset.theme === 'dark'")
        note.themes["dark"]["axe"] = tab.evaluate(AXE, OF_COLOURS)
        tab.emulate_media(color_scheme="light")
        note.foreign, note.complaints = served.foreign, served.complaints
        return note

    return visit


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
def test_nothing_jumps_while_the_page_loads(page: str, visits: Any) -> None:
    assert visits(page).shift < 0.01


@every_page
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_both_themes(page: str, theme: str, visits: Any) -> None:
    seen = visits(page).themes[theme]
    assert seen["background"] < 0.05 if theme == "dark" else seen["background"] > 0.8
    assert seen["axe"] == []
    if seen["corner"]:
        inside, outside = seen["corner"]
        apart = max(abs(a - b) for a, b in zip(inside, outside, strict=True))
        assert apart <= 12, f"the picture's own background shows: {inside} on {outside}"


@every_page
@pytest.mark.parametrize("screen", ["phone", "200 %"])
def test_fits_the_screen(page: str, screen: str, visits: Any) -> None:
    assert visits(page).sideways[screen] == []


@every_page
@pytest.mark.parametrize("screen", ["phone", "200 %", "desk"])
def test_no_equation_is_cut(page: str, screen: str, visits: Any) -> None:
    assert visits(page).cut[screen] == []


def hero(browser: Any, address: str, **options: Any) -> Any:
    tab = browser.new_context(viewport=DESK, **options).new_page()
    tab.goto(address + "book/intro.html")
    return tab


# What is seen of the first page's digit: its t, where its window on the frames lies, what the button says.
DIGIT = """() => {
  const style = getComputedStyle(document.querySelector(".hero-picture"));
  return [document.querySelector(".hero output").textContent, style.backgroundPosition,
    document.querySelector(".hero button").textContent];
}"""


def test_the_first_page_s_digit_comes_out_of_noise_by_itself(
    browser: Any, address: str
) -> None:
    tab = hero(browser, address, reduced_motion="no-preference")
    tab.wait_for_function("document.querySelector('.hero output').textContent < 480")
    assert tab.evaluate(DIGIT)[2] == "Pause"
    tab.wait_for_function(
        "document.querySelector('.hero button').textContent === 'Play'"
    )
    assert tab.evaluate(DIGIT) == ["0", "100% 0%", "Play"]
    tab.context.close()


def test_the_first_page_s_digit_is_still_until_it_is_asked(
    browser: Any, address: str
) -> None:
    tab = hero(browser, address, reduced_motion="reduce")
    tab.wait_for_timeout(700)
    assert tab.evaluate(DIGIT) == ["0", "100% 0%", "Play"]
    slider = tab.get_by_role("slider")
    slider.focus()
    for _ in range(5):
        tab.keyboard.press("ArrowLeft")
    assert tab.evaluate(DIGIT) == ["100", "80% 0%", "Play"]
    assert slider.get_attribute("aria-valuetext") == "t = 100"
    tab.get_by_role("button", name="Another noise").click()
    assert tab.evaluate(DIGIT)[1].endswith("33.3333%")
    tab.get_by_role("button", name="Pause").click()
    stopped = tab.evaluate(DIGIT)
    tab.wait_for_timeout(400)
    assert tab.evaluate(DIGIT) == stopped
    for _ in range(3):  # back to the first of four
        tab.get_by_role("button", name="Another noise").click()
    assert tab.evaluate(DIGIT)[1].endswith(" 0%")
    tab.context.close()


def test_without_scripts_the_first_page_shows_a_digit_and_no_buttons(
    browser: Any, address: str
) -> None:
    tab = hero(browser, address, java_script_enabled=False)
    assert (
        tab.locator(".hero-picture").is_visible()
        and tab.locator(".hero-strip").is_visible()
    )
    assert not tab.locator(".hero-controls").is_visible()
    tab.context.close()


def test_every_chapter_has_one_card_with_its_question() -> None:
    cards = soup("book/intro.html").select("a.chapter-card")
    assert sorted(f"book/{card['href']}" for card in cards) == sorted(chapters())
    for card in cards:
        page = article(f"book/{card['href']}")
        asked = next(
            p for p in page.find_all("p") if p.get_text().startswith("The question.")
        )
        plain = re.sub(r"\W", "", asked.get_text().removeprefix("The question."))
        assert re.sub(r"\W", "", card.span.get_text()) == plain
        assert int(card.small.get_text().split()[0]) > 3
        assert (SITE / "book" / card.img["src"]).resolve().exists()


# How many formulas are drawn, how many pictures, how much text.
SEEN = """() => ({
  formulas: [...document.querySelectorAll("article .math math")]
    .filter(m => m.getBoundingClientRect().width > 0).length,
  images: [...document.querySelectorAll("article img")].filter(i => i.getBoundingClientRect().width > 0).length,
  text: (document.querySelector("article") || document.body).innerText.length,
  menu: [...document.querySelectorAll(".bd-sidebar-primary a, .bd-sidebar-primary label")].length,
})"""


@functools.cache
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
@pytest.mark.parametrize("way", ["no scripts", "folder"])
def test_reads_without(page: str, way: str, tabs: dict[str, Tab]) -> None:
    tab = tabs[way].open(page)
    formulas, images = expected(page)
    seen = tab.evaluate(SEEN)
    assert (seen["formulas"] >= formulas, seen["images"] >= images) == (True, True), (
        seen
    )
    assert seen["text"] > (500 if page in chapters() else 0)
    assert seen["menu"] > len(chapters())
    assert tabs[way].foreign == []
    if way == "folder":  # without scripts the console says nothing
        assert tabs[way].complaints == []
        if formulas:
            tab.evaluate("document.fonts.ready")
            loaded = "[...document.fonts].filter(f => f.status === 'loaded').map(f => f.family.replaceAll('\"', ''))"
            assert "STIX Two Math" in tab.evaluate(loaded)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_paper_shows_the_text_alone_and_whole(theme: str, tabs: dict[str, Tab]) -> None:
    """The browser's own print: no menus, black on white, folded parts open, nothing cut off at the side."""
    tab = tabs["served"].open(chapters()[0])
    tab.emulate_media(color_scheme=theme)
    tab.wait_for_function(f"document.documentElement.dataset.theme === '{theme}'")
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    tab.emulate_media(media="print", color_scheme=theme)
    tab.set_viewport_size({"width": 640, "height": 900})  # the text of a sheet of A4
    seen = tab.evaluate(
        """() => {
          const shown = s => [...document.querySelectorAll(s)].filter(e => e.checkVisibility()).length;
          const luminance = c => c.match(/[\\d.]+/g).slice(0, 3).reduce((sum, v) => sum + v / 765, 0);
          return {
            menus: shown(".bd-sidebar-primary, .bd-sidebar-secondary, .bd-header-article, .page-links, .copybtn"),
            titles: shown("h1"),
            folded: [...document.querySelectorAll("details:not(.live details) > :not(summary)")]
              .map(e => e.checkVisibility() && e.offsetHeight > 0),
            marks: shown(".fold-mark"),
            ink: luminance(getComputedStyle(document.querySelector("article p")).color),
            cut: [...document.querySelectorAll("article :is(pre, .folded, .math-scroll, table)")]
              .filter(e => e.getBoundingClientRect().right > innerWidth + 1 || e.scrollWidth > innerWidth).length,
          };
        }"""
    )
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    tab.emulate_media(media="screen", color_scheme="light")
    tab.set_viewport_size(DESK)
    assert (seen["menus"], seen["titles"], seen["cut"]) == (0, 1, 0)
    assert seen["folded"]
    assert all(seen["folded"])
    assert seen["marks"] == 0
    assert seen["ink"] < 0.3


def test_pictures_that_were_not_reached_are_printed(tabs: dict[str, Tab]) -> None:
    """They load when the reader comes near; on paper all are there."""
    tab = tabs["served"].open("book/unet.html")
    tab.wait_for_function(
        "[...document.querySelectorAll('article img')].every(i => i.naturalWidth)"
    )
    sheets = PdfReader(io.BytesIO(tab.pdf()))
    drawn = sum(len(sheet.images) for sheet in sheets.pages)
    assert drawn == len(article("book/unet.html").find_all("img"))


def test_headings_lead_by_size(tabs: dict[str, Tab]) -> None:
    tab = tabs["served"].open("book/algorithms.html")
    sizes = [
        tab.evaluate(
            f"parseFloat(getComputedStyle(document.querySelector('article {tag}')).fontSize)"
        )
        for tag in ("h1", "h2", "h3", "p")
    ]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 4


def test_the_printed_book_is_whole() -> None:
    """`make pdf` prints one document: every page, no anchor twice, no link that leads nowhere."""
    from tools import pdf

    pages = {
        page: pdf.article(page) for page in toc_files(ROOT) if page not in pdf.LEFT_OUT
    }
    book = BeautifulSoup(pdf.document(pages, {}), "html.parser")
    anchors = [tag["id"] for tag in book.find_all(id=True)]
    assert len(anchors) == len(set(anchors))
    links = [str(tag["href"]) for tag in book.select("body a[href]")]
    dead = {
        link for link in links if link.startswith("#") and link[1:] not in set(anchors)
    }
    assert dead == set()
    assert {f"#{page}" for page in pages} <= set(links)
    assert all(re.match("#|https?:", link) for link in links)
    assert len(book.select(".math math")) == sum(
        len(article(f"{page}.html").select(".math math")) for page in pages
    )
    assert all(
        Path(unquote(urlsplit(i["src"]).path)).is_file() for i in book.find_all("img")
    )


def search(tab: Tab, words: str) -> list[str]:
    """The addresses that the site's own search finds, best first."""
    page = tab.open(f"search.html?{urlencode({'q': words})}")
    # The results come in one by one; the heading changes after the last. (Sphinx's own sign that it is done, the
    # pulse of the dots, is taken back by a timer within half a second, and then may go unseen.)
    page.wait_for_function(
        "document.querySelector('#search-results > h2')?.textContent === 'Search Results'"
    )
    links = page.locator("#search-results li > a").evaluate_all(
        "links => links.map(link => link.getAttribute('href'))"
    )
    return [link.partition("?")[0] for link in links]


@pytest.mark.parametrize("page", chapters())
def test_search_returns_the_chapter(page: str, tabs: dict[str, Tab]) -> None:
    """First, and once: its title, and what it is called in the code."""
    title = article(page).find("h1").get_text().rstrip("#").lstrip("0123456789. ")
    for words in (title, Path(page).stem.replace("_", " ")):
        found = search(tabs["served"], words)
        assert (found[0], found.count(page)) == (page, 1), words


@pytest.mark.parametrize(
    ("words", "home"),
    [
        ("attention", "book/unet.html#attention"),
        ("average of the weights", "book/training.html#an-average-of-the-weights-ema"),
        ("EMA", "book/training.html"),
        ("rate distortion", "book/evaluation.html"),
    ],
)
def test_search_returns_what_is_about_it(
    words: str, home: str, tabs: dict[str, Tab]
) -> None:
    assert search(tabs["served"], words)[0] == home


def test_search_lists_what_only_mentions_a_word_in_reading_order(
    tabs: dict[str, Tab],
) -> None:
    found = [page for page in search(tabs["served"], "alpha_bar") if page in chapters()]
    assert len(found) > 3
    assert found == sorted(found, key=chapters().index)


@pytest.mark.parametrize("way", ["served", "folder"])
@pytest.mark.parametrize(
    ("name", "home"),
    [
        ("posterior_mean", "book/functions.html#ddpm_nb.posterior.posterior_mean"),
        ("Schedule.cosine", "book/functions.html#ddpm_nb.forward.Schedule.cosine"),
        ("alpha_bar", "book/notation.html"),
    ],
)
def test_search_finds_symbols_by_name(
    name: str, home: str, way: str, tabs: dict[str, Tab]
) -> None:
    assert search(tabs[way], name)[0] == home
    assert tabs[way].complaints == []


def test_a_hit_quotes_the_section_that_says_it_and_leads_there(
    tabs: dict[str, Tab],
) -> None:
    """Formulas are quoted as they are read, not with their TeX beside them."""
    tab = tabs["served"].open("search.html?q=moving+average")
    quote = tab.locator("#search-results li p.context").first
    quote.wait_for()
    link = quote.locator("a")
    assert link.get_attribute("href").endswith(
        "training.html#an-average-of-the-weights-ema"
    )
    assert "moving average" in quote.text_content()
    tab = tabs["served"].open("search.html?q=posterior+mean")
    tab.locator("#search-results li p.context").first.wait_for()
    quotes = " ".join(tab.locator("#search-results li p.context").all_text_contents())
    assert "\\bar" not in quotes and "α¯" in quotes


# Each heading of the text, and what the contents beside it mark when it has just come up.
BESIDE = """async () => {
  const wrong = [];
  for (const link of document.querySelectorAll(".page-toc a[href^='#']")) {
    const section = document.getElementById(decodeURIComponent(link.hash.slice(1)));
    for (const further of [0, Math.max(0, Math.min(2000, section.querySelector(":scope > section")
        ? section.querySelector(":scope > section").offsetTop - section.offsetTop - innerHeight
        : section.offsetHeight - innerHeight))]) {
      scrollTo({top: section.getBoundingClientRect().top + scrollY - 200 + further, behavior: "instant"});
      await new Promise(done => setTimeout(done, 60));
      const near = Math.abs(section.getBoundingClientRect().top - 200 + further) < 50;  // not at the page's end
      const marked = [...document.querySelectorAll(".page-toc a.active")].pop();
      if (near && marked !== link) wrong.push(`${link.textContent.trim()}: ${marked?.textContent.trim()}`);
    }
  }
  return wrong;
}"""


@pytest.mark.parametrize("page", ["book/algorithms.html", "book/notation.html"])
def test_the_contents_beside_the_text_mark_what_is_read(
    page: str, tabs: dict[str, Tab]
) -> None:
    tab = tabs["served"].open(page)
    assert tab.evaluate(BESIDE) == []


def test_the_page_that_is_read_is_in_sight_in_the_contents(
    tabs: dict[str, Tab],
) -> None:
    for page in ("book/cifar10.html", "book/bibliography.html"):
        tab = tabs["served"].open(page)
        box = tab.locator(
            ".bd-sidebar-primary li.current.active > a"
        ).first.bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= DESK["height"]


def test_a_link_to_an_equation_shows_it(tabs: dict[str, Tab]) -> None:
    """Clicked, it brings the equation into sight, below the bar at the head of the page."""
    for page in chapters():
        tab = tabs["served"].open(page)
        links = tab.locator('article a[href*="#equation-"]:not(.headerlink)')
        link = links.locator("visible=true").first
        if not link.count():
            continue
        target = str(link.get_attribute("href")).partition("#")[2]
        link.click()
        tab.wait_for_url(f"**#{target}")
        tab.wait_for_function(
            """id => {
              const box = document.getElementById(id)?.getBoundingClientRect();
              const head = document.querySelector(".bd-header-article")?.getBoundingClientRect();
              return box && head && box.top >= head.bottom && box.bottom <= innerHeight;
            }""",
            arg=target,
            timeout=3000,
        )


# The height of code outside closed folds, of the whole text, and of the blocks one by one, with their first words.
HEIGHTS = """() => {
  const blocks = [...document.querySelectorAll("article .cell_input .highlight")].filter(e => e.checkVisibility());
  const text = document.querySelector("article").getBoundingClientRect().height;
  return [text, blocks.map(e => [e.getBoundingClientRect().height, e.innerText.trim().slice(0, 60)])];
}"""


@pytest.fixture(scope="module")
def heights(tabs: dict[str, Tab]) -> dict[str, tuple[float, list[Any]]]:
    return {page: tabs["served"].open(page).evaluate(HEIGHTS) for page in chapters()}


def share(text: float, blocks: list[Any]) -> float:
    return float(sum(height for height, _ in blocks) / text)


@chapter
def test_the_text_leads_and_code_follows(page: str, heights: Any) -> None:
    """At most two fifths of what a reader scrolls through on a desk is code, and no block is higher than a screen."""
    text, blocks = heights[page]
    assert share(text, blocks) <= 0.40
    assert [block for block in blocks if block[0] > 700] == []


def test_code_takes_less_than_a_third_of_a_page(heights: Any) -> None:
    shares = {page: share(*found) for page, found in heights.items()}
    for page, part in shares.items():
        print(f"{page:25} {part:.1%}")
    assert sum(shares.values()) / len(shares) <= 0.30


def test_the_copy_button_takes_the_whole_cell(tabs: dict[str, Tab]) -> None:
    page = "book/forward.html"
    tab = tabs["served"].open(page)
    tab.evaluate(
        "addEventListener('copy', e => { window.copied = document.activeElement.value; }, true)"
    )
    tab.wait_for_selector(".copybtn", state="attached")
    wanted = {source.strip() for source, _ in sources(page)}
    boxes = tab.locator(".cell_input .highlight:has(.folded)")
    assert boxes.count() > 3
    for box in boxes.all():
        button = box.locator(".copybtn")
        assert button.count() == 1
        button.dispatch_event("click")
        assert tab.evaluate("window.copied").strip() in wanted


@pytest.mark.parametrize("way", ["served", "no scripts"])
def test_a_link_into_a_fold_opens_it(way: str, tabs: dict[str, Tab]) -> None:
    tried = 0
    for page in chapters():
        marks = article(page).select("details .cell_input [id], details .target[id]")
        for mark in marks[:1]:
            tab = tabs[way].open(f"{page}#{mark['id']}")
            assert tab.evaluate(
                "id => !!document.getElementById(id).closest('details').open",
                mark["id"],
            )
            tried += 1
    assert tried


# All that can be clicked or typed into and is in sight.
REACHABLE = """() => {
  const all = [...document.querySelectorAll("a[href], button, input, summary, select, [tabindex='0']")].filter(
    e => e.checkVisibility({checkOpacity: true, checkVisibilityCSS: true}) && !e.disabled && e.tabIndex >= 0
      && e.getClientRects().length);
  all.forEach((e, i) => { e.dataset.stop = i; });
  return all.length;
}"""
# The element that has the focus, and whether it looks any different from when it has none.
FOCUS = """() => {
  const e = document.activeElement;
  if (!e || e === document.body) return null;
  const look = () => { const s = getComputedStyle(e), p = getComputedStyle(e.parentElement);
    return [s.outlineStyle, s.outlineWidth, s.boxShadow, s.backgroundColor, s.borderColor, p.boxShadow].join(); };
  const on = look();
  e.blur();
  const off = look();
  e.focus({preventScroll: true, focusVisible: true});
  return [e.dataset.stop ?? "scroller", on !== off, e.outerHTML.slice(0, 120)];
}"""


@pytest.mark.parametrize("page", [*chapters()[:1], "book/intro.html"])
def test_keys_reach_everything_and_show_where_they_are(
    page: str, tabs: dict[str, Tab]
) -> None:
    tab = tabs["served"].open(page)
    tab.add_style_tag(content="* { transition: none !important }")
    stops, reached, dim = tab.evaluate(REACHABLE), set(), set()
    assert stops > 20
    for _ in range(2 * stops):
        tab.keyboard.press("Tab")
        focus = tab.evaluate(FOCUS)
        if focus is None:
            break
        if focus[0] in reached and focus[0] != "scroller":
            break
        reached.add(focus[0])
        if not focus[1]:
            dim.add(focus[2])
    missing = {str(i) for i in range(stops)} - reached
    names = [
        tab.locator(f"[data-stop='{i}']").evaluate("e => e.outerHTML.slice(0, 120)")
        for i in sorted(missing)
    ]
    assert names == []
    assert dim == set()


def test_the_colours_of_drawings_are_read_in_both_themes(tabs: dict[str, Tab]) -> None:
    """A swatch of each colour, shown as the site shows pictures, against the page around it."""
    from ddpm_nb._figures import COLORS

    tab = tabs["served"].open(chapters()[0])
    width = 20 * len(COLORS)
    bars = "".join(
        f'<rect x="{20 * i}" width="20" height="20" fill="{color}"/>'
        for i, color in enumerate(COLORS)
    )
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20">{bars}</svg>'
    tab.evaluate(
        """svg => { const image = new Image(); image.id = "swatch"; image.alt = "swatch";
          image.src = "data:image/svg+xml," + encodeURIComponent(svg);
          document.querySelector("article").prepend(image); return image.decode(); }""",
        svg,
    )

    def light(pixel: tuple[int, ...]) -> float:
        parts = [v / 255 for v in pixel]
        parts = [
            v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in parts
        ]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    for theme in ("light", "dark"):
        tab.emulate_media(color_scheme=theme)
        tab.wait_for_function(f"document.documentElement.dataset.theme === '{theme}'")
        box = tab.locator("#swatch").bounding_box()
        clip = {"x": box["x"], "y": box["y"] - 8, "width": width, "height": 20}
        shot = Image.open(io.BytesIO(tab.screenshot(clip=clip))).convert("RGB")
        page = light(shot.getpixel((10, 2)))
        for i, color in enumerate(COLORS):
            bar = light(shot.getpixel((20 * i + 10, 14)))
            ratio = (max(page, bar) + 0.05) / (min(page, bar) + 0.05)
            assert ratio >= 4.5, f"{color} when {theme}: {ratio:.1f}"
    tab.emulate_media(color_scheme="light")
