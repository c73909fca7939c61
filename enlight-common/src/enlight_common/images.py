"""Pictures that come in from clients, decoded within bounds, and pictures that go out.

Decoding trusts nothing: the format must be on the list, and the size is read from the header and compared
with the bounds before a pixel is decoded, so that a small file cannot become a large picture.
"""

from __future__ import annotations

import base64
import binascii
import io
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageOps, PngImagePlugin

from enlight_common.errors import InvalidField

OutputFormat = Literal["png", "jpeg", "webp"]
#: Pixels of the longest side that a file of the format can have, by its own definition (of JPEG, by libjpeg).
MAX_SIDES: dict[OutputFormat, int] = {"png": 2**31 - 1, "jpeg": 65_500, "webp": 16_383}
INPUT_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")

_QUALITY = 92
_MAX_JPEG_SCANS = 200  # encoders write about ten
_MAX_GIF_BLOCKS = 1_000_000  # of up to 255 bytes; 20 MB of full ones are 80,000
_DATA_URL_HEAD = 128  # characters: "data:image/png;base64," and some media type parameters


@dataclass(frozen=True)
class ImageBounds:
    """What a picture from outside may be. Sides and areas are in pixels."""

    max_bytes: int = 20_000_000
    max_pixels: int = 40_000_000  # a 40 megapixel photo; 120 MB once decoded to RGB
    min_side: int = 16
    max_side: int = 16_384
    max_frames: int = 200  # of a GIF or WebP; only the first is used
    formats: tuple[str, ...] = INPUT_FORMATS


DEFAULT_BOUNDS = ImageBounds()
Mode = Literal["RGB", "RGBA", "L"]


def decode_base64_image(
    text: object, field: str, bounds: ImageBounds = DEFAULT_BOUNDS, *, mode: Mode = "RGB"
) -> Image.Image:
    """`decode_image` for a picture given as base64 (RFC 4648, strict) or as a base64 `data:` URL."""
    data = decode_base64(text, field, bounds.max_bytes)
    return decode_image(data, field, bounds, mode=mode)


def decode_base64(text: object, field: str, max_bytes: int) -> bytes:
    """The bytes of an image file given as base64 (RFC 4648, strict) or as a base64 `data:` URL.

    Raises InvalidField(field).
    """
    if not isinstance(text, str):
        raise InvalidField(field, "must be a string: an image file in base64")
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or len(head) > _DATA_URL_HEAD or not head.lower().endswith(";base64"):
            raise InvalidField(field, "is not a base64 data URL")
    text = text.strip()
    # 76-column base64, as `base64 photo.png` prints it, is common enough to take.
    if "\n" in text:
        text = text.replace("\r\n", "").replace("\n", "")
    if len(text) > max_bytes * 4 // 3 + 4:
        raise InvalidField(field, f"must be at most {max_bytes} bytes once decoded")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidField(field, "is not valid base64") from None


