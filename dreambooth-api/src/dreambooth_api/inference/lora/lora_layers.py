"""A network whose layers take the adapters of a batch's rows: put into it once, nothing injected later."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn

from dreambooth_api.inference.lora.adapted_group import AdaptedGroup
from dreambooth_api.inference.lora.buffers import UnitFactors
from dreambooth_api.inference.lora.layout import CROSS_KEYS_VALUES, LayerGroup, group_layers
from dreambooth_api.inference.lora.rows import GroupRows
from dreambooth_api.inference.lora.slots import Placed, Slots
from dreambooth_api.inference.lora.text import TextBuffers, TextKeysValues, keys_values
from dreambooth_api.inference.lora.weights import AdapterWeights

#: As much as it takes.
_UNBOUNDED = 2**63

_Unit = tuple[tuple[Placed, float], ...]


@dataclass(frozen=True, eq=False)
class Gathered:
    """A batch's adapters and text, put together. It lies in buffers that the next gathering writes to: from
    then on it is stale.
    """

    #: By group of layers; None for the base model's own weights.
    groups: tuple[GroupRows | None, ...]
    #: By group of layers, keys and values of the batch's text where they were made before.
    text: Mapping[int, Tensor]


_CHANGING = Gathered((), {})


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
        self._part = part
        self._capacity = units
        self._device = next(network.parameters()).device
        self._slots = Slots(slots, part, self._device)
        self._groups = [AdaptedGroup(network, group) for group in group_layers(network)]
        for group in self._groups:
            group.set_processors(network)
        self._whole = self._groups_with_whole_weights(unit_bytes)
        self._text = TextBuffers()
        #: The last gathering, which is not stale, and the one that forward passes are done with.
        self._fresh: Gathered | None = None
        self._used: Gathered | None = None

    def _groups_with_whole_weights(self, unit_bytes: int) -> frozenset[int]:
        """Small layers first: their low-rank products take longest in relation to their own."""
        sizes = [one.group.outputs * one.group.inputs for one in self._groups]
        left, chosen = unit_bytes, []
        for number in sorted(range(len(sizes)), key=lambda number: sizes[number]):
            left -= self._groups[number].unit_bytes * self._capacity
            if left < 0:
                break
            chosen.append(number)
        return frozenset(chosen)

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
        for number, adapted in enumerate(self._groups):
            if adapted.group.role == CROSS_KEYS_VALUES:
                assert adapted.stack is not None
                adapted.stack.check()
                factors = self._factors_of(unit, number).adapters
                made[number] = keys_values(embeddings, adapted.stack, factors)
        return TextKeysValues(made)

    @torch.inference_mode()
    def gather(
        self, rows: Sequence[Mapping[int, float]], text: Sequence[TextKeysValues] | None = None
    ) -> Gathered:
        """What a batch needs, to be asked when its composition changes.

        *rows*: of each row of the batch (guidance's unconditional ones included) its adapters' slots and
        weights, which add up. A picture's two rows should be neighbours: then the batch takes half of what it
        takes otherwise. One where all rows have the same is the cheapest. A picture that keeps its place from
        batch to batch has nothing made anew. *text*: its keys and values,
        one after the other as many rows.
        """
        keyed = [self._unit(row) for row in rows]
        runs = [(unit, len(list(run))) for unit, run in groupby(keyed)]
        # A picture's two rows, never those of several: who joins changes nobody's unit, and what is compiled
        # for units of two rows serves all batches.
        each = 1 if any(length % 2 for _, length in runs) else 2
        units = keyed[::each]
        if text is not None and sum(one.rows for one in text) != len(rows):
            raise ValueError("text must have as many rows as the batch")
        return self._put(units[:1] if len(runs) == 1 else units, each, text)

    @torch.inference_mode()
    def gather_merged(self, adapters: Sequence[tuple[AdapterWeights, float]]) -> Gathered:
        """The same adapters for all rows of whatever is drawn, without slots."""
        unit = tuple((self._slots.on_device(one), weight) for one, weight in adapters if weight)
        return self._put([unit], 1)

    @torch.inference_mode()
    def gather_random(
        self, adapted: Callable[[LayerGroup], bool], units: int, text: Sequence[TextKeysValues]
    ) -> Gathered:
        """As for *units*, alike in rows, with random adapters in the groups that are *adapted*: what is
        computed with such batches can be rehearsed before there are any. To be followed by ``free``.
        """
        self.free()
        each = sum(one.rows for one in text) // units
        gathered = self._put([()] * units, each, text, adapted, capacity=units)
        generator = torch.Generator(self._device).manual_seed(units)
        for rows in gathered.groups:
            for bundle in () if rows is None else rows.bundles:
                if bundle is not None:
                    bundle.randomise(generator)
        return gathered

    def free(self) -> None:
        """Take no memory for batches until the next one comes; the base model is in use."""
        self._fresh = None
        self.use(None)
        for adapted in self._groups:
            adapted.free()
        self._text.free()

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

    def _put(
        self,
        units: Sequence[_Unit],
        each: int,
        text: Sequence[TextKeysValues] | None = None,
        adapted_anyway: Callable[[LayerGroup], bool] = lambda group: False,
        capacity: int | None = None,
    ) -> Gathered:
        """The weights of units of *each* rows into the buffers of those groups that any of them changes."""
        # What lies there now is written over: nothing goes on with it, also where this fails.
        self._fresh = None
        self.use(None)
        most = self._capacity if capacity is None else capacity
        rows = []
        for number, adapted in enumerate(self._groups):
            shares = [self._factors_of(unit, number) for unit in units]
            kept_whole = number in self._whole
            # One unit's weights are always whole: merged, they cost nothing at each step.
            whole = kept_whole or len(units) == 1
            room = most if kept_whole or not whole else 1
            anyway = adapted_anyway(adapted.group)
            rows.append(adapted.put(shares, each, whole=whole, capacity=room, all_changed=anyway))
        texts = {} if text is None else self._text.put(text, 2 * most)
        self._fresh = Gathered(tuple(rows), texts)
        return self._fresh

    def is_fresh(self, gathered: Gathered) -> bool:
        """Whether nothing was gathered since."""
        return gathered is self._fresh

    def use(self, gathered: Gathered | None) -> None:
        """Do the forward passes from here on with *gathered*; None for the base model, as it was made.

        Raises:
            RuntimeError: *gathered* is stale.
        """
        if gathered is self._used:
            return
        if gathered is not None and not self.is_fresh(gathered):
            raise RuntimeError("these adapters were gathered before others, which lie in their place now")
        # Neither, should this fail midway.
        self._used = _CHANGING
        for number, adapted in enumerate(self._groups):
            if gathered is None:
                adapted.use(None, None, batched=False)
            else:
                adapted.use(gathered.groups[number], gathered.text.get(number), batched=True)
        self._used = gathered
