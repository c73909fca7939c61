"""``/v1/models``: what was trained."""

from __future__ import annotations

from typing import Any

from enlight_common.errors import Conflict, UnknownModel
from enlight_common.ids import check_id
from enlight_common.web import current_request_id, documented, parse_body, parse_query
from flask import Blueprint, Response

from main_api.clock import rfc3339
from main_api.model_catalog import MANIFEST, prefix_of
from main_api.records.models import AVAILABLE, DELETING
from main_api.routes.answers import private_json
from main_api.routes.authorization import caller, requires
from main_api.routes.context import context
from main_api.routes.paging import page_of
from main_api.schemas.models import (
    Download,
    ModelPage,
    PageQuery,
    RenameBody,
    ShownModel,
    VersionQuery,
)

blueprint = Blueprint("models", __name__)
_ROUNDS = 20


@blueprint.get("/v1/models")
@requires("read")
@documented("List models", answers={200: ModelPage}, tags=["models"], query=PageQuery)
def list_models() -> Response:
    """The tenant's models, in the order of their ids."""
    wanted = parse_query(PageQuery)
    found = context().service.records.models.page(caller().tenant, wanted.cursor, wanted.limit + 1)
    page, following = page_of(found, wanted.limit, lambda one: str(one["model_id"]))
    return private_json({"models": [_shown(one) for one in page], "next": following})


@blueprint.get("/v1/models/<model_id>")
@requires("read")
@documented("Read a model", answers={200: ShownModel}, tags=["models"])
def read_model(model_id: str) -> Response:
    """Its versions, and what it was trained on."""
    return private_json(_shown(_model(model_id)))


@blueprint.patch("/v1/models/<model_id>")
@requires("train")
@documented("Rename a model", body=RenameBody, answers={200: ShownModel}, tags=["models"])
def rename_model(model_id: str) -> Response:
    """Changes the name that people see; jobs go on naming its `model_id`."""
    name = parse_body(RenameBody).name
    changed = _change(model_id, {"name": name})
    _note("model.rename", model_id)
    return private_json(_shown(changed))


@blueprint.delete("/v1/models/<model_id>")
@requires("train")
@documented("Delete a model", answers={202: None}, tags=["models"])
def delete_model(model_id: str) -> tuple[str, int]:
    """Nobody draws with it from now on. Its weights, its training photos and the pictures made with it are
    removed in the background.
    """
    _change(model_id, {"state": DELETING})
    _note("model.delete", model_id)
    context().service.hooks.model_deleting(caller().tenant, model_id)
    return "", 202


@blueprint.get("/v1/models/<model_id>/download")
@requires("read")
@documented("Download a model", answers={200: Download}, tags=["models"], query=VersionQuery)
def download_model(model_id: str) -> Response:
    """Signed URLs of the files of a version, in the layout that diffusers reads."""
    version = parse_query(VersionQuery).version
    model = _model(model_id)
    service = context().service
    versions = [one["version"] for one in model["versions"]]
    chosen = version or versions[-1]
    if chosen not in versions:
        raise UnknownModel("the model has no such version")
    manifest = service.catalog.manifest(caller().tenant, model_id, chosen)
    prefix = f"{prefix_of(caller().tenant, model_id)}{chosen}/"
    files = [
        {
            "path": one["path"],
            "size": one["size"],
            "sha256": one["sha256"],
            "url": service.models.url(prefix + one["path"]),
        }
        for one in manifest["files"]
        if one["path"] != MANIFEST
    ]
    return private_json({"model_id": model_id, "version": chosen, "files": files})


def _model(model_id: str) -> dict[str, Any]:
    return context().service.catalog.get(caller().tenant, check_id(model_id, "model_id"))


def _change(model_id: str, values: dict[str, Any]) -> dict[str, Any]:
    service, tenant = context().service, caller().tenant
    _model(model_id)
    for _ in range(_ROUNDS):
        found = service.records.models.get(tenant, model_id)
        if found is None or found["state"] != AVAILABLE:
            raise UnknownModel("there is no model of this id")
        changed = service.records.models.change(found, values)
        if changed is not None:
            service.catalog.forget(tenant, model_id)
            return changed
    raise Conflict("the model is being changed by others")


def _note(action: str, model_id: str) -> None:
    context().service.records.audit.record(
        action,
        tenant=caller().tenant,
        actor=caller().actor,
        target=model_id,
        request_id=current_request_id(),
    )


def _shown(model: dict[str, Any]) -> dict[str, Any]:
    versions = [
        {
            "version": one["version"],
            "method": one.get("method"),
            "base_model": one.get("base_model"),
            "bytes": one.get("bytes", 0),
            "job_id": one.get("job_id"),
            "created_at": rfc3339(one["created_at"]),
        }
        for one in model["versions"]
    ]
    return {
        "model_id": model["model_id"],
        "name": model["name"],
        "base_model": model["base_model"],
        "instance_prompt": model["instance_prompt"],
        "versions": versions,
        "created_at": rfc3339(model["created_at"]),
        "updated_at": rfc3339(model["updated_at"]),
    }
