"""``/replicate/v1``: models, files, the account and the webhook secret."""

from __future__ import annotations

from typing import Any

from enlight_common.errors import InvalidField, NotFound
from enlight_common.ids import check_id
from enlight_common.images import DEFAULT_BOUNDS
from enlight_common.web import documented, parse_body, parse_query, read_form
from flask import Blueprint, Response, request

from main_api.clock import rfc3339
from main_api.facades.replicate.answers import Account, File, Model, Page, Version
from main_api.facades.replicate.pages import answer_page, models_of_caller, page_url
from main_api.facades.replicate.schemas import NewModelBody
from main_api.facades.replicate.shapes import PREFIX
from main_api.ids import new_id
from main_api.jobs.pictures import inline
from main_api.routes.answers import private_json
from main_api.routes.authorization import caller, requires
from main_api.routes.context import context, submits
from main_api.routes.paging import page_of
from main_api.routes.uploads import note_upload
from main_api.schemas.deliveries import WebhookSecret
from main_api.schemas.models import PageQuery
from main_api.storage import upload_key

blueprint = Blueprint("replicate_models", __name__, url_prefix=PREFIX)
_TAGS = ["replicate"]


@blueprint.get("/models")
@requires("read")
@documented("List models", answers={200: Page}, tags=_TAGS, query=PageQuery)
def listmodels_of_caller() -> Response:
    """The tenant's, by their ids."""
    wanted = parse_query(PageQuery)
    records = context().service.records.models
    found = records.page(caller().tenant, wanted.cursor, wanted.limit + 1)
    page, following = page_of(found, wanted.limit, lambda one: str(one["model_id"]))
    models = models_of_caller()
    return answer_page([models.of_record(one) for one in page], page_url("models", following))


@blueprint.post("/models")
@requires("train")
@documented("Name a model", body=NewModelBody, answers={201: Model}, tags=_TAGS)
def create_model() -> tuple[Response, int]:
    """Nothing is kept of it until it was trained; it is there so that clients can ask before they train."""
    body = parse_body(NewModelBody)
    models = models_of_caller()
    models.check_owner(body.owner, "owner")
    return private_json(models.shape(body.owner, body.name, body.description, None)), 201


@blueprint.get("/models/<owner>/<name>")
@requires("read")
@documented("Read a model", answers={200: Model}, tags=_TAGS)
def read_model(owner: str, name: str) -> Response:
    """With its newest version."""
    return private_json(models_of_caller().shown_model(owner, name))


@blueprint.get("/models/<owner>/<name>/versions")
@requires("read")
@documented("List a model's versions", answers={200: Page}, tags=_TAGS)
def list_versions(owner: str, name: str) -> Response:
    """Newest first."""
    return answer_page(models_of_caller().versions(owner, name), None)


@blueprint.get("/models/<owner>/<name>/versions/<version>")
@requires("read")
@documented("Read a version", answers={200: Version}, tags=_TAGS)
def read_version(owner: str, name: str, version: str) -> Response:
    """With the schema of a prediction's input."""
    return private_json(models_of_caller().shown_version(owner, name, version))


@blueprint.post("/files")
@submits
@requires("train", "generate")
@documented("Upload a picture", body=None, answers={201: File}, tags=_TAGS)
def create_file() -> tuple[Response, int]:
    """A form with the picture as part `content`; its `urls.get` is then given as an input."""
    here = context()
    here.service.check_open()
    with here.submitting():
        read_form()
        parts = request.files.getlist("content")
        if len(parts) != 1:
            raise InvalidField("content", "must be one part of the form")
        picture = inline(parts[0].read(DEFAULT_BOUNDS.max_bytes + 1), "content")
        here.service.quotas.check_bytes(caller(), picture.size)
        file_id = new_id()
        keyed = [(picture, upload_key(caller().tenant, file_id))]
        here.service.sources.store(caller().tenant, keyed, "upload")
        note_upload(file_id)
    return private_json(_shown_file(file_id)), 201


@blueprint.get("/files/<file_id>")
@requires("train", "generate")
@documented("Read about a file", answers={200: File}, tags=_TAGS)
def read_file(file_id: str) -> Response:
    """Not the file itself."""
    return private_json(_shown_file(check_id(file_id, "file_id")))


@blueprint.get("/account")
@requires("read")
@documented("Whose the key is", answers={200: Account}, tags=_TAGS)
def read_account() -> Response:
    """The key's tenant."""
    tenant = caller().tenant
    return private_json({"type": "organization", "username": tenant, "name": tenant, "github_url": None})


@blueprint.get("/webhooks/default/secret")
@requires("admin")
@documented("Read the webhook secret", answers={200: WebhookSecret}, tags=_TAGS)
def read_webhook_secret() -> Response:
    """The same as at `/v1/webhooks/secret`."""
    return private_json({"key": context().service.webhooks.secrets.of(caller().tenant)})


def _shown_file(file_id: str) -> dict[str, Any]:
    service = context().service
    found = service.records.objects.get(upload_key(caller().tenant, file_id))
    if found is None or found["state"] != "stored":
        raise NotFound("there is no file of this id")
    digest = found["sha256"] or ""
    return {
        "id": file_id,
        "name": file_id,
        "content_type": "application/octet-stream",
        "size": found["size"],
        "etag": digest,
        "checksums": {"sha256": digest},
        "metadata": {},
        "created_at": rfc3339(found["created_at"]),
        "expires_at": None,
        "urls": {"get": f"{service.settings.public_url.rstrip('/')}{PREFIX}/files/{file_id}"},
    }
