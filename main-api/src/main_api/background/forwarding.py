"""Background removals and upscales: claimed like any job, and done by the service that can."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from typing import Any

from enlight_common.errors import EnlightError, InvalidField, NoSuchObject, Unavailable
from enlight_common.images import ImageBounds, inspect_image

from main_api.background.messages import Messages
from main_api.background.services import Call, ImageServices
from main_api.errors import LeaseLost
from main_api.instances import Refused
from main_api.jobs.completion import picture_document
from main_api.jobs.job import Job
from main_api.jobs.keeper import Keeping, LeaseKeeper
from main_api.jobs.leases import Leases
from main_api.jobs.states import FORWARDED_KINDS
from main_api.outgoing import Broken, NothingDone, Stopped
from main_api.records.objects import Objects
from main_api.storage import SUFFIXES, PictureStore, picture_key

log = logging.getLogger(__name__)

_MAX_SOURCE_BYTES = 100_000_000
#: What a service sends back: 16,384 pixels square at most, in no more than a job's picture may take.
_ANSWER_BOUNDS = ImageBounds(
    max_bytes=100_000_000, max_pixels=16_384 * 16_384, formats=("PNG", "JPEG", "WEBP")
)
#: A thread takes no further job after so long, so that it stays well within its message's time limit.
_TURN_S = 300.0
#: Before a job is tried again whose store, or whose records, could not be reached. Seconds.
_AWAY_S = 5.0


class Forwarder:
    """Does forwarded jobs, at most `places` at a time, whoever of them a message names first.

    A thread that has done its job goes on with the next one that waits: a job whose message came while all
    places were taken, or while its tenant had enough under way, needs no second message.
    """

    def __init__(
        self,
        leases: Leases,
        keeper: LeaseKeeper,
        services: ImageServices,
        store: PictureStore,
        objects: Objects,
        messages: Messages,
        *,
        places: int,
    ) -> None:
        self._leases = leases
        self._keeper = keeper
        self._services = services
        self._store = store
        self._objects = objects
        self._messages = messages
        self._places = places
        self._worker = f"forwarder:{os.getpid()}"
        self._lock = threading.Lock()
        self._taken = 0
        self._missed = False
        self._draining = False
        self._held: dict[str, Job] = {}

    def run(self, job_id: str) -> None:
        """Do this job if it waits, then others that do. Raises Unavailable when the database is away."""
        with self._lock:
            if self._taken >= self._places:
                self._missed = True
                return
            self._taken += 1
        try:
            self._work(job_id)
        except BaseException:
            with self._lock:
                self._taken -= 1
            raise

    def drain(self) -> None:
        """Begin nothing more."""
        self._draining = True

    def give_back(self) -> None:
        """Give back what is still under way: this process leaves, and nothing of it was the job's fault."""
        self._draining = True
        for job in list(self._held.values()):
            try:
                self._leases.release(job.id, job.fencing, "the forwarder shuts down", counts=False)
            except EnlightError as error:
                log.warning("a job could not be given back: %s", error.detail, extra={"job_id": job.id})

    @property
    def running(self) -> int:
        return self._taken

    def _work(self, job_id: str) -> None:
        until = time.monotonic() + _TURN_S
        job = self._claim(job_id)
        while True:
            if job is None:
                with self._lock:
                    self._missed = False
                job = self._claim(None)
            if job is not None:
                self._do(job)
                job = None
            elif self._leave(at_once=False):
                return
            if time.monotonic() >= until:
                self._leave(at_once=True)
                self._messages.send("forward", job_id)  # somebody is to look for more
                return

    def _claim(self, job_id: str | None) -> Job | None:
        if self._draining:
            return None
        if job_id is None:
            return self._leases.claim_next(self._worker, FORWARDED_KINDS, ())
        return self._leases.claim(job_id, self._worker)

    def _leave(self, *, at_once: bool) -> bool:
        """Give the place back, unless a message came meanwhile whose job nobody may have looked for."""
        with self._lock:
            if self._missed and not at_once and not self._draining:
                return False
            self._taken -= 1
            return True

    def _do(self, job: Job) -> None:
        self._held[job.id] = job
        try:
            with self._keeper.keep(job) as keeping:
                self._forward(job, keeping)
        except LeaseLost:
            log.warning("a job was lost while it was forwarded", extra={"job_id": job.id})
        except NothingDone as error:
            wait_s = error.retry_after or 0.0
            self._release(job, error.detail, counts=False, wait_s=wait_s)
            self._messages.send("forward", job.id, delay_ms=int(1000 * wait_s))
        except Refused as error:
            self._end(job, {"type": error.type, "message": error.message})
        except (NoSuchObject, InvalidField) as error:
            self._end(job, {"type": error.type, "message": error.detail})
        except Broken as error:
            self._release(job, f"the service failed ({error})", counts=True)
        except Unavailable as error:
            # The store, or the database. Where that is away, too, the lease runs out.
            wait_s = max(_AWAY_S, error.retry_after or 0.0)
            self._release(job, error.detail, counts=False, wait_s=wait_s)
        except EnlightError as error:
            # A full or broken store: it may be the job's own doing, and is not tried for ever.
            self._release(job, error.detail, counts=True, wait_s=max(_AWAY_S, error.retry_after or 0.0))
        except Exception as error:
            log.exception("a job could not be forwarded", extra={"job_id": job.id})
            self._release(job, f"of an unexpected {type(error).__name__}", counts=True)
        finally:
            self._held.pop(job.id, None)

    def _release(self, job: Job, reason: str, *, counts: bool, wait_s: float = 0.0) -> None:
        try:
            self._leases.release(job.id, job.fencing, reason, counts=counts, wait_s=wait_s)
        except EnlightError as error:
            log.warning("a job could not be given back: %s", error.detail, extra={"job_id": job.id})

    def _end(self, job: Job, error: dict[str, Any]) -> None:
        try:
            self._leases.fail(job.id, job.fencing, error)
        except EnlightError as failure:
            log.warning("a job could not be ended: %s", failure.detail, extra={"job_id": job.id})

    # -- one job

    def _forward(self, job: Job, keeping: Keeping) -> None:
        call = self._services.call(job.kind, job.task)
        headers = {
            name: value
            for name, value in (("X-Request-Id", job.request_id), ("traceparent", job.traceparent))
            if value is not None
        }
        sources: list[str] = job.files["images"]
        # An earlier attempt may have done some.
        done = {
            one["index"]: {name: value for name, value in one.items() if name != "revision"}
            for one in job.pictures
        }
        began = time.monotonic()
        try:
            for index, key in enumerate(sources):
                if index not in done:
                    done[index] = self._sent(job, index, key, call, headers, keeping)
                    self._tell(job, keeping, done[index], len(done), len(sources))
        except Stopped:
            if keeping.lost:
                raise LeaseLost("the lease was lost") from None
            self._leases.cancel(job.id, job.fencing, metrics=_seconds(began))
            return
        output = {
            "pictures": [done[index] for index in sorted(done)],
            "model": None,
            "settings": job.task["body"],
        }
        self._leases.succeed(job.id, job.fencing, output, metrics=_seconds(began))

    def _sent(
        self, job: Job, index: int, key: str, call: Call, headers: dict[str, str], keeping: Keeping
    ) -> dict[str, Any]:
        """One picture there and back, stored. Raises Stopped and what `ImageServices.send` raises."""

        def stop() -> bool:
            return keeping.cancel or keeping.lost

        if stop():
            raise Stopped
        source = self._store.read(key, _MAX_SOURCE_BYTES)
        return self._stored(job, index, self._services.send(call, source, headers, stop))

    def _tell(self, job: Job, keeping: Keeping, picture: dict[str, Any], done: int, count: int) -> None:
        """That the picture is there; the last one is told of with the end."""
        if done < count:
            progress = {"fraction": round(done / count, 4), "step": done, "total": count}
            renewed = self._leases.renew(job.id, job.fencing, progress=progress, pictures=[picture])
            keeping.cancel = keeping.cancel or renewed.cancel

    def _stored(self, job: Job, index: int, data: bytes) -> dict[str, Any]:
        try:
            header = inspect_image(data, "image", _ANSWER_BOUNDS)
        except InvalidField as error:
            raise Broken("an answer that is no picture") from error
        picture_format = header.format.lower()
        key = picture_key(job.tenant, job.id, job.fencing, index, SUFFIXES[picture_format])
        digest = hashlib.sha256(data).hexdigest()
        self._objects.announce([picture_document(job, key, len(data), digest)])
        self._store.put(key, data)
        return {
            "index": index,
            "key": key,
            "format": picture_format,
            "width": header.width,
            "height": header.height,
            "seed": None,
            "sha256": digest,
            "size": len(data),
        }


def _seconds(began: float) -> dict[str, float]:
    """From the first picture sent to the last one stored, waits at the service included: no GPU's time."""
    return {"service_seconds": round(time.monotonic() - began, 3)}
