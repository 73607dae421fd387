"""What a pipeline of diffusers says of itself is honoured, or refused by name. Diffusers itself is the judge."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from ddpm_nb import _cli, _diffusers
from ddpm_nb._noise import CounterNoise
from ddpm_nb.forward import Schedule
from ddpm_nb.unet import UNet

TINY = {
    "channels": 8,
    "channel_mult": (1, 2),
    "num_res_blocks": 1,
    "attention_levels": (False, True),
    "norm_num_groups": 4,
    "dropout": 0.0,
}
STEPS = 12


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline's folder, with a network of order one and the noise schedule that a test chooses."""
    folder = tmp_path_factory.mktemp("pipeline")
    net = UNet(in_channels=1, **TINY)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            fan_in = p[0].numel() if p.dim() > 1 else 1
            p.copy_(torch.randn(p.shape, generator=generator) / fan_in**0.5)
        net.head.weight *= 0.3
        net.head.bias *= 0
    net.save_diffusers(folder / "unet", size=(8, 16))
    index = {"_class_name": "DDPMPipeline", "unet": [], "scheduler": []}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def with_scheduler(pipeline: Path, place: Path, scheduler: Any) -> Path:
    copy = shutil.copytree(pipeline, place)
    scheduler.save_pretrained(copy / "scheduler")
    return copy


def words(scheduler: Any) -> dict[str, Any]:
    """What a scheduler writes into its file."""
    said: dict[str, Any] = json.loads(scheduler.to_json_string())
    return said


@pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler])
@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"num_train_timesteps": 4000, "beta_schedule": "squaredcos_cap_v2"},
        {"num_train_timesteps": 50, "beta_schedule": "squaredcos_cap_v2"},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"num_train_timesteps": 300, "beta_start": 0.001, "beta_end": 0.03},
        {"num_train_timesteps": 3, "trained_betas": [0.1, 0.3, 0.2]},
    ],
)
def test_schedules_are_those_of_diffusers(kind: Any, choice: dict[str, Any]) -> None:
    """To the float32 in which diffusers keeps its tables; a missing key is its default."""
    theirs = kind(**choice)
    for config in (words(theirs), {"_class_name": kind.__name__, **choice}):
        schedule = _diffusers.noise_recipe(config).schedule
        assert len(theirs.betas) == schedule.T
        assert_close(schedule.beta[1:].float(), theirs.betas, rtol=2e-4, atol=1e-8)
        share = theirs.alphas_cumprod.double()
        assert_close(schedule.alpha_bar[1:], share, rtol=1e-3, atol=1e-7)


def test_the_cosine_of_diffusers_is_the_book_s() -> None:
    """Offset 0.008, no beta above 0.999; at the last steps, where they are clipped, the tables agree too."""
    theirs = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    ours = Schedule.cosine(1000)
    assert theirs.betas[-1] == pytest.approx(0.999)
    assert_close(ours.beta[1:].float(), theirs.betas, rtol=1e-5, atol=1e-9)


# Key -> a value, and what the refusal says was expected.
REFUSED: dict[str, tuple[Any, str]] = {
    "_class_name": ("EulerDiscreteScheduler", "DDPMScheduler or DDIMScheduler"),
    "beta_schedule": ("sigmoid", "linear or scaled_linear or squaredcos_cap_v2"),
    "prediction_type": ("flow_prediction", "epsilon or v_prediction or sample"),
    "variance_type": (
        "learned_range",
        "fixed_small or fixed_small_log or fixed_large or fixed_large_log",
    ),
    "clip_sample_range": (2.0, "1"),
    "thresholding": (True, "none, for it is not done here"),
    "rescale_betas_zero_snr": (True, "none, for it is not done here"),
    "num_train_timesteps": (10.5, "a positive integer"),
    "trained_betas": ([0.1, 0.2], "1000 numbers"),
    "something_new": ("on", "none, for it is not done here"),
}


@pytest.mark.parametrize("key", REFUSED)
def test_what_is_not_done_is_refused_by_name(key: str) -> None:
    value, expected = REFUSED[key]
    config = words(DDPMScheduler()) | {key: value}
    came = "'2 numbers'" if key == "trained_betas" else repr(value)
    said = f"scheduler_config.json: {key}: expected {expected}, got {came}"
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        _diffusers.noise_recipe(config)


