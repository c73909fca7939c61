"""dev-scripts/start.sh, stop.sh and status.sh: everything on one machine, and nothing left of it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from everything_parts import quiet_ports
from services import SCRIPTS, Services, drawing, wait_until

DEV_SCRIPTS = SCRIPTS.parent / "dev-scripts"
STOPPED = 3
PORTS = (
    "MAIN_API_PORT", "MONGO_PORT", "REDIS_PORT", "BROKER_PORT",
    "BGREM_PORT", "UPSAMPLER_PORT", "REALESRGAN_PORT",
)  # fmt: skip
#: What takes long to load is started the same way as bgrem.
LIGHT = "upsampler,realesrgan"


class AllServices(Services):
    """Everything that dev-scripts start, on ports of its own."""

    def __post_init__(self) -> None:
        first = quiet_ports(len(PORTS) + 1 + self.instances)
        self.ports = {name: str(first + index) for index, name in enumerate(PORTS)}
        self.port, self.base_port = first + len(PORTS), first + len(PORTS) + 1
        self.url = f"http://127.0.0.1:{self.ports['MAIN_API_PORT']}"
        # Weights stay where they are: they are the same for every data folder.
        self.environment = {"WITHOUT": LIGHT, **self.ports, **self.environment}

    def run(self, action: str, **changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [DEV_SCRIPTS / f"{action}.sh"],
            env=self._environment(changes),
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
        )

    def start_in_background(self) -> subprocess.Popen[str]:
        """In a process group of its own, as in a terminal: that is what Ctrl-C goes to.

        Nor is it ignored, as it is in what a shell runs in the background: these tests, say.
        """
        return subprocess.Popen(
            ["env", "--default-signal=INT", DEV_SCRIPTS / "start.sh"],
            env=self._environment({}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        )

    def records(self) -> dict[str, int]:
        """Pids of everything that is recorded, by name."""
        files = [*self.data_dir.glob("services/*.pid"), *self.data_dir.glob("pids/*.pid")]
        return {file.stem: int(file.read_text().split()[0]) for file in files}

    def secret(self, name: str) -> str:
        return (self.data_dir / "secrets" / name).read_text().strip()

    def as_admin(self) -> httpx.Client:
        key = self.secret("admin.key")
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {key}"}, timeout=120)


@pytest.fixture
def everything(tmp_path: Path) -> Iterator[AllServices]:
    """Not started yet; stopped after the test whatever it did."""
    services = AllServices(tmp_path / "data")
    yield services
    services.stop()


@pytest.mark.slow
def test_start_status_and_stop_tell_the_truth_and_leave_nothing(everything: AllServices) -> None:
    assert everything.run("status").returncode == STOPPED
    first = everything.run("start")
    assert first.returncode == 0, first.stdout + first.stderr
    assert everything.url in first.stdout
    assert str(everything.data_dir / "secrets/admin.key") in first.stdout
    status = everything.run("status")
    assert status.returncode == 0, status.stdout
    assert status.stdout.count(" up") == 9
    pids = everything.records()
    assert pids.keys() == {
        "mongodb", "redis", "broker", "bgrem", "main-api", "background", "cpu0", "worker-cpu0", "nginx",
    }  # fmt: skip
    for path in [*everything.data_dir.glob("secrets/*"), *everything.data_dir.glob("redis/*/password")]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    key = everything.secret("admin.key")

    again = everything.run("start")
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count("already running") == 9
    assert everything.records() == pids

    # Each part reaches the others: a worker draws, main-api draws through nginx, its background cuts out.
    with everything.as_admin() as client:
        queued = client.post("/v1/generations", json={"prompt": "a red ball", "num_inference_steps": 1})
        assert queued.status_code == 202, queued.text
        wait_until(lambda: succeeded(client, queued.json()["id"]), "the worker to draw")
        body = {
            "prompt": "a red ball",
            "num_inference_steps": 1,
            "then": [{"kind": "background_removal", "model": "u2netp"}],
        }
        chain = client.post("/v1/generations", json=body)
        wait_until(lambda: succeeded(client, chain.json()["id"]), "the chain's end")
    keyless = httpx.post(f"{everything.url}/inference", json=drawing(model_id=None), timeout=120)
    assert keyless.status_code == 200, keyless.text

    os.kill(pids["main-api"], signal.SIGKILL)  # gunicorn's master: the worker must not live on
    wait_until(lambda: everything.run("status").returncode == 1, "the status to tell of it")
    mended = everything.run("start")
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert {name for name, pid in everything.records().items() if pids[name] != pid} == {"main-api"}
    assert everything.secret("admin.key") == key
    with everything.as_admin() as client:
        assert client.get("/v1/jobs").status_code == 200

    everything.stop()
    assert everything.processes() == []
    assert everything.records() == {}
    assert everything.run("status").returncode == STOPPED
    assert everything.run("stop").returncode == 0


def succeeded(client: httpx.Client, job_id: str) -> bool:
    job = client.get(f"/v1/jobs/{job_id}").json()
    assert job["status"] not in ("failed", "canceled"), job
    return bool(job["status"] == "succeeded")


@pytest.mark.parametrize("moment", ["starting mongodb", "starting main-api", "starting cpu0"])
def test_ctrl_c_while_starting_leaves_nothing(everything: AllServices, moment: str) -> None:
    start = everything.start_in_background()
    assert start.stdout is not None
    said = []
    for line in start.stdout:
        said.append(line)
        if moment in line:
            break
    os.killpg(start.pid, signal.SIGINT)
    said.append(start.communicate(timeout=400)[0])
    assert start.returncode == 130, said
    assert everything.records() == {}
    assert everything.processes() == []


def test_a_service_that_cannot_start_shows_its_log_and_leaves_nothing(everything: AllServices) -> None:
    done = everything.run("start", SIGNING_SECRET="too short", WITHOUT=f"{LIGHT},bgrem,dreambooth")
    assert done.returncode == 1
    assert "SIGNING_SECRET" in done.stderr  # the service's own words
    assert everything.records() == {}
    assert everything.processes() == []


def test_a_folder_with_a_space_is_a_folder_and_no_secret_is_on_a_command_line(tmp_path: Path) -> None:
    everything = AllServices(tmp_path / "with space")
    shims = tmp_path / "shims"
    shims.mkdir()
    for name in ("env", "setsid"):  # what else a service may be started through
        real = shutil.which(name)
        shim = shims / name
        shim.write_text(f'#!/bin/bash\nprintf "%s\\n" "$*" >>"{tmp_path}/commands"\nexec {real} "$@"\n')
        shim.chmod(0o755)
    path = f"{shims}:{os.environ['PATH']}"
    try:
        done = everything.run("start", ONLY="mongodb,redis,broker,main-api", WITHOUT="", PATH=path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert everything.records().keys() == {"mongodb", "redis", "broker", "main-api"}
        commands = (tmp_path / "commands").read_text()
        assert "-m main_api" in commands
        files = [*everything.data_dir.glob("secrets/*"), *everything.data_dir.glob("redis/*/password")]
        assert len(files) == 5
        for file in files:
            assert file.read_text().strip() not in commands, file
    finally:
        everything.stop()
    assert everything.processes() == []


def test_a_start_that_fails_leaves_instances_alone_that_it_did_not_start(everything: AllServices) -> None:
    """Also where a part of them is down."""
    sleeper = subprocess.Popen(["sleep", "600"], start_new_session=True)
    pids = everything.data_dir / "pids"
    pids.mkdir(parents=True)
    started = Path(f"/proc/{sleeper.pid}/stat").read_text().rpartition(") ")[2].split()[19]
    (pids / "cpu0.pid").write_text(f"{sleeper.pid} {started} 127.0.0.1 {everything.base_port} cpu 5\n")
    try:
        done = everything.run("start", ONLY="bgrem,dreambooth", WITHOUT="", READY_TIMEOUT_S="3")
        assert done.returncode != 0
        assert sleeper.poll() is None
    finally:
        everything.stop()
        sleeper.kill()
        sleeper.wait()


def test_a_redis_that_ends_at_once_is_named(everything: AllServices) -> None:
    done = everything.run("start", ONLY="mongodb,redis", REDIS_SERVER="/bin/false")
    assert done.returncode == 1
    assert "redis ended while it was starting" in done.stderr
    assert everything.processes() == []


def test_a_taken_port_is_named_with_what_to_set_before_anything_is_started(everything: AllServices) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(everything.ports["BROKER_PORT"])))
        other.listen()
        done = everything.run("start")
    assert done.returncode == 1
    assert everything.ports["BROKER_PORT"] in done.stderr
    assert "Set BROKER_PORT " in done.stderr
    assert "starting" not in done.stdout


def test_what_is_left_out_is_not_started_and_a_half_that_runs_is_all_up(everything: AllServices) -> None:
    done = everything.run("start", ONLY="mongodb,redis")
    assert done.returncode == 0, done.stdout + done.stderr
    assert everything.records().keys() == {"mongodb", "redis"}
    assert everything.run("status").returncode == 0


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ONLY", "main-api,nonsense"),
        ("WITHOUT", "nginx"),
        ("MAIN_API_PORT", "http"),
        ("MONGO_PORT", "70000"),
        ("MAIN_API_HOST", "127.0.0.1; x"),
        ("LISTEN", "0.0.0.0"),  # instances believe main-api whose a request is
        ("INSTANCES_HOST", "0.0.0.0"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(everything: AllServices, variable: str, value: str) -> None:
    done = everything.run("start", **{variable: value})
    assert done.returncode == 1
    assert variable in done.stderr
    assert everything.records() == {}


@pytest.mark.parametrize("action", ["start", "stop", "status"])
def test_help_lists_the_settings_and_does_nothing(everything: AllServices, action: str) -> None:
    done = subprocess.run(
        [DEV_SCRIPTS / f"{action}.sh", "--help"],
        env={"PATH": os.environ["PATH"], "DATA_DIR": str(everything.data_dir)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert "MAIN_API_PORT=8040" in done.stdout
    assert not everything.data_dir.exists()
