"""A picture of a batch is the one that plain diffusers draws alone, whoever else is in it, and whenever."""

from __future__ import annotations

import pytest
from denoising_parts import BATCHED, EQUAL, Wanted, by_diffusers, denoiser, error, step_all, under_way
from dreambooth_api.inference.denoising.submission import Submission
from dreambooth_api.inference.denoising.underway import PictureUnderWay
from hypothesis import given, settings
from hypothesis import strategies as st

SAMPLERS = ("pndm", "heun", *BATCHED)
#: Other people's pictures: other samplers, lengths, guidance and adapters.
OTHERS = [
    Wanted(
        seed=50 + number,
        sampler=SAMPLERS[number],
        steps=5 - number % 4,
        guidance=(1.0, 4.0, 7.5)[number % 3],
        adapters=((), ((number, 0.8),), ((number, 1.0), (number + 1, -0.5)))[number % 3],
    )
    for number in range(7)
]


def is_right(wanted: Wanted, picture: PictureUnderWay) -> bool:
    return error(wanted, picture) < EQUAL


ADAPTERS: dict[str, tuple[tuple[int, float], ...]] = {
    "none": (),
    "one": ((1, 1.0),),
    "one at 0.7": ((1, 0.7),),
    "one subtracted": ((2, -1.0),),
    "one at nothing": ((1, 0.0),),
    "two": ((1, 0.7), (2, -1.0)),
    "three": ((1, 0.7), (2, -1.0), (3, 0.3)),
}


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_it_is_the_same_among_others(sampler: str, several: bool) -> None:
    # Every sampler with one adapter and with more; their weights, batches of 1 to 8, and guidance in turn.
    number = 2 * SAMPLERS.index(sampler) + several
    choices = [chosen for chosen, uses in ADAPTERS.items() if (len(uses) > 1) == several]
    chosen = choices[number // 2 % len(choices)]
    guidance = 1.0 if number % 3 == 0 else 4.0
    wanted = Wanted(sampler=sampler, guidance=guidance, adapters=ADAPTERS[chosen], steps=3)
    picture = under_way(wanted)
    others = [under_way(other) for other in OTHERS[: number % 8]]
    step_all(denoiser(), {0: others, 1: [picture]})
    assert is_right(wanted, picture)
    assert all(map(is_right, OTHERS, others))


def test_an_adapter_makes_another_picture() -> None:
    assert float((by_diffusers(Wanted(adapters=ADAPTERS["one"])) - by_diffusers(Wanted())).abs().max()) > 0.1


KINDS = [
    Wanted(sampler="pndm", seed=1, steps=6, guidance=1.0),
    Wanted(sampler="dpm++_2m", seed=1, steps=5),
    Wanted(sampler="euler_a", seed=2, guidance=1.0),
    *OTHERS,
]


@settings(max_examples=15, deadline=None)
@given(
    came=st.lists(st.tuples(st.integers(0, 8), st.integers(0, len(KINDS) - 1)), min_size=1, max_size=12),
    max_batch=st.integers(1, 8),
)
def test_it_is_the_same_whenever_others_come_and_leave(came: list[tuple[int, int]], max_batch: int) -> None:
    pictures = [(number, KINDS[kind], under_way(KINDS[kind])) for number, kind in came]
    arrivals: dict[int, list[PictureUnderWay]] = {}
    for number, _, picture in pictures:
        arrivals.setdefault(number, []).append(picture)
    done = step_all(denoiser(max_batch), arrivals)
    assert {id(picture) for picture in done} == {id(picture) for _, _, picture in pictures}
    for _, wanted, picture in pictures:
        assert is_right(wanted, picture)


def test_a_new_picture_is_in_the_next_step_of_a_running_batch() -> None:
    first, second = under_way(Wanted(steps=6)), under_way(Wanted(seed=1, steps=3))
    seen: list[tuple[int, int]] = []
    step_all(denoiser(), {0: [first], 2: [second]}, lambda _: seen.append((first.position, second.position)))
    assert seen[:3] == [(1, 0), (2, 0), (3, 1)]


def test_pictures_of_other_sizes_wait_for_a_batch_of_their_own() -> None:
    tall = Wanted(seed=1, width=64, height=96)
    small, large = under_way(Wanted()), under_way(tall)
    step_all(denoiser(), {0: [small, large]})
    assert is_right(Wanted(), small)
    assert is_right(tall, large)


def test_a_picture_takes_exactly_its_steps() -> None:
    short, long = under_way(Wanted(steps=1)), under_way(Wanted(seed=1, steps=5))
    done = step_all(denoiser(), {0: [long, short]})
    assert done == [short, long]
    assert (short.position, long.position) == (1, 5)


def test_a_picture_keeps_the_earlier_outputs_that_its_own_sampler_takes_and_no_more() -> None:
    wanted = {sampler: Wanted(sampler=sampler, steps=5) for sampler in ("pndm", "heun", "euler")}
    pictures = {sampler: under_way(one) for sampler, one in wanted.items()}
    step_all(denoiser(), {0: pictures.values()})
    assert {sampler: len(picture.earlier) for sampler, picture in pictures.items()} == {
        "pndm": 4,
        "heun": 0,
        "euler": 0,
    }


@pytest.mark.parametrize(
    ("sampler", "counted"),
    [("ddim", [1, 2, 3, 4]), ("pndm", [0, 1, 2, 3, 4]), ("heun", [0, 1, 1, 2, 2, 3, 4])],
)
def test_progress_counts_the_steps_that_were_asked_for(sampler: str, counted: list[int]) -> None:
    told: list[tuple[int, int]] = []
    mine = Submission(1, on_step=lambda done, steps: told.append((done, steps)))
    mine.expect(4)
    step_all(denoiser(), {0: [under_way(Wanted(sampler=sampler, steps=4), mine)]})
    assert told == [(done, 4) for done in counted]
