"""Every refusal of bad input, in one voice: "name: expected …, got …".

A check returns what it has checked, so that it fits into the line that uses it. Checks look at types and shapes, and at
numbers on the CPU; not at numbers on an accelerator, because the computer would have to wait for it.
"""

import operator
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, Protocol, SupportsIndex, TypeVar

import torch
from torch import Tensor, nn

Value = TypeVar("Value")


class Tables(Protocol):
    """What a check needs to know of a noise schedule."""

    @property
    def T(self) -> int:
        """The number of steps."""

    @property
    def beta(self) -> Tensor:
        """Its table on the device."""


def whole(
    name: str, value: SupportsIndex, low: int | None = None, high: int | None = None
) -> int:
    """Return a whole number from `low` to `high` as an int; NumPy's are welcome."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise TypeError(f"{name}: expected an int, got {value!r}")
    number = operator.index(value)
    if (low is not None and number < low) or (high is not None and number > high):
        allowed = f"at least {low}" if high is None else f"{low} ... {high}"
        raise ValueError(f"{name}: expected {allowed}, got {number}")
    return number


def positive(name: str, value: SupportsIndex) -> int:
    """Return a positive integer as an int; NumPy's are welcome."""
    if (
        isinstance(value, bool)
        or not isinstance(value, SupportsIndex)
        or operator.index(value) < 1
    ):
        raise ValueError(f"{name}: expected a positive integer, got {value!r}")
    return operator.index(value)


def even(name: str, value: int, low: int) -> int:
    """Return an even number from `low` on."""
    if value % 2 or value < low:
        raise ValueError(f"{name}: expected an even number >= {low}, got {value}")
    return value


def number(
    name: str, value: float, allowed: str, good: Callable[[float], bool]
) -> float:
    """Return a number that is `good`; NaN never is, because every comparison with it is false."""
    if not good(value):
        raise ValueError(f"{name}: expected a number {allowed}, got {value}")
    return value


def one_of(name: str, value: Value, choices: Iterable[Value]) -> Value:
    """Return a name that is one of `choices`."""
    if value not in (known := tuple(choices)):
        *others, last = (f'"{choice}"' for choice in known)
        raise ValueError(
            f"{name}: expected {', '.join(others)} or {last}, got {value!r}"
        )
    return value


def shape(name: str, value: Tensor, expected: Sequence[int], of: str = "") -> Tensor:
    """Return a tensor of the expected shape; `of` says whose shape it is."""
    if value.shape != torch.Size(expected):
        whose = (
            f"the shape of {of}, {tuple(expected)}"
            if of
            else f"shape {tuple(expected)}"
        )
        raise ValueError(f"{name}: expected {whose}, got {tuple(value.shape)}")
    return value


def noise(noise: Tensor, x: Tensor) -> Tensor:
    """Return noise in the shape of x: broadcasting would give a whole batch the same noise without a word."""
    return shape("noise", noise, x.shape, of="the points")


def answer(noise: Tensor, x_t: Tensor) -> Tensor:
    """Return a model's answer in the shape of x_t: broadcasting would make a wrong loss or sample without a word."""
    if noise.shape != x_t.shape:
        raise ValueError(
            f"model: expected an answer of shape {tuple(x_t.shape)}, got {tuple(noise.shape)}"
        )
    return noise


