"""``/v1/tenant``, ``/v1/keys`` and ``/v1/audit``: what an administrator of a tenant looks after."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from enlight_common.errors import NotFound
from enlight_common.ids import check_id
from enlight_common.web import current_request_id, documented, parse_body, parse_query
from flask import Blueprint, Response

from main_api.clock import now_ms, rfc3339
from main_api.jobs.states import PROCESSING, QUEUED
from main_api.routes.answers import private_json
from main_api.routes.authorization import caller, requires
from main_api.routes.context import context
from main_api.routes.paging import after_cursor, page_of
from main_api.schemas.models import PageQuery
from main_api.schemas.tenants import AuditPage, KeyBody, KeyList, ShownKey, ShownTenant, TenantBody

blueprint = Blueprint("tenant", __name__)
_DAY_MS = 24 * 3600 * 1000


@blueprint.get("/v1/tenant")
@requires("read")
@documented("Read quotas and usage", answers={200: ShownTenant}, tags=["tenant"])
def read_tenant() -> Response:
    """What the tenant may use, and what it uses now."""
    return private_json(_shown_tenant())


@blueprint.patch("/v1/tenant")
@requires("admin")
@documented("Set retention", body=TenantBody, answers={200: ShownTenant}, tags=["tenant"])
def change_tenant() -> Response:
    """Photos and pictures older than so many days are deleted. Fields that are left out stay as they are."""
    body = parse_body(TenantBody)
    service, tenant = context().service, caller().tenant
    values = {name: getattr(body, name) for name in sorted(body.model_fields_set)}
    if values:
        if service.records.tenants.ensure(tenant):
            _note("tenant.create", tenant)
        service.records.tenants.set_quotas(tenant, values)
        service.access.forget_tenant(tenant)
        _note("tenant.change", tenant, **values)
    return private_json(_shown_tenant())


@blueprint.get("/v1/keys")
@requires("admin")
@documented("List keys", answers={200: KeyList}, tags=["tenant"])
def list_keys() -> Response:
    """The tenant's keys, revoked ones included, newest first."""
    found = context().service.records.keys.list(caller().tenant)
    return private_json({"keys": [_shown_key(one) for one in found]})


@blueprint.post("/v1/keys")
@requires("admin")
@documented("Make a key", body=KeyBody, answers={201: ShownKey}, tags=["tenant"])
def make_key() -> tuple[Response, int]:
    """The answer is the only time that the key itself is told."""
    body = parse_body(KeyBody)
    service = context().service
    expires = now_ms() + body.expires_days * _DAY_MS if body.expires_days is not None else None
    scopes = list(dict.fromkeys(body.scopes))
    document, key = service.records.keys.create(
        name=body.name, tenant=caller().tenant, scopes=scopes, expires_at=expires
    )
    _note("key.create", document["_id"], scopes=scopes)
    return private_json({**_shown_key(document), "key": key}), 201


@blueprint.delete("/v1/keys/<key_id>")
@requires("admin")
@documented("Revoke a key", answers={204: None}, tags=["tenant"])
def revoke_key(key_id: str) -> tuple[str, int]:
    """It is refused from now on."""
    service = context().service
    found = service.records.keys.revoke(check_id(key_id, "key_id"), tenant=caller().tenant)
    if found is None:
        raise NotFound("there is no valid key of this id")
    service.access.forget_key(service.records.keys, key_id)
    _note("key.revoke", key_id)
    return "", 204


@blueprint.get("/v1/audit")
@requires("admin")
@documented("List changes", answers={200: AuditPage}, tags=["tenant"], query=PageQuery)
def list_audit() -> Response:
    """Who changed what in this tenant, newest first."""
    wanted = parse_query(PageQuery)
    query = {"tenant": caller().tenant, **after_cursor(wanted.cursor)}
    found = context().service.records.audit.page(query, wanted.limit + 1)
    page, following = page_of(found, wanted.limit, lambda one: str(one["_id"]))
    names = ("action", "actor", "target", "request_id", "details")
    shown = [{"at": rfc3339(one["at"]), **{name: one[name] for name in names}} for one in page]
    return private_json({"records": shown, "next": following})


def _shown_tenant() -> dict[str, Any]:
    service, tenant = context().service, caller().tenant
    jobs = service.records.jobs
    since = now_ms() - _DAY_MS
    usage = {
        "queued": jobs.count({"tenant": tenant, "status": QUEUED}),
        "processing": jobs.count({"tenant": tenant, "status": PROCESSING, "kind": {"$ne": "chain"}}),
        "trainings_today": jobs.count({"tenant": tenant, "kind": "training", "created_at": {"$gt": since}}),
        "stored_bytes": service.quotas.stored_bytes(tenant),
    }
    return {"tenant": tenant, "quotas": asdict(service.access.quotas(tenant)), "usage": usage}


def _shown_key(document: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": document["_id"],
        "name": document["name"],
        "scopes": document["scopes"],
        "created_at": rfc3339(document["created_at"]),
        "expires_at": rfc3339(document["expires_at"]),
        "revoked_at": rfc3339(document["revoked_at"]),
        "key": None,
    }


def _note(action: str, target: str, **details: Any) -> None:
    context().service.records.audit.record(
        action,
        tenant=caller().tenant,
        actor=caller().actor,
        target=target,
        request_id=current_request_id(),
        **details,
    )
