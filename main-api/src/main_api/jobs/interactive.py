"""Generations that somebody waits for are drawn at once, through nginx, while there is room.

The record is this process's from its first write, under a lease like a worker's: if the process dies, the
lease runs out and a worker goes on.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from enlight_common.errors import EnlightError
from enlight_common.images import inspect_image

from main_api.errors import LeaseLost
from main_api.instances import InstanceClient, Refused
from main_api.jobs.completion import picture_document
from main_api.jobs.job import Job
from main_api.jobs.keeper import Keeping, LeaseKeeper
from main_api.jobs.leases import Leases
from main_api.outgoing import Broken, NothingDone, Stopped
from main_api.records.objects import Objects
from main_api.storage import SUFFIXES, PictureStore, picture_key

log = logging.getLogger(__name__)
_MAX_SOURCE_BYTES = 20_000_000


@dataclass(frozen=True)
class Begun:
    """A job that is being drawn: as it was stored, and as it is at its end; None if it was given back."""

    job: Job
    drawing: Future[Job | None]


def _never() -> Future[Job | None]:
    """Of a drawing that was not begun."""
    future: Future[Job | None] = Future()
    future.set_result(None)
    return future


class Interactive:
    """Draws as many generations at once as `places` says; the rest waits for workers."""

    def __init__(
        self,
        leases: Leases,
        keeper: LeaseKeeper,
        instances: InstanceClient | None,
        store: PictureStore,
        objects: Objects,
        *,
        places: int,
    ) -> None:
        self._leases = leases
        self._keeper = keeper
        self._instances = instances
        self._store = store
        self._objects = objects
        self._worker = f"main-api:{os.getpid()}"
        self._threads = ThreadPoolExecutor(places, "draw")
        self._places = threading.Semaphore(places)
        self._running = 0
        self._draining = False
        self._lock = threading.Lock()

    @property
    def running(self) -> int:
        """How many are being drawn."""
        return self._running

    def begin(self, job: Job) -> Begun | None:
        """Store the new job and begin to draw it in another thread.

        None, and nothing stored, where there is no room, no instance, or the tenant has enough under way: the
        job may be stored to wait for a worker then. What is begun never waits, so it is not counted among the
        waiting. Raises DuplicateId, Unavailable.
        """
        if self._instances is None or self._draining or job.kind != "generation":
            return None
        if not self._places.acquire(blocking=False):
            return None
        claimed = None
        try:
            claimed = self._leases.insert_claimed(job, self._worker)
        finally:
            if claimed is None:
                self._places.release()
        if claimed is None:
            return None
        with self._lock:
            self._running += 1
        try:
            return Begun(claimed, self._threads.submit(self._draw, self._instances, claimed))
        except RuntimeError:
            # No thread is to be had. The lease runs out, and a worker goes on.
            log.exception("a job could not be begun", extra={"job_id": job.id})
            with self._lock:
                self._running -= 1
            self._places.release()
            return Begun(claimed, _never())

    def drain(self, seconds: float) -> None:
        """Begin nothing more, and give what is being drawn `seconds`."""
        self._draining = True
        deadline = time.monotonic() + seconds
        while self._running and time.monotonic() < deadline:
            time.sleep(0.05)

    def _draw(self, instances: InstanceClient, job: Job) -> Job | None:
        try:
            with self._keeper.keep(job) as keeping:
                return self._drawn(instances, job, keeping)
        except LeaseLost:
            log.warning("a job was lost while it was drawn", extra={"job_id": job.id})
        except EnlightError as error:
            # The lease runs out, and a worker takes it.
            log.warning("a job could not be drawn: %s", error.detail, extra={"job_id": job.id})
        except Exception:
            log.exception("a job could not be drawn", extra={"job_id": job.id})
        finally:
            with self._lock:
                self._running -= 1
            self._places.release()
        return None

    def _drawn(self, instances: InstanceClient, job: Job, keeping: Keeping) -> Job:
        body = dict(job.task)
        for name in ("image", "mask"):
            if name in job.files:
                body[name] = base64.b64encode(self._store.read(job.files[name], _MAX_SOURCE_BYTES)).decode()
        headers = {
            name: value
            for name, value in (("X-Request-Id", job.request_id), ("traceparent", job.traceparent))
            if value is not None
        }
        began = time.monotonic()
        try:
            answer = instances.draw(job.tenant, body, headers, lambda: keeping.cancel or keeping.lost)
        except Stopped:
            seconds = round(time.monotonic() - began, 3)
            return self._leases.cancel(job.id, job.fencing, metrics={"gpu_seconds": seconds})
        except NothingDone as error:
            return self._leases.release(job.id, job.fencing, error.detail, counts=False)
        except Refused as error:
            refusal = {"type": error.type, "message": error.message}
            return self._leases.fail(job.id, job.fencing, refusal)
        except Broken as error:
            return self._leases.release(job.id, job.fencing, f"the instance went away ({error})")
        seconds = round(time.monotonic() - began, 3)
        if keeping.cancel:
            return self._leases.cancel(job.id, job.fencing, metrics={"gpu_seconds": seconds})
        pictures = self._stored(job, answer)
        output = {"pictures": pictures, "model": None, "settings": answer.get("settings") or {}}
        metrics = {"gpu_seconds": seconds}
        return self._leases.succeed(job.id, job.fencing, output, metrics=metrics, known=job)

    def _stored(self, job: Job, answer: dict[str, Any]) -> list[dict[str, Any]]:
        picture_format = answer.get("format", "png")
        seeds = answer.get("seeds") or []
        pictures, contents = [], []
        for index, text in enumerate(answer["images"]):
            data = base64.b64decode(text)
            header = inspect_image(data, "image")
            pictures.append(
                {
                    "index": index,
                    "key": picture_key(job.tenant, job.id, job.fencing, index, SUFFIXES[picture_format]),
                    "format": picture_format,
                    "width": header.width,
                    "height": header.height,
                    "seed": seeds[index] if index < len(seeds) else None,
                    "sha256": hashlib.sha256(data).hexdigest(),
                    "size": len(data),
                }
            )
            contents.append(data)
        self._objects.announce(
            [picture_document(job, one["key"], one["size"], one["sha256"]) for one in pictures]
        )
        for one, data in zip(pictures, contents, strict=True):
            self._store.put(one["key"], data)
        return pictures
