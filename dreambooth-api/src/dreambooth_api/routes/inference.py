"""``POST /inference``: pictures for a prompt."""

from __future__ import annotations

import base64

from enlight_common.errors import ClientLeft, ShuttingDown
from enlight_common.images import encode_image
from enlight_common.queue import Canceled
from enlight_common.web import documented, parse_body, preferred_wait
from flask import Blueprint, Response, jsonify

from dreambooth_api.inference.picture import Drawn, description, settings_of
from dreambooth_api.routes.context import context, tenant, watch_work
from dreambooth_api.schemas.inference import InferenceAnswer, InferenceBody, UsedModel

blueprint = Blueprint("inference", __name__)


@blueprint.post("/inference")
@documented("Draw pictures", body=InferenceBody, answers={200: InferenceAnswer}, tags=["inference"])
def draw() -> Response:
    """Draws `num_image` pictures with the base model or with trained ones, and answers when they are done.

    Picture *i* is drawn from `seed` + *i*; the same request with the same seed gives the same pictures,
    whoever else draws at the same time. With `Prefer: wait=N` it is given up after N seconds: 504.
    """
    service = context().service
    service.check_open()
    whose = tenant()
    # Before the body is read: what waits here for its turn holds a thread and its images in memory.
    with service.drawings.enter() as place:
        request = parse_body(InferenceBody)
        engine = service.engine
        try:
            with engine.prepare(request.draw_request(whose)) as prepared:
                place.expect(prepared.drawing.num_image)
                drawn = engine.draw(
                    prepared, stop=watch_work(), on_step=place.stepped, deadline_s=preferred_wait()
                )
        except Canceled:
            if service.stopping:
                raise ShuttingDown("the service is shutting down, the pictures were not finished") from None
            raise ClientLeft("the client closed its connection") from None
        return jsonify(_answer(drawn, request.format).model_dump())


def _answer(drawn: Drawn, picture_format: str) -> InferenceAnswer:
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
        seconds=round(drawn.device_seconds, 3),
        settings=settings_of(drawn),
    )
