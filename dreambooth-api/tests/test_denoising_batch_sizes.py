"""A batch is as large as fits and still pays, learned from the steps themselves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dreambooth_api.inference.denoising.batch_sizes import BatchSizes, Figure
from dreambooth_api.inference.denoising.kept_figures import KeptFigures

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


def test_a_size_that_did_not_fit_is_tried_again_later() -> None:
    clock = Clock()
    sizes = BatchSizes(8, 10**6, clock=clock)
    sizes.does_not_fit(SHAPE, 8)
    clock.now = 500
    assert sizes.limit(SHAPE) == 4
    sizes.does_not_fit(SHAPE, 4)
    clock.now = 900
    assert sizes.limit(SHAPE) == 2, "it did not fit again meanwhile"
    clock.now = 1200
    assert sizes.limit(SHAPE) == 8


def test_shapes_that_clients_think_of_do_not_pile_up() -> None:
    sizes = BatchSizes(8, 10**6)
    for number in range(5000):
        sizes.observe((8 + number, 8), 1, 0.1)
        sizes.does_not_fit((8 + number, 8), 8)
        observed(sizes, {4: 0.2, 8: 0.4}, times=1)
    assert len(sizes._measured) <= 512
    assert len(sizes._fitting) <= 512
    assert sizes.limit(SHAPE) == 4, "what is drawn all the time is known all the time"


KNOWN = [Figure(SHAPE, 4, 0.2), Figure(SHAPE, 8, 0.4)]
RUNS = {"base": "tiny", "device": "a GPU", "torch": "2"}


def test_what_was_known_before_counts_as_measured_now() -> None:
    clock = Clock()
    sizes = BatchSizes(8, 10**6, clock=clock)
    sizes.recall(KNOWN)
    assert sizes.limit(SHAPE) == 4
    clock.now = 700
    assert sizes.limit(SHAPE) == 8


def test_figures_are_told_when_there_is_another_one() -> None:
    told: list[list[Figure]] = []
    sizes = BatchSizes(8, 10**6)
    sizes.learned = told.append
    sizes.recall(KNOWN[:1])
    observed(sizes, {8: 0.4}, times=20)
    assert told == [KNOWN]


def test_figures_are_kept_for_the_same_base_device_and_torch(tmp_path: Path) -> None:
    folder = tmp_path / "with a space" / "figures"
    kept = KeptFigures(folder, RUNS)
    assert kept.read() == []
    kept.write(KNOWN)
    assert KeptFigures(folder, RUNS).read() == KNOWN
    assert KeptFigures(folder, {**RUNS, "torch": "3"}).read() == []
    assert len(list(folder.iterdir())) == 1, "nothing half written is left"


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"schema_version": 1}',
        b'{"schema_version": 1, "runs": RUNS, "figures": [{}]}',
        b'{"schema_version": 1, "runs": RUNS, "figures": [FIGURE, "size": 0, "seconds": 1}]}',
        b'{"schema_version": 1, "runs": RUNS, "figures": [FIGURE, "size": 1, "seconds": NaN}]}',
    ],
)
def test_a_broken_file_is_ignored_and_replaced(tmp_path: Path, broken: bytes) -> None:
    kept = KeptFigures(tmp_path, RUNS)
    kept.write(KNOWN)
    (file,) = tmp_path.iterdir()
    side = b'{"height": 1, "width": 1'
    file.write_bytes(broken.replace(b"RUNS", json.dumps(RUNS).encode()).replace(b"FIGURE", side))
    assert kept.read() == []
    kept.write(KNOWN)
    assert kept.read() == KNOWN


def test_figures_that_cannot_be_written_are_done_without(tmp_path: Path) -> None:
    (tmp_path / "figures").write_text("a file where the folder should be")
    kept = KeptFigures(tmp_path / "figures", RUNS)
    kept.write(KNOWN)
    assert kept.read() == []
