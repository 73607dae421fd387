"""`python -m benchmarks.quality` compares what it says: the same weights, recipe, measure. How fast, no test asks."""

import json
import math
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import ROOT
from torch import Tensor
from torch.testing import assert_close

from benchmarks import quality
from ddpm_nb.cifar10 import digits_config, load_digits


def test_both_begin_with_the_same_network_and_learn() -> None:
    config = replace(digits_config(), warmup_steps=5, ema_decay=0.5)
    images = load_digits().images
    (step, average), network = quality.ours(config, images)
    # As it begins, the network answers 0 whatever it is asked, and its blocks do not look at t: equal answers would
    # say nothing.
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in network.parameters():
            fan_in = weight[0].numel() if weight.dim() > 1 else 1
            weight.copy_(torch.randn(weight.shape, generator=draw) / fan_in**0.5)
    average.load_state_dict(network.state_dict())  # type: ignore[attr-defined]
    torch.manual_seed(0)
    other_step, other_average = quality.theirs(config, images, network)
    x, t = (
        torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1)),
        torch.tensor([1, 100, 500]),
    )

    def answers() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return average(x, t), other_average(x, t)

    assert_close(*answers(), rtol=1e-4, atol=1e-5)
    assert answers()[0].std() > 0.1
    with torch.no_grad():
        noise = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(2))
        before = float(
            (other_average(noise, torch.full((64,), 500)) - noise).square().mean()
        )
    for _ in range(20):
        step()
        other_step()
    first, second = answers()
    assert not torch.equal(first, second)  # other draws
    for asked in (average, other_average):
        with torch.no_grad():
            after = float(
                (asked(noise, torch.full((64,), 500)) - noise).square().mean()
            )
        assert after < 0.8 * before


def test_to_ask_their_average_leaves_the_training_alone() -> None:
    images = load_digits().images
    x, t = torch.ones(1, 1, 8, 8), torch.tensor([7])

    def answer(decay: float, asked_between: bool) -> Tensor:
        config = replace(digits_config(), warmup_steps=1, ema_decay=decay)
        _, network = quality.ours(config, images)
        torch.manual_seed(0)
        step, average = quality.theirs(config, images, network)
        with torch.no_grad():
            for _ in range(4):
                with torch.enable_grad():
                    step()
                if asked_between:
                    average(x, t)
            return average(x, t)

    assert torch.equal(answer(0.9, True), answer(0.9, False))
    assert not torch.equal(answer(0.9, False), answer(0.0, False))


@pytest.mark.parametrize(
    ("bits", "minute"),
    [
        ([5.0, 4.0, 3.0, 2.0], 1.5),  # on the straight line
        ([5.0, 3.5, 3.0], 1.0),  # exactly there
        ([5.0, 4.0], math.inf),
        ([3.0, 2.0], 0.0),  # from the start
        ([5.0, 3.0, 4.0, 3.0], 0.75),  # the first time counts
    ],
)
def test_the_minute_is_where_the_curve_comes_down(
    bits: list[float], minute: float
) -> None:
    curve = [(float(m), b) for m, b in enumerate(bits)]
    assert quality.reached(curve, 3.5) == pytest.approx(minute)


def test_the_ratio_is_a_geometric_mean_with_its_interval() -> None:
    def race(mine: float, other: float) -> dict[str, Any]:
        return {"minutes": {"ours": mine, "diffusers": other}}

    mean, low, high = quality.ratio([race(1, 2), race(2, 1)])
    assert (mean, low * high) == (pytest.approx(1), pytest.approx(1))
    assert math.log(high) == pytest.approx(
        12.706 * math.log(2), rel=1e-4
    )  # Student, one degree of freedom
    assert quality.ratio([race(1, 3)]) == (pytest.approx(3), 0, math.inf)
    mean, low, high = quality.ratio([race(1, 2)] * 3)
    assert (mean, low, high) == (pytest.approx(2), pytest.approx(2), pytest.approx(2))


def test_the_stored_result_is_what_the_readme_says() -> None:
    said = json.loads(quality.RESULT.read_text())
    assert len(said["races"]) >= 3
    for run in said["races"]:
        assert {
            name: quality.reached(curve, said["target"])
            for name, curve in run["curves"].items()
        } == run["minutes"]
    assert quality.table(said) in (ROOT / "benchmarks/README.md").read_text()


def test_what_the_readme_says_was_measured() -> None:
    readme = (ROOT / "README.md").read_text()
    card = json.loads((ROOT / "benchmarks/gpu.json").read_text())
    best = {
        part: next(
            row["value"]
            for row in card["parts"][part]["rows"]
            if row["what"] == "bf16, channels_last, compiled"
        )
        for part in ("training", "sampling")
    }
    assert card["card"] in readme
    assert f"| {best['training']:,.0f} pictures a second |" in readme
    assert f"| 50,000 pictures in {50_000 / best['sampling']:.0f} s |" in readme
    said = json.loads(quality.RESULT.read_text())
    mean, low, high = quality.ratio(said["races"])
    assert f"| {mean:.2f} times ({low:.2f} to {high:.2f}, 95 %) |" in readme
    assert (
        f"to {said['target']} bits" in readme
        and f"{len(said['races'])} seeds" in readme
    )
    shown = (ROOT / "book/fewer_steps.ipynb").read_text(encoding="utf-8")
    assert re.search(r"10 second order +\+0\.1 ± +1\.1 ", shown)
    assert "| +0.1 ± 1.1 |" in readme
