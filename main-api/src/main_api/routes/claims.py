"""``/internal/v1``: what workers beside GPUs ask and report (`enlight_common.schemas.claims`)."""

from __future__ import annotations

import time

from enlight_common.errors import Overloaded
from enlight_common.ids import check_id
from enlight_common.schemas.claims import (
    Claim,
    ClaimRequest,
    Completed,
    Completion,
    Lease,
    PictureGrant,
    PictureOffer,
    Release,
    Renewal,
)
from enlight_common.web import documented, parse_body, watch_client
from flask import Blueprint, Response, jsonify
from pydantic import BaseModel

from main_api.jobs.job import Job
from main_api.routes.authorization import requires_node
from main_api.routes.context import Context, context

blueprint = Blueprint("claims", __name__, url_prefix="/internal/v1")

#: A waiting worker looks for a job so often, and at once when one is submitted here. Seconds.
_LOOK_S = 1.0


@blueprint.post("/claims")
@requires_node
@documented("Claim a job", body=ClaimRequest, answers={200: Claim, 204: None}, tags=["workers"])
def claim() -> tuple[Response, int] | tuple[str, int]:
    """The next job that the worker can do, or 204 when none came within `wait_s`."""
    here = context()
    asked = parse_body(ClaimRequest)
    job = _wait(here, asked) if asked.wait_s > 0 else _claim(here, asked)
    if job is None:
        return "", 204
    return _json(here.service.reports.claim(job)), 200


def _claim(here: Context, asked: ClaimRequest) -> Job | None:
    if here.service.stopping:
        return None
    return here.service.leases.claim_next(asked.worker, asked.kinds, asked.base_models)


def _wait(here: Context, asked: ClaimRequest) -> Job | None:
    deadline = time.monotonic() + asked.wait_s
    gone = watch_client()
    try:
        slot = here.claims.take("wait for a job")
    except Overloaded:
        # Workers come again; the others go on waiting.
        raise Overloaded("too many workers are waiting", retry_after=_LOOK_S) from None
    try:
        while (job := _claim(here, asked)) is None:
            left = deadline - time.monotonic()
            if left <= 0 or here.service.stopping:
                return None
            here.service.arrivals.wait(min(left, _LOOK_S))
            if gone():
                return None
        return job
    finally:
        slot.release()


@blueprint.post("/jobs/<job_id>/renewal")
@requires_node
@documented("Keep a job", body=Renewal, answers={200: Lease}, tags=["workers"])
def renew(job_id: str) -> Response:
    """Renews the lease and takes progress and log lines; `cancel` says that the job is to stop."""
    held = context().service.reports.renew(check_id(job_id, "job_id"), parse_body(Renewal))
    return _json(Lease(lease_s=held.lease_s, cancel=held.cancel))


@blueprint.post("/jobs/<job_id>/pictures")
@requires_node
@documented("Store a picture", body=PictureOffer, answers={200: PictureGrant}, tags=["workers"])
def offer(job_id: str) -> Response:
    """Where to put a picture that the job has made."""
    return _json(context().service.reports.offer(check_id(job_id, "job_id"), parse_body(PictureOffer)))


@blueprint.post("/jobs/<job_id>/completion")
@requires_node
@documented("End a job", body=Completion, answers={200: Completed}, tags=["workers"])
def complete(job_id: str) -> Response:
    """The same completion again gets the same answer; a late one 409."""
    job = context().service.reports.complete(check_id(job_id, "job_id"), parse_body(Completion))
    return _json(Completed(job_id=job.id, status=job.status))


@blueprint.post("/jobs/<job_id>/release")
@requires_node
@documented("Give a job back", body=Release, answers={200: Completed}, tags=["workers"])
def release(job_id: str) -> Response:
    """For another worker, or for this one later."""
    asked = parse_body(Release)
    job = context().service.leases.release(
        check_id(job_id, "job_id"), asked.fencing, asked.reason, counts=asked.counts
    )
    return _json(Completed(job_id=job.id, status=job.status))


def _json(model: BaseModel) -> Response:
    response = jsonify(model.model_dump())
    response.headers["Cache-Control"] = "no-store"
    return response
