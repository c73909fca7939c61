"""Clients' patience, turns, and what is under way."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from enlight_common.errors import TimedOut
from enlight_common.patience import InFlight, Patience, Turns
from enlight_common.progress import Progresses
from enlight_common.queue import Canceled, Stop


def test_what_takes_longer_than_the_patience_is_refused_with_both_numbers():
    Patience(100).check(estimate_s=40, ahead_s=50)
    with pytest.raises(TimedOut, match="about 60 s after 50 s of other work, more than the 100 s") as refused:
        Patience(100).check(estimate_s=60, ahead_s=50)
    assert refused.value.extra == {"estimated_seconds": 110, "patience_seconds": 100}
    with pytest.raises(TimedOut, match="nothing was done"):
        Patience(0).check(estimate_s=0)


def test_work_is_stopped_when_the_time_is_over_and_that_is_told_from_a_client_that_left():
    def work(patience: Patience, stop: Stop) -> None:
        with patience.limit(stop) as stop_or_late:
            if stop_or_late():
                raise Canceled

    with pytest.raises(TimedOut):
        work(Patience(0), lambda: False)
    with pytest.raises(Canceled):
        work(Patience(100), lambda: True)
    work(Patience(100), lambda: False)


def test_no_more_than_the_turns_are_inside_and_who_leaves_makes_room():
    turns = Turns(1)
    with turns.enter(lambda: False), pytest.raises(Canceled), turns.enter(lambda: True):
        pass
    with pytest.raises(ZeroDivisionError), turns.enter(lambda: False):
        raise ZeroDivisionError
    with turns.enter(lambda: True):
        pass


def test_who_leaves_waits_for_what_is_under_way():
    in_flight, inside, end = InFlight(), threading.Event(), threading.Event()

    def work() -> None:
        with in_flight.one():
            inside.set()
            end.wait()

    with ThreadPoolExecutor() as pool:
        try:
            pool.submit(work)
            inside.wait()
            assert not in_flight.wait_for_none(0)
            waiting = pool.submit(in_flight.wait_for_none, 600)
            assert not waiting.done()
        finally:
            end.set()
        assert waiting.result()


def test_of_two_requests_with_one_id_the_newer_is_told_of():
    progresses = Progresses()
    with progresses.follow("a"):
        with progresses.follow("a") as newer:
            newer.begin(10)
            newer.tell(0.5, 5)
            told = progresses.of("a")
            assert told is newer
            assert (told.running, told.done) == (True, 0.5)
            assert 0 < told.seconds_left <= 5
        assert progresses.of("a") is None
