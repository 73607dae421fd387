"""Samplers as tests name them: a rule and its times, in one call with the options of both."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from ddpm_nb.algorithms import Step, ancestral, sample, sample_steps
from ddpm_nb.fewer_steps import strided, timesteps
from ddpm_nb.forward import Schedule
from ddpm_nb.loss import Model


def algorithm_2_steps(
    model: Model,
    shape: Sequence[int],
    schedule: Schedule,
    *,
    variance: Any = "large",
    **options: Any,
) -> Iterator[Step]:
    return sample_steps(model, shape, schedule, ancestral(variance), **options)


def algorithm_2(
    model: Model,
    shape: Sequence[int],
    schedule: Schedule,
    *,
    variance: Any = "large",
    **options: Any,
) -> Tensor:
    return sample(model, shape, schedule, ancestral(variance), **options)


def strided_sample_steps(
    model: Model,
    shape: Sequence[int],
    schedule: Schedule,
    steps: int,
    *,
    variance: Any = "large",
    spacing: Any = "trailing",
    **options: Any,
) -> Iterator[Step]:
    times = timesteps(schedule.T, steps, spacing)
    return sample_steps(model, shape, schedule, strided(variance), times, **options)


def strided_sample(
    model: Model,
    shape: Sequence[int],
    schedule: Schedule,
    steps: int,
    *,
    variance: Any = "large",
    spacing: Any = "trailing",
    **options: Any,
) -> Tensor:
    times = timesteps(schedule.T, steps, spacing)
    return sample(model, shape, schedule, strided(variance), times, **options)
