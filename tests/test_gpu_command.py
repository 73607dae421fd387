"""`make gpu` without a GPU: every part runs in small on the CPU, and what it writes is what it found."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import ROOT

from benchmarks import gpu

ROWS = {
    "peak": 6, "training": 2, "sampling": 2, "agreement": 2, "resume": 4, "processes": 2, "correctness": 1,
}  # fmt: skip


def row(what: str, **more: Any) -> dict[str, Any]:
    return vars(gpu.Row(what, **more))


@pytest.mark.parametrize("name", gpu.PARTS)
def test_every_part_runs_in_small(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    measure, _ = gpu.PARTS[name]
    rows = list(measure("cpu", time.monotonic() + 600))
    assert not [row for row in rows if row.failed], rows
    assert len(rows) == ROWS[name]
    assert all(row.value is not None and row.value >= 0 for row in rows)
    after = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    assert after == before


def test_a_network_that_answers_wrongly_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A layer that scales by 1 % more on the device alone, which `layout` is told of."""

    def heavier(network: torch.nn.Module, channels_last: bool) -> torch.memory_format:
        if channels_last:
            network.head.weight.data *= 1.01
        return torch.contiguous_format

    monkeypatch.setattr(gpu._runs, "layout", heavier)
    way = gpu.Way("float32", compiled=False, channels_last=True)
    monkeypatch.setattr(gpu, "ways", lambda device: [way])
    (found,) = gpu.agreement("cpu", time.monotonic() + 600)
    assert found.failed
    assert found.value == pytest.approx(0.01, rel=0.9)


def test_verdicts_are_counted_and_failures_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the place of Python stands a script that says what pytest would."""
    place = "tests/gpu/test_x.py::"
    said = [f"{place}one PASSED [ 20%]", f"{place}two[a b] FAILED [ 40%]", f"{place}three SKIPPED (no) [ 60%]",
            f"{place}four ERROR [ 80%]", f"{place}five PASSED [100%]", f"FAILED {place}two[a b] - x"]  # fmt: skip
    script = tmp_path / "python"
    monkeypatch.setattr(gpu.sys, "executable", str(script))

    def rows(end: str, seconds: float = 600) -> list[gpu.Row]:
        lines = "\n".join(f"echo '{line}'" for line in said)
        script.write_text(f"#!/bin/sh\n{lines}\n{end}\n")
        script.chmod(0o755)
        return list(gpu.correctness("cpu", time.monotonic() + seconds))

    first, second, last = rows("exit 1")
    assert (first.what, first.note, first.failed) == ("two[a b]", "failed", True)
    assert (second.what, second.note, second.failed) == ("four", "error", True)
    assert (last.what, last.value) == ("tests passed, of 5", 2)
    assert (last.note, last.failed) == ("1 skipped", True)
    said[1], said[3] = said[0], said[4]
    (last,) = rows("exit 0")
    assert (last.value, last.failed) == (4, False)
    (last,) = rows("exec sleep 60", seconds=1)
    assert (last.note, last.failed) == ("1 skipped; cut off: time is up", False)


def test_a_way_that_fails_does_not_stop_the_others_and_late_ones_are_named() -> None:
    def measure(device: str, way: gpu.Way) -> gpu.Row:
        if way.precision == "bf16":
            raise RuntimeError("no memory is left\nand a second line")
        return gpu.Row(str(way), 1.0)

    first, second = gpu.each_way("cpu", time.monotonic() + 600, measure)
    assert first.failed
    assert first.note == "RuntimeError: no memory is left"
    assert second.value == 1.0
    late = list(gpu.each_way("cpu", time.monotonic(), measure))
    assert [row.note for row in late] == ["left out: time is up"] * 2
    assert not any(row.failed for row in late)


def test_a_part_that_crashes_is_reported_and_what_a_run_had_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(name: str, device: str, limit: float) -> Iterator[dict[str, Any]]:
        yield row(f"of {name}", value=2.0)
        if name == "resume":
            raise KeyboardInterrupt
        yield {"end": "ended with -11" if name == "peak" else "whole"}

    monkeypatch.setattr(gpu, "run_part", run)
    path = tmp_path / "gpu.json"
    assert not gpu.measure_all(["peak", "training"], "cpu", path)
    assert gpu.measure_all(["training"], "cpu", path)
    with pytest.raises(KeyboardInterrupt):
        gpu.measure_all(["resume"], "cpu", path)
    parts = json.loads(path.read_text())["parts"]
    assert {name: part["end"] for name, part in parts.items()} == {
        "peak": "ended with -11",
        "training": "whole",
        "resume": "cut off",
    }
    assert [part["rows"][0]["value"] for part in parts.values()] == [2.0] * 3
    assert "**ended with -11**" in path.with_suffix(".md").read_text()
    # Of another machine nothing is kept.
    path.write_text(json.dumps({"card": "other", "software": "", "parts": parts}))
    gpu.measure_all(["training"], "cpu", path)
    assert [*json.loads(path.read_text())["parts"]] == ["training"]


def test_a_part_in_its_own_process_tells_how_it_ended() -> None:
    """There is no such device here: the first thing that is asked of it fails."""
    device = "mps" if not torch.backends.mps.is_available() else "cuda"
    *rows, end = gpu.run_part("peak", device, 600)
    assert rows[-1]["what"] == "the whole part"
    assert rows[-1]["failed"]
    assert end == {"end": "ended with 1"}


def test_without_a_gpu_it_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "found_device", lambda: None)
    with pytest.raises(SystemExit, match=r"^make gpu: expected a GPU .* got none; .*$"):
        gpu.main([])


def test_a_part_that_does_not_exist_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["--device", "cpu", "--only", "peak,speed"])
    assert "--only: expected some of peak, training" in capsys.readouterr().err


def test_shares_are_of_the_peak_in_the_same_precision() -> None:
    rows = {
        "peak": [
            row("bf16, matrix product", precision="bf16", tflops=600.0),
            row("bf16, 3x3 convolution", precision="bf16", tflops=400.0),
            row("float32, matrix product", precision="float32", tflops=50.0),
        ],
        "training": [
            row("bf16", value=8000.0, unit="pictures/s", precision="bf16", tflops=300.0, memory=20.0),
            row("float32", value=700.0, precision="float32", tflops=30.0),
            row("fp16", note="OutOfMemoryError: 2 | 3", failed=True),
        ],
        "sampling": [row("bf16", value=1000.0, precision="bf16")],
    }  # fmt: skip
    result = {
        "card": "A card", "software": "torch 9",
        "parts": {name: {"date": "2026-01-02", "end": "whole", "rows": part} for name, part in rows.items()},
    }  # fmt: skip
    text = gpu.page(result)
    assert "**A card, 2026-01-02.** torch 9." in text
    assert "| bf16 | 8,000 pictures/s | 300 | 50% | 75% | 20.00 GB |  |" in text
    assert "| float32 | 700 | 30 | 60% |  |  |  |" in text
    assert "| fp16 |  |  |  |  |  | **failed** OutOfMemoryError: 2 / 3 |" in text
    assert "at least 6,000 pictures/s (224 TFLOP/s) | 8,000 pictures/s (bf16) |" in text
    assert "at most 60 s | 50 s (bf16) |" in text


def test_goals_are_those_of_the_network_s_own_work() -> None:
    """6,000 pictures a second are 224 TFLOP."""
    _, work = gpu.flop("cuda")
    assert round(gpu.GOAL_TRAINING * work / 1e12) == 224


@pytest.mark.fast
def test_the_page_says_not_yet_run_exactly_when_there_is_no_result() -> None:
    text = gpu.PAGE.read_text(encoding="utf-8")
    assert text == gpu.page(gpu.read(gpu.RESULT)), "run python -m benchmarks.gpu --page"
    assert ("not yet run" in text.lower()) == (not gpu.RESULT.exists())


def test_a_run_that_is_ended_ends_its_part(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu"]
    path = tmp_path / "gpu.json"
    run = subprocess.Popen(
        [*command, "--only", "processes", "--out", str(path)],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until = time.monotonic() + 120
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.05)
    run.send_signal(signal.SIGTERM)
    assert run.wait(60) == 143
    assert json.loads(path.read_text())["parts"]["processes"]["end"] == "cut off"


def test_what_the_book_says_of_a_gpu_stands_in_the_table() -> None:
    """The chapters' numbers are those of `benchmarks/gpu.json`."""
    result = gpu.read(gpu.RESULT)
    assert result is not None
    rows = {row["what"]: row for row in result["parts"]["training"]["rows"]}
    plain, best = rows["bf16, channels_last"], rows["bf16, channels_last, compiled"]
    speeds = [f"{row['value']:,.0f} pictures" for row in (plain, best)]
    cifar10, unet = ((ROOT / f"ddpm_nb/{name}.py").read_text() for name in ("cifar10", "unet"))  # fmt: skip
    assert f"{speeds[0]} a second to {speeds[1][:5]}" in unet
    hours = 800_000 * 128 / best["value"] / 3600
    assert f"{speeds[1]} a second" in cifar10 and f"in {hours:.1f} hours" in cifar10
    assert f"at {best['tflops']:.0f} TFLOP a second" in cifar10


