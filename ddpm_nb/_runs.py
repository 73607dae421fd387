"""What a long run needs around its steps: its launch, its folder, its log, its files verified, its end.

The chapter on training tells why, and what a checkpoint must hold.
"""

import gc
import io
import json
import math
import os
import platform
import signal
import sys
import threading
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Self, TypeAlias

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ddpm_nb import _devices, _files
from ddpm_nb._data import grey_levels, save_image_grid, training_set
from ddpm_nb._files import make_folder, write_whole
from ddpm_nb.algorithms import TrainStep

# What accelerate can write to; each package has the name of its tracker.
Tracker: TypeAlias = Literal[
    "none", "tensorboard", "wandb", "trackio", "mlflow", "comet_ml", "aim", "clearml", "dvclive", "swanlab"
]  # fmt: skip

# The most exact first; in bf16, other than in fp16, no update is ever skipped.
PRECISIONS = ("float32", "bf16", "fp16")
# How many times faster another one must be than the one before, and the seconds for which each is measured.
FASTER, LONG_ENOUGH = 1.1, 0.5


# --- launch


def check_together(config: Any) -> None:
    """Refuse options that do not fit together."""
    steps = config.gradient_accumulation_steps
    if config.batch_size % steps:
        raise ValueError(
            f"gradient_accumulation_steps: expected a divisor of batch_size = {config.batch_size}, got {steps}"
        )
    if config.clip == "each" and config.precision == "fp16":
        raise ValueError(
            "clip: 'each' expected with float32 or bf16, got fp16, whose scaled gradients have no length before the "
            "whole batch is done"
        )


def accelerator(config: Any) -> Any:
    """Return accelerate's view of this machine and of the other processes, for such a run.

    Raises:
        ImportError: if the package that the run is to be logged with is missing.
        ValueError: if the batch cannot be shared out, or the launcher asks for what is not done.
    """
    with warnings.catch_warnings():
        # In a notebook without ipywidgets it complains about a bar nobody asked for.
        warnings.simplefilter("ignore")
        from accelerate import Accelerator
        from accelerate.tracking import get_available_trackers
        from accelerate.utils import ProjectConfiguration

    tracker = config.log_with if config.log_with != "none" else None
    if tracker and tracker not in [kind.value for kind in get_available_trackers()]:
        raise ImportError(
            f"log_with: expected a tracker whose package is installed, got {tracker}; `pip install {tracker}`"
        )
    # Precision is our own affair: that of accelerate refuses fp16 on a CPU. And only where it is told of a CPU, several
    # processes without a GPU find one another. Where trackers write is said when the folder is known.
    made = Accelerator(
        mixed_precision="no",
        cpu=no_accelerator(),
        log_with=tracker,
        project_config=ProjectConfiguration(logging_dir="."),
    )
    check_launch(made, config.precision)
    shares = made.num_processes * config.gradient_accumulation_steps
    if config.batch_size % shares:
        raise ValueError(
            f"batch_size: expected a multiple of {made.num_processes} processes x "
            f"{config.gradient_accumulation_steps} gradient_accumulation_steps, got {config.batch_size}"
        )
    return made


def asked_precision() -> str:
    """Return which precision a launcher asks for; "no" where it asks for none."""
    return os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()


def check_launch(accelerator: Any, precision: str) -> None:
    """Refuse what a launcher asks for and this trainer would not do.

    Raises:
        ValueError: if `accelerate launch`, or its configuration file, asks for another precision, for gradients that
            are gathered over several batches, or for weights that are shared out over processes.
    """
    asked = asked_precision()
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


def no_accelerator() -> bool:
    """Return whether there is nothing but CPUs here."""
    if hasattr(torch, "accelerator"):  # from torch 2.6 on
        return not torch.accelerator.is_available()
    return not (torch.cuda.is_available() or torch.backends.mps.is_available())


