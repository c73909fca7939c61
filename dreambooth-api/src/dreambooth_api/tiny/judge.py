"""A small classifier that reads off a picture what it shows, to score generated ones.

It was trained on rendered pictures only (``pretraining/judging.py``) and never saw one that a
diffusion model drew, so it has no share in the mistakes it is asked to find.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from . import JUDGE_FILE
from .vocabulary import COLOURS, OBJECTS, SCENES

BACKGROUNDS: tuple[str, ...] = (*COLOURS, *SCENES)
INPUT = 64  # pixels a side; pictures are averaged down to this


@dataclass(frozen=True)
class Verdict:
    kind: str
    colour: str
    background: str


class Judge(nn.Module):
    """Pictures (n, 3, 64, 64) in [-1, 1] → logits for object, object colour and background."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 96, 128)
        layers: list[nn.Module] = []
        for narrow, wide in pairwise(widths):
            layers += [nn.Conv2d(narrow, wide, 3, stride=2, padding=1), nn.BatchNorm2d(wide), nn.ReLU()]
            layers += [nn.Conv2d(wide, wide, 3, padding=1), nn.BatchNorm2d(wide), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.heads = nn.ModuleList(
            nn.Linear(2 * 128, len(names)) for names in (OBJECTS, COLOURS, BACKGROUNDS)
        )

    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        features = self.features(pixels)
        pooled = torch.cat((features.mean((2, 3)), features.amax((2, 3))), dim=1)
        return [head(pooled) for head in self.heads]


def load_judge() -> Judge:
    judge = Judge()
    judge.load_state_dict({name: tensor.float() for name, tensor in load_file(JUDGE_FILE).items()})
    return judge.eval()


@torch.no_grad()
def read(judge: Judge, pictures: list[Image.Image]) -> list[Verdict]:
    """What the judge takes each picture to show."""
    pixels = torch.stack([as_input(picture) for picture in pictures])
    kinds, colours, backgrounds = (logits.argmax(-1).tolist() for logits in judge(pixels))
    return [
        Verdict(OBJECTS[kind], tuple(COLOURS)[colour], BACKGROUNDS[background])
        for kind, colour, background in zip(kinds, colours, backgrounds, strict=True)
    ]


def as_input(picture: Image.Image) -> torch.Tensor:
    """A picture as the judge's input: (3, 64, 64) in [-1, 1]."""
    pixels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).float()
    return F.interpolate(pixels[None], size=(INPUT, INPUT), mode="area")[0] / 127.5 - 1
