"""mongodb-server and main-api agree: main-api shards its collections, zones hold what it has sharded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from main_api.records.database import INDEXES, Database
from mongodb_engine import Engine, started_cluster
from mongodb_replica_set import ReplicaSet
from mongodb_wire import Wire


@pytest.fixture
def engine(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = started_cluster(tmp_path_factory, tmp_path / "machine")
    yield engine
    engine.close()


@pytest.fixture
def cluster(engine: Engine) -> ReplicaSet:
    """The config servers' data, once main-api has started with the address that start.sh wrote."""
    router = Wire(engine.servers, "router-1", ("127.0.0.1", int(engine.environment["ROUTER_1_PORT"])))
    database = Database(engine.secret("main-api.url"), "enlight")
    database.prepare()
    database.prepare()
    database.close()
    router.close()
    return engine.servers.data["config-1"]


def zones(cluster: ReplicaSet) -> dict[str, str]:
    return {one["ns"].removeprefix("enlight."): one["tag"] for one in cluster.ranges}


def test_main_api_shards_its_collections_by_itself_with_what_its_user_may_do(cluster: ReplicaSet) -> None:
    keys = {one["_id"]: one["key"] for one in cluster.collections}
    assert keys == {f"enlight.{name}": {"_id": "hashed"} for name in INDEXES}


def test_every_collection_is_in_the_zone_that_the_settings_say(engine: Engine, cluster: ReplicaSet) -> None:
    assert zones(cluster) == {}
    done = engine.run("zones")
    assert done.returncode == 0, done.stderr
    assert zones(cluster) == dict.fromkeys(INDEXES, "records")
    assert cluster.ranges[0]["min"] == {"_id": {"$minKey": 1}}
    assert cluster.ranges[0]["max"] == {"_id": {"$maxKey": 1}}
    assert all(shard["tags"] == ["records"] for shard in cluster.shards.values())
    engine.servers.commands.clear()
    assert engine.run("start").returncode == 0
    assert not {name for _, _, name in engine.servers.commands} & {"addShardToZone", "updateZoneKeyRange"}


def test_a_collection_moves_to_another_zone_and_back(engine: Engine, cluster: ReplicaSet) -> None:
    assert engine.run("zones").returncode == 0
    moved = engine.run("zones", ZONES="archive:shard3:audit,deliveries records:shard1,shard2:*")
    assert moved.returncode == 0, moved.stderr
    assert zones(cluster)["audit"] == zones(cluster)["deliveries"] == "archive"
    assert zones(cluster)["jobs"] == "records"
    assert {name: shard["tags"] for name, shard in cluster.shards.items()} == {
        "shard1": ["records"],
        "shard2": ["records"],
        "shard3": ["archive"],
    }
    assert "enlight.audit by" in engine.run("status").stdout
    back = engine.run("zones")
    assert back.returncode == 0, back.stderr
    assert zones(cluster) == dict.fromkeys(INDEXES, "records")
    assert all(shard["tags"] == ["records"] for shard in cluster.shards.values())


def test_without_zones_every_shard_keeps_everything(engine: Engine, cluster: ReplicaSet) -> None:
    assert engine.run("zones").returncode == 0
    done = engine.run("zones", ZONES="")
    assert done.returncode == 0, done.stderr
    assert zones(cluster) == {}
    assert all(shard["tags"] == [] for shard in cluster.shards.values())
