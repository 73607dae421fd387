"""Four processes on one machine, and on two that find each other, do what one does: training, going on, sampling.

Two machines are rehearsed by two launchers on this one. Their processes have the same local numbers, so whoever takes a
local number for a number among all is found. What it cannot show: a real network between them, and folders that differ.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import four_processes
import pytest
import torch
from helpers import ROOT
from torch.testing import assert_close

SCRIPT = str(ROOT / "tests/four_processes.py")
ALONE = ["--standalone", "--nproc_per_node"]


def start(folder: Path, launch: list[str], *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *launch, SCRIPT, str(folder), *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def finish(*launched: subprocess.Popen[str]) -> None:
    try:
        said = [process.communicate(timeout=120)[1] for process in launched]
    finally:
        for process in launched:  # a launcher ends its processes, too
            process.terminate()
            process.wait()
    assert [process.returncode for process in launched] == [0] * len(launched), said


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What one process does; its network is what all draw with."""
    folder, threads = tmp_path_factory.mktemp("one"), torch.get_num_threads()
    four_processes.main(folder, 1, "train")
    shutil.copy(folder / "whole/network.safetensors", folder)
    four_processes.main(folder, 1, "sample")
    torch.set_num_threads(threads)
    return folder


@pytest.fixture(scope="module")
def four(one: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four processes of one launcher."""
    folder = tmp_path_factory.mktemp("four")
    shutil.copy(one / "network.safetensors", folder)
    finish(start(folder, [*ALONE, "4"], "4", "train"))
    return folder


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four processes of two launchers, which meet at a port of this machine."""
    folder = tmp_path_factory.mktemp("nodes")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    launch = [
        "--nnodes",
        "2",
        "--nproc_per_node",
        "2",
        "--rdzv-backend",
        "c10d",
        "--rdzv-id",
        "rehearsal",
    ]
    launch += ["--rdzv-endpoint", f"localhost:{port}"]
    finish(*(start(folder, launch, "4", "train") for _ in range(2)))
    return folder


def found(folder: Path, ranks: int = 4) -> list[dict[str, torch.Tensor]]:
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(ranks)]


def losses(run: Path) -> list[float]:
    lines = (run / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.parametrize("launched", ["four", "nodes"])
def test_four_processes_equal_one(
    launched: str, one: Path, request: pytest.FixtureRequest
) -> None:
    """Gradients, losses and weights but for rounding; all four have the same ones, bit for bit."""
    folder: Path = request.getfixturevalue(launched)
    alone, (first, *others) = found(one, 1)[0], found(folder)
    assert_close(first["gradient"], alone["gradient"], rtol=1e-5, atol=1e-7)
    assert max(float(part.abs().max()) for part in first["gradient"]) > 1e-3
    for other in others:
        for name in ("gradient", "weights", "sheet"):
            assert_close(other[name], first[name], rtol=0, atol=0)
    assert losses(folder / "whole") == pytest.approx(losses(one / "whole"), rel=1e-4)
    assert len(losses(one / "whole")) == four_processes.STEPS
    assert_close(first["weights"], alone["weights"], rtol=0, atol=1e-4)
    assert_close(first["sheet"], alone["sheet"], rtol=1e-4, atol=1e-3)


def test_two_launchers_number_their_processes_alike(four: Path, nodes: Path) -> None:
    assert [one["place"] for one in found(four)] == [[n, n] for n in range(4)]
    assert sorted(one["place"] for one in found(nodes)) == [
        [0, 0],
        [1, 1],
        [2, 0],
        [3, 1],
    ]


def test_a_run_stopped_with_four_goes_on_with_two(one: Path, four: Path) -> None:
    run = four / "stopped"
    assert losses(run) == losses(four / "whole")[: four_processes.STOPPED]
    finish(start(four, [*ALONE, "2"], "2", "go_on"))
    assert losses(run) == pytest.approx(losses(one / "whole"), rel=1e-4)
    went_on, alone = (
        torch.load(run / "checkpoint.pt")["state"] for run in (run, one / "whole")
    )
    assert went_on["steps"] == four_processes.STEPS and len(went_on["dropout"]) == 2
    assert_close(went_on["model"], alone["model"], rtol=0, atol=1e-4)


def test_the_command_draws_the_same_pictures_with_four_processes_as_with_one(
    one: Path, four: Path
) -> None:
    finish(start(four, [*ALONE, "4"], "4", "sample"))
    assert (four / "drawn.png").read_bytes() == (one / "drawn.png").read_bytes()
