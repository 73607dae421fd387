"""The U-Net: its parts against plain loops, the whole against diffusers with every weight redrawn."""

import inspect
import json
import math
import pickle
import re
import shutil
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from helpers import F64
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.testing import assert_close

from ddpm_nb import unet
from ddpm_nb._diffusers import HARMLESS, NEEDED, SIZES, diffusers_name
from ddpm_nb._layers import fused_attention
from ddpm_nb.unet import (
    Attention,
    Downsample,
    Dropout,
    Norm,
    ResidualBlock,
    UNet,
    Upsample,
    attend,
    time_embedding,
)


@pytest.mark.equation("def-time-embedding")
def test_embedding_turns_at_a_steady_rate() -> None:
    """Moving on by k turns each (sine, cosine) pair by k times its own frequency: the addition theorems."""
    a, b, both = (
        time_embedding(torch.tensor([t]), 16).double() for t in (4, 8, 11)
    )  # t' = 3, 7, 10
    (sin_a, cos_a), (sin_b, cos_b) = a.chunk(2, dim=1), b.chunk(2, dim=1)
    turned = torch.cat(
        [sin_a * cos_b + cos_a * sin_b, cos_a * cos_b - sin_a * sin_b], dim=1
    )
    assert_close(turned, both, atol=1e-5, rtol=1e-5)


@pytest.mark.equation("def-time-embedding")
def test_embedding_counts_from_zero_and_spans_the_frequencies() -> None:
    first, second = time_embedding(torch.tensor([1, 2]), 128)
    assert torch.equal(first, torch.cat([torch.zeros(64), torch.ones(64)]))
    assert second[0].item() == pytest.approx(
        math.sin(1), rel=1e-6
    )  # fastest: 1 radian a step
    assert second[63].item() == pytest.approx(1e-4, rel=1e-5)  # slowest: 1 / 10,000
    ratio = second[:64].asin().double()
    assert_close(
        ratio[2:] * ratio[:-2], ratio[1:-1] ** 2, rtol=1e-4, atol=1e-8
    )  # evenly in the logarithm


@pytest.mark.parametrize("channels", [3, 2, 7, 0])
def test_embedding_refuses_odd_or_tiny_lengths(channels: int) -> None:
    with pytest.raises(ValueError, match="channels"):
        time_embedding(torch.tensor([1]), channels)


