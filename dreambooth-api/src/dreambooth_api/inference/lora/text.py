"""Keys and values of the cross-attentions: made once for a picture's text instead of at every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dreambooth_api.inference.lora.places import Places
from dreambooth_api.inference.lora.stacks import Stack
from dreambooth_api.inference.lora.weights import GroupFactors


@dataclass(frozen=True, eq=False)
class TextKeysValues:
    """Of one or more rows of text, with the adapters that they were made with; immutable by agreement."""

    #: By the number of the group of layers: (rows, tokens, layers × width), keys and values in turn.
    by_group: Mapping[int, Tensor]

    @property
    def rows(self) -> int:
        return max(len(made) for made in self.by_group.values())


def keys_values(embeddings: Tensor, stack: Stack, adapters: Sequence[tuple[GroupFactors, float]]) -> Tensor:
    """What all layers of a group give for *embeddings* (rows, tokens, in): (rows, tokens, layers × out)."""
    layers, outputs = len(stack.weights), stack.weights.shape[1]
    made = F.linear(embeddings, stack.weights.flatten(0, 1))
    by_layer = made.view(-1, layers, outputs).transpose(0, 1)
    for factors, weight in adapters:
        count, rank = factors.down.shape[:2]
        low = F.linear(embeddings, factors.down.flatten(0, 1)).view(-1, count, rank).transpose(0, 1)
        share = torch.bmm(low, factors.up.mT)
        if factors.index is None:
            by_layer.add_(share, alpha=weight)
        else:
            by_layer.index_add_(0, factors.index, share, alpha=weight)
    return made


class TextBuffers:
    """Where a batch's keys and values lie, row by row; their addresses stay while batches change.

    Only rows that changed are copied.
    """

    def __init__(self) -> None:
        self._buffers: dict[int, Tensor] = {}
        self._places = Places()

    def free(self) -> None:
        """Take no memory until the next texts come."""
        self._buffers, self._places = {}, Places()

    def put(self, texts: Sequence[TextKeysValues], capacity: int) -> Mapping[int, Tensor]:
        """By group those of the batch, whose rows are those of *texts*, one after the other; room is made for
        *capacity*.
        """
        rows = [(text, number) for text in texts for number in range(text.rows)]
        shapes = {group: made.shape[1:] for group, made in texts[0].by_group.items()}
        for text in texts:
            if {group: made.shape[1:] for group, made in text.by_group.items()} != shapes:
                raise ValueError("all texts of a batch must have the same number of tokens")
        for group, shape in shapes.items():
            buffer = self._buffers.get(group)
            if buffer is None or len(buffer) < len(rows) or buffer.shape[1:] != shape:
                example = texts[0].by_group[group]
                self._buffers[group] = example.new_empty(max(len(rows), capacity), *shape)
                self._places = Places()
        for place, row in enumerate(rows):
            if self._places.holds(place, row):
                continue
            text, number = row
            with self._places.filling(place, row):
                for group, made in text.by_group.items():
                    self._buffers[group][place].copy_(made[number])
        return {group: self._buffers[group][: len(rows)] for group in shapes}
