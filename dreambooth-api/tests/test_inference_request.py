"""What a request leaves open is decided by the base model, within its bounds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from dreambooth_api.inference.request import MAX_AREAS, DrawRequest, settle
from dreambooth_api.models.bases import TINY, resolve_base
from enlight_common.errors import InvalidField
from PIL import Image

SD1 = resolve_base("stable-diffusion-v1-5/stable-diffusion-v1-5")
SD2 = resolve_base("stabilityai/stable-diffusion-2")
REQUEST = DrawRequest("a shoe")


@pytest.mark.parametrize(("base", "side"), [(SD1, 512), (SD2, 768), (resolve_base(TINY), 128)])
def test_the_size_is_what_the_base_was_trained_for(base, side) -> None:  # type: ignore[no-untyped-def]
    drawing = settle(REQUEST, base)
    assert (drawing.width, drawing.height) == (side, side)


def test_full_size_models_get_their_usual_steps_and_guidance() -> None:
    drawing = settle(REQUEST, SD1)
    assert (drawing.steps, drawing.guidance_scale) == (50, 7.5)


def test_the_area_is_bounded_whatever_its_shape() -> None:
    side = SD1.resolution
    assert settle(replace(REQUEST, width=4 * side, height=side), SD1).width == MAX_AREAS * side
    with pytest.raises(InvalidField, match="size"):
        settle(replace(REQUEST, width=4 * side, height=side + 8), SD1)


@pytest.mark.parametrize("shape", [(3000, 1000), (1000, 3000), (64, 64), (4000, 16), (16, 4000), (513, 511)])
def test_a_picture_to_start_from_gives_the_shape_at_the_trained_area(shape: tuple[int, int]) -> None:
    drawing = settle(replace(REQUEST, image=Image.new("RGB", shape)), SD1)
    assert drawing.width % 8 == drawing.height % 8 == 0
    assert min(drawing.width, drawing.height) >= 64
    assert drawing.width * drawing.height <= SD1.resolution**2
    assert (drawing.width >= drawing.height) == (shape[0] >= shape[1])


def test_no_two_requests_without_a_seed_get_the_same() -> None:
    seeds = {settle(REQUEST, SD1).seed for _ in range(5)}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_a_strength_that_leaves_no_step_is_refused() -> None:
    request = replace(REQUEST, image=Image.new("RGB", (64, 64)), steps=4, strength=0.2)
    with pytest.raises(InvalidField, match="strength"):
        settle(request, SD1)
    assert settle(replace(request, strength=0.25), SD1).strength == 0.25


def test_a_sampler_with_a_bound_of_its_own_keeps_it() -> None:
    assert settle(replace(REQUEST, scheduler="lcm", steps=50), SD1).steps == 50
    with pytest.raises(InvalidField, match="num_inference_steps: must be at most 50"):
        settle(replace(REQUEST, scheduler="lcm", steps=51), SD1)
