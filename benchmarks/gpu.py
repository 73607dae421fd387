"""Is the package right on an accelerator, and how fast: `make gpu`, on any machine with CUDA or Apple's MPS.

    python -m benchmarks.gpu                        every part, at most 20 minutes on one GPU
    python -m benchmarks.gpu --only peak,training   these parts alone; the file keeps the others of the same machine
    python -m benchmarks.gpu --device cpu           all in small, to try this code; its figures mean nothing
    python -m benchmarks.gpu --page                 write the book's page anew, from the file or its absence

Each part runs in a process of its own, so that a crash, or a device that is no longer usable, ends that part alone.
The result is written after every row: a run that is cut off keeps what it has. Variants come in the order in which
they are missed most; those for which a part's time is up are named. Exit status: 0 if nothing failed.

Shares are of what this card was measured to reach in the same precision: a large matrix product, and one 3x3
convolution of the network's middle sizes. FLOP are counted from the layers: a multiplication and an addition are two.
"""

import argparse
import gc
import json
import math
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ddpm_nb import _devices, _runs
from ddpm_nb._files import make_folder, write_whole
from ddpm_nb.fewer_steps import ddim_sample
from ddpm_nb.forward import Schedule
from ddpm_nb.training import (
    TrainConfig,
    Trainer,
    _content,
    load_checkpoint,
    save_checkpoint,
)

ROOT = Path(__file__).resolve().parents[1]
RESULT, PAGE = ROOT / "benchmarks/gpu.json", ROOT / "book/gpu.md"
SHORT = {"bf16": torch.bfloat16, "fp16": torch.float16}
# How far an answer or a gradient may be from the CPU's in float32, as a share of its length.
LIMIT = {"float32": 1e-4, "TF32": 1e-2, "bf16": 5e-2, "fp16": 1e-2}
CALLS = 20  # network evaluations a picture
LATE = "left out: time is up"
GOAL_TRAINING, GOAL_SAMPLING = 6_000, 60.0  # pictures a second; seconds for 50,000


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    what: str
    value: float | None = None
    unit: str = ""
    precision: str = ""
    tflops: float | None = None  # a second
    memory: float | None = None  # GB, at most
    note: str = ""
    failed: bool = False


@dataclass(frozen=True)
class Way:
    """One way to run the network."""

    precision: str
    compiled: bool
    channels_last: bool

    def __str__(self) -> str:
        words = [self.precision]
        words += ["channels_last"] * self.channels_last
        return ", ".join(words + ["compiled"] * self.compiled)


# --- the device


def found_device() -> str | None:
    """Return the kind of accelerator that this machine has."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else None


def machine(device: str) -> dict[str, str]:
    """Return what a reader must know to judge the figures."""
    cards = {"mps": "Apple MPS", "cpu": "no GPU: a CPU, in small"}
    card = torch.cuda.get_device_name() if device == "cuda" else cards[device]
    cuda = f", CUDA {torch.version.cuda}" if torch.version.cuda else ""
    python = f"Python {platform.python_version()}, {platform.system()}"
    return {
        "card": card,
        "software": f"torch {torch.__version__}{cuda}, {python}",
    }


def finish(device: str) -> None:
    """Wait until the device has done what it was told."""
    if device != "cpu":
        getattr(torch, device).synchronize()


def forget(device: str) -> None:
    """Free what the variant before has left, compiled networks and graphs too."""
    torch.compiler.reset()
    gc.collect()
    if device != "cpu":
        getattr(torch, device).empty_cache()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def memory(device: str) -> float | None:
    """Return the peak of GB in use; what is in use now where the device keeps no peak."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return torch.mps.driver_allocated_memory() / 1e9 if device == "mps" else None


