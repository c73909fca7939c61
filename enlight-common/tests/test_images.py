from __future__ import annotations

import base64
import io
import struct
import tracemalloc
import zlib

import pytest
from enlight_common.errors import InvalidField
from enlight_common.images import (
    MAX_SIDES,
    ImageBounds,
    count_gif_frames,
    decode_base64_image,
    decode_image,
    encode_image,
)
from PIL import Image, ImageDraw


def drawn(mode: str = "RGB", size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", size, (255, 0, 0))
    ImageDraw.Draw(image).rectangle((size[0] // 2, 0, *size), fill=(0, 0, 255))
    return image.convert(mode)


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def hollow_png(side: int) -> bytes:
    """A PNG of side × side black pixels that compresses a thousandfold."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    compressor = zlib.compressobj(9)
    row = bytes(1 + 3 * side)
    body = b"".join(compressor.compress(row) for _ in range(side)) + compressor.flush()
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def gif_of(frames: int) -> bytes:
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    head = b"GIF89a" + struct.pack("<HHBBB", 16, 16, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return head + frame * frames + b"\x3b"


def is_red_then_blue(image: Image.Image) -> bool:
    left, right = image.getpixel((4, 20)), image.getpixel((image.width - 4, 20))
    return left[0] > 200 > 60 > left[2] and right[2] > 200 > 60 > right[0]


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_decodes_each_format_to_rgb(format: str):
    image = decode_image(saved(drawn(), format), "photo")
    assert image.mode == "RGB"
    assert image.size == (64, 48)
    assert is_red_then_blue(image)


@pytest.mark.parametrize(
    ("mode", "format"), [("P", "PNG"), ("P", "GIF"), ("CMYK", "JPEG"), ("CMYK", "TIFF"), ("YCbCr", "TIFF")]
)
def test_decodes_palettes_and_print_colours_to_rgb(mode: str, format: str):
    assert is_red_then_blue(decode_image(saved(drawn(mode), format), "photo"))


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_scales_sixteen_bit_grey_to_eight(format: str):
    image = Image.new("I;16", (32, 32), 32_896)  # 128 × 257
    decoded = decode_image(saved(image, format), "photo")
    assert decoded.getpixel((5, 5)) == (128, 128, 128)


def test_turns_a_photo_upright_as_its_exif_says():
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera turned: 90° clockwise makes it upright
    image = decode_image(saved(drawn(), "JPEG", exif=exif, quality=95), "photo")
    assert image.size == (48, 64)
    assert image.getpixel((20, 4))[0] > 200
    assert image.getpixel((20, 60))[2] > 200


def test_takes_a_sound_photo_with_broken_exif():
    data = saved(drawn(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\x7f" * 40)
    assert decode_image(data, "photo").size == (64, 48)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_lays_transparency_on_white(mode: str):
    image = Image.new(mode, (32, 32), (0,) * len(mode))
    assert decode_image(saved(image, "PNG"), "photo").getpixel((3, 3)) == (255, 255, 255)


def test_lays_a_transparent_palette_colour_on_white():
    image = drawn("P")
    image.info["transparency"] = image.getpixel((0, 0))
    decoded = decode_image(saved(image, "PNG", transparency=image.getpixel((0, 0))), "photo")
    assert decoded.getpixel((0, 0)) == (255, 255, 255)
    assert decoded.getpixel((60, 0)) == (0, 0, 255)


def test_keeps_transparency_where_it_is_asked_for():
    image = Image.new("RGBA", (32, 32), (1, 2, 3, 4))
    assert decode_image(saved(image, "PNG"), "photo", mode="RGBA").getpixel((0, 0)) == (1, 2, 3, 4)


def test_takes_the_first_frame_of_an_animation():
    frames = [drawn(), Image.new("RGB", (64, 48), (0, 255, 0))]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert is_red_then_blue(decode_image(data, "photo"))


def test_refuses_a_huge_picture_in_a_small_file_without_decoding_it():
    data = hollow_png(20_000)
    assert len(data) < 2_000_000
    tracemalloc.start()
    try:
        with pytest.raises(InvalidField, match="at most 40000000 pixels") as caught:
            decode_image(data, "IMAGE_LIST[2]")
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert caught.value.field == "IMAGE_LIST[2]"


@pytest.mark.parametrize("frames", [201, 50_000])
def test_refuses_a_gif_of_too_many_frames(frames: int):
    with pytest.raises(InvalidField, match="at most 200 frames"):
        decode_image(gif_of(frames), "photo")


def test_takes_a_gif_of_as_many_frames_as_are_allowed():
    assert decode_image(gif_of(200), "photo").size == (16, 16)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_counts_gif_frames_as_pillow_does(count: int):
    frames = [Image.new("P", (20, 20), index) for index in range(count)]
    for index, frame in enumerate(frames):
        frame.putpalette([index * 9, 3, 5] * 256)
    data = saved(
        frames[0], "GIF", save_all=True, append_images=frames[1:], duration=50, loop=0, comment=b"x" * 600
    )
    with Image.open(io.BytesIO(data)) as opened:
        assert count_gif_frames(data, 100) == opened.n_frames == count


def test_refuses_a_tiff_of_too_many_pages():
    pages = [Image.new("L", (16, 16), page) for page in range(12)]
    data = saved(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert decode_image(data, "photo", ImageBounds(max_frames=12)).size == (16, 16)
    with pytest.raises(InvalidField, match="at most 11 frames"):
        decode_image(data, "photo", ImageBounds(max_frames=11))


def test_refuses_an_animated_png_of_too_many_frames():
    pages = [Image.new("L", (16, 16), page) for page in range(12)]
    data = saved(pages[0], "PNG", save_all=True, append_images=pages[1:])
    with pytest.raises(InvalidField, match="at most 11 frames"):
        decode_image(data, "photo", ImageBounds(max_frames=11))


def test_refuses_a_jpeg_of_a_thousand_scans():
    data = saved(drawn(), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    hostile = data[:last] + data[last:-2] * 1000 + data[-2:]
    with pytest.raises(InvalidField, match="at most 200 scans"):
        decode_image(hostile, "photo")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_refuses_a_truncated_file(format: str):
    noise = Image.effect_noise((120, 120), 90).convert("RGB")
    data = saved(noise, format)
    with pytest.raises(InvalidField, match="is not a readable image"):
        decode_image(data[: len(data) // 2], "photo")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "is empty", id="nothing"),
        pytest.param(b"hello, this is no image at all", "is not a readable image", id="text"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + b"\0" * 500, "is not a readable image", id="a PNG's first bytes"),
        pytest.param(b"%PDF-1.4 " + b"x" * 300, "is not a readable image", id="a PDF"),
        pytest.param(
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", "is not a readable", id="PostScript"
        ),
        pytest.param(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not a readable image", id="SVG"),
        pytest.param(saved(drawn(), "PPM"), "is not a readable image", id="a format not on the list"),
        pytest.param(saved(drawn(size=(15, 64)), "PNG"), "at least 16 pixels", id="too narrow"),
        pytest.param(saved(Image.new("L", (16_385, 16)), "PNG"), "at most 16384 pixels", id="too wide"),
        pytest.param(saved(Image.new("F", (32, 32)), "TIFF"), "8 or 16 bits", id="floating point samples"),
    ],
)
def test_refuses_what_is_no_picture_within_bounds(data: bytes, reason: str):
    with pytest.raises(InvalidField, match=reason) as caught:
        decode_image(data, "photo")
    assert caught.value.detail.startswith("photo: ")


def test_refuses_a_file_of_too_many_bytes():
    with pytest.raises(InvalidField, match="at most 100 bytes"):
        decode_image(saved(drawn(), "BMP"), "photo", ImageBounds(max_bytes=100))


def test_decodes_base64_and_data_urls():
    text = base64.b64encode(saved(drawn(), "PNG")).decode()
    lines = base64.encodebytes(saved(drawn(), "PNG")).decode()
    for given in (
        text,
        f" {text}\n",
        lines,
        f"data:image/png;base64,{text}",
        f"DATA:image/png;BASE64,{text}",
    ):
        assert is_red_then_blue(decode_base64_image(given, "photo"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("not base64!", "is not valid base64", id="other characters"),
        pytest.param("QUJD*", "is not valid base64", id="a stray character"),
        pytest.param("QUJ", "is not valid base64", id="no padding"),
        pytest.param("QQ==QQ==", "is not valid base64", id="two pieces"),
        pytest.param("ÄÖÜ=", "is not valid base64", id="letters outside ASCII"),
        pytest.param("", "is empty", id="nothing"),
        pytest.param("data:image/png,abc", "is not a base64 data URL", id="a data URL without base64"),
        pytest.param("data:image/png;base64", "is not a base64 data URL", id="a data URL without data"),
        pytest.param(
            "data:" + "x" * 500 + ";base64,QUJD", "is not a base64 data URL", id="a long media type"
        ),
        pytest.param("QUJD", "is not a readable image", id="no image inside"),
        pytest.param(7, "must be a string", id="a number"),
        pytest.param(None, "must be a string", id="null"),
    ],
)
def test_refuses_broken_base64(text: object, reason: str):
    with pytest.raises(InvalidField, match=reason):
        decode_base64_image(text, "IMAGE_LIST[0]")


def test_refuses_base64_over_the_bound_before_decoding_it():
    with pytest.raises(InvalidField, match="at most 300 bytes"):
        decode_base64_image("*" * 1000, "photo", ImageBounds(max_bytes=300))


def test_a_png_comes_back_as_it_went_with_its_texts():
    image = Image.effect_noise((33, 17), 80).convert("RGB")
    data = encode_image(image, "png", text={"prompt": "a dog — ein Hund 犬", "seed": "7"})
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.text == {"prompt": "a dog — ein Hund 犬", "seed": "7"}
        assert opened.tobytes() == image.tobytes()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_a_jpeg_shows_white_where_the_picture_was_transparent(mode: str):
    grey = (0, 0, 0, 0) if mode == "RGBA" else (0, 0)
    image = Image.new(mode, (32, 32), 0 if mode in ("P", "PA") else grey)
    if mode in ("P", "PA"):
        image.info["transparency"] = 0
    with Image.open(io.BytesIO(encode_image(image, "jpeg"))) as opened:
        assert (opened.mode, opened.getpixel((16, 16))) == ("RGB", (255, 255, 255))


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_what_is_larger_than_the_format_allows_cannot_be_encoded_and_the_largest_can(format: str):
    longest = MAX_SIDES[format]
    with Image.open(io.BytesIO(encode_image(Image.new("L", (longest, 1)), format))) as opened:
        assert opened.width == longest
    with pytest.raises((OSError, ValueError)):
        encode_image(Image.new("L", (longest + 1, 1)), format)


@pytest.mark.parametrize(("format", "name"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_encodes_in_the_format_asked_for(format: str, name: str):
    with Image.open(io.BytesIO(encode_image(drawn(), format))) as opened:
        assert opened.format == name
        assert is_red_then_blue(opened.convert("RGB"))
