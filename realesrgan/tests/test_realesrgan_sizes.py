"""How a picture gets to its size, and how it passes between Pillow and the network; no network is needed."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from picture_parts import difference
from PIL import Image
from realesrgan_parts import disc, photo
from realesrgan_service.upscaling.picture import bled, to_canvas, to_image
from realesrgan_service.upscaling.plan import plan


@pytest.mark.parametrize(
    ("side", "resolution", "scale", "inputs"),
    [
        (342, 2048, 4, [342]),  # 1.497 times are left
        (340, 2048, 4, [340, 512]),
        (48, 1100, 4, [48, 192]),
        (1300, 8192, 4, [1300, 2048]),
        (2048, 8192, 4, [2048]),
        (1300, 2048, 4, [1300]),
        (256, 2048, 2, [256, 512, 1024]),
        (300, 1025, 3, [300]),
        (700, 1025, 1, [700]),
        (2000, 1025, 4, []),
    ],
)
def test_a_further_pass_is_given_no_more_than_it_needs(
    side: int, resolution: int, scale: int, inputs: list[int]
) -> None:
    way = plan((side, side), resolution, scale)
    assert [each.size for each in way.passes] == [(each, each) for each in inputs]
    assert way.size == (resolution, resolution)


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("resolution", [1025, 4096, 8192])
def test_no_pass_makes_more_than_160_megapixels_or_is_given_more_than_it_needs(
    scale: int, resolution: int
) -> None:
    for side in (*range(16, 200, 23), *range(200, 6324, 301), 6324):
        way = plan((side, side), resolution, scale)
        assert all((each.size[0] * each.kept) ** 2 <= 160e6 for each in way.passes)
        assert all(each.size[0] <= -(-resolution // scale) for each in way.passes[1:])
        if side < resolution and scale > 1:
            last = way.passes[-1]
            assert last.size[0] * last.kept * 1.5 >= resolution


def test_a_long_strip_keeps_its_proportions_and_at_least_a_pixel() -> None:
    way = plan((4000, 16), 8192, 4)
    assert (way.passes[0].size, way.size) == ((4000, 16), (8192, 33))
    assert plan((16_000, 16), 1025, 4).size == (1025, 1)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_canvas_comes_back_as_the_picture_it_was(mode: str) -> None:
    image = photo(60, 300).convert(mode)  # higher than the rows that are converted at once
    canvas = to_canvas(image, len(mode))
    assert difference(to_image(canvas, image.size), image.convert("RGB")) == 0


def test_a_canvas_is_resampled_as_the_picture_is() -> None:
    image = photo(300)
    smaller = image.resize((170, 90), Image.Resampling.LANCZOS)
    assert difference(to_image(to_canvas(image, 3), (170, 90)), smaller) == 0


@pytest.mark.parametrize("size", [(2000, 1500), (3000, 2250)])
def test_a_canvas_is_read_and_written_in_little_memory_beside_it(size: tuple[int, int]) -> None:
    image = Image.new("RGB", (2000, 1500))
    tracemalloc.start()
    try:
        canvas = to_canvas(image, 3)
        to_image(canvas, size)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # numpy's part: the canvas, a plane in 8 bits as array and as bytes, and some rows.
    assert peak < canvas.nbytes + 2 * canvas[0].size + 20e6


def test_what_is_transparent_takes_the_colours_beside_it() -> None:
    image = disc((250, 40, 10))
    assert image.getpixel((0, 0)) == (0, 0, 0, 0)
    assert difference(bled(image), Image.new("RGB", image.size, (250, 40, 10))) <= 6


def test_what_is_visible_keeps_its_colours_to_the_bit() -> None:
    image = photo(90).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize((90, 90)))
    visible = np.asarray(image.getchannel("A")) > 0
    assert (np.asarray(bled(image))[visible] == np.asarray(image.convert("RGB"))[visible]).all()


def test_a_picture_of_which_nothing_is_visible_is_of_one_colour() -> None:
    assert bled(Image.new("RGBA", (17, 90))).getextrema() == ((0, 0),) * 3
