"""The collection `reservations`: which job an Idempotency-Key stands for, for 24 hours."""

from __future__ import annotations

from dataclasses import dataclass

from main_api.clock import now_ms
from main_api.ids import derived_id, new_id
from main_api.records.database import Database, DuplicateId

KEPT_MS = 24 * 3600 * 1000
#: After this a request that made no job will not make one any more: its process died.
_UNDER_WAY_MS = 300_000
_ROUNDS = 16


@dataclass(frozen=True)
class Reservation:
    """The job that the request is to make, or has made. `fingerprint` is of the first request's body;
    `over`: that request was refused, or is long gone, so that another may have the key if there is no job.
    """

    job_id: str
    fingerprint: str
    over: bool = False


class Reservations:
    def __init__(self, database: Database) -> None:
        self._records = database.records("reservations")

    def reserve(self, tenant: str, key: str, fingerprint: str) -> Reservation:
        """The key's reservation, made if there is none: the same for all who ask at once."""
        name = derived_id("idempotency", tenant, key)
        for _ in range(_ROUNDS):
            now = now_ms()
            mine = {"job_id": new_id(), "fingerprint": fingerprint, "created_at": now, "refused": False}
            found = self._records.get(name)
            if found is None:
                try:
                    self._records.insert({"_id": name, "tenant": tenant, **mine})
                except DuplicateId:
                    continue
                return Reservation(str(mine["job_id"]), fingerprint)
            if found["created_at"] > now - KEPT_MS:
                over = found.get("refused", False) or found["created_at"] < now - _UNDER_WAY_MS
                return Reservation(found["job_id"], found["fingerprint"], over)
            # Another may take the old one over at the same moment: then the next round finds theirs.
            taken = self._records.change({"_id": name, "job_id": found["job_id"]}, {"$set": mine})
            if taken is not None:
                return Reservation(taken["job_id"], fingerprint)
        raise AssertionError("a reservation that changes all the time")

    def take_over(self, tenant: str, key: str, found: Reservation, fingerprint: str) -> Reservation:
        """The key's reservation after another request took `found` over, which is over and made no job.

        Of several at once one is first, and all are given what it made.
        """
        name = derived_id("idempotency", tenant, key)
        mine = {"job_id": new_id(), "fingerprint": fingerprint, "created_at": now_ms(), "refused": False}
        self._records.change({"_id": name, "job_id": found.job_id}, {"$set": mine})
        return self.reserve(tenant, key, fingerprint)

    def refuse(self, tenant: str, key: str, found: Reservation) -> None:
        """Note that the request was refused: it makes no job."""
        name = derived_id("idempotency", tenant, key)
        self._records.change({"_id": name, "job_id": found.job_id}, {"$set": {"refused": True}})

    def forget_old(self, limit: int = 500) -> int:
        """Delete those that are over; how many there were."""
        old = self._records.find({"created_at": {"$lt": now_ms() - 2 * KEPT_MS}}, limit=limit, fields=["_id"])
        return sum(self._records.delete({"_id": one["_id"]}) for one in old)
