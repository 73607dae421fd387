"""How cost grows: an update and a network evaluation over batch, size, width, steps, processes, beside a prediction.

    python -m benchmarks.cost            at most 10 minutes on two quiet cores: cost.json, the page and its picture
    python -m benchmarks.cost --quick    a few points of a tiny network, into _build/cost: to try this code
    python -m benchmarks.cost --page     the page and its picture anew, from cost.json and gpu.json

The prediction fits nothing. Every operator of a step is counted: its FLOP, and the bytes that it reads and writes. It
takes the longer of two times: its FLOP at the rate of a large matrix product, its bytes at that of a large copy. Both
rates are measured in the same rounds as the steps, which take turns. Steps of one process are timed by the processor's
clock, so that other programs count less; several processes by the clock on the wall, because they wait for each other.

What several cards would cost is a prediction from one card's figures in gpu.json and from `Links`.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks import gpu
from benchmarks.__main__ import measure
from ddpm_nb import _runs
from ddpm_nb._files import make_folder, write_whole
from ddpm_nb.algorithms import sample
from ddpm_nb.forward import Schedule
from ddpm_nb.training import TrainConfig, Trainer

ROOT = gpu.ROOT
RESULT, PAGE = ROOT / "benchmarks/cost.json", ROOT / "book/cost.md"
PICTURE = ROOT / "book/images/cost.png"
LIMIT = 60_000  # bytes of the picture
SEED = 0
UPDATES, BATCH, DATA = (
    800_000,
    128,
    50_000,
)  # the paper's run, and how many pictures it has
SAMPLES, EVALUATIONS = 50_000, (20, 1_000)
SHARE = 500  # pictures that a card draws at once, as in benchmarks/gpu.py
CARDS = (1, 8, 64)


# --- what a step does


@dataclass(frozen=True)
class Work:
    """What one operator does: its FLOP, and the bytes that it reads and writes."""

    name: str
    flop: int
    bytes: int


def size_of(tree: Any) -> int:
    """Return the bytes of all tensors in a tree."""
    return sum(
        x.numel() * x.element_size() for x in tree_leaves(tree) if isinstance(x, Tensor)
    )


class Counter(TorchDispatchMode):
    """While it is on, it notes each operator that runs, below autograd; views and fresh memory are no work.

    Written is what an operator returns, or, where it changes its arguments, what its schema says that it may change:
    of fused Adam also the gradients.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.work: list[Work] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run the operator as it is, and note its work."""
        out = func(*args, **(kwargs or {}))
        packet, name = func.overloadpacket, func.overloadpacket.__name__
        if not func.is_view and "empty" not in name:
            flop = (
                flop_registry[packet](*args, **(kwargs or {}), out_val=out)
                if packet in flop_registry
                else 0
            )
            schema, given = (
                func._schema,
                {
                    **dict(zip([a.name for a in func._schema.arguments], args)),
                    **(kwargs or {}),
                },
            )
            changed = [
                given[a.name]
                for a in schema.arguments
                if a.alias_info and a.alias_info.is_write and a.name in given
            ]
            moved = size_of((args, kwargs)) + size_of(
                changed if schema.is_mutable else out
            )
            self.work.append(Work(name, flop, moved))
        return out


def counted(step: Callable[[], Any]) -> list[Work]:
    """Return the operators that a step runs."""
    counter = Counter()
    with counter:
        step()
    return counter.work


@dataclass(frozen=True)
class Rates:
    """What a machine reaches: FLOP a second in a large matrix product, bytes a second in a large copy."""

    product: float
    copy: float

    def seconds(self, work: Iterable[Work]) -> float:
        """Return the predicted time of operators one after the other: for each the longer of its two times."""
        return sum(max(one.flop / self.product, one.bytes / self.copy) for one in work)


# --- what is measured


@dataclass(frozen=True)
class Size:
    """One update or evaluation."""

    batch: int = 8
    size: int = 32
    width: int = 32

    def config(self, **more: Any) -> TrainConfig:
        """Return the paper's configuration with this width, one block a level, and this batch."""
        choice = {
            "channels": self.width,
            "num_res_blocks": 1,
            "norm_num_groups": 8,
            "warmup_steps": 0,
        }
        return TrainConfig(**{**choice, "batch_size": self.batch, "seed": SEED, **more})

    def pictures(self, count: int) -> Tensor:
        """Return noise in the form of pictures: speed does not depend on what they show."""
        generator = torch.Generator().manual_seed(SEED)
        return torch.randint(
            0, 256, (count, 3, self.size, self.size), generator=generator
        ).byte()

    def update(self) -> Callable[[], Any]:
        """Return one whole update: draw, loss, gradient, clipping, Adam, average."""
        return Trainer(self.config(), self.pictures(max(64, self.batch))).step

    def evaluation(self) -> Callable[[], Any]:
        """Return one network evaluation without gradient."""
        network = self.config().network(3).eval()
        order = _runs.layout(network, channels_last=True)
        x = torch.randn(
            self.batch,
            3,
            self.size,
            self.size,
            generator=torch.Generator().manual_seed(SEED),
        )
        return torch.no_grad()(
            partial(
                network, x.contiguous(memory_format=order), torch.full((self.batch,), 1)
            )
        )

    def sampling(self, T: int) -> Callable[[], Any]:
        """Return Algorithm 2 with T steps."""
        network = self.config().network(3).eval()
        _runs.layout(network, channels_last=True)
        shape = (self.batch, 3, self.size, self.size)
        return lambda: sample(
            network,
            shape,
            Schedule.cosine(T),
            generator=torch.Generator().manual_seed(SEED),
        )


