"""One denoising step of a batch in which every picture is at a step of its own, of a sampler of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

#: Most outputs of earlier steps that a step takes.
MAX_EARLIER = 4


class StepCoefficients(NamedTuple):
    """A step of a linear sampler, with x the latents and x0 what they will become::

        x0 = clamp(x0_from_x · x + x0_from_output · output, ±x0_bound)
        x' = next_from_x · x + next_from_x0 · x0 + next_from_previous · previous x0
           + next_from_noise · noise + next_from_output · output
           + next_from_earlier[0] · the output of the step before + next_from_earlier[1] · that before it + …

    DDIM clips x0, but not the noise that it takes from the same output: hence ``next_from_output``. Earlier
    outputs are what linear multistep methods (PNDM) take, at most ``MAX_EARLIER``.
    """

    x0_from_x: float
    x0_from_output: float
    next_from_x: float
    next_from_x0: float
    next_from_previous: float = 0.0
    next_from_noise: float = 0.0
    next_from_output: float = 0.0
    x0_bound: float = math.inf
    next_from_earlier: tuple[float, ...] = ()

    @property
    def row(self) -> list[float]:
        """All of them, as ``take_step`` takes them."""
        *others, earlier = self
        return [*others, *earlier, *[0.0] * (MAX_EARLIER - len(earlier))]


def take_step(
    x: Tensor,
    output: Tensor,
    previous_x0: Tensor,
    earlier: Sequence[Tensor],
    noise: Tensor | None,
    coefficients: Tensor,
) -> tuple[Tensor, Tensor]:
    """The latents of the next step and the picture that the model sees in them now, both in float32.

    Args:
        x: latents, (B, C, h, w).
        output: what the model made of them, guidance applied, likewise.
        previous_x0: the second result of each picture's step before; zeros at its first.
        earlier: the outputs of each picture's steps before, the last one first, each likewise, as many as any
            of these steps takes; anything finite for pictures whose step takes fewer.
        noise: standard normal, likewise; zeros (or anything finite) for pictures whose step draws none, None
            where no picture's does.
        coefficients: a row of ``Trajectory.coefficients`` for each picture, (B, 12), on the latents' device.
    """
    x, output = x.float(), output.float()
    (
        x0_from_x,
        x0_from_output,
        next_from_x,
        next_from_x0,
        next_from_previous,
        next_from_noise,
        next_from_output,
        x0_bound,
        *next_from_earlier,
    ) = coefficients[:, :, None, None, None].unbind(1)
    x0 = (x0_from_x * x).addcmul_(output, x0_from_output).clamp_(-x0_bound, x0_bound)
    following = (next_from_x * x).addcmul_(x0, next_from_x0).addcmul_(output, next_from_output)
    following.addcmul_(previous_x0.float(), next_from_previous)
    for before, factor in zip(earlier, next_from_earlier, strict=False):
        following.addcmul_(before.float(), factor)
    if noise is not None:
        following.addcmul_(noise.float(), next_from_noise)
    return following, x0
