"""How many jobs are before one that waits, and how long that may take."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass

from main_api.jobs.job import Job
from main_api.jobs.states import PROCESSING, QUEUED, SUCCEEDED, Kind
from main_api.records.jobs import Jobs

#: Weight of the newest job in the running mean of seconds.
_FRESHNESS = 0.2
_KEPT_S = 5.0
_MOST_PLACES = 10_000
#: Until the first of a kind has ended.
_GUESS_S: dict[str, float] = {
    "training": 600.0,
    "generation": 10.0,
    "background_removal": 5.0,
    "upscale": 30.0,
}


@dataclass(frozen=True)
class Place:
    """`place` 1 is next; `seconds_left` until the job's end, estimated."""

    place: int
    seconds_left: float


class QueuePlaces:
    """Paces are what this process has seen end; at the start there is only a guess."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._seconds = dict(_GUESS_S)
        self._under_way: tuple[float, dict[tuple[str, str], int]] = (-_KEPT_S, {})
        self._lock = threading.Lock()

    def note(self, job: Job) -> None:
        """A hook for jobs that end."""
        if job.status == SUCCEEDED and job.started_at is not None and job.completed_at is not None:
            took = (job.completed_at - job.started_at) / 1000
            with self._lock:
                mean = self._seconds.get(job.kind, took)
                self._seconds[job.kind] = mean + _FRESHNESS * (took - mean)

    def of(self, job: Job) -> Place | None:
        """None for a job that does not wait, and for a chain, whose steps do."""
        if job.status != QUEUED or job.kind == "chain":
            return None
        before = {"status": QUEUED, "kind": job.kind}
        earlier = {**before, "created_at": {"$lt": job.created_at}}
        place = 1 + self._jobs.count(earlier, limit=_MOST_PLACES)
        at_once = max(1, self._at_once(job.kind))
        rounds = math.ceil(place / at_once)
        # Those under way are half done, in the mean.
        return Place(place, round((rounds + 0.5) * self._seconds[job.kind], 1))

    def _at_once(self, kind: Kind) -> int:
        """How many of a kind are under way, as of a few seconds ago."""
        with self._lock:
            looked_at, counts = self._under_way
        if time.monotonic() - looked_at > _KEPT_S:
            counts = self._jobs.count_by_status(PROCESSING)
            with self._lock:
                self._under_way = (time.monotonic(), counts)
        return counts.get((kind, PROCESSING), 0)
