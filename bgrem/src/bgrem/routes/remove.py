"""``POST /remove`` and ``POST /remove-opacity``: pictures without their background."""

from __future__ import annotations

import base64
from dataclasses import replace

from enlight_common.errors import InvalidField
from enlight_common.images import (
    ImageBounds,
    decode_base64,
    decode_base64_image,
    encode_image,
    inspect_image,
)
from enlight_common.queue import Canceled, Stop
from enlight_common.web import documented, parse_body, watched
from flask import Blueprint, Response, jsonify

from bgrem.matting import MAX_MATTING_PIXELS
from bgrem.request import CutOptions
from bgrem.routes.context import the_service
from bgrem.schemas.remove import MAX_TIMES_PIXELS, RemoveAnswer, RemoveBody
from bgrem.service import Cutting

blueprint = Blueprint("remove", __name__)
#: At zlib's usual 6, packing a cut-out takes a fifth of what u2netp needs to find it.
_PNG_EFFORT = 2


@blueprint.post("/remove")
@documented("Cut out on white", body=RemoveBody, answers={200: RemoveAnswer}, tags=["remove"])
def remove() -> Response:
    """Cuts the subject of each picture out and lays it on white, or on `background`."""
    return _answer(transparent=False)


@blueprint.post("/remove-opacity")
@documented("Cut out with an alpha channel", body=RemoveBody, answers={200: RemoveAnswer}, tags=["remove"])
def remove_opacity() -> Response:
    """Cuts the subject of each picture out; the rest is transparent, or `background`."""
    return _answer(transparent=True)


def _answer(*, transparent: bool) -> Response:
    service = the_service()
    service.leaving.check_open()
    service.places.check()
    # Outside of the places: whoever sends slowly holds one of the gate's, and none of these.
    body = parse_body(RemoveBody)
    with service.places.enter(), watched(service.leaving, "the pictures") as stop:
        service.leaving.check_open()
        cutter = service.cutter.get()
        options = body.cut_options(cutter.models, default_model=service.settings.default_model)
        tried = cutter.prepare(options, stop)
        with service.turn(options, stop):
            bounds = ImageBounds(max_pixels=service.settings.max_pixels)
            _check_sizes(body, options, bounds)
            background = body.chosen_background(bounds, transparent=transparent)
            cutting = Cutting(cutter.sessions, replace(options, background=background), tried, stop)
            outputs = _cut_all(cutting, body, options, bounds, stop)
    answer = RemoveAnswer(
        output_image=outputs[0] if body.input_image is not None else None,
        output_images=outputs if body.input_images is not None else None,
        format=body.format,
        model=options.model.name,
        precision=cutting.precision,
        runtime=cutter.sessions.runtime_of(options.model.name).name,
    )
    return jsonify(answer.model_dump(exclude_none=True))


def _check_sizes(body: RemoveBody, options: CutOptions, bounds: ImageBounds) -> None:
    """Raise InvalidField for what the headers say of the pictures, before anything is computed."""
    pixels = 0
    for field, text in body.images:
        header = inspect_image(decode_base64(text, field, bounds.max_bytes), field, bounds)
        own = header.width * header.height
        pixels += own
        if options.solves and own * options.model.masks > MAX_MATTING_PIXELS:
            most = MAX_MATTING_PIXELS // options.model.masks
            raise InvalidField(field, f"must have at most {most} pixels for alpha_matting")
    most = MAX_TIMES_PIXELS * bounds.max_pixels
    if options.solves:
        most = MAX_MATTING_PIXELS // options.model.masks
    if pixels > most:
        reason = f"must have at most {most} pixels together"
        raise InvalidField("input_images", reason + (" for alpha_matting" if options.solves else ""))


def _cut_all(
    cutting: Cutting, body: RemoveBody, options: CutOptions, bounds: ImageBounds, stop: Stop
) -> list[str]:
    """Each picture in base64. They are decoded one after the other, so that only one is in memory."""
    outputs = []
    for field, text in body.images:
        if stop():
            raise Canceled
        photo = decode_base64_image(text, field, bounds)
        options.check_sides(photo, field, body.format)
        data = encode_image(cutting.cut(photo, field), body.format, png_effort=_PNG_EFFORT)
        outputs.append(base64.b64encode(data).decode("ascii"))
    return outputs
