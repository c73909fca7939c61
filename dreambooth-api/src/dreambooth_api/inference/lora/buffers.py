"""Where the weights of a batch's units lie, group by group; their addresses stay while batches change.

A unit's weights are made when it takes its place in the batch. A unit that is where it was costs nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dreambooth_api.inference.lora.layout import Layer, LayerGroup
from dreambooth_api.inference.lora.places import Places
from dreambooth_api.inference.lora.rows import FactorRows, GroupRows, MergedRows
from dreambooth_api.inference.lora.stacks import Stack, merged
from dreambooth_api.inference.lora.weights import GroupFactors

#: Ranks with a buffer: batches change between two while a picture with more adapters comes and goes.
_RANKS = 2


@dataclass(frozen=True)
class UnitFactors:
    """What the adapters of one unit change in a group. Equal *key*, equal weights."""

    key: Hashable
    adapters: tuple[tuple[GroupFactors, float], ...]

    @property
    def rank(self) -> int:
        """Of all its adapters together."""
        return sum(factors.rank for factors, _ in self.adapters)


def changed_bundles(group: LayerGroup, units: Sequence[UnitFactors]) -> frozenset[int]:
    """The bundles of *group* that any of *units* changes."""
    whole = len(group.names) // group.bundle
    touched: set[int] = set()
    for unit in units:
        for factors, _ in unit.adapters:
            if factors.index is None:
                return frozenset(range(whole))
            touched.update(layer // group.bundle for layer in factors.layers)
    return frozenset(touched)


class MergedBuffer:
    """Whole weights of every unit, (bundles, units, out of all, in …): the base model's and the adapters'."""

    def __init__(self, group: LayerGroup, layers: Sequence[Layer], stack: Stack | None) -> None:
        """*layers* are the group's, *stack* their weights where they are linear."""
        self._group = group
        self._layers = layers
        self._stack = stack
        self._buffer: Tensor | None = None
        self._places = Places()
        self._rows: tuple[Hashable, GroupRows] | None = None

    @property
    def unit_bytes(self) -> int:
        """What one unit's weights take."""
        example = self._layers[0].weight
        return len(self._layers) * example.numel() * example.element_size()

    def put(
        self, units: Sequence[UnitFactors], each: int, changed: frozenset[int], capacity: int
    ) -> GroupRows:
        """Have *units*' weights in their places, each for *each* rows; there is room for *capacity*."""
        buffer = self._room(max(len(units), capacity))
        base = None
        for place, unit in enumerate(units):
            if self._places.holds(place, unit.key):
                continue
            base = self._base() if base is None else base
            with self._places.filling(place, unit.key):
                made = merged(base, unit.adapters)
                buffer[:, place].copy_(made.view(len(buffer), *buffer.shape[2:]))
        shape = (len(units), each, changed)
        if self._rows is None or self._rows[0] != shape:
            bundles = [
                MergedRows(part[: len(units)], each) if number in changed else None
                for number, part in enumerate(buffer)
            ]
            self._rows = (shape, GroupRows.of(bundles, self._group.bundle))
        return self._rows[1]

    def free(self) -> None:
        """Take no memory until the next units come."""
        self._buffer, self._places, self._rows = None, Places(), None

    def _room(self, capacity: int) -> Tensor:
        if self._buffer is None or self._buffer.shape[1] < capacity:
            group, example = self._group, self._layers[0].weight
            bundles = len(group.names) // group.bundle
            window = group.shape[2:]
            if len(window) == 2 and example.is_contiguous(memory_format=torch.channels_last):
                # The layout of the base model's weights: another would be converted at every step.
                shape = (bundles, capacity, group.outputs, *window, group.shape[1])
                self._buffer = example.new_empty(shape).permute(0, 1, 2, 5, 3, 4)
            else:
                outputs = group.bundle * group.outputs
                self._buffer = example.new_empty(bundles, capacity, outputs, *group.shape[1:])
            self._places, self._rows = Places(), None
        return self._buffer

    def _base(self) -> Tensor:
        """(layers, out, in), a convolution's window being part of *in*."""
        if self._stack is not None:
            return self._stack.weights
        return torch.stack([layer.weight.detach().flatten(1) for layer in self._layers])


