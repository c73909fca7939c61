"""mongodb-server: an upgrade goes from server to server, secondaries first, and never takes two of a set.

As in test_mongodb_start, against a recording stand-in for docker.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from mongodb_containers import NAME
from mongodb_engine import Engine, started_cluster

SETS = ["config", "shard1", "shard2", "shard3"]


@pytest.fixture
def engine(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = started_cluster(tmp_path_factory, tmp_path / "machine")
    engine.releases |= {
        "mongo:8.2": "8.2.1",
        "mongo:9.0": "9.0.1",
        "mongo:10.0": "10.0.0",
        "mongo:7.0": "7.0.20",
    }
    yield engine
    engine.close()


def replaced(engine: Engine) -> list[str]:
    return [call.arguments[1].removeprefix(f"{NAME}-") for call in engine.calls if call.arguments[0] == "rm"]


def images(engine: Engine) -> set[str]:
    return {one.image for one in engine.containers.values() if one.running}


def test_secondaries_go_first_then_the_primary_that_has_stepped_down(engine: Engine) -> None:
    done = engine.run("upgrade", MONGODB_IMAGE="mongo:9.0")
    assert done.returncode == 0, done.stdout + done.stderr
    in_order = [f"{name}-{number}" for name in SETS for number in (2, 3, 1)]
    assert replaced(engine) == [*in_order, "router-1", "router-2"]
    assert images(engine) == {"mongo:9.0"}
    stepped = [server for server, _, name in engine.servers.commands if name == "replSetStepDown"]
    assert stepped == [f"{name}-1" for name in SETS]
    balancer = [name for _, _, name in engine.servers.commands if name in {"balancerStop", "balancerStart"}]
    assert balancer == ["balancerStop", "balancerStart"]
    assert engine.servers.data["config-1"].balancer == "full"
    assert {data.series for data in engine.servers.data.values()} == {"8.0"}


def test_the_next_member_waits_until_the_last_is_well(engine: Engine) -> None:
    settings = {"CONFIG_CACHE_GB": "0.3"}
    engine.servers.behind["config-3"] = 30
    done = engine.run("upgrade", WAIT_S="5", **settings)
    assert done.returncode == 1
    assert "config-3:27019 is 30 s behind" in done.stderr
    assert replaced(engine) == []
    engine.servers.behind.clear()
    again = engine.run("upgrade", **settings)
    assert again.returncode == 0, again.stdout + again.stderr
    assert replaced(engine) == ["config-2", "config-3", "config-1"]
    assert engine.servers.data["config-1"].balancer == "full"


def test_what_is_up_to_date_is_left_alone(engine: Engine) -> None:
    done = engine.run("upgrade")
    assert done.returncode == 0, done.stdout + done.stderr
    assert replaced(engine) == []
    assert engine.servers.data["config-1"].balancer == "full"


def test_a_setting_reaches_the_servers_that_it_is_for(engine: Engine) -> None:
    started = engine.run("start", ROUTER_MEMORY_MB="600")
    assert "upgrade.sh" in started.stdout
    done = engine.run("upgrade", ROUTER_MEMORY_MB="600")
    assert done.returncode == 0, done.stdout + done.stderr
    assert replaced(engine) == ["router-1", "router-2"]


def test_a_patch_under_the_same_tag_is_taken(engine: Engine) -> None:
    engine.releases["mongo:8.0"] = "8.0.13"
    done = engine.run("upgrade")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(replaced(engine)) == 14


#: After so many calls: a member is removed, the primary has stepped down.
@pytest.mark.parametrize("call", [11, 18])
def test_an_upgrade_that_was_killed_is_ended_by_the_next(engine: Engine, call: int) -> None:
    settings = {"CONFIG_CACHE_GB": "0.3"}
    assert engine.kill_script_after(call, "upgrade", **settings)
    done = engine.run("upgrade", **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    config = [one for one in engine.containers.values() if one.server.startswith("config")]
    assert [one.running and "0.3" in one.arguments for one in config] == [True] * 3
    assert len(engine.containers) == 14
    assert engine.servers.data["config-1"].balancer == "full"


@pytest.mark.parametrize(
    ("image", "why"), [("mongo:7.0", "there is no way back"), ("mongo:10.0", "more than one major release")]
)
def test_no_way_that_mongodb_does_not_go(engine: Engine, image: str, why: str) -> None:
    done = engine.run("upgrade", MONGODB_IMAGE=image)
    assert done.returncode == 1
    assert why in done.stderr
    assert replaced(engine) == []
    assert engine.servers.data["config-1"].balancer == "full"


def test_the_new_series_is_used_only_when_it_is_said(engine: Engine) -> None:
    early = engine.run("upgrade", "--finish", MONGODB_IMAGE="mongo:9.0")
    assert early.returncode == 1
    assert "run upgrade.sh first" in early.stderr
    assert engine.run("upgrade", MONGODB_IMAGE="mongo:9.0").returncode == 0
    done = engine.run("upgrade", "--finish", MONGODB_IMAGE="mongo:9.0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {data.series for data in engine.servers.data.values()} == {"9.0"}
    assert "already" in engine.run("upgrade", "--finish", MONGODB_IMAGE="mongo:9.0").stdout
