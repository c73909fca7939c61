"""The body of ``POST /v1/generations``, and what becomes of it: the fields of ``POST /inference``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from enlight_common.errors import InvalidField
from enlight_common.ids import ID_PATTERN
from pydantic import Field

from main_api.schemas.images import FollowingStep
from main_api.schemas.strict import JobRequest, PictureSource, Strict

MAX_PICTURES = 16
MAX_PROMPT = 4000
MAX_SEED = 2**63 - 1
MAX_STEPS_AFTER = 4

Side = Annotated[int, Field(ge=64, le=4096, multiple_of=8)]
PinnedModel = Annotated[str, Field(pattern=rf"^{ID_PATTERN}(@{ID_PATTERN})?$")]
Weight = Annotated[float, Field(ge=-2, le=2)]


class ModelChoice(Strict):
    """One of several models to draw with."""

    model_id: PinnedModel
    weight: Weight = 1.0


class GenerationBody(JobRequest):
    """What to draw. Only the prompt is required; without a model the base model draws."""

    prompt: str = Field(min_length=1, max_length=MAX_PROMPT)
    model_id: PinnedModel | None = Field(None, description="A trained model, or `id@version`")
    models: Annotated[list[ModelChoice], Field(min_length=1, max_length=4)] | None = None
    num_images: int = Field(1, ge=1, le=MAX_PICTURES)
    size: Side | None = Field(None, description="Both sides in pixels; the base model's own where not given")
    width: Side | None = None
    height: Side | None = None
    negative_prompt: str = Field("", max_length=MAX_PROMPT)
    num_inference_steps: int | None = Field(None, ge=1, le=150)
    guidance_scale: float | None = Field(None, ge=0, le=30)
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="Picture i is drawn from seed + i")
    scheduler: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    lora_scale: Weight = 1.0
    format: Literal["png", "jpeg", "webp"] = "png"
    image: PictureSource | None = Field(None, description="Draw from this picture")
    mask: PictureSource | None = Field(None, description="As big as the image; white is redrawn")
    strength: float | None = Field(None, gt=0, le=1, description="1 leaves nothing of the image")
    then: list[FollowingStep] = Field(
        [], max_length=MAX_STEPS_AFTER, description="What to do with the pictures, one step after the other"
    )

    def check_together(self) -> None:
        """Raises InvalidField for fields that do not go together."""
        if self.model_id is not None and self.models is not None:
            raise InvalidField("models", "cannot be given together with model_id")
        if self.models is not None and len({one.model_id for one in self.models}) < len(self.models):
            raise InvalidField("models", "must name each model once")
        if self.size is not None and (self.width is not None or self.height is not None):
            raise InvalidField("size", "cannot be given together with width or height")
        if self.seed is not None and self.seed + self.num_images - 1 > MAX_SEED:
            raise InvalidField("seed", f"plus num_images must be at most {MAX_SEED + 1}")
        for name in ("mask", "strength"):
            if getattr(self, name) is not None and self.image is None:
                raise InvalidField(name, "needs an image")

    @property
    def named_models(self) -> list[str]:
        """The trained models it draws with, each `id` or `id@version`."""
        if self.model_id is not None:
            return [self.model_id]
        return [one.model_id for one in self.models or []]

    def task(self) -> dict[str, Any]:
        """The body of ``POST /inference`` without its pictures."""
        work = self.work()
        for name in ("image", "mask"):
            work.pop(name, None)
        work["num_image"] = work.pop("num_images")
        return work
