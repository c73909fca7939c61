"""From the pictures that a request names to object keys: inline ones are stored, the others are looked up."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from enlight_common.errors import InvalidField, NoSuchObject, StoreCorrupt
from enlight_common.ids import ID_PATTERN
from enlight_common.images import DEFAULT_BOUNDS, ImageBounds, decode_base64, inspect_image

from main_api.records.jobs import Jobs
from main_api.records.objects import Objects, Purpose, object_document
from main_api.storage import PictureStore, upload_key

_UPLOAD = re.compile(rf"upload:({ID_PATTERN})")
_OF_JOB = re.compile(rf"job:({ID_PATTERN})/([0-9]{{1,2}})")


@dataclass(frozen=True)
class Picture:
    """A picture of a request, checked. `data` is None for one that lies in the store already, under `key`.

    `shown` is how the job's input names it; `models` were used to make it.
    """

    field: str
    shown: str
    size: int
    sha256: str | None
    data: bytes | None = None
    key: str | None = None
    models: tuple[str, ...] = ()


class Pictures:
    def __init__(self, store: PictureStore, objects: Objects, jobs: Jobs) -> None:
        self._store = store
        self._objects = objects
        self._jobs = jobs

    def check(
        self, tenant: str, sources: Sequence[tuple[str, str]], bounds: ImageBounds = DEFAULT_BOUNDS
    ) -> list[Picture]:
        """The pictures behind (field, source) pairs. Raises InvalidField for what is none of the tenant's.

        Headers are looked at, pixels are left to the service that needs them.
        """
        return [self._check(tenant, field, source, bounds) for field, source in sources]

    def _check(self, tenant: str, field: str, source: str, bounds: ImageBounds) -> Picture:
        if match := _UPLOAD.fullmatch(source):
            return self._uploaded(tenant, field, match[1], bounds)
        if match := _OF_JOB.fullmatch(source):
            return self._of_job(tenant, field, match[1], int(match[2]))
        data = decode_base64(source, field, bounds.max_bytes)
        return inline(data, field, bounds)

    def _uploaded(self, tenant: str, field: str, upload_id: str, bounds: ImageBounds) -> Picture:
        key = upload_key(tenant, upload_id)
        known = self._objects.get(key)
        if known is None:
            raise InvalidField(field, "names no upload")
        try:
            data = self._store.read(key, bounds.max_bytes)
        except NoSuchObject:
            raise InvalidField(field, "names an upload that nothing was put to yet") from None
        except StoreCorrupt:
            raise InvalidField(field, f"must be at most {bounds.max_bytes} bytes") from None
        inspect_image(data, field, bounds)
        digest = hashlib.sha256(data).hexdigest()
        if known["state"] != "stored" or known["size"] != len(data):
            self._objects.note(key, {"state": "stored", "size": len(data), "sha256": digest})
        return Picture(field, f"upload:{upload_id}", len(data), digest, key=key)

    def _of_job(self, tenant: str, field: str, job_id: str, index: int) -> Picture:
        job = self._jobs.get(job_id)
        found = None
        if job is not None and job.tenant == tenant:
            kept = (one for one in job.pictures if not one.get("deleted"))
            found = next((one for one in kept if one["index"] == index), None)
        if job is None or found is None:
            raise InvalidField(field, "names no picture of a job")
        shown = f"job:{job_id}/{index}"
        return Picture(
            field, shown, found["size"], found["sha256"], key=found["key"], models=tuple(job.models)
        )

    def store(
        self,
        tenant: str,
        pictures: Sequence[tuple[Picture, str]],
        purpose: Purpose,
        *,
        job_id: str | None = None,
        photo_set: str | None = None,
        models: Sequence[str] = (),
    ) -> list[str]:
        """Put the inline ones of (picture, key) under their keys; the keys of all, in order.

        Raises StoreUnavailable, StorageFull.
        """
        fresh = [(one, key, one.data) for one, key in pictures if one.data is not None]
        self._objects.announce(
            [
                object_document(
                    key,
                    tenant,
                    purpose,
                    size=one.size,
                    sha256=one.sha256,
                    job_id=job_id,
                    photo_set=photo_set,
                    models=models,
                    state="stored",
                )
                for one, key, _ in fresh
            ]
        )
        for _, key, data in fresh:
            self._store.put(key, data)
        return [one.key or key for one, key in pictures]

    def discard(self, pictures: Sequence[tuple[Picture, str]]) -> None:
        """Remove what `store` put, of a request that came to nothing."""
        for one, key in pictures:
            if one.data is not None:
                self._store.store.delete(key)
                self._objects.forget(key)


def inline(data: bytes, field: str, bounds: ImageBounds = DEFAULT_BOUNDS) -> Picture:
    """A picture that came with the request. Raises InvalidField."""
    inspect_image(data, field, bounds)
    digest = hashlib.sha256(data).hexdigest()
    return Picture(field, f"sha256:{digest}", len(data), digest, data=data)
