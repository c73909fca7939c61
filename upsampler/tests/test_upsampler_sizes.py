"""What needs no network: how often it runs, how pictures are cut and blended, how they are written."""

from __future__ import annotations

import io
import random
from itertools import pairwise

import numpy as np
import pytest
from enlight_common.images import OutputFormat
from PIL import Image
from upsampler.encoding import LIMIT_BYTES, encode, encode_within
from upsampler.enlarging import fitted, sides_before_passes
from upsampler.tiles import Canvas, cut
from upsampler_parts import photo


@pytest.mark.parametrize(
    ("side", "resolution", "before"),
    [
        (256, 1024, [256]),
        (512, 2048, [512]),
        (64, 1024, [64, 256]),
        (16, 2048, [16, 64, 256, 1024]),
        (200, 1024, [200]),
        (600, 1024, [512]),
        (700, 1024, []),
        (1024, 1024, []),
        (3000, 1024, []),
    ],
)
def test_the_network_runs_as_often_as_it_takes(side: int, resolution: int, before: list[int]) -> None:
    assert [max(size) for size in sides_before_passes((side, side), resolution, 4)] == before


def test_a_network_of_factor_2_runs_more_often() -> None:
    assert sides_before_passes((256, 128), 1024, 2) == [(256, 128), (512, 256)]


@pytest.mark.parametrize("size", [(16, 4000), (4000, 16), (16, 16), (333, 127)])
def test_proportions_are_kept_as_far_as_pixels_allow(size: tuple[int, int]) -> None:
    width, height = fitted(size, 1024)
    assert max(width, height) == 1024
    assert min(width, height) == max(1, round(1024 * min(size) / max(size)))


@pytest.mark.parametrize("length", [1, 63, 64, 65, 100, 113, 500])
def test_tiles_cover_the_picture_and_overlap(length: int) -> None:
    tiles = cut(length, 64, size=64, overlap=16)
    starts = [tile.left for tile in tiles]
    assert starts[0] == 0
    assert starts[-1] + tiles[-1].width == length
    assert {tile.width for tile in tiles} == {min(length, 64)}
    assert all(0 < later - sooner <= 64 - 16 for sooner, later in pairwise(starts))


def test_tiles_of_a_picture_blend_into_that_picture() -> None:
    picture = np.asarray(photo(120, 90), np.float32) / 255
    canvas = Canvas(120, 90, 1, overlap=10)
    for tile in cut(120, 90, size=48, overlap=10):
        rows, columns = slice(tile.top, tile.top + tile.height), slice(tile.left, tile.left + tile.width)
        canvas.add(tile, picture[rows, columns])
    assert np.abs(np.asarray(canvas.picture(), int) - np.asarray(photo(120, 90), int)).max() <= 1


def test_a_difference_between_tiles_is_spread_over_the_overlap() -> None:
    canvas = Canvas(112, 64, 2, overlap=16)
    for level, tile in enumerate(cut(112, 64, size=64, overlap=16)):
        canvas.add(tile, np.full((128, 128, 3), level, np.float32))
    row = np.asarray(canvas.picture(), int)[64, :, 0]
    assert (row[0], row[-1]) == (0, 255)
    assert np.abs(np.diff(row)).max() <= 255 / 16


def noise(side: int) -> Image.Image:
    """What no format makes smaller."""
    return Image.frombytes("RGB", (side, side), random.Random(0).randbytes(3 * side * side))


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_a_picture_within_the_limit_is_left_as_it_is() -> None:
    encoded = encode_within(photo(256), "png", LIMIT_BYTES)
    assert encoded.data == encode(photo(256), "png").data
    assert (encoded.format, encoded.quality) == ("png", None)


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_quality_goes_before_size(format: OutputFormat) -> None:
    limit = len(encode(photo(256), format).data) * 2 // 3
    encoded = encode_within(photo(256), format, limit)
    assert len(encoded.data) <= limit
    assert encoded.size == opened(encoded.data).size == (256, 256)
    assert encoded.quality is not None
    assert opened(encoded.data).format == {"png": "JPEG", "jpeg": "JPEG", "webp": "WEBP"}[format]


def test_the_best_quality_that_fits_is_taken() -> None:
    limit = 30_000
    encoded = encode_within(photo(256), "png", limit)
    assert encoded.quality is not None
    assert 60 <= encoded.quality < 98
    better = io.BytesIO()
    quality = encoded.quality + 1
    photo(256).save(better, "JPEG", quality=quality, subsampling=0 if quality >= 90 else 2)
    assert len(better.getvalue()) > limit


def test_size_goes_where_quality_does_not_suffice() -> None:
    encoded = encode_within(noise(256), "png", 12_000)
    assert len(encoded.data) <= 12_000
    assert max(encoded.size) < 256
    assert encoded.quality is not None
    assert encoded.quality >= 60


def test_noise_of_the_largest_resolution_stays_within_5_mb() -> None:
    encoded = encode_within(noise(2048), "png", LIMIT_BYTES)
    assert len(encoded.data) <= 5_000_000
