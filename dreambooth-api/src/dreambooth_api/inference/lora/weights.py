"""An adapter's numbers, laid out for copying: one block of memory, equal layers stacked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dreambooth_api.inference.lora.layout import LayerGroup

# So that every matrix begins where vector instructions like it, in elements.
_ALIGNMENT = 32


@dataclass(frozen=True)
class Extent:
    """Where in the block a group's matrices are: those of *layers* (numbers in the group), padded with zeros
    to a common *rank*.
    """

    part: str
    group: int
    layers: tuple[int, ...]
    rank: int
    inputs: int
    outputs: int
    start: int

    @property
    def size(self) -> int:
        """Elements."""
        return len(self.layers) * self.rank * (self.inputs + self.outputs)

    def down(self, flat: Tensor) -> Tensor:
        """(layers, rank, in), a convolution's window being part of *in*."""
        size = len(self.layers) * self.rank * self.inputs
        return flat[self.start : self.start + size].view(len(self.layers), self.rank, self.inputs)

    def up(self, flat: Tensor) -> Tensor:
        """(layers, out, rank)."""
        start = self.start + len(self.layers) * self.rank * self.inputs
        return flat[start : self.start + self.size].view(len(self.layers), self.outputs, self.rank)


@dataclass(frozen=True, eq=False)
class GroupFactors:
    """An adapter's share in one group: up @ down is what it adds to the weights of *layers*."""

    layers: tuple[int, ...]
    #: *layers* as a tensor on the factors' device, to index with; None where it has all of the group's.
    index: Tensor | None
    #: (layers, rank, in)
    down: Tensor
    #: (layers, out, rank); alpha / rank is in the numbers.
    up: Tensor

    @property
    def rank(self) -> int:
        return self.down.shape[1]


class AdapterWeights:
    """One adapter, ready to be applied: read, checked and scaled.

    Immutable by agreement: it is shared by all who draw with it.
    """

    def __init__(
        self, flat: Tensor, extents: Sequence[Extent], groups: Mapping[str, Sequence[LayerGroup]]
    ) -> None:
        self._flat = flat
        self._extents = tuple(extents)
        self._groups = groups
        self._factors = {(extent.part, extent.group): self._factors_of(extent) for extent in extents}

    def _factors_of(self, extent: Extent) -> GroupFactors:
        whole = len(extent.layers) == len(self._groups[extent.part][extent.group].names)
        index = None if whole else torch.tensor(extent.layers).to(self._flat.device, non_blocking=True)
        return GroupFactors(extent.layers, index, extent.down(self._flat), extent.up(self._flat))

    @property
    def bytes(self) -> int:
        """What it takes in memory."""
        return self._flat.numel() * self._flat.element_size()

    def factors(self, part: str, group: int) -> GroupFactors | None:
        """Its share in a group of *part*'s layers, or None where it has none."""
        return self._factors.get((part, group))

    def part_on(self, part: str, device: torch.device) -> AdapterWeights | None:
        """What it has for *part*, in *device*'s memory: one copy, or none where it is there already. None
        where it has nothing for *part*.
        """
        extents = [extent for extent in self._extents if extent.part == part]
        if not extents:
            return None
        start = extents[0].start
        flat = self._flat[start : extents[-1].start + extents[-1].size].to(device, non_blocking=True)
        moved = [replace(extent, start=extent.start - start) for extent in extents]
        return AdapterWeights(flat, moved, self._groups)

    def pinned(self) -> AdapterWeights:
        """The same in memory that a GPU can read while the CPU does something else."""
        return AdapterWeights(self._flat.pin_memory(), self._extents, self._groups)


def lay_out(
    ranks: Mapping[tuple[str, int], Mapping[int, int]], groups: Mapping[str, Sequence[LayerGroup]]
) -> Iterator[Extent]:
    """Extents one after the other, for each (part, group) the rank of its layers."""
    start = 0
    for (part, number), layers in sorted(ranks.items()):
        group = groups[part][number]
        extent = Extent(
            part,
            number,
            tuple(sorted(layers)),
            max(layers.values()),
            group.inputs,
            group.outputs,
            start,
        )
        yield extent
        start += -(-extent.size // _ALIGNMENT) * _ALIGNMENT