def warn_of_choices(trainer: Any) -> None:
    """Warn of a schedule that leaves a share of a picture at t = T, and of a GPU that has no bf16."""
    config, accelerator = trainer.config, trainer.accelerator
    left = float(trainer.noise_schedule.alpha_bar[-1])
    if left > 0.001 and accelerator.is_main_process:
        warnings.warn(
            f"schedule, T: {config.schedule} with T = {config.T} leaves a share of {left:.2g} of a picture's power at "
            "t = T, but sampling starts from noise alone: samples will be flawed; use more steps, or cosine",
            stacklevel=3,
        )
    if config.precision == "bf16" and accelerator.device.type == "cuda":
        major, _ = torch.cuda.get_device_capability(accelerator.device)
        if major < 8:
            warnings.warn(
                "precision: this GPU only imitates bf16, slowly; use fp16", stacklevel=3
            )


def fastest(config: Any, images: Tensor, learner: Callable[[Any, Tensor], Any]) -> Any:
    """Return the configuration with the precision and the memory layout that are fastest here, tried for some seconds.

    Each way does updates of a learner that is thrown away, just as they will be done (compiled, too, if it is to be
    compiled). The most exact way, in the layout of the configuration, stays unless another is FASTER. One that the
    device cannot do, or has no memory for, is passed over; so is fp16 where each part's gradient is clipped.

    Raises:
        RuntimeError: if the device can do none.
    """
    few, least, best = training_set(images, config)[: config.batch_size], math.inf, None
    asked, failed = asked_precision(), RuntimeError("precision: none fits the options")
    for precision in PRECISIONS if asked == "no" else (asked,):
        for channels_last in (config.channels_last, not config.channels_last):
            if precision == "fp16" and config.clip == "each":
                continue
            way = replace(config, precision=precision, channels_last=channels_last)
            try:
                with warnings.catch_warnings(action="ignore"):
                    spent = seconds_an_update(learner(way, few))
            except RuntimeError as error:  # torch's for no memory is one, too
                failed = error
                continue
            if spent * FASTER < least:
                best, least = way, spent
            gc.collect()  # a compiled network refers to itself, and holds memory
    if best is None:
        raise failed
    return best


