"""What is promised, judged by what was measured; and, where it is missed, what the time goes to."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch.profiler import ProfilerActivity, profile

from benchmarks.candidates import (
    OURS_32,
    OURS_32_LAST,
    OURS_AUTOCAST,
    OURS_WEIGHTS,
    THEIRS_32,
    THEIRS_32_LAST,
    THEIRS_AUTOCAST,
    THEIRS_WEIGHTS,
    Candidate,
)

# One pair a round: seconds on the wall, seconds of the processor.
Times = list[tuple[float, float]]

# The share of the bare layers' speed; how many times as fast as the fastest of diffusers' candidates; and as others.
SHARE = {"train": 0.82, "sample": 0.88}
FASTER = {"train": 1.15, "sample": 1.06}
PAIRS = {
    "train": (
        (OURS_AUTOCAST, THEIRS_32, 2.0),
        (OURS_AUTOCAST, THEIRS_AUTOCAST, 1.0),
        (OURS_32, THEIRS_32, 1.0),
    ),
    "sample": (
        (OURS_WEIGHTS, THEIRS_32, 2.0),
        (OURS_WEIGHTS, THEIRS_WEIGHTS, 1.0),
        (OURS_32, THEIRS_32, 1.0),
        (OURS_32_LAST, THEIRS_32_LAST, 1.0),
    ),
}


@dataclass(frozen=True)
class Goal:
    """A figure that should be at least so large, for one of our candidates. Of several figures the median counts."""

    ours: str
    text: str
    figures: Sequence[float]
    at_least: float
    processor: Sequence[
        float
    ] = ()  # the same by the processor's clock: shown, not judged

    @property
    def met(self) -> bool:
        """Whether the goal is reached."""
        return statistics.median(self.figures) >= self.at_least


def ratios(slow: Times, fast: Times, clock: int = 0) -> list[float]:
    """Return slow / fast, round by round, by the clock on the wall (0) or the processor's (1)."""
    return [a[clock] / b[clock] for a, b in zip(slow, fast, strict=True)]


def spread(figures: Sequence[float]) -> str:
    """Return the median and the middle half, or "" for no figures."""
    if not figures:
        return ""
    if len(figures) < 2:
        return f"{figures[0]:.2f}"
    low, middle, high = statistics.quantiles(figures, n=4, method="inclusive")
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def fastest(candidates: Sequence[Candidate], seconds: dict[str, Times]) -> Candidate:
    """Return the candidate with the smallest median on the wall."""
    return min(
        candidates, key=lambda c: statistics.median(wall for wall, _ in seconds[c.name])
    )


def goals(
    task: str,
    candidates: Sequence[Candidate],
    seconds: dict[str, Times],
    peaks: dict[str, int],
) -> list[Goal]:
    """Return the goals of a task with their figures.

    First our fastest candidate against the ceiling and against the fastest of diffusers'; then fixed pairs.
    """
    bare = next(c for c in candidates if c.bare)
    whole = [c for c in candidates if not c.bare]
    ours = fastest([c for c in whole if c.ours], seconds)
    theirs = fastest([c for c in whole if not c.ours], seconds)
    alike = fastest(
        [c for c in whole if c.ours and c.precision == bare.precision], seconds
    )

    def speed(us: Candidate, other: Candidate, text: str, at_least: float) -> Goal:
        pair = seconds[other.name], seconds[us.name]
        return Goal(us.name, text, ratios(*pair), at_least, ratios(*pair, clock=1))

    memory = [peaks[theirs.name] / peaks[ours.name]]
    return [
        speed(alike, bare, "share of its bare layers", SHARE[task]),
        speed(ours, theirs, f"times as fast as {theirs.name}", FASTER[task]),
        Goal(ours.name, f"peak memory of {theirs.name} over ours", memory, 1.0),
        *(
            speed(us, other, f"times as fast as {other.name}", at_least)
            for us, other, at_least in PAIRS[task]
        ),
    ]


def verdict(goals: Sequence[Goal]) -> str:
    """Return the goals as a table in Markdown, each beside its figure."""
    rows = [
        "| this | goal | wall | processor | at least | |",
        "|---|---|---|---|---|---|",
    ]
    for g in goals:
        shown = f"{spread(g.figures)} | {spread(g.processor)} | {g.at_least:.2f}"
        rows.append(
            f"| {g.ours} | {g.text} | {shown} | {'met' if g.met else 'MISSED'} |"
        )
    return "\n".join(rows)


def time_by_operator(step: Callable[[], None], rows: int = 15) -> str:
    """Return the operators that take most of a step's time, as a table in Markdown."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    operators = profiler.key_averages()
    total = sum(o.self_cpu_time_total for o in operators)
    operators.sort(key=lambda o: o.self_cpu_time_total, reverse=True)
    lines = ["| operator | calls | share of the time |", "|---|---|---|"]
    lines += [
        f"| {o.key} | {o.count} | {o.self_cpu_time_total / total:.1%} |"
        for o in operators[:rows]
    ]
    return "\n".join(lines)
