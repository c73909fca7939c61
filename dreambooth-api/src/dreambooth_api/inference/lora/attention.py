"""Attention processors of diffusers' that make the most of a batch whose weights are known beforehand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor, nn

from dreambooth_api.inference.lora.layers import AdaptedLinear
from dreambooth_api.inference.lora.rows import LayerRows


class _Batched(ABC):
    """Same results as ``AttnProcessor2_0``, and that itself outside of a batch."""

    def __init__(self, bundle: int) -> None:
        """*bundle*: its number in its group."""
        self.bundle = bundle
        self._plain = AttnProcessor2_0()

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        projected = None if attention_mask is not None else self._projected(attn, hidden_states)
        if projected is None:
            plain: Tensor = self._plain(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
            return plain
        query, key, value = (_heads(x, attn.heads) for x in projected)
        attended = F.scaled_dot_product_attention(query, key, value)
        output: Tensor = attn.to_out[0](attended.transpose(1, 2).flatten(2))
        return output

    @abstractmethod
    def _projected(self, attn: Any, hidden_states: Tensor) -> tuple[Tensor, ...] | None:
        """Query, key and value, each (rows, tokens, width); None outside of a batch."""


class BatchedSelfAttention(_Batched):
    """One product for query, key and value."""

    def __init__(self, bundle: int, weight: Tensor) -> None:
        """*weight*: the base model's of the three, one below the other."""
        super().__init__(bundle)
        self._weight = weight
        #: Whether the forward passes are a batch's, and its weights of the three; None for the base model's.
        self.batched = False
        self.rows: LayerRows | None = None

    def _projected(self, attn: Any, hidden_states: Tensor) -> tuple[Tensor, ...] | None:
        if not self.batched:
            return None
        if self.rows is None:
            return F.linear(hidden_states, self._weight).chunk(3, dim=-1)
        return self.rows.linear(hidden_states, self._weight, None).chunk(3, dim=-1)


class BatchedCrossAttention(_Batched):
    """Keys and values made before."""

    #: The batch's keys and values, each (rows, tokens, width).
    text: tuple[Tensor, Tensor] | None = None

    def _projected(self, attn: Any, hidden_states: Tensor) -> tuple[Tensor, ...] | None:
        return None if self.text is None else (attn.to_q(hidden_states), *self.text)


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
