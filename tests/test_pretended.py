"""The pretended device refuses what a real one refuses, and nothing else."""

import copy
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pretended import LACKING, Pretended
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

KINDS = pytest.mark.parametrize("kind", ["cuda", "mps"])
Case = Callable[[Tensor, Tensor], Any]


def into(place: Tensor, index: Any, value: Tensor) -> None:
    place[index] = value


# `there` has shape (2, 2) and is on the device; `here` has it too, and is on the CPU.
ONE_DEVICE: dict[str, Case] = {
    "a number of Python": lambda there, here: 2 * there + 1,
    "a number on the CPU": lambda there, here: there * here[0, 0],
    "a number on the CPU, in place": lambda there, here: there.mul_(here[0, 0]),
    "a number on the CPU, as a choice": lambda there, here: torch.where(there > 0, there, here[0, 0]),
    "two numbers": lambda there, here: there.sum() + here.sum(),
    "to the device": lambda there, here: there + here.to(there.device),
    "to where another is": lambda there, here: there @ here.to(there),
    "to the CPU": lambda there, here: there.cpu() + here,
    "to the CPU, by name": lambda there, here: there.to("cpu") @ here,
    "copied": lambda there, here: there.copy_(here),
    "copied back": lambda there, here: here.copy_(there) + here,
    "an index on the CPU": lambda there, here: there[torch.tensor([1, 0])] + there,
    "a value from the CPU": lambda there, here: into(there, 0, here[0]),
    "made beside it": lambda there, here: there + torch.ones(2, 2, device=there.device),
    "made like it": lambda there, here: there + torch.zeros_like(there) + there.new_ones(2),
    "drawn there": lambda there, here: there + torch.rand(2, 2, device=there.device),
    "a layer there": lambda there, here: nn.Linear(2, 2, device=there.device)(there),
    "a layer brought there": lambda there, here: nn.Linear(2, 2).to(there.device)(there),
    "copies of both": lambda there, here: copy.deepcopy([there, here])[0] + there,
    "views": lambda there, here: there.T[0] + there.flatten()[2:] + there.detach()[1],
}  # fmt: skip
TWO_DEVICES: dict[str, Case] = {
    "a sum": lambda there, here: there + here,
    "a sum, the other way round": lambda there, here: here + there,
    "a sum in place": lambda there, here: there.add_(here),
    "a number there, points here": lambda there, here: here + there.sum(),
    "in place here": lambda there, here: here.sum().add_(there.sum()),
    "one number among more": lambda there, here: here[:1, 0] * there,
    "a product of matrices": lambda there, here: here @ there,
    "a choice": lambda there, here: torch.where(there > 0, there, here),
    "a joint tensor": lambda there, here: torch.cat([there, here]),
    "an index there": lambda there, here: here[torch.zeros(1, dtype=torch.int64, device=there.device)],
    "a layer here": lambda there, here: nn.Linear(2, 2)(there),
    "points here": lambda there, here: nn.Linear(2, 2, device=there.device)(here),
    "a copy of a layer here": lambda there, here: nn.Linear(2, 2).requires_grad_(False)(there),
    "noise made here": lambda there, here: there + torch.randn(2, 2),
    "many at once": lambda there, here: torch._foreach_add([there], [here]),
}  # fmt: skip


@KINDS
@pytest.mark.parametrize("name", ONE_DEVICE)
def test_what_is_on_one_device_is_welcome(kind: str, name: str) -> None:
    with Pretended(kind):
        ONE_DEVICE[name](torch.full((2, 2), 0.5, device=kind), torch.ones(2, 2))


@KINDS
@pytest.mark.parametrize("name", TWO_DEVICES)
def test_what_is_on_two_devices_is_refused(kind: str, name: str) -> None:
    with Pretended(kind), pytest.raises(RuntimeError, match="same device"):
        TWO_DEVICES[name](torch.full((2, 2), 0.5, device=kind), torch.ones(2, 2))


@pytest.mark.parametrize(
    "name",
    sorted(
        {*ONE_DEVICE, *TWO_DEVICES}
        - {"an index there", "a layer brought there", "copies of both"}
    ),
)
def test_torch_agrees_about_devices(name: str) -> None:
    """FakeTensorMode knows the rules of a GPU that is not there, from torch's own hand; it computes nothing.

    It lets an index pass that torch itself refuses, and cannot move a layer or copy deeply.
    """
    with FakeTensorMode():
        there, here = torch.full((2, 2), 0.5, device="cuda"), torch.ones(2, 2)
        try:
            (ONE_DEVICE | TWO_DEVICES)[name](there, here)
        except RuntimeError as error:
            if "not linked with support" in str(error):
                pytest.skip("FakeTensorMode needs torch with CUDA for this one")
            assert name in TWO_DEVICES
        else:
            assert name in ONE_DEVICE


