"""The collection `jobs`: the truth about every job."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from main_api.jobs.job import Job, object_keys
from main_api.jobs.states import FOLLOWS, PROCESSING, QUEUED, Kind, Status
from main_api.records.database import Database

_CANDIDATES = 4


class Jobs:
    """Jobs by their ids, in the order in which they are due, and by tenant."""

    def __init__(self, database: Database) -> None:
        self._records = database.records("jobs")

    def insert(self, job: Job) -> None:
        """Raises DuplicateId."""
        self._records.insert(job.document())

    def get(self, job_id: str) -> Job | None:
        found = self._records.get(job_id)
        return Job.of(found) if found is not None else None

    def find(
        self, query: Mapping[str, Any], *, order: Sequence[tuple[str, int]] = (), limit: int = 0
    ) -> list[Job]:
        return [Job.of(one) for one in self._records.find(query, order=order, limit=limit)]

    def count(self, query: Mapping[str, Any], *, limit: int = 0) -> int:
        return self._records.count(query, limit=limit)

    def count_by_status(self, *statuses: Status) -> dict[tuple[str, str], int]:
        """How many there are of each (kind, status), of these statuses or of all."""
        counts: dict[tuple[str, str], int] = {}
        for status in statuses or FOLLOWS:
            for kind, count in self._records.sum({"status": status}, "", by="kind").items():
                counts[kind, status] = count
        return counts

    def processing_by_tenant(self) -> dict[str, int]:
        """How many jobs of each tenant are under way; chains only wait for their steps."""
        return self._records.sum({"status": PROCESSING, "kind": {"$ne": "chain"}}, "", by="tenant")

    def due_by_tenant(self, kind: Kind, now: int) -> dict[str, int]:
        """How many jobs of a kind each tenant has that may be claimed."""
        return self._records.sum(
            {"status": QUEUED, "kind": kind, "not_before": {"$lte": now}}, "", by="tenant"
        )

    def due(
        self, kinds: Collection[Kind], base_models: Collection[str], now: int, *, not_of: Collection[str] = ()
    ) -> list[Job]:
        """The next jobs that may be claimed, first come first served."""
        query: dict[str, Any] = {
            "status": QUEUED,
            "kind": {"$in": sorted(kinds)},
            "base_model": {"$in": [*sorted(base_models), None]},
            "not_before": {"$lte": now},
        }
        if not_of:
            query["tenant"] = {"$nin": sorted(not_of)}
        return self.find(query, order=(("created_at", 1),), limit=_CANDIDATES)

    def needed_files(self, tenant: str) -> set[str]:
        """The object keys of the pictures that the tenant's jobs still have to read."""
        query = {"tenant": tenant, "status": {"$in": [QUEUED, PROCESSING]}}
        found = self._records.find(query, fields=["files", "pictures"])
        return {key for one in found for key in object_keys(one["files"], one["pictures"])}

    def expired(self, now: int, limit: int = 200) -> list[Job]:
        """Jobs whose lease has run out. Chains have none."""
        return self.find(
            {"status": PROCESSING, "kind": {"$ne": "chain"}, "lease_until": {"$lt": now}}, limit=limit
        )

    def change(
        self,
        job: Job,
        values: Mapping[str, Any],
        *,
        also: Mapping[str, Any] | None = None,
        where: Mapping[str, Any] | None = None,
    ) -> Job | None:
        """Set `values` if the job still has this status and fencing number; the job as it is then.

        `also` are further update operators, `where` further conditions. None: somebody else was first.
        """
        to: Status = values.get("status", job.status)
        assert to == job.status or job.status in FOLLOWS[to], f"{job.status} to {to}"
        operators: dict[str, Any] = {"$set": dict(values), "$inc": {"revision": 1}}
        for operator, fields in (also or {}).items():
            operators[operator] = {**operators.get(operator, {}), **fields}
        changed = self._records.change(
            {"_id": job.id, "status": job.status, "fencing": job.fencing, **(where or {})}, operators
        )
        return Job.of(changed) if changed is not None else None

    def note(
        self, job_id: str, values: Mapping[str, Any], where: Mapping[str, Any] | None = None
    ) -> Job | None:
        """Set fields that say nothing of the job's status: what a webhook or a chain has to remember."""
        changed = self._records.change({"_id": job_id, **(where or {})}, {"$set": dict(values)})
        return Job.of(changed) if changed is not None else None
