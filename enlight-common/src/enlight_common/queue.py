"""One piece of work at a time, in order of arrival, in a thread of its own.

OpenMP keeps a pool of threads per thread that computes: computing in each request's own thread would
make as many pools as there are request threads, all on the same cores. So one thread computes and the
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
#: Weight of the newest work in the running mean of seconds per unit.
_FRESHNESS = 0.3
_MAX_RETRY_S = 600.0


class Canceled(Exception):
    """The work was stopped before it was done: nobody waits for it any more, or the service is leaving."""


class _Ticket:
    def __init__(self, work: Callable[[Stop], Any], units: float, stop: Stop) -> None:
        self.work: Callable[[Stop], Any] | None = work
        self.units = units
        self.stop = stop
        self.done = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None


class WorkQueue:
    """A bounded queue in front of the thread that computes.

    Work is measured in units, of whatever takes about the same time each: pictures, tiles.
    """

    def __init__(self, limit: int, *, what: str = "requests") -> None:
        """*limit*: how many pieces of work may wait behind the one being done; *what* they are."""
        self._what = what
        self._limit = limit
        self._waiting: deque[_Ticket] = deque()
        self._current: _Ticket | None = None
        self._changed = threading.Condition()
        self._seconds_per_unit = 1.0
        self.units_done = 0.0
        self.seconds = 0.0
        threading.Thread(target=self._work_forever, name="work", daemon=True).start()

    @property
    def length(self) -> int:
        """Pieces that wait, the one being done not counted."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether anything is being done or waits."""
        with self._changed:
            return self._current is not None or bool(self._waiting)

    @property
    def seconds_per_unit(self) -> float:
        """Running mean over the recent work."""
        return self._seconds_per_unit

    def seconds_ahead(self) -> float:
        """Estimate of how long a new piece would wait, in seconds."""
        with self._changed:
            return self._seconds_ahead()

    def run(self, work: Callable[[Stop], Result], *, units: float, stop: Stop) -> Result:
        """Wait for the turn, let the thread do *work(stop)*, of so many *units*, and return what it returns.

        Raises:
            Overloaded: too many wait already; ``retry_after`` is estimated from the recent work.
            Canceled: *stop* said yes while waiting; *work* raises it when that happens later.
        """
        ticket = _Ticket(work, units, stop)
        with self._changed:
            if len(self._waiting) >= self._limit:
                detail = f"{self._limit} {self._what} are waiting already"
                overloaded = Overloaded(detail, waiting=self._limit)
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
        return self._seconds_per_unit * sum(ticket.units for ticket in tickets)

    def _leave(self, ticket: _Ticket) -> bool:
        """Give up the place; False where its turn has come, so that the work itself has to stop."""
        with self._changed:
            if ticket not in self._waiting:
                return False
            self._waiting.remove(ticket)
            return True

    def _work_forever(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                ticket = self._current = self._waiting.popleft()
            started = time.monotonic()
            # Dropped with the ticket: an idle thread must not keep the last work's pictures in memory.
            work, ticket.work = ticket.work, None
            assert work is not None
            try:
                ticket.result = work(ticket.stop)
                self._count(ticket.units, time.monotonic() - started)
            except BaseException as error:
                ticket.error = error
            finally:
                with self._changed:
                    self._current = None
                ticket.done.set()
                del work, ticket

    def _count(self, units: float, seconds: float) -> None:
        if units == 0:
            return
        self.units_done += units
        self.seconds += seconds
        newest = seconds / units
        first = self.units_done == units
        self._seconds_per_unit = (
            newest if first else (_FRESHNESS * newest + (1 - _FRESHNESS) * self._seconds_per_unit)
        )
