"""The table of samplers: `python -m benchmarks.samplers` in small, its measures, and what the book's file holds."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist, pdist
from scipy.stats import ttest_1samp

from benchmarks import samplers


@pytest.fixture(scope="module")
def subjects() -> dict[str, samplers.Subject]:
    return samplers.subjects(quick=True)


def test_energy_distance_is_made_of_mean_distances_of_different_points() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)), 1 + rng.normal(size=(60, 3))
    expected = 2 * cdist(x, y).mean() - pdist(x).mean() - pdist(y).mean()
    found = samplers.energy_distance(torch.tensor(x), torch.tensor(y))
    assert found == pytest.approx(expected)
    apart = torch.zeros(5, 2), torch.tensor([3.0, 4.0]).repeat(7, 1)
    assert samplers.energy_distance(*apart) == pytest.approx(10)


def test_distance_is_a_root_for_each_picture_and_a_mean_over_pictures() -> None:
    x = torch.zeros(2, 1, 2, 2)
    y = torch.tensor([2.0, 4.0])[:, None, None, None].expand(2, 1, 2, 2)
    assert samplers.distance(x, y) == pytest.approx(3)


def rows(second: list[float], base: list[float], **more: Any) -> list[dict[str, Any]]:
    def of(sampler: str, steps: int, values: list[float]) -> dict[str, Any]:
        by_seed = {str(seed): value for seed, value in enumerate(values)}
        return {
            "sampler": sampler,
            "steps": steps,
            **dict.fromkeys(("distance", *more), by_seed),
        }

    return [
        of("second order", 20, second),
        of("second order", 10, second),
        of("DDIM", 50, base),
    ]


def test_differences_are_taken_within_a_seed() -> None:
    base, second = [1.0, 5.0, 2.0, 8.0], [0.5, 4.8, 1.1, 7.9]
    mean, half = samplers.differences(
        rows(second, base), "distance", "second order", 20
    )
    interval = ttest_1samp(np.subtract(second, base), 0).confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx((interval.low, interval.high))


def test_goals_ask_for_nearer_and_for_no_worse() -> None:
    """Shown to be nearer in the distance; not shown to be worse in the rest."""

    def met(second: list[float], base: list[float], **more: Any) -> list[bool]:
        found = {"rows": rows(second, base, **more)}
        return [good for _, good in samplers.goals("x", found, 20)]

    assert met([1.0, 2.0, 3.0], [2.0, 3.1, 4.0]) == [True]
    assert met([1.0, 2.0, 3.0], [1.1, 1.9, 3.1]) == [False]
    both = {"energy": 0, "frechet": 0}
    assert met([1.0, 2.0, 3.0], [1.1, 1.9, 3.1], **both) == [False, True, True]
    assert met([2.0, 3.1, 4.0], [1.0, 2.0, 3.0], **both) == [False, False, False]


def test_all_samplers_start_from_the_same_noise(
    subjects: dict[str, samplers.Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    digits, begun, sample = subjects["digits"], [], samplers.sample

    def seen(model: Any, *given: Any, x_T: torch.Tensor, **more: Any) -> torch.Tensor:
        begun.append(x_T.clone())
        return sample(model, *given, x_T=x_T, **more)

    monkeypatch.setattr(samplers, "sample", seen)
    for sampler in digits.samplers:
        digits.draw(sampler, 5, 3, 2)
    digits.draw("DDIM", 10, 4, 2)
    first, *others, another_seed = begun
    assert len(others) == 3
    assert all(torch.equal(noise, first) for noise in others)
    assert not torch.equal(another_seed, first)
    assert torch.equal(digits.noise(3, 1), first[:1])


def test_a_run_goes_on_where_it_stopped(
    subjects: dict[str, samplers.Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samplers, "LOWS", (-4.0,))
    monkeypatch.setattr(samplers, "HIGHS", (2.0, 3.0))
    photographs = subjects["cifar10-small"]
    found: dict[str, Any] = {}
    drawn: list[tuple[str, int, int]] = []
    draw = samplers.Subject.draw

    def counted(
        self: samplers.Subject,
        name: str,
        steps: int,
        seed: int,
        n: int,
        ends: Any = None,
    ) -> torch.Tensor:
        drawn.append((name, steps, seed))
        # The limit in fewer steps: this test asks what is drawn, and not how well.
        return draw(self, name, 3 if steps == 1000 else 2, seed, n, (-4.0, 3.0))

    class Stop(Exception):
        pass

    def stops() -> None:
        if len(found.get("rows", [])) == 2:
            raise Stop

    monkeypatch.setattr(samplers.Subject, "draw", counted)
    with pytest.raises(Stop):
        samplers.measured(photographs, found, stops)
    first = len(drawn)
    samplers.measured(photographs, found, lambda: None)
    # The limit of the seed in hand is drawn again; nothing else is.
    again = drawn[first:]
    assert again[:2] == [("second order", 1000, 0), ("second order", 5, 0)]
    assert len(again) == 2 + 3
    assert [*found["ends"]["of_steps"]] == ["5"]
    for row in found["rows"]:
        assert row["distance"].keys() == {"0", "1"}
        assert (row["steps"] == 1000) == (set(row["distance"].values()) == {0.0})


def test_the_nearest_ends_are_chosen_for_each_number_of_evaluations(
    subjects: dict[str, samplers.Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the place of pictures stands how far the ends are from those that would be right."""
    right = {5: (-4.5, 3.0), 10: (-3.0, 5.0), 20: (-5.0, 2.5)}

    def draw(
        self: samplers.Subject,
        name: str,
        steps: int,
        seed: int,
        n: int,
        ends: samplers.Ends = None,
    ) -> torch.Tensor:
        off = (
            0.0
            if ends is None
            else sum(abs(a - b) for a, b in zip(ends, right[steps], strict=True))
        )
        return torch.full((n, 1, 2, 2), off)

    monkeypatch.setattr(samplers.Subject, "draw", draw)
    chosen = samplers.chosen_ends(subjects["digits"])["of_steps"]
    assert {
        int(steps): (best["low"], best["high"]) for steps, best in chosen.items()
    } == right
    assert chosen["5"]["distance"]["-4.5 to 3"] == 0
    assert chosen["5"]["distance"]["-5 to 4"] == 1.5