def images(name: str, x: Tensor) -> Tensor:
    """Return a floating-point tensor."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        came = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(
            f"{name}: expected a floating-point tensor, got {came}; scale pictures to [-1, 1], as `to_float` does"
        )
    return x


def per_image(value: Tensor, x: Tensor) -> Tensor:
    """Return one number for all pictures (), or one a picture (B,), for floating-point x (B, ...)."""
    if not x.is_floating_point():
        raise TypeError(
            f"x: expected floating-point numbers, got {x.dtype}; scale pictures to [-1, 1]"
        )
    if value.dim() > 0 and value.shape != x.shape[:1]:
        raise ValueError(
            f"t: expected one value a picture, shape ({len(x)},), got shape {tuple(value.shape)}"
        )
    return value


def t(t: int | Tensor, schedule: Tables, lowest: int = 1) -> int | Tensor:
    """Return an integer, or a tensor of them, in lowest ... T.

    The values of a tensor on an accelerator are not looked at.

    Raises:
        TypeError: if t is neither an int nor an int64 tensor.
        ValueError: if t leaves its range, or is on an accelerator and the schedule is not.
    """
    if isinstance(t, Tensor):
        if t.dtype != torch.int64:
            raise TypeError(
                f"t: expected an int or an int64 tensor, got a tensor of {t.dtype}"
            )
        if t.device.type != "cpu" and t.device != schedule.beta.device:
            raise ValueError(
                f"schedule: expected its tables on {t.device}, where t is, got {schedule.beta.device}; "
                "use schedule.to(...)"
            )
        if t.device.type != "cpu" or t.numel() == 0:
            return t
        low, high = int(t.min()), int(t.max())
    elif isinstance(t, SupportsIndex) and not isinstance(t, bool):
        t = low = high = operator.index(t)  # NumPy's integers, too
    else:
        raise TypeError(
            f"t: expected an int or an int64 tensor, got {type(t).__name__}"
        )
    if low < lowest or high > schedule.T:
        raise ValueError(
            f"t: expected {lowest} ... {schedule.T}, got values from {low} to {high}"
        )
    return t


def times(name: str, given: Iterable[int], schedule: Tables) -> tuple[int, ...]:
    """Return the times of a walk, in 0 ... T, each other than the one before."""
    visited = tuple(whole(name, time) for time in given)
    if (
        len(visited) < 2
        or min(visited) < 0
        or max(visited) > schedule.T
        or any(a == b for a, b in pairwise(visited))
    ):
        raise ValueError(
            f"{name}: expected at least two different times in 0 ... {schedule.T}, got {visited}"
        )
    return visited


def device(model: Any, schedule: Tables) -> torch.device:
    """Return the schedule's device, if the network is there, too."""
    weight = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    if weight is not None and weight.device != schedule.beta.device:
        raise ValueError(
            f"schedule: expected its tables on the network's device, {weight.device}, got {schedule.beta.device}; "
            "use schedule.to(...)"
        )
    return schedule.beta.device


def unet_sizes(
    *,
    in_channels: int,
    channels: int,
    channel_mult: Sequence[int],
    num_res_blocks: int,
    attention_levels: Sequence[bool],
    dropout: float,
    norm_num_groups: int,
) -> dict[str, Any]:
    """Return a U-Net's sizes, if they fit together, as plain numbers, which JSON can hold."""
    if len(channel_mult) == 0 or len(channel_mult) != len(attention_levels):
        raise ValueError(
            "channel_mult, attention_levels: expected one entry a level in both, got "
            f"{tuple(channel_mult)} and {tuple(attention_levels)}"
        )
    groups = positive("norm_num_groups", norm_num_groups)
    if even("channels", positive("channels", channels), 4) % groups:
        raise ValueError(
            f"channels: expected a multiple of norm_num_groups = {groups}, got {channels}"
        )
    return {
        "in_channels": positive("in_channels", in_channels),
        "channels": operator.index(channels),
        "channel_mult": tuple(positive("channel_mult", m) for m in channel_mult),
        "num_res_blocks": positive("num_res_blocks", num_res_blocks),
        "attention_levels": tuple(bool(attends) for attends in attention_levels),
        "dropout": float(dropout),
        "norm_num_groups": groups,
    }


def unet_input(x_t: Tensor, t: Tensor, in_channels: int, levels: int) -> Tensor:
    """Return pictures that can be halved between the levels, with one int64 time each."""
    if x_t.dim() != 4 or x_t.shape[1] != in_channels:
        raise ValueError(
            f"x_t: expected (B, {in_channels}, H, W), got shape {tuple(x_t.shape)}"
        )
    step = 2 ** (levels - 1)
    if x_t.shape[2] % step or x_t.shape[3] % step:
        raise ValueError(
            f"x_t: expected height and width divisible by {step}, got {x_t.shape[2]} x {x_t.shape[3]}: "
            f"{levels} levels halve a picture {levels - 1} times. Sizes that work: {step}, {2 * step}, {3 * step}, "
            "...; or build the network with fewer levels, or pad the pictures"
        )
    if t.dtype != torch.int64:
        raise TypeError(f"t: expected int64, got {t.dtype}")
    if t.shape != x_t.shape[:1]:
        raise ValueError(
            f"t: expected one time a picture, shape ({len(x_t)},), got shape {tuple(t.shape)}"
        )
    return x_t
