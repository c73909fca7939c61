"""Stage ``export``: the trained parts as a folder that plain diffusers reads, in fp16 safetensors."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionUpscalePipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from ... import PIPELINE_FOLDER
from ..export import forget_origin, load_as_float32
from . import architecture


def export_pipeline(work: Path, out: Path) -> None:
    """Writes a folder that plain ``StableDiffusionUpscalePipeline.from_pretrained`` reads."""
    pipeline = StableDiffusionUpscalePipeline(
        vae=AutoencoderKL.from_pretrained(work / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(PIPELINE_FOLDER / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(PIPELINE_FOLDER / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(work / "unet"),
        low_res_scheduler=architecture.low_res_scheduler(),
        scheduler=architecture.scheduler(),
        max_noise_level=architecture.MAX_NOISE_LEVEL,
    )
    pipeline.to(dtype=torch.float16).save_pretrained(out, safe_serialization=True)
    load_as_float32(out / "text_encoder" / "config.json")
    for part in ("unet", "vae"):
        forget_origin(out / part / "config.json")
