"""How long an engine takes for its work, measured while it works."""

from __future__ import annotations

from collections.abc import Callable

#: Is told each bit of work that is done, in units.
Advance = Callable[[float], None]

#: Weight of the newest measurement in the running mean.
_FRESHNESS = 0.3


class Pace:
    """A running mean of the seconds that a unit of work takes; 0 before anything was measured."""

    def __init__(self) -> None:
        self.seconds_per_unit = 0.0

    def learn(self, seconds: float, units: float) -> None:
        """*units* of work took so many *seconds*."""
        newest = seconds / units
        if self.seconds_per_unit:
            self.seconds_per_unit += _FRESHNESS * (newest - self.seconds_per_unit)
        else:
            self.seconds_per_unit = newest


def nobody(_units: float) -> None:
    """The `Advance` of work that nobody follows."""
