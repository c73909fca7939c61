"""Photos as latents: encoded once where their pixels never change, else each time they are used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from dreambooth_api.training.randomness import Randomness


class Latents(Protocol):
    def sample(self, indices: Tensor, randomness: Randomness) -> Tensor:
        """Latents of those photos, scaled as the UNet wants them: float32 (batch, channels, height/8,
        width/8).
        """
        ...


def to_pixels(image: Image) -> Tensor:
    """Shape (3, height, width), from -1 to 1."""
    array = np.asarray(image.convert("RGB"), dtype=np.float32)
    return torch.from_numpy(array / 127.5 - 1.0).permute(2, 0, 1).contiguous()


class KeptLatents:
    """The autoencoder's mean and deviation, computed once: each use still samples, as it would with the
    photo.
    """

    def __init__(self, vae: Any, images: Sequence[Image], device: torch.device) -> None:
        moments = [_encode(vae, to_pixels(image), device) for image in images]
        self._mean = torch.stack([mean for mean, _ in moments])
        self._deviation = torch.stack([deviation for _, deviation in moments])
        self._scale = _Scale(vae)

    def sample(self, indices: Tensor, randomness: Randomness) -> Tensor:
        mean, deviation = self._mean[indices], self._deviation[indices]
        return self._scale(mean + deviation * randomness.normal_like(mean.shape))


class FreshLatents:
    """Crops and mirrors by chance, and encodes, each time."""

    def __init__(
        self,
        vae: Any,
        images: Sequence[Image],
        device: torch.device,
        resolution: int,
        *,
        crop: bool,
        flip: bool,
    ) -> None:
        self._vae, self._device = vae, device
        self._images = [to_pixels(image) for image in images]
        self._resolution, self._crop, self._flip = resolution, crop, flip
        self._scale = _Scale(vae)

    def sample(self, indices: Tensor, randomness: Randomness) -> Tensor:
        sampled = []
        for index in indices.tolist():
            mean, deviation = _encode(self._vae, self._augment(self._images[index], randomness), self._device)
            sampled.append(mean + deviation * randomness.normal_like(mean.shape))
        return self._scale(torch.stack(sampled))

    def _augment(self, pixels: Tensor, randomness: Randomness) -> Tensor:
        spare = (pixels.shape[1] - self._resolution, pixels.shape[2] - self._resolution)
        # Both are drawn whether used or not: the streams then do not depend on the options.
        place, mirror = torch.rand(2, generator=randomness.order), torch.rand(1, generator=randomness.order)
        top, left = (int(share * (room + 1)) for share, room in zip(place.tolist(), spare, strict=True))
        if not self._crop:
            top, left = spare[0] // 2, spare[1] // 2
        cropped = pixels[:, top : top + self._resolution, left : left + self._resolution]
        return cropped.flip(-1) if self._flip and mirror.item() < 0.5 else cropped


class _Scale:
    """Between the autoencoder's latents and the UNet's."""

    def __init__(self, vae: Any) -> None:
        self._shift = float(vae.config.get("shift_factor") or 0.0)
        self._factor = float(vae.config["scaling_factor"])

    def __call__(self, latents: Tensor) -> Tensor:
        return (latents - self._shift) * self._factor


@torch.no_grad()
def _encode(vae: Any, pixels: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation on the CPU, in float32: SDXL's autoencoder overflows in half precision."""
    posterior = vae.encode(pixels[None].to(device=device, dtype=torch.float32)).latent_dist
    return posterior.mean[0].float().cpu(), posterior.std[0].float().cpu()
