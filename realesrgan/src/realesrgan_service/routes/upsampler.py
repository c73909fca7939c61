"""``POST /upsampler``, and what there is beside it."""

from __future__ import annotations

import base64
import socket

from enlight_common.errors import InvalidField
from enlight_common.images import MAX_SIDES
from enlight_common.patience import Patience
from enlight_common.queue import Stop
from enlight_common.web import (
    current_request_id,
    documented,
    kept_status,
    parse_body,
    preferred_wait,
    progress,
    watched,
)
from enlight_common.web.kept_status import FAILURES, Greeting
from flask import Blueprint, Response, jsonify

from realesrgan_service.models.published import GENERAL
from realesrgan_service.routes.context import context
from realesrgan_service.schemas.upsampler import UpscaleAnswer, UpscaleBody
from realesrgan_service.service import Wish
from realesrgan_service.settings import ServiceSettings
from realesrgan_service.upscaling.tiles import LEAST_TILE

blueprint = Blueprint("upsampler", __name__)
kept_status.install(blueprint)
progress.install(blueprint, lambda: context().service.progresses)


@blueprint.get("/")
@documented("Who answers", answers={200: Greeting}, tags=["upsampler"])
def greet() -> Response:
    """Says what this is, and the host's name."""
    return jsonify(Greeting(message="Enlight realesrgan", hostname=socket.gethostname()).model_dump())


@blueprint.post("/upsampler")
@documented(
    "Enlarge a picture", body=UpscaleBody, answers={200: UpscaleAnswer, **FAILURES}, tags=["upsampler"]
)
def upscale() -> Response:
    """Enlarges the picture until its longer side has `out_resolution` pixels, and answers when that is done.

    The network is run as often as it takes, not a further time for the last factor of 1.5 or less; Lanczos
    does the rest. What would take longer than PATIENCE_S, or the client's `Prefer: wait=<seconds>`, is
    answered with 504 before it begins. Meanwhile `GET /progress/<X-Request-Id>` tells how far it is.
    """
    here = context()
    here.service.check_open()
    # Whether there is a place at all, before the body is read: that takes none, as its client may be slow.
    here.places.check("upscaling")
    body = parse_body(UpscaleBody)
    _check(body, here.service.settings)
    with (
        here.places.enter("upscaling"),
        here.service.in_flight.one(),
        watched(here.service.leaving, "the picture") as stop,
    ):
        here.service.check_open()
        return jsonify(_answered(body, stop).model_dump())


def _check(body: UpscaleBody, settings: ServiceSettings) -> None:
    if body.out_resolution > settings.max_resolution:
        raise InvalidField("out_resolution", f"must be at most {settings.max_resolution}")
    if body.out_resolution > MAX_SIDES[body.format]:
        raise InvalidField(
            "out_resolution", f"must be at most {MAX_SIDES[body.format]} for a file of this format"
        )
    if 0 < body.tile < LEAST_TILE:
        raise InvalidField("tile", f"must be 0 or at least {LEAST_TILE}")
    if body.tile > settings.tile:
        raise InvalidField("tile", f"must be at most {settings.tile}, the TILE of this service")


def _answered(body: UpscaleBody, stop: Stop) -> UpscaleAnswer:
    service = context().service
    wish = _wish(body, stop)
    enlarged = service.upscale(wish, current_request_id() or "", stop)
    data = service.encoded(enlarged.image, body.format, stop)
    notes = []
    if body.denoise_strength is not None and wish.model.name != GENERAL:
        notes.append(f"denoise_strength has no effect on this model; it is for {GENERAL}")
    return UpscaleAnswer(
        image=base64.b64encode(data).decode("ascii"),
        format=body.format,
        width=enlarged.image.width,
        height=enlarged.image.height,
        model_name=wish.model.name,
        passes=enlarged.passes,
        tiles=enlarged.tiles,
        precision=enlarged.precision,
        seconds=round(enlarged.seconds, 3),
        faces=enlarged.faces,
        notes=notes,
    )


def _wish(body: UpscaleBody, stop: Stop) -> Wish:
    here, asked = context(), preferred_wait()
    allowed = float(here.service.settings.patience_s)
    patience = Patience(allowed if asked is None else min(asked, allowed))
    with patience.limit(stop) as stop_or_late:
        model = here.service.catalog.find(body.model_name, stop=stop_or_late)
        with here.decoding.enter(stop_or_late):
            image = body.picture()
    return Wish(
        image=image,
        model=model,
        out_resolution=body.out_resolution,
        tile=body.tile,
        denoise_strength=body.denoise_strength,
        face_enhance=body.face_enhance,
        patience=patience,
    )
