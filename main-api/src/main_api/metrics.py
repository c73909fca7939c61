"""What is counted beside requests: open jobs by kind and status, and what the service is without."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping

from enlight_common.errors import EnlightError
from enlight_common.schemas.claims import GpuKind
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from main_api.jobs.claimable import claimable_jobs
from main_api.jobs.states import PROCESSING, QUEUED
from main_api.service import Service

_KEPT_S = 10.0


class _Jobs(Collector):
    """Looked up when somebody scrapes, and not more often than every ten seconds."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._counts: dict[tuple[str, str], int] = {}
        self._claimable: Mapping[GpuKind, int] = {}
        self._looked_at = 0.0
        self._lock = threading.Lock()

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        counts, claimable = self._looked_up()
        jobs = GaugeMetricFamily("jobs", "Jobs that wait or are under way", labels=["kind", "status"])
        for (kind, status), count in counts.items():
            jobs.add_metric([kind, status], count)
        yield jobs
        # One label, and nothing while the database is away: KEDA reads it, and then leaves all as it is.
        room = GaugeMetricFamily("jobs_claimable", "Jobs that one more worker could begin", labels=["kind"])
        for kind, count in claimable.items():
            room.add_metric([kind], count)
        yield room
        drawing = self._service.interactive.running
        yield GaugeMetricFamily("drawings_under_way", "Pictures that clients wait for", value=drawing)
        there = GaugeMetricFamily("dependency_up", "Whether it can be reached", labels=["name"])
        missing = self._service.missing()
        for name in ("database", "redis", "broker"):
            there.add_metric([name], name not in missing)
        yield there

    def _looked_up(self) -> tuple[Mapping[tuple[str, str], int], Mapping[GpuKind, int]]:
        with self._lock:
            if time.monotonic() - self._looked_at > _KEPT_S:
                jobs = self._service.records.jobs
                try:
                    self._counts = jobs.count_by_status(QUEUED, PROCESSING)
                    self._claimable = claimable_jobs(jobs, self._max_processing)
                except EnlightError:
                    self._counts, self._claimable = {}, {}
                self._looked_at = time.monotonic()
            return self._counts, self._claimable

    def _max_processing(self, tenant: str) -> int:
        return self._service.access.quotas(tenant).max_processing


def register_metrics(registry: CollectorRegistry, service: Service) -> None:
    """Add them to the `/metrics` of an app."""
    registry.register(_Jobs(service))
