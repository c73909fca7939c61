"""A thousand adapters pass through eight slots: nothing grows, nothing drifts."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import torch
from denoising_parts import Wanted, adapters_of, denoiser, step_all, under_way
from dreambooth_api.inference.denoising.adapter_sets import AdapterSet
from dreambooth_api.inference.denoising.underway import PictureUnderWay
from dreambooth_api.models.artifact import ModelKey

ADAPTERS, AT_ONCE = 1000, 8
#: Adapters of their own numbers; the thousand have these in turn.
DIFFERENT = 16
ONE_STEP: dict[str, Any] = {"steps": 1, "guidance": 1.0, "sampler": "ddim"}


def tensor_bytes() -> int:
    gc.collect()
    alive = {one.data_ptr(): one for one in gc.get_objects() if type(one) is torch.Tensor}
    return sum(one.numel() * one.element_size() for one in alive.values())


def with_new_adapter(number: int) -> PictureUnderWay:
    """A picture whose adapter nobody had before."""
    picture = under_way(Wanted(adapters=((number % DIFFERENT, 1.0),), **ONE_STEP))
    (use,) = picture.adapters.uses
    picture.adapters = AdapterSet((replace(use, key=ModelKey("default", f"new{number}", "1")),))
    return picture


def test_a_thousand_adapters_leave_the_memory_and_the_picture_as_they_were() -> None:
    steps = denoiser(AT_ONCE)
    wanted = [Wanted(**ONE_STEP), Wanted(adapters=((3, 0.7), (5, -1.0)), **ONE_STEP)]

    def drawn() -> list[torch.Tensor]:
        pictures = [under_way(one) for one in wanted]
        for picture in pictures:
            step_all(steps, {0: [picture]})
        return [picture.latents.clone() for picture in pictures]

    for number in range(DIFFERENT):
        adapters_of(Wanted(adapters=((number, 1.0),)))
    for number in range(0, 3 * AT_ONCE, AT_ONCE):
        step_all(steps, {0: [with_new_adapter(number + one) for one in range(AT_ONCE)]})
    before, bytes_before = drawn(), tensor_bytes()
    for number in range(3 * AT_ONCE, 3 * AT_ONCE + ADAPTERS, AT_ONCE):
        step_all(steps, {0: [with_new_adapter(number + one) for one in range(AT_ONCE)]})
    after = drawn()
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert tensor_bytes() < bytes_before + 10**6
