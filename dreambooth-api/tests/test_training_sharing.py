"""A training beside pictures: whose turn it is, with a clock of the test's own and with a real child."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dreambooth_api.training import device_sharing, turns
from dreambooth_api.training.orders import SharingPolicy
from dreambooth_api.training.run_state import RunState
from dreambooth_api.training.runs import Trainings
from dreambooth_api.training.turns import Turns
from models_parts import store_at
from training_parts import options, photos

_LIMIT_S = 240.0
_LONG = options(steps=5000, checkpoint_interval=5000)


class Clock:
    """Time that passes when it is looked at."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.25
        return self.now


def in_time(step: threading.Thread) -> bool:
    step.join(_LIMIT_S)
    return not step.is_alive()


def waiting_step(turn: Turns) -> threading.Thread:
    step = threading.Thread(target=turn.await_step, daemon=True)
    step.start()
    return step


def test_a_step_waits_for_the_pictures_and_begins_when_none_are_wanted() -> None:
    turn = Turns("interactive-first", longest_pause_s=_LIMIT_S)
    turn.await_step()
    turn.pictures(True)
    step = waiting_step(turn)
    step.join(0.2)
    assert step.is_alive()
    turn.pictures(False)
    assert in_time(step)


def test_a_training_is_never_starved() -> None:
    turn = Turns("interactive-first", longest_pause_s=0.3)
    turn.pictures(True)
    assert in_time(waiting_step(turn))
    assert turn.paused_s >= 0.3


def test_a_run_that_is_to_end_does_not_wait_for_its_turn() -> None:
    turn = Turns("interactive-first", longest_pause_s=_LIMIT_S)
    turn.pictures(True)
    step = waiting_step(turn)
    turn.leave()
    assert in_time(step)


def test_sharing_rests_as_long_as_it_trained() -> None:
    now = [100.0]
    turn = Turns("share", clock=lambda: now[0])
    turn.await_step()
    turn.pictures(True)
    now[0] += 3.0  # the step
    step = waiting_step(turn)
    for passed in (2.9, 0.2):
        assert step.is_alive()
        now[0] += passed
        turn.pictures(True)
    assert in_time(step)
    assert turn.paused_s == pytest.approx(3.1)


def test_training_first_does_not_wait() -> None:
    turn = Turns("training-first", clock=Clock())
    turn.pictures(True)
    assert in_time(waiting_step(turn))


def test_who_shares_is_told_of_changes_only_and_at_once_when_it_comes() -> None:
    told: list[bool] = []

    class Trainer:
        def pictures_waiting(self, waiting: bool) -> None:
            told.append(waiting)

    sharing = device_sharing.DeviceSharing()
    sharing.pictures_waiting(True)
    sharing.attach(Trainer())
    for waiting in (True, False, False, True):
        sharing.pictures_waiting(waiting)
    sharing.detach()
    sharing.pictures_waiting(False)
    assert told == [True, False, True]


def run_of(folder: Path, policy: SharingPolicy) -> Iterator[tuple[Trainings, str]]:
    trainings = Trainings(folder / "data", store_at(folder), "cpu0", threads=1, policy=policy)
    run = trainings.start("default", "shoe", _LONG, photos())
    reach(trainings, run.run_id, 2)
    yield trainings, run.run_id
    trainings.shutdown(0)


def reach(trainings: Trainings, run_id: str, step: int) -> RunState:
    """The state in which `step` is done."""
    deadline = time.monotonic() + _LIMIT_S
    for state in trainings.follow(run_id, interval=0.02, stop=lambda: time.monotonic() > deadline):
        if state is not None and (state.step >= step or state.is_terminal):
            return state
    raise AssertionError(f"step {step} was not reached")


def step_of(trainings: Trainings, run_id: str) -> int:
    return trainings.get(run_id).step


@pytest.fixture
def interactive(tmp_path: Path) -> Iterator[tuple[Trainings, str]]:
    yield from run_of(tmp_path, "interactive-first")


def paused_at(trainings: Trainings, run_id: str) -> int:
    """Wait for the present step's end; the pause is far longer than any."""
    trainings.sharing.pictures_waiting(True)
    before = -1
    while before != (before := step_of(trainings, run_id)):
        time.sleep(turns.LONGEST_PAUSE_S / 5)
    return before


def test_a_real_training_pauses_for_pictures_goes_on_after_them_and_is_saved_in_a_pause(
    interactive: tuple[Trainings, str],
) -> None:
    trainings, run_id = interactive
    step = paused_at(trainings, run_id)
    reach(trainings, run_id, step + 1)  # one step after the longest pause, though pictures are wanted
    trainings.sharing.pictures_waiting(False)
    reach(trainings, run_id, step + 20)

    step = paused_at(trainings, run_id)
    last = trainings.cancel(run_id)
    assert last.status == "canceled"
    assert last.checkpoint_step is not None
    assert last.checkpoint_step >= step


@pytest.mark.parametrize("policy", ["share", "training-first"])
def test_the_other_policies_go_on_while_pictures_are_wanted(tmp_path: Path, policy: SharingPolicy) -> None:
    for trainings, run_id in run_of(tmp_path, policy):
        trainings.sharing.pictures_waiting(True)
        reach(trainings, run_id, step_of(trainings, run_id) + 10)
        trainings.cancel(run_id)