class FactorBuffer:
    """Low-rank matrices of every unit, padded to one rank: several adapters of a unit one after the other.

    Of the ranks that batches came to, the last ones have a buffer. One of rank 512, four adapters at the
    bound of 128, takes 64 times what one of rank 8 takes, and goes when batches are back at ordinary ranks.
    """

    def __init__(self, group: LayerGroup, layers: Sequence[Layer]) -> None:
        self._group = group
        self._example = layers[0].weight
        self._by_rank: dict[int, _Padded] = {}

    def put(
        self, units: Sequence[UnitFactors], each: int, changed: frozenset[int], capacity: int
    ) -> GroupRows:
        """Have *units*' matrices in their places, each for *each* rows; there is room for *capacity*."""
        rank = padded_rank(max(unit.rank for unit in units))
        padded = self._by_rank.pop(rank, None)
        if padded is None or padded.capacity < len(units):
            while len(self._by_rank) >= _RANKS:
                del self._by_rank[next(iter(self._by_rank))]
            padded = _Padded(self._group, rank, max(len(units), capacity), self._example)
        self._by_rank[rank] = padded
        return padded.put(units, each, changed)

    def free(self) -> None:
        """Take no memory until the next units come."""
        self._by_rank.clear()


class _Padded:
    def __init__(self, group: LayerGroup, rank: int, capacity: int, example: Tensor) -> None:
        self._group, self._rank, self.capacity = group, rank, capacity
        layers = len(group.names)
        bundles = layers // group.bundle
        self._downs = example.new_empty(bundles, capacity, group.bundle, rank, group.inputs)
        self._ups = example.new_empty(layers, capacity, group.outputs, rank)
        self._places = Places()
        self._rows: tuple[Hashable, GroupRows] | None = None

    def put(self, units: Sequence[UnitFactors], each: int, changed: frozenset[int]) -> GroupRows:
        for place, unit in enumerate(units):
            if not self._places.holds(place, unit.key):
                with self._places.filling(place, unit.key):
                    self._put_unit(place, unit)
        shape = (len(units), each, changed)
        if self._rows is None or self._rows[0] != shape:
            bundles = [
                self._of_bundle(number, len(units), each) if number in changed else None
                for number in range(len(self._downs))
            ]
            self._rows = (shape, GroupRows.of(bundles, self._group.bundle))
        return self._rows[1]

    def _of_bundle(self, number: int, units: int, each: int) -> FactorRows:
        group = self._group
        down = self._downs[number, :units].view(-1, group.bundle * self._rank, *group.shape[1:])
        ups = self._ups[number * group.bundle : (number + 1) * group.bundle, :units]
        return FactorRows(down, tuple(ups), each)

    def _put_unit(self, place: int, unit: UnitFactors) -> None:
        self._downs[:, place].zero_()
        self._ups[:, place].zero_()
        start = 0
        for factors, weight in unit.adapters:
            ranks = slice(start, start + factors.rank)
            down, up = self._of_all(factors, factors.down), self._of_all(factors, factors.up)
            self._downs[:, place, :, ranks].copy_(down.view(-1, self._group.bundle, *down.shape[1:]))
            self._ups[:, place, :, ranks].copy_(up * weight)
            start += factors.rank

    def _of_all(self, factors: GroupFactors, matrices: Tensor) -> Tensor:
        """*matrices* with zeros for the group's layers that the adapter leaves alone."""
        if factors.index is None:
            return matrices
        full = matrices.new_zeros(len(self._group.names), *matrices.shape[1:])
        return full.index_copy_(0, factors.index, matrices)


def padded_rank(rank: int) -> int:
    """The next power of two from 4 on, so that few shapes occur and small ranks do not pay for large ones."""
    return max(4, 1 << (rank - 1).bit_length())
