"""The end of a service: first it takes no new work, then what it still does has to stop."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from enlight_common.errors import ShuttingDown

log = logging.getLogger(__name__)

#: What a service that leaves answers with, and says of its readiness.
WORDS = "the service is shutting down"


class Leaving:
    """Where a service stands on its way out. Its parts share one."""

    def __init__(self) -> None:
        self._draining = threading.Event()
        self._stopping = threading.Event()

    @property
    def draining(self) -> bool:
        """Whether no new work is taken."""
        return self._draining.is_set()

    @property
    def stopping(self) -> bool:
        """Whether the grace time is over and what still runs has to stop."""
        return self._stopping.is_set()

    def check_open(self) -> None:
        """Raise ShuttingDown once no new work is taken."""
        if self.draining:
            raise ShuttingDown(WORDS)

    def wait(self, seconds: float) -> bool:
        """Wait until no new work is taken, *seconds* at most; whether that is so."""
        return self._draining.wait(seconds)

    def drain(self, grace_s: float, idle: Callable[[float], bool], last_s: float = 3.0) -> None:
        """Take no new work, give what is in flight *grace_s* seconds, and then let it stop within *last_s*.

        *idle* waits until nothing is in flight, for so many seconds at most, and tells whether that is so.
        Nothing happens where it was called before.
        """
        if self.draining:
            return
        self._draining.set()
        log.info("draining", extra={"grace_s": grace_s})
        idle_in_time = idle(grace_s)
        # Set in any case: nobody should wait for a process that has nothing left to do.
        self._stopping.set()
        if not idle_in_time:
            idle(last_s)
