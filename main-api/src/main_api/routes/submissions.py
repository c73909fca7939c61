"""``POST /v1/trainings``, ``/v1/generations``, ``/v1/background-removals``, ``/v1/upscales``."""

from __future__ import annotations

from enlight_common.web import documented, parse_body, parse_query
from flask import Blueprint, Response

from main_api.routes.authorization import caller, requires
from main_api.routes.context import submits
from main_api.routes.submitting import SUBMISSION_HEADERS, answer, asked_by, submit
from main_api.schemas.generations import GenerationBody
from main_api.schemas.images import BackgroundRemovalBody, UpscaleBody
from main_api.schemas.jobs import OutputForm, ShownJob
from main_api.schemas.trainings import TrainingBody

blueprint = Blueprint("submissions", __name__)
_ANSWERS: dict[int, type[ShownJob]] = {200: ShownJob, 202: ShownJob}


@blueprint.post("/v1/trainings")
@submits
@requires("train")
@documented(
    "Learn a subject",
    body=TrainingBody,
    answers=_ANSWERS,
    tags=["jobs"],
    query=OutputForm,
    headers=SUBMISSION_HEADERS,
)
def train() -> tuple[Response, int]:
    """Makes a model of a few photos, given here or as a photo set."""
    form = parse_query(OutputForm).output
    asked = asked_by(caller())
    job, waited = submit(lambda submission: submission.training(asked, parse_body(TrainingBody)))
    return answer(job, form, waited=waited)


@blueprint.post("/v1/generations")
@submits
@requires("generate")
@documented(
    "Draw pictures",
    body=GenerationBody,
    answers=_ANSWERS,
    tags=["jobs"],
    query=OutputForm,
    headers=SUBMISSION_HEADERS,
)
def generate() -> tuple[Response, int]:
    """Draws with the base model or with trained ones; `then` lists what to do with the pictures."""
    form = parse_query(OutputForm).output
    asked = asked_by(caller())
    job, waited = submit(lambda submission: submission.generation(asked, parse_body(GenerationBody)))
    return answer(job, form, waited=waited)


@blueprint.post("/v1/background-removals")
@submits
@requires("generate")
@documented(
    "Remove backgrounds",
    body=BackgroundRemovalBody,
    answers=_ANSWERS,
    tags=["jobs"],
    query=OutputForm,
    headers=SUBMISSION_HEADERS,
)
def remove_background() -> tuple[Response, int]:
    """Cuts the subject out of each picture."""
    form = parse_query(OutputForm).output
    asked = asked_by(caller())
    job, waited = submit(
        lambda submission: submission.background_removal(asked, parse_body(BackgroundRemovalBody))
    )
    return answer(job, form, waited=waited)


@blueprint.post("/v1/upscales")
@submits
@requires("generate")
@documented(
    "Enlarge pictures",
    body=UpscaleBody,
    answers=_ANSWERS,
    tags=["jobs"],
    query=OutputForm,
    headers=SUBMISSION_HEADERS,
)
def upscale() -> tuple[Response, int]:
    """Enlarges each picture, by a GAN (`gan`), Stable Diffusion (`sd`) or Swin2SR (`swin2sr`)."""
    form = parse_query(OutputForm).output
    asked = asked_by(caller())
    job, waited = submit(lambda submission: submission.upscale(asked, parse_body(UpscaleBody)))
    return answer(job, form, waited=waited)
