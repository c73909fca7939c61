"""Pictures that a training needs on its way: those of the class, and those to validate by."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from enlight_common.locks import lock, try_lock
from PIL.Image import Image

from dreambooth_api.models.bases import BaseModel
from dreambooth_api.training.options import PriorPreservation
from dreambooth_api.training.photos import read_png, write_png

_STEPS = 25
_GUIDANCE = 5.0  # lower than for show: class pictures should vary
_AT_ONCE = 4
_KEPT_CLASSES = 32
_LOCK = "lock"
_REMOVING_S = 60.0


def class_pictures(
    pipeline: Any,
    base: BaseModel,
    revision: str | None,
    prior: PriorPreservation,
    resolution: int,
    root: Path,
    device: torch.device,
    on_picture: Callable[[int, int], None],
) -> list[Image]:
    """The class pictures, drawn by the base model once and kept in a folder under `root` for whoever needs
    them next.

    Picture i is that of seed i, so that a shorter list is the beginning of a longer one. `on_picture` hears
    how many of how many there are.
    """
    settings = [
        base.name,
        revision,
        prior.class_prompt,
        resolution,
        _STEPS,
        _GUIDANCE,
        type(pipeline.scheduler).__name__,
    ]
    root.mkdir(parents=True, exist_ok=True)
    folder = root / hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:32]
    # All who draw or read class pictures share the lock; only who removes some has it alone, for a moment.
    with lock(root / _LOCK, shared=True, timeout_s=_REMOVING_S):
        folder.mkdir(exist_ok=True)
        os.utime(folder)
        pictures = _pictures_in(folder, pipeline, prior, resolution, device, on_picture)
    _forget_oldest(root)
    return pictures


def _pictures_in(
    folder: Path,
    pipeline: Any,
    prior: PriorPreservation,
    resolution: int,
    device: torch.device,
    on_picture: Callable[[int, int], None],
) -> list[Image]:
    paths = [folder / f"{index:04d}.png" for index in range(prior.num_class_images)]
    missing = [index for index, path in enumerate(paths) if not _is_picture(path, resolution)]
    for start in range(0, len(missing), _AT_ONCE):
        on_picture(len(paths) - len(missing) + start, len(paths))
        seeds = missing[start : start + _AT_ONCE]
        for seed, image in zip(
            seeds, draw(pipeline, prior.class_prompt, seeds, resolution, device), strict=True
        ):
            write_png(paths[seed], image)
    return [read_png(path) for path in paths]


@torch.no_grad()
def draw(
    pipeline: Any, prompt: str, seeds: Sequence[int], resolution: int, device: torch.device
) -> list[Image]:
    """One picture of `prompt` for each seed, with the pipeline's weights as they are, on `device`."""
    half = pipeline.unet.dtype != torch.float32
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    pipeline.set_progress_bar_config(disable=True)
    with torch.autocast(device.type, pipeline.unet.dtype) if half else contextlib.nullcontext():
        latents = pipeline(
            prompt,
            num_images_per_prompt=len(seeds),
            num_inference_steps=_STEPS,
            guidance_scale=_GUIDANCE,
            height=resolution,
            width=resolution,
            generator=generators,
            output_type="latent",
        ).images
    # Decoded apart from the pipeline because the autoencoder stays in float32 beside a half-precision UNet.
    pixels = pipeline.vae.decode(latents.float() / pipeline.vae.config.scaling_factor).sample
    images: list[Image] = pipeline.image_processor.postprocess(pixels, output_type="pil")
    return images


def _is_picture(path: Path, resolution: int) -> bool:
    try:
        return read_png(path).size == (resolution, resolution)
    except (OSError, SyntaxError, ValueError):  # absent, or damaged in one of the ways that Pillow reports
        return False


def _forget_oldest(root: Path) -> None:
    alone = try_lock(root / _LOCK)
    if alone is None:
        return  # others draw: the last of them tidies up
    with alone:
        folders = sorted(
            (path for path in root.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime
        )
        for old in folders[:-_KEPT_CLASSES]:
            shutil.rmtree(old, ignore_errors=True)
