"""Timing two or more ways in turns, so that a machine that slows down slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Way = Callable[[], object]


def seconds(way: Way) -> float:
    """How long *way* takes once."""
    started = time.perf_counter()
    way()
    return time.perf_counter() - started


def in_turns(ways: Mapping[str, Way], rounds: int) -> list[dict[str, float]]:
    """Seconds of each way in each round, after a round of warming up; every other round goes backwards, so
    that none always follows the same other.
    """
    taken = []
    for number in range(rounds + 1):
        names = list(ways) if number % 2 else list(reversed(list(ways)))
        in_round = {name: seconds(ways[name]) for name in names}
        if number:
            taken.append(in_round)
    return taken


@dataclass(frozen=True)
class Spread:
    """A figure over all rounds: its median and quartiles."""

    median: float
    lower: float
    upper: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        lower, median, upper = (
            statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
        )
        return cls(median, lower, upper, len(values))

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.lower:.3f} to {self.upper:.3f})"
