"""Measure the site against the same book built with the stock theme: bytes, time until the mathematics stands, jumps.

    python -m tools.bench_site [--rounds 9] [--mathjax FOLDER] [--pages loss forward]

The stock build has jupyter-book's own extensions and theme, and MathJax 3 from the same server (FOLDER is the `es5`
folder of its npm package; without one, npm is asked for it). Both are read by headless Chromium from this machine, in
turn, each time with an empty cache. Pictures of the page itself are left out on both sides.
"""

import argparse
import functools
import gzip
import mimetypes
import shutil
import statistics
import subprocess
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

ROOT = Path.cwd()
WORK = ROOT / "_build" / "bench"
OURS = ROOT / "_build" / "html"
MATHJAX = "mathjax@3.2.2"
PACKED = {".html", ".css", ".js", ".svg", ".json", ".txt", ".inv"}
# A phone's connection on a good day, for the second table: bytes each second, and milliseconds there and back.
SPEED, DELAY = 10_000_000 / 8, 40

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


def mathjax(given: Path | None) -> Path:
    """The folder `es5` of MathJax 3."""
    if given is not None:
        if not (given / "tex-mml-chtml.js").exists():
            raise SystemExit(f"make bench-site: no tex-mml-chtml.js in {given}")
        return given
    folder = WORK / "mathjax"
    if not (folder / "package/es5/tex-mml-chtml.js").exists():
        folder.mkdir(parents=True, exist_ok=True)
        npm = shutil.which("npm")
        if npm is None:
            raise SystemExit(
                "make bench-site: no npm to fetch MathJax 3 with; say where it is: "
                "make bench-site MATHJAX=/path/to/mathjax/es5"
            )
        subprocess.run([npm, "pack", "--silent", MATHJAX], cwd=folder, check=True)
        with tarfile.open(next(folder.glob("mathjax-*.tgz"))) as archive:
            archive.extractall(folder, filter="data")
    return folder / "package/es5"


def build_stock(scripts: Path) -> Path:
    """The same pages with jupyter-book's defaults, but for MathJax, which comes from the site itself."""
    source = WORK / "src"
    shutil.rmtree(WORK / "stock", ignore_errors=True)
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(ROOT / "book", source / "book")
    shutil.copy(ROOT / "_toc.yml", source)
    (source / "book/functions.md").write_text("# Functions\n", encoding="utf-8")
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    stock = {key: config[key] for key in ("title", "author", "only_build_toc_files", "execute", "parse")}
    stock["repository"] = config["repository"]
    stock["launch_buttons"] = {"colab_url": "https://colab.research.google.com"}
    stock["html"] = {"use_repository_button": True, "use_issues_button": True}
    stock["sphinx"] = {
        "config": {
            "mathjax_path": "mathjax/tex-mml-chtml.js",
            "html_static_path": ["scripts"],
        }
    }
    (source / "_config.yml").write_text(yaml.safe_dump(stock), encoding="utf-8")
    shutil.copytree(scripts, source / "scripts/mathjax")
    command = [
        "jupyter-book",
        "build",
        str(source),
        "--path-output",
        str(WORK / "stock"),
    ]
    jupyter_book = Path(sys.executable).parent / command[0]
    result = subprocess.run([str(jupyter_book), *command[1:]], capture_output=True, text=True, check=False)
    built = WORK / "stock/_build/html"
    if not (built / "book").exists():
        raise SystemExit(f"make bench-site: the stock build failed:\n{result.stderr[-2000:]}")
    return built


