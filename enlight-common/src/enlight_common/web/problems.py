"""Errors as RFC 9457 problem documents: the one place where an exception becomes HTTP."""

from __future__ import annotations

import json
import logging
import math

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from enlight_common.errors import EnlightError, InternalError, PayloadTooLarge
from enlight_common.web.logs import current_request_id

PROBLEM_TYPE = "application/problem+json"
_log = logging.getLogger(__name__)

_HTTP_DETAILS = {
    400: "the request cannot be read",
    404: "there is nothing at this address",
    405: "this address does not take this method",
    413: "the request body is too large",
    415: "the request body is of another media type",
}


def install(app: Flask) -> None:
    """Answer every error of `app`, Flask's own included, as a problem document."""
    app.register_error_handler(EnlightError, answer)
    app.register_error_handler(HTTPException, _answer_http)
    app.register_error_handler(Exception, _answer_unexpected)


def answer(error: EnlightError) -> Response:
    """The response for one of our errors, with `Retry-After` in whole seconds where it has one."""
    if error.status >= 500 and error.status not in (503, 504):
        _log.error("%s: %s", error.type, error.detail, exc_info=error)
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    return _problem(error.status, error.type, error.title, error.detail, error.extra, headers)


def _answer_http(error: HTTPException) -> Response:
    if error.code == PayloadTooLarge.status:
        return answer(PayloadTooLarge(_HTTP_DETAILS[413]))
    if error.code is None or error.code < 400:
        return Response(error.get_response().get_data(), status=error.code, headers=error.get_headers())
    status = error.code
    title = error.name
    # werkzeug's description may hold parts of the request; ours never does.
    detail = _HTTP_DETAILS.get(status, title.lower())
    kept = {name: value for name, value in error.get_headers() if name in ("Allow", "Retry-After")}
    return _problem(status, title.lower().replace(" ", "-"), title, detail, {}, kept)


def _answer_unexpected(error: Exception) -> Response:
    _log.error("unexpected %s", type(error).__name__, exc_info=error)
    hidden = InternalError("an unexpected error; the service's log tells more under this request id")
    return _problem(hidden.status, hidden.type, hidden.title, hidden.detail, {}, {})


def _problem(
    status: int, kind: str, title: str, detail: str, extra: dict[str, object], headers: dict[str, str]
) -> Response:
    document = {
        **extra,
        "type": f"/problems/{kind}",
        "title": title,
        "status": status,
        "detail": detail,
        "message": detail,
        "instance": request.path,
        "request_id": current_request_id(),
    }
    body = json.dumps(document, allow_nan=False) + "\n"
    return Response(body, status=status, headers=headers, content_type=PROBLEM_TYPE)
