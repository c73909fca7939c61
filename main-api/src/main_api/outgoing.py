"""A POST to a service of ours that takes long, given up as soon as nobody wants its answer."""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from enlight_common.errors import Unavailable

_CONNECT_S = 2.0
#: Between two bytes of a request or of an answer on its way.
_STALL_S = 60.0
#: A whole answer, once its first byte is there.
_ARRIVAL_S = 300.0
_RETRY_S = 5.0
#: How often a request that waits is looked at for whether it is still wanted.
_LOOK_S = 0.5
_CHUNK = 1024 * 1024


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
            _await_first_byte(connection.sock, timeout_s, stop)
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, _read(answer, max_bytes, stop))
        except (OSError, http.client.HTTPException) as error:
            raise Broken(type(error).__name__) from error


def _await_first_byte(connection: socket.socket, timeout_s: float, stop: Callable[[], bool]) -> None:
    """Our services write nothing before they are done."""
    deadline = time.monotonic() + timeout_s
    while not select.select([connection], [], [], _LOOK_S)[0]:
        if stop():
            raise Stopped
        if time.monotonic() >= deadline:
            raise TimeoutError


def _read(answer: http.client.HTTPResponse, max_bytes: int, stop: Callable[[], bool]) -> bytes:
    deadline = time.monotonic() + _ARRIVAL_S
    chunks, received = [], 0
    while chunk := answer.read1(_CHUNK):
        chunks.append(chunk)
        received += len(chunk)
        if received > max_bytes:
            raise Broken("an answer without end")
        if stop():
            raise Stopped
        if time.monotonic() >= deadline:
            raise TimeoutError
    if answer.length:  # the connection ended before the answer did
        raise http.client.IncompleteRead(b"")
    return b"".join(chunks)
