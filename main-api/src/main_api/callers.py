"""Who a request comes from."""

from __future__ import annotations

from dataclasses import dataclass

from main_api.records.keys import Scope
from main_api.records.tenants import Quotas


@dataclass(frozen=True)
class Caller:
    """A tenant, through one of its keys. `key_id` is None for the kept calls that send none."""

    tenant: str
    key_id: str | None
    scopes: frozenset[Scope]
    quotas: Quotas

    def may(self, scope: Scope) -> bool:
        """An administrator may do everything."""
        return scope in self.scopes or "admin" in self.scopes

    @property
    def actor(self) -> str:
        """As audit records name it."""
        return f"key:{self.key_id}" if self.key_id else "keyless"
