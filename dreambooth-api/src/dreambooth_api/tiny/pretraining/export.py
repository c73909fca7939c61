"""Stage ``export``: puts the trained parts into the folders that are shipped, as fp16 safetensors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from .. import CLIP_FOLDER, JUDGE_FILE, PIPELINE_FOLDER, architecture


def export_all(work: Path) -> None:
    """Replaces what is shipped beside the package by what lies in the work folder."""
    export_pipeline(work, PIPELINE_FOLDER)
    shutil.copytree(work / "clip", CLIP_FOLDER, dirs_exist_ok=True)
    load_as_float32(CLIP_FOLDER / "config.json")
    shutil.copy(work / "judge.safetensors", JUDGE_FILE)


def export_pipeline(work: Path, out: Path) -> None:
    """Writes a folder that plain ``StableDiffusionPipeline.from_pretrained`` reads."""
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(work / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(work / "text"),
        tokenizer=CLIPTokenizer.from_pretrained(work / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(work / "unet"),
        scheduler=architecture.scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(dtype=torch.float16).save_pretrained(out, safe_serialization=True)
    load_as_float32(out / "text_encoder" / "config.json")
    for part in ("unet", "vae"):
        forget_origin(out / part / "config.json")


def load_as_float32(config: Path) -> None:
    """transformers loads what its configuration names, diffusers fp32: name the same for both."""
    values = json.loads(config.read_text())
    values["dtype"] = "float32"
    config.write_text(json.dumps(values, indent=2) + "\n")


def forget_origin(config: Path) -> None:
    """diffusers notes the folder that a part was loaded from: the work folder of whoever exports."""
    values = json.loads(config.read_text())
    values.pop("_name_or_path", None)
    config.write_text(json.dumps(values, indent=2) + "\n")
