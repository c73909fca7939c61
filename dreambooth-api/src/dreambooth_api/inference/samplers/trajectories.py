"""From a sampler's name and a model's scheduler configuration to the numbers of every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dreambooth_api.inference.samplers import sigma_samplers, timestep_samplers
from dreambooth_api.inference.samplers.schedule import Schedule
from dreambooth_api.inference.schedulers import make_scheduler


@dataclass(frozen=True)
class Trajectory:
    """All steps of one picture, from its first to its last, each a call of the model; tensors are on the CPU.

    Attributes:
        timesteps: (n,) float32, as the UNet takes them; Karras's lie between the whole ones.
        model_scale: (n,) float32; the UNet is given x · model_scale[i].
        coefficients: (n, 12) float32, ``StepCoefficients.row``.
        start_scale: latents of a picture from text start as start_scale · noise.
        image_scale, noise_scale: those of a picture from an image, as
            image_scale · image latents + noise_scale · noise.
        noise_steps: of each step, whether it draws noise.
        noise_dtype: the dtype that a step's noise is drawn in, or None for the UNet's.
        earlier_outputs: of how many steps before a step takes the outputs, at most.
        counted: how many steps they are for who asked for the picture: some samplers call the model more
            often.
    """

    timesteps: Tensor
    model_scale: Tensor
    coefficients: Tensor
    start_scale: float
    image_scale: float
    noise_scale: float
    noise_steps: tuple[bool, ...]
    noise_dtype: torch.dtype | None
    earlier_outputs: int
    counted: int

    def __len__(self) -> int:
        return len(self.noise_steps)


_SCHEDULES: Mapping[str, Callable[[Any, int], Schedule | None]] = {
    "DDIMScheduler": timestep_samplers.ddim,
    "DDPMScheduler": timestep_samplers.ddpm,
    "PNDMScheduler": timestep_samplers.pndm,
    "LCMScheduler": timestep_samplers.lcm,
    "EulerDiscreteScheduler": sigma_samplers.euler,
    "HeunDiscreteScheduler": sigma_samplers.heun,
    "EulerAncestralDiscreteScheduler": sigma_samplers.euler_ancestral,
    "DPMSolverMultistepScheduler": sigma_samplers.dpm_solver_multistep,
}


def trajectory_of(
    name: str | None, scheduler_config: Mapping[str, Any], steps: int, strength: float = 1.0
) -> Trajectory | None:
    """The steps of sampler *name* (``schedulers.SAMPLERS``; None: the configuration's own) for a model.

    With *strength* below 1 they are the tail that a picture from an image takes, as diffusers' image-to-image
    pipelines cut it. None where the sampler or its configuration is beyond ``StepCoefficients`` (third
    orders, Runge-Kutta, thresholding, flow matching), or where diffusers refuses these steps.
    """
    scheduler = make_scheduler(name, scheduler_config)
    schedule_of = _SCHEDULES.get(type(scheduler).__name__)
    if schedule_of is None:
        return None
    first = max(steps - int(steps * strength), 0)
    try:
        scheduler.set_timesteps(steps)
        # A step of second-order schedulers is two of their timesteps.
        schedule = schedule_of(scheduler, first * scheduler.order)
    except (ValueError, IndexError, ZeroDivisionError):
        # As where there are more steps than noise levels to tell apart, or an offset carries the first of
        # them over the noise schedule's end.
        return None
    return None if schedule is None else _trajectory(schedule, steps - first)


def _trajectory(schedule: Schedule, counted: int) -> Trajectory:
    return Trajectory(
        timesteps=torch.tensor(schedule.timesteps, dtype=torch.float32),
        model_scale=torch.tensor(schedule.model_scale, dtype=torch.float32),
        coefficients=torch.tensor([step.row for step in schedule.coefficients], dtype=torch.float32),
        start_scale=schedule.start_scale,
        image_scale=schedule.image_scale,
        noise_scale=schedule.noise_scale,
        noise_steps=tuple(step.next_from_noise != 0 for step in schedule.coefficients),
        noise_dtype=schedule.noise_dtype,
        earlier_outputs=max(len(step.next_from_earlier) for step in schedule.coefficients),
        counted=counted,
    )
