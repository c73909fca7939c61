"""Redis, single or cluster, that may be away at any time: callers say what happens then.

What is kept there can be lost without losing a job: cached records, rate limits, events on their way.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from redis import Redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.exceptions import RedisError
from redis.retry import Retry

log = logging.getLogger(__name__)
Result = TypeVar("Result")

_CONNECT_S = 0.5
_ANSWER_S = 1.0
#: After a failure nobody tries for so long: a dead server must not cost every request a timeout.
_PAUSE_S = 2.0
_CONNECTIONS = 512


class RedisLink:
    """One server or cluster. `ask` never raises what Redis raises."""

    def __init__(self, url: str, *, cluster: bool = False) -> None:
        limits: dict[str, Any] = {
            "socket_connect_timeout": _CONNECT_S,
            "socket_timeout": _ANSWER_S,
            "decode_responses": True,
            "max_connections": _CONNECTIONS,
        }
        self._client: Any
        if cluster:
            # Discovers the nodes at once, so it is made when it is first needed.
            self._make: Callable[[], Any] = lambda: RedisCluster.from_url(url, **limits)
        else:
            self._make = lambda: Redis.from_url(url, retry=Retry(NoBackoff(), 0), **limits)
        self._client = None
        self._lock = threading.Lock()
        self._again_at = 0.0

    @property
    def down(self) -> bool:
        """Whether it failed a moment ago."""
        return time.monotonic() < self._again_at

    def ask(self, question: Callable[[Any], Result], otherwise: Result) -> Result:
        """What `question` gets from the client, or `otherwise` while Redis is away."""
        if self.down:
            return otherwise
        try:
            return question(self._connected())
        except (RedisError, OSError) as error:
            if not self.down:
                log.warning("Redis cannot be reached: %s", type(error).__name__)
            self._again_at = time.monotonic() + _PAUSE_S
            return otherwise

    def is_reachable(self) -> bool:
        return self.ask(lambda client: bool(client.ping()), False)

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = self._make()
            return self._client

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.close()
