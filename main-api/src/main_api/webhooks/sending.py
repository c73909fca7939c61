"""One POST to an address that a client chose, which is why nothing about it is trusted.

The name is resolved once, every address it has is checked, and the connection goes to one of the addresses
that were checked: a name server that answers differently the next time changes nothing. Each redirect is
checked in the same way. No proxy of the environment takes part, a deadline ends everything, and of the answer
only the status is used.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import ipaddress
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from main_api.webhooks.addresses import Network, is_allowed
from main_api.webhooks.target import Target, WrongTarget

Resolver = Callable[[str, int], list[str]]

_MAX_REDIRECTS = 3
#: 303 asks for a GET, which would tell nobody anything.
_REDIRECTS = frozenset({301, 302, 307, 308})
#: So much of an answer's body is taken in, so that the receiver is not cut off while it writes a short one.
_DRAIN_BYTES = 16 * 1024
_DRAIN_S = 1.0
_MAX_RETRY_AFTER_S = 3600.0


@dataclass(frozen=True)
class Policy:
    """What may be connected to, and for how long at most, in seconds, redirects included."""

    ports: frozenset[int] | None = frozenset({80, 443, 8080, 8443})
    private: tuple[Network, ...] = ()
    timeout_s: float = 10.0

    def check(self, url: str) -> Target:
        """The URL taken apart. Raises WrongTarget, also for a private address that is written out."""
        target = Target.parse(url, self.ports)
        with contextlib.suppress(ValueError):
            if not is_allowed(str(ipaddress.ip_address(target.host)), self.private):
                raise WrongTarget("must not lead to a private address")
        return target


class NotSent(Exception):
    """No answer was had: no connection, no TLS, no time. The message holds nothing the receiver chose."""


class NotAllowed(Exception):
    """It leads where nothing may be sent, so that trying again is of no use."""


@dataclass(frozen=True)
class Reply:
    """`retry_after_s` where the receiver asked for a pause."""

    status: int
    retry_after_s: float | None = None


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name, in the order in which the system would try them. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[4][0]) for address in found))


class Sender:
    """Sends requests as the policy allows."""

    def __init__(self, policy: Policy, resolver: Resolver = resolve) -> None:
        self.policy = policy
        self._resolver = resolver

    @functools.cached_property
    def _tls(self) -> ssl.SSLContext:
        # Reads all of the system's certificates, which only who sends should have to wait for.
        return ssl.create_default_context()

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """Raises NotSent, NotAllowed."""
        with _Deadline(self.policy.timeout_s) as deadline:
            try:
                target = Target.parse(url, self.policy.ports)
                for _ in range(_MAX_REDIRECTS + 1):
                    reply, location = self._exchange(target, body, headers, deadline)
                    if reply.status not in _REDIRECTS or not location:
                        return reply
                    target = target.redirected(location, self.policy.ports)
            except WrongTarget as error:
                raise NotAllowed(f"the URL, or one it redirects to, {error}") from error
            except (OSError, http.client.HTTPException, ValueError) as error:
                if deadline.over:
                    raise NotSent(f"no answer within {self.policy.timeout_s:g} seconds") from error
                raise NotSent(_reason(error)) from error
        raise NotSent(f"more than {_MAX_REDIRECTS} redirects")

    def _exchange(
        self, target: Target, body: bytes, headers: Mapping[str, str], deadline: _Deadline
    ) -> tuple[Reply, str | None]:
        with self._connected(target, deadline) as connection:
            connection.request(
                "POST",
                target.path,
                body,
                {**headers, "Host": target.authority, "Connection": "close", "Accept-Encoding": "identity"},
            )
            answer = connection.getresponse()
            # To http.client, headers that the deadline cut off are complete.
            deadline.left()
            reply = Reply(answer.status, _retry_after(answer.headers.get("Retry-After")))
            location = answer.headers.get("Location")
            deadline.shorten(_DRAIN_S)
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                answer.read(_DRAIN_BYTES)
            answer.close()
            deadline.restore()
            return reply, location

    @contextlib.contextmanager
    def _connected(self, target: Target, deadline: _Deadline) -> Iterator[http.client.HTTPConnection]:
        """A connection to an address of the target that was checked, TLS done where it is https."""
        with contextlib.ExitStack() as open_sockets:
            plain = self._connect(self._addresses(target, deadline), target.port, deadline)
            open_sockets.enter_context(plain)
            deadline.watch(plain)
            connection = http.client.HTTPConnection(target.host, target.port)
            connection.sock = plain
            if target.scheme == "https":
                # The certificate must be the name's, and the name is told the server, not the address.
                connection.sock = self._tls.wrap_socket(plain, server_hostname=target.host)
                open_sockets.enter_context(connection.sock)
            yield connection

    def _addresses(self, target: Target, deadline: _Deadline) -> list[str]:
        """Raises NotAllowed when any of the target's addresses is none to connect to."""
        found = _within(deadline, lambda: self._resolver(target.host, target.port))
        if not found:
            raise NotSent("the host has no address")
        if not all(is_allowed(address, self.policy.private) for address in found):
            raise NotAllowed("the URL, or one it redirects to, leads to a private address")
        return found

    def _connect(self, addresses: list[str], port: int, deadline: _Deadline) -> socket.socket:
        failure: OSError | None = None
        for index, address in enumerate(addresses):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            connection = socket.socket(family, socket.SOCK_STREAM)
            try:
                # A first address that is silent leaves time for the others.
                connection.settimeout(deadline.left() / (len(addresses) - index))
                connection.connect((address, port))
                return connection
            except OSError as error:
                connection.close()
                failure = error
        raise failure or OSError("no address")


