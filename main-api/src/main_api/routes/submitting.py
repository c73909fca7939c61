"""From a parsed body to the answer that has the job: the same for every address that takes jobs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

from enlight_common.errors import Unavailable
from enlight_common.web import (
    current_request_id,
    current_traceparent,
    preferred_wait,
    prefers_async,
    watch_client,
)
from flask import Response, jsonify, request

from main_api.callers import Caller
from main_api.jobs.job import Job
from main_api.jobs.submission import Asked, Submission, Submitted
from main_api.jobs.view import PictureForm
from main_api.routes.context import context

#: How often it is looked whether a client that waits is still there. Seconds.
_LOOK_S = 1.0

IDEMPOTENCY_HEADER = "Idempotency-Key"
SUBMISSION_HEADERS = {
    "Prefer": "`wait=N` answers when the job is done, or after N seconds; `respond-async` at once",
    IDEMPOTENCY_HEADER: "The same request again gives the same job for 24 hours",
}


def asked_by(caller: Caller, **origin: Any) -> Asked:
    """What the current request says beside its body. Raises InvalidField."""
    return Asked(
        caller=caller,
        idempotency_key=request.headers.get(IDEMPOTENCY_HEADER),
        request_id=current_request_id(),
        traceparent=current_traceparent(),
        origin=origin,
    )


def submit(make: Callable[[Submission], Submitted], *, wait_s: float | None = None) -> tuple[Job, bool]:
    """Make the job and wait for it as long as the client prefers, or `wait_s`; whether it was waited for.

    `make` also reads the body: the request has a place for it by then.

    Raises Overloaded where nobody can wait now, before anything is made; and what `Submission` raises.
    """
    here = context()
    here.service.check_open()
    seconds = wait_s if wait_s is not None else (None if prefers_async() else preferred_wait())
    if not seconds:
        with here.submitting():
            return make(here.service.submission).job, False
    with here.waits.enter("wait for a job"):
        with here.submitting():
            submitted = make(here.service.waited_submission)
        return wait_for(submitted, seconds), True


def wait_for(submitted: Submitted, seconds: float) -> Job:
    """The job at its end, or as it is after `seconds`.

    The caller has taken a place to wait.
    """
    service = context().service
    gone = watch_client()

    def stop() -> bool:
        return service.stopping or gone()

    deadline = time.monotonic() + seconds
    drawing = submitted.drawing
    while drawing is not None and not stop() and (left := deadline - time.monotonic()) > 0:
        with contextlib.suppress(TimeoutError):
            drawn = drawing.result(min(left, _LOOK_S))
            if drawn is not None and drawn.terminal:
                return drawn
            drawing = None  # given back: a worker goes on
    left = max(0.0, deadline - time.monotonic())
    try:
        now = service.events.wait(lambda: service.records.jobs.get(submitted.job.id), left, stop)
    except Unavailable:
        # The job is stored. A 503 would say that nothing was done, and have it sent again.
        now = None
    return now or submitted.job


def answer(job: Job, form: PictureForm = "url", *, waited: bool = False) -> tuple[Response, int]:
    """200 with a job that has ended, 202 with one that has not."""
    view = context().service.view
    response = jsonify(view.show(job, form, place=True))
    response.headers["Location"] = view.urls(job.id)["get"]
    response.headers["Cache-Control"] = "no-store"
    if waited:
        response.headers["Preference-Applied"] = "wait"
    elif prefers_async():
        response.headers["Preference-Applied"] = "respond-async"
    return response, 200 if job.terminal else 202
