"""What a job's webhook is owed, worked out from the job's record alone.

Nothing depends on being told of every change: whoever looks at a job finds what it owes, and of any number
who look at once, one makes the delivery.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from main_api.clock import now_ms
from main_api.ids import derived_id
from main_api.jobs.job import Job
from main_api.records.database import DuplicateId
from main_api.records.deliveries import Deliveries, delivery_document
from main_api.records.jobs import Jobs

#: Between two webhooks about output or logs of a job, as on Replicate. Milliseconds.
INTERVAL_MS = 500
#: Sent once each, and again until they arrive. The others are out of date when the next one comes.
LASTING = ("start", "completed")


@dataclass(frozen=True)
class Looked:
    """Deliveries to be sent now, and in how many milliseconds to look again (0: no need)."""

    deliveries: tuple[str, ...] = ()
    again_ms: int = 0


class Notices:
    def __init__(self, jobs: Jobs, deliveries: Deliveries) -> None:
        self._jobs = jobs
        self._deliveries = deliveries

    def look(self, job_id: str) -> Looked:
        """Make the deliveries that the job owes. Raises Unavailable."""
        job = self._jobs.get(job_id)
        if job is None or job.webhook is None:
            return Looked()
        owed = [name for name in LASTING if name in job.webhook["events"] and _has_come(job, name)]
        made = [one for name in owed if (one := self._make(job, name, derived_id("webhook", job.id, name)))]
        passing = self._passing(job, job.webhook)
        if job.terminal and not passing.again_ms:
            # Only now: until its deliveries are made, the sweep finds the job by this.
            self._jobs.note(job.id, {"webhook_due": 0}, where={"webhook_due": job.webhook_due})
        return Looked((*made, *passing.deliveries), passing.again_ms)

    def _passing(self, job: Job, webhook: dict[str, Any]) -> Looked:
        """Output and logs, at most every INTERVAL_MS, and at the job's end what was not told of yet."""
        told = webhook.get("told")
        known = told or {"at": 0, "pictures": 0, "logs": ""}
        logs = derived_id(*job.logs, repr(job.progress)) if job.logs or job.progress else ""
        news = []
        # Not how many there are: each step of a chain shows its own instead of those before.
        newest = max((one["revision"] for one in job.pictures), default=0)
        if "output" in webhook["events"] and newest > known["pictures"]:
            news.append("output")
        if "logs" in webhook["events"] and logs != known["logs"]:
            news.append("logs")
        if not news:
            return Looked()
        now = now_ms()
        early_ms = known["at"] + INTERVAL_MS - now
        if early_ms > 0 and not job.terminal:
            return Looked(again_ms=early_ms)
        telling = {"at": now, "pictures": newest, "logs": logs}
        where = {"webhook.told": None} if told is None else {"webhook.told.at": told["at"]}
        if self._jobs.note(job.id, {"webhook.told": telling}, where=where) is None:
            return Looked(again_ms=INTERVAL_MS)  # somebody else tells
        ids = [derived_id("webhook", job.id, name, str(now)) for name in news]
        made = [self._make(job, name, one) for name, one in zip(news, ids, strict=True)]
        return Looked(tuple(one for one in made if one))

    def _make(self, job: Job, event: str, delivery_id: str) -> str | None:
        """The id of the delivery, None where it was made before."""
        assert job.webhook is not None
        url = job.webhook["url"]
        document = delivery_document(delivery_id, job_id=job.id, tenant=job.tenant, event=event, url=url)
        try:
            self._deliveries.insert(document)
        except DuplicateId:
            return None
        return delivery_id


def _has_come(job: Job, event: str) -> bool:
    return job.terminal if event == "completed" else job.started_at is not None
