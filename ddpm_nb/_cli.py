"""The command line: train, sample, evaluate. The same code as in the chapters, with the same defaults."""

import argparse
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, distributed, nn

from ddpm_nb import __version__, _checks as check, _devices, _diffusers, _runs
from ddpm_nb._data import load_folder, save_image_grid, to_float
from ddpm_nb._files import make_folder, write_whole
from ddpm_nb._noise import CounterNoise
from ddpm_nb._runs import RUN
from ddpm_nb.algorithms import Guided, Rule, sample
from ddpm_nb.cifar10 import cifar10_config, digits_config, load_cifar10, load_digits
from ddpm_nb.evaluation import bits_per_dim
from ddpm_nb.fewer_steps import (
    Spacing,
    ddim,
    log_snr_timesteps,
    multistep,
    strided,
    timesteps,
)
from ddpm_nb.forward import Schedule
from ddpm_nb.loss import Model
from ddpm_nb.training import NetworkOptions, TrainConfig, fit, load_network
from ddpm_nb.unet import UNet

TRAIN = """\
Train a U-Net on pictures, with Algorithm 1 of the DDPM paper.

Run the same command again and it goes on where it stopped: after --max-minutes, after a crash, after a kill. The result
folder holds the configuration, a checkpoint, the averaged network, the log, and sheets of samples if asked for.
"""
EXAMPLES = """\
examples:
  ddpm-nb train --data digits --out runs/digits
        8 x 8 digits, a few minutes on a CPU (needs scikit-learn)
  ddpm-nb train --data cifar10 --out runs/cifar10 --precision bf16 --max-minutes 60
        the paper's network and recipe; downloads CIFAR-10 (170 MB) into --root
  ddpm-nb train --data my/pictures --size 32 --out runs/mine --sample-every 5000
        a folder of your own pictures; --size 32x48 for oblong ones
  accelerate launch -m ddpm_nb train --data cifar10 --out runs/cifar10
        all GPUs of this machine; `accelerate config` sets up several machines
"""
DRAW = """\
Draw pictures with Algorithm 2, DDIM or the second-order rule, and write them as one PNG. Beside it, a .json says how.

Picture i of a seed is picture i, whatever --count and --batch-size; several processes
(torchrun --nproc_per_node 2 -m ddpm_nb sample ...) take whole batches each.
"""
DRAWN = """\
examples:
  ddpm-nb sample --network runs/digits --out digits.png
        Algorithm 2, with as many steps as the network was trained for
  ddpm-nb sample --network runs/digits --out digits.png --method multistep --steps 20
        the second-order rule in 20 steps
  ddpm-nb sample --network book/weights/digits.safetensors --out sevens.png --label 7 --guidance 1
        sevens, from a network that knows labels, and more clearly sevens than the label alone asks
"""
# The packages that not every installation has: what is imported -> what is installed.
OPTIONAL = {
    "accelerate": "accelerate",
    "huggingface_hub": "huggingface_hub",
    "PIL": "pillow",
    "safetensors": "safetensors",
    "sklearn": "scikit-learn",
    "tensorboard": "tensorboard",
}


class Refused(ValueError):
    """A refusal that names flags already."""


class Data(NamedTuple):
    """Pictures, what they are, and how many grey levels they have."""

    images: Tensor
    about: str
    levels: int


class Network(NamedTuple):
    """A network that answers noise, and what is known of it."""

    model: nn.Module
    schedule: Schedule
    channels: int
    size: tuple[int, int] | None
    levels: int | None
    clip: bool
    variance: Literal["large", "small"]
    about: str
    smallest_step: int = 1  # heights and widths are multiples of it
    num_classes: int = 0  # how many labels it knows


# --- what is said, and in which words


def in_flags(message: str, flags: dict[str, str]) -> str | None:
    """A message of the library with the flags from which its arguments came; None if they are not all known."""
    names, colon, rest = message.partition(":")
    known = [flags.get(name) for name in names.split(", ")]
    return ", ".join(map(str, known)) + colon + rest if all(known) else None


def said(error: BaseException) -> str:
    """What an error says, without the number that the system gave it."""
    plain = isinstance(error, OSError) and error.strerror and error.filename is None
    return str(error.strerror if plain else error)  # type: ignore[attr-defined]


