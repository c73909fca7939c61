"""Every 30 s (BACKGROUND_SWEEP_S): whatever should have been told of and may not have been.

So nothing depends on a message arriving.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from enlight_common.errors import EnlightError

from main_api.background.messages import Actor, Messages
from main_api.background.retention import Retention
from main_api.clock import now_ms
from main_api.jobs.states import FORWARDED_KINDS, PROCESSING, QUEUED, TERMINAL
from main_api.records.models import DELETING
from main_api.service import Service

log = logging.getLogger(__name__)

_RETENTION_TURN_MS = 3_600_000
#: Messages of one kind in one sweep: what is more waits for the next, and a heap of them helps nobody.
_PAGE = 500
#: What was told of in this sweep or the last one is under way.
_SWEEPS = 1.9


class BackgroundSweep:
    """Several processes may sweep: one at a time has the turn, and two at once would only send twice."""

    def __init__(self, service: Service, retention: Retention, messages: Messages) -> None:
        self._records = service.records
        self._retention = retention
        self._messages = messages
        self._every_s = service.settings.background_sweep_s
        self._told: dict[tuple[Actor, str], float] = {}

    def run(self) -> bool:
        """Sweep, if it is this process's turn; whether it was. Raises Unavailable."""
        if not self._records.turns.take("sweep", int(800 * self._every_s)):
            return False
        self.sweep()
        return True

    def sweep(self) -> None:
        """Look for everything that waits, each in its own right: one that fails keeps no other from it."""
        for look in (
            self._forwards,
            self._chains,
            self._orphans,
            self._webhooks,
            self._deletions,
            self._old,
        ):
            self._safely(look)

    def _safely(self, look: Callable[[], None]) -> None:
        try:
            look()
        except EnlightError as error:
            log.warning("the sweep failed: %s", error.detail)
        except Exception:
            log.exception("the sweep failed")

    def _forwards(self) -> None:
        waiting = self._records.jobs.due(FORWARDED_KINDS, (), now_ms())
        self._tell("forward", (job.id for job in waiting))

    def _chains(self) -> None:
        query = {"kind": "chain", "status": {"$in": [QUEUED, PROCESSING]}}
        chains = self._records.jobs.find(query, order=(("created_at", 1),), limit=_PAGE)
        self._tell("advance_chain", (job.id for job in chains))

    def _orphans(self) -> None:
        """Steps that are under way though their chain has ended."""
        query = {"status": {"$in": [QUEUED, PROCESSING]}, "parent": {"$ne": None}, "cancel_requested": False}
        parents = {job.parent for job in self._records.jobs.find(query, limit=_PAGE) if job.parent}
        ended = []
        for parent in sorted(parents):
            chain = self._records.jobs.get(parent)
            if chain is not None and chain.status in TERMINAL:
                ended.append(parent)
        self._tell("advance_chain", ended)

    def _webhooks(self) -> None:
        now = now_ms()
        owing = self._records.jobs.find({"webhook_due": {"$gt": 0, "$lte": now}}, limit=_PAGE)
        self._tell("notify", (job.id for job in owing))
        # A try moves its record's `due`: what is due has been told of to nobody, or in vain.
        for delivery in self._records.deliveries.due(now, _PAGE):
            self._messages.send("deliver_webhook", delivery["_id"])

    def _deletions(self) -> None:
        models = self._records.models.find({"state": DELETING}, limit=_PAGE)
        self._tell("delete_model", (model["_id"] for model in models))

    def _old(self) -> None:
        if self._records.turns.take("retention", _RETENTION_TURN_MS):
            self._retention.run()

    def _tell(self, actor: Actor, record_ids: Iterable[str]) -> None:
        now = time.monotonic()
        self._told = {key: at for key, at in self._told.items() if now - at < _SWEEPS * self._every_s}
        for record_id in record_ids:
            if (actor, record_id) not in self._told:
                self._told[actor, record_id] = now
                self._messages.send(actor, record_id)
