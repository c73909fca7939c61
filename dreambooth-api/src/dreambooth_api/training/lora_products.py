"""A LoRA layer's products with as few kernels as they need, and its gradients written out.

For an input x (n, in), a frozen weight W (out, in) and the trained A (r, in) and B (out, r) of
arXiv:2106.09685: y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ. peft has a kernel for each product, scaling and sum, and autograd
a node; here the sums are the matrix products' own, and a group of layers with one
input, as queries, keys and values have, sums its input's gradient in place.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor
from torch.autograd.function import once_differentiable

_ADAPTER = "default"  # peft's name for the one that is trained
_PER_LAYER = 4  # weight, bias, A, B


class LoraLinear(PeftLinear):  # type: ignore[misc]
    """peft's layer in everything but its products: parameters, their names and their file are its own.

    `merged_weight` is the weight with what the adapter adds, where `merged_weights` forms it.
    """

    merged_weight: Tensor | None = None

    def forward(self, x: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        (output,) = project(x, self)
        return output

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return float(self.scaling[_ADAPTER])

    def tensors(self) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """Weight, bias, A and B."""
        frozen = self.base_layer
        return frozen.weight, frozen.bias, self.lora_A[_ADAPTER].weight, self.lora_B[_ADAPTER].weight


def project(x: Tensor, *layers: LoraLinear) -> tuple[Tensor, ...]:
    """What each layer makes of x (…, in): (…, out). Under autocast all of it is in autocast's type."""
    merged = [layer.merged_weight for layer in layers if layer.merged_weight is not None]
    if len(merged) == len(layers):
        biases = [layer.base_layer.bias for layer in layers]
        return tuple(F.linear(x, weight, bias) for weight, bias in zip(merged, biases, strict=True))
    tensors = [tensor for layer in layers for tensor in layer.tensors()]
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x = x.to(dtype)
        tensors = [None if tensor is None else tensor.to(dtype) for tensor in tensors]
    outputs: tuple[Tensor, ...] = _Projections.apply(x, [layer.scale for layer in layers], *tensors)
    return outputs


class _Projections(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scales: list[float], *tensors: Tensor | None) -> tuple[Tensor, ...]:
        rows = x.reshape(-1, x.shape[-1])
        outputs, kept = [], [rows]
        for scale, (weight, bias, down, up) in zip(scales, _by_layer(tensors), strict=True):
            inner = rows @ down.t()
            output = rows @ weight.t() if bias is None else torch.addmm(bias, rows, weight.t())
            output.addmm_(inner, up.t(), alpha=scale)
            outputs.append(output.view(*x.shape[:-1], -1))
            kept += [inner, weight, down, up]
        ctx.scales, ctx.shape = scales, x.shape
        ctx.save_for_backward(*kept)
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        rows, *kept = ctx.saved_tensors
        of_x: Tensor | None = None
        of_tensors: list[Tensor | None] = []
        for scale, gradient, (inner, weight, down, up) in zip(
            ctx.scales, gradients, _by_layer(kept), strict=True
        ):
            flat = gradient.reshape(-1, gradient.shape[-1])
            of_inner = flat @ up
            of_up = flat.t() @ inner
            if scale != 1.0:
                of_inner.mul_(scale)
                of_up.mul_(scale)
            of_tensors += [None, None, of_inner.t() @ rows, of_up]
            if ctx.needs_input_grad[0]:
                of_x = flat @ weight if of_x is None else of_x.addmm_(flat, weight)
                of_x.addmm_(of_inner, down)
        return None if of_x is None else of_x.view(ctx.shape), None, *of_tensors


def _by_layer(tensors: Any) -> list[Any]:
    return [tensors[start : start + _PER_LAYER] for start in range(0, len(tensors), _PER_LAYER)]
