"""What goes wrong with one picture ends nobody else's, and who is gone takes no more steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from denoising_parts import EQUAL, Wanted, denoiser, error, ours, step_all, under_way
from dreambooth_api.inference.caller import Caller
from dreambooth_api.inference.denoising import pace
from dreambooth_api.inference.denoising.loop import StepLoop
from dreambooth_api.inference.denoising.submission import Submission
from dreambooth_api.inference.denoising.turns import Turns
from enlight_common.errors import OutOfMemory, TimedOut
from enlight_common.queue import Canceled

KEPT = Wanted(seed=1, steps=4)


class Unet:
    """The UNet, after *before* was called with the rows that it is given."""

    def __init__(self, before: Callable[[int], None]) -> None:
        self._before = before

    def __call__(self, rows: torch.Tensor, *args: Any, **options: Any) -> Any:
        self._before(len(rows))
        return ours().unet(rows, *args, **options)


def of(submission: Submission, seed: int = 9, **changes: Any) -> Any:
    return under_way(Wanted(seed=seed, **changes), submission)


def test_a_client_that_goes_takes_no_more_steps_and_others_go_on() -> None:
    gone: list[bool] = []
    leaving = Submission(1, Caller(stop=lambda: bool(gone)))
    left, kept = of(leaving, steps=6), under_way(KEPT)

    def look(number: int) -> None:
        if number == 1:
            gone.append(True)

    step_all(denoiser(), {0: [left, kept]}, look)
    assert left.position == 2
    assert error(KEPT, kept) < EQUAL
    with pytest.raises(Canceled):
        leaving.result()


def test_the_place_of_one_who_went_is_taken_at_the_next_step() -> None:
    gone: list[bool] = []
    first, waiting = of(Submission(1, Caller(stop=lambda: bool(gone))), steps=6), under_way(KEPT)
    seen: list[int] = []

    def look(number: int) -> None:
        seen.append(waiting.position)
        if number == 1:
            gone.append(True)

    step_all(denoiser(max_batch=1), {0: [first, waiting]}, look)
    assert seen[:4] == [0, 0, 1, 2]
    assert error(KEPT, waiting) < EQUAL


def test_a_deadline_that_passed_ends_the_request_between_steps() -> None:
    late = Submission(1, Caller(deadline_s=0.0))
    picture, kept = of(late), under_way(KEPT)
    step_all(denoiser(), {0: [picture, kept]})
    with pytest.raises(TimedOut):
        late.result()
    assert error(KEPT, kept) < EQUAL


@pytest.mark.parametrize("at_fault", ["stop", "on_step"])
def test_a_callback_that_raises_ends_its_own_request_alone(at_fault: str) -> None:
    def fails(*_: object) -> Any:
        raise KeyError("mine")

    mine = Submission(1, Caller(stop=fails)) if at_fault == "stop" else Submission(1, on_step=fails)
    kept = under_way(KEPT)
    step_all(denoiser(), {0: [of(mine), kept]})
    with pytest.raises(KeyError):
        mine.result()
    assert error(KEPT, kept) < EQUAL


def test_a_step_that_fails_ends_those_in_it_and_not_those_who_wait() -> None:
    failing = iter([False, True])

    def before(_rows: int) -> None:
        if next(failing, False):
            raise RuntimeError("broken")

    mine, later = Submission(1), under_way(KEPT)
    step_all(denoiser(max_batch=1, unet=Unet(before)), {0: [of(mine, steps=3), later]})
    with pytest.raises(RuntimeError, match="broken"):
        mine.result()
    assert error(KEPT, later) < EQUAL


def test_a_batch_that_does_not_fit_into_the_memory_is_halved_and_loses_no_step() -> None:
    sizes: list[int] = []

    def before(rows: int) -> None:
        if rows > 4:
            raise torch.OutOfMemoryError("too much")
        sizes.append(rows)

    wanted = [Wanted(seed=number, sampler="euler_a", steps=3) for number in range(5)]
    pictures = [under_way(one) for one in wanted]
    step_all(denoiser(unet=Unet(before)), {0: pictures})
    assert max(sizes) == 4
    assert sum(sizes) == 2 * 5 * 3, "no step was taken twice"
    for one, picture in zip(wanted, pictures, strict=True):
        assert error(one, picture) < EQUAL, "noise that a failed step drew is not drawn again"


def test_a_picture_that_fits_not_even_alone_is_refused() -> None:
    def before(_rows: int) -> None:
        raise torch.OutOfMemoryError("too much")

    mine = Submission(1)
    step_all(denoiser(unet=Unet(before)), {0: [of(mine)]})
    with pytest.raises(OutOfMemory):
        mine.result()


def test_progress_counts_the_steps_of_all_pictures_of_a_request() -> None:
    told: list[tuple[int, int]] = []
    mine = Submission(2, on_step=lambda done, steps: told.append((done, steps)))
    mine.expect(6)
    step_all(denoiser(), {0: [of(mine, steps=3)], 1: [of(mine, seed=8, steps=3)]})
    assert told == [(1, 6), (3, 6), (5, 6), (6, 6)]
    assert mine.device_seconds > 0


def test_only_the_time_in_steps_counts_as_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = 0.0

    def pass_(more: float) -> None:
        nonlocal seconds
        seconds += more

    monkeypatch.setattr(pace, "time", SimpleNamespace(perf_counter=lambda: seconds))
    steps, mine, others = denoiser(unet=Unet(lambda _: pass_(1.0))), Submission(1), Submission(3)
    # Between two steps somebody else has the turn, for longer than any step takes.
    pictures = [of(mine, steps=4), *[of(others, seed=seed, steps=4) for seed in range(3)]]
    step_all(steps, {0: pictures}, lambda _: pass_(1000.0))
    assert (mine.device_seconds, others.device_seconds) == (1.0, 3.0)


def test_the_thread_goes_on_after_what_should_not_have_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = denoiser()
    finished: list[Any] = []
    loop = StepLoop(steps, Turns().party(), finished.append)
    unlucky, kept = Submission(1), Submission(1)
    with monkeypatch.context() as patch:

        def breaks(*_: object) -> None:
            raise RuntimeError("the device is gone")

        patch.setattr(steps, "_account", breaks)
        loop.submit([of(unlucky)])
        with pytest.raises(RuntimeError, match="the device is gone"):
            unlucky.result()
    loop.submit([picture := of(kept, seed=1, steps=4)])
    deadline = time.monotonic() + 60
    while not finished and time.monotonic() < deadline:
        time.sleep(0.01)
    loop.close(time.monotonic() + 60)
    assert finished == [picture]
    assert error(KEPT, picture) < EQUAL
