"""The collection `models`: what was trained. The weights and their manifest are in the model store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from main_api.clock import now_ms
from main_api.records.database import Database, Document, DuplicateId

AVAILABLE = "available"
DELETING = "deleting"
_ROUNDS = 50

Adding = Literal["added", "known", "deleting"]


class Models:
    """Models by tenant and model id. Changes are compare-and-set on `revision`."""

    def __init__(self, database: Database) -> None:
        self._records = database.records("models")

    def get(self, tenant: str, model_id: str) -> Document | None:
        return self._records.get(_key(tenant, model_id))

    def page(self, tenant: str, after: str | None, limit: int) -> list[Document]:
        """The tenant's models in the order of their ids, behind `after`."""
        query: Document = {"tenant": tenant, "state": AVAILABLE}
        if after is not None:
            query["_id"] = {"$gt": _key(tenant, after)}
        return self._records.find(query, order=(("_id", 1),), limit=limit)

    def find(self, query: dict[str, Any], limit: int = 100) -> list[Document]:
        return self._records.find(query, limit=limit)

    def add_version(self, tenant: str, model_id: str, version: Mapping[str, Any]) -> Adding:
        """Take down a version that is in the store; once more is the same.

        "deleting" where the model is being deleted: what is in the store of it goes, too.
        """
        for _ in range(_ROUNDS):
            found = self.get(tenant, model_id)
            if found is None:
                now = now_ms()
                try:
                    self._records.insert(
                        {
                            "_id": _key(tenant, model_id),
                            "tenant": tenant,
                            "model_id": model_id,
                            "name": model_id,
                            "state": AVAILABLE,
                            "base_model": version.get("base_model"),
                            "instance_prompt": version.get("instance_prompt"),
                            "versions": [dict(version)],
                            "created_at": now,
                            "updated_at": now,
                            "revision": 1,
                        }
                    )
                except DuplicateId:
                    continue
                return "added"
            if found["state"] == DELETING:
                return "deleting"
            if any(one["version"] == version["version"] for one in found["versions"]):
                return "known"
            versions = sorted([*found["versions"], dict(version)], key=lambda one: str(one["version"]))
            newest = versions[-1]
            changes = {
                "versions": versions,
                "base_model": newest.get("base_model"),
                "instance_prompt": newest.get("instance_prompt"),
            }
            if self.change(found, changes) is not None:
                return "added"
        raise AssertionError("a model that changes all the time")

    def change(self, model: Document, values: Mapping[str, Any]) -> Document | None:
        """None where somebody else changed it since it was read."""
        return self._records.change(
            {"_id": model["_id"], "revision": model["revision"]},
            {"$set": {**values, "updated_at": now_ms()}, "$inc": {"revision": 1}},
        )

    def stored_bytes(self, tenant: str) -> int:
        """What the weights of the tenant's models take."""
        found = self._records.find({"tenant": tenant}, fields=["versions"])
        return sum(int(one.get("bytes") or 0) for model in found for one in model["versions"])

    def delete(self, tenant: str, model_id: str) -> bool:
        return self._records.delete({"_id": _key(tenant, model_id)})


def _key(tenant: str, model_id: str) -> str:
    # Neither can hold a slash.
    return f"{tenant}/{model_id}"
