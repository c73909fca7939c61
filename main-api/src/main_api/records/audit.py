"""The collection `audit`: who changed what, and when."""

from __future__ import annotations

import logging
from typing import Any

from enlight_common.errors import Unavailable

from main_api.clock import now_ms
from main_api.ids import new_id
from main_api.records.database import Database, Document

log = logging.getLogger(__name__)


class Audit:
    def __init__(self, database: Database) -> None:
        self._records = database.records("audit")

    def record(
        self,
        action: str,
        *,
        tenant: str | None,
        actor: str,
        target: str,
        request_id: str | None = None,
        **details: Any,
    ) -> None:
        """Take down a change that has been made: `action` as "job.create", `actor` a key's id or a process.

        Where the database fails at this very moment, the log has it instead: the change cannot be undone.
        """
        entry = {
            "_id": new_id(),
            "at": now_ms(),
            "tenant": tenant,
            "action": action,
            "actor": actor,
            "target": target,
            "request_id": request_id,
            "details": details,
        }
        try:
            self._records.insert(entry)
        except Unavailable:
            log.error("audit record that could not be stored", extra={"audit": entry})

    def page(self, query: dict[str, Any], limit: int) -> list[Document]:
        """Newest first."""
        return self._records.find(query, order=(("_id", -1),), limit=limit)
