"""The body of ``POST /upsampler`` and its answer; the bounds of an enlargement stand here."""

from __future__ import annotations

from typing import Annotated, Literal

from enlight_common.images import ImageBounds, OutputFormat, decode_base64_image
from enlight_common.schemas.strict import Strict
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from realesrgan_service.models.catalog import DEFAULT
from realesrgan_service.upscaling.tiles import LEAST_TILE

#: out_resolution is above this: the kept bound of the API.
NOT_ABOVE = 1024
MAX_TILE = 4096
BOUNDS = ImageBounds(max_pixels=40_000_000)

Base64Image = Annotated[str, Field(min_length=1, json_schema_extra={"contentEncoding": "base64"})]


class UpscaleBody(Strict):
    """What to enlarge, and how far."""

    input_string: Base64Image = Field(description="An image file in base64, upright as its EXIF data says")
    model_name: str = Field(DEFAULT, min_length=1, max_length=64, description="One of GET /models")
    out_resolution: int = Field(
        gt=NOT_ABOVE, le=16_384, description="The longer side, in pixels; MAX_RESOLUTION may be less"
    )
    face_enhance: bool = Field(False, description="Restore faces with GFPGAN, where its weights are")
    denoise_strength: float | None = Field(
        None,
        ge=0,
        le=1,
        description="For realesr-general-x4v3: 1 removes the noise, 0 keeps it. Other models take no notice",
    )
    tile: int = Field(
        0,
        ge=0,
        le=MAX_TILE,
        description=f"Side of a tile in pixels of the network's input, from {LEAST_TILE} to TILE; 0: TILE",
    )
    format: OutputFormat = "png"

    def picture(self) -> Image.Image:
        """The picture: RGB, or RGBA where anything of it is transparent. Raises InvalidField."""
        image = decode_base64_image(self.input_string, "input_string", BOUNDS, mode="RGBA")
        lowest = image.getchannel("A").getextrema()[0]
        return image.convert("RGB") if lowest == 255 else image


class UpscaleAnswer(BaseModel):
    """The picture, and how it was made."""

    model_config = ConfigDict(protected_namespaces=())

    status: Literal["true"] = "true"
    image: str = Field(description="base64, in the format asked for")
    format: str
    width: int
    height: int
    model_name: str
    passes: int = Field(description="How often the network was run over the whole picture")
    tiles: int
    precision: str
    seconds: float = Field(description="Of computing, the wait before it not counted")
    faces: int | None = Field(description="Restored ones; null where face_enhance was not asked for")
    notes: list[str] = Field(description="What of the request had no effect")


class ListedModel(BaseModel):
    """An upscaler that may be asked for."""

    name: str
    aliases: list[str]
    here: bool = Field(description="False: it is fetched when it is first asked for")
    bytes: int | None = None
    format: str | None = None
    loaded: bool = False
    scale: int | None = Field(None, description="Known once it was loaded")
    precision: str | None = None
    engine: str | None = None


class ModelList(BaseModel):
    """Every upscaler."""

    default: str
    models: list[ListedModel]
