"""What bgrem's tests share: photos that nobody here drew, and how they travel."""

from __future__ import annotations

import base64
import functools
import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def until(condition: Callable[[], bool]) -> None:
    """Wait for it; the bound only ends a failing test."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def in_base64(image: Image.Image, image_format: str = "PNG", **options: Any) -> str:
    """An image file as a request carries it."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return base64.b64encode(buffer.getvalue()).decode()


def from_base64(text: str) -> Image.Image:
    """A picture as an answer carries it."""
    image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
    image.load()
    return image


def difference(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of any channel of any pixel, of 255."""
    assert (one.size, one.mode) == (other.size, other.mode)
    return int(np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max())


def overlap(one: Image.Image, other: Image.Image) -> float:
    """Intersection over union of two masks, each cut at one half."""
    a, b = np.asarray(one) >= 128, np.asarray(other) >= 128
    return float((a & b).sum() / (a | b).sum())


@functools.cache
def weights(name: str = SMALL) -> Path:
    """The file of a default model's weights, fetched when the machine has none."""
    return fetch(REMBG[name], WEIGHTS_DIR)