def redraw(module: nn.Module, seed: int = 0) -> None:
    """Give every weight a value of order one: at its start a network answers almost zero, like any other."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
            parameter.copy_(
                torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                / fan_in**0.5
            )


@pytest.mark.equation("def-attention")
def test_attention_is_a_weighted_mean_pixel_by_pixel() -> None:
    """In plain numpy loops: for each pixel, softmax over all others' keys, then the mean of their values."""
    block = Attention(8, 4).double()
    redraw(block)
    x = torch.randn(
        2, 8, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    w = {name: p.detach().numpy() for name, p in block.named_parameters()}
    got = block(x).detach().numpy()
    normed = block.norm(x).detach().numpy()
    for b in range(2):
        pixels = [normed[b, :, i, j] for i in range(3) for j in range(2)]
        q, k, v = (
            [w[f"{name}.weight"] @ p + w[f"{name}.bias"] for p in pixels]
            for name in ("query", "key", "value")
        )
        for n, (i, j) in enumerate((i, j) for i in range(3) for j in range(2)):
            scores = np.array([q[n] @ key / math.sqrt(8) for key in k])
            weights = np.exp(scores - scores.max())
            weights /= weights.sum()
            seen = sum(a * value for a, value in zip(weights, v, strict=True))
            expected = x[b, :, i, j].numpy() + w["out.weight"] @ seen + w["out.bias"]
            assert got[b, :, i, j] == pytest.approx(expected, abs=1e-10)


def test_downsampling_pads_below_and_right_only() -> None:
    """With a kernel that copies its upper left corner, the result is every second pixel, beginning with the first."""
    layer = Downsample(1)
    with torch.no_grad():
        layer.conv.weight.zero_()
        layer.conv.weight[0, 0, 0, 0] = 1
        layer.conv.bias.zero_()
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert torch.equal(layer(x), x[:, :, ::2, ::2])


def test_upsampling_repeats_each_pixel() -> None:
    layer = Upsample(1)
    with torch.no_grad():
        layer.conv.weight.zero_()
        layer.conv.weight[0, 0, 1, 1] = 1
        layer.conv.bias.zero_()
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    assert torch.equal(
        layer(x)[0, 0],
        torch.tensor([[1.0, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]),
    )


def test_cifar10_network_has_the_paper_s_size() -> None:
    with torch.device("meta"):
        net = UNet.cifar10()
    assert sum(p.numel() for p in net.parameters()) == 35_746_307
    taken = sum(len(level.blocks) for level in net.up)
    assert taken == 12


@pytest.fixture(scope="module")
def small() -> UNet:
    torch.manual_seed(0)
    return UNet(
        in_channels=3,
        channels=32,
        channel_mult=(1, 2, 2),
        num_res_blocks=1,
        attention_levels=(False, True, False),
        norm_num_groups=8,
    )


def test_weights_start_as_in_the_paper(small: UNet) -> None:
    almost_zero = ("conv_2.weight", "out.weight", "head.weight")
    for name, p in small.named_parameters():
        if name.endswith("bias"):
            assert (p == 0).all(), name
        elif "norm" in name:
            assert (p == 1).all(), name
        else:
            fan_in = p[0].numel()
            fan_out = p.shape[0] * p[0, 0].numel()
            bound = math.sqrt(6 / (fan_in + fan_out)) * (
                1e-5 if name.endswith(almost_zero) else 1
            )
            assert p.abs().max() <= bound, name
            assert p.abs().max() > 0.9 * bound, name


def test_dropout_acts_before_the_second_convolution_in_training_only() -> None:
    block = ResidualBlock(8, 8, 16, dropout=1.0, num_groups=4)
    nn.init.ones_(block.conv_2.weight)
    x, time = torch.randn(2, 8, 4, 4), torch.randn(2, 16)
    assert torch.equal(
        block(x, time), x
    )  # everything dropped: what is left is the shortcut
    assert not torch.equal(block.eval()(x, time), x)


TINY = {
    "channels": 32,
    "channel_mult": (1, 2, 2),
    "num_res_blocks": 1,
    "attention_levels": (False, True, False),
    "norm_num_groups": 8,
    "dropout": 0.0,
}


def twin(net: UNet) -> UNet2DModel:
    """The same network as diffusers builds it, from numbers typed here, with the same weights.

    Only the names of the weights are the package's translation: a strict load finds every fault in them.
    """
    config = net.config
    kinds = [("Attn" if attends else "") for attends in config["attention_levels"]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = UNet2DModel(
            in_channels=config["in_channels"],
            out_channels=config["in_channels"],
            block_out_channels=tuple(
                config["channels"] * m for m in config["channel_mult"]
            ),
            layers_per_block=config["num_res_blocks"],
            down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
            up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
            norm_num_groups=config["norm_num_groups"],
            dropout=config["dropout"],
            downsample_padding=0,
            flip_sin_to_cos=False,
            freq_shift=1,
            norm_eps=1e-6,
            attention_head_dim=None,
        )
    # Before loading, or the weights would be rounded; their own `to` only adds a warning.
    nn.Module.to(theirs, next(net.parameters()).dtype)
    theirs.load_state_dict(
        {diffusers_name(name): p for name, p in net.state_dict().items()}
    )
    return theirs


def answers(
    forward: Callable[[Tensor], Tensor], module: nn.Module, x: Tensor
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The output, the gradient at the input, and those of all weights, of a sum with uneven weights."""
    at = x.clone().requires_grad_()
    out = forward(at)
    module.zero_grad()
    share = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    (out * share).sum().backward()
    assert at.grad is not None
    gradients = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
    return out.detach(), at.grad, gradients


def close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return bool((a - b).abs().max() <= tolerance * max(1.0, float(b.abs().max())))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)]
)
@pytest.mark.parametrize("size", ["tiny", "grey", "cifar10"])
def test_outputs_and_gradients_are_those_of_diffusers(
    size: str, dtype: torch.dtype, tolerance: float, layout: torch.memory_format
) -> None:
    """Every weight redrawn at order one, in training mode with nothing to drop."""
    if size == "cifar10":
        if (layout == torch.channels_last) != (dtype == torch.float32):
            pytest.skip("full width takes long: one layout for each type")
        net = UNet(**(UNet.cifar10().config | {"dropout": 0.0}))
        shape: tuple[int, ...] = (1, 3, 16, 16)
    else:
        net = UNet(**TINY, in_channels=1 if size == "grey" else 3)
        shape = (2, net.in_channels, 16, 8)
    net = net.to(dtype)
    redraw(net)
    theirs = twin(net).train()
    net = net.train().to(memory_format=layout)
    x = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([731, 1][: len(x)])
    ours = answers(lambda at: net(at, t), net, x)
    other = answers(lambda at: theirs(at, t - 1).sample, theirs, x)  # they count from 0
    assert ours[0].abs().mean() > 0.1  # of order one, not almost zero
    assert close(ours[0], other[0], tolerance)
    assert close(ours[1], other[1], tolerance)
    assert len(ours[2]) == len(other[2]) == len(net.state_dict())
    for name, gradient in ours[2].items():
        assert close(gradient, other[2][diffusers_name(name)], tolerance), name


@pytest.mark.equation("def-attention")
def test_attention_is_that_of_torch_s_own_kernel() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        3 * torch.randn(2, 10, 8, dtype=torch.float64, generator=generator)
        for _ in range(3)
    )
    kernel = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
    assert_close(attend(q, k, v), kernel, rtol=1e-12, atol=1e-8)


@pytest.mark.equation("def-attention")
def test_attention_on_a_gpu_is_the_same_formula(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The one kernel that a GPU gets, asked on the CPU; written out for each pixel."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = 2 * torch.randn(3, 2, 5, 16, dtype=torch.float64, generator=generator)
    got = fused_attention(q, k, v)
    for b in range(2):
        for i in range(5):
            a = np.array([math.exp(float(q[b, i] @ k[b, j]) / 4) for j in range(5)])
            expected = (a / a.sum()) @ v[b].numpy()  # 4 is the root of 16 channels
            assert got[b, i].numpy() == pytest.approx(expected, rel=1e-12)
    asked = []

    class OnGPU(Tensor):
        device = torch.device("cuda")

    monkeypatch.setattr(unet, "fused_attention", lambda *part: asked.append(part))
    attend(q.as_subclass(OnGPU), k, v)
    assert len(asked) == 1
    attend(q, k, v)
    assert len(asked) == 1


@pytest.mark.parametrize("p", [0.1, 0.5, 0.013])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dropout_drops_the_right_share_and_keeps_the_mean(
    p: float, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    layer, x = Dropout(p), torch.ones(50, 31, 17, 13, dtype=dtype)
    y = layer(x)
    n = x.numel()
    dropped = int((y == 0).sum())
    assert abs(dropped - p * n) < 5 * math.sqrt(n * p * (1 - p))  # five standard errors
    kept = y[y != 0]
    assert (kept == kept[0]).all()
    assert kept[0].item() == pytest.approx(1 / (1 - p), rel=2e-4 if dtype != torch.bfloat16 else 8e-3)  # fmt: skip
    # Unbiased: in float64 the factor is the inverse of the rounded share, to the last digit.
    if dtype == torch.float64:
        assert kept[0].item() * (1 - round(p * 65536) / 65536) == pytest.approx(1, rel=1e-14)  # fmt: skip


def test_dropout_decides_each_number_on_its_own() -> None:
    """Neighbours in memory come from the same 64 bits: pairs must be dropped together p squared of the time."""
    torch.manual_seed(1)
    p, n = 0.3, 400_000
    dropped = (Dropout(p)(torch.ones(1, 1, 1, n)) == 0).flatten()
    for lag in (1, 2, 3, 4, 5, 8):
        both = (dropped[:-lag] & dropped[lag:]).double().mean().item()
        assert abs(both - p**2) < 6 * math.sqrt(p**2 / n), lag
    for place in range(4):  # each quarter of the 64 bits
        share = dropped[place::4].double().mean().item()
        assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / (n / 4)), place


def test_dropout_gives_gradients_to_what_it_kept_and_obeys_the_seed() -> None:
    x = torch.randn(3, 5, 4, 2, requires_grad=True)
    torch.manual_seed(7)
    y = Dropout(0.5)(x)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(y, x * x.grad)
    assert set(x.grad.unique().tolist()) == {0.0, 2.0}
    torch.manual_seed(7)
    assert torch.equal(Dropout(0.5)(x), y)
    torch.manual_seed(8)
    assert not torch.equal(Dropout(0.5)(x), y)
    torch.manual_seed(7)  # the layout in memory changes nothing
    assert torch.equal(Dropout(0.5)(x.contiguous(memory_format=torch.channels_last)), y)


@pytest.mark.parametrize(("p", "kept"), [(0.0, 1.0), (1.0, 0.0)])
def test_dropout_at_its_ends(p: float, kept: float) -> None:
    x = torch.ones(2, 3, 4, 4)
    assert torch.equal(Dropout(p)(x), kept * x)
    assert Dropout(p).eval()(x) is x


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_normalisation_of_half_precision_computes_in_float32(
    dtype: torch.dtype,
) -> None:
    """As exact as its rounded input and output allow, although the numbers lie far from 0."""
    torch.manual_seed(0)
    layer = Norm(8, 2)
    redraw(layer)
    x = (torch.randn(2, 8, 32, 32) + 20).to(dtype)
    y = layer.to(dtype)(x)
    assert y.dtype == dtype
    groups = x.double().reshape(2, 2, -1)
    normed = (groups - groups.mean(-1, keepdim=True)) / groups.std(-1, keepdim=True, correction=0)  # fmt: skip
    weight, bias = (v.double()[None, :, None, None] for v in (layer.weight, layer.bias))
    expected = normed.reshape(x.shape) * weight + bias
    rounding = torch.finfo(dtype).eps
    assert (y.double() - expected).abs().max() < rounding * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_normalisation_keeps_the_order_of_memory(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where torch's kernel does not, as on CUDA: there it answers in NCHW."""
    layer, given = Norm(8, 2), torch.randn(2, 8, 6, 6).to(dtype)
    redraw(layer)
    expected, kernel = layer(given), F.group_norm
    monkeypatch.setattr(
        F, "group_norm", lambda x, *rest: kernel(x.contiguous(), *rest).contiguous()
    )
    for order in (torch.channels_last, torch.contiguous_format):
        y = layer(given.contiguous(memory_format=order))
        assert y.is_contiguous(memory_format=order)
        assert_close(y, expected)
    row = given[:, :, 0, 0]
    assert layer(row).shape == row.shape


def test_weights_in_half_precision_answer_pictures_in_float32() -> None:
    net = UNet(**TINY).eval()
    redraw(net)
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([5, 900])
    right = net(x, t)
    half = net.to(torch.bfloat16)(x, t)
    assert half.dtype == torch.float32
    assert (half - right).square().mean() < 0.02 * right.square().mean()


def test_loss_in_bf16_is_that_in_float32() -> None:
    """Within 2 %, on redrawn weights, where the answer is of order one."""
    net = UNet(**TINY)
    redraw(net)
    generator = torch.Generator().manual_seed(3)
    x, noise = (torch.randn(8, 3, 16, 16, generator=generator) for _ in range(2))
    t = torch.randint(1, 1001, (8,), generator=generator)

    def loss() -> float:
        out = net(x, t)
        assert out.dtype == torch.float32
        return (out - noise).square().mean().item()

    exact = loss()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = loss()
    assert mixed != exact  # it did compute in bf16
    assert mixed == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("mixed", [False, True])
def test_a_training_step_of_the_cifar10_network(mixed: bool) -> None:
    """Two pictures, dropout on: every weight gets a finite gradient and moves, and the loss falls."""
    torch.manual_seed(0)
    net = UNet.cifar10().to(memory_format=torch.channels_last)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    # Blocks that answer almost zero would pass almost no gradient to what lies before them.
    for name, p in net.named_parameters():
        if name.endswith(("conv_2.weight", "out.weight", "head.weight")):
            nn.init.normal_(p, std=0.02)
            before[name] = p.detach().clone()
    # The first step of Adam moves every weight by the whole rate: at the paper's it may overshoot.
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-5)
    x, noise = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32)
    t = torch.tensor([3, 700])

    def loss() -> Tensor:
        torch.manual_seed(1)  # the same numbers are dropped before and after
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            return F.mse_loss(net(x, t), noise)

    first = loss()
    first.backward()
    optimizer.step()
    with torch.no_grad():
        assert loss() < first
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
        # A key's bias adds the same to all scores of a pixel; softmax does not see it.
        if not name.endswith("key.bias"):
            assert not torch.equal(p, before[name]), name


def test_compiling_changes_nothing() -> None:
    """As one graph, through torch's tracer; dropout then leaves the draw to the compiler."""
    net = UNet(
        channels=4,
        channel_mult=(1,),
        num_res_blocks=1,
        attention_levels=(True,),
        norm_num_groups=2,
        dropout=0.5,
    ).eval()
    redraw(net)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    x, t = torch.randn(2, 3, 4, 4), torch.tensor([1, 1000])
    assert_close(compiled(x, t), net(x, t), atol=1e-5, rtol=1e-5)
    drop = torch.compile(Dropout(0.5), backend="aot_eager", fullgraph=True)
    assert set(drop(torch.ones(2, 3, 4, 4)).unique().tolist()) == {0.0, 2.0}


# --- weights from and to diffusers


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, UNet2DModel]:
    """A folder that diffusers wrote, and the network that wrote it."""
    net = UNet(**TINY)
    redraw(net)
    theirs = twin(net).eval()
    folder = tmp_path_factory.mktemp("published")
    theirs.save_pretrained(folder)
    return folder, theirs


@pytest.fixture
def copy(published: tuple[Path, UNet2DModel], tmp_path: Path) -> Path:
    return shutil.copytree(published[0], tmp_path / "copy")


def same(net: UNet, theirs: UNet2DModel) -> bool:
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    t = torch.tensor([1, 1000])
    with torch.no_grad():
        return close(net(x, t), theirs(x, t - 1).sample, 1e-5)


def change(folder: Path, **keys: object) -> None:
    """Set keys of the configuration; `...` takes one away."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | keys
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))


def rename(folder: Path, **names: str) -> None:
    path = folder / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    for old, new in names.items():
        weights = {
            re.sub(rf"\b{re.escape(old.replace('__', '.'))}\b", new, k): v
            for k, v in weights.items()
        }
    save_file(weights, path)


def test_loads_what_diffusers_wrote(published: tuple[Path, UNet2DModel]) -> None:
    folder, theirs = published
    net = UNet.from_diffusers(folder)
    assert same(net, theirs)
    assert not net.training
    assert net.config == UNet(**TINY).config
    assert "not known whether" in net.provenance
    assert UNet().provenance == "new"


def test_loads_old_names(copy: Path, published: tuple[Path, UNet2DModel]) -> None:
    """As the hub's files have them, which diffusers itself still reads."""
    rename(copy, to_q="query", to_k="key", to_v="value", to_out__0="proj_attn")
    names = load_file(copy / "diffusion_pytorch_model.safetensors").keys()
    assert "mid_block.attentions.0.proj_attn.weight" in names
    assert not any("to_" in name for name in names)
    change(
        copy,
        down_block_types=["UNetResDownBlock2D", "UNetResAttnDownBlock2D", "UNetResDownBlock2D"],
        up_block_types=["UNetResUpBlock2D", "UNetResAttnUpBlock2D", "UNetResUpBlock2D"],
    )  # fmt: skip
    assert same(UNet.from_diffusers(copy), published[1])
    theirs = UNet2DModel.from_pretrained(copy, low_cpu_mem_usage=False).eval()
    assert same(UNet.from_diffusers(copy), theirs)


def test_loads_from_a_pipeline_s_folder(
    copy: Path, published: tuple[Path, UNet2DModel], tmp_path: Path
) -> None:
    pipeline = tmp_path / "pipeline"
    shutil.copytree(copy, pipeline / "unet")
    (pipeline / "model_index.json").write_text("{}")
    assert same(UNet.from_diffusers(str(pipeline)), published[1])


# The keys of the configuration that came with the first published weights.
FIRST_KEYS = {
    "in_channels", "out_channels", "sample_size", "block_out_channels", "layers_per_block",
    "down_block_types", "up_block_types", "norm_num_groups", "norm_eps", "act_fn",
    "attention_head_dim", "center_input_sample", "downsample_padding", "flip_sin_to_cos",
    "freq_shift", "mid_block_scale_factor", "time_embedding_type",
}  # fmt: skip


def test_the_first_published_configuration_is_read(copy: Path) -> None:
    """Written by an early version: newer keys are missing."""
    newer = inspect.signature(UNet2DModel.__init__).parameters.keys() - FIRST_KEYS
    assert len(newer) > 10
    change(copy, **dict.fromkeys(newer, ...))
    assert UNet.from_diffusers(copy).config["dropout"] == 0.0


def test_says_what_is_known_of_an_average(copy: Path) -> None:
    change(copy, _name_or_path="google/ddpm-cifar10-32")
    assert "without an average (EMA)" in UNet.from_diffusers(copy).provenance
    change(copy, _name_or_path=..., decay=0.9999, optimization_step=1000)
    assert "an average (EMA), as" in UNet.from_diffusers(copy).provenance


def test_diffusers_reads_what_we_write(tmp_path: Path) -> None:
    net = UNet(**TINY).to(memory_format=torch.channels_last).eval()
    redraw(net)
    net.save_diffusers(tmp_path / "a" / "b", size=16)
    theirs = UNet2DModel.from_pretrained(tmp_path / "a" / "b").eval()
    assert same(net, theirs)
    assert theirs.config.sample_size == 16
    again = UNet.from_diffusers(tmp_path / "a" / "b")
    assert again.config == net.config
    for name, p in net.state_dict().items():
        assert torch.equal(p, again.state_dict()[name]), name


WRONG = {
    "_class_name": "UNet2DConditionModel",
    "center_input_sample": True,
    "time_embedding_type": "fourier",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_type": None,
    "mid_block_scale_factor": 1.5,
    "add_attention": False,
    "downsample_padding": 1,
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "act_fn": "mish",
    "attention_head_dim": 8,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "scale_shift",
    "class_embed_type": "timestep",
    "num_class_embeds": 1,
    "time_embedding_dim": 64,
    "attn_norm_num_groups": 4,
    "norm_num_groups": None,
    "in_channels": 6,
    "layers_per_block": [1, 2, 1],
    "block_out_channels": [32, 48, 64],
    "down_block_types": ["DownBlock2D", "ResnetDownsampleBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D"],
    "something_new": "on",
}


@pytest.mark.parametrize("key", WRONG)
def test_a_configuration_of_another_network_is_refused(copy: Path, key: str) -> None:
    change(copy, **{key: WRONG[key]})
    # Six channels in and three out: the pair does not fit, and the second is named.
    named, came = ("out_channels", 3) if key == "in_channels" else (key, WRONG[key])
    message = rf"config.json: {named}: .*{re.escape(repr(came))}"
    with pytest.raises(ValueError, match=message):
        UNet.from_diffusers(copy)


@pytest.mark.parametrize(
    "key", ["flip_sin_to_cos", "freq_shift", "downsample_padding", "attention_head_dim", "norm_eps"]
)  # fmt: skip
def test_a_missing_key_means_diffusers_default(copy: Path, key: str) -> None:
    """Which is another network: diffusers itself, given the same file, answers otherwise."""
    change(copy, **{key: ...})
    with pytest.raises(ValueError, match=f"{key}: .* nothing, which means"):
        UNet.from_diffusers(copy)
    default = inspect.signature(UNet2DModel.__init__).parameters[key].default
    assert NEEDED[key][1] == default


def test_our_defaults_are_diffusers() -> None:
    theirs = inspect.signature(UNet2DModel.__init__).parameters
    for key, (_, default) in NEEDED.items():
        if key != "_class_name":
            assert theirs[key].default == default, key
    for key, default in SIZES.items():
        assert theirs[key].default == default, key
    known = NEEDED.keys() | SIZES.keys() | HARMLESS
    assert set(theirs) - {"self"} <= known


def test_wrong_configurations_that_load_are_wrong(
    published: tuple[Path, UNet2DModel],
) -> None:
    """Why they are refused: diffusers loads the same weights into them without a word."""
    _, right = published
    net = UNet.from_diffusers(published[0])
    for key in (
        "flip_sin_to_cos",
        "freq_shift",
        "downsample_padding",
        "attention_head_dim",
    ):
        wrong = UNet2DModel.from_config({**right.config, key: WRONG[key]}).eval()
        wrong.load_state_dict(right.state_dict())
        assert not same(net, wrong), key


def test_weights_must_be_there_and_fit(copy: Path) -> None:
    path = copy / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    lacking = {k: v for k, v in weights.items() if k != "conv_in.bias"}
    save_file(lacking, path)
    with pytest.raises(ValueError, match=r"lacks conv_in\.bias"):
        UNet.from_diffusers(copy)
    save_file({**weights, "class_embedding.weight": torch.ones(1)}, path)
    with pytest.raises(ValueError, match="more than this network: class_embedding"):
        UNet.from_diffusers(copy)
    save_file({**weights, "conv_in.bias": torch.ones(1)}, path)
    with pytest.raises(
        ValueError, match=r"conv_in.bias: expected shape \(32,\), got \(1,\)"
    ):
        UNet.from_diffusers(copy)


def test_damaged_files_are_named(copy: Path) -> None:
    path = copy / "diffusion_pytorch_model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged, or no safetensors"):
        UNet.from_diffusers(copy)
    path.write_bytes(bytes(1000))
    with pytest.raises(ValueError, match="damaged, or no safetensors"):
        UNet.from_diffusers(copy)
    (copy / "config.json").write_text('{"a":')
    with pytest.raises(ValueError, match="expected JSON"):
        UNet.from_diffusers(copy)
    (copy / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="expected a JSON object"):
        UNet.from_diffusers(copy)


