"""Who steps next: models share the device evenly, and so do the requests for one model."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from dreambooth_api.inference.denoising.fairness import TURN_STEPS, FairShares


@dataclass(frozen=True)
class _Adapters:
    models: str


@dataclass(eq=False)
class Picture:
    """As much of a picture under way as shares depend on."""

    model: str
    submission: str
    cost: int = 1
    position: int = 0
    adapters: _Adapters = field(init=False)

    def __post_init__(self) -> None:
        self.adapters = _Adapters(self.model)


def pictures(model: str, request: str, number: int, cost: int = 1) -> list[Picture]:
    return [Picture(model, request, cost) for _ in range(number)]


class Device:
    """Picks batches of *size*, a turn each, and counts the steps that everyone got."""

    def __init__(self, size: int) -> None:
        self.shares, self.size = FairShares(), size
        self.steps: Counter[str] = Counter()
        self.model_steps: Counter[str] = Counter()

    def pick(self, here: list[Picture], keep: tuple[Picture, ...] = ()) -> list[Picture]:
        fits = lambda batch, _: len(batch) < self.size  # noqa: E731
        return cast(list[Picture], self.shares.pick(cast(Any, here), fits, cast(Any, keep)))

    def turn(self, here: list[Picture]) -> list[Picture]:
        batch = self.pick(here)
        self.shares.charge(cast(Any, batch), TURN_STEPS)
        for picture in batch:
            picture.position += TURN_STEPS
            self.steps[picture.submission] += TURN_STEPS
            self.model_steps[picture.model] += TURN_STEPS
        return batch


def test_one_picture_of_a_quiet_model_is_in_the_next_turn_of_a_crowd() -> None:
    device, crowd = Device(8), pictures("crowded", "a", 64)
    for _ in range(20):
        device.turn(crowd)
    quiet = pictures("quiet", "b", 1)
    assert quiet[0] in device.turn(crowd + quiet)


@pytest.mark.parametrize("size", [1, 3, 8])
def test_two_models_get_the_same_however_many_want_them(size: int) -> None:
    device = Device(size)
    here = pictures("crowded", "a", 60) + pictures("small", "b", 8)
    for _ in range(48):
        device.turn(here)
    assert device.model_steps["crowded"] == pytest.approx(device.model_steps["small"], rel=0.1)


def test_requests_for_one_model_get_the_same_however_many_pictures_they_want() -> None:
    device = Device(4)
    here = pictures("shoe", "many", 16) + pictures("shoe", "few", 2) + pictures("shoe", "some", 6)
    for _ in range(30):
        device.turn(here)
    assert max(device.steps.values()) - min(device.steps.values()) <= 2 * 4 * TURN_STEPS


def test_a_large_picture_pays_for_what_it_takes() -> None:
    device = Device(1)
    here = pictures("large", "a", 1, cost=4) + pictures("small", "b", 1)
    for _ in range(50):
        device.turn(here)
    assert device.steps["b"] == pytest.approx(4 * device.steps["a"], rel=0.1)


def test_who_was_away_gets_no_more_than_others_afterwards() -> None:
    device = Device(1)
    always, sometimes = pictures("always", "a", 1), pictures("sometimes", "b", 1)
    for _ in range(100):
        device.turn(always)
    device.steps.clear()
    for _ in range(40):
        device.turn(always + sometimes)
    assert device.steps["a"] == pytest.approx(device.steps["b"], rel=0.1)


def test_begun_pictures_go_on_before_others_of_their_request_begin() -> None:
    device, here = Device(2), pictures("shoe", "a", 6)
    first = device.turn(here)
    assert set(device.turn(here)) == set(first)


def test_those_kept_stay_and_free_places_are_filled() -> None:
    device = Device(3)
    here = pictures("shoe", "a", 2) + pictures("cup", "b", 4)
    batch = device.pick(here, keep=(here[5],))
    assert batch[0] is here[5]
    assert len(batch) == 3
