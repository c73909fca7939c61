"""How many requests have pictures in memory: a few work, more wait, the rest are told to come back."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from enlight_common.errors import Overloaded
from enlight_common.queue import Canceled

_LOOK_S = 0.25
_MAX_RETRY_S = 600.0


class Places:
    """*working* requests decode, compute and encode at the same time; *waiting* more hold their text only."""

    def __init__(self, *, working: int, waiting: int) -> None:
        self._limit = working + waiting
        self._hands = threading.Semaphore(working)
        self._lock = threading.Lock()
        self.taken = 0

    @contextlib.contextmanager
    def enter(self, seconds_each: float) -> Iterator[None]:
        """A place to wait in. Raises Overloaded; *seconds_each* is what a request takes, for its estimate."""
        with self._lock:
            if self.taken >= self._limit:
                seconds = min(max(1.0, self.taken * seconds_each), _MAX_RETRY_S)
                raise Overloaded(f"{self._limit} requests are being worked on or wait", retry_after=seconds)
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
            yield
        finally:
            self._hands.release()
