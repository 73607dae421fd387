"""How many minutes to a stated quality? Our training loop against that of diffusers' example, on the digits.

    python -m benchmarks.quality           four seeds; about ten minutes of one core
    python -m benchmarks.quality --quick   one seed and a low target, to try this code; its figures mean nothing

Both train the same network from the same weights with the same recipe: Adam's rate and its warm-up, batch, noise
schedule, clipping, average. What differs is the code: ours is the package's `Learner`; theirs is the loop of
diffusers' example for unconditional training, with its network, scheduler, loader, optimizer, and accelerate.

They take turns, a hundred updates each; a clock runs only while one trains. (Not counted: what comes before the first
update. Of ours that is a trial of a few seconds, which finds the fastest precision.) After each turn the averaged
network is measured: bits per dimension of the 450 test digits, the same noises every time. The moment at which the
target is reached lies on the straight line between two turns.
"""

import argparse
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from scipy.stats import t as student
from torch import Tensor

from ddpm_nb._files import write_whole
from ddpm_nb.cifar10 import digits_config, load_digits
from ddpm_nb.evaluation import bits_per_dim
from ddpm_nb.training import Learner, TrainConfig
from ddpm_nb.unet import UNet

RESULT = Path(__file__).with_name("quality.json")
TARGET, TURN, MOST = 3.2, 100, 40  # bits; updates a turn; turns until one gives up
Side: TypeAlias = tuple[Callable[[], Any], Callable[[Tensor, Tensor], Tensor]]


def config_for(seed: int) -> TrainConfig:
    """The book's recipe for the digits, in whichever precision and layout the machine is fastest."""
    return replace(digits_config(), seed=seed, precision="auto")


def ours(config: TrainConfig, images: Tensor) -> tuple[Side, UNet]:
    """One update of ours, the averaged network, and the network as it begins."""
    learner = Learner(config, images)
    return (learner.step, learner.ema.model), learner.model


def theirs(config: TrainConfig, images: Tensor, start: UNet, height: int = 8) -> Side:
    """The same with diffusers' network and the loop of its example for unconditional training."""
    from accelerate import Accelerator
    from torch.utils.data import DataLoader, TensorDataset

    diffusers: Any = import_module("diffusers")
    with tempfile.TemporaryDirectory() as folder:
        start.save_diffusers(folder, size=height)
        model = diffusers.UNet2DModel.from_pretrained(folder)
    model.train()
    accelerator = Accelerator(cpu=True)
    betas = config.noise_schedule().beta[1:].float().numpy()
    scheduler = diffusers.DDPMScheduler(
        num_train_timesteps=config.T, trained_betas=betas
    )
    average = diffusers.training_utils.EMAModel(
        model.parameters(), decay=config.ema_decay, use_ema_warmup=False
    )
    adam = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=0
    )
    warm = torch.optim.lr_scheduler.LambdaLR(
        adam, lambda step: min(1.0, (step + 1) / config.warmup_steps)
    )
    order = torch.Generator().manual_seed(config.seed)
    loader = DataLoader(
        TensorDataset(images), config.batch_size, shuffle=True, generator=order
    )
    model, adam, loader, warm = accelerator.prepare(model, adam, loader, warm)

    def forever() -> Iterator[Tensor]:
        while True:
            for (batch,) in loader:
                yield batch

    batches = forever()

    def step() -> None:
        clean = next(batches)
        noise = torch.randn(clean.shape)
        t = torch.randint(0, config.T, (len(clean),))
        with accelerator.accumulate(model):
            out = model(scheduler.add_noise(clean, noise, t), t).sample
            loss = F.mse_loss(out.float(), noise.float())
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            adam.step()
            warm.step()
            adam.zero_grad()
        average.step(model.parameters())
        loss.detach().item()  # the example logs it each time

    def averaged(x: Tensor, t: Tensor) -> Tensor:
        weights = list(accelerator.unwrap_model(model).parameters())
        average.store(weights)
        average.copy_to(weights)
        answer: Tensor = model(x, t - 1).sample  # its times count from 0
        average.restore(weights)
        return answer

    return step, averaged


