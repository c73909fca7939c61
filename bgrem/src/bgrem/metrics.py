"""What the service counts beyond its requests, read off its parts when Prometheus asks."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bgrem.service import Service


class _ServiceCollector(Collector):
    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        service, queue = self._service, self._service.inferences
        yield GaugeMetricFamily("requests_taken", "Requests being worked on or waiting", service.places.taken)
        yield GaugeMetricFamily(
            "mattings_taken", "Those of them that ask for alpha matting", service.mattings.taken
        )
        yield CounterMetricFamily("inferences", "Runs of a network", queue.units_done)
        yield CounterMetricFamily("inference_seconds", "Seconds spent in networks", queue.seconds)
        yield GaugeMetricFamily("seconds_per_inference", "Running mean", queue.seconds_per_unit)
        cutter = service.cutter.value
        yield GaugeMetricFamily(
            "model_ready", "Whether the default model was loaded", int(cutter is not None)
        )
        if cutter is None:
            return
        sessions = cutter.sessions
        yield GaugeMetricFamily("models_loaded", "Models in memory", len(sessions.loaded))
        yield CounterMetricFamily("models_loads", "Models that had to be loaded", sessions.loads)
        yield CounterMetricFamily("models_evictions", "Models given up for others", sessions.evictions)
        info = GaugeMetricFamily(
            "runtime_info", "What the default model runs in", labels=["runtime", "device"]
        )
        runtime = sessions.runtime_of(service.settings.default_model)
        info.add_metric([runtime.name, runtime.device], 1)
        yield info


def register_metrics(registry: CollectorRegistry, service: Service) -> None:
    """Let ``/metrics`` tell of *service*."""
    registry.register(_ServiceCollector(service))
