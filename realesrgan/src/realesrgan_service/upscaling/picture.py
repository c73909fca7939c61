"""Pictures between Pillow and the network."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from realesrgan_service.upscaling.tiles import FloatArray, Tile

#: What 1.0 is in a canvas. Below 65,535, because the parts of up to four tiles are rounded one by one.
_ONE = 65_000

Canvas = npt.NDArray[np.uint16]


def to_canvas(image: Image.Image, channels: int) -> Canvas:
    """The picture as (channels, height, width), without its alpha channel."""
    pixels = np.asarray(image.convert("RGB" if channels == 3 else "L"))
    planes = pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
    canvas: Canvas = np.rint(planes.astype(np.float32) * (_ONE / 255)).astype(np.uint16)
    return canvas


def to_image(canvas: Canvas) -> Image.Image:
    """The canvas as an RGB picture, rounded to 8 bits."""
    channels, height, width = canvas.shape
    image = np.empty((height, width, channels), np.uint8)
    for channel in range(channels):
        # A plane at a time: the whole as floats would be four times the picture.
        image[..., channel] = np.rint(canvas[channel].astype(np.float32) * (255 / _ONE))
    return Image.fromarray(image[..., 0] if channels == 1 else image).convert("RGB")


def window_of(canvas: Canvas, tile: Tile) -> FloatArray:
    """What the network is given for *tile*, between 0 and 1."""
    rows, columns = tile.rows, tile.columns
    window = canvas[:, rows.start : rows.stop, columns.start : columns.stop].astype(np.float32)
    return np.ascontiguousarray(window / _ONE)


def add(canvas: Canvas, tile: Tile, output: FloatArray, scale: int) -> None:
    """Add what the network made of *tile* to the enlarged *canvas*, blended into its neighbours."""
    rows, columns = tile.rows, tile.columns
    kept = output[
        :,
        (rows.keep_start - rows.start) * scale : (rows.keep_stop - rows.start) * scale,
        (columns.keep_start - columns.start) * scale : (columns.keep_stop - columns.start) * scale,
    ]
    weights = rows.ramp(scale)[:, None] * columns.ramp(scale)[None, :] * _ONE
    canvas[
        :,
        rows.keep_start * scale : rows.keep_stop * scale,
        columns.keep_start * scale : columns.keep_stop * scale,
    ] += np.rint(kept * weights).astype(np.uint16)
