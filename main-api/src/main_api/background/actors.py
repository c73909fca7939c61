"""The actors: each takes the id of a record and has the one who knows what it needs look at it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import dramatiq
from enlight_common.errors import EnlightError

from main_api.background.messages import QUEUES, Actor
from main_api.background.work import Work

log = logging.getLogger(__name__)

#: Lower is first: a webhook takes seconds, a picture may take minutes, and nobody waits for a deletion.
_PRIORITIES: dict[Actor, int] = {
    "notify": 0,
    "deliver_webhook": 10,
    "advance_chain": 0,
    "forward": 50,
    "delete_model": 90,
}
#: A turn of 5 minutes, after which no further job is begun, and one job of 16 large pictures.
_FORWARD_LIMIT_MS = 4 * 3600 * 1000


def declare(broker: dramatiq.Broker, work: Work) -> None:
    """Declare every actor at the broker."""
    runs: dict[Actor, Callable[[str], None]] = {
        "forward": work.forward,
        "advance_chain": work.advance_chain,
        "notify": work.notify,
        "deliver_webhook": work.deliver,
        "delete_model": work.delete_model,
    }
    for name, run in runs.items():
        options: dict[str, Any] = {"time_limit": _FORWARD_LIMIT_MS} if name == "forward" else {}
        declared = dramatiq.actor(
            broker=broker, actor_name=name, queue_name=QUEUES[name], priority=_PRIORITIES[name], **options
        )
        declared(_looking(name, run))


def _looking(name: Actor, run: Callable[[str], None]) -> Callable[[str], None]:
    def look(record_id: str) -> None:
        try:
            run(record_id)
        except EnlightError as error:
            # The sweep has it looked at again.
            log.warning("%s: %s", name, error.detail, extra={"record_id": record_id})

    return look
