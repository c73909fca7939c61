"""What the service counts beyond its requests, read off its parts when Prometheus asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dreambooth_api.service import Service

if TYPE_CHECKING:
    from dreambooth_api.inference.memory import ModelMemory


class _ServiceCollector(Collector):
    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        yield from self._drawings()
        yield from self._trainings()
        yield from self._models()

    def _drawings(self) -> Iterator[Metric]:
        drawings, engine = self._service.drawings, self._service.loaded_engine
        yield GaugeMetricFamily(
            "drawings_waiting", "Drawings none of whose pictures is begun", drawings.length
        )
        yield CounterMetricFamily("pictures", "Pictures drawn", drawings.pictures_done)
        yield CounterMetricFamily("drawing_seconds", "Seconds with something to draw", drawings.seconds)
        mean = drawings.seconds_per_picture
        yield GaugeMetricFamily("seconds_per_picture", "Between two pictures, recently, while drawing", mean)
        if engine is not None:
            counts = engine.counts
            yield GaugeMetricFamily(
                "batch_pictures", "Pictures in the batch that is being stepped", counts.batch
            )
            yield GaugeMetricFamily(
                "pictures_waiting", "Begun pictures and new ones beside it", counts.waiting
            )
            yield CounterMetricFamily("batch_steps", "Forward passes through the UNet", counts.batches)
            yield CounterMetricFamily(
                "picture_steps", "Steps that pictures took in them", counts.picture_steps
            )

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
        ready = int(engine is not None)
        yield GaugeMetricFamily("base_model_ready", "Whether the base model is in memory", ready)
        if engine is not None:
            yield from self._models_in_memory(engine.loaded)
        cache = self._service.store.cache
        counts, space = cache.counts, cache.space
        yield GaugeMetricFamily(
            "model_cache_bytes", "What the model cache takes of the disk", space.inventory.used_bytes()
        )
        yield GaugeMetricFamily("model_cache_max_bytes", "What it may take", space.max_bytes)
        yield CounterMetricFamily("model_cache_hits", "Wanted models found in the cache", counts.hits)
        yield CounterMetricFamily("model_cache_misses", "Wanted models that had to be fetched", counts.misses)
        yield CounterMetricFamily("model_cache_evictions", "Models evicted by this instance", space.evictions)
        yield CounterMetricFamily("model_cache_damaged", "Cached models found damaged", counts.damaged)
        yield CounterMetricFamily("model_cache_fetched_bytes", "Bytes fetched", counts.fetched_bytes)
        yield CounterMetricFamily("model_cache_fetch_seconds", "Seconds spent fetching", counts.fetch_seconds)

    @staticmethod
    def _models_in_memory(loaded: ModelMemory) -> Iterator[Metric]:
        yield GaugeMetricFamily("models_loaded", "Trained models in memory", len(loaded.sizes))
        yield GaugeMetricFamily("models_loaded_bytes", "What they take of it", loaded.total_bytes)
        yield CounterMetricFamily("models_loaded_hits", "Wanted models found in memory", loaded.hits)
        yield CounterMetricFamily(
            "models_loaded_misses", "Wanted models that had to be loaded", loaded.misses
        )
        yield CounterMetricFamily("models_loaded_evictions", "Models dropped from memory", loaded.evictions)


def register_metrics(registry: CollectorRegistry, service: Service) -> None:
    """Let ``/metrics`` tell of *service*."""
    registry.register(_ServiceCollector(service))
