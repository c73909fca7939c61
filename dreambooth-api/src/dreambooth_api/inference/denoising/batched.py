"""Drawing many requests' pictures together, step by step."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from enlight_common.errors import ShuttingDown
from enlight_common.leaving import WORDS

from dreambooth_api.inference.caller import PATIENT
from dreambooth_api.inference.denoising.adapter_sets import NO_ADAPTERS, AdapterSet
from dreambooth_api.inference.denoising.adapters import BatchAdapters
from dreambooth_api.inference.denoising.batch_sizes import BatchSizes
from dreambooth_api.inference.denoising.beside import SideThread
from dreambooth_api.inference.denoising.conditioning import Conditioning
from dreambooth_api.inference.denoising.decoding import Decoder, FinishedLatents
from dreambooth_api.inference.denoising.denoiser import Counts, Denoiser
from dreambooth_api.inference.denoising.kept_figures import KeptFigures
from dreambooth_api.inference.denoising.loop import StepLoop
from dreambooth_api.inference.denoising.previews import Previews
from dreambooth_api.inference.denoising.submission import Submission
from dreambooth_api.inference.denoising.texts import Texts
from dreambooth_api.inference.denoising.turns import Party
from dreambooth_api.inference.denoising.underway import PictureUnderWay
from dreambooth_api.inference.pipelines import PipelineSet, fitted
from dreambooth_api.inference.request import SIDE_STEP, Drawing
from dreambooth_api.inference.samplers import PictureNoise, Trajectory, trajectory_of
from dreambooth_api.inference.within_memory import within_memory

#: Kept, some kilobytes each: making one takes diffusers a millisecond.
_TRAJECTORIES = 256


class BatchedDrawings:
    """The pictures of one base model's pipeline. Fit for any thread, and many at once."""

    def __init__(
        self,
        pipelines: PipelineSet,
        adapters: BatchAdapters,
        turns: Party,
        sizes: BatchSizes,
        figures: KeptFigures | None = None,
    ) -> None:
        """*sizes* are latents', *figures* where they are kept over restarts."""
        self._unet = pipelines.text.unet
        self._device, self._dtype = self._unet.device, self._unet.dtype
        self._texts = Texts(pipelines.text)
        self._autoencoder = pipelines.autoencoder
        self._beside = SideThread(str(self._device))
        self._closing = False
        if figures is not None:
            sizes.recall(figures.read())
            # Of the thread that steps; written beside it, for a disk may be slow.
            sizes.learned = lambda found: self._beside.later(lambda: figures.write(found))
        previews = Previews(self._beside, self._autoencoder)
        denoiser = Denoiser(self._unet, adapters, sizes, self._device, self._dtype, previews)
        self.decoder = Decoder(self._beside, sizes.for_others())
        self._loop = StepLoop(denoiser, turns, self._decode)
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

    def start(
        self,
        drawing: Drawing,
        seeds: Sequence[int],
        trajectory: Trajectory,
        adapters: AdapterSet,
        whose: Submission,
    ) -> None:
        """Have the pictures of *drawing* drawn from these seeds, for *whose* to be told."""

        def begin() -> None:
            try:
                if not whose.over:
                    with within_memory():
                        pictures = self._begin(drawing, seeds, trajectory, adapters, whose)
                        self._beside.synchronize()
                    self._loop.submit(pictures)
            except Exception as error:
                whose.fail(error)

        whose.expect(len(seeds) * trajectory.counted)
        self._beside.urgently(begin)
        if self._closing:
            whose.fail(ShuttingDown(WORDS))

    def pictures(self, drawing: Drawing, trajectory: Trajectory) -> list[PictureUnderWay]:
        """Those of *drawing*, without adapters, which nobody waits for and which are not stepped here."""
        seeds = [drawing.seed + number for number in range(drawing.num_image)]
        whose = Submission(drawing.num_image, PATIENT)
        return self._beside.ask(lambda: self._begin(drawing, seeds, trajectory, NO_ADAPTERS, whose))

    def close(self, deadline: float) -> None:
        """Give up what is under way and end the threads, by *deadline* of ``time.monotonic`` if they can."""
        self._closing = True
        self._loop.close(deadline)
        self._beside.close(deadline)

    def conditioning(self, drawing: Drawing, adapters: AdapterSet) -> Conditioning:
        """The texts of *drawing*, for who draws it by other means. Waits for them."""
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
