"""What lies at which place of a buffer that outlives the batches."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager


class Places:
    """By number, the key of what was put there last and whole."""

    def __init__(self) -> None:
        self._keys: dict[int, Hashable] = {}

    def holds(self, place: int, key: Hashable) -> bool:
        """Whether what *key* stands for lies there."""
        return place in self._keys and self._keys[place] == key

    @contextmanager
    def filling(self, place: int, key: Hashable) -> Iterator[None]:
        """Put it there while the context lasts; what raises leaves a place that holds nothing."""
        self._keys.pop(place, None)
        yield
        self._keys[place] = key
