"""Wakes workers that wait here for a job, when one comes here."""

from __future__ import annotations

import threading

from main_api.jobs.job import Job
from main_api.jobs.states import GPU_KINDS, QUEUED


class Arrivals:
    """A hook for created and changed jobs, and what waiting workers wait for."""

    def __init__(self) -> None:
        self._arrived = threading.Condition()

    def note(self, job: Job) -> None:
        if job.status == QUEUED and job.kind in GPU_KINDS:
            with self._arrived:
                self._arrived.notify_all()

    def wait(self, seconds: float) -> None:
        """Return after `seconds`, or when a job came that might be for a worker."""
        with self._arrived:
            self._arrived.wait(seconds)
