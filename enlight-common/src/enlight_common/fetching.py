"""Weights on their way to the disk: two downloads at a time, and what failed is remembered for a while."""

from __future__ import annotations

import copy
import logging
import math
import threading
import time
from collections.abc import Callable

from enlight_common.errors import EnlightError, InternalError, StoreUnavailable, Unavailable
from enlight_common.queue import Canceled, Stop

log = logging.getLogger(__name__)

_AT_ONCE = 2
#: So many requests may wait for weights at a time, each for so long; the fetching goes on without them.
_MOST_WAITING = 4
_WAIT_S = 20.0
_LOOK_S = 0.25
_RETRY_S = 10.0


class BeingFetched(Unavailable):
    """What is asked for is on its way; whoever comes back later finds it."""


class _Attempt:
    def __init__(self) -> None:
        self.done = threading.Event()
        self.error: Exception | None = None


class Fetches:
    """Has things fetched in the background, each once for all that ask for it."""

    def __init__(self, *, remember_s: float = 60.0) -> None:
        """*remember_s*: what failed is answered from memory for so many seconds, and then tried again."""
        self._remember_s = remember_s
        self._lock = threading.Lock()
        self._waiters = threading.Semaphore(_MOST_WAITING)
        self._downloads = threading.Semaphore(_AT_ONCE)
        self._running: dict[str, _Attempt] = {}
        self._failed: dict[str, tuple[float, EnlightError]] = {}

    def get(self, name: str, fetch: Callable[[], object], stop: Stop, *, patient: bool = False) -> None:
        """Have *fetch* done under this *name*, in a thread of its own, and wait for it.

        Raises:
            BeingFetched: it goes on after 20 s (*patient* waits longer), or too many wait already.
            Unavailable: what is to be fetched cannot be reached.
            Canceled: *stop* said so; the fetching goes on.
            Exception: what *fetch* raised. An EnlightError is remembered, and raised again for a while.
        """
        self.check_failed(name)
        attempt = self._attempt(name, fetch)
        if not patient and not self._waiters.acquire(blocking=False):
            raise _not_yet(name)
        try:
            end = math.inf if patient else time.monotonic() + _WAIT_S
            while not attempt.done.wait(_LOOK_S):
                if stop():
                    raise Canceled
                if time.monotonic() > end:
                    raise _not_yet(name)
        finally:
            if not patient:
                self._waiters.release()
        if attempt.error is not None:
            self.check_failed(name)
            raise attempt.error

    def remember(self, name: str, error: EnlightError) -> None:
        """Answer with *error* for a while instead of trying again."""
        with self._lock:
            self._failed[name] = (time.monotonic() + self._remember_s, error)

    def check_failed(self, name: str) -> None:
        """Raise what the last attempt failed with, where that is not long ago."""
        with self._lock:
            end, error = self._failed.get(name, (0.0, None))
            left = end - time.monotonic()
            if error is None:
                return
            if left <= 0:
                del self._failed[name]
                return
        if isinstance(error, StoreUnavailable):
            raise Unavailable(error.detail, retry_after=float(math.ceil(left))) from error
        raise copy.copy(error) from error

    def _attempt(self, name: str, fetch: Callable[[], object]) -> _Attempt:
        """The one that goes on, or a new one."""
        with self._lock:
            if name not in self._running:
                attempt = self._running[name] = _Attempt()
                # A daemon: a process that leaves waits for no download.
                threading.Thread(
                    target=self._fetch, args=(name, fetch, attempt), name="fetch", daemon=True
                ).start()
            return self._running[name]

    def _fetch(self, name: str, fetch: Callable[[], object], attempt: _Attempt) -> None:
        try:
            with self._downloads:
                fetch()
        except EnlightError as error:
            log.warning("%s cannot be had: %s", name, error.detail)
            self.remember(name, error)
            attempt.error = error
        except OSError:
            log.exception("%s could not be fetched", name)
            attempt.error = InternalError(f"the weights of {name} could not be stored; see the log")
            self.remember(name, attempt.error)
        except Exception as error:
            log.exception("%s could not be fetched", name)
            attempt.error = error
        finally:
            with self._lock:
                del self._running[name]
            attempt.done.set()


def _not_yet(name: str) -> BeingFetched:
    return BeingFetched(f"the weights of {name} are being fetched", retry_after=_RETRY_S)
