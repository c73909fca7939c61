"""Webhooks: what was sent for a job, sending it again, and the secret that receivers check it with."""

from __future__ import annotations

from typing import Any

from enlight_common.errors import Conflict, NotFound
from enlight_common.ids import check_id
from enlight_common.web import current_request_id, documented
from flask import Blueprint, Response

from main_api.clock import rfc3339
from main_api.records.database import Document
from main_api.records.deliveries import PENDING
from main_api.routes.answers import private_json
from main_api.routes.authorization import caller, requires
from main_api.routes.background import messages
from main_api.routes.context import context
from main_api.routes.jobs import job_of_caller
from main_api.schemas.deliveries import DeliveryList, ShownDelivery, WebhookSecret

blueprint = Blueprint("deliveries", __name__)
_MOST = 200


@blueprint.get("/v1/jobs/<job_id>/deliveries")
@requires("read")
@documented("List a job's webhooks", answers={200: DeliveryList}, tags=["webhooks"])
def list_deliveries(job_id: str) -> Response:
    """Each with how often it was tried and what the receiver answered."""
    job = job_of_caller(job_id)
    found = context().service.records.deliveries.of_job(job.id, _MOST)
    return private_json({"deliveries": [_shown(one) for one in found]})


@blueprint.post("/v1/deliveries/<delivery_id>/resend")
@requires("train", "generate")
@documented("Send a webhook again", answers={202: ShownDelivery}, tags=["webhooks"])
def resend_delivery(delivery_id: str) -> tuple[Response, int]:
    """It is sent soon, under the same id, with the job as it is now, and tried as often as a new one."""
    service = context().service
    found = service.records.deliveries.get(check_id(delivery_id, "delivery_id"))
    if found is None or found["tenant"] != caller().tenant:
        raise NotFound("there is no delivery of this id")
    fresh = service.webhooks.deliveries.resend(found)
    if fresh is None:
        raise Conflict("it is being sent at this moment")
    service.records.audit.record(
        "delivery.resend",
        tenant=caller().tenant,
        actor=caller().actor,
        target=delivery_id,
        request_id=current_request_id(),
    )
    messages().send("deliver_webhook", delivery_id)
    return private_json(_shown(fresh)), 202


@blueprint.get("/v1/webhooks/secret")
@requires("admin")
@documented("Read the webhook secret", answers={200: WebhookSecret}, tags=["webhooks"])
def read_secret() -> Response:
    """Made when it is first asked for, or needed."""
    return private_json({"key": context().service.webhooks.secrets.of(caller().tenant)})


@blueprint.post("/v1/webhooks/secret/rotation")
@requires("admin")
@documented("Replace the webhook secret", answers={200: WebhookSecret}, tags=["webhooks"])
def replace_secret() -> Response:
    """The old one signs nothing from now on."""
    service = context().service
    secret = service.webhooks.secrets.replace(caller().tenant)
    service.records.audit.record(
        "webhook-secret.replace",
        tenant=caller().tenant,
        actor=caller().actor,
        target=caller().tenant,
        request_id=current_request_id(),
    )
    return private_json({"key": secret})


def _shown(delivery: Document) -> dict[str, Any]:
    pending = delivery["status"] == PENDING
    return {
        "id": delivery["_id"],
        **{name: delivery[name] for name in ("job_id", "event", "url", "status", "attempts")},
        "last_status": delivery["last_status"],
        "last_error": delivery["last_error"],
        "last_attempt_at": rfc3339(delivery["last_attempt_at"]),
        "next_attempt_at": rfc3339(delivery["due"]) if pending else None,
        "delivered_at": rfc3339(delivery["delivered_at"]),
        "created_at": rfc3339(delivery["created_at"]),
    }
