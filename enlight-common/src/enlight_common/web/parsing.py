"""The one place where request bodies are read and parsed."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any, TypeVar

from flask import current_app, request
from pydantic import BaseModel, ConfigDict, ValidationError
from werkzeug.exceptions import ClientDisconnected

from enlight_common.errors import (
    InvalidField,
    InvalidRequest,
    PayloadTooLarge,
    RequestTimedOut,
    UnsupportedMedia,
)
from enlight_common.web.loose_values import refuse_loose_numbers
from enlight_common.web.strict_json import parse_object, printable_name

BODY_SECONDS = 60.0  # nginx hands over a whole body at once; a client without nginx has this long
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


def read_body(seconds: float = BODY_SECONDS) -> bytes:
    """The current request's body, at most as long as the app's `max_body_bytes`, within `seconds` in all."""
    limit = current_app.config["MAX_CONTENT_LENGTH"]
    too_large = PayloadTooLarge(f"the body must be at most {limit} bytes")
    if request.content_length is not None and request.content_length > limit:
        raise too_large
    chunks: list[bytes] = []
    length = 0
    with _deadline(seconds) as expired:
        try:
            # a chunked body has no length to look at before it is read
            while chunk := request.stream.read(_CHUNK):
                length += len(chunk)
                if length > limit:
                    raise too_large
                chunks.append(chunk)
        except ClientDisconnected:
            if not expired.is_set():
                raise InvalidRequest("the body ended before its length") from None
        except OSError as error:
            raise InvalidRequest("the body could not be read") from error
    if expired.is_set():
        raise RequestTimedOut(f"the body must arrive within {seconds:g} seconds")
    return b"".join(chunks)


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