@contextmanager
def naming(**flags: str) -> Iterator[None]:
    """Say the flag where the library names an argument."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        if (message := in_flags(said(error), flags)) is not None:
            raise Refused(message) from error
        raise


def complain(message: str) -> int:
    """Say what did not fit, once however many processes there are; return the exit status.

    Where all processes fail alike, the launcher ends the others while they wait. One that fails alone is heard.
    """
    if process()[0] > 0:
        time.sleep(5)
    print(f"ddpm-nb: {message}", file=sys.stderr)
    return 2


def tell(message: Warning | str, *where: Any, **more: Any) -> None:
    """Say what a user should know, in one line, and once however many processes there are."""
    if process()[0] == 0:
        print(f"ddpm-nb: warning: {message}", file=sys.stderr)


def process() -> tuple[int, int]:
    """Which process this is, and how many a launcher has started."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    return (int(os.environ["RANK"]) if processes > 1 else 0), processes


# --- flags


def flag(name: str) -> str:
    """The flag of an option."""
    return "--" + name.replace("_", "-")


def reads(hint: Any) -> dict[str, Any]:
    """How a value of this type is read from the command line."""
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    if get_origin(hint) is Literal:
        return {"choices": get_args(hint)}
    if get_origin(hint) is tuple:
        kind = yes_or_no if get_args(hint)[0] is bool else whole_numbers
        return {"type": kind, "metavar": "A,B,..."}
    return {"type": int if hint is int else float, "metavar": "N"}


def whole_numbers(text: str) -> tuple[int, ...]:
    """Read 1,2,2,2."""
    return tuple(int(part) for part in text.split(","))


def height_and_width(text: str) -> tuple[int, int]:
    """Read 48, or 32x48."""
    sides = text.lower().split("x")
    if len(sides) > 2 or any(not s.isdecimal() or int(s) < 1 for s in sides):
        raise argparse.ArgumentTypeError(
            f"expected a size such as 48, or height x width such as 32x48, got {text!r}"
        )
    return int(sides[0]), int(sides[-1])


def yes_or_no(text: str) -> tuple[bool, ...]:
    """Read no,yes,no,no."""
    words = {"yes": True, "no": False}
    try:
        return tuple(words[part.strip().lower()] for part in text.split(","))
    except KeyError as error:
        raise argparse.ArgumentTypeError(
            f"expected yes or no, comma between, got {text!r}"
        ) from error


