"""Stage ``vae``: the autoencoder, first its linear part alone, then the whole."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from numpy.typing import NDArray

from ..pool import batch
from ..schedule import warm_stable_decay
from . import architecture
from .linear import pair_up, silence_branches

log = logging.getLogger(__name__)

BATCH = 8  # crops of 64×64, or twice as many of 32×32
NOISE = 0.03  # of the latents' deviation: what the decoder learns to bear with
#: Linear features before the last norms, of which each takes two channels; see `linear`.
_ENCODED, _DECODED = 31, 7

Rebuild = Callable[[AutoencoderKL, torch.Tensor], torch.Tensor]


def train(
    pictures: NDArray[np.uint8], out: Path, linear_steps: int, steps: int, device: torch.device
) -> None:
    torch.manual_seed(0)
    model = architecture.autoencoder().to(device)
    silence_branches(model)
    with torch.no_grad():
        model.quant_conv.weight[architecture.LATENTS :] = 0
        model.quant_conv.bias[architecture.LATENTS :] = -10
    _fit("linear", model, pictures, _rebuild_linearly, 32, linear_steps, 3e-3, device)
    last, first = model.encoder.down_blocks[-1].resnets[0], model.decoder.up_blocks[-1].resnets[0]
    pair_up(last.conv_shortcut, model.encoder.conv_norm_out, model.encoder.conv_out, _ENCODED)
    pair_up(first.conv_shortcut, model.decoder.conv_norm_out, model.decoder.conv_out, _DECODED)
    model.to(memory_format=torch.channels_last)
    _fit("vae", model, pictures, _rebuild, 64, steps, 2e-4, device)
    _standardise(model, pictures, device)
    model.save_pretrained(out)
    (out / "step.json").write_text(json.dumps({"step": steps}))


def _fit(
    what: str,
    model: AutoencoderKL,
    pictures: NDArray[np.uint8],
    rebuild: Rebuild,
    crop: int,
    steps: int,
    lr: float,
    device: torch.device,
) -> None:
    rng = np.random.default_rng(0)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.98), weight_decay=0.0)
    started, running = time.monotonic(), 0.0
    for step in range(steps):
        indices = rng.integers(0, len(pictures), BATCH * (64 // crop))
        pixels = _crops(batch(pictures, indices, device), crop, rng)
        for group in optimizer.param_groups:
            group["lr"] = lr * warm_stable_decay(step, steps, warm=50)
        rebuilt = rebuild(model, pixels)
        error = F.mse_loss(rebuilt, pixels)
        loss = F.l1_loss(rebuilt, pixels) + 4 * error
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        running += max(0.03, 1 / (step + 1)) * (error.item() - running)
        if step % 50 == 0 or step == steps - 1:
            decibels = 10 * math.log10(4 / running)
            log.info("%s %d/%d %.1f dB %.0fs", what, step, steps, decibels, time.monotonic() - started)


def _noisy(latents: torch.Tensor) -> torch.Tensor:
    return latents + NOISE * latents.std((0, 2, 3), keepdim=True).detach() * torch.randn_like(latents)


def _rebuild(model: AutoencoderKL, pixels: torch.Tensor) -> torch.Tensor:
    rebuilt: torch.Tensor = model.decode(_noisy(model.encode(pixels).latent_dist.mean)).sample
    return rebuilt


def _rebuild_linearly(model: AutoencoderKL, pixels: torch.Tensor) -> torch.Tensor:
    """As `_rebuild`, through the shortcuts and past the norms and activations."""
    encoder, decoder = model.encoder, model.decoder
    hidden = _shortcuts(encoder.down_blocks, encoder.conv_in(pixels))
    moments = model.quant_conv(encoder.conv_out(_first(hidden, _ENCODED)))
    latents = _noisy(moments[:, : architecture.LATENTS])
    hidden = _shortcuts(decoder.up_blocks, decoder.conv_in(model.post_quant_conv(latents)))
    rebuilt: torch.Tensor = decoder.conv_out(_first(hidden, _DECODED))
    return rebuilt


def _shortcuts(blocks: Any, hidden: torch.Tensor) -> torch.Tensor:
    for block in blocks:
        for resnet in block.resnets:
            if resnet.conv_shortcut is not None:
                hidden = resnet.conv_shortcut(hidden)
        for sampler in getattr(block, "downsamplers", None) or getattr(block, "upsamplers", None) or ():
            hidden = sampler(hidden)
    return hidden


def _first(hidden: torch.Tensor, count: int) -> torch.Tensor:
    return torch.cat([hidden[:, :count], torch.zeros_like(hidden[:, count:])], dim=1)


def _crops(pixels: torch.Tensor, size: int, rng: np.random.Generator) -> torch.Tensor:
    room = (pixels.shape[-1] - size) // architecture.FACTOR + 1
    y, x = (architecture.FACTOR * int(v) for v in rng.integers(0, room, 2))
    return pixels[:, :, y : y + size, x : x + size].contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def _standardise(model: AutoencoderKL, pictures: NDArray[np.uint8], device: torch.device) -> None:
    """Makes every latent channel's mean 0 and deviation 1 / SCALING, by the convolutions around it."""
    some = batch(pictures, np.arange(0, len(pictures), max(1, len(pictures) // 256)), device)
    means = torch.cat([model.encode(part).latent_dist.mean for part in some.split(16)])
    centre = means.mean((0, 2, 3))
    gain = 1 / (architecture.SCALING * means.std((0, 2, 3)))
    into, back, count = model.quant_conv, model.post_quant_conv, architecture.LATENTS
    back.bias += back.weight[:, :, 0, 0] @ centre
    back.weight /= gain.view(1, -1, 1, 1)
    into.bias[:count] = (into.bias[:count] - centre) * gain
    into.weight[:count] *= gain.view(-1, 1, 1, 1)
    into.bias[count:] += 2 * gain.log()  # the other half is the logarithm of the variance
