"""Sending deliveries, again and again until they arrive or it is of no use any more."""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from enlight_common.errors import NotFound

from main_api.clock import now_ms
from main_api.jobs.job import Job
from main_api.records.database import Document
from main_api.records.deliveries import DELIVERED, FAILED, PENDING, Deliveries
from main_api.records.jobs import Jobs
from main_api.webhooks.notices import LASTING
from main_api.webhooks.secrets import WebhookSecrets
from main_api.webhooks.sending import NotAllowed, NotSent, Reply, Sender
from main_api.webhooks.signing import signed_headers

log = logging.getLogger(__name__)

#: Waits of 5, 14, 39, 110, 307, 860 and 2,400 seconds between 8 tries: an hour and two minutes.
MAX_TRIES = 8
_FIRST_WAIT_S = 5.0
_GROWTH = 2.8
_JITTER = 0.25
#: A delivery that began so long ago, on top of the time that it may take, died with its process.
_MARGIN_S = 30.0
_GONE = 410
_AGENT = "Enlight-Webhooks/1"


@dataclass(frozen=True)
class _Result:
    """How a try went: the receiver's status, or why there is none."""

    status: int | None = None
    error: str | None = None
    retry_after_s: float = 0.0
    final: bool = False

    @property
    def arrived(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


class DeliveryRuns:
    """Runs deliveries. The same one 20 times at once is sent once."""

    def __init__(
        self,
        deliveries: Deliveries,
        jobs: Jobs,
        secrets: WebhookSecrets,
        sender: Sender,
        show: Callable[[Job], dict[str, Any]],
    ) -> None:
        """`show` is a job as its webhook is told of it."""
        self._deliveries = deliveries
        self._jobs = jobs
        self._secrets = secrets
        self._sender = sender
        self._show = show

    def run(self, delivery_id: str) -> Document | None:
        """Try to send it; the record afterwards, None where it was not due. Raises Unavailable."""
        found = self._deliveries.get(delivery_id)
        now = now_ms()
        if found is None or found["status"] != PENDING or found["due"] > now:
            return None
        busy_ms = int(1000 * (self._sender.policy.timeout_s + _MARGIN_S))
        begun = self._deliveries.change(
            found,
            {
                "attempts": found["attempts"] + 1,
                "tries": found["tries"] + 1,
                "due": now + busy_ms,
                "last_attempt_at": now,
            },
        )
        if begun is None:
            return None
        result = self._try(begun)
        log.info(
            "webhook tried",
            extra={"delivery_id": delivery_id, "status": result.status, "reason": result.error},
        )
        return self._deliveries.change(begun, _after(begun, result))

    def resend(self, delivery: Document) -> Document | None:
        """Let it be sent now, with all its tries before it; None where an attempt has just begun."""
        fresh = {"status": PENDING, "due": now_ms(), "tries": 0}
        return self._deliveries.change(delivery, fresh)

    def _try(self, delivery: Document) -> _Result:
        job = self._jobs.get(delivery["job_id"])
        if job is None:
            return _Result(error="the job was deleted", final=True)
        try:
            # As the job is now, not as it was: a late one never tells of the past.
            body = json.dumps(self._show(job), allow_nan=False).encode()
            secret = self._secrets.of(delivery["tenant"])
            headers = {"Content-Type": "application/json", "User-Agent": _AGENT}
            headers |= signed_headers(secret, delivery["_id"], int(time.time()), body)
            reply = self._sender.post(delivery["url"], body, headers)
        except NotSent as error:
            return _Result(error=str(error))
        except (NotAllowed, NotFound) as error:
            return _Result(error=str(error), final=True)
        return _result(reply)


def _result(reply: Reply) -> _Result:
    error = None if 200 <= reply.status < 300 else f"the receiver answered {reply.status}"
    return _Result(reply.status, error, reply.retry_after_s or 0.0, final=reply.status == _GONE)


def _after(delivery: Document, result: _Result) -> dict[str, Any]:
    """What the record says after a try."""
    now = now_ms()
    told = {"last_status": result.status, "last_error": result.error}
    if result.arrived:
        return {**told, "status": DELIVERED, "delivered_at": now}
    tries = MAX_TRIES if delivery["event"] in LASTING else 1
    if result.final or delivery["tries"] >= tries:
        return {**told, "status": FAILED}
    wait_s = max(wait_after(delivery["tries"]), result.retry_after_s)
    return {**told, "due": now + int(1000 * wait_s)}


def wait_after(tries: int) -> float:
    """Seconds until the next try, a quarter more or less by chance: many that failed together part."""
    return _FIRST_WAIT_S * _GROWTH ** (tries - 1) * random.uniform(1 - _JITTER, 1 + _JITTER)
