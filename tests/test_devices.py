"""Every public function on a device that is not the CPU: one that is pretended (see pretended.py).

On "cuda" the answers must be the CPU's, bit for bit, since the CPU computes them; on "mps" the tables are float32.
"""

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import accelerate
import jupytext
import pytest
import torch
from accelerate.state import AcceleratorState
from pretended import Pretended, tensors_in
from samplers import strided_sample
from torch import Tensor, nn

import ddpm_nb as ddpm
from ddpm_nb import _cli

KINDS = ("cuda", "mps")
SHAPE = (3, 1, 8, 8)
SMALL = {
    "channels": 8, "channel_mult": (1, 2), "num_res_blocks": 1, "attention_levels": (False, True),
    "norm_num_groups": 4, "dropout": 0.2,
    "schedule": "cosine", "T": 6, "batch_size": 4, "warmup_steps": 2, "log_every": 1, "save_every": 2,
    "sample_every": 2,
    "samples": 2,
}  # fmt: skip


class On:
    """What the functions are given, on one device; drawn on the CPU, so that it is the same on all."""

    def __init__(self, device: str) -> None:
        torch.manual_seed(0)
        self.device = device
        self.schedule = ddpm.Schedule.cosine(6).to(device)
        self.levels = (torch.randint(0, 17, SHAPE) / 8 - 1).to(device)
        self.x, self.noise, self.other = (
            torch.randn(SHAPE).to(device) for _ in range(3)
        )
        self.t = torch.tensor([1, 3, 6]).to(device)
        self.points, self.more = (torch.rand(5, 2).to(device) + 0.1 for _ in range(2))
        self.mixture = ddpm.GaussianMixture(
            [0.3, 0.7], [[0.0, 1.0], [1.0, -1.0]], [0.2, 0.4]
        )
        self.rows = torch.rand(30, 4).softmax(1).to(device)

    @cached_property
    def model(self) -> ddpm.UNet:
        torch.manual_seed(0)
        model = ddpm.TrainConfig(**SMALL).network(1).eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.05 * torch.randn(weight.shape))
        return model.to(self.device)

    def put(self, x: Tensor) -> Tensor:
        return x.to(self.device)

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(1)

    def bits(self, **choice: Any) -> ddpm.BitsPerDim:
        return ddpm.bits_per_dim(
            self.model,
            self.levels,
            self.schedule,
            levels=17,
            generator=self.generator(),
            **choice,
        )

    def walk(self, steps: Callable[..., Any], *given: Any) -> Tensor:
        return torch.stack(
            [step.x for step in steps(self.model, *given, generator=self.generator())]
        )

    def between(self, weights: tuple[float, ...]) -> Tensor:
        return ddpm.interpolate(
            self.model,
            self.x,
            self.other,
            3,
            weights,
            self.schedule,
            generator=self.generator(),
        )

    def bells(self) -> list[Tensor]:
        covariance = self.put(torch.eye(2)) + 0.2
        return [self.points, covariance, self.more, 2 * covariance]

    def made(self) -> ddpm.GaussianMixture:
        return ddpm.GaussianMixture(self.rows[0], self.points[:4], self.more[:4, 0])

    def inside(self, decoder: Any) -> Tensor:
        return ddpm.discretized_log_prob(
            self.levels, self.x, 0.3, levels=17, decoder=decoder
        )

    def guided(self) -> Tensor:
        sizes = {**ddpm.UNet.digits().config, "channels": 8, "num_classes": 3}
        torch.manual_seed(0)
        network = ddpm.UNet(**sizes)
        for weight in network.parameters():
            nn.init.normal_(weight, std=0.2)
        y = self.put(torch.tensor([0, 2, 3]))
        with torch.no_grad():
            return ddpm.Guided(network.to(self.device), y, 0.5)(self.x, self.t)

    def vae(self) -> list[Tensor]:
        model = ddpm.LinearGaussianVAE(self.points, self.points[:, 0], 0.3)
        x = model.sample(4, self.generator())
        mean, var = self.put(torch.zeros(4, 2)), self.put(torch.ones(4, 2))
        expected = model.expected_log_likelihood(x, mean, var)
        return [
            x,
            model.log_prob(x),
            *model.posterior(x),
            expected,
            model.gap(x, mean, var),
        ]

    def steps(self) -> Iterator[ddpm.TrainStep]:
        optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-2)
        batches = ddpm.minibatches(self.levels, 2, self.generator())
        return ddpm.train_steps(
            self.model, batches, self.schedule, optimizer, generator=self.generator()
        )

    def trained(self) -> Tensor:
        optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-2)
        batches = ddpm.minibatches(self.levels, 2, self.generator())
        return ddpm.train(
            self.model, batches, self.schedule, optimizer, 3, generator=self.generator()
        )

    def averaged(self) -> list[Tensor]:
        ema = ddpm.EMA(self.model, 0.9)
        weights = list(self.model.parameters())
        self.model(self.x, self.t).square().sum().backward()
        length = ddpm.clip_gradients(weights, 0.1)
        torch.optim.SGD(weights, 1.0).step()
        ema.update(self.model)
        ema.update(self.model)
        return [length, *ema.model.parameters()]

    def chain(self) -> Tensor:
        table = self.rows[:4]
        return ddpm.chain_bound([table] * 3, [table] * 3, self.rows[5]).total

    def sheet(self) -> int:
        with tempfile.TemporaryDirectory() as folder:
            ddpm.save_image_grid(Path(folder) / "sheet.png", self.levels)
            return (Path(folder) / "sheet.png").stat().st_size

    def saved(self) -> list[Tensor]:
        config = ddpm.TrainConfig(**SMALL)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.safetensors"
            ddpm.save_network(path, self.model, config, height=8, width=8)
            network, schedule, _ = ddpm.load_network(path)
        return [schedule.beta, *network.parameters()]


