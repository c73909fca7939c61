"""How far each piece of work is, for clients that ask while another connection of theirs waits for it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator


class Told:
    """The progress of one request. Seconds left count down between two tellings."""

    def __init__(self) -> None:
        self.running = False
        self.done = 0.0
        self._left = 0.0
        self._told_at = time.monotonic()

    def begin(self, seconds_left: float) -> None:
        """Its turn has come."""
        self.running = True
        self.tell(0.0, seconds_left)

    def tell(self, done: float, seconds_left: float) -> None:
        """The share that is done, and the seconds that the rest takes by estimate."""
        self.done, self._left, self._told_at = done, seconds_left, time.monotonic()

    @property
    def seconds_left(self) -> float:
        """By estimate; 0 where it takes longer than it should."""
        return max(0.0, self._left - (time.monotonic() - self._told_at))


class Progresses:
    """The requests in flight, which the places for them bound in number."""

    def __init__(self) -> None:
        self._told: dict[str, Told] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def follow(self, request_id: str) -> Iterator[Told]:
        """Let the request be asked for while the block runs; of two with one id, the newer."""
        told = Told()
        with self._lock:
            self._told[request_id] = told
        try:
            yield told
        finally:
            with self._lock:
                if self._told.get(request_id) is told:
                    del self._told[request_id]

    def of(self, request_id: str) -> Told | None:
        """The progress of a request in flight."""
        with self._lock:
            return self._told.get(request_id)
