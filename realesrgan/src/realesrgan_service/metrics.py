"""What the service counts beyond its requests, read off its parts when Prometheus asks."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from realesrgan_service.service import Service


class _ServiceCollector(Collector):
    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        service, queue = self._service, self._service.queue
        networks = service.networks
        yield GaugeMetricFamily("upscalings_waiting", "Pictures in the queue", queue.length)
        yield CounterMetricFamily("upscaled_pictures", "Pictures enlarged", service.pictures)
        yield CounterMetricFamily("upscaled_pixels", "Pixels that networks were given", service.pixels)
        yield CounterMetricFamily("upscaling_seconds", "Seconds spent enlarging", queue.seconds)
        yield GaugeMetricFamily(
            "upscaler_ready", "Whether the default upscaler is in memory", int(bool(networks))
        )
        pace = GaugeMetricFamily(
            "upscaler_seconds_per_megapixel", "Running mean, of the network's input", labels=["model"]
        )
        for name, network in networks.items():
            pace.add_metric([name], network.seconds_per_pixel * 1e6)
        yield pace


def register_metrics(registry: CollectorRegistry, service: Service) -> None:
    """Let ``/metrics`` tell of *service*."""
    registry.register(_ServiceCollector(service))
