"""What ``GET /progress/<X-Request-Id>`` answers, in every service whose work takes long."""

from __future__ import annotations

from typing import Literal

from flask import Response, jsonify
from pydantic import BaseModel, Field

from enlight_common.errors import NotFound
from enlight_common.ids import is_request_id
from enlight_common.progress import Progresses


class Progress(BaseModel):
    """How far the picture of a request is."""

    request_id: str
    state: Literal["waiting", "upscaling"]
    done: float = Field(description="Share of the work, 0 to 1")
    seconds_left: float = Field(description="Estimated")


def answer_progress(progresses: Progresses, request_id: str) -> Response:
    """The progress of the request with this id. Raises NotFound before it came and when it is done."""
    told = progresses.of(request_id) if is_request_id(request_id) else None
    if told is None:
        raise NotFound("no picture of such a request is being enlarged")
    answer = Progress(
        request_id=request_id,
        state="upscaling" if told.running else "waiting",
        done=round(told.done, 4),
        seconds_left=round(told.seconds_left, 1),
    )
    return jsonify(answer.model_dump())
