"""Finds jobs whose holder has gone, and gives them back."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from enlight_common.errors import EnlightError, Unavailable

from main_api.clock import now_ms
from main_api.jobs.leases import Leases
from main_api.records.jobs import Jobs

log = logging.getLogger(__name__)


class LeaseSweep:
    """Gives back every job whose lease has run out. Any number of processes may do it at once.

    A worker can only renew while this process and the database are there. So what ran out while they were
    away says nothing against its worker: for one lease after such a time no attempt is counted.
    """

    def __init__(self, jobs: Jobs, leases: Leases, clock: Callable[[], float] = time.monotonic) -> None:
        self._jobs = jobs
        self._leases = leases
        self._clock = clock
        self._reachable_since = clock()

    def __call__(self) -> int:
        """How many there were. Raises Unavailable."""
        try:
            counts = self._clock() - self._reachable_since > self._leases.lease_s
            expired = self._jobs.expired(now_ms())
            return sum(self._leases.expire(job, counts=counts) is not None for job in expired)
        except Unavailable:
            self._reachable_since = self._clock()
            raise


class Sweeper:
    """Sweeps every `every_s` seconds in a thread of its own, so that this needs no broker to be there."""

    def __init__(self, sweep: Callable[[], object], every_s: float) -> None:
        self._sweep = sweep
        self._every_s = every_s
        self._over = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="sweep", daemon=True).start()

    def stop(self) -> None:
        self._over.set()

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            try:
                self._sweep()
            except EnlightError as error:
                log.warning("the sweep failed: %s", error.detail)
            except Exception:
                log.exception("the sweep failed")
