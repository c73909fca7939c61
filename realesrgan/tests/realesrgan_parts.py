"""What the tests of this package share: photographs, the weights, and requests."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from skimage import data

WEIGHTS = Path(os.environ.get("WEIGHTS_DIR") or Path(__file__).parents[2] / "data" / "weights")
FAST = "realesr-animevideov3"
WITHIN_S = 240


def photo(width: int, height: int | None = None) -> Image.Image:
    """A part of a photograph that scikit-image carries: a face's edge, cloth, a flag."""
    return Image.fromarray(data.astronaut()[40 : 40 + (height or width), 170 : 170 + width])


def as_window(image: Image.Image) -> npt.NDArray[np.float32]:
    """(3, height, width) between 0 and 1."""
    return np.ascontiguousarray(np.asarray(image.convert("RGB"), np.float32).transpose(2, 0, 1) / 255)


def in_base64(image: Image.Image, image_format: str = "PNG", **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return base64.b64encode(buffer.getvalue()).decode()


def from_base64(text: str) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
    image.load()
    return image


def request(image: Image.Image, **fields: Any) -> dict[str, Any]:
    """A body with the fast network and the smallest size."""
    return {"input_string": in_base64(image), "model_name": FAST, "out_resolution": 1025, **fields}


def difference(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of any channel of any pixel, of 255."""
    assert one.size == other.size
    assert one.mode == other.mode
    return int(np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max())
