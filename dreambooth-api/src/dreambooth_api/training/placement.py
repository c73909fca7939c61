"""On which device a training runs, in which precision, and which part of the pipeline is in which."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator

from dreambooth_api.training.options import TrainingOptions

_DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def prepare_accelerator(device: str, mixed_precision: str) -> tuple[Accelerator, torch.device]:
    """`device` is "cpu" or "cuda:N". Half precision is for GPUs; the CPU always trains in float32."""
    if device == "cpu":
        return Accelerator(mixed_precision="no", cpu=True), torch.device("cpu")
    torch.cuda.set_device(torch.device(device))
    if mixed_precision == "auto":
        mixed_precision = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return Accelerator(mixed_precision=mixed_precision), torch.device(device)


def place(pipeline: Any, accelerator: Accelerator, device: torch.device, options: TrainingOptions) -> None:
    """Move everything to `device`: what is frozen in the mixed precision, what is trained whole in float32.

    The autoencoder stays in float32: it runs once a photo, and SDXL's overflows in fp16.
    """
    frozen = _DTYPES[accelerator.mixed_precision]
    whole = options.method == "full"
    _move(pipeline.vae, device, torch.float32)
    _move(pipeline.unet, device, torch.float32 if whole else frozen)
    for name in ("text_encoder", "text_encoder_2"):
        module = getattr(pipeline, name, None)
        if module is not None:
            _move(module, device, torch.float32 if whole and options.train_text_encoder else frozen)


def _move(module: Any, device: torch.device, dtype: torch.dtype) -> None:
    # Asked for a type, diffusers warns of parts that would be cast, even where there are none.
    if module.dtype == dtype:
        module.to(device)
    else:
        module.to(device, dtype)
