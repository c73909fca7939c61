"""``GET /models`` and ``DELETE /models/<id>``: what was trained."""

from __future__ import annotations

from enlight_common.web import documented
from flask import Blueprint, Response, jsonify

from dreambooth_api.routes.context import context
from dreambooth_api.schemas.models import ModelList, StoredModel

blueprint = Blueprint("models", __name__)


@blueprint.get("/models")
@documented("List the trained models", answers={200: ModelList}, tags=["models"])
def list_models() -> Response:
    """Every stored version, newest first within a model, and which are in this instance's memory."""
    service = context().service
    engine = service.loaded_engine
    loaded = {(key.model_id, key.version) for key in engine.loaded} if engine else set()
    stored = [
        StoredModel(
            model_id=manifest.model_id,
            version=manifest.version,
            method=manifest.method,
            base=manifest.base.name,
            instance_prompt=manifest.instance_prompt,
            bytes=sum(file.size for file in manifest.files),
            created_at=manifest.created_at,
            loaded=(manifest.model_id, manifest.version) in loaded,
        )
        for manifest in service.store.list()
    ]
    return jsonify(ModelList(base=service.base.name, models=stored).model_dump())


@blueprint.delete("/models/<model_id>")
@documented("Delete a trained model", answers={204: None}, tags=["models"])
def delete_model(model_id: str) -> tuple[str, int]:
    """Deletes all versions of the model, or the one named by `id@version`."""
    context().service.store.delete(model_id)
    return "", 204
