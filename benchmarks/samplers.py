"""How close with how few network evaluations: every sampler of the book on its own two networks, in one table.

    python -m benchmarks.samplers                about an hour of one core; it goes on where it stopped
    python -m benchmarks.samplers --only digits  one network alone; the file keeps the other
    python -m benchmarks.samplers --quick        a few pictures, to try this code; its figures mean nothing

All samplers clip, and start from the same noises. The *limit* of a noise is where the second-order rule takes it with
all times. Distances to it are root mean squares over a picture's numbers, and means over pictures. The second order's
times lie even in lambda between two ends, chosen for each number of evaluations on other noises than those reported.

Written is each seed's value, so that a reader can take differences within a seed. Exit status: 0 if all goals are met.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors.torch import load_file
from scipy.stats import t as student
from torch import Tensor

import ddpm_nb
from ddpm_nb import _weights
from ddpm_nb._files import write_whole
from ddpm_nb._noise import CounterNoise
from ddpm_nb.algorithms import Rule, sample
from ddpm_nb.cifar10 import load_digits
from ddpm_nb.evaluation import frechet_distance
from ddpm_nb.fewer_steps import (
    analytic,
    ddim,
    log_snr_timesteps,
    multistep,
    strided,
    timesteps,
    x_0_error,
)
from ddpm_nb.forward import Schedule
from ddpm_nb.training import load_network
from ddpm_nb.unet import UNet
from tools import book

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "book/weights/samplers.json"
LOWS, HIGHS = (-5.0, -4.5, -4.0, -3.5, -3.0), (2.5, 3.0, 3.5, 4.0, 4.5, 5.0)
Ends: TypeAlias = tuple[float, float] | None
STOCHASTIC, PATHS = ("Algorithm 2", "analytic variance"), ("DDIM", "second order")


@dataclass(frozen=True)
class Subject:
    """A network, and how much of it is measured."""

    name: str
    network: UNet
    schedule: Schedule
    shape: tuple[int, int, int]
    real: Tensor | None  # pictures to compare samples with
    unseen: Tensor | None  # pictures to measure the analytic variance on
    samplers: tuple[str, ...]
    counts: tuple[int, ...]
    goal: int  # with so many, the second order is to be closer than DDIM with 50
    pictures: int  # of one seed
    seeds: tuple[int, ...]
    choice_pictures: int
    choice_seeds: tuple[int, ...]
    errors: dict[int, dict[int, float]] = field(
        default_factory=dict
    )  # of x_0_hat, where they have been measured

    def noise(self, seed: int, n: int) -> Tensor:
        """Return the first n noises of a seed, at t = T, the same for all samplers."""
        return CounterNoise(seed, self.shape)(torch.arange(n), self.schedule.T)

    def walk(
        self, sampler: str, steps: int, ends: Ends
    ) -> tuple[tuple[int, ...], Rule]:
        """Return the times and the rule of a sampler."""
        T = self.schedule.T
        if sampler == "second order":
            times = (
                tuple(range(T, -1, -1))
                if steps == T
                else log_snr_timesteps(self.schedule, steps, *(ends or (-5.0, 3.0)))
            )
            return times, multistep()
        times = timesteps(T, steps)
        if sampler == "analytic variance":
            assert self.unseen is not None
            known = self.errors.get(steps) or x_0_error(
                self.network,
                self.unseen,
                self.schedule,
                times,
                clip=True,
                generator=torch.Generator().manual_seed(0),
            )
            self.errors[steps] = known
            return times, analytic(known)
        return times, strided() if sampler == "Algorithm 2" else ddim()

    def draw(
        self, sampler: str, steps: int, seed: int, n: int, ends: Ends = None
    ) -> Tensor:
        """Draw n pictures of a seed."""
        times, rule = self.walk(sampler, steps, ends)
        source = CounterNoise(seed, self.shape)
        x_T = self.noise(seed, n)
        return sample(
            self.network,
            x_T.shape,
            self.schedule,
            rule,
            times,
            clip=True,
            x_T=x_T,
            generator=source,
        )


def subjects(quick: bool) -> dict[str, Subject]:
    """Return what is measured."""
    seen, unseen = load_digits().images, load_digits(train=False).images
    digits = UNet.digits()
    digits.load_state_dict(load_file(_weights.path("digits.safetensors")))
    photographs, linear, _ = load_network(_weights.path("cifar10-small.safetensors"))
    found = (
        Subject(
            "digits", digits.eval(), Schedule.cosine(500), (1, 8, 8), torch.cat([seen, unseen]), unseen,
            samplers=(*STOCHASTIC, *PATHS), counts=(5, 10, 20) if quick else (5, 10, 20, 50, 100, 500), goal=20,
            pictures=20 if quick else 1000, seeds=(0, 1) if quick else (0, 1, 2, 3),
            choice_pictures=5 if quick else 100, choice_seeds=(90, 91),
        ),
        Subject(
            "cifar10-small", photographs, linear, (3, 32, 32), None, None,
            samplers=PATHS, counts=(5,) if quick else (5, 10, 15, 20, 50, 100), goal=15,
            pictures=2 if quick else 16, seeds=(0, 1) if quick else (0, 1, 2, 3),
            choice_pictures=1 if quick else 8, choice_seeds=(90,),
        ),
    )  # fmt: skip
    return {subject.name: subject for subject in found}


# --- measures


def energy_distance(x: Tensor, y: Tensor) -> float:
    """Return the energy distance of two samples (N, D), without bias. Source: Székely and Rizzo (2013)."""

    def within(z: Tensor) -> Tensor:
        return torch.cdist(z, z).sum() / (len(z) * (len(z) - 1))

    return float(2 * torch.cdist(x, y).mean() - within(x) - within(y))


def distance(x: Tensor, y: Tensor) -> float:
    """Return the root mean square between pictures of the same noise, as a mean over pictures."""
    return float((x - y).square().flatten(1).mean(1).sqrt().mean())


def judge() -> Any:
    """Return the chapter's judge of digits, trained as there; its code stands in a cell of `algorithms`."""
    cells = book.read_notebook(ROOT / "book/algorithms.ipynb").cells
    (source,) = [cell.source for cell in cells if "class Judge" in cell.source]
    space: dict[str, Any] = {"torch": torch}
    exec(source.split("judge = Judge(")[0], space)
    digits = load_digits()
    return space["Judge"](digits.images, digits.labels.numpy())