class Trap:
    """Unpickling this would leave a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.mark,))


def test_a_pickle_is_never_read(copy: Path, tmp_path: Path) -> None:
    (copy / "diffusion_pytorch_model.safetensors").unlink()
    mark = tmp_path / "mark"
    (copy / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(
        FileNotFoundError, match=r"found diffusion_pytorch_model\.bin.*pickle"
    ):
        UNet.from_diffusers(copy)
    assert not mark.exists()


def test_the_hub_is_asked_for_the_two_files(
    monkeypatch: pytest.MonkeyPatch, published: tuple[Path, UNet2DModel]
) -> None:
    """Without a network: the answer of huggingface_hub is put in its place, once in the root and once in unet/."""
    asked: list[str] = []

    def download(name: str, file: str, place: str = "") -> str:
        assert name == "google/ddpm-cifar10-32"
        asked.append(file)
        if not file.startswith(place):
            raise huggingface_hub.errors.EntryNotFoundError(file)
        return str(published[0] / file.removeprefix(place))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    net = UNet.from_diffusers("google/ddpm-cifar10-32")
    assert same(net, published[1])
    assert "without an average (EMA)" in net.provenance
    assert sorted(asked) == ["config.json", "diffusion_pytorch_model.safetensors"]
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", partial(download, place="unet/"))  # fmt: skip
    assert same(UNet.from_diffusers("google/ddpm-cifar10-32"), published[1])
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", partial(download, place="x/"))  # fmt: skip
    with pytest.raises(
        FileNotFoundError, match=r"has no .*safetensors on the hub.*pickle"
    ):
        UNet.from_diffusers("google/ddpm-cifar10-32")


def test_a_hub_out_of_reach_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def offline(*arguments: object) -> str:
        return huggingface_hub.file_download.hf_hub_download(
            *arguments, cache_dir=tmp_path, local_files_only=True
        )

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(ConnectionError, match="hub cannot be reached"):
        UNet.from_diffusers("google/ddpm-cifar10-32")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="pip install huggingface_hub"):
        UNet.from_diffusers("google/ddpm-cifar10-32")
    for source in (tmp_path / "nothing", "no name"):
        with pytest.raises(FileNotFoundError, match="expected a folder"):
            UNet.from_diffusers(source)


def test_numpy_s_integers_build_the_same_network() -> None:
    """And the configuration is plain, so that JSON can hold it."""
    n = np.int64
    net = UNet(
        in_channels=n(1), channels=np.int32(16), channel_mult=np.array([1, 2]), num_classes=n(10),
        num_res_blocks=n(1), attention_levels=np.array([False, True]), dropout=np.float32(0.0), norm_num_groups=n(8),
    )  # fmt: skip
    assert net.config == UNet.digits().config
    assert json.loads(json.dumps(net.config))["channel_mult"] == [1, 2]


def labelled() -> UNet:
    """A small network that knows three labels, every weight of order one."""
    torch.manual_seed(0)
    net = UNet(
        in_channels=1, channels=8, channel_mult=(1, 2), attention_levels=(False, True),
        num_res_blocks=1, norm_num_groups=4, dropout=0.0, num_classes=3,
    )  # fmt: skip
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return net.double()


def test_a_label_is_a_shift_of_the_time_s_vector() -> None:
    """A network without labels, whose time vector is shifted by the label's row, gives the same answer."""
    net = labelled()
    plain = UNet(**{**net.config, "num_classes": 0}).double()
    weights = net.state_dict()
    rows = weights.pop("label.weight")
    bias = weights["time.2.bias"].clone()
    x, t = torch.randn(4, 1, 8, 8, dtype=F64), torch.tensor([3, 500, 3, 90])
    for label in range(4):
        plain.load_state_dict({**weights, "time.2.bias": bias + rows[label]})
        y = torch.full((4,), label)
        assert_close(net(x, t, y), plain(x, t), rtol=0, atol=1e-12)
        if label == 3:
            assert torch.equal(net(x, t), net(x, t, y))  # no label: the null label
        else:
            assert (net(x, t, y) - net(x, t)).abs().max() > 0.01
    mixed = net(x, t, torch.tensor([0, 1, 2, 3]))
    assert_close(mixed[1:2], net(x[1:2], t[1:2], torch.tensor([1])), rtol=0, atol=1e-12)


