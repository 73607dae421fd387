"""Training: each part of the recipe, precision, several processes, checkpoints under kill, folders of pictures."""

import copy
import errno
import functools
import gzip
import json
import math
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import killed_runs
import numpy as np
import pytest
import sympy
import torch
import two_processes
from helpers import ROOT
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.testing import assert_close

from ddpm_nb import _cli, _devices, _files, _runs, training
from ddpm_nb._data import load_folder, save_image_grid, to_float
from ddpm_nb._files import write_whole
from ddpm_nb._noise import CounterNoise
from ddpm_nb._options import option, setting
from ddpm_nb.algorithms import sample
from ddpm_nb.forward import Schedule
from ddpm_nb.training import (
    EMA,
    TrainConfig,
    Trainer,
    clip_gradients,
    fit,
    learning_rate,
    load_checkpoint,
    load_network,
    save_checkpoint,
    save_network,
)
from ddpm_nb.unet import UNet

HERE = Path(__file__).parent
# Of the processes that tests start.
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "ACCELERATE_USE_CPU": "true",
    "PYTHONPATH": str(HERE.parent),
}


def config(**choice: Any) -> TrainConfig:
    """A run that takes milliseconds."""
    small = {
        "channels": 8, "channel_mult": (1, 2), "num_res_blocks": 1, "attention_levels": (False, True),
        "norm_num_groups": 4, "dropout": 0.0,
        "schedule": "cosine", "T": 10, "batch_size": 8, "warmup_steps": 0, "save_every": 5, "log_every": 5,
    }  # fmt: skip
    return TrainConfig(**{**small, **choice})


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    # 3 batches of 8 in each round: after 10 steps a round is half done.
    return torch.randint(0, 256, (28, 1, 8, 8), generator=generator).byte()


def gradient(trainer: Trainer) -> Tensor:
    return torch.cat([w.grad.flatten() for w in trainer.model.parameters()])


def weights(module: nn.Module) -> Tensor:
    return torch.cat([w.detach().flatten() for w in module.parameters()])


# The average of the weights


def averaged(values: list[float], decay: float) -> float:
    model = nn.Linear(1, 1, bias=False).double()
    ema = EMA(model, decay)
    for value in values:
        model.weight.data.fill_(value)
        ema.update(model)
    return float(ema.model.weight)


def shares(k: int, decay: float) -> list[float]:
    """How much each of k values counts: averages of sequences that are 1 at one place and 0 elsewhere."""
    return [averaged([float(i == j) for i in range(k)], decay) for j in range(k)]


@pytest.mark.equation("eq-ema-weights")
def test_average_is_the_weighted_sum() -> None:
    # Decays 0, 1/10, 2/11, 1/4, and from the fifth on 0.3, worked out by hand.
    got = shares(7, 0.3)
    late = 0.3**3
    expected = [
        late * 0.25 * 2 / 11 * 0.1,
        late * 0.25 * 2 / 11 * 0.9,
        late * 0.25 * 9 / 11,
        late * 0.75,
        0.7 * 0.3**2,
        0.7 * 0.3,
        0.7,
    ]
    assert got == pytest.approx(expected, abs=1e-14)
    assert sum(got) == pytest.approx(1, abs=1e-14)
    assert shares(4, 0.0) == [0, 0, 0, 1]


@pytest.mark.equation("eq-ema-start")
def test_the_beginning_is_soon_forgotten() -> None:
    """Sums of shares against ratios of binomials: nine factors each, as SymPy counts them."""
    k = 40
    got = np.cumsum(shares(k, 0.9999))
    ratio = [
        float(sympy.rf(j, 9) / sympy.rf(k, 9))  # j (j + 1) ... (j + 8)
        for j in range(1, k + 1)
    ]
    assert got == pytest.approx(ratio, abs=1e-13)
    half = averaged([1.0] * 1000 + [0.0] * 1000, 0.9999)
    assert half == pytest.approx(2**-9, rel=0.02)


@pytest.mark.equation("def-ema")
def test_average_starts_as_a_copy_and_keeps_what_does_not_change() -> None:
    assert averaged([3.25], 0.9999) == 3.25
    assert averaged([3.25] * 50, 0.9) == pytest.approx(3.25, abs=1e-14)
    # The second update keeps a tenth, or less if the decay is less.
    assert averaged([1.0, 2.0], 0.5) == pytest.approx(1.9, abs=1e-14)
    assert averaged([1.0, 2.0], 0.05) == pytest.approx(1.95, abs=1e-14)


@pytest.mark.equation("eq-ema-variance")
def test_variance_of_the_average() -> None:
    d, i = sympy.symbols("d i", positive=True)
    series = sympy.summation(((1 - d) * d**i) ** 2, (i, 0, sympy.oo))
    value = series.subs(d, sympy.Rational(4, 5)).doit()
    assert value == sympy.Rational(1, 9)  # (1 - 4/5) / (1 + 4/5)
    # And by experiment: 40,000 independent weights, 60 updates, decay 0.8. The ratio's standard error is
    # sqrt(2 / 40000) = 0.7 %.
    model = nn.Linear(40_000, 1, bias=False)
    ema = EMA(model, 0.8)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        model.weight.data.normal_(generator=generator)
        ema.update(model)
    assert float(ema.model.weight.var()) * 9 == pytest.approx(1, abs=4 * 0.007)


def test_buffers_are_copied_and_never_averaged() -> None:
    model = nn.BatchNorm1d(1)
    ema = EMA(model, 0.5)
    for value in (0.0, 10.0):
        model.running_mean.fill_(value)
        model.num_batches_tracked.fill_(int(value))
        model.weight.data.fill_(value)
        ema.update(model)
    assert float(ema.model.running_mean) == 10
    assert int(ema.model.num_batches_tracked) == 10
    assert float(ema.model.weight) == 9  # a tenth of 0, nine tenths of 10


def test_average_leaves_the_model_alone() -> None:
    model = nn.Linear(2, 2)
    before = weights(model).clone()
    ema = EMA(model, 0.5)
    model.weight.data += 1
    assert torch.equal(weights(ema.model), before)
    ema.update(model)
    assert model.training
    assert not ema.model.training
    assert EMA(model).decay == 0.9999  # the paper's
    assert not any(w.requires_grad for w in ema.model.parameters())


def test_a_start_is_the_average_s_too(pictures: Tensor) -> None:
    trainer, other = (
        Trainer(config(seed=1), pictures),
        Trainer(config(seed=2), pictures),
    )
    assert not torch.equal(weights(trainer.model), weights(other.model))
    trainer.start_from(other.model)
    for mine in (trainer.model, trainer.ema.model):
        assert torch.equal(weights(mine), weights(other.model))
    assert not trainer.optimizer.state


