"""mongodb-server: the cluster is made once, goes on where it was interrupted, and tells nobody its passwords.

Run against a recording stand-in for docker (mongodb_engine): what is seen here is the order of the steps,
their arguments and their scripts, not MongoDB.
"""

from __future__ import annotations

import fcntl
import re
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from mongodb_containers import NAME
from mongodb_engine import Engine, started_cluster

MEMBERS = [f"{name}-{number}" for name in ("config", "shard1", "shard2", "shard3") for number in (1, 2, 3)]
ROUTERS = ["router-1", "router-2"]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = Engine(tmp_path)
    yield engine
    engine.close()


@pytest.fixture
def cluster(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = started_cluster(tmp_path_factory, tmp_path / "machine")
    yield engine
    engine.close()


def made(engine: Engine) -> dict[str, object]:
    """What there is, in short, to compare with what there should be."""
    config = engine.servers.data["config-1"]
    return {
        "running": sorted(name for name, one in engine.containers.items() if one.running),
        "networks": {name: sorted(one.networks) for name, one in engine.containers.items()},
        "volumes": sorted(engine.volumes),
        "shards": config.shards,
        "databases": config.databases,
        "users": {name: sorted(data.users) for name, data in engine.servers.data.items()},
        "balancer": config.balancer,
    }


def started(engine: Engine, **settings: str) -> str:
    done = engine.run("start", **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def argument(call: object, option: str) -> list[str]:
    return re.findall(rf"{option} (\S+)", str(call))


def test_the_first_start_makes_the_whole_cluster(engine: Engine) -> None:
    output = started(engine)
    there = made(engine)
    assert there["running"] == sorted(f"{NAME}-{server}" for server in [*MEMBERS, *ROUTERS])
    assert there["volumes"] == sorted([f"{NAME}-{member}" for member in MEMBERS] + [f"{NAME}-keyfile"])
    assert list(engine.servers.data["config-1"].shards) == ["shard1", "shard2", "shard3"]
    assert engine.servers.data["config-1"].shards["shard2"]["host"] == (
        "shard2/shard2-1:27018,shard2-2:27018,shard2-3:27018"
    )
    assert there["databases"] == ["enlight"]
    assert there["balancer"] == "full"
    assert sorted(engine.servers.data["config-1"].users) == ["backup", "main-api", "root"]
    assert sorted(engine.servers.data["shard3-2"].users) == ["backup", "root"]
    assert str(engine.cluster_dir / "secrets" / "main-api.url") in output


def test_each_step_waits_for_the_one_before(engine: Engine) -> None:
    started(engine)
    text = [str(call) for call in engine.calls]
    first = {server: text.index(f"start {NAME}-{server}") for server in [*MEMBERS, *ROUTERS]}
    assert max(first[f"config-{n}"] for n in (1, 2, 3)) < min(first[f"shard1-{n}"] for n in (1, 2, 3))
    assert max(first[member] for member in MEMBERS) < min(first[router] for router in ROUTERS)
    commands = [(server, name) for server, _, name in engine.servers.commands]
    made_sets = [server for server, name in commands if name == "replSetInitiate"]
    assert made_sets == ["config-1", "shard1-1", "shard2-1", "shard3-1"]
    assert commands.index(("config-1", "createUser")) < commands.index(("shard1-1", "replSetInitiate"))
    assert commands.index(("router-1", "addShard")) < commands.index(("router-1", "enableSharding"))


def test_a_second_start_changes_nothing(cluster: Engine) -> None:
    before, password = made(cluster), cluster.secret("root.password")
    cluster.calls.clear()
    cluster.servers.commands.clear()
    started(cluster)
    assert made(cluster) == before
    assert cluster.secret("root.password") == password
    assert {call.arguments[0] for call in cluster.calls} <= {
        "version",
        "ps",
        "container",
        "volume",
        "image",
        "network",
        "exec",
    }
    assert not [call for call in cluster.calls if {"create", "connect", "rm"} & set(call.arguments[:2])]
    assert not {name for _, _, name in cluster.servers.commands} & {
        *["replSetInitiate", "createUser", "createRole", "addShard", "addShardToZone", "balancerStart"]
    }


#: After so many calls: amid the volumes, the first set, the shards, the routers.
@pytest.mark.parametrize("call", [14, 22, 30, 58])
def test_a_start_that_was_killed_is_ended_by_the_next(engine: Engine, cluster: Engine, call: int) -> None:
    assert engine.kill_script_after(call, "start")
    started(engine)
    assert made(engine) == made(cluster)


def test_a_member_that_is_slow_to_come_is_waited_for(engine: Engine) -> None:
    engine.servers.slow = {"shard2-3": 40, "config-1": 3, "router-2": 10}
    started(engine)
    assert engine.servers.slow == {"shard2-3": 0, "config-1": 0, "router-2": 0}


def test_a_member_that_does_not_come_is_named_and_the_start_can_be_repeated(engine: Engine) -> None:
    engine.servers.slow = {"shard2-3": 10_000}
    done = engine.run("start", WAIT_S="5")
    assert done.returncode == 1
    assert "shard2-3:27018 answers: not within 5 s" in done.stderr
    assert "a line of the log" in done.stderr
    assert "shard2" not in engine.servers.data["config-1"].shards
    engine.servers.slow = {}
    started(engine)
    assert list(engine.servers.data["config-1"].shards) == ["shard1", "shard2", "shard3"]


def test_a_member_that_has_lost_its_data_is_not_made_a_set_of_its_own(cluster: Engine) -> None:
    del cluster.containers[f"{NAME}-shard1-1"]
    cluster.volumes.remove(f"{NAME}-shard1-1")
    del cluster.servers.data["shard1-1"], cluster.servers.up["shard1-1"]
    cluster.servers.commands.clear()
    started(cluster)
    assert "replSetInitiate" not in {name for _, _, name in cluster.servers.commands}
    assert cluster.containers[f"{NAME}-shard1-1"].running


def test_no_secret_is_on_a_command_line_or_in_a_container(engine: Engine) -> None:
    output = started(engine)
    secrets = [
        engine.secret(name) for name in ("keyfile", "root.password", "backup.password", "main-api.password")
    ]
    assert len(set(secrets)) == 4
    for secret in secrets:
        assert secret not in output
        assert not [call for call in engine.calls if secret in str(call)]
    assert engine.keyfile.decode().strip() == secrets[0]
    assert 6 <= len(secrets[0]) <= 1024
    for file in (engine.cluster_dir / "secrets").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_keyfile_is_the_servers_users_own_and_nobody_can_write_it(engine: Engine) -> None:
    started(engine)
    (call,) = [call for call in engine.calls if call.arguments[0] == "run"]
    assert argument(call, "--user") == ["mongodb"]
    assert "umask 277" in str(call)
    for creation in (call for call in engine.calls if call.arguments[0] == "create"):
        assert f"--volume {NAME}-keyfile:/data/configdb:ro" in str(creation)
        assert "--keyFile /data/configdb/keyfile" in str(creation)


def test_main_api_gets_its_database_and_no_more(engine: Engine) -> None:
    started(engine, MONGO_DATABASE="records")
    config = engine.servers.data["config-1"]
    assert config.users["main-api"]["roles"] == [
        {"role": "readWrite", "db": "records"},
        {"role": "sharding", "db": "admin"},
    ]
    assert config.roles["sharding"] == [
        {"resource": {"db": "records", "collection": ""}, "actions": ["enableSharding"]}
    ]
    routers = ",".join(f"127.0.0.1:{engine.environment[f'ROUTER_{number}_PORT']}" for number in (1, 2))
    password = engine.secret("main-api.password")
    assert engine.secret("main-api.url") == f"mongodb://main-api:{password}@{routers}/?authSource=admin"


def test_another_root_password_than_the_datas_is_said(cluster: Engine) -> None:
    (cluster.cluster_dir / "secrets" / "root.password").write_text("another-one-than-before")
    done = cluster.run("start")
    assert done.returncode == 1
    assert "root's password is another" in done.stderr


def test_every_server_has_its_bounds_and_only_the_routers_can_be_reached(engine: Engine) -> None:
    started(engine, SHARD_MEMORY_MB="2048", SHARD_CACHE_GB="0.75", LOG_FILES="2", LISTEN="127.0.0.1")
    creations = {
        argument(call, "--hostname")[0]: str(call) for call in engine.calls if call.arguments[0] == "create"
    }
    assert sorted(creations) == sorted([*MEMBERS, *ROUTERS])
    for server, call in creations.items():
        memory = {"s": "2048m", "c": "768m", "r": "512m"}[server[0]]
        assert argument(call, "--memory") == argument(call, "--memory-swap") == [memory]
        assert argument(call, "--restart") == ["unless-stopped"]
        assert argument(call, "--log-opt") == ["max-size=50m", "max-file=2"]
        assert "--read-only" in call
        assert "--cap-drop ALL" in call
        cache = {"s": ["0.75"], "c": ["0.25"], "r": []}[server[0]]
        assert argument(call, "--wiredTigerCacheSizeGB") == cache
        published = {"router-1": "ROUTER_1_PORT", "router-2": "ROUTER_2_PORT"}.get(server)
        expected = [f"127.0.0.1:{engine.environment[published]}:27017"] if published else []
        assert argument(call, "--publish") == expected
        assert argument(call, "--network") == [f"{NAME}-edge" if published else NAME]


def test_data_whose_keyfile_is_missing_is_left_alone(cluster: Engine) -> None:
    (cluster.cluster_dir / "secrets" / "keyfile").unlink()
    before = len(cluster.calls)
    done = cluster.run("start")
    assert done.returncode == 1
    assert "keyfile is missing" in done.stderr
    assert {call.arguments[0] for call in cluster.calls[before:]} <= {"version", "ps", "container", "volume"}


def test_a_port_that_is_taken_is_said_before_anything_is_changed(engine: Engine) -> None:
    with socket.create_server(("127.0.0.1", int(engine.environment["ROUTER_2_PORT"]))):
        done = engine.run("start")
    assert done.returncode == 1
    assert "ROUTER_2_PORT" in done.stderr
    assert not engine.volumes
    assert not engine.networks


def test_an_image_that_cannot_be_had_is_said_before_anything_is_changed(engine: Engine) -> None:
    done = engine.run("start", MONGODB_IMAGE="mongo:99")
    assert done.returncode == 1
    assert "mongo:99 is not here and cannot be fetched" in done.stderr
    assert not engine.volumes


def test_one_script_at_a_time(engine: Engine) -> None:
    engine.cluster_dir.mkdir(parents=True)
    with (engine.cluster_dir / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = engine.run("start")
    assert done.returncode == 1
    assert "another of these scripts" in done.stderr


def test_a_stop_keeps_the_data_and_goes_from_the_routers_to_the_config_servers(cluster: Engine) -> None:
    before = made(cluster)
    assert cluster.run("status").returncode == 0
    assert cluster.run("stop").returncode == 0
    stops = [str(call).split()[3] for call in cluster.calls if call.arguments[0] == "stop"]
    assert [name.removeprefix(f"{NAME}-").split("-")[0] for name in stops] == ["router", "shard1", "config"]
    assert cluster.run("status").returncode == 3
    assert cluster.run("stop").returncode == 0
    started(cluster)
    assert made(cluster) == before


def test_status_names_what_is_amiss(cluster: Engine) -> None:
    well = cluster.run("status")
    assert well.returncode == 0, well.stdout + well.stderr
    assert re.search(r"^shard1-1 +primary +8\.0\.12$", well.stdout, re.MULTILINE)
    cluster.containers[f"{NAME}-shard2-2"].running = False
    cluster.servers.stop("shard2-2")
    ill = cluster.run("status")
    assert ill.returncode == 1
    assert re.search(r"^shard2-2 +down", ill.stdout, re.MULTILINE)
    assert "amiss: shard2-2" in ill.stderr


def test_destroying_asks_for_the_name_and_leaves_nothing_but_the_secrets(cluster: Engine) -> None:
    refused = cluster.run("destroy", typed="no\n")
    assert refused.returncode == 1
    assert len(cluster.containers) == 14
    done = cluster.run("destroy", typed=f"{NAME}\n")
    assert done.returncode == 0, done.stderr
    assert (cluster.containers, cluster.volumes, cluster.networks) == ({}, set(), set())
    assert cluster.secret("root.password")
    assert cluster.run("destroy", typed=f"{NAME}\n").returncode == 0


def test_another_engine_than_docker_can_be_named(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "programs" / "docker").rename(tmp_path / "programs" / "podman")
    started(engine, DOCKER="podman", PATH=f"{tmp_path / 'programs'}:/usr/bin:/bin")
    assert len(engine.containers) == 14
