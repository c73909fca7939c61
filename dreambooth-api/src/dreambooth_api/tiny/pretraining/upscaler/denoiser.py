"""Stage ``unet``: the denoiser, on latents and text states that are computed once."""

from __future__ import annotations

import copy
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from ... import PIPELINE_FOLDER
from .. import averaging, pool
from ..schedule import warm_stable_decay
from . import architecture
from .linear import pair_up, silence_branches
from .pictures import Pictures

log = logging.getLogger(__name__)

BATCH = 32
CROP = 16  # latents; whole pictures are 32
WHOLE_SHARE = 0.2  # of the steps, at the end: what stands far apart is seen together, edges as they are
UNSAID = 0.4  # share of pictures trained without a caption, which is how most pictures come to be enlarged
EMA = 0.998
FEATURES = 15  # linear ones before the last norm, each of which takes two channels; see `linear`


@dataclass
class Examples:
    latents: torch.Tensor  # (n, c, h, w) fp16, scaled to a deviation of 1
    small: torch.Tensor  # (n, 3, h, w) uint8: the low-resolution pictures
    states: torch.Tensor  # (n, 77, width) fp16
    unsaid: torch.Tensor  # (77, width): the empty caption
    metric: torch.Tensor  # (c, c): what an error in the latents means in the picture


def train(examples: Examples, out: Path, steps: int, device: torch.device, *, lr: float = 1e-3) -> None:
    """Trains for ``steps`` steps; a run that was interrupted goes on from its last checkpoint."""
    torch.manual_seed(0)
    model = architecture.unet()
    _start_linear(model, examples)
    model.to(device, memory_format=torch.channels_last)
    averaged = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.01)
    first = averaging.restore(out, model, averaged)
    torch.manual_seed(first)
    noiser, small_noiser = architecture.scheduler(), architecture.low_res_scheduler()
    metric = examples.metric.to(device)
    started, running = time.monotonic(), 0.0
    for step in range(first, steps):
        whole = step >= (1 - WHOLE_SHARE) * steps
        latents, small, states = _draw(examples, BATCH // 4 if whole else BATCH, whole, device)
        # Few steps are taken from where there is much noise: that is what is trained most.
        times = (1000 * torch.rand(len(latents), device=device).sqrt()).long()
        levels = (architecture.MAX_NOISE_LEVEL * torch.rand(len(latents), device=device) ** 3).long()
        noise = torch.randn_like(latents)
        noisy = noiser.add_noise(latents, noise, times)
        seen = small_noiser.add_noise(small, torch.randn_like(small), levels)
        predicted = model(
            torch.cat([noisy, seen], dim=1), times, states, class_labels=levels, return_dict=False
        )[0]
        error = predicted - latents
        loss = torch.einsum("nihw,ij,njhw->nhw", error, metric, error).mean() / architecture.LATENTS
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
    examples: Examples, count: int, whole: bool, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    index = torch.randint(0, len(examples.latents), (count,))
    side = examples.latents.shape[-1]
    size = side if whole else CROP
    y, x = torch.randint(0, side - size + 1, (2,)).tolist()
    latents, small = (
        part[index, :, y : y + size, x : x + size].to(device).float()
        for part in (examples.latents, examples.small)
    )
    states = examples.states[index].to(device).float()
    states[torch.rand(count) < UNSAID] = examples.unsaid.to(device).float()
    flat = {"memory_format": torch.channels_last}
    return latents.contiguous(**flat), (small / 127.5 - 1).contiguous(**flat), states


@torch.no_grad()
def prepare(work: Path, pictures: Pictures, device: torch.device) -> Examples:
    """Encodes pictures and captions once; the results are kept in the work folder."""
    path = work / "examples.safetensors"
    if not path.exists():
        vae = AutoencoderKL.from_pretrained(work / "vae").to(device).eval()
        latents = []
        # A few at a time: on a CPU they stay in its cache.
        for start in range(0, len(pictures.large), 4):
            pixels = pool.batch(pictures.large, np.arange(start, min(start + 4, len(pictures.large))), device)
            latents.append((vae.encode(pixels).latent_dist.mean * architecture.SCALING).half().cpu())
            if start % 800 == 0:
                log.info("encoded %d pictures", start)
        save_file(
            {
                "latents": torch.cat(latents).contiguous(),
                "small": torch.from_numpy(pictures.small).permute(0, 3, 1, 2).contiguous(),
                "metric": _metric(vae),
                **_encode_captions(pictures, device),
            },
            path.with_suffix(".part"),
        )
        path.with_suffix(".part").rename(path)
    return Examples(**load_file(path))


@torch.no_grad()
def _start_linear(model: UNet2DConditionModel, examples: Examples) -> None:
    """Has the UNet begin as the best linear map from 3×3 low-resolution pixels to latents."""
    silence_branches(model)
    taken = torch.arange(0, len(examples.latents), max(1, len(examples.latents) // 400))
    small = examples.small[taken].float() / 127.5 - 1
    seen = F.unfold(F.pad(small, (1, 1, 1, 1)), 3).transpose(1, 2).flatten(0, 1)
    seen = torch.cat([seen, torch.ones(len(seen), 1)], dim=1)
    latents = examples.latents[taken].float().flatten(2).transpose(1, 2).flatten(0, 1)
    best = torch.linalg.lstsq(seen, latents).solution.T  # (c, 3 × 9 + 1)
    log.info("unet linear error %.4f", float((seen @ best.T - latents).square().mean()))
    last = model.up_blocks[-1].resnets[-1]
    width = model.conv_in.out_channels
    # The first features are the picture as it is seen, by way of the outermost skip connection.
    model.conv_in.weight[:3] = 0
    for colour in range(3):
        model.conv_in.weight[colour, architecture.LATENTS + colour, 1, 1] = 1
    last.conv_shortcut.weight[:3] = 0
    for feature in range(FEATURES):
        last.conv_shortcut.weight[feature, -width:] = 0
        last.conv_shortcut.weight[feature, feature - width] = 1
    model.conv_out.weight.zero_()
    model.conv_out.weight[:, :3] = best[:, :-1].view(-1, 3, 3, 3)
    model.conv_out.bias.copy_(best[:, -1])
    pair_up(last.conv_shortcut, model.conv_norm_out, model.conv_out, FEATURES)


@torch.no_grad()
def _metric(vae: AutoencoderKL) -> torch.Tensor:
    """Scalar products of what each latent channel changes in a picture, 1 on average for one with itself."""
    count = architecture.LATENTS
    latents = torch.zeros(count + 1, count, 9, 9, device=vae.device)
    latents[range(count), range(count), 4, 4] = 1 / architecture.SCALING
    decoded = vae.decode(latents).sample
    changes = (decoded[:-1] - decoded[-1:]).flatten(1)
    products = changes @ changes.T
    scaled: torch.Tensor = products / products.diagonal().mean()
    return scaled.cpu().contiguous()


def _encode_captions(pictures: Pictures, device: torch.device) -> dict[str, torch.Tensor]:
    tokenizer = CLIPTokenizer.from_pretrained(PIPELINE_FOLDER / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(PIPELINE_FOLDER / "text_encoder").to(device).eval()
    captions = [pool.caption(scene, index) for index, scene in enumerate(pictures.scenes)]
    return pool.encode_captions(tokenizer, encoder, captions, device)
