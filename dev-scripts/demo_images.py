"""The client's side of the image demo: cuts a photo out and enlarges small pictures, over HTTP alone.

python dev-scripts/demo_images.py --bgrem http://127.0.0.1:4000 …
"""

from __future__ import annotations

import argparse
import base64
import io
import sys
import time
from pathlib import Path
from typing import Any

import httpx
from contact_sheet import Row, contact_sheet
from PIL import Image
from skimage import data

ROOT = Path(__file__).resolve().parent.parent
DRAWING = ROOT / "dreambooth-api/src/dreambooth_api/tiny/photos"
RESOLUTION = 1100  # realesrgan's longer side: 275 pixels, four times
CROP = (90, 0, 365, 275)  # of the photo: the face
SHEET_SIDE = 360


class DemoFailed(Exception):
    """A service refused, in its own words."""


class Images:
    """A service that takes pictures and gives pictures, both in base64."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=httpx.Timeout(30, read=600))

    def post(self, path: str, answered_as: str, **body: Any) -> Image.Image:
        """The picture that the answer holds under *answered_as*; pictures in *body* are sent as PNG."""
        fields = {
            key: _sent(value) if isinstance(value, Image.Image) else value for key, value in body.items()
        }
        started = time.monotonic()
        answer = self._client.post(path, json=fields)
        if not answer.is_success:
            raise DemoFailed(f"{answer.url}: {answer.status_code}, {answer.json().get('message')}")
        picture = Image.open(io.BytesIO(base64.b64decode(answer.json()[answered_as])))
        print(
            f"  {answer.url}: {picture.width}×{picture.height} in {time.monotonic() - started:.1f} s",
            flush=True,
        )
        return picture


def _sent(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def cut_out(bgrem: Images, photo: Image.Image) -> Row:
    transparent = bgrem.post("/remove-opacity", "output_image", input_image=photo)
    pictures = [
        ("the photo", photo),
        ("/remove: on white", bgrem.post("/remove", "output_image", input_image=photo)),
        ("/remove-opacity: transparent", _on_checks(transparent)),
        (
            "background #2a9d8f",
            bgrem.post("/remove", "output_image", input_image=photo, background="#2a9d8f"),
        ),
    ]
    return "bgrem: the subject cut out", pictures


def enlarge_photo(realesrgan: Images, photo: Image.Image) -> Row:
    small = photo.crop(CROP)
    pictures = [(f"bicubic, from {small.width} pixels", _bicubic(small, RESOLUTION))]
    for model in ("RealESRGAN_x4plus", "realesr-animevideov3"):
        large = realesrgan.post(
            "/upsampler", "image", input_string=small, model_name=model, out_resolution=RESOLUTION
        )
        pictures.append((model, large))
    return f"realesrgan: a part of the photo at {RESOLUTION} pixels", [
        (label, _detail(picture)) for label, picture in pictures
    ]


def enlarge_drawing(upsampler: Images, drawing: Image.Image) -> Row:
    small = drawing.resize((64, 64), Image.Resampling.BICUBIC)
    large = upsampler.post(
        "/upsampler", "image", image=small, prompt="a shoe", resolution=1024, mblimit="true", seed=7
    )
    pictures = [
        (f"bicubic, from {small.width} pixels", _bicubic(small, 1024)),
        ("enlight/tiny-x4", large),
        ("what was made small", drawing),
    ]
    return "upsampler: one of the training photos at 1024 pixels", pictures


def _bicubic(small: Image.Image, side: int) -> Image.Image:
    scale = side / max(small.size)
    return small.resize((round(small.width * scale), round(small.height * scale)), Image.Resampling.BICUBIC)


def _detail(picture: Image.Image) -> Image.Image:
    """The middle at a size where differences can be seen."""
    width, height = picture.size
    return picture.crop((width // 4, height // 8, width * 3 // 4, height * 5 // 8))


def _on_checks(picture: Image.Image) -> Image.Image:
    checks = Image.new("RGBA", (2, 2), "white")
    checks.putpixel((0, 1), (200, 200, 200, 255))
    checks.putpixel((1, 0), (200, 200, 200, 255))
    tile = checks.resize((24, 24), Image.Resampling.NEAREST)
    paper = Image.new("RGBA", picture.size)
    for left in range(0, picture.width, tile.width):
        for top in range(0, picture.height, tile.height):
            paper.paste(tile, (left, top))
    return Image.alpha_composite(paper, picture.convert("RGBA"))


def main() -> int:
    parser = argparse.ArgumentParser(description="Cuts a photo out and enlarges small pictures.")
    parser.add_argument("--bgrem", default="http://127.0.0.1:4000")
    parser.add_argument("--upsampler", default="http://127.0.0.1:4455")
    parser.add_argument("--realesrgan", default="http://127.0.0.1:11111")
    parser.add_argument("--output", type=Path, default=ROOT / "demo-output", help="folder for the sheet")
    arguments = parser.parse_args()
    photo = Image.fromarray(data.astronaut())
    drawing = Image.open(sorted(DRAWING.glob("*.png"))[0]).convert("RGB")
    try:
        rows = [
            cut_out(Images(arguments.bgrem), photo),
            enlarge_photo(Images(arguments.realesrgan), photo),
            enlarge_drawing(Images(arguments.upsampler), drawing),
        ]
    except (DemoFailed, httpx.HTTPError) as error:
        print(f"demo: {error or type(error).__name__}", file=sys.stderr)
        return 1
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "images.png"
    contact_sheet(rows, SHEET_SIDE).save(path, optimize=True)
    print(f"look at {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
