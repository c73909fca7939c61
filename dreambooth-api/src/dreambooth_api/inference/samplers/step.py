"""One denoising step of a batch in which every picture is at a step of its own, of a sampler of its own."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor


class StepCoefficients(NamedTuple):
    """A step of any first-order or two-step sampler, with x the latents and x0 what they will become::

        x0 = clamp(x0_from_x · x + x0_from_output · output, ±x0_bound)
        x' = next_from_x · x + next_from_x0 · x0 + next_from_previous · previous x0
           + next_from_noise · noise + next_from_output · output

    DDIM clips x0, but not the noise that it takes from the same output: hence ``next_from_output``.
    """

    x0_from_x: float
    x0_from_output: float
    next_from_x: float
    next_from_x0: float
    next_from_previous: float = 0.0
    next_from_noise: float = 0.0
    next_from_output: float = 0.0
    x0_bound: float = math.inf


def take_step(
    x: Tensor, output: Tensor, previous_x0: Tensor, noise: Tensor | None, coefficients: Tensor
) -> tuple[Tensor, Tensor]:
    """The latents of the next step and the picture that the model sees in them now, both in float32.

    Args:
        x: latents, (B, C, h, w).
        output: what the model made of them, guidance applied, likewise.
        previous_x0: the second result of each picture's step before; zeros at its first.
        noise: standard normal, likewise; zeros (or anything finite) for pictures whose step draws none, None
            where no picture's does.
        coefficients: a row of ``Trajectory.coefficients`` for each picture, (B, 8), on the latents' device.
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
    ) = coefficients[:, :, None, None, None].unbind(1)
    x0 = (x0_from_x * x).addcmul_(output, x0_from_output).clamp_(-x0_bound, x0_bound)
    following = (next_from_x * x).addcmul_(x0, next_from_x0).addcmul_(output, next_from_output)
    following.addcmul_(previous_x0.float(), next_from_previous)
    if noise is not None:
        following.addcmul_(noise.float(), next_from_noise)
    return following, x0