CASES: dict[str, Callable[[On], Any]] = {
    "CounterNoise": lambda on: ddpm.sample(on.model, SHAPE, on.schedule, generator=ddpm.CounterNoise(0, SHAPE[1:])),
    "GaussianMixture": lambda on: [on.mixture.log_prob(on.points), on.made().means, on.made().sample(3)],
    "gaussian_kl_full": lambda on: ddpm.gaussian_kl_full(*on.bells()),
    "gaussian_kl": lambda on: ddpm.gaussian_kl(on.points, on.more, on.more, on.points),
    "gaussian_log_prob": lambda on: ddpm.gaussian_log_prob(on.points, on.more, on.points),
    "LinearGaussianVAE": On.vae,
    "elbo": lambda on: ddpm.elbo(on.points[:, 0], on.points, on.more),
    "Schedule": lambda on: on.schedule.log_snr[1:],
    "per_image": lambda on: [
        ddpm.per_image(beta, on.x) for beta in (on.schedule.beta[on.t], torch.ones(3), torch.ones(()).double())
    ],
    "q_sample": lambda on: ddpm.q_sample(on.x, on.t, on.noise, on.schedule),
    "q_step": lambda on: ddpm.q_step(on.x, on.t, on.noise, on.schedule),
    "chain_bound": On.chain,
    "noised_mixture": lambda on: ddpm.noised_mixture(on.mixture, 3, on.schedule).stds,
    "optimal_noise": lambda on: [ddpm.optimal_noise(on.mixture, on.schedule)(on.points[:3], t) for t in (on.t, 3)],
    "posterior_mean": lambda on: ddpm.posterior_mean(on.x, on.noise, on.t, on.schedule),
    "posterior_variance": lambda on: ddpm.posterior_variance(on.t, on.schedule),
    "line_gradient": lambda on: ddpm.line_gradient(0.3, 0.1, *on.points.T),
    "gradient_step": lambda on: ddpm.gradient_step(on.points, on.more, 0.1),
    "layer": lambda on: ddpm.layer(on.points, on.more, on.more[:, 0]),
    "adam_step": lambda on: ddpm.adam_step(on.points, on.more, on.points, on.more, 3),
    "denoising_mean": lambda on: ddpm.denoising_mean(on.x, on.t, on.noise, on.schedule),
    "noise_to_score": lambda on: ddpm.noise_to_score(on.noise, on.t, on.schedule),
    "noise_to_v": lambda on: ddpm.noise_to_v(on.x, on.t, on.noise, on.schedule),
    "x_0_to_noise": lambda on: ddpm.x_0_to_noise(on.x, on.t, on.noise, on.schedule),
    "v_to_noise": lambda on: ddpm.v_to_noise(on.x, on.t, on.noise, on.schedule),
    "optimal_variance": lambda on: ddpm.optimal_variance(on.t, on.schedule, 0.3),
    "predict_x_0": lambda on: ddpm.predict_x_0(on.x, on.t, on.noise, on.schedule),
    "reverse_variance": lambda on: ddpm.reverse_variance(on.t, on.schedule, "small"),
    "simple_loss": lambda on: ddpm.simple_loss(on.model, on.levels, on.schedule, on.generator()),
    "vlb_weight": lambda on: ddpm.vlb_weight(on.t, on.schedule),
    "minibatches": lambda on: next(ddpm.minibatches(on.levels, 2, on.generator())),
    "drop_labels": lambda on: ddpm.drop_labels(on.t, 9, 0.5, on.generator()),
    "Guided": On.guided,
    "train": On.trained,
    "sample": lambda on: ddpm.sample(on.model, SHAPE, on.schedule, clip=True, generator=on.generator()),
    "sample_steps": lambda on: on.walk(ddpm.sample_steps, SHAPE, on.schedule),
    "UNet": lambda on: on.model(on.x, on.t),
    "time_embedding": lambda on: ddpm.time_embedding(on.t, 8),
    "EMA": On.averaged,
    "to_float": lambda on: ddpm.to_float(on.put(torch.arange(256).byte())),
    "save_image_grid": On.sheet,
    "save_network": On.saved,
    "ddim_encode": lambda on: ddpm.ddim_encode(on.model, on.x, on.schedule, 3),
    "ddim_mean": lambda on: ddpm.ddim_mean(on.x, on.noise, 5, 3, on.schedule, ddpm.ddim_sigma(5, 3, on.schedule, 1.0)),
    "ddim_sample": lambda on: ddpm.ddim_sample(on.model, SHAPE, on.schedule, 3, eta=0.5, generator=on.generator()),
    "ddim_sample_steps": lambda on: on.walk(ddpm.ddim_sample_steps, SHAPE, on.schedule, 3),
    "respace": lambda on: ddpm.respace(on.schedule, (6, 3, 0)).beta,
    "ancestral": lambda on: on.walk(ddpm.sample_steps, SHAPE, on.schedule, ddpm.ancestral("small")),
    "ddim": lambda on: on.walk(ddpm.sample_steps, SHAPE, on.schedule, ddpm.ddim(0.5), (6, 3, 0)),
    "analytic": lambda on: on.walk(ddpm.sample_steps, SHAPE, on.schedule, ddpm.analytic({6: 0.5, 3: 0.2}), (6, 3, 0)),
    "x_0_error": lambda on: [
        *ddpm.x_0_error(on.model, on.x, on.schedule, (6, 3, 0), generator=on.generator()).values()
    ],
    "multistep": lambda on: on.walk(ddpm.sample_steps, SHAPE, on.schedule, ddpm.multistep(), (6, 3, 1, 0)),
    "strided": lambda on: on.walk(ddpm.sample_steps, SHAPE, on.schedule, ddpm.strided(), (6, 3, 0)),
    "bits_per_dim": lambda on: [on.bits(decoder=decoder).total for decoder in ("exact", "tanh", "continuous")],
    "BitsPerDim": lambda on: [on.bits(num_timesteps=2).mean, *on.bits(num_timesteps=2).interval],
    "collect_features": lambda on: ddpm.collect_features(nn.Flatten(), [on.x], n=2),
    "denoise": lambda on: ddpm.denoise(on.model, on.x, 3, on.schedule, generator=on.generator()),
    "discretized_log_prob": lambda on: [on.inside("exact"), on.inside("tanh")],
    "frechet_distance": lambda on: ddpm.frechet_distance(on.points, on.more),
    "inception_score": lambda on: ddpm.inception_score(on.rows, splits=3),
    "interpolate": lambda on: on.between((0, 0.5)),
    "progressive": lambda on: ddpm.progressive(on.model, SHAPE, on.schedule, (5, 0), generator=on.generator()),
    "rate_distortion": lambda on: list(vars(ddpm.rate_distortion(on.bits(), 17)).values()),
    "shared_latents": lambda on: ddpm.shared_latents(on.model, on.x, 3, 2, on.schedule, generator=on.generator()),
}  # fmt: skip
# Covered by another case, or by a test of its own below; the last lines never see a device.
ELSEWHERE = {
    "ChainBound", "ddim_sigma", "train_steps", "clip_gradients", "load_network", "RateDistortion",
    "Trainer", "TrainConfig", "fit", "save_checkpoint", "load_checkpoint",
    "Prediction", "Step", "TrainStep",  # records
    "log_snr_timesteps",
    "learning_rate", "timesteps", "inception",  # numbers; a network of others, which is told its device
    "Labelled", "cifar10_config", "digits_config", "load_cifar10", "load_digits", "load_folder",  # files, to the CPU
}  # fmt: skip


