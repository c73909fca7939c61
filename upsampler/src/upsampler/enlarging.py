"""Brings a picture to the resolution asked for: the network as often as it takes, Lanczos for the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from enlight_common.queue import Stop
from PIL import Image

from upsampler.models import Upscaler
from upsampler.request import Manner
from upsampler.tiles import cut

#: What is left to enlarge by this or less is not worth a pass of the network.
_LANCZOS_DOES = 1.5
#: A pass that ends beyond twice the resolution is wasted: larger pictures are reduced first.
_MOST_BEFORE_A_PASS = 0.5


class Engine(Protocol):
    """A loaded upscaler that enlarges a picture by `factor`."""

    upscaler: Upscaler
    factor: int

    def enlarge(self, image: Image.Image, manner: Manner, stop: Stop) -> Image.Image:
        """*image* (RGB) `factor` times as wide and high. Raises Canceled when *stop* says yes."""
        ...


@dataclass(frozen=True)
class Enlarged:
    """The picture, and how often the network was run over it."""

    image: Image.Image
    passes: int


def sides_before_passes(size: tuple[int, int], resolution: int, factor: int) -> list[tuple[int, int]]:
    """Width and height with which each pass of the network begins."""
    sides = []
    while resolution / max(size) > _LANCZOS_DOES:
        size = fitted(size, min(max(size), int(resolution * _MOST_BEFORE_A_PASS)))
        sides.append(size)
        size = (size[0] * factor, size[1] * factor)
    return sides


def fitted(size: tuple[int, int], longer: int) -> tuple[int, int]:
    """Width and height in the proportion of *size*, the longer of them *longer* pixels."""
    scale = longer / max(size)
    width, height = (max(1, round(side * scale)) for side in size)
    return width, height


def tiles_of(size: tuple[int, int], resolution: int, factor: int, manner: Manner) -> int:
    """How many tiles it takes, over all passes: what the time is proportional to."""
    sides = sides_before_passes(size, resolution, factor)
    return sum(len(cut(*side, manner.tile, manner.overlap)) for side in sides)


def enlarge(engine: Engine, image: Image.Image, resolution: int, manner: Manner, stop: Stop) -> Enlarged:
    """*image* with a longer side of *resolution* pixels. Raises Canceled when *stop* says yes."""
    sides = sides_before_passes(image.size, resolution, engine.factor)
    size = fitted(image.size, resolution)
    for side in sides:
        image = engine.enlarge(_resized(image, side), manner, stop)
    return Enlarged(_resized(image, size), passes=len(sides))


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)
