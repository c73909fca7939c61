"""The collection `photo_sets`: photos of a subject that are uploaded once and used for several trainings."""

from __future__ import annotations

from typing import Any

from main_api.records.database import Database, Document


class PhotoSets:
    def __init__(self, database: Database) -> None:
        self._records = database.records("photo_sets")

    def insert(self, document: Document) -> None:
        self._records.insert(document)

    def get(self, tenant: str, set_id: str) -> Document | None:
        return self._records.find_one({"_id": set_id, "tenant": tenant})

    def page(self, query: dict[str, Any], limit: int) -> list[Document]:
        """Newest first."""
        return self._records.find(query, order=(("_id", -1),), limit=limit)

    def delete(self, tenant: str, set_id: str) -> bool:
        return self._records.delete({"_id": set_id, "tenant": tenant})
