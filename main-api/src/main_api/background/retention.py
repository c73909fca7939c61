"""Deleting photos and pictures that are older than their tenant wants them kept."""

from __future__ import annotations

import logging

from main_api.clock import now_ms
from main_api.jobs.job import Job
from main_api.jobs.removal import ObjectRemoval
from main_api.records.database import Document
from main_api.records.objects import PENDING, STORED
from main_api.service import Service

log = logging.getLogger(__name__)
_DAY_MS = 24 * 3600 * 1000
_PAGE = 200
#: For `GET /v1/jobs/<id>/deliveries`; the job says itself how it ended.
_DELIVERIES_KEPT_MS = 30 * _DAY_MS

#: In one run; the next one goes on.
_MOST_LEFTOVERS = 5000
#: What was begun just before its URL was over is there by then. Seconds.
_LATEST_PUT_S = 3600

_PHOTOS = ("upload", "photo", "input")
_PICTURES = ("picture",)


class Retention:
    def __init__(self, service: Service) -> None:
        self._records = service.records
        self._store = service.pictures.store
        self._leftover_ms = 1000 * (service.settings.url_expires_s + _LATEST_PUT_S)
        self._removal = ObjectRemoval(service.pictures, service.records.objects, service.records.jobs)

    def run(self) -> int:
        """Delete what is too old, of every tenant, and what belongs to nothing; how many objects.

        Raises Unavailable, StoreUnavailable.
        """
        removed = sum(self._of_tenant(tenant) for tenant in self._records.tenants.list())
        removed += self._leftovers()
        self._records.reservations.forget_old()
        while old := self._records.deliveries.old(now_ms() - _DELIVERIES_KEPT_MS, _PAGE):
            for one in old:
                self._records.deliveries.delete(one["_id"])
        return removed

    def _leftovers(self) -> int:
        """What was announced and never put, what came with requests that came to nothing, and what claims
        left behind that others took over.
        """
        before = now_ms() - self._leftover_ms
        objects = self._records.objects
        found = objects.find({"state": PENDING, "created_at": {"$lt": before}}, limit=_MOST_LEFTOVERS)
        unsettled = {"state": STORED, "settled": False, "created_at": {"$lt": before}}
        found += objects.find(unsettled, limit=_MOST_LEFTOVERS)
        removed = 0
        for one in found:
            job = self._records.jobs.get(one["job_id"]) if one["job_id"] is not None else None
            if job is not None and not job.terminal:
                continue
            shown = one["_id"] in job.keys if job is not None else self._arrived(one)
            if shown:
                # Of a cloud's store nobody saw it arrive.
                objects.note(one["_id"], {"state": STORED, "settled": True, **_measured(job, one["_id"])})
            else:
                removed += self._removal.remove([one])
        return removed

    def _arrived(self, document: Document) -> bool:
        """Whether an upload that no job named yet was put, straight into a cloud's store."""
        if document["purpose"] != "upload" or document["state"] != PENDING:
            return False
        return self._store.stat(document["_id"]) is not None

    def _of_tenant(self, tenant: Document) -> int:
        quotas = self._records.tenants.quotas_of(tenant)
        removed = 0
        for days, purposes in (
            (quotas.photo_retention_days, _PHOTOS),
            (quotas.picture_retention_days, _PICTURES),
        ):
            if days is not None:
                removed += self._older(tenant["_id"], now_ms() - days * _DAY_MS, purposes)
        if removed:
            log.info("retention", extra={"tenant": tenant["_id"], "objects": removed})
            self._records.audit.record(
                "retention.delete", tenant=tenant["_id"], actor="background", target="objects", count=removed
            )
        return removed

    def _older(self, tenant: str, before: int, purposes: tuple[str, ...]) -> int:
        query: Document = {
            "tenant": tenant,
            "purpose": {"$in": list(purposes)},
            "created_at": {"$lt": before},
            # Their time comes when the jobs that read them have ended.
            "_id": {"$nin": sorted(self._records.jobs.needed_files(tenant))},
        }
        removed = 0
        while page := self._records.objects.find(query, limit=_PAGE):
            removed += self._removal.remove(page)
            # A set without its photos trains nothing.
            for name in sorted({one["photo_set"] for one in page if one["photo_set"] is not None}):
                self._records.photo_sets.delete(tenant, name)
        return removed


def _measured(job: Job | None, key: str) -> Document:
    """What is known of a picture by its job, and perhaps not yet by the object."""
    made = next((one for one in job.pictures if one["key"] == key), None) if job is not None else None
    return {"size": made["size"], "sha256": made["sha256"]} if made is not None else {}
