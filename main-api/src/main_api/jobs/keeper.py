"""Keeps the leases of the jobs that this process itself works on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from enlight_common.errors import EnlightError

from main_api.errors import LeaseLost
from main_api.jobs.job import Job
from main_api.jobs.leases import Leases

log = logging.getLogger(__name__)


class Keeping:
    """A job being worked on: whether it was lost to another, or is to be canceled."""

    def __init__(self, job: Job, is_stored: Callable[[], bool]) -> None:
        self.is_stored = is_stored
        self.job_id = job.id
        self.fencing = job.fencing
        self.lost = False
        self.cancel = False


class LeaseKeeper:
    """One thread that renews, every third of a lease, whatever is kept at that moment."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._kept: set[Keeping] = set()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._started = False

    @contextmanager
    def keep(self, job: Job, is_stored: Callable[[], bool] = lambda: True) -> Iterator[Keeping]:
        """Renew the job's lease for the length of a `with` block, from when the job `is_stored`."""
        keeping = Keeping(job, is_stored)
        with self._lock:
            self._kept.add(keeping)
            if not self._started:
                self._started = True
                threading.Thread(target=self._run, name="leases", daemon=True).start()
        try:
            yield keeping
        finally:
            with self._lock:
                self._kept.discard(keeping)

    def note(self, job: Job) -> None:
        """Hear of a change of any job: one to be canceled is told at once, where this process works on it."""
        if not job.cancel_requested:
            return
        with self._lock:
            for keeping in self._kept:
                if keeping.job_id == job.id:
                    keeping.cancel = True

    def stop(self) -> None:
        self._over.set()

    def _run(self) -> None:
        while not self._over.wait(self._leases.lease_s / 3):
            with self._lock:
                kept = [one for one in self._kept if one.is_stored() and not one.lost]
            for keeping in kept:
                self._renew(keeping)

    def _renew(self, keeping: Keeping) -> None:
        try:
            keeping.cancel = self._leases.renew(keeping.job_id, keeping.fencing).cancel
        except LeaseLost:
            keeping.lost = True
        except EnlightError as error:
            log.warning("a lease could not be renewed: %s", error.detail, extra={"job_id": keeping.job_id})
        except Exception:  # the one thread that renews must not end by it
            log.exception("a lease could not be renewed", extra={"job_id": keeping.job_id})
