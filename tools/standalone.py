"""Run chapters alone: each notebook by itself in an empty folder, in an environment that does not have this package.

    python -m tools.standalone [CHAPTER ...]          here, with what Colab has and nothing else
    python -m tools.standalone --quick                one install, all chapters imported, no chapter run
    python -m tools.standalone --here [CHAPTER ...]   with this very Python (a weekly job runs it in Colab's own image)

The environment is made of links to those packages of .venv that Colab has, so it costs no download. A chapter's own
first cell installs the package, word for word; only its address is led to a copy of this checkout, because what is
tested is this state of it and not the last published one.
"""

import argparse
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from tools.address import current
from tools.execute import ANSI, where
from tools.sync import chapters, read_notebook

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "_build" / "standalone"
# What the chapters may find in Colab (googlecolab/backend-info, pip-freeze.txt). pip, setuptools and wheel install.
COLAB = [
    *(
        "torch",
        "numpy",
        "scipy",
        "matplotlib",
        "scikit-learn",
        "einops",
        "tqdm",
        "safetensors",
    ),
    *(
        "accelerate",
        "pooch",
        "tensorboard",
        "huggingface-hub",
        "pillow",
        "pandas",
        "sympy",
        "ipykernel",
    ),
    *("pip", "setuptools", "wheel"),
]


