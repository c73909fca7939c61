"""``POST /upsampler``, and what there is beside it."""

from __future__ import annotations

import base64
import json
import socket
from dataclasses import asdict

from enlight_common.errors import ClientLeft, InvalidField, ShuttingDown
from enlight_common.patience import Patience
from enlight_common.queue import Canceled, Stop
from enlight_common.web import current_request_id, documented, parse_body, preferred_wait
from enlight_common.web.progress import Progress, answer_progress
from flask import Blueprint, Response, jsonify

from upsampler.encoding import LIMIT_BYTES, encode_within
from upsampler.models import known_upscalers
from upsampler.routes.context import context, watch_work
from upsampler.schemas.upsampler import Failure, Hello, Model, Models, UpscaleAnswer, UpscaleBody
from upsampler.service import Wish

blueprint = Blueprint("upsampler", __name__)
_SD_SETTINGS = ("seed", "steps", "noise_level", "guidance_scale")


@blueprint.get("/")
@documented("Who answers", answers={200: Hello}, tags=["upsampler"])
def hello() -> Response:
    """Says what this is, and the host's name."""
    return jsonify(Hello(message="Enlight upsampler", hostname=socket.gethostname()).model_dump())


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
    "Enlarge a picture", body=UpscaleBody, answers={200: UpscaleAnswer, 422: Failure}, tags=["upsampler"]
)
def upscale() -> Response:
    """Enlarges the picture until its longer side has `resolution` pixels, and answers when that is done.

    The network is run as often as it takes, not again for the last factor of 1.5 or less; Lanczos does the
    rest. The same request with the same seed gives the same picture. What would take longer than PATIENCE_S,
    or the client's `Prefer: wait=<seconds>`, is answered with 504 before it begins. Meanwhile
    `GET /progress/<X-Request-Id>` tells how far it is.
    """
    here = context()
    here.service.check_open()
    # Whether there is a place at all, before the body is read: that takes none, as its client may be slow.
    with here.places.enter("upscaling"):
        pass
    body = parse_body(UpscaleBody)
    with here.places.enter("upscaling"), here.service.in_flight.one():
        here.service.check_open()
        return jsonify(_answered(body, watch_work()).model_dump())


def _answered(body: UpscaleBody, stop: Stop) -> UpscaleAnswer:
    service, wish = context().service, _wish(body)
    upscaler = wish.upscaler
    text = {"model": upscaler.name, "seed": str(wish.manner.seed)} if upscaler.engine == "sd" else {}
    try:
        enlarged = service.upscale(wish, current_request_id() or "", stop)
        image, limit = enlarged.image, LIMIT_BYTES if body.limited else None
        encoded = service.encoded(lambda: encode_within(image, body.format, limit, text), stop)
    except Canceled:
        if service.stopping:
            raise ShuttingDown("the service is shutting down, the picture was not finished") from None
        raise ClientLeft("the client closed its connection") from None
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


def _wish(body: UpscaleBody) -> Wish:
    here, asked = context(), preferred_wait()
    settings = here.service.settings
    patience = Patience(settings.patience_s if asked is None else min(asked, settings.patience_s))
    upscaler = here.service.upscaler(body.engine, body.model)
    if upscaler.engine != body.engine:
        raise InvalidField("model", f"must be of the engine {body.engine}")
    with here.decoding:
        request = body.request()
    return Wish(upscaler, request, request.manner(upscaler, settings.max_tile), patience)


@blueprint.get("/progress/<request_id>")
@documented("How far a picture is", answers={200: Progress}, tags=["upsampler"])
def progress(request_id: str) -> Response:
    """Tells of the picture whose request had this `X-Request-Id`; 404 before it came and when it is done."""
    return answer_progress(context().service.progresses, request_id)


@blueprint.after_request
def _keep_status(response: Response) -> Response:
    """Problems say ``"status": "false"``, which this service's clients look at; the number is HTTP's own."""
    if response.mimetype == "application/problem+json":
        problem = json.loads(response.get_data())
        response.set_data(json.dumps({**problem, "status": "false"}) + "\n")
    return response
