"""Canceling: at once where the job waits, through its holder where it is under way."""

from __future__ import annotations

from main_api.clock import now_ms
from main_api.jobs.hooks import Hooks
from main_api.jobs.job import Job
from main_api.jobs.leases import ended
from main_api.jobs.states import CANCELED, QUEUED
from main_api.records.jobs import Jobs

_ROUNDS = 100


def cancel(jobs: Jobs, hooks: Hooks, job: Job) -> Job:
    """The job as it is afterwards. What has ended stays as it is; a completion that comes first wins.

    A chain has no holder: it is canceled here, and its steps by what follows it (`on_terminal`).
    """
    for _ in range(_ROUNDS):
        if job.terminal or (job.cancel_requested and job.status != QUEUED):
            return job
        if job.status == QUEUED or job.kind == "chain":
            values = {"status": CANCELED, "cancel_requested": True, **ended(job, now_ms())}
        else:
            values = {"cancel_requested": True}
        changed = jobs.change(job, values)
        if changed is not None:
            hooks.changed(changed)
            return changed
        # Claimed, renewed or ended meanwhile.
        found = jobs.get(job.id)
        if found is None:
            return job
        job = found
    raise AssertionError("a job that changes all the time")
