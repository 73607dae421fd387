"""The command line, as a user runs it."""

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from ddpm_nb import _cli
from ddpm_nb.cifar10 import Labelled
from ddpm_nb.evaluation import bits_per_dim
from ddpm_nb.forward import Schedule
from ddpm_nb.training import TrainConfig, load_network, save_network
from ddpm_nb.unet import UNet

SMALL = [
    "--channels=8", "--multipliers=1,2", "--blocks=1", "--attention=no,yes", "--groups=4", "--T=10", "--batch-size=4",
    "--no-flip", "--save-every=2", "--log-every=1",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine").mkdir()
    for shade in range(6):
        Image.new("RGB", (12, 10), (40 * shade, 0, 0)).save(
            tmp_path / "mine" / f"{shade}.png"
        )
    return tmp_path


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
    assert network.picture_channels == 3
    assert schedule.T == 10
    assert about["pictures"] == "6 pictures of a folder, 8 x 8"
    assert about["steps"] == "4"
    config = TrainConfig.from_json((folder / "run" / "config.json").read_text())
    assert config.attention == (False, True)
    assert config.flip is False
    assert config.learning_rate == 2e-4  # what was not typed is the paper's


def test_errors_are_one_line_and_status_2(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "mine" / "9.png").write_bytes(b"nonsense")
    assert train(folder, "--steps", "1") == 2
    error = capsys.readouterr().err
    assert "9.png, which is broken" in error
    assert error.count("\n") == 1
    assert not (folder / "run").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--attention", "maybe,no"],
        ["--multipliers", "1,x"],
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
    unet, _, _ = load_network(folder / "run" / "network.safetensors")
    unet.save_diffusers(folder / "theirs", size=8)
    theirs = [
        "sample",
        "--network",
        str(folder / "theirs"),
        "--diffusers",
        "--out",
        str(out),
        "--steps",
        "2",
    ]
    assert _cli.main([*theirs, "--count", "1", "--size", "8"]) == 0
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
        "--times",
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


def no_network(given: object) -> tuple[SimpleNamespace, Schedule, str, int]:
    return SimpleNamespace(picture_channels=1), TEN, "none", 8


def test_sample_hands_every_flag_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[tuple[str, int, dict[str, Any]]] = []
    sheets: list[Tensor] = []

    def recorder(name: str) -> Any:
        def draw(
            model: object, shape: tuple[int, ...], *more: object, **options: Any
        ) -> Tensor:
            calls.append((name, shape[0], options))
            noise = torch.randn(1, generator=options["generator"])
            return torch.zeros(shape) + 0.1 * noise

        return draw

    for name in ("sample", "strided_sample", "ddim_sample"):
        monkeypatch.setattr(_cli, name, recorder(name))
    monkeypatch.setattr(_cli, "network", no_network)
    monkeypatch.setattr(_cli, "save_sheet", lambda path, drawn: sheets.append(drawn))
    base = ["sample", "--network", "x", "--out", str(tmp_path / "a.png")]
    for more, name, wanted in (
        ("", "sample", {"variance": "large"}),
        ("--variance small", "sample", {"variance": "small"}),
        (
            "--steps 5 --variance small --spacing leading",
            "strided_sample",
            {"variance": "small", "spacing": "leading"},
        ),
        (
            "--method ddim --steps 5 --eta 0.3 --spacing quadratic",
            "ddim_sample",
            {"eta": 0.3, "spacing": "quadratic"},
        ),
    ):
        assert _cli.main([*base, "--count", "2", *more.split()]) == 0
        asked, count, options = calls[-1]
        assert (asked, count, options["clip"]) == (name, 2, True)
        assert wanted.items() <= options.items()
    calls.clear()
    assert _cli.main([*base, "--count", "600"]) == 0
    assert [count for _, count, _ in calls] == [256, 256, 88]
    assert len(sheets[-1]) == 600
    assert len(sheets[-1][[0, 256, 512], 0, 0, 0].unique()) == 3  # each its own noise


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

    first, options = evaluate("--times 3")
    assert asked == [(tmp_path, False)]  # the test set, from that folder
    wanted = {"times": 3, "variance": "large", "decoder": "exact", "levels": 256}
    assert wanted.items() <= options.items()
    _, options = evaluate("--times 0 --variance small --decoder tanh")
    wanted = {"times": None, "variance": "small", "decoder": "tanh"}
    assert wanted.items() <= options.items()
    assert first.flatten().tolist() != sorted(first.flatten().tolist())  # at random
    assert torch.equal(evaluate("--times 3")[0], first)
    assert not torch.equal(evaluate("--times 3 --seed 5")[0], first)


def test_grey_and_the_schedule_of_the_authors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Image.new("RGB", (8, 8), (200, 10, 10)).save(tmp_path / "a.png")
    for grey, channels in ((True, 1), (False, 3)):
        found, *_ = _cli.pictures(str(tmp_path), tmp_path, 8, grey, train=True)
        assert found.shape == (1, channels, 8, 8)
    unet = UNet.digits()
    monkeypatch.setattr(UNet, "from_diffusers", lambda source: unet)
    text = "sample --network x --diffusers --out a.png"
    _, schedule, *_ = _cli.network(_cli.parser().parse_args(text.split()))
    assert float(schedule.alpha_bar[-1]) == pytest.approx(4.03583e-05, rel=1e-5)


def test_a_network_of_nan_is_no_result(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(folder, "--steps", "2") == 0
    path = folder / "run" / "network.safetensors"
    unet, _, _ = load_network(path)
    config = TrainConfig.from_json((folder / "run" / "config.json").read_text())
    for weight in unet.parameters():
        weight.data.fill_(float("nan"))
    save_network(path, unet, config, size="8")
    out = folder / "sheet.png"
    given = ["--network", str(path), "--out"]
    assert _cli.main(["sample", *given, str(out), "--count", "2"]) == 2
    base = ["evaluate", "--data", str(folder / "mine"), "--size", "8", "--times", "2"]
    assert _cli.main([*base, *given, str(folder / "bits.json")]) == 2
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
    base = ["evaluate", "--data", str(folder / "mine"), "--size", "8", "--times", "2"]
    evaluate = [*base, "--network", str(run), "--out"]
    for command in (
        [*sample, str(run / "config.png")],  # beside it, .json would be the run's own
        [*sample, str(folder / "dir.png")],
        [*evaluate, str(run / "network.safetensors")],
        [*evaluate, str(run / "config.json")],
    ):
        assert _cli.main(command) == 2
        assert "--out: expected a new file" in capsys.readouterr().err
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
    assert _cli.main([*given, "--out", str(out), "--size", "0"]) == 2
    assert "--size: expected at least 1, got 0" in capsys.readouterr().err


def test_an_interruption_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_cli, "run_evaluate", interrupted)
    assert _cli.main(["evaluate", "--data", "digits", "--network", "x"]) == 130
    assert "interrupted" in capsys.readouterr().err
