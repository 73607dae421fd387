"""The ceiling: what a step's convolutions and matrix products take alone.

A network cannot be faster than these, unless they become faster themselves. So its share of the ceiling says how
much is left to gain in everything else: norms, activations, copies, dropout, the optimizer.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode, flop_registry


def blank(x: Tensor) -> Tensor:
    """Return random numbers in the shape, the type and the layout of x."""
    numbers = 1 + sum(
        (n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True)
    )  # in memory
    return torch.randn(numbers).to(x.dtype).as_strided(x.shape, x.stride())


class Recorder(TorchDispatchMode):
    """While it is on, it notes each product that runs: below autocast and autograd, as the kernel is called.

    A product is what torch counts as arithmetic: convolutions and products of matrices, forward and backward. Of its
    tensors only shape, type and layout are kept. Products that agree in all of these share their numbers, no more:
    two tensors of one product are never the same.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Callable[[], Any]] = []
        self._known: dict[str, Callable[[], Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run the operator as it is, and note it if it is a product."""
        kwargs = kwargs or {}
        if func.overloadpacket in flop_registry:
            given = tree_map_only(
                Tensor, lambda x: (x.shape, x.stride(), x.dtype), (args, kwargs)
            )
            key = f"{func} {given}"
            if key not in self._known:
                blanks, named = tree_map_only(Tensor, blank, (args, kwargs))
                self._known[key] = partial(func, *blanks, **named)
            self.calls.append(self._known[key])
        return func(*args, **kwargs)


def bare(step: Callable[[], None]) -> Callable[[], None]:
    """Return a function that runs the products of `step`, in their order, and nothing else."""
    with Recorder() as recorder:
        step()

    @torch.no_grad()
    def products() -> None:
        for call in recorder.calls:
            call()

    return products


def flop(step: Callable[[], None]) -> int:
    """Return the multiplications and additions of a step's products, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        step()
    total: int = counter.get_total_flops()
    return total
