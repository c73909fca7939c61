"""How many drawings are in the service at once, and how fast pictures come out of it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from enlight_common.errors import Overloaded

#: Weight of the newest pictures in the running mean of seconds per picture.
_FRESHNESS = 0.3
_MAX_RETRY_S = 600.0


class Place:
    """One drawing's place in the service."""

    def __init__(self, expect: Callable[[Place, int], None], finish: Callable[[Place, int], None]) -> None:
        self._expect, self._finish = expect, finish
        self.pictures = 0
        self.begun = False

    def expect(self, pictures: int) -> None:
        """Tell how many pictures are wanted, once that is known: the device is wanted from now on."""
        self._expect(self, pictures)

    def done(self) -> None:
        """Tell that all of them are drawn: the device is not wanted for them any more."""
        self._finish(self, self.pictures)

    def stepped(self, _done: int, _steps: int) -> None:
        """Tell that its pictures are being drawn; fit for an engine's ``on_step``."""
        self.begun = True


class Admission:
    """Bounds the drawings that wait or are being drawn.

    They share the device, so how fast it is does not show in how long one takes, but in how much time passes
    between one picture and the next while there is anything to draw.
    """

    def __init__(self, limit: int, wanted: Callable[[bool], None] = lambda wanted: None) -> None:
        """*limit*: drawings at once, those that wait included. *wanted* is told when pictures begin to be
        wanted of the device, and when none are any more; it must be quick.
        """
        self._limit, self._wanted = limit, wanted
        self._changed = threading.Lock()
        self._places: set[Place] = set()
        self._since = 0.0
        self._seconds_per_picture = 1.0
        self.pictures_done = 0
        #: Seconds in which there was something to draw.
        self.seconds = 0.0

    @property
    def busy(self) -> bool:
        """Whether anything is being drawn or waits."""
        return bool(self._places)

    @property
    def length(self) -> int:
        """Drawings that wait, those being drawn not counted."""
        with self._changed:
            return sum(not place.begun for place in self._places)

    @property
    def seconds_per_picture(self) -> float:
        """Running mean over the recent pictures."""
        return self._seconds_per_picture

    def seconds_ahead(self) -> float:
        """Estimate of when everything that is here now will be drawn, in seconds."""
        with self._changed:
            return self._seconds_ahead()

    @contextmanager
    def enter(self) -> Iterator[Place]:
        """A place for one drawing, to be told what becomes of its pictures.

        Raises:
            Overloaded: all are taken; ``retry_after`` is estimated from the recent pictures.
        """
        place = Place(self._expect, self._finish)
        with self._changed:
            if len(self._places) >= self._limit:
                wait_s = float(math.ceil(min(max(self._seconds_ahead(), 1.0), _MAX_RETRY_S)))
                detail = f"{self._limit} drawings are waiting already"
                raise Overloaded(detail, retry_after=wait_s, waiting=self._limit)
            self._places.add(place)
        try:
            yield place
        finally:
            self._finish(place, 0)
            with self._changed:
                self._places.remove(place)

    def _seconds_ahead(self) -> float:
        return self._seconds_per_picture * self._pictures_left

    def _expect(self, place: Place, pictures: int) -> None:
        with self._changed:
            if not self._pictures_left:
                self._since = time.monotonic()
                self._wanted(True)
            place.pictures = pictures

    @property
    def _pictures_left(self) -> int:
        return sum(place.pictures for place in self._places)

    def _finish(self, place: Place, drawn: int) -> None:
        """Nothing more is drawn for *place*; *drawn* pictures were."""
        with self._changed:
            if not place.pictures:
                return
            place.pictures = 0
            now = time.monotonic()
            passed, self._since = now - self._since, now
            self.seconds += passed
            if not self._pictures_left:
                self._wanted(False)
            if drawn:
                self._count(passed / drawn, drawn)

    def _count(self, newest: float, drawn: int) -> None:
        """Pictures that took *newest* seconds each."""
        first = self.pictures_done == 0
        self.pictures_done += drawn
        self._seconds_per_picture = (
            newest if first else _FRESHNESS * newest + (1 - _FRESHNESS) * self._seconds_per_picture
        )
