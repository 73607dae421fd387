"""What only a real accelerator can show: `make gpu`, or `pytest tests/gpu` by itself, on a machine that has one.

It ends with a table; `book/gpu.md` says whether it has been run on one. `DDPM_NB_TEST_DEVICE=cpu pytest tests/gpu`
runs it on the CPU: that shows that the tests work, and nothing about accelerators.
"""

import os
from collections.abc import Callable, Iterator

import pytest
import torch
from accelerate.state import AcceleratorState

Row = Callable[[str, str], None]
TABLE = pytest.StashKey[list[tuple[str, str]]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TABLE] = []


@pytest.fixture(scope="session")
def kind() -> str:
    """The kind of device that is tested."""
    if asked := os.environ.get("DDPM_NB_TEST_DEVICE"):
        return asked
    if torch.cuda.is_available():
        return "cuda"
    if (
        torch.backends.mps.is_available()
        and "ACCELERATE_TORCH_DEVICE" not in os.environ
    ):
        return "mps"
    pytest.skip(
        "no accelerator: there is none, or other tests run too, and they hide it"
    )


@pytest.fixture(autouse=True)
def on_the_device(kind: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Accelerate takes this device; products of matrices and convolutions are in float32, and not in TF32."""
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", kind)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def row(pytestconfig: pytest.Config) -> Row:
    """Write a row of the table: what, and its value."""
    return lambda what, value: pytestconfig.stash[TABLE].append((what, value))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if table := config.stash[TABLE]:
        name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA"
        terminalreporter.section(f"torch {torch.__version__}, {name}")
        for what, value in table:
            terminalreporter.line(f"{what:60} {value}")
