"""A start for networks that begin and end in pictures: the best linear map, written into their convolutions.

Left to chance, these small networks spend most of their training on learning to pass colours through their
group norms and activations. Here the residual branches start at zero, what remains is linear up to the last
norm, and two facts carry a linear map through that: ``silu(x) - silu(-x) = x``, and a norm over all channels
does nothing but scale when two constant channels, ±LEVEL, outweigh the rest.
"""

from __future__ import annotations

import torch
from torch import nn

LEVEL = 512.0


@torch.no_grad()
def silence_branches(model: nn.Module) -> None:
    """Every residual block begins as its shortcut, and no convolution makes signals smaller or larger."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            if name.endswith(".conv2"):
                module.weight.zero_()


@torch.no_grad()
def pair_up(into: nn.Conv2d, norm: nn.GroupNorm, out: nn.Conv2d, features: int) -> None:
    """Makes ``out(silu(norm(into(x))))`` equal to ``out(into(x)[:features])``, nearly.

    ``into`` has 2 × features + 2 channels or more going out, ``norm`` one group.
    """
    assert into.bias is not None
    last = 2 * features
    into.weight[features:last] = -into.weight[:features]
    into.bias[features:last] = -into.bias[:features]
    into.weight[last:] = 0
    into.bias[last:] = 0
    into.bias[last], into.bias[last + 1] = LEVEL, -LEVEL
    norm.weight.fill_(LEVEL * (2 / norm.num_channels) ** 0.5)
    # The constants have done their part: passed on, they would turn a small step of training into a leap.
    norm.weight[last:] = 0
    norm.bias.zero_()
    out.weight[:, features:last] = -out.weight[:, :features]
    out.weight[:, last : last + 2] = 0
