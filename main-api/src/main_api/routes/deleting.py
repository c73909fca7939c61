"""Deleting uploads, and what a job was given and has made."""

from __future__ import annotations

from enlight_common.errors import Conflict, NotFound
from enlight_common.ids import check_id
from enlight_common.web import current_request_id, documented
from flask import Blueprint

from main_api.ids import step_id
from main_api.records.database import Document
from main_api.routes.authorization import caller, requires
from main_api.routes.context import context
from main_api.routes.jobs import job_of_caller
from main_api.storage import upload_key

blueprint = Blueprint("deleting", __name__)


@blueprint.delete("/v1/uploads/<upload_id>")
@requires("train", "generate")
@documented("Delete an upload", answers={204: None}, tags=["uploads"])
def delete_upload(upload_id: str) -> tuple[str, int]:
    """409 while a job that has not ended needs it."""
    key = upload_key(caller().tenant, check_id(upload_id, "upload_id"))
    found = context().service.records.objects.get(key)
    if found is None:
        raise NotFound("there is no upload of this id")
    _remove([found])
    _note("upload.delete", upload_id)
    return "", 204


@blueprint.delete("/v1/jobs/<job_id>/pictures")
@requires("train", "generate")
@documented("Delete a job's pictures", answers={204: None}, tags=["jobs"])
def delete_pictures(job_id: str) -> tuple[str, int]:
    """Those it has made, in every step of a chain, and those that were sent with it. The job's record stays,
    and so does a model. 409 before the job has ended, and while another one needs them.
    """
    job = job_of_caller(job_id)
    if not job.terminal:
        raise Conflict("the job has not ended")
    ids = [job.id, *(step_id(job.id, index) for index in range(len(job.steps)))]
    _remove(context().service.records.objects.find({"job_id": {"$in": ids}}))
    _note("job.delete-pictures", job.id)
    return "", 204


def _remove(objects: list[Document]) -> None:
    service, tenant = context().service, caller().tenant
    if {one["_id"] for one in objects} & service.records.jobs.needed_files(tenant):
        raise Conflict("a job that has not ended needs it")
    service.removal.remove(objects)
    service.quotas.forget_bytes(tenant)


def _note(action: str, target: str) -> None:
    context().service.records.audit.record(
        action, tenant=caller().tenant, actor=caller().actor, target=target, request_id=current_request_id()
    )