def shown(value: Any) -> str:
    """A default as one would type it."""
    if isinstance(value, tuple):
        return ",".join(shown(part) for part in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def add(to: Any, name: str, hint: Any, default: Any, meaning: str) -> None:
    """Add a flag whose help ends with its default; None is a default that the help tells otherwise."""
    told = meaning if default is None else f"{meaning} (default: {shown(default)})"
    to.add_argument(flag(name), default=default, help=told, **reads(hint))


def parser() -> argparse.ArgumentParser:
    """The commands and their flags, made from the configuration's fields."""
    whole = argparse.ArgumentParser(
        prog="ddpm-nb", description="Denoising diffusion (DDPM) on the command line."
    )
    whole.add_argument("--version", action="version", version=f"ddpm-nb {__version__}")
    commands = whole.add_subparsers(dest="command", required=True)
    add_train(commands)
    add_sample(commands)
    add_evaluate(commands)
    return whole


def add_train(commands: Any) -> None:
    """The flags of `train`: each field of the configuration is one."""
    train = commands.add_parser(
        "train",
        help="train a network on digits, CIFAR-10 or a folder of pictures",
        description=TRAIN,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.set_defaults(run=run_train)
    data = add_data(train, "data and results", "32")
    told = "folder for the results; a run there goes on"
    data.add_argument("--out", required=True, type=Path, help=told)
    told = "a trained network to begin with, a run's folder or its file; the new one is of its size and schedule"
    data.add_argument("--start", type=Path, help=told)
    add_device(data)
    recipe = train.add_argument_group(
        "recipe",
        "Defaults are the paper's for CIFAR-10. With --data digits they are those of a small network "
        "(see digits_config).",
    )
    hints = get_type_hints(TrainConfig)
    for f in fields(TrainConfig):
        hint = next((h for h in get_args(hints[f.name]) if h is float), hints[f.name])
        recipe.add_argument(
            flag(f.name),
            dest=f.name,
            default=argparse.SUPPRESS,  # so that only what was typed overrides
            help=f"{f.metadata['help']} (default: {shown(f.default)})",
            **reads(hint),
        )


def add_sample(commands: Any) -> None:
    """The flags of `sample`."""
    draw = commands.add_parser(
        "sample",
        help="draw a sheet of pictures",
        description=DRAW,
        epilog=DRAWN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    draw.set_defaults(run=run_sample)
    add_network(draw)
    draw.add_argument("--out", required=True, type=Path, help="the PNG file")
    add(draw, "count", int, 64, "how many pictures")
    add_batch_size(draw)
    add_size(draw, "height and width, 32 or 32x48 (default: as trained)")
    told = "steps a picture takes (default: all, T; with log_snr all between its ends)"
    add(draw, "steps", int, None, told)
    told = "Algorithm 2, DDIM, or the second-order rule DPM-Solver++(2M)"
    add(draw, "method", Literal["ddpm", "ddim", "multistep"], "ddpm", told)
    add(draw, "eta", float, None, "fresh noise in DDIM, 0 to 1 (default: 0)")
    told = (
        "how fewer steps are spread; log_snr: evenly in half the log signal-to-noise ratio, from -5 to 3 "
        "(default: trailing; with --method multistep, log_snr)"
    )
    add(draw, "spacing", Literal[Spacing, "log_snr"], None, told)
    add_variance(draw)
    told = (
        "compile the network first: takes a minute, and pays for thousands of pictures"
    )
    add(draw, "compile", bool, False, told)
    labels = draw.add_argument_group("labels, for a network that knows them")
    told = "what to draw: 7, or 0,1,2 for one a picture, repeated in turn (default: whatever comes)"
    labels.add_argument("--label", type=whole_numbers, metavar="A,B,...", help=told)
    told = (
        "the strength w of guidance: how much more clearly the label is to be seen than it asks itself; where it is "
        "not 0, each step takes two network evaluations (default: 0)"
    )
    add(labels, "guidance", float, None, told)


def add_evaluate(commands: Any) -> None:
    """The flags of `evaluate`."""
    judge = commands.add_parser(
        "evaluate",
        help="measure bits per dimension on test pictures",
        description="Estimate the bound in bits per dimension, with its 95 % interval.",
    )
    judge.set_defaults(run=run_evaluate)
    add_data(judge, "data", "as trained")
    add_network(judge)
    judge.add_argument("--out", type=Path, help="write the result as JSON, too")
    told = "how many pictures, drawn at random (default: all); below 30 the interval is too narrow"
    add(judge, "count", int, None, told)
    add_batch_size(judge)
    told = "times t a picture; 0 for all; below 10 the interval is too narrow"
    add(judge, "num_timesteps", int, 20, told)
    add_variance(judge)
    add(judge, "decoder", Literal["exact", "tanh"], "exact", "the last step's density")


def add_device(to: Any) -> None:
    """The flag that says where to compute."""
    told = "where to compute (default: the first of these that is there)"
    add(to, "device", Literal["cuda", "mps", "cpu"], None, told)


def add_batch_size(to: Any) -> None:
    """The flag that says how much the device works on at once."""
    told = "how many pictures at once; another number rounds otherwise, and changes nothing else"
    add(to, "batch_size", int, 128, told)


def add_size(to: Any, meaning: str) -> None:
    """The flag that says how large pictures are."""
    to.add_argument("--size", type=height_and_width, metavar="N or HxW", help=meaning)


def add_variance(to: Any) -> None:
    """The flag that says which variance a step back has."""
    told = "sigma^2 (default: large; with --diffusers, what the pipeline says)"
    add(to, "variance", Literal["large", "small"], None, told)


def add_data(to: Any, title: str, size: str) -> Any:
    """The flags that say which pictures."""
    data = to.add_argument_group(title)
    told = "digits, cifar10, or a folder of pictures"
    data.add_argument("--data", required=True, help=told)
    told = "where CIFAR-10 is kept (default: data)"
    data.add_argument("--root", type=Path, default=Path("data"), help=told)
    told = f"height and width for a folder's pictures, 32 or 32x48 (default: {size})"
    add_size(data, told)
    told = "read a folder's pictures as grey"
    data.add_argument("--grey", action="store_true", help=told)
    return data


def add_network(to: Any) -> None:
    """The flags that say which network, and where chance begins."""
    network = to.add_argument_group("network")
    network.add_argument(
        "--network",
        required=True,
        help="a run's folder, its network.safetensors, or with --diffusers a folder or a name on the hub",
    )
    network.add_argument(
        "--diffusers",
        action="store_true",
        help="the network is diffusers'; its pipeline's scheduler_config.json says the noise schedule",
    )
    told = "with --diffusers, where no scheduler_config.json says it"
    add(network, "schedule", Literal["linear", "cosine"], None, told)
    add(network, "T", int, None, "number of noise steps, likewise")
    add(network, "seed", int, 0, "where all randomness starts")
    add_device(network)


# --- pictures, places, networks


def images(
    data: str, root: Path, size: tuple[int, int] | None, channels: int, train: bool
) -> Data:
    """The pictures, and what they are."""
    part = "training set" if train else "test set"
    if data == "digits":
        return Data(load_digits(train).images, f"scikit-learn's digits, {part}", 17)
    with naming(root="--root", download="--root", folder="--data", size="--size"):
        if data == "cifar10":
            known = load_cifar10(root, train)
            return Data(known.images, f"CIFAR-10, {part} ({known.source})", 256)
        size = size or (32, 32)
        found = load_folder(data, size=size, channels=channels)
    return Data(found, f"{len(found)} pictures of a folder, {size[0]} x {size[1]}", 256)


def check_out(given: argparse.Namespace) -> None:
    """Refuse a place for the result now, not after hours; never write over a file of the run."""
    if given.out is None:
        return
    known = Path(given.network)
    folder = known if known.is_dir() else known.parent
    kept = {known.resolve(), *(folder.resolve() / name for name in RUN)}
    for path in (given.out, given.out.with_suffix(".json")):
        if path.is_dir() or path.resolve() in kept:
            raise ValueError(
                f"--out: expected a file that is not the run's own, got {path}"
            )


def check_numbers(given: argparse.Namespace) -> None:
    """Refuse numbers that make no sense, before anything is loaded."""
    for name, low in (("count", 1), ("batch_size", 1), ("steps", 1), ("seed", 0)):
        if getattr(given, name, None) is not None:
            check.whole(flag(name), getattr(given, name), low)


def device(wanted: str | None) -> torch.device:
    """Where to compute; each of a machine's processes has a GPU of its own."""
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if wanted is not None and not there[wanted]:
        raise ValueError(f"--device: expected one that is there, got {wanted}")
    stated = os.environ.get("ACCELERATE_TORCH_DEVICE")  # for accelerate, so for us
    first = next(name for name, found in there.items() if found)
    kind = wanted or (torch.device(stated).type if stated else first)
    one_of_many = kind == "cuda" and "LOCAL_RANK" in os.environ
    return torch.device(f"cuda:{os.environ['LOCAL_RANK']}" if one_of_many else kind)


def network_file(path: Path) -> Path:
    """A network's file, of which the run's folder may be given."""
    return path / "network.safetensors" if path.is_dir() else path


def network(given: argparse.Namespace) -> Network:
    """The network to use, its schedule, and what is known about it, on the device."""
    place = device(given.device)
    typed = {"schedule": given.schedule, "T": given.T}
    typed = {name: value for name, value in typed.items() if value is not None}
    with naming(path="--network", source="--network", unet="--network"):
        if given.diffusers:
            return foreign(given.network, place, typed)
        if typed:
            raise ValueError("--schedule, --T: expected with --diffusers only")
        unet, schedule, notes = load_network(network_file(Path(given.network)))
    return Network(
        unet.to(place),
        schedule.to(place),
        unet.in_channels,
        (int(notes["height"]), int(notes["width"])),
        int(notes["levels"]) if "levels" in notes else None,
        clip=True,
        variance="large",
        about=", ".join(f"{name}: {value}" for name, value in notes.items()),
        smallest_step=2 ** (len(unet.down) - 1),
        num_classes=unet.num_classes,
    )


def foreign(source: str, place: torch.device, typed: dict[str, Any]) -> Network:
    """A network of diffusers, with the noise schedule that its pipeline says, or that was typed."""
    unet = UNet.from_diffusers(source)
    recipe = _diffusers.recipe(source)
    if recipe is not None and typed:
        raise ValueError(
            "--schedule, --T: expected where no scheduler_config.json says them, got "
            f"{source}, which has one"
        )
    if recipe is None and not typed:
        raise ValueError(
            f"--network: {source} has no scheduler_config.json, so its noise schedule is "
            "not known: give the folder of the whole pipeline, or say what it was trained "
            "with, for the paper's --schedule linear --T 1000"
        )
    if recipe is None:
        recipe = _diffusers.Recipe(TrainConfig(**typed).noise_schedule())
    schedule, model = recipe.schedule.to(place), unet.to(place)
    about = f"{unet.provenance}; predicts {recipe.prediction}, T = {schedule.T}"
    return Network(
        model
        if recipe.prediction == "noise"
        else _diffusers.AsNoise(model, recipe.prediction, schedule),
        schedule,
        unet.in_channels,
        _diffusers.size(_diffusers.read_json(_diffusers.find_network(source)[0])),
        None,
        recipe.clip,
        recipe.variance,
        about,
        2 ** (len(unet.down) - 1),
        unet.num_classes,
    )


def run_train(given: argparse.Namespace) -> None:
    """Train, or go on training."""
    place = device(given.device)
    if place.type == "cpu":
        # accelerate asks for this; without it each of several processes takes itself for the only one.
        os.environ["ACCELERATE_USE_CPU"] = "true"
    names = [f.name for f in fields(TrainConfig)]
    typed = {name: getattr(given, name) for name in names if hasattr(given, name)}
    usual = digits_config() if given.data == "digits" else cifar10_config()
    channels, start, notes = 1 if given.grey else 3, None, dict[str, str]()
    if given.start is not None:
        with naming(path="--start"):
            path = network_file(given.start)
            start, _, known = load_network(path)
            theirs = TrainConfig.from_json(_runs.read_network(path)[1]["config"])
        same = [f.name for f in fields(NetworkOptions)] + ["schedule", "T"]
        usual = replace(usual, **{name: getattr(theirs, name) for name in same})
        told = f"{known.get('pictures', 'unknown pictures')}, {known.get('steps', 'unknown')} updates"
        notes["start"] = f"{given.start} ({told})"
    config = replace(usual, **typed)
    data = images(given.data, given.root, given.size, channels, train=True)
    notes["pictures"] = data.about
    with naming(folder="--out", path="--out", images="--data", start="--start"):
        trainer = fit(config, data.images, given.out, start=start, notes=notes)
    if trainer.accelerator.is_main_process:
        processes = trainer.accelerator.num_processes
        print(
            f"{trainer.steps} steps done on {processes} x {trainer.device.type} in {trainer.config.precision}; "
            f"results in {given.out}"
        )


def size_for(given: argparse.Namespace, net: Network) -> tuple[int, int]:
    """The size to work at; a word where it is not the one that the network was trained at."""
    size = given.size or net.size
    if size is None:
        raise ValueError(
            f"--size: expected one, for {given.network} does not say its own"
        )
    if any(side % net.smallest_step for side in size):
        raise ValueError(
            f"--size: expected multiples of {net.smallest_step}, which the network can halve, got {size[0]}x{size[1]}"
        )
    if net.size not in (None, size):
        height, width = net.size
        tell(f"--size: the network was trained at {height}x{width}")
    return size


def check_choices(given: argparse.Namespace) -> None:
    """Refuse choices of `sample` that do not go together, before anything is loaded."""
    for name, method in (("eta", "ddim"), ("variance", "ddpm")):
        if getattr(given, name) is not None and given.method != method:
            raise ValueError(
                f"{flag(name)}: expected with --method {method} only, got it with {given.method}"
            )
    if given.guidance is not None:
        if given.label is None:
            raise ValueError("--guidance: expected with --label only, got it without")
        check.number("--guidance", given.guidance, "that is finite", math.isfinite)


def labels_for(given: argparse.Namespace, net: Network) -> tuple[int, ...] | None:
    """The labels to draw, in turn; None where none was typed."""
    if given.label is not None and net.num_classes == 0:
        raise ValueError(
            f"--label: expected with a network that knows labels, got {given.network}, which knows none"
        )
    for label in given.label or ():
        check.whole("--label", label, 0, net.num_classes - 1)
    return given.label


def walk(
    given: argparse.Namespace, net: Network
) -> tuple[Rule, tuple[int, ...], dict[str, Any]]:
    """The rule of a step, the times to visit, and what was chosen, typed or not; None where there is no such choice."""
    usual = "log_snr" if given.method == "multistep" else "trailing"
    how: dict[str, Any] = {
        "eta": None,
        "variance": None,
        "spacing": given.spacing or usual,
    }
    if given.method == "multistep":
        rule: Rule = multistep()
    elif given.method == "ddim":
        how["eta"] = given.eta or 0.0
        rule = ddim(how["eta"])
    else:
        how["variance"] = given.variance or net.variance
        rule = strided(how["variance"])
    if how["spacing"] == "log_snr":
        times = log_snr_timesteps(net.schedule, given.steps)
    else:
        steps = net.schedule.T if given.steps is None else given.steps
        times = timesteps(net.schedule.T, steps, how["spacing"])
    return rule, times, how | {"steps": len(times) - 1}


def compiled(network: nn.Module, place: torch.device) -> Model:
    """The network, compiled; its answers may be kept."""
    graph = _devices.compiled(network.eval(), place)

    def answer(*given: Tensor) -> Tensor:
        noise: Tensor = graph(*given)
        return noise.clone()

    return answer


def run_sample(given: argparse.Namespace) -> None:
    """Draw a sheet of pictures, and write beside it how."""
    if given.out.suffix.lower() != ".png":
        raise ValueError(f"--out: expected a name that ends in .png, got {given.out}")
    check_choices(given)
    check_numbers(given)
    check_out(given)
    net, (rank, processes) = network(given), process()
    size, labels = size_for(given, net), labels_for(given, net)
    rule, times, chosen = walk(given, net)
    make_folder("--out", given.out.parent)
    place, guidance = net.schedule.beta.device, given.guidance or 0.0
    answer = compiled(net.model, place) if given.compile else net.model
    batch_size = min(given.batch_size, given.count)

    def draw(first: int) -> Tensor:
        """One batch: the pictures from number `first` on."""
        picture = (net.channels, *size)
        # What is compiled is compiled for one size: the last batch may bring pictures too many.
        last = first + batch_size if given.compile else given.count
        numbers = range(first, min(first + batch_size, last))
        model = answer
        if labels:
            y = torch.tensor([labels[i % len(labels)] for i in numbers])
            model = Guided(model, y.to(place), guidance)
        return sample(
            model,
            (len(numbers), *picture),
            net.schedule,
            rule,
            times,
            clip=net.clip,
            generator=CounterNoise(given.seed, picture, first=first),
            progress=rank == 0,
        )

    # Each process draws whole batches, so that a picture has the same neighbours however many there are.
    mine = range(0, given.count, given.batch_size)[rank::processes]
    batches = gathered({first: draw(first).cpu() for first in mine}, rank, processes)
    if rank > 0:
        return
    drawn = torch.cat([batches[first] for first in sorted(batches)])[: given.count]
    if not drawn.isfinite().all():
        raise FloatingPointError(f"--network: {given.network} gives NaN or infinity")
    save_image_grid(given.out, drawn)
    how = {
        name: value
        for name, value in vars(given).items()
        if name not in ("run", "out", "command")
    }
    how |= chosen | {"guidance": guidance if labels else None}
    how |= {"size": size, "clip": net.clip, "device": place.type}
    how |= {"about": net.about, "version": __version__}
    write_whole(given.out.with_suffix(".json"), json.dumps(how, indent=1).encode())
    print(
        f"{given.count} pictures, {len(times) - 1} steps on {processes} x {place.type}: {given.out}"
    )


def gathered(mine: dict[int, Tensor], rank: int, processes: int) -> dict[int, Tensor]:
    """In process 0 what all processes have; in the others what they have themselves."""
    if processes == 1:
        return mine
    # On the CPU, and in no hurry: another process may still have a long batch to do.
    distributed.init_process_group("gloo", timeout=timedelta(days=30))
    parts: list[Any] | None = [None] * processes if rank == 0 else None
    distributed.gather_object(mine, parts)
    distributed.destroy_process_group()
    return mine if parts is None else {k: v for part in parts for k, v in part.items()}


def test_pictures(given: argparse.Namespace, net: Network) -> Data:
    """Pictures such as the network was trained on, as many as were asked for, drawn at random."""
    if given.grey and net.channels != 1:
        raise ValueError("--grey: expected with a network for grey pictures only")
    folder = given.data not in ("digits", "cifar10")
    size = size_for(given, net) if folder else net.size
    data = images(given.data, given.root, size, net.channels, train=False)
    shape = tuple(data.images.shape[1:])
    trained = (net.channels, *(size or shape[1:]))
    if shape != trained:
        raise ValueError(
            f"--data: expected pictures of shape {trained}, on which the network was "
            f"trained, got {shape}"
        )
    if net.levels not in (None, data.levels):
        raise ValueError(
            f"--data: expected pictures with {net.levels} grey levels, on which the "
            f"network was trained, got {data.levels}"
        )
    there = len(data.images)
    count = check.whole("--count", there if given.count is None else given.count, 2, there)  # fmt: skip
    order = torch.Generator().manual_seed(given.seed)
    chosen = torch.randperm(there, generator=order)[:count]
    return Data(data.images[chosen], f"{count} of {data.about}", data.levels)


def run_evaluate(given: argparse.Namespace) -> None:
    """Print the bound in bits per dimension, and write it if asked."""
    check_out(given)
    if process()[1] > 1:
        raise ValueError(
            f"evaluate: expected one process, got {process()[1]}; start it without a launcher"
        )
    check_numbers(given)
    net = network(given)
    data, most = test_pictures(given, net), net.schedule.T - 1
    times = check.whole("--num-timesteps", given.num_timesteps, 0, most)
    if given.out is not None:
        make_folder("--out", given.out.parent)
    where = net.schedule.beta.device
    bits = bits_per_dim(
        net.model,
        to_float(data.images).to(where),
        net.schedule,
        num_timesteps=times or None,
        variance=given.variance or net.variance,
        clip=net.clip,
        decoder=given.decoder,
        levels=data.levels,
        batch_size=given.batch_size,
        generator=CounterNoise(given.seed, data.images.shape[1:]),
        progress=True,
    )
    if not bits.total.isfinite().all():
        raise FloatingPointError(f"--network: {given.network} gives NaN or infinity")
    result = {
        "bits_per_dim": bits.mean,
        "interval_95": list(bits.interval),
        "prior": float(bits.prior.mean()),
        "steps": float((bits.weight[:, None] * bits.steps).sum(0).mean()),
        "decoder": float(bits.decoder.mean()),
        "pictures": data.about,
        "times_a_picture": times or most,
        "network": net.about,
        "device": where.type,
        "seed": given.seed,
        "version": __version__,
    }
    for name, value in result.items():
        told = f"{value:.5f}" if isinstance(value, float) else value
        print(f"{name:16} {told}")
    if given.out is not None:
        write_whole(given.out, json.dumps(result, indent=1).encode())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 0, or 2 where something did not fit."""
    given = parser().parse_args(arguments)
    flags = {f.name: flag(f.name) for f in fields(TrainConfig)}
    flags |= {name: flag(name) for name in vars(given)} | {"x_t": "--size"}
    try:
        with warnings.catch_warnings(), naming(**flags):
            warnings.showwarning = tell
            given.run(given)
    except KeyboardInterrupt:
        print("ddpm-nb: interrupted", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        package = OPTIONAL.get((error.name or "").partition(".")[0])
        return complain(f"{error}; pip install {package}" if package else str(error))
    except (
        ValueError,
        OSError,
        FloatingPointError,
        ImportError,
        torch.OutOfMemoryError,
    ) as error:
        return complain(said(error))
    return 0
