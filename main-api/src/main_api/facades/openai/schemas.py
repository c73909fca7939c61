"""The bodies and answers of OpenAI's images API."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from enlight_common.errors import InvalidField, UnknownModel
from enlight_common.ids import ID_PATTERN
from pydantic import BaseModel, Field

from main_api.schemas.generations import MAX_PROMPT
from main_api.schemas.strict import Strict

MAX_PICTURES = 10
_SIZE = re.compile(r"([1-9][0-9]{1,3})x([1-9][0-9]{1,3})")
_MODEL = re.compile(rf"{ID_PATTERN}(@{ID_PATTERN})?")
#: How base models are named.
_BASE = re.compile(rf"{ID_PATTERN}/{ID_PATTERN}")
#: OpenAI's own models, which clients name without having been asked: the base model draws.
_THEIRS = re.compile(r"(dall-e|gpt-image|chatgpt-image)[a-z0-9.-]*")

#: The fields here, by those of `GenerationBody`: what an error is about.
NAMES = {
    "num_images": "n",
    "width": "size",
    "height": "size",
    "format": "output_format",
    "model_id": "model",
}


class ImageOptions(Strict):
    """What both calls take. The fields behind `extra_body` are this service's own."""

    prompt: str = Field(min_length=1, max_length=MAX_PROMPT)
    model: Annotated[str, Field(min_length=1, max_length=129)] | None = Field(
        None, description="A trained model, or `id@version`; the base model where not given"
    )
    n: int | None = Field(None, ge=1, le=MAX_PICTURES)
    size: Annotated[str, Field(max_length=16)] | None = Field(None, description="`<width>x<height>`, or auto")
    response_format: Literal["url", "b64_json"] | None = Field(None, description="Both where not given")
    output_format: Literal["png", "jpeg", "webp"] | None = None
    background: Literal["transparent", "opaque", "auto"] | None = None
    user: Annotated[str, Field(max_length=512)] | None = None
    safety_identifier: Annotated[str, Field(max_length=512)] | None = None
    quality: Annotated[str, Field(max_length=32)] | None = Field(None, description="Ignored")
    style: Annotated[str, Field(max_length=32)] | None = Field(None, description="Ignored")
    moderation: Annotated[str, Field(max_length=32)] | None = Field(None, description="Ignored")
    input_fidelity: Annotated[str, Field(max_length=32)] | None = Field(None, description="Ignored")
    output_compression: int | None = Field(None, ge=0, le=100, description="Ignored")
    partial_images: int | None = Field(None, ge=0, le=3, description="Ignored")
    stream: bool | None = Field(None, description="Must not be true")
    negative_prompt: Annotated[str, Field(max_length=MAX_PROMPT)] | None = None
    num_inference_steps: int | None = Field(None, ge=1, le=150)
    guidance_scale: float | None = Field(None, ge=0, le=30)
    seed: int | None = Field(None, ge=0)
    scheduler: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    strength: float | None = Field(None, gt=0, le=1)

    def fields(self, base_models: frozenset[str]) -> dict[str, Any]:
        """The fields of the `GenerationBody` that it stands for. Raises InvalidField, UnknownModel."""
        if self.stream:
            raise InvalidField("stream", "is not offered here")
        fields: dict[str, Any] = {"prompt": self.prompt, "num_images": self.n or 1, **self._own()}
        if self.model is not None and self.model not in base_models and not _THEIRS.fullmatch(self.model):
            if not _MODEL.fullmatch(self.model):
                if _BASE.fullmatch(self.model):
                    raise UnknownModel("there is no model of this name")
                raise InvalidField("model", "must be a model's id, or `id@version`")
            fields["model_id"] = self.model
        if self.size is not None and self.size != "auto":
            match = _SIZE.fullmatch(self.size)
            if match is None:
                raise InvalidField("size", "must be `<width>x<height>` in pixels, or auto")
            fields |= {"width": int(match[1]), "height": int(match[2])}
        picture_format = self.output_format or "png"
        if self.background == "transparent":
            if picture_format == "jpeg":
                raise InvalidField("output_format", "must be png or webp for a transparent background")
            step = {"kind": "background_removal", "transparent": True, "format": picture_format}
            # What is cut out is drawn without loss first.
            return {**fields, "format": "png", "then": [step], **self._metadata()}
        return {**fields, "format": picture_format, **self._metadata()}

    def _own(self) -> dict[str, Any]:
        names = {"negative_prompt", "num_inference_steps", "guidance_scale", "seed", "scheduler", "strength"}
        return self.model_dump(exclude_none=True, include=names)

    def _metadata(self) -> dict[str, Any]:
        user = self.safety_identifier or self.user
        return {"metadata": {"user": user}} if user else {}


class ImageGenerationBody(ImageOptions):
    """What to draw."""


class ImageEditBody(ImageOptions):
    """How to draw a picture anew; the pictures are parts of the form."""


class ShownImage(BaseModel):
    url: str | None = None
    b64_json: str | None = None


class ImagesAnswer(BaseModel):
    """OpenAI's ImagesResponse."""

    created: int
    data: list[ShownImage]
    background: Literal["transparent", "opaque"]
    output_format: str
    size: str | None


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """Every error, as OpenAI's clients read it."""

    error: ErrorDetail
