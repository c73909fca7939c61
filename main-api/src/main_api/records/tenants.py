"""The collection `tenants`: who there is, and what each may use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from main_api.clock import now_ms
from main_api.records.database import Database, DuplicateId
from main_api.settings import MainApiSettings


@dataclass(frozen=True)
class Quotas:
    """What a tenant may use at most. None of `retention_days`: kept until deleted."""

    max_processing: int
    max_queued: int
    max_trainings_a_day: int
    max_stored_bytes: int
    requests_a_minute: int
    photo_retention_days: int | None = None
    picture_retention_days: int | None = None


QUOTA_FIELDS = tuple(Quotas.__dataclass_fields__)
#: Least and most of each, as the settings' for those that have a default there.
QUOTA_BOUNDS: dict[str, tuple[int, int]] = {
    "max_processing": (1, 10_000),
    "max_queued": (1, 1_000_000),
    "max_trainings_a_day": (0, 1_000_000),
    "max_stored_bytes": (1024 * 1024, 100_000_000 * 1024 * 1024),
    "requests_a_minute": (1, 1_000_000),
    "photo_retention_days": (1, 36_500),
    "picture_retention_days": (1, 36_500),
}
#: Which may be None.
RETENTION_FIELDS = ("photo_retention_days", "picture_retention_days")


class Tenants:
    def __init__(self, database: Database, settings: MainApiSettings) -> None:
        self._records = database.records("tenants")
        self._default = Quotas(
            max_processing=settings.max_processing,
            max_queued=settings.max_queued,
            max_trainings_a_day=settings.max_trainings_a_day,
            max_stored_bytes=settings.max_stored_mb * 1024 * 1024,
            requests_a_minute=settings.requests_a_minute,
        )

    def ensure(self, tenant: str) -> bool:
        """Make the tenant if there is none of this name; whether there was none."""
        try:
            self._records.insert(
                {"_id": tenant, "created_at": now_ms(), "quotas": {}, "webhook_secret": None}
            )
        except DuplicateId:
            return False
        return True

    def get(self, tenant: str) -> dict[str, Any] | None:
        return self._records.get(tenant)

    def list(self) -> list[dict[str, Any]]:
        return self._records.find({}, order=(("_id", 1),))

    def quotas_of(self, document: dict[str, Any] | None) -> Quotas:
        """The defaults with what is the tenant's own."""
        own = (document or {}).get("quotas") or {}
        return Quotas(**{name: own.get(name, getattr(self._default, name)) for name in QUOTA_FIELDS})

    def set_quotas(self, tenant: str, values: dict[str, int | None]) -> bool:
        """False where there is no such tenant."""
        changes = {f"quotas.{name}": values[name] for name in QUOTA_FIELDS if name in values}
        return self._records.change({"_id": tenant}, {"$set": changes}) is not None

    def note(self, tenant: str, values: dict[str, Any], where: dict[str, Any] | None = None) -> bool:
        """False where there is no such tenant, or it is not as `where` says."""
        return self._records.change({"_id": tenant, **(where or {})}, {"$set": values}) is not None
