"""What the kept ``/upsampler`` calls have in common: who answers, and problems with a ``status`` of text."""

from __future__ import annotations

import json
from typing import Literal

from flask import Blueprint, Response
from pydantic import BaseModel

from enlight_common.web.openapi import Problem
from enlight_common.web.problems import PROBLEM_TYPE

#: All that the image services answer with, beside 499, which nobody reads.
_STATUSES = (400, 404, 408, 413, 415, 422, 500, 502, 503, 504, 507)


class Greeting(BaseModel):
    """Who answers."""

    message: str
    hostname: str


class Failure(Problem):
    """A problem document (RFC 9457) whose `status` is the text that old clients look for."""

    status: Literal["false"]  # type: ignore[assignment]


#: For `documented`, beside what a call answers when all went well.
FAILURES: dict[int, type[BaseModel]] = dict.fromkeys(_STATUSES, Failure)


def install(blueprint: Blueprint) -> None:
    """Let problems of *blueprint* say ``"status": "false"``; the number is HTTP's own."""
    blueprint.after_request(_in_words)


def _in_words(response: Response) -> Response:
    if response.mimetype == PROBLEM_TYPE:
        problem = json.loads(response.get_data())
        response.set_data(json.dumps({**problem, "status": "false"}) + "\n")
    return response
