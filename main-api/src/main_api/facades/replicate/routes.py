"""``/replicate/v1``: predictions, trainings, models, files and the webhook secret, for its client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from enlight_common.errors import NotFound
from enlight_common.ids import check_id
from enlight_common.web import current_request_id, documented, parse_body, parse_query, preferred_wait
from enlight_common.web.parsing import validate
from flask import Blueprint, Response, request

from main_api.facades.replicate.answers import Page, Prediction, Training
from main_api.facades.replicate.pages import answer_page, models_of_caller, page_url
from main_api.facades.replicate.schemas import (
    ModelPredictionBody,
    PredictionBody,
    ReplicateTrainingBody,
)
from main_api.facades.replicate.shapes import PREFIX, replicate_shape
from main_api.jobs.cancellation import cancel
from main_api.jobs.job import Job
from main_api.jobs.submission import Submission, Submitted
from main_api.routes.answers import private_json
from main_api.routes.authorization import caller, requires
from main_api.routes.context import context, submits
from main_api.routes.paging import after_cursor, page_of
from main_api.routes.submitting import asked_by, submit
from main_api.schemas.generations import GenerationBody
from main_api.schemas.models import PageQuery
from main_api.schemas.trainings import TrainingBody

blueprint = Blueprint("replicate", __name__, url_prefix=PREFIX)

#: `Prefer: wait` alone, and the most that Replicate waits.
_WAIT_S = 60.0
#: Its client gives up half a second after what it asked for.
_EARLIER_S = 0.7
_TAGS = ["replicate"]

#: The body of a prediction, the `model_id` to draw with, and what the prediction calls model and version.
_Wanted = tuple[ModelPredictionBody, str | None, str, str]


@blueprint.post("/predictions")
@submits
@requires("generate")
@documented("Create a prediction", body=PredictionBody, answers={201: Prediction}, tags=_TAGS)
def create_prediction() -> tuple[Response, int]:
    """Draws with the version of a model; `Prefer: wait` answers when that is done."""

    def read() -> _Wanted:
        body = parse_body(PredictionBody)
        model_id, model = models_of_caller().of_version(body.version)
        return body, model_id, model, body.version.rpartition(":")[2]

    return _predicted(read)


@blueprint.post("/models/<owner>/<name>/predictions")
@submits
@requires("generate")
@documented("Create a prediction of a model", body=ModelPredictionBody, answers={201: Prediction}, tags=_TAGS)
def create_model_prediction(owner: str, name: str) -> tuple[Response, int]:
    """Draws with the newest version of a model."""

    def read() -> _Wanted:
        model_id, version = models_of_caller().drawn_with(owner, name)
        return parse_body(ModelPredictionBody), model_id, f"{owner}/{name}", version

    return _predicted(read)


def _predicted(read: Callable[[], _Wanted]) -> tuple[Response, int]:
    def make(submission: Submission) -> Submitted:
        body, model_id, model, version = read()
        asked = asked_by(caller(), facade="replicate", model=model, version=version, input=body.shown_input())
        return submission.generation(asked, validate(GenerationBody, body.fields(model_id)))

    job, waited = submit(make, wait_s=_wait())
    return _answer(job, waited=waited), 201


@blueprint.get("/predictions")
@requires("read")
@documented("List predictions", answers={200: Page}, tags=_TAGS, query=PageQuery)
def list_predictions() -> Response:
    """Those that were created here, newest first."""
    return _listed("predictions")


@blueprint.get("/predictions/<job_id>")
@requires("read")
@documented("Read a prediction", answers={200: Prediction}, tags=_TAGS)
def read_prediction(job_id: str) -> Response:
    """Its output are URLs that expire."""
    return _answer(_job(job_id, "predictions"))


@blueprint.post("/predictions/<job_id>/cancel")
@requires("generate")
@documented("Cancel a prediction", answers={200: Prediction}, tags=_TAGS)
def cancel_prediction(job_id: str) -> Response:
    """One under way is told to stop."""
    return _canceled(_job(job_id, "predictions"))


@blueprint.post("/models/<owner>/<name>/versions/<version>/trainings")
@submits
@requires("train")
@documented("Create a training", body=ReplicateTrainingBody, answers={201: Training}, tags=_TAGS)
def create_training(owner: str, name: str, version: str) -> tuple[Response, int]:
    """Makes a version of the model `destination` of photos (`input_images`, or `photos`)."""
    models = models_of_caller()
    base = models.base_named(owner, name, version)

    def make(submission: Submission) -> Submitted:
        body = parse_body(ReplicateTrainingBody)
        models.check_owner(body.destination.partition("/")[0], "destination")
        asked = asked_by(caller(), facade="replicate", model=base, version=version, input=body.shown_input())
        return submission.training(asked, validate(TrainingBody, body.fields(base)))

    job, _ = submit(make, wait_s=0)
    return _answer(job), 201


@blueprint.get("/trainings")
@requires("read")
@documented("List trainings", answers={200: Page}, tags=_TAGS, query=PageQuery)
def list_trainings() -> Response:
    """Those that were created here, newest first."""
    return _listed("trainings")


@blueprint.get("/trainings/<job_id>")
@requires("read")
@documented("Read a training", answers={200: Training}, tags=_TAGS)
def read_training(job_id: str) -> Response:
    """Its output names the version that was made."""
    return _answer(_job(job_id, "trainings"))


@blueprint.post("/trainings/<job_id>/cancel")
@requires("train")
@documented("Cancel a training", answers={200: Training}, tags=_TAGS)
def cancel_training(job_id: str) -> Response:
    """One under way is told to stop."""
    return _canceled(_job(job_id, "trainings"))


def _wait() -> float | None:
    """Seconds of `Prefer: wait[=N]`, None without."""
    seconds = preferred_wait()
    if seconds is None:
        preferences = ",".join(request.headers.getlist("Prefer")).split(",")
        alone = any(one.strip().lower() == "wait" for one in preferences)
        seconds = _WAIT_S if alone else None
    return max(0.0, min(seconds, _WAIT_S) - _EARLIER_S) if seconds is not None else 0.0


def _answer(job: Job, *, waited: bool = False) -> Response:
    service = context().service
    shown = replicate_shape(job, service.view, service.settings.public_url)
    if waited and not job.terminal:
        # Replicate's client takes any other status for the end of what it waited for.
        shown["status"] = "starting"
    return private_json(shown)


def _canceled(job: Job) -> Response:
    service = context().service
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
    return _answer(job)


def _query(what: str) -> dict[str, Any]:
    kinds = {"predictions": {"$in": ["generation", "chain"]}, "trainings": "training"}
    return {"tenant": caller().tenant, "kind": kinds[what], "origin.facade": "replicate"}


def _job(job_id: str, what: str) -> Job:
    """Raises NotFound, the same for another tenant's as for none."""
    job = context().service.records.jobs.get(check_id(job_id, "id"))
    training = what == "trainings"
    if (
        job is None
        or job.tenant != caller().tenant
        or job.origin.get("facade") != "replicate"
        or (job.kind == "training") != training
    ):
        raise NotFound(f"there is no such one among the {what}")
    return job


def _listed(what: str) -> Response:
    wanted = parse_query(PageQuery)
    service = context().service
    query = {**_query(what), **after_cursor(wanted.cursor)}
    found = service.records.jobs.find(query, order=(("_id", -1),), limit=wanted.limit + 1)
    page, following = page_of(found, wanted.limit, lambda one: one.id)
    shown = [replicate_shape(job, service.view, service.settings.public_url) for job in page]
    return answer_page(shown, page_url(what, following))
