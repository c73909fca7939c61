"""The body of ``POST /v1/trainings``, and the fields of dreambooth-api's ``POST /train`` it becomes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from enlight_common.errors import InvalidField
from pydantic import AfterValidator, Field

from main_api.schemas.strict import JobRequest, ModelId, PictureSource, RecordId

MAX_PHOTOS = 64


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain a NUL character")
    return text


Prompt = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_no_nul)]

#: Where `POST /train` has another name than this field's own in capitals.
TRAIN_NAMES = {
    "model_id": "OUTPUT_DIR",
    "base_model": "MODEL_NAME",
    "steps": "MAX_TRAINING_STEPS",
    "batch_size": "TRAIN_BATCH_SIZE",
    "learning_rate": "LR",
    "captions": "CAPTION_LIST",
}
NOT_SENT = frozenset({"photos", "photo_set"})


class TrainingBody(JobRequest):
    """Photos of a subject and how to learn it. What is left out, the base model and the trainer decide."""

    model_id: ModelId = Field(description="The model's name; training it again makes a new version")
    instance_prompt: Prompt = Field(description="A rare word and what kind of thing it is: `a sks shoe`")
    photos: Annotated[list[PictureSource], Field(min_length=1, max_length=MAX_PHOTOS)] | None = None
    photo_set: RecordId | None = Field(None, description="Instead of `photos`")
    captions: Annotated[list[Prompt], Field(min_length=1, max_length=MAX_PHOTOS)] | None = Field(
        None, description="One for each photo, in their order"
    )
    base_model: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    method: Literal["lora", "full"] = "lora"
    steps: int | None = Field(None, ge=1, le=20_000)
    learning_rate: float | None = Field(None, gt=0, le=1)
    lr_scheduler: Literal["constant", "linear", "cosine", "cosine_with_restarts", "polynomial"] | None = None
    lr_warmup_steps: int | None = Field(None, ge=0, le=10_000)
    batch_size: int | None = Field(None, ge=1, le=64)
    gradient_accumulation_steps: int | None = Field(None, ge=1, le=64)
    resolution: int | None = Field(None, ge=64, le=1536, multiple_of=8)
    random_crop: bool | None = None
    random_flip: bool | None = None
    rank: int | None = Field(None, ge=1, le=256)
    alpha: float | None = Field(None, gt=0, le=1024)
    lora_targets: Literal["attention", "attention+feedforward", "all"] | None = None
    train_text_encoder: bool | None = None
    class_prompt: Prompt | None = Field(None, description="Prior preservation: what the subject is one of")
    num_class_images: int | None = Field(None, ge=1, le=1000)
    prior_loss_weight: float | None = Field(None, ge=0, le=10)
    snr_gamma: float | None = Field(None, gt=0, le=100)
    max_grad_norm: float | None = Field(None, gt=0, le=1000)
    weight_decay: float | None = Field(None, ge=0, le=1)
    mixed_precision: Literal["auto", "no", "fp16", "bf16"] | None = None
    gradient_checkpointing: bool | None = None
    seed: int | None = Field(None, ge=0, le=2**63 - 1)
    checkpoint_interval: int | None = Field(None, ge=1, le=20_000)
    validation_prompt: Prompt | None = None
    validation_interval: int | None = Field(None, ge=1, le=20_000)

    def check_together(self) -> None:
        """Raises InvalidField for fields that do not go together."""
        if (self.photos is None) == (self.photo_set is None):
            raise InvalidField("photos", "is required, or photo_set in its place")
        if self.captions is not None and self.photos is not None and len(self.captions) != len(self.photos):
            raise InvalidField("captions", "must have one caption for each of the photos")
        if self.class_prompt is None and (self.num_class_images or self.prior_loss_weight) is not None:
            raise InvalidField("class_prompt", "is required with num_class_images or prior_loss_weight")

    def task(self) -> dict[str, Any]:
        """The body of ``POST /train`` without its photos."""
        return {
            TRAIN_NAMES.get(name, name.upper()): value
            for name, value in self.work().items()
            if name not in NOT_SENT
        }
