"""The bodies of ``POST /v1/background-removals`` and ``/v1/upscales``, and the same as steps of a chain."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from enlight_common.errors import InvalidField
from enlight_common.ids import ID_PATTERN
from pydantic import Field

from main_api.schemas.strict import JobRequest, PictureSource, Strict

MAX_IMAGES = 16
Images = Annotated[list[PictureSource], Field(min_length=1, max_length=MAX_IMAGES)]
Level = Annotated[int, Field(ge=0, le=255)]


class _RemovalOptions(Strict):
    """bgrem's options, by its names."""

    model: Annotated[str, Field(pattern=rf"^{ID_PATTERN}$")] | None = None
    transparent: bool = Field(True, description="False: laid on white, or on `background`")
    background: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")] | None = None
    alpha_matting: bool | None = None
    alpha_matting_foreground_threshold: Level | None = None
    alpha_matting_background_threshold: Level | None = None
    alpha_matting_erode_size: int | None = Field(None, ge=0, le=100)
    only_mask: bool | None = None
    post_process_mask: bool | None = None
    precision: Literal["auto", "fp32", "bf16", "fp16"] | None = None
    format: Literal["png", "webp"] = "png"

    def removal_task(self) -> dict[str, Any]:
        """`path` below bgrem's URL, and the `body` to post there for each picture, without the picture."""
        names = set(_RemovalOptions.model_fields) - {"transparent"}
        body = self.model_dump(mode="json", exclude_none=True, include=names)
        return {"path": "/remove-opacity" if self.transparent else "/remove", "body": body}


class _UpscaleOptions(Strict):
    """upsampler's options (engine `sd` or `swin2sr`) and realesrgan's (engine `gan`)."""

    engine: Literal["gan", "sd", "swin2sr"] = "gan"
    model: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[!-~]+$")] | None = None
    resolution: int = Field(2048, ge=1024, le=16_384, description="Pixels of the longer side")
    prompt: Annotated[str, Field(max_length=4000)] | None = Field(None, description="For the engine sd")
    negative_prompt: Annotated[str, Field(max_length=4000)] | None = None
    num_inference_steps: int | None = Field(None, ge=1, le=150)
    noise_level: int | None = Field(None, ge=0, le=350)
    guidance_scale: float | None = Field(None, ge=0, le=30)
    seed: int | None = Field(None, ge=0, le=2**63 - 1)
    face_enhance: bool | None = Field(None, description="For the engine gan")
    denoise_strength: float | None = Field(None, ge=0, le=1, description="For the engine gan")
    tile: int | None = Field(None, ge=32, le=4096)
    tile_overlap: int | None = Field(None, ge=0, le=512, description="For the engines sd and swin2sr")
    within_5_mb: bool | None = Field(None, description="Keep the file within 5 MB; not for the engine gan")
    format: Literal["png", "jpeg", "webp"] = "png"

    def check_engine(self, path: str = "") -> None:
        """Raises InvalidField for options that the engine does not have."""
        gan = self.engine == "gan"
        foreign: tuple[str, ...] = _ONLY_SD if gan else _ONLY_GAN
        if self.engine == "swin2sr":
            foreign = (*_ONLY_GAN, *_ONLY_SD)
        for name in foreign:
            if getattr(self, name) is not None:
                raise InvalidField(f"{path}{name}", f"is not an option of the engine {self.engine}")
        if gan and self.resolution <= 1024:
            raise InvalidField(f"{path}resolution", "must be above 1024 for the engine gan")
        if not gan and self.resolution not in (1024, 2048):
            raise InvalidField(f"{path}resolution", "must be 1024 or 2048 for this engine")

    def upscale_task(self) -> dict[str, Any]:
        """Which `service` does it (`realesrgan` or `upsampler`), its `path`, the `body` without a picture."""
        names = set(_UpscaleOptions.model_fields) - {"engine", "model", "resolution", "within_5_mb"}
        body = self.model_dump(mode="json", exclude_none=True, include=names)
        if self.engine == "gan":
            body["out_resolution"] = self.resolution
            if self.model is not None:
                body["model_name"] = self.model
            return {"service": "realesrgan", "path": "/upsampler", "field": "input_string", "body": body}
        body |= {"engine": self.engine, "resolution": self.resolution}
        if self.within_5_mb:
            body["mblimit"] = "true"
        if self.model is not None:
            body["model"] = self.model
        return {"service": "upsampler", "path": "/upsampler", "field": "image", "body": body}


_ONLY_SD = ("prompt", "negative_prompt", "num_inference_steps", "noise_level", "guidance_scale", "seed")
_NOT_GAN = ("tile_overlap", "within_5_mb")
_ONLY_GAN = ("face_enhance", "denoise_strength")


class RemovalStep(_RemovalOptions):
    """Remove the background of every picture of the step before."""

    kind: Literal["background_removal"]


class UpscaleStep(_UpscaleOptions):
    """Enlarge every picture of the step before."""

    kind: Literal["upscale"]


FollowingStep = Annotated[RemovalStep | UpscaleStep, Field(discriminator="kind")]


class _ImagesRequest(JobRequest):
    image: PictureSource | None = None
    images: Images | None = None
    then: list[FollowingStep] = Field([], max_length=4)

    def sources(self) -> list[tuple[str, str]]:
        """(field, source) of each picture. Raises InvalidField unless one of the two fields is given."""
        if (self.image is None) == (self.images is None):
            raise InvalidField("image", "is required, or images in its place")
        if self.image is not None:
            return [("image", self.image)]
        return [(f"images[{index}]", one) for index, one in enumerate(self.images or [])]


class BackgroundRemovalBody(_ImagesRequest, _RemovalOptions):
    """Pictures, and how to cut their subject out."""


class UpscaleBody(_ImagesRequest, _UpscaleOptions):
    """Pictures, and how to enlarge them."""
