"""A picture enlarged: the network's passes in tiles, then a resampling to the size asked for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from enlight_common.memory import memory_bounded
from enlight_common.queue import Canceled, Stop
from PIL import Image

from realesrgan_service.upscaling.network import Network
from realesrgan_service.upscaling.picture import Canvas, add, bled, to_canvas, to_image, window_of
from realesrgan_service.upscaling.plan import Plan, Size
from realesrgan_service.upscaling.tiles import Tile, tiles_of

log = logging.getLogger(__name__)

_LOG_EVERY_S = 10.0
#: Weight of the newest tile in the running mean of a pixel's time.
_FRESHNESS = 0.3

Report = Callable[[float, float], None]


@dataclass(frozen=True)
class Work:
    """What one picture takes of a network: its way, and the tiles of each pass."""

    plan: Plan
    tiles: tuple[tuple[Tile, ...], ...]
    tile: int

    @property
    def pixels(self) -> int:
        """What the network is given, margins included."""
        return sum(tile.pixels for tiles in self.tiles for tile in tiles)


def work_of(plan: Plan, network: Network, tile: int) -> Work:
    """The work of *plan* in tiles of *tile* pixels of the network's input."""
    if not network.tileable:
        tile = max((max(each.size) for each in plan.passes), default=tile)
    tiles = (tuple(tiles_of(*each.size, tile, network.margin)) for each in plan.passes)
    return Work(plan, tuple(tiles), tile)


def enlarge(image: Image.Image, network: Network, work: Work, *, stop: Stop, report: Report) -> Image.Image:
    """*image* enlarged, RGB or, where it has an alpha channel, RGBA.

    *report* is told the share that is done and the seconds that are left, after each tile.

    Raises:
        Canceled: *stop* said so.
        OutOfMemory: there is too little memory for the tiles, or for the picture.
    """
    size = work.plan.size
    with memory_bounded(torch, "ask for a smaller tile or size"):
        if work.plan.passes:
            enlarged = to_image(_passes(image, network, work, stop, report), size)
        else:
            enlarged = _reduced(image, size)
        if "A" in image.getbands():
            # What is transparent has sharp edges in no network's training; a resampling keeps them.
            enlarged.putalpha(image.getchannel("A").resize(size, Image.Resampling.LANCZOS))
    return enlarged


def _reduced(image: Image.Image, size: Size) -> Image.Image:
    opaque = bled(image) if "A" in image.getbands() else image
    return opaque.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _passes(image: Image.Image, network: Network, work: Work, stop: Stop, report: Report) -> Canvas:
    canvas = to_canvas(image, network.channels)
    done, logged_at = 0, time.monotonic()
    for each, tiles in zip(work.plan.passes, work.tiles, strict=True):
        canvas = _resampled(canvas, each.size)
        width, height = each.size
        larger = np.zeros((network.channels, height * each.kept, width * each.kept), np.uint16)
        for tile in tiles:
            if stop():
                raise Canceled
            started = time.monotonic()
            add(larger, tile, network(window_of(canvas, tile), stop), each.kept)
            done += tile.pixels
            _learn_pace(network, (time.monotonic() - started) / tile.pixels)
            left = (work.pixels - done) * network.seconds_per_pixel
            report(done / work.pixels, left)
            if time.monotonic() - logged_at > _LOG_EVERY_S:
                logged_at = time.monotonic()
                log.info(
                    "upscaling", extra={"done": round(done / work.pixels, 3), "seconds_left": round(left)}
                )
        canvas = larger
    return canvas


def _resampled(canvas: Canvas, size: Size) -> Canvas:
    channels, height, width = canvas.shape
    return canvas if (width, height) == size else to_canvas(to_image(canvas, size), channels)


def _learn_pace(network: Network, seconds_per_pixel: float) -> None:
    network.seconds_per_pixel += _FRESHNESS * (seconds_per_pixel - network.seconds_per_pixel)
