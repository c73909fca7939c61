"""Every knob of a training, in one place: name, bound, unit, default and the reason for it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from PIL.Image import Image
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from dreambooth_api.models.bases import TINY
from dreambooth_api.models.bases import BaseModel as Base

#: DreamBooth works with 3 to 5 photos; more than this is a data set, and none of it is cropped for it.
MAX_PHOTOS = 64
MAX_PROMPT = 1000  # characters; the text encoders see 77 tokens of it


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain a NUL character")
    return text


Prompt = Annotated[str, Field(min_length=1, max_length=MAX_PROMPT), AfterValidator(_no_nul)]

_FROZEN = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _unit(unit: str) -> Any:
    return {"unit": unit}


class PriorPreservation(BaseModel):
    """Keep what the base model knows of the subject's class, by training on its own pictures of it too."""

    model_config = _FROZEN

    class_prompt: Prompt = Field(
        description="What the subject is one of, without its name: `a shoe` beside `a sks shoe`",
        json_schema_extra=_unit("text"),
    )
    num_class_images: int = Field(
        100,
        ge=1,
        le=1000,
        description="Pictures of the class that the base model draws once; the paper's 200 per subject"
        " photo are hardly better than 100 in all",
        json_schema_extra=_unit("pictures"),
    )
    weight: float = Field(
        1.0,
        ge=0.0,
        le=10.0,
        description="How much the class pictures' loss counts beside the photos'; 1 is the DreamBooth"
        " paper's",
        json_schema_extra=_unit("factor"),
    )


