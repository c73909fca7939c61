"""What the service counts beyond its requests, read off its parts when Prometheus asks."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dreambooth_api.service import Service


class _ServiceCollector(Collector):
    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        yield from self._drawings()
        yield from self._trainings()
        yield from self._models()

    def _drawings(self) -> Iterator[Metric]:
        queue = self._service.drawings
        yield GaugeMetricFamily("drawings_waiting", "Drawings in the queue", queue.length)
        yield CounterMetricFamily("pictures", "Pictures drawn", queue.pictures_drawn)
        yield CounterMetricFamily("drawing_seconds", "Seconds spent drawing them", queue.drawing_seconds)
        mean = queue.seconds_per_picture
        yield GaugeMetricFamily("seconds_per_picture", "Running mean of the recent drawings", mean)

    def _trainings(self) -> Iterator[Metric]:
        active = self._service.trainings.active
        running, step = (0, 0) if active is None else (1, active.step)
        yield GaugeMetricFamily("trainings_active", "Trainings running in this instance", running)
        yield GaugeMetricFamily("training_step", "Step of the running training", step)
        steps, ended = self._service.run_counts.read()
        yield CounterMetricFamily("training_steps", "Training steps done", steps)
        runs = CounterMetricFamily("trainings_ended", "Trainings that ended, by status", labels=["status"])
        for status in ("succeeded", "failed", "canceled"):
            runs.add_metric([status], ended.get(status, 0))
        yield runs

    def _models(self) -> Iterator[Metric]:
        engine = self._service.loaded_engine
        hits, misses = engine.cache_counts if engine else (0, 0)
        loaded = len(engine.loaded) if engine else 0
        yield GaugeMetricFamily("models_loaded", "Trained models in memory", loaded)
        yield CounterMetricFamily("model_cache_hits", "Wanted models found in memory", hits)
        yield CounterMetricFamily("model_cache_misses", "Wanted models read from the store", misses)
        ready = int(engine is not None)
        yield GaugeMetricFamily("base_model_ready", "Whether the base model is in memory", ready)


def register_metrics(registry: CollectorRegistry, service: Service) -> None:
    """Let ``/metrics`` tell of *service*."""
    registry.register(_ServiceCollector(service))
