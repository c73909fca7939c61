"""What the background process does, put together once and reached by actors and by the sweep."""

from __future__ import annotations

from main_api.background.chains import Chains
from main_api.background.deletion import Deletions
from main_api.background.forwarding import Forwarder
from main_api.background.hooks import connect
from main_api.background.messages import Messages
from main_api.background.retention import Retention
from main_api.background.services import ImageServices
from main_api.background.sweeping import BackgroundSweep
from main_api.records.deliveries import PENDING
from main_api.service import Service
from main_api.webhooks.notices import Notices


class Work:
    def __init__(self, service: Service, messages: Messages) -> None:
        settings = service.settings
        records = service.records
        self._messages = messages
        connect(service.hooks, messages)
        self.forwarder = Forwarder(
            service.leases,
            service.keeper,
            ImageServices(
                bgrem=settings.bgrem_url,
                upsampler=settings.upsampler_url,
                realesrgan=settings.realesrgan_url,
                timeout_s=settings.instance_timeout_s,
            ),
            service.pictures,
            records.objects,
            messages,
            # The rest is for what takes a moment: chains and webhooks.
            places=max(1, settings.background_threads // 2),
        )
        self.chains = Chains(records.jobs, service.submission, service.hooks)
        self.notices = Notices(records.jobs, records.deliveries)
        self.deliveries = service.webhooks.deliveries
        self.deletions = Deletions(service)
        self.retention = Retention(service)
        self.sweep = BackgroundSweep(service, self.retention, messages)

    def forward(self, job_id: str) -> None:
        self.forwarder.run(job_id)

    def advance_chain(self, job_id: str) -> None:
        self.chains.advance(job_id)

    def notify(self, job_id: str) -> None:
        looked = self.notices.look(job_id)
        for delivery_id in looked.deliveries:
            self._messages.send("deliver_webhook", delivery_id)
        if looked.again_ms:
            self._messages.send("notify", job_id, delay_ms=looked.again_ms)

    def deliver(self, delivery_id: str) -> None:
        after = self.deliveries.run(delivery_id)
        if after is not None and after["status"] == PENDING:
            # Where this is lost, or is too long to be sent, the sweep finds it when it is due.
            wait_ms = max(1, after["due"] - after["last_attempt_at"])
            self._messages.send("deliver_webhook", delivery_id, delay_ms=wait_ms)

    def delete_model(self, record_id: str) -> None:
        self.deletions.run(record_id)
