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

from tools.address import current
from tools.book import ROOT, files, notebooks, read_notebook
from tools.execute import each, run

WORK = ROOT / "_build" / "standalone"
# What the chapters may find in Colab (googlecolab/backend-info, pip-freeze.txt). pip, setuptools and wheel install.
COLAB = """
torch numpy scipy matplotlib scikit-learn einops tqdm safetensors accelerate pooch tensorboard huggingface-hub pillow
pandas sympy ipykernel pip setuptools wheel
"""


def link_packages(target: Path) -> None:
    """Link what Colab has, and all that it needs, into a folder, as far as it is installed here."""
    target.mkdir(parents=True)
    waiting, seen = COLAB.split(), set[str]()
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        needs = [need for need in distribution.requires or [] if "extra ==" not in need]
        waiting += re.findall(r"^[\w.-]+", "\n".join(needs), re.M)
        for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            source = Path(str(distribution.locate_file(top)))
            if source.exists() and not (target / top).exists():
                (target / top).symlink_to(source)


def checkout(copy: Path) -> None:
    """Make a git repository with the present state of this checkout, committed or not."""
    for name in files(ROOT):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name)
    author = ["-c", "user.name=standalone", "-c", "user.email=standalone@localhost"]
    for command in (["init", "--quiet"], ["add", "--all"], [*author, "commit", "--quiet", "-m", "x"]):
        subprocess.run(["git", *command], cwd=copy, check=True)


def make_environment(folder: Path) -> Path:
    """A fresh environment with only the linked packages; returns its Python."""
    venv.create(folder, with_pip=False, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "colab.pth").write_text(f"{WORK / 'packages'}\n", encoding="utf-8")
    return folder / "bin" / "python"


def surroundings(repository: Path | None) -> dict[str, str]:
    """What the chapter's Python sees of the world: no path to this checkout, and its address led to the copy."""
    hidden = ("PYTHON", "JUPYTER", "DDPM_NB", "VIRTUAL_ENV", "MPL")
    keep = {key: value for key, value in os.environ.items() if not key.startswith(hidden)}
    keep["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    if repository is not None:
        keep |= {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.file://{repository}.insteadOf",
            "GIT_CONFIG_VALUE_0": f"https://github.com/{current(ROOT)}",
            # The build tool is among the linked packages; nothing is asked of a registry.
            "PIP_NO_BUILD_ISOLATION": "0",
            "PIP_NO_INDEX": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
    return keep


def run_alone(chapter: Path, python: Path, env: dict[str, str]) -> None:
    """Run one chapter in an empty folder, in a kernel of that Python."""
    folder, spec = WORK / "alone" / chapter.stem, WORK / "jupyter" / chapter.stem / "kernels/alone"
    folder.mkdir(parents=True)
    spec.mkdir(parents=True)
    command = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "alone", "language": "python"}))
    os.environ["JUPYTER_PATH"] = str(spec.parent.parent)
    run(Path(shutil.copy(chapter, folder)), "alone", env)


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


def quick(chapters: list[Path], python: Path, env: dict[str, str]) -> str | None:
    """The first cell of a chapter as it stands, then every chapter imported from what it installed; what went wrong."""
    empty = WORK / "alone" / "quick"
    empty.mkdir(parents=True)

    def tried(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([python, *arguments], env=env, cwd=empty, capture_output=True, text=True, check=False)

    if tried("-c", "import ddpm_nb").returncode == 0:
        return "the clean environment already has the package"
    cell = read_notebook(chapters[0]).cells[1].source
    shell = "from IPython.core.interactiveshell import InteractiveShell as Shell"
    names = [path.stem for path in chapters]
    for arguments in (
        ["-c", f"{shell}\nShell.instance().run_cell({cell!r}).raise_error()\n"],
        ["-W", "error", "-c", QUICK, *names],
    ):
        result = tried(*arguments)
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
    chapters = notebooks(ROOT, options.chapters)
    shutil.rmtree(WORK, ignore_errors=True)
    start = time.monotonic()
    env = surroundings(None if options.here else WORK / "repository")
    if not options.here:
        link_packages(WORK / "packages")
        checkout(WORK / "repository")
    if options.quick:
        fault = quick(chapters, make_environment(WORK / "environments/quick"), env)
        print(fault or f"make standalone: {len(chapters)} chapters install and import by themselves")
        return 1 if fault else 0

    def alone(chapter: Path) -> None:
        python = Path(sys.executable) if options.here else make_environment(WORK / "environments" / chapter.stem)
        run_alone(chapter, python, env)

    if failed := each(chapters, alone, goes_on=True):
        print(f"make standalone: failed: {', '.join(failed)}", file=sys.stderr)
        return 1
    print(f"make standalone: {len(chapters)} chapters ran alone in {time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
