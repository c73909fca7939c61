"""What is fetched: once for all, waited for by few, and what failed is remembered."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from enlight_common.errors import InternalError, InvalidField, StoreUnavailable, Unavailable
from enlight_common.fetching import BeingFetched, Fetches
from enlight_common.queue import Canceled

from conftest import wait_until


class Held:
    """Something to fetch that takes until it is let go."""

    def __init__(self, error: Exception | None = None) -> None:
        self.begun = 0
        self.let_go = threading.Event()
        self._error = error

    def fetch(self) -> None:
        self.begun += 1
        assert self.let_go.wait(60)
        if self._error is not None:
            raise self._error


def never() -> bool:
    return False


def test_it_is_fetched_once_for_all_and_more_than_a_few_are_told_to_come_back():
    fetches, held = Fetches(), Held()
    with ThreadPoolExecutor() as pool:
        asking = [pool.submit(fetches.get, "x", held.fetch, never) for _ in range(6)]
        try:
            assert wait_until(lambda: sum(one.done() for one in asking) == 2)
            refused = [one.exception() for one in asking if one.done()]
        finally:
            held.let_go.set()
        outcomes = [one.exception() for one in asking]
    assert [type(one) for one in refused] == [BeingFetched] * 2
    assert outcomes.count(None) == 4
    assert held.begun == 1


def test_who_leaves_waits_no_longer_and_the_fetching_goes_on():
    fetches, held, leave = Fetches(), Held(), threading.Event()
    with ThreadPoolExecutor() as pool:
        try:
            leaving = pool.submit(fetches.get, "x", held.fetch, leave.is_set)
            staying = pool.submit(fetches.get, "x", held.fetch, never)
            assert wait_until(lambda: held.begun == 1)
            leave.set()
            assert isinstance(leaving.exception(), Canceled)
            assert not staying.done()
        finally:
            held.let_go.set()
        assert staying.exception() is None


def test_who_is_patient_takes_no_place_of_others():
    fetches, held = Fetches(), Held()
    with ThreadPoolExecutor() as pool:
        patient = [pool.submit(fetches.get, "x", held.fetch, never, patient=True) for _ in range(5)]
        asking = pool.submit(fetches.get, "x", held.fetch, never)
        assert wait_until(lambda: held.begun == 1)
        held.let_go.set()
        assert [one.exception() for one in (*patient, asking)] == [None] * 6


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (StoreUnavailable("gone"), Unavailable),
        (InvalidField("model", "is none"), InvalidField),
        (PermissionError("not allowed"), InternalError),
    ],
)
def test_a_failure_is_told_to_all_and_remembered(error: Exception, told: type[Exception]):
    fetches, held = Fetches(), Held(error)
    held.let_go.set()
    seen = []
    for _ in range(2):
        with pytest.raises(told) as caught:
            fetches.get("x", held.fetch, never)
        seen.append(caught.value)
    assert held.begun == 1
    assert seen[0] is not seen[1], "one exception in two threads would mix up their tracebacks"
    assert str(seen[0]) == str(seen[1])


def test_it_is_tried_again_later_and_what_is_a_bug_at_once():
    for fetches, error in (
        (Fetches(remember_s=0), StoreUnavailable("gone")),
        (Fetches(), ZeroDivisionError()),
    ):
        held = Held(error)
        held.let_go.set()
        for _ in range(2):
            with pytest.raises(type(error)):
                fetches.get("x", held.fetch, never)
        assert held.begun == 2
