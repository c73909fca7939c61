"""What a call that waits for a job's end is answered with when that end is not what was hoped for."""

from __future__ import annotations

from collections.abc import Iterator

from enlight_common.errors import EnlightError, InternalError, InvalidField, TimedOut

from main_api.jobs.job import Job
from main_api.jobs.states import CANCELED, SUCCEEDED


class JobFailed(InternalError):
    type = "job-failed"
    title = "The work failed"


class JobCanceled(EnlightError):
    status = 409
    type = "job-canceled"
    title = "The work was canceled"


def succeeded(job: Job) -> Job:
    """The job, if it is done. Raises what its error stands for, JobFailed, JobCanceled or TimedOut."""
    if job.status == SUCCEEDED:
        return job
    if job.status == CANCELED:
        raise JobCanceled("the job was canceled", job_id=job.id)
    if not job.terminal:
        raise TimedOut("the job is not done yet; it goes on, under /v1/jobs", job_id=job.id)
    error = job.error or {}
    message = str(error.get("message", "the job failed"))
    kind = _refusals().get(str(error.get("type")))
    if kind is None:
        raise JobFailed(message, job_id=job.id)
    if issubclass(kind, InvalidField):
        field, _, reason = message.partition(": ")
        raise InvalidField(field if reason else "body", reason or message, job_id=job.id)
    raise kind(message, job_id=job.id)


def _refusals() -> dict[str, type[EnlightError]]:
    """The errors that say what is wrong with a request, by their type."""
    return {kind.type: kind for kind in _below(EnlightError) if 400 <= kind.status < 500}


def _below(kind: type[EnlightError]) -> Iterator[type[EnlightError]]:
    for one in kind.__subclasses__():
        yield one
        yield from _below(one)
