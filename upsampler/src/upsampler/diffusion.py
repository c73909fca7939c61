"""The engine ``sd``: a ``StableDiffusionUpscalePipeline``, tile by tile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionUpscalePipeline
from enlight_common.queue import Canceled, Stop
from PIL import Image

from upsampler.models import Upscaler
from upsampler.request import Manner
from upsampler.tiles import Canvas, Tile, cut

#: Sides are padded to multiples of it, for the UNet's levels.
_STEP = 8
#: Tiles that a GPU takes at once, by their pixels: 4 of 128×128. A CPU gains nothing from more than one.
_GPU_BATCH_PIXELS = 4 * 128 * 128


class DiffusionEngine:
    """Enlarges by the pipeline's factor, in the thread that calls, which should be always the same one."""

    def __init__(self, upscaler: Upscaler, folder: Path, device: str) -> None:
        """Loads the pipeline from *folder*. Raises OSError where weights are missing or no safetensors."""
        dtype = _dtype_for(device)
        self.upscaler = upscaler
        self._device = torch.device(device)
        pipeline = StableDiffusionUpscalePipeline.from_pretrained(
            folder, dtype=dtype, variant=upscaler.variant, use_safetensors=True, local_files_only=True
        )
        if dtype == torch.float16 and pipeline.vae.config.force_upcast:
            pipeline.vae.to(torch.float32)
        self._pipeline: Any = pipeline.to(self._device)
        # On the CPU its sums are rounded otherwise than plain diffusers'.
        if self._device.type != "cpu":
            self._pipeline.unet.to(memory_format=torch.channels_last)
            self._pipeline.vae.to(memory_format=torch.channels_last)
        self.factor = int(pipeline.vae_scale_factor)

    @torch.inference_mode()
    def enlarge(
        self, image: Image.Image, manner: Manner, stop: Stop, *, tiles: Sequence[Tile] | None = None
    ) -> Image.Image:
        """*image* (RGB), `factor` times as wide and high, drawn in *tiles*, by default as *manner* cuts them.

        The noise of a seed is one field over the whole picture, of which each tile takes its part: it does
        not depend on the tiles or their order, and neighbours see the same noise where they overlap. A
        picture of one tile, sides multiples of 8, is what the pipeline itself draws. Raises Canceled when
        *stop* says yes.
        """
        width, height = image.size
        pixels = _padded(image)
        wide, high = pixels.shape[-1], pixels.shape[-2]
        generator = torch.Generator("cpu").manual_seed(manner.seed)
        # In the pipeline's order: the noise on the picture first, then that of the latents.
        small_noise = torch.randn(pixels.shape, generator=generator)
        channels = self._pipeline.vae.config.latent_channels
        noise = torch.randn((1, channels, high, wide), generator=generator)
        level = torch.tensor([manner.noise_level])
        seen = self._pipeline.low_res_scheduler.add_noise(pixels, small_noise, level)
        states = self._states(manner)
        canvas = Canvas(wide, high, self.factor, manner.overlap)
        if tiles is None:
            tiles = cut(wide, high, -(-manner.tile // _STEP) * _STEP, manner.overlap)
        for batch in self._batches(tiles):
            noises, parts = (torch.cat([_part(whole, tile) for tile in batch]) for whole in (noise, seen))
            latents = self._denoised(noises, parts, states, manner, stop)
            for tile, drawn in zip(batch, self._decoded(latents), strict=True):
                canvas.add(tile, drawn.permute(1, 2, 0).numpy())
        return canvas.picture().crop((0, 0, width * self.factor, height * self.factor))

    def _batches(self, tiles: Sequence[Tile]) -> Iterator[Sequence[Tile]]:
        pixels = tiles[0].width * tiles[0].height
        size = 1 if self._device.type == "cpu" else max(1, _GPU_BATCH_PIXELS // pixels)
        for start in range(0, len(tiles), size):
            yield tiles[start : start + size]

    def _states(self, manner: Manner) -> torch.Tensor:
        """The text's states (1 or, with guidance, 2: the negative prompt's first; tokens; width)."""
        guided = manner.guidance_scale > 1
        asked, avoided = self._pipeline.encode_prompt(
            manner.prompt, self._device, 1, guided, manner.negative_prompt or None
        )
        states: torch.Tensor = torch.cat([avoided, asked]) if guided else asked
        return states

    def _denoised(
        self, noise: torch.Tensor, seen: torch.Tensor, states: torch.Tensor, manner: Manner, stop: Stop
    ) -> torch.Tensor:
        """Latents (n, c, h, w) drawn from *noise*, of the same shape, for the parts *seen* (n, 3, h, w)."""
        pipeline, copies = self._pipeline, len(states)
        scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
        scheduler.set_timesteps(manner.steps, device=self._device)
        latents: torch.Tensor = self._placed(noise) * scheduler.init_noise_sigma
        seen = torch.cat([self._placed(seen)] * copies)
        text = states.repeat_interleave(len(noise), dim=0)
        levels = torch.full((len(seen),), manner.noise_level, device=self._device)
        extra = pipeline.prepare_extra_step_kwargs(None, 0.0)
        for time in scheduler.timesteps:
            if stop():
                raise Canceled
            both = scheduler.scale_model_input(torch.cat([latents] * copies), time)
            predicted = pipeline.unet(
                torch.cat([both, seen], dim=1), time, text, class_labels=levels, return_dict=False
            )[0]
            if copies == 2:
                avoided, asked = predicted.chunk(2)
                predicted = avoided + manner.guidance_scale * (asked - avoided)
            latents = scheduler.step(predicted, time, latents, **extra, return_dict=False)[0]
        if stop():
            raise Canceled
        return latents

    def _placed(self, values: torch.Tensor) -> torch.Tensor:
        return values.to(self._device, self._pipeline.unet.dtype)

    def _decoded(self, latents: torch.Tensor) -> torch.Tensor:
        """Pixels (n, 3, h, w) from 0 to 1, fp32 on the CPU."""
        vae = self._pipeline.vae
        pixels = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]
        shown: torch.Tensor = (pixels.float().cpu() * 0.5 + 0.5).clamp(0, 1)
        return shown


def _padded(image: Image.Image) -> torch.Tensor:
    """(1, 3, height, width) from -1 to 1; the last row and column repeated up to multiples of 8."""
    right, below = (-side % _STEP for side in image.size)
    pixels = np.pad(np.asarray(image), ((0, below), (0, right), (0, 0)), mode="edge")
    return 2.0 * torch.from_numpy(pixels.astype(np.float32) / 255.0).permute(2, 0, 1)[None] - 1.0


def _part(whole: torch.Tensor, tile: Tile) -> torch.Tensor:
    return whole[:, :, tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]


def _dtype_for(device: str) -> torch.dtype:
    """Half precision on a GPU, bf16 where it has it."""
    if device == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
