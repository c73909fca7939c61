"""mongodb-server: a backup is taken of stopped secondaries, and a restore puts it back, whatever is killed.

As in test_mongodb_start, against a recording stand-in for docker.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from mongodb_containers import NAME
from mongodb_engine import Engine, started_cluster

SETS = ["config", "shard1", "shard2", "shard3"]


@pytest.fixture
def engine(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = started_cluster(tmp_path_factory, tmp_path / "machine")
    for name in SETS:
        engine.servers.data[f"{name}-1"].records.append(f"a record of {name}")
    yield engine
    engine.close()


def backup(engine: Engine) -> Path:
    done = engine.run("backup")
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (engine.cluster_dir / "backups").iterdir()
    return folder


def all_run(engine: Engine) -> bool:
    return len(engine.containers) == 14 and all(one.running for one in engine.containers.values())


def test_a_backup_is_of_secondaries_that_are_stopped_with_the_balancer_off(engine: Engine) -> None:
    folder = backup(engine)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [file["member"] for file in manifest["files"]] == ["config-2", "shard1-2", "shard2-2", "shard3-2"]
    assert [file["bytes"] for file in manifest["files"]] == [
        (folder / f"{name}.tar.gz").stat().st_size for name in SETS
    ]
    assert (manifest["release"], manifest["feature_version"], manifest["balancer"]) == (
        "8.0.12",
        "8.0",
        "full",
    )
    (stop,) = [call for call in engine.calls if call.arguments[0] == "stop"]
    assert stop.arguments[3:] == [
        f"{NAME}-{member}" for member in ("shard1-2", "shard2-2", "shard3-2", "config-2")
    ]
    order = [name for _, _, name in engine.servers.commands if name.startswith("balancerSt")]
    assert order.index("balancerStop") < order.index("balancerStart")
    assert engine.servers.data["config-1"].balancer == "full"
    assert all_run(engine)
    assert folder.stat().st_mode & 0o077 == 0


def test_a_balancer_that_somebody_has_stopped_stays_stopped(engine: Engine) -> None:
    engine.servers.data["config-1"].balancer = "off"
    manifest = json.loads((backup(engine) / "manifest.json").read_text())
    assert manifest["balancer"] == "off"
    assert engine.servers.data["config-1"].balancer == "off"


@pytest.mark.parametrize("trouble", ["down", "behind"])
def test_no_member_is_taken_from_a_set_that_is_not_whole(engine: Engine, trouble: str) -> None:
    if trouble == "down":
        engine.servers.stop("shard2-3")
    else:
        engine.servers.behind["shard2-3"] = 30
    done = engine.run("backup", WAIT_S="5")
    assert done.returncode == 1
    assert "shard2: all its members: not within" in done.stderr
    assert not [call for call in engine.calls if call.arguments[0] == "stop"]


#: After so many calls: members are stopped with the balancer off, one is copied, all are back.
@pytest.mark.parametrize("call", [9, 13, 16])
def test_a_backup_that_was_killed_is_mended_by_a_start(engine: Engine, call: int) -> None:
    assert engine.kill_script_after(call, "backup")
    done = engine.run("start")
    assert done.returncode == 0, done.stdout + done.stderr
    assert all_run(engine)
    assert engine.servers.data["config-1"].balancer == "full"
    assert engine.run("backup").returncode == 0
    folders = list((engine.cluster_dir / "backups").iterdir())
    assert all((folder / "manifest.json").is_file() for folder in folders)  # what was half made is gone


def test_a_backup_that_does_not_fit_on_the_disk_is_none(engine: Engine, tmp_path: Path) -> None:
    gzip = tmp_path / "machine" / "programs" / "gzip"
    gzip.write_text("#!/bin/bash\ncat >/dev/null\necho 'No space left on device' >&2\nexit 1\n")
    gzip.chmod(0o755)
    done = engine.run("backup")
    assert done.returncode == 1
    assert "is the disk full?" in done.stderr
    assert list((engine.cluster_dir / "backups").iterdir()) == []
    assert all_run(engine)
    assert engine.servers.data["config-1"].balancer == "full"


def test_a_restore_puts_back_what_the_backup_has(engine: Engine) -> None:
    folder = backup(engine)
    engine.servers.data["shard2-1"].records.append("written later")
    done = engine.run("restore", str(folder), typed=f"{NAME}\n")
    assert done.returncode == 0, done.stdout + done.stderr
    assert all_run(engine)
    for name in SETS:
        for number in (1, 2, 3):
            assert engine.servers.data[f"{name}-{number}"].records == [f"a record of {name}"]
    assert engine.servers.data["config-1"].balancer == "full"


def test_another_machine_can_be_given_the_backup_and_the_passwords(engine: Engine, tmp_path: Path) -> None:
    folder = backup(engine)
    other = Engine(tmp_path / "other")
    without = other.run("restore", str(folder))
    assert without.returncode == 1
    assert "is missing: it is not in the backup" in without.stderr
    shutil.copytree(engine.cluster_dir / "secrets", other.cluster_dir / "secrets")
    done = other.run("restore", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    assert other.servers.data["shard3-2"].records == ["a record of shard3"]
    assert all_run(other)
    other.close()


def test_a_restore_asks_for_the_name_first(engine: Engine) -> None:
    folder = backup(engine)
    done = engine.run("restore", str(folder), typed="yes\n")
    assert done.returncode == 1
    assert all_run(engine)


@pytest.mark.parametrize("damage", ["cut", "no manifest", "other password", "other series"])
def test_a_backup_that_does_not_fit_is_refused_with_nothing_stopped(engine: Engine, damage: str) -> None:
    folder = backup(engine)
    if damage == "cut":
        file = folder / "shard2.tar.gz"
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "no manifest":
        (folder / "manifest.json").unlink()
    elif damage == "other password":
        (engine.cluster_dir / "secrets" / "root.password").write_text("another-one-than-before")
    else:
        engine.releases["mongo:8.2"] = "8.2.1"
    image = "mongo:8.2" if damage == "other series" else "mongo:8.0"
    done = engine.run("restore", str(folder), typed=f"{NAME}\n", MONGODB_IMAGE=image)
    assert done.returncode == 1
    expected = {
        "cut": "shard2.tar.gz is damaged",
        "no manifest": "has no manifest.json",
        "other password": "another root.password",
        "other series": "set MONGODB_IMAGE",
    }
    assert expected[damage] in done.stderr
    assert all_run(engine)


@pytest.mark.parametrize("call", [7, 15])
def test_a_restore_that_was_killed_before_it_touched_the_data_is_as_if_it_had_not_been(
    engine: Engine, call: int
) -> None:
    folder = backup(engine)
    engine.servers.data["shard1-3"].records.append("written later")
    assert engine.kill_script_after(call, "restore", str(folder), typed=f"{NAME}\n")
    done = engine.run("start")
    assert done.returncode == 0, done.stdout + done.stderr
    assert all_run(engine)
    assert engine.servers.data["shard1-3"].records == ["a record of shard1", "written later"]


@pytest.mark.parametrize("call", [26, 33])
def test_a_restore_that_was_killed_must_be_ended_before_anything_else(engine: Engine, call: int) -> None:
    folder = backup(engine)
    process_came = engine.kill_script_after(call, "restore", str(folder), typed=f"{NAME}\n")
    assert process_came
    refused = engine.run("start")
    assert refused.returncode == 1
    assert f"run restore.sh {folder} again" in refused.stderr
    done = engine.run("restore", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    assert all_run(engine)
    assert engine.servers.data["shard1-3"].records == ["a record of shard1"]
