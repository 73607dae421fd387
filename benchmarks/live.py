"""Measure the live figures of the built site: how long the page is held up, how fast digits come, and Firefox.

    python -m benchmarks.live

Chromium drags every figure by keys; a task of the page longer than 50 ms would be felt. It draws 64 digits with 20
network evaluations each. Firefox, where it is installed, is driven by puppeteer-core (npm fetches it), and its numbers
are compared with Chromium's. Ends with status 1 where a goal is missed.
"""

import json
import shutil
import subprocess
import sys
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from tools.book import ROOT
from tools.pdf import browser

WORK, SITE = ROOT / "_build/bench", ROOT / "_build/html"
PUPPETEER = "puppeteer-core@25.16.0"
FIGURES = {
    "likelihood": "likelihood", "forward": "forward", "posterior": "posterior",
    "ring": "algorithms", "paths": "fewer_steps", "digits": "fewer_steps",
}  # fmt: skip
LONGEST, SECONDS = 50, 10  # milliseconds of a task, seconds for 64 digits
WATCH = """window.longest = 0;
new PerformanceObserver(list => {
  for (const entry of list.getEntries()) window.longest = Math.max(window.longest, entry.duration);
}).observe({type: "longtask"});"""


def open_figure(chromium: Browser, figure: str, query: str = "") -> Page:
    """Return a page whose figure is live and has its numbers."""
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    page.goto(f"{SITE.as_uri()}/book/{FIGURES[figure]}.html{query}")
    page.locator(f"[data-figure={figure}]").evaluate("e => e.scrollIntoView()")
    page.wait_for_selector(f"[data-figure={figure}][data-state=live] td")
    page.locator(f"[data-figure={figure}]").evaluate("e => e.scrollIntoView()")
    page.wait_for_timeout(1000)
    return page


def longest_task(chromium: Browser, figure: str) -> float:
    """Return the longest task, in ms, while each slider goes 15 steps down and up; 0 if none is over 50."""
    page = open_figure(chromium, figure)
    page.evaluate(WATCH)
    sliders = page.locator(f"[data-figure={figure}] input[type=range]:enabled")
    for i in range(sliders.count()):
        sliders.nth(i).focus()
        for key in 15 * ["ArrowLeft"] + 15 * ["ArrowRight"]:
            page.keyboard.press(key)
            page.wait_for_timeout(30)
    page.wait_for_timeout(500)
    longest = float(page.evaluate("window.longest"))
    page.close()
    return longest


def seconds_for_64(chromium: Browser, method: str) -> float:
    """Return the seconds that 64 digits take in the page, with 20 network evaluations each."""
    page = open_figure(chromium, "digits", f"?digits.method={method}")
    page.get_by_role("button", name="Draw 64").click()
    told = page.locator(".live-sheets p", has_text="64 pictures, 20 network")
    told.wait_for(timeout=120_000)
    seconds = float(told.inner_text().split(" in ")[1].split(" s ")[0])
    page.close()
    return seconds


def numbers(chromium: Browser, figure: str) -> dict[str, Any]:
    """Return what Chromium shows after the key that firefox.mjs presses."""
    page = open_figure(chromium, figure)
    page.locator(f"[data-figure={figure}] input[type=range]").nth(1).focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(3000)
    found = page.locator(f"[data-figure={figure}] .live-numbers").inner_text()
    address = page.evaluate("location.search")
    page.close()
    return {"numbers": found, "address": address, "complaints": []}


def firefox(executable: str) -> dict[str, Any]:
    """Return what Firefox shows of each figure."""
    WORK.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["npm", "install", "--silent", "--prefix", str(WORK), PUPPETEER], check=True
    )
    script = shutil.copy(ROOT / "benchmarks/firefox.mjs", WORK)
    command = ["node", script, executable, SITE.as_uri(), json.dumps(FIGURES)]
    seen: dict[str, Any] = json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout
    )
    return seen


def main() -> int:
    """Measure, print, and say by the status whether every goal is met."""
    missed = 0

    def tell(what: str, value: str, met: bool) -> None:
        nonlocal missed
        missed += not met
        print(f"{what:52} {value:>14}   {'met' if met else 'MISSED'}")

    with sync_playwright() as playwright:
        chromium = browser(playwright)
        print(f"Chromium {chromium.version}")
        for figure in FIGURES:
            longest = longest_task(chromium, figure)
            found = f"{longest:.0f} ms" if longest else "none over 50"
            tell(
                f"{figure}: longest task, goal {LONGEST} ms", found, longest <= LONGEST
            )
        for method in ("ddim", "multistep"):
            seconds = seconds_for_64(chromium, method)
            tell(
                f"64 digits, {method}, 20 evaluations, goal {SECONDS} s",
                f"{seconds:.1f} s",
                seconds <= SECONDS,
            )
        there = shutil.which("firefox-esr") or shutil.which("firefox")
        if there and shutil.which("npm"):
            seen = firefox(there)
            for figure in FIGURES:
                same = seen[figure] == numbers(chromium, figure)
                tell(
                    f"{figure}: Firefox, keys, numbers of Chromium",
                    "equal" if same else "different",
                    same,
                )
        else:
            print("Firefox or npm is not installed: not compared")
        chromium.close()
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
