"""A network whose layers take the adapters of a batch's rows: put into it once, nothing injected later."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn

from dreambooth_api.inference.lora.attention import BatchedAttention, fits
from dreambooth_api.inference.lora.buffers import FactorBuffer, MergedBuffer, UnitFactors, changed_bundles
from dreambooth_api.inference.lora.layers import AdaptedConv2d, AdaptedLinear, Switch
from dreambooth_api.inference.lora.layout import (
    CROSS_KEYS_VALUES,
    SELF_PROJECTIONS,
    LayerGroup,
    group_layers,
    layer_named,
)
from dreambooth_api.inference.lora.rows import Rows
from dreambooth_api.inference.lora.slots import Placed, Slots
from dreambooth_api.inference.lora.stacks import Stack
from dreambooth_api.inference.lora.text import TextBuffers, TextKeysValues, TextRows, keys_values
from dreambooth_api.inference.lora.weights import AdapterWeights

#: As much as it takes.
_UNBOUNDED = 2**63

_Unit = tuple[tuple[Placed, float], ...]


@dataclass(frozen=True, eq=False)
class Gathered:
    """A batch's adapters and text, put together. It lies in buffers that the next ``gather`` writes to, and
    is to be used until then.
    """

    #: By group of layers; None for the base model's own weights.
    groups: tuple[Rows | None, ...]
    text: TextRows | None


class LoraLayers:
    """The adapters in *network*. For one thread, which also does the forward passes.

    The network must be on its device and in its precision before, and stay there. Its parameters keep their
    names and values, now and later: adapters are never written into them.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        part: str = "unet",
        slots: int = 8,
        units: int = 8,
        unit_bytes: int = _UNBOUNDED,
    ) -> None:
        """*part*: which one of the pipeline *network* is. *units*: the most that batches usually have of rows
        with adapters of their own (a picture's two rows are one unit); *unit_bytes*: what whole weights of
        these may take. Groups of layers beyond that get low-rank products instead, the largest layers first.
        """
        parameter = next(network.parameters())
        self._device = parameter.device
        self._part = part
        self._groups = group_layers(network)
        self._capacity = units
        self._switch = Switch()
        self._merging = False
        self._slots = Slots(slots, part, self._device)
        self._stacks: dict[int, Stack] = {}
        self._merged: list[MergedBuffer] = []
        self._factors: list[FactorBuffer] = []
        for number, group in enumerate(self._groups):
            self._adapt(network, number, group)
        self._whole = self._groups_with_whole_weights(unit_bytes)
        self._set_processors(network)
        self._text = TextBuffers()

    def _adapt(self, network: nn.Module, number: int, group: LayerGroup) -> None:
        """Replace the layers of a group."""
        for index, name in enumerate(group.names):
            old = network.get_submodule(name)
            new: nn.Module
            if isinstance(old, nn.Linear):
                new = AdaptedLinear.instead_of(old, self._switch, number, index)
            else:
                assert isinstance(old, nn.Conv2d)
                new = AdaptedConv2d.instead_of(old, self._switch, number, index)
            network.set_submodule(name, new)
        if group.is_linear:
            self._stacks[number] = Stack(network, group)
        layers = [layer_named(network, name) for name in group.names]
        self._merged.append(MergedBuffer(group, layers, self._stacks.get(number)))
        self._factors.append(FactorBuffer(group, layers))

    def _groups_with_whole_weights(self, unit_bytes: int) -> frozenset[int]:
        """Small layers first: their low-rank products take longest in relation to their own."""
        sizes = [group.outputs * group.inputs for group in self._groups]
        left, chosen = unit_bytes, []
        for number in sorted(range(len(sizes)), key=lambda number: sizes[number]):
            left -= self._merged[number].unit_bytes * self._capacity
            if left < 0:
                break
            chosen.append(number)
        return frozenset(chosen)

    def _set_processors(self, network: nn.Module) -> None:
        for number, group in enumerate(self._groups):
            if group.role not in (SELF_PROJECTIONS, CROSS_KEYS_VALUES):
                continue
            for layer in range(0, len(group.names), group.bundle):
                attention = network.get_submodule(group.names[layer].rpartition(".")[0])
                if fits(attention):
                    cross = group.role == CROSS_KEYS_VALUES
                    processor = BatchedAttention(self._switch, number, layer, self._stacks[number], cross)
                    setattr(attention, "processor", processor)  # noqa: B010

    @torch.inference_mode()
    def place(self, key: Hashable, weights: AdapterWeights, in_use: Collection[int] = ()) -> int:
        """The slot of the adapter of *key*; for it leaves the one longest not asked for and not *in_use*.

        Raises:
            NoFreeSlot: all are in use.
        """
        return self._slots.place(key, weights, in_use)

    @torch.inference_mode()
    def text_keys_values(
        self, embeddings: Tensor, adapters: Mapping[int, float] | None = None
    ) -> TextKeysValues:
        """What the cross-attentions make of *embeddings* (rows, tokens, width) with *adapters*, by slot, at
        these weights. It stays what it is when the slots get other adapters.
        """
        unit = self._unit(adapters or {})
        made = {}
        for number, group in enumerate(self._groups):
            if group.role == CROSS_KEYS_VALUES:
                self._stacks[number].check()
                factors = self._factors_of(unit, number).adapters
                made[number] = keys_values(embeddings, self._stacks[number], factors)
        return TextKeysValues(made)

    @torch.inference_mode()
    def gather(
        self, rows: Sequence[Mapping[int, float]], text: Sequence[TextKeysValues] | None = None
    ) -> Gathered:
        """What a batch needs, to be asked when its composition changes.

        *rows*: of each row of the batch (guidance's unconditional ones included) its adapters' slots and
        weights, which add up. Rows with the same should be neighbours: a batch where each picture's two rows
        are takes half of what it takes otherwise, and one where all rows are the same is the cheapest. A
        picture that keeps its place from batch to batch has nothing made anew. *text*: its keys and values,
        one after the other as many rows.
        """
        if self._merging:
            raise RuntimeError("the adapters of a merge are still applied")
        keyed = [self._unit(row) for row in rows]
        runs = [(unit, len(list(run))) for unit, run in groupby(keyed)]
        together = math.gcd(*(length for _, length in runs))
        units = [unit for unit, length in runs for _ in range(length // together)]
        if len(runs) == 1:
            units = units[:1]
        rows_text = None
        if text is not None:
            if sum(one.rows for one in text) != len(rows):
                raise ValueError("text must have as many rows as the batch")
            rows_text = self._text.put(text, 2 * self._capacity)
        return Gathered(self._put(units), rows_text)

    def _unit(self, adapters: Mapping[int, float]) -> _Unit:
        """In an order of their own, so that equal units are recognised; without those of no weight."""
        placed = [(self._slots[slot], weight) for slot, weight in adapters.items() if weight]
        return tuple(sorted(placed, key=lambda pair: pair[0].number))

    def _factors_of(self, unit: _Unit, group: int) -> UnitFactors:
        key, adapters = [], []
        for placed, weight in unit:
            factors = None if placed.weights is None else placed.weights.factors(self._part, group)
            if factors is not None:
                key.append((placed.number, weight))
                adapters.append((factors, weight))
        return UnitFactors(tuple(key), tuple(adapters))

    def _put(self, units: Sequence[_Unit]) -> tuple[Rows | None, ...]:
        """The units' weights into the buffers of those groups that any of them changes."""
        rows: list[Rows | None] = []
        for number, group in enumerate(self._groups):
            shares = [self._factors_of(unit, number) for unit in units]
            changed = changed_bundles(group, shares)
            if not changed:
                rows.append(None)
                continue
            if number in self._stacks:
                self._stacks[number].check()
            if len(units) == 1 or number in self._whole:
                capacity = self._capacity if number in self._whole else 1
                rows.append(self._merged[number].put(shares, changed, capacity))
            else:
                rows.append(self._factors[number].put(shares, changed, self._capacity))
        return tuple(rows)

    @contextmanager
    def using(self, gathered: Gathered | None) -> Iterator[None]:
        """Do the forward passes inside with *gathered*; None for the base model."""
        if self._merging and gathered is not None:
            raise RuntimeError("the adapters of a merge are still applied")
        before, self._switch.current = self._switch.current, gathered
        try:
            yield
        finally:
            self._switch.current = before

    @torch.inference_mode()
    def merge(self, adapters: Sequence[tuple[AdapterWeights, float]]) -> None:
        """Have all forward passes done with *adapters*, whoever does them, until ``restore``."""
        self.restore()
        unit = tuple((self._slots.on_device(weights), weight) for weights, weight in adapters if weight)
        self._switch.current = Gathered(self._put([unit]), None)
        self._merging = True

    def restore(self) -> None:
        """Have them done with the base model's own weights again, which were never touched."""
        if self._merging:
            self._switch.current, self._merging = None, False
