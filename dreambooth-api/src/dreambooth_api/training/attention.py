"""diffusers' attention for the layers that a LoRA trains, with fewer steps on the way to the same numbers."""

from __future__ import annotations

import functools
from typing import Any

import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor

from dreambooth_api.training.lora_products import LoraLinear, project


def install(unet: Any) -> None:
    """Have the UNet's attention layers that are plain, as all of Stable Diffusion's are, use `attend`."""
    for module in unet.modules():
        if isinstance(module, Attention) and _is_plain(module):
            # Not as a processor: diffusers inspects a processor's signature in each call, 4% of a pass of the
            # tiny UNet.
            module.forward = functools.partial(attend, module)


def _is_plain(layer: Any) -> bool:
    projections = (layer.to_q, layer.to_k, layer.to_v, layer.to_out[0])
    further = ("spatial_norm", "group_norm", "norm_q", "norm_k", "norm_cross", "added_kv_proj_dim")
    return (
        all(isinstance(projection, LoraLinear) for projection in projections)
        and not any(getattr(layer, name, None) for name in further)
        and not layer.residual_connection
        and layer.rescale_output_factor == 1.0
        and layer.to_out[1].p == 0.0
    )


def attend(
    layer: Any,
    hidden_states: Tensor,
    encoder_hidden_states: Tensor | None = None,
    attention_mask: Tensor | None = None,
) -> Tensor:
    """`hidden_states` (batch, places, channels) → the same; text states (batch, tokens, width).

    Queries, keys and values are computed in one go where they have one input. Where all of a batch has the
    same text (its states are one row, expanded), keys and values are computed for that row.
    """
    batch = hidden_states.shape[0]
    if encoder_hidden_states is None:
        query, key, value = project(hidden_states, layer.to_q, layer.to_k, layer.to_v)
    else:
        text = encoder_hidden_states[:1] if _is_one_row(encoder_hidden_states) else encoder_hidden_states
        (query,) = project(hidden_states, layer.to_q)
        key, value = project(text, layer.to_k, layer.to_v)
    attended = F.scaled_dot_product_attention(
        _by_head(query, layer.heads, batch),
        _by_head(key, layer.heads, batch),
        _by_head(value, layer.heads, batch),
        attn_mask=_mask_by_head(layer, attention_mask, key.shape[1], batch),
    )
    (output,) = project(attended.transpose(1, 2).flatten(2), layer.to_out[0])
    return output


def _is_one_row(states: Tensor) -> bool:
    return states.shape[0] > 1 and states.stride(0) == 0


def _by_head(states: Tensor, heads: int, batch: int) -> Tensor:
    """(batch or 1, length, channels) → (batch, heads, length, channels / heads)."""
    apart: Tensor = states.unflatten(-1, (heads, -1)).transpose(1, 2)
    return apart.expand(batch, -1, -1, -1)


def _mask_by_head(layer: Any, mask: Tensor | None, length: int, batch: int) -> Tensor | None:
    if mask is None:
        return None
    prepared = layer.prepare_attention_mask(mask, length, batch)
    by_head: Tensor = prepared.view(batch, layer.heads, -1, prepared.shape[-1])
    return by_head
