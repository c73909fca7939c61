"""Photos, options and small random base models for the tests of training."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth_api.models.bases import resolve_base
from dreambooth_api.tiny import PIPELINE_FOLDER
from dreambooth_api.training.messages import Finished, Message
from dreambooth_api.training.options import TrainingOptions
from dreambooth_api.training.workspace import Workspace, prepare_job
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    import torch  # which takes seconds, and the short programs of some tests only ask for a training

PROMPT = "a sks shoe"
#: Small pictures and few steps: the same code, quickly.
QUICK = {"instance_prompt": PROMPT, "steps": 12, "resolution": 64, "rank": 4, "checkpoint_interval": 3}


def photos(count: int = 3, size: int = 96) -> list[Image.Image]:
    made = []
    for index in range(count):
        image = Image.new("RGB", (size + 8 * index, size), (40 * index % 256, 120, 200))
        ImageDraw.Draw(image).ellipse((20, 20, 70, 70), fill=(240, 200, 10 * index))
        made.append(image)
    return made


def options(**changes: Any) -> TrainingOptions:
    return TrainingOptions.model_validate({**QUICK, **changes})


def workspace_for(
    folder: Path, asked: TrainingOptions, pictures: list[Image.Image] | None = None
) -> Workspace:
    """A claimed workspace with its job in it, under `folder`."""
    base = resolve_base(asked.base_model)
    job, squares = prepare_job(
        "default",
        "my-shoe",
        asked.resolved(base),
        pictures or photos(),
        base_revision=base.revision,
        device="cpu",
        class_images=folder / "class-images",
    )
    workspace = Workspace.claim(folder / "training", job.identity)
    workspace.write_job(job, squares)
    return workspace


def train_here(workspace: Workspace, heard: list[Message] | None = None) -> Finished:
    """Train in this process, to the end."""
    from dreambooth_api.training.loop import train

    outcome = train(workspace, (heard if heard is not None else []).append, lambda: False)
    assert isinstance(outcome, Finished)
    return outcome


def lora_change(folder: Path) -> torch.Tensor:
    """What a LoRA adds to the weights, B times A of each layer, as one vector."""
    import torch
    from safetensors.torch import load_file

    weights = load_file(folder / "pytorch_lora_weights.safetensors")
    changes = [
        (weights[name.replace("lora_A", "lora_B")].flatten(1) @ weight.flatten(1)).flatten()
        for name, weight in sorted(weights.items())
        if name.endswith("lora_A.weight")
    ]
    return torch.cat(changes)


def relative_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / one.norm())


def random_base(folder: Path, family: str) -> None:
    """Write a pipeline of the family with random weights, small but with all that sets the family apart."""
    import torch
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(PIPELINE_FOLDER / "tokenizer")
    last = len(tokenizer) - 1

    def text_config() -> CLIPTextConfig:
        return CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            projection_dim=32,
            bos_token_id=last - 1,
            eos_token_id=last,
            pad_token_id=last,
        )

    xl = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 32,
        "transformer_layers_per_block": (1, 2),
    }
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64 if family == "sdxl" else 32,
        attention_head_dim=(2, 4),
        norm_num_groups=8,
        use_linear_projection=family != "sd1",
        **(xl if family == "sdxl" else {}),
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction" if family == "sd2" else "epsilon",
        clip_sample=False,
        steps_offset=1,
    )
    common = {"unet": unet, "vae": vae, "scheduler": scheduler, "tokenizer": tokenizer}
    shutil.rmtree(folder, ignore_errors=True)
    if family == "sdxl":
        pipeline: Any = StableDiffusionXLPipeline(
            **common,
            tokenizer_2=tokenizer,
            text_encoder=CLIPTextModel(text_config()),
            text_encoder_2=CLIPTextModelWithProjection(text_config()),
        )
    else:
        pipeline = StableDiffusionPipeline(
            **common,
            text_encoder=CLIPTextModel(text_config()),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.save_pretrained(folder, safe_serialization=True)


def poison(folder: Path) -> None:
    """Make one weight of a pipeline's UNet no number, so that every loss is none."""
    from safetensors.torch import load_file, save_file

    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["conv_in.bias"][0] = float("nan")
    save_file(weights, path)