# --- the run


def chosen_ends(subject: Subject) -> dict[str, Any]:
    """Return for each number of evaluations the ends in lambda with the least distance to the limit."""
    n, T = subject.choice_pictures, subject.schedule.T
    limits = {
        seed: subject.draw("second order", T, seed, n) for seed in subject.choice_seeds
    }
    of_steps = {}
    for steps in [steps for steps in subject.counts if steps < T]:
        tried = {
            ends: sum(
                distance(subject.draw("second order", steps, seed, n, ends), limit)
                for seed, limit in limits.items()
            )
            for ends in product(LOWS, HIGHS)
        }
        low, high = min(tried, key=tried.__getitem__)
        apart = {
            f"{low:g} to {high:g}": round(value / len(limits), 5)
            for (low, high), value in tried.items()
        }
        of_steps[str(steps)] = {"low": low, "high": high, "distance": apart}
    return {"seeds": [*subject.choice_seeds], "pictures": n, "of_steps": of_steps}


def measured(subject: Subject, found: dict[str, Any], keep: Any) -> None:
    """Fill in what is not there yet, one seed of one sampler after the other."""
    if "ends" not in found:
        found["ends"] = chosen_ends(subject)
        keep()
    ends = {
        int(steps): (best["low"], best["high"])
        for steps, best in found["ends"]["of_steps"].items()
    }
    critic = judge() if subject.real is not None else None
    rows: list[dict[str, Any]] = found.setdefault("rows", [])
    T = subject.schedule.T
    work = [
        (name, steps)
        for steps in subject.counts
        for name in subject.samplers
        if (name, steps) != ("second order", T)
    ]
    for seed in subject.seeds:
        limit: Tensor | None = None
        for name, steps in [("second order", T), *work]:
            row = next(
                (
                    row
                    for row in rows
                    if (row["sampler"], row["steps"]) == (name, steps)
                ),
                None,
            )
            if row is None:
                row = {"sampler": name, "steps": steps}
                rows.append(row)
            if str(seed) in row.get("distance", row.get("energy", {})):
                continue
            if limit is None:
                limit = subject.draw("second order", T, seed, subject.pictures)
            start = time.monotonic()
            drawn = (
                limit
                if steps == T and name == "second order"
                else subject.draw(name, steps, seed, subject.pictures, ends.get(steps))
            )
            values = {"distance": distance(drawn, limit)} if name in PATHS else {}
            if subject.real is not None and critic is not None:
                flat, real = drawn.flatten(1).double(), subject.real.flatten(1).double()
                values |= {
                    "energy": energy_distance(flat, real), "frechet": frechet_distance(flat, real),
                    "judge": float(critic.sure(drawn).mean()),
                }  # fmt: skip
            for measure, value in values.items():
                row.setdefault(measure, {})[str(seed)] = round(value, 6)
            print(
                f"{subject.name}, seed {seed}: {name}, {steps}: {time.monotonic() - start:.0f} s, {values}",
                flush=True,
            )
            keep()


