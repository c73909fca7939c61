"""The converted networks give what spandrel gives, whole or in tiles, in every precision."""

from __future__ import annotations

import functools
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from enlight_common.queue import Canceled
from picture_parts import difference
from PIL import Image
from realesrgan_parts import FAST, as_window, photo
from realesrgan_service.models.loading import read_weights, upscaler_from
from realesrgan_service.upscaling import network as network_module
from realesrgan_service.upscaling import openvino_part
from realesrgan_service.upscaling.enlarging import enlarge, work_of
from realesrgan_service.upscaling.network import Network, Precision, network_of
from realesrgan_service.upscaling.plan import plan
from realesrgan_service.upscaling.tiles import FloatArray
from spandrel import ModelLoader

X4PLUS = "RealESRGAN_x4plus"
ANIME = "RealESRGAN_x4plus_anime_6B"


@pytest.fixture(autouse=True)
def short_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It only measures, and takes longer than the windows here, most of all in bfloat16 without its units."""
    monkeypatch.setattr(network_module, "_WARM_UP_SIDE", 16)


def network(folder: Path, name: str, precision: Precision) -> Network:
    return _network(folder, name, precision, openvino_part.available())


@functools.cache
def _network(folder: Path, name: str, precision: Precision, _on_openvino: bool) -> Network:
    model = upscaler_from(read_weights(folder / f"{name}.safetensors", "model_name"), "model_name")
    return network_of(model, "cpu", precision)


@functools.cache
def by_spandrel(folder: Path, name: str, width: int, height: int) -> FloatArray:
    """What spandrel makes of a photograph of that size."""
    model = ModelLoader("cpu").load_from_file(folder / f"{name}.safetensors").eval()
    window = torch.from_numpy(as_window(photo(width, height)))
    result: FloatArray = model(window[None])[0].numpy()
    return result


def psnr(one: FloatArray, other: FloatArray) -> float:
    return float(-10 * np.log10(np.mean((one - other) ** 2)))


def test_x4plus_is_spandrels(converted_models: Path) -> None:
    window = as_window(photo(32))
    expected = by_spandrel(converted_models, X4PLUS, 32, 32)
    full = network(converted_models, X4PLUS, "fp32")(window, lambda: False)
    assert np.abs(full - expected).max() <= 1 / 255


@pytest.mark.parametrize("name", [ANIME, FAST])
@pytest.mark.parametrize("installed", [True, False])
def test_the_others_are_too_with_openvino_and_without(
    converted_models: Path, name: str, installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not installed:
        monkeypatch.setattr(openvino_part, "available", lambda: False)
    window = as_window(photo(40, 28))
    expected = by_spandrel(converted_models, name, 40, 28)
    full = network(converted_models, name, "fp32")
    assert full.engine == ("openvino" if installed else "torch")
    assert np.abs(full(window, lambda: False) - expected).max() <= 1 / 255
    assert psnr(network(converted_models, name, "bf16")(window, lambda: False), expected) >= 50


@pytest.mark.parametrize(
    ("name", "size", "tile"), [(X4PLUS, (176, 16), 44), (ANIME, (176, 24), 64), (FAST, (160, 48), 48)]
)
def test_tiles_give_what_the_whole_picture_gives(
    converted_models: Path, name: str, size: tuple[int, int], tile: int
) -> None:
    image, network_ = photo(*size), network(converted_models, name, "fp32")
    assert len(work_of(plan(size, 4 * size[0], 4), network_, tile).tiles[0]) > 1
    whole, tiled = (_enlarged(image, network_, tile=each) for each in (4096, tile))
    assert difference(whole, tiled) <= 1


def test_what_is_kept_at_half_its_size_is_the_mean_of_each_four_pixels(converted_models: Path) -> None:
    image, network_ = photo(160, 48), network(converted_models, FAST, "fp32")
    way = plan(image.size, 640, 4)
    halved = replace(way, passes=tuple(replace(each, kept=2) for each in way.passes), size=(320, 96))
    work = work_of(halved, network_, 48)
    assert len(work.tiles[0]) > 1
    small = enlarge(image, network_, work, stop=lambda: False, report=lambda done, left: None)
    assert difference(small, _enlarged(image, network_).reduce(2)) <= 1


def test_a_second_pass_is_given_no_more_than_it_needs(converted_models: Path) -> None:
    image, network_ = photo(34, 16), network(converted_models, FAST, "fp32")
    work = work_of(plan(image.size, 205, 4), network_, 768)
    assert work.pixels == 34 * 16 + 52 * 24
    assert _enlarged(image, network_, size=205).size == (205, 96)


def test_the_layers_after_the_enlarging_are_the_same_in_tiles(converted_models: Path) -> None:
    # Wider than the tiles of those layers, so that there is a seam at 128.
    window = as_window(photo(140, 24))
    expected = by_spandrel(converted_models, ANIME, 140, 24)
    assert (
        np.abs(network(converted_models, ANIME, "fp32")(window, lambda: False) - expected).max() < 0.5 / 255
    )


def test_what_is_not_a_multiple_of_the_scale_is_resampled_at_the_end(converted_models: Path) -> None:
    image = photo(40, 24)
    network_ = network(converted_models, FAST, "fp32")
    expected = by_spandrel(converted_models, FAST, 40, 24).transpose(1, 2, 0)
    whole = Image.fromarray(np.rint(expected * 255).astype(np.uint8))
    assert difference(_enlarged(image, network_, size=160), whole) <= 1
    assert (
        difference(_enlarged(image, network_, size=100), whole.resize((100, 60), Image.Resampling.LANCZOS))
        <= 2
    )


@pytest.mark.parametrize("installed", [True, False])
def test_a_network_stops_in_the_middle_of_a_tile(
    converted_models: Path, installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not installed:
        monkeypatch.setattr(openvino_part, "available", lambda: False)
    network_ = network(converted_models, ANIME, "fp32")
    looks = threading.Semaphore(2)
    window = as_window(photo(200, 160))
    with pytest.raises(Canceled):
        network_(window, lambda: not looks.acquire(blocking=False))
    small = as_window(photo(32))
    expected = by_spandrel(converted_models, ANIME, 32, 32)
    assert np.abs(network_(small, lambda: False) - expected).max() <= 1 / 255, "it works on afterwards"


@pytest.mark.skipif(not openvino_part.available(), reason="OpenVINO is not installed")
def test_what_was_broken_off_leaves_nothing_behind(
    converted_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_part, "_LOOK_MS", 5)
    network_ = network(converted_models, FAST, "fp32")
    small, large = as_window(photo(32)), as_window(photo(200, 160))
    expected = by_spandrel(converted_models, FAST, 32, 32)
    for _ in range(4):
        network_(small, lambda: False)
        with pytest.raises(Canceled):
            network_(large, lambda: True)
        assert np.abs(network_(small, lambda: False) - expected).max() <= 1 / 255
        assert network_(large, lambda: False).shape[1:] == (4 * 160, 4 * 200)


def _enlarged(
    image: Image.Image, network_: Network, *, tile: int = 4096, size: int | None = None
) -> Image.Image:
    way = plan(image.size, size or max(image.size) * network_.scale, network_.scale)
    work = work_of(way, network_, tile)
    told: list[float] = []
    enlarged = enlarge(image, network_, work, stop=lambda: False, report=lambda done, left: told.append(done))
    assert told == sorted(told)
    assert told[-1] == 1
    assert len(told) == sum(len(tiles) for tiles in work.tiles)
    return enlarged
