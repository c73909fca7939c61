"""The image services (bgrem, upsampler, realesrgan): one picture in, one picture out, over HTTP."""

from __future__ import annotations

import base64
import binascii
import contextlib
import http.client
import json
import select
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from main_api.instances import Broken, NothingDone, Refused

_CONNECT_S = 2.0
#: Between two bytes of a request or an answer on its way.
_STALL_S = 60.0
#: How often a request that waits is looked at for whether it is still wanted.
_LOOK_S = 0.5
_MAX_ANSWER_BYTES = 200_000_000
_RETRY_S = 5.0
_MOST_RETRY_S = 300.0


@dataclass(frozen=True)
class Call:
    """Where a picture is posted, under which name, and where the answer has the picture that comes back."""

    url: str
    body: dict[str, Any]
    field: str
    answer_field: str


class Stopped(Exception):
    """The answer was not waited for; the service sees its client leave, and stops."""


class ImageServices:
    """Each picture is a connection of its own; a request that may have run is not sent again."""

    def __init__(self, *, bgrem: str, upsampler: str, realesrgan: str, timeout_s: float) -> None:
        """Base URLs; `timeout_s` is how long a picture may take."""
        self._urls = {"bgrem": bgrem, "upsampler": upsampler, "realesrgan": realesrgan}
        self._timeout_s = timeout_s

    def call(self, kind: str, task: dict[str, Any]) -> Call:
        """The call behind a job's task."""
        if kind == "background_removal":
            return Call(self._url("bgrem", task), task["body"], "input_image", "output_image")
        return Call(self._url(task["service"], task), task["body"], task["field"], "image")

    def _url(self, service: str, task: dict[str, Any]) -> str:
        return self._urls[service].rstrip("/") + str(task["path"])

    def send(self, call: Call, picture: bytes, headers: Mapping[str, str], stop: Callable[[], bool]) -> bytes:
        """The picture that comes back, an image file; given up when *stop* says so.

        Raises NothingDone (503, 429, or nobody there; has `retry_after`), Refused (another 4xx), Broken,
        Stopped.
        """
        body = json.dumps({**call.body, call.field: base64.b64encode(picture).decode("ascii")}).encode()
        url = urlsplit(call.url)
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        connection = kind(url.hostname or "", url.port, timeout=_CONNECT_S)
        with contextlib.closing(connection):
            try:
                connection.connect()
            except OSError as error:
                raise NothingDone("the service cannot be reached", retry_after=_RETRY_S) from error
            try:
                connection.sock.settimeout(_STALL_S)
                sent = {"Content-Type": "application/json", "Connection": "close", **headers}
                connection.request("POST", url.path, body, sent)
                self._await_answer(connection.sock, stop)
                answer = connection.getresponse()
                return _picture(answer, answer.read(_MAX_ANSWER_BYTES), call.answer_field)
            except (OSError, http.client.HTTPException) as error:
                raise Broken(type(error).__name__) from error

    def _await_answer(self, connection: socket.socket, stop: Callable[[], bool]) -> None:
        """Return when the first byte is there: the services write nothing before they are done."""
        deadline = time.monotonic() + self._timeout_s
        while not select.select([connection], [], [], _LOOK_S)[0]:
            if stop():
                raise Stopped
            if time.monotonic() >= deadline:
                raise TimeoutError


def _picture(answer: http.client.HTTPResponse, raw: bytes, field: str) -> bytes:
    try:
        found = json.loads(raw)
    except ValueError:
        found = None
    document: dict[str, Any] = found if isinstance(found, dict) else {}
    if answer.status == 200 and isinstance(document.get(field), str):
        try:
            return base64.b64decode(document[field], validate=True)
        except binascii.Error:
            raise Broken("an answer that is no base64") from None
    if answer.status in (429, 503):
        raise NothingDone("the service is busy", retry_after=_retry_after(answer))
    kind = str(document.get("type", "")).removeprefix("/problems/")
    # The services say at once that a picture would take too long; a proxy's 504 has no such type.
    too_long = answer.status == 504 and kind == "timed-out"
    if 400 <= answer.status < 499 or too_long:
        message = str(document.get("message", f"the service answered {answer.status}"))
        raise Refused(kind[:64] or "refused", message[:2000])
    raise Broken(f"status {answer.status}")


def _retry_after(answer: http.client.HTTPResponse) -> float:
    text = answer.headers.get("Retry-After") or ""
    return min(max(float(text), 1.0), _MOST_RETRY_S) if text.isascii() and text.isdigit() else _RETRY_S
