"""``GET /models`` and ``DELETE /models/<id>``: what was trained; ``GET /base-model``: on what."""

from __future__ import annotations

from enlight_common.web import documented
from flask import Blueprint, Response, jsonify

from dreambooth_api.models.artifact import Manifest, rfc3339
from dreambooth_api.routes.context import context, tenant
from dreambooth_api.schemas.models import BaseModelAnswer, ModelList, StoredModel
from dreambooth_api.service import Service

blueprint = Blueprint("models", __name__)


@blueprint.get("/models")
@documented("List the trained models", answers={200: ModelList}, tags=["models"])
def list_models() -> Response:
    """Every stored version, newest first within a model; which are in this machine's cache, and which in
    this instance's memory.
    """
    here, whose = context(), tenant()
    # The store is asked for as long as that takes: without a bound a slow one would have all threads.
    with here.listings.enter("list of models"):
        return jsonify(_listed(here.service, whose).model_dump())


def _listed(service: Service, whose: str) -> ModelList:
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
    return ModelList(
        base=service.base.name,
        cache_bytes=space.inventory.used_bytes(),
        cache_max_bytes=space.max_bytes,
        models=models,
    )


@blueprint.get("/base-model")
@documented("Tell the base model", answers={200: BaseModelAnswer}, tags=["models"])
def show_base() -> Response:
    """What this instance draws with and trains on. The store is not asked."""
    base = context().service.base
    return jsonify(BaseModelAnswer(name=base.name, revision=base.revision).model_dump())


@blueprint.delete("/models/<model_id>")
@documented("Delete a trained model", answers={204: None}, tags=["models"])
def delete_model(model_id: str) -> tuple[str, int]:
    """Deletes all versions of the model, or the one named by `id@version`, from the store and from this
    machine's cache. Drawings that are going on finish with the version they have.
    """
    here, whose = context(), tenant()
    with here.listings.enter("deletion"):
        delete(here.service, model_id, whose)
    return "", 204


def delete(service: Service, model_id: str, whose: str) -> None:
    """As `ModelStore.delete`, also from this instance's memory."""
    for key in service.store.delete(model_id, whose):
        if service.loaded_engine is not None:
            service.loaded_engine.loaded.forget(key)
