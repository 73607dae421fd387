"""The command line: train, sample, evaluate. The same code as in the chapters, with the same defaults."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from ddpm_nb import __version__
from ddpm_nb.algorithms import sample
from ddpm_nb.cifar10 import cifar10_config, digits_config, load_cifar10, load_digits
from ddpm_nb.evaluation import bits_per_dim
from ddpm_nb.fewer_steps import Spacing, ddim_sample, strided_sample
from ddpm_nb.forward import Schedule
from ddpm_nb.training import (
    TrainConfig,
    as_floats,
    fit,
    load_folder,
    load_network,
    save_sheet,
    write_whole,
)
from ddpm_nb.unet import UNet

TRAIN = """\
Train a U-Net on pictures, with Algorithm 1 of the DDPM paper.

Run the same command again and it goes on where it stopped: after --minutes, after a crash, after a kill. The result
folder holds the configuration, a checkpoint, the averaged network, the log, and sheets of samples if asked for.
"""
EXAMPLES = """\
examples:
  ddpm-nb train --data digits --out runs/digits
        8 x 8 digits, a few minutes on a CPU (needs scikit-learn)
  ddpm-nb train --data cifar10 --out runs/cifar10 --precision bf16 --minutes 60
        the paper's network and recipe; downloads CIFAR-10 (170 MB) into --root
  ddpm-nb train --data my/pictures --size 32 --out runs/mine --sample-every 5000
        a folder of your own pictures
  accelerate launch -m ddpm_nb train --data cifar10 --out runs/cifar10
        all GPUs of this machine; `accelerate config` sets up several machines
"""


def flag(hint: Any) -> dict[str, Any]:
    """How a field of this type is read from the command line."""
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    if get_origin(hint) is Literal:
        return {"choices": get_args(hint)}
    if get_origin(hint) is tuple:
        return {
            "type": yes_or_no if get_args(hint)[0] is bool else whole_numbers,
            "metavar": "A,B,...",
        }
    return {"type": int if hint is int else float, "metavar": "N"}


def whole_numbers(text: str) -> tuple[int, ...]:
    """Read 1,2,2,2."""
    return tuple(int(part) for part in text.split(","))


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


def parser() -> argparse.ArgumentParser:
    """The commands and their flags, made from the configuration's fields."""
    whole = argparse.ArgumentParser(
        prog="ddpm-nb", description="Denoising diffusion (DDPM) on the command line."
    )
    whole.add_argument("--version", action="version", version=f"ddpm-nb {__version__}")
    commands = whole.add_subparsers(dest="command", required=True)
    train = commands.add_parser(
        "train",
        help="train a network on digits, CIFAR-10 or a folder of pictures",
        description=TRAIN,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    data = add_data(train, "data and results")
    data.add_argument(
        "--out",
        required=True,
        type=Path,
        help="folder for the results; a run there goes on",
    )
    train.set_defaults(run=run_train)
    recipe = train.add_argument_group(
        "recipe",
        "Defaults are the paper's for CIFAR-10. With --data digits they are those of a small network "
        "(see digits_config).",
    )
    hints = get_type_hints(TrainConfig)
    for f in fields(TrainConfig):
        hint = next((h for h in get_args(hints[f.name]) if h is float), hints[f.name])
        recipe.add_argument(
            "--" + f.name.replace("_", "-"),
            dest=f.name,
            default=argparse.SUPPRESS,  # so that only what was typed overrides
            help=f"{f.metadata['help']} (default: {shown(f.default)})",
            **flag(hint),
        )
    draw = commands.add_parser(
        "sample",
        help="draw a sheet of pictures",
        description="Draw pictures with Algorithm 2 or DDIM, and write them as one PNG. Beside it, a .json says how.",
    )
    add_network(draw)
    draw.add_argument("--out", required=True, type=Path, help="the PNG file")
    draw.add_argument(
        "--count", type=int, default=64, help="how many pictures (default: 64)"
    )
    draw.add_argument("--size", type=int, help="height and width (default: as trained)")
    draw.add_argument(
        "--steps", type=int, help="network calls a picture (default: all, T)"
    )
    draw.add_argument(
        "--method", choices=("ddpm", "ddim"), default="ddpm", help="default: ddpm"
    )
    draw.add_argument(
        "--eta",
        type=float,
        help="fresh noise in DDIM, 0 to 1 (default: 0)",
    )
    draw.add_argument(
        "--spacing",
        choices=get_args(Spacing),
        default="trailing",
        help="default: trailing",
    )
    draw.add_argument(
        "--variance",
        choices=("large", "small"),
        help="sigma^2 (default: large)",
    )
    draw.set_defaults(run=run_sample)
    judge = commands.add_parser(
        "evaluate",
        help="measure bits per dimension on test pictures",
        description="Estimate the bound in bits per dimension, with its 95 %% interval.",
    )
    add_data(judge, "data")
    add_network(judge)
    judge.add_argument("--out", type=Path, help="write the result as JSON, too")
    judge.add_argument(
        "--count",
        type=int,
        help="how many pictures, drawn at random (default: all); below 30 the interval is too narrow",
    )
    judge.add_argument(
        "--times",
        type=int,
        default=20,
        help="times t a picture; 0 for all (default: 20); below 10 the interval is too narrow",
    )
    judge.add_argument(
        "--variance",
        choices=("large", "small"),
        default="large",
        help="sigma^2 (default: large)",
    )
    judge.add_argument(
        "--decoder", choices=("exact", "tanh"), default="exact", help="default: exact"
    )
    judge.set_defaults(run=run_evaluate)
    return whole


def add_data(to: argparse.ArgumentParser, title: str) -> "argparse._ArgumentGroup":
    """The flags that say which pictures."""
    data = to.add_argument_group(title)
    data.add_argument(
        "--data", required=True, help="digits, cifar10, or a folder of pictures"
    )
    data.add_argument(
        "--root",
        type=Path,
        default=Path("data"),
        help="where CIFAR-10 is kept (default: data)",
    )
    data.add_argument(
        "--size",
        type=int,
        default=32,
        help="height and width for a folder's pictures (default: 32)",
    )
    data.add_argument(
        "--grey", action="store_true", help="read a folder's pictures as grey"
    )
    return data


def add_network(to: argparse.ArgumentParser) -> None:
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
        help="the network is diffusers', with the paper's schedule",
    )
    network.add_argument(
        "--seed", type=int, default=0, help="where all randomness starts (default: 0)"
    )


