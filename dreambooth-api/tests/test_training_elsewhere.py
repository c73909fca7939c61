"""A machine dies in the middle of a training, and another with an empty disk goes on with it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from dreambooth_api.training.checkpoint_store import SharedCheckpoints
from dreambooth_api.training.run_state import RunState
from dreambooth_api.training.runs import Trainings
from enlight_common.errors import Conflict
from enlight_common.storage import open_object_store, put_bytes
from models_parts import store_at
from storage_backends import BUCKET, Backend
from training_parts import (
    lora_change,
    options,
    photos,
    relative_difference,
    train_here,
    workspace_for,
)

pytest_plugins = ("storage_servers",)
pytestmark = pytest.mark.slow

WITHIN_S = 240.0
LEASE_S = 3600.0

_MACHINE = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from dreambooth_api.training.checkpoint_store import SharedCheckpoints
from dreambooth_api.training.runs import Trainings
from enlight_common.storage import open_object_store
from models_parts import store_at
from training_parts import options, photos
folder, url = Path(sys.argv[1]), sys.argv[2]
shared = SharedCheckpoints(url, open_object_store(url))
trainings = Trainings(folder / "data", store_at(folder), "cpu0", threads=1, checkpoints=shared)
run = trainings.start("default", "my-shoe", options(), photos(), lease_s=3600)
for state in trainings.follow(run.run_id):
    if state is not None and state.stored_step:
        print(json.dumps(state.stored_step), flush=True)
"""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Callable[..., Trainings]]:
    """Makes a machine with a disk of its own."""
    made: list[Trainings] = []

    def one(name: str, url: str, **more: Any) -> Trainings:
        shared = SharedCheckpoints(url, open_object_store(url), **more)
        folder = tmp_path / name
        made.append(Trainings(folder / "data", store_at(folder), "cpu0", threads=1, checkpoints=shared))
        return made[-1]

    yield one
    for trainings in made:
        trainings.shutdown(0)


def until(trainings: Trainings, run_id: str, condition: Callable[[RunState], Any]) -> RunState:
    deadline = time.monotonic() + WITHIN_S
    state = trainings.get(run_id)
    for seen in trainings.follow(run_id, interval=0.02, stop=lambda: time.monotonic() > deadline):
        state = seen or state
        if condition(state):
            return state
    raise AssertionError(state)


def keys(url: str) -> list[str]:
    return [found.key for found in open_object_store(url).list("checkpoints/")]


