"""The Flask side of every service. The only place in `enlight_common` that imports Flask."""

from enlight_common.web.body_gate import BodyGate
from enlight_common.web.factory import create_app
from enlight_common.web.logs import current_request_id, current_traceparent, log_settings
from enlight_common.web.metrics import registry_of
from enlight_common.web.openapi import Problem, ServiceInfo, documented, secured
from enlight_common.web.parsing import parse_body, parse_query, read_form
from enlight_common.web.serving import become_gunicorn, gunicorn_settings, gunicorn_settings_of, serve
from enlight_common.web.streams import (
    Event,
    LongLived,
    Slot,
    client_gone,
    last_event_id,
    preferred_wait,
    prefers_async,
    sse,
    watch_client,
)
from enlight_common.web.work import watch_work, watched

__all__ = [
    "BodyGate",
    "Event",
    "LongLived",
    "Problem",
    "ServiceInfo",
    "Slot",
    "become_gunicorn",
    "client_gone",
    "create_app",
    "current_request_id",
    "current_traceparent",
    "documented",
    "gunicorn_settings",
    "gunicorn_settings_of",
    "last_event_id",
    "log_settings",
    "parse_body",
    "parse_query",
    "preferred_wait",
    "prefers_async",
    "read_form",
    "registry_of",
    "secured",
    "serve",
    "sse",
    "watch_client",
    "watch_work",
    "watched",
]
