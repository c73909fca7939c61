"""The body of ``POST /remove`` and ``/remove-opacity``, and its answer."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from enlight_common.errors import InvalidField
from enlight_common.ids import ID_PATTERN
from enlight_common.images import ImageBounds, decode_base64_image
from enlight_common.schemas.strict import Strict
from pydantic import BaseModel, Field

from bgrem.models import Models
from bgrem.request import Background, CutOptions, Matting
from bgrem.runtimes import Wanted

MAX_IMAGES = 16
#: Pixels of all pictures of a request together are bounded by so many times the bound of one.
MAX_TIMES_PIXELS = 2

_COLOUR = re.compile("#[0-9a-fA-F]{6}")
_WHITE = (255, 255, 255)

Base64Image = Annotated[str, Field(min_length=1, json_schema_extra={"contentEncoding": "base64"})]
Level = Annotated[int, Field(ge=0, le=255)]


class RemoveBody(Strict):
    """One picture or several, and how to cut them out."""

    input_image: Base64Image | None = Field(None, description="A picture; answered as `output_image`")
    input_images: Annotated[list[Base64Image], Field(min_length=1, max_length=MAX_IMAGES)] | None = Field(
        None, description="Several; answered as `output_images` in their order"
    )
    model: Annotated[str, Field(pattern=rf"^{ID_PATTERN}$")] | None = Field(
        None, description="One of GET /models; the service's default where not given"
    )
    background: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="`#rrggbb`, `transparent`, or a picture in base64, scaled and cropped to fill"
    )
    alpha_matting: bool = Field(
        False, description="Solve for hair and fur; of pictures up to 2 megapixels together"
    )
    alpha_matting_foreground_threshold: Level = 240
    alpha_matting_background_threshold: Level = 10
    alpha_matting_erode_size: int = Field(10, ge=0, le=100, description="In pixels")
    only_mask: bool = Field(False, description="Answer with the mask, white where the subject is")
    post_process_mask: bool = Field(False, description="Smooth the mask and leave it black and white")
    precision: Wanted = Field(
        "auto", description="auto: the fastest of this machine that is right for the model"
    )
    format: Literal["png", "webp"] = "png"

    @property
    def images(self) -> list[tuple[str, str]]:
        """(field, base64) of each picture. Raises InvalidField unless one of the two fields is given."""
        if self.input_images is not None:
            if self.input_image is not None:
                raise InvalidField("input_images", "cannot be given together with input_image")
            return [(f"input_images[{index}]", text) for index, text in enumerate(self.input_images)]
        if self.input_image is None:
            raise InvalidField("input_image", "is required")
        return [("input_image", self.input_image)]

    def cut_options(self, models: Models, *, default_model: str) -> CutOptions:
        """The options behind the body but its background, which may be a picture. Raises InvalidField."""
        matting = None
        if self.alpha_matting:
            if self.alpha_matting_background_threshold >= self.alpha_matting_foreground_threshold:
                raise InvalidField(
                    "alpha_matting_background_threshold", "must be below alpha_matting_foreground_threshold"
                )
            matting = Matting(
                self.alpha_matting_foreground_threshold,
                self.alpha_matting_background_threshold,
                self.alpha_matting_erode_size,
            )
        return CutOptions(
            model=models.named(self.model or default_model),
            precision=self.precision,
            matting=matting,
            only_mask=self.only_mask,
            post_process_mask=self.post_process_mask,
        )

    def chosen_background(self, bounds: ImageBounds, *, transparent: bool) -> Background:
        """What the cut-outs are laid on. Raises InvalidField."""
        text = self.background
        if text is None:
            return None if transparent else _WHITE
        if text == "transparent":
            return None
        if text.startswith("#"):
            if not _COLOUR.fullmatch(text):
                raise InvalidField("background", "must be #rrggbb, transparent, or a picture in base64")
            red, green, blue = bytes.fromhex(text[1:])
            return red, green, blue
        return decode_base64_image(text, "background", bounds)


class RemoveAnswer(BaseModel):
    """The picture, or the pictures in their order, in base64."""

    output_image: str | None = None
    output_images: list[str] | None = None
    format: str
    model: str
    precision: str = Field(description="The lowest that a mask was computed in")
    runtime: str
