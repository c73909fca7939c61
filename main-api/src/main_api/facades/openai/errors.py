"""Errors in OpenAI's shape."""

from __future__ import annotations

import json
import logging
import math

from enlight_common.errors import EnlightError, InvalidField, NotFound, UnknownModel
from flask import Response
from werkzeug.exceptions import HTTPException

from main_api.errors import QuotaReached, RateLimited
from main_api.facades.openai.schemas import NAMES

log = logging.getLogger(__name__)

_CODES: dict[int, str] = {401: "invalid_api_key", 429: "rate_limit_exceeded"}


def answer(error: EnlightError) -> Response:
    """Statuses as OpenAI gives them: a wrong field is a 400."""
    status = 400 if error.status == 422 else error.status
    if status >= 500 and status not in (503, 504):
        log.error("%s: %s", error.type, error.detail, exc_info=error)
    param = NAMES.get(error.field, error.field) if isinstance(error, InvalidField) else None
    message = f"{param}: {error.reason}" if isinstance(error, InvalidField) else error.detail
    response = _shaped(status, message, _type(error, status), param, _code(error, status))
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    elif status >= 500 or status == 409:
        # Their client would send the request again, and the same work would be done twice.
        response.headers["X-Should-Retry"] = "false"
    return response


def answer_http(error: HTTPException) -> Response:
    """What Flask itself refuses."""
    status = error.code or 500
    return _shaped(status, "the request cannot be read", "invalid_request_error", None, None)


def answer_unexpected(error: Exception) -> Response:
    """Everything else."""
    log.error("unexpected %s", type(error).__name__, exc_info=error)
    response = _shaped(500, "an unexpected error; the service's log tells more", "server_error", None, None)
    response.headers["X-Should-Retry"] = "false"
    return response


def _type(error: EnlightError, status: int) -> str:
    if isinstance(error, QuotaReached):
        return "insufficient_quota"
    if isinstance(error, RateLimited):
        return "requests"
    return "server_error" if status >= 500 else "invalid_request_error"


def _code(error: EnlightError, status: int) -> str | None:
    if isinstance(error, QuotaReached):
        return "insufficient_quota"
    if isinstance(error, UnknownModel):
        return "model_not_found"
    if isinstance(error, NotFound):
        return "not_found"
    return _CODES.get(status, error.type.replace("-", "_"))


def _shaped(status: int, message: str, kind: str, param: str | None, code: str | None) -> Response:
    document = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return Response(json.dumps(document) + "\n", status=status, content_type="application/json")
