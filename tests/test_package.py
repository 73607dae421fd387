"""Importing the package is silent, cheap and complete."""

import ast
import graphlib
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, run

import ddpm_nb
from tools.sync import chapters

QUIET = """
import socket, sys, torch

def no_network(*arguments, **options):
    raise AssertionError("importing asked for the network")

socket.socket.connect = socket.create_connection = no_network
state = torch.get_rng_state()
__import__({module!r}, fromlist=["x"])
assert torch.equal(torch.get_rng_state(), state), "importing drew random numbers"
assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32
forbidden = {{"matplotlib", "IPython", "sklearn", "scipy", "accelerate", "diffusers", "safetensors", "huggingface_hub"}}
assert not forbidden & sys.modules.keys(), forbidden & sys.modules.keys()
"""


@pytest.mark.parametrize(
    "module", ["ddpm_nb", *(f"ddpm_nb.{name}" for name in ddpm_nb._CHAPTERS)]
)
def test_importing_is_silent(module: str) -> None:
    done = run([sys.executable, "-W", "error", "-c", QUIET.format(module=module)])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("print('hello')", "hello"),
        ("import matplotlib", "matplotlib"),
        ("import torch; torch.manual_seed(0)", "random"),
        ("import socket; socket.create_connection(('127.0.0.1', 9))", "network"),
    ],
)
def test_a_noisy_module_is_found(tmp_path: Path, fault: str, message: str) -> None:
    (tmp_path / "noisy.py").write_text(fault)
    done = run([sys.executable, "-c", QUIET.format(module="noisy")], tmp_path)
    assert message in done.stdout + done.stderr


def test_the_package_alone_does_not_even_load_torch() -> None:
    code = "import sys, ddpm_nb; assert 'torch' not in sys.modules; ddpm_nb.Schedule; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("name", sorted(ddpm_nb._HOME))
def test_every_public_name_is_there_and_explained(name: str) -> None:
    value = getattr(ddpm_nb, name)
    home = ddpm_nb._HOME[name]
    assert value is getattr(importlib.import_module(f"ddpm_nb.{home}"), name)
    assert value.__module__ == f"ddpm_nb.{home}"
    assert inspect.getdoc(value)
    assert name in dir(ddpm_nb)


def test_type_checkers_and_the_table_read_the_same_block() -> None:
    """mypy follows the imports of the block; here each leads to the module that the table names."""
    tree = ast.parse((ROOT / "ddpm_nb/__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    told = {
        (alias.name, alias.asname, node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert told == {
        (name, name, f"ddpm_nb.{home}") for name, home in ddpm_nb._HOME.items()
    }
    assert len(told) > 60


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = ddpm_nb.nonsense


def _imports(room: str) -> set[str]:
    """The modules of the package that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / f"ddpm_nb/{room}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "ddpm_nb":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= (
                {node.module.removeprefix("ddpm_nb.")}
                if (node.module or "").startswith("ddpm_nb.")
                else set()
            )
    return found & {path.stem for path in (ROOT / "ddpm_nb").glob("*.py")}


def test_imports_lead_downwards() -> None:
    """A chapter imports earlier chapters only, and no two modules need each other, however far round."""
    order = chapters(ROOT)
    for i, chapter in enumerate(order):
        assert _imports(chapter) & {*order} <= {*order[:i]}, chapter
    graph = {
        path.stem: _imports(path.stem) for path in (ROOT / "ddpm_nb").glob("[!_]*.py")
    }
    graph |= {
        path.stem: _imports(path.stem) for path in (ROOT / "ddpm_nb").glob("_[!_]*.py")
    }
    assert list(graphlib.TopologicalSorter(graph).static_order())
