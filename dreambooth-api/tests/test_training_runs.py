"""Runs as the service sees them: real child processes, really killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from dreambooth_api.models.artifact import now
from dreambooth_api.models.store import ModelStore
from dreambooth_api.training.publication import publish
from dreambooth_api.training.run_state import RunFiles, RunState, new_run_id
from dreambooth_api.training.runs import Trainings
from dreambooth_api.training.workspace import Workspace
from enlight_common.errors import Busy, Conflict, InvalidField, NotFound, ShuttingDown, UnsupportedBaseModel
from models_parts import store_at
from training_parts import (
    lora_change,
    options,
    photos,
    poison,
    random_base,
    relative_difference,
    train_here,
    workspace_for,
)

_LIMIT_S = 240.0  # for what takes seconds on a free machine


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return store_at(tmp_path)


@pytest.fixture
def make(tmp_path: Path, store: ModelStore) -> Iterator[Callable[..., Trainings]]:
    made: list[Trainings] = []

    def one(instance: str = "cpu0", **more: Any) -> Trainings:
        made.append(Trainings(tmp_path / "data", store, instance, threads=1, **more))
        return made[-1]

    yield one
    for trainings in made:
        trainings.shutdown(0)
    assert children() == []


def children(of: int | None = None) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(of).children(recursive=True):
        try:
            if (
                "dreambooth_api.training.child" in process.cmdline()
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def until(trainings: Trainings, run_id: str, condition: Callable[[RunState], bool]) -> RunState:
    """The first state for which the condition holds; the last one if it never does."""
    deadline = time.monotonic() + _LIMIT_S
    state = trainings.get(run_id)
    for seen in trainings.follow(run_id, interval=0.02, stop=lambda: time.monotonic() > deadline):
        state = seen or state
        if condition(state):
            break
    return state


def ended(trainings: Trainings, run_id: str) -> RunState:
    return until(trainings, run_id, lambda state: state.is_terminal)


def test_a_run_is_joined_followed_published_and_made_anew(
    tmp_path: Path, make: Callable[..., Trainings], store: ModelStore
) -> None:
    trainings = make()
    run = trainings.start("default", "shoe", options(steps=4), photos())
    assert run.run_id.startswith("cpu0-")
    assert trainings.start("default", "shoe", options(steps=4), photos()).run_id == run.run_id
    with pytest.raises(Busy) as caught:
        trainings.start("default", "shoe", options(steps=5), photos())
    assert caught.value.retry_after
    other = make("cpu1")
    assert other.get(run.run_id).run_id == run.run_id
    with pytest.raises(Conflict):
        other.cancel(run.run_id)
    with pytest.raises(Busy):
        other.start("default", "shoe", options(steps=4), photos())

    states = [state for state in trainings.follow(run.run_id) if state is not None]
    assert [state.sequence for state in states] == sorted({state.sequence for state in states})
    last = states[-1]
    assert (last.status, last.step, last.total) == ("succeeded", 4, 4)
    assert last.loss is not None
    assert last.version == store.list()[0].version
    assert not any((tmp_path / "data" / "training").iterdir())
    assert other.get(run.run_id) == last
    assert trainings.cancel(run.run_id) == last
    assert list(trainings.follow(run.run_id, after=last.sequence)) == []
    with store.open("shoe") as artifact:
        manifest = artifact.manifest
    assert (manifest.method, manifest.rank, manifest.instance_prompt) == ("lora", 4, "a sks shoe")
    assert manifest.training["learning_rate"] == 1e-3

    again = ended(trainings, trainings.start("default", "shoe", options(steps=4), photos()).run_id)
    assert again.status == "succeeded"
    assert [found.version for found in store.list()] == [again.version, last.version]


def test_killed_again_and_again_a_run_ends_with_the_weights_of_an_unbroken_one(
    tmp_path: Path, make: Callable[..., Trainings], store: ModelStore
) -> None:
    trainings = make()
    unbroken = train_here(workspace_for(tmp_path / "unbroken", options()))
    moments: list[Callable[[RunState], bool]] = [
        lambda state: state.phase == "loading",
        lambda state: state.step >= 5,
        lambda state: state.checkpoint_step == 6,
        lambda state: state.step >= 11,
    ]
    resumed_at = []
    for moment in moments:
        run = trainings.start("default", "my-shoe", options(), photos())
        first = until(trainings, run.run_id, lambda state: state.step > 0 or state.phase == "loading")
        if moment is not moments[0]:
            first = until(trainings, run.run_id, lambda state: state.step > 0)
        resumed_at.append(first.step)
        until(trainings, run.run_id, moment)
        for child in children():
            child.send_signal(signal.SIGKILL)
        last = ended(trainings, run.run_id)
        assert (last.status, last.error_kind) == ("failed", "killed")
        assert "killed" in (last.error or "")
        assert children() == []
        assert store.list() == []
    run = trainings.start("default", "my-shoe", options(), photos())
    resumed_at.append(until(trainings, run.run_id, lambda state: state.step > 0).step)
    assert ended(trainings, run.run_id).status == "succeeded"
    assert resumed_at[:2] == [0, 1]
    assert resumed_at[2] in (4, 7)
    assert resumed_at[4] == 10
    with store.open("my-shoe") as artifact:
        difference = relative_difference(lora_change(Path(unbroken.folder)), lora_change(artifact.folder))
    assert difference <= 1e-3


def test_canceled_while_preparing_it_leaves_nothing_running(make: Callable[..., Trainings]) -> None:
    trainings = make()
    early = trainings.start("default", "shoe", options(steps=500), photos())
    last = trainings.cancel(early.run_id)
    assert (last.status, last.step) == ("canceled", 0)
    assert trainings.active is None
    assert children() == []

    trainings.shutdown(1)
    with pytest.raises(ShuttingDown):
        trainings.start("default", "shoe", options(), photos())


def test_a_canceled_run_that_is_saving_is_left_to_finish(
    tmp_path: Path, make: Callable[..., Trainings], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow-disk").mkdir()
    (tmp_path / "slow-disk" / "sitecustomize.py").write_text(
        "import os, time\nsync = os.fsync\nos.fsync = lambda file: (time.sleep(1), sync(file))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "slow-disk"), prepend=os.pathsep)
    trainings = make(cancel_grace_s=2.0)
    run = trainings.start("default", "shoe", options(steps=1000, checkpoint_interval=1000), photos())
    until(trainings, run.run_id, lambda state: state.step >= 2)
    canceled = trainings.cancel(run.run_id)
    assert canceled.status == "canceled"
    assert canceled.checkpoint_step is not None
    assert list((tmp_path / "data" / "training").glob(f"*/checkpoint-{canceled.checkpoint_step}/state.json"))


def test_shutting_down_saves_the_run_for_the_next_process_and_canceling_it_there_leaves_nothing_running(
    make: Callable[..., Trainings], store: ModelStore
) -> None:
    trainings = make()
    run = trainings.start("default", "shoe", options(steps=500, checkpoint_interval=400), photos())
    until(trainings, run.run_id, lambda state: state.step >= 2)
    trainings.shutdown(60)
    last = trainings.get(run.run_id)
    assert (last.status, last.error_kind) == ("failed", "interrupted")
    assert last.checkpoint_step

    after = make()
    assert after.get(run.run_id) == last
    again = after.start("default", "shoe", options(steps=500, checkpoint_interval=400), photos())
    assert until(after, again.run_id, lambda state: state.step > 0).step == last.checkpoint_step + 1
    step = until(after, again.run_id, lambda state: state.step >= (last.checkpoint_step or 0) + 2).step
    canceled = after.cancel(again.run_id)
    assert canceled.status == "canceled"
    assert canceled.checkpoint_step is not None
    assert canceled.checkpoint_step >= step
    assert children() == []
    assert store.list() == []


_SERVICE = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from dreambooth_api.training.runs import Trainings
from models_parts import store_at
from training_parts import options, photos
folder = Path(sys.argv[1])
trainings = Trainings(folder / "data", store_at(folder), "cpu0", threads=1)
run = trainings.start("default", "shoe", options(steps=500), photos())
print(run.run_id, flush=True)
for state in trainings.follow(run.run_id):
    if state is not None and state.step >= 4:
        print("training", flush=True)
        time.sleep(600)
"""


