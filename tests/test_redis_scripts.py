"""enlight-redis/single_redis: one Redis is started, asked and stopped, wherever its folder is."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from everything_parts import quiet_ports
from services import SCRIPTS

SINGLE_REDIS = SCRIPTS.parent / "enlight-redis" / "single_redis"


class OneRedis:
    def __init__(self, data_dir: Path, kind: str, variable: str) -> None:
        self.folder, self.kind, self.port = data_dir / "redis" / kind, kind, quiet_ports(1)
        self._environment = {"PATH": os.environ["PATH"], "DATA_DIR": str(data_dir), variable: str(self.port)}

    def run(self, action: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [SINGLE_REDIS / f"{action}.sh", self.kind],
            env=self._environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )


@pytest.fixture(params=[("cache", "REDIS_PORT"), ("queue", "BROKER_PORT")], ids=["cache", "queue"])
def one(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OneRedis]:
    server = OneRedis(tmp_path / 'with space, "quotes" and [brackets]', *request.param)
    yield server
    server.run("stop")


def test_one_redis_is_started_asked_and_stopped(one: OneRedis) -> None:
    assert one.run("status").returncode == 1
    started = one.run("start")
    assert started.returncode == 0, started.stdout + started.stderr
    password = (one.folder / "password").read_text()
    assert password not in started.stdout
    assert stat.S_IMODE((one.folder / "redis.conf").stat().st_mode) == 0o600
    with redis.Redis(port=one.port, password=password) as client:
        policy = client.config_get("maxmemory-policy")["maxmemory-policy"]
        assert policy == {"cache": "allkeys-lru", "queue": "noeviction"}[one.kind]
        client.set("kept", "yes")
    assert "running already" in one.run("start").stdout
    assert f"127.0.0.1:{one.port}" in one.run("status").stdout

    assert one.run("stop").returncode == 0
    assert one.run("status").returncode == 1
    assert one.run("start").returncode == 0
    with redis.Redis(port=one.port, password=password) as client:
        assert client.get("kept") == b"yes"


def test_another_name_than_cache_and_queue_is_refused(tmp_path: Path) -> None:
    done = OneRedis(tmp_path, "other", "REDIS_PORT").run("start")
    assert done.returncode == 2
    assert "cache or queue" in done.stderr