def test_labels_start_without_a_say() -> None:
    net, x = UNet.digits(), torch.randn(2, 1, 8, 8)
    for weight in [w for name, w in net.named_parameters() if name != "label.weight"]:
        torch.nn.init.normal_(weight, std=0.1)
    t = torch.tensor([5, 300])
    assert torch.equal(net(x, t), net(x, t, torch.tensor([1, 7])))


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (torch.tensor([0, 4]), ValueError, r"y: expected 0 \.\.\. 3, .* from 0 to 4"),
        (torch.tensor([-1, 0]), ValueError, r"y: expected 0 \.\.\. 3, .* from -1 to 0"),
        (
            torch.tensor([1]),
            ValueError,
            r"y: expected one label a picture, shape \(2,\)",
        ),
        (torch.tensor([1.0, 2.0]), TypeError, "y: expected int64, got torch.float32"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    y: torch.Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        labelled()(torch.zeros(2, 1, 8, 8), torch.tensor([1, 2]), y)


def test_a_network_without_labels_takes_none(small: UNet) -> None:
    with pytest.raises(ValueError, match="y: expected None, for this network knows no"):
        small.float()(torch.zeros(1, 3, 8, 8), torch.tensor([1]), torch.tensor([0]))


def test_labels_agree_with_diffusers(tmp_path: Path) -> None:
    """There a label's row is added to the time's vector too; and the way there and back keeps all weights."""
    net = labelled().float()
    net.save_diffusers(tmp_path, 8)
    theirs = UNet2DModel.from_pretrained(tmp_path).eval()
    x, t = torch.randn(4, 1, 8, 8), torch.tensor([3, 500, 3, 90])
    y = torch.tensor([0, 1, 2, 3])
    with torch.no_grad():
        expected = theirs(x, t - 1, class_labels=y).sample
        assert_close(net.eval()(x, t, y), expected, rtol=1e-4, atol=1e-4)
    back = UNet.from_diffusers(tmp_path)
    assert back.config == net.config
    assert torch.equal(back(x, t, y), net(x, t, y))


def test_digits_network_keeps_the_shape() -> None:
    net = UNet.digits()
    x = torch.randn(3, 1, 8, 8)
    assert net(x, torch.tensor([1, 2, 3])).shape == x.shape
    assert net(x[:, :, :4], torch.tensor([1, 2, 3])).shape == (3, 1, 4, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channel_mult": (1, 2)}, "channel_mult, attention"),
        ({"channel_mult": (), "attention_levels": ()}, "channel_mult, attention"),
        ({"channels": 40}, "channels"),
        ({"channels": 3, "norm_num_groups": 3}, "channels"),
        ({"num_res_blocks": 0}, "num_res_blocks"),
        ({"norm_num_groups": 0}, "norm_num_groups"),
        ({"in_channels": 0}, "in_channels"),
        ({"channel_mult": (1, 0, 1, 1)}, "channel_mult"),
        ({"channel_mult": (1, 1.5, 2, 2)}, "channel_mult: expected a positive integer"),
        ({"num_res_blocks": 1.5}, "blocks: expected a positive integer, got 1.5"),
        (
            {"norm_num_groups": True},
            "norm_num_groups: expected a positive integer, got True",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused(
    arguments: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        UNet(**arguments)


@pytest.mark.parametrize(
    ("shape", "t", "message"),
    [
        ((2, 3, 30, 32), [1, 1], "divisible by 4, got 30 x 32.*work: 4, 8, 12"),
        ((2, 1, 32, 32), [1, 1], r"expected \(B, 3, H, W\)"),
        ((3, 32, 32), [1, 1, 1], r"expected \(B, 3, H, W\)"),
        ((2, 3, 32, 32), [1], "t: expected one time a picture"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(
    small: UNet, shape: tuple[int, ...], t: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        small.float()(torch.zeros(shape), torch.tensor(t))


def test_times_must_be_integers(small: UNet) -> None:
    with pytest.raises(TypeError, match="t: expected int64"):
        small.float()(torch.zeros(1, 3, 8, 8), torch.tensor([1.0]))
