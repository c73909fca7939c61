"""Structured logs on stderr: one JSON object a line, with the request they belong to."""

from __future__ import annotations

import logging
import sys
import time
from contextvars import ContextVar
from typing import Any

from flask import Flask, Response, g, request
from pythonjsonlogger.json import JsonFormatter

from enlight_common.ids import is_request_id, new_request_id

_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
_traceparent: ContextVar[str | None] = ContextVar("traceparent", default=None)

_access = logging.getLogger("enlight.access")
QUIET_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
_TRACEPARENT_LENGTH = 55


def current_request_id() -> str | None:
    """The id of the request that this thread serves."""
    return _request_id.get()


def current_traceparent() -> str | None:
    """The W3C trace context that came with the request that this thread serves."""
    return _traceparent.get()


class _RequestFields(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in (("request_id", _request_id.get()), ("traceparent", _traceparent.get())):
            if value is not None and not hasattr(record, name):
                setattr(record, name, value)
        return True


class _Formatter(JsonFormatter):
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        names = {"asctime": "time", "levelname": "level", "name": "logger", "exc_info": "traceback"}
        super().__init__(["asctime", "levelname", "name", "message"], rename_fields=names)
        self.converter = time.gmtime


def log_settings(level: str = "INFO") -> dict[str, Any]:
    """Settings for `logging.config.dictConfig`, gunicorn's `logconfig_dict` among them."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"request": {"()": _RequestFields}},
        "formatters": {"json": {"()": _Formatter}},
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "stream": sys.stderr,
                "formatter": "json",
                "filters": ["request"],
            }
        },
        "root": {"level": level, "handlers": ["stderr"]},
        "loggers": {
            "gunicorn.error": {"level": level, "handlers": [], "propagate": True},
            "gunicorn.access": {"level": "WARNING", "handlers": [], "propagate": True},
        },
    }


def install(app: Flask) -> None:
    """Give each request its id (the caller's `X-Request-Id` if fit, else a new one) and one access line."""
    app.before_request(_begin)
    app.after_request(_end)


def _begin() -> None:
    offered = request.headers.get("X-Request-Id", "")
    _request_id.set(offered if is_request_id(offered) else new_request_id())
    traceparent = request.headers.get("traceparent", "")
    _traceparent.set(
        traceparent if len(traceparent) == _TRACEPARENT_LENGTH and traceparent.isascii() else None
    )
    g.began_at = time.monotonic()


def _end(response: Response) -> Response:
    request_id = _request_id.get()
    if request_id is not None:
        response.headers["X-Request-Id"] = request_id
    fields = {
        "method": request.method,
        "route": route_of_request(),
        "path": request.path[:200],
        "status": response.status_code,
        "request_id": request_id,
        "traceparent": _traceparent.get(),
    }
    began_at = g.get("began_at", time.monotonic())
    level = logging.DEBUG if request.path in QUIET_PATHS else logging.INFO

    def log_line() -> None:
        fields["seconds"] = round(time.monotonic() - began_at, 4)
        _access.log(level, "request", extra=fields)

    # A stream is still being written after this; the line is for the whole of it.
    response.call_on_close(log_line)
    return response


def route_of_request() -> str:
    """The URL rule that matched, never the raw path: paths are endless, and label values must not be."""
    return request.url_rule.rule if request.url_rule is not None else "(none)"
