"""Picture i of a seed is picture i; a list of generators, one a picture; what a generator meant it still means."""

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor
from helpers import ROOT, zero
from samplers import strided_sample, strided_sample_steps
from scipy import stats
from torch import Tensor
from torch.testing import assert_close

from ddpm_nb import (
    CounterNoise,
    GaussianMixture,
    Schedule,
    UNet,
    ddim_sample,
    ddim_sample_steps,
    denoise,
    interpolate,
    optimal_noise,
    progressive,
    sample,
    sample_steps,
)
from ddpm_nb._noise import fresh_for_each, noise_for, philox, times_for


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        (
            "00000000 00000000 00000000 00000000",
            "00000000 00000000",
            "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
        ),
        (
            "ffffffff ffffffff ffffffff ffffffff",
            "ffffffff ffffffff",
            "408f276d 41c83b0e a20bc7c6 6d5451fd",
        ),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_its_published_words(counter: str, key: str, words: str) -> None:
    """The known answers that come with Random123, the authors' own library."""
    c, k, w = (
        [int(word, 16) for word in line.split()] for line in (counter, key, words)
    )
    assert philox([torch.tensor(word) for word in c], (k[0], k[1])).tolist() == w
    many = philox([torch.tensor(word).expand(5, 2) for word in c], (k[0], k[1]))
    assert many.tolist() == [[w] * 2] * 5


def test_noise_is_box_and_muller_of_the_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the ends of the range of words too, where one half more or less is all there is."""
    words = torch.tensor([0, 2**31, 2**32 - 1, 0, 7, 2**30])

    def some(counter: Any, key: Any) -> Tensor:
        return words.unflatten(0, (1, 6))

    monkeypatch.setattr("ddpm_nb._noise.philox", some)
    came = CounterNoise(0, (6,))(torch.arange(1), 3)[0]
    u = (words.numpy().astype(np.longdouble) + np.longdouble(1) / 2) / 2**32
    radius = np.sqrt(-2 * np.log(u[0::2]))
    angle = 2 * np.arccos(np.longdouble(-1)) * u[1::2]
    wanted = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).ravel()
    assert_close(came, torch.tensor(wanted.astype(np.float32)), rtol=1e-6, atol=1e-9)


def test_counters_of_copies_and_times_never_meet() -> None:
    """The second copy's times begin where the first one's end, T + 1 later."""
    asked: list[tuple[list[int], int]] = []

    def source(images: Tensor, t: int) -> Tensor:
        asked.append((images.tolist(), t))
        return torch.zeros(len(images), 1)

    rng = fresh_for_each(source, 3, 10)
    assert callable(rng)
    for t in (0, 10):
        assert rng(torch.arange(6), t).shape == (6, 1)
    assert asked == [([0, 1], t + 11 * copy) for t in (0, 10) for copy in range(3)]


def test_a_time_is_a_share_of_its_block() -> None:
    """For noise z it is the first time of the block plus Phi(z) of its length, rounded down, and never the end."""
    z = torch.tensor([-9.0, -0.1, 0.1, 40.0], dtype=torch.float64)
    asked = []

    def source(images: Tensor, t: int) -> Tensor:
        asked.append(t)
        return z[:, None].expand(4, 3)

    draw = times_for((4, 3), torch.device("cpu"), source, 100)
    assert draw(range(10, 20)).tolist() == [10, 14, 15, 19]
    assert asked == [119]  # beyond every time of the chain
    assert draw(range(5, 6)).tolist() == [5] * 4 and len(asked) == 1


def test_the_first_picture_is_a_number_of_32_bits() -> None:
    CounterNoise(0, (2,), first=2**32 - 1)
    for bad in (-1, 2**32):
        with pytest.raises(ValueError, match=f"first: expected .*, got {bad}"):
            CounterNoise(0, (2,), first=bad)


def test_noise_has_the_type_that_is_asked_for() -> None:
    def source(images: Tensor, t: int) -> Tensor:
        return torch.zeros(len(images), 2, dtype=torch.float64)

    cpu = torch.device("cpu")
    for asked, came in ((None, torch.float32), (torch.float64, torch.float64)):
        assert noise_for((3, 2), cpu, source, asked)(1).dtype == came


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 5, 7), (2,), ()])
def test_noise_is_bit_equal_whatever_the_batch(shape: tuple[int, ...]) -> None:
    for t in (0, 1, 17, 1000):
        whole = CounterNoise(0, shape)(torch.arange(8), t)
        assert whole.shape == (8, *shape) and whole.dtype == torch.float32
        for size in (1, 3, 8):
            parts = [
                CounterNoise(0, shape, first=i)(torch.arange(min(size, 8 - i)), t)
                for i in range(0, 8, size)
            ]
            assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(CounterNoise(0, shape)(torch.tensor([5, 2]), t), whole[[5, 2]])


def test_another_picture_time_or_seed_is_other_noise() -> None:
    """No two of these may share numbers, not even shifted by one, as seed + i would."""
    which = torch.arange(4)
    blocks = [
        CounterNoise(seed, (64,), first=first)(which, t)
        for seed, first, t in (
            (0, 0, 1),
            (0, 4, 1),
            (0, 0, 2),
            (0, 0, 0),
            (1, 0, 1),
            (2**32, 0, 1),
            (2**32 - 1, 0, 1),
            (2**63, 0, 1),
        )
    ]
    numbers = torch.cat(blocks).flatten()
    assert len(numbers.unique()) > 0.999 * len(numbers)


TWO = """
import os, sys, torch
from ddpm_nb import CounterNoise

