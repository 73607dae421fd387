"""How a model is asked: without gradients, in eval mode, no more pictures at once than fit, in its own type."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_nb import _checks as check


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Put a model into eval mode, without gradients; put back each part's mode afterwards."""
    parts = model.modules() if isinstance(model, nn.Module) else ()
    training = [part for part in parts if part.training]
    for part in training:
        part.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for part in training:
            part.training = True


class InBatches(nn.Module):
    """A model that gets no more than `batch_size` pictures at once."""

    def __init__(
        self, model: Callable[[Tensor, Tensor], Tensor], batch_size: int
    ) -> None:
        super().__init__()
        self.model, self.batch_size = model, check.whole("batch_size", batch_size, 1)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the model's answers (B, ...) at x_t (B, ...)."""
        parts = zip(x_t.split(self.batch_size), t.split(self.batch_size))
        return torch.cat([check.answer(self.model(*part), part[0]) for part in parts])


class InFloat64(nn.Module):
    """A model for those who work in float64, here or on the CPU; it is asked in the type and place of `like`."""

    def __init__(self, model: Callable[[Tensor, Tensor], Tensor], like: Tensor) -> None:
        super().__init__()
        self.model, self.like = model, like

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the model's answers at float64 x_t (B, ...), as float64, where x_t is."""
        answer = self.model(x_t.to(self.like), t.to(self.like.device))
        return answer.to(x_t.device).double()  # in two steps: MPS has no float64
