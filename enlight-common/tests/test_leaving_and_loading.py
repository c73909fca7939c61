"""How a service begins and ends: what is said while it loads, where that fails, and when it leaves."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from enlight_common.errors import ClientLeft, ShuttingDown, StoreUnavailable, Unavailable
from enlight_common.leaving import Leaving
from enlight_common.loading import Loaded
from enlight_common.patience import InFlight
from enlight_common.queue import Canceled
from enlight_common.web import create_app, watched

from conftest import wait_until


def test_nothing_is_there_until_it_is_loaded():
    let_go = threading.Event()
    loaded = Loaded("the model", lambda: let_go.wait(60) and "model", Leaving())
    loaded.start()
    assert loaded.ready == "the model is being loaded"
    assert loaded.value is None
    with pytest.raises(Unavailable, match="is being loaded") as caught:
        loaded.get()
    assert caught.value.retry_after
    let_go.set()
    assert wait_until(lambda: loaded.ready is True)
    assert loaded.get() == loaded.value == "model"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (StoreUnavailable("no hub"), "the model is not loaded: no hub"),
        (MemoryError("secret"), "the model could not be loaded (MemoryError); see the log"),
    ],
)
def test_whatever_fails_is_said_and_logged_and_tried_again(
    error: Exception, words: str, caplog: pytest.LogCaptureFixture
):
    fails = threading.Event()
    fails.set()

    def load() -> None:
        if fails.is_set():
            raise error

    loaded = Loaded("the model", load, Leaving(), again_s=0.01)
    loaded.start()
    assert wait_until(lambda: loaded.ready == words)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING]
    fails.clear()
    assert wait_until(lambda: loaded.ready is True)
    assert loaded.get() is None


def test_a_load_that_is_stopped_because_the_service_leaves_is_no_failure(caplog: pytest.LogCaptureFixture):
    leaving, begun, ended = Leaving(), threading.Event(), threading.Event()

    def load() -> None:
        begun.set()
        leaving.wait(60)
        ended.set()
        raise Canceled

    loaded = Loaded("the model", load, leaving)
    loaded.start()
    assert begun.wait(60)
    leaving.drain(0, lambda seconds: True)
    assert ended.wait(60)
    assert loaded.ready == "the service is shutting down"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_who_leaves_takes_nothing_new_and_waits_for_what_is_under_way():
    leaving, in_flight = Leaving(), InFlight()
    leaving.check_open()
    with ThreadPoolExecutor() as pool, in_flight.one():
        draining = pool.submit(leaving.drain, 600, in_flight.wait_for_none)
        assert leaving.wait(60)
        with pytest.raises(ShuttingDown):
            leaving.check_open()
        assert not leaving.stopping
        again = pool.submit(leaving.drain, 600, in_flight.wait_for_none)
        again.result(60)
        assert not draining.done()
    assert leaving.stopping


def test_what_outlasts_the_grace_time_has_to_stop_and_is_waited_for_once_more():
    leaving, asked = Leaving(), []

    def idle(seconds: float) -> bool:
        asked.append((seconds, leaving.stopping))
        return False

    leaving.drain(7, idle, last_s=2)
    assert asked == [(7, False), (2, True)]


def test_work_that_was_stopped_is_answered_by_why():
    leaving = Leaving()
    app = create_app(__name__, max_body_bytes=10, ready=lambda: True)
    with app.test_request_context("/"):
        with watched(leaving, "the picture") as stop:
            assert not stop()
        with pytest.raises(ClientLeft), watched(leaving, "the picture"):
            raise Canceled
        leaving.drain(0, lambda seconds: True)
        with watched(leaving, "the picture") as stop:
            assert stop()
        with pytest.raises(ShuttingDown, match="not finish the picture"), watched(leaving, "the picture"):
            raise Canceled
