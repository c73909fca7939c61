"""Imports what a training takes seconds to import, and would import on its way."""

from __future__ import annotations

import diffusers
import diffusers.guiders  # with the first adapter
import diffusers.loaders.lora_pipeline
import peft  # noqa: F401  likewise
import transformers
from PIL import Image


def up() -> None:
    """Only imports: no model, no thread pool, nothing on a GPU."""
    for name in ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "AutoencoderKL"):
        getattr(diffusers, name)  # diffusers and transformers import a class when it is asked for
    for name in ("CLIPTextModel", "CLIPTextModelWithProjection", "CLIPTokenizer"):
        getattr(transformers, name)
    Image.preinit()
