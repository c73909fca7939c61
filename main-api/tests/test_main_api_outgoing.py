"""Requests to our services over TLS: waited for as long as asked, and no longer than somebody wants them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from main_api import outgoing
from main_api.outgoing import Broken, Stopped
from tls_server import WITHIN_S, SlowServer, slow_server

HEADERS = {"Accept": "application/json"}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowServer]:
    with slow_server(tmp_path, monkeypatch) as found:
        yield found


def test_an_answer_may_take_longer_than_the_silence_between_its_bytes(
    server: SlowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing, "_STALL_S", 0.2)
    threading.Timer(3 * outgoing._LOOK_S, server.may_answer.set).start()
    answer = outgoing.post(
        f"{server.url}/inference",
        b"{}",
        HEADERS,
        timeout_s=WITHIN_S,
        max_bytes=10,
        stop=lambda: False,
    )
    assert (answer.status, answer.body) == (200, b"{}")


def test_it_is_given_up_when_nobody_wants_it(server: SlowServer) -> None:
    unwanted = threading.Event()

    def ask(timeout_s: float) -> outgoing.Answer:
        url = f"{server.url}/inference"
        return outgoing.post(url, b"{}", HEADERS, timeout_s=timeout_s, max_bytes=10, stop=unwanted.is_set)

    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(ask, WITHIN_S)
        assert server.asked.wait(WITHIN_S)
        unwanted.set()
        with pytest.raises(Stopped):
            asked.result(WITHIN_S)


def test_a_service_that_says_nothing_in_time_may_have_done_it(server: SlowServer) -> None:
    with pytest.raises(Broken, match="Timeout"):
        outgoing.post(
            f"{server.url}/inference", b"{}", HEADERS, timeout_s=1, max_bytes=10, stop=lambda: False
        )
