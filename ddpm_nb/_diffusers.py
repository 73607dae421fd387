"""Weights, configurations and noise schedules from and to diffusers: what is honoured, and what is refused by name.

The danger is not that loading fails. It is that loading works and the network, or its noise schedule, is another one.
So each key that says what was learned is compared with what is done here, and a key that is missing counts as
diffusers' own default.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, TypeAlias

import torch
from torch import Tensor, nn

from ddpm_nb import _checks as check
from ddpm_nb.forward import Schedule, per_image
from ddpm_nb.loss import v_to_noise

# Height and width of pictures, or one number for both.
Size: TypeAlias = int | tuple[int, int] | None

CONFIG_FILE = "config.json"
SCHEDULER_FILE = "scheduler_config.json"
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
NEEDS_SAFETENSORS = "safetensors is missing: pip install safetensors"
NO_PICKLES = (
    "a .bin or .ckpt file is a pickle, which can run any code when it is read, so it is "
    "never loaded; open it with diffusers where you trust it, and save it again with "
    "save_pretrained, which writes safetensors"
)

# Ours -> diffusers'.
ALONE = {
    "stem": "conv_in",
    "time.0": "time_embedding.linear_1",
    "time.2": "time_embedding.linear_2",
    "label": "class_embedding",
    "norm": "conv_norm_out",
    "head": "conv_out",
}
IN_BLOCK = {
    "residual.norm_1": "resnets.{}.norm1",
    "residual.conv_1": "resnets.{}.conv1",
    "residual.time": "resnets.{}.time_emb_proj",
    "residual.norm_2": "resnets.{}.norm2",
    "residual.conv_2": "resnets.{}.conv2",
    "residual.shortcut": "resnets.{}.conv_shortcut",
    "attention.norm": "attentions.{}.group_norm",
    "attention.query": "attentions.{}.to_q",
    "attention.key": "attentions.{}.to_k",
    "attention.value": "attentions.{}.to_v",
    "attention.out": "attentions.{}.to_out.0",
}
# Diffusers' old names -> today's.
RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

# Key -> (values that mean this network, what diffusers takes when the key is missing).
NEEDED: dict[str, tuple[tuple[Any, ...], Any]] = {
    "_class_name": (("UNet2DModel",), "UNet2DModel"),
    "center_input_sample": ((False,), False),
    "time_embedding_type": (("positional",), "positional"),
    "flip_sin_to_cos": ((False,), True),
    "freq_shift": ((1,), 0),
    "mid_block_type": (("UNetMidBlock2D",), "UNetMidBlock2D"),
    "mid_block_scale_factor": ((1,), 1),
    "add_attention": ((True,), True),
    "downsample_padding": ((0,), 1),
    "downsample_type": (("conv",), "conv"),
    "upsample_type": (("conv",), "conv"),
    "act_fn": (("silu", "swish"), "silu"),
    "attention_head_dim": ((None,), 8),
    "norm_eps": ((1e-6,), 1e-5),
    "resnet_time_scale_shift": (("default",), "default"),
    "class_embed_type": ((None,), None),
}
# Keys that describe the network's sizes, and what diffusers takes when they are missing.
SIZES: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (224, 448, 672, 896),
    "layers_per_block": 2,
    "down_block_types": (
        "DownBlock2D",
        "AttnDownBlock2D",
        "AttnDownBlock2D",
        "AttnDownBlock2D",
    ),
    "up_block_types": (
        "AttnUpBlock2D",
        "AttnUpBlock2D",
        "AttnUpBlock2D",
        "UpBlock2D",
    ),
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "time_embedding_dim": None,
    "dropout": 0.0,
    "num_class_embeds": None,  # with the null label, which is ours alone
}
# Keys that change nothing that the network computes; all but the first two are what
# diffusers' EMAModel adds.
HARMLESS = {
    "sample_size",
    "num_train_timesteps",
    "decay",
    "inv_gamma",
    "min_decay",
    "optimization_step",
    "power",
    "update_after_step",
    "use_ema_warmup",
}
KNOWN_WEIGHTS = {
    "google/ddpm-cifar10-32": "these appear to be the weights without an average "
    "(EMA); the paper's numbers are those of the average",
}


def diffusers_name(name: str) -> str:
    """Return diffusers' name of one of our parameters, such as `down.0.resize.conv.bias`."""
    layer, kind = name.rsplit(".", 1)
    if layer in ALONE:
        return f"{ALONE[layer]}.{kind}"
    place, *rest = layer.split(".")
    if place == "middle":
        block, (number, *part) = "mid_block", rest
    else:
        level, group, *rest = rest
        block = f"{place}_blocks.{level}"
        if group == "resize":
            return f"{block}.{place}samplers.0.conv.{kind}"
        number, *part = rest
    return f"{block}.{IN_BLOCK['.'.join(part)].format(number)}.{kind}"


