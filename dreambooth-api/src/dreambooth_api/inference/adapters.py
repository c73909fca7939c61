"""LoRA adapters in the base model's pipeline: loaded once, switched on for a drawing, the oldest dropped."""

from __future__ import annotations

import itertools
import logging
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dreambooth_api.models.store import ModelStore

log = logging.getLogger(__name__)

#: The file name that ``load_lora_weights`` looks for by itself.
WEIGHTS_FILE = "pytorch_lora_weights.safetensors"


@dataclass(frozen=True)
class ModelKey:
    """One stored version of one model."""

    tenant: str
    model_id: str
    version: str

    @property
    def pinned(self) -> str:
        """The id that names this very version to the store."""
        return f"{self.model_id}@{self.version}"


@dataclass(frozen=True)
class _Loaded:
    name: str
    size: int


class AdapterCache:
    """The adapters of one diffusers pipeline, least recently used dropped first.

    Not thread-safe: the one drawing thread uses it.
    """

    def __init__(self, pipeline: Any, store: ModelStore, *, max_count: int, max_bytes: int) -> None:
        self._pipeline = pipeline
        self._store = store
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._loaded: OrderedDict[ModelKey, _Loaded] = OrderedDict()
        # peft keeps adapters in a ModuleDict, whose keys may hold no dot: names of our own.
        self._numbers = itertools.count()
        self.hits = 0
        self.misses = 0

    @property
    def keys(self) -> list[ModelKey]:
        """What is loaded, least recently used first."""
        return list(self._loaded)

    @property
    def total_bytes(self) -> int:
        """Size of the loaded adapters' files."""
        return sum(loaded.size for loaded in self._loaded.values())

    @contextmanager
    def active(self, chosen: Sequence[tuple[ModelKey, float]]) -> Iterator[None]:
        """Apply *chosen* (key, weight) while the context lasts, and none before and after.

        Raises:
            UnknownModel: the store has one of them no longer.
        """
        try:
            names = [self._name_of(key) for key, _ in chosen]
            if names:
                self._pipeline.enable_lora()
                self._pipeline.set_adapters(names, [weight for _, weight in chosen])
                self._make_room(keep={key for key, _ in chosen})
            yield
        finally:
            # Also where loading failed: a freshly loaded adapter is switched on by diffusers.
            if self._loaded:
                self._pipeline.disable_lora()

    def _name_of(self, key: ModelKey) -> str:
        found = self._loaded.get(key)
        if found is not None:
            self.hits += 1
            self._loaded.move_to_end(key)
            return found.name
        self.misses += 1
        name = f"adapter{next(self._numbers)}"
        with self._store.open(key.pinned, key.tenant) as artifact:
            try:
                self._pipeline.load_lora_weights(
                    str(artifact.folder), weight_name=WEIGHTS_FILE, adapter_name=name, local_files_only=True
                )
            except BaseException:
                self._delete(name)
                raise
            size = sum(file.size for file in artifact.manifest.files)
        self._loaded[key] = _Loaded(name, size)
        return name

    def _make_room(self, keep: set[ModelKey]) -> None:
        for key in self.keys:
            if len(self._loaded) <= self._max_count and self.total_bytes <= self._max_bytes:
                return
            if key not in keep:
                self._delete(self._loaded.pop(key).name)

    def _delete(self, name: str) -> None:
        try:
            self._pipeline.delete_adapters(name)
        except Exception:
            log.warning("an adapter could not be dropped whole", exc_info=True)
