"""The workflows: they cannot be run here, but what they name must exist, and what they may do is little."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import ROOT

pytestmark = pytest.mark.fast
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
KEYS = {"name", "on", "concurrency", "permissions", "jobs"}

every_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def read(path: Path) -> dict[Any, Any]:
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in read(path)["jobs"].values() for step in job["steps"]]


def test_the_weekly_runs_and_the_release_are_there() -> None:
    assert {path.stem for path in WORKFLOWS} == {
        "tests",
        "pages",
        "colab",
        "links",
        "release",
    }
    for name in ("tests", "colab", "links"):
        # YAML 1.1 reads the key `on` as true.
        assert read(ROOT / f".github/workflows/{name}.yml")[True]["schedule"]


@every_workflow
def test_actions_are_pinned_to_commits(path: Path) -> None:
    uses = re.findall(r"uses: (.*)", path.read_text(encoding="utf-8"))
    assert all(
        re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use) for use in uses
    )


@every_workflow
def test_jobs_have_limits_and_may_do_little(path: Path) -> None:
    workflow = read(path)
    assert {"on" if key is True else key for key in workflow} <= KEYS
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["runs-on"]
        assert job["timeout-minutes"] <= 120
        if "needs" in job:
            assert job["needs"] in workflow["jobs"]
        # A job that may write runs no code of the book.
        if "permissions" in job:
            runs = " ".join(step.get("run", "") for step in job["steps"])
            assert not re.search(r"\b(make|python|pip)\b", runs)
            assert not any("checkout" in step.get("uses", "") for step in job["steps"])


@every_workflow
def test_what_the_steps_call_exists(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for step in steps(path):
        assert ("uses" in step) != ("run" in step)
        run = step.get("run", "")
        subprocess.run(
            ["bash", "-n", "-c", re.sub(r"\$\{\{.*?\}\}", "x", run)], check=True
        )
        assert set(re.findall(r"\bmake ([a-z-]+)", run)) <= targets
        for module in re.findall(r"-m (tools\.\w+)", run):
            assert (ROOT / f"{module.replace('.', '/')}.py").is_file()
        for script in re.findall(r"(?:^|\s)(\.ci/\w+)", run):
            assert (ROOT / script).stat().st_mode & 0o100


def test_each_tool_and_each_dependency_says_what_it_brings() -> None:
    rows = re.findall(r"^\| (.*?) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
    told = set(re.findall(r"[\w.-]+", " ".join(rows)))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needs = list(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        needs += extra
    names = {re.match(r"[\w-]+", need)[0] for need in needs}
    assert names | {path.name for path in (ROOT / "tools").glob("*.py")} <= told


def test_every_make_target_calls_what_exists_and_is_listed() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for module in re.findall(r"-m (tools\.\w+)", makefile):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file()
    targets = re.findall(r"^([a-z-]+):", makefile, re.M)
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.M)
    assert phony
    assert sorted(phony[1].split()) == sorted(targets)
    listed = subprocess.run(
        ["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    assert re.findall(r"^  make ([a-z-]+) ", listed, re.M) == targets
