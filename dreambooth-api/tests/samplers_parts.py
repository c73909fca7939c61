"""What the tests of samplers share: which there are, and a picture stepped by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from dreambooth_api.inference.samplers import PictureNoise, Trajectory, take_step
from dreambooth_api.tiny import PIPELINE_FOLDER
from enlight_common.files import read_json
from torch import Tensor

#: Those that have a trajectory, and those of them that draw noise.
KNOWN = (
    "ddim",
    "ddpm",
    "pndm",
    "euler",
    "euler_karras",
    "euler_a",
    "dpm++_2m",
    "dpm++_2m_karras",
    "dpm++_2m_sde",
    "dpm++_2m_sde_karras",
    "heun",
    "lcm",
)
NOISY = ("ddpm", "euler_a", "dpm++_2m_sde", "lcm")
CONFIG = read_json(PIPELINE_FOLDER / "scheduler" / "scheduler_config.json")


def stepped(
    trajectory: Trajectory, x: Tensor, noise: PictureNoise, model: Callable[[Tensor, Tensor], Tensor]
) -> Iterator[Tensor]:
    """The latents after each step of *trajectory* from *x*."""
    x0, earlier = torch.zeros_like(x), ()
    for index, draws in enumerate(trajectory.noise_steps):
        this = slice(index, index + 1)
        output = model(x * trajectory.model_scale[index], trajectory.timesteps[this])
        step_noise = noise.draw(trajectory.noise_dtype) if draws else None
        x, x0 = take_step(x, output, x0, earlier, step_noise, trajectory.coefficients[this])
        earlier = (output, *earlier)[: trajectory.earlier_outputs]
        yield x
