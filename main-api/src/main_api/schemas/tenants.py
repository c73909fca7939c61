"""The caller's tenant: quotas, keys and audit records."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from main_api.records.keys import Scope
from main_api.schemas.models import Name
from main_api.schemas.strict import Strict

Days = Annotated[int, Field(ge=1, le=36_500)]


class ShownTenant(BaseModel):
    """What the tenant may use, and what it uses."""

    tenant: str
    quotas: dict[str, int | None]
    usage: dict[str, int]


class TenantBody(Strict):
    """What an administrator of the tenant may set; null keeps for ever."""

    photo_retention_days: Days | None = None
    picture_retention_days: Days | None = None


class KeyBody(Strict):
    """A key to make."""

    name: Name = "key"
    scopes: list[Scope] = Field(min_length=1, max_length=4)
    expires_days: Days | None = None


class ShownKey(BaseModel):
    """A key's record; the key itself is told once, when it is made."""

    id: str
    name: str
    scopes: list[Scope]
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    key: str | None = None


class KeyList(BaseModel):
    """Newest first."""

    keys: list[ShownKey]


class ShownAudit(BaseModel):
    """One change: who made it to what."""

    at: str
    action: str
    actor: str
    target: str
    request_id: str | None
    details: dict[str, Any]


class AuditPage(BaseModel):
    """Newest first; `next` is the `cursor` of the following page, null at the end."""

    records: list[ShownAudit]
    next: str | None
