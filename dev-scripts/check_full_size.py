"""The stages of check-full-size.sh: `check_full_size.py build|train|draw <scratch folder>`."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

NAME = "full-size"
UNET_PARAMETERS = 859_520_964  # of Stable Diffusion 1.5
MEMORY_LIMIT = 16e9  # bytes


def build(scratch: Path) -> None:
    """Write the pipeline with SD 1.5's configuration and random weights, in fp16."""
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from dreambooth_api.tiny import PIPELINE_FOLDER
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=64,
        cross_attention_dim=768,
        attention_head_dim=8,
        block_out_channels=(320, 640, 1280, 1280),
    ).half()
    count = sum(parameter.numel() for parameter in unet.parameters())
    print(f"UNet: {count:,} parameters")
    assert count == UNET_PARAMETERS
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        sample_size=512,
    ).half()
    # Random weights do not mind that the tokenizer is another; its ids are below CLIP's 49,408.
    tokenizer = CLIPTokenizer.from_pretrained(PIPELINE_FOLDER / "tokenizer")
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49_408,
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            projection_dim=768,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).half()
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
    )
    StableDiffusionPipeline(
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(scratch / "bases" / NAME, safe_serialization=True)


def train(scratch: Path) -> None:
    from dreambooth_api.train import main
    from PIL import Image

    photos = scratch / "photos"
    photos.mkdir()
    for number, colour in enumerate(("red", "green")):
        Image.new("RGB", (640, 512), colour).save(photos / f"{number}.png")
    flags = ["--images", str(photos), "--prompt", "a sks shoe", "--name", "shoe", "--base-model", NAME]
    places = ["--work", str(scratch / "work"), "--store", str(scratch / "store")]
    assert main([*flags, *places, "--steps", "2"]) == 0


def draw(scratch: Path) -> None:
    from dreambooth_api.inference.engine import Engine
    from dreambooth_api.inference.request import DrawRequest, WeightedModel
    from dreambooth_api.models.bases import resolve_base
    from dreambooth_api.models.store import open_store

    engine = Engine(resolve_base(NAME), open_store((scratch / "store").as_uri(), scratch / "cache", 10**11))
    engine.load()
    request = DrawRequest(prompt="a sks shoe", models=(WeightedModel("shoe"),), num_image=1, steps=2)
    (picture,) = engine.draw(request).pictures
    print(f"picture: {picture.image.size}")
    assert picture.image.size == (512, 512)


def main() -> None:
    stage, scratch = sys.argv[1], Path(sys.argv[2])
    started = time.monotonic()
    {"build": build, "train": train, "draw": draw}[stage](scratch)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{stage}: {time.monotonic() - started:.0f} s, at most {peak / 1e9:.1f} GB of memory", flush=True)
    assert peak < MEMORY_LIMIT, "more than 16 GB of memory"


if __name__ == "__main__":
    main()
