"""The options of a run. Each says at its field what it means and may be; everything else asks the field.

The command line takes its flags and its help from there, the checks their bounds, and a run that goes on what may have
changed. Configurations of older versions are read with the names that they had.
"""

import json
import math
import numbers
from collections.abc import Iterable
from dataclasses import Field, dataclass, field, fields
from functools import partial
from typing import Any, Literal, Self, get_args, get_origin

# What older versions called otherwise.
OLD_NAMES = {
    "multipliers": "channel_mult",
    "blocks": "num_res_blocks",
    "attention": "attention_levels",
    "groups": "norm_num_groups",
    "warmup": "warmup_steps",
    "clip_length": "max_grad_norm",
    "minutes": "max_minutes",
    "pieces": "gradient_accumulation_steps",
}


def option(
    default: Any,
    meaning: str,
    *,
    low: float | None = None,
    above: float | None = None,
    below: float | None = None,
    may_change: bool = False,
) -> Any:
    """Return a field of a configuration that carries its own explanation and its own rules.

    A `Literal` lists its choices in its type.

    Args:
        default: its value where none is given.
        meaning: what `--help` says.
        low: the smallest value.
        above: what the value must exceed; then it must be finite, too.
        below: what it must stay below.
        may_change: whether a run may go on with another value; what may not decides what is learned.
    """
    rules = {"low": low, "above": above, "below": below, "may_change": may_change}
    return field(default=default, metadata={"help": meaning} | rules)


# What a run may go on with another value of.
setting = partial(option, may_change=True)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options that are checked when they are made, and read from JSON."""

    def __post_init__(self) -> None:
        """Turn each option into Python's own number or tuple, and refuse what its field does not allow."""
        for f in fields(self):
            value = _plain(f.name, f.type, getattr(self, f.name))
            object.__setattr__(self, f.name, value)
            for part in value if isinstance(value, tuple) else (value,):
                if part is not None:
                    _check(f, part)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the configuration that `json.dumps(asdict(config))` has written.

        What an older version called otherwise, it has under today's name; what that version did not know yet has its
        default, which stands for what it did.

        Raises:
            ValueError: if the text is something else, or has an option that this version does not know.
        """
        try:
            values = json.loads(text)
        except ValueError:
            values = None
        if not isinstance(values, dict):
            raise ValueError(f"text: expected a configuration, got {text[:80]!r}")
        values = {OLD_NAMES.get(name, name): value for name, value in values.items()}
        if "tensorboard" in values:  # a switch, before there were other trackers
            values["log_with"] = "tensorboard" if values.pop("tensorboard") else "none"
        if unknown := sorted(values.keys() - {f.name for f in fields(cls)}):
            raise ValueError(
                f"text: expected options of this version, got {', '.join(unknown)}, which another version of ddpm_nb "
                "has written"
            )
        return cls(**values)


def _plain(name: str, kind: Any, value: Any) -> Any:
    """Return an option as Python's own number or tuple; numpy's are welcome."""
    if get_origin(kind) is Literal or (value is None and type(None) in get_args(kind)):
        return value
    if get_origin(kind) is tuple:
        if isinstance(value, Iterable):  # JSON and the command line bring lists
            return tuple(_plain(name, get_args(kind)[0], part) for part in value)
        raise ValueError(f"{name}: expected one for each size, got {value!r}")
    words, allowed, make = {
        bool: ("True or False", bool, bool),
        int: ("a whole number", numbers.Integral, int),
    }.get(kind, ("a number", numbers.Real, float))
    if not isinstance(value, allowed) or (kind is not bool and isinstance(value, bool)):
        raise ValueError(f"{name}: expected {words}, got {value!r}")
    return make(value)


def _check(f: Field[Any], value: Any) -> None:
    """Refuse a value that is none of the choices, or out of bounds; NaN is out of all bounds."""
    low, above, below = (f.metadata[rule] for rule in ("low", "above", "below"))
    if get_origin(f.type) is Literal:
        choices = get_args(f.type)
        good, words = value in choices, f"one of {', '.join(map(str, choices))}"
    elif above is not None:
        good = above < value < math.inf
        words = "a positive number" if above == 0 else f"a number above {above}"
    elif below is not None:
        good, words = low <= value < below, f"a number in [{low}, {below})"
    else:
        good, words = low is None or value >= low, f"at least {low}"
    if not good:
        raise ValueError(f"{f.name}: expected {words}, got {value!r}")
