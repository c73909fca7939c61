"""Writes a picture as a file, within a number of bytes where one is given, by the least harm."""

from __future__ import annotations

import io
from dataclasses import dataclass

from enlight_common.images import OutputFormat, encode_image
from PIL import Image

#: Of `mblimit`, for the file. Megabytes are 10^6 bytes here, so that it holds for whoever counts 2^20.
LIMIT_BYTES = 5_000_000
#: Below the lowest, blocks begin to show; a smaller picture does less harm.
_QUALITIES = range(60, 99)
#: Of width and height, from one attempt to the next.
_SHRINK = 0.9


@dataclass(frozen=True)
class Encoded:
    """The file, its format, its JPEG or WebP quality where that was searched for, and the picture's size."""

    data: bytes
    format: OutputFormat
    quality: int | None
    size: tuple[int, int]


def encode(image: Image.Image, format: OutputFormat, text: dict[str, str] | None = None) -> Encoded:
    """*image* as PNG, which takes *text* chunks, or JPEG or WebP of a high quality."""
    return Encoded(encode_image(image, format, text=text), format, None, image.size)


def encode_within(
    image: Image.Image, format: OutputFormat, limit: int | None, text: dict[str, str] | None = None
) -> Encoded:
    """As `encode` where there is no *limit* or that takes so many bytes at most.

    Else as JPEG (WebP, if that was asked for) of the highest quality that does, 60 at least; else smaller, at
    that quality.
    """
    plain = encode(image, format, text)
    if limit is None or len(plain.data) <= limit:
        return plain
    lossy: OutputFormat = "webp" if format == "webp" else "jpeg"
    while True:
        best = _best_quality(image, lossy, limit)
        if best is not None or max(image.size) == 1:
            return best or plain
        width, height = (max(1, int(side * _SHRINK)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)


def _best_quality(image: Image.Image, format: OutputFormat, limit: int) -> Encoded | None:
    """By bisection: the file grows with the quality."""
    best = None
    low, high = _QUALITIES.start, _QUALITIES.stop - 1
    while low <= high:
        quality = (low + high + 1) // 2 if best else low
        data = _lossy(image, format, quality)
        if len(data) <= limit:
            best = Encoded(data, format, quality, image.size)
            low = quality + 1
        elif best is None:
            return None
        else:
            high = quality - 1
    return best


def _lossy(image: Image.Image, format: OutputFormat, quality: int) -> bytes:
    buffer = io.BytesIO()
    if format == "webp":
        image.save(buffer, "WEBP", quality=quality)
    else:
        # Colours at full resolution as long as the quality is worth it.
        image.save(buffer, "JPEG", quality=quality, subsampling=0 if quality >= 90 else 2)
    return buffer.getvalue()
