"""mongodb-server's scripts in the real mongosh, where there is one: it runs JavaScript in a way of its own.

Behind it is mongodb_servers by MongoDB's wire protocol. mongosh comes from npm; MONGOSH names one that is not
in PATH.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from mongodb_engine import Engine
from mongodb_servers import Servers
from mongodb_wire import Wire

MONGOSH = shutil.which(os.environ.get("MONGOSH", "mongosh"))
pytestmark = pytest.mark.skipif(MONGOSH is None, reason="mongosh is not installed (npm install -g mongosh)")


class RealShell:
    """mongosh, with each server of the cluster behind a loopback address of its own."""

    def __init__(self, servers: Servers, home: Path) -> None:
        self._home = home
        network = f"127.{random.randrange(100, 250)}.{random.randrange(100, 250)}"
        sets = [f"{name}-{n}" for name in ("config", "shard1", "shard2", "shard3") for n in (1, 2, 3)]
        self._names = {
            f"{network}.{number}": server
            for number, server in enumerate([*sets, "router-1", "router-2"], 101)
        }
        ports = {"config": 27019, "shard1": 27018, "shard2": 27018, "shard3": 27018, "router": 27017}
        self._wires = [
            Wire(servers, server, (address, ports[server.rpartition("-")[0]]), self._names)
            for address, server in self._names.items()
        ]

    def run(self, server: str, source: str, ask: object) -> tuple[int, str, str]:
        for address, name in self._names.items():
            source = source.replace(f'"{name}:', f'"{address}:')
            if name == server:
                source = source.replace("127.0.0.1", address)
        done = subprocess.run(
            [str(MONGOSH), "--nodb", "--norc", "--quiet", "--file", "/dev/stdin"],
            input=source,
            env={"PATH": os.environ["PATH"], "HOME": str(self._home)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        output = done.stdout
        for address, name in self._names.items():
            output = output.replace(address, name)
        return done.returncode, output, done.stderr

    def close(self) -> None:
        for wire in self._wires:
            wire.close()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = Engine(tmp_path)
    shell = RealShell(engine.servers, tmp_path / "home")
    engine.shell = shell
    yield engine
    shell.close()
    engine.close()


@pytest.mark.slow
def test_mongosh_runs_every_script_and_writes_no_password_down(engine: Engine, tmp_path: Path) -> None:
    def well(script: str, *arguments: str, **settings: str) -> str:
        done = engine.run(script, *arguments, **settings)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    well("start")
    config = engine.servers.data["config-1"]
    assert list(config.shards) == ["shard1", "shard2", "shard3"]
    config.collections.append({"_id": "enlight.jobs", "key": {"_id": "hashed"}})
    well("zones")
    assert config.ranges[0]["tag"] == "records"
    well("zones", ZONES="archive:shard3:jobs")
    assert [one["tag"] for one in config.ranges] == ["archive"]
    assert "shard3-2" in well("status")
    well("backup")
    well("upgrade", CONFIG_CACHE_GB="0.3")
    for data in engine.servers.data.values():
        data.series = "7.0"
    well("upgrade", "--finish")
    assert engine.servers.data["shard2-1"].series == "8.0"

    passwords = [engine.secret(f"{user}.password") for user in ("root", "backup", "main-api")]
    written = b"".join(file.read_bytes() for file in (tmp_path / "home").rglob("*") if file.is_file())
    assert written
    assert not [password for password in passwords if password.encode() in written]