def test_ways_without_time_share_a_line_and_parts_not_run_are_named() -> None:
    rows = [row("a", value=1.0), row("b", note=gpu.LATE), row("c", note=gpu.LATE)]
    parts = {"training": {"date": "2026-01-01", "end": "whole", "rows": rows}}
    result = {"card": "X", "software": "Y", "parts": parts}
    shown = gpu.page(result)
    assert f"| training | b; c | | | | | | {gpu.LATE} |" in shown
    assert shown.count(gpu.LATE) == 1
    left = "peak, sampling, agreement, resume, processes, correctness"
    assert f"Parts that it has not run: {left}." in shown


def test_minutes_are_shared_out_among_the_parts_that_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    limits: list[float] = []

    def run(name: str, device: str, limit: float) -> Iterator[dict[str, Any]]:
        limits.append(limit)
        yield {"end": "whole"}

    monkeypatch.setattr(gpu, "run_part", run)
    words = [
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "gpu.json"),
        "--only",
        "training,sampling",
    ]
    gpu.main([*words, "--minutes", "3"])
    training, sampling = (gpu.PARTS[name][1] for name in ("training", "sampling"))
    # What one part leaves, the next may have: together three minutes.
    assert limits == pytest.approx(
        [180 * training / (training + sampling), 180], rel=1e-2
    )
    for wrong in ("0", "-1", "nan"):
        with pytest.raises(SystemExit):
            gpu.main([*words, "--minutes", wrong])
        assert "--minutes: expected a number above 0" in capsys.readouterr().err


def test_nothing_is_compiled_late() -> None:
    """Before the first one is done, nobody knows how long it takes; a third of the part's time must be left."""
    began: list[gpu.Way] = []

    def measure(device: str, way: gpu.Way) -> gpu.Row:
        began.append(way)
        time.sleep(0.8)
        return gpu.Row(str(way), 1.0)

    first, second = gpu.each_way("cpu", time.monotonic() + 1, measure)
    assert [way.compiled for way in began] == [False]
    assert (first.note, second.note) == ("", gpu.LATE)
