"""The collection `deliveries`: what was, or is to be, posted to clients' webhooks, and how that went."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from main_api.clock import now_ms
from main_api.records.database import Database, Document

DeliveryStatus = Literal["pending", "delivered", "failed"]
PENDING: DeliveryStatus = "pending"
DELIVERED: DeliveryStatus = "delivered"
FAILED: DeliveryStatus = "failed"


class Deliveries:
    """Deliveries by id. Changes are compare-and-set on `attempts`, which grows with each that begins."""

    def __init__(self, database: Database) -> None:
        self._records = database.records("deliveries")

    def insert(self, document: Mapping[str, Any]) -> None:
        """Raises DuplicateId."""
        self._records.insert(document)

    def get(self, delivery_id: str) -> Document | None:
        return self._records.get(delivery_id)

    def of_job(self, job_id: str, limit: int) -> list[Document]:
        """Oldest first."""
        return self._records.find({"job_id": job_id}, order=(("created_at", 1), ("_id", 1)), limit=limit)

    def due(self, now: int, limit: int) -> list[Document]:
        """Those whose next attempt should have begun by `now`, the longest overdue first."""
        return self._records.find({"status": PENDING, "due": {"$lte": now}}, order=(("due", 1),), limit=limit)

    def change(self, delivery: Document, values: Mapping[str, Any]) -> Document | None:
        """None where another attempt has begun since it was read."""
        return self._records.change(
            {"_id": delivery["_id"], "status": delivery["status"], "attempts": delivery["attempts"]},
            {"$set": dict(values)},
        )

    def old(self, before: int, limit: int) -> list[Document]:
        """Those that were made before the time `before`."""
        return self._records.find({"created_at": {"$lt": before}}, limit=limit, fields=["_id"])

    def delete(self, delivery_id: str) -> bool:
        return self._records.delete({"_id": delivery_id})


def delivery_document(delivery_id: str, *, job_id: str, tenant: str, event: str, url: str) -> Document:
    """One to be sent now. `tries` counts from the last time that somebody asked for it."""
    now = now_ms()
    return {
        "_id": delivery_id,
        "job_id": job_id,
        "tenant": tenant,
        "event": event,
        "url": url,
        "status": PENDING,
        "due": now,
        "attempts": 0,
        "tries": 0,
        "last_status": None,
        "last_error": None,
        "last_attempt_at": None,
        "delivered_at": None,
        "created_at": now,
    }