def decode_image(
    data: bytes, field: str, bounds: ImageBounds = DEFAULT_BOUNDS, *, mode: Mode = "RGB"
) -> Image.Image:
    """Decode the first frame of an image file within `bounds`, upright as its EXIF orientation says.

    Transparency is laid on white unless `mode` is "RGBA"; 16-bit samples are scaled to 8 bits.
    Raises InvalidField(field) for all that is empty, too large, truncated or no image.
    """
    if not data:
        raise InvalidField(field, "is empty")
    if len(data) > bounds.max_bytes:
        raise InvalidField(field, f"must be at most {bounds.max_bytes} bytes")
    try:
        with Image.open(io.BytesIO(data), formats=bounds.formats) as opened:
            _check_size(opened, field, bounds)
            _check_parts(opened, data, field, bounds)
            opened.load()
            return _convert(_upright(opened), field, mode)
    except (InvalidField, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        # Pillow's own bound, which comes first where it is the lower one.
        raise InvalidField(field, f"must have at most {bounds.max_pixels} pixels") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on hostile input
        names = ", ".join(bounds.formats)
        raise InvalidField(field, f"is not a readable image ({names})") from error


@dataclass(frozen=True)
class ImageHeader:
    """What the beginning of an image file says. `format` as Pillow names it, sides in pixels."""

    format: str
    width: int
    height: int


def inspect_image(data: bytes, field: str, bounds: ImageBounds = DEFAULT_BOUNDS) -> ImageHeader:
    """Check an image file against `bounds` without decoding its pixels: what passes may still be truncated.

    Raises InvalidField(field) for all that is empty, too large or no image.
    """
    if not data:
        raise InvalidField(field, "is empty")
    if len(data) > bounds.max_bytes:
        raise InvalidField(field, f"must be at most {bounds.max_bytes} bytes")
    try:
        with Image.open(io.BytesIO(data), formats=bounds.formats) as opened:
            _check_size(opened, field, bounds)
            _check_parts(opened, data, field, bounds)
            return ImageHeader(opened.format or "", opened.width, opened.height)
    except (InvalidField, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InvalidField(field, f"must have at most {bounds.max_pixels} pixels") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on hostile input
        names = ", ".join(bounds.formats)
        raise InvalidField(field, f"is not a readable image ({names})") from error


def _check_size(image: Image.Image, field: str, bounds: ImageBounds) -> None:
    width, height = image.size
    if width * height > bounds.max_pixels:
        raise InvalidField(field, f"must have at most {bounds.max_pixels} pixels")
    if max(width, height) > bounds.max_side:
        raise InvalidField(field, f"must be at most {bounds.max_side} pixels wide and high")
    if min(width, height) < bounds.min_side:
        raise InvalidField(field, f"must be at least {bounds.min_side} pixels wide and high")


def _check_parts(image: Image.Image, data: bytes, field: str, bounds: ImageBounds) -> None:
    if image.format == "GIF":
        frames = count_gif_frames(data, bounds.max_frames)
    elif image.format == "TIFF":
        frames = _count_tiff_pages(image, bounds.max_frames)
    else:
        # Read from the header in the other formats.
        frames = getattr(image, "n_frames", 1)
    if frames > bounds.max_frames:
        raise InvalidField(field, f"must have at most {bounds.max_frames} frames")
    # Each scan of a progressive JPEG is a pass over all pixels: a small file can ask for thousands. A marker
    # byte inside the picture's data is escaped, so this counts scans, and those of embedded previews.
    if image.format in ("JPEG", "MPO") and data.count(b"\xff\xda") > _MAX_JPEG_SCANS:
        raise InvalidField(field, f"must have at most {_MAX_JPEG_SCANS} scans")


def count_gif_frames(data: bytes, enough: int) -> int:
    """The frames of a GIF, or a number above `enough` as soon as there are more, or too many blocks to tell.

    Pillow's own count takes tens of microseconds a frame, and a frame takes some 20 bytes of file.
    """
    at = 13 + (3 << (1 + (data[10] & 7)) if data[10] & 0x80 else 0)  # past the header and its colour table
    frames = blocks = 0
    while at < len(data) and data[at] in (0x21, 0x2C):
        if data[at] == 0x2C:
            frames += 1
            flags = data[at + 9] if at + 9 < len(data) else 0
            at += 11 + (3 << (1 + (flags & 7)) if flags & 0x80 else 0)
        else:
            at += 2
        while at < len(data) and data[at]:
            at += 1 + data[at]
            blocks += 1
        at += 1
        if frames > enough or blocks > _MAX_GIF_BLOCKS:
            return enough + 1
    return frames


def _count_tiff_pages(image: Image.Image, enough: int) -> int:
    try:
        image.seek(enough)  # reads directories, no pixels
    except EOFError:
        return 1
    finally:
        image.seek(0)
    return enough + 1


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        # Broken EXIF in a sound picture is common, and no reason to refuse it.
        return image


def _convert(image: Image.Image, field: str, mode: Mode) -> Image.Image:
    if image.mode == "F":
        raise InvalidField(field, "must have 8 or 16 bits per sample")
    if image.mode.startswith("I"):
        # Pillow's own conversion clips 16-bit samples at 255 and turns nearly all of them white.
        image = image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    elif _has_transparency(image):
        image = image.convert("RGBA") if mode == "RGBA" else _on_white(image)
    return image.convert(mode)


def _has_transparency(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def _on_white(image: Image.Image) -> Image.Image:
    """What is transparent of *image* laid on white; RGBA, wholly opaque."""
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    white.alpha_composite(image.convert("RGBA"))
    return white


def encode_image(
    image: Image.Image,
    format: OutputFormat,
    *,
    text: dict[str, str] | None = None,
    png_effort: int = 6,
) -> bytes:
    """Encode as PNG, or as JPEG or WebP of quality 92. `text` becomes text chunks of a PNG, `png_effort` is
    zlib's level: 2 takes a third of the time of 6 for some 8% more bytes. A JPEG knows no transparency: it is
    laid on white.
    """
    buffer = io.BytesIO()
    if format == "png":
        info = PngImagePlugin.PngInfo()
        for key, value in (text or {}).items():
            info.add_itxt(key, value.replace("\0", ""))
        image.save(buffer, "PNG", pnginfo=info, compress_level=png_effort)
    elif format == "jpeg":
        opaque = _on_white(image) if _has_transparency(image) else image
        opaque.convert("RGB").save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    else:
        image.save(buffer, "WEBP", quality=_QUALITY)
    return buffer.getvalue()
