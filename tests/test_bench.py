"""`make bench` computes what it says: bare layers, goals, the exit status. How fast anything is, no test asks."""

import ctypes
import sys
from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from torch import nn

from benchmarks import __main__ as bench, candidates, memory
from benchmarks.candidates import CANDIDATES, TASKS, Candidate, stepper
from benchmarks.ceiling import Recorder, bare, flop
from benchmarks.goals import Goal, Times, goals, time_by_operator, verdict
from ddpm_nb import _devices
from ddpm_nb.unet import UNet


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both networks small, with all that the large ones have."""
    import diffusers

    sizes = {"channels": 8, "channel_mult": (1, 2), "attention_levels": (False, True)}
    build = partial(UNet, **sizes, num_res_blocks=1, norm_num_groups=4)
    monkeypatch.setattr(candidates.UNet, "cifar10", build)
    theirs = partial(
        diffusers.UNet2DModel,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    )
    monkeypatch.setattr(candidates, "diffusers_network", theirs)


@pytest.mark.parametrize("task", TASKS)
def test_bare_layers_do_the_arithmetic_of_the_whole_step(
    small: None, task: str
) -> None:
    whole, alone = CANDIDATES[task][2], CANDIDATES[task][0]
    assert whole.ours and alone.bare and not whole.bare
    whole_step, products = (stepper(c, task, batch=2) for c in (whole, alone))
    assert flop(whole_step) == flop(products) > 0


def test_flop_of_the_papers_network_counted_by_hand() -> None:
    """Twice the multiplications of its layers and of attention's two products, at each layer's size."""
    network, counted = UNet.cifar10(), 0

    def count(layer: nn.Module, given: tuple[torch.Tensor], out: torch.Tensor) -> None:
        nonlocal counted
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        counted += 2 * out.numel() * weight[0].numel()

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)  # type: ignore[arg-type]
    x, t = torch.zeros(1, 3, 32, 32), torch.tensor([1])

    @torch.no_grad()
    def step() -> None:
        network(x, t)

    products = bare(step)
    # Five blocks of attention among 16 x 16 pixels, and the middle's among 4 x 4, of 256 channels each.
    counted += 2 * 2 * 256 * (5 * 256**2 + 16**2)
    assert flop(products) == counted


def test_bare_layers_keep_shape_type_and_layout() -> None:
    """Also that of a picture in channels_last, of a number that stands for many, and of a turned matrix."""
    conv = nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last)
    x = torch.randn(2, 4, 6, 6).to(memory_format=torch.channels_last)
    a, b = torch.randn(3, 5, dtype=torch.bfloat16), torch.ones((), dtype=torch.bfloat16)

    @torch.no_grad()
    def step() -> None:
        conv(x)
        conv(x)
        a.mT @ b.expand(3, 2)

    with Recorder() as recorder:
        step()
    first, again, product = recorder.calls
    assert first is again  # it runs twice, but holds its numbers once
    picture, weight = first.args[:2]  # type: ignore[attr-defined]
    assert picture.stride() == x.stride() and weight.stride() == conv.weight.stride()
    turned, many = product.args  # type: ignore[attr-defined]
    assert (turned.stride(), many.stride()) == ((1, 5), (0, 0))
    assert turned.dtype == many.dtype == torch.bfloat16


def test_two_tensors_of_one_product_are_never_the_same() -> None:
    """Else it would read half as much memory as in the network."""
    a = torch.randn(4, 4)
    with Recorder() as recorder:
        a @ a
    left, right = recorder.calls[0].args  # type: ignore[attr-defined]
    assert left.data_ptr() != right.data_ptr()


def test_compiled_candidates_on_both_sides_and_only_those_are_compiled(
    small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def compiled(network: nn.Module) -> nn.Module:
        seen.append(type(network).__name__)
        return network

    monkeypatch.setattr(torch, "compile", compiled)
    for task in TASKS:
        for candidate in CANDIDATES[task]:
            stepper(candidate, task, batch=1)()
        assert seen == ["UNet", "UNet2DModel"], task
        seen.clear()


class Faked:
    """A run in which each candidate takes the time and the memory that it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds: dict[str, float] = {}
        self.peaks: dict[str, int] = {}
        self.measured: Sequence[str] = ()
        for task in TASKS:
            for c in CANDIDATES[task]:
                fast = c.precision != "float32"
                ours, theirs = (0.9, 1.2) if fast else (2.0, 2.5)
                self.seconds[c.name] = ours if c.ours else theirs
                self.peaks[c.name] = 100 if c.ours else 101
                if c.bare:
                    self.seconds[c.name] = 0.8
        monkeypatch.setattr(bench, "measure", self.measure)
        monkeypatch.setattr(bench, "peak_of", lambda name, *_: self.peaks[name])
        monkeypatch.setattr(bench, "why_not_compiled", lambda: "")
        monkeypatch.setattr(sys, "argv", ["benchmarks", "--batch", "1"])

    def measure(
        self, steps: dict[str, Callable[[], None]], task: str, rounds: int
    ) -> dict[str, Times]:
        self.measured = list(steps)
        return {name: [(self.seconds[name], 1.0)] * 3 for name in steps}


