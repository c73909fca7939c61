"""Linear layers and convolutions that take the weights of the adapters in the batch, where it has any.

They keep their parameters and their names: diffusers and peft see the layers they know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, Self

import torch.nn.functional as F
from torch import Tensor, nn

from dreambooth_api.inference.lora.rows import Rows, convolved

if TYPE_CHECKING:
    from dreambooth_api.inference.lora.text import TextRows


class BatchWeights(Protocol):
    """What a forward pass is done with."""

    @property
    def groups(self) -> Sequence[Rows | None]:
        """By group of layers; None for the base model's own weights."""

    @property
    def text(self) -> TextRows | None:
        """Keys and values of the batch's text, where they were made before."""


class Switch:
    """Which weights a network's layers use now. All its layers look at one switch, so that changing them
    takes no time.
    """

    current: BatchWeights | None = None


class _Adapted(nn.Module):
    """What makes a layer look at a switch."""

    # peft makes layers of a convolution's own class for its matrices: those are never switched.
    _switch = Switch()
    _group = 0
    _layer = 0

    @classmethod
    def instead_of(cls, layer: nn.Module, switch: Switch, group: int, number: int) -> Self:
        """One with *layer*'s own parameters: layer *number* of a group."""
        made = cls.__new__(cls)
        made.__dict__.update(layer.__dict__)
        made._switch, made._group, made._layer = switch, group, number
        return made

    @property
    def _rows(self) -> Rows | None:
        """The batch's weights; None for the base model's own."""
        current = self._switch.current
        return None if current is None else current.groups[self._group]


class AdaptedLinear(_Adapted, nn.Linear):
    """``nn.Linear``, with adapters."""

    computes_as = nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        rows = self._rows
        if rows is None:
            return F.linear(x, self.weight, self.bias)
        return rows.linear(x, self.weight, self.bias, self._layer, 1)


class AdaptedConv2d(_Adapted, nn.Conv2d):
    """``nn.Conv2d``, with adapters."""

    computes_as = nn.Conv2d

    def forward(self, x: Tensor) -> Tensor:
        rows = self._rows
        if rows is None:
            return convolved(x, self)
        return rows.convolve(x, self, self._layer)
