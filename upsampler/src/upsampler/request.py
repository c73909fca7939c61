"""What is asked for, once it is decoded and within bounds."""

from __future__ import annotations

import random
from dataclasses import dataclass

from enlight_common.errors import InvalidField
from PIL import Image

from upsampler.models import Upscaler

MAX_SEED = 2**32 - 1


@dataclass(frozen=True)
class Manner:
    """How a picture is enlarged; `tile` and `overlap` are in pixels of the picture that is enlarged."""

    tile: int
    overlap: int
    seed: int
    prompt: str = ""
    negative_prompt: str = ""
    steps: int = 1
    noise_level: int = 0
    guidance_scale: float = 1.0


@dataclass(frozen=True)
class UpscaleRequest:
    """A picture (RGB) to enlarge to `resolution` pixels on its longer side; None takes the model's own."""

    image: Image.Image
    resolution: int
    prompt: str = ""
    negative_prompt: str = ""
    steps: int | None = None
    noise_level: int | None = None
    guidance_scale: float | None = None
    seed: int | None = None
    tile: int | None = None
    overlap: int | None = None

    def manner(self, upscaler: Upscaler, max_tile: int) -> Manner:
        """Every setting decided, by *upscaler* where the request leaves it open, the seed by chance.

        Raises InvalidField for a tile of more than *max_tile* pixels; the upscaler's own is made no larger.
        """
        if self.tile is not None and self.tile > max_tile:
            raise InvalidField("tile", f"must be at most {max_tile}, the MAX_TILE of this service")
        tile = min(upscaler.tile, max_tile) if self.tile is None else self.tile
        overlap = min(upscaler.overlap, tile // 2) if self.overlap is None else self.overlap
        return Manner(
            tile=tile,
            overlap=overlap,
            seed=random.randrange(MAX_SEED + 1) if self.seed is None else self.seed,
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            steps=upscaler.steps if self.steps is None else self.steps,
            noise_level=upscaler.noise_level if self.noise_level is None else self.noise_level,
            guidance_scale=upscaler.guidance_scale if self.guidance_scale is None else self.guidance_scale,
        )