def pictures(
    data: str, root: Path, size: int, grey: bool, train: bool
) -> tuple[Tensor, TrainConfig, str]:
    """The pictures, the configuration that fits them, and what they are."""
    part = "training set" if train else "test set"
    if data == "digits":
        return (
            load_digits(train).pictures,
            digits_config(),
            f"scikit-learn's digits, {part}",
        )
    if data == "cifar10":
        known = load_cifar10(root, train)
        return known.pictures, cifar10_config(), f"CIFAR-10, {part} ({known.source})"
    found = load_folder(data, size=size, channels=1 if grey else 3)
    return found, TrainConfig(), f"{len(found)} pictures of a folder, {size} x {size}"


def check_out(given: argparse.Namespace) -> None:
    """Refuse a place for the result now, not after hours; never write over the network."""
    if given.out is None:
        return
    known = Path(given.network)
    for path in (given.out, given.out.with_suffix(".json")):
        run = known / "config.json", known / "network.safetensors", known
        if path.is_dir() or any(path.resolve() == kept.resolve() for kept in run):
            raise ValueError(f"--out: expected a new file, got {path}")
    try:
        given.out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            error.errno, f"--out: cannot make {given.out.parent} ({error.strerror})"
        ) from error


def network(given: argparse.Namespace) -> tuple[UNet, Schedule, str, int]:
    """The network to use, its schedule, and what is known about it; on the GPU if there is one."""
    if given.diffusers:
        unet, schedule = UNet.from_diffusers(given.network).eval(), Schedule.linear()
        about, size = unet.provenance, 32
    else:
        path = Path(given.network)
        unet, schedule, notes = load_network(
            path / "network.safetensors" if path.is_dir() else path
        )
        size = int(notes.get("size", 8 if unet.picture_channels == 1 else 32))
        about = ", ".join(f"{name}: {value}" for name, value in notes.items())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return unet.to(device), schedule.to(device), about, size


def run_train(given: argparse.Namespace) -> None:
    """Train, or go on training."""
    from accelerate import PartialState

    with PartialState().local_main_process_first():  # or all would download at once
        found, config, about = pictures(
            given.data, given.root, given.size, given.grey, train=True
        )
    typed = {
        f.name: getattr(given, f.name)
        for f in fields(TrainConfig)
        if hasattr(given, f.name)
    }
    trainer = fit(replace(config, **typed), found, given.out, notes={"pictures": about})
    if trainer.accelerator.is_main_process:
        print(f"{trainer.steps} steps done; results in {given.out}")


