"""The Flask app: the routes around one ``Service``."""

from __future__ import annotations

from enlight_common import web
from flask import Flask

from bgrem.metrics import register_metrics
from bgrem.routes import models, remove
from bgrem.routes.context import attach
from bgrem.service import Service
from bgrem.settings import ServiceSettings


def create_app(service: Service | None = None) -> Flask:
    """The app gunicorn runs. Without *service* one is made from the environment and started."""
    if service is None:
        service = Service(ServiceSettings.from_environment())
        service.start()
    app = web.create_app(
        __name__,
        max_body_bytes=service.settings.max_body_bytes,
        body_gate=web.BodyGate.of_threads(service.settings.threads),
        ready=lambda: service.cutter.ready,
        drain=lambda: service.drain(service.settings.grace_s),
        info=web.ServiceInfo(
            title="Enlight bgrem", description="Cuts the subject of a photo out, with the models of rembg."
        ),
    )
    attach(app, service)
    for blueprint in (remove.blueprint, models.blueprint):
        app.register_blueprint(blueprint)
    register_metrics(web.registry_of(app), service)
    return app
