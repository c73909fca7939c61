"""Generations that somebody waits for are drawn at once, through nginx, while there is room.

The drawing begins while its record is being written, and what it makes is kept only if that was: a database
takes its milliseconds beside the drawing, not before it. The record is this process's from its first write,
under a lease like a worker's: if the process dies, the lease runs out and a worker goes on.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import threading
import time
from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from enlight_common.errors import EnlightError, Unavailable
from enlight_common.images import inspect_image

from main_api.errors import LeaseLost
from main_api.instances import InstanceClient, Refused
from main_api.jobs.completion import picture_document
from main_api.jobs.job import Job
from main_api.jobs.keeper import Keeping, LeaseKeeper
from main_api.jobs.leases import Leases
from main_api.jobs.removal import ObjectRemoval
from main_api.outgoing import Broken, NothingDone, Stopped
from main_api.records.objects import Objects
from main_api.storage import SUFFIXES, PictureStore, picture_key

log = logging.getLogger(__name__)
_MAX_SOURCE_BYTES = 20_000_000
_DEFAULT_FORMAT = "png"

_NotDrawn = Stopped | NothingDone | Refused | Broken


@dataclass(frozen=True)
class Begun:
    """A job that is being drawn: as it was stored, and as it is at its end; None if it was given back."""

    job: Job
    drawing: Future[Job | None]


@dataclass(frozen=True)
class _Drawing:
    """Between the request's thread, which writes the record, and the one that draws."""

    job: Job
    #: Whether the record is there, and this process's. What is drawn without comes to nothing.
    recorded: Future[bool] = field(default_factory=Future)
    ended: Future[Job | None] = field(default_factory=Future)
    #: The keys of objects that were announced, once `recorded` is known.
    announced: set[str] = field(default_factory=set)
    #: The pictures that were put, whatever became of the job then.
    put: list[dict[str, Any]] = field(default_factory=list)

    def is_recorded(self) -> bool:
        return self.recorded.done() and self.recorded.result()

    def is_refused(self) -> bool:
        return self.recorded.done() and not self.recorded.result()


