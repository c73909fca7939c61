"""The process that waits for the next training: used, killed, orphaned, never stale."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from dreambooth_api.training.run_state import RunState
from dreambooth_api.training.runs import Trainings
from dreambooth_api.training.spare import Trainers
from enlight_common.memory import available_bytes
from models_parts import store_at
from training_parts import options, photos, random_base
from waiting import until

_LIMIT_S = 240.0


@pytest.fixture
def trainings(tmp_path: Path) -> Iterator[Trainings]:
    # Servers of other files' tests.
    others = set(psutil.Process().children(recursive=True))
    made = Trainings(tmp_path / "data", store_at(tmp_path), "cpu0", threads=1, spare="on")
    yield made
    made.shutdown(30)
    assert set(psutil.Process().children(recursive=True)) <= others


def spare_of(trainings: Trainings) -> int:
    """The waiting process, once there is one."""
    return until(lambda: trainings._trainers.spare_pid)


def trained(trainings: Trainings, **more: object) -> RunState:
    run = trainings.start("default", "shoe", options(steps=1, **more), photos())
    states = [state for state in trainings.follow(run.run_id) if state is not None]
    return states[-1]


def holds_lock(pid: int, folder: Path) -> bool:
    return any(
        os.path.realpath(f"/proc/{pid}/fd/{fd}") == str(folder) for fd in os.listdir(f"/proc/{pid}/fd")
    )


def test_a_run_is_done_by_the_process_that_waited_and_another_waits_afterwards(
    trainings: Trainings, tmp_path: Path
) -> None:
    trainings.prepare()
    waiting = spare_of(trainings)
    run = trainings.start("default", "shoe", options(steps=2), photos())
    (lock,) = (tmp_path / "data" / "training").glob("*/lock")
    until(lambda: 1 if holds_lock(waiting, lock) else None)
    assert trainings._trainers.spare_pid != waiting
    log = lock.with_name("trainer.log")
    assert os.path.realpath(f"/proc/{waiting}/fd/2") == str(log)
    assert [state for state in trainings.follow(run.run_id) if state][-1].status == "succeeded"
    assert spare_of(trainings) != waiting
    assert not psutil.pid_exists(waiting)


def test_a_spare_that_was_killed_is_replaced_without_a_word(trainings: Trainings) -> None:
    trainings.prepare()
    os.kill(spare_of(trainings), signal.SIGKILL)
    assert trained(trainings).status == "succeeded"
    assert psutil.Process(spare_of(trainings)).is_running()


def test_a_spare_of_another_environment_is_not_used(
    trainings: Trainings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings.prepare()
    stale = spare_of(trainings)
    random_base(tmp_path / "bases" / "small", "sd1")
    monkeypatch.setenv("BASE_MODELS_DIR", str(tmp_path / "bases"))
    assert trained(trainings, base_model="small").status == "succeeded"
    assert not psutil.pid_exists(stale)


def test_shutting_down_ends_an_idle_spare_and_keeps_none_after(tmp_path: Path) -> None:
    trainings = Trainings(tmp_path / "data", store_at(tmp_path), "cpu0", spare="on")
    trainings.prepare()
    idle = spare_of(trainings)
    trainings.shutdown(0)
    assert not psutil.pid_exists(idle)
    trainings.prepare()
    assert trainings._trainers.spare_pid is None


_SERVICE = """
import sys, time
from dreambooth_api.training.spare import Trainers
trainers = Trainers({}, "on")
trainers.keep_spare()
print(trainers.spare_pid, flush=True)
time.sleep(600)
"""


def test_a_service_that_is_killed_leaves_no_spare() -> None:
    with subprocess.Popen([sys.executable, "-c", _SERVICE], stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        spare = psutil.Process(int(service.stdout.readline()))
        os.kill(service.pid, signal.SIGKILL)
    psutil.wait_procs([spare], timeout=_LIMIT_S)
    assert not spare.is_running()


def test_none_is_kept_where_none_is_wanted_or_memory_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    2000 kB\n")
    assert available_bytes(tmp_path) == 2_048_000
    group = tmp_path / "sys" / "fs" / "cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    assert available_bytes(tmp_path) == 2_048_000
    (group / "memory.max").write_text("1500000\n")
    (group / "memory.current").write_text("500000\n")
    assert available_bytes(tmp_path) == 1_000_000
    monkeypatch.setattr("dreambooth_api.training.spare.available_bytes", lambda: 1_000_000)
    for wanted in ("off", "auto"):
        trainers = Trainers({}, wanted)  # type: ignore[arg-type]
        trainers.keep_spare()
        assert trainers.spare_pid is None
