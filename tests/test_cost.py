"""`python -m benchmarks.cost` counts and predicts what it says. How fast anything is, no test asks."""

import json
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import ROOT
from torch import nn

from benchmarks import cost, gpu
from benchmarks.ceiling import flop
from benchmarks.cost import Card, Links, Rates, Work

COUNTS = {
    "evaluation_flop": 12, "update_flop": 36, "operators": 2000,
    "gradient_bytes": 96_000_000, "weights_bytes": 480_000_000,
}  # fmt: skip
CARD = Card("a card", "2026-01-01", "torch", 4000.0, 1000.0, 400.0, 600.0, 400.0)
LINKS = Links()


def test_flop_and_bytes_of_a_tiny_network_counted_by_hand() -> None:
    """Convolution 3x3 of 2 x 3 x 4 x 4 to 5 channels, its addition in place, and a copy of half of it."""
    layer, x = nn.Conv2d(3, 5, 3, padding=1), torch.randn(2, 3, 4, 4)

    @torch.no_grad()
    def step() -> None:
        y = layer(x).view(2, 80)
        y.add_(1)
        y[:, :40].clone()

    product, added, copied = cost.counted(step)
    assert product.flop == 2 * (2 * 5 * 4 * 4) * (3 * 9)
    assert product.bytes == 4 * (2 * 3 * 16 + 5 * 3 * 9 + 5 + 2 * 5 * 16)
    assert (added.flop, added.bytes) == (0, 2 * 4 * 160)
    assert (copied.flop, copied.bytes) == (0, 2 * 4 * 80)


def test_all_flop_of_an_update_are_those_that_torch_counts() -> None:
    step = cost.SMALL.update()
    assert sum(one.flop for one in cost.counted(step)) == flop(step) > 0


def test_weights_move_fourteen_times_an_update() -> None:
    """Clipping reads twice and writes; Adam reads four, writes three and perhaps gradients; the average 2 and 1."""
    trainer_step = cost.SMALL.update()
    weights = sum(w.numel() for w in cost.SMALL.config().network(3).parameters())
    lists = [
        one
        for one in cost.counted(trainer_step)
        if one.name.startswith(("_foreach", "_fused"))
    ]
    assert sum(one.bytes for one in lists) == pytest.approx(14 * 4 * weights, rel=0.02)


def test_each_operator_takes_the_longer_of_its_two_times() -> None:
    rates = Rates(product=100.0, copy=10.0)
    work = [Work("product", 1000, 20), Work("copy", 0, 50), Work("even", 100, 10)]
    assert rates.seconds(work) == 10 + 5 + 1


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_a_ring_sends_what_a_simulated_ring_sends(processes: int) -> None:
    """Pieces travel round until all have the sum: twice round, less two steps."""
    values = [
        [Fraction(10 * p + k) for k in range(processes)] for p in range(processes)
    ]
    wanted, sent = [sum(column) for column in zip(*values)], [0] * processes
    for turn in range(2 * (processes - 1)):
        moved = [(p - turn) % processes for p in range(processes)]
        given = [values[p][moved[p]] for p in range(processes)]
        for p in range(processes):
            to, piece = (p + 1) % processes, moved[p]
            values[to][piece] = given[p] + (
                values[to][piece] if turn < processes - 1 else 0
            )
            sent[p] += 1
    assert all(mine == wanted for mine in values)
    assert sent == [pytest.approx(cost.exchanged(processes, processes))] * processes


def test_more_processes_than_cores_take_turns() -> None:
    work, rates = [Work("copy", 0, 40)], Rates(1.0, 10.0)
    one, two, four = (cost.shared_seconds(rates, work, 0, n, 2) for n in (1, 2, 4))
    assert (one, two, four) == (4, 4, 8)


