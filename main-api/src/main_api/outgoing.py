"""A POST to a service of ours that takes long, given up as soon as nobody wants its answer."""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from enlight_common.errors import Unavailable

_CONNECT_S = 2.0
#: Between two bytes of a request or of an answer on its way.
_STALL_S = 60.0
#: A whole answer, once its first byte is there.
_ARRIVAL_S = 300.0
_RETRY_S = 5.0
#: How often it is asked whether the answer is still wanted, at least: often at the beginning, when a drawing
#: may turn out to be nobody's.
_LOOK_S = 0.5
_EARLY_LOOK_S, _EARLY_S = 0.05, 1.0
_CHUNK = 1024 * 1024
_BUFFER = 64 * 1024


class NothingDone(Unavailable):
    """Nobody took the request: it may be sent again, to any."""


class Broken(Exception):
    """The request may have run, and nobody knows."""


class Stopped(Exception):
    """The answer was not waited for; the service sees its client leave, and stops."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes


def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    timeout_s: float,
    max_bytes: int,
    stop: Callable[[], bool],
) -> Answer:
    """The answer to *body*, JSON, sent once; waited for *timeout_s* at most and until *stop* says so.

    Raises NothingDone (nobody there), Broken, Stopped.
    """
    address = urlsplit(url)
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    connection = kind(address.hostname or "", address.port, timeout=_CONNECT_S)
    with contextlib.closing(connection):
        try:
            connection.connect()
        except OSError as error:
            raise NothingDone("the service cannot be reached", retry_after=_RETRY_S) from error
        try:
            connection.sock.settimeout(_STALL_S)
            # Else the body, a packet of its own, waits for the header's to be confirmed.
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sent = {"Content-Type": "application/json", "Connection": "close", **headers}
            connection.request("POST", address.path, body, sent)
            watched: Any = _Watched(connection.sock, timeout_s, stop)
            answer = http.client.HTTPResponse(watched, method="POST")
            answer.begin()
            return Answer(answer.status, answer.headers, _read(answer, max_bytes))
        except (OSError, http.client.HTTPException) as error:
            raise Broken(type(error).__name__) from error


class _Watched(io.RawIOBase):
    """What comes over a connection. Each read ends with Stopped when nobody wants the answer any more, and
    with TimeoutError when its time is over: *first_byte_s* for the first, as our services write nothing
    before they are done.
    """

    def __init__(self, connection: socket.socket, first_byte_s: float, stop: Callable[[], bool]) -> None:
        connection.settimeout(_EARLY_LOOK_S)
        self._connection, self._stop = connection, stop
        self._begun = time.monotonic()
        self._patience = self._begun + first_byte_s
        self._end: float | None = None

    def makefile(self, _mode: str) -> io.BufferedReader:
        """As `HTTPResponse` asks a socket for it."""
        return io.BufferedReader(self, _BUFFER)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self._stop():
                raise Stopped
            try:
                received = self._connection.recv_into(buffer)
            except TimeoutError:
                now = time.monotonic()
                if now > self._begun + _EARLY_S:
                    self._connection.settimeout(_LOOK_S)
                if now < self._patience:
                    continue
                raise
            now = time.monotonic()
            self._end = self._end or now + _ARRIVAL_S
            if now > self._end:
                raise TimeoutError
            self._patience = min(now + _STALL_S, self._end)
            return received


def _read(answer: http.client.HTTPResponse, max_bytes: int) -> bytes:
    chunks, received = [], 0
    while chunk := answer.read1(_CHUNK):
        chunks.append(chunk)
        received += len(chunk)
        if received > max_bytes:
            raise Broken("an answer without end")
    if answer.length:  # the connection ended before the answer did
        raise http.client.IncompleteRead(b"")
    return b"".join(chunks)
