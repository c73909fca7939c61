"""``POST /train``, and what is told of a run while it goes on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

from enlight_common.errors import (
    Busy,
    Conflict,
    InvalidField,
    InvalidRequest,
    NotFound,
    StorageFull,
    TrainingFailed,
    UnknownModel,
)
from enlight_common.ids import check_id
from enlight_common.web import (
    Event,
    client_gone,
    documented,
    last_event_id,
    parse_body,
    preferred_wait,
    prefers_async,
    sse,
)
from flask import Blueprint, Response, jsonify, request, send_file, url_for
from pydantic import TypeAdapter, ValidationError

from dreambooth_api.models.artifact import ModelKey
from dreambooth_api.routes.context import Context, context, tenant, watch_work
from dreambooth_api.routes.models import delete as delete_model
from dreambooth_api.schemas.training import (
    LONGEST_LEASE_S,
    SHORTEST_LEASE_S,
    LeaseBody,
    LeaseSeconds,
    SettlementBody,
    TrainAnswer,
    TrainBody,
    TrainRequest,
)
from dreambooth_api.training.options import TrainingOptions
from dreambooth_api.training.run_state import RunState

blueprint = Blueprint("train", __name__)

#: Seconds for which the caller answers for the run: it ends, resumable, unless the lease is renewed.
LEASE_HEADER = "X-Enlight-Lease"
#: The job that a worker has claimed the run for.
JOB_HEADER = "X-Enlight-Job"
#: Another's photos are decoded in a few seconds; who waits longer than this is told to come again.
_DECODING_S = 20.0
_LONGEST_RETRY_S = 600.0
_INTERRUPTED = "the service is shutting down; the same request goes on from the last checkpoint"


@blueprint.post("/train")
@documented("Learn a subject", body=TrainBody, answers={200: TrainAnswer, 202: RunState}, tags=["training"])
def train() -> tuple[Response, int] | Response:
    """Trains a model on photos and answers when it is stored.

    With `Prefer: respond-async` it answers 202 at once, with the run's address in `Location`; with
    `Prefer: wait=N` it does so after N seconds at the latest. One training runs at a time: 503 with
    `Retry-After` while another does. The same request again joins the run it started, or goes on with
    one that was cut short. A synchronous training whose clients have all left is stopped at a checkpoint.
    With `X-Enlight-Lease: N` and `respond-async` it is stopped at a checkpoint, too, when its lease was not
    renewed for N seconds; any instance with the same model store goes on from there. With `X-Enlight-Job`
    beside that, its end is kept for the same job to be asked for again, until it is settled.
    """
    here = context()
    here.service.check_open()
    caller = _Caller.of_request()
    if caller.keep:
        return _accepted(here.service.trainings.get(_read_and_start(here, caller)))
    # The place to wait is taken first: a 503 must mean that no training was started.
    with here.waits.enter("synchronous training"):
        return _answer_when_done(here, _read_and_start(here, caller))


@dataclass(frozen=True)
class _Caller:
    """Who asks for a training, whether they come back for it, and for how many seconds they answer for it."""

    tenant: str
    keep: bool
    lease_s: float | None
    job: str | None

    @classmethod
    def of_request(cls) -> _Caller:
        """Raises Forbidden, InvalidField, InvalidRequest."""
        caller = cls(tenant(), prefers_async(), _lease(), _job())
        if caller.lease_s is not None and not caller.keep:
            raise InvalidRequest(f"{LEASE_HEADER} goes with Prefer: respond-async")
        if caller.job is not None and caller.lease_s is None:
            raise InvalidRequest(f"{JOB_HEADER} goes with {LEASE_HEADER}")
        return caller


def _lease() -> float | None:
    text = request.headers.get(LEASE_HEADER)
    if text is None:
        return None
    try:
        return TypeAdapter(LeaseSeconds).validate_python(text)
    except ValidationError:
        reason = f"must be {SHORTEST_LEASE_S} to {LONGEST_LEASE_S} seconds"
        raise InvalidField(LEASE_HEADER, reason) from None


def _job() -> str | None:
    named = request.headers.get(JOB_HEADER)
    return None if named is None else check_id(named, JOB_HEADER)


def _read_and_start(here: Context, caller: _Caller) -> str:
    """The id of a run that the caller has joined: see `AbandonedRuns.join`."""
    with here.uploads.enter("training"):
        body = parse_body(TrainBody)
        return _start(here, caller, body, body.options(here.service.base))


def _start(here: Context, caller: _Caller, body: TrainRequest, options: TrainingOptions) -> str:
    """Start the training, or join the one that the same request started.

    A malformed request is told so even while another training runs, as far as that is cheap: everything
    but the photos was checked before. Decoding those takes seconds and up to a gigabyte, for nothing where
    they cannot be trained on anyway: a busy instance refuses before, unless the request may be the
    running one's own.
    """
    trainings = here.service.trainings
    active = trainings.active
    if active is not None and (active.tenant, active.model_id) != (caller.tenant, body.OUTPUT_DIR):
        left = active.seconds_left
        raise Busy(
            "another training is running here",
            retry_after=min(left, _LONGEST_RETRY_S) if left is not None else None,
        )
    if not here.decoding.acquire(timeout=_DECODING_S):
        raise Busy("another training is about to start here")
    try:
        photos = body.photos()

        def start() -> str:
            run = trainings.start(
                caller.tenant,
                body.OUTPUT_DIR,
                options,
                photos,
                lease_s=caller.lease_s,
                claimed_job=caller.job,
            )
            here.service.run_counts.begin(run.run_id)
            return run.run_id

        return here.abandonable.join(start, keep=caller.keep)
    finally:
        here.decoding.release()


def _answer_when_done(here: Context, run_id: str) -> tuple[Response, int] | Response:
    promised = False
    try:
        wait = preferred_wait()
        done = _wait(here, run_id, wait)
        promised = done is None and not client_gone() and not here.service.draining
    finally:
        here.abandonable.leave(run_id, keep=promised)
    if promised:
        return _accepted(here.service.trainings.get(run_id), f"wait={wait:g}")
    if done is None:
        if here.service.draining:
            raise TrainingFailed(_INTERRUPTED, run_id=run_id)
        # Nobody reads the answer; what the run held is given back by `abandonable`.
        return Response(status=499)
    if done.status == "canceled":
        raise Conflict("the training was canceled", run_id=run_id)
    if done.error_kind == "interrupted":
        # No 503, which says that nothing was done: nginx would send the request to the next instance.
        raise TrainingFailed(_INTERRUPTED, run_id=run_id)
    if done.error_kind == "storage-full":
        raise StorageFull(done.error or "there is no room left on the disk", run_id=run_id)
    if done.status == "failed":
        raise TrainingFailed(done.error or "the training failed", run_id=run_id)
    answer = TrainAnswer(
        message="Training is done.",
        model_id=done.model_id,
        version=done.version or "",
        method=done.method,
        learning_rate=done.learning_rate_used,
        steps=done.total,
        base=done.base_model,
        run_id=run_id,
    )
    return jsonify(answer.model_dump())


def _wait(here: Context, run_id: str, seconds: float | None) -> RunState | None:
    """The run's last state, or None where the wait ended before."""
    deadline = None if seconds is None else time.monotonic() + seconds
    stop = watch_work()

    def over() -> bool:
        return stop() or (deadline is not None and time.monotonic() >= deadline)

    for state in here.service.trainings.follow(run_id, stop=over):
        if state is not None and state.is_terminal:
            return state
        if over():
            break
    return None


