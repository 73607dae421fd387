"""A device that is not there: tensors that say they are on "mps" or "cuda", and are computed on the CPU.

    with Pretended("mps") as device:
        x = torch.zeros(3, device="mps")
        x + torch.ones(3)  # raises, as on the real one
        device.waits  # how often the computer had to wait for it

It refuses what the real one refuses: tensors of two devices in one operation (a number, that is a CPU tensor without
dimensions, may join), the generator of another device, NumPy; and what MPS lacks: float64 and some kernels. It says
nothing of speed, memory or rounding. A tensor is where its storage is.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode

# Of torch's own list of what MPS lacks (torch/testing/_internal/common_mps.py), what this book could want.
LACKING = {
    "special_log_ndtr", "special_ndtri", "linalg_eigh", "linalg_eigvalsh", "linalg_svdvals", "matrix_exp",
}  # fmt: skip
# What may have arguments on two devices, because it brings them together.
MOVING = {"to", "cpu", "cuda", "copy_", "type_as", "tensor", "as_tensor", "asarray"}
# What concerns no values: names of devices, and `x.data = y`, by which a layer moves.
NAMES = {"device", "_parse_to", "data", "_has_compatible_shallow_copy_type"}
# Where even a number may not come from the CPU.
STRICT = {"cat", "stack", "matmul", "mm", "bmm", "linear", "conv2d", "gather", "lerp"}
# What the computer needs the answer of.
WAITING = {
    "item", "tolist", "nonzero", "unique", "equal", "allclose", "is_nonzero", "__bool__", "__float__", "__int__",
    "__index__", "__format__", "__repr__", "__contains__",
}  # fmt: skip


def tensors_in(given: Any) -> Iterator[Tensor]:
    """All tensors among arguments or results, also those in lists and records."""
    if isinstance(given, Tensor):
        yield given
    elif isinstance(given, dict):
        yield from tensors_in(list(given.values()))
    elif isinstance(given, list | tuple):
        for part in given:
            yield from tensors_in(part)


class Pretended(TorchFunctionMode):
    """While it is on, there is a device of this kind; `waits` counts how often it was waited for."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.device = torch.device(kind, 0)  # with a number, as a tensor has it
        self.waits = 0
        self._storages: dict[int, StorageWeakRef] = {}

    def __enter__(self) -> Self:
        self._real, names, places = (
            torch.Generator,
            self._names,
            (torch.device("cpu"), self.device),
        )

        class Generator(torch.Generator):
            device = places[0]  # hides torch's property, which cannot be set

            def __new__(cls, device: torch.device | str = "cpu") -> Self:
                made = super().__new__(cls)
                made.device = places[names(device)]
                return made

        torch.Generator = Generator  # type: ignore[misc]
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch.Generator = self._real  # type: ignore[misc]

    def holds(self, x: Any) -> bool:
        """Whether a tensor is on the device."""
        return isinstance(x, Tensor) and x.untyped_storage()._cdata in self._storages

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        # All memory is the CPU's: none is pinned.
        kwargs = {k: v for k, v in (kwargs or {}).items() if k != "pin_memory"}
        name = getattr(func, "__name__", "")
        if name in ("__get__", "__set__"):  # x.grad, and x.grad = ...
            name = func.__self__.__name__  # type: ignore[attr-defined]
        # What else is being copied stands beside a tensor that is copied.
        given = list(tensors_in(args[0] if name == "__deepcopy__" else (args, kwargs)))
        here = any(map(self.holds, given))
        if here and name == "device":
            return self.device
        if here and name in ("is_cpu", "is_cuda", "is_mps"):
            return name == f"is_{self.device.type}"

        if name == "pin_memory":
            return args[0]
        if name in NAMES:
            return func(*args, **kwargs)
        there = self._goes_there(name, args, kwargs, here)
        self._refuse(name, args, kwargs, given, here, there)
        self.waits += here and (name in WAITING or (name in MOVING and not there))
        call = Tensor.cpu if name == "cuda" else func
        result = call(
            *map(self._on_cpu, args), **{k: self._on_cpu(v) for k, v in kwargs.items()}
        )
        if name in MOVING - {"copy_"} and there != self.holds(result):
            result = result.clone()  # what moves shares no memory
        for x in tensors_in(result) if there else ():
            self._put(x, name)
        return result

    def _on_cpu(self, a: Any) -> Any:
        return torch.device("cpu") if self._names(a) else a

    def _names(self, a: Any) -> bool:
        """Whether an argument names this device."""
        if isinstance(a, str) and a.split(":")[0] == self.device.type:
            a = torch.device(a)
        return isinstance(a, torch.device) and a.type == self.device.type

    def _goes_there(
        self, name: str, args: Sequence[Any], kwargs: dict[str, Any], here: bool
    ) -> bool:
        """Whether the result is on the device."""
        if name in ("copy_", "__setitem__"):
            return self.holds(args[0])
        if name in ("cpu", "cuda"):
            return name == self.device.type
        target = kwargs.get("device")
        if name in ("to", "type_as"):
            for a in (*args[1:], kwargs.get("other")):
                if isinstance(a, Tensor):
                    return self.holds(a)
                if isinstance(a, str | torch.device):
                    target = a
        if target is not None:
            return self._names(target)
        return (
            self.holds(args[0]) if name in ("tensor", "as_tensor", "asarray") else here
        )

    def _refuse(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        given: list[Tensor],
        here: bool,
        there: bool,
    ) -> None:
        """Raise where the real device would."""
        generator = kwargs.get("generator")
        if generator is not None and (generator.device.type != "cpu") != there:
            wanted = self.device.type if there else "cpu"
            raise RuntimeError(
                f"Expected a '{wanted}' device type for generator but found '{generator.device}'"
            )
        if not here or name in MOVING:
            return
        if name in ("numpy", "__array__", "__dlpack__"):
            raise TypeError(
                f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() first"
            )
        if self.device.type == "mps" and name in LACKING:
            raise NotImplementedError(
                f"The operator 'aten::{name}' is not implemented for the MPS device"
            )
        if name in ("__getitem__", "__setitem__"):
            if self.holds(args[0]):
                return  # the CPU's indices and values are welcome
            if any(map(self.holds, tensors_in(args[1]))):
                raise RuntimeError(
                    "indices should be either on cpu or on the same device as the indexed tensor (cpu)"
                )
        inplace = name.startswith("__i") or (
            name.endswith("_") and not name.endswith("__")
        )
        strict = name in STRICT or name == "grad"
        if any(
            not self.holds(x) and (x.dim() > 0 or strict or (inplace and x is args[0]))
            for x in given
        ):
            raise RuntimeError(
                f"{name}: Expected all tensors to be on the same device, but found at least two devices, "
                f"{self.device} and cpu!"
            )

    def _put(self, x: Tensor, name: str) -> None:
        if self.device.type == "mps" and x.dtype in (torch.float64, torch.complex128):
            raise TypeError(
                f"{name}: Cannot convert a MPS Tensor to float64, which the framework doesn't support"
            )
        storage = x.untyped_storage()
        if storage._cdata not in self._storages:
            # The weak reference keeps the number from being given to another storage.
            self._storages[storage._cdata] = StorageWeakRef(storage)
