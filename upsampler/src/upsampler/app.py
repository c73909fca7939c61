"""The Flask app: the routes around one ``Service``."""

from __future__ import annotations

from enlight_common import web
from flask import Flask

from upsampler.metrics import register_metrics
from upsampler.routes import upsampler
from upsampler.routes.context import Context
from upsampler.service import Service
from upsampler.settings import UpsamplerSettings


def create_app(service: Service | None = None) -> Flask:
    """The app gunicorn runs. Without *service* one is made from the environment and started."""
    if service is None:
        service = Service(UpsamplerSettings.from_environment())
        service.start()
    app = web.create_app(
        __name__,
        max_body_bytes=service.settings.max_body_bytes,
        ready=lambda: service.loaded.ready,
        body_gate=web.BodyGate.of_threads(service.settings.threads),
        drain=lambda: service.drain(service.settings.grace_s),
        info=web.ServiceInfo(
            title="Enlight upsampler",
            description="Enlarges pictures with Stable Diffusion x4 or Swin2SR.",
        ),
    )
    Context(service).attach(app)
    app.register_blueprint(upsampler.blueprint)
    register_metrics(web.registry_of(app), service)
    return app