def _accepted(run: RunState, preference: str = "respond-async") -> tuple[Response, int]:
    response = jsonify(run.model_dump())
    response.headers["Location"] = url_for("train.show_run", run_id=run.run_id)
    response.headers["Preference-Applied"] = preference
    return response, 202


def _run(run_id: str) -> RunState:
    """The run, if it is the caller's. Raises NotFound."""
    state = context().service.trainings.get(run_id)
    if state.tenant != tenant():
        raise NotFound("there is no run of this id")
    return state


@blueprint.get("/train/<run_id>")
@documented("Tell how a training goes", answers={200: RunState}, tags=["training"])
def show_run(run_id: str) -> Response:
    """State, step, of how many, loss and seconds left; of another instance's run as it last noted them."""
    return jsonify(_run(run_id).model_dump())


@blueprint.post("/train/<run_id>/lease")
@documented("Renew a training's lease", body=LeaseBody, answers={200: RunState}, tags=["training"])
def renew_lease(run_id: str) -> Response:
    """Lets the training go on for so many seconds from now. 409 when it has ended or is being stopped."""
    _run(run_id)
    seconds = parse_body(LeaseBody).seconds
    return jsonify(context().service.trainings.renew_lease(run_id, seconds).model_dump())


@blueprint.get("/train/<run_id>/events")
@documented("Follow a training", answers={200: "text/event-stream"}, tags=["training"])
def follow_run(run_id: str) -> Response:
    """Server-sent events: each new state as `data`, its status as `event`, its number as `id`.

    The stream ends after the last state. A client that sends `Last-Event-ID` gets what came after it.
    """
    here = context()
    trainings = here.service.trainings
    _run(run_id)  # a 404 now, instead of a stream that ends at once
    after = last_event_id()
    slot = here.waits.take("event stream")

    def events() -> Iterator[Event | None]:
        for state in trainings.follow(run_id, after=after, stop=lambda: here.service.stopping):
            yield None if state is None else Event(state.model_dump(), state.status, state.sequence)

    return sse(events(), slot=slot)