class Packed(BaseHTTPRequestHandler):
    """A server that packs text as any host does."""

    protocol_version = "HTTP/1.1"

    def __init__(self, *arguments: Any, folder: Path) -> None:
        self.folder = folder
        super().__init__(*arguments)

    def do_GET(self) -> None:
        path = self.folder / unquote(urlsplit(self.path).path).lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        body = packed(path)
        self.send_response(200)
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        self.send_header("Content-Type", kind)
        if path.suffix in PACKED:
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@functools.cache
def packed(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.compress(data, 6) if path.suffix in PACKED else data


def serve(folder: Path) -> tuple[ThreadingHTTPServer, str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Packed, folder=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}/"


def visit(browser: Any, home: str, folder: Path, page: str, *, slow: bool) -> dict[str, float]:
    """One cold visit: kB, requests, ms until the mathematics stands, layout shift, formulas."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.add_init_script(STANDS)
    tab = context.new_page()
    seen: list[str] = []
    tab.on("request", lambda request: seen.append(request.url))
    context.route("**/_images/**", lambda route: route.abort())
    if slow:
        network = context.new_cdp_session(tab)
        network.send("Network.enable")
        network.send(
            "Network.emulateNetworkConditions",
            {
                "offline": False,
                "latency": DELAY,
                "downloadThroughput": SPEED,
                "uploadThroughput": SPEED,
            },
        )
    tab.goto(f"{home}book/{page}.html", wait_until="load")
    tab.wait_for_function("window.stands > 0", timeout=120_000)
    tab.wait_for_load_state("networkidle")
    paths = [unquote(urlsplit(url).path).lstrip("/") for url in seen if url.startswith(home)]
    files = [folder / path for path in paths if "_images" not in path]
    result = {
        "kB": sum(len(packed(file)) for file in files if file.is_file()) / 1000,
        "requests": float(len(files)),
        "ms": float(tab.evaluate("window.stands")),
        "shift": float(tab.evaluate("window.jumps")),
        "formulas": float(tab.evaluate("window.formulas")),
    }
    context.close()
    return result


def main() -> int:
    """Build the stock site, visit both in turn, print the tables."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description="Compare the site with the stock build.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--mathjax", type=Path)
    parser.add_argument("--pages", nargs="+", default=["forward", "loss"])
    options = parser.parse_args()
    if not (OURS / "index.html").exists():
        raise SystemExit("make bench-site: build the site first: make html")
    sites = {"stock": build_stock(mathjax(options.mathjax)), "ours": OURS}
    served = {name: serve(folder) for name, folder in sites.items()}
    with sync_playwright() as playwright:
        own = Path(playwright.chromium.executable_path).exists()
        browser = playwright.chromium.launch(
            executable_path=None if own else shutil.which("chromium"),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        print(f"Chromium {browser.version}, {options.rounds} rounds in turn, medians; kB are packed (gzip)")
        for slow in (False, True):
            print(f"\n{'10 Mbit/s, 40 ms' if slow else 'this machine, no limit'}")
            print("| page | build | formulas | requests | kB | ms until mathematics stands | layout shift |")
            print("|---|---|---|---|---|---|---|")
            for page in options.pages:
                runs: dict[str, list[dict[str, float]]] = {name: [] for name in sites}
                for _ in range(options.rounds + 1):
                    for name, folder in sites.items():
                        runs[name].append(visit(browser, served[name][1], folder, page, slow=slow))
                middle = {
                    # The first round warms up the machine, and is left out.
                    name: {key: statistics.median(run[key] for run in some[1:]) for key in some[0]}
                    for name, some in runs.items()
                }
                for name, m in middle.items():
                    print(
                        f"| {page} | {name} | {m['formulas']:.0f} | {m['requests']:.0f} | {m['kB']:.0f} "
                        f"| {m['ms']:.0f} | {m['shift']:.3f} |"
                    )
                ours, stock = middle["ours"], middle["stock"]
                ratios = sorted(a["ms"] / b["ms"] for a, b in zip(runs["ours"][1:], runs["stock"][1:], strict=True))
                print(
                    f"| {page} | ours / stock | | | {ours['kB'] / stock['kB']:.2f} "
                    f"| {statistics.median(ratios):.2f} ({ratios[0]:.2f} … {ratios[-1]:.2f}) | |"
                )
        browser.close()
    for server, _ in served.values():
        server.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
