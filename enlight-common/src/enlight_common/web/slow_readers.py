"""Clients that take what is streamed to them too slowly are cut off: each holds a thread and a place.

The sockets' own timeout bounds how long a client may take nothing at all. One that takes a few bytes now and
then would never run into it.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

#: How long all that is sent may wait for its client, and how fast that has to be beyond it.
PATIENCE_S = 60.0
SLOWEST_BYTES_PER_S = 8192

_LOOK_S = 0.5


class Reader:
    """The client of one stream, and how much longer it may keep the stream waiting."""

    def __init__(self, client: object) -> None:
        """*client* is gunicorn's socket; what is none (a test client) is never cut off."""
        self._client = client if isinstance(client, socket.socket) else None
        self._left = PATIENCE_S

    @contextlib.contextmanager
    def taking(self, size: int) -> Iterator[None]:
        """*size* bytes are sent while the block lasts. A send to a client that was cut off fails."""
        if self._client is None:
            yield
            return
        self._left += size / SLOWEST_BYTES_PER_S
        began = time.monotonic()
        with _WATCH.until(began + self._left, self._client):
            yield
        # What a quick client leaves of its time is not saved up for later.
        self._left = min(PATIENCE_S, self._left - (time.monotonic() - began))


class _Watch:
    """Shuts down the connections that are late, in a thread that begins with the first one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._sending: dict[object, tuple[float, socket.socket]] = {}
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def until(self, deadline: float, client: socket.socket) -> Iterator[None]:
        mark = object()
        with self._changed:
            self._sending[mark] = deadline, client
            if self._thread is None:
                self._thread = threading.Thread(target=self._look_forever, name="slow readers", daemon=True)
                self._thread.start()
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._sending.pop(mark, None)

    def _look_forever(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._sending)
                now = time.monotonic()
                for mark, (deadline, client) in list(self._sending.items()):
                    if now > deadline:
                        del self._sending[mark]
                        with contextlib.suppress(OSError):
                            client.shutdown(socket.SHUT_RDWR)
            time.sleep(_LOOK_S)


_WATCH = _Watch()
