"""How a picture gets to the size asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass

#: The network is not run a further time for the sake of so little, which a resampling does as well.
ENOUGH = 1.5
#: Pixels that a run's result may have, 6 bytes each, or how many times those of the picture asked for. What
#: would be larger is halved tile by tile: a photo of 40 megapixels becomes twice as wide, not four times.
_MOST_PIXELS, _MOST_TIMES = 160_000_000, ENOUGH**2

Size = tuple[int, int]


@dataclass(frozen=True)
class Pass:
    """A run of the network: what it is given, (width, height), and how many times as large its result is."""

    size: Size
    kept: int


@dataclass(frozen=True)
class Plan:
    """The runs of the network, and the picture's (width, height) in the end."""

    passes: tuple[Pass, ...]
    size: Size


def plan(size: Size, out_resolution: int, scale: int) -> Plan:
    """The way from *size* to a longer side of *out_resolution* with a network that enlarges *scale* times.

    The network is run as often as it is needed, and a further run is given no more than it takes to end at
    the size asked for: its input is resampled first. The picture itself never is: what it shows would be
    lost. One that is not to be enlarged is only resampled.
    """
    final = _fitted(size, out_resolution)
    passes: list[Pass] = []
    while out_resolution > max(size) and (not passes or (out_resolution / max(size) > ENOUGH and scale > 1)):
        enough = math.ceil(out_resolution / scale)
        if passes and max(size) > enough:
            size = _fitted(final, enough)
        kept = _kept(size, final, scale)
        passes.append(Pass(size, kept))
        size = (size[0] * kept, size[1] * kept)
    return Plan(tuple(passes), final)


def _fitted(size: Size, longer: int) -> Size:
    ratio = longer / max(size)
    return max(1, round(size[0] * ratio)), max(1, round(size[1] * ratio))


def _kept(size: Size, final: Size, scale: int) -> int:
    most = max(_MOST_PIXELS, _MOST_TIMES * math.prod(final))
    divisors = (kept for kept in range(scale, 0, -1) if scale % kept == 0)
    return next((kept for kept in divisors if math.prod(size) * kept**2 <= most), 1)
