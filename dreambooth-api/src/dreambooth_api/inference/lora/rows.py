"""How a layer computes a batch whose rows have different weights.

A batch's rows come in *units* of equal adapters: a picture's unconditional and conditional row, or where some
picture has but one, every row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pair = tuple[int, int]

#: Of random weights beside the base model's.
_RANDOM = 0.3


class LayerRows(Protocol):
    """The batch's weights of one layer, or of a bundle of layers that share their input."""

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What the layers give for *x* (rows, …, in): (rows, …, out of all). *weight* is the base model's."""

    def convolve(self, x: Tensor, convolution: nn.Conv2d) -> Tensor:
        """What the convolution gives for *x* (rows, in, height, width)."""

    def one_of(self, bundle: int, number: int) -> Self:
        """Those of layer *number* of a bundle of *bundle*."""

    def randomise(self, generator: torch.Generator) -> None:
        """Give every unit other weights, of an adapter's order of size. *generator* is on their device."""


@dataclass(frozen=True, eq=False)
class GroupRows:
    """The batch's weights of a group of layers, by bundle and by layer; None where no adapter in the batch
    changes them.
    """

    bundles: tuple[LayerRows | None, ...]
    layers: tuple[LayerRows | None, ...]

    @classmethod
    def of(cls, bundles: Sequence[LayerRows | None], bundle: int) -> Self:
        """*bundle*: how many layers each has."""
        if bundle == 1:
            return cls(tuple(bundles), tuple(bundles))
        layers = [rows and rows.one_of(bundle, number) for rows in bundles for number in range(bundle)]
        return cls(tuple(bundles), tuple(layers))


class MergedRows:
    """Every unit has whole weights of its own: one batched product, or one grouped convolution, which costs
    what the base model's own costs.
    """

    def __init__(self, weights: Tensor, each: int) -> None:
        """*weights*: (units, out of all, in …); *each*: rows of a unit."""
        self.weights, self.each = weights, each

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        weights = self.weights
        units = weights.shape[0]
        if units == 1:
            return F.linear(x, weights[0], bias)
        flat = _by_unit(x, units, self.each)
        y = torch.bmm(flat, weights.mT) if bias is None else torch.baddbmm(bias, flat, weights.mT)
        return _by_row(y, x, self.each)

    def convolve(self, x: Tensor, convolution: nn.Conv2d) -> Tensor:
        weights = self.weights
        units, stride, padding = weights.shape[0], _pair(convolution.stride), _padding(convolution)
        if units == 1:
            return F.conv2d(x, weights[0], convolution.bias, stride, padding)
        if convolution.kernel_size == (1, 1) and stride == (1, 1):
            pixels = x.flatten(2).unflatten(0, (units, self.each))
            y = torch.matmul(weights.flatten(2).unsqueeze(1), pixels)
            y = y.flatten(0, 1).view(len(x), -1, *x.shape[2:])
            return y if convolution.bias is None else y + convolution.bias[:, None, None]
        y = grouped_convolution(x, weights, self.each, stride, padding)
        return y if convolution.bias is None else y + convolution.bias[:, None, None]

    def one_of(self, bundle: int, number: int) -> MergedRows:
        outputs = self.weights.shape[1] // bundle
        return MergedRows(self.weights[:, number * outputs : (number + 1) * outputs], self.each)

    def randomise(self, generator: torch.Generator) -> None:
        noise = torch.empty_like(self.weights).normal_(generator=generator)
        self.weights.add_(noise * self.weights.std(), alpha=_RANDOM)


class FactorRows:
    """Every unit has a low-rank product of its own on top of the base model's weights: costs two small
    products a layer, but hardly any memory.
    """

    def __init__(self, down: Tensor, ups: tuple[Tensor, ...], each: int) -> None:
        """*down*: (units, rank of all, in …); *ups*: of each layer (units, out, rank); *each*: as above."""
        self.down, self.ups, self.each = down, ups, each

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        units, outputs, rank = self.ups[0].shape
        flat = _by_unit(x, units, self.each)
        low = torch.bmm(flat, self.down.mT)
        y = F.linear(flat, weight, bias)
        for number, up in enumerate(self.ups):
            part = y[..., number * outputs : (number + 1) * outputs]
            part.baddbmm_(low[..., number * rank : (number + 1) * rank], up.mT)
        return _by_row(y, x, self.each)

    def convolve(self, x: Tensor, convolution: nn.Conv2d) -> Tensor:
        down, (up,) = self.down, self.ups
        y = convolved(x, convolution)
        low = grouped_convolution(x, down, self.each, _pair(convolution.stride), _padding(convolution))
        low = low.flatten(2).unflatten(0, (down.shape[0], self.each))
        return y + torch.matmul(up.unsqueeze(1), low).view(y.shape)

    def one_of(self, bundle: int, number: int) -> FactorRows:
        rank = self.down.shape[1] // bundle
        down = self.down[:, number * rank : (number + 1) * rank]
        return FactorRows(down, (self.ups[number],), self.each)

    def randomise(self, generator: torch.Generator) -> None:
        for matrices in (self.down, *self.ups):
            matrices.normal_(std=_RANDOM / matrices[0, 0].numel() ** 0.5, generator=generator)


# No size is left to be found out of others: the compiler takes ten times as long over a block where one is.


def _by_unit(x: Tensor, units: int, each: int) -> Tensor:
    """(rows, …, in) as (units, all of a unit's, in)."""
    by_unit: Tensor = x.unflatten(0, (units, each))
    return by_unit.flatten(1, -2)


def _by_row(y: Tensor, x: Tensor, each: int) -> Tensor:
    """(units, all of a unit's, out) as *x*, (rows, …, out)."""
    by_row: Tensor = y.unflatten(1, (each, *x.shape[1:-1]))
    return by_row.flatten(0, 1)


def grouped_convolution(x: Tensor, weights: Tensor, each: int, stride: Pair, padding: Pair) -> Tensor:
    """Each unit's *each* rows of *x* (rows, in, height, width) by its own of *weights*
    (units, out, in, kh, kw).
    """
    units = weights.shape[0]
    # One group of channels for each unit: (rows of a unit, units × channels, …).
    x = x.unflatten(0, (units, each)).transpose(0, 1).flatten(1, 2)
    y = F.conv2d(x, weights.flatten(0, 1), None, stride, padding, groups=units)
    by_unit: Tensor = y.unflatten(1, (units, -1))
    return by_unit.transpose(0, 1).flatten(0, 1)


def convolved(x: Tensor, convolution: nn.Conv2d) -> Tensor:
    """What the base model's *convolution* gives for *x*."""
    stride, padding = _pair(convolution.stride), _padding(convolution)
    return F.conv2d(x, convolution.weight, convolution.bias, stride, padding)


def _pair(value: tuple[int, ...]) -> Pair:
    return value[0], value[1]


def _padding(convolution: nn.Conv2d) -> Pair:
    padding = convolution.padding
    assert not isinstance(padding, str), "no UNet of these families pads by name"
    return _pair(padding)
