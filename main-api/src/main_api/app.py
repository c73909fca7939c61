"""The Flask app: the routes around one ``Service``."""

from __future__ import annotations

from enlight_common import web
from flask import Flask

from main_api.background.wiring import tell_background
from main_api.facades.kept import routes as kept
from main_api.facades.openai import routes as openai
from main_api.facades.replicate import model_routes as replicate_models
from main_api.facades.replicate import routes as replicate
from main_api.metrics import register_metrics
from main_api.routes import (
    claims,
    deleting,
    deliveries,
    jobs,
    models,
    photo_sets,
    submissions,
    tenant,
    uploads,
)
from main_api.routes.authorization import SECURITY_SCHEMES
from main_api.routes.background import attach_messages
from main_api.routes.context import Context
from main_api.routes.objects import register_objects
from main_api.service import Service
from main_api.settings import MainApiSettings

#: For what has changed last, on SIGTERM; the sweep finds what is not told of. Seconds.
_LAST_MESSAGES_S = 1.0
_DESCRIPTION = "Learns a subject from a few photos and draws it: jobs, models and pictures, behind keys."


def create_app(service: Service | None = None) -> Flask:
    """The app gunicorn runs. Without *service* one is made from the environment and started."""
    if service is None:
        service = Service(MainApiSettings.from_environment())
        service.start()
    messages = tell_background(service)

    def drain() -> None:
        service.drain(service.settings.grace_s)
        messages.stop(_LAST_MESSAGES_S)

    app = web.create_app(
        __name__,
        max_body_bytes=service.settings.max_body_bytes,
        ready=lambda: service.readiness,
        body_gate=web.BodyGate.of_threads(service.settings.threads),
        drain=drain,
        info=web.ServiceInfo(title="Enlight", description=_DESCRIPTION, security_schemes=SECURITY_SCHEMES),
    )
    here = Context(service)
    here.attach(app)
    attach_messages(app, messages)
    for module in (submissions, jobs, uploads, deleting, photo_sets, models, tenant, deliveries, claims):
        app.register_blueprint(module.blueprint)
    for module in (kept, openai, replicate, replicate_models):
        app.register_blueprint(module.blueprint)
    app.register_blueprint(kept.upsampler)
    register_objects(app, here)
    register_metrics(web.registry_of(app), service)
    return app
