"""What bgrem's tests share: photos that nobody here drew, and how they travel."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np
import skimage.data
from enlight_common.default_weights import REMBG
from enlight_common.weights import fetch
from PIL import Image
from sklearn.datasets import load_sample_image

_REPOSITORY = Path(__file__).resolve().parents[2]
WEIGHTS_DIR = Path(os.environ.get("WEIGHTS_DIR", _REPOSITORY / "data" / "weights"))
SMALL = "u2netp"


@functools.cache
def photos() -> dict[str, Image.Image]:
    """Photographs that come with scikit-image and scikit-learn."""
    return {
        "astronaut": Image.fromarray(skimage.data.astronaut()),
        "cat": Image.fromarray(skimage.data.chelsea()),
        "coffee": Image.fromarray(skimage.data.coffee()),
        "flower": Image.fromarray(load_sample_image("flower.jpg")),
        "rocket": Image.fromarray(skimage.data.rocket()),
    }


@functools.cache
def astronaut() -> Image.Image:
    """A small photo with a sure subject."""
    return Image.fromarray(skimage.data.astronaut()).resize((160, 160))


def overlap(one: Image.Image, other: Image.Image) -> float:
    """Intersection over union of two masks, each cut at one half."""
    a, b = np.asarray(one) >= 128, np.asarray(other) >= 128
    return float((a & b).sum() / (a | b).sum())


@functools.cache
def weights(name: str = SMALL) -> Path:
    """The file of a default model's weights, fetched when the machine has none."""
    return fetch(REMBG[name], WEIGHTS_DIR)
