"""Weights on their way to the disk: two downloads at a time, and what failed is remembered for a while."""

from __future__ import annotations

import concurrent.futures
import logging
import math
import threading
import time
from pathlib import Path

from enlight_common.errors import EnlightError, StoreUnavailable, Unavailable
from enlight_common.queue import Canceled, Stop

from bgrem.models import Model

log = logging.getLogger(__name__)

_FETCHERS = 2
#: So many requests may wait for weights at a time, each for so long; the fetching goes on without them.
_MOST_WAITING = 4
_WAIT_S = 20.0
_LOOK_S = 0.25
_RETRY_S = 10.0
#: What failed is answered from memory for so long, and then tried again.
_REMEMBER_S = 60.0


class Fetches:
    """Fetches weights into *weights_dir*, each once for all that ask."""

    def __init__(self, weights_dir: Path, *, remember_s: float = _REMEMBER_S) -> None:
        self.weights_dir = weights_dir
        self._remember_s = remember_s
        self._lock = threading.Lock()
        self._waiters = threading.Semaphore(_MOST_WAITING)
        self._pool = concurrent.futures.ThreadPoolExecutor(_FETCHERS, thread_name_prefix="fetch")
        self._running: dict[str, concurrent.futures.Future[None]] = {}
        self._failed: dict[str, tuple[float, EnlightError]] = {}

    def paths(self, model: Model, stop: Stop, *, patient: bool = False) -> list[Path]:
        """The files of *model*, whole and checked. Those that are on the disk wait for no download.

        Raises:
            InvalidField: the operator has to put its file there.
            Unavailable: they are still being fetched after 20 s (*patient* waits on), or cannot be had.
            StoreCorrupt, TimedOut, StorageFull: fetching them went wrong.
            Canceled: *stop* said so.
        """
        model.check_obtainable(self.weights_dir)
        if not (model.is_here(self.weights_dir) and model.is_sound(self.weights_dir)):
            self._wait_for(model, stop, patient)
        return model.paths(self.weights_dir)

    def remember(self, model: Model, error: EnlightError) -> None:
        """Answer with *error* for a while instead of trying again."""
        with self._lock:
            self._failed[model.name] = (time.monotonic() + self._remember_s, error)

    def check_failed(self, model: Model) -> None:
        """Raise what the last attempt failed with, where that is not long ago."""
        with self._lock:
            end, error = self._failed.get(model.name, (0.0, None))
            left = end - time.monotonic()
            if error is None:
                return
            if left <= 0:
                del self._failed[model.name]
                return
        if isinstance(error, StoreUnavailable):
            raise Unavailable(error.detail, retry_after=float(math.ceil(left))) from error
        raise type(error)(error.detail) from error

    def _wait_for(self, model: Model, stop: Stop, patient: bool) -> None:
        self.check_failed(model)
        future = self._start(model)
        if not patient and not self._waiters.acquire(blocking=False):
            raise self._not_yet()
        try:
            end = math.inf if patient else time.monotonic() + _WAIT_S
            while not concurrent.futures.wait([future], timeout=_LOOK_S).done:
                if stop():
                    raise Canceled
                if time.monotonic() > end:
                    raise self._not_yet()
        finally:
            if not patient:
                self._waiters.release()
        if future.exception() is not None:
            self.check_failed(model)
        future.result()

    def _start(self, model: Model) -> concurrent.futures.Future[None]:
        with self._lock:
            if model.name not in self._running:
                self._running[model.name] = self._pool.submit(self._fetch, model)
            return self._running[model.name]

    def _fetch(self, model: Model) -> None:
        try:
            model.fetch(self.weights_dir)
        except EnlightError as error:
            log.warning("the weights of %s cannot be had: %s", model.name, error.detail)
            self.remember(model, error)
            raise
        finally:
            with self._lock:
                del self._running[model.name]

    @staticmethod
    def _not_yet() -> Unavailable:
        return Unavailable("the model's weights are being fetched", retry_after=_RETRY_S)
