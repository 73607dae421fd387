"""Every run of a test is the same run: fixed seeds for hypothesis and for torch's global generator."""

import pytest
import torch
from hypothesis import settings

settings.register_profile("book", derandomize=True, deadline=None, database=None)
settings.load_profile("book")


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    torch.manual_seed(0)