def plain(answer: Any) -> list[Any]:
    """An answer as a list of numbers and CPU tensors."""
    if isinstance(answer, Tensor):
        return [answer.detach().cpu()]
    if isinstance(answer, list | tuple):
        return [part for item in answer for part in plain(item)]
    return [answer]


def test_every_public_name_is_tried_on_a_device() -> None:
    assert set(CASES) | ELSEWHERE >= set(ddpm.__all__)
    assert not set(CASES) & ELSEWHERE


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_device_gives_the_answer_of_the_cpu(kind: str, name: str) -> None:
    expected = plain(CASES[name](On("cpu")))
    with Pretended(kind):
        answer = plain(CASES[name](On(kind)))
    assert len(answer) == len(expected)
    # "cuda" takes another kernel for attention; on "mps" the tables are float32.
    close = {"cuda": 1e-5, "mps": 2e-4}[kind]
    for mine, theirs in zip(answer, expected):
        mine, theirs = (torch.as_tensor(v).double() for v in (mine, theirs))
        torch.testing.assert_close(
            mine, theirs, rtol=close, atol=close * float(theirs.abs().max())
        )


LOOPS: dict[str, Callable[[On, int], Any]] = {
    "training": lambda on, n: list(islice(on.steps(), n)),
    "Algorithm 2": lambda on, n: ddpm.sample(
        on.model, SHAPE, ddpm.Schedule.cosine(n).to(on.device)
    ),
    "noise by counter": lambda on, n: ddpm.sample(
        on.model,
        SHAPE,
        ddpm.Schedule.cosine(n).to(on.device),
        generator=ddpm.CounterNoise(0, SHAPE[1:]),
    ),
    "strides": lambda on, n: strided_sample(on.model, SHAPE, on.schedule, n),
    "DDIM": lambda on, n: ddpm.ddim_sample(on.model, SHAPE, on.schedule, n, eta=0.5),
    "DDIM, upwards": lambda on, n: ddpm.ddim_encode(on.model, on.x, on.schedule, n),
    "the rest of the way": lambda on, n: ddpm.denoise(on.model, on.x, n, on.schedule),
    "the bound": lambda on, n: on.bits(num_timesteps=n),
}


