"""``/train``, ``/inference``, ``/remove``, ``/remove-opacity``, ``/upsampler``, as their services have them.

Each call makes a job and waits for its end. Without a key they are LEGACY_TENANT's, where that is set.
"""

from __future__ import annotations

import base64
import json
import socket

from enlight_common.schemas.claims import MAX_PICTURE_BYTES
from enlight_common.web import documented, parse_body, secured
from enlight_common.web.parsing import validate
from flask import Blueprint, Response
from pydantic import BaseModel

from main_api.facades.kept.schemas import (
    KeptGreeting,
    KeptInferenceAnswer,
    KeptInferenceBody,
    KeptProblem,
    KeptRemoveAnswer,
    KeptRemoveBody,
    KeptTrainAnswer,
    KeptTrainBody,
    KeptUpscaleAnswer,
    KeptUpscaleBody,
)
from main_api.facades.outcome import succeeded
from main_api.jobs.job import Job
from main_api.jobs.submission import Asked, Submission, Submitted
from main_api.jobs.view import check_inline
from main_api.records.keys import Scope
from main_api.routes.answers import private_json
from main_api.routes.authorization import authorize
from main_api.routes.context import context, submits
from main_api.routes.submitting import asked_by, submit
from main_api.schemas.generations import GenerationBody
from main_api.schemas.images import BackgroundRemovalBody, UpscaleBody
from main_api.schemas.trainings import TrainingBody

blueprint = Blueprint("kept", __name__)
upsampler = Blueprint("kept_upsampler", __name__)

#: A training's clients have always waited for its end.
_TRAINING_WAIT_S = 24 * 3600.0
_WAIT_S = 1800.0
_STATUSES = (400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 500, 502, 503, 504, 507)
_FAILURES: dict[int, type[BaseModel]] = dict.fromkeys(_STATUSES, KeptProblem)


@blueprint.post("/train")
@submits
@documented("Train, and wait", body=KeptTrainBody, answers={200: KeptTrainAnswer}, tags=["kept"])
def train() -> Response:
    """Makes a model of a few photos and answers when it is stored."""
    asked = _asked("train")

    def make(submission: Submission) -> Submitted:
        return submission.training(asked, validate(TrainingBody, parse_body(KeptTrainBody).fields()))

    job, _ = submit(make, wait_s=_TRAINING_WAIT_S)
    model = (succeeded(job).output or {}).get("model") or {}
    answer = KeptTrainAnswer(
        message="Training is done.",
        model_id=model["model_id"],
        version=model["version"],
        method=model.get("method"),
        learning_rate=model.get("learning_rate"),
        steps=model.get("steps"),
        base=model.get("base"),
        run_id=job.id,
    )
    return private_json(answer.model_dump())


@blueprint.post("/inference")
@submits
@documented("Draw, and wait", body=KeptInferenceBody, answers={200: KeptInferenceAnswer}, tags=["kept"])
def draw() -> Response:
    """Draws `num_image` pictures and answers when they are done."""
    asked = _asked("generate")

    def make(submission: Submission) -> Submitted:
        return submission.generation(asked, validate(GenerationBody, parse_body(KeptInferenceBody).fields()))

    job, _ = submit(make, wait_s=_WAIT_S)
    answer = KeptInferenceAnswer(
        message="Inference is done.",
        images=_pictures(succeeded(job)),
        seeds=[one.get("seed") for one in job.pictures],
        format=job.pictures[0]["format"],
        model=job.input.get("model_id"),
        settings=(job.output or {}).get("settings") or {},
    )
    return private_json(answer.model_dump())


@blueprint.post("/remove")
@submits
@documented("Cut out on white", body=KeptRemoveBody, answers={200: KeptRemoveAnswer}, tags=["kept"])
def remove() -> Response:
    """Cuts the subject of each picture out and lays it on white, or on `background`."""
    return _cut_out(transparent=False)


@blueprint.post("/remove-opacity")
@submits
@documented(
    "Cut out with an alpha channel", body=KeptRemoveBody, answers={200: KeptRemoveAnswer}, tags=["kept"]
)
def remove_opacity() -> Response:
    """Cuts the subject of each picture out; the rest is transparent."""
    return _cut_out(transparent=True)


def _cut_out(*, transparent: bool) -> Response:
    caller = authorize("generate", legacy=True)

    def make(submission: Submission) -> Submitted:
        sent = parse_body(KeptRemoveBody)
        asked = asked_by(caller, facade="kept", alone=sent.input_image is not None)
        body = validate(BackgroundRemovalBody, sent.fields(transparent=transparent))
        return submission.background_removal(asked, body)

    job, _ = submit(make, wait_s=_WAIT_S)
    pictures, made = _pictures(succeeded(job)), job.pictures[0]["format"]
    if job.origin["alone"]:
        answer = KeptRemoveAnswer(output_image=pictures[0], format=made)
    else:
        answer = KeptRemoveAnswer(output_images=pictures, format=made)
    return private_json(answer.model_dump(exclude_none=True))


@upsampler.get("/upsampler")
@documented("Who answers", answers={200: KeptGreeting, **_FAILURES}, tags=["kept"])
def greet() -> Response:
    """Says what this is, and the host's name."""
    _asked("generate")
    return private_json({"message": "Enlight main-api", "hostname": socket.gethostname()})


@upsampler.post("/upsampler")
@submits
@documented(
    "Enlarge, and wait", body=KeptUpscaleBody, answers={200: KeptUpscaleAnswer, **_FAILURES}, tags=["kept"]
)
def upscale() -> Response:
    """Enlarges `image` by Stable Diffusion or Swin2SR, or `input_string` by a GAN."""
    asked = _asked("generate")

    def make(submission: Submission) -> Submitted:
        return submission.upscale(asked, validate(UpscaleBody, parse_body(KeptUpscaleBody).fields()))

    job, _ = submit(make, wait_s=_WAIT_S)
    (picture,) = _pictures(succeeded(job))
    (made,) = job.pictures
    answer = KeptUpscaleAnswer(
        image=picture, format=made["format"], width=made["width"], height=made["height"]
    )
    return private_json(answer.model_dump())


@upsampler.after_request
def _keep_status(response: Response) -> Response:
    """Problems say ``"status": "false"``, which this call's clients look at; the number is HTTP's own."""
    if response.mimetype == "application/problem+json":
        problem = json.loads(response.get_data())
        response.set_data(json.dumps({**problem, "status": "false"}) + "\n")
    return response


for _view in (train, draw, remove, remove_opacity, greet, upscale):
    secured(_view, "key", "apiKey")


def _asked(scope: Scope) -> Asked:
    return asked_by(authorize(scope, legacy=True), facade="kept")


def _pictures(job: Job) -> list[str]:
    """The job's pictures in base64."""
    check_inline(job.pictures)
    store = context().service.pictures
    return [
        base64.b64encode(store.read(one["key"], MAX_PICTURE_BYTES)).decode("ascii") for one in job.pictures
    ]
