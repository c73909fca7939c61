"""The engine ``swin2sr``: transformers' Swin2SR with its own processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from enlight_common.queue import Canceled, Stop
from PIL import Image
from transformers import AutoImageProcessor, Swin2SRForImageSuperResolution

from upsampler.models import Upscaler
from upsampler.request import Manner
from upsampler.tiles import Canvas, cut


class Swin2SREngine:
    """Enlarges by the model's factor. A picture of one tile is what processor and model give, bit for bit."""

    def __init__(self, upscaler: Upscaler, folder: Path, device: str) -> None:
        """Loads the model from *folder*. Raises OSError where weights are missing or no safetensors."""
        self.upscaler = upscaler
        self._device = torch.device(device)
        self._processor: Any = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        model = Swin2SRForImageSuperResolution.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, dtype=torch.float32
        )
        self._model: Any = model.eval().to(self._device)
        self.factor = int(model.config.upscale)

    @torch.inference_mode()
    def enlarge(self, image: Image.Image, manner: Manner, stop: Stop) -> Image.Image:
        """*image* (RGB), `factor` times as wide and high. Raises Canceled when *stop* says yes."""
        width, height = image.size
        canvas = Canvas(width, height, self.factor, manner.overlap)
        for tile in cut(width, height, manner.tile, manner.overlap):
            if stop():
                raise Canceled
            box = (tile.left, tile.top, tile.left + tile.width, tile.top + tile.height)
            inputs = self._processor(image.crop(box), return_tensors="pt").to(self._device)
            # The processor pads to the right and below.
            pixels = self._model(**inputs).reconstruction[
                0, :, : tile.height * self.factor, : tile.width * self.factor
            ]
            canvas.add(tile, pixels.float().clamp(0, 1).permute(1, 2, 0).cpu().numpy())
        return canvas.picture()
