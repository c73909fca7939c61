"""The Flask app: the routes around one ``Service``."""

from __future__ import annotations

from enlight_common import web
from flask import Flask

from realesrgan_service.metrics import register_metrics
from realesrgan_service.routes import models, upsampler
from realesrgan_service.routes.context import Context
from realesrgan_service.service import Service
from realesrgan_service.settings import ServiceSettings


def create_app(service: Service | None = None) -> Flask:
    """The app gunicorn runs. Without *service* one is made from the environment and started."""
    if service is None:
        service = Service(ServiceSettings.from_environment())
        service.start()
    app = web.create_app(
        __name__,
        max_body_bytes=service.settings.max_body_bytes,
        ready=lambda: service.loaded.ready,
        body_gate=web.BodyGate.of_threads(service.settings.threads),
        drain=lambda: service.drain(service.settings.grace_s),
        info=web.ServiceInfo(
            title="Enlight realesrgan",
            description="Enlarges pictures with Real-ESRGAN and other networks that spandrel loads.",
        ),
    )
    Context(service).attach(app)
    for blueprint in (upsampler.blueprint, models.blueprint):
        app.register_blueprint(blueprint)
    register_metrics(web.registry_of(app), service)
    return app
