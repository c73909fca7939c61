"""How many pictures a batch should have: as many as fit and still pay."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

#: Height and width of latents.
Shape = tuple[int, int]

#: Steps of one size that are remembered, and how many make a figure: a median of 5 stands two outliers.
_REMEMBERED, _ENOUGH = 15, 5
#: Seconds until a size is tried again that was found not to pay: other work on the machine passes.
_FRESH_S = 600.0
#: A larger batch has to draw this much more a second, or it only makes everyone in it wait for longer.
_PAYS = 1.05


@dataclass
class _Measured:
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    last: float = 0.0


class BatchSizes:
    """Learns from the steps themselves, by the latents' shape; nothing is run only to be measured."""

    def __init__(
        self, max_batch: int, max_pixels: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """*max_pixels* are latent pixels of all pictures of a batch together; one picture is always drawn."""
        self._max_batch, self._max_pixels, self._clock = max_batch, max_pixels, clock
        self._measured: dict[tuple[Shape, int], _Measured] = {}
        self._fitting: dict[Shape, int] = {}

    def limit(self, shape: Shape) -> int:
        """Most pictures of *shape* in a batch."""
        most = max(1, min(self._max_batch, self._max_pixels // (shape[0] * shape[1])))
        most = min(most, self._fitting.get(shape, most))
        rates = {size: rate for size in range(1, most + 1) if (rate := self._rate(shape, size)) is not None}
        for size, rate in rates.items():
            larger = [other for bigger, other in rates.items() if bigger > size]
            if larger and max(larger) < _PAYS * rate:
                return size
        return most

    def observe(self, shape: Shape, size: int, seconds: float) -> None:
        """Note how long a step of *size* pictures took."""
        measured = self._measured.setdefault((shape, size), _Measured())
        measured.seconds.append(seconds)
        measured.last = self._clock()

    def does_not_fit(self, shape: Shape, size: int) -> None:
        """The device's memory did not hold a batch of *size*: half of it from now on."""
        self._fitting[shape] = max(1, size // 2)

    def _rate(self, shape: Shape, size: int) -> float | None:
        measured = self._measured.get((shape, size))
        if measured is None or len(measured.seconds) < _ENOUGH:
            return None
        if self._clock() - measured.last > _FRESH_S:
            del self._measured[shape, size]
            return None
        return size / statistics.median(measured.seconds)
