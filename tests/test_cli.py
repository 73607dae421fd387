"""The command line, as a user runs it."""

import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import ROOT
from PIL import Image
from test_commands import commands
from torch import Tensor, nn
from torch.testing import assert_close

from ddpm_nb import _cli, _devices
from ddpm_nb._data import load_folder, to_float
from ddpm_nb._noise import CounterNoise
from ddpm_nb.algorithms import sample
from ddpm_nb.cifar10 import Labelled
from ddpm_nb.evaluation import bits_per_dim
from ddpm_nb.fewer_steps import log_snr_timesteps, multistep, timesteps
from ddpm_nb.forward import Schedule
from ddpm_nb.training import TrainConfig, load_network, save_network

SMALL = [
    "--channels=8", "--channel-mult=1,2", "--num-res-blocks=1", "--attention-levels=no,yes",
    "--norm-num-groups=4", "--T=10", "--batch-size=4",
    "--no-flip", "--save-every=2", "--log-every=1", "--schedule=cosine",
]  # fmt: skip


DIGITS = ROOT / "book/weights/digits.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine").mkdir()
    for shade in range(6):
        Image.new("RGB", (12, 10), (40 * shade, 0, 0)).save(
            tmp_path / "mine" / f"{shade}.png"
        )
    return tmp_path


@pytest.fixture(autouse=True)
def same_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command tells accelerate stays within its test."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "false")


def train(folder: Path, *more: str) -> int:
    given = [
        "train",
        "--data",
        str(folder / "mine"),
        "--out",
        str(folder / "run"),
        "--size",
        "8",
    ]
    return _cli.main([*given, *SMALL, *more])


def test_train_and_go_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(folder, "--steps", "2", "--sample-every", "2", "--samples", "2") == 0
    assert "2 steps done" in capsys.readouterr().out
    assert train(folder, "--steps", "4") == 0
    assert "4 steps done" in capsys.readouterr().out
    log = [
        json.loads(line)["step"]
        for line in (folder / "run" / "log.jsonl").read_text().splitlines()
    ]
    assert log == [1, 2, 3, 4]
    network, schedule, about = load_network(folder / "run" / "network.safetensors")
    assert network.in_channels == 3
    assert schedule.T == 10
    assert about["pictures"] == "6 pictures of a folder, 8 x 8"
    assert about["steps"] == "4"
    config = TrainConfig.from_json((folder / "run" / "config.json").read_text())
    assert config.attention_levels == (False, True)
    assert config.flip is False
    assert config.learning_rate == 2e-4  # what was not typed is the paper's


