"""The broker behind BROKER_URL, and which of dramatiq's habits are kept."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import Middleware, ShutdownNotifications, TimeLimit
from enlight_common.settings import SettingsError
from redis import Redis

_CONNECT_S = 2.0
_ANSWER_S = 5.0
_LOOK_S = 1.0
#: dramatiq's own default. Nothing here should take a fraction of it, as every wait has a timeout of its own:
#: what still runs then hangs, and its thread is better got back. `forward` has another (actors.py).
TIME_LIMIT_MS = 600_000


def open_broker(url: str) -> dramatiq.Broker:
    """Connects when it is first used. Raises SettingsError for a URL of anything but Redis or RabbitMQ."""
    scheme = urlsplit(url).scheme
    if scheme in ("redis", "rediss", "unix"):
        client = Redis.from_url(url, socket_connect_timeout=_CONNECT_S, socket_timeout=_ANSWER_S)
        broker: dramatiq.Broker = RedisBroker(  # type: ignore[no-untyped-call]
            client=client, middleware=_middleware(), namespace="enlight"
        )
        return broker
    if scheme in ("amqp", "amqps"):
        separator = "&" if urlsplit(url).query else "?"
        patience = (
            f"socket_timeout={_ANSWER_S:g}&blocked_connection_timeout={_ANSWER_S:g}&connection_attempts=1"
        )
        # Without confirmation, a message that RabbitMQ never took would seem to be sent.
        return RabbitmqBroker(
            url=f"{url}{separator}{patience}", confirm_delivery=True, middleware=_middleware()
        )
    raise SettingsError("wrong settings: BROKER_URL: must be a redis:// or an amqp:// URL")


def is_reachable(url: str) -> bool:
    """Whether something listens where the broker behind BROKER_URL should be."""
    where = urlsplit(url)
    try:
        if where.scheme == "unix":
            with socket.socket(socket.AF_UNIX) as one:
                one.settimeout(_LOOK_S)
                one.connect(where.path)
            return True
        port = where.port or {"amqp": 5672, "amqps": 5671}.get(where.scheme, 6379)
        socket.create_connection((where.hostname or "localhost", port), _LOOK_S).close()
    except (OSError, ValueError):
        return False
    return True


def _middleware() -> list[Middleware]:
    """Of dramatiq's defaults these are left out:

    Retries (20 of them): a failed look at a record is repeated by the sweep, and how often work is tried
    stands in the record. So a message that failed is done with, and none piles up as a dead letter.
    Results: what came of it stands in the record, and there is no backend to lose it from.
    AgeLimit, Callbacks, Pipelines: nothing uses them; chains are records.
    """
    return [TimeLimit(time_limit=TIME_LIMIT_MS), ShutdownNotifications(notify_shutdown=False)]
