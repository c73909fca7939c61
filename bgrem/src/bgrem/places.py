"""How many requests have pictures in memory: a few work, more wait, the rest are told to come back."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from enlight_common.errors import Overloaded
from enlight_common.patience import InFlight, Turns
from enlight_common.queue import Canceled, Stop

_MAX_RETRY_S = 600.0
#: Weight of the newest work in the running mean of seconds.
_FRESHNESS = 0.3


class Places:
    """*working* requests are being worked on at the same time; *waiting* more hold their text only.

    *what* they are is for the words of refusals, which say by the recent work when to come back.
    """

    def __init__(self, *, working: int, waiting: int, what: str = "requests") -> None:
        self._what = what
        self._working = working
        self._limit = working + waiting
        self._hands = Turns(working)
        self._entering = threading.Lock()
        self._seconds_each = 1.0
        self.in_flight = InFlight()

    @property
    def taken(self) -> int:
        """How many places are."""
        return self.in_flight.count

    def check(self) -> None:
        """Raise Overloaded where no place is free, before anything is done for the request."""
        if self.taken >= self._limit:
            seconds = min(max(1.0, self.taken * self._seconds_each / self._working), _MAX_RETRY_S)
            raise Overloaded(f"{self._limit} {self._what} are being worked on or wait", retry_after=seconds)

    @contextlib.contextmanager
    def enter(self) -> Iterator[None]:
        """A place to wait in. Raises Overloaded."""
        with contextlib.ExitStack() as place:
            with self._entering:
                self.check()
                place.enter_context(self.in_flight.one())
            yield

    @contextlib.contextmanager
    def work(self, stop: Stop) -> Iterator[None]:
        """Wait for the turn to work. Raises Canceled when *stop* says so meanwhile."""
        with self._hands.enter(stop):
            if stop():
                raise Canceled
            started = time.monotonic()
            yield
            self._seconds_each += _FRESHNESS * (time.monotonic() - started - self._seconds_each)
