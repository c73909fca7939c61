"""How many bodies may be under way at the same time, so that slow ones cannot take every thread.

gunicorn gives each request a thread, which waits for as long as its body arrives. A client that sends a
byte now and then would hold one for the whole of `body_seconds`, and a few dozen such all of them.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import sys
import termios
import threading
import time
from collections.abc import Iterator

from enlight_common.errors import Overloaded

#: A body may be as slow as it likes for this long; then, and only while others wait, it has to keep the pace.
_GRACE_S = 1.0
#: 256 kbit/s. A body of 2 MB at that pace would not arrive within a minute anyway.
_PACE_BYTES_PER_S = 32 * 1024
#: How long a body may wait for a place. Longer than the grace, after which a slow one makes room.
_PATIENCE_S = 2.0
_LOOK_S = 0.1


class Arrival:
    """A body that is being read, or with `sending` an answer that is being written."""

    def __init__(self, client: socket.socket | None, *, sending: bool = False) -> None:
        self._client = client
        self._sending = sending
        self._began = time.monotonic()
        #: Bytes so far; whoever reads, or writes, counts them here.
        self.received = 0
        #: Whether it was given up, by its deadline or because it held up others; reading then sees its end.
        self.given_up = threading.Event()

    @property
    def pace(self) -> float:
        """Bytes per second so far; infinite during the grace time, and where reading cannot be ended."""
        seconds = time.monotonic() - self._began
        if self._client is None or seconds < _GRACE_S:
            return float("inf")
        return (self.received - self._on_its_way(self._client)) / seconds

    def _on_its_way(self, client: socket.socket) -> int:
        """Bytes of an answer that wait in the system's buffer, which may be megabytes that nobody takes."""
        if not self._sending:
            return 0
        try:
            return int.from_bytes(fcntl.ioctl(client, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        except OSError:
            return 0

    def give_up(self) -> None:
        """Let its reader see the end of the stream, or its writer a broken connection."""
        self.given_up.set()
        if self._client is not None:
            with contextlib.suppress(OSError):
                self._client.shutdown(socket.SHUT_RDWR if self._sending else socket.SHUT_RD)


class BodyGate:
    """Lets *reading* bodies arrive at the same time; *waiting* more wait for at most two seconds.

    Whoever waits takes the place of the slowest body that is older than a second and slower than 32 KiB/s.
    So clients that drip bodies get 408 when others have something to send, and never hold the gate.
    """

    def __init__(self, *, reading: int, waiting: int) -> None:
        self._limit = reading
        self._most_waiting = waiting
        self._changed = threading.Condition()
        self._arrivals: set[Arrival] = set()
        self._waiting = 0

    @classmethod
    def of_threads(cls, threads: int) -> BodyGate:
        """A gate that takes a quarter of so many threads and lets half as many more wait.

        Where work that waits takes half of the threads, an eighth is left for ``/healthz``.
        """
        return cls(reading=max(1, threads // 4), waiting=max(1, threads // 8))

    @property
    def taken(self) -> int:
        """How many bodies are being read."""
        return len(self._arrivals)

    @contextlib.contextmanager
    def enter(
        self, client: socket.socket | None, *, patience_s: float = _PATIENCE_S, sending: bool = False
    ) -> Iterator[Arrival]:
        """A place to read a body from *client* in, or with `sending` to write it an answer.

        Raises Overloaded where none became free in time.
        """
        arrival = self._admit(client, patience_s, sending)
        try:
            yield arrival
        finally:
            with self._changed:
                self._arrivals.discard(arrival)
                self._changed.notify()

    def _admit(self, client: socket.socket | None, patience_s: float, sending: bool) -> Arrival:
        with self._changed:
            if len(self._arrivals) >= self._limit:
                self._wait(patience_s)
            arrival = Arrival(client, sending=sending)
            self._arrivals.add(arrival)
            return arrival

    def _wait(self, patience_s: float) -> None:
        if self._waiting >= self._most_waiting:
            raise self._overloaded()
        deadline = time.monotonic() + patience_s
        self._waiting += 1
        try:
            while len(self._arrivals) >= self._limit:
                self._make_room()
                left = deadline - time.monotonic()
                if left <= 0:
                    raise self._overloaded()
                self._changed.wait(min(left, _LOOK_S))
        finally:
            self._waiting -= 1

    def _make_room(self) -> None:
        """Give up as many slow bodies as others wait for, those that are leaving already counted."""
        leaving = sum(arrival.given_up.is_set() for arrival in self._arrivals)
        slow = [
            (arrival.pace, id(arrival), arrival)
            for arrival in self._arrivals
            if not arrival.given_up.is_set() and arrival.pace < _PACE_BYTES_PER_S
        ]
        for _, _, arrival in sorted(slow)[: max(0, self._waiting - leaving)]:
            arrival.give_up()

    def _overloaded(self) -> Overloaded:
        return Overloaded(f"{self._limit} bodies are under way already", retry_after=1.0)
