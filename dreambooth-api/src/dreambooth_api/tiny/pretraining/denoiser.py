"""Stage ``unet``: the denoiser, on latents and text states that are computed once.

It learns on quarter-size pictures first (where the words are learned, at a quarter of the cost) and
then at full size, as Stable Diffusion itself was trained at 256 before 512 pixels.
"""

from __future__ import annotations

import copy
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from .. import architecture
from ..render import Scene
from . import averaging, pool
from .schedule import warm_stable_decay

log = logging.getLogger(__name__)

BATCH = 32
WORDINGS = 2  # captions per picture
UNSAID = 0.1  # share of pictures trained without a caption, for classifier-free guidance
SNR_CAP = 5.0  # min-SNR gamma (Hang et al. 2023)
OFFSET_NOISE = 0.1  # keeps the model from reading the background off the noise's mean
EMA = 0.9985


@dataclass
class Latents:
    """Posterior of the autoencoder for every picture, already scaled: (n, 4, h, w) each, fp16."""

    mean: torch.Tensor
    std: torch.Tensor


@dataclass
class Examples:
    small: Latents
    full: Latents
    states: torch.Tensor  # (n × WORDINGS, 77, width) fp16
    unsaid: torch.Tensor  # (77, width): the empty caption


def train(
    examples: Examples,
    out: Path,
    steps: int,
    device: torch.device,
    *,
    small_share: float = 0.45,
    lr: float = 1.5e-3,
) -> None:
    """Trains for ``steps`` steps; a run that was interrupted goes on from its last checkpoint."""
    torch.manual_seed(0)
    model = architecture.unet().to(device, memory_format=torch.channels_last)
    averaged = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.01)
    first = averaging.restore(out, model, averaged)
    torch.manual_seed(first)
    noiser = DDPMScheduler.from_config(architecture.scheduler().config)
    alphas = noiser.alphas_cumprod.to(device)
    started, running = time.monotonic(), 0.0
    for step in range(first, steps):
        small = step < small_share * steps
        latents, states = _draw(examples, small, BATCH, device)
        noise = torch.randn_like(latents)
        noise += OFFSET_NOISE * torch.randn(len(latents), 4, 1, 1, device=device)
        times = torch.randint(0, 1000, (len(latents),), device=device)
        noisy = noiser.add_noise(latents, noise, times)
        predicted = model(noisy, times, states, return_dict=False)[0]
        snr = alphas[times] / (1 - alphas[times])
        weight = torch.clamp(snr, max=SNR_CAP) / snr
        loss = (weight * F.mse_loss(predicted, noise, reduction="none").mean((1, 2, 3))).mean()
        for group in optimizer.param_groups:
            group["lr"] = lr * warm_stable_decay(step, steps, warm=200)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        averaging.average(averaged, model, min(EMA, (step + 1) / (step + 10)))
        running += 0.02 * (loss.item() - running) if step > first else loss.item()
        if step % 50 == 0:
            log.info("unet %d/%d loss %.4f %.0fs", step, steps, running, time.monotonic() - started)
        if step % 200 == 199 or step == steps - 1:
            averaging.save(out, model, averaged, step + 1)


def _draw(
    examples: Examples, small: bool, count: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    source = examples.small if small else examples.full
    index = torch.randint(0, len(source.mean), (count,))
    mean, std = (part[index].to(device).float() for part in (source.mean, source.std))
    states = examples.states[index * WORDINGS + torch.randint(0, WORDINGS, (count,))].to(device).float()
    states[torch.rand(count) < UNSAID] = examples.unsaid.to(device).float()
    latents = mean + std * torch.randn_like(mean)
    return latents.contiguous(memory_format=torch.channels_last), states


@torch.no_grad()
def prepare(work: Path, array: NDArray[np.uint8], scenes: list[Scene], device: torch.device) -> Examples:
    """Encodes pictures and captions once; the results are kept in the work folder."""
    path = work / "examples.safetensors"
    if not path.exists():
        vae = AutoencoderKL.from_pretrained(work / "vae").to(device).eval()
        tensors = _encode_pictures(vae, array, device) | _encode_captions(work, scenes, device)
        save_file(tensors, path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)
    kept = load_file(path)
    small, full = (Latents(kept[f"{size}.mean"], kept[f"{size}.std"]) for size in ("small", "full"))
    return Examples(small, full, kept["states"], kept["unsaid"])


def _encode_pictures(
    vae: AutoencoderKL, array: NDArray[np.uint8], device: torch.device
) -> dict[str, torch.Tensor]:
    parts: dict[str, list[torch.Tensor]] = {
        "small.mean": [],
        "small.std": [],
        "full.mean": [],
        "full.std": [],
    }
    for start in range(0, len(array), 64):
        pixels = pool.batch(array, np.arange(start, min(start + 64, len(array))), device)
        for name, sized in (("full", pixels), ("small", F.avg_pool2d(pixels, 2))):
            posterior = vae.encode(sized).latent_dist
            parts[f"{name}.mean"].append(
                (posterior.mean * vae.config.scaling_factor).half().cpu().contiguous()
            )
            parts[f"{name}.std"].append((posterior.std * vae.config.scaling_factor).half().cpu().contiguous())
        if start % 3200 == 0:
            log.info("encoded %d pictures", start)
    return {name: torch.cat(tensors) for name, tensors in parts.items()}


def _encode_captions(work: Path, scenes: list[Scene], device: torch.device) -> dict[str, torch.Tensor]:
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    encoder = CLIPTextModelWithProjection.from_pretrained(work / "text").to(device).eval()
    captions = [pool.caption(scene, i, w) for i, scene in enumerate(scenes) for w in range(WORDINGS)]
    return pool.encode_captions(tokenizer, encoder, captions, device)
