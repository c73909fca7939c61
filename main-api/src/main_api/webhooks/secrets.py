"""The secrets that webhooks are signed with, one for each tenant, made when it is first needed."""

from __future__ import annotations

from enlight_common.errors import NotFound

from main_api.records.tenants import Tenants
from main_api.webhooks.signing import new_secret


class WebhookSecrets:
    def __init__(self, tenants: Tenants) -> None:
        self._tenants = tenants

    def of(self, tenant: str) -> str:
        """The tenant's secret. Raises NotFound where there is no such tenant."""
        if (known := self._known(tenant)) is not None:
            return known
        self._tenants.note(tenant, {"webhook_secret": new_secret()}, where={"webhook_secret": None})
        # Another may have been quicker: the first one counts.
        if (known := self._known(tenant)) is not None:
            return known
        raise NotFound("there is no such tenant")

    def replace(self, tenant: str) -> str:
        """A new secret; the old one signs nothing any more. Raises NotFound."""
        secret = new_secret()
        if not self._tenants.note(tenant, {"webhook_secret": secret}):
            raise NotFound("there is no such tenant")
        return secret

    def _known(self, tenant: str) -> str | None:
        found = self._tenants.get(tenant)
        return found["webhook_secret"] if found else None
