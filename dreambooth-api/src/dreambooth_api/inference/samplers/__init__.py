"""A picture's denoising steps as numbers: pure functions of tensors, equal to diffusers' schedulers.

``trajectories`` turns a sampler's name and a model's scheduler configuration into a ``Trajectory``;
``timestep_samplers`` and ``sigma_samplers`` hold the formulas, by what their schedules count in; ``step``
takes a step of every picture of a batch at once; ``noise`` is what a seed gives.
"""

from dreambooth_api.inference.samplers.noise import PictureNoise
from dreambooth_api.inference.samplers.step import take_step
from dreambooth_api.inference.samplers.trajectories import Trajectory, trajectory_of

__all__ = ["PictureNoise", "Trajectory", "take_step", "trajectory_of"]
