"""OpenAI's masks: what is transparent is drawn anew. Here it is white."""

from __future__ import annotations

import base64

from enlight_common.errors import InvalidField
from enlight_common.images import ImageBounds, decode_image, encode_image

_BOUNDS = ImageBounds(max_pixels=16_000_000)


def white_where_transparent(data: bytes, field: str, *, required: bool) -> str | None:
    """The mask in base64 that an image file's alpha channel stands for.

    Where nothing is transparent: None, or with `required` InvalidField. Raises InvalidField for what is no
    picture.
    """
    alpha = decode_image(data, field, _BOUNDS, mode="RGBA").getchannel("A")
    if alpha.getextrema()[0] == 255:
        if required:
            raise InvalidField(field, "must be transparent where the image is to be drawn anew")
        return None
    mask = alpha.point(lambda value: 255 if value < 128 else 0)
    return base64.b64encode(encode_image(mask, "png", png_effort=2)).decode("ascii")
