"""Stage ``clip``: an image encoder that shares the text encoder's space.

The text side is the pipeline's own and stays as it is; the image side is drawn to it by CLIP's
contrastive loss ("locked" tuning, Zhai et al. 2022), so both can be compared by cosine.
"""

from __future__ import annotations

import logging
import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from transformers import (
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from .. import architecture
from ..captions import describe
from ..render import Scene
from . import pool
from .schedule import warm_stable_decay
from .text import PADDED

log = logging.getLogger(__name__)


def train(
    work: Path, array: NDArray[np.uint8], scenes: list[Scene], steps: int, device: torch.device
) -> None:
    torch.manual_seed(2)
    rng = np.random.default_rng(2)
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    model = _with_locked_text(work, tokenizer).to(device)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-3, weight_decay=0.05)
    for step in range(steps):
        indices = np.sort(rng.integers(0, len(scenes), 128))
        captions = [describe(scenes[i], random.Random(int(i) + step)) for i in indices]
        tokens = tokenizer(
            captions, padding="max_length", max_length=PADDED, truncation=True, return_tensors="pt"
        )
        pixels = F.interpolate(
            pool.batch(array, indices, device), size=(architecture.CLIP_SIZE,) * 2, mode="area"
        )
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * warm_stable_decay(step, steps)
        answer = model(input_ids=tokens.input_ids.to(device), pixel_values=pixels, return_loss=True)
        optimizer.zero_grad(set_to_none=True)
        answer.loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        model.logit_scale.data.clamp_(0, 4.6)
        if step % 50 == 0 or step == steps - 1:
            right = (
                (answer.logits_per_image.argmax(-1) == torch.arange(len(indices), device=device))
                .float()
                .mean()
            )
            log.info("clip %d/%d loss %.3f caption found %.2f of 128", step, steps, answer.loss.item(), right)
    _save(model.cpu(), tokenizer, work / "clip")


def _with_locked_text(work: Path, tokenizer: CLIPTokenizer) -> CLIPModel:
    text = CLIPTextModelWithProjection.from_pretrained(work / "text")
    model = CLIPModel(architecture.clip_config(len(tokenizer)))
    missing, unexpected = model.load_state_dict(text.state_dict(), strict=False)
    if unexpected or any(name.startswith("text") for name in missing):
        raise RuntimeError(f"the text encoder does not fit CLIPModel: {unexpected or missing}")
    for part in (model.text_model, model.text_projection):
        part.requires_grad_(False)
    return model


def _save(model: CLIPModel, tokenizer: CLIPTokenizer, out: Path) -> None:
    size = architecture.CLIP_SIZE
    processor = CLIPImageProcessor(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    model.half().save_pretrained(out, safe_serialization=True)
    CLIPProcessor(processor, tokenizer).save_pretrained(out)
