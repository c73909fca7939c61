"""The collection `reservations`: which job an Idempotency-Key stands for, for 24 hours."""

from __future__ import annotations

from dataclasses import dataclass

from main_api.clock import now_ms
from main_api.ids import derived_id, new_id
from main_api.records.database import Database, Document, DuplicateId

KEPT_MS = 24 * 3600 * 1000
#: After this a request that made no job will not make one any more: its process died.
_UNDER_WAY_MS = 300_000
_ROUNDS = 16


@dataclass(frozen=True)
class Reservation:
    """The job that the request is to make, or has made. `fingerprint` is of the first request's body.

    `refused`: that request, when it came last, at `begun_at`, was refused.
    """

    job_id: str
    fingerprint: str
    refused: bool
    begun_at: int

    @property
    def over(self) -> bool:
        """Whether nobody is at work at its job: another request may have the key if there is none."""
        return self.refused or self.begun_at < now_ms() - _UNDER_WAY_MS


class Reservations:
    def __init__(self, database: Database) -> None:
        self._records = database.records("reservations")

    def reserve(self, tenant: str, key: str, fingerprint: str) -> Reservation:
        """The key's reservation, made if there is none: the same for all who ask at once."""
        name = derived_id("idempotency", tenant, key)
        for _ in range(_ROUNDS):
            mine = _new(fingerprint)
            found = self._records.get(name)
            if found is None:
                try:
                    self._records.insert({"_id": name, "tenant": tenant, **mine})
                except DuplicateId:
                    continue
                return _reservation(mine)
            if found["created_at"] > mine["created_at"] - KEPT_MS:
                return _reservation(found)
            # Another may take the old one over at the same moment: then the next round finds theirs.
            taken = self._records.change({"_id": name, "job_id": found["job_id"]}, {"$set": mine})
            if taken is not None:
                return _reservation(taken)
        raise AssertionError("a reservation that changes all the time")

    def begin(self, tenant: str, key: str, found: Reservation) -> None:
        """Note that a request is at work at the reservation's job now."""
        self._note(tenant, key, found, refused=False, begun_at=now_ms())

    def refuse(self, tenant: str, key: str, found: Reservation) -> None:
        """Note that it was refused: it makes no job."""
        self._note(tenant, key, found, refused=True)

    def take_over(self, tenant: str, key: str, found: Reservation, fingerprint: str) -> Reservation:
        """The key's reservation after another request took `found` over, which is over and made no job.

        Of several at once one is first, and all are given what it made; who came back to `found` meanwhile
        keeps it.
        """
        as_found = {"job_id": found.job_id, "refused": found.refused, "begun_at": found.begun_at}
        name = derived_id("idempotency", tenant, key)
        self._records.change({"_id": name, **as_found}, {"$set": _new(fingerprint)})
        return self.reserve(tenant, key, fingerprint)

    def _note(self, tenant: str, key: str, found: Reservation, **values: bool | int) -> None:
        name = derived_id("idempotency", tenant, key)
        self._records.change({"_id": name, "job_id": found.job_id}, {"$set": values})

    def forget_old(self, limit: int = 500) -> int:
        """Delete those that are over; how many there were."""
        old = {"created_at": {"$lt": now_ms() - 2 * KEPT_MS}}
        found = self._records.find(old, limit=limit, fields=["_id"])
        return sum(self._records.delete({"_id": one["_id"], **old}) for one in found)


def _new(fingerprint: str) -> Document:
    now = now_ms()
    return {
        "job_id": new_id(),
        "fingerprint": fingerprint,
        "created_at": now,
        "begun_at": now,
        "refused": False,
    }


def _reservation(document: Document) -> Reservation:
    return Reservation(
        document["job_id"],
        document["fingerprint"],
        document.get("refused", False),
        document.get("begun_at") or document["created_at"],
    )
