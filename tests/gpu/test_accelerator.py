"""Every public function, training, resuming and sampling, on a real accelerator (see conftest.py).

Speed is measured by `make gpu`, which runs these tests, too.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from test_devices import CASES, PICTURES, SMALL, On, plain
from torch import Tensor

import ddpm_nb as ddpm
from benchmarks.gpu import with_the_package

ROOT = Path(__file__).resolve().parents[2]
Row = Callable[[str, str], None]


def apart(mine: Tensor, theirs: Tensor) -> float:
    """The largest difference, as a share of the largest number."""
    mine, theirs = (torch.as_tensor(v).cpu().double() for v in (mine, theirs))
    return float((mine - theirs).abs().max() / theirs.abs().max().clamp(min=1e-30))


@pytest.mark.parametrize("name", CASES)
def test_a_function_answers_as_on_the_cpu(kind: str, name: str, row: Row) -> None:
    answer, expected = plain(CASES[name](On(kind))), plain(CASES[name](On("cpu")))
    assert len(answer) == len(expected)
    worst = max(map(apart, answer, expected))
    row(f"{name}: difference from the CPU", f"{worst:.1e}")
    # Six steps of a network that is not trained; on MPS the tables are float32.
    assert worst < 1e-3


def small(**choice: Any) -> ddpm.TrainConfig:
    return ddpm.TrainConfig(
        **{**SMALL, "dropout": 0.5, "warmup_steps": 0, "learning_rate": 1e-3, **choice}
    )


def losses(folder: Path) -> list[float]:
    return [
        json.loads(line)["loss"]
        for line in (folder / "log.jsonl").read_text().splitlines()
    ]


def test_a_run_stops_and_goes_on(kind: str, tmp_path: Path, row: Row) -> None:
    """Bit for bit is promised for a CPU; elsewhere kernels add in any order. But dropout goes on where it was."""
    config = small(learning_rate=1e-2)
    straight = ddpm.Trainer(config, PICTURES)
    for _ in range(30):
        straight.step()
    ddpm.save_checkpoint(tmp_path / "checkpoint.pt", straight)
    expected = [float(straight.step().loss) for _ in range(3)]
    resumed = ddpm.Trainer(config, PICTURES)
    ddpm.load_checkpoint(tmp_path / "checkpoint.pt", resumed)
    found = [float(resumed.step().loss) for _ in range(3)]
    worst = max(abs(a / b - 1) for a, b in zip(found, expected))
    row("three losses after a resume: largest difference", f"{worst:.1e}")
    assert straight.device.type == kind
    assert worst < 2e-3  # other dropout makes 2e-2 and more


def test_a_run_goes_on_on_the_cpu_and_back(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for steps, place in ((2, kind), (4, "cpu"), (6, kind)):
        monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", place)
        AcceleratorState._reset_state(reset_partial_state=True)
        trainer = ddpm.fit(small(steps=steps), PICTURES, tmp_path, progress=False)
        assert (trainer.steps, trainer.device.type) == (steps, place)
    assert len(losses(tmp_path)) == 6


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_training_learns_in_every_precision(
    kind: str, precision: Any, tmp_path: Path, row: Row
) -> None:
    config = small(
        precision=precision, steps=300, dropout=0.0, save_every=300, sample_every=0
    )
    trainer = ddpm.fit(config, PICTURES, tmp_path, progress=False)
    first, last = (
        sum(part) / 50 for part in (losses(tmp_path)[:50], losses(tmp_path)[-50:])
    )
    row(
        f"{precision}: mean loss of the first 50 updates and of the last",
        f"{first:.3f} {last:.3f}",
    )
    assert last < 0.8 * first
    drawn = trainer.sample(2)
    assert drawn.isfinite().all() and drawn.abs().max() <= 1.5


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_gives_nearly_the_same_loss(
    kind: str, precision: Any, row: Row
) -> None:
    found = []
    for choice in ("float32", precision):
        trainer = ddpm.Trainer(small(precision=choice, dropout=0.0), PICTURES)
        found.append(float(torch.stack([trainer.step().loss for _ in range(5)]).mean()))
    row(
        f"{precision}: loss of five updates over that of float32",
        f"{found[1] / found[0]:.4f}",
    )
    assert abs(found[1] / found[0] - 1) < 0.03


def test_memory_layout_changes_nothing(kind: str) -> None:
    found = [
        ddpm.Trainer(small(channels_last=choice, dropout=0.0), PICTURES)
        .step()
        .loss.cpu()
        for choice in (True, False)
    ]
    assert apart(*found) < 1e-4


def test_the_command_line_uses_the_device(kind: str, tmp_path: Path) -> None:
    """What was trained on the device is drawn and measured."""

    def command(words: str, *places: str) -> None:
        line = [sys.executable, "-m", "ddpm_nb", *words.split(), *places]
        done = subprocess.run(
            line, cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    run, sheet, bits = (str(tmp_path / name) for name in ("run", "a.png", "bits.json"))
    small = "--steps 20 --batch-size 16 --precision auto"
    command(f"train --data digits {small}", "--out", run)
    _, _, notes = ddpm.load_network(tmp_path / "run" / "network.safetensors")
    name = torch.cuda.get_device_name() if kind == "cuda" else kind
    assert name in notes["hardware"]
    compiles = "--compile" if kind == "cuda" else ""
    few = f"--count 7 --batch-size 4 --steps 10 {compiles}"
    command(f"sample {few}", "--network", run, "--out", sheet)
    command(
        "evaluate --data digits --num-timesteps 10", "--network", run, "--out", bits
    )


@pytest.mark.parametrize(
    "chapter", ["training", "algorithms", "unet", "fewer_steps", "evaluation"]
)
def test_a_chapter_runs_where_the_device_is(
    kind: str, chapter: str, tmp_path: Path
) -> None:
    """Its cells hold their own assertions. The last chapter would train for 20 minutes."""
    if kind == "cpu":
        pytest.skip("make test runs the chapters on a CPU")
    shutil.copytree(ROOT / "book", tmp_path / "book")
    shutil.copy(ROOT / "_toc.yml", tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "tools.execute", str(tmp_path), chapter],
        cwd=ROOT, capture_output=True, text=True, check=False, env=with_the_package(),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
