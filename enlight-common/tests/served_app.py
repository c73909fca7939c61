"""The app, and gunicorn's settings, that the tests on real sockets run."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from enlight_common.schemas.strict import Strict
from enlight_common.web import (
    Event,
    LongLived,
    client_gone,
    create_app,
    gunicorn_settings,
    last_event_id,
    parse_body,
    slow_readers,
    sse,
)
from flask import Response
from served_app_limits import MAX_BODY_BYTES, THREADS

PATIENCE_S = 120

globals().update(
    gunicorn_settings(
        host="127.0.0.1",
        port=int(os.environ["SERVED_PORT"]),
        threads=THREADS,
        grace_s=5,
        name="served",
        stall_s=5,  # shorter than in service, like the body's time: the tests of slow clients end sooner
    )
)

# So that what is more than the buffers take is not allowed minutes.
slow_readers.PATIENCE_S, slow_readers.SLOWEST_BYTES_PER_S = 2.0, 5_000_000

app = create_app(__name__, max_body_bytes=MAX_BODY_BYTES, ready=lambda: True, body_seconds=10.0)
slots = LongLived(THREADS // 2, retry_after=7)
seen = {"held": 0, "gone": 0, "streams": 0, "closed": 0}


class Text(Strict):
    text: str


@app.post("/length")
def length():
    return {"length": len(parse_body(Text).text)}


@app.get("/seen")
def show_seen():
    return {**seen, "taken": slots.taken}


@app.get("/hold")
def hold():
    """Holds its place until the client goes away."""
    with slots.enter("hold"):
        seen["held"] += 1
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if client_gone():
                seen["gone"] += 1
                break
            time.sleep(0.02)
        return {}


@app.get("/large")
def large():
    """More than the buffers of a connection take in."""
    return Response(b"a" * 50_000_000)


@app.get("/large-events")
def large_events():
    """Events that are more than the buffers of a connection take in."""

    def say() -> Iterator[Event | None]:
        for _ in range(10):
            yield Event("a" * 5_000)
            yield Event("a" * 10_000_000)

    return sse(say(), slot=slots.take("event stream"))


@app.get("/events")
def events():
    """Three events, numbered from where the client left off, then silence until the client goes away."""
    after = last_event_id()

    def say() -> Iterator[Event | None]:
        seen["streams"] += 1
        try:
            for number in range(after + 1, 4):
                yield Event({"number": number}, event="number", id=number)
            deadline = time.monotonic() + PATIENCE_S
            while time.monotonic() < deadline:
                yield None
                time.sleep(0.02)
        finally:
            seen["closed"] += 1

    return sse(say(), keep_alive_s=0.1, slot=slots.take("event stream"))
