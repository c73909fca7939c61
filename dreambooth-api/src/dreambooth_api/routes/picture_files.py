"""Pictures as answers carry them."""

from __future__ import annotations

import base64

import PIL.Image
from enlight_common.images import encode_image

from dreambooth_api.inference.picture import Picture, Recipe
from dreambooth_api.schemas.inference import PictureFormat


def in_base64(recipe: Recipe, picture: Picture, picture_format: PictureFormat) -> str:
    """The picture's file, which tells how it was made where its format can."""
    return _encoded(encode_image(picture.image, picture_format, text=recipe.description(picture.seed)))


def preview_in_base64(image: PIL.Image.Image) -> str:
    """A JPEG."""
    return _encoded(encode_image(image, "jpeg"))


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
