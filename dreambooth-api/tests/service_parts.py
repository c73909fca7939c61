"""What the tests of drawing and of the service share: small models to draw with, and pictures to compare."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from dreambooth_api.models.artifact import Artifact, BaseReference, Manifest, now
from dreambooth_api.models.bases import TINY, load_pipeline, resolve_base
from dreambooth_api.models.store import ModelStore
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image

#: "The same picture", in steps of 255.
SAME = 2


def plain_pipeline() -> Any:
    """The tiny model in plain diffusers, apart from any engine."""
    pipeline = load_pipeline(resolve_base(TINY), torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def publish_adapter(
    store: ModelStore,
    model_id: str,
    *,
    seed: int,
    text_encoder: bool = False,
    base: str = TINY,
    revision: str | None = None,
) -> Artifact:
    """A LoRA with random weights, strong enough to be seen in a picture of few steps."""
    pipeline = plain_pipeline()
    layers: dict[str, Any] = {}
    for name in ("unet", *(["text_encoder"] if text_encoder else [])):
        part = getattr(pipeline, name)
        targets = ["to_q", "to_k", "to_v", "to_out.0"] if name == "unet" else ["q_proj", "v_proj"]
        part.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=targets, init_lora_weights="gaussian"))
        _fill(part, seed)
        layers[f"{name}_lora_layers"] = convert_state_dict_to_diffusers(get_peft_model_state_dict(part))
    with TemporaryDirectory() as folder:
        StableDiffusionPipeline.save_lora_weights(folder, **layers)
        return _published(store, Path(folder), _manifest(model_id, "lora", base, revision))


def _fill(part: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in part.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


def publish_full(store: ModelStore, model_id: str, *, seed: int) -> Artifact:
    """A whole model: the tiny one with its UNet shaken."""
    pipeline = plain_pipeline()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in pipeline.unet.parameters():
            parameter.mul_(1 + 0.1 * torch.randn(parameter.shape, generator=generator))
    with TemporaryDirectory() as folder:
        pipeline.save_pretrained(folder, safe_serialization=True)
        for path in Path(folder).rglob("*"):
            if path.is_file() and path.suffix not in (".json", ".safetensors", ".txt"):
                path.unlink()
        return _published(store, Path(folder), _manifest(model_id, "full", TINY))


def _published(store: ModelStore, folder: Path, manifest: Manifest) -> Artifact:
    complete = store.publish(folder, manifest)
    with store.open(f"{complete.model_id}@{complete.version}") as artifact:
        return artifact


def _manifest(model_id: str, method: str, base: str, revision: str | None = None) -> Manifest:
    return Manifest(
        tenant="default",
        model_id=model_id,
        method=method,  # type: ignore[arg-type]
        base=BaseReference(name=base, revision=revision),
        instance_prompt="a sks shoe",
        created_at=now(),
    )


def difference(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of any channel of any pixel, of 255."""
    assert one.size == other.size
    return int(np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max())


def in_base64(image: Image.Image, image_format: str = "PNG", **options: Any) -> str:
    """An image file as a request carries it."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return base64.b64encode(buffer.getvalue()).decode()


def from_base64(text: str) -> Image.Image:
    """A picture as an answer carries it; its text chunks are in ``.text``."""
    image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
    image.load()
    return image


def photo(number: int = 0, side: int = 96) -> Image.Image:
    """A picture with something in it, another for each number."""
    y, x = np.mgrid[0:side, 0:side]
    channels = [(x * (2 + number)) % 256, (y * 3 + 40 * number) % 256, (x + y) % 256]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))
