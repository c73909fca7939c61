"""The trained models in the memory of one process, of both kinds together."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

import torch

from dreambooth_api.inference.loaded import LoadedModels
from dreambooth_api.inference.lora import AdapterWeights, HostAdapters
from dreambooth_api.models.artifact import ModelKey

if TYPE_CHECKING:
    from dreambooth_api.inference.pipelines import PipelineSet

#: Whole fine-tunes; each is as big as its base model, so that the bytes bound them first.
_MAX_FULL = 64


class CountedAdapters(HostAdapters):
    """Tells what it holds, and how often it was asked for that."""

    def __init__(self, max_bytes: int, device: torch.device) -> None:
        super().__init__(max_bytes, device)
        self.hits = 0
        self.misses = 0
        self.evictions = 0

    @property
    def sizes(self) -> dict[Hashable, int]:
        """Bytes of each, least recently used first."""
        with self._lock:
            return {key: weights.bytes for key, weights in self._held.items()}

    def get(self, key: Hashable, load: Callable[[], AdapterWeights]) -> AdapterWeights:
        loads = 0

        def counted() -> AdapterWeights:
            nonlocal loads
            loads += 1
            return load()

        try:
            return super().get(key, counted)
        finally:
            with self._lock:
                self.misses += loads
                self.hits += 1 - loads

    def _hold(self, key: Hashable, weights: AdapterWeights) -> None:
        before = len(self._held)
        super()._hold(key, weights)
        self.evictions += before + (key in self._held) - len(self._held)


class ModelMemory:
    """Adapters and whole fine-tunes, each with half of the bytes; any thread may read it, and ``forget``."""

    def __init__(self, max_bytes: int, device: str) -> None:
        self.adapters = CountedAdapters(max_bytes // 2, torch.device(device))
        self.full: LoadedModels[PipelineSet] = LoadedModels(max_bytes // 2, _MAX_FULL)

    @property
    def sizes(self) -> dict[ModelKey, int]:
        """Bytes of each, of each kind the least recently used first."""
        adapters = {key: size for key, size in self.adapters.sizes.items() if isinstance(key, ModelKey)}
        return {**adapters, **self.full.sizes}

    @property
    def total_bytes(self) -> int:
        """Bytes of all."""
        return sum(self.sizes.values())

    @property
    def hits(self) -> int:
        """How often a wanted one was here."""
        return self.adapters.hits + self.full.hits

    @property
    def misses(self) -> int:
        """How often one had to be loaded."""
        return self.adapters.misses + self.full.misses

    @property
    def evictions(self) -> int:
        """How many were dropped for others' sake."""
        return self.adapters.evictions + self.full.evictions

    def forget(self, key: ModelKey) -> None:
        """Drop a model that was deleted; who draws with it goes on."""
        self.adapters.forget(key)
        self.full.forget(key)

    def clear(self) -> None:
        """Drop all, when nothing is drawn any more."""
        self.adapters.clear()
        self.full.clear()
