"""``POST /upsampler``, and what there is beside it."""

from __future__ import annotations

import base64
import socket
from dataclasses import asdict

from enlight_common.errors import InvalidField
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

from upsampler.encoding import LIMIT_BYTES, encode_within
from upsampler.models import known_upscalers
from upsampler.routes.context import context
from upsampler.schemas.upsampler import Model, Models, UpscaleAnswer, UpscaleBody
from upsampler.service import Wish

blueprint = Blueprint("upsampler", __name__)
kept_status.install(blueprint)
progress.install(blueprint, lambda: context().service.progresses)
_SD_SETTINGS = ("seed", "steps", "noise_level", "guidance_scale")


@blueprint.get("/")
@documented("Who answers", answers={200: Greeting}, tags=["upsampler"])
def greet() -> Response:
    """Says what this is, and the host's name."""
    return jsonify(Greeting(message="Enlight upsampler", hostname=socket.gethostname()).model_dump())


@blueprint.get("/models")
@documented("List the models", answers={200: Models}, tags=["upsampler"])
def models() -> Response:
    """What may be asked for as `model`. What is not on the machine is fetched on first use."""
    service = context().service
    defaults, loaded = (service.settings.upscaler, service.settings.swin2sr), service.engines.names
    known = [
        Model(name=each.name, engine=each.engine, default=each.name in defaults, loaded=each.name in loaded)
        for each in known_upscalers(service.settings.weights_dir)
    ]
    return jsonify(Models(models=known).model_dump())


@blueprint.post("/upsampler")
@documented(
    "Enlarge a picture", body=UpscaleBody, answers={200: UpscaleAnswer, **FAILURES}, tags=["upsampler"]
)
def upscale() -> Response:
    """Enlarges the picture until its longer side has `resolution` pixels, and answers when that is done.

    The network is run as often as it takes, not again for the last factor of 1.5 or less; Lanczos does the
    rest. The same request with the same seed gives the same picture. What would take longer than PATIENCE_S,
    or the client's `Prefer: wait=<seconds>`, is answered with 504 before it begins. Meanwhile
    `GET /progress/<X-Request-Id>` tells how far it is.
    """
    here = context()
    here.service.leaving.check_open()
    # Whether there is a place at all, before the body is read: that takes none, as its client may be slow.
    here.places.check("upscaling")
    body = parse_body(UpscaleBody)
    with (
        here.places.enter("upscaling"),
        here.service.in_flight.one(),
        watched(here.service.leaving, "the picture") as stop,
    ):
        here.service.leaving.check_open()
        return jsonify(_answered(body, stop).model_dump())


def _answered(body: UpscaleBody, stop: Stop) -> UpscaleAnswer:
    service, wish = context().service, _wish(body, stop)
    upscaler = wish.upscaler
    text = {"model": upscaler.name, "seed": str(wish.manner.seed)} if upscaler.engine == "sd" else {}
    enlarged = service.upscale(wish, current_request_id() or "", stop)
    image, limit = enlarged.image, LIMIT_BYTES if body.limited else None
    encoded = service.encoded(lambda: encode_within(image, body.format, limit, text), stop)
    settings = asdict(wish.manner)
    names = ("tile", "overlap", *(_SD_SETTINGS if upscaler.engine == "sd" else ()))
    return UpscaleAnswer(
        image=base64.b64encode(encoded.data).decode("ascii"),
        format=encoded.format,
        quality=encoded.quality,
        width=encoded.size[0],
        height=encoded.size[1],
        engine=upscaler.engine,
        model=upscaler.name,
        passes=enlarged.passes,
        settings={name: settings[name] for name in names},
    )


def _wish(body: UpscaleBody, stop: Stop) -> Wish:
    here, asked = context(), preferred_wait()
    settings = here.service.settings
    patience = Patience(settings.patience_s if asked is None else min(asked, settings.patience_s))
    upscaler = here.service.upscaler(body.engine, body.model)
    if upscaler.engine != body.engine:
        raise InvalidField("model", f"must be of the engine {body.engine}")
    with patience.limit(stop) as stop_or_late, here.decoding.enter(stop_or_late):
        request = body.request()
    return Wish(upscaler, request, request.manner(upscaler, settings.max_tile), patience)