class TrainingOptions(BaseModel):
    """What may be asked of a training. None stands for the base model's own value, see `resolved`."""

    model_config = _FROZEN

    instance_prompt: Prompt = Field(
        description="Names the subject by a rare word and its class, as `a sks shoe`; the caption of each"
        " photo that has none of its own",
        json_schema_extra=_unit("text"),
    )
    base_model: str = Field(
        TINY,
        min_length=1,
        max_length=200,
        description="A name that the base-model registry knows",
        json_schema_extra=_unit("name"),
    )
    method: Literal["lora", "full"] = Field(
        "lora",
        description="`lora` trains a few MB beside the frozen weights, `full` all of the UNet",
        json_schema_extra=_unit("choice"),
    )
    steps: int = Field(
        400,
        ge=1,
        le=20_000,
        description="Optimizer steps; 400 is about 80 for each of five photos",
        json_schema_extra=_unit("steps"),
    )
    learning_rate: float | None = Field(
        None,
        gt=0.0,
        le=1.0,
        description="AdamW's, after the warm-up; by default one that the base model learns well with by"
        " this method",
        json_schema_extra=_unit("per step"),
    )
    lr_scheduler: Literal["constant", "linear", "cosine", "cosine_with_restarts", "polynomial"] = Field(
        "constant",
        description="How the learning rate goes on after the warm-up; a few hundred steps need no decay",
        json_schema_extra=_unit("choice"),
    )
    lr_warmup_steps: int = Field(
        0,
        ge=0,
        le=10_000,
        description="Steps in which the learning rate rises from 0 in a line",
        json_schema_extra=_unit("steps"),
    )
    batch_size: int = Field(
        1,
        ge=1,
        le=64,
        description="Photos in one forward pass; 1 fits where nothing else does. Prior preservation adds"
        " as many class pictures",
        json_schema_extra=_unit("photos"),
    )
    gradient_accumulation_steps: int = Field(
        1,
        ge=1,
        le=64,
        description="Forward passes for each optimizer step: a larger batch for time instead of memory",
        json_schema_extra=_unit("passes"),
    )
    resolution: int | None = Field(
        None,
        ge=64,
        le=1536,
        multiple_of=8,
        description="Side of the square that photos are cropped to; by default what the base model was"
        " trained for",
        json_schema_extra=_unit("pixels"),
    )
    random_crop: bool = Field(
        False,
        description="Crop another part of the photo each time instead of its middle; latents are then not"
        " kept",
        json_schema_extra=_unit("yes or no"),
    )
    random_flip: bool = Field(
        False,
        description="Mirror half of the photos; off because subjects with writing or a left and a right"
        " suffer",
        json_schema_extra=_unit("yes or no"),
    )
    rank: int = Field(
        8,
        ge=1,
        le=256,
        description="Of the LoRA matrices; 4 to 16 hold one subject",
        json_schema_extra=_unit("dimensions"),
    )
    alpha: float | None = Field(
        None,
        gt=0.0,
        le=1024.0,
        description="LoRA's output is scaled by alpha / rank; by default alpha is the rank",
        json_schema_extra=_unit("factor"),
    )
    lora_targets: Literal["attention", "attention+feedforward", "all"] = Field(
        "attention",
        description="Layers of the UNet that get a LoRA: the attention projections, also the feed-forward"
        " layers, or also the convolutions",
        json_schema_extra=_unit("choice"),
    )
    train_text_encoder: bool = Field(
        False,
        description="Train the text encoder too, by the same method; learns faces better, forgets faster",
        json_schema_extra=_unit("yes or no"),
    )
    captions: tuple[Prompt, ...] | None = Field(
        None,
        max_length=MAX_PHOTOS,
        description="One for each photo, in their order, instead of the instance prompt",
        json_schema_extra=_unit("texts"),
    )
    prior_preservation: PriorPreservation | None = Field(
        None,
        description="Class pictures to train on beside the photos; costs as much time again",
        json_schema_extra=_unit("options"),
    )
    snr_gamma: float | None = Field(
        None,
        gt=0.0,
        le=100.0,
        description="Min-SNR weighting (arXiv:2303.09556), whose authors use 5; without it all noise"
        " levels count alike",
        json_schema_extra=_unit("signal-to-noise ratio"),
    )
    max_grad_norm: float = Field(
        1.0,
        gt=0.0,
        le=1000.0,
        description="Gradients longer than this are shortened to it, so that one odd step does no harm",
        json_schema_extra=_unit("norm"),
    )
    weight_decay: float = Field(
        0.01,
        ge=0.0,
        le=1.0,
        description="AdamW's; diffusers' recipes use 0.01",
        json_schema_extra=_unit("factor"),
    )
    mixed_precision: Literal["auto", "no", "fp16", "bf16"] = Field(
        "auto",
        description="`auto` is bf16 on a GPU that has it, else fp16 on a GPU, and none on the CPU, where"
        " it is slower; what is trained stays in fp32",
        json_schema_extra=_unit("choice"),
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Compute activations twice to hold fewer: about a third slower, and SDXL fits 24 GB",
        json_schema_extra=_unit("yes or no"),
    )
    seed: int = Field(
        0,
        ge=0,
        le=2**63 - 1,
        description="Of every random draw: same seed, same weights",
        json_schema_extra=_unit("number"),
    )
    checkpoint_interval: int = Field(
        100,
        ge=1,
        le=20_000,
        description="Steps after which the run is saved, so that at most as many are lost when it is killed",
        json_schema_extra=_unit("steps"),
    )
    validation_prompt: Prompt | None = Field(
        None,
        description="Drawn every `validation_interval` steps, to look at while it trains",
        json_schema_extra=_unit("text"),
    )
    validation_interval: int = Field(
        100,
        ge=1,
        le=20_000,
        description="Steps between two validation pictures; each costs about 20 forward passes",
        json_schema_extra=_unit("steps"),
    )

    def resolved(self, base: Base) -> TrainingOptions:
        """The same with every None that stands for the base model's value filled in, and aliases followed."""
        return self.model_copy(
            update={
                "base_model": base.name,
                "learning_rate": self.learning_rate or base.learning_rate[self.method],
                "resolution": self.resolution or base.resolution,
                "alpha": self.alpha or float(self.rank),
            }
        )


def identity(tenant: str, model_id: str, options: TrainingOptions, photos: Sequence[Image]) -> str:
    """64 hexadecimal digits that are equal for equal requests only: a run that was cut short is found by
    them.

    `options` are those of the request, or its resolved ones; the photos count by their pixels and order.
    """
    digest = hashlib.sha256()
    for text in (tenant, model_id, options.model_dump_json()):
        digest.update(f"{len(text)}:{text}".encode())
    for photo in photos:
        digest.update(f"{photo.mode}{photo.size}".encode())
        digest.update(photo.tobytes())
    return digest.hexdigest()
