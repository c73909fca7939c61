"""A proxy in front of a real HTTP server that lets chosen requests go wrong on the wire.

It reads HTTP/1.1 just far enough to tell requests and bodies apart, so that a fault can hit one of them.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Literal, NoReturn

Kind = Literal["none", "reset", "status", "cut", "stall", "drip", "flip", "cut-upload", "silence"]
_BLOCK = 65536


@dataclass
class Fault:
    """What happens to the next `times` requests that `matches` takes, given their method and path.

    reset        the connection is reset in place of an answer
    status       the answer is `status`, with `location` if any, and the server never hears of the request
    cut          the connection closes after `at` bytes of the answer's body
    stall        nothing follows `at` bytes of the answer's body
    drip         the answer's body comes at 10,000 bytes a second
    flip         the byte of the answer's body at `at` has all its bits turned
    cut-upload   the connection closes after `at` bytes of the request's body
    silence      the request is taken, and nothing answers
    """

    kind: Kind
    times: int = 10**9
    at: int = 0
    status: int = 503
    location: str = ""
    matches: Callable[[str, str], bool] = field(default=lambda method, path: True)


@dataclass(frozen=True)
class Request:
    """One that arrived; the names of `fields` are in small letters."""

    method: str
    path: str
    fields: dict[str, str]


class _Broken(Exception):
    """The connection is over: by a fault, or because a side closed it."""


class FaultyProxy:
    """Listens on a port of its own, forwards to `upstream`. `seen` has each request that arrived, `hit`
    each that a fault took.
    """

    def __init__(self, upstream: int = 0) -> None:
        self.upstream = upstream
        self.seen: list[Request] = []
        self.hit: list[Request] = []
        self._fault: Fault | None = None
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextlib.contextmanager
    def failing(self, fault: Fault) -> Iterator[None]:
        """Let requests go wrong for the length of a `with` block; it starts with `seen` and `hit` empty."""
        with self._lock:
            self.seen.clear()
            self.hit.clear()
            self._fault = fault
        try:
            yield
        finally:
            with self._lock:
                self._fault = None

    def close(self) -> None:
        self._stopped.set()
        self._listener.close()
        with self._lock:
            sockets = list(self._sockets)
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(self._forget, client)
            with self._lock:
                self._sockets.add(client)
            with contextlib.suppress(_Broken, OSError):
                reader = client.makefile("rb")
                while True:
                    head = _read_head(reader)
                    method, path = head.start.split(" ")[:2]
                    fault = self._take(Request(method, path, dict(head.fields)))
                    self._exchange(client, reader, head, fault or Fault("none"))

    def _take(self, request: Request) -> Fault | None:
        with self._lock:
            self.seen.append(request)
            fault = self._fault
        # Not under the lock: what it does may come through here itself.
        if fault is None or not fault.matches(request.method, request.path):
            return None
        with self._lock:
            if fault.times <= 0:
                return None
            fault.times -= 1
            self.hit.append(request)
            return fault

    def _exchange(self, client: socket.socket, reader: BinaryIO, head: _Head, fault: Fault) -> None:
        if head.fields.pop("expect", "").lower() == "100-continue":
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if fault.kind in ("status", "reset", "silence"):
            for _ in _body(reader, head):
                pass
            if fault.kind == "reset":
                _reset(client)
                raise _Broken
            if fault.kind == "silence":
                _wait_for_close(client)
            where = f"Location: {fault.location}\r\n" if fault.location else ""
            client.sendall(f"HTTP/1.1 {fault.status} Fault\r\n{where}Content-Length: 0\r\n\r\n".encode())
            return
        # A connection for each request and none before it: a server of one thread waits for it.
        with (
            socket.create_connection(("127.0.0.1", self.upstream), timeout=60) as server,
            server.makefile("rb") as answers,
        ):
            server.sendall(head.encode())
            sent = 0
            for block in _body(reader, head):
                if fault.kind == "cut-upload" and sent + len(block) > fault.at:
                    server.sendall(block[: fault.at - sent])
                    _reset(client)
                    raise _Broken
                server.sendall(block)
                sent += len(block)
            self._answer(client, head, answers, fault)

    def _answer(self, client: socket.socket, head: _Head, answers: BinaryIO, fault: Fault) -> None:
        answer = _read_head(answers)
        client.sendall(answer.encode())
        until_close = "content-length" not in answer.fields and "transfer-encoding" not in answer.fields
        passed = 0
        if not (head.start.startswith("HEAD ") or answer.start.split(" ")[1] in ("204", "304")):
            for block in _body(answers, answer, until_close=until_close):
                end = passed + len(block)
                if fault.kind in ("cut", "stall") and end > fault.at:
                    client.sendall(block[: fault.at - passed])
                    if fault.kind == "stall":
                        _wait_for_close(client)
                    raise _Broken
                if fault.kind == "drip":
                    _drip(client, block)
                    passed = end
                    continue
                if fault.kind == "flip" and passed <= fault.at < end:
                    flipped = bytearray(block)
                    flipped[fault.at - passed] ^= 0xFF
                    block = bytes(flipped)
                client.sendall(block)
                passed = end
        ends = answer.start.startswith("HTTP/1.0") or answer.fields.get("connection", "").lower() == "close"
        if until_close or ends:
            raise _Broken

    def _forget(self, client: socket.socket) -> None:
        # The makefile of a socket keeps it open; a shutdown reaches the peer all the same.
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
        client.close()
        with self._lock:
            self._sockets.discard(client)


def _drip(client: socket.socket, block: bytes) -> None:
    for start in range(0, len(block), 500):
        client.sendall(block[start : start + 500])
        time.sleep(0.05)


def _wait_for_close(client: socket.socket) -> NoReturn:
    client.settimeout(60)
    with contextlib.suppress(OSError):
        while client.recv(_BLOCK):
            pass
    raise _Broken


@dataclass
class _Head:
    start: str
    fields: dict[str, str]
    lines: list[str]

    def encode(self) -> bytes:
        kept = [line for line in self.lines if line.partition(":")[0].lower() in self.fields]
        return "\r\n".join([self.start, *kept, "", ""]).encode("latin-1")


def _read_head(reader: BinaryIO) -> _Head:
    start = reader.readline()
    if not start.endswith(b"\n"):
        raise _Broken
    lines = []
    while line := reader.readline().strip():
        lines.append(line.decode("latin-1"))
    fields = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines}
    return _Head(start.strip().decode("latin-1"), fields, lines)


def _body(reader: BinaryIO, head: _Head, *, until_close: bool = False) -> Iterator[bytes]:
    """The bytes of the body, chunk sizes included: what has to be forwarded."""
    if head.fields.get("transfer-encoding", "").lower() == "chunked":
        while True:
            line = reader.readline()
            size = int(line.split(b";")[0], 16)
            data = line + reader.read(size)
            if size == 0:
                while (trailer := reader.readline()).strip():
                    data += trailer
                yield data + b"\r\n"
                return
            yield data + reader.readline()
    left = -1 if until_close else int(head.fields.get("content-length", "0"))
    while left:
        block = reader.read1(_BLOCK if left < 0 else min(_BLOCK, left))
        if not block:
            if left > 0:
                raise _Broken
            return
        left -= len(block) if left > 0 else 0
        yield block


def _reset(client: socket.socket) -> None:
    with contextlib.suppress(OSError):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
