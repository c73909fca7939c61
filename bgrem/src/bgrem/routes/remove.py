"""``POST /remove`` and ``POST /remove-opacity``: pictures without their background."""

from __future__ import annotations

import base64
from collections.abc import Callable

from enlight_common.errors import EnlightError, InvalidField, ShuttingDown
from enlight_common.images import ImageBounds, decode_base64_image, encode_image
from enlight_common.queue import Canceled
from enlight_common.web import documented, parse_body
from flask import Blueprint, Response, jsonify
from PIL import Image

from bgrem.request import CutOptions
from bgrem.routes.context import the_service, watch_work
from bgrem.schemas.remove import (
    MAX_MATTING_PIXELS,
    MAX_TIMES_PIXELS,
    MAX_WEBP_SIDE,
    RemoveAnswer,
    RemoveBody,
)
from bgrem.service import Cutter, Service

blueprint = Blueprint("remove", __name__)
#: At zlib's usual 6, packing a cut-out takes a fifth of what u2netp needs to find it.
_PNG_EFFORT = 2


class ClientLeft(EnlightError):
    """Nobody reads this answer; the status, nginx's own for the case, is for the log and the metrics."""

    status = 499
    type = "client-left"
    title = "The client closed its connection"


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
    service.check_open()
    # Before the body is read: what waits here for its turn holds a thread and its text in memory.
    with service.places.enter(service.inferences.seconds_per_unit):
        body = parse_body(RemoveBody)
        images = body.images
        cutter = service.cutter
        bounds = ImageBounds(max_pixels=service.settings.max_pixels)
        stop = watch_work()
        try:
            with service.places.work(stop):
                options = body.cut_options(
                    cutter.models,
                    cutter.sessions.runtime,
                    bounds,
                    default_model=service.settings.default_model,
                    transparent=transparent,
                )
                cutter.prepare(options)
                outputs = _cut_all(service, cutter, images, options, body, bounds, stop)
        except Canceled:
            if service.stopping:
                raise ShuttingDown("the service is shutting down, the pictures were not finished") from None
            raise ClientLeft("the client closed its connection") from None
    answer = RemoveAnswer(
        output_image=outputs[0] if body.input_image is not None else None,
        output_images=outputs if body.input_images is not None else None,
        format=body.format,
        model=options.model.name,
        precision=options.precision,
        runtime=cutter.sessions.runtime.name,
    )
    return jsonify(answer.model_dump(exclude_none=True))


def _cut_all(
    service: Service,
    cutter: Cutter,
    images: list[tuple[str, str]],
    options: CutOptions,
    body: RemoveBody,
    bounds: ImageBounds,
    stop: Callable[[], bool],
) -> list[str]:
    """Each picture in base64. They are decoded one after the other, so that only one is in memory."""
    outputs = []
    left = MAX_TIMES_PIXELS * bounds.max_pixels
    for field, text in images:
        if stop():
            raise Canceled
        photo = decode_base64_image(text, field, bounds)
        left -= photo.width * photo.height
        if left < 0:
            most = MAX_TIMES_PIXELS * bounds.max_pixels
            raise InvalidField("input_images", f"must have at most {most} pixels together")
        _check_size(photo, field, options, body.format)
        cutout = cutter.cut(photo, options, stop)
        data = encode_image(cutout, body.format, png_effort=_PNG_EFFORT)
        outputs.append(base64.b64encode(data).decode("ascii"))
    return outputs


def _check_size(photo: Image.Image, field: str, options: CutOptions, picture_format: str) -> None:
    if options.matting is not None and photo.width * photo.height > MAX_MATTING_PIXELS:
        raise InvalidField(field, f"must have at most {MAX_MATTING_PIXELS} pixels for alpha_matting")
    if picture_format == "webp" and max(photo.size) > MAX_WEBP_SIDE:
        raise InvalidField(field, f"must be at most {MAX_WEBP_SIDE} pixels wide and high for WebP")