def seconds_an_update(learner: Any) -> float:
    """Return how long an update takes, in the slowest process; all processes must call it."""

    def seconds(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            loss = learner.step().loss
        float(loss)  # waits for the device
        passed = round(1e6 * (time.perf_counter() - start))
        return highest(learner.accelerator, passed)[0] / 1e6

    seconds(3 if learner.config.compile else 1)  # chooses kernels, records a graph
    count = 1
    while (spent := seconds(count)) < LONG_ENOUGH:
        count *= 2
    return spent / count


def settled(config: Any, folder: Path) -> Any:
    """Return the configuration with what the folder's run has found to be fastest, if that is to be found out."""
    path = folder / "config.json"
    if config.precision != "auto" or not path.exists():
        return config
    with holding(path):
        then = type(config).from_json(path.read_text())
    return replace(config, precision=then.precision, channels_last=then.channels_last)


def layout(network: nn.Module, channels_last: bool) -> torch.memory_format:
    """Lay a network's weights out in memory, and return the layout for its input."""
    if not channels_last:
        return torch.contiguous_format
    for weight in network.parameters():
        if weight.dim() == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return torch.channels_last


def restore_layout(optimizer: torch.optim.Optimizer) -> None:
    """Lay Adam's memory out as its weights lie, whatever the file had: fused Adam walks both in step."""
    for weight, memory in optimizer.state.items():
        for name in ("exp_avg", "exp_avg_sq"):
            memory[name] = torch.empty_like(weight).copy_(memory[name])


# --- random numbers and processes


def _random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the state of torch's global random numbers, on the CPU and on a device."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def _set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    if "mps" in state:
        torch.mps.set_rng_state(state["mps"])


class OwnChance:
    """torch's global random numbers for one trainer alone: within the block they are its own, `state`.

    Dropout and a network's first weights draw from the global ones; torch offers no other way.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device
        others = _random_state(device)
        torch.manual_seed(seed)
        self.state = _random_state(device)
        _set_random_state(others, device)

    def __enter__(self) -> None:
        self._others = _random_state(self.device)
        _set_random_state(self.state, self.device)

    def __exit__(self, *error: object) -> None:
        self.state = _random_state(self.device)
        _set_random_state(self._others, self.device)


def restore_chance(trainer: Any, state: dict[str, Any]) -> None:
    """Go on with the random numbers of a saved state.

    Another kind of device has other random numbers, and another number of processes other shares: then they start
    afresh, from a new place.
    """
    process, fresh = (
        trainer.accelerator.process_index,
        trainer.config.seed + trainer.steps,
    )
    same_kind = state["device"] == trainer.device.type
    if same_kind:
        trainer.batches.generator.set_state(state["generator"].cpu())
    else:
        trainer.batches.generator.manual_seed(fresh)
    if same_kind and len(state["dropout"]) == trainer.accelerator.num_processes:
        saved = state["dropout"][process]
        trainer.chance.state = {kind: part.cpu() for kind, part in saved.items()}
    else:
        trainer.chance = OwnChance(fresh + 1 + process, trainer.device)


def highest(accelerator: Any, *numbers: int) -> list[int]:
    """Return the highest of each number over all processes; all must call it."""
    if accelerator.num_processes == 1:
        return list(numbers)
    mine = torch.tensor([numbers], device=accelerator.device)
    # Not `reduce` with "max": accelerate before 1.14 takes it for a sum.
    together: Tensor = accelerator.gather(mine)
    return together.amax(0).tolist()


def mean_of(updates: Sequence[TrainStep], accelerator: Any) -> dict[str, Any]:
    """Return the mean of some updates as plain numbers; all processes must call it.

    Raises:
        FloatingPointError: if a loss is not finite.
    """
    losses = accelerator.reduce(torch.stack([u.loss for u in updates]), "mean")
    finite = losses.isfinite()
    if not finite.all():
        first = updates[int((~finite).nonzero()[0])].step
        raise FloatingPointError(
            f"images, config: expected a finite loss, got {losses[~finite][0]} at step {first}. Nothing was saved "
            "since. Go on with a lower learning_rate or max_grad_norm, and with bf16 or float32 instead of fp16"
        )
    norms = [u.grad_norm for u in updates if u.grad_norm is not None]
    norm = float(torch.stack(norms).mean())
    return {
        "step": updates[-1].step,
        "loss": float(losses.mean()),
        "learning_rate": updates[-1].learning_rate,
        # A step that fp16 skipped has no length; JSON has no infinity.
        "grad_norm": norm if math.isfinite(norm) else None,
    }


# --- checkpoints


def before(path: Path) -> Path:
    """Return where the checkpoint before the one at `path` is kept."""
    return path.with_name(f"{path.stem}-before{path.suffix}")


def check_finite(trainer: Any) -> None:
    """Refuse to save a trainer with weights that are not finite; all processes must call it."""
    tensors = {
        "model": trainer.model.parameters(),
        "ema": trainer.ema.model.parameters(),
        "optimizer": [m["exp_avg_sq"] for m in trainer.optimizer.state.values()],
    }
    for name, parts in tensors.items():
        each = [part.isfinite().all() for part in parts]
        finite = not each or bool(torch.stack(each).all())  # one wait for all
        # All ask all: or one would stop, and others wait for it.
        if any(highest(trainer.accelerator, not finite)):
            raise FloatingPointError(
                f"trainer: expected finite numbers after step {trainer.steps}, got others in its {name}; nothing was "
                "saved"
            )


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint whole, and keep the one before."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_whole(path, buffer.getvalue(), before=before(path))


def read_checkpoint(path: Path, version: int) -> dict[str, Any]:
    """Return what `write_checkpoint` has written; every part is verified, and no code is run.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, something else, or of another version.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"path: expected a checkpoint, got {path}: no such file"
        )
    # What is refused here is not touched; it may be worth a look.
    other = before(path)
    instead = (
        f". The one before is there: move {path.name} away, rename {other.name} to {path.name}, and the run goes on "
        "from there"
        if other.exists()
        else ""
    )
    try:
        with zipfile.ZipFile(path) as parts:
            if (part := parts.testzip()) is not None:
                raise zipfile.BadZipFile(f"its part {part}")
    except Exception as error:  # a damaged directory raises many kinds
        raise ValueError(
            f"path: expected a whole checkpoint, got {path}: damaged or cut off ({error}){instead}"
        ) from error
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        written = saved["format"]
        _ = saved["config"], saved["pictures"], saved["state"]["dropout"]
    except Exception as error:  # torch raises many kinds; all mean the same here
        raise ValueError(
            f"path: expected a checkpoint of ddpm_nb, got {path}: something else{instead}"
        ) from error
    if written != version:
        raise ValueError(
            f"path: expected a checkpoint of format {version}, got {written}: {path} was written by another version "
            "of ddpm_nb"
        )
    return saved


