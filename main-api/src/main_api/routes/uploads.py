"""``POST /v1/uploads``: pictures sent once, to be named in requests."""

from __future__ import annotations

from enlight_common.errors import InvalidField
from enlight_common.images import DEFAULT_BOUNDS, decode_base64
from enlight_common.web import current_request_id, documented, parse_body, read_form
from flask import Blueprint, Response, request

from main_api.ids import new_id
from main_api.jobs.pictures import Picture, inline
from main_api.records.objects import object_document
from main_api.routes.answers import private_json
from main_api.routes.authorization import caller, requires
from main_api.routes.context import context, submits
from main_api.schemas.uploads import UploadBody, Uploads
from main_api.storage import upload_key

blueprint = Blueprint("uploads", __name__)
_MAX_FILES = 64
_MULTIPART = {
    "type": "object",
    "properties": {"file": {"type": "array", "items": {"type": "string", "format": "binary"}}},
    "required": ["file"],
}


@blueprint.post("/v1/uploads")
@submits
@requires("train", "generate")
@documented(
    "Upload pictures",
    body=UploadBody,
    answers={201: Uploads},
    tags=["uploads"],
    other_bodies={"multipart/form-data": _MULTIPART},
)
def upload() -> tuple[Response, int]:
    """One picture in base64, several as parts `file` of a multipart form, or a signed URL to put one to."""
    here = context()
    here.service.check_open()
    with here.submitting():
        if request.mimetype == "multipart/form-data":
            return _stored(_parts())
        body = parse_body(UploadBody)
        body.check_together()
        if body.data is not None:
            data = decode_base64(body.data, "data", DEFAULT_BOUNDS.max_bytes)
            return _stored([inline(data, "data")])
        return _announced(body.size or 0)


def note_upload(upload_id: str) -> None:
    """Take down who made it, or may put it from now on."""
    context().service.records.audit.record(
        "upload.create",
        tenant=caller().tenant,
        actor=caller().actor,
        target=upload_id,
        request_id=current_request_id(),
    )


def _parts() -> list[Picture]:
    read_form()
    files = request.files.getlist("file")
    if not 1 <= len(files) <= _MAX_FILES:
        raise InvalidField("file", f"must be 1 to {_MAX_FILES} parts of the form")
    most = DEFAULT_BOUNDS.max_bytes + 1
    return [inline(file.read(most), f"file[{index}]") for index, file in enumerate(files)]


def _stored(pictures: list[Picture]) -> tuple[Response, int]:
    service, tenant = context().service, caller().tenant
    service.quotas.check_bytes(caller(), sum(one.size for one in pictures))
    ids = [new_id() for _ in pictures]
    keyed = [(one, upload_key(tenant, upload_id)) for one, upload_id in zip(pictures, ids, strict=True)]
    service.sources.store(tenant, keyed, "upload")
    for upload_id in ids:
        note_upload(upload_id)
    shown = [
        {"id": upload_id, "size": one.size, "source": f"upload:{upload_id}", "put_url": None}
        for one, upload_id in zip(pictures, ids, strict=True)
    ]
    return private_json({"uploads": shown}), 201


def _announced(size: int) -> tuple[Response, int]:
    service, tenant = context().service, caller().tenant
    service.quotas.check_bytes(caller(), size)
    upload_id = new_id()
    key = upload_key(tenant, upload_id)
    url = service.pictures.upload_url(key)
    service.records.objects.announce([object_document(key, tenant, "upload", size=size)])
    note_upload(upload_id)
    shown = {"id": upload_id, "size": size, "source": f"upload:{upload_id}", "put_url": url}
    return private_json({"uploads": [shown]}), 201
