"""Long-lived requests: bounded in number, ended when their client goes away; and server-sent events."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from flask import Response, request

from enlight_common.errors import InvalidRequest, Overloaded
from enlight_common.web.slow_readers import Reader

_MAX_WAIT_SECONDS = 3600.0


class Slot:
    """A taken place; released once, however often `release` is called."""

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back: Callable[[], None] | None = give_back
        self._lock = threading.Lock()

    def release(self) -> None:
        with self._lock:
            give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back()


class LongLived:
    """Places for requests that hold a thread for long: half the threads at most, to keep the rest free."""

    def __init__(self, limit: int, *, retry_after: float = 5.0, each: int | None = None) -> None:
        """`each` is how many of them one owner may have."""
        self.limit = limit
        self.each = limit if each is None else each
        self.taken = 0
        self._retry_after = retry_after
        self._lock = threading.Lock()
        self._owners: Counter[str] = Counter()

    def take(self, what: str, owner: str | None = None) -> Slot:
        """A place for `what` ("event stream"), at once or never: raises Overloaded when all are taken, or as
        many as `owner` may have.

        For an answer that is written after the view returns, such as `sse`; else `enter`.
        """
        with self._lock:
            if self.taken >= self.limit:
                raise Overloaded(
                    f"all {self.limit} places for long requests are taken; no {what} now",
                    retry_after=self._retry_after,
                )
            if owner is not None and self._owners[owner] >= self.each:
                raise Overloaded(
                    f"you have {self.each} long requests under way, which is all you may; no {what} now",
                    retry_after=self._retry_after,
                )
            self.taken += 1
            if owner is not None:
                self._owners[owner] += 1
        return Slot(lambda: self._free(owner))

    def check(self, what: str) -> None:
        """Raise Overloaded where `take` would for want of places, and take none.

        For before a body is read, which may be slow and take no place meanwhile.
        """
        self.take(what).release()

    @contextlib.contextmanager
    def enter(self, what: str, owner: str | None = None) -> Iterator[None]:
        """`take` for the length of a `with` block."""
        slot = self.take(what, owner)
        try:
            yield
        finally:
            slot.release()

    def _free(self, owner: str | None) -> None:
        with self._lock:
            self.taken -= 1
            if owner is not None:
                self._owners[owner] -= 1
                if not self._owners[owner]:
                    del self._owners[owner]


def client_gone() -> bool:
    """Whether the peer of the current request has closed its connection (its half suffices).

    False where it cannot be known: without gunicorn's socket, or with bytes of a next request waiting.
    """
    return _closed(request.environ.get("gunicorn.socket"))


def watch_client() -> Callable[[], bool]:
    """`client_gone` as a function that may be called from any thread while the request is being served."""
    client = request.environ.get("gunicorn.socket")
    return lambda: _closed(client)


def _closed(client: object) -> bool:
    if not isinstance(client, socket.socket):
        return False
    try:
        return client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


@dataclass(frozen=True)
class Event:
    """One server-sent event. `data` is sent as it is when it is a string, else as JSON."""

    data: Any
    event: str | None = None
    id: int | str | None = None

    def encode(self) -> str:
        text = self.data if isinstance(self.data, str) else json.dumps(self.data, allow_nan=False)
        lines = [
            f"{name}: {_one_line(value)}"
            for name, value in (("id", self.id), ("event", self.event))
            if value is not None
        ]
        lines += [f"data: {line}" for line in re.split(r"\r\n|\r|\n", text)]
        return "\n".join(lines) + "\n\n"


def _one_line(value: int | str) -> str:
    return re.sub(r"[\r\n\0]", " ", str(value))


def sse(events: Iterator[Event | None], keep_alive_s: float = 15.0, *, slot: Slot | None = None) -> Response:
    """Answer with `events` as `text/event-stream` until they end or the client goes away.

    `events` yields None at least every second or so while it has nothing to say; then the client is looked
    at, and a comment is sent when nothing was for `keep_alive_s`. At the end `slot` is released and `events`
    closed. A client that keeps the stream waiting too long is cut off (`slow_readers`).
    """
    gone = watch_client()
    reader = Reader(request.environ.get("gunicorn.socket"))

    def write() -> Iterator[str]:
        spoke_at = time.monotonic()
        try:
            yield ": open\n\n"
            for event in events:
                if event is not None:
                    text = event.encode()
                    with reader.taking(len(text)):
                        yield text
                elif gone():
                    return
                elif time.monotonic() - spoke_at < keep_alive_s:
                    continue
                else:
                    yield ": keep-alive\n\n"
                spoke_at = time.monotonic()
        finally:
            close()

    def close() -> None:
        if slot is not None:
            slot.release()
        end = getattr(events, "close", None)
        if end is not None:
            end()

    response = Response(write(), content_type="text/event-stream; charset=utf-8")
    response.headers["Cache-Control"] = "no-store"
    # nginx would collect the events in its buffer otherwise.
    response.headers["X-Accel-Buffering"] = "no"
    # A generator that was never started has no `finally` to run.
    response.call_on_close(lambda: slot.release() if slot is not None else None)
    return response


def last_event_id() -> int:
    """The number in `Last-Event-ID` of a client that resumes a stream, else 0. May raise InvalidRequest."""
    text = request.headers.get("Last-Event-ID", "")
    if not text:
        return 0
    if not re.fullmatch(r"[0-9]{1,15}", text):
        raise InvalidRequest("Last-Event-ID must be a whole number")
    return int(text)


def prefers_async() -> bool:
    """Whether the client sent `Prefer: respond-async` (RFC 7240)."""
    return "respond-async" in _preferences()


def preferred_wait() -> float | None:
    """The seconds of `Prefer: wait=…` (RFC 7240), at most an hour; None where there are none."""
    text = _preferences().get("wait", "")
    return min(float(text), _MAX_WAIT_SECONDS) if re.fullmatch(r"[0-9]{1,9}", text) else None


def _preferences() -> dict[str, str]:
    found: dict[str, str] = {}
    for preference in ",".join(request.headers.getlist("Prefer")).split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        # The first of a name counts (RFC 7240, section 2).
        found.setdefault(name.strip().lower(), value.strip().strip('"'))
    return found
