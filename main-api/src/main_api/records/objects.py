"""The collection `objects`: what lies in the picture store, whose it is and what it belongs to.

A document is made before its object: what was never put is a small leftover here, and what nobody knows of
never lies in the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from main_api.clock import now_ms
from main_api.records.database import Database, Document

Purpose = Literal["upload", "photo", "input", "picture"]
State = Literal["pending", "stored"]
#: Announced, and to be put to a signed URL; `stored` is what this service puts itself, or has seen put.
PENDING: State = "pending"
STORED: State = "stored"


class Objects:
    def __init__(self, database: Database) -> None:
        self._records = database.records("objects")

    def announce(self, documents: Sequence[Document]) -> None:
        """Take down objects that are about to be put; those that are known already stay as they are."""
        self._records.insert_many(documents)

    def get(self, key: str) -> Document | None:
        return self._records.get(key)

    def find(self, query: dict[str, Any], *, limit: int = 1000) -> list[Document]:
        """Oldest first."""
        return self._records.find(query, order=(("created_at", 1),), limit=limit)

    def note(self, key: str, values: dict[str, Any], where: dict[str, Any] | None = None) -> bool:
        """False where there is none, or it is not as `where` says."""
        return self._records.change({"_id": key, **(where or {})}, {"$set": values}) is not None

    def forget(self, key: str) -> None:
        """To be called once the object itself is gone."""
        self._records.delete({"_id": key})

    def stored_bytes(self, tenant: str) -> int:
        return self._records.sum({"tenant": tenant}, "size").get(None, 0)


def object_document(
    key: str,
    tenant: str,
    purpose: Purpose,
    *,
    size: int,
    sha256: str | None = None,
    job_id: str | None = None,
    photo_set: str | None = None,
    models: Sequence[str] = (),
    state: State = PENDING,
) -> Document:
    """`models` are the trained models that it was made with, or that were made of it; `size` is in bytes."""
    return {
        "_id": key,
        "tenant": tenant,
        "purpose": purpose,
        "size": size,
        "sha256": sha256,
        "job_id": job_id,
        "photo_set": photo_set,
        "models": list(models),
        "state": state,
        # Of a job's: whether it was looked at after the job's end, and is the job's.
        "settled": job_id is None,
        "created_at": now_ms(),
    }
