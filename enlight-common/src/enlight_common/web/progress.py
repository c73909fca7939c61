"""What ``GET /progress/<X-Request-Id>`` answers, in every service whose work takes long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from flask import Blueprint, Response, jsonify
from pydantic import BaseModel, Field

from enlight_common.errors import NotFound
from enlight_common.ids import is_request_id
from enlight_common.progress import Progresses
from enlight_common.web.kept_status import FAILURES
from enlight_common.web.openapi import documented


class Progress(BaseModel):
    """How far the picture of a request is."""

    request_id: str
    state: Literal["waiting", "upscaling"]
    done: float = Field(description="Share of the work, 0 to 1")
    seconds_left: float = Field(description="Estimated")


def install(blueprint: Blueprint, progresses: Callable[[], Progresses]) -> None:
    """Let *blueprint*, whose problems are those of `kept_status`, tell of the requests in *progresses*."""

    @blueprint.get("/progress/<request_id>")
    @documented("How far a picture is", answers={200: Progress, **FAILURES}, tags=["upsampler"])
    def progress(request_id: str) -> Response:
        """Tells of the picture whose request had this `X-Request-Id`; 404 before it came and once it is
        done.
        """
        return _answer(progresses(), request_id)


def _answer(progresses: Progresses, request_id: str) -> Response:
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
