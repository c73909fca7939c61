"""A job as clients see it: one shape for every kind."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, Literal

from enlight_common.errors import NoSuchObject, PayloadTooLarge, Unavailable

from main_api.clock import rfc3339
from main_api.jobs.job import Job
from main_api.jobs.queue_place import QueuePlaces
from main_api.storage import PictureStore

PictureForm = Literal["url", "base64"]
_MAX_PICTURE_BYTES = 100_000_000
#: Of all pictures in an answer: they are in memory together, and a third longer in base64.
_MAX_INLINE_BYTES = 100_000_000


def check_inline(pictures: Sequence[dict[str, Any]]) -> None:
    """Raises PayloadTooLarge for more than an answer may hold in base64."""
    if sum(one["size"] for one in pictures if not one.get("deleted")) > _MAX_INLINE_BYTES:
        raise PayloadTooLarge(f"the pictures are more than {_MAX_INLINE_BYTES} bytes: ask for URLs")


class JobView:
    """Shows jobs, their pictures by signed URL or in base64."""

    def __init__(self, store: PictureStore, places: QueuePlaces, public_url: str) -> None:
        self._store = store
        self._places = places
        self._base = public_url.rstrip("/")

    def show(self, job: Job, pictures: PictureForm = "url", *, place: bool = False) -> dict[str, Any]:
        """The job in JSON's types; with `place`, one that waits is told how long."""
        return {
            "id": job.id,
            "kind": job.kind,
            "status": job.status,
            "input": job.input,
            "output": self._output(job, pictures),
            "error": job.error,
            "progress": self._progress(job, place),
            "logs": "\n".join(job.logs),
            "metrics": job.metrics,
            "metadata": job.metadata,
            "created_at": rfc3339(job.created_at),
            "started_at": rfc3339(job.started_at),
            "completed_at": rfc3339(job.completed_at),
            "urls": self.urls(job.id),
        }

    def urls(self, job_id: str) -> dict[str, str]:
        get = f"{self._base}/v1/jobs/{job_id}"
        return {"get": get, "cancel": f"{get}/cancel", "events": f"{get}/events"}

    def show_picture(self, job: Job, index: int, form: PictureForm = "url") -> dict[str, Any]:
        """One of the job's pictures."""
        found = next(one for one in job.pictures if one["index"] == index)
        return self._picture(found, form)

    def _output(self, job: Job, form: PictureForm) -> dict[str, Any] | None:
        if job.output is None and not job.pictures:
            return None
        rest = job.output or {}
        if form == "base64":
            steps = rest.get("steps") or []
            check_inline([*job.pictures, *(one for step in steps for one in step["pictures"])])
        shown: dict[str, Any] = {"pictures": [self._picture(one, form) for one in job.pictures]}
        if rest.get("model") is not None:
            shown["model"] = rest["model"]
        if rest.get("settings"):
            shown["settings"] = rest["settings"]
        if rest.get("steps"):
            shown["steps"] = [
                {**step, "pictures": [self._picture(one, form) for one in step["pictures"]]}
                for step in rest["steps"]
            ]
        return shown

    def _picture(self, picture: dict[str, Any], form: PictureForm) -> dict[str, Any]:
        hidden = ("key", "revision", "deleted")
        shown = {name: value for name, value in picture.items() if name not in hidden}
        if picture.get("deleted"):
            return {**shown, "url": None}
        if form == "url":
            return {**shown, "url": self._store.url(picture["key"])}
        try:
            data = self._store.read(picture["key"], _MAX_PICTURE_BYTES)
        except NoSuchObject:
            return {**shown, "url": None}
        return {**shown, "base64": base64.b64encode(data).decode("ascii")}

    def _progress(self, job: Job, place: bool) -> dict[str, Any] | None:
        try:
            waiting = self._places.of(job) if place else None
        except Unavailable:
            waiting = None  # the job itself is known, and that is what matters to who made it
        if waiting is None:
            return job.progress
        return {"fraction": 0.0, "place": waiting.place, "seconds_left": waiting.seconds_left}
