"""The collection `turns`: whose turn it is to do what one process at a time should do, and until when."""

from __future__ import annotations

from main_api.clock import now_ms
from main_api.records.database import Database, DuplicateId


class Turns:
    """A turn spares work and is no lock: what is done in it must be right if two do it at once."""

    def __init__(self, database: Database) -> None:
        self._records = database.records("turns")

    def take(self, name: str, for_ms: int) -> bool:
        """Whether it is the caller's turn: nobody else gets it in the next `for_ms`. Raises Unavailable."""
        now = now_ms()
        found = self._records.get(name)
        if found is None:
            try:
                self._records.insert({"_id": name, "until": now + for_ms})
            except DuplicateId:
                return False
            return True
        if found["until"] > now:
            return False
        where = {"_id": name, "until": found["until"]}
        return self._records.change(where, {"$set": {"until": now + for_ms}}) is not None
