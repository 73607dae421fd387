"""Where a sampler's noise comes from: a generator, one generator a picture, or a counter.

By counter, picture i of a seed is picture i: its noise at time t is a function of (seed, i, t) alone, whatever the
batch, the chunk or the number of processes.
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from ddpm_nb._devices import brought, where_float64

NoiseSource: TypeAlias = Callable[[Tensor, int], Tensor]
Randomness: TypeAlias = torch.Generator | Sequence[torch.Generator] | NoiseSource | None

_LOW = 0xFFFFFFFF  # the low 32 bits


def philox(counter: Sequence[Tensor], key: tuple[int, int]) -> Tensor:
    """Return four random 32-bit words for each counter of four words (Philox4x32-10).

    Words are int64, 0 ... 2^32 - 1; the counter's four may broadcast to (...). Returns (..., 4).

    Source: Salmon, Moraes, Dror and Shaw (2011), Parallel random numbers: as easy as 1, 2, 3.
    """
    a, b, c, d = torch.broadcast_tensors(*counter)
    k, m = key
    for _ in range(10):
        # Products of 64 bits. In int64 they wrap round, and their bits stay right.
        p, q = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b = (q >> 32 & _LOW) ^ b ^ k, q & _LOW
        c, d = (p >> 32 & _LOW) ^ d ^ m, p & _LOW
        k, m = (k + 0x9E3779B9) & _LOW, (m + 0xBB67AE85) & _LOW
    return torch.stack([a, b, c, d], dim=-1)


class CounterNoise:
    """Noise that depends on the seed, the picture's number and the time, and on nothing else.

    Give it to a sampler as `generator`: `CounterNoise(seed, shape, first=8)` draws
    pictures 8, 9, ... of that seed. A network may still round otherwise in a batch of
    another size.

    Args:
        seed: 0 ... 2^64 - 1.
        shape: of one picture, (C, H, W) for instance.
        first: which picture the first of a batch is.

    Raises:
        ValueError: if the seed or `first` leaves its range.

    Source: Salmon, Moraes, Dror and Shaw (2011).
    """

    def __init__(self, seed: int, shape: Sequence[int], first: int = 0) -> None:
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed: expected 0 ... 2^64 - 1, got {seed}")
        if not 0 <= first < 2**32:
            raise ValueError(f"first: expected 0 ... 2^32 - 1, got {first}")
        self.seed, self.shape, self.first = seed, tuple(shape), first

    def __call__(self, images: Tensor, t: int) -> Tensor:
        """Return the standard normal noise that enters x_t, (B, *shape) float32.

        Args:
            images: (B,) int64, which pictures of the batch, counted from 0.
            t: a time, 0 ... 2^32 - 1.

        Returns:
            the noise, on the pictures' device; on the CPU where that has no float64 (MPS).
        """
        images = images.to(where_float64(images.device))
        n = math.prod(self.shape)
        block = torch.arange(-(-n // 4), device=images.device)
        time, zero = torch.full_like(block, t), torch.zeros_like(block)
        counter = block, (images + self.first)[:, None], time, zero
        words = philox(counter, (self.seed & _LOW, self.seed >> 32))
        # Four uniform numbers between 0 and 1; by Box and Muller, a radius and an angle
        # make two normal ones.
        u = (words.double() + 0.5) / 2**32
        radius, angle = (-2 * u[..., 0::2].log()).sqrt(), 2 * math.pi * u[..., 1::2]
        normal = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)
        return normal.flatten(1)[:, :n].reshape(-1, *self.shape).float()


def noise_for(
    shape: Sequence[int],
    device: torch.device,
    generator: Randomness,
    dtype: torch.dtype | None,
) -> Callable[[int], Tensor]:
    """Return a function of t: it draws the standard normal noise that enters x_t.

    A generator draws where it is, and the noise moves to `device`; a list has one
    generator a picture; a callable is asked which pictures and which t.

    Raises:
        ValueError: if a list has another length than the batch; later, if a callable's
            noise has another shape.
    """
    shape = tuple(shape)

    def draw(rng: torch.Generator | None, size: tuple[int, ...]) -> Tensor:
        at = rng.device if rng is not None else device
        drawn = torch.randn(size, dtype=dtype, generator=rng, device=at)
        return brought(drawn, device)

    if generator is None or isinstance(generator, torch.Generator):
        return lambda t: draw(generator, shape)
    if callable(generator):
        source = generator
        # Without float64 (MPS) a counter works on the CPU, and waits for nothing.
        images = torch.arange(shape[0], device=where_float64(device))

        def ask(t: int) -> Tensor:
            noise = source(images, t)
            if noise.shape != shape:
                raise ValueError(
                    f"generator: expected noise of shape {shape}, got {tuple(noise.shape)}"
                )
            return brought(noise.to(dtype or torch.get_default_dtype()), device)

        return ask
    each = list(generator)
    if len(each) != shape[0]:
        raise ValueError(
            f"generator: expected one, or one for each of {shape[0]} pictures, got {len(each)}"
        )
    return lambda t: torch.cat([draw(rng, (1, *shape[1:])) for rng in each])


def times_for(
    shape: Sequence[int], device: torch.device, generator: Randomness, T: int
) -> Callable[[range], Tensor]:
    """Return a function of a block of times: it draws one of them for each picture, evenly, (B,) int64.

    No x_t has a t beyond T; so a list's or a callable's noise of T + the block's last time is free to decide: Phi(z)
    is uniform.
    """
    if generator is None or isinstance(generator, torch.Generator):
        rng, at = generator, device if generator is None else generator.device
        return lambda block: brought(
            torch.randint(block[0], block[-1] + 1, shape[:1], generator=rng, device=at),
            device,
        )
    cpu = torch.device("cpu")  # MPS has no float64
    normal = noise_for(shape, cpu, generator, torch.float64)

    def draw(block: range) -> Tensor:
        if len(block) == 1:
            return torch.full(shape[:1], block[0], device=device)
        share = torch.special.ndtr(normal(T + block[-1]).flatten(1)[:, 0])
        t = block[0] + (share * len(block)).long()
        return brought(t.clamp(max=block[-1]), device)

    return draw


def in_batches(
    x: Tensor, size: int, generator: Randomness
) -> list[tuple[Tensor, Randomness]]:
    """Return x in batches, each with the randomness of its pictures.

    Raises:
        ValueError: if a list of generators has another length than x.
    """
    noise_for(x.shape, x.device, generator, x.dtype)  # refuses such a list
    starts = range(0, len(x), size)
    return [(x[i : i + size], part_of(generator, i, size)) for i in starts]


def part_of(generator: Randomness, first: int, n: int) -> Randomness:
    """Return the randomness of n of a batch's pictures, from number `first` on."""
    if generator is None or isinstance(generator, torch.Generator):
        return generator
    if callable(generator):
        source = generator
        return lambda images, t: source(images + first, t)
    return generator[first : first + n]


def fresh_for_each(generator: Randomness, n: int, T: int) -> Randomness:
    """Return the randomness of n copies of a batch, other noise for each copy.

    A callable is asked for the first copy as ever, for the second with T + 1 added to each time, and so on.
    """
    if generator is None or isinstance(generator, torch.Generator):
        return generator
    if callable(generator):
        source = generator
        return lambda images, t: torch.cat(
            [
                source(images[: len(images) // n], t + copy * (T + 1))
                for copy in range(n)
            ]
        )
    return [*generator] * n


def same_for_each(noise: Callable[[int], Tensor], n: int) -> NoiseSource:
    """Return the randomness of n copies of a batch, the same noise for each copy."""
    return lambda _, t: torch.cat([noise(t)] * n)
