"""Pictures to latents and back, as diffusers' pipelines do it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import PIL.Image
import torch
from torch import Tensor


@dataclass(frozen=True)
class EncodedImage:
    """The distribution that an image's latents are drawn from, each (1, channels, height, width).

    Their noise is to be drawn in *dtype*.
    """

    mean: Tensor
    std: Tensor
    dtype: torch.dtype


class Autoencoder:
    """The VAE of a pipeline. For any thread, one at a time."""

    def __init__(self, pipeline: Any) -> None:
        self._vae = pipeline.vae
        self._processor = pipeline.image_processor
        #: Only SDXL's pipelines heed what the configuration says of float16 and of the latents' spread.
        self._sdxl = hasattr(pipeline, "text_encoder_2")
        self._upcasts = self._sdxl and bool(self._vae.config.force_upcast)
        self._dtype: torch.dtype = self._vae.dtype
        #: Held while it computes, because its dtype may change for that time.
        self._in_use = threading.Lock()

    @torch.inference_mode()
    def encode(self, image: PIL.Image.Image) -> EncodedImage:
        """The latents' distribution for an image of the picture's size."""
        pixels = self._processor.preprocess(image)
        # diffusers encodes for SDXL in float32 whatever the model's dtype.
        dtype = torch.float32 if self._upcasts else self._dtype
        with self._in(dtype) as vae:
            found = vae.encode(pixels.to(vae.device, dtype)).latent_dist
        return EncodedImage(found.mean, found.std, dtype)

    @torch.inference_mode()
    def sample(self, encoded: EncodedImage, noise: Tensor) -> Tensor:
        """Image latents (1, channels, height, width) in the model's dtype, as the UNet takes them."""
        sampled = (encoded.mean + encoded.std * noise.to(encoded.mean.device)).to(self._dtype)
        scaling = float(self._vae.config.scaling_factor)
        spread = self._spread(sampled)
        if spread is None:
            return sampled * scaling
        mean, std = spread
        return (sampled - mean) * scaling / std

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> list[PIL.Image.Image]:
        """RGB pictures of finished latents (pictures, channels, height, width)."""
        scaling = self._vae.config.scaling_factor
        upcast = self._upcasts and self._dtype == torch.float16
        latents = latents.to(torch.float32 if upcast else self._dtype)
        spread = self._spread(latents)
        latents = latents / scaling if spread is None else latents * spread[1] / scaling + spread[0]
        with self._in(latents.dtype) as vae:
            pixels = vae.decode(latents, return_dict=False)[0]
        bytes_ = (pixels * 0.5 + 0.5).clamp(0, 1).float().mul_(255).round_().to(torch.uint8)
        return [PIL.Image.fromarray(one) for one in bytes_.permute(0, 2, 3, 1).cpu().numpy()]

    def _spread(self, like: Tensor) -> tuple[Tensor, Tensor] | None:
        """Mean and deviation that some VAEs' latents are normalized by."""
        config = self._vae.config
        mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        if not self._sdxl or mean is None or std is None:
            return None
        return (
            torch.tensor(mean).view(1, -1, 1, 1).to(like),
            torch.tensor(std).view(1, -1, 1, 1).to(like),
        )

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Leave the VAE to a pipeline of diffusers while the context lasts.

        SDXL's change its dtype, and leave it so where they fail.
        """
        with self._in_use:
            try:
                yield
            finally:
                if self._vae.dtype != self._dtype:
                    self._vae.to(dtype=self._dtype)

    @contextmanager
    def _in(self, dtype: torch.dtype) -> Iterator[Any]:
        """The VAE in *dtype* while the context lasts."""
        with self._in_use:
            if dtype == self._dtype:
                yield self._vae
                return
            self._vae.to(dtype=dtype)
            try:
                yield self._vae
            finally:
                self._vae.to(dtype=self._dtype)
