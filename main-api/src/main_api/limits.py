"""How many requests a tenant may send: a bucket in Redis that refills evenly, or one here without Redis.

The generic cell rate algorithm: one number per tenant, the time at which its bucket will be full again.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from main_api.redis_link import RedisLink

WINDOW_S = 60.0
_REMEMBERED = 10_000

# By the server's clock: machines' differ. KEYS: the bucket. ARGV: seconds per request, seconds of the window.
_SCRIPT = """
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
local interval, window = tonumber(ARGV[1]), tonumber(ARGV[2])
local full_at = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now)
if full_at + interval - now > window then
    return {0, tostring(full_at - now)}
end
redis.call('SET', KEYS[1], string.format('%.6f', full_at + interval), 'EX', math.ceil(window) + 1)
return {1, tostring(full_at + interval - now)}
"""


@dataclass(frozen=True)
class Allowance:
    """What is left of a tenant's limit. Times in seconds."""

    allowed: bool
    limit: int
    remaining: int
    reset_s: int
    retry_after_s: float


class RateLimits:
    def __init__(self, redis: RedisLink, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._clock = clock
        self._here: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, name: str, limit: int) -> Allowance:
        """Take one of `limit` requests a minute from the bucket called `name`."""
        interval = WINDOW_S / limit
        key = f"enlight:rate:{{{name}}}"

        def ask(client: Any) -> tuple[bool, float]:
            allowed, used = client.eval(_SCRIPT, 1, key, repr(interval), repr(WINDOW_S))
            return bool(allowed), float(used)

        found = self._redis.ask(ask, None)
        allowed, used = found if found is not None else self._take_here(name, interval)
        remaining = max(0, math.floor((WINDOW_S - used) / interval + 1e-6))
        wait = 0.0 if allowed else max(0.0, used + interval - WINDOW_S)
        return Allowance(allowed, limit, remaining, math.ceil(used), wait)

    def _take_here(self, name: str, interval: float) -> tuple[bool, float]:
        with self._lock:
            now = self._clock()
            full_at = max(self._here.pop(name, 0.0), now)
            allowed = full_at + interval - now <= WINDOW_S
            if allowed:
                full_at += interval
            self._here[name] = full_at
            while len(self._here) > _REMEMBERED:
                self._here.popitem(last=False)
            return allowed, full_at - now