def closure(names: list[str]) -> set[str]:
    """These distributions and all that they need, as far as they are installed."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        waiting += [
            match[0]
            for need in needs
            if "extra ==" not in need and (match := re.match(r"[\w.-]+", need))
        ]
    return found


def link_packages(target: Path) -> None:
    """Link what Colab has into a folder, file by file or package by package."""
    target.mkdir(parents=True)
    for name in closure(COLAB):
        distribution = importlib.metadata.distribution(name)
        for top in {
            file.parts[0] for file in distribution.files or [] if file.parts[0] != ".."
        }:
            source = Path(str(distribution.locate_file(top)))
            if source.exists() and top != "__pycache__" and not (target / top).exists():
                (target / top).symlink_to(source)


def checkout() -> Path:
    """A git repository with the present state of this checkout, committed or not."""
    copy = WORK / "repository"
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout.decode()
    for name in sorted(set(filter(None, names.split("\0")))):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    author = ["-c", "user.name=standalone", "-c", "user.email=standalone@localhost"]
    for command in (
        ["init", "--quiet"],
        ["add", "--all"],
        [*author, "commit", "--quiet", "-m", "x"],
    ):
        subprocess.run(["git", *command], cwd=copy, check=True)
    return copy


def make_environment(name: str, packages: Path) -> Path:
    """A fresh environment with only the linked packages; returns its Python."""
    folder = WORK / "environments" / name
    venv.create(folder, with_pip=False, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "colab.pth").write_text(f"{packages}\n", encoding="utf-8")
    return folder / "bin" / "python"


def surroundings(repository: Path | None) -> dict[str, str]:
    """What the chapter's Python sees of the world: no path to this checkout, and its address led to the copy."""
    keep = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PYTHON", "JUPYTER", "DDPM_NB", "VIRTUAL_ENV", "MPL"))
    }
    keep["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    if repository is not None:
        url = f"https://github.com/{current(ROOT)}"
        keep |= {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.file://{repository}.insteadOf",
            "GIT_CONFIG_VALUE_0": url,
            # The build tool is among the linked packages; nothing is asked of a registry.
            "PIP_NO_BUILD_ISOLATION": "0",
            "PIP_NO_INDEX": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
    return keep


def run_alone(name: str, python: Path, env: dict[str, str]) -> str | None:
    """Run one chapter alone; returns what went wrong."""
    folder = WORK / "alone" / name
    folder.mkdir(parents=True)
    notebook = folder / f"{name}.ipynb"
    shutil.copy(ROOT / f"book/{name}.ipynb", notebook)
    kernels = WORK / "jupyter" / name
    spec = kernels / "kernels" / "alone"
    spec.mkdir(parents=True)
    command = [
        str(python),
        "-m",
        "ipykernel_launcher",
        "-f",
        "{connection_file}",
        "--log-level=ERROR",
    ]
    (spec / "kernel.json").write_text(
        json.dumps({"argv": command, "display_name": "alone", "language": "python"})
    )
    os.environ["JUPYTER_PATH"] = str(kernels)
    book = read_notebook(notebook)
    client = NotebookClient(
        book,
        timeout=None,
        kernel_name="alone",
        resources={"metadata": {"path": str(folder)}},
    )
    try:
        client.execute(env=env)
    except CellExecutionError as error:
        lines = ANSI.sub("", str(error.traceback)).strip().splitlines()[-12:]
        return f"{where(book)} raised:\n" + "\n".join(lines)
    except DeadKernelError:
        return "the kernel died (out of memory?)"
    return None


QUICK = """
import importlib, importlib.util, sys
assert importlib.util.find_spec("ddpm_nb") is not None
import ddpm_nb
assert "standalone" in ddpm_nb.__file__, ddpm_nb.__file__
for name in sys.argv[1:]:
    importlib.import_module(f"ddpm_nb.{name}")
from ddpm_nb import _figures, _weights
print("weights:", *sorted(path.name for path in _weights.folder().iterdir()))
"""


def quick(names: list[str], python: Path, env: dict[str, str]) -> str | None:
    """The first cell of a chapter as it stands, then every chapter imported from what it installed."""
    empty = WORK / "alone" / "quick"
    empty.mkdir(parents=True)
    if (
        subprocess.run(
            [python, "-c", "import ddpm_nb"], env=env, cwd=empty, capture_output=True
        ).returncode
        == 0
    ):
        return "the clean environment already has the package"
    cell = read_notebook(ROOT / f"book/{names[0]}.ipynb").cells[1].source
    script = (
        "from IPython.core.interactiveshell import InteractiveShell as Shell\n"
        f"Shell.instance().run_cell({cell!r}).raise_error()\n"
    )
    for arguments in (["-c", script], ["-W", "error", "-c", QUICK, *names]):
        result = subprocess.run(
            [str(python), *arguments],
            env=env,
            cwd=empty,
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            return (result.stdout + result.stderr)[-1500:]
    print(result.stdout.strip())
    return None


def main() -> int:
    """Run, one line a chapter."""
    parser = argparse.ArgumentParser(description="Run chapters alone.")
    parser.add_argument("chapters", nargs="*", metavar="CHAPTER", help="default: all")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--here", action="store_true")
    options = parser.parse_args()
    known = [name for name in chapters(ROOT) if (ROOT / f"book/{name}.ipynb").exists()]
    unknown = sorted(set(options.chapters) - set(known))
    if unknown:
        print(
            f"no such chapter: {', '.join(unknown)}; there are: {', '.join(known)}",
            file=sys.stderr,
        )
        return 1
    names = options.chapters or known
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    start, failed = time.monotonic(), []
    packages = WORK / "packages"
    env = surroundings(None if options.here else checkout())
    if not options.here:
        link_packages(packages)
    if options.quick:
        fault = quick(names, make_environment("quick", packages), env)
        print(
            fault
            or f"make standalone: {len(names)} chapters install and import by themselves"
        )
        return 1 if fault else 0
    for number, name in enumerate(names, start=1):
        begun = time.monotonic()
        print(f"[{number}/{len(names)}] {name} ...", end="", flush=True)
        python = (
            Path(sys.executable) if options.here else make_environment(name, packages)
        )
        fault = run_alone(name, python, env)
        if fault:
            failed.append(name)
            print(f" failed\nchapter {name}: {fault}", flush=True)
        else:
            print(f" {time.monotonic() - begun:.1f} s", flush=True)
    if failed:
        print(f"make standalone: failed: {', '.join(failed)}", file=sys.stderr)
        return 1
    print(
        f"make standalone: {len(names)} chapters ran alone in {time.monotonic() - start:.0f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
