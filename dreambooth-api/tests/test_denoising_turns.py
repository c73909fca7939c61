"""Batches and plain pipelines get the same share of the device's time, whatever their steps take."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable

import pytest
from dreambooth_api.inference.denoising.turns import Party, Turns

WITHIN_S = 60


class Device:
    """Counts seconds as they are taken, by whom; nothing else makes its clock go."""

    def __init__(self) -> None:
        self.now = 0.0
        self.turns = Turns(clock=lambda: self.now)
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def until_wanted(self) -> None:
        """Wait until somebody waits for the turn: threads are no part of what is counted here."""
        deadline = time.monotonic() + WITHIN_S
        while not self.turns._waiting:
            assert time.monotonic() < deadline
            time.sleep(0.0001)

    def step(self, name: str, seconds: float) -> None:
        self.now += seconds
        self.seconds[name] += seconds


def run(device: Device, name: str, step_s: float, least: int, over: Callable[[], bool]) -> threading.Thread:
    """Somebody who always wants the device: for *least* steps at least, and until others had as much."""

    def work() -> None:
        party = device.turns.party()
        while not over():
            party.take()
            steps = 0
            while not over() and (steps < least or not party.over):
                device.until_wanted()
                device.step(name, step_s)
                steps += 1
            party.give_back()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize(("plain_s", "batch_s"), [(8.0, 1.0), (1.0, 1.0), (1.0, 8.0)])
def test_both_get_half_of_the_time(plain_s: float, batch_s: float) -> None:
    device = Device()

    def over() -> bool:
        return device.now >= 2000

    threads = [run(device, "plain", plain_s, 4, over), run(device, "batches", batch_s, 1, over)]
    for thread in threads:
        thread.join(WITHIN_S)
        assert not thread.is_alive()
    assert abs(device.seconds["plain"] - device.seconds["batches"]) <= 2 * max(4 * plain_s, batch_s)


def holding(device: Device, name: str, seconds: float) -> Party:
    """Somebody who has had the turn for so long."""
    party = device.turns.party()
    party.take()
    device.step(name, seconds)
    return party


def waiting(party: Party) -> threading.Thread:
    thread = threading.Thread(target=party.take, daemon=True)
    thread.start()
    return thread


def test_time_that_nobody_else_wanted_is_no_debt() -> None:
    device = Device()
    batches = holding(device, "batches", 3600)
    assert not batches.over, "nobody waits"
    plain = device.turns.party()
    taken = waiting(plain)
    device.until_wanted()
    assert batches.over
    batches.give_back()
    taken.join(WITHIN_S)
    device.step("plain", 4)
    again = waiting(batches)
    device.until_wanted()
    assert plain.over, "it had its share of the time in which both wanted it, and no hour"
    plain.give_back()
    again.join(WITHIN_S)
    assert not again.is_alive()


def test_who_was_alone_goes_on_without_giving_the_turn_back() -> None:
    device = Device()
    party = holding(device, "batches", 1)
    for _ in range(5):
        device.step("batches", 1)
        assert not party.over
    party.give_back()
    party.take()
    assert not party.over


def test_who_comes_to_an_idle_device_is_not_owed_what_others_had_before() -> None:
    device = Device()
    batches = holding(device, "batches", 18_000)
    batches.give_back()
    plain = holding(device, "plain", 1)
    waiting(batches)
    device.until_wanted()
    assert plain.over
