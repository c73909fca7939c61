"""Stage ``text``: the text encoder, taught to say what a caption claims.

Its pooled output must tell object, colour, texture and surroundings apart (so "a red mug on blue"
and "a blue mug on red" differ), which is what the UNet will need to read off it. It is frozen from
then on, as CLIP's is in Stable Diffusion.
"""

from __future__ import annotations

import logging
import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from .. import architecture
from ..captions import describe
from ..render import draw_scene
from ..vocabulary import COLOURS, OBJECTS, SCENES, TEXTURES
from .schedule import warm_stable_decay

log = logging.getLogger(__name__)

#: Each thing a caption may say, in the order of the labels.
ANSWERS: tuple[tuple[str, ...], ...] = (OBJECTS, tuple(COLOURS), TEXTURES, (*COLOURS, *SCENES))
PADDED = 24  # causal attention: what stands behind a caption's end changes nothing before it


def train(tokenizer: CLIPTokenizer, out: Path, steps: int, device: torch.device, lr: float = 1e-3) -> None:
    torch.manual_seed(0)
    rng = random.Random(7)
    model = CLIPTextModelWithProjection(architecture.text_config(len(tokenizer))).to(device)
    heads = torch.nn.ModuleList(torch.nn.Linear(architecture.CLIP_WIDTH, len(names)) for names in ANSWERS).to(
        device
    )
    parameters = [*model.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.01)
    for step in range(steps):
        scenes = [draw_scene(rng) for _ in range(128)]
        tokens = tokenizer(
            [describe(s, rng) for s in scenes],
            padding="max_length",
            max_length=PADDED,
            truncation=True,
            return_tensors="pt",
        )
        labels = torch.from_numpy(
            np.array(
                [
                    [
                        names.index(a)
                        for names, a in zip(ANSWERS, (s.kind, s.colour, s.texture, s.background), strict=True)
                    ]
                    for s in scenes
                ]
            )
        ).to(device)
        for group in optimizer.param_groups:
            group["lr"] = lr * warm_stable_decay(step, steps, warm=50)
        pooled = model(input_ids=tokens.input_ids.to(device)).text_embeds
        pooled = F.normalize(pooled, dim=-1) * architecture.CLIP_WIDTH**0.5
        logits = [head(pooled) for head in heads]
        losses = [F.cross_entropy(answer, labels[:, i]) for i, answer in enumerate(logits)]
        loss = torch.stack(losses).sum()
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            right = [
                float((answer.argmax(-1) == labels[:, i]).float().mean()) for i, answer in enumerate(logits)
            ]
            log.info(
                "text %d/%d loss %.3f right %s", step, steps, loss.item(), " ".join(f"{r:.2f}" for r in right)
            )
    model.save_pretrained(out)
