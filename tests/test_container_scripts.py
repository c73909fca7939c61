"""What the scripts ask of docker and podman on a machine with GPUs, as a stand-in for them is told."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest
from services import SCRIPTS, free_ports

# Knows every image, unless NO_IMAGES is set, and no container but THERE. Notes what it is to run or to fetch.
ENGINE = """#!/bin/bash
case "$1 ${2-}" in
  --version*) echo "$ENGINE_IS version 1" ;;
  ps*) [[ -z ${THERE-} ]] || echo "$THERE" ;;
  pull*) printf '%s\\n' "$*" >>"$CALLS" ;;
  "image inspect") [[ -z ${NO_IMAGES-} ]] || exit 1; echo sha256:1 ;;
  "container inspect") exit 1 ;;
  "network inspect" | "volume inspect") exit 1 ;;
  run*) printf '%s\\n' "$*" >>"$CALLS" ;;
esac
"""
GPUS = "#!/bin/bash\nprintf '%s\\n' 0 1\n"


class Machine:
    """One with two GPUs and an engine of that kind."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = folder
        self.kind = kind
        self.data_dir = folder / "data with space"
        (folder / "bin").mkdir()
        for name, text in (("engine", ENGINE), ("nvidia-smi", GPUS)):
            path = folder / "bin" / name
            path.write_text(text)
            path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def run(self, action: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        port = free_ports(5)
        return subprocess.run(
            [SCRIPTS / f"service_{action}.sh", *arguments],
            env={
                "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
                "CALLS": str(self.folder / "calls"),
                "ENGINE_IS": self.kind,
                "DOCKER": "engine",
                "ENLIGHT_RUNTIME": "docker",
                "DATA_DIR": str(self.data_dir),
                "PORT": str(port),
                "BASE_PORT": str(port + 1),
                **settings,
            },
            cwd="/",
            capture_output=True,
            text=True,
            timeout=100,
        )

    def started(self) -> dict[str, str]:
        """The options of each container that was to stay, by its name."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        detached = [line for line in lines if "--detach" in line]
        return {line.split("--name ")[1].split(" ")[0]: line for line in detached}


@pytest.mark.parametrize(
    ("kind", "option"), [("Docker", "--gpus device={}"), ("podman", "--device nvidia.com/gpu={}")]
)
def test_each_instance_gets_one_gpu_and_two_may_share_one(tmp_path: Path, kind: str, option: str) -> None:
    machine = Machine(tmp_path, kind)
    machine.run("start", INSTANCES_PER_GPU="2")
    started = machine.started()
    for number, gpu in enumerate((0, 1, 0, 1)):
        assert option.format(gpu) in started[f"enlight-gpu{number}"]
        assert "DEVICE=cuda:0" in started[f"enlight-gpu{number}"]
    assert "nvidia" not in started["enlight-nginx"]
    assert "--gpus" not in started["enlight-nginx"]


def test_every_container_is_bounded_and_without_rights_and_no_secret_is_on_a_command_line(
    tmp_path: Path,
) -> None:
    machine = Machine(tmp_path, "Docker")
    machine.data_dir.mkdir()
    (machine.data_dir / "service.env").write_text(
        "# settings\n\nMAIN_API_URL=https://enlight.example.com\nENLIGHT_NODE_KEY=secret of this node\n"
        "INSTANCES=3\n"
    )
    machine.run("start", INSTANCES="2")  # the environment wins
    started = machine.started()
    workers = {"enlight-worker-gpu0", "enlight-worker-gpu1"}
    assert set(started) == {"enlight-gpu0", "enlight-gpu1", "enlight-nginx", *workers}
    for line in started.values():
        for option in (
            "--read-only",
            "--cap-drop ALL",
            "--security-opt no-new-privileges",
            "--memory ",
            "--restart unless-stopped",
            "--log-opt max-size=10m",
            "--pids-limit",
        ):
            assert option in line
        assert "secret" not in line
    assert "--env ENLIGHT_NODE_KEY " in started["enlight-worker-gpu0"]
    assert "--publish 127.0.0.1:" in started["enlight-gpu0"]


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"DOCKER": "no-such-engine"}, "no-such-engine is missing"),
        ({"SUBNET": "10.0.0.0/8"}, "SUBNET"),
        ({"CONTAINER_PREFIX": "a b"}, "CONTAINER_PREFIX"),
        ({"IMAGE_TAG": "a b"}, "IMAGE_TAG"),
        ({"DATA_DIR": "/tmp/a:b"}, "DATA_DIR"),
        ({"INSTANCE_MEMORY_MB": "1"}, "INSTANCE_MEMORY_MB"),
        ({"MAIN_API_URL": "http://main-api:8040"}, "ENLIGHT_NODE_KEY"),
    ],
)
def test_a_setting_of_containers_that_makes_no_sense_is_named_before_anything_is_started(
    tmp_path: Path, settings: dict[str, str], word: str
) -> None:
    machine = Machine(tmp_path, "Docker")
    done = machine.run("start", **settings)
    assert done.returncode == 1
    assert word in done.stderr
    assert machine.started() == {}


@pytest.mark.parametrize("name", ["LISTEN", "INSTANCES_HOST"])
def test_instances_that_believe_main_api_are_not_opened_to_the_network(tmp_path: Path, name: str) -> None:
    machine = Machine(tmp_path, "Docker")
    done = machine.run("start", "--all", MONGO_URL="mongodb://host:27117", **{name: "0.0.0.0"})
    assert done.returncode == 1
    assert f"{name} must be loopback" in done.stderr
    assert machine.started() == {}


@pytest.mark.parametrize("action", ["start", "stop", "update", "status"])
def test_what_processes_are_running_for_is_left_alone(tmp_path: Path, action: str) -> None:
    machine = Machine(tmp_path, "Docker")
    (machine.data_dir / "pids").mkdir(parents=True)
    (machine.data_dir / "pids" / "runtime").write_text("process\n")
    done = machine.run(action)
    assert done.returncode == 1
    assert "ENLIGHT_RUNTIME=process" in done.stderr
    assert machine.started() == {}


def test_a_stop_with_another_prefix_than_the_start_s_says_so(tmp_path: Path) -> None:
    done = Machine(tmp_path, "Docker").run("stop", THERE="other-gpu0")
    assert done.returncode == 1
    assert "other-gpu0" in done.stderr
    assert "CONTAINER_PREFIX" in done.stderr


@pytest.mark.parametrize(("prefix", "fetched"), [("enlight", False), ("registry.example.com/enlight", True)])
def test_our_own_images_are_fetched_from_no_registry_that_was_not_named(
    tmp_path: Path, prefix: str, fetched: bool
) -> None:
    machine = Machine(tmp_path, "Docker")
    done = machine.run("start", NO_IMAGES="1", IMAGE_PREFIX=prefix)
    asked = (tmp_path / "calls").read_text()
    assert (f"{prefix}/dreambooth-api" in asked) is fetched
    assert ("build-images.sh makes it" in done.stderr) is not fetched


def test_everything_is_not_started_without_a_database(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "Docker")
    done = machine.run("start", "--all")
    assert done.returncode == 1
    assert "MONGO_URL" in done.stderr
    assert machine.started() == {}


def test_a_line_of_the_settings_file_that_is_none_is_told(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "Docker")
    machine.data_dir.mkdir()
    (machine.data_dir / "service.env").write_text("rm -rf /\n")
    done = machine.run("start")
    assert done.returncode == 1
    assert "service.env" in done.stderr


def test_the_settings_file_that_is_shown_can_be_read(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "Docker")
    machine.data_dir.mkdir()
    (machine.data_dir / "service.env").write_text((SCRIPTS / "service.env.example").read_text())
    assert machine.run("status").returncode == 3
