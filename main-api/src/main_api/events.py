"""What happens to a job, told as it happens.

The record is what is told from; an event's id is the job's revision. A Redis stream for each job only says
that there is something new, so a lost stream, a lost server or a lost message costs a second and no event.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from main_api.jobs.job import Job
from main_api.redis_link import RedisLink

_KEPT_ENTRIES = 64
_EXPIRES_S = 3600
#: How long one look into the stream blocks; below the link's timeout.
_BLOCK_MS = 500
#: The record is looked at so often while the stream works, and while it does not. Seconds.
_LOOK_S = 2.0
_POLL_S = 0.4


@dataclass(frozen=True)
class Change:
    """`name` is the job's status, "progress", or "picture", which comes with the picture's index."""

    revision: int
    name: str
    job: Job
    picture: int | None = None


def changes_after(job: Job, since: int) -> list[Change]:
    """What a follower who knows the job's revision `since` has to be told."""
    if job.revision <= since:
        return []
    pictures = [
        Change(one["revision"], "picture", job, one["index"])
        for one in sorted(job.pictures, key=lambda one: (one["revision"], one["index"]))
        if one["revision"] > since
    ]
    name = "progress" if job.status == "processing" and job.progress else job.status
    return [*pictures, Change(job.revision, name, job)]


class Events:
    """Announces that jobs changed, and follows them."""

    def __init__(self, redis: RedisLink) -> None:
        self._redis = redis
        self._changed = threading.Condition()

    def announce(self, job: Job) -> None:
        """Wake whoever follows the job. Never raises."""
        key = _key(job.id)

        def add(client: Any) -> None:
            pipe = client.pipeline(transaction=False)
            pipe.xadd(key, {"revision": job.revision}, maxlen=_KEPT_ENTRIES, approximate=True)
            pipe.expire(key, _EXPIRES_S)
            pipe.execute()

        self._redis.ask(add, None)
        with self._changed:
            self._changed.notify_all()

    def follow(
        self, load: Callable[[], Job | None], since: int, stop: Callable[[], bool]
    ) -> Iterator[Change | None]:
        """Everything after revision `since` until the job's end; None at least every second meanwhile."""
        position = "0-0"
        while not stop():
            job = load()
            if job is None:
                return
            yield from changes_after(job, since)
            since = max(since, job.revision)
            if job.terminal:
                return
            look_at = time.monotonic() + _LOOK_S
            news = False
            while not news and not stop() and time.monotonic() < look_at:
                yield None
                position, news = self._news(job.id, position, since)
                news = news or self._redis.down

    def wait(self, load: Callable[[], Job | None], seconds: float, stop: Callable[[], bool]) -> Job | None:
        """The job when it has ended, or as it is after `seconds` or when `stop` says so."""
        deadline = time.monotonic() + seconds
        job = None
        for change in self.follow(load, 0, lambda: stop() or time.monotonic() >= deadline):
            job = change.job if change is not None else job
        return job or load()

    def _news(self, job_id: str, position: str, since: int) -> tuple[str, bool]:
        """Whether the stream has a revision after `since` behind `position`; waits a moment for it."""
        key = _key(job_id)
        found: Any = self._redis.ask(
            lambda client: client.xread({key: position}, count=_KEPT_ENTRIES, block=_BLOCK_MS), None
        )
        if found is None and self._redis.down:
            with self._changed:
                self._changed.wait(_POLL_S)
            return position, True
        entries = _entries(found)
        if not entries:
            return position, False
        return entries[-1][0], any(int(fields["revision"]) > since for _, fields in entries)


def _entries(found: Any) -> list[tuple[str, dict[str, str]]]:
    """The entries of an XREAD of one stream: a list of pairs, or a mapping where protocol 3 is spoken."""
    if not found:
        return []
    if isinstance(found, dict):
        (stream,) = found.values()
        return list(stream[0]) if stream and isinstance(stream[0], list) else list(stream)
    return list(found[0][1])


def _key(job_id: str) -> str:
    return f"enlight:events:{{{job_id}}}"
