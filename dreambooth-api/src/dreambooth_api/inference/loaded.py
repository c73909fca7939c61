"""Whole models in the memory of one process: the least recently used go when their bytes are wanted."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

from dreambooth_api.models.artifact import ModelKey

Model = TypeVar("Model")


class LoadedModels(Generic[Model]):
    """Bounded in bytes and in number; a drawing that needs more than the bound gets it, and gives it back
    with the next one.

    Only the thread of the plain drawings uses it, apart from what says otherwise.
    """

    def __init__(self, max_bytes: int, max_count: int) -> None:
        self.max_bytes, self.max_count = max_bytes, max_count
        self._models: OrderedDict[ModelKey, tuple[Model, int]] = OrderedDict()
        self._deleted: deque[ModelKey] = deque(maxlen=1024)
        #: Bytes of each, least recently used first. Replaced as a whole, so that any thread may read it.
        self.sizes: dict[ModelKey, int] = {}
        self.hits = 0
        self.misses = 0
        self.evictions = 0

    @property
    def total_bytes(self) -> int:
        """Bytes of all. Fit for any thread."""
        return sum(self.sizes.values())

    def find(self, key: ModelKey) -> Model | None:
        """The model, which counts as used now."""
        if key not in self._models:
            self.misses += 1
            return None
        self.hits += 1
        self._models.move_to_end(key)
        self._tell()
        return self._models[key][0]

    def make_room(self, size: int) -> None:
        """Drop what was not used for longest until one more of *size* bytes fits.

        Before something is loaded: the two may not fit into memory together.
        """
        self._shrink(self.max_count - 1, self.max_bytes - size)

    def put(self, key: ModelKey, model: Model, size: int) -> None:
        """Keep a model that turned out to have *size* bytes, and drop others if need be."""
        self._models[key] = (model, size)
        self._tell()
        self._shrink(self.max_count, self.max_bytes, keep=key)

    def _shrink(self, count: int, size: int, keep: ModelKey | None = None) -> None:
        for key in list(self._models):
            if len(self._models) <= count and self.total_bytes <= size:
                return
            if key != keep:
                self._drop(key)
                self.evictions += 1

    def forget(self, key: ModelKey) -> None:
        """Have a model that was deleted dropped before the next drawing. Fit for any thread."""
        self._deleted.append(key)

    def drop_deleted(self) -> None:
        """Drop what ``forget`` was told; between drawings, because one may be using it."""
        while self._deleted:
            key = self._deleted.popleft()
            if key in self._models:
                self._drop(key)

    def clear(self) -> None:
        """Drop all, when nothing is drawn any more."""
        self._models.clear()
        self._tell()

    def _drop(self, key: ModelKey) -> None:
        # Nothing else refers to it but who draws with it: Python frees its memory with the object.
        del self._models[key]
        self._tell()

    def _tell(self) -> None:
        self.sizes = {key: size for key, (_, size) in self._models.items()}
