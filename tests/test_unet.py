"""The U-Net: its parts against plain loops, the whole against diffusers with every weight redrawn."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ddpm_nb.unet import (
    Attention,
    Downsample,
    ResidualBlock,
    UNet,
    Upsample,
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
    assert torch.allclose(turned, both, atol=1e-5)


@pytest.mark.equation("def-time-embedding")
def test_embedding_counts_from_zero_and_spans_the_frequencies() -> None:
    first, second = time_embedding(torch.tensor([1, 2]), 128)
    assert torch.equal(first, torch.cat([torch.zeros(64), torch.ones(64)]))
    assert second[0].item() == pytest.approx(
        math.sin(1), rel=1e-6
    )  # fastest: 1 radian a step
    assert second[63].item() == pytest.approx(1e-4, rel=1e-5)  # slowest: 1 / 10,000
    ratio = second[:64].asin().double()
    assert torch.allclose(
        ratio[2:] * ratio[:-2], ratio[1:-1] ** 2, rtol=1e-4
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
        picture_channels=3,
        channels=32,
        multipliers=(1, 2, 2),
        blocks=1,
        attention=(False, True, False),
        groups=8,
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
    block = ResidualBlock(8, 8, 16, dropout=1.0, groups=4)
    nn.init.ones_(block.conv_2.weight)
    x, time = torch.randn(2, 8, 4, 4), torch.randn(2, 16)
    assert torch.equal(
        block(x, time), x
    )  # everything dropped: what is left is the shortcut
    assert not torch.equal(block.eval()(x, time), x)


def diffusers_name(name: str, levels: int) -> str:
    """Our parameter's name in diffusers' UNet2DModel."""
    inner = {
        "norm_1": "norm1", "conv_1": "conv1", "time": "time_emb_proj",
        "norm_2": "norm2", "conv_2": "conv2", "shortcut": "conv_shortcut",
        "norm": "group_norm", "query": "to_q", "key": "to_k", "value": "to_v", "out": "to_out.0",
    }  # fmt: skip
    whole = {
        "stem": "conv_in", "norm": "conv_norm_out", "head": "conv_out",
        "time.0": "time_embedding.linear_1", "time.2": "time_embedding.linear_2",
    }  # fmt: skip
    layer, kind = name.rsplit(".", 1)
    if layer in whole:
        return f"{whole[layer]}.{kind}"
    parts = layer.split(".")
    if parts[0] == "middle":
        place, (_, i, part, sub) = "mid_block", parts
    elif parts[2] == "resize":
        return f"{parts[0]}_blocks.{parts[1]}.{parts[0]}samplers.0.conv.{kind}"
    else:
        place, (_, _, _, i, part, sub) = f"{parts[0]}_blocks.{parts[1]}", parts
    group = "resnets" if part == "residual" else "attentions"
    return f"{place}.{group}.{i}.{inner[sub]}.{kind}"


def twin(net: UNet, dtype: torch.dtype, **config: object) -> nn.Module:
    """The same network from diffusers, with the same weights."""
    from diffusers import UNet2DModel

    theirs = UNet2DModel(
        sample_size=16, downsample_padding=0, flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-6,
        attention_head_dim=None, **config,
    )  # fmt: skip
    nn.Module.to(
        theirs, dtype
    )  # before loading, or the weights would be rounded; their own `to` only adds a warning
    weights = {
        diffusers_name(name, len(net.down)): p for name, p in net.state_dict().items()
    }
    theirs.load_state_dict(
        weights
    )  # strict: every name must be there, with the right shape
    return theirs


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)]
)
def test_outputs_and_gradients_are_those_of_diffusers(
    small: UNet, dtype: torch.dtype, tolerance: float
) -> None:
    net = small.to(dtype).eval()
    redraw(net)
    theirs = twin(
        net,
        dtype,
        in_channels=3,
        out_channels=3,
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    ).eval()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 16, 8, dtype=dtype, generator=generator)
    t = torch.tensor([1, 731])

    def answers(forward, module: nn.Module) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        at = x.clone().requires_grad_()
        out = forward(at)
        module.zero_grad()
        (
            out * torch.linspace(-1, 1, out.numel(), dtype=dtype).view_as(out)
        ).sum().backward()
        return out.detach(), at.grad, {n: p.grad for n, p in module.named_parameters()}

    ours = answers(lambda at: net(at, t), net)
    other = answers(lambda at: theirs(at, t - 1).sample, theirs)  # they count from 0
    assert ours[0].abs().mean() > 0.1  # of order one, not almost zero

    def close(a: Tensor, b: Tensor) -> bool:
        return bool((a - b).abs().max() <= tolerance * max(1.0, float(b.abs().max())))

    assert close(ours[0], other[0])
    assert close(ours[1], other[1])
    for name, gradient in ours[2].items():
        assert close(gradient, other[2][diffusers_name(name, 3)]), name


def test_digits_network_keeps_the_shape() -> None:
    net = UNet.digits()
    x = torch.randn(3, 1, 8, 8)
    assert net(x, torch.tensor([1, 2, 3])).shape == x.shape
    assert net(x[:, :, :4], torch.tensor([1, 2, 3])).shape == (3, 1, 4, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"multipliers": (1, 2)}, "multipliers, attention"),
        ({"multipliers": (), "attention": ()}, "multipliers, attention"),
        ({"channels": 40}, "channels"),
        ({"channels": 3, "groups": 3}, "channels"),
        ({"blocks": 0}, "blocks"),
        ({"groups": 0}, "groups"),
        ({"picture_channels": 0}, "picture_channels"),
        ({"multipliers": (1, 0, 1, 1)}, "multipliers"),
        ({"multipliers": (1, 1.5, 2, 2)}, "multipliers"),
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
        ((2, 3, 30, 32), [1, 1], "divisible by 4, got 30 x 32"),
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
