"""The engine ``sd``: a ``StableDiffusionUpscalePipeline``, tile by tile."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionUpscalePipeline
from enlight_common.memory import memory_bounded
from enlight_common.queue import Canceled, Stop
from PIL import Image

from upsampler.models import Upscaler
from upsampler.pace import Advance, Pace, nobody
from upsampler.request import Manner
from upsampler.stopping import Stoppable
from upsampler.tiles import Canvas, Tile, cut

#: Sides are padded to multiples of it, for the UNet's levels.
_STEP = 8
#: Tiles that a GPU takes at once, by their pixels: 4 of 128×128. A CPU gains nothing from more than one.
_GPU_BATCH_PIXELS = 4 * 128 * 128


_WARM_UP_SIDE = 64


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
        self.pace = Pace()
        self._stoppable = Stoppable(pipeline.unet, pipeline.vae)
        #: What decoding a tile takes, in runs of the UNet over it.
        self._decoding_runs = 1.0
        self._warm_up()

    @torch.inference_mode()
    def _warm_up(self) -> None:
        """Measure a step and a decoding of a small tile, the second time: libraries prepare in the first."""
        side = _WARM_UP_SIDE
        manner = Manner(tile=side, overlap=0, seed=0)
        states = self._states(manner)
        noise = torch.zeros(1, self._pipeline.vae.config.latent_channels, side, side)
        for _ in range(2):
            self.pace = Pace()
            latents = self._denoised(
                noise, torch.zeros(1, 3, side, side), states, manner, lambda: False, nobody
            )
            started = time.monotonic()
            self._decoded(latents)
            decoding = time.monotonic() - started
        self._decoding_runs = decoding / (self.pace.seconds_per_unit * side**2)

    def tiles(self, size: tuple[int, int], manner: Manner) -> list[Tile]:
        """The tiles in which a picture of *size* (width, height) is drawn, padded to multiples of 8."""
        width, height = (-(-side // _STEP) * _STEP for side in size)
        return cut(width, height, -(-manner.tile // _STEP) * _STEP, manner.overlap)

    def work(self, size: tuple[int, int], manner: Manner) -> float:
        """What a picture of *size* takes, in pixels that the UNet runs over."""
        pixels = sum(tile.width * tile.height for tile in self.tiles(size, manner))
        return pixels * (manner.steps * (2 if _guided(manner) else 1) + self._decoding_runs)

    @torch.inference_mode()
    def enlarge(
        self,
        image: Image.Image,
        manner: Manner,
        stop: Stop,
        advance: Advance = nobody,
        *,
        tiles: Sequence[Tile] | None = None,
    ) -> Image.Image:
        """*image* (RGB), `factor` times as wide and high, drawn in *tiles*, by default as *manner* cuts them.

        The noise of a seed is one field over the whole picture, of which each tile takes its part: it does
        not depend on the tiles or their order, and neighbours see the same noise where they overlap. A
        picture of one tile, sides multiples of 8, is what the pipeline itself draws. *advance* is told each
        bit of the `work` that is done. Raises Canceled when *stop* says yes, OutOfMemory.
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
        with memory_bounded(torch, "ask for a smaller tile"), self._stoppable.by(stop):
            for batch in self._batches(self.tiles(image.size, manner) if tiles is None else tiles):
                noises, parts = (torch.cat([_part(whole, tile) for tile in batch]) for whole in (noise, seen))
                latents = self._denoised(noises, parts, states, manner, stop, advance)
                started, pixels_in_batch = time.monotonic(), noises[:, 0].numel()
                for tile, drawn in zip(batch, self._decoded(latents), strict=True):
                    canvas.add(tile, drawn.permute(1, 2, 0).numpy())
                self._count(started, pixels_in_batch * self._decoding_runs, advance)
        return canvas.picture().crop((0, 0, width * self.factor, height * self.factor))

    def _count(self, started: float, units: float, advance: Advance) -> None:
        if self._device.type != "cpu":
            torch.cuda.synchronize(self._device)
        self.pace.learn(time.monotonic() - started, units)
        advance(units)

    def _batches(self, tiles: Sequence[Tile]) -> Iterator[Sequence[Tile]]:
        pixels = tiles[0].width * tiles[0].height
        size = 1 if self._device.type == "cpu" else max(1, _GPU_BATCH_PIXELS // pixels)
        for start in range(0, len(tiles), size):
            yield tiles[start : start + size]

    def _states(self, manner: Manner) -> torch.Tensor:
        """The text's states (1 or, with guidance, 2: the negative prompt's first; tokens; width)."""
        guided = _guided(manner)
        asked, avoided = self._pipeline.encode_prompt(
            manner.prompt, self._device, 1, guided, manner.negative_prompt or None
        )
        states: torch.Tensor = torch.cat([avoided, asked]) if guided else asked
        return states

    def _denoised(
        self,
        noise: torch.Tensor,
        seen: torch.Tensor,
        states: torch.Tensor,
        manner: Manner,
        stop: Stop,
        advance: Advance,
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
        for timestep in scheduler.timesteps:
            if stop():
                raise Canceled
            started = time.monotonic()
            both = scheduler.scale_model_input(torch.cat([latents] * copies), timestep)
            predicted = pipeline.unet(
                torch.cat([both, seen], dim=1), timestep, text, class_labels=levels, return_dict=False
            )[0]
            if copies == 2:
                avoided, asked = predicted.chunk(2)
                predicted = avoided + manner.guidance_scale * (asked - avoided)
            latents = scheduler.step(predicted, timestep, latents, **extra, return_dict=False)[0]
            self._count(started, noise[:, 0].numel() * copies, advance)
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


def _guided(manner: Manner) -> bool:
    return manner.guidance_scale > 1


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
