"""The Flask app that every service starts from."""

from __future__ import annotations

from collections.abc import Callable

from flask import Flask

from enlight_common.web import api_page, health, logs, metrics, openapi, problems
from enlight_common.web.body_gate import BodyGate
from enlight_common.web.draining import DRAIN
from enlight_common.web.health import Ready
from enlight_common.web.openapi import ServiceInfo
from enlight_common.web.parsing import BODY_GATE


def create_app(
    name: str,
    *,
    max_body_bytes: int,
    ready: Ready,
    info: ServiceInfo | None = None,
    body_seconds: float = 60.0,
    body_gate: BodyGate | None = None,
    drain: Callable[[], None] = lambda: None,
) -> Flask:
    """An app with problem documents for errors, request ids, JSON access logs, `/healthz`, `/readyz`,
    `/metrics`, `/openapi.json` and `/docs`. `name` is the importing module's `__name__`.

    `max_body_bytes` bounds every body: a longer one is refused with 413. `body_seconds` is how long one may
    take to arrive (408); nginx hands over whole bodies, so this is for clients that come without it.
    `body_gate` bounds how many bodies arrive at the same time (503); without one only the threads do.
    `drain` is called on SIGTERM, while requests are still answered: it says no to new work and returns when
    the process may leave.
    """
    app = Flask(name, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = max_body_bytes
    app.config["BODY_SECONDS"] = body_seconds
    app.extensions[DRAIN] = drain
    if body_gate is not None:
        app.extensions[BODY_GATE] = body_gate
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.url_map.strict_slashes = False
    logs.install(app)
    metrics.install(app)
    problems.install(app)
    health.install(app, ready)
    openapi.install(app, info or ServiceInfo(title=name))
    api_page.install(app)
    return app