@contextmanager
def products(precision: str) -> Iterator[None]:
    """Let float32 convolutions and matrix products run in TF32, or not, for a while."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if precision == "TF32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "TF32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def precisions(device: str) -> list[str]:
    """Return those that the device can, the shortest numbers first."""
    able = []
    for name, dtype in SHORT.items():
        try:
            x = torch.ones(8, 8, device=device)
            with torch.autocast(device, dtype):
                if (x @ x).dtype == dtype:
                    able.append(name)
        except (RuntimeError, TypeError):
            pass
    if device == "cuda" and torch.cuda.get_device_capability() >= (8, 0):
        able.append("TF32")
    return [*able, "float32"]


def ways(device: str) -> list[Way]:
    """Return every way to run a network here."""
    every = [
        Way(name, compiled, channels_last)
        for channels_last in (True, False)
        for name in precisions(device)
        for compiled in (False, True)
    ]
    return every if device != "cpu" else [every[0], every[-1]]


def compiled(network: nn.Module, device: str) -> nn.Module:
    """Compile the whole network, as the package does; for a CPU, in small, only in form."""
    if device == "cpu":
        made: nn.Module = torch.compile(network, backend="eager")  # type: ignore[assignment]
        return made
    return _devices.compiled(network, torch.device(device))


def seconds(call: Callable[[], Any], device: str) -> float:
    """Return the seconds of one call: the median of three turns, of a second each."""

    def turn(calls: int) -> float:
        finish(device)
        start = time.perf_counter()
        for _ in range(calls):
            call()
        finish(device)
        return (time.perf_counter() - start) / calls

    calls = 1 if device == "cpu" else math.ceil(1 / turn(1))
    return statistics.median(turn(calls) for _ in range(3))


def config(device: str, **choice: Any) -> TrainConfig:
    """Return the paper's run; for a CPU a tiny one."""
    tiny = {
        "channels": 8, "channel_mult": (1,), "num_res_blocks": 1, "attention_levels": (False,), "norm_num_groups": 4,
        "batch_size": 4,
    }  # fmt: skip
    return TrainConfig(**{**(tiny if device == "cpu" else {}), **choice})


def pictures(device: str) -> Tensor:
    """Return noise in the form of pictures: speed does not depend on what they show."""
    size, generator = 8 if device == "cpu" else 32, torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (512, 3, size, size), generator=generator).byte()


def redrawn(network: nn.Module) -> nn.Module:
    """Move all weights a little at random: a fresh network answers almost 0."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=generator))
    return network


def flop(device: str) -> tuple[float, float]:
    """Return the FLOP of one picture's network evaluation, without and with its gradient."""
    size = pictures(device).shape[2]
    with torch.device("meta"):  # shapes only: nothing is computed
        network = config(device).network(3)
        x, t = torch.zeros(1, 3, size, size), torch.ones(1, dtype=torch.int64)
    with FlopCounterMode(display=False) as forward:
        answer = network(x, t)
    with FlopCounterMode(display=False) as backward:
        answer.sum().backward()
    there, back = forward.get_total_flops(), backward.get_total_flops()
    return there, there + back


def each_way(
    device: str, until: float, measure: Callable[[str, Way], Row]
) -> Iterator[Row]:
    """Measure all ways while there is time; one that fails is a row, too."""
    # To compile takes far longer: none begins late, before it is known how long.
    longest = {True: (until - time.monotonic()) / 3, False: 0.0}
    for way in ways(device):
        start = time.monotonic()
        if start + longest[way.compiled] > until:
            yield Row(str(way), precision=way.precision, note=LATE)
            continue
        try:
            with products(way.precision):
                row = measure(device, way)
        except Exception as error:  # any kind: the next way may work
            row = Row(str(way), precision=way.precision, note=told(error), failed=True)
        yield row
        forget(device)
        spent = time.monotonic() - start
        longest[way.compiled] = max(longest[way.compiled], spent)


def with_the_package() -> dict[str, str]:
    """Return the environment of a process that finds this package, and what this process finds."""
    places = [str(ROOT), os.environ.get("PYTHONPATH")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}


def told(error: Exception) -> str:
    """Return an error in one line."""
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"[:200]


# --- the parts: each takes a device and a time at which to come to an end, and yields rows


