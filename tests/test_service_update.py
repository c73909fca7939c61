"""service_update.sh: every instance is replaced, one after the other, and nobody who draws notices."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from services import SCRIPTS, Services, drawing, wait_until

LOAD = SCRIPTS.parent / "dev-scripts" / "lib" / "drawing_load.py"


@pytest.fixture
def two_instances(tmp_path: Path) -> Iterator[Services]:
    # Without an idle trainer beside each: it takes as long to start as an instance.
    made = Services(
        tmp_path / "with space", instances=2, environment={"SPARE_TRAINER": "off", "GRACE_S": "5"}
    )
    yield made
    made.stop()


@contextmanager
def drawn_meanwhile(services: Services, told: list[str]) -> Iterator[None]:
    """Four clients that draw all the time; what they had to say is appended to *told*."""
    stop = services.data_dir / "stop"
    command = [sys.executable, "-IS", str(LOAD), services.url, "4", str(stop)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as load:
        try:
            wait_until(lambda: services.metric("cpu0", "pictures_total") > 0, "the first picture")
            yield
        finally:
            stop.touch()
            told.append(load.communicate(timeout=120)[0])


def test_an_update_that_would_lose_the_workers_changes_nothing(two_instances: Services) -> None:
    pids = two_instances.data_dir / "pids"
    pids.mkdir(parents=True)
    started = Path("/proc/self/stat").read_text().rpartition(") ")[2].split()[19]
    (pids / "worker-cpu0.pid").write_text(f"{os.getpid()} {started} - - cpu 5 -\n")
    done = two_instances.run("update")
    assert done.returncode == 1
    assert "MAIN_API_URL" in done.stderr
    (pids / "worker-cpu0.pid").unlink()  # else the test itself would be stopped


@pytest.mark.slow
def test_an_update_replaces_every_instance_and_no_request_fails(two_instances: Services) -> None:
    two_instances.start()
    before = {name: two_instances.pid(name) for name in two_instances.recorded()}
    told: list[str] = []
    with drawn_meanwhile(two_instances, told):
        done = two_instances.run("update")
    assert done.returncode == 0, done.stdout + done.stderr
    drawn, failed, *kinds = told[0].split()
    assert (failed, kinds) == ("0", [])
    assert int(drawn) > 0
    after = {name: two_instances.pid(name) for name in two_instances.recorded()}
    assert after["nginx"] == before["nginx"]
    assert after["cpu0"] != before["cpu0"]
    assert after["cpu1"] != before["cpu1"]

    # One that does not come up ends the update where it is; the rest goes on.
    broken = two_instances.run("update", BASE_MODEL="no/such-model")
    assert broken.returncode == 1
    assert "BASE_MODEL" in broken.stderr
    assert "service_start.sh" in broken.stderr
    assert two_instances.pid("cpu1") == after["cpu1"]
    assert httpx.post(f"{two_instances.url}/inference", json=drawing(), timeout=60).status_code == 200
    assert "cpu0 is not up" in two_instances.run("update").stderr
    two_instances.start()
    assert two_instances.all_answer()


def test_an_update_of_what_does_not_run_says_so_and_starts_nothing(two_instances: Services) -> None:
    done = two_instances.run("update")
    assert done.returncode == 1
    assert "service_start.sh" in done.stderr
    assert two_instances.recorded() == []


def test_the_updates_help_lists_the_settings_and_does_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [SCRIPTS / "service_update.sh", "--help"],
        env={"PATH": os.environ["PATH"], "DATA_DIR": str(tmp_path / "data")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert "DRAW_TIMEOUT_S=600" in done.stdout
    assert "CONTAINER_PREFIX=enlight" in done.stdout
    assert not (tmp_path / "data").exists()
