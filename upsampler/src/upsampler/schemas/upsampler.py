"""The body of ``POST /upsampler`` and its answer; the bounds of a request stand here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from enlight_common.errors import InvalidField
from enlight_common.images import ImageBounds, OutputFormat, decode_base64_image
from enlight_common.schemas.flag import Flag
from enlight_common.schemas.strict import Strict
from PIL import Image
from pydantic import AfterValidator, BaseModel, Field

from upsampler.models import EngineName
from upsampler.request import MAX_SEED, UpscaleRequest

RESOLUTIONS = (1024, 2048)
MAX_PROMPT = 4_000
MAX_STEPS = 150
MAX_NOISE_LEVEL = 350
MAX_MODEL_NAME = 128

#: Pictures of the largest resolution and more are reduced: 16 megapixels are plenty, and 64 MB once decoded.
IMAGE_BOUNDS = ImageBounds(max_pixels=16_000_000)

#: What only the engine `sd` has a use for. A prompt is taken along, for the clients that always send one.
_ONLY_SD = ("negative_prompt", "num_inference_steps", "noise_level", "guidance_scale", "seed")


def _offered(value: int) -> int:
    if value not in RESOLUTIONS:
        raise ValueError("must be 1024 or 2048")
    return value


Prompt = Annotated[str, Field(max_length=MAX_PROMPT)]


class UpscaleBody(Strict):
    """What to enlarge and how. Only the image is required; what is left out, the model decides."""

    image: str = Field(
        min_length=1,
        description="An image file in base64, upright as its EXIF data says, transparency laid on white",
        json_schema_extra={"contentEncoding": "base64"},
    )
    prompt: Prompt = Field("", description="What the picture shows; used by the engine `sd`")
    resolution: Annotated[int, AfterValidator(_offered)] = Field(
        1024, description="Pixels of the longer side", json_schema_extra={"enum": list(RESOLUTIONS)}
    )
    mblimit: Flag = Field("false", description="Keep the file within 5 MB")
    engine: EngineName = "sd"
    model: str | None = Field(None, min_length=1, max_length=MAX_MODEL_NAME, description="See `GET /models`")
    negative_prompt: Prompt | None = None
    num_inference_steps: int | None = Field(None, ge=1, le=MAX_STEPS)
    noise_level: int | None = Field(
        None, ge=0, le=MAX_NOISE_LEVEL, description="How much may be drawn anew: noise added to the picture"
    )
    guidance_scale: float | None = Field(None, ge=0, le=30)
    seed: int | None = Field(None, ge=0, le=MAX_SEED)
    tile: int | None = Field(
        None,
        ge=32,
        le=1024,
        description="Pixels of the picture that are enlarged at once, in each direction, MAX_TILE at most",
    )
    tile_overlap: int | None = Field(None, ge=0, le=512, description="Half a tile at most")
    format: OutputFormat = "png"

    @property
    def limited(self) -> bool:
        """Whether the file has to stay within 5 MB."""
        return self.mblimit == "true"

    def check_together(self) -> None:
        """Raises InvalidField for fields that do not go together."""
        if self.engine != "sd":
            for name in _ONLY_SD:
                if getattr(self, name) is not None:
                    raise InvalidField(name, "needs the engine sd")
        if self.tile_overlap is not None and self.tile is None:
            raise InvalidField("tile_overlap", "needs a tile")
        if self.tile is not None and 2 * (self.tile_overlap or 0) > self.tile:
            raise InvalidField("tile_overlap", "must be at most half the tile")

    def request(self) -> UpscaleRequest:
        """The request behind the body, its image decoded. Raises InvalidField."""
        self.check_together()
        image = decode_base64_image(self.image, "image", IMAGE_BOUNDS)
        # No picture is enlarged to more than this; while it waits it takes 16 MB at most, 4 bytes a pixel.
        image.thumbnail((self.resolution, self.resolution), Image.Resampling.LANCZOS)
        return UpscaleRequest(
            image=image,
            resolution=self.resolution,
            prompt=self.prompt,
            negative_prompt=self.negative_prompt or "",
            steps=self.num_inference_steps,
            noise_level=self.noise_level,
            guidance_scale=self.guidance_scale,
            seed=self.seed,
            tile=self.tile,
            overlap=self.tile_overlap,
        )


class UpscaleAnswer(BaseModel):
    """The picture and every setting that was used."""

    status: Literal["true"] = "true"
    image: str = Field(description="base64, in `format`")
    format: str = Field(description="As asked for, or JPEG where only that stayed within 5 MB")
    quality: int | None = Field(description="Of JPEG or WebP, where 5 MB had to be kept")
    width: int
    height: int
    engine: EngineName
    model: str
    passes: int = Field(description="How often the network was run over the picture; Lanczos did the rest")
    settings: dict[str, Any]


class Model(BaseModel):
    """An upscaler that may be asked for."""

    name: str
    engine: EngineName
    default: bool
    loaded: bool


class Models(BaseModel):
    """All of them."""

    models: list[Model]