def todays_name(name: str) -> str:
    """Return today's name of a parameter in a file that diffusers wrote at any time."""
    match = re.fullmatch(r"(.*attentions\.\d+)\.(\w+)\.(weight|bias)", name)
    if match is None or match[2] not in RENAMED:
        return name
    return f"{match[1]}.{RENAMED[match[2]]}.{match[3]}"


def _refuse(key: str, came: Any, expected: Any, file: str = CONFIG_FILE) -> NoReturn:
    raise ValueError(f"{file}: {key}: expected {expected}, got {came!r}")


def _same_kind(config: Mapping[str, Any]) -> None:
    """Refuse what would load and compute something else: another value of a known key, or a key that is not known."""
    for key, (allowed, default) in NEEDED.items():
        value = config.get(key, default)
        # True is not 1 here: types count, except that 1 and 1.0 are one number.
        if not any(
            value == a and isinstance(value, bool) == isinstance(a, bool)
            for a in allowed
        ):
            came = repr(value) if key in config else f"nothing, which means {value!r}"
            raise ValueError(
                f"config.json: {key}: this network is the one with "
                f"{' or '.join(map(repr, allowed))}; got {came}. The weights would load "
                "all the same and compute something else"
            )
    for key, value in config.items():
        known = key.startswith("_") or key in NEEDED or key in SIZES
        # An option that came later than this list and is switched off changes nothing.
        if not known and key not in HARMLESS and value not in (None, False):
            _refuse(key, value, "no such key, for it may change the network")


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 1


def _sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the network's sizes, if this network can have them."""
    sizes = {key: config.get(key, default) for key, default in SIZES.items()}

    def need(key: str, good: bool, expected: Any) -> None:
        if not good:
            _refuse(key, sizes[key], expected)

    for key in ("in_channels", "out_channels", "layers_per_block", "norm_num_groups"):
        need(key, _is_size(sizes[key]), "a positive integer")
    channels, groups = sizes["in_channels"], sizes["norm_num_groups"]
    same = sizes["out_channels"] == channels
    need("out_channels", same, f"in_channels = {channels}")
    same = sizes["attn_norm_num_groups"] in (None, groups)
    need("attn_norm_num_groups", same, "norm_num_groups")
    widths = sizes["block_out_channels"]
    multiples = (
        isinstance(widths, Sequence)
        and len(widths) > 0
        and all(_is_size(width) and width % widths[0] == 0 for width in widths)
    )
    need("block_out_channels", multiples, "multiples of the first one")
    same = sizes["time_embedding_dim"] in (None, 4 * widths[0])
    need("time_embedding_dim", same, 4 * widths[0])
    labels = sizes["num_class_embeds"]
    good = labels is None or (_is_size(labels) and labels > 1)
    need("num_class_embeds", good, "null, or how many labels, the null label included")
    return sizes


def _attention(way: str, sizes: Mapping[str, Any]) -> list[bool]:
    """Return for each level of a way, "Down" or "Up", whether its blocks have attention."""
    key, levels = f"{way.lower()}_block_types", len(sizes["block_out_channels"])
    kinds = {f"{way}Block2D": False, f"Attn{way}Block2D": True}
    names = [str(name).removeprefix("UNetRes") for name in sizes[key]]  # as once
    if len(names) != levels or not kinds.keys() >= set(names):
        _refuse(key, sizes[key], f"{levels} of {', '.join(kinds)}")
    return [kinds[name] for name in names]


def arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Translate diffusers' configuration into the arguments of `UNet`, or refuse it."""
    _same_kind(config)
    sizes = _sizes(config)
    attention = _attention("Down", sizes)
    if _attention("Up", sizes) != attention[::-1]:
        _refuse(
            "up_block_types",
            sizes["up_block_types"],
            "attention at the same levels as in down_block_types, in reverse order",
        )
    widths = sizes["block_out_channels"]
    return {
        "in_channels": sizes["in_channels"],
        "channels": widths[0],
        "channel_mult": tuple(width // widths[0] for width in widths),
        "num_res_blocks": sizes["layers_per_block"],
        "attention_levels": tuple(attention),
        "dropout": sizes["dropout"],
        "norm_num_groups": sizes["norm_num_groups"],
        "num_classes": (sizes["num_class_embeds"] or 1) - 1,
    }


def configuration(config: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the arguments of `UNet` into diffusers' configuration."""
    kinds = ["Attn" * attends + "{}Block2D" for attends in config["attention_levels"]]
    return {key: allowed[0] for key, (allowed, _) in NEEDED.items()} | {
        "in_channels": config["in_channels"],
        "out_channels": config["in_channels"],
        "block_out_channels": [config["channels"] * m for m in config["channel_mult"]],
        "layers_per_block": config["num_res_blocks"],
        "down_block_types": [kind.format("Down") for kind in kinds],
        "up_block_types": [kind.format("Up") for kind in reversed(kinds)],
        "norm_num_groups": config["norm_num_groups"],
        "dropout": config["dropout"],
        "num_class_embeds": config["num_classes"] + 1
        if config["num_classes"]
        else None,
    }


def _find(source: str | Path, *places: str) -> Path | None:
    """Return the first of these files that a folder, or a name on the hub, has."""
    if Path(source).is_dir():
        files = (Path(source) / place for place in places)
        return next((file for file in files if file.is_file()), None)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
        raise FileNotFoundError(
            f"source: expected a folder, or a name on the hub such as "
            f"google/ddpm-cifar10-32, got {str(source)!r}"
        )
    return _find_on_hub(str(source), places)


def _find_on_hub(source: str, places: Sequence[str]) -> Path | None:
    try:
        from huggingface_hub import errors, hf_hub_download
    except ImportError as error:
        raise ImportError(
            f"{source} is no folder here, and to get it from the hub huggingface_hub is "
            "missing: pip install huggingface_hub"
        ) from error
    try:
        for place in places:
            try:
                return Path(hf_hub_download(source, place))
            except errors.LocalEntryNotFoundError:
                raise
            except errors.EntryNotFoundError:
                continue
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{source}: there is no such folder here, and no such name on the hub"
        ) from error
    except (errors.LocalEntryNotFoundError, OSError) as error:
        raise ConnectionError(
            f"{source}: not kept on this machine, and the hub cannot be reached: {error}"
        ) from error
    return None


def find_network(source: str | Path) -> tuple[Path, Path]:
    """Return the paths of a network's configuration and of its weights."""
    for place in ("", "unet/"):
        weights = _find(source, place + WEIGHTS_FILE)
        config = None if weights is None else _find(source, place + CONFIG_FILE)
        if weights is not None and config is not None:
            return config, weights
    if not Path(source).is_dir():
        raise FileNotFoundError(
            f"{source}: has no {CONFIG_FILE} with {WEIGHTS_FILE} on the hub; {NO_PICKLES}"
        )
    pickles = [
        p for end in ("bin", "ckpt", "pt") for p in Path(source).rglob(f"*.{end}")
    ]
    found = f"; found {pickles[0].name}, but {NO_PICKLES}" if pickles else ""
    raise FileNotFoundError(
        f"{source}: expected {CONFIG_FILE} and {WEIGHTS_FILE}, there or in the folder "
        f"`unet`{found}"
    )


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, or complain with its path."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, got {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object")
    return content


