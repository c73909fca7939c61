"""enlight-redis/redis_cluster: six real nodes are made a cluster, killed, mended, saved and brought back."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from redis_parts import NODES, ClusterOfScripts
from services import wait_until

KEYS = {f"key-{number}": f"value {number}" for number in range(60)}
DEGRADED, UNCOVERED, STOPPED = 1, 2, 3


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterOfScripts]:
    """A cluster with some keys; every test leaves it whole."""
    made = ClusterOfScripts(tmp_path_factory.mktemp("redis") / 'a "folder" of [data]')
    try:
        made.succeed("start")
        with made.client() as client:
            for key, value in KEYS.items():
                client.set(key, value)
            client.wait(1, 10_000, target_nodes="primaries")
        yield made
    finally:
        made.kill_all()


@pytest.fixture
def unformed(tmp_path: Path) -> Iterator[ClusterOfScripts]:
    """A cluster that was not started yet."""
    made = ClusterOfScripts(tmp_path / "data")
    yield made
    made.kill_all()


def kept_keys(cluster: ClusterOfScripts) -> dict[str, str | None]:
    with cluster.client() as client:
        return {key: client.get(key) for key in KEYS}


def pids(cluster: ClusterOfScripts) -> list[int]:
    return [cluster.pid(node) for node in NODES]


def test_six_nodes_become_three_masters_with_a_replica_each(cluster: ClusterOfScripts) -> None:
    nodes = cluster.nodes()
    assert {name: node.slots for name, node in nodes.items() if node.role == "master"} == {
        "node-1": "0-5460",
        "node-2": "5461-10922",
        "node-3": "10923-16383",
    }
    replicas = {name: node.role for name, node in nodes.items() if node.role != "master"}
    assert sorted(replicas.values()) == ["replica of node-1", "replica of node-2", "replica of node-3"]
    assert {node.state for node in nodes.values()} == {"up"}
    assert cluster.run("status").returncode == 0


def test_passwords_are_in_files_of_the_owner_only_and_on_no_command_line(cluster: ClusterOfScripts) -> None:
    files = [cluster.folder / name for name in ("password", "main-api.password")]
    files += [cluster.folder / node / "redis.conf" for node in NODES]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    password = files[0].read_text()
    told = cluster.succeed("start") + cluster.succeed("status")
    assert password not in told
    assert not [p for p in psutil.process_iter(["cmdline"]) if password in " ".join(p.info["cmdline"] or [])]


def test_starting_twice_at_once_and_again_leaves_the_nodes_as_they_are(cluster: ClusterOfScripts) -> None:
    before = pids(cluster), cluster.nodes()
    starting = threading.Thread(target=cluster.succeed, args=("start",))
    starting.start()
    cluster.succeed("start")
    starting.join()
    assert (pids(cluster), cluster.nodes()) == before


def test_a_killed_master_is_told_of_and_started_again_with_all_keys(cluster: ClusterOfScripts) -> None:
    cluster.kill("node-1")
    status = cluster.run("status")
    assert status.returncode == UNCOVERED
    assert "slots that nobody serves" in status.stdout
    cluster.succeed("start")
    assert cluster.run("status").returncode == 0
    assert kept_keys(cluster) == KEYS


def test_a_killed_replica_leaves_every_slot_served(cluster: ClusterOfScripts) -> None:
    replica = next(name for name, node in cluster.nodes().items() if node.role != "master")
    cluster.kill(replica)
    assert cluster.run("status").returncode == DEGRADED
    cluster.succeed("start")
    assert cluster.run("status").returncode == 0


def test_a_master_that_comes_without_its_data_becomes_a_replica_and_no_key_is_lost(
    cluster: ClusterOfScripts, tmp_path: Path
) -> None:
    lost = min(cluster.masters)
    cluster.kill(lost)
    (cluster.folder / lost).rename(tmp_path / "lost")
    cluster.succeed("start")
    nodes = cluster.nodes()
    assert nodes[lost].role.startswith("replica of")
    assert len(cluster.masters) == 3
    assert kept_keys(cluster) == KEYS


def test_a_backup_brings_back_what_was_and_sets_aside_what_was_since(
    cluster: ClusterOfScripts, tmp_path: Path
) -> None:
    backup = tmp_path / "a backup"
    cluster.succeed("backup", str(backup))
    assert sorted(path.name for path in backup.iterdir()) == [
        "0-5460.rdb",
        "10923-16383.rdb",
        "5461-10922.rdb",
    ]
    assert cluster.run("backup", str(backup)).returncode == 1
    with cluster.client() as client:
        client.set("key-1", "since then")
        client.set("another", "since then")
    cluster.succeed("restore", str(backup))
    assert kept_keys(cluster) == KEYS
    with cluster.client() as client:
        assert client.get("another") is None
    assert len(list(cluster.folder.glob("node-*/before-restore-*"))) == 3
    assert cluster.run("status").returncode == 0


def test_a_backup_with_other_slots_or_a_spoilt_file_is_refused_and_nothing_changes(
    cluster: ClusterOfScripts, tmp_path: Path
) -> None:
    backup = tmp_path / "backup"
    cluster.succeed("backup", str(backup))
    before = pids(cluster)
    with (backup / "0-5460.rdb").open("r+b") as file:
        file.seek(-12, os.SEEK_END)
        file.write(b"spoilt")
    spoilt = cluster.run("restore", str(backup))
    (backup / "0-5460.rdb").unlink()
    partial = cluster.run("restore", str(backup))
    assert (spoilt.returncode, partial.returncode) == (1, 1)
    assert "not a backup that this Redis can read" in spoilt.stderr
    assert "must be the same" in partial.stderr
    assert pids(cluster) == before
    assert kept_keys(cluster) == KEYS


def test_stopping_keeps_everything_until_it_is_asked_to_be_removed(cluster: ClusterOfScripts) -> None:
    masters = cluster.masters
    cluster.succeed("stop")
    assert cluster.run("status").returncode == STOPPED
    cluster.succeed("stop")
    cluster.succeed("start")
    assert kept_keys(cluster) == KEYS
    assert cluster.masters == masters
    cluster.succeed("stop", "--remove-data")
    assert not cluster.folder.exists()


def test_a_creation_that_is_killed_midway_is_begun_again(unformed: ClusterOfScripts) -> None:
    log = unformed.folder / "create.log"
    reached = "Nodes configuration updated"  # slots are assigned, but nobody knows the others
    starting = subprocess.Popen(
        [unformed.script("start")],
        env=unformed.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_until(lambda: log.exists() and reached in log.read_text(), reached)
    os.killpg(starting.pid, signal.SIGKILL)
    starting.wait()
    for node in ("node-2", "node-4"):
        unformed.kill(node)
    unformed.succeed("start")
    assert unformed.masters == {"node-1", "node-2", "node-3"}
    assert unformed.run("status").returncode == 0


def test_a_port_that_is_taken_is_named_before_anything_is_made(unformed: ClusterOfScripts) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", unformed.port + 3))
        other.listen()
        done = unformed.run("start")
    assert done.returncode == 1
    assert f"port {unformed.port + 3}" in done.stderr
    assert not unformed.folder.exists()


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"CLUSTER_PORT": "sixty"}, "CLUSTER_PORT must be a whole number"),
        ({"REDIS_LISTEN": "0.0.0.0"}, "REDIS_LISTEN must be one IPv4 address"),
        ({"REDIS_SERVER": "/no/such/redis-server"}, "REDIS_SERVER is set, but cannot be run"),
        ({"ENLIGHT_RUNTIME": "docker", "DOCKER": "no-such-docker"}, "no-such-docker is missing"),
    ],
)
def test_what_is_wrong_or_missing_is_said_before_anything_is_made(
    unformed: ClusterOfScripts, settings: dict[str, str], complaint: str
) -> None:
    done = unformed.run("start", **settings)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert not unformed.data_dir.exists()


@pytest.mark.parametrize("action", ["start", "stop", "status", "backup", "restore"])
def test_every_script_tells_what_it_does_and_what_can_be_set(unformed: ClusterOfScripts, action: str) -> None:
    told = unformed.succeed(action, "--help")
    assert "CLUSTER_PORT=7000" in told
    assert "shellcheck" not in told
    assert not unformed.data_dir.exists()
