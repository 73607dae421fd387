"""Every refusal of bad input, in one voice: "name: expected …, got …".

A check returns what it has checked, so that it fits into the line that uses it. Checks look at types and shapes, and at
numbers on the CPU; not at numbers on an accelerator, because the computer would have to wait for it.
"""

import operator
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    try:
        number = operator.index(value)
    except TypeError:  # a tensor of several numbers, too
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{name}: expected an int, got {value!r}")
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


def on_levels(name: str, x: Tensor, levels: int) -> Tensor:
    """Return pictures whose numbers are some of `levels` levels from -1 to 1."""
    number = (x.float() + 1) / 2 * (whole("levels", levels, 2) - 1)
    off = (number - number.round()).abs().max()
    inside = (number.min() > -0.5) & (number.max() < levels - 0.5)
    if not ((off < 1e-3) & inside):  # one question: each is waited for
        raise ValueError(
            f"{name}: expected pictures on {levels} levels from -1 to 1, got values from {float(x.min()):g} to "
            f'{float(x.max()):g}, up to {float(off):.2g} of a level off; other data need decoder="continuous"'
        )
    return x


def scale(name: str, x: Tensor) -> None:
    """Warn if pictures (B, C, H, W) do not look as if they lay around 0 in [-1, 1]."""
    if x.dim() != 4:  # points of the plane may lie anywhere
        return
    low, high = torch.stack(x.aminmax()).tolist()  # a GPU waits here
    if not (low < 0 and high <= 1):
        warnings.warn(
            f"{name}: expected pictures in [-1, 1], with some values below 0; the first batch lies in "
            f"[{low:g}, {high:g}]. Grey levels 0 ... 255 become x / 127.5 - 1, and [0, 1] becomes 2 * x - 1",
            stacklevel=3,
        )


def per_image(value: Tensor, x: Tensor) -> Tensor:
    """Return one number for all pictures (), or one a picture (B,), for floating-point x (B, ...)."""
    if not x.is_floating_point():
        raise TypeError(
            f"x: expected floating-point numbers, got {x.dtype}; scale pictures to [-1, 1]"
        )
    if value.dim() > 0 and value.shape != x.shape[:1]:
        raise ValueError(
            f"t: expected one time a point or picture, shape ({len(x)},), got shape {tuple(value.shape)}"
        )
    return value


def points(name: str, x: Tensor, coordinates: int, batch: bool = False) -> Tensor:
    """Return points (..., coordinates); (B, coordinates) if they are to be a batch."""
    if x.shape[-1:] != (coordinates,) or (batch and x.dim() != 2):
        expected = f"({'B' if batch else '...'}, {coordinates})"
        raise ValueError(
            f"{name}: expected shape {expected}, points with {coordinates} coordinates, got shape {tuple(x.shape)}"
        )
    return x


