"""Who may do what: keys, their tenants' quotas, and how often they may ask."""

from __future__ import annotations

from typing import Any, Protocol

from enlight_common.errors import Unauthorized

from main_api.cache import Cache
from main_api.callers import Caller
from main_api.clock import now_ms
from main_api.limits import Allowance, RateLimits
from main_api.records.keys import Keys, Presented
from main_api.records.tenants import Quotas, Tenants

_REFUSED = "a valid key is required, as `Authorization: Bearer <key>`"


class AccessRecords(Protocol):
    """The collections that this needs."""

    tenants: Tenants
    keys: Keys
    node_keys: Keys


class Access:
    """Recognises callers. Records are cached; who changes one calls `forget_key` or `forget_tenant`."""

    def __init__(self, records: AccessRecords, cache: Cache, limits: RateLimits) -> None:
        self._records = records
        self._cache = cache
        self._limits = limits

    def caller(self, key: str) -> Caller:
        """Whose the key is. Raises Unauthorized, the same for whatever is wrong with it."""
        document = self._opened(self._records.keys, key)
        tenant = str(document["tenant"])
        return Caller(tenant, document["_id"], frozenset(document["scopes"]), self.quotas(tenant))

    def keyless(self, tenant: str) -> Caller:
        """The tenant of kept calls that send no key: it may train and draw, nothing else."""
        return Caller(tenant, None, frozenset({"train", "generate"}), self.quotas(tenant))

    def node(self, key: str) -> str:
        """The id of a node's key. Raises Unauthorized."""
        return str(self._opened(self._records.node_keys, key)["_id"])

    def quotas(self, tenant: str) -> Quotas:
        """What the tenant may use."""
        found = self._cache.read(f"tenant:{tenant}", lambda: _cached(self._records.tenants.get(tenant)))
        return self._records.tenants.quotas_of(found)

    def take(self, caller: Caller) -> Allowance:
        """Count one request of the caller's tenant."""
        return self._limits.take(caller.tenant, caller.quotas.requests_a_minute)

    def forget_key(self, keys: Keys, key_id: str) -> None:
        """A key of the collection `keys`."""
        self._cache.forget(_name(keys, key_id))

    def forget_tenant(self, tenant: str) -> None:
        self._cache.forget(f"tenant:{tenant}")

    def _opened(self, keys: Keys, text: str) -> dict[str, Any]:
        presented = Presented.parse(text)
        if presented is None or presented.prefix != keys.prefix:
            raise Unauthorized(_REFUSED)
        document = self._cache.read(_name(keys, presented.id), lambda: keys.get(presented.id))
        # Compared where there is none, too: it takes as long.
        if not presented.opens(document, now_ms()) or document is None:
            raise Unauthorized(_REFUSED)
        return document


def _name(keys: Keys, key_id: str) -> str:
    """In the cache: a tenant's key is never found where a node's is looked for."""
    return f"{keys.prefix}:{key_id}"


def _cached(tenant: dict[str, Any] | None) -> dict[str, Any] | None:
    """What of a tenant's record may lie in Redis: not the secret of its webhooks."""
    return {"quotas": tenant["quotas"]} if tenant is not None else None
