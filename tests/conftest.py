"""Every run of a test is the same run: fixed seeds for hypothesis and for torch's global generator, and a CPU."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

settings.register_profile("book", derandomize=True, deadline=None, database=None)
settings.load_profile("book")


def pytest_configure(config: pytest.Config) -> None:
    """Hide what the machine has besides its CPU: only there are results the same, bit for bit.

    The tests' own processes inherit it. `pytest tests/gpu` alone sees the accelerator.
    """
    if not all("gpu" in Path(place.split("::")[0]).parts for place in config.args):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    torch.manual_seed(0)
