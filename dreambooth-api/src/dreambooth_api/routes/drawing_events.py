"""A drawing as server-sent events: how far it is, what its pictures look like, and each when it is done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from enlight_common.errors import ShuttingDown
from enlight_common.leaving import WORDS
from enlight_common.queue import Canceled
from enlight_common.web import Event
from flask import current_app, stream_with_context

from dreambooth_api.inference.admission import Place
from dreambooth_api.inference.caller import Caller
from dreambooth_api.inference.denoising.submission import Progress, Shown, Submission
from dreambooth_api.inference.picture import Picture
from dreambooth_api.routes.picture_files import in_base64, preview_in_base64
from dreambooth_api.schemas.inference import InferenceAnswer, PictureFormat
from dreambooth_api.service import Service

if TYPE_CHECKING:
    from dreambooth_api.inference.engine import Engine
    from dreambooth_api.inference.prepared import Prepared


@dataclass(frozen=True)
class Streamed:
    """A prepared drawing whose caller follows it."""

    engine: Engine
    prepared: Prepared
    caller: Caller
    place: Place
    picture_format: PictureFormat
    preview_steps: int | None


def events(drawing: Streamed, service: Service) -> Iterator[Event | None]:
    """The events of the current request, as ``sse`` takes them. Closed early, the drawing is given up."""
    # Errors are told as the current request's. Flask thinks of text alone.
    following: Iterator[Any] = _events(drawing, service)
    return stream_with_context(following)


def _events(drawing: Streamed, service: Service) -> Iterator[Event | None]:
    whose = Submission(
        drawing.prepared.drawing.num_image,
        drawing.caller,
        on_step=drawing.place.stepped,
        # Not at the last event: who reads slowly wants nothing of the device.
        on_end=drawing.place.done,
        preview_steps=drawing.preview_steps,
    )
    try:
        drawing.engine.start(drawing.prepared, drawing.caller, whose)
        for news in whose.news():
            yield None if news is None else _told(news, drawing, whose)
        yield Event(_answer(drawing, whose), "done")
    except Canceled:
        if service.stopping:
            yield _error(ShuttingDown(f"{WORDS} and did not finish the pictures"))
    except Exception as error:
        yield _error(error)
    finally:
        # Where the client is gone, its pictures take no more steps.
        whose.fail(Canceled())


def _told(news: Progress | Shown, drawing: Streamed, whose: Submission) -> Event:
    if isinstance(news, Progress):
        return Event({"done": news.done, "steps": news.steps}, "progress")
    if news.step is not None:
        told = {"index": news.index, "step": news.step, "image": preview_in_base64(news.image)}
        return Event(told, "preview")
    picture = Picture(news.image, drawing.prepared.drawing.seed + news.index)
    file = in_base64(drawing.prepared.recipe(whose), picture, drawing.picture_format)
    told = {"index": news.index, "seed": picture.seed, "format": drawing.picture_format, "image": file}
    return Event(told, "picture")


def _answer(drawing: Streamed, whose: Submission) -> dict[str, object]:
    answer = InferenceAnswer.of(
        drawing.prepared.recipe(whose),
        images=[],
        picture_format=drawing.picture_format,
        truncated_prompt=whose.truncated_prompt,
        device_seconds=whose.device_seconds,
    )
    return answer.model_dump(exclude={"images"})


def _error(error: Exception) -> Event:
    """What the same error would be answered with, had nothing been sent yet."""
    return Event(current_app.make_response(current_app.handle_user_exception(error)).get_json(), "error")
