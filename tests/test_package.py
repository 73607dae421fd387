"""Importing the package is silent, cheap and complete."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, run

import ddpm_nb

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


def test_type_checkers_are_told_the_same_names() -> None:
    """The block under TYPE_CHECKING repeats the table; the two must not drift."""
    tree = ast.parse((ROOT / "ddpm_nb/__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    told = {
        node.module.removeprefix("ddpm_nb."): sorted(
            alias.asname for alias in node.names
        )
        for node in block.body
        if isinstance(node, ast.ImportFrom)
    }
    assert told == {
        chapter: sorted(names) for chapter, names in ddpm_nb._CHAPTERS.items()
    }


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = ddpm_nb.nonsense


def test_chapters_import_only_earlier_chapters() -> None:
    earlier: list[str] = []
    for chapter in ddpm_nb._CHAPTERS:
        tree = ast.parse((ROOT / f"ddpm_nb/{chapter}.py").read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                "ddpm_nb."
            ):
                assert node.module.removeprefix("ddpm_nb.") in earlier, (
                    f"{chapter}: {node.module}"
                )
        earlier.append(chapter)
