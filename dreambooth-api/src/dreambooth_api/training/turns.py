"""Whose turn it is on a device that both trains and draws: the trainer asks before each step."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from dreambooth_api.training.orders import SharingPolicy

#: However many pictures are wanted, a training does a step after so many seconds: it has leases and
#: deadlines too.
LONGEST_PAUSE_S = 10.0


class Turns:
    """Lets a step begin when the policy allows it.

    `interactive-first`: not while pictures are wanted, but for one step after each `longest_pause_s`.
    `share`: while pictures are wanted, it rests as long as its last step took, or `longest_pause_s`.
    `training-first`: at once.
    """

    def __init__(
        self,
        policy: SharingPolicy,
        *,
        longest_pause_s: float = LONGEST_PAUSE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy, self._longest_s, self._clock = policy, longest_pause_s, clock
        self._changed = threading.Condition()
        self._pictures = False
        self._leaving = False
        self._began: float | None = None
        self.paused_s = 0.0  # in all

    def pictures(self, waiting: bool) -> None:
        """Pictures are wanted, or none are any more."""
        with self._changed:
            self._pictures = waiting
            self._changed.notify_all()

    def leave(self) -> None:
        """Wait no more, now and ever: the run is to end."""
        with self._changed:
            self._leaving = True
            self._changed.notify_all()

    def await_step(self) -> None:
        """Return when the next step may begin, or the run is to end."""
        with self._changed:
            ended = self._clock()
            until = ended + self._pause_s(ended)
            while self._pictures and not self._leaving and (left := until - self._clock()) > 0:
                self._changed.wait(left)
            self._began = self._clock()
            self.paused_s += self._began - ended

    def _pause_s(self, now: float) -> float:
        if self._policy == "training-first":
            return 0.0
        if self._policy == "interactive-first":
            return self._longest_s
        return min(self._longest_s, 0.0 if self._began is None else now - self._began)