@pytest.mark.parametrize(
    ("name", "kind"),
    # On MPS the bound is worked out on the CPU, in float64: each answer of the network is waited for.
    [
        (name, kind)
        for name in LOOPS
        for kind in KINDS
        if (name, kind) != ("the bound", "mps")
    ],
)
def test_no_step_of_a_loop_waits_for_the_device(name: str, kind: str) -> None:
    waits = []
    with Pretended(kind) as device:
        on = On(kind)
        for n in (2, 5):
            before = device.waits
            LOOPS[name](on, n)
            waits.append(device.waits - before)
    assert waits[0] == waits[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name",
    [
        "simple_loss",
        "train",
        "sample",
        "ddim_sample",
        "strided",
        "BitsPerDim",
        "interpolate",
    ],
)
def test_a_generator_on_the_device_is_used_there(kind: str, name: str) -> None:
    with Pretended(kind):
        on = On(kind)
        on.generator = lambda: torch.Generator(kind).manual_seed(1)  # type: ignore[method-assign]
        assert plain(CASES[name](on))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", ["train", "collect_features", "bits_per_dim", "save_network"]
)
def test_what_is_to_be_read_comes_to_the_cpu(kind: str, name: str) -> None:
    with Pretended(kind) as device:
        answer = CASES[name](On(kind))
        assert not any(map(device.holds, tensors_in(answer)))


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10, 20, 50])
def test_ddim_with_all_its_noise_runs_with_tables_in_float32(steps: int) -> None:
    with Pretended("mps"):
        for schedule in (ddpm.Schedule.cosine(), ddpm.Schedule.linear()):
            x = ddpm.ddim_sample(
                lambda x, t: x, (2, 3), schedule.to("mps"), steps, eta=1.0
            )
            assert x.isfinite().all()


@pytest.fixture(params=KINDS)
def accelerator(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Pretended]:
    """A pretended device that accelerate finds, too."""
    kind = request.param
    # Without an index, as accelerate has it; a tensor's device has one.
    monkeypatch.setattr(
        accelerate.Accelerator, "device", property(lambda self: torch.device(kind))
    )
    states = [torch.zeros(16, dtype=torch.uint8)]
    room = getattr(torch, kind)
    monkeypatch.setattr(room, "get_rng_state", lambda *device: states[-1])
    monkeypatch.setattr(
        room, "set_rng_state", lambda state, *device: states.append(state)
    )
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "pretended")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with Pretended(kind) as device:
        yield device


