"""Layers that compute what torch's do, faster where it was measured: `python -m benchmarks --ablate`."""

from typing import TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


def order_of(x: Tensor) -> torch.memory_format:
    """Return the order in which pictures (B, C, H, W) lie in memory."""
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


class Norm(nn.GroupNorm):
    """GroupNorm with the authors' eps, computed in float32 or better.

    For half precision torch's CPU kernel is slow, and its sums are inexact.

    Args:
        channels: channels of input and output.
        num_groups: how many groups; must divide `channels`.
    """

    def __init__(self, channels: int, num_groups: int) -> None:
        super().__init__(num_groups, channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, channels, H, W) to the same shape and type, in the same order of memory."""
        short = x.dtype in (torch.bfloat16, torch.float16)
        y = F.group_norm(
            x.float() if short else x,
            self.num_groups,
            self.weight.float() if short else self.weight,
            self.bias.float() if short else self.bias,
            self.eps,
        )
        # CUDA's kernel answers in NCHW whatever it is given; every convolution after it would have to turn that round.
        return y.to(x.dtype, memory_format=order_of(x))


class Dropout(nn.Dropout):
    """Dropout of pictures that is quick on a CPU: four decisions from 64 random bits.

    Torch draws each decision as a random number of its own, on one core. Here 16 bits are a number from 0 to 65535, and
    one below 65536 p says "drop". So p is rounded to a multiple of 1 / 65536; the factor takes the rounded one, and the
    mean is exact. The generator is torch's own: `torch.manual_seed` settles what is dropped.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to the same shape; in `eval` mode return x itself."""
        drop = round(self.p * 2**16)
        if not self.training or drop == 0:
            return x
        if x.device.type != "cpu" or drop == 2**16 or torch.compiler.is_compiling():
            return F.dropout(x, self.p)
        bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(
            -(2**63), None
        )
        keep = bits.view(torch.int16)[: x.numel()] >= drop - 2**15  # from -2**15 on
        batch, channels, height, _ = x.shape
        keep = rearrange(keep, "(b h w c) -> b c h w", b=batch, h=height, c=channels)
        return x * keep * (2**16 / (2**16 - drop))


def fused_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return what `unet.attend` does, from one kernel, without the N x N table."""
    query, key, value = query[:, None], key[:, None], value[:, None]  # one head
    return F.scaled_dot_product_attention(query, key, value)[:, 0]
