"""Who may work on a job: claims, leases and fencing numbers, the same for every kind of worker.

A claim lends a job for `lease_s` seconds under the next fencing number. Whatever is written about the job
then names that number, and is refused once the lease has run out or the job was given to another. So a
worker that was frozen for an hour can wake up and do no harm.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from enlight_common.errors import Overloaded

from main_api.clock import now_ms
from main_api.errors import LeaseLost
from main_api.jobs.hooks import Hooks
from main_api.jobs.job import Job
from main_api.jobs.states import CANCELED, FAILED, PROCESSING, QUEUED, SUCCEEDED, Kind
from main_api.records.jobs import Jobs

log = logging.getLogger(__name__)

_LOG_LINES = 200
_LINE_CHARACTERS = 1000
#: A job that was given back after a failure waits this much longer each time. Seconds.
_BACKOFF_S = (0, 2, 10)
#: A claim waits so long for those before it. Seconds.
_TURN_S = 1.0
_LOST = "the job is not, or no longer, yours under this fencing number"

Outcome = dict[str, Any]
_ROUNDS = 100


@dataclass(frozen=True)
class Held:
    """What a renewal answers: the lease in seconds, and whether the job is to be stopped."""

    lease_s: float
    cancel: bool


class Leases:
    def __init__(
        self,
        jobs: Jobs,
        hooks: Hooks,
        *,
        lease_s: float,
        max_attempts: int,
        max_processing: Callable[[str], int],
    ) -> None:
        """`max_processing` tells how many of a tenant's jobs may be under way at once."""
        self.lease_s = lease_s
        self._jobs = jobs
        self._hooks = hooks
        self._max_attempts = max_attempts
        self._max_processing = max_processing
        # One claim at a time here, so that a tenant's bound is kept, and waiting workers do not all run
        # for the same record.
        self._claiming = threading.Lock()

    # -- claiming

    def claim_next(self, worker: str, kinds: Collection[Kind], base_models: Collection[str]) -> Job | None:
        """The next job of these kinds and base models, now the worker's; None when there is none."""
        claimed = None
        with self._turn():
            full = self._full_tenants()
            # Other processes may be quicker at each of the first few.
            while claimed is None and (due := self._jobs.due(kinds, base_models, now_ms(), not_of=full)):
                claimed = next((one for job in due if (one := self._claim(job, worker)) is not None), None)
        return self._told(claimed)

    def as_claimed(self, job: Job, worker: str) -> Job:
        """A new job as `insert_claimed` is to store it: the worker's from the beginning."""
        now = now_ms()
        return replace(
            job,
            status=PROCESSING,
            worker=worker,
            lease_until=now + self._lease_ms,
            started_at=now,
            fencing=1,
            attempts=1,
        )

    def insert_claimed(self, job: Job) -> bool:
        """Store a new job that is a worker's.

        False, and nothing stored, where its tenant has enough under way. Raises DuplicateId.
        """
        with self._turn():
            if job.tenant in self._full_tenants(job.tenant):
                return False
            self._jobs.insert(job)
            return True

    def claim(self, job_id: str, worker: str) -> Job | None:
        """This job, now the worker's; None where it does not wait, or its tenant has enough under way."""
        with self._turn():
            job = self._jobs.get(job_id)
            if job is None or job.status != QUEUED or job.not_before > now_ms():
                return None
            if job.kind != "chain" and job.tenant in self._full_tenants(job.tenant):
                return None
            claimed = self._claim(job, worker)
        return self._told(claimed)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Raises Overloaded where others take too long, as with a database that hardly answers."""
        if not self._claiming.acquire(timeout=_TURN_S):
            raise Overloaded("too many jobs are being claimed", retry_after=_TURN_S)
        try:
            yield
        finally:
            self._claiming.release()

    def _told(self, claimed: Job | None) -> Job | None:
        if claimed is not None:
            self._hooks.changed(claimed)
        return claimed

    def _full_tenants(self, tenant: str | None = None) -> set[str]:
        if tenant is not None:
            query = {"tenant": tenant, "status": PROCESSING, "kind": {"$ne": "chain"}}
            most = self._max_processing(tenant)
            return {tenant} if self._jobs.count(query, limit=most) >= most else set()
        counts = self._jobs.processing_by_tenant()
        return {name for name, count in counts.items() if count >= self._max_processing(name)}

    def _claim(self, job: Job, worker: str) -> Job | None:
        now = now_ms()
        return self._jobs.change(
            job,
            {
                "status": PROCESSING,
                "worker": worker,
                "lease_until": now + self._lease_ms,
                "started_at": job.started_at or now,
                "progress": None,
                "offered": [],
                "error": None,
            },
            also={"$inc": {"fencing": 1, "attempts": 1}},
        )

    @property
    def _lease_ms(self) -> int:
        return int(self.lease_s * 1000)

    # -- while it is held

    def held(self, job_id: str, fencing: int) -> Job:
        """The job, if its lease under this number is still good. Raises LeaseLost."""
        job = self._jobs.get(job_id)
        if job is None or not _holds(job, fencing):
            raise LeaseLost(_LOST)
        return job

    def renew(
        self,
        job_id: str,
        fencing: int,
        *,
        progress: dict[str, Any] | None = None,
        logs: str | None = None,
        pictures: Sequence[dict[str, Any]] = (),
    ) -> Held:
        """Keep the job for another `lease_s`; `pictures` are further stored ones. Raises LeaseLost."""

        def change(job: Job, now: int) -> Outcome:
            values: Outcome = {"lease_until": now + self._lease_ms}
            if progress is not None:
                values["progress"] = progress
            if pictures:
                known = {one["index"] for one in job.pictures}
                fresh = [one for one in pictures if one["index"] not in known]
                values["pictures"] = [*job.pictures, *_stamped(fresh, job.revision + 1)]
            return values

        renewed = self._change_held(job_id, fencing, change, _appended(logs))
        if progress is not None or pictures or logs:
            self._hooks.changed(renewed)
        return Held(self.lease_s, renewed.cancel_requested)

    def offer(self, job_id: str, fencing: int, picture: dict[str, Any]) -> Job:
        """Note that the holder is about to put a picture. Raises LeaseLost."""

        def change(job: Job, now: int) -> Outcome:
            return {"offered": [*(one for one in job.offered if one["index"] != picture["index"]), picture]}

        return self._change_held(job_id, fencing, change)

    def _change_held(
        self,
        job_id: str,
        fencing: int,
        change: Callable[[Job, int], Outcome],
        also: dict[str, Any] | None = None,
        known: Job | None = None,
    ) -> Job:
        """Set what `change` makes of the job as it is now. Raises LeaseLost once it is not held any more.

        `known` is how it was a moment ago: if nothing has changed since, it need not be read again.
        """
        for _ in range(_ROUNDS):
            job = known if known is not None and _holds(known, fencing) else self.held(job_id, fencing)
            known = None
            now = now_ms()
            changed = self._jobs.change(job, change(job, now), also=also, where=_unchanged(job, now))
            if changed is not None:
                return changed
            # The holder's other threads report, too, and clients cancel.
        raise AssertionError("a job that changes all the time")

    # -- ending

    def succeed(
        self,
        job_id: str,
        fencing: int,
        output: Outcome,
        *,
        metrics: dict[str, float] | None = None,
        logs: str | None = None,
        known: Job | None = None,
    ) -> Job:
        """The job is done: `output` {"pictures": […], "model": …, "settings": …}. Raises LeaseLost.

        `known` is the job as it was when it was claimed, where the caller has it.
        """
        values = {"status": SUCCEEDED, "output": output, "metrics": metrics or {}}
        return self._end(job_id, fencing, values, logs, known)

    def fail(
        self,
        job_id: str,
        fencing: int,
        error: Outcome,
        *,
        metrics: dict[str, float] | None = None,
        logs: str | None = None,
    ) -> Job:
        """The job cannot be done: `error` {"type", "message"}. Raises LeaseLost."""
        return self._end(job_id, fencing, {"status": FAILED, "error": error, "metrics": metrics or {}}, logs)

    def cancel(
        self, job_id: str, fencing: int, *, metrics: dict[str, float] | None = None, logs: str | None = None
    ) -> Job:
        """The job was stopped because it was to be. Raises LeaseLost."""
        return self._end(job_id, fencing, {"status": CANCELED, "metrics": metrics or {}}, logs)

    def _end(
        self, job_id: str, fencing: int, values: Outcome, logs: str | None, known: Job | None = None
    ) -> Job:
        def change(job: Job, now: int) -> Outcome:
            last = {**values, **ended(job, now)}
            if values.get("output"):
                last["output"] = {name: one for name, one in values["output"].items() if name != "pictures"}
                known = {one["index"]: one["revision"] for one in job.pictures}
                last["pictures"] = [
                    {**one, "revision": known.get(one["index"], job.revision + 1)}
                    for one in values["output"]["pictures"]
                ]
            return last

        try:
            done = self._change_held(job_id, fencing, change, _appended(logs), known)
        except LeaseLost:
            job = self._jobs.get(job_id)
            if job is not None and job.fencing == fencing and job.status == values["status"]:
                return job  # the same completion again: the first one's answer was lost
            raise
        self._hooks.changed(done)
        return done

    # -- giving back

    def release(
        self, job_id: str, fencing: int, reason: str, *, counts: bool = True, wait_s: float = 0.0
    ) -> Job:
        """Give the job back; without `counts` it was not tried. It waits for `wait_s` at least before it is
        claimed again. Raises LeaseLost.
        """
        for _ in range(_ROUNDS):
            job = self.held(job_id, fencing)
            where = _unchanged(job, now_ms())
            given = self._give_back(job, reason, counts=counts, where=where, wait_s=wait_s)
            if given is not None:
                return given
        raise AssertionError("a job that changes all the time")

    def expire(self, job: Job, *, counts: bool = True) -> Job | None:
        """Take the job from a holder whose lease has run out; None where it was renewed, or ended.

        Without `counts` the attempt is not held against the job.
        """
        where = {"lease_until": {"$lte": now_ms()}, "revision": job.revision}
        return self._give_back(job, "the worker went silent", counts=counts, where=where)

    def _give_back(
        self, job: Job, reason: str, *, counts: bool, where: dict[str, Any], wait_s: float = 0.0
    ) -> Job | None:
        now = now_ms()
        if job.cancel_requested:
            values: Outcome = {"status": CANCELED, **ended(job, now)}
        elif counts and job.attempts >= self._max_attempts:
            message = f"given up after {job.attempts} attempts; the last one ended because {reason}"
            error = {"type": "attempts-exhausted", "message": message[:2000]}
            values = {"status": FAILED, "error": error, **ended(job, now)}
        else:
            if counts:
                wait_s = max(wait_s, _BACKOFF_S[min(job.attempts, len(_BACKOFF_S)) - 1])
            not_before = now + int(1000 * wait_s)
            values = {"status": QUEUED, "worker": None, "lease_until": 0, "not_before": not_before}
        values["offered"] = []
        also = _appended(f"attempt {job.attempts} ended: {reason}")
        if not counts:
            also = {"$inc": {"attempts": -1}}
        given = self._jobs.change(job, values, also=also, where=where)
        if given is not None:
            about = {"job_id": job.id, "worker": job.worker, "attempt": job.attempts}
            log.info("job given back", extra={**about, "status": given.status, "reason": reason})
            self._hooks.changed(given)
        return given


def ended(job: Job, now: int) -> dict[str, Any]:
    """What every last change of a job sets."""
    owed = job.webhook is not None
    return {"completed_at": now, "lease_until": 0, "webhook_due": now if owed else 0}


def _stamped(pictures: Sequence[dict[str, Any]], revision: int) -> list[dict[str, Any]]:
    """Pictures with the revision of the job at which they came."""
    return [{**one, "revision": revision} for one in pictures]


def _holds(job: Job, fencing: int) -> bool:
    return job.status == PROCESSING and job.fencing == fencing and job.lease_until > now_ms()


def _unchanged(job: Job, now: int) -> dict[str, Any]:
    return {"lease_until": {"$gt": now}, "revision": job.revision}


def _appended(logs: str | None) -> dict[str, Any]:
    if not logs:
        return {}
    lines = [line[:_LINE_CHARACTERS] for line in logs.splitlines()]
    return {"$push": {"logs": {"$each": lines, "$slice": -_LOG_LINES}}}
