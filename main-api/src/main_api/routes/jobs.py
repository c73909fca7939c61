"""``/v1/jobs``: list, read, cancel and follow jobs of every kind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from enlight_common.errors import NotFound
from enlight_common.ids import check_id
from enlight_common.web import (
    Event,
    current_request_id,
    documented,
    last_event_id,
    parse_query,
    sse,
)
from flask import Blueprint, Response

from main_api.errors import OutOfScope
from main_api.events import Change
from main_api.jobs.cancellation import cancel
from main_api.jobs.job import Job
from main_api.records.keys import Scope
from main_api.routes.answers import private_json
from main_api.routes.authorization import caller, requires
from main_api.routes.context import context
from main_api.routes.paging import after_cursor, page_of
from main_api.routes.submitting import answer
from main_api.schemas.jobs import JobFilter, JobPage, OutputForm, ShownJob

blueprint = Blueprint("jobs", __name__)


@blueprint.get("/v1/jobs")
@requires("read")
@documented("List jobs", answers={200: JobPage}, tags=["jobs"], query=JobFilter)
def list_jobs() -> Response:
    """The tenant's jobs, newest first. A chain's steps are listed with it."""
    wanted = parse_query(JobFilter)
    query: dict[str, Any] = {"tenant": caller().tenant, **after_cursor(wanted.cursor)}
    if wanted.kind is not None:
        query["kind"] = wanted.kind
    if wanted.status is not None:
        query["status"] = wanted.status
    service = context().service
    found = service.records.jobs.find(query, order=(("_id", -1),), limit=wanted.limit + 1)
    page, following = page_of(found, wanted.limit, lambda one: one.id)
    return private_json({"jobs": [service.view.show(job) for job in page], "next": following})


@blueprint.get("/v1/jobs/<job_id>")
@requires("read")
@documented("Read a job", answers={200: ShownJob}, tags=["jobs"], query=OutputForm)
def read_job(job_id: str) -> Response:
    """Status, progress and pictures; while it waits, its place in the queue."""
    form = parse_query(OutputForm).output
    here = context()
    with here.large.enter("answer in base64") if form == "base64" else contextlib.nullcontext():
        return private_json(here.service.view.show(job_of_caller(job_id), form, place=True))


@blueprint.post("/v1/jobs/<job_id>/cancel")
@requires("train", "generate")
@documented("Cancel a job", answers={200: ShownJob, 202: ShownJob}, tags=["jobs"])
def cancel_job(job_id: str) -> tuple[Response, int]:
    """A job that waits is canceled at once, one under way is told to stop; one that has ended stays so."""
    service = context().service
    job = job_of_caller(job_id)
    scope: Scope = "train" if job.kind == "training" else "generate"
    if not caller().may(scope):
        raise OutOfScope(f"the key needs the scope {scope}")
    was_open = not job.terminal
    job = cancel(service.records.jobs, service.hooks, job)
    if was_open:
        service.records.audit.record(
            "job.cancel",
            tenant=job.tenant,
            actor=caller().actor,
            target=job.id,
            request_id=current_request_id(),
        )
    return answer(job)


@blueprint.get("/v1/jobs/<job_id>/events")
@requires("read")
@documented(
    "Follow a job",
    answers={200: "text/event-stream"},
    tags=["jobs"],
    query=OutputForm,
    headers={"Last-Event-ID": "The id of the last event that a client who resumes has seen"},
)
def follow_job(job_id: str) -> Response:
    """Server-sent events: `queued`, `processing`, `progress`, `picture` for each as soon as it is stored,
    and `succeeded`, `failed` or `canceled`, after which the stream ends. Data is the job or the picture,
    which alone is in base64 where that is asked for.
    """
    here = context()
    service = here.service
    form = parse_query(OutputForm).output
    job_of_caller(job_id)
    after = last_event_id()
    slot = here.waits.take("event stream")

    def shown(change: Change) -> Event:
        if change.picture is not None:
            data = service.view.show_picture(change.job, change.picture, form)
        else:
            # The pictures came with events of their own.
            data = service.view.show(change.job, place=True)
        return Event(data, change.name, change.revision)

    def events() -> Iterator[Event | None]:
        found = service.events.follow(
            lambda: service.records.jobs.get(job_id), after, lambda: service.stopping
        )
        for change in found:
            yield None if change is None else shown(change)

    return sse(events(), slot=slot)


def job_of_caller(job_id: str) -> Job:
    """The job, if it is the caller's tenant's. Raises NotFound, the same for another's as for none."""
    check_id(job_id, "job_id")
    job = context().service.records.jobs.get(job_id)
    if job is None or job.tenant != caller().tenant:
        raise NotFound("there is no job of this id")
    return job
