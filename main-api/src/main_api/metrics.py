"""What is counted beside requests: open jobs by kind and status, and what the service is without."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from enlight_common.errors import EnlightError
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from main_api.jobs.states import PROCESSING, QUEUED
from main_api.service import Service

_KEPT_S = 10.0


class _Jobs(Collector):
    """Looked up when somebody scrapes, and not more often than every ten seconds."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._counts: dict[tuple[str, str], int] = {}
        self._looked_at = 0.0
        self._lock = threading.Lock()

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        jobs = GaugeMetricFamily("jobs", "Jobs that wait or are under way", labels=["kind", "status"])
        for (kind, status), count in self._looked_up().items():
            jobs.add_metric([kind, status], count)
        yield jobs
        drawing = self._service.interactive.running
        yield GaugeMetricFamily("drawings_under_way", "Pictures that clients wait for", value=drawing)
        there = GaugeMetricFamily("dependency_up", "Whether it can be reached", labels=["name"])
        missing = self._service.missing()
        for name in ("database", "redis", "broker"):
            there.add_metric([name], name not in missing)
        yield there

    def _looked_up(self) -> dict[tuple[str, str], int]:
        with self._lock:
            if time.monotonic() - self._looked_at > _KEPT_S:
                try:
                    self._counts = self._service.records.jobs.count_by_status(QUEUED, PROCESSING)
                except EnlightError:
                    self._counts = {}
                self._looked_at = time.monotonic()
            return self._counts


def register_metrics(registry: CollectorRegistry, service: Service) -> None:
    """Add them to the `/metrics` of an app."""
    registry.register(_Jobs(service))
