"""What a service has to load before it can work: in the background, and again where it failed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar, cast

from enlight_common.errors import EnlightError, Unavailable
from enlight_common.leaving import WORDS, Leaving
from enlight_common.queue import Canceled

log = logging.getLogger(__name__)

_RETRY_S = 5.0

T = TypeVar("T")


class Loaded(Generic[T]):
    """What *load* gives, once it is there. ``start`` it once; ``/healthz`` can be answered meanwhile."""

    def __init__(self, what: str, load: Callable[[], T], leaving: Leaving, *, again_s: float = 15.0) -> None:
        """*what* is for words: "the model". After a failure, say a hub that cannot be reached, *load* is
        tried again after *again_s* seconds, until the service leaves.
        """
        self._what = what
        self._load = load
        self._leaving = leaving
        self._again_s = again_s
        self._not_ready = f"{what} is being loaded"
        self._value: T | None = None
        self._is_loaded = False

    def start(self) -> None:
        """Begin to load, in a thread of its own."""
        threading.Thread(target=self._keep_trying, name="load", daemon=True).start()

    def get(self) -> T:
        """What was loaded. Raises Unavailable, which says why it was not."""
        if not self._is_loaded:
            raise Unavailable(self._not_ready, retry_after=_RETRY_S)
        return cast(T, self._value)  # which may be None where that is what `load` gives

    @property
    def value(self) -> T | None:
        """What was loaded, or None."""
        return self._value

    @property
    def ready(self) -> bool | str:
        """True, or why the service can do no work; as `enlight_common.web.create_app` takes it."""
        if self._leaving.draining:
            return WORDS
        return True if self._is_loaded else self._not_ready

    def _keep_trying(self) -> None:
        while not self._leaving.draining:
            try:
                self._value = self._load()
                self._is_loaded = True
                return
            except Canceled:
                # The service leaves: that is what a load is stopped for.
                self._not_ready = f"{self._what} was not loaded"
            except EnlightError as error:
                log.warning("%s is not loaded: %s", self._what, error.detail)
                self._not_ready = f"{self._what} is not loaded: {error.detail}"
            except Exception as error:
                log.exception("%s could not be loaded", self._what)
                self._not_ready = f"{self._what} could not be loaded ({type(error).__name__}); see the log"
            self._leaving.wait(self._again_s)
