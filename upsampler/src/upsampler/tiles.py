"""Cuts a picture into overlapping tiles, and blends what became of them into one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True)
class Tile:
    """A part of the picture that is enlarged, in its pixels."""

    left: int
    top: int
    width: int
    height: int


def cut(width: int, height: int, size: int, overlap: int) -> list[Tile]:
    """Tiles of one size that cover the picture, neighbours sharing *overlap* pixels or more, row by row.

    A picture no wider and higher than *size* is one tile. *overlap* is less than *size*.
    """
    across, down = _starts(width, size, overlap), _starts(height, size, overlap)
    wide, high = min(size, width), min(size, height)
    return [Tile(left, top, wide, high) for top in down for left in across]


def _starts(length: int, size: int, overlap: int) -> list[int]:
    if length <= size:
        return [0]
    count = -(-(length - overlap) // (size - overlap))
    return [round(index * (length - size) / (count - 1)) for index in range(count)]


class Canvas:
    """Gathers enlarged tiles; where several lie, each counts less towards its own border."""

    def __init__(self, width: int, height: int, factor: int, overlap: int) -> None:
        """*width*, *height* and *overlap* are in pixels of the picture that is enlarged by *factor*."""
        self._width, self._height, self._factor, self._overlap = width, height, factor, overlap
        self._sum = np.zeros((height * factor, width * factor, 3), np.float32)
        self._weight = np.zeros((height * factor, width * factor, 1), np.float32)

    def add(self, tile: Tile, pixels: NDArray[np.float32]) -> None:
        """*pixels*: (height × factor, width × factor, 3) of the tile, from 0 to 1."""
        factor = self._factor
        across = self._ramps(tile.left, tile.width, self._width)
        down = self._ramps(tile.top, tile.height, self._height)
        weight = (down[:, None] * across[None, :])[..., None]
        rows = slice(tile.top * factor, (tile.top + tile.height) * factor)
        columns = slice(tile.left * factor, (tile.left + tile.width) * factor)
        self._sum[rows, columns] += pixels * weight
        self._weight[rows, columns] += weight

    def _ramps(self, start: int, length: int, whole: int) -> NDArray[np.float32]:
        """Weights along one side: 1, but rising from the border over the overlap where a neighbour is."""
        weights = np.ones(length * self._factor, np.float32)
        ramp = self._overlap * self._factor
        rising = (np.arange(ramp, dtype=np.float32) + 0.5) / max(1, ramp)
        if start > 0:
            weights[:ramp] = rising
        if start + length < whole:
            weights[len(weights) - ramp :] *= rising[::-1]
        return weights

    def picture(self) -> Image.Image:
        """What was gathered, as 8-bit RGB."""
        np.divide(self._sum, self._weight, out=self._sum)
        return Image.fromarray((self._sum * 255).round().astype(np.uint8))
