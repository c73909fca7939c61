"""One claimed job: a thread keeps its lease, and whoever works at it hears when to stop."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Literal

from enlight_common.schemas.claims import MAX_LOG_BYTES, Claim, Progress, Renewal

from dreambooth_api.worker.main_api import LeaseLost, MainApi, Refused, Unavailable

_log = logging.getLogger(__name__)

#: canceled: its owner wants it no more. lost: it is another worker's. unheard: main-api was silent for so
#: long that it may be. leaving: this worker is being stopped.
Why = Literal["canceled", "lost", "unheard", "leaving"]

_RENEWALS = 3  # in the time of a lease: two may fail
_AGAIN_S = 1.0
_LAST_WORD_S = 10.0  # for what a worker that is being stopped still has to say, should main-api be away


class Held:
    """A job while this worker has it; a context whose end is the end of the renewals.

    When main-api is away the work goes on for `silence_s`: its lease may end meanwhile, but only main-api
    knows whether somebody else has the job, and says so when it is back.
    """

    def __init__(self, api: MainApi, claim: Claim, silence_s: float) -> None:
        self.api, self.claim, self.silence_s = api, claim, silence_s
        self.lease_s = claim.lease_s
        self._why: Why | None = None
        self._stop = threading.Event()
        self._leaving = threading.Event()
        self._leaving_since = math.inf
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._on_stop: Callable[[], None] = lambda: None
        self._progress: Progress | None = None
        self._lines: list[str] = []
        self._thread = threading.Thread(target=self._keep, name=f"lease {claim.job_id}", daemon=True)

    def __enter__(self) -> Held:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    @property
    def why(self) -> Why | None:
        """Why the work has to stop, if it has to."""
        return self._why

    def wait(self, seconds: float) -> Why | None:
        """Wait for a reason to stop."""
        self._stop.wait(seconds)
        return self._why

    def stop(self, why: Why) -> None:
        """Have the work stopped. What is lost stays lost, whatever else there is to say."""
        with self._lock:
            if self._why is None or why == "lost":
                self._why = why
            if why == "leaving":
                self._leaving_since = min(self._leaving_since, time.monotonic())
            on_stop = self._on_stop
        if why == "leaving":
            self._leaving.set()
        self._stop.set()
        on_stop()

    def patience(self) -> Callable[[float], bool]:
        """For `patiently`: from now on for `silence_s`, or until a short time after this worker is told to
        leave.
        """
        began = time.monotonic()

        def pause(seconds: float) -> bool:
            with self._lock:
                last_word = max(began, self._leaving_since) + _LAST_WORD_S
            if time.monotonic() + seconds > min(began + self.silence_s, last_word):
                return False
            if self._leaving.is_set():
                time.sleep(seconds)
            else:
                self._leaving.wait(seconds)
            return True

        return pause

    def call_on_stop(self, call: Callable[[], None]) -> None:
        """`call` once there is a reason to stop, which may be now."""
        with self._lock:
            self._on_stop = call
        if self._why is not None:
            call()

    def tell(self, progress: Progress) -> None:
        """What the next renewal says."""
        with self._lock:
            self._progress = progress

    def note(self, line: str) -> None:
        """Add a line to the job's log; of many, the newest are kept."""
        with self._lock:
            self._lines.append(line[:1000])
            while sum(len(kept.encode()) + 1 for kept in self._lines) > MAX_LOG_BYTES:
                del self._lines[0]

    def take_notes(self) -> str | None:
        """The lines that no renewal has told yet, for the last report."""
        with self._lock:
            lines, self._lines = self._lines, []
        return "\n".join(lines) + "\n" if lines else None

    def _keep(self) -> None:
        heard = time.monotonic()
        pause_s = self.lease_s / _RENEWALS
        while not self._over.wait(pause_s):
            asked = time.monotonic()
            try:
                self._renew()
            except LeaseLost:
                self.stop("lost")
                return
            except (Unavailable, Refused) as error:
                # A key that was revoked may be given back, too.
                _log.warning("a lease was not renewed: %s", error, extra={"job_id": self.claim.job_id})
                pause_s = min(_AGAIN_S, self.lease_s / _RENEWALS)
                if time.monotonic() - heard > self.silence_s:
                    self.stop("unheard")
                    return
            else:
                heard, pause_s = asked, self.lease_s / _RENEWALS

    def _renew(self) -> None:
        notes = self.take_notes()
        renewal = Renewal(fencing=self.claim.fencing, progress=self._progress, logs=notes)
        try:
            lease = self.api.renew(self.claim.job_id, renewal)
        except (Unavailable, Refused):
            for line in reversed((notes or "").splitlines()):
                with self._lock:
                    self._lines.insert(0, line)
            raise
        self.lease_s = lease.lease_s
        if lease.cancel:
            self.stop("canceled")