class Interactive:
    """Draws as many generations at once as `places` says; the rest waits for workers."""

    def __init__(
        self,
        leases: Leases,
        keeper: LeaseKeeper,
        instances: InstanceClient | None,
        store: PictureStore,
        objects: Objects,
        removal: ObjectRemoval,
        *,
        places: int,
    ) -> None:
        self._leases = leases
        self._keeper = keeper
        self._instances = instances
        self._store = store
        self._objects = objects
        self._removal = removal
        self._worker = f"main-api:{os.getpid()}"
        self._places = places
        self._running: Counter[str] = Counter()
        self._draining = False
        self._lock = threading.Lock()

    @property
    def running(self) -> int:
        """How many are being drawn."""
        with self._lock:
            return self._running.total()

    def begin(self, job: Job, most: int) -> Begun | None:
        """Begin to draw the new job in another thread, and store it.

        None, and nothing stored, where there is no room, no instance, or the tenant, who may have `most`
        under way, has enough: the job may be stored to wait for a worker then. What is begun never waits, so
        it is not counted among the waiting. Raises DuplicateId, Unavailable.
        """
        if self._instances is None or self._draining or job.kind != "generation":
            return None
        if not self._enter(job.tenant, most):
            return None
        drawing = _Drawing(self._leases.as_claimed(job, self._worker))
        try:
            # Not a pool, which keeps for later what it finds no thread for.
            threading.Thread(
                target=self._draw, args=(self._instances, drawing), name="draw", daemon=True
            ).start()
        except RuntimeError:
            log.exception("a job could not be begun", extra={"job_id": job.id})
            self._leave(job.tenant)
            return None
        stored = False
        try:
            stored = self._leases.insert_claimed(drawing.job)
            if stored:
                self._announce(drawing)
        finally:
            drawing.recorded.set_result(stored)
        return Begun(drawing.job, drawing.ended) if stored else None

    def _enter(self, tenant: str, most: int) -> bool:
        with self._lock:
            if self._running[tenant] >= most or self._running.total() >= self._places:
                return False
            self._running[tenant] += 1
            return True

    def _leave(self, tenant: str) -> None:
        with self._lock:
            self._running[tenant] -= 1
            if not self._running[tenant]:
                del self._running[tenant]  # else there is one for every tenant that ever drew

    def drain(self, seconds: float) -> None:
        """Begin nothing more, and give what is being drawn `seconds`."""
        self._draining = True
        deadline = time.monotonic() + seconds
        while self.running and time.monotonic() < deadline:
            time.sleep(0.05)

    def _draw(self, instances: InstanceClient, drawing: _Drawing) -> None:
        job = drawing.job
        ended: Job | None = None
        try:
            with self._keeper.keep(job, drawing.is_recorded) as keeping:
                ended = self._drawn(instances, drawing, keeping)
        except LeaseLost:
            log.warning("a job was lost while it was drawn", extra={"job_id": job.id})
        except EnlightError as error:
            # The lease runs out, and a worker takes it.
            log.warning("a job could not be drawn: %s", error.detail, extra={"job_id": job.id})
        except Exception:
            log.exception("a job could not be drawn", extra={"job_id": job.id})
        finally:
            self._leave(job.tenant)
            drawing.ended.set_result(ended)
        self._look_after(drawing)

    def _drawn(self, instances: InstanceClient, drawing: _Drawing, keeping: Keeping) -> Job | None:
        """The job at its end; None where it was not stored after all."""
        job = drawing.job
        answer: dict[str, Any] = {}
        failure: _NotDrawn | None = None
        body = self._body(job)
        began = time.monotonic()
        try:
            answer = instances.draw(
                job.tenant,
                body,
                _headers(job),
                lambda: keeping.cancel or keeping.lost or drawing.is_refused(),
            )
        except (Stopped, NothingDone, Refused, Broken) as error:
            failure = error
        metrics = {"gpu_seconds": round(time.monotonic() - began, 3)}
        if not drawing.recorded.result():
            return None
        if keeping.cancel or isinstance(failure, Stopped):
            return self._leases.cancel(job.id, job.fencing, metrics=metrics)
        if failure is not None:
            return self._given_up(job, failure)
        pictures = self._stored(drawing, answer)
        output = {"pictures": pictures, "model": None, "settings": answer.get("settings") or {}}
        return self._leases.succeed(job.id, job.fencing, output, metrics=metrics, known=job)

    def _given_up(self, job: Job, failure: NothingDone | Refused | Broken) -> Job:
        match failure:
            case NothingDone():
                return self._leases.release(job.id, job.fencing, failure.detail, counts=False)
            case Refused():
                refusal = {"type": failure.type, "message": failure.message}
                return self._leases.fail(job.id, job.fencing, refusal)
            case Broken():
                return self._leases.release(job.id, job.fencing, f"the instance went away ({failure})")

    def _body(self, job: Job) -> dict[str, Any]:
        sources: dict[str, Any] = {
            name: base64.b64encode(self._store.read(job.files[name], _MAX_SOURCE_BYTES)).decode()
            for name in ("image", "mask")
            if name in job.files
        }
        return {**job.task, **sources}

    def _announce(self, drawing: _Drawing) -> None:
        """Take down the pictures that the job asks for, whose sizes nobody knows yet."""
        job = drawing.job
        made = job.task.get("format", _DEFAULT_FORMAT)
        keys = [_key(job, index, made) for index in range(job.task["num_image"])]
        try:
            self._objects.announce([picture_document(job, key, 0, None) for key in keys])
        except Unavailable:
            return  # they are announced when they are there
        drawing.announced.update(keys)

    def _stored(self, drawing: _Drawing, answer: dict[str, Any]) -> list[dict[str, Any]]:
        job = drawing.job
        made = answer.get("format", _DEFAULT_FORMAT)
        seeds = answer.get("seeds") or []
        pictures, contents = [], []
        for index, text in enumerate(answer["images"]):
            data = base64.b64decode(text)
            header = inspect_image(data, "image")
            pictures.append(
                {
                    "index": index,
                    "key": _key(job, index, made),
                    "format": made,
                    "width": header.width,
                    "height": header.height,
                    "seed": seeds[index] if index < len(seeds) else None,
                    "sha256": hashlib.sha256(data).hexdigest(),
                    "size": len(data),
                }
            )
            contents.append(data)
        fresh = [one for one in pictures if one["key"] not in drawing.announced]
        self._objects.announce(
            [picture_document(job, one["key"], one["size"], one["sha256"]) for one in fresh]
        )
        for one, data in zip(pictures, contents, strict=True):
            drawing.put.append(one)
            self._store.put(one["key"], data)
        return pictures

    def _look_after(self, drawing: _Drawing) -> None:
        """Note the sizes of what was put, and remove what was deleted while it was drawn. Once the job has
        ended, so that nobody waits for it; sizes that are not reached here are noted by retention.
        """
        job = drawing.job
        try:
            for one in drawing.put:
                key, size, digest = one["key"], one["size"], one["sha256"]
                if not self._objects.note(key, {"size": size, "sha256": digest}):
                    self._removal.remove([picture_document(job, key, size, digest)])
        except EnlightError as error:
            log.warning("a picture was not looked after: %s", error.detail, extra={"job_id": job.id})
        except Exception:
            log.exception("a picture was not looked after", extra={"job_id": job.id})


def _key(job: Job, index: int, made: str) -> str:
    return picture_key(job.tenant, job.id, job.fencing, index, SUFFIXES[made])


def _headers(job: Job) -> dict[str, str]:
    """By which the instance's log lines and spans are found with ours."""
    names = {"X-Request-Id": job.request_id, "traceparent": job.traceparent}
    return {name: value for name, value in names.items() if value is not None}
