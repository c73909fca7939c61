"""Starting, stopping and telling the state of services: what is left behind, and what is said."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from services import SCRIPTS, Services, training, wait_until

STOPPED = 3


def test_start_status_and_stop_tell_the_truth_and_leave_nothing(one_instance: Services) -> None:
    assert one_instance.run("status").returncode == STOPPED
    first = one_instance.run("start")
    assert first.returncode == 0, first.stdout + first.stderr
    assert one_instance.url in first.stdout
    status = one_instance.run("status")
    assert status.returncode == 0
    assert status.stdout.count(" up") == 2

    pids = {name: one_instance.pid(name) for name in one_instance.recorded()}
    again = one_instance.run("start")
    assert again.returncode == 0
    assert again.stdout.count("already running") == 2
    assert {name: one_instance.pid(name) for name in one_instance.recorded()} == pids
    assert "other settings" not in again.stderr
    changed = one_instance.run("start", LOG_LEVEL="DEBUG")
    assert changed.returncode == 0
    assert changed.stderr.count("other settings") == 1
    assert {name: one_instance.pid(name) for name in one_instance.recorded()} == pids

    with one_instance.client() as client:
        body = training(1)
        assert client.post("/train", json=body, headers={"Prefer": "respond-async"}).status_code == 202
    stopped = one_instance.run("stop")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert one_instance.processes() == []
    assert one_instance.recorded() == []
    assert one_instance.run("status").returncode == STOPPED
    assert one_instance.run("stop").returncode == 0


def test_a_stop_after_everything_was_killed_leaves_nothing(one_instance: Services) -> None:
    one_instance.start()
    with one_instance.client() as client:
        body = training(1)
        assert client.post("/train", json=body, headers={"Prefer": "respond-async"}).status_code == 202
    one_instance.kill("cpu0")
    os.kill(one_instance.pid("nginx"), signal.SIGKILL)  # its workers live on
    one_instance.stop()
    wait_until(lambda: one_instance.processes() == [], "the trainer's end")
    assert one_instance.recorded() == []


def test_a_killed_nginx_is_cleared_up_after_and_started_again(services: Services) -> None:
    instances = [services.pid(name) for name in services.names]
    os.kill(services.pid("nginx"), signal.SIGKILL)  # its workers live on and hold the port
    assert services.run("status").returncode == 1
    services.start()
    assert services.run("status").returncode == 0
    assert [services.pid(name) for name in services.names] == instances


def test_two_starts_at_once_start_a_killed_instance_once(services: Services) -> None:
    os.kill(services.pid("cpu0"), signal.SIGKILL)  # gunicorn's master: the worker must not live on
    wait_until(lambda: services.run("status").returncode == 1, "the status to tell of it")
    starts = [services.start_in_background() for _ in range(2)]
    said = [start.communicate(timeout=400)[0] for start in starts]
    assert [start.returncode for start in starts] == [0, 0], said
    assert sum(text.count("starting cpu0") for text in said) == 1
    assert sum(text.count("cpu0 is already running") for text in said) == 1
    assert services.run("status").returncode == 0


@pytest.mark.parametrize(("taken", "variable"), [("nginx", "PORT"), ("instance", "BASE_PORT")])
def test_a_taken_port_is_named_with_what_to_set_before_anything_is_started(
    one_instance: Services, taken: str, variable: str
) -> None:
    port = one_instance.port if taken == "nginx" else one_instance.base_port
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        done = one_instance.run("start")
    assert done.returncode == 1
    assert f"port {port}" in done.stderr
    assert f"Set {variable} " in done.stderr
    assert one_instance.recorded() == []
    assert "starting" not in done.stdout


def test_a_service_that_cannot_start_shows_its_log_and_leaves_nothing(one_instance: Services) -> None:
    done = one_instance.run("start", BASE_MODEL="no/such-model")
    assert done.returncode == 1
    assert "cpu0" in done.stderr
    assert "BASE_MODEL" in done.stderr  # the service's own words, from its log
    assert one_instance.recorded() == []
    assert one_instance.processes() == []


def test_a_pid_that_belongs_to_another_process_by_now_is_left_alone(one_instance: Services) -> None:
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as stranger:
        pids = one_instance.data_dir / "pids"
        pids.mkdir(parents=True)
        (pids / "cpu0.pid").write_text(f"{stranger.pid} 1 127.0.0.1 {one_instance.base_port} cpu\n")
        assert one_instance.run("status").returncode == STOPPED
        one_instance.stop()
        assert stranger.poll() is None
        assert one_instance.recorded() == []
        stranger.kill()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PORT", "http"),
        ("PORT", "70000"),
        ("INSTANCES", "0"),
        ("INSTANCES", "12"),
        ("MAX_BODY_MB", "1; include /etc/passwd"),
        ("LISTEN", "127.0.0.1; }"),
        ("ENLIGHT_RUNTIME", "chroot"),
        ("NGINX", "/no/such/nginx"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(one_instance: Services, variable: str, value: str) -> None:
    done = one_instance.run("start", **{variable: value})
    assert done.returncode == 1
    assert variable in done.stderr
    assert one_instance.recorded() == []


def test_settings_for_another_plan_than_the_running_one_are_refused(
    services: Services, tmp_path: Path
) -> None:
    done = services.run("start", INSTANCES="2")
    assert done.returncode == 1
    assert "cpu2" in done.stderr
    assert "service_stop.sh" in done.stderr
    assert services.run("status").returncode == 0


@pytest.mark.parametrize("action", ["start", "stop", "status"])
def test_help_lists_the_settings_and_does_nothing(one_instance: Services, action: str) -> None:
    environment = {"PATH": os.environ["PATH"], "DATA_DIR": str(one_instance.data_dir)}
    done = subprocess.run(
        [SCRIPTS / f"service_{action}.sh", "--help"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert "BASE_PORT=5000" in done.stdout
    assert not one_instance.data_dir.exists()
