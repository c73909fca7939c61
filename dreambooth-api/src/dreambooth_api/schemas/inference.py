"""The body of ``POST /inference`` and its answer; the bounds of a drawing stand here."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from enlight_common.errors import InvalidField
from enlight_common.ids import ID_PATTERN
from enlight_common.images import ImageBounds, decode_base64_image
from pydantic import BaseModel, ConfigDict, Field

from dreambooth_api.inference.picture import Recipe
from dreambooth_api.inference.request import MAX_SEED, MIN_SIDE, SIDE_STEP, DrawRequest, WeightedModel
from dreambooth_api.inference.schedulers import SAMPLERS, sampler_named

MAX_PROMPT = 4_000
MAX_PICTURES = 16
MAX_STEPS = 150
MAX_MODELS = 4
#: The base model bounds the area further; no side of what it may draw is longer than this.
MAX_SIDE = 4_096

#: A picture to start from is scaled down anyway: 16 megapixels are plenty, and 48 MB once decoded.
SOURCE_BOUNDS = ImageBounds(max_pixels=16_000_000)

PictureFormat = Literal["png", "jpeg", "webp"]
Prompt = Annotated[str, Field(max_length=MAX_PROMPT)]
Side = Annotated[int, Field(ge=MIN_SIDE, le=MAX_SIDE, multiple_of=SIDE_STEP)]
ModelId = Annotated[
    str, Field(pattern=rf"^{ID_PATTERN}(@{ID_PATTERN})?$", description="A stored model, or `id@version`")
]
Weight = Annotated[float, Field(ge=-2, le=2)]
Base64Image = Annotated[str, Field(min_length=1, json_schema_extra={"contentEncoding": "base64"})]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


class ModelChoice(_Strict):
    """One of several models to draw with."""

    model_id: ModelId
    weight: Weight = 1.0


class InferenceBody(_Strict):
    """What to draw. Only the prompt is required; without a model the base model draws."""

    prompt: Annotated[str, Field(min_length=1, max_length=MAX_PROMPT)]
    model_id: ModelId | None = None
    models: Annotated[list[ModelChoice], Field(min_length=1, max_length=MAX_MODELS)] | None = None
    size: Side | None = Field(None, description="Both sides in pixels; the base model's own where not given")
    width: Side | None = None
    height: Side | None = None
    num_image: int = Field(10, ge=1, le=MAX_PICTURES)
    negative_prompt: Prompt = ""
    num_inference_steps: int | None = Field(None, ge=1, le=MAX_STEPS)
    guidance_scale: float | None = Field(None, ge=0, le=30)
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="Picture i is drawn from seed + i")
    scheduler: str | None = Field(None, max_length=64, json_schema_extra={"enum": [*SAMPLERS, None]})
    lora_scale: Weight = Field(1.0, description="Multiplies the weights of all adapters")
    format: PictureFormat = "png"
    image: Base64Image | None = Field(None, description="Draw from this picture")
    mask: Base64Image | None = Field(None, description="As big as the image; white is redrawn")
    strength: float | None = Field(None, gt=0, le=1, description="1 leaves nothing of the image")
    preview_steps: int | None = Field(
        None,
        ge=1,
        le=MAX_STEPS,
        description="With `Accept: text/event-stream`: show each picture after every so many of its steps."
        " What plain diffusers draws (inpainting, whole fine-tunes, some samplers) is not shown before it is"
        " done",
    )

    def draw_request(self, tenant: str = "default") -> DrawRequest:
        """The request behind the body, its images decoded.

        Raises:
            InvalidField: fields that do not go together, an unknown scheduler, or an image out of bounds.
        """
        self._check_together()
        image = mask = None
        if self.image is not None:
            image = decode_base64_image(self.image, "image", SOURCE_BOUNDS)
        if self.mask is not None and image is not None:
            mask = decode_base64_image(self.mask, "mask", SOURCE_BOUNDS, mode="L")
            if mask.size != image.size:
                raise InvalidField("mask", "must have the image's width and height")
        return DrawRequest(
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            models=self._models(),
            num_image=self.num_image,
            steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            seed=self.seed,
            scheduler=self.scheduler,
            width=self.width or self.size,
            height=self.height or self.size,
            lora_scale=self.lora_scale,
            image=image,
            mask=mask,
            strength=self.strength,
            tenant=tenant,
        )

    def _check_together(self) -> None:
        if self.scheduler is not None:
            sampler_named(self.scheduler)
        if self.model_id is not None and self.models is not None:
            raise InvalidField("models", "cannot be given together with model_id")
        if self.models is not None and len({choice.model_id for choice in self.models}) < len(self.models):
            raise InvalidField("models", "must name each model once")
        if self.size is not None and (self.width is not None or self.height is not None):
            raise InvalidField("size", "cannot be given together with width or height")
        if self.seed is not None and self.seed + self.num_image - 1 > MAX_SEED:
            raise InvalidField("seed", f"plus num_image must be at most {MAX_SEED + 1}")
        for name in ("mask", "strength"):
            if getattr(self, name) is not None and self.image is None:
                raise InvalidField(name, "needs an image")

    def _models(self) -> tuple[WeightedModel, ...]:
        if self.model_id is not None:
            return (WeightedModel(self.model_id),)
        return tuple(WeightedModel(choice.model_id, choice.weight) for choice in self.models or [])


class UsedModel(BaseModel):
    """A model that took part, with the version that was drawn with."""

    model_id: str
    version: str
    method: Literal["lora", "full"]
    weight: float


class InferenceAnswer(BaseModel):
    """The pictures in the order of their seeds, and every setting that was used."""

    message: str
    images: list[str] = Field(description="base64, in the format asked for")
    seeds: list[int]
    format: str
    model: str | None = Field(description="The model drawn with; null for the base model or several models")
    models: list[UsedModel]
    base: str
    truncated_prompt: str | None = Field(description="What of the prompt did not fit the text encoder")
    seconds: float = Field(description="For how long the device drew them")
    settings: dict[str, Any]

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        *,
        images: list[str],
        picture_format: str,
        truncated_prompt: str | None,
        device_seconds: float,
    ) -> Self:
        """The answer for pictures that were made so."""
        drawing, uses = recipe.drawing, recipe.models
        return cls(
            message="Inference is done.",
            images=images,
            seeds=[drawing.seed + number for number in range(drawing.num_image)],
            format=picture_format,
            model=uses[0].model_id if len(uses) == 1 else None,
            models=[UsedModel(**vars(use)) for use in uses],
            base=recipe.base,
            truncated_prompt=truncated_prompt,
            seconds=round(device_seconds, 3),
            settings=recipe.settings,
        )