def correctness(device: str, until: float) -> Iterator[Row]:
    """The tests in tests/gpu, one verdict each."""
    options = ["-v", "--color=no", "-p", "no:cacheprovider"]
    few = ["-k", "memory_layout"] if device == "cpu" else []
    command = [sys.executable, "-m", "pytest", "tests/gpu", *options, *few]
    asked = {**with_the_package(), "DDPM_NB_TEST_DEVICE": device}
    verdicts: list[str] = []
    with subprocess.Popen(
        command, cwd=ROOT, env=asked, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as run:  # fmt: skip
        # As Ctrl-C would: then pytest still tells why something failed.
        stop = partial(run.send_signal, signal.SIGINT)
        alarm = threading.Timer(max(1.0, until - time.monotonic()), stop)
        alarm.start()
        assert run.stdout is not None
        for line in run.stdout:
            print(line, end="", flush=True)
            verdict = re.match(r"tests/gpu/.*?::(.*?) (PASSED|FAILED|ERROR|SKIPPED)\b", line)  # fmt: skip
            if verdict is None:
                continue
            verdicts.append(verdict[2])
            if verdict[2] in ("FAILED", "ERROR"):
                yield Row(verdict[1], note=verdict[2].lower(), failed=True)
        cut = alarm.finished.is_set()
        alarm.cancel()
    passed = verdicts.count("PASSED")
    note = f"{verdicts.count('SKIPPED')} skipped" + "; cut off: time is up" * cut
    wrong = run.returncode != 0 and not cut
    what = f"tests passed, of {len(verdicts)}"
    yield Row(what, passed, note=note, failed=wrong or passed == 0)


def peak(device: str, until: float) -> Iterator[Row]:
    """What the card reaches where nothing stands in its way."""
    size = {"cuda": 8192, "mps": 4096, "cpu": 64}[device]
    batch, channels = (1, 8) if device == "cpu" else (128, 256)
    for name in precisions(device):
        dtype = SHORT.get(name, torch.float32)
        with products(name), torch.no_grad():
            a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
            layer = nn.Conv2d(channels, channels, 3, padding=1).to(device, dtype)
            order = _runs.layout(layer, channels_last=True)
            x = torch.randn(batch, channels, 16, 16, device=device).to(dtype)
            convolution = partial(layer, x.contiguous(memory_format=order))
            work = {
                "matrix product": (partial(torch.matmul, a, b), 2 * size**3),
                "3x3 convolution": (convolution, 2 * x.numel() * 9 * channels),
            }
            for what, (call, count) in work.items():
                rate = count / seconds(call, device) / 1e12
                what = f"{name}, {what}"
                yield Row(what, rate, "TFLOP/s", name, rate)
        forget(device)


def agreement(device: str, until: float) -> Iterator[Row]:
    """A small network's answer and gradient, in every way, beside the CPU's in float32."""
    size = {
        "channels": 32, "channel_mult": (1, 2), "num_res_blocks": 1, "attention_levels": (False, True),
        "norm_num_groups": 8,
    }  # fmt: skip
    small = config(device, **(size if device != "cpu" else {}), dropout=0.0)
    network = redrawn(small.network(3))
    x, noise = torch.randn(2, 4, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    t = torch.tensor([1, 10, 300, 1000])

    def answers(device: str, way: Way) -> tuple[Tensor, Tensor]:
        here = small.network(3)
        here.load_state_dict(network.state_dict())
        here.to(device)
        order = _runs.layout(here, way.channels_last)
        model = compiled(here, device) if way.compiled else here
        given = x.to(device).contiguous(memory_format=order)
        dtype = SHORT.get(way.precision)
        for _ in range(3 if way.compiled else 1):  # the third time it is a graph
            here.zero_grad(set_to_none=True)
            with torch.autocast(device, dtype, enabled=dtype is not None):
                answer = model(given, t.to(device))
            # Gradients in fp16 must not be too small for it.
            (128 * F.mse_loss(answer.float(), noise.to(device))).backward()
            found = answer.detach().float().cpu()
        weights = [w.grad for w in here.parameters() if w.grad is not None]
        return found, torch.cat([grad.float().cpu().flatten() for grad in weights])

    expected = answers("cpu", Way("float32", False, False))

    def measure(device: str, way: Way) -> Row:
        apart = max(
            float((mine - theirs).norm() / theirs.norm())
            for mine, theirs in zip(answers(device, way), expected)
        )
        most = LIMIT[way.precision]
        return Row(
            str(way), apart, "of the CPU's", way.precision,
            note=f"at most {most:g}", failed=not apart <= most,
        )  # fmt: skip

    yield from each_way(device, until, measure)


def training(device: str, until: float) -> Iterator[Row]:
    """Updates of the paper's run, whole: batch, loss, gradient, clipping, Adam, average."""
    _, work = flop(device)

    def measure(device: str, way: Way) -> Row:
        precision: Any = way.precision if way.precision in SHORT else "float32"
        small = device == "cpu"
        chosen = config(
            device, precision=precision, channels_last=way.channels_last, compile=way.compiled and not small,
        )  # fmt: skip
        trainer = Trainer(chosen, pictures(device))
        if way.compiled and small:
            trainer._network = compiled(trainer.model, device)
        for _ in range(5):  # kernels are chosen, code is compiled, graphs are recorded
            trainer.step()
        speed = chosen.batch_size / seconds(trainer.step, device)
        trainer.read([trainer.step()])  # refuses a loss that is not finite
        return Row(
            str(way), speed, "pictures/s", way.precision, speed * work / 1e12, memory(device)
        )  # fmt: skip

    yield from each_way(device, until, measure)


def sampling(device: str, until: float) -> Iterator[Row]:
    """Pictures drawn by DDIM; the weights are rounded for good, where numbers are short."""
    work, _ = flop(device)
    batch = {"cuda": 500, "mps": 64, "cpu": 2}[device]

    def measure(device: str, way: Way) -> Row:
        network = redrawn(config(device).network(3)).eval()
        network.to(device, SHORT.get(way.precision, torch.float32))
        _runs.layout(network, way.channels_last)
        model = compiled(network, device) if way.compiled else network
        draw = partial(
            ddim_sample, model, (batch, *pictures(device).shape[1:]), Schedule.linear().to(device), CALLS,
            clip=True, generator=torch.Generator(device).manual_seed(0),
        )  # fmt: skip
        if not draw().isfinite().all():
            raise FloatingPointError("expected finite pictures, got others")
        speed = batch / seconds(draw, device)
        rate = speed * CALLS * work / 1e12
        return Row(
            str(way), speed, "pictures/s", way.precision, rate, memory(device),
            f"50,000 in {50_000 / speed:,.0f} s",
        )  # fmt: skip

    yield from each_way(device, until, measure)


def resume(device: str, until: float) -> Iterator[Row]:
    """A checkpoint of the paper's run, written and taken up again."""
    straight = Trainer(config(device), pictures(device))
    for _ in range(3):
        straight.step()
    finish(device)
    with tempfile.TemporaryDirectory() as folder, products("float32"):
        path, start = Path(folder) / "checkpoint.pt", time.perf_counter()
        save_checkpoint(path, straight)
        spent, size = time.perf_counter() - start, path.stat().st_size / 1e9
        yield Row("checkpoint written", spent, "s", note=f"{size:.2f} GB")
        held = held_up(straight, Path(folder) / "run")
        note = f"then written beside it; the first, {held[0]:.2f} s"
        yield Row("training held up, in a run", held[1], "s", note=note)
        resumed = Trainer(config(device), pictures(device))
        load_checkpoint(path, resumed)
    pairs = [
        (mine, theirs)
        for of in ("model", "ema", "optimizer")
        for mine, theirs in zip(parts(resumed, of), parts(straight, of), strict=True)
    ]
    other = sum(not torch.equal(mine.cpu(), theirs.cpu()) for mine, theirs in pairs)
    what = f"tensors that came back changed, of {len(pairs)}"
    yield Row(what, other, failed=other > 0)
    with products("float32"):
        worst = max(
            abs(float(resumed.step().loss / straight.step().loss) - 1) for _ in range(3)
        )
    # Another batch, or other noise, changes a loss by about 2e-3.
    what = "three losses after it: largest relative difference"
    yield Row(what, worst, note="at most 1e-4", failed=not worst <= 1e-4)


def held_up(trainer: Trainer, folder: Path) -> list[float]:
    """Return for how long two checkpoints of a run, one after the other, keep it from its next step."""
    run, spent = _runs.Run(trainer, folder, time.monotonic(), {}, progress=False), []
    with run.claim(), run.session():
        for _ in range(2):
            run.written()  # the first takes memory that the second finds
            start = time.perf_counter()
            run.save(_content(trainer))
            spent.append(time.perf_counter() - start)
    return spent


def parts(trainer: Trainer, of: str) -> list[Tensor]:
    """Return the tensors of a trainer's network, of its average, or of Adam's memory."""
    if of == "optimizer":
        states = trainer.optimizer.state_dict()["state"].values()
        return [memory for state in states for memory in state.values()]
    network = trainer.model if of == "model" else trainer.ema.model
    return list(network.parameters())


def processes(device: str, until: float) -> Iterator[Row]:
    """Two processes, a device each, beside one: the same gradient, the same losses."""
    devices = torch.cuda.device_count() if device == "cuda" else 1
    if devices < 2 and device != "cpu":
        yield Row("two processes", note="not done: one device")
        return
    environment = {**with_the_package(), "NVIDIA_TF32_OVERRIDE": "0"}
    script = str(ROOT / "tests/two_processes.py")
    launches = {"2": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"], "1": []}  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        for count, launch in launches.items():
            subprocess.run(
                [sys.executable, *launch, script, f"{temporary}/{count}", "mean", count],
                cwd=ROOT, env=environment, check=True, timeout=max(1.0, until - time.monotonic()),
            )  # fmt: skip
        two, one = (
            torch.cat([
                part.flatten()
                for part in torch.load(f"{temporary}/{count}/gradient.pt", map_location="cpu")
            ])
            for count in launches
        )  # fmt: skip
        logs = [
            (Path(temporary) / count / "run/log.jsonl").read_text().splitlines()
            for count in launches
        ]
    apart = float((two - one).norm() / one.norm())
    what = "two processes' gradient beside one's"
    yield Row(what, apart, "of one's", note="at most 1e-4", failed=not apart <= 1e-4)
    losses = [[json.loads(line)["loss"] for line in log] for log in logs]
    apart = max(abs(a / b - 1) for a, b in zip(*losses, strict=True))
    what = "their losses in a run that stops and goes on: largest relative difference"
    yield Row(what, apart, note="at most 1e-3", failed=not apart <= 1e-3)


# Name -> (what it measures, the seconds after which it begins nothing more; together under 20 minutes).
PARTS: dict[str, tuple[Callable[[str, float], Iterator[Row]], int]] = {
    "peak": (peak, 40),
    "training": (training, 330),
    "sampling": (sampling, 210),
    "agreement": (agreement, 130),
    "resume": (resume, 40),
    "processes": (processes, 60),
    "correctness": (correctness, 300),
}


# --- the table


def text_of(value: float) -> str:
    """Return a number as a reader wants it."""
    return f"{value:,.0f}" if value >= 1000 or value == value // 1 else f"{value:.3g}"


def share(row: dict[str, Any], best: dict[str, float]) -> str:
    """Return which share of a measured peak of its precision a row reaches."""
    top = best.get(row["precision"])
    return f"{row['tflops'] / top:.0%}" if row["tflops"] and top else ""


def goals(result: dict[str, Any] | None) -> str:
    """Return the goals, which were there first, beside the fastest that was measured."""

    def fastest(part: str) -> dict[str, Any] | None:
        rows = (result or {"parts": {}})["parts"].get(part, {"rows": []})["rows"]
        known = [row for row in rows if row["value"]]
        return max(known, key=lambda row: float(row["value"]), default=None)

    trained, drawn = fastest("training"), fastest("sampling")
    cells = (
        (
            "training, one H100",
            f"at least {GOAL_TRAINING:,} pictures/s (224 TFLOP/s)",
            f"{trained['value']:,.0f} pictures/s ({trained['what']})"
            if trained
            else "not yet",
        ),
        (
            f"50,000 pictures at {CALLS} network evaluations, one H100",
            f"at most {GOAL_SAMPLING:.0f} s",
            f"{50_000 / drawn['value']:,.0f} s ({drawn['what']})"
            if drawn
            else "not yet",
        ),
    )
    measured = f"on {result['card']}" if result else "measured"
    lines = [f"| what | goal | {measured} |", "|---|---|---|"]
    return "\n".join(lines + [f"| {' | '.join(cell)} |" for cell in cells])


def table(result: dict[str, Any]) -> str:
    """Return what was measured, in Markdown."""
    lines = [
        "| part | what | measured | TFLOP/s | of the matrix product | of the convolution | memory | remark |",
        "|---|---|---|---|---|---|---|---|",
    ]
    peaks = [
        {
            row["precision"]: row["tflops"]
            for row in result["parts"].get("peak", {"rows": []})["rows"]
            if row["what"].endswith(kind)
        }
        for kind in ("product", "convolution")
    ]
    for name, part in result["parts"].items():
        late = [row["what"] for row in part["rows"] if row["note"] == LATE]
        for row in part["rows"]:
            if row["note"] == LATE:
                continue
            cells = [
                name,
                row["what"],
                "" if row["value"] is None else f"{text_of(row['value'])} {row['unit']}".strip(),
                text_of(row["tflops"]) if row["tflops"] else "",
                *(share(row, best) for best in peaks),
                f"{row['memory']:.2f} GB" if row["memory"] else "",
                ("**failed** " * row["failed"] + row["note"]).strip(),
            ]  # fmt: skip
            # A bar would end the cell.
            lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
        if late:
            lines.append(f"| {name} | {'; '.join(late)} | | | | | | {LATE} |")
        if part["end"] != "whole":
            lines.append(f"| {name} | | | | | | | **{part['end']}** |")
    return "\n".join(lines)


def page(result: dict[str, Any] | None) -> str:
    """Return the book's page, in Markdown."""
    if result is None:
        status = (
            "**Not yet run.** No accelerator has run this package. All figures of the book are a CPU's, and its lines "
            "for accelerators are tested as far as a CPU can."
        )
    else:
        dates = sorted(part["date"] for part in result["parts"].values())
        when = " to ".join(dict.fromkeys((dates[0], dates[-1])))
        status = f"**{result['card']}, {when}.** {result['software']}."
        if left := [name for name in PARTS if name not in result["parts"]]:
            status += f" Parts that it has not run: {', '.join(left)}."
    return "\n\n".join([
        "# On a GPU",
        "`make gpu` asks a machine with CUDA or Apple's MPS whether the package is right there, and how fast: "
        "every precision, compiled or not (on CUDA into one graph of kernels), with both orders of memory. It takes "
        "at most 20 minutes on one GPU, and writes this page.",
        status,
        "The goals were set before anything was measured. FLOP are counted from the layers. A card's peak is not its "
        "data sheet's: it is what a large matrix product, and one convolution of the network's sizes, reached on it "
        "in the same precision.",
        goals(result),
        *([table(result)] if result else []),
    ]) + "\n"  # fmt: skip


# --- the run


def child(name: str, device: str, limit: float) -> None:
    """Run a part, and write its rows as lines of JSON where standard output was; all else goes to standard error."""
    rows = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    measure, _ = PARTS[name]
    try:
        for row in measure(device, time.monotonic() + limit):
            print(json.dumps(asdict(row)), file=rows)
    except Exception as error:  # any kind: the other parts go on
        failure = Row("the whole part", note=told(error), failed=True)
        print(json.dumps(asdict(failure)), file=rows)
        raise


def run_part(name: str, device: str, limit: float) -> Iterator[dict[str, Any]]:
    """Yield a part's rows as they come, and at last how it ended.

    A minute after its limit the part is ended, with all that it has started.
    """
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", device]
    command += ["--child", name, "--limit", str(limit)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    over = threading.Event()

    def end() -> None:
        over.set()
        os.killpg(process.pid, signal.SIGTERM)

    alarm = threading.Timer(limit + 60, end)
    alarm.start()
    try:
        for line in process.stdout:
            yield json.loads(line)
        status = process.wait()
        ended = "cut off: time is up" if over.is_set() else f"ended with {status}"
        yield {"end": "whole" if status == 0 else ended}
    finally:
        alarm.cancel()
        with suppress(OSError):  # what the part has started and not ended, if anything
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        process.stdout.close()


def read(path: Path) -> dict[str, Any] | None:
    """Return a result that was written before."""
    result: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None  # fmt: skip
    return result


def write(path: Path, result: dict[str, Any] | None) -> None:
    """Write the result whole, if there is one, and its page; the book's where it is the book's result."""
    if result is not None:
        write_whole(path, (json.dumps(result, indent=1) + "\n").encode())
    shown = PAGE if path == RESULT else path.with_suffix(".md")
    write_whole(shown, page(result).encode())


def measure_all(names: list[str], device: str, path: Path, pace: float = 1.0) -> bool:
    """Run parts, write the file after every row, and return whether nothing failed.

    Each part has `pace` times the seconds of its line in `PARTS`.
    """
    about, old = machine(device), read(path)
    kept = {}
    if len(names) < len(PARTS) and old and all(old[k] == about[k] for k in about):
        kept = old["parts"]
    result: dict[str, Any] = {**about, "parts": kept}
    start, until, good = time.monotonic(), 0.0, True
    for name in names:
        print(f"== {name}", file=sys.stderr, flush=True)
        until += (
            PARTS[name][1] * pace
        )  # what one part leaves of its time, the next may have
        date = time.strftime("%Y-%m-%d")
        part: dict[str, Any] = {"date": date, "end": "cut off", "rows": []}
        result["parts"][name] = part
        write(path, result)
        limit = max(10.0, start + until - time.monotonic())
        for row in run_part(name, device, limit):
            if "end" in row:
                part |= row
                good &= row["end"] == "whole"
            else:
                part["rows"].append(row)
                good &= not row["failed"]
                shown = {"parts": {name: {"rows": [row], "end": "whole"}}}
                print(table(shown).splitlines()[-1], flush=True)
            write(path, result)
    print(f"\n{about['card']}, {about['software']}\n\n{table(result)}\n\n{goals(result)}")  # fmt: skip
    return good


def main(words: list[str] | None = None) -> None:
    """Measure, print, and write `benchmarks/gpu.json` and the book's page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--only", metavar="PART,PART", default=",".join(PARTS))
    parser.add_argument("--device", choices=["cuda", "mps", "cpu"])
    parser.add_argument("--out", type=Path, help="the JSON; the Markdown goes beside it")  # fmt: skip
    parser.add_argument("--minutes", type=float, help="for all parts asked for: fewer ways are tried")  # fmt: skip
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--child", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=float, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.page:
        write(RESULT, read(RESULT))
        return
    device = options.device or found_device()
    if device is None:
        raise SystemExit("make gpu: expected a GPU (CUDA or MPS), got none; nothing was measured")  # fmt: skip
    if device == "cpu":
        os.environ |= {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_TORCH_DEVICE": "cpu"}
    if options.child:
        child(options.child, device, options.limit)
        return
    if options.minutes is not None and not 0 < options.minutes < math.inf:
        parser.error(f"--minutes: expected a number above 0, got {options.minutes:g}")
    names = options.only.split(",")
    if wrong := [name for name in names if name not in PARTS]:
        parser.error(f"--only: expected some of {', '.join(PARTS)}, got {', '.join(wrong)}")  # fmt: skip
    small = ROOT / "_build/gpu/gpu.json"
    path = (options.out or (small if device == "cpu" else RESULT)).resolve()
    make_folder("out", path.parent)
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # so that the part ends, too
    whole = sum(PARTS[name][1] for name in names) / 60
    pace = 1.0 if options.minutes is None else options.minutes / whole
    if not measure_all(names, device, path, pace):
        raise SystemExit("make gpu: something failed; see the table")


if __name__ == "__main__":
    main()