@pytest.fixture
def faked(small: None, monkeypatch: pytest.MonkeyPatch) -> Faked:
    monkeypatch.setattr(torch, "compile", lambda network: network)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    return Faked(monkeypatch)


def test_all_goals_met_and_the_exit_status_is_0(
    faked: Faked, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.main() == 0
    said = capsys.readouterr().out
    assert "MISSED" not in said and "Where the time goes" not in said
    assert "| 0.89 (0.89 to 0.89) | 1.00 (1.00 to 1.00) | 0.82 | met |" in said


OURS = "ours, bf16 autocast, channels_last"
MISSES = {
    "share of its bare layers": ("bare layers of: " + OURS, 0.7),
    "times as fast as diffusers, bf16 autocast": ("diffusers, bf16 autocast", 1.0),
}


@pytest.mark.parametrize("goal", MISSES)
def test_a_goal_missed_makes_the_exit_status_1_and_shows_a_profile(
    faked: Faked, capsys: pytest.CaptureFixture[str], goal: str
) -> None:
    changed, seconds = MISSES[goal]
    for name in faked.seconds:
        if name.startswith(changed):
            faked.seconds[name] = seconds
    assert bench.main() == 1
    said = capsys.readouterr().out
    assert [goal in line for line in said.splitlines() if "MISSED" in line] == [True]
    assert "Where the time goes, train, ours, bf16 autocast, channels_last" in said
    assert "Where the time goes, sample" not in said
    assert "| aten::convolution_backward |" in said


def test_memory_above_theirs_is_a_goal_missed(
    faked: Faked, capsys: pytest.CaptureFixture[str]
) -> None:
    faked.peaks = {
        name: 102 if name.startswith("ours") else 101 for name in faked.peaks
    }
    assert bench.main() == 1
    missed = [s for s in capsys.readouterr().out.splitlines() if "MISSED" in s]
    assert len(missed) == 2 and all("peak memory" in line for line in missed)


def test_the_goals_take_the_fastest_of_both_sides(faked: Faked) -> None:
    """Whichever it is: here float32 of ours, and a compiled network of theirs."""
    task = "train"
    faked.seconds["ours, float32"] = 0.5
    theirs = f"diffusers{OURS.removeprefix('ours')}, compiled"
    faked.seconds[theirs] = 0.6
    steps = {c.name: lambda: None for c in CANDIDATES[task]}
    seconds = faked.measure(steps, task, 1)
    share, speed, peak, *_ = goals(task, CANDIDATES[task], seconds, faked.peaks)
    assert (speed.ours, peak.ours) == ("ours, float32", "ours, float32")
    assert theirs in speed.text and theirs in peak.text
    assert speed.figures == [pytest.approx(1.2)] * 3
    assert share.ours.startswith(OURS)  # its products are those of half precision


@pytest.mark.parametrize("figure, met", [(1.15, True), (1.149, False)])
def test_a_goal_is_met_from_its_figure_on(figure: float, met: bool) -> None:
    goal = Goal("ours", "times as fast", [0.1, figure, 9.0], 1.15)  # the median counts
    assert goal.met is met
    assert ("MISSED" in verdict([goal])) is not met


def test_without_a_compiler_compiled_candidates_are_left_out_and_a_line_says_so(
    faked: Faked, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(bench, "why_not_compiled", _devices.why_not_compiled)
    assert bench.main() == 0
    assert "left out: there is no C++ compiler (no-such-compiler)." in (
        capsys.readouterr().out
    )
    assert not [name for name in faked.measured if "compiled" in name]


def test_candidates_take_turns_and_what_a_trick_brings_is_shown(
    small: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    words = "benchmarks train --ablate --rounds 2 --batch 1"
    monkeypatch.setattr(sys, "argv", words.split())
    assert bench.main() == 0
    assert "| without the quick dropout | " in capsys.readouterr().out


def test_profile_names_the_operators_with_their_shares() -> None:
    x = torch.randn(300, 300)
    table = time_by_operator(lambda: torch.mm(x, x))
    assert "| aten::mm | 1 | " in table


def test_peak_of_a_process_is_its_own_not_that_of_who_started_it() -> None:
    heavy = ctypes.create_string_buffer(1_500_000_000)
    ctypes.memset(heavy, 1, len(heavy))
    before = memory.peak()
    assert before > len(heavy)
    sampling: Candidate = CANDIDATES["sample"][2]
    peak = memory.peak_of(sampling.name, "sample", batch=1, threads=1)
    assert 2 * 35_746_307 < peak < len(heavy)  # at least the weights in half precision