# What a point of a curve changes. T and processes are no sizes of the network.
CURVES: dict[str, tuple[int, ...]] = {
    "batch": (1, 2, 4, 8, 16, 32),
    "size": (8, 16, 32, 64),
    "width": (16, 32, 64, 128),
    "T": (2, 5, 10, 20),
    "processes": (1, 2, 4),
}
QUICK: dict[str, tuple[int, ...]] = {
    "batch": (1, 2),
    "size": (8, 16),
    "width": (8, 16),
    "T": (1, 3),
    "processes": (1, 2),
}
SMALL = Size(batch=2, size=8, width=8)
SAMPLED, SHARED = (
    2,
    32,
)  # pictures in one sampling; pictures of the joint batch of several processes
PROCESS_STEPS = 5


def points(
    base: Size, curves: dict[str, tuple[int, ...]]
) -> Iterator[tuple[str, int, str, Callable[[], Any]]]:
    """Yield the curve, the place on it, what is done there, and the step that does it."""
    for curve in ("batch", "size", "width"):
        for x in curves[curve]:
            here = replace(base, **{curve: x})
            yield curve, x, "update", here.update()
            yield curve, x, "evaluation", here.evaluation()
    for T in curves["T"]:
        yield (
            "T",
            T,
            "sampling",
            replace(base, batch=min(SAMPLED, base.batch)).sampling(T),
        )


def rate_steps(quick: bool) -> dict[str, tuple[int, Callable[[], Any]]]:
    """Return what the rates are measured by: how much it is, and the step."""
    n, length = (256, 2**20) if quick else (1536, 2**26)
    a, b, source = torch.randn(n, n), torch.randn(n, n), torch.randn(length)
    target = torch.empty_like(source)
    return {
        "product": (2 * n**3, partial(torch.mm, a, b)),
        "copy": (
            2 * source.numel() * source.element_size(),
            partial(target.copy_, source),
        ),
    }


def exchanged(processes: int, size: float) -> float:
    """Return the bytes that each process sends, and gets, so that all have the mean of `size` bytes: in a ring."""
    return 2 * (processes - 1) / processes * size


def shared_seconds(
    rates: Rates, share: Iterable[Work], gradient: int, processes: int, cores: int
) -> float:
    """Predict an update of several processes on one machine.

    Each needs a core for its share of the batch, and what it sends and gets is read and written twice: into the
    system's memory and out of it.
    """
    traffic = 4 * exchanged(processes, gradient) / rates.copy
    return (rates.seconds(share) + traffic) * processes / min(processes, cores)


def cores() -> int:
    """Return how many cores this process may use."""
    return (
        len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1
    )


