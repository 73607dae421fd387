"""Training, sampling, evaluation and going on, rehearsed on a simulated device (see simulated.py), below autograd.

It sees, and names by file and line: each wait for the device (a number read out, a copy to or from the CPU, a result
whose size only the device knows), a CPU tensor among the device's, a generator of the other device, double precision
where there is none. All numbers are compared with the CPU's.

It can not see:
- real kernels: which one runs, whether the device has it at all, and how it rounds (TF32, cuDNN's choice, atomics);
  autocast's list of operations is the simulation's own, and fp16 with its loss scale is not rehearsed;
- memory: how much is needed, where it is aliased, whether an address is still alive;
- streams: order, overlap, races. A copy from pinned memory that is not waited for counts as free, and is done at once;
  one to pinned memory arrives with the next wait;
- waits inside a kernel, a driver or an allocator, and those of other libraries (NCCL, Python's own);
- speed of any kind; `torch.compile` and CUDA graphs on a device; several devices, or several processes;
- the device's own global random numbers: here they are the CPU's;
- what is done by a device's name, "cuda" or "mps" (see test_devices.py for that).
"""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from samplers import strided_sample
from simulated import NAME, Fault, Place, Simulated
from test_devices import CASES, PICTURES, SHAPE, SMALL, On, plain
from torch import Tensor, nn

import ddpm_nb as ddpm
from ddpm_nb import _checks

TINY = SMALL | {"dropout": 0.0, "warmup_steps": 0}


def found_by_accelerate(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    there = property(lambda self: torch.device(place))
    monkeypatch.setattr(accelerate.Accelerator, "device", there)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulated]:
    """A device that accelerate finds, too."""
    found_by_accelerate(monkeypatch, NAME)
    with Simulated() as device:
        yield device


def trainer(**choice: Any) -> ddpm.Trainer:
    return ddpm.Trainer(ddpm.TrainConfig(**TINY | choice), PICTURES)


def close(mine: Any, theirs: Any, share: float) -> None:
    """Compare with a tolerance that is a share of the largest number."""
    mine, theirs = (torch.as_tensor(v).cpu().double() for v in (mine, theirs))
    largest = float(theirs.abs().max())
    torch.testing.assert_close(mine, theirs, rtol=share, atol=share * largest)


@pytest.mark.parametrize("name", CASES)
def test_a_public_function_gives_the_answer_of_the_cpu(name: str) -> None:
    expected = plain(CASES[name](On("cpu")))
    for float64 in (True, False):
        with Simulated(float64):
            answer = plain(CASES[name](On(NAME)))
        assert len(answer) == len(expected)
        for mine, theirs in zip(answer, expected):
            close(mine, theirs, 1e-5 if float64 else 2e-4)


def test_gradients_are_those_of_the_cpu() -> None:
    def gradients(place: str) -> list[Tensor]:
        on = On(place)
        ddpm.simple_loss(on.model, on.levels, on.schedule, on.generator()).backward()
        return [w.grad.cpu() for w in on.model.parameters() if w.grad is not None]

    expected = gradients("cpu")
    with Simulated():
        answer = gradients(NAME)
    assert len(answer) == len(expected) > 50
    largest = max(float(g.abs().max()) for g in expected)
    for mine, theirs in zip(answer, expected):
        assert float((mine - theirs).abs().max()) < 1e-6 * largest


CHOICES: dict[str, dict[str, Any]] = {
    "mean": {},
    "mean, accumulated": {"gradient_accumulation_steps": 2},
    "each": {"clip": "each", "gradient_accumulation_steps": 2},
    "none": {"clip": "none"},
    "layout": {"channels_last": False},
    "bf16": {"precision": "bf16"},
}


def three_updates(choice: dict[str, Any]) -> tuple[list[float], list[Tensor]]:
    """Losses and gradients' lengths of three updates, and the weights and averages that they leave."""
    run = trainer(**choice)
    done = [run.step() for _ in range(3)]
    said = [float(x) for update in done for x in (update.loss, update.grad_norm or 0)]
    weights = (*run.model.parameters(), *run.ema.model.parameters())
    return said, [weight.detach().cpu() for weight in weights]