def mixture(
    weights: Tensor | Sequence[float],
    means: Tensor | Sequence[Sequence[float]],
    stds: Tensor | Sequence[float],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights (K,), means (K, D) and standard deviations (K,) of a mixture, as float64 on the CPU."""
    weights, means, stds = (_float64(value) for value in (weights, means, stds))
    if (
        means.dim() != 2
        or weights.shape != means.shape[:1]
        or stds.shape != weights.shape
    ):
        raise ValueError(
            "weights, means, stds: expected shapes (K,), (K, D), (K,), got "
            f"{tuple(weights.shape)}, {tuple(means.shape)}, {tuple(stds.shape)}"
        )
    shares = (weights > 0) & ((weights.sum() - 1).abs() < 1e-6)
    for name, value, allowed, good in (
        ("weights", weights, "positive numbers that sum to 1", shares),
        ("stds", stds, "positive numbers", (stds > 0) & stds.isfinite()),
        ("means", means, "finite numbers", means.isfinite()),
    ):
        if not good.all():
            raise ValueError(f"{name}: expected {allowed}, got {value}")
    return weights, means, stds


def linear_model(weight: Tensor, bias: Tensor, noise_var: float) -> None:
    """Refuse a linear map W (D, K), b (D,) with noise that does not fit together."""
    if weight.dim() != 2 or bias.shape != weight.shape[:1]:
        raise ValueError(
            f"weight, bias: expected shapes (D, K) and (D,), got {tuple(weight.shape)} and {tuple(bias.shape)}"
        )
    number("noise_var", noise_var, "above 0", lambda var: var > 0)


def chain(forward: Sequence[Tensor], reverse: Sequence[Tensor], prior: Tensor) -> None:
    """Refuse tables of a chain that are not positive, whose rows do not sum to 1, or that do not fit together."""
    if len(forward) != len(reverse) or len(forward) == 0:
        raise ValueError(
            f"forward, reverse: expected one table a step in both, got {len(forward)} and {len(reverse)}"
        )
    rows = tuple(prior.shape[:1])
    for name, tables, expected in (
        ("forward", forward, 2 * rows),
        ("reverse", reverse, 2 * rows),
        ("prior", [prior], rows),
    ):
        for table in tables:
            if (
                table.shape != expected
                or not (table > 0).all()
                or not ((table.sum(-1) - 1).abs() <= 1e-6).all()
            ):
                raise ValueError(
                    f"{name}: expected positive rows of shape {expected} that sum to 1, got {table}"
                )


def betas(beta: Tensor | Sequence[float]) -> Tensor:
    """Return beta_1 ... beta_T, strictly between 0 and 1, as float64 on the CPU."""
    steps = _float64(beta)
    if steps.dim() != 1 or len(steps) == 0:
        raise ValueError(
            f"beta: expected beta_1 ... beta_T in one dimension, got shape {tuple(steps.shape)}"
        )
    good = (steps > 0) & (steps < 1)  # NaN never is
    if not good.all():
        first = int(good.logical_not().nonzero()[0])
        raise ValueError(
            f"beta: expected numbers strictly between 0 and 1, got beta_{first + 1} = {steps[first]:g}"
        )
    return steps


def _float64(value: Tensor | Sequence[Any]) -> Tensor:
    """Return numbers as float64 on the CPU. A tensor comes there first: MPS has no float64."""
    if isinstance(value, Tensor):
        return value.cpu().double()
    return torch.as_tensor(value, dtype=torch.float64, device="cpu")


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


def some_times(name: str, given: Sequence[int], schedule: Tables) -> Sequence[int]:
    """Return times in 0 ... T, in any order."""
    wanted = [whole(name, time) for time in given]
    if not wanted or min(wanted) < 0 or max(wanted) > schedule.T:
        raise ValueError(f"{name}: expected some of 0 ... {schedule.T}, got {given}")
    return given


def falling(name: str, given: Sequence[int], schedule: Tables) -> Sequence[int]:
    """Return the times of a walk from at most T down to 0."""
    falls = all(t > s for t, s in pairwise(given))
    if len(given) < 2 or not falls or given[0] > schedule.T or given[-1] != 0:
        raise ValueError(
            f"{name}: expected whole numbers that fall from at most {schedule.T} to 0, got {tuple(given)}"
        )
    return given


def known(name: str, values: Mapping[int, float], t: int) -> float:
    """Return what was measured at the time t."""
    if t not in values:
        raise ValueError(
            f"{name}: expected the value at t = {t} too, got those at {sorted(values)}"
        )
    return values[t]


def some_signal(name: str, beta: Tensor) -> Tensor:
    """Return the betas of a short chain, on the CPU, if none of them is 1."""
    if (beta == 1).any():
        raise ValueError(
            f"{name}: expected steps that leave some signal, got one in which alpha_bar falls below double precision; "
            "more steps are needed, or DDIM"
        )
    return beta


def down(high: int, low: int, schedule: Tables) -> None:
    """Refuse a step that does not lead from a time t in 1 ... T down to a time s."""
    t(high, schedule)
    t(low, schedule, lowest=0)
    if low >= high:
        raise ValueError(f"s: expected a time below t = {high}, got {low}")


def remaining_variance(variance: Tensor, sigma: float | Tensor) -> Tensor:
    """Return variance - sigma^2, if it is not negative; on an accelerator it is NaN later."""
    rest = variance - sigma**2
    rounding = 8 * torch.finfo(rest.dtype).eps
    if rest.device.type == "cpu" and not (sigma >= 0 and rest >= -rounding):
        raise ValueError(
            f"sigma: expected 0 <= sigma^2 <= {float(variance):g}, got sigma = {sigma}"
        )
    return rest.where(rest < -rounding, rest.clamp(min=0))


def next_time(t: int, s: int) -> int:
    """Return t if s is the time before it, as the steps of Algorithm 2 need it."""
    if s != t - 1:
        raise ValueError(
            f"timesteps: expected {t - 1} after {t} for Algorithm 2, got {s}; `strided` leaves times out"
        )
    return t


def start(x_T: Tensor, expected: Sequence[int]) -> Tensor:
    """Return the points that a walk starts from."""
    return shape("x_T", images("x_T", x_T), expected)


def pairs(x_0: Tensor, x_0_other: Tensor, lambdas: Sequence[float]) -> None:
    """Refuse pairs of pictures to be mixed that are no pairs, or no shares."""
    images("x_0", x_0)
    shape("x_0_other", images("x_0_other", x_0_other), x_0.shape)
    if len(lambdas) == 0:
        raise ValueError("lambdas: expected at least one number, got none")


def device(model: Any, schedule: Tables) -> torch.device:
    """Return the schedule's device, if the network is there, too."""
    weight = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    if weight is not None and weight.device != schedule.beta.device:
        raise ValueError(
            f"schedule: expected its tables on the network's device, {weight.device}, got {schedule.beta.device}; "
            "use schedule.to(...)"
        )
    return schedule.beta.device


def evaluation(
    model: Any,
    x_0: Tensor,
    schedule: Tables,
    batch_size: int,
    variance: str,
    decoder: str,
    levels: int,
) -> int:
    """Return the batch size, if the bound can be evaluated for these pictures with these choices."""
    if images("x_0", x_0).dim() < 2 or len(x_0) == 0:
        raise ValueError(f"x_0: expected shape (B, ...), got {tuple(x_0.shape)}")
    if x_0.device != device(model, schedule):
        raise ValueError(
            f"x_0: expected pictures on {schedule.beta.device}, where the schedule is, got {x_0.device}"
        )
    size = whole("batch_size", batch_size, 1)
    one_of("variance", variance, ("large", "small"))
    if one_of("decoder", decoder, ("exact", "tanh", "continuous")) != "continuous":
        for part in x_0.split(size):
            on_levels("x_0", part, levels)
    return size


def first_step(name: str, schedule: Tables) -> str:
    """Return the name of a variance of the last step back that the schedule has."""
    if (
        one_of("first_step", name, ("original", "beta")) == "original"
        and schedule.T == 1
    ):
        raise ValueError('first_step: expected "beta" for T = 1, got "original"')
    return name


def several(name: str, x: Tensor) -> int:
    """Return how many pictures there are, if their scatter can be measured."""
    if len(x) < 2:
        raise ValueError(f"{name}: expected at least 2 pictures, got {len(x)}")
    return len(x)


def clouds(**features: Tensor) -> None:
    """Refuse sets of features that cannot be compared."""
    width = next(iter(features.values())).shape[-1]
    for name, value in features.items():
        if value.dim() != 2 or len(value) < 2 or value.shape[1] != width:
            raise ValueError(
                f"{name}: expected shape (at least 2, {width}), got {tuple(value.shape)}"
            )
        if not value.isfinite().all():
            raise ValueError(f"{name}: expected finite numbers")


def described(features: Tensor, batch: Tensor) -> Tensor:
    """Return the features of a batch, one row a picture."""
    if features.dim() != 2 or len(features) != len(batch):
        raise ValueError(
            f"features: expected shape ({len(batch)}, D), got {tuple(features.shape)}"
        )
    return features


def enough(have: int, n: int) -> None:
    """Refuse batches that ended before n pictures had come."""
    if have < n:
        raise ValueError(
            f"batches: expected {n} pictures, got {have}; a distance of fewer is larger: pass n={have} if that is what "
            "you want, and say so"
        )


def probabilities(p: Tensor) -> Tensor:
    """Return rows of probabilities."""
    if p.dim() != 2 or not (p >= 0).all() or not ((p.sum(1) - 1).abs() < 1e-4).all():
        raise ValueError(
            f"probabilities: expected rows of numbers >= 0 that sum to 1, got shape {tuple(p.shape)}"
        )
    return p


def unet_sizes(
    *,
    in_channels: int,
    channels: int,
    channel_mult: Sequence[int],
    num_res_blocks: int,
    attention_levels: Sequence[bool],
    dropout: float,
    norm_num_groups: int,
    num_classes: int,
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
        "num_classes": whole("num_classes", num_classes, 0),
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


def labels(y: Tensor | None, t: Tensor, num_classes: int) -> Tensor | None:
    """Return one label 0 ... num_classes a picture, the null label if y is None; None for a network without labels.

    The values of a tensor on an accelerator are not looked at.
    """
    if y is None:
        return torch.full_like(t, num_classes) if num_classes else None
    if num_classes == 0:
        raise ValueError("y: expected None, for this network knows no labels")
    if y.dtype != torch.int64:
        raise TypeError(f"y: expected int64, got {y.dtype}")
    if y.shape != t.shape:
        raise ValueError(
            f"y: expected one label a picture, shape {tuple(t.shape)}, got shape {tuple(y.shape)}"
        )
    if y.is_cpu and len(y) and not 0 <= int(y.min()) <= int(y.max()) <= num_classes:
        raise ValueError(
            f"y: expected 0 ... {num_classes}, of which the last is the null label, "
            f"got values from {int(y.min())} to {int(y.max())}"
        )
    return y
