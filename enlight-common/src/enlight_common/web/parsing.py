"""The one place where request bodies are read and parsed."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import IO, Any, NoReturn, TypeVar

from flask import current_app, request
from pydantic import BaseModel, ConfigDict, ValidationError
from werkzeug.wsgi import get_input_stream

from enlight_common.errors import (
    InvalidField,
    InvalidRequest,
    Overloaded,
    PayloadTooLarge,
    RequestTimedOut,
    UnsupportedMedia,
)
from enlight_common.web.body_gate import Arrival, BodyGate
from enlight_common.web.loose_values import refuse_loose_numbers
from enlight_common.web.strict_json import parse_object, printable_name

_DISCARD_SECONDS = 5.0
_MAX_ERRORS = 10
#: Small, so that a body's pace is known while it arrives.
_CHUNK = 16 * 1024

#: Under this name an app's extensions hold its `BodyGate`.
BODY_GATE = "enlight-body-gate"

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


def parse_query(model: type[Model]) -> Model:
    """The current request's query, each parameter once, validated against `model`; raises InvalidField."""
    for name, values in request.args.lists():
        if len(values) > 1:
            raise InvalidField(printable_name(name), "must be given once")
    return validate(model, request.args.to_dict())


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
    """The current request's body, within the `max_body_bytes`, `body_seconds` and `body_gate` of the app."""
    limit: int = current_app.config["MAX_CONTENT_LENGTH"]
    seconds: float = current_app.config["BODY_SECONDS"]
    stream = get_input_stream(request.environ)
    if (request.content_length or 0) > limit:
        _refuse_too_long(stream, limit)
    with _arrival() as arrival, _deadline(arrival, seconds):
        too_slow = RequestTimedOut(
            f"the body must arrive within {seconds:g} seconds, faster while others wait"
        )
        try:
            body = _read_up_to(stream, limit, arrival)
        except PayloadTooLarge:
            raise
        except Exception as error:  # broken chunks and connections, each with gunicorn's own class
            # The socket's own timeout, not one byte for long, is one of these two.
            if arrival.given_up.is_set() or isinstance(error, (BlockingIOError, TimeoutError)):
                raise too_slow from error
            raise InvalidRequest("the body could not be read") from error
        if arrival.given_up.is_set():
            raise too_slow
    if len(body) < (request.content_length or 0):
        raise InvalidRequest("the body ended before its length")
    return body


def _read_up_to(stream: IO[bytes], limit: int, arrival: Arrival) -> bytes:
    chunks: list[bytes] = []
    # A chunked body has no length to look at before it is read.
    while arrival.received <= limit and (chunk := stream.read(_CHUNK)):
        arrival.received += len(chunk)
        chunks.append(chunk)
    if arrival.received > limit:
        chunks.clear()
        _discard(stream, limit, arrival)
        raise _too_large(limit)
    return b"".join(chunks)


def _refuse_too_long(stream: IO[bytes], limit: int) -> NoReturn:
    # Where the gate is full the client gets its answer, or a reset, without having been listened to.
    with contextlib.suppress(Overloaded), _arrival(patience_s=0.0) as arrival:
        _discard(stream, limit, arrival)
    raise _too_large(limit)


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body must be at most {limit} bytes")


def _discard(stream: IO[bytes], limit: int, arrival: Arrival) -> None:
    """Take in more of a body that is too long: most clients read no answer before they have sent it all."""
    with contextlib.suppress(Exception), _deadline(arrival, _DISCARD_SECONDS):
        for _ in range(0, 2 * limit, _CHUNK):
            chunk = stream.read(_CHUNK)
            arrival.received += len(chunk)
            if not chunk:
                return


def _arrival(**patience: float) -> contextlib.AbstractContextManager[Arrival]:
    """The current request's body as one that arrives, through the gate where the app has one."""
    client = request.environ.get("gunicorn.socket")
    if not isinstance(client, socket.socket):
        client = None
    gate: BodyGate | None = current_app.extensions.get(BODY_GATE)
    return contextlib.nullcontext(Arrival(client)) if gate is None else gate.enter(client, **patience)


@contextlib.contextmanager
def _deadline(arrival: Arrival, seconds: float) -> Iterator[None]:
    """Give a body up after `seconds`.

    A timeout on the socket would bound each read, and a byte at a time would still hold the thread for hours.
    """
    timer = threading.Timer(seconds, arrival.give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
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
