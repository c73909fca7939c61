"""Synchronous trainings that nobody waits for any more are stopped, so that the trainer is free again."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class AbandonedRuns:
    """Counts who waits for a run; when the last one leaves, and nobody asked to keep it, it is given up."""

    def __init__(self, give_up: Callable[[str], None]) -> None:
        """*give_up(run_id)* is called for a run that nobody waits for; it may be over already."""
        self._give_up = give_up
        self._waiting: Counter[str] = Counter()
        # One run goes on at a time: those of long ago need not be known.
        self._kept: deque[str] = deque(maxlen=64)
        self._lock = threading.Lock()

    def keep(self, run_id: str) -> None:
        """The run was promised to a client that comes back for it."""
        with self._lock:
            self._kept.append(run_id)

    @contextmanager
    def waiting(self, run_id: str) -> Iterator[None]:
        """Somebody waits for the run while the context lasts."""
        with self._lock:
            self._waiting[run_id] += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting[run_id] -= 1
                abandoned = not self._waiting[run_id]
                if abandoned:
                    del self._waiting[run_id]
                abandoned = abandoned and run_id not in self._kept
            if abandoned:
                self._give_up(run_id)