@contextmanager
def holding(path: Path | str) -> Iterator[None]:
    """Say which file a configuration that cannot be read stands in."""
    try:
        yield
    except ValueError as error:
        raise ValueError(
            f"path: {path} holds another configuration: {error}"
        ) from error


def check_same_run(path: Path | str, then: Any, saved: Any, trainer: Any) -> None:
    """Refuse to go on with another configuration (but for what may change) or other pictures."""
    now = trainer.config
    for f in fields(then):
        old, new = getattr(then, f.name), getattr(now, f.name)
        if not f.metadata["may_change"] and old != new:
            raise ValueError(
                f"{f.name}: expected {old!r}, with which {path} was trained, got {new!r}"
            )
    clipped = then.gradient_accumulation_steps * len(saved["state"]["dropout"])
    parts = now.gradient_accumulation_steps * trainer.accelerator.num_processes
    if now.clip == "each" and parts != clipped:
        raise ValueError(
            f"gradient_accumulation_steps: expected {clipped} over all processes, with which {path} was trained (each "
            f"is clipped by itself), got {parts}"
        )
    if saved["pictures"] != trainer.fingerprint:
        raise ValueError(
            f"images: expected those with which {path} was trained, got others (a folder is also read otherwise by "
            "another version of Pillow)"
        )


# --- networks