def bits(
    model: Callable[[Tensor, Tensor], Tensor], config: TrainConfig, images: Tensor
) -> float:
    """Bits per dimension of the pictures, always with the same noises."""
    rng = torch.Generator().manual_seed(1)
    result = bits_per_dim(
        model,
        images,
        config.noise_schedule(),
        levels=17,
        num_timesteps=10,
        generator=rng,
    )
    return float(result.mean)


def reached(curve: list[tuple[float, float]], target: float) -> float:
    """The minute at which a curve of (minutes, bits) comes down to the target; infinity if it never does."""
    for (m_0, b_0), (m_1, b_1) in pairwise(curve):
        if b_1 <= target:
            return (
                m_0 + (m_1 - m_0) * (b_0 - target) / (b_0 - b_1)
                if b_0 > target
                else m_0
            )
    return math.inf


def race(
    seed: int, target: float, turn: int = TURN, most: int = MOST
) -> dict[str, Any]:
    """Both sides, turn by turn, until both have reached the target or have given up."""
    config, train, test = (
        config_for(seed),
        load_digits().images,
        load_digits(train=False).images,
    )
    mine, network = ours(config, train)
    torch.manual_seed(seed)
    sides = {"ours": mine, "diffusers": theirs(config, train, network)}
    curves = {
        name: [(0.0, bits(model, config, test))] for name, (_, model) in sides.items()
    }
    while any(reached(curve, target) == math.inf for curve in curves.values()):
        if len(curves["ours"]) > most:
            break
        for name in sorted(
            sides, reverse=len(curves["ours"]) % 2 == 0
        ):  # who begins, changes
            step, model = sides[name]
            began = time.perf_counter()
            for _ in range(turn):
                step()
            minutes = curves[name][-1][0] + (time.perf_counter() - began) / 60
            curves[name].append((minutes, bits(model, config, test)))
    return {
        "seed": seed,
        "updates a turn": turn,
        "curves": curves,
        "minutes": {name: reached(curve, target) for name, curve in curves.items()},
    }


def ratio(races: list[dict[str, Any]]) -> tuple[float, float, float]:
    """How many times as long theirs takes: the geometric mean over seeds, and its 95 % interval."""
    logs = [
        math.log(race["minutes"]["diffusers"] / race["minutes"]["ours"])
        for race in races
    ]
    mean = statistics.mean(logs)
    wide = (
        math.inf
        if len(logs) < 2
        else student.ppf(0.975, len(logs) - 1)
        * statistics.stdev(logs)
        / len(logs) ** 0.5
    )
    return math.exp(mean), math.exp(mean - wide), math.exp(mean + wide)


def table(said: dict[str, Any]) -> str:
    """The result in Markdown."""
    lines = [
        said["where"],
        "",
        "| seed | ours, minutes | diffusers, minutes | times as long |",
        "|---|---|---|---|",
    ]
    for run in said["races"]:
        mine, other = run["minutes"]["ours"], run["minutes"]["diffusers"]
        lines.append(
            f"| {run['seed']} | {mine:.2f} | {other:.2f} | {other / mine:.2f} |"
        )
    mean, low, high = ratio(said["races"])
    lines += [
        "",
        f"To {said['target']} bits per dimension: {mean:.2f} times as long ({low:.2f} to {high:.2f}, 95 %).",
    ]
    return "\n".join(lines)


def main() -> int:
    """Run the races, write and print the result; exit status 0 if the goal is met."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="one seed, a low target, nothing written"
    )
    quick = parser.parse_args().quick
    os.environ["ACCELERATE_USE_CPU"] = "true"
    target, seeds = (4.0, [0]) if quick else (TARGET, [0, 1, 2, 3])
    races = []
    for seed in seeds:
        races.append(race(seed, target, **({"turn": 20, "most": 10} if quick else {})))
        print(races[-1]["minutes"], file=sys.stderr, flush=True)
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    where = (
        f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {torch.get_num_threads()} threads{load}; "
        f"torch {torch.__version__}, diffusers {version('diffusers')}"
    )
    said = {"where": where, "target": target, "races": races}
    print(table(said))
    if not quick:
        write_whole(RESULT, (json.dumps(said, indent=1) + "\n").encode())
    return 0 if ratio(races)[0] >= 1 else 1


if __name__ == "__main__":
    raise SystemExit(main())
