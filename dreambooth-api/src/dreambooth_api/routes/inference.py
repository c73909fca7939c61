"""``POST /inference``: pictures for a prompt."""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Callable

from enlight_common.errors import ClientLeft, ShuttingDown
from enlight_common.images import encode_image
from enlight_common.queue import Canceled
from enlight_common.web import documented, parse_body
from flask import Blueprint, Response, jsonify

from dreambooth_api.inference.picture import Drawn, description, settings_of
from dreambooth_api.routes.context import context, tenant, watch_work
from dreambooth_api.schemas.inference import InferenceAnswer, InferenceBody, UsedModel

log = logging.getLogger(__name__)
blueprint = Blueprint("inference", __name__)


@blueprint.post("/inference")
@documented("Draw pictures", body=InferenceBody, answers={200: InferenceAnswer}, tags=["inference"])
def draw() -> Response:
    """Draws `num_image` pictures with the base model or with trained ones, and answers when they are done.

    Picture *i* is drawn from `seed` + *i*; the same request with the same seed gives the same pictures.
    """
    here = context()
    service = here.service
    service.check_open()
    whose = tenant()
    # Before the body is read: what waits here for its turn holds a thread and its images in memory.
    with here.pictures.enter("drawing"):
        request = parse_body(InferenceBody)
        engine = service.engine
        try:
            with engine.prepare(request.draw_request(whose)) as prepared:
                drawn, seconds = service.drawings.run(
                    lambda stop: _timed(lambda: engine.draw(prepared, stop=stop)),
                    units=prepared.drawing.num_image,
                    stop=watch_work(),
                )
        except Canceled:
            if service.stopping:
                raise ShuttingDown("the service is shutting down, the pictures were not finished") from None
            raise ClientLeft("the client closed its connection") from None
        return jsonify(_answer(drawn, seconds, request.format).model_dump())


def _timed(draw: Callable[[], Drawn]) -> tuple[Drawn, float]:
    """What was drawn, and the seconds that it took."""
    started = time.monotonic()
    return draw(), time.monotonic() - started


def _answer(drawn: Drawn, seconds: float, picture_format: str) -> InferenceAnswer:
    images = []
    for picture in drawn.pictures:
        text = description(drawn, picture)
        data = encode_image(picture.image, picture_format, text=text)  # type: ignore[arg-type]
        images.append(base64.b64encode(data).decode("ascii"))
    uses = drawn.models
    return InferenceAnswer(
        message="Inference is done.",
        images=images,
        seeds=[picture.seed for picture in drawn.pictures],
        format=picture_format,
        model=uses[0].model_id if len(uses) == 1 else None,
        models=[UsedModel(**vars(use)) for use in uses],
        base=drawn.base,
        truncated_prompt=drawn.truncated_prompt,
        seconds=round(seconds, 3),
        settings=settings_of(drawn),
    )
