"""The average of a denoiser's weights over its training, and both on the disk, so that a run can go on."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file


@torch.no_grad()
def average(averaged: UNet2DConditionModel, model: UNet2DConditionModel, keep: float) -> None:
    """Moves ``averaged`` towards ``model``; it keeps the share ``keep`` of itself."""
    torch._foreach_lerp_(list(averaged.parameters()), list(model.parameters()), 1 - keep)


def save(out: Path, model: UNet2DConditionModel, averaged: UNet2DConditionModel, step: int) -> None:
    """Stores both as of ``step``, the average as diffusers does: that is what is shipped."""
    averaged.save_pretrained(out)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, out / "latest.part")
    (out / "latest.part").rename(out / "latest.safetensors")
    (out / "step.json").write_text(json.dumps({"step": step}))


def restore(out: Path, model: UNet2DConditionModel, averaged: UNet2DConditionModel) -> int:
    """Loads what ``save`` stored, and gives its step; 0 where there is none."""
    if not (out / "step.json").exists():
        return 0
    model.load_state_dict(load_file(out / "latest.safetensors"))
    averaged.load_state_dict(load_file(out / "diffusion_pytorch_model.safetensors"))
    return int(json.loads((out / "step.json").read_text())["step"])
