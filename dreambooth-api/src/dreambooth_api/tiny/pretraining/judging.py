"""Stage ``judge``: the classifier that scores pictures, on freshly rendered ones."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from torchvision.transforms.functional import gaussian_blur

from ..judge import BACKGROUNDS, INPUT, Judge
from ..render import Scene
from ..vocabulary import COLOURS, OBJECTS
from . import pool
from .schedule import warm_stable_decay

log = logging.getLogger(__name__)


def labels_of(scenes: list[Scene]) -> torch.Tensor:
    """Object, colour and background of each scene as indexes: (n, 3)."""
    names = (OBJECTS, tuple(COLOURS), BACKGROUNDS)
    rows = [
        [n.index(a) for n, a in zip(names, (s.kind, s.colour, s.background), strict=True)] for s in scenes
    ]
    return torch.tensor(rows)


def train(array: NDArray[np.uint8], scenes: list[Scene], out: Path, steps: int, device: torch.device) -> None:
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    labels = labels_of(scenes).to(device)
    judge = Judge().to(device)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3, weight_decay=0.05)
    tested = len(scenes) // 20  # the first pictures are for testing only
    for step in range(steps):
        indices = np.sort(rng.integers(tested, len(scenes), 96))
        pixels = _disturb(_shrink(pool.batch(array, indices, device)), rng)
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * warm_stable_decay(step, steps, warm=30, decay_share=0.5)
        targets = labels[torch.from_numpy(indices)]
        losses = [F.cross_entropy(logits, targets[:, i]) for i, logits in enumerate(judge(pixels))]
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(torch.stack(losses).sum())
        optimizer.step()
        if step % 100 == 0 or step == steps - 1:
            rates = _accuracy(judge, array, labels, tested, device)
            log.info("judge %d/%d right: object %.3f colour %.3f background %.3f", step, steps, *rates)
    save_file({name: tensor.half().contiguous() for name, tensor in judge.cpu().state_dict().items()}, out)


def _shrink(pixels: torch.Tensor) -> torch.Tensor:
    return F.interpolate(pixels, size=(INPUT, INPUT), mode="area")


def _disturb(pixels: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Blur, noise and a colour cast, so that a generated picture's softness decides nothing."""
    if rng.random() < 0.5:
        pixels = gaussian_blur(pixels, 5, float(rng.uniform(0.3, 1.4)))
    cast = torch.randn(len(pixels), 3, 1, 1, device=pixels.device) * 0.03
    return (pixels + cast + torch.randn_like(pixels) * float(rng.uniform(0, 0.12))).clamp(-1, 1)


@torch.no_grad()
def _accuracy(
    judge: Judge, array: NDArray[np.uint8], labels: torch.Tensor, count: int, device: torch.device
) -> list[float]:
    judge.eval()
    pixels = _shrink(pool.batch(array, np.arange(count), device))
    right = [
        (logits.argmax(-1) == labels[:count, i]).float().mean() for i, logits in enumerate(judge(pixels))
    ]
    judge.train()
    return [float(r) for r in right]
