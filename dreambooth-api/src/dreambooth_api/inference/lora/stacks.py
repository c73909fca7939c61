"""A group's weights in one block of memory: one operation then reads or makes all of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dreambooth_api.inference.lora.layout import LayerGroup, layer_named
from dreambooth_api.inference.lora.weights import GroupFactors


class Stack:
    """The base model's weights of a group of linear layers, (layers, out, in).

    The layers' parameters are moved into it, so that it takes no further memory and whatever changes them
    changes it.
    """

    def __init__(self, network: nn.Module, group: LayerGroup) -> None:
        parameters = [layer_named(network, name).weight for name in group.names]
        self.weights = torch.stack([parameter.detach() for parameter in parameters])
        for parameter, place in zip(parameters, self.weights, strict=True):
            parameter.data = place
        self._first = parameters[0]
        self._bundles = self.weights.view(-1, group.bundle * group.outputs, group.inputs)

    def of_bundle(self, bundle: int) -> Tensor:
        """The weights of the layers that share their input, one below the other: (out of all, in)."""
        return self._bundles[bundle]

    def check(self) -> None:
        """Raise RuntimeError where the layers have other weights by now."""
        if self._first.data_ptr() != self.weights.data_ptr():
            raise RuntimeError("the network was moved or converted after its LoRA layers were made")


def merged(base: Tensor, adapters: Sequence[tuple[GroupFactors, float]]) -> Tensor:
    """*base* (layers, out, in) plus each adapter's product times its weight; *base* itself for none."""
    made = base
    for factors, weight in adapters:
        if factors.index is None:
            made = torch.baddbmm(made, factors.up, factors.down, alpha=weight)
            continue
        if made is base:
            made = base.clone()
        changed = torch.baddbmm(made[factors.index], factors.up, factors.down, alpha=weight)
        made.index_copy_(0, factors.index, changed)
    return made