@pytest.mark.parametrize("name", CHOICES)
def test_an_update_is_that_of_the_cpu(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    found_by_accelerate(monkeypatch, "cpu")
    expected, their_weights = three_updates(CHOICES[name])
    found_by_accelerate(monkeypatch, NAME)
    with Simulated():
        answer, weights = three_updates(CHOICES[name])
    bf16 = name == "bf16"
    assert answer == pytest.approx(expected, rel=2e-3 if bf16 else 1e-5)
    # Adam moves a weight by its rate, however small the gradient: so rounding counts in rates, not in shares.
    rate = ddpm.TrainConfig().learning_rate
    for mine, theirs in zip(weights, their_weights, strict=True):
        assert float((mine - theirs).abs().max()) < (3 * rate if bf16 else 1e-3 * rate)


@pytest.mark.parametrize("choice", [*CHOICES.values(), {"dropout": 0.2}])
def test_an_update_waits_for_nothing(device: Simulated, choice: dict[str, Any]) -> None:
    run = trainer(**choice)
    run.step()
    device.waits.clear()
    run.step()
    assert device.waits == []


def test_half_precision_is_really_half(device: Simulated) -> None:
    seen: list[torch.dtype] = []
    run = trainer(precision="bf16")
    for layer in run.model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    run.step()
    assert set(seen) == {torch.bfloat16}


LOOPS: dict[str, Callable[[On, int], Any]] = {
    "training": lambda on, n: list(islice(on.steps(), n)),
    "Algorithm 2": lambda on, n: ddpm.sample(on.model, SHAPE, ddpm.Schedule.cosine(n).to(on.device)),
    "a generator of the CPU": lambda on, n: ddpm.sample(
        on.model, SHAPE, ddpm.Schedule.cosine(n).to(on.device), generator=on.generator()
    ),
    "one a picture": lambda on, n: ddpm.sample(
        on.model, SHAPE, ddpm.Schedule.cosine(n).to(on.device), generator=[on.generator() for _ in range(3)]
    ),
    "noise by counter": lambda on, n: ddpm.sample(
        on.model, SHAPE, ddpm.Schedule.cosine(n).to(on.device), generator=ddpm.CounterNoise(0, SHAPE[1:])
    ),
    "strides": lambda on, n: strided_sample(on.model, SHAPE, on.schedule, n),
    "DDIM": lambda on, n: ddpm.ddim_sample(on.model, SHAPE, on.schedule, n, eta=0.5, clip=True),
    "DDIM, upwards": lambda on, n: ddpm.ddim_encode(on.model, on.x, on.schedule, n),
    "the rest of the way": lambda on, n: ddpm.denoise(on.model, on.x, n, on.schedule),
    "the bound": lambda on, n: on.bits(num_timesteps=n),
    "the bound by counter": lambda on, n: ddpm.bits_per_dim(
        on.model, on.levels, on.schedule, levels=17, num_timesteps=n, generator=ddpm.CounterNoise(0, SHAPE[1:])
    ),
}  # fmt: skip
# Outside the loop, once a call: Algorithm 2's tables come to the CPU, and here its short schedule goes there.
WALK = {"_checks.py:_float64": 1}
BROUGHT = {"forward.py:to": 3, **WALK}
# Once a batch of pictures: are they on their levels? And the answers.
BOUND = {"_checks.py:on_levels": 1, "evaluation.py:bits_per_dim": 4}
ONCE = {
    "training": {"_checks.py:scale": 1},
    "Algorithm 2": BROUGHT,
    "a generator of the CPU": BROUGHT,
    "one a picture": BROUGHT,
    "noise by counter": BROUGHT,
    "strides": WALK,
    "DDIM": WALK,
    "DDIM, upwards": WALK,
    "the rest of the way": WALK,
    "the bound": BOUND,
    "the bound by counter": BOUND,
}


def waits(loop: Callable[[On, int], Any]) -> list[Counter[str]]:
    """The waits of a loop's two and five steps."""
    found = []
    with Simulated() as device:
        on = On(NAME)
        assert on.model
        for n in (2, 5):
            device.waits.clear()
            loop(on, n)
            found.append(device.counted())
    return found


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_waits_for_nothing_but_once_a_call(name: str) -> None:
    two, five = waits(LOOPS[name])
    assert two == five == ONCE[name]


def test_a_run_stops_goes_on_and_waits_only_where_it_must(
    device: Simulated, tmp_path: Path
) -> None:
    choice = TINY | {"dropout": 0.2, "log_every": 2, "sample_every": 0}

    def run(folder: str, steps: int) -> ddpm.Trainer:
        config = ddpm.TrainConfig(**choice, steps=steps)
        return ddpm.fit(config, PICTURES, tmp_path / folder, progress=False)

    straight = run("straight", 4)
    whole = device.counted()
    run("parts", 2)
    device.waits.clear()
    parts = run("parts", 4)
    second = device.counted()
    mine, theirs = straight.ema.model.parameters(), parts.ema.model.parameters()
    assert all(map(torch.equal, mine, theirs))
    n = len(list(parts.model.parameters()))
    start = {
        "training.py:__init__": n + 1,  # the network and the pictures go there
        "forward.py:to": 3,
        "_runs.py:warn_of_choices": 1,
    }
    once = {  # a line of the log, and a save
        "_runs.py:mean_of": 3,
        "_runs.py:check_finite": 3,
        "_devices.py:copied": 1,  # for all: network, average, Adam's three, order
    }
    assert whole == start | {place: 2 * count for place, count in once.items()}
    assert second == start | once | {
        "training.py:load_state_dict": 5 * n + 1,
        "_runs.py:write_weights": n,  # at the start
    }


def test_a_checkpoint_of_the_device_goes_on_on_the_cpu(
    device: Simulated, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = trainer()
    run.step()
    ddpm.save_checkpoint(tmp_path / "run.pt", run)
    expected = [w.cpu() for w in run.model.parameters()]
    found_by_accelerate(monkeypatch, "cpu")
    other = trainer()
    ddpm.load_checkpoint(tmp_path / "run.pt", other)
    assert all(map(torch.equal, other.model.parameters(), expected))
    assert float(other.step().loss) > 0


# --- five planted faults: each must be seen, and named with its line


def at(function: Callable[..., Any], what: str) -> str:
    """What the report says of the first line of a function's body, as a pattern."""
    code = function.__code__
    return rf"{what}.* at test_rehearsal.py:{code.co_firstlineno + 1} in {code.co_name}"


def test_a_cpu_tensor_in_the_loop_is_seen() -> None:
    offset = torch.zeros(SHAPE)

    def model(x: Tensor, t: Tensor) -> Tensor:
        return x + offset

    with Simulated(), pytest.raises(Fault, match=at(model, "add: tensor")):
        ddpm.sample(model, SHAPE, On(NAME).schedule)


def test_a_cpu_tensor_that_is_brought_at_each_step_is_seen() -> None:
    offset = torch.zeros(SHAPE)

    def model(x: Tensor, t: Tensor) -> Tensor:
        return x + offset.to(x.device)

    two, five = waits(lambda on, n: ddpm.denoise(model, on.x, n, on.schedule))
    assert five - two == {"test_rehearsal.py:model": 3}


@pytest.mark.parametrize(
    "ask",
    [Tensor.item, float, bool, Tensor.tolist, Tensor.cpu, Tensor.nonzero],
    ids=lambda ask: ask.__name__,
)
def test_an_item_in_sampling_is_seen(ask: Callable[[Tensor], Any]) -> None:
    def model(x: Tensor, t: Tensor) -> Tensor:
        ask(x.sum())
        return x

    two, five = waits(lambda on, n: ddpm.denoise(model, on.x, n, on.schedule))
    assert five - two == {"test_rehearsal.py:model": 3}
    with Simulated() as device:
        on = On(NAME)
        ddpm.denoise(model, on.x, 1, on.schedule)
    line = model.__code__.co_firstlineno + 1
    assert [place.line for place in device.waits if place.function == "model"] == [line]
    assert str(Place("copy", "a.py", "f", 3)) == "copy at a.py:3 in f"


def test_float64_on_a_device_without_it_is_seen() -> None:
    def model(x: Tensor, t: Tensor) -> Tensor:
        return x.double().float()

    with Simulated(float64=True):
        ddpm.sample(model, SHAPE, On(NAME).schedule)
    with Simulated(float64=False), pytest.raises(Fault, match=at(model, "float64")):
        ddpm.sample(model, SHAPE, On(NAME).schedule)


@pytest.mark.parametrize(
    ("drawn", "drawer"), [(NAME, "the CPU"), ("cpu", "the device")]
)
def test_a_generator_on_the_wrong_device_is_seen(drawn: str, drawer: str) -> None:
    def rule(seen: Any, s: int, schedule: Any) -> tuple[Tensor, None]:
        return torch.randn(SHAPE, generator=generator, device=drawn), None

    with Simulated():
        generator = torch.Generator("cpu" if drawer == "the CPU" else NAME)
        with pytest.raises(Fault, match=at(rule, f"randn: generator on {drawer}")):
            ddpm.sample(On(NAME).model, SHAPE, On(NAME).schedule, rule)


def test_a_schedule_left_behind_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    with Simulated():
        on = On(NAME)
        with pytest.raises(ValueError, match="schedule: expected its tables on"):
            ddpm.q_sample(on.x, on.t, on.noise, ddpm.Schedule.cosine(6))
        monkeypatch.setattr(_checks, "t", lambda t, schedule, lowest=1: t)
        with pytest.raises(Fault, match=r"index: .* forward.py:\d+ in q_sample"):
            ddpm.q_sample(on.x, on.t, on.noise, ddpm.Schedule.cosine(6))


def test_nothing_is_left_when_the_device_is_gone() -> None:
    generator, multithreading = torch.Generator, torch.autograd.is_multithreading_enabled()  # fmt: skip
    with Simulated():
        x = torch.ones(2, device=NAME)
    assert torch.Generator is generator
    assert torch.autograd.is_multithreading_enabled() == multithreading
    with pytest.raises(Fault, match="the device is gone"):
        x + 1
    weight = torch.ones(2, requires_grad=True)
    weight.square().sum().backward()
    assert weight.grad is not None and weight.grad.tolist() == [2, 2]
