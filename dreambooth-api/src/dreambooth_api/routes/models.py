"""``GET /models`` and ``DELETE /models/<id>``: what was trained."""

from __future__ import annotations

from enlight_common.web import documented
from flask import Blueprint, Response, jsonify

from dreambooth_api.models.artifact import Manifest, rfc3339
from dreambooth_api.routes.context import context, tenant
from dreambooth_api.schemas.models import ModelList, StoredModel

blueprint = Blueprint("models", __name__)


@blueprint.get("/models")
@documented("List the trained models", answers={200: ModelList}, tags=["models"])
def list_models() -> Response:
    """Every stored version, newest first within a model; which are in this machine's cache, and which in
    this instance's memory.
    """
    service, whose = context().service, tenant()
    engine = service.loaded_engine
    loaded = engine.loaded.sizes if engine else {}
    cached = {model.key: model for model in service.store.cached(whose)}

    def describe(manifest: Manifest) -> StoredModel:
        key = manifest.key
        entry = cached.get(key)
        return StoredModel(
            model_id=key.model_id,
            version=key.version,
            method=manifest.method,
            base=manifest.base.name,
            instance_prompt=manifest.instance_prompt,
            bytes=sum(file.size for file in manifest.files),
            created_at=manifest.created_at,
            cached=entry is not None,
            cached_bytes=entry.bytes if entry else 0,
            last_used=rfc3339(entry.last_used) if entry else None,
            pinned=entry is not None and entry.pinned,
            loaded=key in loaded,
            loaded_bytes=loaded.get(key, 0),
        )

    models = [describe(manifest) for manifest in service.store.list(whose)]
    space = service.store.cache.space
    answer = ModelList(
        base=service.base.name,
        cache_bytes=space.inventory.used_bytes(),
        cache_max_bytes=space.max_bytes,
        models=models,
    )
    return jsonify(answer.model_dump())


@blueprint.delete("/models/<model_id>")
@documented("Delete a trained model", answers={204: None}, tags=["models"])
def delete_model(model_id: str) -> tuple[str, int]:
    """Deletes all versions of the model, or the one named by `id@version`, from the store and from this
    machine's cache. Drawings that are going on finish with the version they have.
    """
    service = context().service
    for key in service.store.delete(model_id, tenant()):
        if service.loaded_engine is not None:
            service.loaded_engine.loaded.forget(key)
    return "", 204
