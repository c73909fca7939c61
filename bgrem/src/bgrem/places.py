"""How many requests have pictures in memory: a few work, more wait, the rest are told to come back."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from enlight_common.errors import Overloaded
from enlight_common.queue import Canceled

_LOOK_S = 0.25
_MAX_RETRY_S = 600.0
#: Weight of the newest work in the running mean of seconds.
_FRESHNESS = 0.3


class Places:
    """*working* requests are being worked on at the same time; *waiting* more hold their text only.

    *what* they are is for the words of refusals.
    """

    def __init__(self, *, working: int, waiting: int, what: str = "requests") -> None:
        self._what = what
        self._working = working
        self._limit = working + waiting
        self._hands = threading.Semaphore(working)
        self._lock = threading.Lock()
        self._seconds_each = 1.0
        self.taken = 0

    def check_room(self) -> None:
        """Raise Overloaded where no place is free, before anything is done for the request."""
        if self.taken >= self._limit:
            seconds = min(max(1.0, self.taken * self._seconds_each / self._working), _MAX_RETRY_S)
            raise Overloaded(f"{self._limit} {self._what} are being worked on or wait", retry_after=seconds)

    @contextlib.contextmanager
    def enter(self) -> Iterator[None]:
        """A place to wait in. Raises Overloaded with an estimate from the recent work."""
        with self._lock:
            self.check_room()
            self.taken += 1
        try:
            yield
        finally:
            with self._lock:
                self.taken -= 1

    @contextlib.contextmanager
    def work(self, stop: Callable[[], bool]) -> Iterator[None]:
        """Wait for the turn to work. Raises Canceled when *stop* says so meanwhile."""
        while not self._hands.acquire(timeout=_LOOK_S):
            if stop():
                raise Canceled
        try:
            if stop():
                raise Canceled
            started = time.monotonic()
            yield
            self._count(time.monotonic() - started)
        finally:
            self._hands.release()

    def _count(self, seconds: float) -> None:
        with self._lock:
            self._seconds_each = _FRESHNESS * seconds + (1 - _FRESHNESS) * self._seconds_each