@blueprint.delete("/train/<run_id>")
@documented("Cancel a training", answers={200: RunState}, tags=["training"])
def cancel_run(run_id: str) -> Response:
    """Stops the training; what it checkpointed on this machine is kept, and the same request goes on from
    there. With `?keep=true` checkpoints in the object store are kept, too, for any machine to go on from.
    """
    here = context()
    _run(run_id)
    kept = request.args.get("keep", "false")
    if kept not in ("true", "false"):
        raise InvalidField("keep", "must be true or false")
    # It waits until the child is gone: seconds, or close to three minutes where that writes a checkpoint and
    # must be killed then. The places are not those of event streams: a run can be ended while many follow it.
    with here.endings.enter("cancellation"):
        state = here.service.trainings.cancel(run_id, "stopped" if kept == "true" else "canceled")
    return jsonify(state.model_dump())


@blueprint.post("/train/<run_id>/settlement")
@documented("Settle a training", body=SettlementBody, answers={200: RunState}, tags=["training"])
def settle_run(run_id: str) -> Response:
    """For a training with `X-Enlight-Job`: what was kept of it can go, as its end was told. With `undo` its
    model is deleted, too, unless the same job was answered with it since. 409 while it goes on.
    """
    here = context()
    _run(run_id)
    undo = parse_body(SettlementBody).undo

    def delete(key: ModelKey) -> None:
        with contextlib.suppress(UnknownModel):
            delete_model(here.service, f"{key.model_id}@{key.version}", key.tenant)

    with here.endings.enter("settlement"):
        state = here.service.trainings.settle(run_id, delete if undo else None)
    return jsonify(state.model_dump())


@blueprint.get("/train/<run_id>/validation.png")
@documented("Look at the validation picture", answers={200: "image/png"}, tags=["training"])
def show_validation(run_id: str) -> Response:
    """The newest picture of `VALIDATION_PROMPT`; 404 before there is one."""
    _run(run_id)
    path = context().service.trainings.validation_picture(run_id)
    if path is None:
        raise NotFound("this run has no validation picture yet")
    return send_file(path, mimetype="image/png", max_age=0)