def differences(
    rows: Sequence[dict[str, Any]], measure: str, sampler: str, steps: int
) -> tuple[float, float]:
    """Return the mean difference to DDIM with 50 evaluations over the seeds, and half of its 95 % interval."""
    mine, base = (
        next(row for row in rows if (row["sampler"], row["steps"]) == which)[measure]
        for which in ((sampler, steps), ("DDIM", 50))
    )
    apart = torch.tensor(
        [mine[seed] - base[seed] for seed in base], dtype=torch.float64
    )
    wide = student.ppf(0.975, len(apart) - 1) / len(apart) ** 0.5
    return float(apart.mean()), float(wide * apart.std())


def goals(name: str, found: dict[str, Any], goal: int) -> Iterator[tuple[str, bool]]:
    """Yield each goal's line, and whether it is met."""
    asked = [("distance", goal)]
    if "energy" in found["rows"][0]:
        asked += [("energy", 10), ("frechet", 10)]
    for measure, steps in asked:
        mean, half = differences(found["rows"], measure, "second order", steps)
        met = mean + half < 0 if measure == "distance" else mean - half <= 0
        wish = "below 0" if measure == "distance" else "not above 0"
        what = f"{name}: {measure}, second order with {steps} minus DDIM with 50: {mean:+.4f} ± {half:.4f}"
        yield f"{what}, expected {wish}: {'met' if met else 'MISSED'}", met


def main(words: list[str] | None = None) -> None:
    """Measure, write after every value, and say which goals are met."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.samplers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", choices=["digits", "cifar10-small"])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args(words)
    if options.quick and options.out == RESULT:
        parser.error("--quick: expected --out with another file than the book's")
    all_of_them = subjects(options.quick)
    result: dict[str, Any] = (
        json.loads(options.out.read_text())
        if options.out.exists()
        else {"networks": {}}
    )

    def keep() -> None:
        result.update(
            version=ddpm_nb.__version__, torch=torch.__version__, clip=True, date=time.strftime("%Y-%m-%d"),
            hardware=f"{platform.machine()}, {os.environ.get('OMP_NUM_THREADS', 'all')} thread(s)",
        )  # fmt: skip
        write_whole(options.out, (json.dumps(result, indent=1) + "\n").encode())

    good = True
    for name in [options.only] if options.only else list(all_of_them):
        subject = all_of_them[name]
        found = result["networks"].setdefault(
            name, {"T": subject.schedule.T, "pictures": subject.pictures}
        )
        if (there := found["pictures"]) != subject.pictures:
            parser.error(
                f"--out: expected {subject.pictures} pictures a seed, got {there} in {options.out}"
            )
        measured(subject, found, keep)
        for line, met in goals(name, found, subject.goal) if not options.quick else ():
            print(line)
            good &= met
    if not good:
        raise SystemExit("benchmarks.samplers: a goal is missed")


if __name__ == "__main__":
    main()
