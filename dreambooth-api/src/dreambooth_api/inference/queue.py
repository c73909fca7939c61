"""One drawing at a time, in order of arrival, in a thread of its own.

OpenMP keeps a pool of threads per thread that computes: drawing in each request's own thread would
make as many pools as there are request threads, all on the same cores. So one thread draws and the
requests wait for it.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar, cast

from enlight_common.errors import Overloaded

Result = TypeVar("Result")
Stop = Callable[[], bool]

#: How often a waiting request looks whether its client is still there, in seconds.
_LOOK_S = 0.25
#: Weight of the newest drawing in the running mean of seconds per picture.
_FRESHNESS = 0.3
_MAX_RETRY_S = 600.0


class Canceled(Exception):
    """The drawing was stopped before it was done: nobody waits for it any more, or the service is leaving."""


class _Ticket:
    def __init__(self, work: Callable[[Stop], Any], pictures: int, stop: Stop) -> None:
        self.work = work
        self.pictures = pictures
        self.stop = stop
        self.done = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None


class DrawingQueue:
    """A bounded queue in front of the thread that draws."""

    def __init__(self, limit: int) -> None:
        """*limit*: how many drawings may wait behind the one being drawn."""
        self._limit = limit
        self._waiting: deque[_Ticket] = deque()
        self._current: _Ticket | None = None
        self._changed = threading.Condition()
        self._seconds_per_picture = 1.0
        self.pictures_drawn = 0
        self.drawing_seconds = 0.0
        threading.Thread(target=self._draw_forever, name="drawing", daemon=True).start()

    @property
    def length(self) -> int:
        """Drawings that wait, the one being drawn not counted."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether anything is being drawn or waits."""
        with self._changed:
            return self._current is not None or bool(self._waiting)

    @property
    def seconds_per_picture(self) -> float:
        """Running mean over the recent drawings."""
        return self._seconds_per_picture

    def seconds_ahead(self) -> float:
        """Estimate of how long a new drawing would wait, in seconds."""
        with self._changed:
            return self._seconds_ahead()

    def run(self, work: Callable[[Stop], Result], *, pictures: int, stop: Stop) -> Result:
        """Wait for the turn, let the drawing thread do *work(stop)* and return what it returns.

        Raises:
            Overloaded: too many wait already; ``retry_after`` is estimated from the recent drawings.
            Canceled: *stop* said yes while waiting; *work* raises it when that happens while drawing.
        """
        ticket = _Ticket(work, pictures, stop)
        with self._changed:
            if len(self._waiting) >= self._limit:
                overloaded = Overloaded(f"{self._limit} drawings are waiting already", waiting=self._limit)
                overloaded.retry_after = float(math.ceil(min(max(self._seconds_ahead(), 1.0), _MAX_RETRY_S)))
                raise overloaded
            self._waiting.append(ticket)
            self._changed.notify()
        while not ticket.done.wait(_LOOK_S):
            if stop() and self._leave(ticket):
                raise Canceled
        if ticket.error is not None:
            raise ticket.error
        return cast(Result, ticket.result)

    def _seconds_ahead(self) -> float:
        tickets = [*self._waiting, *([self._current] if self._current else [])]
        return self._seconds_per_picture * sum(ticket.pictures for ticket in tickets)

    def _leave(self, ticket: _Ticket) -> bool:
        """Give up the place; False where its turn has come, so that the drawing itself has to stop."""
        with self._changed:
            if ticket not in self._waiting:
                return False
            self._waiting.remove(ticket)
            return True

    def _draw_forever(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                ticket = self._current = self._waiting.popleft()
            started = time.monotonic()
            try:
                ticket.result = ticket.work(ticket.stop)
                self._count(ticket.pictures, time.monotonic() - started)
            except BaseException as error:
                ticket.error = error
            finally:
                with self._changed:
                    self._current = None
                ticket.done.set()

    def _count(self, pictures: int, seconds: float) -> None:
        if pictures == 0:
            return
        self.pictures_drawn += pictures
        self.drawing_seconds += seconds
        newest = seconds / pictures
        first = self.pictures_drawn == pictures
        self._seconds_per_picture = (
            newest if first else (_FRESHNESS * newest + (1 - _FRESHNESS) * self._seconds_per_picture)
        )
