"""The parts behind webhooks, put together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from enlight_common.errors import InvalidField

from main_api.jobs.job import Job
from main_api.records.deliveries import Deliveries
from main_api.records.jobs import Jobs
from main_api.records.tenants import Tenants
from main_api.settings import MainApiSettings
from main_api.webhooks.addresses import parse_networks
from main_api.webhooks.delivery import DeliveryRuns
from main_api.webhooks.secrets import WebhookSecrets
from main_api.webhooks.sending import Policy, Sender
from main_api.webhooks.target import WrongTarget


class Webhooks:
    def __init__(
        self,
        settings: MainApiSettings,
        jobs: Jobs,
        tenants: Tenants,
        deliveries: Deliveries,
        show: Callable[[Job], dict[str, Any]],
    ) -> None:
        """`show` is a job as its webhook is told of it."""
        self.policy = policy_of(settings)
        self.secrets = WebhookSecrets(tenants)
        self.deliveries = DeliveryRuns(deliveries, jobs, self.secrets, Sender(self.policy), show)

    def check(self, url: str) -> None:
        """Raise InvalidField("webhook") for a URL that none may go to, as far as can be said without asking
        for its address.
        """
        try:
            self.policy.check(url)
        except WrongTarget as error:
            raise InvalidField("webhook", str(error)) from None


def policy_of(settings: MainApiSettings) -> Policy:
    """Where webhooks may go."""
    ports = settings.webhook_ports
    return Policy(
        ports=None if ports == "any" else frozenset(int(port) for port in ports.split(",")),
        private=parse_networks(settings.webhook_allow_private),
        timeout_s=settings.webhook_timeout_s,
    )
