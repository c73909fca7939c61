"""The engines against what they are made of: plain diffusers, and transformers' own processor and model."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionUpscalePipeline
from enlight_common.errors import InvalidField
from enlight_common.queue import Canceled
from picture_parts import difference
from PIL import Image
from transformers import Swin2SRForImageSuperResolution, Swin2SRImageProcessor
from upsampler.diffusion import DiffusionEngine
from upsampler.models import SWIN2SR, TINY, TINY_FOLDER, known_upscalers, resolve_upscaler
from upsampler.request import Manner
from upsampler.swin2sr import Swin2SREngine
from upsampler.tiles import cut
from upsampler_parts import photo, pixels, save_swin2sr

MANNER = Manner(tile=64, overlap=16, seed=7, prompt="a red mug", steps=2, noise_level=20)


def never() -> bool:
    return False


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_picture_of_one_tile_is_what_plain_diffusers_draws(
    tiny_x4: DiffusionEngine, guidance: float
) -> None:
    plain = StableDiffusionUpscalePipeline.from_pretrained(TINY_FOLDER)
    plain.set_progress_bar_config(disable=True)
    expected = plain(
        prompt="a red mug",
        negative_prompt="a blue hat",
        image=photo(64, 48),
        num_inference_steps=3,
        guidance_scale=guidance,
        noise_level=20,
        generator=torch.Generator().manual_seed(7),
    ).images[0]
    manner = replace(MANNER, steps=3, guidance_scale=guidance, negative_prompt="a blue hat")
    assert difference(tiny_x4.enlarge(photo(64, 48), manner, never), expected) <= 1


def test_the_order_of_the_tiles_changes_nothing(tiny_x4: DiffusionEngine) -> None:
    tiles = cut(112, 64, size=64, overlap=16)
    assert len(tiles) > 1
    forwards = tiny_x4.enlarge(photo(112, 64), MANNER, never, tiles=tiles)
    backwards = tiny_x4.enlarge(photo(112, 64), MANNER, never, tiles=tiles[::-1])
    assert difference(forwards, backwards) <= 1


def test_tiles_leave_no_seam(tiny_x4: DiffusionEngine) -> None:
    whole = pixels(tiny_x4.enlarge(photo(112, 64), replace(MANNER, tile=112), never))
    tiled = pixels(tiny_x4.enlarge(photo(112, 64), MANNER, never))
    steps_of_whole, steps_of_tiled = (np.abs(np.diff(each, axis=1)).mean((0, 2)) for each in (whole, tiled))
    border = slice(4 * 48 - 2, 4 * 64 + 2)
    assert steps_of_tiled[border].max() <= steps_of_whole[border].max() + 2


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (50, 20)])
def test_sides_need_not_suit_the_network(tiny_x4: DiffusionEngine, size: tuple[int, int]) -> None:
    assert tiny_x4.enlarge(photo(*size), MANNER, never).size == (4 * size[0], 4 * size[1])


def test_a_seed_is_the_picture_and_noise_lets_seeds_differ(tiny_x4: DiffusionEngine) -> None:
    free = replace(MANNER, noise_level=200)
    first, again = (tiny_x4.enlarge(photo(32), free, never) for _ in range(2))
    assert difference(first, again) == 0
    assert difference(first, tiny_x4.enlarge(photo(32), replace(free, seed=8), never)) > 0


def test_it_stops_between_steps_and_between_tiles(tiny_x4: DiffusionEngine) -> None:
    asked = itertools.count()
    with pytest.raises(Canceled):
        tiny_x4.enlarge(photo(32), replace(MANNER, steps=50), lambda: next(asked) >= 2)
    assert next(asked) == 3
    asked = itertools.count()
    with pytest.raises(Canceled):
        tiny_x4.enlarge(photo(112, 64), MANNER, lambda: next(asked) >= MANNER.steps + 1)
    assert next(asked) == MANNER.steps + 2


@pytest.fixture(scope="module", params=[2, 4])
def swin2sr(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Swin2SREngine:
    weights = tmp_path_factory.mktemp("swin2sr")
    save_swin2sr(weights / "upsampler" / "random", request.param)
    upscaler = resolve_upscaler("random", weights)
    return Swin2SREngine(upscaler, Path(upscaler.source), "cpu")


@pytest.mark.parametrize("size", [(32, 32), (33, 21)])
def test_swin2sr_is_what_its_own_processor_and_model_give(
    swin2sr: Swin2SREngine, size: tuple[int, int]
) -> None:
    folder, image = swin2sr.upscaler.source, photo(*size)
    inputs = Swin2SRImageProcessor.from_pretrained(folder)(image, return_tensors="pt")
    with torch.no_grad():
        outputs = Swin2SRForImageSuperResolution.from_pretrained(folder)(**inputs)
    # As the model's page on the hub says.
    output = outputs.reconstruction.data.squeeze().float().cpu().clamp_(0, 1).numpy()
    expected = Image.fromarray((np.moveaxis(output, 0, -1) * 255.0).round().astype(np.uint8))
    enlarged = swin2sr.enlarge(image, Manner(tile=64, overlap=16, seed=0), never)
    assert enlarged.size == tuple(side * swin2sr.factor for side in size)
    assert difference(enlarged, expected.crop((0, 0, *enlarged.size))) == 0


def test_swin2sr_stops_between_tiles(swin2sr: Swin2SREngine) -> None:
    asked = itertools.count()
    with pytest.raises(Canceled):
        swin2sr.enlarge(photo(64), Manner(tile=32, overlap=8, seed=0), lambda: next(asked) >= 1)


def test_models_in_the_folder_of_weights_are_known_by_name(tmp_path: Path) -> None:
    save_swin2sr(tmp_path / "upsampler" / "mine")
    names = [upscaler.name for upscaler in known_upscalers(tmp_path)]
    assert names[-1] == "mine"
    assert {TINY, SWIN2SR, "stabilityai/stable-diffusion-x4-upscaler"} <= set(names)
    assert resolve_upscaler("mine", tmp_path).engine == "swin2sr"


def test_what_is_no_upscaler_or_no_safetensors_is_not(tmp_path: Path) -> None:
    folder = save_swin2sr(tmp_path / "upsampler" / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    (tmp_path / "upsampler" / "nothing").mkdir()
    (tmp_path / "upsampler" / "no-json").mkdir()
    (tmp_path / "upsampler" / "no-json" / "config.json").write_text("[")
    assert len(known_upscalers(tmp_path)) == len(known_upscalers(tmp_path / "elsewhere"))
    for name in ("pickled", "nothing", "no-json", "../upsampler/pickled", str(folder)):
        with pytest.raises(InvalidField, match=TINY):
            resolve_upscaler(name, tmp_path)
