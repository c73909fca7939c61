"""Linear layers and convolutions that take the weights of the adapters in the batch, where it has any.

They keep their parameters and their names: diffusers and peft see the layers they know.
"""

from __future__ import annotations

from typing import Self

import torch.nn.functional as F
from torch import Tensor, nn

from dreambooth_api.inference.lora.rows import LayerRows, convolved


class _Adapted(nn.Module):
    """A layer that the batch may have other weights for."""

    #: The batch's weights; None for the base model's own. Set in each layer, and nothing that tells one layer
    #: from another, so that one compiled block serves all blocks that are alike.
    rows: LayerRows | None = None

    @classmethod
    def instead_of(cls, layer: nn.Module) -> Self:
        """One with *layer*'s own parameters."""
        made = cls.__new__(cls)
        made.__dict__.update(layer.__dict__)
        return made


class AdaptedLinear(_Adapted, nn.Linear):
    """``nn.Linear``, with adapters."""

    computes_as = nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        rows = self.rows
        if rows is None:
            return F.linear(x, self.weight, self.bias)
        return rows.linear(x, self.weight, self.bias)


class AdaptedConv2d(_Adapted, nn.Conv2d):
    """``nn.Conv2d``, with adapters."""

    computes_as = nn.Conv2d

    def forward(self, x: Tensor) -> Tensor:
        rows = self.rows
        if rows is None:
            return convolved(x, self)
        return rows.convolve(x, self)
