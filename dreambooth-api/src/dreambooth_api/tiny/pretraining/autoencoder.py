"""Stage ``vae``: the autoencoder, first on crops (many pictures a batch), then on whole pictures."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from numpy.typing import NDArray

from .. import architecture
from .pool import batch
from .schedule import warm_stable_decay

log = logging.getLogger(__name__)

KL_WEIGHT = 5e-4  # per latent value, against an L1 per colour value: enough to keep latents smooth
CROP = 64
CROPS_SHARE = 0.75


def train(
    arrays: tuple[NDArray[np.uint8], ...], out: Path, steps: int, device: torch.device, lr: float = 2e-3
) -> None:
    """Trains for ``steps`` steps on the arrays in turn, going on from what ``out`` holds."""
    torch.manual_seed(0)
    first = int(json.loads((out / "step.json").read_text())["step"]) if out.exists() else 0
    rng = np.random.default_rng(first)
    model = AutoencoderKL.from_pretrained(out) if first else architecture.autoencoder()
    model.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.0)
    started = time.monotonic()
    for step in range(first, steps):
        array = arrays[step % len(arrays)]
        crops = step < CROPS_SHARE * steps
        indices = rng.integers(0, len(array), 32 if crops else 8)
        pixels = batch(array, indices, device)
        if crops:
            pixels = _crop(pixels, rng)
        for group in optimizer.param_groups:
            group["lr"] = lr * warm_stable_decay(step, steps)
        posterior = model.encode(pixels).latent_dist
        rebuilt = model.decode(posterior.sample()).sample
        error = F.l1_loss(rebuilt, pixels) + F.mse_loss(rebuilt, pixels)
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        loss = error + KL_WEIGHT * kl
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            log.info(
                "vae %d/%d error %.4f kl %.2f %.0fs",
                step,
                steps,
                error.item(),
                kl.item(),
                time.monotonic() - started,
            )
        if step % 500 == 499 or step == steps - 1:
            model.register_to_config(scaling_factor=_scaling_factor(model, arrays[0], device))
            model.save_pretrained(out)
            (out / "step.json").write_text(json.dumps({"step": step + 1}))


def _crop(pixels: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    y, x = (8 * int(v) for v in rng.integers(0, (pixels.shape[-1] - CROP) // 8 + 1, 2))
    return pixels[:, :, y : y + CROP, x : x + CROP].contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def _scaling_factor(model: AutoencoderKL, array: NDArray[np.uint8], device: torch.device) -> float:
    """What brings latents to unit variance, as SD's 0.18215 does for its own."""
    pixels = batch(array, np.arange(0, len(array), max(1, len(array) // 128))[:128], device)
    return float(1.0 / model.encode(pixels).latent_dist.sample().std())
