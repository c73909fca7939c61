"""What a tenant may still submit."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from main_api.cache import Cache, Value
from main_api.callers import Caller
from main_api.clock import now_ms
from main_api.errors import QuotaReached
from main_api.jobs.states import QUEUED, Kind
from main_api.records.jobs import Jobs
from main_api.records.models import Models
from main_api.records.objects import Objects

_DAY_MS = 24 * 3600 * 1000
_QUEUE_RETRY_S = 10.0
_STRIPES = 64
#: A tenant's stored bytes are added up so often at most. Seconds.
_STORED_S = 10


class QuotaBook:
    """Counts against the records themselves, so that nothing drifts whatever is killed.

    Counting and adding happen under a lock here: one process lets nobody past a bound, several at most one
    request each.
    """

    def __init__(self, jobs: Jobs, objects: Objects, models: Models, cache: Cache) -> None:
        self._jobs = jobs
        self._objects = objects
        self._models = models
        self._cache = cache
        self._locks = [threading.Lock() for _ in range(_STRIPES)]

    @contextmanager
    def place(self, caller: Caller, kind: Kind) -> Iterator[None]:
        """Around adding one job. Raises QuotaReached when the tenant has enough of them."""
        with self._locks[hash(caller.tenant) % _STRIPES]:
            self.check(caller, kind)
            yield

    def check(self, caller: Caller, kind: Kind) -> None:
        """Raises QuotaReached."""
        quotas = caller.quotas
        waiting = {"tenant": caller.tenant, "status": QUEUED}
        if self._jobs.count(waiting, limit=quotas.max_queued) >= quotas.max_queued:
            raise QuotaReached(
                f"{quotas.max_queued} jobs of this tenant are waiting, which is all it may have",
                retry_after=_QUEUE_RETRY_S,
                quota="max_queued",
            )
        if kind == "training":
            self._check_trainings(caller)

    def _check_trainings(self, caller: Caller) -> None:
        most = caller.quotas.max_trainings_a_day
        now = now_ms()
        query = {"tenant": caller.tenant, "kind": "training", "created_at": {"$gt": now - _DAY_MS}}
        if self._jobs.count(query, limit=max(1, most)) >= most:
            oldest = self._jobs.find(query, order=(("created_at", 1),), limit=1)
            free_at = (oldest[0].created_at if oldest else now) + _DAY_MS
            raise QuotaReached(
                f"this tenant may begin {most} trainings in 24 hours, and has",
                retry_after=max(1.0, (free_at - now) / 1000),
                quota="max_trainings_a_day",
            )

    def check_bytes(self, caller: Caller, more: int) -> None:
        """Raises QuotaReached when `more` bytes would be too many to keep, or there are too many already."""
        most = caller.quotas.max_stored_bytes
        stored = self.stored_bytes(caller.tenant)
        if stored >= most or stored + more > most:
            raise QuotaReached(
                f"this tenant may store {most} bytes; delete models, photos or pictures first",
                quota="max_stored_bytes",
            )

    def forget_bytes(self, tenant: str) -> None:
        """To be called after something was deleted."""
        self._cache.forget(f"stored:{tenant}")

    def stored_bytes(self, tenant: str) -> int:
        """What the tenant's photos, pictures and models take, as of a few seconds ago."""

        def add_up() -> Value:
            return {"bytes": self._objects.stored_bytes(tenant) + self._models.stored_bytes(tenant)}

        found = self._cache.read(f"stored:{tenant}", add_up, expires_s=_STORED_S)
        return int((found or {"bytes": 0})["bytes"])
