"""One request, one answer, every wait bounded; and a way to break it off from another thread.

Each request has a connection of its own: there are few, and none can meet a connection that its server has
just closed. Redirects are not followed, as a key goes along.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from enlight_common.errors import PayloadTooLarge

_CONNECT_S = 5.0
_SLUG_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


class Unreachable(Exception):
    """There is no answer. `began`: the server may have begun with the request."""

    def __init__(self, detail: str, *, began: bool) -> None:
        super().__init__(detail)
        self.began = began


@dataclass(frozen=True)
class Answer:
    """`headers` have small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Raises ValueError."""
        try:
            return json.loads(self.body)
        except RecursionError as error:
            raise ValueError("too deep") from error

    @property
    def retry_after(self) -> float | None:
        """Seconds."""
        try:
            seconds = float(self.headers.get("retry-after", ""))
        except ValueError:
            return None
        return seconds if 0 <= seconds < math.inf else None

    @property
    def problem(self) -> tuple[str, str]:
        """Type (its slug alone) and message of a problem document; something to say where it is none."""
        document: Any = None
        with contextlib.suppress(ValueError):
            document = self.json()
        if not isinstance(document, dict):
            document = {}
        slug = str(document.get("type", "")).rsplit("/", 1)[-1][:64]
        if not slug or not set(slug) <= _SLUG_CHARACTERS or slug.startswith("-"):
            slug = f"http-{self.status}"
        return slug, str(document.get("detail") or f"the answer was {self.status}")[:2000]


class Exchange:
    """One request to the server at `url`. `silence_s` is how long it may say nothing."""

    def __init__(self, url: str, *, silence_s: float, max_bytes: int = 4_000_000) -> None:
        self._parts = urlsplit(url)
        self._silence_s, self._max_bytes = silence_s, max_bytes
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._aborted = False

    def run(self, method: str, path: str, headers: Mapping[str, str], body: Any = None) -> Answer:
        """The answer, of any status. `body` is sent as JSON. Raises Unreachable, PayloadTooLarge."""
        sent = {"Accept": "application/json", "Connection": "close", **headers}
        data = None
        if body is not None:
            data = json.dumps(body, allow_nan=False).encode()
            sent["Content-Type"] = "application/json"
        began = False
        connection = self._connection()
        try:
            connection.connect()
            assert connection.sock is not None
            connection.sock.settimeout(self._silence_s)
            self._hold(connection.sock)
            began = True
            connection.request(method, self._parts.path + path, data, sent)
            answer = connection.getresponse()
            received = answer.read(self._max_bytes + 1)
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{type(error).__name__}: there is no answer", began=began) from error
        finally:
            with self._lock:
                self._socket = None
            connection.close()
        if len(received) > self._max_bytes:
            raise PayloadTooLarge(f"the answer must be at most {self._max_bytes} bytes")
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, received)

    def abort(self) -> None:
        """Break it off; it ends with Unreachable, also when it begins only later."""
        self._shut(socket.SHUT_RDWR)

    def wait_no_longer(self) -> None:
        """Tell the server that it need not wait any more; what it is about to answer still arrives.

        Over TLS nothing is told, as a half-closed connection carries no answer there.
        """
        if self._parts.scheme != "https":
            self._shut(socket.SHUT_WR)

    def _shut(self, how: int) -> None:
        with self._lock:
            self._aborted = self._aborted or how == socket.SHUT_RDWR
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    # Not SSLSocket's own, which would have the thread that reads go on without TLS.
                    socket.socket.shutdown(self._socket, how)

    def _hold(self, opened: socket.socket) -> None:
        with self._lock:
            if self._aborted:
                raise ConnectionAbortedError
            self._socket = opened

    def _connection(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        return kind(self._parts.hostname or "", self._parts.port, timeout=_CONNECT_S)
