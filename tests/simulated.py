"""A device that is not there, below autograd: its tensors carry a CPU tensor, and a dispatch mode computes with it.

    with Simulated() as device:
        x = torch.zeros(3, device=NAME)
        x + torch.ones(3)  # raises, as on a real one, and names the line
        device.waits  # where the computer waited for it, or copied to it

It is torch's own backend for devices of others, "privateuse1", under the name of this module. A process has one, and
keeps it: so tests with it run in this process only while the mode is on, and nothing is patched when it is off.
"""

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

NAME = "simulated"
DEVICE = torch.device("cpu")  # until `_register` has made the name known
ROOT = Path(__file__).resolve().parents[1]
# What returns a number to the computer, or has a size that only the device knows.
WAITING = {
    "_local_scalar_dense",
    "equal",
    "is_nonzero",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
}
# What MPS, the device without float64, has no kernel for.
LACKING = {"special_log_ndtr", "_linalg_eigh", "_linalg_svd"}
# What torch computes in half precision under autocast, of what the networks here use.
SHORT = ("conv2d", "linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "scaled_dot_product_attention")  # fmt: skip
_AUTOCAST = [torch.library.Library(space, "IMPL", "AutocastPrivateUse1") for space in ("_", "aten")]  # fmt: skip


@dataclass(frozen=True)
class Place:
    """A line of the project: what happened there, in which function of which file."""

    what: str
    file: str
    function: str
    line: int

    def __str__(self) -> str:
        return f"{self.what} at {self.file}:{self.line} in {self.function}"


def here(what: str) -> Place:
    """Return the innermost line of the package or of a test that is at work."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        path = Path(code.co_filename)
        if path.parent in (ROOT / "ddpm_nb", ROOT / "tests") and path != Path(__file__):
            # A comprehension has a frame of its own before Python 3.12: it is its function.
            named = [part for part in code.co_qualname.split(".") if part[0] != "<"]
            return Place(what, path.name, named[-1], frame.f_lineno)
        frame = frame.f_back
    return Place(what, "?", "?", 0)


class Fault(RuntimeError):
    """What a real device refuses; the message names the line."""


class OnDevice(Tensor):
    """A tensor that says it is on the device; `held` has its numbers."""

    held: Tensor

    def __new__(cls, held: Tensor) -> Self:
        made: Self = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )
        made.held = held
        return made

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        """Tell torch that this is a wrapper: a layer then moves by exchanging its weights."""
        return ["held"], None

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Be saved as what comes to the CPU."""
        return self.cpu().__reduce_ex__(protocol)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"OnDevice({self.shape}, {self.dtype})"

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func == Tensor.data.__set__ and isinstance(args[1], OnDevice):  # type: ignore[attr-defined]
                args[0].held = args[1].held
            if func is Tensor.tolist:  # torch refuses it for a wrapper
                return args[0].cpu().tolist()
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if Simulated.now is None:
            raise Fault(f"{func}: the device is gone")
        return Simulated.now.compute(func, args, kwargs or {})


class _Generator(torch.Generator):
    """A generator that remembers for which device it was made; the CPU draws."""

    device = torch.device("cpu")  # hides torch's property, which cannot be set

    def __new__(cls, device: torch.device | str = "cpu") -> Self:
        made = super().__new__(cls)
        if torch.device(device).type == NAME and Simulated.now is not None:
            made.device = DEVICE
            # Torch hands on another object than the one it was given, with the same number.
            Simulated.now.generators[made._cdata] = made
        return made


class Simulated(TorchDispatchMode):
    """While it is on, the device is there; `waits` says where the computer waited for it.

    Args:
        float64: whether the device has it. Where not, it lacks some kernels, too, as MPS does.
    """

    now: "Simulated | None" = None

    def __init__(self, float64: bool = True) -> None:
        super().__init__()
        _register()
        self.float64 = float64
        self.waits: list[Place] = []
        self.pinned: dict[int, Tensor] = {}  # kept, or another would get its place
        # Copies under way to the CPU: where to, and what.
        self.late: list[tuple[Tensor, Tensor]] = []
        self.generators: dict[int, torch.Generator] = {}

    def __enter__(self) -> Self:
        self._generator = torch.Generator
        torch.Generator = _Generator  # type: ignore[misc]
        Simulated.now = self
        # `torch.tensor(…, device=…)` makes a tensor on the CPU, and then moves it before our eyes.
        torch._C._set_only_lift_cpu_tensors(True)
        # Backward in this thread: torch has no queue for a device that came late, and the stack names the line.
        self._one_thread = torch.autograd.set_multithreading_enabled(False)
        self._one_thread.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._one_thread.__exit__(None, None, None)
        torch._C._set_only_lift_cpu_tensors(False)
        Simulated.now = None
        torch.Generator = self._generator  # type: ignore[misc]

    def counted(self) -> Counter[str]:
        """How often the computer waited, by file and function."""
        return Counter(f"{at.file}:{at.function}" for at in self.waits)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return self.compute(func, args, kwargs or {})

    def refuse(self, what: str) -> None:
        """Raise, and name the line."""
        raise Fault(str(here(what)))

    def compute(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Do on the CPU what is asked of the device, if the device would."""
        name = func.overloadpacket.__name__
        given = [x for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)]
        inside = any(isinstance(x, OnDevice) for x in given)
        asked = kwargs.get("device")
        there = inside if asked is None else torch.device(asked).type == NAME
        if name == "is_pinned":
            return self._pins(args[0])
        if name == "_pin_memory":
            pinned: Tensor = args[0].clone()
            self.pinned[pinned.data_ptr()] = pinned
            return pinned
        if name == "copy_" and inside and self._pins(args[0]) and args[2:] == (True,):
            self.late.append((args[0].zero_(), args[1].held.clone()))
            return args[0]
        if not inside and not there and kwargs.get("generator") is None:
            return func(*args, **kwargs)
        if name == "copy_":
            there = isinstance(args[0], OnDevice)
        self._look(name, given, args, kwargs, inside, there)
        pins = False
        if asked is not None:
            kwargs = kwargs | {"device": torch.device("cpu")}
            pins = bool(kwargs.pop("pin_memory", None))
            kwargs.pop("non_blocking", None)
        held = tree_map(lambda x: x.held if isinstance(x, OnDevice) else x, (args, kwargs))  # fmt: skip
        result = func(*held[0], **held[1])
        if name == "_to_copy" and result is held[0][0]:
            result = result.clone()
        if pins:
            self.pinned[result.data_ptr()] = result
        # What is written in place is the tensor that was given, not a new one.
        known = {id(x.held): x for x in given if isinstance(x, OnDevice)}
        if not there:
            return result
        return tree_map(lambda x: self._put(x, known), result)

    def _look(
        self, name: str, given: list[Tensor], args: Any, kwargs: dict[str, Any], inside: bool, there: bool
    ) -> None:  # fmt: skip
        """Write down a wait; refuse what the device would."""
        if name in ("_to_copy", "copy_"):
            if kwargs.get("non_blocking") and self._pins(args[0]):
                return
            if inside and not there:
                self._wait("copy to the CPU")
            source = args[1] if name == "copy_" else args[0]
            if there and not isinstance(source, OnDevice):
                self._wait("copy from the CPU")
            return
        if name in WAITING:
            self._wait(name)
        generator = kwargs.get("generator")
        if generator is not None and (generator._cdata in self.generators) != there:
            self.refuse(f"{name}: generator on {'the CPU' if there else 'the device'}")
        if not inside:
            return
        if name in LACKING and not self.float64:
            self.refuse(f"{name}: no kernel")
        for x in given:
            if not isinstance(x, OnDevice) and x.dim() > 0:
                if name == "index" and isinstance(args[0], OnDevice):
                    self._wait("index from the CPU")
                else:
                    self.refuse(f"{name}: tensor {tuple(x.shape)} on the CPU")

    def _pins(self, x: Tensor) -> bool:
        return not isinstance(x, OnDevice) and x.data_ptr() in self.pinned

    def _wait(self, what: str) -> None:
        """Write a wait down; what was under way to the CPU has then come."""
        self.waits.append(here(what))
        for place, values in self.late:
            place.copy_(values)
        self.late.clear()

    def _put(self, x: Any, known: dict[int, OnDevice]) -> Any:
        if not isinstance(x, Tensor):
            return x
        if id(x) in known:
            return known[id(x)]
        if not self.float64 and x.dtype in (torch.float64, torch.complex128):
            self.refuse("float64 on a device without it")
        return OnDevice(x)


class _Module:
    """What torch asks of a device's own module, torch.cuda for instance."""

    def is_available(self) -> bool:
        return Simulated.now is not None

    def is_initialized(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        """Its global random numbers are the CPU's."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


def _short(name: str) -> Callable[..., Any]:
    """Return what autocast does for an operation: its float32 arguments become short."""
    operation = getattr(torch.ops.aten, name).default
    without = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def call(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(without):
            dtype = torch.get_autocast_dtype(NAME)
            short = tree_map(
                lambda x: (
                    x.to(dtype)
                    if isinstance(x, Tensor) and x.dtype == torch.float32
                    else x
                ),
                (args, kwargs),
            )
            return operation(*short[0], **short[1])

    return call


def _register() -> None:
    """Make the device known to torch, once a process."""
    global DEVICE
    if DEVICE.type == NAME:
        return
    backend_registration._setup_privateuseone_for_python_backend(NAME, _Module())
    DEVICE = torch.device(NAME, 0)
    others, aten = _AUTOCAST
    others.fallback(torch.library.fallthrough_kernel)
    for name in SHORT:
        aten.impl(name, _short(name))
