"""The live figures compute what the package computes: their JavaScript, run in node, against Python."""

import json
import subprocess
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from helpers import ROOT
from playwright._impl._driver import compute_driver_executable
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.testing import assert_close

from ddpm_nb import (
    CounterNoise,
    GaussianMixture,
    Guided,
    Schedule,
    UNet,
    ancestral,
    ddim,
    log_snr_timesteps,
    multistep,
    noised_mixture,
    optimal_noise,
    posterior_mean,
    posterior_variance,
    q_sample,
    sample_steps,
    strided,
    timesteps,
)
from ddpm_nb.cifar10 import load_digits
from ddpm_nb.unet import time_embedding
from tools import live

WEB = ROOT / "book/_web/live"
NODE = compute_driver_executable()[0]  # the one that Playwright brings along
PAIR = GaussianMixture([0.3, 0.7], [[-1.0], [1.0]], [0.15, 0.15])
_ANGLE = torch.arange(5) * 2 * torch.pi / 5
RING = GaussianMixture(
    [0.10, 0.15, 0.20, 0.25, 0.30],
    1.5 * torch.stack([_ANGLE.sin(), _ANGLE.cos()], dim=1),
    [0.25] * 5,
)
LINEAR, DIGITS = Schedule.linear(), Schedule.cosine(T=500)