def test_a_service_that_is_killed_leaves_no_child_and_its_run_is_told_to_have_failed(
    tmp_path: Path, make: Callable[..., Trainings]
) -> None:
    command = [sys.executable, "-c", _SERVICE, str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        run_id = service.stdout.readline().strip()
        assert service.stdout.readline() == "training\n"
        (child,) = children(service.pid)
        os.kill(service.pid, signal.SIGKILL)
    psutil.wait_procs([child], timeout=_LIMIT_S)
    assert not child.is_running()

    trainings = make()
    state = trainings.get(run_id)
    assert (state.status, state.error_kind) == ("failed", "interrupted")
    assert state.step >= 1
    again = trainings.start("default", "shoe", options(steps=500), photos())
    assert until(trainings, again.run_id, lambda state: state.step > 0).step > 3
    trainings.cancel(again.run_id)


def test_a_diverged_run_says_so_and_the_next_may_start(
    tmp_path: Path, make: Callable[..., Trainings], monkeypatch: pytest.MonkeyPatch
) -> None:
    random_base(tmp_path / "bases" / "small", "sd1")
    poison(tmp_path / "bases" / "small")
    monkeypatch.setenv("BASE_MODELS_DIR", str(tmp_path / "bases"))
    trainings = make()
    last = ended(trainings, trainings.start("default", "shoe", options(base_model="small"), photos()).run_id)
    assert (last.status, last.error_kind) == ("failed", "diverged")
    assert "learning rate" in (last.error or "")
    assert trainings.active is None


def test_refused_requests_leave_nothing_behind(tmp_path: Path, make: Callable[..., Trainings]) -> None:
    trainings = make()
    for model_id in ("../x", "/etc/x", "", "x" * 4096, "a\0b"):
        with pytest.raises(InvalidField):
            trainings.start("default", model_id, options(), photos())
    with pytest.raises(InvalidField):
        trainings.start("default", "shoe", options(), [])
    with pytest.raises(InvalidField):
        trainings.start("default", "shoe", options(captions=["only one"]), photos())
    with pytest.raises(UnsupportedBaseModel):
        trainings.start("default", "shoe", options(base_model="nobody/nothing"), photos())
    assert {path.name for path in (tmp_path / "data").rglob("*")} == {"runs"}


def _state(run_id: str, **change: Any) -> RunState:
    return RunState(
        run_id=run_id,
        instance=run_id.partition("-")[0],
        identity="0" * 64,
        tenant="default",
        model_id="shoe",
        method="lora",
        base_model="enlight/tiny-sd",
        learning_rate_used=1e-3,
        total=4,
        created_at=now(),
    ).model_copy(update=change)


def test_a_run_published_just_before_the_service_died_has_succeeded_once(
    tmp_path: Path, make: Callable[..., Trainings], store: ModelStore
) -> None:
    workspace = workspace_for(tmp_path / "data", options(steps=1))
    job = workspace.read_job()
    finished = train_here(workspace)
    version = publish(store, workspace, job, finished)
    assert publish(store, workspace, job, finished) == version
    workspace.release()
    run_id = new_run_id("cpu0")
    RunFiles(tmp_path / "data" / "runs").write(
        _state(run_id, identity=job.identity, model_id="my-shoe", status="processing")
    )
    state = make().get(run_id)
    assert (state.status, state.version) == ("succeeded", version)
    assert [manifest.version for manifest in store.list()] == [version]
    assert not workspace.folder.exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"run_id": 3}'])
