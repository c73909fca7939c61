"""Trained models in the memory of one process: the least recently used go when their bytes are wanted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Collection

from dreambooth_api.models.artifact import ModelKey


class LoadedModel(ABC):
    """An adapter, or a whole model, ready to draw with."""

    @abstractmethod
    def drop(self) -> None:
        """Give its memory back."""


class LoadedModels:
    """Adapters and whole models together, bounded in bytes and in number.

    Only the drawing thread uses it, apart from what says otherwise.
    """

    def __init__(self, max_bytes: int, max_count: int) -> None:
        self.max_bytes, self.max_count = max_bytes, max_count
        self._models: OrderedDict[ModelKey, tuple[LoadedModel, int]] = OrderedDict()
        self._deleted: deque[ModelKey] = deque(maxlen=1024)
        self.hits = 0
        self.misses = 0
        self.evictions = 0

    @property
    def keys(self) -> list[ModelKey]:
        """What is here, least recently used first. Fit for any thread."""
        return list(self._models)

    @property
    def models(self) -> list[LoadedModel]:
        """The models of ``keys``."""
        return [model for model, _ in self._models.values()]

    @property
    def sizes(self) -> dict[ModelKey, int]:
        """Bytes of each. Fit for any thread."""
        return {key: size for key, (_, size) in list(self._models.items())}

    @property
    def total_bytes(self) -> int:
        """Bytes of all. Fit for any thread."""
        return sum(self.sizes.values())

    def find(self, key: ModelKey) -> LoadedModel | None:
        """The model, which counts as used now."""
        self._drop_deleted()
        if key not in self._models:
            self.misses += 1
            return None
        self.hits += 1
        self._models.move_to_end(key)
        return self._models[key][0]

    def make_room(self, size: int, keep: Collection[ModelKey] = ()) -> None:
        """Drop what was not used for longest until *size* more bytes fit, but nothing of *keep*.

        Before something is loaded, not after: the two may not fit into memory together.
        """
        for key in self.keys:
            if len(self._models) < self.max_count and self.total_bytes + size <= self.max_bytes:
                return
            if key not in keep:
                self._drop(key)
                self.evictions += 1

    def put(self, key: ModelKey, model: LoadedModel, size: int) -> None:
        """Keep a model of *size* bytes."""
        self._models[key] = (model, size)

    def forget(self, key: ModelKey) -> None:
        """Drop a model that was deleted, as soon as nothing is being drawn. Fit for any thread."""
        self._deleted.append(key)

    def _drop_deleted(self) -> None:
        while self._deleted:
            key = self._deleted.popleft()
            if key in self._models:
                self._drop(key)

    def _drop(self, key: ModelKey) -> None:
        model, _ = self._models.pop(key)
        model.drop()