assert os.environ["WORLD_SIZE"] == "2"
rank = int(os.environ["RANK"])
noise = CounterNoise(0, (3, 8, 8), first=4 * rank)(torch.arange(4), 17)
torch.save(noise, f"{sys.argv[1]}/{rank}.pt")
"""


def test_noise_is_bit_equal_for_one_and_two_processes(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(TWO)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run(
        [sys.executable, *launch, str(script), str(tmp_path)],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    whole = CounterNoise(0, (3, 8, 8))(torch.arange(8), 17)
    assert torch.equal(torch.cat(parts), whole)


def test_the_noise_is_standard_normal_and_independent() -> None:
    """Kolmogorov and Smirnov on 200,000 numbers; correlations across places, pictures and times within their error."""
    noise = torch.stack(
        [CounterNoise(3, (1, 10, 10))(torch.arange(500), t) for t in range(4)]
    ).double()
    assert stats.kstest(noise.flatten().numpy(), "norm").pvalue > 0.01
    tails = float((noise.abs() > 3).double().mean())
    assert tails == pytest.approx(
        math.erfc(3 / 2**0.5), abs=4 * (0.0027 / 200_000) ** 0.5
    )
    flat = noise.flatten(2)
    for a, b in (
        (
            flat[:, :, :-1],
            flat[:, :, 1:],
        ),  # neighbouring places: Box and Muller's pairs
        (flat[:, :, ::2].square(), flat[:, :, 1::2].square()),  # ... and their squares
        (flat[:, :-1], flat[:, 1:]),
        (flat[:-1], flat[1:]),
    ):
        pairs = torch.stack([a.flatten(), b.flatten()])
        assert abs(float(torch.corrcoef(pairs)[0, 1])) < 4 / a.numel() ** 0.5


@pytest.mark.parametrize(
    ("arguments", "name"),
    [((-1, (2,)), "seed"), ((2**64, (2,)), "seed"), ((0, (2,), -1), "first")],
)
def test_a_seed_out_of_range_is_refused(arguments: Any, name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}: expected 0 \.\.\. 2\^"):
        CounterNoise(*arguments)


def test_a_list_of_generators_works_as_in_diffusers() -> None:
    shape, device = (3, 2, 4), torch.device("cpu")
    seeds = (11, 5, 11)
    ours, theirs = (
        [torch.Generator().manual_seed(seed) for seed in seeds] for _ in range(2)
    )
    draw = noise_for(shape, device, ours, None)
    for t in (3, 2, 1):
        expected = randn_tensor(shape, generator=theirs)
        assert torch.equal(draw(t), expected)
        assert torch.equal(expected[0], expected[2])


TEN = Schedule.cosine(T=10)
RING = optimal_noise(
    GaussianMixture([0.3, 0.7], [[-1.0, 0.0], [1.0, 0.5]], [0.2, 0.3]), TEN
)
WAYS: dict[str, Any] = {
    "Algorithm 2": lambda n, g: sample(RING, (n, 2), TEN, generator=g),
    "strided": lambda n, g: strided_sample(RING, (n, 2), TEN, 4, generator=g),
    "DDIM": lambda n, g: ddim_sample(RING, (n, 2), TEN, 4, generator=g),
    "DDIM, eta": lambda n, g: ddim_sample(RING, (n, 2), TEN, 4, eta=0.5, generator=g),
    "progressive": lambda n, g: progressive(RING, (n, 2), TEN, (0, 5), generator=g)[0],
    "denoise": lambda n, g: denoise(RING, torch.ones(n, 2), 7, TEN, generator=g),
    "interpolate": lambda n, g: interpolate(
        RING, torch.ones(n, 2), torch.zeros(n, 2), 7, (0.3,), TEN, generator=g
    )[0],
}


@pytest.mark.parametrize("way", WAYS)
def test_a_picture_does_not_depend_on_its_batch(way: str) -> None:
    """By counter, and with a list of generators. The exact network rounds alike in every batch."""
    draw, n = WAYS[way], 7
    whole = draw(n, CounterNoise(4, (2,)))
    seeds = [torch.Generator().manual_seed(100 + i) for i in range(n)]
    listed = draw(n, seeds)
    assert not torch.equal(whole, draw(n, CounterNoise(5, (2,))))
    for i in range(n):
        alone = draw(1, CounterNoise(4, (2,), first=i))
        assert_close(alone[0], whole[i], rtol=0, atol=1e-6)
        alone = draw(1, [torch.Generator().manual_seed(100 + i)])
        assert_close(alone[0], listed[i], rtol=0, atol=1e-6)


def test_a_network_draws_the_same_pictures_in_every_batch() -> None:
    """Within one grey level: kernels round otherwise in a batch of another size."""
    torch.manual_seed(0)
    net = UNet.digits()
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    shape = (1, 8, 8)
    options: dict[str, Any] = {"schedule": TEN, "clip": True}
    whole = sample(net, (8, *shape), generator=CounterNoise(0, shape), **options)
    again = sample(net, (8, *shape), generator=CounterNoise(0, shape), **options)
    assert torch.equal(whole, again)
    for size in (1, 3):
        for i in range(0, 8, size):
            part = sample(
                net,
                (min(size, 8 - i), *shape),
                generator=CounterNoise(0, shape, first=i),
                **options,
            )
            assert (part - whole[i : i + size]).abs().max() < 2 / 255


def test_every_sampler_asks_for_the_noise_of_the_time_that_it_reaches() -> None:
    """One source, one x_T and one z at each t for all of them; none at the last step."""
    asked: list[int] = []

    def source(pictures: Tensor, t: int) -> Tensor:
        assert pictures.tolist() == [0, 1, 2]
        asked.append(t)
        return torch.full((3, 2), float(t))

    def times(steps: Iterator[Any]) -> tuple[list[int], list[int]]:
        asked.clear()
        reached = [step.t for step in steps]
        return list(asked), reached

    shape = (3, 2)
    assert times(sample_steps(zero, shape, TEN, generator=source)) == (
        list(range(10, 0, -1)),
        list(range(9, -1, -1)),
    )
    for steps in (
        strided_sample_steps(zero, shape, TEN, 4, generator=source),
        ddim_sample_steps(zero, shape, TEN, 4, eta=1.0, generator=source),
    ):
        noisy, reached = times(steps)
        assert noisy == [10, *reached[:-1]] and reached[-1] == 0
    assert times(ddim_sample_steps(zero, shape, TEN, 4, generator=source))[0] == [10]


@pytest.mark.parametrize("way", WAYS)
def test_generators_that_do_not_fit_the_batch_are_refused(way: str) -> None:
    with pytest.raises(
        ValueError,
        match=r"generator: expected one, or one for each of 3 pictures, got 2",
    ):
        WAYS[way](3, [torch.Generator(), torch.Generator()])
    with pytest.raises(
        ValueError, match=r"generator: expected noise of shape \(3, 2\), got \(3, 5\)"
    ):
        WAYS[way](3, CounterNoise(0, (5,)))