def test_training_begins_with_a_trained_network(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(folder, "--steps", "2") == 0
    first, out = folder / "run" / "network.safetensors", folder / "more"
    given = ["train", "--data", str(folder / "mine"), "--out", str(out), "--size=8"]
    given += ["--batch-size=4", "--save-every=2", "--log-every=1"]
    given += ["--learning-rate=1e-30"]  # a step changes nothing
    assert _cli.main([*given, "--steps=1", "--start", str(folder / "run")]) == 0
    old, schedule, _ = load_network(first)
    new, same, about = load_network(out / "network.safetensors")
    assert_close(new.state_dict(), old.state_dict(), rtol=0, atol=1e-20)
    assert_close(same.beta, schedule.beta)
    said = f"{folder / 'run'} (6 pictures of a folder, 8 x 8, 2 updates)"
    assert (about["start"], about["steps"]) == (said, "1")
    config = TrainConfig.from_json((out / "config.json").read_text())
    assert (config.channels, config.T, config.batch_size) == (8, 10, 4)
    assert config.flip is True  # of the recipe, nothing is taken over
    # The run goes on with its own weights, not with those of the start.
    (folder / "run").rename(folder / "gone")
    save_network(
        first_again := folder / "zero.safetensors",
        config.network(3).requires_grad_(False),
        config,
        height=8,
        width=8,
    )
    assert _cli.main([*given, "--steps=2", "--start", str(first_again)]) == 0
    on, _, about = load_network(out / "network.safetensors")
    assert_close(on.state_dict(), old.state_dict(), rtol=0, atol=1e-20)
    capsys.readouterr()
    for flag, why in (
        ("--channels=16", "--start: expected a network of the configuration's layers"),
        ("--start=nowhere", "--start: expected a network, got nowhere: no such file"),
    ):
        start = ["--start", str(folder / "gone"), "--out", str(folder / "never")]
        assert _cli.main([*given, *start, flag]) == 2
        assert why in capsys.readouterr().err
    assert not (folder / "never").exists()


def test_errors_are_one_line_and_status_2(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "mine" / "9.png").write_bytes(b"nonsense")
    assert train(folder, "--steps", "1") == 2
    error = capsys.readouterr().err
    assert "9.png" in error
    assert error.count("\n") == 1
    assert not (folder / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--seed=-1", "--seed: expected a number in [0, "),
        ("--batch-size=0", "--batch-size: expected at least 1, got 0"),
        ("--batch-size=7", "--data: expected at least a batch of 7, got 6"),
        ("--size=7x9", "--data: expected a height and a width that the network can halve 1 times, multiples of 2"),
        ("--channels=10", "--channels: expected a multiple of norm_num_groups = 4"),
        ("--channel-mult=1,2,2", "--channel-mult, --attention-levels: expected one entry"),
        ("--log-with=aim", "--log-with: expected a tracker whose package is installed, got aim; `pip install aim`"),
        ("--data=nowhere", "--data: expected a folder, got nowhere"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused_before_a_folder_is_made(
    arguments: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(folder, arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"ddpm-nb: {message}") and error.count("\n") == 1
    assert not (folder / "run").exists()


def test_refusals_name_the_flag(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, run, new = (str(folder / name) for name in ("mine", "run", "new/a.png"))
    (folder / "empty").mkdir()
    data = ["train", "--data", mine, "--size=8", *SMALL, "--steps=1", "--out"]
    error = refusal(capsys, *data, f"{mine}/0.png/run")
    assert error.startswith(f"ddpm-nb: --out: cannot make {mine}/0.png/run (")
    error = refusal(capsys, "train", "--data", str(folder / "empty"), "--out", run)
    assert error.startswith("ddpm-nb: --data: expected pictures in")
    assert _cli.main([*data, run]) == 0
    draw = ["sample", "--network", run, "--out", new]
    for more, message in (
        ("--count=0", "--count: expected at least 1, got 0"),
        ("--batch-size=0", "--batch-size: expected at least 1, got 0"),
        ("--seed=-1", "--seed: expected at least 0, got -1"),
        ("--steps=0", "--steps: expected at least 1, got 0"),
        ("--steps=11", "--steps: expected 1 ... 10, got 11"),
        ("--size=7x8", "--size: expected multiples of 2, which the network can halve, got 7x8"),
        ("--network=none", "--network: expected a network, got none: no such file"),
        ("--eta=2 --method=ddim", "--eta: expected a number from 0 to 1, got 2.0"),
        ("--eta=0", "--eta: expected with --method ddim only, got it with ddpm"),
        ("--eta=0 --method=multistep", "--eta: expected with --method ddim only, got it with multistep"),
        ("--variance=large --method=ddim", "--variance: expected with --method ddpm only, got it with ddim"),
        ("--variance=small --method=multistep", "--variance: expected with --method ddpm only, got it with multistep"),
        (f"--network={DIGITS} --method=multistep --steps=488", "--steps: expected 1 ... 487, got 488"),
        ("--spacing=log_snr --steps=11", "--steps: expected 1 ... 10, got 11"),
        ("--label=0", f"--label: expected with a network that knows labels, got {run}, which knows none"),
        ("--guidance=1", "--guidance: expected with --label only, got it without"),
        ("--guidance=0", "--guidance: expected with --label only, got it without"),
        ("--label=0 --guidance=inf", "--guidance: expected a number that is finite, got inf"),
        ("--label=0 --guidance=nan", "--guidance: expected a number that is finite, got nan"),
        (f"--network={DIGITS} --label=10", "--label: expected 0 ... 9, got 10"),
        (f"--network={DIGITS} --label=3,-1", "--label: expected 0 ... 9, got -1"),
    ):  # fmt: skip
        assert refusal(capsys, *draw, *more.split()) == f"ddpm-nb: {message}\n"
        assert not (folder / "new").exists()
    judge = ["evaluate", "--network", run, "--data", mine, "--out", str(folder / "b/a")]
    for more, message in (
        ("--count=7", "--count: expected 2 ... 6, got 7\n"),
        ("--num-timesteps=10", "--num-timesteps: expected 0 ... 9, got 10\n"),
        ("--data=cifar10 --root=" + mine + "/0.png", f"--root: cannot make {mine}/0.png (File exists)\n"),
    ):  # fmt: skip
        assert refusal(capsys, *judge, *more.split()) == f"ddpm-nb: {message}"
        assert not (folder / "b").exists()
    (folder / "run/checkpoint.pt").write_bytes(b"")
    error = refusal(capsys, *data, run)
    assert error.startswith("ddpm-nb: --out: expected a whole checkpoint, got")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--attention-levels", "maybe,no"],
        ["--channel-mult", "1,x"],
        ["--clip", "both"],
        ["--steps", "many"],
    ],
)
def test_flags_that_cannot_be_read_are_refused(
    arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        train(folder, *arguments)
    assert arguments[0] in capsys.readouterr().err


def test_help_names_every_field_with_its_default(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        _cli.main(["train", "--help"])
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for field in fields(TrainConfig):
        assert "--" + field.name.replace("_", "-") in text
        assert f"(default: {_cli.shown(field.default)})" in text
    assert "accelerate launch -m ddpm_nb train" in text


def test_it_starts_as_a_module_and_says_its_version() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ddpm_nb", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("ddpm-nb 0.")


def test_sample_from_a_run_and_from_diffusers(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(folder, "--steps", "1") == 0
    run, out = str(folder / "run"), folder / "sheet.png"
    common = [
        "sample",
        "--network",
        run,
        "--out",
        str(out),
        "--count",
        "3",
        "--size",
        "8",
    ]
    seen = set()
    for more in (
        [],
        ["--steps", "3"],
        ["--method", "ddim", "--steps", "3"],
        ["--seed", "1"],
    ):
        assert _cli.main([*common, *more]) == 0
        with Image.open(out) as sheet:
            assert sheet.size == (16, 16)
        seen.add(out.read_bytes())
    assert len(seen) == 4
    how = json.loads(out.with_suffix(".json").read_text())
    assert (how["seed"], how["steps"], how["count"]) == (1, 10, 3)
    assert "6 pictures of a folder" in how["about"]
    for more, complaint in (
        (["--steps", "11"], "steps"),
        (["--eta", "0.5"], "--eta: expected with --method ddim"),
        (["--method", "ddim", "--variance", "small"], "--variance: expected with"),
        (["--out", str(folder / "x.json")], "ends in .png"),
    ):
        assert _cli.main([*common, *more]) == 2
        assert complaint in capsys.readouterr().err


def test_evaluate_prints_and_writes_the_bound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = [
        "train",
        "--data",
        "digits",
        "--out",
        str(tmp_path / "run"),
        *SMALL,
        "--steps",
        "2",
    ]
    assert _cli.main(run) == 0
    judge = [
        "evaluate",
        "--network",
        str(tmp_path / "run"),
        "--data",
        "digits",
        "--count",
        "5",
        "--num-timesteps",
        "3",
    ]
    assert _cli.main([*judge, "--out", str(tmp_path / "bits.json")]) == 0
    result = json.loads((tmp_path / "bits.json").read_text())
    low, high = result["interval_95"]
    assert low < result["bits_per_dim"] < high
    parts = result["prior"] + result["steps"] + result["decoder"]
    assert parts == pytest.approx(result["bits_per_dim"], rel=1e-6)
    assert result["pictures"] == "5 of scikit-learn's digits, test set"
    assert f"{result['bits_per_dim']:.5f}" in capsys.readouterr().out
    assert _cli.main([*judge[:-4], "--count", "9999"]) == 2
    assert "expected 2 ... 450, got 9999" in capsys.readouterr().err
    assert (
        _cli.main(["evaluate", "--network", str(tmp_path / "no"), "--data", "digits"])
        == 2
    )
    assert "no such file" in capsys.readouterr().err


# --- every flag arrives

TEN = Schedule.linear(T=10, beta_1=0.01, beta_T=0.4)


def no_network(given: object) -> _cli.Network:
    return _cli.Network(
        lambda x, t: x, TEN, 1, (8, 8), None, clip=True, variance="large", about="none"
    )


def test_sample_hands_every_flag_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[tuple[Any, ...]] = []
    sheets: list[Tensor] = []

    def recorder(name: str) -> Any:
        def rule(*given: object) -> tuple[object, ...]:
            return (name, *given)

        return rule

    def draw(
        model: object,
        shape: tuple[int, ...],
        schedule: Schedule,
        rule: tuple[object, ...],
        times: tuple[int, ...],
        **options: Any,
    ) -> Tensor:
        calls.append((rule, times, shape[0], options))
        noise = options["generator"](torch.arange(shape[0]), 3)
        return torch.zeros(shape) + 0.1 * noise[:, :1, :1, :1]

    monkeypatch.setattr(_cli, "sample", draw)
    for name in ("strided", "ddim", "multistep"):
        monkeypatch.setattr(_cli, name, recorder(name))
    monkeypatch.setattr(_cli, "network", no_network)
    monkeypatch.setattr(
        _cli, "save_image_grid", lambda path, drawn: sheets.append(drawn)
    )
    base = ["sample", "--network", "x", "--out", str(tmp_path / "a.png")]
    for more, rule, times in (
        ("", ("strided", "large"), tuple(range(10, -1, -1))),
        ("--variance small", ("strided", "small"), tuple(range(10, -1, -1))),
        (
            "--steps 5 --variance small --spacing leading",
            ("strided", "small"),
            timesteps(10, 5, "leading"),
        ),
        (
            "--method ddim --steps 5 --eta 0.3 --spacing quadratic",
            ("ddim", 0.3),
            timesteps(10, 5, "quadratic"),
        ),
        ("--method multistep", ("multistep",), log_snr_timesteps(TEN)),
        ("--method multistep --steps 4", ("multistep",), log_snr_timesteps(TEN, 4)),
        (
            "--method multistep --steps 4 --spacing leading",
            ("multistep",),
            timesteps(10, 4, "leading"),
        ),
        (
            "--method ddim --steps 4 --spacing log_snr",
            ("ddim", 0.0),
            log_snr_timesteps(TEN, 4),
        ),
        ("--spacing log_snr", ("strided", "large"), log_snr_timesteps(TEN)),
    ):
        assert _cli.main([*base, "--count", "2", *more.split()]) == 0
        assert calls[-1][:3] == (rule, times, 2)
        assert calls[-1][3]["clip"] is True
    calls.clear()
    assert _cli.main([*base, "--count", "300"]) == 0
    assert [count for _, _, count, _ in calls] == [128, 128, 44]
    assert len(sheets[-1]) == 300
    assert len(sheets[-1][:, 0, 0, 0].unique()) == 300  # each its own noise
    assert _cli.main([*base, "--count", "300", "--batch-size", "77"]) == 0
    assert torch.equal(sheets[-1], sheets[-2])
    assert _cli.main([*base, "--count", "200", "--seed", "1"]) == 0
    assert not torch.isin(sheets[-1][:, 0, 0, 0], sheets[-2][:, 0, 0, 0]).any()


def test_evaluate_hands_every_flag_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[tuple[Tensor, dict[str, Any]]] = []
    asked: list[tuple[object, ...]] = []
    shades = torch.arange(256, dtype=torch.uint8)[:, None, None, None]

    def spy(model: object, x_0: Tensor, schedule: Schedule, **options: Any) -> object:
        seen.append((x_0, options))
        return bits_per_dim(
            lambda x, t: x, x_0, schedule, **{**options, "progress": False}
        )

    def load(*given: object) -> Labelled:
        asked.append(given)
        return Labelled(shades, torch.zeros(256), "shades of grey")

    monkeypatch.setattr(_cli, "bits_per_dim", spy)
    monkeypatch.setattr(_cli, "network", no_network)
    monkeypatch.setattr(_cli, "load_cifar10", load)
    base = f"evaluate --network x --data cifar10 --root {tmp_path} --count 9".split()

    def evaluate(more: str) -> tuple[Tensor, dict[str, Any]]:
        assert _cli.main([*base, *more.split()]) == 0
        return seen[-1]

    with pytest.raises(AssertionError):  # another shape than the network's
        evaluate("")
    shades = shades.expand(-1, -1, 8, 8)
    first, options = evaluate("--num-timesteps 3 --batch-size 4")
    assert asked[-1] == (tmp_path, False)  # the test set, from that folder
    wanted = {
        "num_timesteps": 3,
        "variance": "large",
        "decoder": "exact",
        "levels": 256,
    }
    wanted |= {"batch_size": 4, "clip": True}
    assert wanted.items() <= options.items()
    _, options = evaluate("--num-timesteps 0 --variance small --decoder tanh")
    wanted = {"num_timesteps": None, "variance": "small", "decoder": "tanh"}
    assert wanted.items() <= options.items()
    assert first.flatten().tolist() != sorted(first.flatten().tolist())  # at random
    assert torch.equal(evaluate("--num-timesteps 3")[0], first)
    for seed in (5, 0):
        other, options = evaluate(f"--num-timesteps 3 --seed {seed}")
        source = options["generator"]
        assert (source.seed, source.shape, source.first) == (seed, (1, 8, 8), 0)
        assert torch.equal(other, first) == (seed == 0)


def test_pictures_are_cut_to_an_oblong_shape(tmp_path: Path) -> None:
    """Height first. Of a square, the middle stays; what is cut off is lost at both ends alike."""
    picture = Image.new("L", (32, 32), 0)
    picture.paste(100, (0, 8, 32, 16))  # the second of four bands
    picture.paste(200, (0, 16, 32, 24))
    picture.save(tmp_path / "a.png")
    wide = load_folder(tmp_path, size=(16, 32), channels=1)
    assert wide.shape == (1, 1, 16, 32)
    assert wide[0, 0, :, 5].tolist() == [100] * 8 + [200] * 8
    high = load_folder(tmp_path, size=(32, 16), channels=1)
    assert high.shape == (1, 1, 32, 16)
    assert high[0, 0, ::8, 5].tolist() == [0, 100, 200, 0]
    for wrong in ((0, 8), (8, 0)):
        with pytest.raises(ValueError, match="size: expected at least 1"):
            load_folder(tmp_path, size=wrong)


def test_a_folder_s_pictures_are_read_in_colour_or_grey(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (200, 10, 10)).save(tmp_path / "a.png")
    for channels in (1, 3):
        data = _cli.images(str(tmp_path), tmp_path, (8, 8), channels, train=True)
        assert data.images.shape == (1, channels, 8, 8)


def evaluation(folder: Path) -> list[str]:
    """The command that judges a network on the folder's own pictures, but for the network."""
    data = str(folder / "mine")
    return ["evaluate", "--data", data, "--size", "8", "--num-timesteps", "2"]


def test_a_network_of_nan_is_no_result(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(folder, "--steps", "2") == 0
    path = folder / "run" / "network.safetensors"
    unet, _, _ = load_network(path)
    config = TrainConfig.from_json((folder / "run" / "config.json").read_text())
    for weight in unet.parameters():
        weight.data.fill_(float("nan"))
    save_network(path, unet, config, height=8, width=8)
    out = folder / "sheet.png"
    given = ["--network", str(path), "--out"]
    assert _cli.main(["sample", *given, str(out), "--count", "2"]) == 2
    assert _cli.main([*evaluation(folder), *given, str(folder / "bits.json")]) == 2
    assert capsys.readouterr().err.count("gives NaN or infinity") == 2
    assert not out.exists() and not (folder / "bits.json").exists()


def test_results_never_replace_the_network(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(folder, "--steps", "2") == 0
    run = folder / "run"
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    (folder / "dir.png").mkdir()
    sample = ["sample", "--network", str(run), "--count", "2", "--out"]
    evaluate = [*evaluation(folder), "--network", str(run), "--out"]
    for command in (
        [*sample, str(run / "config.png")],  # beside it, .json would be the run's own
        [*sample, str(folder / "dir.png")],
        [*evaluate, str(run / "network.safetensors")],
        [*evaluate, str(run / "config.json")],
        [*evaluate, str(run / "checkpoint.pt")],
        [*evaluate, str(run / "log.jsonl")],
    ):
        assert _cli.main(command) == 2
        assert (
            "--out: expected a file that is not the run's own"
            in capsys.readouterr().err
        )
    assert before == {path: path.read_bytes() for path in before}


def test_the_size_is_the_one_it_was_trained_with(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(folder, "--steps", "2") == 0
    out = folder / "sheet.png"
    given = ["sample", "--network", str(folder / "run"), "--count", "4"]
    assert _cli.main([*given, "--out", str(out)]) == 0
    with Image.open(out) as sheet:
        assert sheet.size == (16, 16)  # two rows of two, 8 x 8 each
    for wrong in ("0", "8x", "x8", "8x8x8", "-8", "8.5", "large"):
        with pytest.raises(SystemExit):
            _cli.main([*given, "--out", str(out), f"--size={wrong}"])
        assert f"such as 32x48, got '{wrong}'" in capsys.readouterr().err


def test_an_interruption_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_cli, "run_evaluate", interrupted)
    assert _cli.main(["evaluate", "--data", "digits", "--network", "x"]) == 130
    assert "interrupted" in capsys.readouterr().err


# --- what a network was trained on travels with it


def evaluate(folder: Path, *more: str) -> dict[str, Any]:
    """The result of `evaluate` on the folder's pictures; nothing typed that the network knows."""
    out = folder / "bits.json"
    given = ["--network", str(folder / "run"), "--data", str(folder / "mine")]
    assert (
        _cli.main(["evaluate", *given, "--out", str(out), "--num-timesteps=3", *more])
        == 0
    )
    result: dict[str, Any] = json.loads(out.read_text())
    return result


def refusal(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    """The one line that says why a command is refused."""
    capsys.readouterr()
    assert _cli.main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith("ddpm-nb: ") and error.count("\n") == 1
    return error


def test_oblong_grey_pictures_are_trained_on_drawn_and_measured(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(folder, "--steps", "2", "--size", "8x16", "--grey") == 0
    assert evaluate(folder)["pictures"] == "6 of 6 pictures of a folder, 8 x 16"
    out = folder / "sheet.png"
    draw = ["sample", "--network", str(folder / "run"), "--out", str(out)]
    assert _cli.main([*draw, "--count", "4"]) == 0
    with Image.open(out) as sheet:
        assert (sheet.size, sheet.mode) == ((32, 16), "L")  # width, height
    assert json.loads(out.with_suffix(".json").read_text())["size"] == [8, 16]
    capsys.readouterr()
    assert _cli.main([*draw, "--count", "4", "--size", "16x8"]) == 0
    with Image.open(out) as sheet:
        assert sheet.size == (16, 32)
    error = capsys.readouterr().err
    assert "ddpm-nb: warning: --size: the network was trained at 8x16\n" in error


def test_a_folder_is_measured_at_the_trained_size(folder: Path) -> None:
    """The same numbers as for pictures that were made so large, in colour, by hand."""
    assert train(folder, "--steps", "2", "--size", "16") == 0
    result = evaluate(folder)
    assert result["pictures"] == "6 of 6 pictures of a folder, 16 x 16"
    net, schedule, _ = load_network(folder / "run" / "network.safetensors")
    x_0 = to_float(load_folder(folder / "mine", size=16))
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    source = CounterNoise(0, (3, 16, 16))
    bits = bits_per_dim(net, x_0[order], schedule, num_timesteps=3, generator=source)
    assert result["bits_per_dim"] == pytest.approx(bits.mean, rel=1e-5)


def test_pictures_of_another_kind_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = ["evaluate", "--network", str(folder / "run"), "--data"]
    assert train(folder, "--steps", "2") == 0
    error = refusal(capsys, *network, "digits")
    assert "expected pictures of shape (3, 8, 8)" in error and "(1, 8, 8)" in error
    assert "--grey: expected" in refusal(capsys, *network, str(folder), "--grey")
    shutil.rmtree(folder / "run")
    assert train(folder, "--steps", "2", "--size", "16", "--grey") == 0
    assert "(1, 16, 16)" in refusal(capsys, *network, "digits")
    shutil.rmtree(folder / "run")
    assert train(folder, "--steps", "2", "--grey") == 0
    error = refusal(capsys, *network, "digits")
    assert "expected pictures with 256 grey levels" in error and "got 17" in error
    digits = ["train", "--data", "digits", "--out", str(folder / "digits"), *SMALL]
    assert _cli.main([*digits, "--steps", "2"]) == 0
    network[2] = str(folder / "digits")
    error = refusal(capsys, *network, str(folder / "mine"))
    assert "expected pictures with 17 grey levels" in error and "got 256" in error


# --- picture i of a seed is picture i


def cut(path: Path, count: int, size: int = 8) -> Tensor:
    """The pictures of a sheet, in order, as levels."""
    with Image.open(path) as sheet:
        levels = torch.tensor(np.asarray(sheet), dtype=torch.int64)
    rows = [part for row in levels.split(size) for part in row.split(size, dim=1)]
    return torch.stack(rows[:count])


@pytest.mark.parametrize(
    "more",
    [
        "",
        "--steps 4",
        "--method ddim --steps 4 --eta 0.5",
        "--method multistep --steps 4",
        "--label 3,1,4 --guidance 0.5 --method multistep --steps 5",
        "--label 0,1,2,3,4 --steps 5 --spacing log_snr",
    ],
)
def test_a_picture_is_the_same_in_any_company(folder: Path, more: str) -> None:
    """Within one grey level where batches have other members; bit for bit where they have the same."""
    if "--label" in more:
        network = str(DIGITS)
    else:
        assert train(folder, "--steps", "2") == 0
        network = str(folder / "run")
    draw = ["sample", "--network", network, *more.split()]

    def drawn(count: int, batch: int) -> Tensor:
        out = folder / "a.png"
        size = ["--count", str(count), "--batch-size", str(batch)]
        assert _cli.main([*draw, *size, "--out", str(out)]) == 0
        return cut(out, count)

    eight = drawn(8, 8)
    assert len(eight.flatten(1).unique(dim=0)) == 8
    for count, batch in ((1, 1), (8, 1), (8, 3), (5, 8)):
        assert (drawn(count, batch) - eight[:count]).abs().max() <= 1
    assert torch.equal(drawn(7, 3)[:6], drawn(6, 3))


def test_a_picture_is_measured_in_the_same_way_in_any_company(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(folder, "--steps", "2") == 0
    totals = []

    def keep(*given: Any, **options: Any) -> Any:
        bits = bits_per_dim(*given, **options)
        totals.append(bits.total)
        return bits

    monkeypatch.setattr(_cli, "bits_per_dim", keep)
    for count, batch in ((6, 6), (6, 1), (6, 4), (3, 2)):
        evaluate(folder, f"--count={count}", f"--batch-size={batch}")
        assert_close(totals[-1], totals[0][:count], rtol=1e-5, atol=1e-8)
    evaluate(folder, "--seed=1")
    assert not torch.allclose(totals[-1].sort().values, totals[0].sort().values)


def launched(processes: int, *command: str, status: int = 0) -> str:
    """What a command prints in so many processes, of one thread each; where it fails, its errors."""
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    free = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "-m"]
    start = [*torchrun, *free] if processes > 1 else ["-m"]
    done = subprocess.run(
        [sys.executable, *start, "ddpm_nb", *command],
        capture_output=True, text=True, check=False, timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    return done.stderr if status else done.stdout


def test_two_processes_train_and_draw_what_one_does(folder: Path) -> None:
    mine = str(folder / "mine")
    weights = []
    for processes in (1, 2):
        run = str(folder / f"{processes}")
        said = launched(
            processes, "train", "--data", mine, "--out", run, *SMALL, "--size=8",
            "--steps=3", "--dropout=0", "--warmup-steps=0", "--device=cpu",
        )  # fmt: skip
        assert f"3 steps done on {processes} x cpu" in said
        net, _, notes = load_network(Path(run) / "network.safetensors")
        assert notes["hardware"].endswith(f"{processes} x 1 threads")
        weights.append(net.state_dict())
    first, second = weights
    for name in first:  # gradients are summed in another order
        assert torch.allclose(first[name], second[name], atol=1e-5), name
    labels = ["--label=3,1,4,1,5", "--guidance=1", "--method=multistep", "--steps=5"]
    for network, more, steps in ((folder / "1", [], 10), (DIGITS, labels, 5)):
        draw = ["sample", "--network", str(network), "--count=7", "--batch-size=3"]
        for processes in (1, 2):
            out = str(folder / f"{processes}.png")
            said = launched(processes, *draw, *more, "--out", out)
            assert f"7 pictures, {steps} steps on {processes} x cpu" in said
        for kind in ("png", "json"):
            one, two = (folder / f"{i}.{kind}" for i in (1, 2))
            assert one.read_bytes() == two.read_bytes()


def test_evaluate_in_several_processes_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    error = refusal(capsys, "evaluate", "--network", "x", "--data", "digits")
    assert "expected one process, got 2" in error


def test_what_fails_in_all_processes_is_said_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The launcher ends those that wait; one that fails alone says so in the end."""
    wrong = ["--data", str(folder / "mine"), "--out", str(folder / "run"), "--seed=-1"]
    error = launched(2, "train", *wrong, status=1)
    assert error.count("--seed: expected a number in") == 1
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, times in (("0", 0), ("1", 1)):
        monkeypatch.setenv("RANK", rank)
        assert "--seed: expected" in refusal(capsys, "train", *wrong)
        assert len(waited) == times


# --- compiled


@pytest.mark.parametrize("more", ["", "--label=3,1 --guidance=1"])
def test_a_compiled_network_draws_the_same_pictures(
    more: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a CUDA graph does it: every batch has one size, and each answer is written to the same place.

    The second-order rule and guidance need an answer after the next one has come.
    """
    sizes, place = set(), torch.empty(3, 1, 8, 8)

    def graph(network: nn.Module, device: torch.device) -> Any:
        assert not network.training

        def answer(*given: Tensor) -> Tensor:
            sizes.add(len(given[0]))
            with torch.no_grad():
                return place.copy_(network(*given))

        return answer

    monkeypatch.setattr(_devices, "compiled", graph)
    draw = [
        "sample", "--network", str(DIGITS), *more.split(), "--method=multistep", "--steps=5", "--count=7",
        "--batch-size=3", "--out",
    ]  # fmt: skip
    pictures = []
    for name, compiles in (("plain", []), ("compiled", ["--compile"])):
        out = tmp_path / f"{name}.png"
        assert _cli.main([*draw, str(out), *compiles]) == 0
        pictures.append(out.read_bytes())
        assert json.loads(out.with_suffix(".json").read_text())["compile"] == bool(compiles)  # fmt: skip
    assert pictures[0] == pictures[1]
    assert sizes == {3}


def test_without_a_compiler_it_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    missing = "--compile: expected a machine that can compile, but there is no C++ compiler (no-such-compiler)"
    for command in (["sample", "--network", str(DIGITS)], ["train", "--data=digits"]):
        out = tmp_path / f"{command[0]}.png"
        error = refusal(
            capsys, *command, "--device=cpu", "--compile", "--out", str(out)
        )
        assert missing in error
        assert not out.exists()


# --- labels, and what the .json says


def drawn_as(tmp_path: Path, more: str) -> tuple[dict[str, Any], Tensor]:
    """What the .json says, and the pictures; from the book's own digits network."""
    out = tmp_path / "a.png"
    command = ["sample", "--network", str(DIGITS), "--out", str(out), *more.split()]
    assert _cli.main(command) == 0
    how: dict[str, Any] = json.loads(out.with_suffix(".json").read_text())
    return how, cut(out, how["count"])


def test_the_command_line_draws_what_the_chapter_draws(tmp_path: Path) -> None:
    """Labels in turn, two answers of the network combined by hand, and the noise of each picture drawn alone."""
    net, schedule, _ = load_network(DIGITS)
    times = log_snr_timesteps(schedule, 6)
    noise = CounterNoise(5, (1, 8, 8))
    for labels, w in (("7", 0.0), ("3,8", 1.5)):
        more = f"--label {labels} --guidance {w} --method multistep --steps 6 --count 5 --seed 5"
        _, got = drawn_as(tmp_path, more)
        each = [int(label) for label in labels.split(",")]
        for i in range(5):
            y = torch.tensor([each[i % len(each)]])

            def model(x: Tensor, t: Tensor, y: Tensor = y, w: float = w) -> Tensor:
                asked, plain = net(x, t, y), net(x, t, torch.tensor([10]))
                return (1 + w) * asked - w * plain

            x_T = noise(torch.tensor([i]), times[0])
            with torch.no_grad():
                x = sample(model, (1, 1, 8, 8), schedule, multistep(), times, x_T=x_T, clip=True)  # fmt: skip
            level = ((x.clamp(-1, 1) + 1) * 127.5).round()[0, 0]
            assert (got[i] - level).abs().max() <= 1


def test_digits_that_were_asked_for_are_drawn(tmp_path: Path) -> None:
    """By a judge who has seen only real digits. Four seeds gave 40 of 40 each; chance gives four."""
    from sklearn.datasets import load_digits
    from sklearn.neighbors import KNeighborsClassifier

    judge = KNeighborsClassifier(5).fit(*load_digits(return_X_y=True))
    for more in ("--method multistep --steps 20", "--steps 50 --spacing log_snr"):
        _, got = drawn_as(tmp_path, f"--label 9,0,2,7 --guidance 1 --count 40 {more}")
        said = judge.predict(got.flatten(1) / 255 * 16)
        right = sum(a == b for a, b in zip(said, [9, 0, 2, 7] * 10, strict=True))
        assert right >= 34


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("", ("ddpm", "trailing", None, "large", 500, None, None)),
        ("--variance small --spacing leading --steps 4", ("ddpm", "leading", None, "small", 4, None, None)),
        ("--method ddim --steps 4", ("ddim", "trailing", 0.0, None, 4, None, None)),
        ("--method ddim --eta 0.5 --steps 4 --label 7", ("ddim", "trailing", 0.5, None, 4, [7], 0.0)),
        ("--method multistep --steps 4", ("multistep", "log_snr", None, None, 4, None, None)),
        ("--method multistep", ("multistep", "log_snr", None, None, 487, None, None)),
        (
            "--method multistep --spacing linspace --steps 4 --label 1,0 --guidance -0.5",
            ("multistep", "linspace", None, None, 4, [1, 0], -0.5),
        ),
    ],
)  # fmt: skip
def test_the_json_names_every_choice(
    more: str, told: tuple[object, ...], tmp_path: Path
) -> None:
    """What was typed, what the default was, and null where there is no such choice."""
    how, _ = drawn_as(tmp_path, f"--count 2 --seed 3 {more}")
    names = "method spacing eta variance steps label guidance"
    assert tuple(how[name] for name in names.split()) == told
    always = {"count": 2, "seed": 3, "batch_size": 128, "size": [8, 8], "clip": True}
    assert always.items() <= how.items()


def test_the_commands_of_the_book_draw_from_its_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the chapters and of --help, where a clone has its models; only four pictures of each."""
    (tmp_path / "book").symlink_to(ROOT / "book")
    monkeypatch.chdir(tmp_path)
    for name in ("algorithms", "fewer_steps", "_cli"):
        text = (ROOT / f"ddpm_nb/{name}.py").read_text(encoding="utf-8")
        typed = [line.split() for line in commands(text) if "weights/digits" in line]
        assert typed
        for words in typed:
            out = tmp_path / words[words.index("--out") + 1]
            assert words[0] == "ddpm-nb" and _cli.main([*words[1:], "--count=4"]) == 0
            with Image.open(out) as sheet:
                assert sheet.size == (16, 16)
            for path in (out, out.with_suffix(".json")):
                path.unlink()


def test_labels_reach_a_network_of_diffusers(tmp_path: Path) -> None:
    """The same weights in both kinds of file: the same pictures."""
    net, _, _ = load_network(DIGITS)
    net.save_diffusers(tmp_path / "unet", size=8)
    common = "--label 4,6 --guidance 1 --count 3 --steps 5 --method multistep"
    how, ours = drawn_as(tmp_path, common)
    assert how["label"] == [4, 6]
    theirs = f"--network {tmp_path}/unet --diffusers --schedule cosine --T 500"
    _, got = drawn_as(tmp_path, f"{common} {theirs}")
    assert (got - ours).abs().max() <= 1


# --- said in one line


@pytest.mark.filterwarnings("default")
def test_a_schedule_that_leaves_signal_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(folder, "--steps", "1", "--schedule", "linear") == 0
    error = capsys.readouterr().err
    assert error.startswith("ddpm-nb: warning: schedule, T: linear with T = 10 ")
    assert error.count("\n") == 1
    monkeypatch.setenv("RANK", "1")  # a number alone makes no second process
    _cli.tell("something")
    assert capsys.readouterr().err == "ddpm-nb: warning: something\n"
    monkeypatch.setenv("WORLD_SIZE", "2")
    _cli.tell("something")
    assert capsys.readouterr().err == ""


def test_a_launcher_s_precision_is_not_passed_over(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert train(folder, "--steps", "1") == 2
    error = capsys.readouterr().err
    assert "precision: expected bf16" in error and error.count("\n") == 1
    assert train(folder, "--steps", "1", "--precision", "bf16") == 0


def test_help_is_as_one_writes(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ([], ["train"], ["sample"], ["evaluate"]):
        with pytest.raises(SystemExit):
            _cli.main([*command, "--help"])
        assert "%%" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("module", "package"), [*_cli.OPTIONAL.items(), ("nonsense", None)]
)
def test_a_missing_package_is_named_with_its_cure(
    module: str, package: str | None, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Whatever it is that the command asks for, and however deep inside."""

    def without(given: object) -> None:
        importlib.import_module(f"{module}.deep.inside")

    for name in [m for m in sys.modules if m.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(_cli, "run_evaluate", without)
    error = refusal(capsys, "evaluate", "--data", "x", "--network", "x")
    assert module in error
    assert ("pip install" in error) == (package is not None)
    assert package is None or error.endswith(f"; pip install {package}\n")


def test_digits_without_scikit_learn(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    out = str(folder / "digits")
    error = refusal(capsys, "train", "--data", "digits", "--out", out)
    assert "pip install scikit-learn" in error


# --- where it computes


def test_the_device_is_the_first_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def there(cuda: bool, mps: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.delenv(
        "ACCELERATE_TORCH_DEVICE"
    )  # with which the tests hide what is there
    for cuda, mps, wanted in ((0, 0, "cpu"), (0, 1, "mps"), (1, 1, "cuda")):
        there(bool(cuda), bool(mps))
        assert _cli.device(None) == torch.device(wanted)
        assert _cli.device("cpu") == torch.device("cpu")
    assert _cli.device("mps") == torch.device("mps")
    monkeypatch.setenv("LOCAL_RANK", "3")  # each process its own GPU
    assert _cli.device(None) == torch.device("cuda:3")
    assert _cli.device("cpu") == torch.device("cpu")
    there(False, False)
    for missing in ("cuda", "mps"):
        with pytest.raises(ValueError, match=f"that is there, got {missing}"):
            _cli.device(missing)


def test_the_device_is_stated(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(folder, "--steps", "2", "--device", "cpu") == 0
    assert "2 steps done on 1 x cpu" in capsys.readouterr().out
    out = folder / "a.png"
    draw = ["sample", "--network", str(folder / "run"), "--out", str(out), "--count=2"]
    assert _cli.main([*draw, "--device", "cpu"]) == 0
    assert "10 steps on 1 x cpu" in capsys.readouterr().out
    assert json.loads(out.with_suffix(".json").read_text())["device"] == "cpu"
    assert evaluate(folder, "--device", "cpu")["device"] == "cpu"