@pytest.mark.parametrize("short", [torch.float16, torch.bfloat16])
def test_the_average_of_short_numbers_is_long(short: torch.dtype) -> None:
    """Late in a run each update moves the average by less than a short number's step: it would stand still."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1)).to(short)
    ema = EMA(model, 0.9999)
    model[0].weight.data.fill_(0)
    ema.update(model)
    ema.updates = 10**6
    model[0].weight.data.fill_(1)
    for _ in range(20_000):
        ema.update(model)
    assert float(ema.model[0].weight) == pytest.approx(1 - 0.9999**20_000, abs=1e-3)
    assert all(w.dtype == short for w in model.parameters())
    assert ema.model(torch.zeros(2, 1)).dtype == torch.float32


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_average_refuses_other_decays(decay: float) -> None:
    with pytest.raises(ValueError, match="decay: expected"):
        EMA(nn.Linear(1, 1), decay)


# Warm-up and clipping


@pytest.mark.equation("def-warmup")
def test_learning_rate_grows_evenly_from_zero_and_stays() -> None:
    rates = np.array([learning_rate(k, 0.3, 50) for k in range(200)])
    assert rates[0] == 0
    assert rates[25] == pytest.approx(0.15)
    assert np.diff(rates[:51]) == pytest.approx(0.3 / 50)
    assert (rates[50:] == 0.3).all()
    assert learning_rate(0, 0.3, 0) == 0.3


def with_gradient(*parts: Tensor) -> list[nn.Parameter]:
    parameters = [nn.Parameter(torch.zeros_like(part)) for part in parts]
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = part.clone()
    return parameters


@pytest.mark.equation("def-clip")
@pytest.mark.parametrize("scale", [0.01, 1.0, 300.0])
def test_clipping_bounds_the_length_and_keeps_the_direction(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [
        scale * torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((3, 4), (5,))
    ]
    together = torch.cat([part.flatten() for part in parts])
    parameters = with_gradient(*parts)
    length = clip_gradients(parameters, 2.0)
    after = torch.cat([p.grad.flatten() for p in parameters])
    assert float(length) == pytest.approx(float(together.norm()), rel=1e-12)
    assert float(after.norm()) == pytest.approx(
        min(2.0, float(together.norm())), rel=1e-12
    )
    assert float(torch.cosine_similarity(after, together, dim=0)) == pytest.approx(
        1, abs=1e-12
    )
    # torch's own: it adds 1e-6 to the length.
    theirs = with_gradient(*parts)
    torch.nn.utils.clip_grad_norm_(theirs, 2.0)
    for a, b in zip(parameters, theirs, strict=True):
        assert_close(a.grad, b.grad, rtol=1e-5, atol=0)


@pytest.mark.equation("def-clip")
def test_clipping_leaves_a_gradient_of_zero_and_weights_without_one() -> None:
    (zero,) = with_gradient(torch.zeros(3))
    lonely = nn.Parameter(torch.ones(2))
    assert clip_gradients([zero, lonely], 1.0) == 0
    assert torch.equal(zero.grad, torch.zeros(3))
    assert lonely.grad is None


# One update


def test_first_update_moves_nothing_with_warm_up(pictures: Tensor) -> None:
    trainer = Trainer(config(warmup_steps=10), pictures)
    before = weights(trainer.model).clone()
    assert trainer.step().learning_rate == 0
    assert torch.equal(weights(trainer.model), before)
    assert trainer.step().learning_rate == pytest.approx(2e-5)
    assert not torch.equal(weights(trainer.model), before)


@pytest.mark.filterwarnings("ignore:schedule, T")
def test_update_is_algorithm_1_with_adam_and_average(pictures: Tensor) -> None:
    """Five updates beside a plain loop in float64: own gradient, own Adam, own average."""
    choice = config(
        schedule="linear",
        warmup_steps=3,
        learning_rate=1e-2,
        ema_decay=0.7,
        max_grad_norm=0.05,
    )
    trainer, spy = Trainer(choice, pictures), Trainer(choice, pictures)
    model = spy.model.double()
    mine = list(model.parameters())
    m, v = ([torch.zeros_like(w) for w in mine] for _ in range(2))
    average = [w.detach().clone() for w in mine]
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 10))
    for k in range(5):
        x_0, t, noise = spy.batches.draw()
        a = torch.tensor(alpha_bar)[t - 1].reshape(-1, 1, 1, 1)
        x_t = a.sqrt() * x_0.double() + (1 - a).sqrt() * noise.double()
        loss = ((noise - model(x_t, t)) ** 2).mean()
        grads = torch.autograd.grad(loss, mine)
        length = math.sqrt(sum(float((g**2).sum()) for g in grads))
        assert length > 0.05  # so that clipping acts
        update = trainer.step()
        assert float(update.loss) == pytest.approx(loss.item(), rel=1e-5)
        assert float(update.grad_norm) == pytest.approx(length, rel=1e-4)
        rate = 1e-2 * min(k / 3, 1)
        for i, (w, g) in enumerate(zip(mine, grads, strict=True)):
            g = g * 0.05 / length
            m[i] = 0.9 * m[i] + 0.1 * g
            v[i] = 0.999 * v[i] + 0.001 * g**2
            step = (m[i] / (1 - 0.9 ** (k + 1))) / (
                (v[i] / (1 - 0.999 ** (k + 1))).sqrt() + 1e-8
            )
            w.data -= rate * step
            keep = min(0.7, k / (k + 9))
            average[i] = keep * average[i] + (1 - keep) * w.detach()
    # Adam divides by a gradient's size: where a gradient is nothing but rounding, so is its step.
    clear = torch.cat([part.flatten() for part in v]).sqrt() > 1e-6
    assert clear.float().mean() > 0.4
    assert float((weights(trainer.model) - weights(model)).abs()[clear].max()) < 1e-4
    flat = torch.cat([part.flatten() for part in average])
    assert float((weights(trainer.ema.model) - flat).abs()[clear].max()) < 1e-4
    assert float((flat - weights(model)).abs()[clear].median()) > 1e-3  # not the same


@pytest.mark.parametrize(("flip", "expected"), [(True, 0.5), (False, 0.0)])
def test_pictures_are_mirrored_half_of_the_time(flip: bool, expected: float) -> None:
    ramp = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8).repeat(20, 1, 1, 1)
    trainer = Trainer(config(flip=flip), ramp)
    drawn = torch.cat([trainer.batches.draw()[0] for _ in range(100)])
    plain = to_float(ramp[0])
    mirrored = (drawn == plain.flip(-1)).flatten(1).all(1)
    assert ((drawn == plain).flatten(1).all(1) ^ mirrored).all()  # one or the other
    # 800 draws: four standard errors are 0.07
    assert float(mirrored.float().mean()) == pytest.approx(
        expected, abs=0.07 if flip else 0
    )


def test_every_picture_is_drawn_once_before_any_comes_again() -> None:
    shades = (
        torch.arange(24, dtype=torch.uint8).reshape(24, 1, 1, 1).expand(-1, 1, 8, 8)
    )
    trainer = Trainer(config(), shades)
    rounds = [[trainer.batches.draw()[0] for _ in range(3)] for _ in range(2)]
    orders = [torch.cat(batches)[:, 0, 0, 0] for batches in rounds]
    for order in orders:
        assert torch.equal(order.sort().values, to_float(shades)[:, 0, 0, 0])
    assert not torch.equal(*orders)


def test_times_and_noise_have_their_distributions(pictures: Tensor) -> None:
    trainer = Trainer(config(), pictures)
    drawn = [trainer.batches.draw() for _ in range(250)]
    t = torch.cat([part[1] for part in drawn])  # 2,000 times in 1 ... 10
    counts = torch.bincount(t, minlength=11)[1:].double()
    assert (
        float(((counts - 200) ** 2 / 200).sum()) < 27.9
    )  # chi-square, 9 degrees of freedom, p = 0.001
    noise = torch.cat([part[2].flatten() for part in drawn])  # 128,000 numbers
    assert abs(float(noise.mean())) < 4 / 128_000**0.5
    assert float(noise.var()) == pytest.approx(1, abs=4 * (2 / 128_000) ** 0.5)


def test_bytes_become_the_range_from_minus_one_to_one() -> None:
    levels = to_float(torch.tensor([0, 255], dtype=torch.uint8))
    assert levels.tolist() == [-1.0, 1.0]
    assert torch.equal(to_float(torch.tensor([0.25])), torch.tensor([0.25]))


def test_two_trainers_that_take_turns_do_not_disturb_each_other(
    pictures: Tensor,
) -> None:
    choices = [config(dropout=0.3), config(dropout=0.3, seed=1)]
    alone = [Trainer(choice, pictures) for choice in choices]
    expected = [[float(trainer.step().loss) for _ in range(3)] for trainer in alone]
    torch.manual_seed(7)  # what others draw is nothing to them either
    before = torch.get_rng_state()
    turns = [Trainer(choice, pictures) for choice in choices]
    got = [[float(trainer.step().loss) for trainer in turns] for _ in range(3)]
    assert torch.equal(torch.get_rng_state(), before)
    assert [list(losses) for losses in zip(*got, strict=True)] == expected
    for one, other in zip(turns, alone, strict=True):
        assert same(one.state_dict(), other.state_dict())


def test_pieces_add_up_to_the_whole_batch(pictures: Tensor) -> None:
    whole, parts = (
        Trainer(config(gradient_accumulation_steps=p), pictures) for p in (1, 4)
    )
    losses = [float(trainer.step().loss) for trainer in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert_close(gradient(whole), gradient(parts), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("clip", ["mean", "each", "none"])
def test_the_three_ways_to_clip(clip: str, pictures: Tensor) -> None:
    """Against a plain loop: a gradient for each of four pieces, clipped or not, before or after the mean."""
    choice = config(clip=clip, max_grad_norm=0.2, gradient_accumulation_steps=4)
    trainer, spy = Trainer(choice, pictures), Trainer(choice, pictures)
    pieces = []
    for x_0, t, noise in zip(
        *(part.chunk(4) for part in spy.batches.draw()), strict=True
    ):
        a = spy.noise_schedule.alpha_bar[t].reshape(-1, 1, 1, 1)
        x_t = (a.sqrt() * x_0 + (1 - a).sqrt() * noise).float()
        loss = ((noise - spy.model(x_t, t)) ** 2).mean()
        grads = torch.autograd.grad(loss, list(spy.model.parameters()))
        pieces.append(torch.cat([g.flatten() for g in grads]))

    def clipped(g: Tensor) -> Tensor:
        return g * min(1.0, 0.2 / float(g.norm()))

    mean = torch.stack(pieces).mean(0)
    assert all(piece.norm() > 0.2 for piece in pieces)
    assert mean.norm() > 0.2
    expected = {
        "none": mean,
        "mean": clipped(mean),
        "each": torch.stack([clipped(piece) for piece in pieces]).mean(0),
    }
    trainer.step()
    assert_close(gradient(trainer), expected[clip], atol=1e-6, rtol=1e-5)
    others = [value for name, value in expected.items() if name != clip]
    assert all(
        not torch.allclose(gradient(trainer), other, atol=1e-3) for other in others
    )


def test_layout_in_memory_changes_nothing(pictures: Tensor) -> None:
    losses = []
    for channels_last in (True, False):
        trainer = Trainer(config(channels_last=channels_last), pictures)
        losses.append([float(trainer.step().loss) for _ in range(3)])
        is_last = trainer.model.stem.weight.is_contiguous(
            memory_format=torch.channels_last
        )
        assert is_last or not channels_last
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize(
    ("device", "parts", "processes", "graph"),
    [("cuda", 1, 1, True), ("cuda", 2, 1, False), ("cuda", 1, 2, False), ("cpu", 1, 1, False)],
)  # fmt: skip
def test_kernels_become_a_graph_where_no_gradient_must_wait(
    device: str,
    parts: int,
    processes: int,
    graph: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Asked of `Learner` on the CPU, which is told what a device of that name can do."""
    asked: list[Any] = []

    def compiled(network: nn.Module, mode: str | None = None) -> nn.Module:
        asked.append(mode)
        return network

    can = _devices.records_graphs(torch.device(device))
    monkeypatch.setattr(_devices, "records_graphs", lambda device: can)
    monkeypatch.setattr(_devices, "why_not_compiled", lambda: "")
    monkeypatch.setattr(torch, "compile", compiled)
    accelerator = _runs.accelerator(config())
    monkeypatch.setattr(type(accelerator), "num_processes", processes)
    Trainer(
        config(compile=True, gradient_accumulation_steps=parts), torch.zeros(8, 1, 8, 8)
    )
    assert asked == ["reduce-overhead" if graph else None]


