"""The Flask app that every service starts from."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Flask

from enlight_common.web import health, logs, metrics, openapi, problems
from enlight_common.web.health import Ready


@dataclass(frozen=True)
class ServiceInfo:
    """What the API's document says about the service."""

    title: str
    version: str = "0.1.0"
    description: str = ""


def create_app(name: str, *, max_body_bytes: int, ready: Ready, info: ServiceInfo | None = None) -> Flask:
    """An app with problem documents for errors, request ids, JSON access logs, `/healthz`, `/readyz`,
    `/metrics`, `/openapi.json` and `/docs`. `name` is the importing module's `__name__`.

    `max_body_bytes` bounds every body: a longer one is refused with 413.
    """
    app = Flask(name, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = max_body_bytes
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.url_map.strict_slashes = False
    logs.install(app)
    metrics.install(app)
    problems.install(app)
    health.install(app, ready)
    openapi.install(app, info or ServiceInfo(title=name))
    return app