def load(unet: nn.Module, path: Path) -> None:
    """Copy the weights in the file into the network; each must be there and fit."""
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError(NEEDS_SAFETENSORS) from error
    try:
        came = {todays_name(name): value for name, value in load_file(path).items()}
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged, or no safetensors file: {error}") from error
    ours = {diffusers_name(name): name for name in unet.state_dict()}
    for words, names in (
        ("lacks", sorted(ours.keys() - came.keys())),
        ("has more than this network:", sorted(came.keys() - ours.keys())),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ValueError(f"{path}: {words} {', '.join(names[:3])}{more}")
    for name, value in unet.state_dict().items():
        shape = tuple(came[diffusers_name(name)].shape)
        if shape != tuple(value.shape):
            raise ValueError(
                f"{path}: {diffusers_name(name)}: expected shape {tuple(value.shape)}, "
                f"got {shape}"
            )
    unet.load_state_dict({mine: came[theirs] for theirs, mine in ours.items()})


def load_unet(build: Callable[..., Any], source: str | Path) -> Any:
    """Return the network of a folder, or of a name on the hub, in `eval` mode; `build` is `UNet`."""
    config_file, weights_file = find_network(source)
    config = read_json(config_file)
    unet = build(**arguments(config))
    load(unet, weights_file)
    unet.provenance = provenance(str(source), config)
    return unet.eval()


def provenance(source: str, config: dict[str, Any]) -> str:
    """Say where weights come from, and whether they are an average, if that is known."""
    name = source if source in KNOWN_WEIGHTS else str(config.get("_name_or_path", ""))
    if name in KNOWN_WEIGHTS:
        return f"{source}: {KNOWN_WEIGHTS[name]}"
    if "optimization_step" in config and "decay" in config:
        return f"{source}: an average (EMA), as diffusers' EMAModel writes it"
    return f"{source}: not known whether these weights are an average (EMA)"


def save(
    unet: nn.Module, arguments: Mapping[str, Any], folder: str | Path, size: Any
) -> None:
    """Write the two files that diffusers reads; what `torch.compile` adds to names is taken away."""
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise ImportError(NEEDS_SAFETENSORS) from error
    weights = {}
    for name, value in unet.state_dict().items():
        try:
            theirs = diffusers_name(name.replace("_orig_mod.", ""))
        except (KeyError, ValueError):
            raise ValueError(
                f"unet: expected the weights of a plain UNet, got {name!r}: take away "
                "first what was put around its layers"
            ) from None
        weights[theirs] = value.detach().cpu().contiguous()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    config = configuration(arguments) | {"sample_size": size}
    (folder / CONFIG_FILE).write_text(
        json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )


# --- what a pipeline says of its noise, in scheduler_config.json

# Key -> what diffusers takes when it is missing. All of these are honoured.
NOISE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "variance_type": "fixed_small",
}
# How a step is taken, not what was learned: the caller's own choice here.
OWN_CHOICE = {
    "timestep_spacing",
    "steps_offset",
    "set_alpha_to_one",
    "dynamic_thresholding_ratio",
    "sample_max_value",
    "tensor_format",
}
PREDICTIONS: dict[str, Literal["noise", "v", "x_0"]] = {
    "epsilon": "noise",
    "v_prediction": "v",
    "sample": "x_0",
}
VARIANCES: dict[str, Literal["large", "small"]] = {
    "fixed_small": "small",
    "fixed_small_log": "small",
    "fixed_large": "large",
    "fixed_large_log": "large",
}


class Recipe(NamedTuple):
    """What a pipeline says of its noise, in this package's words."""

    schedule: Schedule
    prediction: Literal["noise", "v", "x_0"] = "noise"
    clip: bool = True
    variance: Literal["large", "small"] = "large"


def recipe(source: str | Path) -> Recipe | None:
    """Return what a pipeline's folder, or name on the hub, says of its noise; None if nothing.

    Raises:
        ValueError: if it says something that is not done here, with the key and its value.
    """
    above = ("../",) if Path(source).is_dir() and Path(source).name == "unet" else ()
    index = _find(source, *(place + "model_index.json" for place in ("", *above)))
    if index is not None:
        for part in read_json(index):
            if not part.startswith("_") and part not in ("unet", "scheduler"):
                raise ValueError(
                    f"{index}: expected a pipeline of unet and scheduler, got {part!r} too"
                )
    places = ("scheduler/", "", *(place + "scheduler/" for place in above))
    path = _find(source, *(place + SCHEDULER_FILE for place in places))
    return None if path is None else noise_recipe(read_json(path))


