"""Small LoRA layers as plain ones: W + s·B·A is formed once a pass, for all layers of a shape at once.

A small layer's time is its kernels' starts, and LoRA's products double them. The weight itself costs one
product for its gradient, of which those of A and B are made, again for all layers of a shape at once.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from dreambooth_api.training.lora_products import LoraLinear

#: A weight's gradient is in·out products a row, A's and B's way is about 2.5·rank·(in + out) and slower ones:
#: on a CPU they break even where this times rank·(in + out) is in·out, for a square weight at 12 ranks.
_SMALL = 6.0


class MergedWeights:
    """Sets the small layers' `merged_weight` before each pass of the module that holds them.

    Only for float32: beside a half-precision weight, what an adapter adds would be rounded away.
    """

    def __init__(self, module: nn.Module) -> None:
        alike: dict[tuple[torch.Size, int, float], list[LoraLinear]] = defaultdict(list)
        for layer in module.modules():
            if isinstance(layer, LoraLinear) and _is_small(layer):
                weight, _, down, _ = layer.tensors()
                alike[weight.shape, down.shape[0], layer.scale].append(layer)
        self._groups = [_Group(layers, scale) for (_, _, scale), layers in alike.items()]
        module.register_forward_pre_hook(self._merge)

    def _merge(self, _module: Any, _arguments: Any) -> None:
        for group in self._groups:
            group.merge()


class _Group:
    def __init__(self, layers: list[LoraLinear], scale: float) -> None:
        self._layers, self._scale = layers, scale
        self._frozen = torch.stack([layer.tensors()[0].detach() for layer in layers])
        for layer, weight in zip(layers, self._frozen.unbind(), strict=True):
            layer.tensors()[0].data = weight  # one memory for both
        self._downs = [layer.tensors()[2] for layer in layers]
        self._ups = [layer.tensors()[3] for layer in layers]

    def merge(self) -> None:
        downs, ups = torch.stack(self._downs), torch.stack(self._ups)
        merged = torch.baddbmm(self._frozen, ups, downs, alpha=self._scale)
        for layer, weight in zip(self._layers, merged.unbind(), strict=True):
            layer.merged_weight = weight


def _is_small(layer: LoraLinear) -> bool:
    weight: Tensor
    weight, _, down, _ = layer.tensors()
    outputs, inputs = weight.shape
    return weight.dtype == torch.float32 and inputs * outputs <= _SMALL * len(down) * (inputs + outputs)
