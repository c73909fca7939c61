"""The random numbers of one picture."""

from __future__ import annotations

import torch
from torch import Tensor


class PictureNoise:
    """What a seed gives one picture, in the order and dtype in which a diffusers pipeline draws it from
    ``torch.Generator("cpu").manual_seed(seed)``: a picture from an image first draws for the VAE's sampling
    (in the VAE's dtype, float32 for SDXL's), then for its starting latents; a picture from text begins
    with these; each step of a noisy sampler follows (``Trajectory.noise_dtype`` where that is not None).
    """

    def __init__(self, seed: int, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
        """*shape* is that of the latents, (channels, height, width), *dtype* the UNet's."""
        self._generator = torch.Generator("cpu").manual_seed(seed)
        self._shape = (1, *shape)
        self._dtype = dtype

    def draw(self, dtype: torch.dtype | None = None) -> Tensor:
        """The next standard normal numbers, (1, channels, height, width), on the CPU."""
        # Drawn in the dtype and not converted: a narrower one takes other random bits.
        return torch.randn(self._shape, generator=self._generator, dtype=dtype or self._dtype)
