"""The adapters in the device's memory: a few, those longest not used leave first."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Collection, Hashable
from dataclasses import dataclass

import torch

from dreambooth_api.inference.lora.weights import AdapterWeights


class NoFreeSlot(RuntimeError):
    """Every slot holds an adapter that is in use."""


@dataclass(frozen=True)
class Placed:
    """An adapter on the device, or what it has for this network: *weights* is None for nothing."""

    #: Another at each placing, so that what was made with the one before is not taken for this one's.
    number: int
    weights: AdapterWeights | None


class Slots:
    """*count* adapters of one *part* of the pipeline, on *device*. For one thread."""

    def __init__(self, count: int, part: str, device: torch.device) -> None:
        self._count, self._part, self._device = count, part, device
        self._numbers = itertools.count()
        self._by_key: OrderedDict[Hashable, int] = OrderedDict()
        self._placed: dict[int, Placed] = {}

    def place(self, key: Hashable, weights: AdapterWeights, in_use: Collection[int]) -> int:
        """The slot that has the adapter of *key*: it is copied there unless it is there already.

        Raises:
            NoFreeSlot: there is none but those *in_use*.
        """
        slot = self._by_key.get(key)
        if slot is None:
            slot = self._free(in_use)
            self._placed[slot] = self.on_device(weights)
            self._by_key[key] = slot
        self._by_key.move_to_end(key)
        return slot

    def _free(self, in_use: Collection[int]) -> int:
        for slot in range(self._count):
            if slot not in self._placed:
                return slot
        for key, slot in self._by_key.items():
            if slot not in in_use:
                del self._by_key[key]
                # First of all, so that the device never holds one more.
                del self._placed[slot]
                return slot
        raise NoFreeSlot(f"all {self._count} slots are in use")

    def __getitem__(self, slot: int) -> Placed:
        return self._placed[slot]

    def on_device(self, weights: AdapterWeights) -> Placed:
        """An adapter's copy on the device, without a slot."""
        return Placed(next(self._numbers), weights.part_on(self._part, self._device))
