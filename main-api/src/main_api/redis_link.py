"""Redis, single or cluster, that may be away at any time: callers say what happens then.

What is kept there can be lost without losing a job: cached records, rate limits, events on their way.
Every key has its name in braces and no question is about two of them, so that a cluster knows one node for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from redis import Redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import RedisClusterException, RedisError
from redis.retry import Retry

log = logging.getLogger(__name__)
Result = TypeVar("Result")

_CONNECT_S = 0.5
_ANSWER_S = 1.0
#: After a failure nobody tries for so long: a dead server must not cost every request a timeout.
_PAUSE_S = 2.0
_CONNECTIONS = 512
_DEFAULT_PORT = 6379


class RedisLink:
    """One server or cluster. `ask` never raises what Redis raises."""

    def __init__(self, url: str, *, cluster: bool = False) -> None:
        """The URL of a cluster may name several nodes, commas between, of which one has to be there."""
        limits: dict[str, Any] = {
            "socket_connect_timeout": _CONNECT_S,
            "socket_timeout": _ANSWER_S,
            "decode_responses": True,
            "max_connections": _CONNECTIONS,
        }
        self._client: Any
        if cluster:
            # Discovers the nodes at once, so it is made when it is first needed.
            self._make: Callable[[], Any] = lambda: _cluster(url, limits)
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
        except (RedisError, RedisClusterException, OSError) as error:
            if not self.down:
                log.warning("Redis cannot be reached: %s", type(error).__name__)
            self._again_at = time.monotonic() + _PAUSE_S
            return otherwise

    def is_reachable(self) -> bool:
        """Whether a key can be read: a node of a cluster that has failed still answers a ping."""
        return self.ask(lambda client: client.exists("enlight:{reachable}") == 0, False)

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = self._make()
            return self._client

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.close()


def _cluster(url: str, limits: dict[str, Any]) -> RedisCluster:
    """A client of the cluster that the nodes in `url` belong to."""
    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    first, *others = hosts.split(",")
    one_node = urlunsplit(parts._replace(netloc=f"{login}@{first}" if login else first))
    return RedisCluster.from_url(
        one_node,
        startup_nodes=[_node(host) for host in others],
        # Once: the first time finds out that a master was replaced, the second goes to the new one.
        retry=Retry(NoBackoff(), 1),
        # As the servers: what some nodes cannot answer, the others' keys do not suffer from.
        require_full_coverage=False,
        **limits,
    )


def _node(host: str) -> ClusterNode:
    name, _, port = host.rpartition(":") if ":" in host else (host, "", _DEFAULT_PORT)
    return ClusterNode(name, int(port))
