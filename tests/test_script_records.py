"""The scripts' records of what runs: another boot's mean nothing, and a worker that hangs is not up."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from services import SCRIPTS, Services

BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as process:
        yield process
        process.kill()


def started_at(pid: int) -> str:
    """Clock ticks since boot, as the records have it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[19]


def record(services: Services, name: str, pid: int, boot: str) -> None:
    pids = services.data_dir / "pids"
    pids.mkdir(parents=True, exist_ok=True)
    (pids / f"{name}.pid").write_text(
        f"{pid} {started_at(pid)} 127.0.0.1 {services.base_port} cpu 5 - {boot}\n"
    )


@pytest.fixture
def services(tmp_path: Path) -> Services:
    return Services(tmp_path / "data")


def test_a_record_of_another_boot_is_nobody_and_nobody_is_killed_for_it(
    services: Services, sleeper: subprocess.Popen[bytes]
) -> None:
    record(services, "cpu0", sleeper.pid, "00000000-0000-0000-0000-000000000000")
    assert "down" in services.run("status").stdout
    services.stop()
    assert sleeper.poll() is None
    assert services.recorded() == []


def test_a_record_of_this_boot_is_stopped(services: Services, sleeper: subprocess.Popen[bytes]) -> None:
    record(services, "cpu0", sleeper.pid, BOOT)
    assert "starting" in services.run("status").stdout
    services.stop()
    assert sleeper.wait(60) is not None
    assert services.recorded() == []


def test_a_worker_is_up_while_it_says_so_and_stale_when_it_stops_saying_so(
    services: Services, sleeper: subprocess.Popen[bytes]
) -> None:
    record(services, "worker-cpu0", sleeper.pid, BOOT)
    assert "starting" in services.run("status").stdout
    beat = services.data_dir / "workers" / "node-here-cpu0.json"
    beat.parent.mkdir()
    beat.write_text(f'{{\n  "pid": {sleeper.pid}0,\n  "state": "running"\n}}\n')
    assert "starting" in services.run("status").stdout, "an earlier worker's"
    beat.write_text(f'{{\n  "pid": {sleeper.pid},\n  "state": "running"\n}}\n')
    up = services.run("status")
    assert (up.returncode, "up" in up.stdout) == (0, True)
    os.utime(beat, (1, 1))
    stale = services.run("status")
    assert (stale.returncode, "stale" in stale.stdout) == (1, True)


def test_workers_have_time_to_give_their_jobs_back() -> None:
    """As long as an instance may take to store a checkpoint, and main-api to hear of it."""
    asked = 'source "$1/lib/settings.sh"; source "$1/lib/workers.sh"; echo $GIVE_BACK_S'
    said = subprocess.run(["bash", "-c", asked, "-", SCRIPTS], capture_output=True, text=True, check=True)
    from dreambooth_api.worker import held, instance

    assert int(said.stdout) >= instance._STOP_S + held._LAST_WORD_S
