"""LoRA adapters in the base model's pipeline: put there once, switched on for a drawing."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dreambooth_api.inference.loaded import LoadedModel, LoadedModels
from dreambooth_api.models.artifact import LORA_WEIGHTS, Artifact, ModelKey
from dreambooth_api.models.cache.model_cache import ModelCache

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedAdapter(LoadedModel):
    """Under which name the pipeline knows it."""

    name: str
    pipeline: Any

    def drop(self) -> None:
        try:
            self.pipeline.delete_adapters(self.name)
        except Exception:
            log.warning("an adapter could not be dropped whole", exc_info=True)


class Adapters:
    """The adapters of one diffusers pipeline. Not thread-safe: the one drawing thread uses it."""

    def __init__(self, pipeline: Any, cache: ModelCache, loaded: LoadedModels) -> None:
        self._pipeline = pipeline
        self._cache = cache
        self._loaded = loaded
        # peft keeps adapters in a ModuleDict, whose keys may hold no dot: names of our own.
        self._numbers = itertools.count()

    @contextmanager
    def active(self, chosen: Sequence[tuple[Artifact, float]]) -> Iterator[None]:
        """Apply *chosen* (an open artifact, a weight) while the context lasts, and none before and after.

        Raises:
            StoreUnavailable, StoreCorrupt, StorageFull: one was damaged, and could not be fetched again.
        """
        wanted = {artifact.manifest.key for artifact, _ in chosen}
        try:
            names = [self._name_of(artifact, wanted) for artifact, _ in chosen]
            if names:
                self._pipeline.enable_lora()
                self._pipeline.set_adapters(names, [weight for _, weight in chosen])
            yield
        finally:
            # Also where loading failed: a freshly loaded adapter is switched on by diffusers.
            if any(isinstance(model, LoadedAdapter) for model in self._loaded.models):
                self._pipeline.disable_lora()

    def _name_of(self, artifact: Artifact, wanted: set[ModelKey]) -> str:
        key = artifact.manifest.key
        found = self._loaded.find(key)
        if isinstance(found, LoadedAdapter):
            return found.name
        adapter = LoadedAdapter(f"adapter{next(self._numbers)}", self._pipeline)
        self._loaded.make_room(artifact.bytes, keep=wanted)
        with self._cache.hashed(artifact) as right:
            try:
                self._pipeline.load_lora_weights(
                    str(right.folder),
                    weight_name=LORA_WEIGHTS,
                    adapter_name=adapter.name,
                    local_files_only=True,
                )
            except BaseException:
                adapter.drop()
                raise
        self._loaded.put(key, adapter, self._bytes_of(adapter), keep=wanted)
        return adapter.name

    def _bytes_of(self, adapter: LoadedAdapter) -> int:
        """What it takes in memory, which is in another precision than its file."""
        parts = [part for part in self._pipeline.components.values() if hasattr(part, "named_parameters")]
        return sum(
            weight.numel() * weight.element_size()
            for part in parts
            for name, weight in part.named_parameters()
            if f".{adapter.name}." in name
        )