# Key -> a value of a network's configuration, and what the refusal says was expected.
UNFIT: dict[str, tuple[Any, str]] = {
    "in_channels": (0, "a positive integer"),
    "out_channels": (0, "a positive integer"),
    "layers_per_block": (1.5, "a positive integer"),
    "norm_num_groups": (0, "a positive integer"),
    "attn_norm_num_groups": (3, "norm_num_groups"),
    "block_out_channels": ([], "multiples of the first one"),
    "time_embedding_dim": (8, "32"),
    "up_block_types": (
        ["UpBlock2D", "AttnUpBlock2D"],
        "attention at the same levels as in down_block_types, in reverse order",
    ),
    "num_class_embeds": (1, "null, or how many labels, the null label included"),
}


@pytest.mark.parametrize("key", UNFIT)
def test_sizes_that_do_not_fit_are_refused_by_name(key: str) -> None:
    good = _diffusers.configuration({"in_channels": 1, "num_classes": 0} | TINY)
    assert _diffusers.arguments(good)["channels"] == 8
    value, expected = UNFIT[key]
    said = f"config.json: {key}: expected {expected}, got {value!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        _diffusers.arguments(good | {key: value})
    if key == "time_embedding_dim":
        _diffusers.arguments(good | {key: 32})


def test_an_option_that_is_not_known_and_off_changes_nothing() -> None:
    good = _diffusers.configuration({"in_channels": 1, "num_classes": 0} | TINY)
    for off in (None, False):
        _diffusers.arguments(good | {"something_new": off})
    with pytest.raises(ValueError, match="something_new: expected no such key"):
        _diffusers.arguments(good | {"something_new": True})


def test_weights_are_called_an_average_only_with_both_of_its_marks() -> None:
    both = {"optimization_step": 7, "decay": 0.9}
    assert "an average (EMA), as" in _diffusers.provenance("here", both)
    for mark in both:
        assert "not known" in _diffusers.provenance("here", {mark: 1})


def test_every_key_of_the_two_schedulers_is_known() -> None:
    for kind in (DDPMScheduler, DDIMScheduler):
        keys = {key for key in kind().config if not key.startswith("_")}
        refused = {"thresholding", "rescale_betas_zero_snr"}
        assert keys <= _diffusers.NOISE.keys() | _diffusers.OWN_CHOICE | refused
        for key in keys & _diffusers.NOISE.keys():
            assert kind().config[key] == _diffusers.NOISE[key], key


def test_clipping_and_variance_are_honoured() -> None:
    for variance, wanted in (("fixed_small", "small"), ("fixed_large", "large")):
        for clip in (True, False):
            theirs = DDPMScheduler(variance_type=variance, clip_sample=clip)
            said = _diffusers.noise_recipe(words(theirs))
            assert (said.variance, said.clip) == (wanted, clip)
    assert _diffusers.noise_recipe(words(DDIMScheduler())).variance == "small"


def drawn(path: Path, count: int) -> Tensor:
    """The pictures of a sheet in one row's order, in levels."""
    with Image.open(path) as sheet:
        levels = torch.tensor(np.asarray(sheet), dtype=torch.float32)
    return torch.stack([part for row in levels.split(8) for part in row.split(16, 1)])[
        :count
    ]


def sample(source: Path, out: Path, *more: str) -> int:
    return _cli.main(
        ["sample", "--diffusers", "--network", str(source), "--out", str(out), *more]
    )


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_pipeline_is_drawn_from_as_diffusers_draws(
    pipeline: Path, tmp_path: Path, prediction: str
) -> None:
    """Another schedule, 12 steps, another prediction, oblong pictures: nothing typed; within one grey level."""
    theirs = DDIMScheduler(
        STEPS, 0.01, 0.3, "linear" if prediction == "epsilon" else "squaredcos_cap_v2",
        prediction_type=prediction, clip_sample=False, timestep_spacing="trailing",
    )  # fmt: skip
    source = with_scheduler(pipeline, tmp_path / "whole", theirs)
    out = tmp_path / "a.png"
    assert sample(source, out, "--method", "ddim", "--count", "4") == 0
    net = UNet2DModel.from_pretrained(source / "unet").eval()
    x = CounterNoise(0, (1, 8, 16))(torch.arange(4), STEPS)
    theirs.set_timesteps(STEPS)
    assert theirs.timesteps.tolist() == list(reversed(range(STEPS)))
    with torch.no_grad():
        for t in theirs.timesteps:
            x = theirs.step(net(x, t).sample, t, x, eta=0.0).prev_sample
    expected = (x[:, 0].clamp(-1, 1) + 1) * 127.5
    assert (
        (expected > 0) & (expected < 255)
    ).float().mean() > 0.25  # not all is black or white
    assert (drawn(out, 4) - expected).abs().max() <= 1


