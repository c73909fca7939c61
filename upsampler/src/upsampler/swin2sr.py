"""The engine ``swin2sr``: transformers' Swin2SR with its own processor."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from enlight_common.memory import memory_bounded
from enlight_common.queue import Canceled, Stop
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoImageProcessor, Swin2SRForImageSuperResolution

from upsampler.models import Upscaler
from upsampler.pace import Advance, Pace, nobody
from upsampler.request import Manner
from upsampler.stopping import Stoppable
from upsampler.tiles import Canvas, Tile, cut

_WARM_UP_SIDE = 64


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
        self.pace = Pace()
        self._stoppable = Stoppable(model)
        self._warm_up()

    def _warm_up(self) -> None:
        """Measure a small picture; the first, in which libraries prepare themselves, does not count."""
        for _ in range(2):
            self.pace = Pace()
            side = _WARM_UP_SIDE
            self.enlarge(Image.new("RGB", (side, side)), Manner(side, overlap=0, seed=0), lambda: False)

    def tiles(self, size: tuple[int, int], manner: Manner) -> list[Tile]:
        """The tiles in which a picture of *size* (width, height) is enlarged."""
        return cut(*size, manner.tile, manner.overlap)

    def work(self, size: tuple[int, int], manner: Manner) -> float:
        """What a picture of *size* takes, in pixels that the network is given."""
        return sum(tile.width * tile.height for tile in self.tiles(size, manner))

    @torch.inference_mode()
    def enlarge(
        self, image: Image.Image, manner: Manner, stop: Stop, advance: Advance = nobody
    ) -> Image.Image:
        """*image* (RGB), `factor` times as wide and high. *advance* is told each bit of `work` that is done.

        Raises Canceled when *stop* says yes, OutOfMemory.
        """
        canvas = Canvas(*image.size, self.factor, manner.overlap)
        with memory_bounded(torch, "ask for a smaller tile"), self._stoppable.by(stop):
            for tile in self.tiles(image.size, manner):
                if stop():
                    raise Canceled
                started = time.monotonic()
                canvas.add(tile, self._enlarged(image, tile))
                self.pace.learn(time.monotonic() - started, tile.width * tile.height)
                advance(tile.width * tile.height)
        return canvas.picture()

    def _enlarged(self, image: Image.Image, tile: Tile) -> NDArray[np.float32]:
        box = (tile.left, tile.top, tile.left + tile.width, tile.top + tile.height)
        inputs = self._processor(image.crop(box), return_tensors="pt").to(self._device)
        # The processor pads to the right and below.
        pixels = self._model(**inputs).reconstruction[
            0, :, : tile.height * self.factor, : tile.width * self.factor
        ]
        enlarged: NDArray[np.float32] = pixels.float().clamp(0, 1).permute(1, 2, 0).cpu().numpy()
        return enlarged
