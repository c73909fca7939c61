"""Which models are in memory, and what is said of those that cannot be."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from enlight_common.errors import OutOfMemory, Overloaded
from enlight_common.queue import WorkQueue
from upsampler.loading import LoadedEngines, ModelUnavailable
from upsampler.models import Upscaler, resolve_upscaler
from upsampler_parts import save_swin2sr

from upsampler import loading


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    for name in ("kept", "second", "third", "damaged"):
        save_swin2sr(folder / "upsampler" / name)
    (folder / "upsampler" / "damaged" / "model.safetensors").write_bytes(b"not safetensors")
    return folder


class Held:
    """A queue whose thread is held up until it is released."""

    def __init__(self, queue: WorkQueue) -> None:
        self._released, self._queue = threading.Event(), queue
        self._threads: list[threading.Thread] = []

    def add(self) -> None:
        """Another piece of work; the first holds the thread, the next waits behind it."""
        before = (self._queue.busy, self._queue.length)
        work = threading.Thread(
            target=self._queue.run,
            args=(lambda _stop: self._released.wait(),),
            kwargs={"units": 0, "stop": lambda: False},
        )
        work.start()
        self._threads.append(work)
        expected = (True, before[1] + 1 if before[0] else 0)
        while (self._queue.busy, self._queue.length) != expected:
            time.sleep(0.01)

    def release(self) -> None:
        self._released.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def queue() -> WorkQueue:
    return WorkQueue(1)


@pytest.fixture
def held(queue: WorkQueue) -> Iterator[Held]:
    held = Held(queue)
    yield held
    held.release()


def engines(queue: WorkQueue, weights: Path, limit: int = 2) -> LoadedEngines:
    return LoadedEngines(queue, "cpu", limit, hub_folder=weights / "hub", keep="kept")


def upscaler(weights: Path, name: str) -> Upscaler:
    return resolve_upscaler(name, weights)


def test_what_fails_to_load_costs_nobody_a_place_and_the_default_keeps_its_own(
    queue: WorkQueue, weights: Path
) -> None:
    loaded = engines(queue, weights)
    for name in ("kept", "second"):
        loaded.get(upscaler(weights, name))
    with pytest.raises(ModelUnavailable, match="damaged is on this machine, and its files are damaged"):
        loaded.get(upscaler(weights, "damaged"))
    assert loaded.names == ["kept", "second"]
    assert loaded.get(upscaler(weights, "third")).factor == 4
    assert loaded.names == ["kept", "third"]


def test_of_one_place_the_default_makes_room(queue: WorkQueue, weights: Path) -> None:
    loaded = engines(queue, weights, limit=1)
    for name in ("kept", "second"):
        loaded.get(upscaler(weights, name))
    assert loaded.names == ["second"]


def test_a_model_that_made_room_is_freed(queue: WorkQueue, weights: Path) -> None:
    loaded = engines(queue, weights, limit=1)
    first = weakref.ref(loaded.get(upscaler(weights, "second")))
    assert first() is not None
    loaded.get(upscaler(weights, "third"))
    gc.collect()
    assert first() is None


def test_a_full_queue_is_no_failure_of_the_model(queue: WorkQueue, weights: Path, held: Held) -> None:
    loaded = engines(queue, weights)
    held.add()
    held.add()
    with pytest.raises(Overloaded):
        loaded.get(upscaler(weights, "second"))
    held.release()
    assert loaded.get(upscaler(weights, "second")).factor == 4


def test_a_model_on_the_disk_waits_for_its_turn_and_is_not_said_to_be_fetched(
    queue: WorkQueue, weights: Path, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = engines(queue, weights)
    held.add()
    monkeypatch.setattr(loading, "_PATIENCE_S", 0.0)
    with pytest.raises(ModelUnavailable, match="second is on this machine and waits for its turn"):
        loaded.get(upscaler(weights, "second"))


def test_a_model_for_which_memory_does_not_suffice_says_so(
    queue: WorkQueue, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: object) -> None:
        torch.empty(2**50)

    monkeypatch.setattr(loading, "_engine_class", lambda _upscaler: too_large)
    with pytest.raises(OutOfMemory, match="second was not loaded"):
        engines(queue, weights).get(upscaler(weights, "second"))
