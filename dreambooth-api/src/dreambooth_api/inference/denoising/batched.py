"""Drawing many requests' pictures together, step by step."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import PIL.Image
import torch

from dreambooth_api.inference.denoising.adapters import AdapterSet, BatchAdapters
from dreambooth_api.inference.denoising.batch_sizes import BatchSizes
from dreambooth_api.inference.denoising.beside import SideThread
from dreambooth_api.inference.denoising.conditioning import Conditioning
from dreambooth_api.inference.denoising.decoding import Decoder, FinishedLatents
from dreambooth_api.inference.denoising.denoiser import Counts, Denoiser
from dreambooth_api.inference.denoising.loop import StepLoop
from dreambooth_api.inference.denoising.submission import Submission
from dreambooth_api.inference.denoising.texts import Texts
from dreambooth_api.inference.denoising.turns import Turns
from dreambooth_api.inference.denoising.underway import PictureUnderWay
from dreambooth_api.inference.pipelines import PipelineSet, fitted
from dreambooth_api.inference.request import SIDE_STEP, Drawing
from dreambooth_api.inference.samplers import PictureNoise, Trajectory, trajectory_of

#: Kept, some kilobytes each: making one takes diffusers a millisecond.
_TRAJECTORIES = 256


class BatchedDrawings:
    """The pictures of one base model's pipeline. Fit for any thread, and many at once."""

    def __init__(
        self,
        pipelines: PipelineSet,
        adapters: BatchAdapters,
        turns: Turns,
        *,
        max_batch: int,
        max_batch_pixels: int,
    ) -> None:
        self._unet = pipelines.text.unet
        self._device, self._dtype = self._unet.device, self._unet.dtype
        self._texts = Texts(pipelines.text)
        self._autoencoder = pipelines.autoencoder
        latent_pixels = max_batch_pixels // SIDE_STEP**2
        sizes = BatchSizes(max_batch, latent_pixels)
        denoiser = Denoiser(self._unet, adapters, sizes, self._device, self._dtype)
        self._beside = SideThread(str(self._device))
        self.decoder = Decoder(self._beside, latent_pixels)
        self._loop = StepLoop(denoiser, turns, self._decode, ended=self._beside.close)
        self.counts: Counts = denoiser.counts
        config = pipelines.scheduler_config
        self._trajectories = functools.lru_cache(_TRAJECTORIES)(
            lambda name, steps, strength: trajectory_of(name, config, steps, strength)
        )

    def trajectory(self, drawing: Drawing) -> Trajectory | None:
        """The steps of each picture of *drawing*, or None where it has to be drawn by the plain pipeline."""
        if drawing.mode == "inpaint" or not _is_plain(self._unet):
            return None
        strength = 1.0 if drawing.mode == "text" else drawing.strength
        return self._trajectories(drawing.scheduler, drawing.steps, strength)

    def draw(
        self,
        drawing: Drawing,
        seeds: Sequence[int],
        trajectory: Trajectory,
        adapters: AdapterSet,
        whose: Submission,
    ) -> list[PIL.Image.Image]:
        """The pictures of *drawing* from these seeds.

        Raises:
            Canceled, TimedOut: as ``Submission.result`` does.
        """

        def begin() -> None:
            try:
                if not whose.over:
                    pictures = self._begin(drawing, seeds, trajectory, adapters, whose)
                    self._beside.synchronize()
                    self._loop.submit(pictures)
            except Exception as error:
                whose.fail(error)

        whose.expect(len(seeds) * len(trajectory))
        self._beside.urgently(begin)
        return whose.result()

    def close(self) -> None:
        """End the threads when nothing is being drawn any more."""
        self._loop.close()

    def conditioning(self, drawing: Drawing, adapters: AdapterSet) -> Conditioning:
        """The texts of *drawing*, for who draws it by other means."""
        return self._beside.ask(lambda: self._texts.conditioning(drawing, adapters))

    @torch.inference_mode()
    def _begin(
        self,
        drawing: Drawing,
        seeds: Sequence[int],
        trajectory: Trajectory,
        adapters: AdapterSet,
        whose: Submission,
    ) -> list[PictureUnderWay]:
        conditioning = self._texts.conditioning(drawing, adapters)
        whose.truncated_prompt = conditioning.prompt.cut_off
        encoded = None
        if drawing.image is not None:
            encoded = self._autoencoder.encode(fitted(drawing.image, (drawing.width, drawing.height)))
        shape = (self._unet.config.in_channels, drawing.height // SIDE_STEP, drawing.width // SIDE_STEP)
        pictures = []
        for index, seed in enumerate(seeds):
            noise = PictureNoise(seed, shape, self._dtype)
            if encoded is None:
                latents = trajectory.start_scale * noise.draw().to(self._device).float()
            else:
                image = self._autoencoder.sample(encoded, noise.draw(encoded.dtype)).float()
                start = noise.draw().to(self._device).float()
                latents = trajectory.image_scale * image + trajectory.noise_scale * start
            pictures.append(
                PictureUnderWay(
                    submission=whose,
                    index=index,
                    trajectory=trajectory,
                    guidance_scale=drawing.guidance_scale,
                    conditioning=conditioning,
                    adapters=adapters,
                    noise=noise,
                    latents=latents[0],
                )
            )
        return pictures

    def _decode(self, picture: PictureUnderWay) -> None:
        self.decoder.decode(
            FinishedLatents(picture.submission, picture.index, picture.latents, self._autoencoder)
        )


def _is_plain(unet: Any) -> bool:
    """Whether the UNet wants nothing but latents, a time, texts, and SDXL's sizes."""
    config = unet.config
    return (
        config.in_channels == config.out_channels
        and config.time_cond_proj_dim is None
        and config.class_embed_type is None
        and config.encoder_hid_dim_type is None
        and config.addition_embed_type in (None, "text_time")
    )