def run_sample(given: argparse.Namespace) -> None:
    """Draw a sheet of pictures, and write beside it how."""
    if given.out.suffix.lower() != ".png":
        raise ValueError(f"--out: expected a name that ends in .png, got {given.out}")
    if given.method == "ddpm" and given.eta is not None:
        raise ValueError("--eta: expected with --method ddim only, got it with ddpm")
    if given.method == "ddim" and given.variance is not None:
        raise ValueError("--variance: expected with --method ddpm only, got ddim")
    unet, schedule, about, trained = network(given)
    steps = schedule.T if given.steps is None else given.steps
    if given.count < 1:
        raise ValueError(f"--count: expected at least 1, got {given.count}")
    size = given.size if given.size is not None else trained
    if size < 1:
        raise ValueError(f"--size: expected at least 1, got {size}")
    check_out(given)
    device = schedule.beta.device
    common: dict[str, Any] = {
        "clip": True,
        "generator": torch.Generator(device).manual_seed(given.seed),
        "progress": True,
    }
    variance: Any = given.variance or "large"

    def draw(count: int) -> Tensor:
        shape = (count, unet.picture_channels, size, size)
        if given.method == "ddim":
            kind = {"eta": given.eta or 0.0, "spacing": given.spacing}
            return ddim_sample(unet, shape, schedule, steps, **kind, **common)
        if steps == schedule.T:
            return sample(unet, shape, schedule, variance=variance, **common)
        kind = {"variance": variance, "spacing": given.spacing}
        return strided_sample(unet, shape, schedule, steps, **kind, **common)

    counts = [min(256, given.count - i) for i in range(0, given.count, 256)]
    drawn = torch.cat([draw(count).cpu() for count in counts])
    if not drawn.isfinite().all():
        raise FloatingPointError(f"--network: {given.network} gives NaN or infinity")
    save_sheet(given.out, drawn)
    how = {
        name: value
        for name, value in vars(given).items()
        if name not in ("run", "out", "command")
    }
    how |= {"steps": steps, "size": size, "about": about, "version": __version__}
    write_whole(given.out.with_suffix(".json"), json.dumps(how, indent=1).encode())
    print(f"{given.count} pictures, {steps} steps: {given.out}")


def run_evaluate(given: argparse.Namespace) -> None:
    """Print the bound in bits per dimension, and write it if asked."""
    check_out(given)
    unet, schedule, about, _ = network(given)
    found, _, data = pictures(
        given.data, given.root, given.size, given.grey, train=False
    )
    count = len(found) if given.count is None else given.count
    if not 2 <= count <= len(found):
        raise ValueError(f"--count: expected 2 ... {len(found)}, got {count}")
    generator = torch.Generator().manual_seed(given.seed)
    chosen = torch.randperm(len(found), generator=generator)[:count]
    bits = bits_per_dim(
        unet,
        as_floats(found[chosen]).to(schedule.beta.device),
        schedule,
        times=given.times or None,
        variance=given.variance,
        decoder=given.decoder,
        levels=17 if given.data == "digits" else 256,
        generator=generator,
        progress=True,
    )
    if not bits.total.isfinite().all():
        raise FloatingPointError(f"--network: {given.network} gives NaN or infinity")
    low, high = bits.interval
    parts = {
        "prior": bits.prior,
        "steps": (bits.weight[:, None] * bits.steps).sum(0),
        "decoder": bits.decoder,
    }
    result = {
        "bits_per_dim": bits.mean,
        "interval_95": [low, high],
        **{name: float(part.mean()) for name, part in parts.items()},
        "pictures": f"{count} of {data}",
        "times_a_picture": given.times or schedule.T - 1,
        "network": about,
        "seed": given.seed,
        "version": __version__,
    }
    for name, value in result.items():
        print(
            f"{name:16} {value:.5f}"
            if isinstance(value, float)
            else f"{name:16} {value}"
        )
    if given.out is not None:
        write_whole(given.out, json.dumps(result, indent=1).encode())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 0, or 2 where something did not fit."""
    given = parser().parse_args(arguments)
    try:
        given.run(given)
    except KeyboardInterrupt:
        print("ddpm-nb: interrupted", file=sys.stderr)
        return 130
    except (
        ValueError,
        OSError,
        FloatingPointError,
        ImportError,
        torch.OutOfMemoryError,
    ) as error:
        print(f"ddpm-nb: {error}", file=sys.stderr)
        return 2
    return 0
