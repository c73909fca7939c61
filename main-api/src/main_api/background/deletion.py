"""Deleting a model for good: its weights, its checkpoints, the photos it was made of, what it drew.

The model's record says `deleting` until all of it is gone; every step may be repeated, so whoever looks at
such a record goes on from wherever it stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from main_api.clock import now_ms
from main_api.jobs.cancellation import cancel
from main_api.jobs.job import Job
from main_api.jobs.removal import ObjectRemoval
from main_api.model_catalog import MANIFEST, prefix_of
from main_api.records.models import AVAILABLE, DELETING
from main_api.service import Service

log = logging.getLogger(__name__)
_PAGE = 200
_OPEN = {"$in": ["queued", "processing"]}


class Deletions:
    def __init__(self, service: Service) -> None:
        self._records = service.records
        self._hooks = service.hooks
        self._catalog = service.catalog
        self._models = service.models.store
        self._removal = ObjectRemoval(service.pictures, service.records.objects, service.records.jobs)

    def run(self, record_id: str) -> bool:
        """Delete the model whose record has this id, `<tenant>/<model id>`; whether it is gone.

        False while a job that uses it is under way; the sweep has it looked at again. Raises Unavailable,
        StoreUnavailable.
        """
        tenant, _, model_id = record_id.partition("/")
        found = self._records.models.get(tenant, model_id)
        if found is None or found["state"] != DELETING:
            return True
        self._catalog.forget(tenant, model_id)
        open_jobs = self._records.jobs.find({"tenant": tenant, "models": model_id, "status": _OPEN})
        still_open = [job for job in open_jobs if not cancel(self._records.jobs, self._hooks, job).terminal]
        # First of all, whoever may still write something: nobody can draw with it from here on.
        self._delete_weights(tenant, model_id)
        self._delete_photo_sets(tenant, model_id)
        self._delete_sources(tenant, model_id)
        # What a job still puts is announced by now, and goes when the job has ended.
        query = {"tenant": tenant, "models": model_id, "job_id": {"$nin": [job.id for job in still_open]}}
        while page := self._records.objects.find(query, limit=_PAGE):
            self._removal.remove(page)
            # A set of pictures that the model drew.
            for name in sorted({one["photo_set"] for one in page if one["photo_set"] is not None}):
                self._records.photo_sets.delete(tenant, name)
        if still_open:
            return False
        self._delete_checkpoints(tenant)
        self._records.models.delete(tenant, model_id)
        self._catalog.forget(tenant, model_id)
        self._records.audit.record(
            "model.deleted",
            tenant=tenant,
            actor="background",
            target=model_id,
            versions=len(found["versions"]),
        )
        log.info("model deleted", extra={"tenant": tenant, "model_id": model_id})
        return True

    def _delete_weights(self, tenant: str, model_id: str) -> None:
        """Manifests first: what has none does not exist, whatever else is left."""
        keys = [found.key for found in self._models.list(prefix_of(tenant, model_id))]
        for key in sorted(keys, key=lambda key: not key.endswith(f"/{MANIFEST}")):
            self._models.delete(key)

    def _trainings(self, tenant: str, model_id: str) -> list[Job]:
        return self._records.jobs.find({"tenant": tenant, "kind": "training", "models": model_id})

    def _delete_sources(self, tenant: str, model_id: str) -> None:
        """The photos it was trained with that were uploaded on their own, but for those that jobs need."""
        keys = {key for job in self._trainings(tenant, model_id) for key in job.files.get("photos", [])}
        keys -= self._records.jobs.needed_files(tenant)
        uploads = [key for key in sorted(keys) if key.startswith("uploads/")]
        found = [one for key in uploads if (one := self._records.objects.get(key)) is not None]
        self._removal.remove(found)

    def _delete_photo_sets(self, tenant: str, model_id: str) -> None:
        """Those it was trained with, unless another model that is there was, too."""
        names = {
            name
            for job in self._trainings(tenant, model_id)
            if (name := job.input.get("photo_set")) is not None
        }
        for name in sorted(names):
            if not self._is_used_by_another(tenant, model_id, name):
                objects = self._records.objects.find({"tenant": tenant, "photo_set": name})
                self._removal.remove(objects)
                self._records.photo_sets.delete(tenant, name)

    def _is_used_by_another(self, tenant: str, model_id: str, photo_set: str) -> bool:
        query: dict[str, Any] = {"tenant": tenant, "kind": "training", "input.photo_set": photo_set}
        for job in self._records.jobs.find(query):
            for other in job.models:
                if other == model_id:
                    continue
                model = self._records.models.get(tenant, other)
                if not job.terminal or (model is not None and model["state"] == AVAILABLE):
                    return True
        return False

    def _delete_checkpoints(self, tenant: str) -> None:
        """A checkpoint does not say of which model it is: all of the tenant's that no open training can need.

        One that is younger than the oldest open training may be that one's. What is left of it then is
        swept by the instances after a week, like every run's that was given up.
        """
        open_trainings = self._records.jobs.find({"tenant": tenant, "kind": "training", "status": _OPEN})
        before = min((job.created_at for job in open_trainings), default=now_ms() + 1) / 1000
        for run, modified in self._runs(tenant):
            if modified < before:
                for found in list(self._models.list(run)):
                    self._models.delete(found.key)

    def _runs(self, tenant: str) -> Iterator[tuple[str, float]]:
        """(prefix, when something was last added to it) of each run that has checkpoints."""
        newest: dict[str, float] = {}
        for found in self._models.list(f"checkpoints/{tenant}/"):
            run = "/".join(found.key.split("/")[:3]) + "/"
            newest[run] = max(newest.get(run, 0.0), found.modified)
        yield from newest.items()
