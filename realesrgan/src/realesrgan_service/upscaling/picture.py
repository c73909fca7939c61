"""Pictures between Pillow and the network."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image

from realesrgan_service.upscaling.tiles import FloatArray, Tile

#: What 1.0 is in a canvas. Below 65,535, because the parts of up to four tiles are rounded one by one.
_ONE = 65_000
#: Rows are converted so many at a time: a whole plane in floats is several times the picture.
_ROWS = 256

Canvas = npt.NDArray[np.uint16]


def to_canvas(image: Image.Image, channels: int) -> Canvas:
    """The picture as (channels, height, width); its transparent parts in the colours beside them."""
    image = bled(image) if "A" in image.getbands() else image
    image = image.convert("RGB" if channels == 3 else "L")
    canvas: Canvas = np.empty((channels, image.height, image.width), np.uint16)
    for channel, plane in enumerate(image.split()):
        for rows in _bands(image.height):
            part = np.asarray(plane.crop((0, rows.start, image.width, rows.stop)), np.float32)
            canvas[channel, rows] = np.rint(part * np.float32(_ONE / 255))
    return canvas


def to_image(canvas: Canvas, size: tuple[int, int]) -> Image.Image:
    """The canvas as an RGB picture, rounded to 8 bits and resampled to *size* (width, height)."""
    planes = []
    for channel in canvas:
        plane = np.empty(channel.shape, np.uint8)
        for rows in _bands(len(plane)):
            plane[rows] = np.rint(channel[rows].astype(np.float32) * np.float32(255 / _ONE))
        image = Image.fromarray(plane)
        planes.append(image if image.size == size else image.resize(size, Image.Resampling.LANCZOS))
    return planes[0].convert("RGB") if len(planes) == 1 else Image.merge("RGB", planes)


def _bands(height: int) -> Iterator[slice]:
    for start in range(0, height, _ROWS):
        yield slice(start, min(height, start + _ROWS))


def bled(image: Image.Image) -> Image.Image:
    """*image* (with alpha) as RGB, its wholly transparent pixels in the colours of the nearest visible ones.

    What they hold is mostly black, of which a network would draw a dark fringe around what is cut out.
    """
    levels = [image.convert("RGBA")]
    while levels[-1].getchannel("A").getextrema()[0] == 0 and max(levels[-1].size) > 1:
        # Colours are weighed by their alpha in 8 bits, of which a small alpha would leave nothing.
        level = levels[-1].copy()
        level.putalpha(_visible(level))
        levels.append(level.reduce(2))
    filled = levels.pop().convert("RGB")
    while levels:
        level = levels.pop()
        filled = filled.resize(level.size, Image.Resampling.BILINEAR)
        filled.paste(level.convert("RGB"), mask=_visible(level))
    return filled


def _visible(image: Image.Image) -> Image.Image:
    return image.getchannel("A").point(lambda alpha: alpha and 255)


def window_of(canvas: Canvas, tile: Tile) -> FloatArray:
    """What the network is given for *tile*, between 0 and 1."""
    rows, columns = tile.rows, tile.columns
    window = canvas[:, rows.start : rows.stop, columns.start : columns.stop].astype(np.float32)
    return np.ascontiguousarray(window / _ONE)


def add(canvas: Canvas, tile: Tile, output: FloatArray, kept: int) -> None:
    """Add what the network made of *tile* to the *canvas*, which is *kept* times as large as what the network
    was given, blended into its neighbours.
    """
    scale = output.shape[-1] // (tile.columns.stop - tile.columns.start)
    rows, columns = tile.rows, tile.columns
    part = output[
        :,
        (rows.keep_start - rows.start) * scale : (rows.keep_stop - rows.start) * scale,
        (columns.keep_start - columns.start) * scale : (columns.keep_stop - columns.start) * scale,
    ]
    part = _reduced(part, scale // kept)
    weights = rows.ramp(kept)[:, None] * columns.ramp(kept)[None, :] * _ONE
    canvas[
        :,
        rows.keep_start * kept : rows.keep_stop * kept,
        columns.keep_start * kept : columns.keep_stop * kept,
    ] += np.rint(part * weights).astype(np.uint16)


def _reduced(part: FloatArray, times: int) -> FloatArray:
    """The means of squares of *times* × *times* pixels."""
    if times == 1:
        return part
    channels, height, width = part.shape
    squares = part.reshape(channels, height // times, times, width // times, times)
    means: FloatArray = squares.mean(axis=(2, 4), dtype=np.float32)
    return means