def _choose(said: Mapping[str, Any], key: str, known: Mapping[str, Any]) -> Any:
    if said[key] not in known:
        _refuse(key, said[key], " or ".join(known), SCHEDULER_FILE)
    return known[said[key]]


def _schedule(said: Mapping[str, Any]) -> Schedule:
    """Return the noise schedule that a scheduler's keys describe."""
    T, betas = said["num_train_timesteps"], said["trained_betas"]
    if not _is_size(T):
        _refuse("num_train_timesteps", T, "a positive integer", SCHEDULER_FILE)
    if betas is not None:
        if len(betas) != T:
            came = f"{len(betas)} numbers"
            _refuse("trained_betas", came, f"{T} numbers", SCHEDULER_FILE)
        return Schedule(betas)
    first, last = said["beta_start"], said["beta_end"]
    roots = torch.linspace(first**0.5, last**0.5, T, dtype=torch.float64)
    schedules: dict[str, Callable[[], Schedule]] = {
        "linear": lambda: Schedule.linear(T, first, last),
        "scaled_linear": lambda: Schedule(roots**2),
        "squaredcos_cap_v2": lambda: Schedule.cosine(T),
    }
    return _choose(said, "beta_schedule", schedules)()


def noise_recipe(config: Mapping[str, Any]) -> Recipe:
    """Translate the configuration of diffusers' DDPMScheduler or DDIMScheduler, or refuse it."""
    name = config.get("_class_name")
    if name not in ("DDPMScheduler", "DDIMScheduler"):
        _refuse("_class_name", name, "DDPMScheduler or DDIMScheduler", SCHEDULER_FILE)
    for key, value in config.items():
        known = key.startswith("_") or key in NOISE or key in OWN_CHOICE
        if not known and value not in (None, False):
            _refuse(key, value, "none, for it is not done here", SCHEDULER_FILE)
    said = {key: config.get(key, default) for key, default in NOISE.items()}
    if said["clip_sample"] and said["clip_sample_range"] != 1:
        _refuse("clip_sample_range", said["clip_sample_range"], 1, SCHEDULER_FILE)
    return Recipe(
        _schedule(said),
        _choose(said, "prediction_type", PREDICTIONS),
        bool(said["clip_sample"]),
        _choose(said, "variance_type", VARIANCES),
    )


def size(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the height and width of a network's pictures, if its configuration says them."""
    said = config.get("sample_size")
    if said is None:
        return None
    both = (said, said) if type(said) is int else said
    if not isinstance(both, Sequence) or len(both) != 2 or not all(map(_is_size, both)):
        _refuse("sample_size", said, "a positive integer, or two")
    return both[0], both[1]


class AsNoise(nn.Module):
    """A network that answers v or x_0, as one that answers noise: noise = model(x_t, t).

    Args:
        network: answer = network(x_t, t), and with labels network(x_t, t, y).
        prediction: what the answer is, "v" or "x_0".
        schedule: the schedule that it was trained with, on its device.

    Equation: eq-v-inverse for v; for x_0, eq-forward solved for the noise.
    """

    def __init__(
        self, network: nn.Module, prediction: Literal["v", "x_0"], schedule: Schedule
    ) -> None:
        super().__init__()
        self.network, self.prediction, self.schedule = network, prediction, schedule

    def forward(self, x_t: Tensor, t: Tensor, *y: Tensor) -> Tensor:
        """Return the noise that says the same as the network's answer."""
        answer: Tensor = self.network(x_t, t, *y)
        if self.prediction == "v":
            return v_to_noise(x_t, t, answer, self.schedule)
        kept = self.schedule.alpha_bar[check.t(t, self.schedule)]
        signal = per_image(kept.sqrt(), answer) * answer
        return (x_t - signal) / per_image((1 - kept).sqrt(), x_t)