def test_the_book_s_file_is_not_overwritten_by_a_trial(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        samplers.main(["--quick"])
    assert "--quick: expected --out" in capsys.readouterr().err


def test_the_book_s_file_is_whole() -> None:
    """Every sampler, number of evaluations and seed; the ends from other seeds."""
    result = json.loads(Path(samplers.RESULT).read_text())
    for name, subject in samplers.subjects(quick=False).items():
        found = result["networks"][name]
        seeds = {str(seed) for seed in subject.seeds}
        work = {(row["sampler"], row["steps"]): row for row in found["rows"]}
        assert work.keys() == {
            ("second order", subject.schedule.T),
            *(
                (sampler, steps)
                for sampler in subject.samplers
                for steps in subject.counts
            ),
        }
        for (sampler, _), row in work.items():
            measures = {"distance"} & set(row) | {"energy", "frechet", "judge"} & set(
                row
            )
            assert ("distance" in measures) == (sampler in samplers.PATHS)
            assert ("energy" in measures) == (subject.real is not None)
            assert all(row[measure].keys() == seeds for measure in measures)
        ends = found["ends"]
        assert not set(ends["seeds"]) & set(subject.seeds)
        assert [int(steps) for steps in ends["of_steps"]] == [
            n for n in subject.counts if n < subject.schedule.T
        ]
        for best in ends["of_steps"].values():
            assert best["distance"][f"{best['low']:g} to {best['high']:g}"] == min(
                best["distance"].values()
            )
        assert found["pictures"] == subject.pictures


def test_a_value_of_the_book_s_file_is_what_comes_out() -> None:
    found = json.loads(Path(samplers.RESULT).read_text())["networks"]["digits"]
    digits = samplers.subjects(quick=False)["digits"]
    drawn = digits.draw("DDIM", 5, 2, digits.pictures).flatten(1).double()
    (row,) = (
        row for row in found["rows"] if (row["sampler"], row["steps"]) == ("DDIM", 5)
    )
    assert digits.real is not None
    real = digits.real.flatten(1).double()
    assert row["energy"]["2"] == pytest.approx(
        samplers.energy_distance(drawn, real), abs=1e-4
    )
    assert row["frechet"]["2"] == pytest.approx(
        samplers.frechet_distance(drawn, real), rel=1e-3
    )