def test_a_state_file_that_cannot_be_read_is_no_run(
    tmp_path: Path, make: Callable[..., Trainings], content: bytes
) -> None:
    run_id = new_run_id("cpu0")
    (tmp_path / "data" / "runs").mkdir(parents=True)
    (tmp_path / "data" / "runs" / f"{run_id}.json").write_bytes(content)
    trainings = make()
    with pytest.raises(NotFound):
        trainings.get(run_id)
    with pytest.raises(NotFound):
        trainings.follow(run_id)


@pytest.mark.parametrize(
    "run_id", ["", "..", "cpu0", "../../etc/passwd", "cpu0-" + "g" * 24, "CPU0-" + "0" * 24]
)
def test_what_is_no_run_id_is_not_found(make: Callable[..., Trainings], run_id: str) -> None:
    with pytest.raises(NotFound):
        make().get(run_id)
    with pytest.raises(NotFound):
        make().validation_picture(run_id)


def test_another_instances_run_is_followed_by_its_file(
    tmp_path: Path, make: Callable[..., Trainings]
) -> None:
    files, run_id = RunFiles(tmp_path / "data" / "runs"), new_run_id("gpu7")
    state = _state(run_id, status="processing")
    files.write(state)
    at_work = Workspace.claim(tmp_path / "data" / "training", state.identity)
    follower = make().follow(run_id, interval=0.01)
    assert next(follower) == state
    assert next(follower) is None
    files.write(state.succeeded("v1"))
    at_work.release()
    seen = [found for found in follower if found is not None]
    assert [found.status for found in seen] == ["succeeded"]


def test_the_oldest_ended_runs_are_forgotten(tmp_path: Path) -> None:
    files = RunFiles(tmp_path)
    runs = [new_run_id("cpu0") for _ in range(6)]
    for age, run_id in enumerate(runs):
        files.write(_state(run_id, status="processing" if age == 5 else "failed"))
        os.utime(tmp_path / f"{run_id}.json", (1000 - age, 1000 - age))
    files.prune("cpu0", keep=2)
    kept = {path.stem for path in tmp_path.glob("*.json")}
    assert kept == {runs[0], runs[1], runs[5]}
