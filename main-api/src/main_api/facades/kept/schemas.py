"""The bodies of the kept calls, and the jobs' bodies that they stand for."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from enlight_common.errors import InvalidField
from enlight_common.web import Problem
from pydantic import BaseModel, BeforeValidator, Field, create_model

from main_api.schemas.generations import MAX_PICTURES, GenerationBody
from main_api.schemas.images import MAX_IMAGES, BackgroundRemovalBody
from main_api.schemas.strict import JobRequest, PictureSource, Strict
from main_api.schemas.trainings import MAX_PHOTOS, NOT_SENT, TRAIN_NAMES, TrainingBody

_IGNORED = "Accepted because existing clients send it, and ignored"
Port = Annotated[int, Field(ge=0, le=65535)]


class KeptTrain(Strict):
    """What `KeptTrainBody` does; its other fields are made from those of `TrainingBody`."""

    IMAGE_LIST: Annotated[list[PictureSource], Field(min_length=1, max_length=MAX_PHOTOS)]
    MAIN_PROCESS_PORT: Port | None = Field(None, description=_IGNORED)
    MAIN_PROCESS_POR: Port | None = Field(None, description=_IGNORED)

    def fields(self) -> dict[str, Any]:
        """The fields of the `TrainingBody` that it stands for."""
        fields = {
            name: value
            for name in _trained()
            if (value := getattr(self, TRAIN_NAMES.get(name, name.upper()), None)) is not None
        }
        # Clients that name LR without METHOD are older than LoRA here, and mean a full fine-tune's rate.
        fields.setdefault("method", "full" if "learning_rate" in fields else "lora")
        return {**fields, "photos": self.IMAGE_LIST}


def _trained() -> list[str]:
    return [
        name
        for name in TrainingBody.model_fields
        if name not in JobRequest.model_fields and name not in NOT_SENT
    ]


def _train_fields() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in _trained():
        field = TrainingBody.model_fields[name]
        annotation: Any = field.annotation
        for bound in field.metadata:
            annotation = Annotated[annotation, bound]
        required = field.is_required()
        found[TRAIN_NAMES.get(name, name.upper())] = (
            annotation if required else annotation | None,
            Field(... if required else None, description=field.description),
        )
    return found


KeptTrainBody: type[KeptTrain] = create_model("KeptTrainBody", __base__=KeptTrain, **_train_fields())
KeptTrainBody.__doc__ = "Photos of a subject and how to learn it. Unknown keys are refused."


class KeptTrainAnswer(BaseModel):
    """The model is stored."""

    message: str
    model_id: str
    version: str
    method: str | None
    learning_rate: float | None
    steps: int | None
    base: str | None
    run_id: str


def _without_job(model: type[BaseModel], *left_out: str) -> dict[str, Any]:
    """The fields of a job's body that are about the work alone."""
    names = set(model.model_fields) - set(JobRequest.model_fields) - {"then", *left_out}
    return {name: (field.annotation, field) for name, field in model.model_fields.items() if name in names}


class KeptDraw(Strict):
    """What `KeptInferenceBody` does."""

    num_image: int = Field(10, ge=1, le=MAX_PICTURES)

    def fields(self) -> dict[str, Any]:
        """The fields of the `GenerationBody` that it stands for."""
        fields = self.model_dump(mode="json", exclude_none=True, exclude_unset=True, exclude={"num_image"})
        return {**fields, "num_images": self.num_image}


KeptInferenceBody: type[KeptDraw] = create_model(
    "KeptInferenceBody", __base__=KeptDraw, **_without_job(GenerationBody, "num_images")
)
KeptInferenceBody.__doc__ = "What to draw. Only the prompt is required."


class KeptInferenceAnswer(BaseModel):
    """The pictures in the order of their seeds."""

    message: str
    images: list[str] = Field(description="base64, in the format asked for")
    seeds: list[int | None]
    format: str
    model: str | None
    settings: dict[str, Any]


class KeptRemove(Strict):
    """What `KeptRemoveBody` does."""

    input_image: PictureSource | None = Field(None, description="A picture; answered as `output_image`")
    input_images: Annotated[list[PictureSource], Field(min_length=1, max_length=MAX_IMAGES)] | None = Field(
        None, description="Several; answered as `output_images` in their order"
    )

    def fields(self, *, transparent: bool) -> dict[str, Any]:
        """The fields of the `BackgroundRemovalBody` that it stands for. Raises InvalidField."""
        if self.input_images is not None and self.input_image is not None:
            raise InvalidField("input_images", "cannot be given together with input_image")
        if self.input_images is None and self.input_image is None:
            raise InvalidField("input_image", "is required")
        fields = self.model_dump(
            mode="json", exclude_none=True, exclude_unset=True, exclude={"input_image", "input_images"}
        )
        images = [self.input_image] if self.input_image is not None else self.input_images
        return {**fields, "images": images, "transparent": transparent}