PICTURES = torch.randint(
    0, 256, (9, 1, 8, 8), generator=torch.Generator().manual_seed(0)
).byte()


def test_a_run_on_a_device_stops_and_goes_on(
    accelerator: Pretended, tmp_path: Path
) -> None:
    whole = ddpm.fit(
        ddpm.TrainConfig(**SMALL, steps=4), PICTURES, tmp_path / "whole", progress=False
    )
    assert all(
        map(
            accelerator.holds,
            [*whole.model.parameters(), *whole.ema.model.parameters(), whole.images],
        )
    )
    ddpm.fit(
        ddpm.TrainConfig(**SMALL, steps=2), PICTURES, tmp_path / "parts", progress=False
    )
    parts = ddpm.fit(
        ddpm.TrainConfig(**SMALL, steps=4), PICTURES, tmp_path / "parts", progress=False
    )
    for one, other in zip(whole.model.parameters(), parts.model.parameters()):
        assert torch.equal(one, other)
    network, _, notes = ddpm.load_network(tmp_path / "parts" / "network.safetensors")
    assert not any(map(accelerator.holds, network.parameters()))
    assert notes["steps"] == "4"
    assert parts.sample(3).device.type == "cpu"


def test_no_update_waits_for_the_device(accelerator: Pretended) -> None:
    trainer = ddpm.Trainer(ddpm.TrainConfig(**SMALL), PICTURES)
    trainer.step()
    before = accelerator.waits
    trainer.step()
    trainer.step()
    assert accelerator.waits == before


@pytest.mark.parametrize(
    "choice",
    [
        {"clip": "each", "gradient_accumulation_steps": 2},
        {"clip": "none", "gradient_accumulation_steps": 2},
        {"flip": False},
        {"channels_last": False},
    ],
)
def test_every_way_to_train_stays_on_the_device(
    accelerator: Pretended, choice: dict[str, Any]
) -> None:
    trainer = ddpm.Trainer(ddpm.TrainConfig(**SMALL, **choice), PICTURES)
    update = trainer.step()
    assert accelerator.holds(update.loss)
    assert trainer.read([update])["loss"] > 0


def cells(chapter: str) -> list[str]:
    """The demonstration cells of a chapter."""
    book = jupytext.read(Path(ddpm.__file__).with_name(f"{chapter}.py"))
    return [
        cell.source
        for cell in book.cells
        if "active-ipynb" in cell.metadata.get("tags", [])
    ]


def test_a_chapter_that_trains_says_where() -> None:
    """The one on training: on the CPU. The last one: where it can, and its cells ask the run where that was."""
    shown = cells("training")
    first = next(
        i for i, cell in enumerate(shown) if re.search(r"\b(Trainer|fit)\(", cell)
    )
    assert any(
        'os.environ["ACCELERATE_USE_CPU"] = "true"' in cell
        for cell in shown[: first + 1]
    )
    for path in Path(ddpm.__file__).parent.glob("[!_]*.py"):
        uses = re.search(
            r"from ddpm_nb.training import .*\b(Trainer|fit)\b", path.read_text()
        )
        assert not uses or path.stem == "cifar10"


@pytest.mark.filterwarnings("ignore")
def test_the_cells_of_the_last_chapter_keep_to_one_device(
    accelerator: Pretended, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Those that train and what they lead to, made short; how good it is, is not asked here."""
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)
    short = {
        r'"steps": \d+': '"steps": 4, "T": 10', r"sample\(16": "sample(2", ":200": ":20",
        "num_timesteps=20": "num_timesteps=4",
    }  # fmt: skip
    space = dict(vars(import_module("ddpm_nb.cifar10")))
    chosen = [
        cell
        for cell in cells("cifar10")
        if re.search(r"import matplotlib|\brun\b", cell)
    ]
    assert len(chosen) > 2
    for cell in chosen:
        for long, few in short.items():
            cell = re.sub(long, few, cell)
        with suppress(AssertionError):
            exec(compile(cell, cell.splitlines()[0], "exec"), space)
    assert accelerator.holds(next(space["run"].model.parameters()))


def test_the_tests_and_the_book_run_on_the_cpu_whatever_the_machine_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert accelerate.Accelerator().device == torch.device("cpu") == _cli.device(None)
    assert _cli.device("cuda") == torch.device("cuda")  # who asks for it gets it
    made = (Path(__file__).parents[1] / "Makefile").read_text()
    for line in (
        "export CUDA_VISIBLE_DEVICES :=",
        "export ACCELERATE_TORCH_DEVICE := cpu",
    ):
        assert f"\n{line}\n" in made