def _without_wrapper(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights without what torch.compile, DDP or AveragedModel add."""
    plain = {}
    for name, weight in weights.items():
        parts = [p for p in name.split(".") if p not in ("_orig_mod", "module")]
        if parts != ["n_averaged"]:
            plain[".".join(parts)] = weight.contiguous()
    return plain


def write_network(
    path: Path, network: nn.Module, config: Any, notes: dict[str, str]
) -> None:
    """Write a network's weights and notes on it, with the configuration that rebuilds it.

    Raises:
        OSError: if the file cannot be written; an older one stays as it was.
        TypeError: if the network is none.
        ValueError: if the configuration makes another network, which could not be loaded again.
    """
    if not isinstance(network, nn.Module):
        raise TypeError(f"network: expected a network, got {type(network)}")
    write_weights(path, network.state_dict(), config, notes)


def write_weights(
    path: Path, state: dict[str, Tensor], config: Any, notes: dict[str, str]
) -> None:
    """Write what `write_network` writes, from a network's state."""
    from safetensors.torch import save

    weights = _without_wrapper(state)
    channels, labels = channels_and_labels(weights)
    with torch.device("meta"):  # sizes alone
        expected = config.network(channels, labels).state_dict()
    for name in sorted(weights.keys() | expected.keys()):
        got, right = (
            tuple(part[name].shape) if name in part else "none"
            for part in (weights, expected)
        )
        if got != right:
            raise ValueError(
                f"network: expected one that config makes, got {name} of shape {got}, there it is {right}"
            )
    known = {
        "config": json.dumps(asdict(config)),
        "channels": str(channels),
        "prediction": "noise",
    }
    content = {name: weight.cpu() for name, weight in weights.items()}
    write_whole(path, save(content, metadata=notes | known))


def channels_and_labels(weights: dict[str, Tensor]) -> tuple[int, int]:
    """Return for how many channels and labels a network's weights are; its configuration says neither."""
    channels = len(weights["head.bias"]) if "head.bias" in weights else 3
    # One row more is for "no label".
    labels = len(weights["label.weight"]) - 1 if "label.weight" in weights else 0
    return channels, labels


def read_network(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the weights of a file and what is noted of them; in files of older versions, too, under today's names.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or has no configuration.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    if not path.exists():
        raise FileNotFoundError(f"path: expected a network, got {path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            about = dict(file.metadata() or {})
        weights = _without_wrapper(load_file(path))
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"path: expected a network, got {path}: damaged ({error})"
        ) from error
    if "config" not in about or "stem.weight" not in weights:
        raise ValueError(
            f"path: expected a file of save_network, got {path}: weights without a configuration"
        )
    channels = str(weights["stem.weight"].shape[1])
    if "height" not in about:  # the first version noted the width alone, as the size
        size = about.pop("size", "8" if channels == "1" else "32")
        about |= {"height": size, "width": size}
    about = {"channels": channels, "prediction": "noise"} | about
    return weights, dict(sorted(about.items()))


def fill(network: nn.Module, weights: dict[str, Tensor], path: Path | str) -> None:
    """Give a network the weights of a file, if they fit."""
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"path: expected weights that fit their configuration, got {path}: {error}"
        ) from error


# --- the run


class Log:
    """What a run writes for its reader, by the one process that writes: log.jsonl, sheets, and a tracker's files."""

    def __init__(self, folder: Path, trainer: Any) -> None:
        self.folder, self.path = folder, folder / "log.jsonl"
        self.accelerator, config = trainer.accelerator, trainer.config
        # A killed run may leave the part of a file, and lines beyond its checkpoint.
        for name in RUN:
            (folder / f"{name}.part").unlink(missing_ok=True)
        for part in (folder / "samples").glob("*.png.part"):
            part.unlink()
        text = json.dumps(asdict(config), indent=1)
        write_whole(folder / "config.json", text.encode())
        old = self.path.read_text().splitlines() if self.path.exists() else []
        kept = [line for line in old if _step_of(line) <= trainer.steps]
        # How long the earlier sessions took, together.
        self.minutes: float = json.loads(kept[-1]).get("minutes", 0.0) if kept else 0.0
        write_whole(self.path, "".join(line + "\n" for line in kept).encode())
        self._start_tracker(config, trainer.steps)

    def _start_tracker(self, config: Any, steps: int) -> None:
        """TensorBoard forgets what a killed run wrote beyond its checkpoint; elsewhere each session is a run."""
        self.accelerator.project_configuration.logging_dir = str(self.folder)
        if config.log_with == "tensorboard":
            again = {"tensorboard": {"purge_step": steps + 1}}
            self.accelerator.init_trackers("tensorboard", init_kwargs=again)
        elif config.log_with != "none":
            plain = {
                name: str(value) if isinstance(value, tuple) else value
                for name, value in asdict(config).items()
            }
            self.accelerator.init_trackers("ddpm_nb", config=plain)

    def line(self, values: dict[str, Any]) -> None:
        size = self.path.stat().st_size
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(values) + "\n")
        except OSError as error:
            os.truncate(self.path, size)
            raise OSError(
                error.errno,
                f"folder: cannot write {self.path} ({error.strerror}); the last checkpoint is whole",
            ) from error
        curves = {
            name: values[name]
            for name in ("loss", "learning_rate", "grad_norm")
            if values[name] is not None
        }
        self.accelerator.log(curves, step=values["step"])

    def sheet(self, step: int, images: Tensor) -> None:
        (self.folder / "samples").mkdir(exist_ok=True)
        save_image_grid(self.folder / "samples" / f"{step:08}.png", images)
        pixels = ((images.clamp(-1, 1) + 1) / 2).permute(0, 2, 3, 1).numpy()
        for tracker in self.accelerator.trackers:
            layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            if hasattr(tracker, "log_images"):
                tracker.log_images({"samples": pixels}, step=step, **layout)

    def close(self) -> None:
        for tracker in self.accelerator.trackers:
            tracker.finish()


