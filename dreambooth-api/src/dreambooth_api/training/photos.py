"""Photos on their way to the trainer: read, cropped to a square of the training's size, written as PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from enlight_common.errors import InvalidField
from enlight_common.files import write_atomically
from enlight_common.images import decode_image
from PIL import Image

from dreambooth_api.training.options import MAX_PHOTOS

_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


@dataclass(frozen=True)
class Framing:
    """Where a square came from, in pixels of the photo as it was: SDXL is told so with each picture."""

    original: tuple[int, int]  # height, width
    corner: tuple[int, int]  # top, left, after the resize


def read_folder(folder: Path) -> tuple[list[Path], list[Image.Image]]:
    """The images of a folder in the order of their names. Raises InvalidField for none, too many or a
    broken one.
    """
    if not folder.is_dir():
        raise InvalidField("images", "must be a folder")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES and path.is_file())
    check_count(len(paths))
    return paths, [decode_image(path.read_bytes(), path.name) for path in paths]


def check_count(count: int) -> None:
    if not 1 <= count <= MAX_PHOTOS:
        raise InvalidField("images", f"must be 1 to {MAX_PHOTOS} photos")


def shrink(photo: Image.Image, resolution: int, *, to_square: bool) -> tuple[Image.Image, Framing]:
    """The photo with its shorter side scaled to `resolution`, and cropped to its middle square on request."""
    original = (photo.height, photo.width)
    scale = resolution / min(photo.size)
    size = (max(resolution, round(photo.width * scale)), max(resolution, round(photo.height * scale)))
    # A panorama of extreme proportions is cut to what random crops can use, lest it fill the memory.
    size = (min(size[0], 16 * resolution), min(size[1], 16 * resolution))
    scaled = photo.convert("RGB")
    if scaled.size != size:
        scaled = scaled.resize(size, Image.Resampling.LANCZOS)
    if not to_square:
        return scaled, Framing(original, (0, 0))
    left, top = (size[0] - resolution) // 2, (size[1] - resolution) // 2
    return scaled.crop((left, top, left + resolution, top + resolution)), Framing(original, (top, left))


def write_photos(folder: Path, photos: Sequence[Image.Image]) -> list[str]:
    """Write them as `000.png`, `001.png` …, each atomically, and return the names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for index, photo in enumerate(photos):
        names.append(f"{index:03d}.png")
        write_png(folder / names[-1], photo)
    return names


def write_png(path: Path, image: Image.Image) -> None:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)  # they are read once or twice and removed
    write_atomically(path, buffer.getvalue(), sync=False)


def read_png(path: Path) -> Image.Image:
    with Image.open(path, formats=("PNG",)) as image:
        return image.convert("RGB")
