"""Measure the site against the same book built with the stock theme: bytes, time until the mathematics stands, jumps.

    python -m benchmarks.site [--rounds 9] [--pages loss forward]

The stock build has jupyter-book's own extensions and theme, and MathJax 3 from the same server (npm fetches it). Both
are read by headless Chromium from this machine, in turn, each time with an empty cache. Pictures of the page itself are
left out on both sides.
"""

import argparse
import functools
import gzip
import shutil
import statistics
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml
from playwright.sync_api import sync_playwright

from tools.book import ROOT
from tools.pdf import browser

WORK, OURS = ROOT / "_build/bench", ROOT / "_build/html"
MATHJAX = "mathjax@3.2.2"
PACKED = {".html", ".css", ".js", ".svg", ".json", ".txt", ".inv"}
# A phone's connection on a good day, for the second table: bytes each second, and milliseconds there and back.
PHONE = {
    "offline": False,
    "latency": 40,
    "downloadThroughput": 10_000_000 / 8,
    "uploadThroughput": 10_000_000 / 8,
}

# Noted in the page: when the last formula stands with its font. MathJax says when it is done; MathML needs none to say.
STANDS = """
window.stands = 0; window.jumps = 0;
new PerformanceObserver(list => list.getEntries().forEach(e => { window.jumps += e.value; }))
  .observe({type: "layout-shift", buffered: true});
addEventListener("DOMContentLoaded", async () => {
  while (!document.querySelector("math") && !window.MathJax?.startup?.promise) await new Promise(requestAnimationFrame);
  if (window.MathJax?.startup?.promise) await MathJax.startup.promise;
  const formulas = [...document.querySelectorAll("article :is(math, mjx-container)")]
    .filter(f => !f.parentElement.closest("mjx-container"));
  formulas.forEach(f => f.getBoundingClientRect());
  await document.fonts.ready;
  await new Promise(requestAnimationFrame);
  window.formulas = formulas.filter(f => f.getBoundingClientRect().width > 0 || f.closest("details")).length;
  window.stands = performance.now();
});
"""
SEEN = """() => {
  const got = ["navigation", "resource"].flatMap(kind => performance.getEntriesByType(kind))
    .filter(e => !e.name.includes("_images"));
  return {kB: got.reduce((sum, e) => sum + e.encodedBodySize, 0) / 1000, requests: got.length,
    ms: window.stands, shift: window.jumps, formulas: window.formulas};
}"""


def build_stock() -> Path:
    """The same pages with jupyter-book's defaults, but for MathJax, which comes from the site itself."""
    source = WORK / "src"
    for folder in (source, WORK / "stock"):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "book", source / "book")
    shutil.copy(ROOT / "_toc.yml", source)
    (source / "book/functions.md").write_text("# Functions\n", encoding="utf-8")
    subprocess.run(
        ["npm", "install", "--silent", "--prefix", str(WORK), MATHJAX], check=True
    )
    shutil.copytree(WORK / "node_modules/mathjax/es5", source / "scripts/mathjax")
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    kept = ("title", "author", "only_build_toc_files", "execute", "parse", "repository")
    stock = {key: config[key] for key in kept}
    stock["launch_buttons"] = {"colab_url": "https://colab.research.google.com"}
    stock["html"] = {"use_repository_button": True, "use_issues_button": True}
    scripts = {
        "mathjax_path": "mathjax/tex-mml-chtml.js",
        "html_static_path": ["scripts"],
    }
    stock["sphinx"] = {"config": scripts}
    (source / "_config.yml").write_text(yaml.safe_dump(stock), encoding="utf-8")
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build"]
    command += [str(source), "--path-output", str(WORK / "stock")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    built = WORK / "stock/_build/html"
    if not (built / "book").exists():
        raise SystemExit(f"the stock build failed:\n{result.stderr[-2000:]}")
    return built


@functools.cache
def packed(path: Path) -> bytes:
    """A file as it travels."""
    return gzip.compress(path.read_bytes(), 6)


class Packing(SimpleHTTPRequestHandler):
    """A server that packs text as any host does."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Send a file, packed if it is text."""
        path = Path(self.translate_path(self.path))
        if path.suffix not in PACKED or not path.is_file():
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(packed(path))))
        self.end_headers()
        self.wfile.write(packed(path))

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def serve(folder: Path) -> str:
    """Serve a site; the address of its chapters."""
    handler = functools.partial(Packing, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/book/"


def visit(chromium: Any, address: str, *, slow: bool) -> dict[str, float]:
    """One cold visit: kB, requests, ms until the mathematics stands, layout shift, formulas."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    context.add_init_script(STANDS)
    tab = context.new_page()
    context.route("**/_images/**", lambda route: route.abort())
    if slow:
        network = context.new_cdp_session(tab)
        network.send("Network.enable")
        network.send("Network.emulateNetworkConditions", PHONE)
    tab.goto(address, wait_until="load")
    tab.wait_for_function("window.stands > 0", timeout=120_000)
    tab.wait_for_load_state("networkidle")
    seen: dict[str, float] = tab.evaluate(SEEN)
    context.close()
    return seen


def main() -> None:
    """Build the stock site, visit both in turn, print the tables."""
    parser = argparse.ArgumentParser(description="Compare the site with a stock build.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--pages", nargs="+", default=["forward", "loss"])
    options = parser.parse_args()
    sites = {"stock": serve(build_stock()), "ours": serve(OURS)}
    with sync_playwright() as playwright:
        chromium = browser(playwright, "--disable-background-networking")
        print(
            f"Chromium {chromium.version}, medians of {options.rounds} rounds in turn"
        )
        for slow in (False, True):
            print(f"\n{'10 Mbit/s, 40 ms' if slow else 'this machine, no limit'}")
            print(
                "| page | build | formulas | requests | kB, packed | ms until mathematics stands | layout shift |"
            )
            print("|---|---|---|---|---|---|---|")
            for page in options.pages:
                # The first round warms up the machine, and is left out.
                rounds = [
                    {
                        name: visit(chromium, f"{home}{page}.html", slow=slow)
                        for name, home in sites.items()
                    }
                    for _ in range(options.rounds + 1)
                ][1:]
                kB = {}
                for name in sites:
                    m = {
                        key: statistics.median(r[name][key] for r in rounds)
                        for key in rounds[0][name]
                    }
                    kB[name] = m["kB"]
                    print(
                        f"| {page} | {name} | {m['formulas']:.0f} | {m['requests']:.0f} | {m['kB']:.0f} "
                        f"| {m['ms']:.0f} | {m['shift']:.3f} |"
                    )
                ratios = sorted(r["ours"]["ms"] / r["stock"]["ms"] for r in rounds)
                print(
                    f"| {page} | ours / stock | | | {kB['ours'] / kB['stock']:.2f} "
                    f"| {statistics.median(ratios):.2f} ({ratios[0]:.2f} … {ratios[-1]:.2f}) | |"
                )
        chromium.close()


if __name__ == "__main__":
    main()
