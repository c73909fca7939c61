"""Waiting in tests for what takes a moment on a free machine and minutes on a crowded one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")

PATIENCE_S = 240.0


def until(
    condition: Callable[[], Found | None],
    reason: Callable[[], object] | str = "",
    *,
    within_s: float = PATIENCE_S,
) -> Found:
    """What *condition* gives once it holds; fails with *reason* where it does not within *within_s*."""
    began = time.monotonic()
    while not (found := condition()):
        waited = time.monotonic() - began
        assert waited < within_s, f"waited in vain: {reason() if callable(reason) else reason}"
        # Ever more patiently: who asks a service all the time, as on a free machine, meets its rate limit.
        time.sleep(min(0.02 + waited / 50, 0.1))
    return found
