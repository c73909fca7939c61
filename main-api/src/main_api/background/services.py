"""The image services (bgrem, upsampler, realesrgan): one picture in, one picture out, over HTTP."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from main_api.instances import Refused
from main_api.outgoing import Answer, Broken, NothingDone, post

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
        answer = post(
            call.url, body, headers, timeout_s=self._timeout_s, max_bytes=_MAX_ANSWER_BYTES, stop=stop
        )
        return _picture(answer, call.answer_field)


def _picture(answer: Answer, field: str) -> bytes:
    try:
        found = json.loads(answer.body)
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


def _retry_after(answer: Answer) -> float:
    text = answer.headers.get("Retry-After") or ""
    return min(max(float(text), 1.0), _MOST_RETRY_S) if text.isascii() and text.isdigit() else _RETRY_S
