"""A request's work: when it should stop, and what is answered where it did."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from enlight_common.errors import ClientLeft, ShuttingDown
from enlight_common.leaving import WORDS, Leaving
from enlight_common.queue import Canceled, Stop
from enlight_common.web.streams import watch_client


def watch_work(leaving: Leaving) -> Stop:
    """Whether the current request's work should stop: its client is gone, or the grace time is over."""
    gone = watch_client()
    return lambda: leaving.stopping or gone()


@contextlib.contextmanager
def watched(leaving: Leaving, what: str) -> Iterator[Stop]:
    """`watch_work` for the block, out of which Canceled comes as ClientLeft, or as ShuttingDown of *what*
    ("the picture") was not finished.
    """
    stop = watch_work(leaving)
    try:
        yield stop
    except Canceled:
        if leaving.stopping:
            raise ShuttingDown(f"{WORDS} and did not finish {what}") from None
        raise ClientLeft("the client closed its connection") from None
