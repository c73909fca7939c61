"""The one place where request bodies are read and parsed."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import IO, Any, TypeVar

from flask import current_app, request
from pydantic import BaseModel, ConfigDict, ValidationError
from werkzeug.wsgi import get_input_stream

from enlight_common.errors import (
    InvalidField,
    InvalidRequest,
    PayloadTooLarge,
    RequestTimedOut,
    UnsupportedMedia,
)
from enlight_common.web.loose_values import refuse_loose_numbers
from enlight_common.web.strict_json import parse_object, printable_name

_DISCARD_SECONDS = 5.0
_MAX_ERRORS = 10
_CHUNK = 256 * 1024

Model = TypeVar("Model", bound=BaseModel)


class Body(BaseModel):
    """What a request body's model may derive from: immutable, unknown keys refused, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


def parse_body(model: type[Model]) -> Model:
    """The current request's body, a JSON object, validated against `model`; unknown keys are refused.

    Raises UnsupportedMedia 415, PayloadTooLarge 413, RequestTimedOut 408, InvalidRequest 400 (no JSON object
    within bounds) or InvalidField 422 (names the field and the bound, with all wrong fields in `errors`).
    """
    if request.mimetype != "application/json" and not request.mimetype.endswith("+json"):
        raise UnsupportedMedia("the body must be sent as Content-Type: application/json")
    return validate(model, parse_object(read_body()))


def validate(model: type[Model], value: dict[str, Any]) -> Model:
    """Validate an object that `parse_object` gave; errors as `parse_body`."""
    refuse_loose_numbers(model, value)
    try:
        return model.model_validate(value, extra="forbid")
    except ValidationError as error:
        problems = [
            {"field": _path(item["loc"]), "reason": _reason(item["type"], item["msg"], item.get("ctx", {}))}
            for item in error.errors(include_url=False, include_input=False)[:_MAX_ERRORS]
        ]
    first = problems[0]
    more = {"errors": problems} if len(problems) > 1 else {}
    raise InvalidField(first["field"], first["reason"], **more)


def read_body() -> bytes:
    """The current request's body, within the `max_body_bytes` and `body_seconds` of the app."""
    limit: int = current_app.config["MAX_CONTENT_LENGTH"]
    seconds: float = current_app.config["BODY_SECONDS"]
    stream = get_input_stream(request.environ)
    too_slow = RequestTimedOut(f"the body must arrive within {seconds:g} seconds")
    with _deadline(seconds) as expired:
        try:
            body = _read_up_to(stream, limit)
        except PayloadTooLarge:
            raise
        except Exception as error:  # broken chunks and connections, each with gunicorn's own class
            # The socket's own timeout, not one byte for long, is one of these two.
            if expired.is_set() or isinstance(error, (BlockingIOError, TimeoutError)):
                raise too_slow from error
            raise InvalidRequest("the body could not be read") from error
    if expired.is_set():
        raise too_slow
    if len(body) < (request.content_length or 0):
        raise InvalidRequest("the body ended before its length")
    return body


def _read_up_to(stream: IO[bytes], limit: int) -> bytes:
    chunks: list[bytes] = []
    length = request.content_length or 0
    received = 0
    # A chunked body has no length to look at before it is read.
    while length <= limit and received <= limit and (chunk := stream.read(_CHUNK)):
        received += len(chunk)
        chunks.append(chunk)
    if length <= limit and received <= limit:
        return b"".join(chunks)
    chunks.clear()
    _discard(stream, limit)
    raise PayloadTooLarge(f"the body must be at most {limit} bytes")


def _discard(stream: IO[bytes], limit: int) -> None:
    """Take in more of a body that is too long: most clients read no answer before they have sent it all."""
    with contextlib.suppress(Exception), _deadline(_DISCARD_SECONDS):
        for _ in range(0, 2 * limit, _CHUNK):
            if not stream.read(_CHUNK):
                return


@contextlib.contextmanager
def _deadline(seconds: float) -> Iterator[threading.Event]:
    """Stop a read on the client's socket after `seconds`: the reader then sees the end of the stream.

    A timeout on the socket would bound each read, and a byte at a time would still hold the thread for hours.
    """
    expired = threading.Event()
    client = request.environ.get("gunicorn.socket")
    if not isinstance(client, socket.socket):
        yield expired
        return

    def stop_reading() -> None:
        expired.set()
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RD)

    timer = threading.Timer(seconds, stop_reading)
    timer.daemon = True
    timer.start()
    try:
        yield expired
    finally:
        timer.cancel()


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location[:8]:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += ("." if path else "") + printable_name(part)
    return path or "body"


def _reason(kind: str, message: str, context: dict[str, Any]) -> str:
    """pydantic's message where it repeats nothing of the input; it states the bound."""
    if kind == "extra_forbidden":
        return "is not a known field"
    if kind == "missing":
        return "is required"
    if kind == "union_tag_invalid":  # the one message that holds the input
        return f"must be one of {context.get('expected_tags', 'the known kinds')}"
    reason = message.removeprefix("Value error, ").replace("Input should", "must", 1)
    reason = reason.replace("should have", "must have")
    return reason[:1].lower() + reason[1:300]
