"""Redis, single or cluster, that may be away at any time: callers say what happens then.

What is kept there can be lost without losing a job: cached records, rate limits, events on their way.
Every key has its name in braces and no question is about two of them: a cluster has one node for it.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from enlight_common.settings import SettingsError
from redis import Redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.connection import parse_url
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
_URL = "redis://user:password@host:port/0, or rediss:// for TLS"
_CLUSTER_URL = "redis://user:password@host:port,host:port, or rediss:// for TLS"


class _Busy(Exception):
    """Another thread is finding out where the nodes are."""


class RedisLink:
    """One server or cluster. `ask` never raises what Redis raises."""

    def __init__(self, url: str, *, cluster: bool = False) -> None:
        """The URL of a cluster may name several nodes, commas between, of which one has to be there.

        Connects when it is first used. Raises SettingsError for a URL that is none.
        """
        limits: dict[str, Any] = {
            "socket_connect_timeout": _CONNECT_S,
            "socket_timeout": _ANSWER_S,
            "decode_responses": True,
            "max_connections": _CONNECTIONS,
        }
        self._client: Any = None
        self._make: Callable[[], Any]
        try:
            if cluster:
                # Its client discovers the nodes at once.
                one_node, others = _nodes(url)
                self._make = lambda: self._discovering_alone(_cluster(one_node, others, limits))
            else:
                self._client = Redis.from_url(url, retry=Retry(NoBackoff(), 0), **limits)
        except ValueError:
            raise SettingsError(
                f"wrong settings: REDIS_URL: must be {_CLUSTER_URL if cluster else _URL}"
            ) from None
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
        except _Busy:
            return otherwise
        except (RedisError, RedisClusterException, OSError, IndexError) as error:
            # IndexError: redis-py's, of a cluster in which no node has a slot yet.
            if not self.down:
                log.warning("Redis cannot be reached: %s", type(error).__name__)
            self._again_at = max(self._again_at, time.monotonic() + _PAUSE_S)
            return otherwise

    def is_reachable(self) -> bool:
        """Whether a key can be read: a node of a cluster that has failed still answers a ping."""
        return self.ask(lambda client: client.exists("enlight:{reachable}") == 0, False)

    def _connected(self) -> Any:
        client = self._client
        return client if client is not None else self._alone(self._connect)

    def _connect(self) -> Any:
        if self._client is None:
            self._again_at = math.inf  # away to the others meanwhile
            try:
                self._client = self._make()
            finally:
                self._again_at = 0.0
        return self._client

    def _discovering_alone(self, client: RedisCluster) -> RedisCluster:
        """The client asks node after node where a key's is when one has failed, which takes seconds where
        they hang: one thread does that, and to the others the cluster is away meanwhile.
        """
        nodes: Any = client.nodes_manager
        discover = nodes.initialize

        def discover_alone(*args: Any, **kwargs: Any) -> None:
            self._again_at = math.inf
            try:
                discover(*args, **kwargs)
            finally:
                self._again_at = 0.0

        nodes.initialize = lambda *args, **kwargs: self._alone(lambda: discover_alone(*args, **kwargs))
        return client

    def _alone(self, work: Callable[[], Result]) -> Result:
        if not self._lock.acquire(blocking=False):
            raise _Busy
        try:
            return work()
        finally:
            self._lock.release()


def _nodes(url: str) -> tuple[str, list[ClusterNode]]:
    """The URL of the first node, and the others. Raises ValueError."""
    parts = urlsplit(url)
    login, at, hosts = parts.netloc.rpartition("@")
    first, *others = hosts.split(",")
    one_node = urlunsplit(parts._replace(netloc=f"{login}{at}{first}"))
    options: Mapping[str, Any] = parse_url(one_node)  # type: ignore[no-untyped-call]
    if options.get("db") or "host" not in options:
        raise ValueError("a cluster has no numbered databases, and is reached over the network")
    return one_node, [_node(host) for host in others]


def _node(host: str) -> ClusterNode:
    parts = urlsplit(f"//{host}")
    if parts.hostname is None:
        raise ValueError("a host is missing")
    return ClusterNode(parts.hostname, parts.port or _DEFAULT_PORT)  # type: ignore[no-untyped-call]


def _cluster(one_node: str, others: list[ClusterNode], limits: dict[str, Any]) -> RedisCluster:
    """A client of the cluster that the nodes belong to; it asks one of them who the others are."""
    return RedisCluster.from_url(
        one_node,
        startup_nodes=list(others),
        # Once: the first time finds out that a master was replaced, the second goes to the new one.
        retry=Retry(NoBackoff(), 1),
        # As the servers: what some nodes cannot answer, the others' keys do not suffer from.
        require_full_coverage=False,
        **limits,
    )
