"""Several processes with one cache, any of them killed at any time, in an order that Hypothesis finds."""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from models_parts import OtherProcess, disk_bytes, is_right, publish, store_at

MODELS = 100
PROCESSES = 3

models = st.integers(0, MODELS - 1).map(lambda number: f"model-{number}")
processes = st.integers(0, PROCESSES - 1)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A folder with an object store of 100 models, and what a cache with all of them takes."""
    folder = tmp_path_factory.mktemp("published")
    store = store_at(folder, cache="whole")
    sizes = random.Random(7)
    for number in range(MODELS):
        publish(store, folder / "result", f"model-{number}", size=sizes.randrange(1, 60_000), seed=number)
        with store.open(f"model-{number}"):
            pass
    size = disk_bytes(folder / "whole")
    shutil.rmtree(folder / "whole")
    return folder, size


class Machine(RuleBasedStateMachine):
    """What each process has open is in `opened`; `deleted` are gone from the store."""

    published: Path
    limit: int

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=self.published.parent))
        shutil.copytree(self.published / "objects", self.folder / "objects")
        self.processes = [OtherProcess(self.folder, self.limit) for _ in range(PROCESSES)]
        self.opened: list[list[str]] = [[] for _ in range(PROCESSES)]
        self.deleted: set[str] = set()
        self.slots = 0

    def open_in(self, number: int, model_id: str) -> str:
        self.slots += 1
        self.processes[number].tell("open", model_id=model_id, slot=str(self.slots))
        return str(self.slots)

    def note(self, number: int, model_id: str, slot: str, answer: Any) -> None:
        if answer is True:
            self.opened[number].append(slot)
        else:
            expected = "unknown-model" if model_id in self.deleted else "storage-full"
            assert answer == expected
            held = sum(map(len, self.opened))
            assert model_id in self.deleted or held > 1, "full, with nothing open to fill it"

    @rule(number=processes, model_id=models)
    def open_one(self, number: int, model_id: str) -> None:
        slot = self.open_in(number, model_id)
        self.note(number, model_id, slot, self.processes[number].answer())

    @rule(model_id=models)
    def open_one_everywhere(self, model_id: str) -> None:
        slots = [self.open_in(number, model_id) for number in range(PROCESSES)]
        for number, slot in enumerate(slots):
            self.note(number, model_id, slot, self.processes[number].answer())

    @rule(wanted=st.lists(models, min_size=10, max_size=25))
    def open_many_at_once_and_close_them(self, wanted: list[str]) -> None:
        for place, model_id in enumerate(wanted):
            number = place % PROCESSES
            slot = self.open_in(number, model_id)
            self.processes[number].tell("close", slot=slot)
        for place, model_id in enumerate(wanted):
            process = self.processes[place % PROCESSES]
            answer = process.answer()
            assert answer in (True, "storage-full") or model_id in self.deleted
            process.answer()

    @rule(number=processes)
    def check_and_close(self, number: int) -> None:
        for slot in self.opened[number]:
            assert self.processes[number].ask("check", slot=slot) is True
            self.processes[number].ask("close", slot=slot)
        self.opened[number].clear()

    @rule(number=processes, model_id=models)
    def evict(self, number: int, model_id: str) -> None:
        self.processes[number].ask("evict", model_id=model_id)

    @rule(number=processes, model_id=models)
    def delete(self, number: int, model_id: str) -> None:
        answer = self.processes[number].ask("delete", model_id=model_id)
        assert answer == ("unknown-model" if model_id in self.deleted else 1)
        self.deleted.add(model_id)

    @rule(number=processes, wanted=st.lists(models, max_size=10), wait_ms=st.integers(0, 30))
    def kill_in_the_middle(self, number: int, wanted: list[str], wait_ms: int) -> None:
        for model_id in wanted:
            slot = self.open_in(number, model_id)
            self.processes[number].tell("close", slot=slot)
        time.sleep(wait_ms / 1000)
        self.processes[number].kill()
        self.opened[number].clear()
        self.processes[number] = OtherProcess(self.folder, self.limit)

    @invariant()
    def the_bound_is_kept(self) -> None:
        if (self.folder / "cache").exists():
            assert disk_bytes(self.folder / "cache") <= self.limit

    def teardown(self) -> None:
        for number in range(PROCESSES):
            self.check_and_close(number)
        for process in self.processes:
            process.kill()
        store = store_at(self.folder, max_bytes=self.limit)
        space = store.cache.inventory
        assert space.used_bytes() == disk_bytes(self.folder / "cache") <= self.limit
        assert not [*space.incoming.iterdir(), *space.trash.iterdir(), *space.damaged.iterdir()]
        for model in store.cache.models():
            assert model.key.model_id not in self.deleted
            with store.open(model.key.model_id) as artifact:
                assert is_right(artifact)
        shutil.rmtree(self.folder)


@pytest.mark.slow
def test_whatever_happens_no_byte_is_wrong_and_the_bound_is_kept(published: tuple[Path, int]) -> None:
    Machine.published, Machine.limit = published[0], published[1] // 3
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=10,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
