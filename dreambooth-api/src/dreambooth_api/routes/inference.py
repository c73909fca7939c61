"""``POST /inference``: pictures for a prompt."""

from __future__ import annotations

from contextlib import ExitStack

from enlight_common.errors import ClientLeft, InvalidField, ShuttingDown
from enlight_common.leaving import WORDS
from enlight_common.queue import Canceled
from enlight_common.web import Slot, documented, parse_body, preferred_wait, sse
from flask import Blueprint, Response, jsonify, request

from dreambooth_api.inference.caller import Caller
from dreambooth_api.inference.picture import Drawn
from dreambooth_api.routes.context import context, tenant, watch_work
from dreambooth_api.routes.drawing_events import Streamed, events
from dreambooth_api.routes.picture_files import in_base64
from dreambooth_api.schemas.inference import InferenceAnswer, InferenceBody, PictureFormat

blueprint = Blueprint("inference", __name__)

_EVENTS = "text/event-stream"


@blueprint.post("/inference")
@documented("Draw pictures", body=InferenceBody, answers={200: InferenceAnswer}, tags=["inference"])
def draw() -> Response:
    """Draws `num_image` pictures with the base model or with trained ones, and answers when they are done.

    Picture *i* is drawn from `seed` + *i*; the same request with the same seed gives the same pictures,
    whoever else draws at the same time. With `Prefer: wait=N` it is given up after N seconds: 504.

    With `Accept: text/event-stream` it answers with server-sent events, whose data are JSON: `progress`
    (`done` of all `steps` of the pictures together), `preview` (with `preview_steps`: `index`, `step`, and
    `image`, a small JPEG in base64), `picture` (`index`, `seed`, `format`, `image`) for each as soon as it is
    there, and `done`, the answer without its images; or `error`, a problem document, as the last one.
    What is wrong with the request itself is a problem without events.
    """
    service = context().service
    service.check_open()
    whose = tenant()
    with ExitStack() as held:
        # Before the body is read: what waits here for its turn holds a thread and its images in memory.
        place = held.enter_context(service.drawings.enter())
        body = parse_body(InferenceBody)
        streamed = request.accept_mimetypes.best_match(["application/json", _EVENTS]) == _EVENTS
        if body.preview_steps is not None and not streamed:
            raise InvalidField("preview_steps", f"needs Accept: {_EVENTS}")
        engine = service.engine
        caller = Caller(stop=watch_work(), deadline_s=preferred_wait())
        try:
            prepared = held.enter_context(engine.prepare(body.draw_request(whose), caller))
            place.expect(prepared.drawing.num_image)
            if streamed:
                drawing = Streamed(engine, prepared, caller, place, body.format, body.preview_steps)
                # The place and the models are held until the last event is sent.
                return sse(events(drawing, service), slot=Slot(held.pop_all().close))
            drawn = engine.draw(prepared, caller, on_step=place.stepped)
            place.done()
            answer = _answer(drawn, body.format, caller)
        except Canceled:
            if service.stopping:
                raise ShuttingDown(f"{WORDS} and did not finish the pictures") from None
            raise ClientLeft("the client closed its connection") from None
        return jsonify(answer.model_dump())


def _answer(drawn: Drawn, picture_format: PictureFormat, caller: Caller) -> InferenceAnswer:
    """Raises Canceled, TimedOut: sixteen large PNGs take seconds."""
    images = []
    for picture in drawn.pictures:
        caller.check()
        images.append(in_base64(drawn.recipe, picture, picture_format))
    return InferenceAnswer.of(
        drawn.recipe,
        images=images,
        picture_format=picture_format,
        truncated_prompt=drawn.truncated_prompt,
        device_seconds=drawn.device_seconds,
    )
