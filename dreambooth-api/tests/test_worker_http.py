"""The worker's requests over TLS: told to wait no longer, it still reads its answer."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from dreambooth_api.worker.http import Exchange, Unreachable
from tls_server import WITHIN_S, SlowServer, slow_server


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowServer]:
    with slow_server(tmp_path, monkeypatch) as found:
        yield found


def test_a_poll_that_need_not_wait_any_more_still_gets_what_was_on_its_way(server: SlowServer) -> None:
    exchange = Exchange(server.url, silence_s=WITHIN_S)
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(exchange.run, "POST", "/claims", {}, {})
        assert server.asked.wait(WITHIN_S)
        exchange.wait_no_longer()
        server.may_answer.set()
        assert answer.result(WITHIN_S).status == 200


def test_one_that_is_broken_off_ends_as_unreachable(server: SlowServer) -> None:
    exchange = Exchange(server.url, silence_s=WITHIN_S)
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(exchange.run, "POST", "/inference", {}, {})
        assert server.asked.wait(WITHIN_S)
        exchange.abort()
        with pytest.raises(Unreachable):
            answer.result(WITHIN_S)
