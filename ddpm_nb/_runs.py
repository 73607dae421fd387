"""What a long run needs around its steps: its launch and its end. The chapter on training tells why."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Self

import torch

from ddpm_nb import _files
from ddpm_nb._files import make_folder


def check_launch(accelerator: Any, precision: str) -> None:
    """Refuse what a launcher asks for and this trainer would not do.

    Raises:
        ValueError: if `accelerate launch`, or its configuration file, asks for another precision, for gradients that
            are gathered over several batches, or for weights that are shared out over processes.
    """
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if asked not in ("no", precision):
        raise ValueError(
            f"precision: expected {asked}, as the launcher says (ACCELERATE_MIXED_PRECISION), got {precision}; choose "
            f"precision {asked}, or launch with --mixed_precision no"
        )
    steps = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if steps != "1":
        raise ValueError(
            f"gradient_accumulation_steps: the launcher asks for {steps} batches an update "
            "(ACCELERATE_GRADIENT_ACCUMULATION_STEPS), which is not done here; choose batch_size and "
            "gradient_accumulation_steps, and launch without it"
        )
    kind = accelerator.distributed_type.value
    if kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM", "TP"):
        raise ValueError(
            f"accelerator: expected processes that hold all weights each, got {kind}; launch with --multi_gpu"
        )


def check_shares(config: Any, processes: int) -> None:
    """Refuse a batch that cannot be shared out over processes and their accumulation steps."""
    shares = processes * config.gradient_accumulation_steps
    if config.batch_size % shares:
        raise ValueError(
            f"batch_size: expected a multiple of {processes} processes x "
            f"{config.gradient_accumulation_steps} gradient_accumulation_steps, got {config.batch_size}"
        )


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Keep a folder for one run; the claim ends with the process, however it ends.

    Raises:
        ValueError: if another run is at work there.
    """
    make_folder("folder", folder)
    taken = f"folder: expected one where no run is at work, got {folder}: another process trains there"
    with _files.claimed(folder / ".lock", taken):
        yield


def no_accelerator() -> bool:
    """Return whether there is nothing but CPUs here."""
    if hasattr(torch, "accelerator"):  # from torch 2.6 on
        return not torch.accelerator.is_available()
    return not (torch.cuda.is_available() or torch.backends.mps.is_available())


class StopSignals:
    """Ctrl-C and SIGTERM become a wish, `received`, that a loop can grant at a good moment.

    When the block is left, the signal takes its usual course: KeyboardInterrupt, or the end of the process. A second
    one does so at once, but only where a process is alone: launchers send the same signal more than once.
    """

    def __init__(self, alone: bool) -> None:
        self.alone = alone
        self.received = 0
        self._before: dict[int, Callable[..., Any] | int | None] = {}

    @property
    def name(self) -> str:
        """What to call the signal that was received."""
        return signal.Signals(self.received).name

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # others get none
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received and self.alone:
            self._restore()
            signal.raise_signal(number)
        self.received = number

    def _restore(self) -> None:
        for number, handler in self._before.items():
            # None: a handler that is not Python's
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def __exit__(self, kind: type[BaseException] | None, *others: object) -> None:
        self._restore()
        if self.received and kind is None:
            signal.raise_signal(self.received)
