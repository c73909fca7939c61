"""``POST /upsampler``, and what there is beside it."""

from __future__ import annotations

import base64
import json
import socket
from dataclasses import asdict

from enlight_common.errors import EnlightError, InvalidField, ShuttingDown
from enlight_common.queue import Canceled
from enlight_common.web import documented, parse_body
from flask import Blueprint, Response, jsonify

from upsampler.encoding import LIMIT_BYTES, Encoded, encode, encode_within
from upsampler.enlarging import Enlarged
from upsampler.models import Upscaler, known_upscalers
from upsampler.request import Manner, UpscaleRequest
from upsampler.routes.context import context, watch_work
from upsampler.schemas.upsampler import Failure, Hello, Model, Models, UpscaleAnswer, UpscaleBody

blueprint = Blueprint("upsampler", __name__)
_SD_SETTINGS = ("seed", "steps", "noise_level", "guidance_scale")


class ClientLeft(EnlightError):
    """Nobody reads this answer; the status, nginx's own for the case, is for the log and the metrics."""

    status = 499
    type = "client-left"
    title = "The client closed its connection"


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
    rest. The same request with the same seed gives the same picture.
    """
    here = context()
    here.service.check_open()
    # Before the body is read: what waits here for its turn holds a thread and its image in memory.
    with here.places.enter("upscaling"):
        body = parse_body(UpscaleBody)
        upscaler = here.service.upscaler(body.engine, body.model)
        if upscaler.engine != body.engine:
            raise InvalidField("model", f"must be of the engine {body.engine}")
        with here.decoding:
            request = body.request()
        manner = request.manner(upscaler)
        enlarged = _enlarged(upscaler, request, manner)
        text = {"model": upscaler.name, "seed": str(manner.seed)} if upscaler.engine == "sd" else {}
        if body.limited:
            encoded = encode_within(enlarged.image, body.format, LIMIT_BYTES, text)
        else:
            encoded = encode(enlarged.image, body.format, text)
        return jsonify(_answer(upscaler, manner, enlarged, encoded).model_dump())


def _enlarged(upscaler: Upscaler, request: UpscaleRequest, manner: Manner) -> Enlarged:
    service, stop = context().service, watch_work()
    try:
        return service.upscale(service.engines.get(upscaler, stop), request, manner, stop)
    except Canceled:
        if service.stopping:
            raise ShuttingDown("the service is shutting down, the picture was not finished") from None
        raise ClientLeft("the client closed its connection") from None


def _answer(upscaler: Upscaler, manner: Manner, enlarged: Enlarged, encoded: Encoded) -> UpscaleAnswer:
    settings = asdict(manner)
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


@blueprint.after_request
def _keep_status(response: Response) -> Response:
    """Problems say ``"status": "false"``, which this service's clients look at; the number is HTTP's own."""
    if response.mimetype == "application/problem+json":
        problem = json.loads(response.get_data())
        response.set_data(json.dumps({**problem, "status": "false"}) + "\n")
    return response