@KINDS
def test_everything_says_where_it_is(kind: str) -> None:
    with Pretended(kind):
        x = torch.zeros(2, device=kind, requires_grad=True)
        layer = nn.Linear(2, 3).to(kind)
        layer(x).sum().backward()
        layer.weight.requires_grad_(False)
        # A name has no index, a tensor's device has one.
        for y in (
            x,
            x + 1,
            x.grad,
            layer.weight,
            layer.weight.grad,
            x.detach().to(torch.float16),
            x[0],
            x.flip(0),
        ):
            assert y is not None and y.device == torch.device(kind, 0) != torch.device(
                kind
            )
            assert (y.is_cuda, y.is_mps, y.is_cpu) == (
                kind == "cuda",
                kind == "mps",
                False,
            )
        for y in (
            x.cpu(),
            x.to("cpu"),
            torch.zeros(2),
            torch.tensor([x.detach()[0], 1]),
            torch.zeros_like(x, device="cpu"),
        ):
            assert y.device == torch.device("cpu") and y.is_cpu
        assert isinstance(layer.weight, nn.Parameter)


@KINDS
def test_what_moves_shares_no_memory(kind: str) -> None:
    with Pretended(kind):
        here = torch.zeros(2)
        there = here.to(kind)
        there += 1
        back = there.cpu()
        back += 1
        assert (here.tolist(), there.tolist(), back.tolist()) == (
            [0, 0],
            [1, 1],
            [2, 2],
        )
        assert there.to(kind) is there


@KINDS
def test_numpy_gets_nothing(kind: str) -> None:
    with Pretended(kind):
        x = torch.zeros(2, device=kind)
        for ask in (lambda: x.numpy(), lambda: np.asarray(x)):
            with pytest.raises(TypeError, match="numpy"):
                ask()
        assert x.cpu().numpy().sum() == 0


@KINDS
def test_a_generator_belongs_to_one_device(kind: str) -> None:
    with Pretended(kind):
        here, there = torch.Generator(), torch.Generator(kind).manual_seed(1)
        assert (here.device.type, there.device.type) == ("cpu", kind)
        assert torch.rand(2, generator=there, device=kind).device.type == kind
        assert torch.rand(2, generator=here).device.type == "cpu"
        with pytest.raises(RuntimeError, match="generator"):
            torch.rand(2, generator=here, device=kind)
        with pytest.raises(RuntimeError, match="generator"):
            torch.rand(2, generator=there)
        with pytest.raises(RuntimeError, match="generator"):
            torch.zeros(2, device=kind).normal_(generator=here)
    assert type(torch.Generator()) is torch._C.Generator


def test_mps_has_no_float64_and_lacks_kernels() -> None:
    wide = torch.zeros(2, dtype=torch.float64)
    for ask in (
        lambda x: x.double(),
        lambda x: x.to(torch.float64),
        lambda x: wide.to("mps"),
        lambda x: torch.zeros(2, dtype=torch.float64, device="mps"),
        lambda x: torch.sum(x, dtype=torch.float64),
        lambda x: x.cpu().double().to(x.device),
    ):
        with Pretended("mps"), pytest.raises(TypeError, match="float64"):
            ask(torch.zeros(2, device="mps"))
    with Pretended("cuda"):
        x = torch.zeros(2, device="cuda")
        assert x.double().device.type == "cuda"
        assert torch.special.log_ndtr(x).isfinite().all()
    with Pretended("mps"):
        x = torch.zeros(2, 2, device="mps")
        assert (
            x + wide[0]
        ).dtype == torch.float32  # a number takes the type of the points
        for lacking in (
            torch.special.log_ndtr,
            torch.linalg.eigh,
            torch.linalg.svdvals,
        ):
            with pytest.raises(
                NotImplementedError, match="not implemented for the MPS"
            ):
                lacking(x)


def test_mps_lacks_what_torch_says_it_lacks() -> None:
    found = find_spec("torch.testing._internal.common_mps")
    assert found is not None and found.origin is not None
    text = Path(found.origin).read_text()
    unimplemented = text[text.index("UNIMPLEMENTED_XFAILLIST") :].split(
        "\n        }\n"
    )[0]
    for name in LACKING:
        assert (
            f'"{name.replace("linalg_", "linalg.").replace("special_", "special.")}": None'
            in unimplemented
        )


@KINDS
def test_waits_are_counted(kind: str) -> None:
    with Pretended(kind) as device:
        x = torch.ones(2, device=kind)
        y = (x * 2 + 1).sum() / len(x)
        x[0], x[torch.tensor([1])] = 3, y
        assert device.waits == 0
        for n, ask in enumerate(
            (lambda: float(y), lambda: bool(y > 0), lambda: y.item(), lambda: x.tolist(), lambda: x.cpu(),
             lambda: f"{y:.2f}", lambda: x.nonzero(), lambda: torch.zeros(2).copy_(x)), start=1
        ):  # fmt: skip
            ask()
            assert device.waits == n


def test_another_device_is_not_there() -> None:
    with Pretended("mps"), pytest.raises((RuntimeError, AssertionError)):
        torch.zeros(2, device="cuda")
    with pytest.raises((RuntimeError, AssertionError, NotImplementedError)):
        torch.zeros(2, device="mps")
