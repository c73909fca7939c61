"""How many pictures a batch should have: as many as fit and still pay."""

from __future__ import annotations

import statistics
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

#: Height and width of latents.
Shape = tuple[int, int]
Clock = Callable[[], float]

#: Steps of one size that are remembered, and how many make a figure: a median of 5 stands two outliers.
_REMEMBERED, _ENOUGH = 15, 5
#: Seconds until a size is tried again that was found not to pay or not to fit: other work on the machine
#: passes, and so does what else was in the memory.
_FRESH_S = 600.0
#: A larger batch has to draw this much more a second, or it only makes everyone in it wait for longer.
_PAYS = 1.05
#: Shapes, and sizes of shapes, that are known at once; clients choose the shapes. Those longest not drawn go.
_KNOWN = 512


class FittingSizes:
    """As many as fit: within the bounds, and fewer where the memory turned out too small. For one thread."""

    def __init__(self, max_batch: int, max_pixels: int, *, clock: Clock = time.monotonic) -> None:
        """*max_pixels* are latent pixels of all pictures of a batch together; one picture is always drawn."""
        self._max_batch, self._max_pixels, self._clock = max_batch, max_pixels, clock
        #: How many fit, and since when that is known.
        self._fitting: OrderedDict[Shape, tuple[int, float]] = OrderedDict()

    def limit(self, shape: Shape) -> int:
        """Most pictures of *shape* in a batch."""
        most = max(1, min(self._max_batch, self._max_pixels // (shape[0] * shape[1])))
        found = self._fitting.get(shape)
        if found is None:
            return most
        if self._clock() - found[1] > _FRESH_S:
            del self._fitting[shape]
            return most
        return min(most, found[0])

    def does_not_fit(self, shape: Shape, size: int) -> None:
        """The device's memory did not hold a batch of *size*: half of it for a while."""
        self._fitting[shape] = (max(1, size // 2), self._clock())
        self._fitting.move_to_end(shape)
        _keep_known(self._fitting)


@dataclass(frozen=True)
class Figure:
    """What is known of batches of *size* pictures: how long a step of theirs takes."""

    shape: Shape
    size: int
    seconds: float


@dataclass
class _Measured:
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    last: float = 0.0

    @property
    def enough(self) -> bool:
        return len(self.seconds) >= _ENOUGH


class BatchSizes(FittingSizes):
    """As many as pay, too: learned from the steps themselves, by the latents' shape.

    Nothing is run only to be measured.
    """

    def __init__(self, max_batch: int, max_pixels: int, *, clock: Clock = time.monotonic) -> None:
        super().__init__(max_batch, max_pixels, clock=clock)
        #: Told all figures when there is another one.
        self.learned: Callable[[list[Figure]], object] = lambda figures: None
        self._measured: OrderedDict[tuple[Shape, int], _Measured] = OrderedDict()

    def limit(self, shape: Shape) -> int:
        most = super().limit(shape)
        rates = {size: rate for size in range(1, most + 1) if (rate := self._rate(shape, size)) is not None}
        for size, rate in rates.items():
            larger = [other for bigger, other in rates.items() if bigger > size]
            if larger and max(larger) < _PAYS * rate:
                return size
        return most

    def observe(self, shape: Shape, size: int, seconds: float) -> None:
        """Note how long a step of *size* pictures took."""
        if self._note(shape, size, seconds):
            self.learned(self.figures())

    def _note(self, shape: Shape, size: int, seconds: float) -> bool:
        """Whether that makes another figure."""
        measured = self._measured.setdefault((shape, size), _Measured())
        before = measured.enough
        measured.seconds.append(seconds)
        measured.last = self._clock()
        self._measured.move_to_end((shape, size))
        _keep_known(self._measured)
        return measured.enough and not before

    def for_others(self) -> FittingSizes:
        """The same bounds for another thread, that finds out by itself what fits."""
        return FittingSizes(self._max_batch, self._max_pixels, clock=self._clock)

    def figures(self) -> list[Figure]:
        """What is known by now."""
        return [
            Figure(shape, size, statistics.median(measured.seconds))
            for (shape, size), measured in self._measured.items()
            if measured.enough
        ]

    def recall(self, figures: Iterable[Figure]) -> None:
        """Take what was known before. It counts as if it was measured now, and is tried again as that is."""
        for figure in figures:
            for _ in range(_ENOUGH):
                self._note(figure.shape, figure.size, figure.seconds)

    def _rate(self, shape: Shape, size: int) -> float | None:
        measured = self._measured.get((shape, size))
        if measured is None or not measured.enough:
            return None
        if self._clock() - measured.last > _FRESH_S:
            del self._measured[shape, size]
            return None
        return size / statistics.median(measured.seconds)


def _keep_known(known: OrderedDict[Any, Any]) -> None:
    while len(known) > _KNOWN:
        known.popitem(last=False)
