"""A batch is as large as fits and still pays, learned from the steps themselves."""

from __future__ import annotations

from dreambooth_api.inference.denoising.batch_sizes import BatchSizes

SHAPE = (16, 16)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def observed(sizes: BatchSizes, seconds: dict[int, float], times: int = 6) -> None:
    for size, taken in seconds.items():
        for _ in range(times):
            sizes.observe(SHAPE, size, taken)


def test_unknown_sizes_are_tried_up_to_the_bounds() -> None:
    assert BatchSizes(8, 10**6).limit(SHAPE) == 8
    assert BatchSizes(8, 3 * 16 * 16).limit(SHAPE) == 3
    assert BatchSizes(8, 10).limit(SHAPE) == 1, "one picture is drawn whatever its size"


def test_a_size_that_draws_no_more_a_second_is_not_used() -> None:
    sizes = BatchSizes(8, 10**6)
    observed(sizes, {1: 0.1, 4: 0.2, 8: 0.4})
    assert sizes.limit(SHAPE) == 4


def test_a_size_that_draws_more_a_second_is_used() -> None:
    sizes = BatchSizes(8, 10**6)
    observed(sizes, {1: 0.1, 4: 0.2, 8: 0.3})
    assert sizes.limit(SHAPE) == 8


def test_one_slow_step_decides_nothing() -> None:
    sizes = BatchSizes(8, 10**6)
    observed(sizes, {4: 0.2, 8: 0.3})
    observed(sizes, {8: 60.0}, times=2)
    assert sizes.limit(SHAPE) == 8
    assert BatchSizes(8, 10**6).limit((32, 32)) == 8


def test_what_did_not_pay_is_tried_again_later() -> None:
    clock = Clock()
    sizes = BatchSizes(8, 10**6, clock=clock)
    observed(sizes, {4: 0.2, 8: 0.4})
    clock.now = 300
    observed(sizes, {4: 0.2})
    assert sizes.limit(SHAPE) == 4
    clock.now = 700
    assert sizes.limit(SHAPE) == 8


def test_a_batch_that_did_not_fit_is_halved_for_its_shape_alone() -> None:
    sizes = BatchSizes(8, 10**6)
    sizes.does_not_fit(SHAPE, 8)
    assert sizes.limit(SHAPE) == 4
    assert sizes.limit((8, 8)) == 8
    sizes.does_not_fit(SHAPE, 1)
    assert sizes.limit(SHAPE) == 1
