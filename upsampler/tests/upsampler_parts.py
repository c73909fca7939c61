"""What the tests of the upsampler share: pictures, small models made on the spot, and a service that runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import data
from transformers import Swin2SRConfig, Swin2SRForImageSuperResolution, Swin2SRImageProcessor


def photo(width: int, height: int | None = None) -> Image.Image:
    """A part of a photograph, of so many pixels."""
    cat = Image.fromarray(data.chelsea())
    return cat.crop((60, 20, 360, 300)).resize((width, height or width), Image.Resampling.LANCZOS)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=int)


def save_swin2sr(folder: Path, factor: int = 4) -> Path:
    """A Swin2SR of few weights, all random, as transformers saves it with its processor."""
    torch.manual_seed(0)
    config = Swin2SRConfig(
        image_size=32,
        embed_dim=12,
        depths=[2],
        num_heads=[2],
        window_size=4,
        mlp_ratio=1.0,
        upscale=factor,
        upsampler="pixelshuffle",
    )
    Swin2SRForImageSuperResolution(config).save_pretrained(folder)
    Swin2SRImageProcessor().save_pretrained(folder)
    return folder
