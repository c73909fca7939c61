"""Bodies that arrive slowly hold neither the threads nor the gate in front of them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from enlight_common.errors import Overloaded
from enlight_common.web import BodyGate, create_app, parse_body
from enlight_common.web.openapi import ServiceInfo
from flask import Flask
from pydantic import BaseModel

from conftest import wait_until

ENOUGH = 10_000_000_000  # bytes that keep any pace


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    client, server = socket.socketpair()
    with client, server:
        yield client, server


def test_a_drip_makes_room_for_who_waits(pair: tuple[socket.socket, socket.socket]):
    _, server = pair
    gate = BodyGate(reading=1, waiting=1)
    seen = []

    def drip() -> None:
        with gate.enter(server) as arrival:
            while chunk := server.recv(10):
                arrival.received += len(chunk)
            seen.append(arrival.given_up.is_set())

    reader = threading.Thread(target=drip)
    reader.start()
    assert wait_until(lambda: gate.taken == 1)
    with gate.enter(None):
        assert seen == [True]
    reader.join()


def test_a_body_that_keeps_the_pace_is_left_alone(pair: tuple[socket.socket, socket.socket]):
    gate = BodyGate(reading=1, waiting=1)
    with gate.enter(pair[1]) as arrival:
        arrival.received = ENOUGH
        with pytest.raises(Overloaded) as caught, gate.enter(None):
            pass
        assert not arrival.given_up.is_set()
    assert caught.value.retry_after == 1.0
    with gate.enter(None):
        assert gate.taken == 1


def test_only_as_many_bodies_are_given_up_as_others_wait_for():
    gate = BodyGate(reading=3, waiting=1)
    with ExitStack() as held:
        sockets = [held.enter_context(end) for _ in range(3) for end in socket.socketpair()]
        arrivals = [held.enter_context(gate.enter(server)) for server in sockets[1::2]]
        for received, arrival in zip((500, 20, 900), arrivals, strict=True):
            arrival.received = received
        # None of them leaves, so that the one that waits asks again and again.
        with pytest.raises(Overloaded), gate.enter(None):
            pass
        assert [arrival.given_up.is_set() for arrival in arrivals] == [False, True, False]


def test_more_than_may_wait_are_refused_at_once():
    gate = BodyGate(reading=1, waiting=0)
    with gate.enter(None), pytest.raises(Overloaded), gate.enter(None):
        pass
    assert gate.taken == 0


def test_a_gate_leaves_more_than_half_of_the_threads_to_others():
    gate = BodyGate.of_threads(64)
    with ExitStack() as held:
        for _ in range(16):
            held.enter_context(gate.enter(None))
        with pytest.raises(Overloaded), gate.enter(None, patience_s=0.0):
            pass


class Text(BaseModel):
    text: str


@pytest.fixture
def gate() -> BodyGate:
    return BodyGate(reading=1, waiting=0)


@pytest.fixture
def app(gate: BodyGate) -> Flask:
    app = create_app(
        __name__, max_body_bytes=100, ready=lambda: True, info=ServiceInfo(title="x"), body_gate=gate
    )

    @app.post("/length")
    def length() -> dict[str, int]:
        body = parse_body(Text)
        return {"length": len(body.text), "reading": gate.taken}

    return app


def test_a_body_holds_its_place_only_while_it_is_read(app: Flask, gate: BodyGate):
    client = app.test_client()
    assert client.post("/length", json={"text": "abc"}).get_json() == {"length": 3, "reading": 0}
    with gate.enter(None):
        refused = client.post("/length", json={"text": "abc"})
    assert refused.status_code == 503
    assert refused.headers["Retry-After"] == "1"


def test_a_body_that_states_too_great_a_length_is_a_413_even_where_the_gate_is_full(
    app: Flask, gate: BodyGate
):
    with gate.enter(None):
        assert app.test_client().post("/length", json={"text": "a" * 200}).status_code == 413
