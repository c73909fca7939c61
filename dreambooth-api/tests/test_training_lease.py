"""A lease lapses once, when nobody renewed it, and never after it was ended."""

from __future__ import annotations

import threading

from dreambooth_api.training.lease import Lease

WITHIN_S = 60


def test_it_lapses_and_is_then_not_renewed() -> None:
    lapsed = threading.Event()
    lease = Lease(0.05, lapsed.set)
    assert lapsed.wait(WITHIN_S)
    assert lease.has_lapsed
    assert not lease.renew(WITHIN_S)
    assert not lease.end()


def test_renewed_it_lasts_and_may_also_be_made_shorter() -> None:
    lapsed = threading.Event()
    lease = Lease(1.0, lapsed.set)
    assert lease.renew(WITHIN_S)
    assert not lapsed.wait(1.5)
    assert not lease.has_lapsed
    assert lease.renew(0.05)
    assert lapsed.wait(WITHIN_S)


def test_ended_it_never_lapses() -> None:
    lapsed = threading.Event()
    lease = Lease(1.0, lapsed.set)
    assert lease.end()
    assert lease.renew(0.01)
    assert not lapsed.wait(1.5)
    assert not lease.has_lapsed