def test_clipping_changes_what_is_drawn(pipeline: Path, tmp_path: Path) -> None:
    sheets = set()
    for i, clip in enumerate((True, False)):
        theirs = DDPMScheduler(STEPS, clip_sample=clip)
        source = with_scheduler(pipeline, tmp_path / f"{i}", theirs)
        assert sample(source, tmp_path / "a.png", "--count", "2") == 0
        how = json.loads((tmp_path / "a.json").read_text())
        assert (how["clip"], how["variance"], how["steps"]) == (clip, "small", STEPS)
        assert how["size"] == [8, 16]
        sheets.add((tmp_path / "a.png").read_bytes())
    assert len(sheets) == 2


def test_evaluate_takes_the_pipeline_s_word(
    pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A network that answers v is not judged as if it answered noise; clipping and variance are the pipeline's."""
    (tmp_path / "mine").mkdir()
    for shade in range(4):
        Image.new("L", (20, 20), 60 * shade).save(tmp_path / "mine" / f"{shade}.png")
    bits = []
    for i, choice in enumerate(
        (
            {},
            {"prediction_type": "v_prediction"},
            {"clip_sample": False},
            {"variance_type": "fixed_large"},
        )
    ):
        theirs = DDPMScheduler(STEPS, **choice)
        source = with_scheduler(pipeline, tmp_path / f"{i}", theirs)
        command = [
            "evaluate",
            "--diffusers",
            "--network",
            str(source),
            "--num-timesteps",
            "0",
        ]
        out = tmp_path / "bits.json"
        mine = ["--data", str(tmp_path / "mine"), "--out", str(out)]
        assert _cli.main([*command, *mine]) == 0
        result = json.loads(out.read_text())
        assert result["pictures"] == "4 of 4 pictures of a folder, 8 x 16"
        assert result["times_a_picture"] == STEPS - 1
        bits.append(result["bits_per_dim"])
    for bits_of_another in bits[1:]:
        assert bits[0] != pytest.approx(bits_of_another, rel=1e-3)


def test_the_scheduler_is_found_where_pipelines_have_it(
    pipeline: Path, tmp_path: Path
) -> None:
    """Beside `unet`, also for who names the folder `unet`; and in one folder with the weights, as once."""
    source = with_scheduler(pipeline, tmp_path / "whole", DDPMScheduler(7))
    flat = shutil.copytree(source / "unet", tmp_path / "flat")
    shutil.copy(source / "scheduler/scheduler_config.json", flat)
    for place in (source, source / "unet", flat):
        said = _diffusers.recipe(place)
        assert said is not None and said.schedule.T == 7
    alone = shutil.copytree(source / "unet", tmp_path / "alone")
    assert _diffusers.recipe(alone) is None


def test_a_network_alone_must_be_told_its_schedule(
    pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, alone = tmp_path / "a.png", pipeline / "unet"
    assert sample(alone, out) == 2
    assert "no scheduler_config.json" in (error := capsys.readouterr().err)
    assert "--schedule linear --T 1000" in error
    assert not out.exists()
    given = _cli.parser().parse_args(
        f"sample --diffusers --network {alone} --out {out} --schedule cosine".split()
    )
    net = _cli.network(given)
    assert torch.equal(net.schedule.beta, Schedule.cosine(1000).beta)
    assert (net.channels, net.size, net.levels) == (1, (8, 16), None)
    assert sample(alone, out, "--T", "5", "--count", "1") == 0
    source = with_scheduler(pipeline, tmp_path / "whole", DDPMScheduler())
    for more in (["--T", "5"], ["--schedule", "linear"]):
        assert sample(source, out, *more) == 2
        assert "expected where no scheduler_config.json says" in capsys.readouterr().err
    for command in ("sample", "evaluate --data digits"):
        text = f"{command} --network {alone} --out {out} --T 5"
        assert _cli.main(text.split()) == 2
        assert "expected with --diffusers only" in capsys.readouterr().err


def test_a_network_without_a_size_must_be_told_one(
    pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = with_scheduler(pipeline, tmp_path / "whole", DDPMScheduler(3))
    path = source / "unet/config.json"
    config = json.loads(path.read_text())
    for said, wanted in ((None, None), (8, (8, 8)), ([16, 8], (16, 8))):
        assert _diffusers.size(config | {"sample_size": said}) == wanted
    for wrong in (0, [8], [8, 8, 8], "8", [8, -8], True):
        with pytest.raises(ValueError, match=r"config\.json: sample_size: expected"):
            _diffusers.size(config | {"sample_size": wrong})
    path.write_text(json.dumps(config | {"sample_size": None}))
    assert sample(source, tmp_path / "a.png") == 2
    assert "--size: expected one" in capsys.readouterr().err
    assert sample(source, tmp_path / "a.png", "--size", "8", "--count", "1") == 0


def test_a_pipeline_with_more_than_two_parts_is_refused(
    pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its network draws codes, which a decoder turns into pictures."""
    source = with_scheduler(pipeline, tmp_path / "whole", DDPMScheduler())
    index = {"_class_name": "LDMPipeline", "unet": [], "scheduler": [], "vqvae": []}
    (source / "model_index.json").write_text(json.dumps(index))
    for place in (source, source / "unet"):
        assert sample(place, tmp_path / "a.png") == 2
        assert "got 'vqvae' too" in capsys.readouterr().err


def test_the_hub_is_asked_for_the_scheduler(
    pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = with_scheduler(pipeline, tmp_path / "whole", DDPMScheduler(9))

    def download(name: str, file: str) -> str:
        assert name == "somebody/something"
        if not (source / file).is_file():
            raise huggingface_hub.errors.EntryNotFoundError(file)
        return str(source / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    text = f"sample --diffusers --network somebody/something --out {tmp_path}/a.png"
    net = _cli.network(_cli.parser().parse_args(text.split()))
    assert (net.schedule.T, net.size, net.channels) == (9, (8, 16), 1)


@pytest.mark.parametrize("prediction", ["v", "x_0"])
def test_another_prediction_says_the_same_noise(prediction: Any) -> None:
    """From a known x_0 and noise: the network that answers exactly v, or x_0, answers exactly the noise."""
    schedule, generator = Schedule.linear(50), torch.Generator().manual_seed(0)
    drawn = torch.randn(3, 3, 1, 4, 4, dtype=torch.float64, generator=generator)
    picture, other, noise = drawn
    t = torch.tensor([1, 20, 50])
    cos, sin = (
        part[t, None, None, None]
        for part in (schedule.alpha_bar.sqrt(), (1 - schedule.alpha_bar).sqrt())
    )

    class Exact(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
            x_0, e = (picture, noise) if y is None else (other[y], noise[y])
            return cos * e - sin * x_0 if prediction == "v" else x_0

    model = _diffusers.AsNoise(Exact(), prediction, schedule)
    assert_close(model(cos * picture + sin * noise, t), noise, rtol=1e-9, atol=1e-8)
    y = torch.tensor([2, 0, 0])  # a network with labels is told them
    x_t = cos * other[y] + sin * noise[y]
    assert_close(model(x_t, t, y), noise[y], rtol=1e-9, atol=1e-8)


def test_a_compiled_network_is_saved_as_itself(tmp_path: Path) -> None:
    """Compiled as a whole or in part: torch puts `_orig_mod` into the names of the weights."""
    net = UNet(in_channels=1, **TINY)
    wanted = {name: value.clone() for name, value in net.state_dict().items()}
    net.middle[0] = torch.compile(net.middle[0], backend="eager")  # type: ignore[assignment]
    for i, network in enumerate((net, torch.compile(net, backend="eager"))):
        network.save_diffusers(tmp_path / f"{i}")
        again = UNet.from_diffusers(tmp_path / f"{i}").state_dict()
        assert again.keys() == wanted.keys()
        assert all(torch.equal(again[name], wanted[name]) for name in wanted)


def test_a_layer_in_a_wrapper_is_refused_when_saved(tmp_path: Path) -> None:
    net = UNet(in_channels=1, **TINY)
    torch.nn.utils.parametrizations.weight_norm(net.head)
    with pytest.raises(ValueError, match=r"plain UNet, got 'head\.param"):
        net.save_diffusers(tmp_path / "a")
    assert not (tmp_path / "a").exists()