def _step_of(line: str) -> float:
    """Return a log line's step; infinity for one that was cut off."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


# What a run writes into its folder, beside its samples.
RUN = (
    "config.json",
    "network.safetensors",
    "checkpoint.pt",
    "checkpoint-before.pt",
    "log.jsonl",
)


class Run:
    """A trainer's run in a folder: what is due after each step, and what is written of it.

    All processes have one; the main one writes.

    Args:
        trainer: what is trained.
        folder: where the results go.
        start: when the session began, by `time.monotonic`.
        notes: what should be known of the network.
        progress: show a bar.

    Attributes:
        goes_on: whether there is budget left.
        logs, draws, saves: what is due after the step that was noted last.
    """

    def __init__(
        self, trainer: Any, folder: Path, start: float, notes: dict[str, str], progress: bool
    ) -> None:  # fmt: skip
        self.trainer, self.config, self.folder = trainer, trainer.config, folder
        self.accelerator, self.writes = (
            trainer.accelerator,
            trainer.accelerator.is_main_process,
        )
        self.start, self.notes, self.progress = start, notes, progress
        self.checkpoint = folder / "checkpoint.pt"
        self.logs = self.draws = self.saves = False
        self.minutes, self.recent = 0.0, list[TrainStep]()
        self.writing: Future[None] | None = None

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Keep the folder for this run.

        Raises:
            ValueError: if another run is at work there.
        """
        taken = f"folder: expected one where no run is at work, got {self.folder}: another process trains there"
        if self.writes:
            make_folder("folder", self.folder)
        with (
            _files.claimed(self.folder / ".lock", taken)
            if self.writes
            else nullcontext()
        ):
            yield

    def found(self) -> Path | None:
        """Return the checkpoint with which the run in the folder goes on, if there is one."""
        if self.checkpoint.exists():
            return self.checkpoint
        if (older := before(self.checkpoint)).exists():
            return older  # killed when it had made way and the next was not yet there
        if (self.folder / "network.safetensors").exists():
            raise ValueError(
                f"folder: expected a run with its checkpoint.pt, or none, got {self.folder} with a network and no "
                "checkpoint; nothing there was changed"
            )
        return None

    @contextmanager
    def session(self) -> Iterator[None]:
        """Open the log, listen to signals, and end in order when the budget is spent."""
        done = self.trainer.steps
        most, least = highest(self.accelerator, done, -done)
        if most != -least:
            raise ValueError(
                f"folder: expected one that all processes see, got {self.folder}: some found a checkpoint of step "
                f"{-least}, others of step {most}"
            )
        self.log_file = Log(self.folder, self.trainer) if self.writes else None
        self.levels = grey_levels(self.trainer.images) if self.writes else None
        given = self.config.max_minutes, self.config.save_minutes
        self.limit, self.patience = (math.inf if m is None else m for m in given)
        self.over, self.saved = self.limit <= 0, (time.monotonic() - self.start) / 60
        shown = self.writes and self.progress
        hidden = None if shown else True  # None: shown in terminals
        self.bar = tqdm(
            total=self.config.steps, initial=done, unit="step", disable=hidden
        )
        with StopSignals(alone=self.accelerator.num_processes == 1) as self.stop:
            with self.bar, ThreadPoolExecutor(max_workers=1) as self.writer:
                try:
                    yield
                except BaseException as error:
                    self.writer.shutdown()  # it waits for a write under way
                    if (failed := self.failure()) is not None:
                        error.add_note(f"The last checkpoint was not written: {failed}")
                    raise
                self.written()
            if self.log_file is not None:
                self.log_file.close()
                if self.stop.received:
                    print(
                        f"{self.stop.name}: stopped after step {self.trainer.steps}, which is saved in {self.folder}; "
                        "the same call goes on from there",
                        file=sys.stderr,
                    )
            self.accelerator.wait_for_everyone()  # a process that ends takes others with it

    @property
    def goes_on(self) -> bool:
        """Whether there is budget left, and nobody has asked the run to stop."""
        return self.trainer.steps < self.config.steps and not self.over

    def note(self, update: TrainStep) -> None:
        """Take a step down, and say what is due after it."""
        config, step, old = self.config, update.step, 0
        self.written(wait=False)
        self.recent.append(update)
        self.minutes = (time.monotonic() - self.start) / 60
        self.bar.update()
        # Processes must stop together; asking each other at every step would cost.
        if self.accelerator.num_processes == 1 or step % config.log_every == 0:
            spent = self.minutes >= self.limit
            late = self.minutes - self.saved >= self.patience
            over, old, asked = highest(
                self.accelerator, spent, late, self.stop.received
            )
            self.over = bool(over or asked)
            self.stop.received = asked or self.stop.received
        end = self.over or step == config.steps
        self.saves = end or bool(old) or step % config.save_every == 0
        if self.saves:
            self.saved = self.minutes
        self.logs = self.saves or step % config.log_every == 0
        self.draws = bool(config.sample_every) and step % config.sample_every == 0

    def log(self) -> None:
        """Write the mean of the steps since the last line; all processes must call it."""
        line = mean_of(self.recent, self.accelerator)
        self.recent.clear()
        self.bar.set_postfix(loss=f"{line['loss']:.4f}")
        if self.log_file is not None:
            total = round(self.log_file.minutes + self.minutes, 3)
            self.log_file.line(line | {"minutes": total})

    def sheet(self, drawn: Tensor) -> None:
        """Write a sheet of samples."""
        if self.log_file is not None:
            self.log_file.sheet(self.trainer.steps, drawn)

    def save(self, content: dict[str, Any]) -> None:
        """Have a checkpoint written, and the network with it, as they are now; the training may go on meanwhile.

        Raises:
            OSError: if the one before could not be written; it is waited for.
        """
        if self.log_file is None:
            return
        self.written()
        content = _devices.copied(content, self.trainer.device)
        average, about = content["state"]["ema"], self._about(self.log_file)

        def write() -> None:
            write_checkpoint(self.checkpoint, content)
            self._write_network(average, about)

        self.writing = self.writer.submit(write)

    def written(self, wait: bool = True) -> None:
        """Raise what kept the last checkpoint from being written; wait for it first, or see whether it is done."""
        if self.writing is not None and (wait or self.writing.done()):
            self.writing.result()
            self.writing = None

    def failure(self) -> BaseException | None:
        """Return what kept the last checkpoint from being written."""
        return self.writing.exception() if self.writing is not None else None

    def keep(self) -> None:
        """Write the averaged network, with what is known of it."""
        if self.log_file is not None:
            average = self.trainer.ema.model.state_dict()
            self._write_network(average, self._about(self.log_file))

    def _write_network(self, average: dict[str, Tensor], about: dict[str, str]) -> None:
        path = self.folder / "network.safetensors"
        write_weights(path, average, self.config, about)

    def _about(self, log_file: Log) -> dict[str, str]:
        height, width = self.trainer.images.shape[-2:]
        return {
            "steps": str(self.trainer.steps),
            "minutes": f"{log_file.minutes + self.minutes:.1f}",
            "hardware": _hardware(self.accelerator),
            **({"levels": str(self.levels)} if self.levels else {}),
            **self.notes,
            "height": str(height),
            "width": str(width),
        }


def _hardware(accelerator: Any) -> str:
    device, processes = accelerator.device, accelerator.num_processes
    if device.type == "cuda":
        return f"{processes} x {torch.cuda.get_device_name(device)}"
    cores = f"{processes} x {torch.get_num_threads()} threads"
    return f"{device.type} ({platform.machine()}), {cores}"


class StopSignals:
    """Ctrl-C and SIGTERM become a wish, `received`, that a loop can grant at a good moment.

    When the block is left, the signal takes its usual course: KeyboardInterrupt, or the end of the process. A second
    one does so at once, but only where a process is alone: launchers send the same signal more than once. (A thread
    that writes is waited for on KeyboardInterrupt's way out.)
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
