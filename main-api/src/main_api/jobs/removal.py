"""Removing pictures and photos: from the store, from its records, and from the jobs that show them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from main_api.jobs.job import Job
from main_api.records.database import Document
from main_api.records.jobs import Jobs
from main_api.records.objects import Objects
from main_api.storage import PictureStore

_ROUNDS = 50


class ObjectRemoval:
    """Every step may be repeated: what stopped half-way is done again from the start."""

    def __init__(self, store: PictureStore, objects: Objects, jobs: Jobs) -> None:
        self._store = store
        self._objects = objects
        self._jobs = jobs

    def remove(self, documents: Iterable[Document]) -> int:
        """Delete the objects behind these documents of the collection `objects`; how many there were.

        Jobs stop showing them first, and the documents go last. Raises StoreUnavailable, Unavailable.
        """
        found = list(documents)
        shown: dict[str, set[str]] = defaultdict(set)
        for one in found:
            if one["purpose"] == "picture" and one["job_id"] is not None:
                shown[one["job_id"]].add(one["_id"])
        for job_id, keys in shown.items():
            self._hide(job_id, keys)
        for one in found:
            self._store.store.delete(one["_id"])
            self._objects.forget(one["_id"])
            # Again: it may have been put once more before it was forgotten.
            self._store.store.delete(one["_id"])
        return len(found)

    def _hide(self, job_id: str, keys: set[str]) -> None:
        for _ in range(_ROUNDS):
            job = self._jobs.get(job_id)
            if job is None:
                return
            values = _without(job, keys)
            if not values or self._jobs.change(job, values, where={"revision": job.revision}) is not None:
                break
        if job is not None and job.parent is not None and job.parent != job_id:
            self._hide(job.parent, keys)  # the chain shows its steps' pictures as its own


def _without(job: Job, keys: set[str]) -> dict[str, Any]:
    """The changes that mark pictures as gone; none where all of them are marked."""
    values: dict[str, Any] = {}
    pictures = _marked(job.pictures, keys)
    if pictures != job.pictures:
        values["pictures"] = pictures
    if job.output is not None:
        output = dict(job.output)
        if "pictures" in output:
            output["pictures"] = _marked(output["pictures"], keys)
        if "steps" in output:
            output["steps"] = [
                {**step, "pictures": _marked(step["pictures"], keys)} for step in output["steps"]
            ]
        if output != job.output:
            values["output"] = output
    return values


def _marked(pictures: list[dict[str, Any]], keys: set[str]) -> list[dict[str, Any]]:
    return [{**one, "deleted": True} if one["key"] in keys else one for one in pictures]
