"""The first page says what the package does: its code runs, its digit is the network's, its buttons work."""

import re
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from helpers import LINEAR, ROOT, generator, network
from PIL import Image
from torch import Tensor, nn
from torch.testing import assert_close

import ddpm_nb
from ddpm_nb import sample, train_steps
from tools import pictures

PAGE = (ROOT / "book/intro.md").read_text(encoding="utf-8")
TRAINING, SAMPLING, FUNCTION, TEST = re.findall(r"```python\n(.*?)```", PAGE, re.S)


def test_algorithm_1_of_the_page_is_the_package_s() -> None:
    def run(update: Any) -> nn.Module:
        torch.manual_seed(0)
        net = nn.Conv2d(1, 1, 3, padding=1)
        torch.manual_seed(1)
        update(
            net,
            torch.optim.SGD(net.parameters(), 0.1),
            [torch.linspace(-1, 1, 256).view(4, 1, 8, 8), -torch.ones(2, 1, 8, 8)],
        )
        return net

    def page(net: nn.Module, optimizer: Any, batches: list[Tensor]) -> None:
        names = {name: getattr(ddpm_nb, name) for name in ddpm_nb.__all__}
        model = lambda x, t: net(x)  # noqa: E731
        exec(TRAINING, names | {"torch": torch, "T": 1000} | {
            "schedule": LINEAR, "model": model, "optimizer": optimizer, "batches": batches,
        })  # fmt: skip

    def package(net: nn.Module, optimizer: Any, batches: list[Tensor]) -> None:
        class Timed(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = net

            def forward(self, x: Tensor, t: Tensor) -> Tensor:
                out: Tensor = self.net(x)
                return out

        list(islice(train_steps(Timed(), iter(batches), LINEAR, optimizer), 2))

    assert_close(run(page).state_dict(), run(package).state_dict())


def test_algorithm_2_of_the_page_is_the_package_s() -> None:
    torch.manual_seed(0)
    names: dict[str, Any] = {name: getattr(ddpm_nb, name) for name in ddpm_nb.__all__}
    names |= {
        "torch": torch,
        "T": 1000,
        "schedule": LINEAR,
        "model": network,
        "shape": (3, 1, 4, 4),
    }
    exec(SAMPLING, names)
    assert_close(
        names["x"], sample(network, (3, 1, 4, 4), LINEAR, generator=generator())
    )


@pytest.mark.parametrize(
    ("shown", "file"),
    [(FUNCTION, "ddpm_nb/forward.py"), (TEST, "tests/test_forward.py")],
)
def test_the_function_and_the_test_on_the_page_are_the_real_ones(
    shown: str, file: str
) -> None:
    source = re.sub(
        r'"""(?:.|\n)*?"""\n', "", (ROOT / file).read_text(encoding="utf-8")
    )
    squeezed = re.sub(r"\s+", "", source)
    assert re.sub(r"\s+", "", shown) in squeezed


def test_the_frames_are_those_of_the_book_s_network() -> None:
    """Algorithm 2 with 500 steps; other machines round otherwise, and a few numbers land on the next level."""
    with Image.open(pictures.HERO) as opened:
        stored = np.asarray(opened).astype(int)
    made = pictures.frames(pictures.way_from_noise()).numpy().astype(int)
    assert stored.shape == made.shape == (32, 208)
    assert np.abs(stored - made).max() <= 4
