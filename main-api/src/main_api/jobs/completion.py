"""What a worker reports about a job it holds, checked before the job is said to be done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from enlight_common.errors import InvalidField, NoSuchObject, UnknownModel
from enlight_common.schemas.claims import (
    Claim,
    Completion,
    PictureGrant,
    PictureOffer,
    Renewal,
    StoredPicture,
)

from main_api.errors import LeaseLost
from main_api.jobs.job import Job
from main_api.jobs.leases import Held, Leases
from main_api.model_catalog import ModelCatalog
from main_api.records.objects import PENDING, STORED, Objects, State, object_document
from main_api.storage import SUFFIXES, PictureStore, picture_key


class WorkerReports:
    def __init__(self, leases: Leases, store: PictureStore, objects: Objects, catalog: ModelCatalog) -> None:
        self._leases = leases
        self._store = store
        self._objects = objects
        self._catalog = catalog

    def claim(self, job: Job) -> Claim:
        """What a worker is told about a job that it has just been given."""
        return Claim(
            job_id=job.id,
            kind=job.kind,
            tenant=job.tenant,
            input=job.task,
            attempt=job.attempts,
            fencing=job.fencing,
            lease_s=self._leases.lease_s,
            traceparent=job.traceparent,
            request_id=job.request_id,
            photos=[self._store.worker_url(key) for key in job.files.get("photos", [])],
            images={
                name: self._store.worker_url(key)
                for name, key in job.files.items()
                if name in ("image", "mask")
            },
        )

    def renew(self, job_id: str, renewal: Renewal) -> Held:
        """Keep the lease. Pictures that were put since are the job's from then on. Raises LeaseLost."""
        job = self._leases.held(job_id, renewal.fencing)
        known = {one["index"] for one in job.pictures}
        arrived = [one for one in job.offered if one["index"] not in known and self._is_there(one)]
        progress = renewal.progress.model_dump(exclude_none=True) if renewal.progress else None
        return self._leases.renew(
            job_id, renewal.fencing, progress=progress, logs=renewal.logs, pictures=arrived
        )

    def offer(self, job_id: str, offer: PictureOffer) -> PictureGrant:
        """Where to put a picture. Raises LeaseLost."""
        job = self._leases.held(job_id, offer.fencing)
        key = picture_key(job.tenant, job_id, offer.fencing, offer.index, SUFFIXES[offer.format])
        # Known before it is there, so that it can be deleted whatever becomes of the job.
        self._objects.announce([picture_document(job, key, offer.size, offer.sha256, state=PENDING)])
        noted = {"index": offer.index, "key": key, "format": offer.format, "size": offer.size}
        self._leases.offer(job_id, offer.fencing, {**noted, "sha256": offer.sha256})
        return PictureGrant(put_url=self._store.worker_upload_url(key), key=key)

    def complete(self, job_id: str, completion: Completion) -> Job:
        """End the job. Raises LeaseLost, and InvalidField where what is said to be stored is not there."""
        fencing, metrics, logs = completion.fencing, dict(completion.metrics), completion.logs
        if completion.status == "canceled":
            return self._leases.cancel(job_id, fencing, metrics=metrics, logs=logs)
        if completion.status == "failed":
            if completion.error is None:
                raise InvalidField("error", "is required when the job failed")
            error = completion.error.model_dump()
            return self._leases.fail(job_id, fencing, error, metrics=metrics, logs=logs)
        if completion.output is None:
            raise InvalidField("output", "is required when the job succeeded")
        try:
            job = self._leases.held(job_id, fencing)
        except LeaseLost:
            # Perhaps the same completion again; nothing is checked twice.
            return self._leases.succeed(job_id, fencing, {"pictures": []}, metrics=metrics)
        output: dict[str, Any] = {
            "pictures": self._pictures(job, completion.output.pictures),
            "model": self._model(job, completion),
            "settings": completion.output.settings,
        }
        return self._leases.succeed(job_id, fencing, output, metrics=metrics, logs=logs)

    def _pictures(self, job: Job, pictures: Sequence[StoredPicture]) -> list[dict[str, Any]]:
        if job.kind == "generation" and not pictures:
            raise InvalidField("output.pictures", "must not be empty for a generation")
        if [one.index for one in pictures] != list(range(len(pictures))):
            raise InvalidField("output.pictures", "must be in the order of their indexes, from 0 on")
        for number, one in enumerate(pictures):
            field = f"output.pictures[{number}]"
            if one.key != picture_key(job.tenant, job.id, job.fencing, one.index, SUFFIXES[one.format]):
                raise InvalidField(f"{field}.key", "is not the one that was given for it")
            self._store.check(one.key, one.size, field)
            # Where the store is a cloud's, nobody saw it arrive.
            self._objects.note(one.key, {"state": STORED}, where={"state": PENDING})
        return [one.model_dump() for one in pictures]

    def _model(self, job: Job, completion: Completion) -> dict[str, Any] | None:
        model = completion.output.model if completion.output else None
        if job.kind != "training":
            return None
        if model is None:
            raise InvalidField("output.model", "is required for a training")
        if model.model_id not in job.models:
            raise InvalidField("output.model.model_id", "is not the model that was asked for")
        try:
            # Before the job ends: the model is in the store, whatever becomes of the job now.
            described = self._catalog.take_down(job.tenant, model.model_id, model.version, job.id)
        except NoSuchObject:
            raise InvalidField("output.model.version", "is not in the model store") from None
        except UnknownModel:
            raise InvalidField("output.model.model_id", "names a model that is being deleted") from None
        return {**model.model_dump(exclude_none=True), "bytes": described["bytes"]}

    def _is_there(self, offered: dict[str, Any]) -> bool:
        try:
            self._store.check(offered["key"], offered["size"], "picture")
        except InvalidField:
            return False
        return True


def picture_document(
    job: Job, key: str, size: int, sha256: str | None, *, state: State = STORED
) -> dict[str, Any]:
    """What `Objects.announce` takes for a picture that a job is about to make, or a worker to put."""
    return object_document(
        key, job.tenant, "picture", size=size, sha256=sha256, job_id=job.id, models=job.models, state=state
    )
