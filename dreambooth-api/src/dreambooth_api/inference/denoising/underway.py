"""One picture on its way from noise to latents."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dreambooth_api.inference.denoising.adapter_sets import AdapterSet
from dreambooth_api.inference.denoising.batch_sizes import Shape
from dreambooth_api.inference.denoising.conditioning import Conditioning
from dreambooth_api.inference.denoising.submission import Submission
from dreambooth_api.inference.samplers import PictureNoise, Trajectory


@dataclass(eq=False)
class PictureUnderWay:
    """What makes the picture, and how far it is. The thread that takes the steps changes it.

    Attributes:
        submission: whose it is, as picture *index* of it.
        latents: (channels, height, width) float32 on the device.
        previous_x0: what the last step took for the finished latents, likewise.
        earlier: the outputs of the steps before, the last one first, each likewise, as many as its trajectory
            takes; none before the first step.
        position: steps done.
    """

    submission: Submission
    index: int
    trajectory: Trajectory
    guidance_scale: float
    conditioning: Conditioning
    adapters: AdapterSet
    noise: PictureNoise
    latents: Tensor
    previous_x0: Tensor = field(init=False)
    earlier: tuple[Tensor, ...] = ()
    position: int = 0
    _drawn: tuple[int, Tensor] | None = None

    def __post_init__(self) -> None:
        self.previous_x0 = torch.zeros_like(self.latents)

    @property
    def shape(self) -> Shape:
        """Height and width of the latents."""
        return self.latents.shape[-2], self.latents.shape[-1]

    @property
    def steps_left(self) -> int:
        """Steps that it still takes."""
        return len(self.trajectory) - self.position

    @property
    def counts(self) -> bool:
        """Whether the last step ended one of those that whoever asked for the picture counts."""
        calls, counted = len(self.trajectory), self.trajectory.counted
        return self.position * counted // calls > (self.position - 1) * counted // calls

    @property
    def rows(self) -> int:
        """Rows that it takes of the UNet's batch: one, two with guidance."""
        return self.conditioning.rows

    @property
    def cost(self) -> int:
        """What one step of it takes, in latent pixels through the UNet."""
        return self.rows * self.shape[0] * self.shape[1]

    def step_noise(self) -> Tensor | None:
        """The noise of the step at ``position``, (1, channels, height, width) on the CPU, the same however
        often it is asked for; None where that step takes none.
        """
        if not self.trajectory.noise_steps[self.position]:
            return None
        if self._drawn is None or self._drawn[0] != self.position:
            self._drawn = (self.position, self.noise.draw(self.trajectory.noise_dtype))
        return self._drawn[1]
