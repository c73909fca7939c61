"""The one place where request bodies are read and parsed."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
from collections.abc import Iterator
from typing import IO, Any, NoReturn, TypeVar

from flask import current_app, request
from pydantic import BaseModel, ValidationError
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.wsgi import get_input_stream

from enlight_common.errors import (
    EnlightError,
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
    with arriving(seconds) as arrival:
        body = _read_up_to(stream, limit, arrival)
    if len(body) < (request.content_length or 0):
        raise InvalidRequest("the body ended before its length")
    return body


def read_form() -> None:
    """Take in the current request's form within the same bounds; `request.form` and `request.files` have it
    then.
    """
    limit: int = current_app.config["MAX_CONTENT_LENGTH"]
    if (request.content_length or 0) > limit:
        _refuse_too_long(get_input_stream(request.environ), limit)
    with arriving(current_app.config["BODY_SECONDS"]) as arrival:
        request.environ["wsgi.input"] = _Counted(request.environ["wsgi.input"], arrival)
        try:
            _ = request.form
        except RequestEntityTooLarge:
            raise _too_large(limit) from None
    if arrival.received < (request.content_length or 0):
        raise InvalidRequest("the body ended before its length")


@contextlib.contextmanager
def arriving(seconds: float, gate: BodyGate | None = None) -> Iterator[Arrival]:
    """Around reading the current request's body, through `gate` or else the app's, in `seconds` at most.

    Who reads counts what is there. Raises RequestTimedOut, InvalidRequest, Overloaded.
    """
    with _arrival(gate) as arrival, deadline(arrival, seconds):
        too_slow = RequestTimedOut(
            f"the body must arrive within {seconds:.0f} seconds, faster while others wait"
        )
        try:
            yield arrival
        except PayloadTooLarge:
            raise
        except Exception as error:  # broken chunks and connections, each with gunicorn's own class
            # The socket's own timeout, not one byte for long, is one of these two.
            if arrival.given_up.is_set() or _is_silence(error):
                raise too_slow from error
            if isinstance(error, EnlightError):
                raise
            raise InvalidRequest("the body could not be read") from error
        if arrival.given_up.is_set():
            raise too_slow


def _is_silence(error: BaseException | None) -> bool:
    """Whether a socket's timeout is behind it; werkzeug has an error of its own for it."""
    while error is not None and not isinstance(error, (BlockingIOError, TimeoutError)):
        error = error.__cause__ or error.__context__
    return error is not None


class _Counted(io.RawIOBase):
    """A request's stream that counts what was read of it."""

    def __init__(self, stream: IO[bytes], arrival: Arrival) -> None:
        self._stream = stream
        self._arrival = arrival

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self._stream.read(min(len(buffer), _CHUNK))
        self._arrival.received += len(chunk)
        buffer[: len(chunk)] = chunk
        return len(chunk)


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
    with contextlib.suppress(Overloaded), _arrival(waits=False) as arrival:
        _discard(stream, limit, arrival)
    raise _too_large(limit)


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body must be at most {limit} bytes")


def _discard(stream: IO[bytes], limit: int, arrival: Arrival) -> None:
    """Take in more of a body that is too long: most clients read no answer before they have sent it all."""
    with contextlib.suppress(Exception), deadline(arrival, _DISCARD_SECONDS):
        for _ in range(0, 2 * limit, _CHUNK):
            chunk = stream.read(_CHUNK)
            arrival.received += len(chunk)
            if not chunk:
                return


def _arrival(
    gate: BodyGate | None = None, *, waits: bool = True
) -> contextlib.AbstractContextManager[Arrival]:
    """The current request's body as one that arrives, through `gate`, or the app's where it has one."""
    client = client_of_request()
    gate = gate or current_app.extensions.get(BODY_GATE)
    if gate is None:
        return contextlib.nullcontext(Arrival(client))
    return gate.enter(client) if waits else gate.enter(client, patience_s=0.0)


def client_of_request() -> socket.socket | None:
    """The connection that the current request came on; None where gunicorn does not tell."""
    client = request.environ.get("gunicorn.socket")
    return client if isinstance(client, socket.socket) else None


@contextlib.contextmanager
def deadline(arrival: Arrival, seconds: float) -> Iterator[None]:
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
