"""A group of layers in the network, where the batch's weights of them lie, and who uses these."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from dreambooth_api.inference.lora.attention import BatchedCrossAttention, BatchedSelfAttention, fits
from dreambooth_api.inference.lora.buffers import FactorBuffer, MergedBuffer, UnitFactors, changed_bundles
from dreambooth_api.inference.lora.layers import AdaptedConv2d, AdaptedLinear
from dreambooth_api.inference.lora.layout import (
    CROSS_KEYS_VALUES,
    SELF_PROJECTIONS,
    LayerGroup,
    layer_named,
)
from dreambooth_api.inference.lora.rows import GroupRows
from dreambooth_api.inference.lora.stacks import Stack


class AdaptedGroup:
    """The layers of *group* in *network*, replaced by ones that take the batch's weights."""

    def __init__(self, network: nn.Module, group: LayerGroup) -> None:
        self.group = group
        self._layers = [_adapted(network, name) for name in group.names]
        #: The layers' own weights; None for convolutions.
        self.stack = Stack(network, group) if group.is_linear else None
        self._merged = MergedBuffer(group, self._layers, self.stack)
        self._factors = FactorBuffer(group, self._layers)
        self._self_attentions: list[BatchedSelfAttention] = []
        self._cross_attentions: list[BatchedCrossAttention] = []

    def set_processors(self, network: nn.Module) -> None:
        """Have the attentions whose projections these are take them together, once all groups' layers are
        replaced.
        """
        for bundle, first in enumerate(self.group.names[:: self.group.bundle]):
            attention = network.get_submodule(first.rpartition(".")[0])
            if not fits(attention):
                continue
            processor: BatchedSelfAttention | BatchedCrossAttention
            if self.group.role == SELF_PROJECTIONS:
                assert self.stack is not None
                processor = BatchedSelfAttention(bundle, self.stack.of_bundle(bundle))
                self._self_attentions.append(processor)
            elif self.group.role == CROSS_KEYS_VALUES:
                processor = BatchedCrossAttention(bundle)
                self._cross_attentions.append(processor)
            else:
                return
            setattr(attention, "processor", processor)  # noqa: B010

    @property
    def unit_bytes(self) -> int:
        """What one unit's whole weights take."""
        return self._merged.unit_bytes

    def put(
        self,
        units: Sequence[UnitFactors],
        each: int,
        *,
        whole: bool,
        capacity: int,
        all_changed: bool = False,
    ) -> GroupRows | None:
        """Have the weights of *units* of *each* rows in their places, whole ones or low-rank matrices; None
        where none changes any, unless *all_changed* says to do as if.

        Room is made for *capacity* units, at least.
        """
        bundles = frozenset(range(len(self.group.names) // self.group.bundle))
        changed = bundles if all_changed else changed_bundles(self.group, units)
        if not changed:
            return None
        if self.stack is not None:
            self.stack.check()
        return (self._merged if whole else self._factors).put(units, each, changed, capacity)

    def free(self) -> None:
        """Take no memory for units until the next come."""
        self._merged.free()
        self._factors.free()

    def use(self, rows: GroupRows | None, text: Tensor | None, *, batched: bool) -> None:
        """Do forward passes with *rows*, and keys and values from *text*: (rows, tokens, layers × width)."""
        for number, layer in enumerate(self._layers):
            layer.rows = None if rows is None else rows.layers[number]
        for attention in self._self_attentions:
            attention.batched = batched
            attention.rows = None if rows is None else rows.bundles[attention.bundle]
        for cross in self._cross_attentions:
            cross.text = None if text is None else _keys_values(text, cross.bundle, self.group.outputs)


def _adapted(network: nn.Module, name: str) -> AdaptedLinear | AdaptedConv2d:
    old = layer_named(network, name)
    kind = AdaptedLinear if isinstance(old, nn.Linear) else AdaptedConv2d
    new = kind.instead_of(old)
    network.set_submodule(name, new)
    return new


def _keys_values(text: Tensor, bundle: int, width: int) -> tuple[Tensor, Tensor]:
    """Of one attention: they follow each other."""
    key, value = text[..., 2 * bundle * width : 2 * (bundle + 1) * width].chunk(2, dim=-1)
    return key, value
