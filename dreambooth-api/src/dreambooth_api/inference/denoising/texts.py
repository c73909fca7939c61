"""Prompts to embeddings, by the pipeline's own text encoders."""

from __future__ import annotations

from typing import Any

import torch

from dreambooth_api.inference.denoising.adapter_sets import AdapterSet
from dreambooth_api.inference.denoising.adapters import MergedAdapters
from dreambooth_api.inference.denoising.conditioning import Conditioning, Text, TextCache, time_ids
from dreambooth_api.inference.lora import LoraLayers
from dreambooth_api.inference.request import Drawing

_HOST = torch.device("cpu")


class Texts:
    """Encodes each prompt once for each choice of adapters that change the text encoders. For one thread."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self._encoders = {
            part: MergedAdapters(LoraLayers(getattr(pipeline, part), part=part, slots=1, units=1))
            for part in ("text_encoder", "text_encoder_2")
            if getattr(pipeline, part, None) is not None
        }
        self._cache = TextCache()

    @torch.inference_mode()
    def conditioning(self, drawing: Drawing, adapters: AdapterSet) -> Conditioning:
        """What the UNet is told for each picture of *drawing*."""
        prompt = self._text(drawing.prompt, adapters)
        negative = self._text(drawing.negative_prompt, adapters) if drawing.guidance_scale > 1 else None
        ids = None
        if prompt.pooled is not None:
            like = prompt.embeddings
            ids = time_ids(drawing.height, drawing.width, like.device, like.dtype)
        return Conditioning(prompt, negative, ids)

    def _text(self, prompt: str, adapters: AdapterSet) -> Text:
        parts = self._encoders
        applied = AdapterSet(
            tuple(use for use in adapters.uses if any(use.weights.part_on(part, _HOST) for part in parts))
        )

        def encode() -> Text:
            for encoder in self._encoders.values():
                encoder.merge(applied)
            encoded = self._pipeline.encode_prompt(
                prompt,
                device=self._pipeline.device,
                num_images_per_prompt=1,
                do_classifier_free_guidance=False,
            )
            pooled = encoded[2] if len(encoded) == 4 else None
            return Text(encoded[0], pooled, cut_off(self._pipeline.tokenizer, prompt))

        # Not the uses themselves: a cached text would keep their weights in memory.
        return self._cache.get((prompt, tuple((use.key, use.weight) for use in applied.uses)), encode)


def cut_off(tokenizer: Any, prompt: str) -> str | None:
    """What of *prompt* is beyond the text encoder's tokens, or None where all of it fits.

    Tokenizers keep what they are to pad to: one thread at a time.
    """
    longest = tokenizer.model_max_length
    tokens = tokenizer(prompt, truncation=False, return_offsets_mapping=True)
    if len(tokens.input_ids) <= longest:
        return None
    # The last place is the end mark's: this token is the first that finds none.
    begins_at = tokens.offset_mapping[longest - 1][0]
    return prompt[begins_at:].strip()
