"""A right that ends by itself unless it is renewed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Lease:
    """Calls `lapsed`, once and in a thread of its own, when nobody renewed it for as long as was said."""

    def __init__(self, seconds: float, lapsed: Callable[[], None]) -> None:
        self._until: float | None = time.monotonic() + seconds
        self._on_lapse = lapsed
        self._changed = threading.Condition()
        self._lapsed = False
        threading.Thread(target=self._watch, name="lease", daemon=True).start()

    @property
    def has_lapsed(self) -> bool:
        with self._changed:
            return self._lapsed or self._is_over()

    def renew(self, seconds: float) -> bool:
        """Let it last `seconds` from now. False when it is too late. One that was ended stays so."""
        with self._changed:
            if self._lapsed or self._is_over():
                return False
            if self._until is not None:
                self._until = time.monotonic() + seconds
                self._changed.notify_all()
            return True

    def end(self) -> bool:
        """Let it never lapse. False when it has."""
        with self._changed:
            if self._lapsed or self._is_over():
                return False
            self._until = None
            self._changed.notify_all()
            return True

    def _is_over(self) -> bool:
        return self._until is not None and time.monotonic() >= self._until

    def _watch(self) -> None:
        with self._changed:
            while self._until is not None and not self._is_over():
                self._changed.wait(self._until - time.monotonic())
            self._lapsed = self._until is not None
        if self._lapsed:
            self._on_lapse()