def child(path: Path, base: Size) -> None:
    """One of several processes: time updates, and let the first one write them down."""
    torch.set_num_threads(1)
    trainer = Trainer(base.config(), base.pictures(max(64, base.batch)))
    trainer.step()
    spent = []
    for _ in range(PROCESS_STEPS):
        trainer.accelerator.wait_for_everyone()
        start = time.perf_counter()
        trainer.step()
        spent.append(time.perf_counter() - start)
    if trainer.accelerator.is_main_process:
        path.write_text(json.dumps(spent))
    trainer.accelerator.wait_for_everyone()


def launch(processes: int, base: Size) -> list[float]:
    """Return the seconds of updates that so many processes share."""
    start = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        str(processes),
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spent.json"
        command = [
            sys.executable,
            *(start if processes > 1 else []),
            "-m",
            "benchmarks.cost",
        ]
        command += [
            "--child",
            str(path),
            "--sizes",
            f"{base.batch},{base.size},{base.width}",
        ]
        environment = {**gpu.with_the_package(), "OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=300)
        spent: list[float] = json.loads(path.read_text())
    return spent


def middle(numbers: list[float]) -> dict[str, float]:
    """Return the median, and between which two numbers the middle half lies."""
    low, median, high = (
        statistics.quantiles(numbers, n=4, method="inclusive")
        if len(numbers) > 1
        else numbers * 3
    )
    return {"seconds": median, "low": low, "high": high}


def machine(rounds: int) -> dict[str, Any]:
    """Return what a reader must know to judge the figures."""
    name, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.exists():
        named = [
            line.split(": ")[1]
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        name = (named or [name])[0]
    return {
        "hardware": f"{name}, {torch.backends.cpu.get_cpu_capability()}, {cores()} cores, one thread a process",
        "software": f"torch {torch.__version__}, Python {platform.python_version()}, {platform.system()}",
        "date": time.strftime("%Y-%m-%d"), "seed": SEED, "rounds": rounds, "cores": cores(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }  # fmt: skip


def paper() -> dict[str, int]:
    """Count the paper's update: its FLOP a picture, and, from an update of one picture, what does not depend on it."""
    trainer = Trainer(TrainConfig(batch_size=1, precision="bf16"), Size().pictures(1))
    work = counted(trainer.step)
    lists = [one for one in work if one.name.startswith(("_foreach", "_fused"))]
    return {
        "evaluation_flop": int(gpu.flop("cuda")[0]), "update_flop": int(gpu.flop("cuda")[1]), "operators": len(work),
        "gradient_bytes": sum(4 * weight.numel() for weight in trainer.model.parameters()),
        "weights_bytes": sum(one.bytes for one in lists),
    }  # fmt: skip


def run(quick: bool, rounds: int) -> dict[str, Any]:
    """Measure everything, and return it with what was predicted."""
    base, curves = (SMALL, QUICK) if quick else (Size(), CURVES)
    about, rated = machine(rounds), rate_steps(quick)
    placed = {
        f"{curve} {x} {what}": (curve, x, what, step)
        for curve, x, what, step in points(base, curves)
    }
    steps = {name: step for name, (_, _, _, step) in placed.items()}
    times = measure(
        {**steps, **{name: step for name, (_, step) in rated.items()}}, "cost", rounds
    )
    spent = {name: [work for _, work in both] for name, both in times.items()}
    rates = Rates(
        **{
            name: amount / statistics.median(spent[name])
            for name, (amount, _) in rated.items()
        }
    )
    result: dict[str, Any] = {
        **about,
        "rates": asdict(rates),
        "curves": {name: [] for name in curves},
    }
    one = rates.seconds(
        counted(replace(base, batch=min(SAMPLED, base.batch)).evaluation())
    )
    for name, (curve, x, what, step) in placed.items():
        predicted = x * one if curve == "T" else rates.seconds(counted(step))
        row = {"x": x, "what": what, **middle(spent[name]), "predicted": predicted}
        result["curves"][curve].append(row)
    joint = replace(base, batch=4 if quick else SHARED)
    gradient = sum(
        4 * weight.numel() for weight in joint.config().network(3).parameters()
    )
    for x in curves["processes"]:
        share = counted(replace(joint, batch=joint.batch // x).update())
        predicted = shared_seconds(rates, share, gradient, x, cores())
        print(f"cost: {x} processes", flush=True)
        row = {
            "x": x,
            "what": "update",
            **middle(launch(x, joint)),
            "predicted": predicted,
        }
        result["curves"]["processes"].append(row)
    result["base"] = {
        **asdict(base),
        "sampled": min(SAMPLED, base.batch),
        "shared": joint.batch,
    }
    result["paper"] = paper()
    return result


# --- what several cards would cost: predictions, but for one card's figures


@dataclass(frozen=True)
class Links:
    """What is assumed of cards and of what joins them; from data sheets, not measured."""

    within: float = (
        450e9  # bytes a second that a card sends to others of its machine (NVLink 4)
    )
    between: float = 50e9  # ... and to other machines (400 Gbit/s a card)
    machine: int = 8  # cards in one machine
    memory: float = 4.8e12  # bytes a second of a card's own memory (H200)
    launch: float = 5e-6  # seconds to start a kernel

    def slowest(self, cards: int) -> float:
        """Return the bytes a second of the slowest link in a ring of so many cards."""
        return self.within if cards <= self.machine else self.between


@dataclass(frozen=True)
class Card:
    """One card's figures, as gpu.json has them; None where it has none."""

    name: str
    date: str
    software: str
    training: float | None  # pictures a second, bf16, channels_last, compiled
    eager: float | None  # the same, not compiled
    sampling: (
        float | None
    )  # pictures a second at `gpu.CALLS` network evaluations, likewise compiled
    product: float | None  # TFLOP/s
    convolution: float | None


def card(result: dict[str, Any] | None) -> Card | None:
    """Return the figures of the card that gpu.json is about."""
    if result is None:
        return None

    def row(part: str, what: str) -> float | None:
        rows = result["parts"].get(part, {"rows": []})["rows"]
        return next(
            (row["value"] for row in rows if row["what"] == what and not row["failed"]),
            None,
        )

    return Card(
        result["card"], max((part["date"] for part in result["parts"].values()), default=""), result["software"],
        row("training", "bf16, channels_last, compiled"), row("training", "bf16, channels_last"),
        row("sampling", "bf16, channels_last, compiled"),
        row("peak", "bf16, matrix product"), row("peak", "bf16, 3x3 convolution"),
    )  # fmt: skip


def update_parts(
    cards: int, joint: int, speed: float, counts: dict[str, int], links: Links
) -> dict[str, float]:
    """Predict the seconds of an update's parts on so many cards that share a joint batch.

    Args:
        cards: how many.
        joint: pictures of the joint batch.
        speed: pictures a second of one card with batches of `BATCH`.
        counts: of the paper's update (`paper`).
        links: what is assumed.

    Returns:
        seconds of: "pictures" (a card's share, in proportion), "weights" (clipping, Adam, average: all of them on each
        card), "draws" (each card draws the whole batch's noise, written and read once), "exchange" (of gradients, in a
        ring) and "launches" (one a counted operator; one card records a graph and has none).
    """

    def draws(batch: int) -> float:
        return 2 * batch * 3 * 32 * 32 * 4 / links.memory

    weights = counts["weights_bytes"] / links.memory
    a_picture = (BATCH / speed - weights - draws(BATCH)) / BATCH
    return {
        "pictures": joint / cards * a_picture,
        "weights": weights,
        "draws": draws(joint),
        "exchange": exchanged(cards, counts["gradient_bytes"]) / links.slowest(cards),
        "launches": counts["operators"] * links.launch if cards > 1 else 0.0,
    }


def bounds(parts: dict[str, float]) -> tuple[float, float]:
    """Return an update's seconds if launches and exchange hide behind the arithmetic, and if nothing hides."""
    busy = parts["pictures"] + parts["weights"] + parts["draws"]
    return max(busy, parts["exchange"], parts["launches"]), busy + parts[
        "exchange"
    ] + parts["launches"]


def sampling_seconds(cards: int, evaluations: int, speed: float) -> float:
    """Predict the seconds of `SAMPLES` pictures: cards draw whole batches, and the one with the most ends last.

    `speed` is one card's, in pictures a second with `gpu.CALLS` evaluations each.
    """
    batches = -(-SAMPLES // SHARE)
    most = -(-batches // cards) * SHARE
    return most / speed * evaluations / gpu.CALLS


# --- the page


def short(seconds: float) -> str:
    """Return a time as a reader wants it."""
    for size, unit in (
        (86_400, "days"),
        (3_600, "hours"),
        (60, "minutes"),
        (1, "s"),
        (1e-3, "ms"),
    ):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def between(low: float, high: float) -> str:
    """Return two times, or one where they say the same."""
    return short(low) if short(low) == short(high) else f"{short(low)} to {short(high)}"


def as_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table in Markdown."""
    named = list(head)
    return "\n".join(
        f"| {' | '.join(cells)} |" for cells in (named, ["---"] * len(named), *rows)
    )


NAMES = {
    "batch": "pictures a batch",
    "size": "pixels a side",
    "width": "channels",
    "T": "steps T",
    "processes": "processes",
}


def lines(result: dict[str, Any]) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """Yield each curve, what it is of, and its rows from left to right."""
    for curve, rows in result["curves"].items():
        for what in dict.fromkeys(row["what"] for row in rows):
            yield (
                curve,
                what,
                sorted(
                    (row for row in rows if row["what"] == what),
                    key=lambda row: int(row["x"]),
                ),
            )


def growth(result: dict[str, Any]) -> str:
    """Return how each curve grows from its first point to its last, measured and predicted."""
    cells = []
    for curve, what, rows in lines(result):
        first, last = rows[0], rows[-1]
        shares = [row["seconds"] / row["predicted"] for row in rows]
        cells.append([
            f"{NAMES[curve]}, {first['x']} to {last['x']}",
            what,
            f"{short(first['seconds'])} to {short(last['seconds'])}",
            f"{last['seconds'] / first['seconds']:.3g}",
            f"{last['predicted'] / first['predicted']:.3g}",
            f"{min(shares):.2f} to {max(shares):.2f}",
        ])  # fmt: skip
    head = (
        "what grows",
        "time of",
        "measured",
        "times as long",
        "predicted",
        "measured over predicted",
    )
    return as_table(head, cells)


def run_table(one: Card, counts: dict[str, int], links: Links) -> str:
    """Return the paper's training run on several cards, with its own batch and with as much a card as one has."""
    assert one.training is not None
    cells = []
    for n in CARDS:
        for joint in dict.fromkeys((BATCH, BATCH * n)):
            parts = update_parts(n, joint, one.training, counts, links)
            low, high = bounds(parts)
            updates = UPDATES * BATCH / joint
            cells.append([
                f"{n}", f"{joint // n}", f"{updates:,.0f}", *(f"{1e3 * part:.2f}" for part in parts.values()),
                between(low * updates, high * updates), "measured, times 800,000" if n == 1 else "predicted",
            ])  # fmt: skip
    head = (
        "cards",
        "pictures a card",
        "updates",
        "pictures, ms",
        "weights, ms",
        "draws, ms",
        "exchange, ms",
    )
    return as_table((*head, "launches, ms", "the whole run", ""), cells)


def sample_table(one: Card) -> str:
    """Return what 50,000 samples cost on several cards."""
    assert one.sampling is not None
    cells = []
    for n in CARDS:
        times = [
            short(sampling_seconds(n, calls, one.sampling)) for calls in EVALUATIONS
        ]
        even = SAMPLES / n / one.sampling * EVALUATIONS[0] / gpu.CALLS
        used = even / sampling_seconds(n, EVALUATIONS[0], one.sampling)
        cells.append(
            [f"{n}", *times, f"{used:.0%}", "measured speed" if n == 1 else "predicted"]
        )
    head = (
        "cards",
        *(f"{calls:,} evaluations a picture" for calls in EVALUATIONS),
        "cards at work",
        "",
    )
    return as_table(head, cells)


def breaks_first(one: Card, counts: dict[str, int], links: Links) -> str:
    """Return what stands in the way on several cards, the greatest obstacle first."""
    assert one.training is not None
    said = []
    for n in CARDS[1:]:
        parts = update_parts(n, BATCH, one.training, counts, links)
        share = parts["pictures"]
        order = sorted(parts.keys() - {"pictures"}, key=lambda name: -parts[name])
        rest = ", ".join(f"{parts[name] / share:.2g} s on {name}" for name in order)
        without = [UPDATES * seconds for seconds in bounds({**parts, order[0]: 0.0})]
        said.append(
            f"**On {n} cards**, {BATCH // n} pictures each, first comes: {order[0]}. For each second on its pictures "
            f"a card spends {rest}. Without {order[0]} the run would take {between(*without)}, and next comes: "
            f"{order[1]}."
        )
    return " ".join(said)


def counts_text(counts: dict[str, int]) -> str:
    """Return what was counted of the paper's update."""
    return (
        f"An update of the paper's network is {counts['update_flop'] / 1e9:.1f} GFLOP a picture, an evaluation "
        f"{counts['evaluation_flop'] / 1e9:.1f}. Whatever the batch, an update starts "
        f"{counts['operators']:,} operators, moves {counts['weights_bytes'] / 1e9:.2f} GB for clipping, Adam "
        f"and the average of the weights, and has "
        f"{counts['gradient_bytes'] / 1e6:.0f} MB of gradient to exchange. These are counts."
    )


def card_text(one: Card, counts: dict[str, int]) -> str:
    """Return what was measured on one card."""
    figures = {
        "training in bf16, channels_last, compiled into one graph, pictures/s": one.training,
        "the same, not compiled": one.eager,
        f"sampling in bf16, channels_last, compiled, {gpu.CALLS} evaluations each, pictures/s": one.sampling,
        "matrix product in bf16, TFLOP/s": one.product,
        "3x3 convolution in bf16, TFLOP/s": one.convolution,
    }
    said = [
        f"- {name}: {f'{value:,.0f}' if value else 'not measured'}"
        for name, value in figures.items()
    ]
    text = "\n".join(
        [f"**Measured on one {one.name}**, {one.date}, {one.software}:", "", *said]
    )
    if one.eager:
        each, assumed = BATCH / one.eager / counts["operators"], Links().launch
        text += (
            f"\n\nNot compiled, an update of {BATCH} pictures took {short(BATCH / one.eager)}, or {short(each)} an "
            f"operator. So no operator took longer than that to start, on average. With {short(each)} in the place of "
            f"the {short(assumed)} that are assumed below, launches would take {each / assumed:.1f} times as long."
        )
    return text


def links_text(links: Links) -> str:
    """Return what the predictions assume."""
    return "\n".join((
        "**Everything about more than one card is a prediction.** It assumes:",
        "",
        f"- links of {links.within / 1e9:,.0f} GB/s a card among the {links.machine} cards of a machine, and of "
        f"{links.between / 1e9:,.0f} GB/s a card between machines (data sheets: NVLink 4, and 400 Gbit/s);",
        "- gradients in float32, exchanged in a ring whose delays are left out;",
        f"- {links.memory / 1e12:.1f} TB/s of a card's own memory (data sheet), for all weights on each card;",
        f"- {links.launch * 1e6:.0f} µs to start a kernel, one kernel for each operator that was counted. One card "
        "records a graph and starts it at once; with several processes the package records none;",
        "- a card that is as fast with few pictures as with many. None is, so the real times are longer.",
        "",
        "Of two times of a run, the first is for launches and exchange that hide behind the arithmetic, as far as they "
        "can; the second for those that do not hide at all.",
    ))  # fmt: skip


def cards_text(one: Card | None, counts: dict[str, int], links: Links) -> list[str]:
    """Return the page's second half."""
    head = "## The paper's run, and 50,000 samples, on 1, 8 and 64 cards"
    missing = "not measured: `benchmarks/gpu.json` has no such row."
    if one is None:
        return [head, counts_text(counts), f"One card: {missing}"]
    text = [head, counts_text(counts), card_text(one, counts), links_text(links)]
    if one.training:
        text += [
            f"The paper's run is {UPDATES:,} updates of {BATCH} pictures.",
            run_table(one, counts, links),
            breaks_first(one, counts, links),
            f"**The batch.** More than {BATCH} cards cannot share the paper's batch at all: a picture is not divided. "
            f"Rows with {BATCH} pictures a card show as many pictures in fewer updates. That is another training: "
            "whether its network is as good, nothing here says.",
            "**Shuffling** is no obstacle: each process holds the whole data set, draws the same order, and takes its "
            f"share. The order of {DATA:,} pictures is drawn once in {DATA // BATCH} updates; the column of draws has "
            "the noise, which each card draws for all.",
        ]
    else:
        text.append(f"The paper's run: {missing}")
    if one.sampling:
        text += [
            f"**{SAMPLES:,} samples** need no exchange.",
            sample_table(one),
            f"Cards draw whole batches, here of {SHARE}, and {-(-SAMPLES // SHARE)} batches do not always share out "
            "evenly. That breaks first, and smaller batches mend it.",
        ]
    else:
        text.append(f"{SAMPLES:,} samples: {missing}")
    return text


def alt(result: dict[str, Any]) -> str:
    """Return the picture in words."""
    parts = [
        f"{what} over {rows[0]['x']} to {rows[-1]['x']} {NAMES[curve]}: "
        f"{short(rows[0]['seconds'])} to {short(rows[-1]['seconds'])}"
        for curve, what, rows in lines(result)
    ]
    return (
        "Six small charts, time upwards, the axes logarithmic but for the time over processes. In "
        f"five, dots are measured and dashed lines predicted: {'; '.join(parts)}. The sixth has the hours of the "
        "paper's run on 1 to 64 cards: a band, predicted, far above "
        "a line for cards that share the work without loss."
    )


def page(result: dict[str, Any], one: Card | None, links: Links) -> str:
    """Return the book's page, in Markdown."""
    rates, base = result["rates"], result["base"]
    busy = "" if result["load"] is None else f", load {result['load']} at the start"
    return "\n\n".join([
        "# How cost grows",
        "Twice the batch, twice the side of a picture, twice the channels, twice the steps: how much longer does it "
        "take? And does one know before one tries? This page measures it on a small machine, beside a prediction "
        "that fits nothing.",
        "**The prediction.** Each operator of a step, forward, backward and in Adam, has its FLOP (a multiplication "
        "and an addition are two) and the bytes that it reads and writes. It takes the longer of two times: its FLOP "
        "at the rate of a large matrix product, its bytes at the rate of a large copy. The times of all operators are "
        "added up. It knows nothing of caches, and nothing of what it takes to start an operator.",
        f'<img src="images/cost.png" alt="{alt(result)}" width="672">',
        "Dots are measured, and their bars show the middle half of the rounds; dashed lines are predicted. Where "
        f"nothing else is said: {base['batch']} pictures of {base['size']}×{base['size']}, {base['width']} channels "
        f"at full size, one block a level, float32. Sampling draws {base['sampled']} pictures; processes share a batch "
        f"of {base['shared']}.",
        growth(result),
        "Small batches and small pictures are where the measured time lies above the prediction: to start an operator "
        "takes time, too, and there it is most of the work. Below 1 means that the large product and the large copy "
        "were no upper bound: smaller pieces stay in the caches, and other programs slow down the large ones.",
        f"{result['hardware']}; {result['software']}; {result['date']}, seed {result['seed']}, {result['rounds']} "
        f"rounds in which all take turns{busy}. The matrix product reached {rates['product'] / 1e9:.1f} GFLOP/s, the "
        f"copy {rates['copy'] / 1e9:.1f} GB/s. Steps of one process are timed by the processor's clock; several "
        "processes by the clock on the wall, which other programs on a busy machine make longer.",
        *cards_text(one, result["paper"], links),
        "`python -m benchmarks.cost` measures all this anew.",
    ]) + "\n"  # fmt: skip


# --- the picture


def draw(result: dict[str, Any], one: Card | None, links: Links) -> bytes:
    """Return the picture as a small PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from PIL import Image

    from ddpm_nb import _figures as fig

    fig.use_style()
    figure, axes = plt.subplots(2, 3, figsize=(7.0, 4.4))
    colors = {"update": fig.BLUE, "evaluation": fig.ORANGE, "sampling": fig.GREEN}
    panels = dict(zip(result["curves"], axes.flat))
    for curve, what, rows in lines(result):
        ax, color = panels[curve], colors[what]
        x, y = [row["x"] for row in rows], [row["seconds"] for row in rows]
        ax.plot(x, [row["predicted"] for row in rows], "--", color=color, linewidth=1.2)
        spread = [
            [row["seconds"] - row["low"] for row in rows],
            [row["high"] - row["seconds"] for row in rows],
        ]
        ax.errorbar(x, y, spread, fmt="o", markersize=4, color=color)
        scale(ax, x)
        if curve == "processes":  # less than a power of ten: a common axis tells more
            ax.set_yscale("linear")
            ax.set_ylim(bottom=0)
        ax.set(title=NAMES[curve], ylabel="seconds" if ax in axes[:, 0] else None)
        if curve in ("batch", "T"):
            above = what != "evaluation"
            ax.text(0.04 if above else 0.96, 0.96 if above else 0.04, what, color=color, transform=ax.transAxes,
                    ha="left" if above else "right", va="top" if above else "bottom")  # fmt: skip
    ax = axes.flat[-1]
    ax.set(title="cards, the paper's run", ylabel="hours")
    if one is None or one.training is None:
        ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center")
    else:
        cards = [2**k for k in range(7)]
        parts = [
            update_parts(n, BATCH, one.training, result["paper"], links) for n in cards
        ]
        low, high = zip(
            *([seconds * UPDATES / 3600 for seconds in bounds(part)] for part in parts)
        )
        ax.fill_between(cards, low, high, color=fig.PURPLE, alpha=0.3, linewidth=0)
        ax.plot(cards, [high[0] / n for n in cards], ":", color=fig.GREY, linewidth=1.2)
        ax.plot(cards[0], high[0], "o", markersize=4, color=fig.PURPLE)
        scale(ax, cards[::2])
        ax.text(64, 0.8 * min(low), "predicted", color=fig.PURPLE, ha="right", va="top")
        ax.text(8, high[0] / 14, "no loss", color=fig.GREY, ha="right", va="top")
    whole, small = BytesIO(), BytesIO()
    figure.savefig(whole, format="png")
    plt.close(figure)
    with Image.open(whole) as drawn:
        drawn.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(
            small, format="png", optimize=True
        )
    return small.getvalue()


def scale(ax: Any, x: list[int]) -> None:
    """Give a panel logarithmic axes, with the places of x as they are called."""
    ax.set(xscale="log", yscale="log")
    ax.set_xticks(x, [str(place) for place in x])
    ax.minorticks_off()


# --- the run


def write(
    folder: Path | None, result: dict[str, Any], one: Card | None, links: Links
) -> None:
    """Write result, page and picture: the book's, or all into one folder."""
    places = (
        (RESULT, PAGE, PICTURE)
        if folder is None
        else tuple(folder / path.name for path in (RESULT, PAGE, PICTURE))
    )
    picture = draw(result, one, links)
    if len(picture) > LIMIT:
        raise ValueError(
            f"picture: expected at most {LIMIT:,} bytes, got {len(picture):,}"
        )
    content = (
        (json.dumps(result, indent=1) + "\n").encode(),
        page(result, one, links).encode(),
        picture,
    )
    for path, data in zip(places, content, strict=True):
        make_folder("out", path.parent)
        write_whole(path, data)


def main(words: list[str] | None = None) -> None:
    """Measure, and write `benchmarks/cost.json`, the book's page and its picture."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--within",
        type=float,
        default=Links.within / 1e9,
        help="GB/s of a card's links in a machine",
    )
    parser.add_argument(
        "--between",
        type=float,
        default=Links.between / 1e9,
        help="GB/s a card between machines",
    )
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--sizes", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_TORCH_DEVICE": "cpu"}
    if options.child:
        child(options.child, Size(*map(int, options.sizes.split(","))))
        return
    torch.set_num_threads(1)
    one, links = (
        card(gpu.read(gpu.RESULT)),
        Links(options.within * 1e9, options.between * 1e9),
    )
    folder = ROOT / "_build/cost" if options.quick else None
    result = (
        gpu.read(RESULT)
        if options.page
        else run(options.quick, 2 if options.quick else options.rounds)
    )
    if result is None:
        raise SystemExit("--page: expected benchmarks/cost.json, got none")
    write(folder, result, one, links)
    print(growth(result))


if __name__ == "__main__":
    main()