def test_compiling_changes_neither_the_gradient_nor_the_names_of_weights(
    pictures: Tensor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """torch traces the network and its gradient for real; "aot_eager" leaves out the last part, making kernels.

    That part needs a C++ compiler and a minute. What it may get wrong is not seen here.
    """
    monkeypatch.setattr(_devices, "why_not_compiled", lambda: "")
    monkeypatch.setattr(
        torch, "compile", functools.partial(torch.compile, backend="aot_eager")
    )
    torch._dynamo.utils.counters.clear()
    compiled = Trainer(config(compile=True), pictures)
    plain = Trainer(config(), pictures)
    losses = [[float(t.step().loss) for _ in range(2)] for t in (compiled, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert_close(gradient(compiled), gradient(plain), atol=1e-5, rtol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    save_checkpoint(tmp_path / "a.pt", compiled)
    load_checkpoint(tmp_path / "a.pt", Trainer(config(), pictures))
    path = tmp_path / "a.safetensors"
    save_network(path, compiled._network, config(), height=8, width=8)
    assert torch.equal(weights(load_network(path)[0]), weights(compiled.model))


# Precision and layout by a short trial


@pytest.mark.parametrize(
    ("seconds", "choice", "chosen"),
    [
        ({}, {}, ("float32", True)),
        ({("bf16", True): 0.95}, {}, ("float32", True)),
        ({("bf16", True): 0.85}, {}, ("bf16", True)),
        ({("bf16", True): 0.5, ("fp16", True): 0.48}, {}, ("bf16", True)),
        ({("bf16", True): 0.5, ("fp16", True): 0.4}, {}, ("fp16", True)),
        ({("bf16", True): 0.5, ("fp16", True): 0.4}, {"clip": "each"}, ("bf16", True)),
        ({("float32", False): 0.95}, {}, ("float32", True)),
        ({("float32", False): 0.8}, {}, ("float32", False)),
        ({("float32", True): 0.95}, {"channels_last": False}, ("float32", False)),
        ({("float32", True): None, ("float32", False): None}, {}, ("bf16", True)),
    ],
)  # fmt: skip
def test_the_most_exact_way_stays_unless_another_is_clearly_faster(
    seconds: dict[tuple[str, bool], float | None],
    choice: dict[str, Any],
    chosen: tuple[str, bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a way takes is put in; None is one that this device cannot do. The pictures of one batch are enough."""
    tried = []

    def spent(learner: Any) -> float:
        way, few = learner
        tried.append(way.precision)
        assert len(few) == way.batch_size
        took = seconds.get((way.precision, way.channels_last), 1.0)
        if took is None:
            raise RuntimeError("not here")
        return took

    monkeypatch.setattr(_runs, "seconds_an_update", spent)
    given = config(precision="auto", **choice)
    best = _runs.fastest(given, torch.zeros(20, 1, 8, 8), lambda *both: both)
    assert best == replace(given, precision=chosen[0], channels_last=chosen[1])
    assert ("fp16" in tried) == (given.clip != "each")


def test_only_what_the_launcher_asks_for_is_tried_and_an_error_of_all_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = []

    def fails(way: TrainConfig, images: Tensor) -> None:
        tried.append((way.precision, way.channels_last))
        raise RuntimeError("no such kernel")

    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    given, images = config(precision="auto"), torch.zeros(8, 1, 8, 8)
    with pytest.raises(RuntimeError, match="no such kernel"):
        _runs.fastest(given, images, fails)
    assert tried == [("bf16", True), ("bf16", False)]
    with pytest.raises(ValueError, match="images: expected numbers in"):
        _runs.fastest(given, images + 8, fails)


@pytest.mark.parametrize("compiles", [False, True])
def test_what_an_update_takes_is_told_without_the_first_ones(
    compiles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock of our own: the first updates take 9 s, all others 0.1 s."""
    clock, steps = [0.0], [0]

    class Pretended:
        config = SimpleNamespace(compile=compiles)
        accelerator = SimpleNamespace(num_processes=1)

        def step(self) -> Any:
            steps[0] += 1
            clock[0] += 9 if steps[0] <= (3 if compiles else 1) else 0.1
            return SimpleNamespace(loss=torch.zeros(()))

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    assert _runs.seconds_an_update(Pretended()) == pytest.approx(0.1)
    assert steps[0] == (3 if compiles else 1) + 1 + 2 + 4 + 8  # 0.8 s are enough


def test_a_trial_leaves_no_trace_in_the_run(
    pictures: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_runs, "LONG_ENOUGH", 0.01)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    tried = Trainer(config(precision="auto", dropout=0.3), pictures)
    assert torch.equal(torch.get_rng_state(), before)
    assert tried.config.precision in _runs.PRECISIONS and tried.steps == 0
    typed = Trainer(tried.config, pictures)
    for _ in range(2):
        assert torch.equal(tried.step().loss, typed.step().loss)
    assert torch.equal(weights(tried.model), weights(typed.model))


def test_a_run_that_goes_on_keeps_what_was_found(
    pictures: Tensor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Even if another trial would find something else."""
    for found in ("bf16", "fp16"):
        monkeypatch.setattr(
            _runs, "fastest",
            lambda given, *_, found=found: replace(given, precision=found, channels_last=False),
        )  # fmt: skip
        steps = 2 if found == "bf16" else 4
        run = fit(config(precision="auto", steps=steps), pictures, tmp_path / "run", progress=False)  # fmt: skip
        assert run.steps == steps
        assert (run.config.precision, run.config.channels_last) == ("bf16", False)
    typed = fit(config(steps=5), pictures, tmp_path / "run", progress=False)
    assert typed.config.precision == "float32"  # what is typed goes before
    (tmp_path / "run/config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json holds another configuration"):
        fit(config(precision="auto"), pictures, tmp_path / "run", progress=False)


# What a launcher asks for


def launched(*arguments: str) -> dict[str, str]:
    """What `accelerate launch` puts into the environment of a program."""
    program = "import json, os; print(json.dumps(dict(os.environ)))"
    environment = {k: v for k, v in ENVIRONMENT.items() if "ACCELERATE" not in k}
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]  # fmt: skip
    done = subprocess.run(
        [*launch, *arguments, "--no_python", sys.executable, "-c", program],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    told = json.loads(done.stdout)
    return {k: v for k, v in told.items() if k.startswith("ACCELERATE_")}


def test_what_a_launcher_asks_for_is_not_passed_over(
    pictures: Tensor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked, steps = (
        "ACCELERATE_MIXED_PRECISION",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
    )
    assert launched("--mixed_precision", "bf16")[asked] == "bf16"
    monkeypatch.setenv(asked, "bf16")
    with pytest.raises(
        ValueError,
        match=r"precision: expected bf16, .* got float32; choose precision bf16",
    ):
        fit(config(steps=1), pictures, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    Trainer(config(precision="bf16"), pictures)  # agrees
    assert launched()[asked] == "no"
    monkeypatch.setenv(asked, "no")
    Trainer(config(precision="bf16"), pictures)  # has not asked
    monkeypatch.setenv(steps, "4")
    with pytest.raises(
        ValueError, match="gradient_accumulation_steps: the launcher asks for 4 batches"
    ):
        Trainer(config(), pictures)
    accelerator = SimpleNamespace(distributed_type=SimpleNamespace(value="FSDP"))
    monkeypatch.setenv(steps, "1")
    with pytest.raises(ValueError, match="hold all weights each, got FSDP"):
        _runs.check_launch(accelerator, "float32")


@pytest.mark.parametrize(("T", "left"), [(100, "0.36"), (200, "0.13")])
def test_a_schedule_that_leaves_signal_is_said_once(
    T: int, left: str, pictures: Tensor, tmp_path: Path
) -> None:
    assert f"{np.prod(1 - np.linspace(1e-4, 0.02, T)):.2f}" == left
    choice = config(schedule="linear", T=T, steps=2)
    with pytest.warns(UserWarning, match=f"T = {T} leaves a share of {left}") as said:
        fit(choice, pictures, tmp_path, progress=False)
    assert len(said) == 1
    assert "use more steps, or cosine" in str(said[0].message)
    for quiet in ({"schedule": "linear", "T": 1000}, {"schedule": "cosine", "T": T}):
        Trainer(config(**quiet), pictures)  # a warning would be an error here


# Precision


@pytest.fixture(scope="module")
def trained(pictures: Tensor) -> Trainer:
    trainer = Trainer(config(learning_rate=1e-2), pictures)
    for _ in range(60):
        trainer.step()
    return trainer


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_short_numbers_give_the_loss_of_long_ones(
    precision: str, trained: Trainer, pictures: Tensor
) -> None:
    losses = {}
    for choice in ("float32", precision):
        trainer = Trainer(config(precision=choice), pictures)
        trainer.model.load_state_dict(trained.model.state_dict())
        losses[choice] = float(
            torch.stack([trainer.step().loss for _ in range(10)]).mean()
        )
        assert all(w.dtype == torch.float32 for w in trainer.model.parameters())
        state = trainer.optimizer.state_dict()["state"][0]
        assert state["exp_avg"].dtype == torch.float32
    assert losses[precision] == pytest.approx(losses["float32"], rel=0.02)
    assert losses[precision] != losses["float32"]  # the short format was used


def test_fp16_skips_a_step_that_overflows_and_scales_down(pictures: Tensor) -> None:
    trainer = Trainer(config(precision="fp16"), pictures)
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)
    before = weights(trainer.model).clone()
    assert not trainer.step().grad_norm.isfinite()
    assert torch.equal(weights(trainer.model), before)
    assert trainer.scaler.get_scale() == 2.0**29
    for _ in range(25):
        trainer.step()
    assert not torch.equal(weights(trainer.model), before)
    assert weights(trainer.model).isfinite().all()


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_whole_step_of_the_cifar10_network(precision: str) -> None:
    generator = torch.Generator().manual_seed(0)
    colour = torch.randint(0, 256, (2, 3, 32, 32), generator=generator).byte()
    trainer = Trainer(
        TrainConfig(batch_size=2, precision=precision, warmup_steps=0), colour
    )
    update = trainer.step()
    assert sum(w.numel() for w in trainer.model.parameters()) == 35_746_307
    assert float(update.loss) == pytest.approx(
        1, abs=0.1
    )  # it begins by answering "no noise"
    assert weights(trainer.model).isfinite().all()


# Checkpoints


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit, all the way down."""
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in log(folder)]


def log(folder: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()
    ]


@pytest.mark.parametrize("precision", ["float32", "fp16"])
def test_a_resumed_run_equals_an_uninterrupted_one(
    precision: str, pictures: Tensor, tmp_path: Path
) -> None:
    choice = config(precision=precision, dropout=0.3, warmup_steps=8, ema_decay=0.8)
    straight = fit(replace(choice, steps=20), pictures, tmp_path / "a", progress=False)
    expected = straight.state_dict()
    fit(replace(choice, steps=10), pictures, tmp_path / "b", progress=False)
    torch.rand(7)  # another process would have other random numbers
    resumed = fit(replace(choice, steps=20), pictures, tmp_path / "b", progress=False)
    assert same(resumed.state_dict(), expected)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert not same(Trainer(choice, pictures).state_dict(), expected)


def test_twenty_kills_lose_at_most_two_intervals_and_change_nothing(
    tmp_path: Path,
) -> None:
    command = [
        sys.executable,
        str(HERE / "killed_runs.py"),
        str(tmp_path / "killed"),
        "20",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, env=ENVIRONMENT, check=False
    )
    assert done.returncode == 0, done.stderr
    kills = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(kills) == 20
    for kill in kills:
        assert kill["killed"]
        # One since the last save was due, and one more if that was still being written.
        assert kill["reached"] - kill["saved"] <= 2 * killed_runs.CONFIG["save_every"]
    assert kills[-1]["saved"] >= 10
    assert any(kill["writing"] for kill in kills), "no kill met a run that was writing"
    # In processes of the same kind, run on to a common end: equal to a run that nobody killed.
    end = kills[-1]["reached"] + 4
    for name in ("killed", "whole"):
        code = f"import killed_runs, pathlib; killed_runs.run(pathlib.Path({str(tmp_path / name)!r}), {end})"
        subprocess.run(
            [sys.executable, "-c", code], cwd=HERE, env=ENVIRONMENT, check=True
        )
    states = [
        torch.load(tmp_path / name / "checkpoint.pt")["state"]
        for name in ("killed", "whole")
    ]
    assert states[0]["steps"] == end
    assert same(*states)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert not list((tmp_path / "killed").glob("*.part"))


def test_samples_on_the_way_change_nothing(pictures: Tensor, tmp_path: Path) -> None:
    choice = config(steps=6, dropout=0.3)
    plain = fit(choice, pictures, tmp_path / "a", progress=False).state_dict()
    looked = fit(
        replace(choice, sample_every=2, samples=5, log_with="tensorboard"),
        pictures,
        tmp_path / "b",
        progress=False,
    )
    assert same(looked.state_dict(), plain)
    sheets = sorted((tmp_path / "b" / "samples").iterdir())
    assert [sheet.name for sheet in sheets] == [
        "00000002.png",
        "00000004.png",
        "00000006.png",
    ]
    with Image.open(sheets[0]) as sheet:
        assert sheet.size == (24, 16)  # five pictures of 8 x 8: two rows of three
    assert list((tmp_path / "b" / "tensorboard").iterdir())
    assert torch.equal(looked.sample(5), looked.sample(5))


def test_sheets_are_drawn_with_the_average_and_clipped(pictures: Tensor) -> None:
    trainer = Trainer(config(learning_rate=0.1, seed=5), pictures)
    for _ in range(5):
        trainer.step()

    def drawn(network: nn.Module, clip: bool) -> Tensor:
        noise = CounterNoise(5, (1, 8, 8))
        schedule = trainer.noise_schedule
        return sample(network, (3, 1, 8, 8), schedule, clip=clip, generator=noise)

    got = trainer.sample(3)
    assert torch.equal(got, drawn(trainer.ema.model, clip=True))
    assert not torch.allclose(got, drawn(trainer.model, clip=True), atol=0.1)
    assert not torch.allclose(got, drawn(trainer.ema.model, clip=False), atol=0.1)
    # Picture i is picture i, but for the rounding of a batch of another size.
    assert_close(trainer.sample(2), got[:2], atol=1e-3, rtol=1e-5)
    assert not torch.allclose(got[0], got[1], atol=0.1)


def test_a_line_of_the_log_is_the_mean_of_its_updates(
    pictures: Tensor, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    choice = config(steps=10, log_every=5, warmup_steps=20, log_with="tensorboard")
    fit(choice, pictures, tmp_path, progress=False)
    spy = Trainer(choice, pictures)
    updates = [spy.step() for _ in range(10)]
    lines = log(tmp_path)
    for line, part in zip(lines, (updates[:5], updates[5:]), strict=True):
        for name, values in (
            ("loss", [float(update.loss) for update in part]),
            ("grad_norm", [float(update.grad_norm) for update in part]),
        ):
            assert line[name] == pytest.approx(np.mean(values), rel=1e-6)
            assert line[name] != pytest.approx(values[-1], rel=1e-5)
    assert [line["learning_rate"] for line in lines] == pytest.approx([4e-5, 9e-5])
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    for name in ("loss", "learning_rate", "grad_norm"):
        shown = [(event.step, event.value) for event in events.Scalars(name)]
        expected = [(line["step"], line[name]) for line in lines]
        assert [step for step, _ in shown] == [step for step, _ in expected]
        assert [v for _, v in shown] == pytest.approx([v for _, v in expected])


def test_what_a_killed_session_wrote_is_not_shown_twice(
    pictures: Tensor, tmp_path: Path
) -> None:
    """It had come further than its last checkpoint."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    choice = config(log_every=1, log_with="tensorboard")
    fit(replace(choice, steps=4), pictures, tmp_path, progress=False)
    early = (tmp_path / "checkpoint.pt").read_bytes()
    fit(replace(choice, steps=6), pictures, tmp_path, progress=False)
    (tmp_path / "checkpoint.pt").write_bytes(early)
    fit(replace(choice, steps=8), pictures, tmp_path, progress=False)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [*range(1, 9)]
    assert [line["step"] for line in log(tmp_path)] == [*range(1, 9)]


def test_every_tracker_gets_the_same_lines_and_sheets(
    pictures: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that stands in for wandb, as accelerate makes it."""
    from accelerate import tracking
    from accelerate.utils import LoggerType

    told: list[tuple[str, Any]] = []

    class Recorder(tracking.GeneralTracker):
        name, requires_logging_directory, tracker = "wandb", False, None

        def __init__(self, run_name: str) -> None:
            super().__init__()
            told.append(("run", run_name))

        def store_init_configuration(self, values: dict[str, Any]) -> None:
            told.append(("config", values))

        def log(self, values: dict[str, Any], step: int, **more: Any) -> None:
            told.append(("line", {"step": step} | values))

        def log_images(self, values: dict[str, Any], step: int, **more: Any) -> None:
            told.append(("sheet", (step, values["samples"].shape)))

        def finish(self) -> None:
            told.append(("end", None))

    choice = config(steps=4, log_every=2, sample_every=4, samples=3, log_with="wandb")
    with pytest.raises(ImportError, match=r"got wandb; `pip install wandb`"):
        fit(choice, pictures, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Recorder)
    monkeypatch.setattr(tracking, "_available_trackers", [LoggerType.WANDB])
    fit(choice, pictures, tmp_path / "run", progress=False)
    kinds = [kind for kind, _ in told]
    assert kinds == ["run", "config", "line", "line", "sheet", "end"]
    chosen = {"T": 10, "channel_mult": "(1, 2)", "log_with": "wandb"}
    assert chosen.items() <= told[1][1].items()
    lines = log(tmp_path / "run")
    for line in lines:
        del line["minutes"]
    assert [line for kind, line in told if kind == "line"] == lines
    assert told[4][1] == (4, (3, 8, 8, 1))


def test_everything_is_written_beside_the_result(
    pictures: Tensor, tmp_path: Path
) -> None:
    choice = config(steps=7, channel_mult=(1, 1))
    trainer = fit(
        choice, pictures, tmp_path / "run", notes={"pictures": "noise"}, progress=False
    )
    assert (
        TrainConfig.from_json((tmp_path / "run" / "config.json").read_text()) == choice
    )
    lines = log(tmp_path / "run")
    assert [line["step"] for line in lines] == [5, 7]
    assert lines[-1].keys() == {
        "step",
        "loss",
        "learning_rate",
        "grad_norm",
        "minutes",
    }
    network, schedule, about = load_network(tmp_path / "run" / "network.safetensors")
    assert torch.equal(weights(network), weights(trainer.ema.model))
    assert not network.training
    assert torch.equal(schedule.beta, trainer.noise_schedule.beta)
    assert about.pop("hardware").startswith("cpu (")
    assert about.pop("minutes") == f"{lines[-1]['minutes']:.1f}"
    assert about == {
        "pictures": "noise", "steps": "7", "height": "8", "width": "8", "channels": "1", "levels": "256",
        "prediction": "noise",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "levels"),
    [("bytes", "256"), ("17 levels", "17"), ("black and white", "2"), ("no levels", None)],
)  # fmt: skip
def test_what_a_network_was_trained_on_travels_with_it(
    kind: str, levels: str | None, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(0)
    whole = torch.randint(0, 256, (8, 3, 4, 12), generator=generator)
    given = {
        "bytes": whole.byte(),
        "17 levels": (whole % 17) / 8 - 1,
        "black and white": (whole % 2) * 2.0 - 1,
        "no levels": torch.rand(whole.shape, generator=generator),
    }[kind]
    fit(config(steps=1), given, tmp_path, progress=False)
    _, schedule, about = load_network(tmp_path / "network.safetensors")
    facts = [about[name] for name in ("height", "width", "channels", "prediction")]
    assert facts == ["4", "12", "3", "noise"]
    assert about.get("levels") == levels
    assert torch.equal(schedule.beta, config().noise_schedule().beta)


def test_what_one_says_about_levels_counts(pictures: Tensor, tmp_path: Path) -> None:
    fit(config(steps=1), pictures, tmp_path, notes={"levels": "4"}, progress=False)
    assert load_network(tmp_path / "network.safetensors")[2]["levels"] == "4"


def test_minutes_end_a_session_and_the_next_goes_on(
    pictures: Tensor, tmp_path: Path
) -> None:
    choice = config(steps=10_000, save_every=10_000)
    first = fit(
        replace(choice, max_minutes=0.005), pictures, tmp_path / "run", progress=False
    )
    assert 0 < first.steps < 10_000
    before = log(tmp_path / "run")[-1]["minutes"]
    assert before > 0.004
    second = fit(
        replace(choice, steps=first.steps + 3),
        pictures,
        tmp_path / "run",
        progress=False,
    )
    assert second.steps == first.steps + 3
    # The log counts the minutes of both.
    minutes = [line["minutes"] for line in log(tmp_path / "run")]
    assert minutes == sorted(minutes) and minutes[-1] > before


def waited(for_it: Callable[[], bool], run: subprocess.Popen[str]) -> None:
    """Wait until something is so; a run that ends before has failed."""
    while not for_it():
        assert run.poll() is None, run.communicate()
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_asked_to_stop_saves_and_says_so(
    number: signal.Signals, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, str(HERE / "stopped_runs.py"), str(folder)]
    run = subprocess.Popen(
        command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )  # fmt: skip
    waited(lambda: killed_runs.logged(folder) >= 4, run)
    assert not (folder / "checkpoint.pt").exists()
    run.send_signal(number)
    _, said = run.communicate(timeout=60)
    # Then the signal takes its usual course.
    if number == signal.SIGTERM:
        assert run.returncode == -signal.SIGTERM
    else:
        assert run.returncode != 0
        assert said.splitlines()[-1] == "KeyboardInterrupt"
    steps = killed_runs.saved(folder)
    assert steps >= 4
    assert f"{number.name}: stopped after step {steps}, which is saved in" in said
    if number == signal.SIGINT:
        return
    # The run goes on as if nothing had happened.
    for name, further in (("run", steps), ("whole", 0)):
        code = (
            "import killed_runs, pathlib, stopped_runs; "
            f"killed_runs.run(pathlib.Path({str(tmp_path / name)!r}), {steps + 3}, **stopped_runs.ENDLESS)"
        )
        assert killed_runs.saved(tmp_path / name) == further
        subprocess.run(
            [sys.executable, "-c", code], cwd=HERE, env=ENVIRONMENT, check=True
        )
    states = [
        torch.load(tmp_path / name / "checkpoint.pt")["state"]
        for name in ("run", "whole")
    ]
    assert same(*states)


def test_processes_stop_together_when_one_is_asked(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
        str(HERE / "stopped_runs.py"), str(folder),
    ]  # fmt: skip
    run = subprocess.Popen(
        command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )  # fmt: skip
    waited(lambda: killed_runs.logged(folder) >= 4, run)
    os.kill(int((tmp_path / "process1").read_text()), signal.SIGTERM)
    _, said = run.communicate(timeout=120)
    assert run.returncode != 0
    state = torch.load(folder / "checkpoint.pt")["state"]
    assert len(state["dropout"]) == 2  # both were there
    assert said.count("SIGTERM: stopped after step") == 1
    assert f"SIGTERM: stopped after step {state['steps']}, which is saved" in said
    assert load_network(folder / "network.safetensors")[2]["steps"] == str(
        state["steps"]
    )


def test_a_second_signal_stops_at_once_where_a_process_is_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt), _runs.StopSignals(alone=True) as stop:
        signal.raise_signal(signal.SIGINT)
        assert (stop.received, stop.name) == (signal.SIGINT, "SIGINT")
        done.append("first")
        signal.raise_signal(signal.SIGINT)
        done.append("second")
    assert done == ["first"]
    # Launchers send a signal twice; the block is then left in peace.
    with pytest.raises(KeyboardInterrupt), _runs.StopSignals(alone=False):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        done.append("both")
    assert done == ["first", "both"]
    assert signal.getsignal(signal.SIGINT) is before


def test_signals_are_left_to_those_who_handle_them(
    pictures: Tensor, tmp_path: Path
) -> None:
    """In another thread there are none to be had; one that is ignored stays so."""
    reached = []

    def train() -> None:
        trainer = fit(config(steps=1), pictures, tmp_path, progress=False)
        reached.append(trainer.steps)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert reached == [1]
    old = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with _runs.StopSignals(alone=True) as stop:
            signal.raise_signal(signal.SIGINT)
            assert not stop.received
    finally:
        signal.signal(signal.SIGINT, old)


@pytest.mark.parametrize(
    ("minutes", "expected"),
    [(None, [9]), (3.0, [3, 6, 9]), (4, [4, 8, 9]), (0, [*range(1, 10)])],
)
def test_a_checkpoint_is_never_older_than_its_minutes(
    minutes: float | None,
    expected: list[int],
    pictures: Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a clock that goes on by a minute each time somebody looks."""
    clock = iter(range(0, 10**6, 60))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    saves = []
    save = _runs.Run.save
    monkeypatch.setattr(
        _runs.Run,
        "save",
        lambda run, content: (saves.append(run.trainer.steps), save(run, content)),
    )
    choice = config(steps=9, save_every=1000, save_minutes=minutes)
    fit(choice, pictures, tmp_path, progress=False)
    assert saves == expected


class SlowDisk:
    """In `fit`, what another thread than the main one writes waits for `free`; `at` is called after each step."""

    def __init__(
        self, patch: pytest.MonkeyPatch, at: Callable[[Trainer], None]
    ) -> None:
        self.began, self.free = threading.Event(), threading.Event()
        self.sync, self.step, self.at = os.fsync, Trainer.step, at
        patch.setattr(os, "fsync", self.slowly)
        patch.setattr(Trainer, "step", lambda trainer: self.stepped(trainer))

    def slowly(self, file: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            self.began.set()
            assert self.free.wait(10), "nothing goes on while a checkpoint is written"
        self.sync(file)

    def stepped(self, trainer: Trainer) -> Any:
        update = self.step(trainer)
        self.at(trainer)
        return update

    def free_soon(self) -> None:
        threading.Timer(0.3, self.free.set).start()


def test_training_goes_on_while_a_checkpoint_of_its_moment_is_written(
    pictures: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states, copies, networks = {}, [], []
    path, write, copied = tmp_path / "checkpoint.pt", _runs.write_weights, _devices.copied  # fmt: skip

    def at(trainer: Trainer) -> None:
        states[trainer.steps] = copy.deepcopy(trainer.state_dict())
        if trainer.steps == 3:
            assert disk.began.wait(10)
        if trainer.steps >= 3:
            assert not path.exists()  # still on its way, after two more steps, too
        if trainer.steps == 4:
            disk.free_soon()

    def copying(state: dict[str, Any], device: torch.device) -> dict[str, Any]:
        copies.append(disk.free.is_set())
        return copied(state, device)

    def writing(path: Path, state: dict[str, Tensor], *others: Any) -> None:
        networks.append(copy.deepcopy(state))
        write(path, state, *others)

    disk = SlowDisk(monkeypatch, at)
    monkeypatch.setattr(_devices, "copied", copying)
    monkeypatch.setattr(_runs, "write_weights", writing)
    fit(config(steps=4, save_every=2, dropout=0.3), pictures, tmp_path, progress=False)
    assert copies == [False, True]  # the second waits for the first
    for file, step in ((_runs.before(path), 2), (path, 4)):
        assert same(torch.load(file)["state"], states[step])
    assert same(networks, [states[2]["ema"], states[4]["ema"]])
    assert not same(states[2], states[4])


@pytest.mark.parametrize("end", ["budget", "error"])
def test_a_run_ends_when_its_checkpoint_is_there(
    end: str, pictures: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at(trainer: Trainer) -> None:
        if trainer.steps == 3:
            assert disk.began.wait(10)
            disk.free_soon()
            if end == "error":
                raise ZeroDivisionError

    disk = SlowDisk(monkeypatch, at)
    with nullcontext() if end == "budget" else pytest.raises(ZeroDivisionError):
        fit(config(steps=3, save_every=2), pictures, tmp_path, progress=False)
    expected = 3 if end == "budget" else 2
    assert killed_runs.saved(tmp_path) == expected
    notes = load_network(tmp_path / "network.safetensors")[2]
    assert notes["steps"] == str(expected)


def test_an_error_of_the_training_is_not_hidden_by_one_of_the_disk(
    pictures: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is raised, and says what became of the checkpoint under way."""

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    def at(trainer: Trainer) -> None:
        if trainer.steps == 3:
            assert disk.began.wait(10)
            disk.sync = full
            disk.free_soon()
            raise FloatingPointError("as if the loss were not finite")

    disk = SlowDisk(monkeypatch, at)
    with pytest.raises(FloatingPointError, match="as if") as error:
        fit(config(steps=9, save_every=2), pictures, tmp_path, progress=False)
    (note,) = error.value.__notes__
    assert "checkpoint was not written" in note and "No space left" in note


def test_a_second_ctrl_c_waits_for_the_write_under_way(
    pictures: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, main = [], threading.get_ident()

    def at(trainer: Trainer) -> None:
        if trainer.steps == 3:
            signal.raise_signal(signal.SIGINT)
            threading.Thread(target=again).start()

    def again() -> None:
        assert disk.began.wait(10)
        time.sleep(0.2)  # meanwhile `fit` has come to its end, and waits
        sent.append(killed_runs.saved(tmp_path))
        signal.pthread_kill(main, signal.SIGINT)
        disk.free_soon()

    disk = SlowDisk(monkeypatch, at)
    with pytest.raises(KeyboardInterrupt):
        fit(config(steps=9), pictures, tmp_path, progress=False)
    assert sent == [0]
    assert killed_runs.saved(tmp_path) == 3
    assert load_network(tmp_path / "network.safetensors")[2]["steps"] == "3"


@pytest.mark.parametrize("number", [1, 2], ids=["checkpoint.pt", "network.safetensors"])
@pytest.mark.parametrize("steps", [50, 10**6])
def test_a_full_disk_ends_the_run_and_leaves_what_was_there(
    steps: int, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its end, or soon after the write has failed: at the next save, at step 100, it would come late."""
    small = {**killed_runs.CONFIG, "save_every": 50, "log_every": 50}
    name = ("checkpoint.pt", "network.safetensors")[number - 1]
    fit(TrainConfig(**small, steps=2), killed_runs.pictures(), tmp_path, progress=False)
    sync, step = os.fsync, Trainer.step
    asked, reached = [], []

    def full(file: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            asked.append(file)
            if len(asked) == number:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(file)

    def counted(trainer: Trainer) -> Any:
        reached.append(trainer.steps + 1)
        return step(trainer)

    monkeypatch.setattr(Trainer, "step", counted)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"path: cannot write .*{name} .No space left") as raised:  # fmt: skip
        fit(TrainConfig(**small, steps=steps), killed_runs.pictures(), tmp_path, progress=False)  # fmt: skip
    assert raised.value.errno == errno.ENOSPC
    assert 50 <= reached[-1] < 100
    assert len(asked) == number
    assert killed_runs.saved(tmp_path) == (2 if number == 1 else 50)
    assert load_network(tmp_path / "network.safetensors")[2]["steps"] == "2"
    assert not list(tmp_path.glob("*.part"))


def test_the_last_two_checkpoints_are_kept_and_the_older_can_take_over(
    pictures: Tensor, tmp_path: Path
) -> None:
    choice = config(save_every=2, log_every=1, dropout=0.3)
    straight = fit(replace(choice, steps=8), pictures, tmp_path / "a", progress=False)
    folder = tmp_path / "b"
    fit(replace(choice, steps=6), pictures, folder, progress=False)
    last, before = folder / "checkpoint.pt", folder / "checkpoint-before.pt"
    assert [torch.load(p)["state"]["steps"] for p in (last, before)] == [6, 4]
    damaged("zeros inside", last)
    content = last.read_bytes()
    with pytest.raises(
        ValueError,
        match=r"checkpoint\.pt: damaged.*The one before is there: move checkpoint\.pt away, "
        r"rename checkpoint-before\.pt to checkpoint\.pt",
    ):
        fit(replace(choice, steps=8), pictures, folder, progress=False)
    assert last.read_bytes() == content  # nothing was touched
    last.rename(folder / "damaged.pt")
    before.rename(last)
    resumed = fit(replace(choice, steps=8), pictures, folder, progress=False)
    assert same(resumed.state_dict(), straight.state_dict())
    assert losses(folder) == losses(tmp_path / "a")


def test_a_kill_between_two_names_loses_one_interval(
    pictures: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    choice = config(save_every=2, log_every=1)
    straight = fit(replace(choice, steps=6), pictures, tmp_path / "a", progress=False)
    fit(replace(choice, steps=4), pictures, tmp_path / "b", progress=False)
    rename = Path.replace

    def renamed(path: Path, to: Path) -> Path:
        if path.name == "checkpoint.pt.part":
            raise Killed
        return rename(path, to)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Path, "replace", renamed)
        fit(replace(choice, steps=6), pictures, tmp_path / "b", progress=False)
    assert not (tmp_path / "b" / "checkpoint.pt").exists()
    resumed = fit(replace(choice, steps=6), pictures, tmp_path / "b", progress=False)
    assert same(resumed.state_dict(), straight.state_dict())
    assert losses(tmp_path / "b") == losses(tmp_path / "a")


@pytest.fixture
def saved(pictures: Tensor, tmp_path: Path) -> Path:
    trainer = Trainer(config(), pictures)
    trainer.step()
    save_checkpoint(tmp_path / "good.pt", trainer)
    return tmp_path / "good.pt"


def damaged(kind: str, good: Path) -> None:
    content = bytearray(good.read_bytes())
    if kind == "cut in half":
        content = content[: len(content) // 2]
    elif kind == "zeros":
        content = bytearray(len(content))
    elif kind == "zeros inside":
        content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
    elif kind == "a bit":  # in the list of the file's parts, at the end
        content[-30] ^= 4
    elif kind == "empty":
        content = bytearray()
    good.write_bytes(content)


@pytest.mark.parametrize(
    "kind", ["cut in half", "zeros", "zeros inside", "empty", "a bit"]
)
def test_a_damaged_checkpoint_is_noticed_before_anything_changes(
    kind: str, saved: Path, pictures: Tensor
) -> None:
    damaged(kind, saved)
    trainer = Trainer(config(), pictures)
    before = trainer.state_dict()
    before = {**before, "model": {k: v.clone() for k, v in before["model"].items()}}
    with pytest.raises(
        ValueError, match=r"good\.pt: .*(damaged|cut off|something else)"
    ):
        load_checkpoint(saved, trainer)
    assert same(trainer.state_dict(), before)


def test_other_files_are_no_checkpoints(saved: Path, pictures: Tensor) -> None:
    trainer = Trainer(config(), pictures)
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_checkpoint(saved.with_name("none.pt"), trainer)
    with zipfile.ZipFile(saved.with_name("other.zip"), "w") as other:
        other.writestr("hello.txt", "hello")
    with pytest.raises(ValueError, match="something else"):
        load_checkpoint(saved.with_name("other.zip"), trainer)

    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.system, ("touch " + str(saved.with_name("attacked")),))

    torch.save({"format": 1, "state": Attack()}, saved.with_name("attack.pt"))
    with pytest.raises(ValueError, match="something else"):
        load_checkpoint(saved.with_name("attack.pt"), trainer)
    assert not saved.with_name("attacked").exists()


VERSIONS = HERE / "versions"


@pytest.mark.parametrize("version", ["1", "3"])
def test_a_checkpoint_of_any_version_goes_on(version: str, tmp_path: Path) -> None:
    """The same run, written by `fit` of its time; the losses are those with which revision 67df87f, the first, goes on.

    Version 3 has the field's names of options.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (4, 1, 4, 4), generator=generator).byte()
    choice = TrainConfig(
        channels=4, channel_mult=(1,), num_res_blocks=1, attention_levels=(False,),
        norm_num_groups=2, dropout=0.0, schedule="cosine", T=10,
        batch_size=4, warmup_steps=0, learning_rate=0.1, ema_decay=0.5, steps=3,
    )  # fmt: skip
    trainer, path = Trainer(choice, noise), tmp_path / "checkpoint.pt"
    packed = (VERSIONS / f"{version}-checkpoint.pt.gz").read_bytes()
    path.write_bytes(gzip.decompress(packed))
    load_checkpoint(path, trainer)
    assert trainer.steps == 3
    got = [float(trainer.step().loss) for _ in range(3)]
    expected = [0.6133276224136353, 0.8445934057235718, 0.8517996668815613]
    assert got == pytest.approx(expected, rel=1e-4)


def test_a_checkpoint_of_another_version_is_refused(
    saved: Path, pictures: Tensor
) -> None:
    content = torch.load(saved)
    torch.save({**content, "format": 0}, saved)
    with pytest.raises(ValueError, match="expected a checkpoint of format 1, got 0"):
        load_checkpoint(saved, Trainer(config(), pictures))


@pytest.mark.filterwarnings("ignore:schedule, T")
@pytest.mark.parametrize(
    "choice",
    [
        {"T": 20},
        {"channels": 16},
        {"seed": 3},
        {"ema_decay": 0.5},
        {"flip": False},
        {"schedule": "linear"},
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused(
    choice: dict[str, Any], saved: Path, pictures: Tensor
) -> None:
    ((name, value),) = choice.items()
    with pytest.raises(
        ValueError, match=rf"{name}: expected .*good\.pt was trained, got {value!r}"
    ):
        load_checkpoint(saved, Trainer(config(**choice), pictures))


def test_a_run_may_go_on_with_another_budget_and_machine(
    saved: Path, pictures: Tensor
) -> None:
    other = config(
        steps=7,
        max_minutes=3.0,
        precision="bf16",
        channels_last=False,
        samples=2,
        gradient_accumulation_steps=2,
    )
    straight, trainer = Trainer(config(), pictures), Trainer(other, pictures)
    straight.step()
    load_checkpoint(saved, trainer)
    assert same(trainer.state_dict() | {"scaler": {}}, straight.state_dict())
    assert trainer.config == other
    before = weights(trainer.model).clone()
    losses = [float(t.step().loss) for t in (trainer, straight)]  # the same questions
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert losses[0] != losses[1]  # in bf16
    moved = [weights(t.model) - before for t in (trainer, straight)]
    assert float(torch.cosine_similarity(*moved, dim=0)) > 0.9


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"channels_last": True}, {"channels_last": False}),
        ({"channels_last": False}, {"channels_last": True}),
        ({"gradient_accumulation_steps": 1}, {"gradient_accumulation_steps": 4}),
        ({"precision": "float32"}, {"precision": "fp16"}),
        ({"precision": "fp16"}, {"precision": "float32"}),
    ],
)
def test_a_run_that_goes_on_in_another_way_learns_the_same(
    first: dict[str, Any], then: dict[str, Any], pictures: Tensor, tmp_path: Path
) -> None:
    straight = fit(
        config(**first, steps=8, learning_rate=1e-2),
        pictures,
        tmp_path / "a",
        progress=False,
    )
    fit(
        config(**first, steps=5, learning_rate=1e-2),
        pictures,
        tmp_path / "b",
        progress=False,
    )
    other = fit(
        config(**then, steps=8, learning_rate=1e-2),
        pictures,
        tmp_path / "b",
        progress=False,
    )
    far = (weights(straight.model) - weights(other.model)).abs()
    # Three steps of 0.01 each: weights paired with another's memory would be off by as much.
    assert float(far.mean()) < (2e-3 if "precision" in first else 1e-4)


def test_clipping_each_piece_keeps_its_pieces(pictures: Tensor, tmp_path: Path) -> None:
    fit(
        config(clip="each", gradient_accumulation_steps=2, steps=1),
        pictures,
        tmp_path,
        progress=False,
    )
    with pytest.raises(
        ValueError,
        match=r"gradient_accumulation_steps: expected 2 over all processes, .*, got 4",
    ):
        fit(
            config(clip="each", gradient_accumulation_steps=4, steps=2),
            pictures,
            tmp_path,
            progress=False,
        )


def test_two_runs_in_one_folder_are_refused(pictures: Tensor, tmp_path: Path) -> None:
    (tmp_path / "foreign.part").write_bytes(b"somebody's download")
    with (
        _files.claimed(tmp_path / ".lock"),
        pytest.raises(ValueError, match="another process trains there"),
    ):
        fit(config(steps=1), pictures, tmp_path, progress=False)
    assert fit(config(steps=1), pictures, tmp_path, progress=False).steps == 1
    assert (tmp_path / "foreign.part").exists()


def test_a_lost_network_is_written_again_and_a_lost_checkpoint_is_noticed(
    pictures: Tensor, tmp_path: Path
) -> None:
    fit(config(steps=3), pictures, tmp_path, progress=False)
    path = tmp_path / "network.safetensors"
    whole = weights(load_network(path)[0])
    path.unlink()
    fit(config(steps=3), pictures, tmp_path, progress=False)
    assert torch.equal(weights(load_network(path)[0]), whole)
    (tmp_path / "checkpoint.pt").unlink()
    log_before = (tmp_path / "log.jsonl").read_bytes()
    with pytest.raises(ValueError, match="a network and no checkpoint"):
        fit(config(steps=3), pictures, tmp_path, progress=False)
    assert (tmp_path / "log.jsonl").read_bytes() == log_before
    assert torch.equal(weights(load_network(path)[0]), whole)


def test_no_minutes_are_no_steps(pictures: Tensor, tmp_path: Path) -> None:
    assert (
        fit(config(steps=5, max_minutes=0.0), pictures, tmp_path, progress=False).steps
        == 0
    )


def test_another_number_of_processes_gives_dropout_new_numbers(
    saved: Path, pictures: Tensor
) -> None:
    trainer = Trainer(config(), pictures)
    state = torch.load(saved)["state"]
    trainer.load_state_dict({**state, "dropout": state["dropout"] * 2})
    fresh = trainer.state_dict()["dropout"]
    # Not those of the run's first step, nor of the step that was saved.
    assert not same(fresh, Trainer(config(), pictures).state_dict()["dropout"])
    assert not same(fresh, state["dropout"])
    trainer.load_state_dict(
        {**state, "device": "cuda", "generator": torch.zeros(16).byte()}
    )
    assert trainer.steps == 1
    trainer.step()


def test_other_pictures_are_refused(saved: Path, pictures: Tensor) -> None:
    with pytest.raises(ValueError, match="images: expected those with which"):
        load_checkpoint(saved, Trainer(config(), pictures.flip(0)))


def test_weights_that_are_not_finite_are_never_saved(
    saved: Path, pictures: Tensor
) -> None:
    good = saved.read_bytes()
    trainer = Trainer(config(), pictures)
    trainer.step()
    for name, part in (
        ("model", trainer.model.head.bias.data),
        ("ema", trainer.ema.model.head.bias),
        ("optimizer", next(iter(trainer.optimizer.state.values()))["exp_avg_sq"]),
    ):
        before = part.clone()
        part.view(-1)[0] = float("nan")
        with pytest.raises(FloatingPointError, match=f"others in its {name}"):
            save_checkpoint(saved, trainer)
        assert saved.read_bytes() == good
        part.copy_(before)
    save_checkpoint(saved, trainer)


def test_a_run_that_blows_up_stops_and_keeps_its_last_checkpoint(
    pictures: Tensor, tmp_path: Path
) -> None:
    choice = config(save_every=2, log_every=2)
    fit(replace(choice, steps=4), pictures, tmp_path, progress=False)
    good = (tmp_path / "checkpoint.pt").read_bytes()
    trainer = Trainer(choice, pictures)
    load_checkpoint(tmp_path / "checkpoint.pt", trainer)
    trainer.model.stem.weight.data[0, 0, 0, 0] = float("inf")
    update = trainer.step()
    with pytest.raises(
        FloatingPointError, match="expected a finite loss, got nan at step 5"
    ):
        trainer.read([update])
    with pytest.raises(FloatingPointError):
        save_checkpoint(tmp_path / "checkpoint.pt", trainer)
    assert (tmp_path / "checkpoint.pt").read_bytes() == good


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    """The system itself refuses to let a file grow beyond 1,000 bytes, in a child process."""
    path = tmp_path / "file"
    write_whole(path, b"old")
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write_whole(path, bytes(5000))
        except OSError as error:
            os._exit(
                7 if "cannot write" in str(error) and "untouched" in str(error) else 8
            )
        os._exit(9)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


# Two processes

ACCELERATE = [
    "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
    "--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no",
]  # fmt: skip
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


@pytest.mark.parametrize(("clip", "launch"), [("mean", ACCELERATE), ("each", TORCHRUN)])
def test_two_processes_equal_one(clip: str, launch: list[str], tmp_path: Path) -> None:
    script = [str(HERE / "two_processes.py"), str(tmp_path / "two"), clip, "2"]
    done = subprocess.run(
        [sys.executable, "-m", *launch, *script],
        capture_output=True,
        text=True,
        # torchrun says nothing about CPUs: the trainer finds out by itself.
        env={**ENVIRONMENT, "ACCELERATE_USE_CPU": str("accelerate" in launch[0])},
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    threads = torch.get_num_threads()
    two_processes.main(tmp_path / "one", clip, 1)
    torch.set_num_threads(threads)
    alone = torch.load(tmp_path / "one" / "rank0.pt")
    ranks = [torch.load(tmp_path / "two" / f"rank{rank}.pt") for rank in (0, 1)]
    assert same(ranks[0]["end"], ranks[1]["end"])
    one, two = (torch.load(tmp_path / name / "gradient.pt") for name in ("one", "two"))
    for a, b in zip(one, two, strict=True):
        assert_close(a, b, atol=1e-7, rtol=1e-5)
    # In more pieces than processes, too.
    assert same(ranks[0]["in pieces"], ranks[1]["in pieces"])
    for a, b in zip(alone["in pieces"], ranks[0]["in pieces"], strict=True):
        assert_close(a, b, atol=1e-7, rtol=1e-5)
    # Picture i is picture i, whichever process draws it.
    assert same(ranks[0]["fresh"], ranks[1]["fresh"])
    assert_close(alone["fresh"], ranks[0]["fresh"], atol=1e-3, rtol=1e-5)
    assert alone["highest"] == [0, 0, 1]
    assert [rank["highest"] for rank in ranks] == [[1, 0, 1]] * 2
    # Where one of them finds no checkpoint, none goes on. (With a `reduce` that only sums.)
    for rank in ranks:
        assert "some found a checkpoint of step 0, others of step 4" in rank["refused"]
    lines = [
        json.loads((tmp_path / name / "line.json").read_text())
        for name in ("one", "two")
    ]
    assert lines[0]["loss"] == pytest.approx(lines[1]["loss"], rel=1e-5)
    assert losses(tmp_path / "one" / "run") == pytest.approx(
        losses(tmp_path / "two" / "run"), rel=1e-3
    )
    for name in ("one", "two"):
        sheets = sorted(p.name for p in (tmp_path / name / "run" / "samples").iterdir())
        assert sheets == ["00000002.png", "00000004.png"]
        sheet = pixels(tmp_path / name / "run" / "samples" / "00000004.png")
        drawn = [sheet[i : i + 8, j : j + 8] for i, j in ((0, 0), (0, 8), (8, 0))]
        for i in range(3):  # no process repeats another's pictures
            assert not (drawn[i] == drawn[i - 1]).all()
        state = torch.load(tmp_path / name / "run" / "checkpoint.pt")["state"]
        assert state["steps"] == 4
        assert len(state["dropout"]) == (1 if name == "one" else 2)
    assert not same(*state["dropout"])  # each drops its own


# Bad input


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"batch_size": 8.5}, "batch_size: expected a whole number, got 8.5"),
        ({"save_every": True}, "save_every: expected a whole number, got True"),
        ({"ema_decay": 1.0}, r"ema_decay: expected a number in \[0, 1\), got 1.0"),
        ({"dropout": 2.0}, "dropout: expected a number in"),
        ({"learning_rate": float("nan")}, "learning_rate: expected a positive number"),
        ({"clip": "both"}, "clip: expected one of mean, each, none, got 'both'"),
        ({"precision": "fp8"}, "precision: expected one of"),
        ({"schedule": "square"}, "schedule: expected one of"),
        (
            {"gradient_accumulation_steps": 3},
            "gradient_accumulation_steps: expected a divisor of batch_size = 8, got 3",
        ),
        ({"clip": "each", "precision": "fp16"}, "clip: 'each' expected with"),
        ({"max_minutes": -1.0}, "max_minutes: expected at least 0"),
        ({"save_every": 0}, "save_every: expected at least 1"),
        ({"save_minutes": -1}, "save_minutes: expected at least 0"),
        ({"max_minutes": "3"}, "max_minutes: expected a number, got '3'"),
        ({"learning_rate": True}, "learning_rate: expected a number, got True"),
        ({"flip": "no"}, "flip: expected True or False, got 'no'"),
        ({"channel_mult": (1, 2.5)}, "channel_mult: expected a whole number, got 2.5"),
        (
            {"attention_levels": True},
            "attention_levels: expected one for each size, got True",
        ),
        ({"steps": None}, "steps: expected a whole number, got None"),
        (
            {"seed": -1},
            r"seed: expected a number in \[0, 9223372036854775808\), got -1",
        ),
        ({"T": 0}, "T: expected at least 1, got 0"),
        (
            {"log_with": "paper"},
            "log_with: expected one of none, tensorboard, wandb, .*, got 'paper'",
        ),
    ],
)
def test_configurations_that_make_no_sense_are_refused(
    choice: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        config(**choice)


def test_numpy_s_numbers_are_welcome_in_a_configuration() -> None:
    given = config(
        batch_size=np.int64(16), channel_mult=np.array([1, 2]), learning_rate=np.float32(0.5), max_minutes=np.int64(3)
    )  # fmt: skip
    expected = config(batch_size=16, learning_rate=0.5, max_minutes=3)
    assert given == expected
    assert TrainConfig.from_json(json.dumps(asdict(given))) == expected
    assert type(given.batch_size) is type(given.channel_mult[0]) is int


@dataclass(frozen=True, kw_only=True)
class Tomorrow(TrainConfig):
    """A later version, with three lines more."""

    colour: bool = option(False, "what nobody thought of")
    brushes: int = option(3, "how many", low=2)
    canvas: Literal["paper", "linen"] = setting("paper", "on what")


def test_a_new_option_is_one_line(
    saved: Path, pictures: Tensor, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Its check, its flag and its help, and whether a run may go on with another value, follow from its field."""
    for wrong, message in (
        ({"brushes": 1}, "brushes: expected at least 2, got 1"),
        ({"brushes": 2.5}, "brushes: expected a whole number, got 2.5"),
        ({"canvas": "wall"}, "canvas: expected one of paper, linen, got 'wall'"),
    ):
        with pytest.raises(ValueError, match=message):
            Tomorrow(**wrong)
    for room in (training, _cli):
        monkeypatch.setattr(room, "TrainConfig", Tomorrow)
    with pytest.raises(SystemExit):
        _cli.main(["train", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "--canvas {paper,linen} on what (default: paper)" in told
    assert "--brushes N how many (default: 3)" in told
    assert "--colour, --no-colour what nobody thought of (default: no)" in told
    now = Tomorrow(**asdict(config()))
    load_checkpoint(saved, Trainer(replace(now, canvas="linen"), pictures))
    with pytest.raises(ValueError, match=r"brushes: expected 3, .* got 4"):
        load_checkpoint(saved, Trainer(replace(now, brushes=4), pictures))


def test_a_configuration_of_another_version() -> None:
    old = asdict(config()) | {"pieces": 2}
    del old["gradient_accumulation_steps"], old["log_with"]
    for switch, tracker in ((True, "tensorboard"), (False, "none")):
        got = TrainConfig.from_json(json.dumps(old | {"tensorboard": switch}))
        assert got == config(gradient_accumulation_steps=2, log_with=tracker)
    text = json.dumps(asdict(config(T=20)))
    assert Tomorrow.from_json(text) == Tomorrow(**asdict(config(T=20)))
    with pytest.raises(
        ValueError, match=r"options of this version, got brushes, canvas, colour"
    ):
        TrainConfig.from_json(json.dumps(asdict(Tomorrow())))
    for strange in ("[1]", "{", '"T"'):
        with pytest.raises(ValueError, match="text: expected a configuration, got"):
            TrainConfig.from_json(strange)


def test_a_checkpoint_of_an_older_version_had_the_defaults_of_new_options(
    saved: Path, pictures: Tensor
) -> None:
    trainer = Trainer(config(), pictures)
    content = torch.load(saved)
    del content["config"]["flip"]  # as if it had come later; its default is True
    torch.save(content, saved)
    load_checkpoint(saved, trainer)
    assert trainer.steps == 1
    with pytest.raises(ValueError, match=r"flip: expected True, .* got False"):
        load_checkpoint(saved, Trainer(config(flip=False), pictures))
    content["config"]["colour"] = "blue"
    torch.save(content, saved)
    with pytest.raises(ValueError, match=r"good\.pt holds another .* got colour"):
        load_checkpoint(saved, trainer)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (np.zeros((20, 1, 8, 8), np.uint8), TypeError, r"images: expected a tensor \(N, C, H, W\).*numpy.ndarray"),
        (Path("pictures"), TypeError, "images: expected a tensor .*load_folder.*Path"),
        ("pictures", TypeError, "images: expected a tensor .*str"),
        (torch.utils.data.TensorDataset(torch.zeros(20, 1, 8, 8)), TypeError, "images: expected .*TensorDataset"),
        ([torch.zeros(1, 8, 8)] * 20, TypeError, "images: expected a tensor .*list"),
        (torch.zeros(20, 1, 8, 8, dtype=torch.int64), TypeError, "expected uint8 or floating-point, got torch.int64"),
        (torch.zeros(20, 8, 8), ValueError, r"expected \(N, C, H, W\)"),
        (torch.zeros(7, 1, 8, 8), ValueError, "at least a batch of 8, got 7"),
        (torch.zeros(20, 1, 8, 7), ValueError, "the network can halve 1 times, multiples of 2, got 8 x 7"),
        (torch.full((20, 1, 8, 8), 1.5), ValueError, "got others in 20 pictures, the first is number 0"),
        (torch.zeros(20, 1, 8, 8).index_fill_(0, torch.tensor(3), math.nan), ValueError, "the first is number 3"),
    ],
)  # fmt: skip
def test_pictures_that_cannot_be_trained_on_are_refused(
    given: Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Trainer(config(), given)
    if error is TypeError:
        for other in (to_float, functools.partial(save_image_grid, "never.png")):
            with pytest.raises(error, match=message):
                other(given)


# Files


def test_a_folder_of_pictures_of_any_kind(tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    Image.new("RGB", (40, 20), (255, 0, 0)).save(tmp_path / "a.png")
    Image.new("L", (9, 9), 100).save(tmp_path / "b.jpg", quality=100)
    Image.new("RGBA", (16, 16), (0, 0, 0, 0)).save(
        tmp_path / "deeper" / "c.webp", lossless=True
    )
    (tmp_path / "notes.txt").write_text("no picture")
    got = load_folder(tmp_path, size=8)
    assert got.shape == (3, 3, 8, 8)
    assert got.dtype == torch.uint8
    assert got[0, :, 4, 4].tolist() == [255, 0, 0]
    assert got[1].float().mean() == pytest.approx(100, abs=2)
    assert (got[2] == 255).all()  # transparent becomes white
    assert load_folder(tmp_path, size=4, channels=1).shape == (3, 1, 4, 4)


def test_the_middle_is_kept_and_turned_the_right_way_up(tmp_path: Path) -> None:
    wide = Image.new("RGB", (30, 10), "white")
    wide.paste((0, 0, 255), (10, 0, 20, 10))  # the middle third is blue
    wide.save(tmp_path / "a.png")
    top = Image.new("RGB", (8, 8), "white")
    top.paste((0, 0, 0), (0, 0, 8, 4))
    exif = Image.Exif()
    exif[0x0112] = 3  # "turned by 180 degrees", as cameras say it
    top.save(tmp_path / "b.png", exif=exif)
    got = load_folder(tmp_path, size=8)
    assert got[0, :, 4, 1:7].float().mean(1).tolist() == pytest.approx(
        [0, 0, 255], abs=30
    )
    assert got[1, 0, 1, 4] > 200
    assert got[1, 0, 6, 4] < 50


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"GIF89a nonsense"):
        (tmp_path / "b.png").write_bytes(content)
        with pytest.raises(ValueError, match=r"got 1 of 2 files that are .*b\.png"):
            load_folder(tmp_path)


def test_all_bad_files_are_told_at_once(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    for i in range(12):
        (tmp_path / f"bad{i:02}.png").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="got 12 of 13 files that are broken") as said:
        load_folder(tmp_path)
    told = str(said.value)
    assert all(f"bad{i:02}.png" in told for i in range(10))
    assert "bad10.png" not in told
    assert told.endswith(", and 2 more")


def test_links_are_followed_and_may_go_round_in_a_circle(tmp_path: Path) -> None:
    for name in ("here", "elsewhere"):
        (tmp_path / name).mkdir()
    for place, level in (("here/b", 10), ("elsewhere/a", 20), ("single", 30)):
        Image.new("L", (8, 8), level).save(tmp_path / f"{place}.png")
    here = tmp_path / "here"
    (here / "link").symlink_to(tmp_path / "elsewhere")
    (here / "again").symlink_to(tmp_path / "elsewhere")
    (here / "c.png").symlink_to(tmp_path / "single.png")
    (here / "circle").symlink_to(here)
    (tmp_path / "elsewhere" / "back").symlink_to(here)
    (tmp_path / "all").symlink_to(here)
    for folder in (here, tmp_path / "all"):
        levels = load_folder(folder, size=8)[:, 0, 0, 0].tolist()
        assert levels == [20, 10, 30]  # again/a, b, c


def test_a_picture_is_averaged_when_it_is_made_smaller(tmp_path: Path) -> None:
    board = np.indices((32, 32)).sum(0) % 2 * 255  # one pixel black, one white
    Image.fromarray(board.astype(np.uint8)).save(tmp_path / "a.png")
    got = load_folder(tmp_path, size=8, channels=1).float()
    assert float((got - 127.5).abs().max()) < 20  # grey; else 0 or 255


def test_pictures_of_16_bits_are_refused_and_other_files_left_alone(
    tmp_path: Path,
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.pdf").write_bytes(b"%PDF nonsense")
    (tmp_path / "._a.png").write_bytes(b"what some systems leave beside a file")
    assert len(load_folder(tmp_path, size=8)) == 1
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(
        tmp_path / "c.png"
    )
    with pytest.raises(ValueError, match=r"c\.png.*more than 8 bits"):
        load_folder(tmp_path)


def test_folders_without_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected pictures in .*, got none"):
        load_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="folder: expected a folder"):
        load_folder(tmp_path / "none")
    with pytest.raises(ValueError, match="channels: expected 1 or 3, got 2"):
        load_folder(tmp_path, channels=2)
    with pytest.raises(ValueError, match="size: expected at least 1"):
        load_folder(tmp_path, size=0)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_sheet_shows_each_picture_in_its_place(tmp_path: Path) -> None:
    levels = torch.arange(5).reshape(5, 1, 1, 1).expand(5, 3, 2, 2) / 2 - 1  # -1 ... 1
    save_image_grid(tmp_path / "a.png", levels)
    sheet = pixels(tmp_path / "a.png")
    assert sheet.shape == (4, 6, 3)
    assert sheet[::2, ::2, 0].tolist() == [[0, 64, 128], [191, 255, 0]]
    save_image_grid(tmp_path / "b.png", torch.tensor([[[[-3.0, 3.0]]]]))
    assert pixels(tmp_path / "b.png").tolist() == [[0, 255]]
    save_image_grid(tmp_path / "b.png", torch.tensor([[[[0, 200]]]], dtype=torch.uint8))
    assert pixels(tmp_path / "b.png").tolist() == [[0, 200]]
    for bad in (torch.zeros(0, 1, 2, 2), torch.zeros(1, 2, 2, 2), torch.zeros(2, 2)):
        with pytest.raises(ValueError, match="images: expected"):
            save_image_grid(tmp_path / "c.png", bad)
    assert not (tmp_path / "c.png").exists()


def test_files_that_hold_no_network_are_refused(
    pictures: Tensor, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    with pytest.raises(FileNotFoundError, match="no such file"):
        load_network(tmp_path / "none.safetensors")
    path = tmp_path / "a.safetensors"
    network = config().network(1)
    save_network(path, network, config(), height=8, width=8)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], bytes(len(whole)), b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="damaged"):
            load_network(path)
    save_file(network.state_dict(), path)
    with pytest.raises(ValueError, match="without a configuration"):
        load_network(path)
    about = {"config": json.dumps(asdict(config(channels=16)))}
    save_file(network.state_dict(), path, metadata=about)
    with pytest.raises(ValueError, match="fit their configuration"):
        load_network(path)
    about = {"config": json.dumps(asdict(Tomorrow()))}
    save_file(network.state_dict(), path, metadata=about)
    with pytest.raises(
        ValueError, match=r"a\.safetensors holds another .* got brushes, canvas, colour"
    ):
        load_network(path)


@pytest.mark.parametrize(
    ("version", "facts", "drawn"),
    [
        ("1", {"height": "4", "width": "4"}, [-0.02850579, -0.15475899, -0.27607191, -0.22666413]),
        ("2", {"height": "4", "width": "8", "levels": "256"}, [0.12831125, -0.34163424, -0.20569909, -0.57272822]),
        ("3", {"height": "4", "width": "4", "levels": "256"}, [-0.02850584, -0.15475905, -0.27607206, -0.22666410]),
    ],
)  # fmt: skip
def test_networks_of_all_versions_load(
    version: str, facts: dict[str, str], drawn: list[float]
) -> None:
    """Each was written by `fit` of its time; the numbers are what the network answered then.

    Version 1 is that of revision 67df87f. Version 2 says on what a network was trained. Version 3 has the field's names
    of options.
    """
    path = VERSIONS / f"{version}.safetensors"
    network, schedule, about = load_network(path)
    assert about.pop("hardware").startswith("cpu (")
    assert float(about.pop("minutes")) < 1
    always = {"channels": "1", "prediction": "noise", "steps": "3", "pictures": "noise"}
    assert about == always | facts
    assert schedule.T == 10
    x = torch.linspace(-1, 1, 16).reshape(1, 1, 4, 4)
    with torch.no_grad():
        answer = network(x, torch.tensor([5]))
    assert answer.flatten()[:4].tolist() == pytest.approx(drawn, abs=1e-4)


def test_there_is_no_version_without_a_test() -> None:
    there = sorted(path.stem for path in VERSIONS.glob("*.safetensors"))
    assert there == ["1", "2", "3", "4"]


def test_a_network_with_labels_of_version_4_loads() -> None:
    """The first version with labels; the numbers are what it answered then, without a label, and for two."""
    network, schedule, about = load_network(VERSIONS / "4.safetensors")
    assert (network.num_classes, schedule.T, network.training) == (3, 10, False)
    assert about == {
        "channels": "1", "height": "4", "levels": "256", "pictures": "noise", "prediction": "noise", "width": "4",
    }  # fmt: skip
    x, t = torch.linspace(-1, 1, 16).reshape(1, 1, 4, 4), torch.tensor([5])
    for y, drawn in (
        (None, [-0.5290903449, -0.4668262899]),
        (0, [-0.5434367657, -0.4920539856]),
        (2, [-0.5381068587, -0.4588651359]),
    ):
        with torch.no_grad():
            answer = network(x, t, None if y is None else torch.tensor([y]))
        assert answer.flatten()[:2].tolist() == pytest.approx(drawn, abs=1e-4)


@pytest.mark.parametrize("labels", [0, 1, 3])
def test_labels_travel_in_the_file(labels: int, tmp_path: Path) -> None:
    """Through wrappers, too: the weights tell how many there are."""
    path, network = tmp_path / "a.safetensors", config().network(1, labels)
    for weight in network.parameters():
        nn.init.normal_(weight)
    for wrapped in (network, nn.DataParallel(network)):
        save_network(path, wrapped, config(), height=8, width=8)
        again, _, about = load_network(path)
        assert again.config == network.config and about["channels"] == "1"
        state = again.state_dict()
        assert state.keys() == network.state_dict().keys()
        assert all(torch.equal(state[n], w) for n, w in network.state_dict().items())


def test_labels_that_do_not_fit_the_network_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path, state = tmp_path / "a.safetensors", config().network(1, 3).state_dict()
    state["label.weight"] = state["label.weight"][:, 1:].contiguous()
    save_file(state, path, metadata={"config": json.dumps(asdict(config()))})
    with pytest.raises(ValueError, match=r"weights that fit .*a\.safetensors.*"):
        load_network(path)


def test_the_digits_file_says_the_whole_network() -> None:
    """That of chapter `algorithms`, as the chapters build it."""
    path = ROOT / "book/weights/digits.safetensors"
    network, schedule, about = load_network(path)
    built = UNet.digits()
    built.load_state_dict(load_file(path))
    assert network.config == built.config and network.num_classes == 10
    assert torch.equal(weights(network), weights(built))
    assert torch.equal(schedule.beta, Schedule.cosine(T=500).beta)
    wanted = {
        "height": "8",
        "width": "8",
        "channels": "1",
        "levels": "17",
        "prediction": "noise",
    }
    assert wanted.items() <= about.items()


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")
def test_a_wrapped_network_is_saved_as_itself(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    network, path = config().network(1), tmp_path / "a.safetensors"
    averaged = torch.optim.swa_utils.AveragedModel
    part = config().network(1)
    part.load_state_dict(network.state_dict())
    part.head = torch.compile(part.head)
    for wrapped in (
        torch.compile(network),
        nn.DataParallel(network),
        averaged(network),
        torch.compile(nn.DataParallel(averaged(network))),
        EMA(torch.compile(network)).model,
        part,
    ):
        save_network(path, wrapped, config(), height=8, width=8)
        assert torch.equal(weights(load_network(path)[0]), weights(network))
    # Files that were written before this was seen to are read, too.
    about = {"config": json.dumps(asdict(config())), "size": "8"}
    save_file(torch.compile(network).state_dict(), path, metadata=about)
    assert torch.equal(weights(load_network(path)[0]), weights(network))


def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    network, path = config().network(1), tmp_path / "a.safetensors"
    with pytest.raises(TypeError, match=r"network: expected a network, got .*EMA"):
        save_network(path, EMA(network), config(), height=8, width=8)
    for other in (
        nn.Sequential(network),
        nn.Linear(2, 2),
        config(norm_num_groups=2).network(1),
    ):
        if isinstance(other, type(network)):
            other.head = nn.Identity()
        with pytest.raises(ValueError, match="network: expected one that config makes"):
            save_network(path, other, config(), height=8, width=8)
    with pytest.raises(ValueError, match=r"got .* of shape \(16,"):
        save_network(path, config(channels=16).network(1), config(), height=8, width=8)
    assert not path.exists()
