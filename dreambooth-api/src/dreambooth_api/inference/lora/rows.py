"""How a layer computes a batch whose rows have different weights.

A batch's rows come in *units*: as many neighbours at a time as have the same adapters throughout, a picture's
unconditional and conditional row for instance.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pair = tuple[int, int]


class Rows(Protocol):
    """One group's weights for the batch."""

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None, layer: int, bundle: int) -> Tensor:
        """What *bundle* neighbouring layers, from *layer* on, give for *x* (rows, …, in): (rows, …, out of
        all). *weight* is the base model's.
        """

    def convolve(self, x: Tensor, convolution: nn.Conv2d, layer: int) -> Tensor:
        """What the convolution gives for *x* (rows, in, height, width)."""


class MergedRows:
    """Every unit has whole weights of its own, (units, out, in) for each layer: one batched product, or one
    grouped convolution, which costs what the base model's own costs.
    """

    def __init__(self, weights: list[Tensor | None], bundle: int) -> None:
        """*weights*: of each bundle of *bundle* layers, (units, out of all, in …); None where no adapter in
        the batch changes it.
        """
        self._weights = weights
        self._bundle = bundle

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None, layer: int, bundle: int) -> Tensor:
        weights = self._weights[layer // self._bundle]
        if weights is None:
            return F.linear(x, weight, bias)
        if bundle != self._bundle:  # one of those that share their input, asked for alone
            outputs = weights.shape[1] // self._bundle
            weights = weights[:, (layer % self._bundle) * outputs :][:, :outputs]
        units = weights.shape[0]
        if units == 1:
            return F.linear(x, weights[0], bias)
        flat = x.reshape(units, -1, x.shape[-1])
        y = torch.bmm(flat, weights.mT) if bias is None else torch.baddbmm(bias, flat, weights.mT)
        return y.view(*x.shape[:-1], weights.shape[1])

    def convolve(self, x: Tensor, convolution: nn.Conv2d, layer: int) -> Tensor:
        weights = self._weights[layer]
        if weights is None:
            return convolved(x, convolution)
        units, stride, padding = weights.shape[0], _pair(convolution.stride), _padding(convolution)
        if units == 1:
            return F.conv2d(x, weights[0], convolution.bias, stride, padding)
        if convolution.kernel_size == (1, 1) and stride == (1, 1):
            rows = len(x)
            y = torch.matmul(weights.flatten(2).unsqueeze(1), x.reshape(units, rows // units, x.shape[1], -1))
            y = y.view(rows, -1, *x.shape[2:])
            return y if convolution.bias is None else y + convolution.bias[:, None, None]
        y = grouped_convolution(x, weights, stride, padding)
        return y if convolution.bias is None else y + convolution.bias[:, None, None]


class FactorRows:
    """Every unit has a low-rank product of its own on top of the base model's weights: costs two small
    products a layer, but hardly any memory.
    """

    def __init__(self, downs: list[Tensor | None], ups: list[Tensor], bundle: int) -> None:
        """*downs*: of each bundle (units, rank of all, in …), or None where no adapter in the batch changes
        it; *ups*: of each layer (units, out, rank).
        """
        self._downs, self._ups = downs, ups
        self._bundle = bundle

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None, layer: int, bundle: int) -> Tensor:
        down, ups = self._downs[layer // self._bundle], self._ups[layer : layer + bundle]
        if down is None:
            return F.linear(x, weight, bias)
        units, outputs, rank = ups[0].shape
        if bundle != self._bundle:
            down = down[:, (layer % self._bundle) * rank :][:, :rank]
        flat = x.reshape(units, -1, x.shape[-1])
        low = torch.bmm(flat, down.mT)
        y = F.linear(flat, weight, bias)
        for number, up in enumerate(ups):
            part = y[..., number * outputs : (number + 1) * outputs]
            part.baddbmm_(low[..., number * rank : (number + 1) * rank], up.mT)
        return y.view(*x.shape[:-1], y.shape[-1])

    def convolve(self, x: Tensor, convolution: nn.Conv2d, layer: int) -> Tensor:
        down, up = self._downs[layer], self._ups[layer]
        y = convolved(x, convolution)
        if down is None:
            return y
        units, rows = len(up), len(x)
        low = grouped_convolution(x, down, _pair(convolution.stride), _padding(convolution))
        low = low.reshape(units, rows // units, low.shape[1], -1)
        return y + torch.matmul(up.unsqueeze(1), low).view(y.shape)


def grouped_convolution(x: Tensor, weights: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """Each unit's rows of *x* (rows, in, height, width) by its own of *weights* (units, out, in, kh, kw)."""
    units, outputs = weights.shape[:2]
    rows, channels, height, width = x.shape
    # One group of channels for each unit: (rows of a unit, units × channels, …).
    x = x.reshape(units, rows // units, channels, height, width).transpose(0, 1)
    x = x.reshape(rows // units, units * channels, height, width)
    y = F.conv2d(x, weights.flatten(0, 1), None, stride, padding, groups=units)
    y = y.view(rows // units, units, outputs, *y.shape[2:]).transpose(0, 1)
    return y.reshape(rows, outputs, *y.shape[3:])


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