def node(body: str, *scripts: str, **given: Any) -> Any:
    """Run the body of a function of `given` in node, beside the figures' scripts, and return what it returns."""
    scripts = ("math", "nn", *(f"data-{name}" for name in scripts))
    code = [
        f"require({json.dumps(str(WEB / script))}.concat('.js'));" for script in scripts
    ]
    code.append(
        f"const answer = (given => {{ {body} }})(JSON.parse(require('fs').readFileSync(0, 'utf8')));"
    )
    code.append(
        "const plain = (key, value) => ArrayBuffer.isView(value) ? Array.from(value) : value;"
    )
    code.append("console.log(JSON.stringify(answer, plain));")
    done = subprocess.run(
        [NODE, "-e", "\n".join(code)],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def numbers(value: Any) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def mixture(it: GaussianMixture) -> dict[str, Any]:
    return {
        "weights": it.weights.tolist(),
        "means": it.means.tolist(),
        "stds": it.stds.tolist(),
    }


def close(js: Any, python: Tensor, rtol: float = 1e-6, atol: float = 1e-6) -> None:
    assert_close(numbers(js), python.double(), rtol=rtol, atol=atol)


def test_schedules_have_python_s_tables() -> None:
    cases = {"linear(1000)": LINEAR, "linear(100)": Schedule.linear(100), "cosine(500)": DIGITS,
             "cosine(50, 0.05)": Schedule.cosine(50, 0.05), "linear(1)": Schedule.linear(1)}  # fmt: skip
    for call, schedule in cases.items():
        found = node(
            f"const {{beta, alphaBar, logSnr, T}} = ddpm.{call}; return {{beta, alphaBar, logSnr: logSnr.slice(1), T}};"
        )
        assert found["T"] == schedule.T
        close(found["beta"], schedule.beta, atol=1e-12)
        close(found["alphaBar"], schedule.alpha_bar, atol=1e-12)
        close(found["logSnr"], schedule.log_snr[1:])


def test_random_words_are_python_s_bit_for_bit() -> None:
    from ddpm_nb._noise import philox

    rng = np.random.default_rng(0)
    counters = [*rng.integers(0, 2**32, (50, 6)).tolist(), [0] * 6, [2**32 - 1] * 6]
    found = node(
        "return given.counters.map(counter => ddpm.philox(...counter));",
        counters=counters,
    )
    for (a, b, c, d, k, m), words in zip(counters, found, strict=True):
        assert philox([torch.tensor(x) for x in (a, b, c, d)], (k, m)).tolist() == words


def test_noise_is_python_s() -> None:
    found = node("return ddpm.counterNoise(2 ** 32 - 3, 7, 499, 5, 11);")
    noise = CounterNoise(2**32 - 3, (7,), first=11)(torch.arange(5), 499)
    close(found, noise.flatten())


def test_mixtures_and_their_best_noise_are_python_s() -> None:
    for it, t in ((PAIR, 7), (RING, 300), (RING, 1)):
        x = 1.5 * torch.randn(
            40,
            it.means.shape[1],
            dtype=torch.float64,
            generator=torch.Generator().manual_seed(t),
        )
        found = node(
            """const schedule = ddpm.linear(), q = ddpm.noisedMixture(given.mixture, given.t, schedule);
            const noise = ddpm.optimalNoise(given.mixture, schedule)(given.x.flat(), given.t);
            return {log: given.x.map(x => ddpm.logProb(q, x)), noise};""",
            mixture=mixture(it), t=t, x=x.tolist(),
        )  # fmt: skip
        close(found["log"], noised_mixture(it, t, LINEAR).log_prob(x))
        close(found["noise"], optimal_noise(it, LINEAR)(x, t).flatten())


def test_what_the_noise_leaves_open_is_its_error_over_draws() -> None:
    """Monte Carlo: the mean square of noise minus best guess, per coordinate."""
    draws = 200_000
    for t in (20, 300):
        rng = torch.Generator().manual_seed(t)
        noise = torch.randn(draws, 2, dtype=torch.float64, generator=rng)
        x = q_sample(RING.sample(draws, rng).double(), t, noise, LINEAR)
        squares = (noise - optimal_noise(RING, LINEAR)(x, t)).square().mean(1)
        found = node(
            "return ddpm.openNoise(given.mixture, given.t, ddpm.linear());",
            mixture=mixture(RING),
            t=t,
        )
        assert abs(found - squares.mean()) < 4 * squares.std() / draws**0.5


def test_posterior_and_jump_are_python_s() -> None:
    x_0, x_t = torch.tensor([[0.3]]).double(), torch.tensor([[-0.8]]).double()
    for t in (1, 2, 400, 1000):
        found = node(
            """const schedule = ddpm.linear();
            return [ddpm.posterior(0.3, -0.8, given.t, schedule), ddpm.qSample([0.3], given.t, [-0.8], schedule)];""",
            t=t,
        )
        close(found[0]["mean"], posterior_mean(x_0, x_t, t, LINEAR).squeeze())
        close(found[0]["variance"], posterior_variance(t, LINEAR).squeeze(), atol=1e-12)
        close(found[1], q_sample(x_0, t, x_t, LINEAR).flatten())


def test_the_step_back_is_bayes_rule() -> None:
    """Against the closed form: a mixture times a normal likelihood is a mixture."""
    for x_t, beta in ((0.1, 0.9), (0.1, 0.01), (-1.2, 0.2)):
        var, root = PAIR.stds**2, (1 - beta) ** 0.5
        total = (1 - beta) * var + beta
        log_r = PAIR.weights.log() - 0.5 * (
            (x_t - root * PAIR.means[:, 0]) ** 2 / total + total.log()
        )
        r = torch.softmax(log_r, 0)
        after = var * beta / total
        means = after * (PAIR.means[:, 0] / var + root * x_t / beta)
        mean = (r * means).sum()
        back = GaussianMixture(r, means[:, None], after.sqrt())
        grid = torch.linspace(-4, 4, 2001, dtype=torch.float64)
        found = node(
            """const grid = ddpm.range(2001, i => i / 250 - 4);
            return ddpm.stepBack(given.mixture, given.x, given.beta, grid);""",
            mixture=mixture(PAIR), x=x_t, beta=beta,
        )  # fmt: skip
        close(found["back"], back.log_prob(grid[:, None]).exp(), rtol=1e-4, atol=1e-5)
        close(found["mean"], mean, atol=1e-5)
        variance = (r * (after + means**2)).sum() - mean**2
        close(found["variance"], variance, atol=1e-5)
        fine = torch.linspace(-4, 4, 20_001, dtype=torch.float64)
        log_back = back.log_prob(fine[:, None])
        log_bell = torch.distributions.Normal(mean, variance.sqrt()).log_prob(fine)
        kl = torch.trapezoid(log_back.exp() * (log_back - log_bell), fine)
        close(found["kl"], kl, rtol=1e-3, atol=1e-4)


def test_times_to_visit_are_python_s() -> None:
    counts = (1, 2, 7, 50, 333)
    found = node(
        """const cosine = ddpm.cosine(500), linear = ddpm.linear(), ofLogSnr = ddpm.logSnrTimesteps;
        return given.counts.map(S => [ddpm.timesteps(1000, S), ofLogSnr(cosine, S), ofLogSnr(linear, S)]);""",
        counts=counts,
    )
    for steps, (even, cosine, linear) in zip(counts, found, strict=True):
        assert even == list(timesteps(1000, steps))
        assert cosine == list(log_snr_timesteps(DIGITS, steps))
        assert linear == list(log_snr_timesteps(LINEAR, steps))


RULES = {
    "ddpm.algorithm2()": ancestral(),
    'ddpm.algorithm2("small")': ancestral("small"),
    "ddpm.ddim()": ddim(),
    "ddpm.ddim(0.4)": ddim(0.4),
    "ddpm.ddim(1)": ddim(1.0),
    "ddpm.multistep()": multistep(),
}


def walk(
    js: str,
    schedule: Schedule,
    rule: Any,
    times: Sequence[int],
    clip: bool,
    **options: Any,
) -> None:
    """Compare every step of a walk of six points with Python's, from the same noise."""
    found = node(
        f"""const schedule = ddpm.schedule(given.beta), model = ddpm.optimalNoise(given.mixture, schedule);
        const noiseOf = t => ddpm.counterNoise(3, 2, t, 6), options = {{clip: given.clip, ...given.options}};
        const steps = ddpm.sampleSteps(model, noiseOf(given.times[0]), schedule, {js}, given.times, noiseOf, options);
        return [...steps].map(({{t, x, x0}}) => [t, x, x0]);""",
        beta=schedule.beta[1:].tolist(), mixture=mixture(RING), times=list(times), clip=clip, options=options,
    )  # fmt: skip
    steps = sample_steps(
        optimal_noise(RING, schedule), (6, 2), schedule, rule, times,
        clip=clip, generator=CounterNoise(3, (2,)), dtype=torch.float64,
    )  # fmt: skip
    for (t, x, x_0), step in zip(found, steps, strict=True):
        assert t == step.t
        close(x, step.x.flatten(), atol=2e-6)
        close(x_0, step.x_0_hat.flatten(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("js", RULES)
def test_every_rule_walks_as_python_s(js: str) -> None:
    few = Schedule.cosine(60)
    for clip in (False, True):
        walk(js, few, RULES[js], range(60, -1, -1), clip)
    if "algorithm2" not in js:
        walk(js, LINEAR, RULES[js], timesteps(1000, 23), False)


@pytest.mark.parametrize("variance", ["large", "small"])
def test_algorithm_2_takes_strides_as_python_s(variance: Any) -> None:
    walk(
        f"ddpm.algorithm2('{variance}')",
        LINEAR,
        strided(variance),
        timesteps(1000, 23),
        False,
    )


def test_ddim_walks_up_as_python_s() -> None:
    up = (0, 10, 40, 60)
    found = node(
        """const schedule = ddpm.cosine(60), model = ddpm.optimalNoise(given.mixture, schedule);
        return [...ddpm.sampleSteps(model, [0.4, -1.2], schedule, ddpm.ddim(), given.up, null)].at(-1).x;""",
        mixture=mixture(RING), up=up,
    )  # fmt: skip
    schedule = Schedule.cosine(60)
    start = torch.tensor([[0.4, -1.2]], dtype=torch.float64)
    *_, last = sample_steps(
        optimal_noise(RING, schedule), (1, 2), schedule, ddim(), up, x_T=start
    )
    close(found, last.x.flatten())


def test_planted_mistakes_are_those_that_are_named() -> None:
    few, times = Schedule.cosine(20, 0.05), range(20, -1, -1)
    exact, noise = optimal_noise(RING, few), CounterNoise(3, (2,))
    points, images = (6, 2), torch.arange(6)
    x = noise(images, 20).double()
    for mistake in ("root forgotten", "t off by one", "noise at the last step"):
        found = node(
            """const schedule = ddpm.cosine(20, 0.05), noiseOf = t => ddpm.counterNoise(3, 2, t, 6);
            const model = ddpm.optimalNoise(given.mixture, schedule), options = {mistake: given.mistake};
            const steps = ddpm.sampleSteps(
                model, noiseOf(20), schedule, ddpm.algorithm2(), ddpm.allTimes(20), noiseOf, options);
            return [...steps].at(-1).x;""",
            mixture=mixture(RING), mistake=mistake,
        )  # fmt: skip
        wrong = x
        for t, s in pairwise(times):
            asked = max(t - 1, 1) if mistake == "t off by one" else t
            share = few.beta[t] / (1 - few.alpha_bar[t]).sqrt()
            wrong = (wrong - share * exact(wrong, asked)) / few.alpha[t].sqrt()
            sigma = few.beta[t] if mistake == "root forgotten" else few.beta[t].sqrt()
            if s > 0 or mistake == "noise at the last step":
                wrong = wrong + sigma * noise(images, s).double()
        assert wrong.shape == points
        close(found, wrong.flatten(), atol=1e-5)


# ---- Networks ----


def rounded(net: nn.Module) -> nn.Module:
    """The network that a page computes with: its weights after the way through 8 bits."""
    weights = net.state_dict()
    for name, weight in weights.items():
        if live.large(weight):
            whole, scale = live.eighths(weight)
            weights[name] = (whole * scale[:, None]).reshape(weight.shape)
    net.load_state_dict(weights)
    return net.eval().requires_grad_(False)


@cache
def digits_net() -> UNet:
    return UNet.digits().requires_grad_(False)


def answers(
    net: UNet, x: Tensor, asked: Sequence[tuple[int, int | None]], record: Any
) -> list[list[float]]:
    found: list[list[float]] = node(
        """const {config, weights} = given.record, net = ddpm.unet(config, ddpm.unpack(weights));
        return given.asked.map(([t, y]) => net(given.x, t, y));""",
        record=record, x=x.flatten().tolist(), asked=asked,
    )  # fmt: skip
    return found


def test_the_digits_network_answers_as_torch_s() -> None:
    net = digits_net()
    net.load_state_dict(load_file(live.WEIGHTS / "digits.safetensors"))
    x = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    asked = [(1, None), (250, 7), (500, 0), (31, 10)]
    found = answers(net, x, asked, live.network(live.WEIGHTS / "digits.safetensors"))
    page = rounded(UNet.digits())
    page.load_state_dict(net.state_dict())
    page = rounded(page)
    for (t, y), noise in zip(asked, found, strict=True):
        label = None if y is None else torch.tensor([y])
        close(noise, page(x, torch.tensor([t]), label).flatten(), rtol=0, atol=1e-4)


def test_guidance_is_python_s() -> None:
    page = UNet.digits()
    page.load_state_dict(load_file(live.WEIGHTS / "digits.safetensors"))
    page = rounded(page)
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    found = node(
        """const {config, weights} = ddpm.networks.digits;
        const ask = ddpm.inTurn(ddpm.unet(config, ddpm.unpack(weights)), 64, 7, 2.5)(given.x, 250);
        let step;
        do step = ask.next(); while (!step.done);
        return [...step.value];""",
        "digits", x=x.flatten().tolist(),
    )  # fmt: skip
    truth = Guided(page, torch.tensor([7, 7]), 2.5)(x, torch.tensor([250, 250]))
    close(found, truth.flatten(), rtol=0, atol=1e-4)


def test_another_network_answers_as_torch_s() -> None:
    torch.manual_seed(0)
    net = UNet(
        in_channels=3, channels=8, channel_mult=(1, 2, 3), num_res_blocks=2, dropout=0.1,
        attention_levels=(True, False, True), norm_num_groups=4,
    )  # fmt: skip
    with torch.no_grad():
        for weight in net.parameters():
            weight.normal_(std=0.2)
    record = {"config": net.config, "weights": live.pack(net.state_dict())}
    x = torch.randn(1, 3, 12, 12)
    (found,) = answers(net, x, [(77, None)], record)
    truth = rounded(net)(x, torch.tensor([77])).flatten()
    close(found, truth, rtol=0, atol=1e-4 * float(truth.abs().max()))


def test_the_plane_network_answers_as_torch_s() -> None:
    net = nn.Sequential(*(layer for width, out in ((130, 128), (128, 128), (128, 128), (128, 2))
                          for layer in (nn.Linear(width, out), nn.SiLU())))[:-1]  # fmt: skip
    weights = load_file(live.WEIGHTS / "plane.safetensors")
    net.load_state_dict(
        {name.removeprefix("layers."): weight for name, weight in weights.items()}
    )
    x = torch.randn(5, 2)
    found = node(
        "return ddpm.dots(ddpm.unpack(ddpm.networks.plane.weights))(given.x, 321);",
        "plane", x=x.flatten().tolist(),
    )  # fmt: skip
    inputs = torch.cat([x, time_embedding(torch.full((5,), 321), 128)], dim=1)
    close(found, rounded(net)(inputs).flatten(), rtol=0, atol=1e-4)


def test_the_reciting_network_is_the_softmax_over_training_pictures() -> None:
    memory = load_digits().images.flatten(1).double()
    x = torch.randn(2, 64, dtype=torch.float64)
    for t in (40, 300):
        found = node(
            """const value = letter => (letter.charCodeAt(0) - 97) / 8 - 1;
            const memory = ddpm.trainingPictures.rows.map(row => Float64Array.from(row, value));
            return ddpm.recitingNoise(memory, ddpm.cosine(500))(given.x, given.t);""",
            "pictures", x=x.flatten().tolist(), t=t,
        )  # fmt: skip
        root, rest = DIGITS.alpha_bar[t].sqrt(), 1 - DIGITS.alpha_bar[t]
        weight = torch.softmax(
            -(torch.cdist(x, root * memory) ** 2) / (2 * rest), dim=1
        )
        close(found, ((x - root * weight @ memory) / rest.sqrt()).flatten())


def test_digits_of_the_page_are_python_s() -> None:
    """Beside the weights as they were: at most 2 of 16 grey levels apart in 99 % of the pixels."""
    from sklearn.svm import SVC

    net = digits_net()
    net.load_state_dict(load_file(live.WEIGHTS / "digits.safetensors"))
    times = log_snr_timesteps(DIGITS, 20)
    judge = SVC(gamma=0.02, C=10.0).fit(
        load_digits().images.flatten(1).numpy(), load_digits().labels.numpy()
    )
    for js, rule in (("ddpm.ddim()", ddim()), ("ddpm.multistep()", multistep())):
        found = node(
            f"""const {{config, weights}} = ddpm.networks.digits, schedule = ddpm.cosine(500);
            const model = ddpm.inTurn(ddpm.unet(config, ddpm.unpack(weights)), 64, null);
            const x_T = ddpm.counterNoise(0, 64, 500, 64), options = {{clip: true}};
            const steps = ddpm.sampleSteps(model, x_T, schedule, {js}, given.times, null, options);
            let last;
            for (const step of steps) last = step ?? last;
            return last.x;""",
            "digits", times=list(times),
        )  # fmt: skip
        start = CounterNoise(0, (1, 8, 8))(torch.arange(64), 500)
        *_, last = sample_steps(
            net.eval(), (64, 1, 8, 8), DIGITS, rule, times, x_T=start, clip=True
        )
        page, python = numbers(found).view(64, 64), last.x.flatten(1).double()
        apart = (page - python).abs() * 8
        assert (apart <= 2).double().mean() >= 0.99
        agree = (judge.predict(page.numpy()) == judge.predict(python.numpy())).mean()
        assert agree >= 0.98


def test_the_stored_scripts_are_what_the_command_writes(tmp_path: Any) -> None:
    assert live.main(["--web", str(tmp_path)]) == 0
    written = sorted(tmp_path.iterdir())
    assert [path.name for path in written] == [
        "data-digits.js",
        "data-pictures.js",
        "data-plane.js",
    ]
    for path in written:
        assert path.read_bytes() == (WEB / path.name).read_bytes(), (
            f"{path.name}: run python -m tools.live"
        )
