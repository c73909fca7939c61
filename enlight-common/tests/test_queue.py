"""Work is done one piece at a time in order of arrival; who goes away leaves no gap."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from enlight_common.errors import Overloaded
from enlight_common.queue import Canceled, WorkQueue

WITHIN_S = 10


def never() -> bool:
    return False


class HeldQueue:
    """A queue whose first work lasts until it is let go, with more waiting behind it."""

    def __init__(self, limit: int) -> None:
        self.queue = WorkQueue(limit)
        self.go_on = threading.Event()
        self.done: list[str] = []
        self._threads = ThreadPoolExecutor(8)
        self.first = self.submit("first", wait=True)
        until(lambda: self.queue.busy and self.queue.length == 0)

    def submit(self, name: str, *, wait: bool = False, stop: Callable[[], bool] = never) -> Future[str]:
        def work(_stop: Callable[[], bool]) -> str:
            if wait:
                assert self.go_on.wait(WITHIN_S)
            self.done.append(name)
            return name

        waiting = self.queue.length
        future = self._threads.submit(self.queue.run, work, units=1, stop=stop)
        if not wait:
            until(lambda: self.queue.length == waiting + 1 or future.done())
        return future


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_pieces_are_made_in_order_of_arrival() -> None:
    held = HeldQueue(limit=5)
    futures = [held.submit(name) for name in ("second", "third", "fourth")]
    held.go_on.set()
    assert [future.result(WITHIN_S) for future in futures] == ["second", "third", "fourth"]
    assert held.done == ["first", "second", "third", "fourth"]
    until(lambda: not held.queue.busy)


def test_more_than_the_limit_are_refused_with_a_time_to_come_again() -> None:
    held = HeldQueue(limit=2)
    waiting = [held.submit("second"), held.submit("third")]
    with pytest.raises(Overloaded) as refused:
        held.queue.run(lambda _: "fourth", units=1, stop=never)
    assert refused.value.retry_after == 3, "three units of a second each are ahead"
    held.go_on.set()
    for future in waiting:
        future.result(WITHIN_S)
    assert held.queue.run(lambda _: "fifth", units=1, stop=never) == "fifth"


def test_who_leaves_while_waiting_gives_up_the_place() -> None:
    held = HeldQueue(limit=1)
    gone = threading.Event()
    leaver = held.submit("leaver", stop=gone.is_set)
    gone.set()
    with pytest.raises(Canceled):
        leaver.result(WITHIN_S)
    assert held.queue.length == 0
    after = held.submit("after")
    held.go_on.set()
    assert after.result(WITHIN_S) == "after"
    assert held.done == ["first", "after"]


def test_a_work_that_fails_fails_its_own_caller_only() -> None:
    queue = WorkQueue(limit=1)

    def fail(_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        queue.run(fail, units=1, stop=never)
    assert queue.run(lambda _: "next", units=1, stop=never) == "next"
    assert queue.units_done == 1


class Pictures:
    """Something that takes memory."""


@pytest.mark.parametrize("fails", [False, True])
def test_an_idle_queue_keeps_nothing_of_its_last_work(fails: bool) -> None:
    queue = WorkQueue(limit=1)
    asked, made = Pictures(), Pictures()
    kept = [weakref.ref(asked), weakref.ref(made)]

    def work(_: object, asked: Pictures = asked, made: Pictures = made) -> Pictures:
        if fails:
            raise ZeroDivisionError
        return made

    with contextlib.suppress(ZeroDivisionError):
        queue.run(work, units=1, stop=never)
    del asked, made, work

    def is_gone() -> bool:
        gc.collect()
        return all(one() is None for one in kept)

    until(is_gone)


def test_the_time_to_wait_follows_recent_pieces() -> None:
    queue = WorkQueue(limit=1)
    queue.run(lambda _: time.sleep(0.2), units=2, stop=never)
    assert 0.1 <= queue.seconds_per_unit < 1
    assert queue.seconds_ahead() == 0
