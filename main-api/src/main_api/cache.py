"""Records that are read often, kept in Redis beside the database: read there first, deleted on change."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from main_api.redis_link import RedisLink

Value = dict[str, Any]


class Cache:
    """Values by name. Without Redis every read is a miss."""

    def __init__(self, redis: RedisLink, *, expires_s: int = 30) -> None:
        """`expires_s` bounds how old a value can get when the deletion on change was lost."""
        self._redis = redis
        self._expires_s = expires_s

    def read(
        self, name: str, load: Callable[[], Value | None], *, expires_s: int | None = None
    ) -> Value | None:
        """The value called `name`; `load` gives it where it is not cached. None is not cached."""
        key = _key(name)
        text = self._redis.ask(lambda client: client.get(key), None)
        if text is not None:
            value: Value = json.loads(text)
            return value
        loaded = load()
        if loaded is not None:
            body = json.dumps(loaded)
            seconds = expires_s or self._expires_s
            self._redis.ask(lambda client: client.set(key, body, ex=seconds), None)
        return loaded

    def forget(self, name: str) -> None:
        """To be called after the record was changed."""
        self._redis.ask(lambda client: client.delete(_key(name)), 0)


def _key(name: str) -> str:
    return f"enlight:cache:{{{name}}}"
