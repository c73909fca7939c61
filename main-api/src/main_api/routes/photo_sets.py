"""``/v1/photo-sets``: photos of a subject, for as many trainings as are wanted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from enlight_common.errors import NotFound
from enlight_common.ids import check_id
from enlight_common.web import current_request_id, documented, parse_body, parse_query
from flask import Blueprint, Response

from main_api.clock import now_ms, rfc3339
from main_api.ids import new_id
from main_api.routes.answers import private_json
from main_api.routes.authorization import caller, requires
from main_api.routes.context import context, submits
from main_api.routes.paging import after_cursor, page_of
from main_api.schemas.models import PageQuery
from main_api.schemas.uploads import PhotoSetBody, PhotoSetPage, ShownPhotoSet
from main_api.storage import photo_key

blueprint = Blueprint("photo_sets", __name__)
#: Bytes of a picture that a job has made.
_MOST = 100_000_000


@blueprint.post("/v1/photo-sets")
@submits
@requires("train")
@documented("Make a photo set", body=PhotoSetBody, answers={201: ShownPhotoSet}, tags=["photo sets"])
def make_photo_set() -> tuple[Response, int]:
    """Its photos are the set's own: of named uploads and pictures it has copies."""
    here = context()
    service, tenant = here.service, caller().tenant
    service.check_open()
    with here.submitting():
        body = parse_body(PhotoSetBody)
        sources = [(f"photos[{index}]", one) for index, one in enumerate(body.photos)]
        pictures = service.sources.check(tenant, sources)
        service.quotas.check_bytes(caller(), sum(one.size for one in pictures))
        set_id = new_id()
        keys = [photo_key(tenant, set_id, index) for index in range(len(pictures))]
        for one, key in zip(pictures, keys, strict=True):
            if one.key is not None:
                one = replace(one, key=None, data=service.pictures.read(one.key, _MOST))
            service.sources.store(tenant, [(one, key)], "photo", photo_set=set_id, models=one.models)
        photos = [
            {"key": key, "size": one.size, "sha256": one.sha256}
            for key, one in zip(keys, pictures, strict=True)
        ]
        document = {
            "_id": set_id,
            "tenant": tenant,
            "name": body.name,
            "photos": photos,
            "created_at": now_ms(),
        }
        service.records.photo_sets.insert(document)
    _note("photo-set.create", set_id)
    return private_json(_shown(document)), 201


@blueprint.get("/v1/photo-sets")
@requires("read")
@documented("List photo sets", answers={200: PhotoSetPage}, tags=["photo sets"], query=PageQuery)
def list_photo_sets() -> Response:
    """The tenant's photo sets, newest first."""
    wanted = parse_query(PageQuery)
    query = {"tenant": caller().tenant, **after_cursor(wanted.cursor)}
    found = context().service.records.photo_sets.page(query, wanted.limit + 1)
    page, following = page_of(found, wanted.limit, lambda one: str(one["_id"]))
    return private_json({"photo_sets": [_shown(one) for one in page], "next": following})


@blueprint.get("/v1/photo-sets/<set_id>")
@requires("read")
@documented("Read a photo set", answers={200: ShownPhotoSet}, tags=["photo sets"])
def read_photo_set(set_id: str) -> Response:
    """Its photos by signed URL."""
    return private_json(_shown(_photo_set(set_id)))


@blueprint.delete("/v1/photo-sets/<set_id>")
@requires("train")
@documented("Delete a photo set", answers={204: None}, tags=["photo sets"])
def delete_photo_set(set_id: str) -> tuple[str, int]:
    """The photos that are its own are deleted, too; trainings that wait for them fail."""
    found = _photo_set(set_id)
    service = context().service
    service.records.photo_sets.delete(caller().tenant, set_id)
    own = photo_key(caller().tenant, set_id, 0).rpartition("/")[0] + "/"
    for photo in found["photos"]:
        if photo["key"].startswith(own):
            service.pictures.store.delete(photo["key"])
            service.records.objects.forget(photo["key"])
    _note("photo-set.delete", set_id)
    return "", 204


def _photo_set(set_id: str) -> dict[str, Any]:
    found = context().service.records.photo_sets.get(caller().tenant, check_id(set_id, "set_id"))
    if found is None:
        raise NotFound("there is no photo set of this id")
    return found


def _note(action: str, set_id: str) -> None:
    context().service.records.audit.record(
        action, tenant=caller().tenant, actor=caller().actor, target=set_id, request_id=current_request_id()
    )


def _shown(document: dict[str, Any]) -> dict[str, Any]:
    pictures = context().service.pictures
    photos = [
        {
            "size": one["size"],
            "sha256": one["sha256"],
            "url": pictures.url(one["key"]),
        }
        for one in document["photos"]
    ]
    return {
        "id": document["_id"],
        "name": document["name"],
        "photos": photos,
        "created_at": rfc3339(document["created_at"]),
    }
