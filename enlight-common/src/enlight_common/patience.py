"""How long a client waits: what would take longer is refused at once, what does take longer is stopped."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from enlight_common.errors import TimedOut
from enlight_common.queue import Canceled, Stop

_LOOK_S = 0.25


class Patience:
    """The seconds that a client waits, from now on."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._deadline = time.monotonic() + seconds

    @property
    def over(self) -> bool:
        """Whether the time has run out."""
        return self.left <= 0

    @property
    def left(self) -> float:
        """Seconds; below 0 once they are over."""
        return self._deadline - time.monotonic()

    def check(self, estimate_s: float, ahead_s: float = 0.0) -> None:
        """Refuse what would take *estimate_s* seconds after *ahead_s* of other work, where that is too long.

        Raises:
            TimedOut: with the estimate and the patience in seconds.
        """
        if estimate_s + ahead_s <= self.left:
            return
        waiting = f" after {ahead_s:.0f} s of other work" if ahead_s >= 1 else ""
        raise TimedOut(
            f"the work would take about {estimate_s:.0f} s{waiting}, more than the {self.seconds:g} s "
            "allowed; nothing was done",
            estimated_seconds=round(estimate_s + ahead_s, 1),
            patience_seconds=self.seconds,
        )

    @contextlib.contextmanager
    def limit(self, stop: Stop) -> Iterator[Stop]:
        """A *stop* that also says so when the time has run out; Canceled is TimedOut then."""
        late = False

        def stop_or_late() -> bool:
            nonlocal late
            late = late or self.over
            return late or stop()

        try:
            yield stop_or_late
        except Canceled:
            if late:
                raise TimedOut("the work was not finished within the time allowed for it") from None
            raise


class Turns:
    """So many at a time; the rest wait until *stop* says that nobody waits for them any more."""

    def __init__(self, at_once: int) -> None:
        self._free = threading.Semaphore(at_once)

    @contextlib.contextmanager
    def enter(self, stop: Stop) -> Iterator[None]:
        """Wait for the turn. Raises Canceled when *stop* says so first."""
        while not self._free.acquire(timeout=_LOOK_S):
            if stop():
                raise Canceled
        try:
            yield
        finally:
            self._free.release()


class InFlight:
    """Counts the blocks that are under way, so that a service that leaves can wait for them."""

    def __init__(self) -> None:
        #: How many there are now.
        self.count = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Count the block."""
        with self._changed:
            self.count += 1
        try:
            yield
        finally:
            with self._changed:
                self.count -= 1
                self._changed.notify_all()

    def wait_for_none(self, seconds: float) -> bool:
        """Wait until none is under way; False when that was not so within *seconds*."""
        with self._changed:
            return self._changed.wait_for(lambda: self.count == 0, timeout=seconds)
