"""Brings a picture to the resolution asked for: the network as often as it takes, Lanczos for the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from enlight_common.queue import Stop
from PIL import Image

from upsampler.models import Upscaler
from upsampler.pace import Advance, Pace
from upsampler.request import Manner

#: What is left to enlarge by this or less is not worth a pass of the network.
_LANCZOS_DOES = 1.5
#: A pass that ends beyond twice the resolution is wasted: larger pictures are reduced first.
_MOST_BEFORE_A_PASS = 0.5


class Engine(Protocol):
    """A loaded upscaler that enlarges a picture by `factor`."""

    upscaler: Upscaler
    factor: int

    pace: Pace

    def work(self, size: tuple[int, int], manner: Manner) -> float:
        """What enlarging a picture of *size* takes, in units whose time `pace` measures."""
        ...

    def enlarge(self, image: Image.Image, manner: Manner, stop: Stop, advance: Advance) -> Image.Image:
        """*image* (RGB) `factor` times as wide and high; *advance* is told each bit of `work` that is done.

        Raises Canceled when *stop* says yes, OutOfMemory.
        """
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


def work_of(size: tuple[int, int], resolution: int, engine: Engine, manner: Manner) -> float:
    """What all passes of *engine* over a picture of *size* take, in its units; 0 where there are none."""
    sides = sides_before_passes(size, resolution, engine.factor)
    return sum(engine.work(side, manner) for side in sides)


def enlarge(
    engine: Engine, image: Image.Image, resolution: int, manner: Manner, stop: Stop, advance: Advance
) -> Enlarged:
    """*image* with a longer side of *resolution* pixels; *advance*, errors as `Engine.enlarge`."""
    sides = sides_before_passes(image.size, resolution, engine.factor)
    size = fitted(image.size, resolution)
    for side in sides:
        image = engine.enlarge(_resized(image, side), manner, stop, advance)
    return Enlarged(_resized(image, size), passes=len(sides))


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)
