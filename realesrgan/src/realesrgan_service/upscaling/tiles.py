"""A picture in tiles that overlap, so that memory is bounded by the tile.

What a convolution gives near a tile's cut differs from what it gives in the whole picture. Each tile is
therefore computed with a margin, as wide as the network looks, that is thrown away; over a few pixels on
either side of a seam the two tiles are blended.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

#: A smaller tile would be all margin.
LEAST_TILE = 32
#: Pixels of the input on either side of a seam that are blended.
_BLEND = 8
#: Tiles begin at multiples of it: networks with attention work in windows of 8 or 16.
_STEP = 16

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Span:
    """A tile along one axis, in pixels of the input.

    `start` to `stop` is computed. `keep_start` to `keep_stop` is kept; `fade_in` and `fade_out` are the
    lengths of the ramps that it begins and ends with, 0 at the picture's borders.
    """

    start: int
    stop: int
    keep_start: int
    keep_stop: int
    fade_in: int
    fade_out: int

    def ramp(self, scale: int) -> FloatArray:
        """The weights of what is kept, at *scale*; at every place those of all tiles add up to 1."""
        weights = np.ones((self.keep_stop - self.keep_start) * scale, np.float32)
        for length, from_border in ((self.fade_in * scale, weights), (self.fade_out * scale, weights[::-1])):
            from_border[:length] = (np.arange(length, dtype=np.float32) + 0.5) / max(1, length)
        return weights


@dataclass(frozen=True)
class Tile:
    """A tile of a picture."""

    rows: Span
    columns: Span

    @property
    def pixels(self) -> int:
        """What the network is given for it, the margin included."""
        return (self.rows.stop - self.rows.start) * (self.columns.stop - self.columns.start)


def tiles_of(width: int, height: int, tile: int, margin: int) -> list[Tile]:
    """The tiles of a picture, row by row: *tile* pixels wide and high at most, and *margin* all around.

    A picture that would fit into one tile with its margins is one tile.
    """
    columns = list(_spans(width, tile, margin))
    return [Tile(row, column) for row in _spans(height, tile, margin) for column in columns]


def _spans(length: int, tile: int, margin: int) -> Iterator[Span]:
    count = 1 if length <= tile + 2 * margin else math.ceil(length / tile)
    # As equal as the step allows: the last tile would otherwise be nearly all margin.
    size = min(length, math.ceil(length / count / _STEP) * _STEP)
    seams = [*range(0, length, size), length]
    if len(seams) > 2 and seams[-1] - seams[-2] < _BLEND:
        del seams[-2]
    for index, (begin, end) in enumerate(itertools.pairwise(seams)):
        blend = min(_BLEND, margin)
        before = blend if index > 0 else 0
        after = blend if index < len(seams) - 2 else 0
        yield Span(
            start=max(0, begin - margin) if before else begin,
            stop=min(length, end + margin) if after else end,
            keep_start=begin - before,
            keep_stop=min(length, end + after),
            fade_in=2 * before,
            fade_out=2 * after,
        )
