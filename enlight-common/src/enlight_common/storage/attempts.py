"""Trying again: how often and how long apart, the same for every store behind a network."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from enlight_common.errors import StoreUnavailable
from enlight_common.storage.interface import StorageLimits

Result = TypeVar("Result")

# Statuses that another attempt may get past.
TRANSIENT_STATUSES = frozenset({408, 429, 500, 502, 503, 504})


def retrying(limits: StorageLimits, operation: Callable[[], Result]) -> Result:
    """`operation`'s result, after at most `limits.attempts` calls.

    StoreUnavailable is what another attempt may cure; the last one is raised, any other error at once.
    """
    for attempt in range(1, limits.attempts):
        try:
            return operation()
        except StoreUnavailable:
            pause(limits, attempt)
    return operation()


def pause(limits: StorageLimits, attempt: int) -> None:
    """Sleep after the failed attempt number `attempt`, the first being 1."""
    longest = min(limits.backoff_s * 2.0 ** (attempt - 1), limits.max_backoff_s)
    # Half of it is chance, so that those who failed together do not come back together.
    time.sleep(longest * random.uniform(0.5, 1.0))
