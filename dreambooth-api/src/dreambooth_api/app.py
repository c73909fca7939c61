"""The Flask app: the routes around one ``Service``."""

from __future__ import annotations

from enlight_common import web
from flask import Flask

from dreambooth_api.metrics import register_metrics
from dreambooth_api.routes import inference, models, train
from dreambooth_api.routes.context import Context
from dreambooth_api.service import Service
from dreambooth_api.settings import ServiceSettings


def create_app(service: Service | None = None) -> Flask:
    """The app gunicorn runs. Without *service* one is made from the environment and started."""
    if service is None:
        service = Service(ServiceSettings.from_environment())
        service.start()
    app = web.create_app(
        __name__,
        max_body_bytes=service.settings.max_body_bytes,
        ready=lambda: service.ready,
        drain=lambda: service.drain(service.settings.grace_s),
        info=web.ServiceInfo(
            title="Enlight dreambooth-api",
            description="Learns a subject from a few photos and draws it, with Stable Diffusion.",
        ),
    )
    Context(service).attach(app)
    for blueprint in (inference.blueprint, train.blueprint, models.blueprint):
        app.register_blueprint(blueprint)
    register_metrics(web.registry_of(app), service)
    return app
