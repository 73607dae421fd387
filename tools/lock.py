"""Write requirements.txt: the exact versions of everything that the book and its tests use.

A fresh environment gets the newest versions that pyproject.toml allows, and what it then holds is
frozen. Nothing is edited by hand, so nothing stays in the file that nobody needs.
"""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent

HEADER = """\
# Exact versions of everything that the book and its tests use. Made by a tool: to renew it, run
# `make lock`, then `make test`. The loose ranges, which users of the package see, stand in
# pyproject.toml.
#
# It holds for Linux and macOS and Python 3.11 to 3.13. No version has a local suffix (never
# torch==X+cpu), so each machine takes the build that its pip is set up for. What torch needs for
# CUDA is not listed: torch pins it itself.
"""

# Other systems and Pythons than the one that runs this: their packages must be pinned as well.
TARGETS = [
    {
        "sys_platform": platform,
        "platform_system": system,
        "python_version": f"3.{minor}",
    }
    for platform, system in [("linux", "Linux"), ("darwin", "Darwin")]
    for minor in (11, 12, 13)
]
# torch brings these where it comes with CUDA, each pinned by torch itself.
BY_TORCH = re.compile(r"nvidia-|cuda-|triton|pytorch-triton")

# Not the newest: the book's trained models and stored outputs were made with it. Raise it
# together with a `make execute`.
HELD = ["torch==2.13.0"]

LIST = """
import importlib.metadata as m, json
print(json.dumps([[d.name, d.version, d.requires or []] for d in m.distributions()]))
"""


def normal(name: str) -> str:
    """The name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def missing_elsewhere(installed: list[tuple[str, str, list[str]]]) -> list[str]:
    """Requirements that hold on another target only, and so are not installed here."""
    names = {normal(name) for name, _, _ in installed}
    missing = []
    for _, _, requires in installed:
        for requirement in map(Requirement, requires):
            name = normal(requirement.name)
            if name in names or BY_TORCH.match(name) or requirement.marker is None:
                continue
            # `extra` is empty: what only an extra asks for does not count.
            if any(
                requirement.marker.evaluate({"extra": "", **target})
                for target in TARGETS
            ):
                missing.append(f"{name}{requirement.specifier}")
    return missing


def main() -> int:
    """Make the environment, complete it for the other targets, freeze it."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = pyproject["project"]
    # Everything: what the package needs, all extras but one, and the tool that installs it.
    # [eval] has the Inception network of the papers; neither book nor tests need it.
    extras = [
        name
        for extra, names in project["optional-dependencies"].items()
        if extra != "eval"
        for name in names
    ]
    wanted = {*project["dependencies"], *extras, *pyproject["build-system"]["requires"]}
    env = ROOT / "_build" / "lock"
    python = str(env / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check"]
    shutil.rmtree(env, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(env)], check=True)
    subprocess.run([*pip, "--quiet", "--upgrade", "pip"], check=True)
    subprocess.run([*pip, *sorted(wanted), *HELD], check=True)
    while True:
        output = subprocess.run(
            [python, "-c", LIST], check=True, capture_output=True
        ).stdout
        installed = [tuple(row) for row in json.loads(output)]
        missing = missing_elsewhere(installed)
        if not missing:
            break
        subprocess.run([*pip, *missing], check=True)
    pins = {
        normal(name): version.partition("+")[0]
        for name, version, _ in installed
        if normal(name) not in {"pip", "ddpm-nb"} and not BY_TORCH.match(normal(name))
    }
    lines = [f"{name}=={version}" for name, version in sorted(pins.items())]
    (ROOT / "requirements.txt").write_text("\n".join([HEADER, *lines]) + "\n")
    shutil.rmtree(env)
    print(
        f"make lock: {len(lines)} versions written to requirements.txt; next: make test"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
