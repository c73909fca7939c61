"""Pictures as requests and answers carry them."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image


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
