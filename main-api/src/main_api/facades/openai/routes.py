"""``POST /v1/images/generations`` and ``/v1/images/edits``: jobs that are waited for, in OpenAI's shape."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from enlight_common.errors import EnlightError, InvalidField
from enlight_common.images import DEFAULT_BOUNDS
from enlight_common.schemas.claims import MAX_PICTURE_BYTES
from enlight_common.web import documented, parse_body, read_form
from enlight_common.web.parsing import validate
from flask import Blueprint, Response, request
from pydantic import BaseModel
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import HTTPException

from main_api.base_models import names_of
from main_api.facades.openai import errors
from main_api.facades.openai.masks import white_where_transparent
from main_api.facades.openai.schemas import (
    ErrorAnswer,
    ImageEditBody,
    ImageGenerationBody,
    ImageOptions,
    ImagesAnswer,
)
from main_api.facades.outcome import succeeded
from main_api.jobs.job import Job
from main_api.jobs.submission import Submission, Submitted
from main_api.jobs.view import check_inline
from main_api.routes.answers import private_json
from main_api.routes.authorization import caller, requires
from main_api.routes.context import context, submits
from main_api.routes.submitting import asked_by, submit
from main_api.schemas.generations import GenerationBody

blueprint = Blueprint("openai", __name__)
blueprint.register_error_handler(EnlightError, errors.answer)
blueprint.register_error_handler(HTTPException, errors.answer_http)
blueprint.register_error_handler(Exception, errors.answer_unexpected)

#: What OpenAI's client waits before it gives up, less what the answer takes to be written.
_WAIT_S = 590.0
_REFUSALS = (400, 401, 403, 404, 408, 409, 413, 415, 429, 500, 502, 503, 504, 507)
_ANSWERS: dict[int, type[BaseModel]] = {200: ImagesAnswer, **dict.fromkeys(_REFUSALS, ErrorAnswer)}
_NUMBERS = {
    "n": int,
    "output_compression": int,
    "partial_images": int,
    "num_inference_steps": int,
    "seed": int,
    "guidance_scale": float,
    "strength": float,
}
_FORM = {
    "type": "object",
    "properties": {
        "image": {"type": "string", "format": "binary"},
        "mask": {"type": "string", "format": "binary"},
        "prompt": {"type": "string"},
    },
    "required": ["image", "prompt"],
}


@blueprint.post("/v1/images/generations")
@submits
@requires("generate")
@documented("Draw, as OpenAI has it", body=ImageGenerationBody, answers=_ANSWERS, tags=["openai"])
def generate() -> Response:
    """`background: "transparent"` cuts the subject out of what was drawn."""
    return _drawn(lambda: (parse_body(ImageGenerationBody), {}))


@blueprint.post("/v1/images/edits")
@submits
@requires("generate")
@documented(
    "Draw a picture anew, as OpenAI has it",
    body=ImageEditBody,
    answers=_ANSWERS,
    tags=["openai"],
    other_bodies={"multipart/form-data": _FORM},
)
def edit() -> Response:
    """A form with the picture as part `image`; where `mask`, or else it, is transparent, it is redrawn."""
    if request.mimetype != "multipart/form-data":
        raise InvalidField("image", "must be a part of a multipart/form-data body")
    return _drawn(lambda: (validate(ImageEditBody, _form()), _pictures()))


def _form() -> dict[str, Any]:
    """The fields of the form that are no files; numbers come as text."""
    read_form()
    found: dict[str, Any] = {}
    for name, values in request.form.lists():
        if len(values) > 1:
            raise InvalidField(name[:64], "must be given once")
        found[name] = _number(name, values[0])
    if "stream" in found:
        found["stream"] = found["stream"] == "true"
    return found


def _number(name: str, text: str) -> Any:
    kind = _NUMBERS.get(name)
    if kind is None:
        return text
    try:
        return kind(text)
    except ValueError:
        raise InvalidField(name, "must be a number") from None


def _pictures() -> dict[str, str]:
    """The fields `image` and `mask` of a generation."""
    files = [*request.files.getlist("image"), *request.files.getlist("image[]")]
    if len(files) != 1:
        raise InvalidField("image", "must be one picture")
    image = _read(files[0], "image")
    mask = request.files.get("mask")
    if mask is not None:
        found = white_where_transparent(_read(mask, "mask"), "mask", required=True)
    else:
        found = white_where_transparent(image, "image", required=False)
    pictures = {"image": base64.b64encode(image).decode("ascii")}
    return {**pictures, "mask": found} if found is not None else pictures


def _read(file: FileStorage, field: str) -> bytes:
    data: bytes = file.read(DEFAULT_BOUNDS.max_bytes + 1)
    if len(data) > DEFAULT_BOUNDS.max_bytes:
        raise InvalidField(field, f"must be at most {DEFAULT_BOUNDS.max_bytes} bytes")
    return data


def _drawn(read: Callable[[], tuple[ImageOptions, dict[str, str]]]) -> Response:
    """`read` gives the options and the pictures of the request; it is called once there is room for them."""
    base_model = context().service.settings.base_model

    def make(submission: Submission) -> Submitted:
        options, pictures = read()
        body = validate(GenerationBody, {**options.fields(names_of(base_model)), **pictures})
        asked = asked_by(
            caller(), facade="openai", response_format=options.response_format, background=options.background
        )
        return submission.generation(asked, body)

    job, _ = submit(make, wait_s=_WAIT_S)
    return private_json(_answer(succeeded(job)))


def _answer(job: Job) -> dict[str, Any]:
    store = context().service.pictures
    if job.origin["response_format"] != "url":
        check_inline(job.pictures)
    images = []
    for one in job.pictures:
        image = {}
        if job.origin["response_format"] != "b64_json":
            image["url"] = store.url(one["key"])
        if job.origin["response_format"] != "url":
            data = store.read(one["key"], MAX_PICTURE_BYTES)
            image["b64_json"] = base64.b64encode(data).decode("ascii")
        images.append(image)
    first = job.pictures[0]
    return {
        "created": job.created_at // 1000,
        "data": images,
        "background": "transparent" if job.origin["background"] == "transparent" else "opaque",
        "output_format": first["format"],
        "size": f"{first['width']}x{first['height']}",
    }