def killed_machine(folder: Path, url: str) -> int:
    """The last step that a machine stored before it was killed with -9."""
    command = [sys.executable, "-c", _MACHINE, str(folder), url, str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        stored = 0
        while stored < 6:
            stored = json.loads(process.stdout.readline())
        children = psutil.Process(process.pid).children(recursive=True)
        for victim in (process.pid, *(child.pid for child in children)):
            os.kill(victim, signal.SIGKILL)
    psutil.wait_procs(children, timeout=WITHIN_S)
    return max(int(key.split("/")[3][:9]) for key in keys(url) if key.endswith("/state.json"))


@pytest.fixture(scope="module")
def folder_of_a_killed_machine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """What it stored, for tests to copy, and its last step there: no two need a machine killed each."""
    folder = tmp_path_factory.mktemp("killed")
    stored = killed_machine(folder / "machine", (folder / "shared").as_uri())
    return folder / "shared", stored


@pytest.fixture(params=["folder", "amazon"])
def left(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, int]:
    """The store in which a killed machine left a run, and the last step there."""
    if request.param == "folder":
        folder, stored = request.getfixturevalue("folder_of_a_killed_machine")
        return Path(shutil.copytree(folder, tmp_path / "shared")).as_uri(), stored
    backend: Backend = request.getfixturevalue("amazon")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", backend.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    url = f"s3://{BUCKET}/elsewhere"
    return url, killed_machine(tmp_path / "first", url)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of the same run on one machine."""
    return Path(train_here(workspace_for(tmp_path_factory.mktemp("unbroken"), options())).folder)


def test_it_goes_on_from_the_last_stored_checkpoint_to_the_weights_of_an_unbroken_run(
    tmp_path: Path, left: tuple[str, int], unbroken: Path, machine: Callable[..., Trainings]
) -> None:
    url, stored = left
    second = machine("second", url)
    run = second.start("default", "my-shoe", options(), photos(), lease_s=LEASE_S)
    assert until(second, run.run_id, lambda state: state.step > 0).step == stored + 1
    assert until(second, run.run_id, lambda state: state.is_terminal).status == "succeeded"
    with store_at(tmp_path / "second").open("my-shoe") as artifact:
        difference = relative_difference(lora_change(unbroken), lora_change(artifact.folder))
    assert difference <= 1e-3
    assert keys(url) == []


def test_a_damaged_checkpoint_is_not_fatal(
    tmp_path: Path, folder_of_a_killed_machine: tuple[Path, int], machine: Callable[..., Trainings]
) -> None:
    url = Path(shutil.copytree(folder_of_a_killed_machine[0], tmp_path / "shared")).as_uri()
    objects = open_object_store(url)
    for key in keys(url):
        if key.endswith("/weights.safetensors"):
            put_bytes(objects, key, b"x" * objects.stat(key).size)  # type: ignore[union-attr]
    second = machine("second", url)
    run = second.start("default", "my-shoe", options(steps=12), photos(), lease_s=LEASE_S)
    assert until(second, run.run_id, lambda state: state.step > 0).step == 1
    assert until(second, run.run_id, lambda state: state.is_terminal).status == "succeeded"


def test_without_its_lease_a_run_stops_is_not_joined_and_is_gone_on_with_elsewhere(
    tmp_path: Path, machine: Callable[..., Trainings]
) -> None:
    url = (tmp_path / "shared").as_uri()
    asked = options(steps=500, checkpoint_interval=400)
    first = machine("first", url)
    run = first.start("default", "my-shoe", asked, photos(), lease_s=LEASE_S)
    until(first, run.run_id, lambda state: state.step >= 2)
    assert first.start("default", "my-shoe", asked, photos(), lease_s=LEASE_S).run_id == run.run_id
    first.renew_lease(run.run_id, 0.01)
    last = until(first, run.run_id, lambda state: state.is_terminal)
    assert (last.status, last.error_kind) == ("failed", "interrupted")
    assert "lease" in (last.error or "")
    assert last.stored_step == last.checkpoint_step
    assert last.stored_step is not None
    with pytest.raises(Conflict):
        first.renew_lease(run.run_id, LEASE_S)

    second = machine("second", url)
    again = second.start("default", "my-shoe", asked, photos(), lease_s=LEASE_S)
    assert until(second, again.run_id, lambda state: state.step > 0).step == last.stored_step + 1
    stopped = second.cancel(again.run_id, "stopped")
    assert (stopped.status, stopped.error_kind) == ("failed", "interrupted")
    assert keys(url)
    once_more = second.start("default", "my-shoe", asked, photos(), lease_s=LEASE_S)
    until(second, once_more.run_id, lambda state: state.step > 0)
    assert second.cancel(once_more.run_id).status == "canceled"
    assert keys(url) == []


def test_who_joins_without_a_lease_keeps_the_run_going(
    tmp_path: Path, machine: Callable[..., Trainings]
) -> None:
    trainings = machine("first", (tmp_path / "shared").as_uri())
    run = trainings.start("default", "my-shoe", options(), photos(), lease_s=LEASE_S)
    assert trainings.start("default", "my-shoe", options(), photos()).run_id == run.run_id
    trainings.renew_lease(run.run_id, 0.01)
    assert until(trainings, run.run_id, lambda state: state.is_terminal).status == "succeeded"


@pytest.mark.parametrize("always", [False, True])
def test_checkpoints_of_runs_without_a_lease_are_stored_where_that_is_asked_for(
    tmp_path: Path, machine: Callable[..., Trainings], always: bool
) -> None:
    url = (tmp_path / "shared").as_uri()
    trainings = machine("first", url, always=always)
    run = trainings.start("default", "my-shoe", options(steps=500), photos())
    until(trainings, run.run_id, lambda state: (state.checkpoint_step or 0) >= 3)
    last = trainings.cancel(run.run_id, "stopped")
    assert (last.stored_step == last.checkpoint_step) is always
    assert bool(keys(url)) is always
