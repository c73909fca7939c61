"""The loss: how far the UNet's prediction is from the noise (or the velocity) that was mixed into the
latents.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from dreambooth_api.training.randomness import Randomness


class DenoisingLoss:
    """Mean squared error at a random noise level per picture (arXiv:2006.11239), in what the base model
    predicts.

    With `snr_gamma`, weighted as in arXiv:2303.09556 (equation 2.5 and its form for velocities).
    """

    def __init__(self, pipeline: Any, snr_gamma: float | None, device: torch.device) -> None:
        self._scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
        self._levels = int(self._scheduler.config["num_train_timesteps"])
        self._velocity = self._scheduler.config["prediction_type"] == "v_prediction"
        self._device = device
        self._dtype = pipeline.unet.dtype  # asked once: diffusers looks through all modules for it
        kept = self._scheduler.alphas_cumprod
        self._weights = _min_snr(kept / (1 - kept), snr_gamma, velocity=self._velocity)

    def __call__(
        self,
        unet: Any,
        latents: Tensor,
        embeddings: Tensor,
        added: dict[str, Tensor] | None,
        randomness: Randomness,
    ) -> Tensor:
        """The loss of each picture, shape (batch,), in float32."""
        noise = randomness.normal_like(latents.shape)
        levels = torch.randint(0, self._levels, (len(latents),), generator=randomness.noise)
        noisy = self._scheduler.add_noise(latents, noise, levels)
        target = self._scheduler.get_velocity(latents, noise, levels) if self._velocity else noise
        predicted = unet(
            noisy.to(self._device, self._dtype),
            levels.to(self._device),
            encoder_hidden_states=embeddings.to(self._dtype),
            added_cond_kwargs=added,
        ).sample
        error = (predicted.float() - target.to(self._device)).square().mean(dim=(1, 2, 3))
        weighted: Tensor = error * self._weights[levels].to(self._device)
        return weighted


def _min_snr(snr: Tensor, gamma: float | None, *, velocity: bool) -> Tensor:
    """The weight of each noise level, shape (levels,)."""
    if gamma is None:
        return torch.ones_like(snr)
    return snr.clamp(max=gamma) / (snr + 1 if velocity else snr)
