"""``GET /models``: what can be asked for."""

from __future__ import annotations

from enlight_common.web import documented
from flask import Blueprint, Response, jsonify

from bgrem.routes.context import the_service
from bgrem.schemas.models import ModelList, OfferedModel

blueprint = Blueprint("models", __name__)


@blueprint.get("/models")
@documented("List the models", answers={200: ModelList}, tags=["models"])
def list_models() -> Response:
    """Every model that the installed rembg offers and that runs on this machine."""
    service = the_service()
    cutter = service.cutter.get()
    loaded = cutter.sessions.loaded
    runtime = cutter.sessions.runtime_of(service.settings.default_model)
    models = [
        OfferedModel(
            name=name,
            here=cutter.models.named(name).is_here(service.settings.weights_dir),
            loaded=[precision for known, precision in loaded if known == name],
        )
        for name in cutter.models.names
    ]
    answer = ModelList(
        default=service.settings.default_model,
        runtime=runtime.name,
        device=runtime.device,
        precisions=list(runtime.precisions),
        models=models,
    )
    return jsonify(answer.model_dump())
