"""Captions as what the UNet is conditioned on: the text encoder's output and, for SDXL, its further
inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dreambooth_api.training.photos import Framing


@dataclass(frozen=True)
class Conditioning:
    """For a batch of captions: `embeddings` (batch, 77, width), and SDXL's `pooled` (batch, width)."""

    embeddings: Tensor
    pooled: Tensor | None = None

    def rows(self, indices: Tensor) -> Conditioning:
        """A row for each index; where all are the same, that one row expanded, for who can use it once.

        `indices` are on the CPU.
        """
        embeddings, pooled = self.embeddings, self.pooled
        if bool((indices == indices[0]).all()):
            only, count = int(indices[0]), len(indices)
            return Conditioning(
                embeddings[only : only + 1].expand(count, -1, -1),
                None if pooled is None else pooled[only : only + 1].expand(count, -1),
            )
        indices = indices.to(embeddings.device)
        return Conditioning(embeddings[indices], None if pooled is None else pooled[indices])


@dataclass(frozen=True)
class Tokens:
    """Captions as token ids, shape (captions, 77), one tensor and mask for each text encoder of the
    pipeline.
    """

    ids: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]

    def rows(self, indices: Tensor) -> Tokens:
        return Tokens(tuple(ids[indices] for ids in self.ids), tuple(mask[indices] for mask in self.masks))


def text_encoders(pipeline: Any) -> list[Any]:
    """The pipeline's text encoders in order: one, or SDXL's two."""
    named = [getattr(pipeline, "text_encoder", None), getattr(pipeline, "text_encoder_2", None)]
    return [encoder for encoder in named if encoder is not None]


def tokenize(pipeline: Any, captions: Sequence[str]) -> Tokens:
    """Pad and truncate captions to the tokenizers' length, as the pipelines do."""
    ids, masks = [], []
    for tokenizer in (pipeline.tokenizer, getattr(pipeline, "tokenizer_2", None)):
        if tokenizer is None:
            continue
        tokens = tokenizer(
            list(captions),
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        ids.append(tokens.input_ids)
        masks.append(tokens.attention_mask)
    return Tokens(tuple(ids), tuple(masks))


def encode(encoders: Sequence[Any], tokens: Tokens, device: torch.device | str) -> Conditioning:
    """Run the text encoders as their pipeline does: SD takes the last layer, normed; SDXL two last but
    one.
    """
    if len(encoders) == 1:
        (encoder,) = encoders
        mask = tokens.masks[0].to(device) if getattr(encoder.config, "use_attention_mask", False) else None
        return Conditioning(encoder(tokens.ids[0].to(device), attention_mask=mask)[0])
    hidden, pooled = [], None
    for encoder, ids in zip(encoders, tokens.ids, strict=True):
        output = encoder(ids.to(device), output_hidden_states=True)
        hidden.append(output.hidden_states[-2])
        pooled = output[0]  # the second encoder's projection counts
    return Conditioning(torch.cat(hidden, dim=-1), pooled)


def time_ids(framings: Sequence[Framing], resolution: int) -> Tensor:
    """SDXL's micro-conditioning, shape (photos, 6): original size, crop corner, target size."""
    rows = [[*framing.original, *framing.corner, resolution, resolution] for framing in framings]
    return torch.tensor(rows, dtype=torch.float32)
