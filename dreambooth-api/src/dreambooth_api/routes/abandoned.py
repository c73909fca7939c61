"""Synchronous trainings that nobody waits for any more are stopped, so that the trainer is free again."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable


class AbandonedRuns:
    """Counts who waits for a run; when the last one leaves, and nobody asked to keep it, it is given up.

    Joining and giving up exclude each other: nobody joins a run that is about to be stopped.
    """

    def __init__(self, give_up: Callable[[str], None]) -> None:
        """*give_up(run_id)* is called for a run that nobody waits for; it may be over already.

        It must be quick, and leave the run such that it is not joined any more.
        """
        self._give_up = give_up
        self._waiting: Counter[str] = Counter()
        # One run goes on at a time: those of long ago need not be known.
        self._kept: deque[str] = deque(maxlen=64)
        self._lock = threading.Lock()

    def join(self, start: Callable[[], str], *, keep: bool) -> str:
        """The id of the run that *start* began or joined.

        With *keep* it was promised to a client that comes back for it. Without, the caller waits for it,
        and has to ``leave`` it once.
        """
        with self._lock:
            run_id = start()
            if keep:
                self._kept.append(run_id)
            else:
                self._waiting[run_id] += 1
        return run_id

    def leave(self, run_id: str, *, keep: bool = False) -> None:
        """Somebody waits no more; with *keep* the run was promised to them for later."""
        with self._lock:
            if keep:
                self._kept.append(run_id)
            self._waiting[run_id] -= 1
            if not self._waiting[run_id]:
                del self._waiting[run_id]
                if run_id not in self._kept:
                    self._give_up(run_id)