def rows(text: str, head: str) -> list[list[str]]:
    """The cells of the table that begins with so."""
    table = text[text.index(f"| {head} ") :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def test_the_table_of_the_run_in_exact_fractions() -> None:
    """An update of 128 pictures takes 32 ms; 0.1 ms of it are 480 MB at 4.8 TB/s."""
    found = {
        (row[0], row[1]): row
        for row in rows(cost.run_table(CARD, COUNTS, LINKS), "cards")
    }
    noise = Fraction(128 * 3072 * 4 * 2, 4_800_000_000)  # in ms
    a_picture = (32 - Fraction(1, 10) - noise) / 128
    for n, speed in ((1, 450), (8, 450), (64, 50)):
        for share in {128 // n, 128}:
            _, _, updates, *ms, _, word = found[str(n), str(share)]
            times = (
                share * a_picture,
                Fraction(1, 10),
                noise * share * n / 128,
                Fraction(2 * (n - 1) * 96, n * speed),
            )
            launches = 2000 * 5e-3 if n > 1 else 0
            for said, true in zip(ms, (*times, launches), strict=True):
                assert abs(float(said) - float(true)) <= 0.005 + 1e-9
            assert int(updates.replace(",", "")) * share * n == 800_000 * 128
            assert word.startswith("measured" if n == 1 else "predicted")
    assert found["1", "128"][-2] == "7.11 hours"  # 800,000 times 32 ms


def test_the_bounds_hide_all_or_nothing() -> None:
    parts = {
        "pictures": 3.0,
        "weights": 1.0,
        "draws": 0.5,
        "exchange": 2.0,
        "launches": 7.0,
    }
    assert cost.bounds(parts) == (7.0, 13.5)
    assert cost.bounds({**parts, "launches": 0.0}) == (4.5, 6.5)


@pytest.mark.parametrize(("cards", "batches"), [(1, 100), (8, 13), (64, 2), (200, 1)])
def test_the_card_with_the_most_batches_ends_last(cards: int, batches: int) -> None:
    assert len(range(100)[::cards]) == batches  # as the command deals them out
    assert cost.sampling_seconds(cards, 1000, 400.0) == pytest.approx(
        batches * 500 / 400 * 50
    )


def result() -> Any:
    return json.loads((ROOT / "benchmarks/cost.json").read_text())


def test_what_breaks_first_is_the_longest() -> None:
    said = cost.breaks_first(CARD, COUNTS, LINKS)
    assert re.findall(r"first comes: (\w+)", said) == ["launches", "launches"]
    slow = replace(LINKS, between=1e9)
    assert re.findall(r"first comes: (\w+)", cost.breaks_first(CARD, COUNTS, slow)) == [
        "launches",
        "exchange",
    ]


@pytest.mark.parametrize("part", ["training", "sampling"])
def test_a_row_that_is_missing_is_not_measured(part: str) -> None:
    measured = gpu.read(gpu.RESULT)
    assert measured is not None
    whole = cost.page(result(), cost.card(measured), LINKS)
    del measured["parts"][part]
    text = cost.page(result(), cost.card(measured), LINKS)
    assert text.count("not measured") > whole.count("not measured")
    assert "One card: not measured" in cost.page(result(), None, LINKS)


def test_the_book_s_page_and_picture_are_those_of_the_files() -> None:
    page = (ROOT / "book/cost.md").read_text()
    assert page == cost.page(result(), cost.card(gpu.read(gpu.RESULT)), LINKS)
    assert (ROOT / "book/images/cost.png").stat().st_size <= cost.LIMIT


def test_a_quick_run_measures_every_curve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but several processes and the paper's own network, which take long."""
    monkeypatch.setattr(cost, "launch", lambda processes, base: [1.0, 2.0, 3.0])
    monkeypatch.setattr(cost, "paper", lambda: COUNTS)
    found = cost.run(quick=True, rounds=2)
    cost.write(tmp_path, found, CARD, LINKS)
    for curve, places in cost.QUICK.items():
        assert {row["x"] for row in found["curves"][curve]} == {*places}
        assert all(
            0 < row["low"] <= row["seconds"] <= row["high"]
            for row in found["curves"][curve]
        )
    assert {path.name for path in tmp_path.iterdir()} == {
        "cost.json",
        "cost.md",
        "cost.png",
    }