KeptRemoveBody: type[KeptRemove] = create_model(
    "KeptRemoveBody",
    __base__=KeptRemove,
    **_without_job(BackgroundRemovalBody, "image", "images", "transparent"),
)
KeptRemoveBody.__doc__ = "One picture or several, and how to cut them out."


class KeptRemoveAnswer(BaseModel):
    """The picture that was sent alone, or those that were sent together."""

    output_image: str | None = None
    output_images: list[str] | None = None
    format: str


def _in_words(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value


class KeptUpscaleBody(Strict):
    """`image` is enlarged as the upsampler does it, `input_string` as realesrgan does; one of the two."""

    image: PictureSource | None = None
    input_string: PictureSource | None = None
    # upsampler's
    prompt: Annotated[str, Field(max_length=4000)] | None = None
    resolution: Literal[1024, 2048] | None = None
    mblimit: Annotated[Literal["true", "false"], BeforeValidator(_in_words)] | None = Field(
        None, description="Keep the file within 5 MB"
    )
    engine: Literal["sd", "swin2sr"] | None = None
    model: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    negative_prompt: Annotated[str, Field(max_length=4000)] | None = None
    num_inference_steps: int | None = Field(None, ge=1, le=150)
    noise_level: int | None = Field(None, ge=0, le=350)
    guidance_scale: float | None = Field(None, ge=0, le=30)
    seed: int | None = Field(None, ge=0, le=2**63 - 1)
    tile_overlap: int | None = Field(None, ge=0, le=512)
    # realesrgan's
    model_name: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    out_resolution: int | None = Field(None, gt=1024, le=16_384)
    face_enhance: bool | None = None
    denoise_strength: float | None = Field(None, ge=0, le=1)
    # both
    tile: int | None = Field(None, ge=0, le=4096)
    format: Literal["png", "jpeg", "webp"] = "png"

    def fields(self) -> dict[str, Any]:
        """The fields of the `UpscaleBody` that it stands for. Raises InvalidField."""
        if (self.image is None) == (self.input_string is None):
            raise InvalidField("image", "is required, or input_string in its place, and not both")
        ours, foreign = (_SD, _GAN) if self.image is not None else (_GAN, _SD)
        for name in foreign:
            if getattr(self, name) is not None:
                other = "image" if self.image is not None else "input_string"
                raise InvalidField(name, f"does not go with {other}")
        named = {ours[name]: value for name in ours if (value := getattr(self, name)) is not None}
        if self.tile:
            named["tile"] = self.tile
        named["format"] = self.format
        if self.image is not None:
            limited = named.pop("mblimit", "false") == "true"
            if limited:
                named["within_5_mb"] = True
            if named.get("engine") == "swin2sr":
                named.pop("prompt", None)  # taken along, for the clients that always send one
            return {"engine": "sd", "resolution": 1024, **named, "image": self.image}
        if self.out_resolution is None:
            raise InvalidField("out_resolution", "is required")
        return {"engine": "gan", **named, "image": self.input_string}


#: Names of the two services' options, and those of `UpscaleBody`.
_SD = {
    name: name
    for name in (
        "prompt",
        "resolution",
        "mblimit",
        "engine",
        "model",
        "negative_prompt",
        "num_inference_steps",
        "noise_level",
        "guidance_scale",
        "seed",
        "tile_overlap",
    )
}
_GAN = {
    "model_name": "model",
    "out_resolution": "resolution",
    "face_enhance": "face_enhance",
    "denoise_strength": "denoise_strength",
}


class KeptUpscaleAnswer(BaseModel):
    """The picture."""

    status: Literal["true"] = "true"
    image: str = Field(description="base64")
    format: str
    width: int | None
    height: int | None


class KeptProblem(Problem):
    """A problem document whose `status` is the text that old clients look for."""

    status: Literal["false"]  # type: ignore[assignment]


class KeptGreeting(BaseModel):
    """Who answers."""

    message: str
    hostname: str
