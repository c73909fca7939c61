"""An attention processor of diffusers' that makes the most of a batch whose weights are known beforehand."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor, nn

from dreambooth_api.inference.lora.layers import AdaptedLinear, Switch
from dreambooth_api.inference.lora.stacks import Stack


class BatchedAttention:
    """One product for query, key and value of a self-attention; a cross-attention's keys and values ready
    made. Same results as ``AttnProcessor2_0``, and that itself outside of a batch.
    """

    def __init__(self, switch: Switch, group: int, layer: int, stack: Stack, cross: bool) -> None:
        """*group* and *layer*: of the first of the attention's projections that share their input."""
        self._switch = switch
        self._group, self._layer = group, layer
        self._cross = cross
        self._width = stack.weights.shape[1]
        self._bundle = 2 if cross else 3
        self._weight = stack.of_bundle(layer // self._bundle)
        self._plain = AttnProcessor2_0()

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        current = self._switch.current
        if current is None or attention_mask is not None or (self._cross and current.text is None):
            plain: Tensor = self._plain(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
            return plain
        if self._cross:
            assert current.text is not None
            query = attn.to_q(hidden_states)
            key, value = current.text.of(self._group, self._layer, self._width)
        else:
            rows = current.groups[self._group]
            together = (
                F.linear(hidden_states, self._weight)
                if rows is None
                else rows.linear(hidden_states, self._weight, None, self._layer, self._bundle)
            )
            query, key, value = together.split(self._width, dim=-1)
        query, key, value = (_heads(x, attn.heads) for x in (query, key, value))
        attended = F.scaled_dot_product_attention(query, key, value)
        output: Tensor = attn.to_out[0](attended.transpose(1, 2).flatten(2))
        return output


def _heads(x: Tensor, heads: int) -> Tensor:
    """(rows, tokens, width) as (rows, heads, tokens, width / heads)."""
    return x.view(*x.shape[:-1], heads, -1).transpose(1, 2)


def fits(attention: nn.Module) -> bool:
    """Whether *attention*, whose shared projections are ``AdaptedLinear``, computes nothing beyond them."""
    if not isinstance(getattr(attention, "to_q", None), AdaptedLinear):
        return False
    if not isinstance(getattr(attention, "processor", None), AttnProcessor2_0):
        return False
    extras = ("group_norm", "spatial_norm", "norm_q", "norm_k", "norm_cross", "residual_connection")
    return (
        not any(getattr(attention, extra, None) for extra in extras)
        and getattr(attention, "rescale_output_factor", 1.0) == 1.0
        and getattr(attention, "added_kv_proj_dim", None) is None
    )
