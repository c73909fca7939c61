"""What the service counts beyond its requests, read off its parts when Prometheus asks."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from upsampler.service import Service


class _ServiceCollector(Collector):
    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        service, queue = self._service, self._service.queue
        yield GaugeMetricFamily("pictures_waiting", "Pictures in the queue", queue.length)
        yield CounterMetricFamily("pictures", "Pictures enlarged", service.pictures)
        yield CounterMetricFamily("upscaling_seconds", "Seconds spent enlarging them", queue.seconds)
        ready = int(service.loaded.ready is True)
        yield GaugeMetricFamily("upscaler_ready", "Whether the default model is loaded", ready)
        yield GaugeMetricFamily("models_loaded", "Models in memory", len(service.engines.names))


def register_metrics(registry: CollectorRegistry, service: Service) -> None:
    """Let ``/metrics`` tell of *service*."""
    registry.register(_ServiceCollector(service))
