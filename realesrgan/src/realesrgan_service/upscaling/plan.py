"""How a picture gets to the size asked for."""

from __future__ import annotations

from dataclasses import dataclass

#: The network is not run a further time for the sake of so little, which a resampling does as well.
ENOUGH = 1.5

Size = tuple[int, int]


@dataclass(frozen=True)
class Plan:
    """`inputs`: the picture's (width, height) before each run of the network; `size`: in the end."""

    inputs: tuple[Size, ...]
    size: Size

    @property
    def passes(self) -> int:
        """How often the network is run."""
        return len(self.inputs)

    @property
    def pixels(self) -> int:
        """What the network is given in all its runs, without the tiles' margins."""
        return sum(width * height for width, height in self.inputs)


def plan(size: Size, out_resolution: int, scale: int) -> Plan:
    """The way from *size* to a longer side of *out_resolution* with a network that enlarges *scale* times.

    The network is run as often as it is needed. A picture that is not to be enlarged is only resampled.
    """
    width, height = size
    ratio = out_resolution / max(size)
    final = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    inputs: list[Size] = []
    enlarged = 1
    while ratio > 1 and (not inputs or (ratio / enlarged > ENOUGH and scale > 1)):
        inputs.append((width * enlarged, height * enlarged))
        enlarged *= scale
    return Plan(tuple(inputs), final)