class _Deadline:
    """Ends every read and write on a watched socket when the time is up.

    A timeout of the socket alone would bound each read, and a byte at a time could go on for hours.
    """

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds
        self._watched: list[socket.socket] = []
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> _Deadline:
        self._set(self._at)
        return self

    def __exit__(self, *failure: object) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            for watched in self._watched:
                watched.close()
            self._watched.clear()

    @property
    def over(self) -> bool:
        return time.monotonic() >= self._at

    def left(self) -> float:
        """Raises TimeoutError."""
        left = self._at - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def watch(self, connection: socket.socket) -> None:
        connection.settimeout(self.left())
        with self._lock:
            # Of its own number: the connection's may be another's by the time that the timer ends it.
            self._watched.append(socket.socket(fileno=socket.dup(connection.fileno())))

    def shorten(self, seconds: float) -> None:
        """Come earlier for what is not worth waiting for; `over` stays as it was."""
        self._set(min(self._at, time.monotonic() + seconds))

    def restore(self) -> None:
        self._set(self._at)

    def _set(self, at: float) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = threading.Timer(max(0.0, at - time.monotonic()), self._end)
            self._timer.daemon = True
            self._timer.start()

    def _end(self) -> None:
        with self._lock:
            for watched in self._watched:
                with contextlib.suppress(OSError):
                    watched.shutdown(socket.SHUT_RDWR)


def _within(deadline: _Deadline, ask: Callable[[], list[str]]) -> list[str]:
    """What `ask` returns. The system's resolver has no timeout: it is left behind when it takes too long."""
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put(ask())
        except (OSError, UnicodeError) as error:
            answers.put(error)

    threading.Thread(target=run, name="resolve", daemon=True).start()
    try:
        found = answers.get(timeout=deadline.left())
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(found, BaseException):
        raise NotSent("the host's name could not be resolved") from found
    return list(found)


def _retry_after(text: str | None) -> float | None:
    return min(float(text), _MAX_RETRY_AFTER_S) if text and text.isascii() and text.isdigit() else None


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "the receiver's certificate is not valid for its name"
    if isinstance(error, ssl.SSLError):
        return "no TLS connection could be made"
    if isinstance(error, ConnectionRefusedError):
        return "the connection was refused"
    if isinstance(error, (TimeoutError, ConnectionError, http.client.RemoteDisconnected)):
        return "the connection broke off"
    if isinstance(error, OSError):
        return "the receiver cannot be reached"
    return "the answer is no HTTP"
