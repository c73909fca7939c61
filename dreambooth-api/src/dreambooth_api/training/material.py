"""All that a training looks at: photos and class pictures with their captions, served in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from dreambooth_api.training.conditioning import Conditioning, encode, text_encoders, time_ids, tokenize
from dreambooth_api.training.latents import FreshLatents, KeptLatents, Latents
from dreambooth_api.training.options import TrainingOptions
from dreambooth_api.training.photos import Framing
from dreambooth_api.training.randomness import Randomness, Shuffle


@dataclass(frozen=True)
class Batch:
    """`weights` (batch,) sum to one over the photos, and to the prior's weight over the class pictures."""

    latents: Tensor
    embeddings: Tensor
    added: dict[str, Tensor] | None
    weights: Tensor


class Material:
    """Photos first, then class pictures. Text embeddings are computed once unless the encoders are
    trained.
    """

    def __init__(
        self,
        pipeline: Any,
        options: TrainingOptions,
        photos: Sequence[Image],
        framings: Sequence[Framing],
        class_pictures: Sequence[Image],
        device: torch.device,
    ) -> None:
        assert options.resolution is not None
        self._options, self._device = options, device
        size = options.resolution
        images = [*photos, *class_pictures]
        if options.random_crop or options.random_flip:
            self._latents: Latents = FreshLatents(
                pipeline.vae, images, device, size, crop=options.random_crop, flip=options.random_flip
            )
        else:
            self._latents = KeptLatents(pipeline.vae, images, device)

        captions = list(options.captions or [options.instance_prompt] * len(photos))
        if options.prior_preservation is not None:
            captions += [options.prior_preservation.class_prompt] * len(class_pictures)
        distinct = list(dict.fromkeys(captions))
        self._caption = torch.tensor([distinct.index(caption) for caption in captions])
        self._tokens = tokenize(pipeline, distinct)
        self._encoders = text_encoders(pipeline)
        self._embedded: Conditioning | None = None
        if not options.train_text_encoder:
            with torch.no_grad():
                self._embedded = encode(self._encoders, self._tokens, device)

        drawn = Framing((size, size), (0, 0))
        self._time_ids = time_ids([*framings, *[drawn] * len(class_pictures)], size)
        self._photos, self._classes = Shuffle(len(photos)), Shuffle(len(class_pictures))
        self._first_class = len(photos)

    def next(self, randomness: Randomness) -> Batch:
        """`batch_size` photos and, with prior preservation, as many class pictures."""
        count, prior = self._options.batch_size, self._options.prior_preservation
        indices = self._photos.take(count, randomness.order)
        weights = torch.full((count,), 1.0 / count)
        if prior is not None:
            indices = torch.cat([indices, self._first_class + self._classes.take(count, randomness.order)])
            weights = torch.cat([weights, weights * prior.weight])
        latents = self._latents.sample(indices, randomness)
        embedded = self._condition(indices)
        added = None
        if embedded.pooled is not None:
            ids = self._time_ids[indices].to(self._device, embedded.pooled.dtype)
            added = {"text_embeds": embedded.pooled, "time_ids": ids}
        return Batch(latents, embedded.embeddings, added, weights.to(self._device))

    def _condition(self, indices: Tensor) -> Conditioning:
        rows = self._caption[indices]
        if self._embedded is not None:
            return self._embedded.rows(rows)
        distinct, place = rows.unique(return_inverse=True)
        return encode(self._encoders, self._tokens.rows(distinct), self._device).rows(place)

    def state(self) -> dict[str, Tensor]:
        return {"photos": self._photos.state(), "classes": self._classes.state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        self._photos.restore(state["photos"])
        self._classes.restore(state["classes"])
