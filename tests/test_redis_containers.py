"""enlight-redis with ENLIGHT_RUNTIME=docker: the same scripts, each server a container of redis:7."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from everything_parts import quiet_ports
from main_api.redis_link import RedisLink
from redis.cluster import RedisCluster
from redis_parts import Scripts

DOCKER = os.environ.get("DOCKER", "docker")


def docker(*arguments: str) -> str:
    done = subprocess.run([DOCKER, *arguments], capture_output=True, text=True, timeout=120)
    return done.stdout if done.returncode == 0 else ""


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which(DOCKER) is None or not docker("image", "inspect", "redis:7"),
        reason="needs docker and the image redis:7",
    ),
]


class Containers:
    """Settings of containers that are told from all others, and what is left of them."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.prefix = f"test{random.randrange(10**6)}"
        self.network = f"{self.prefix}-network"
        self.settings = {
            "ENLIGHT_RUNTIME": "docker",
            "DOCKER": DOCKER,
            "CONTAINER_PREFIX": self.prefix,
            "NETWORK": self.network,
        }

    def left(self) -> str:
        """Names of containers and networks."""
        containers = docker("ps", "--all", "--format", "{{.Names}}")
        lines = containers.split() + docker("network", "ls", "--format", "{{.Name}}").split()
        return " ".join(line for line in lines if line.startswith(self.prefix))

    def remove(self) -> None:
        for name in self.left().split():
            docker("rm", "--force", name)
        docker("network", "rm", self.network)


@pytest.fixture
def containers(tmp_path: Path) -> Iterator[Containers]:
    made = Containers(tmp_path / "with space")
    yield made
    made.remove()


def test_one_server_in_a_container_keeps_its_data_and_no_secret_in_its_settings(
    containers: Containers,
) -> None:
    port = quiet_ports(1)
    one = Scripts("single_redis", containers.data_dir, REDIS_PORT=str(port), **containers.settings)
    folder = containers.data_dir / "redis" / "cache"
    one.succeed("start")
    assert "running already" in one.succeed("start")
    password = (folder / "main-api.password").read_text()
    link = RedisLink(f"redis://main-api:{password}@127.0.0.1:{port}/0")
    assert link.ask(lambda client: client.set("enlight:kept", "yes"), None)
    one.succeed("backup")
    inspected = docker("inspect", f"{containers.prefix}-redis-cache")
    assert password not in inspected
    assert (folder / "password").read_text() not in inspected
    # Without the setting it is found by its folder.
    one.succeed("stop", "cache", ENLIGHT_RUNTIME="process")
    assert containers.left() == ""
    (backup,) = (containers.data_dir / "backups" / "redis").iterdir()
    one.succeed("restore", "cache", str(backup))
    one.succeed("start")
    link = RedisLink(f"redis://main-api:{password}@127.0.0.1:{port}/0")
    assert link.ask(lambda client: client.get("enlight:kept"), None) == "yes"
    one.succeed("stop", "cache", "--remove-data")
    assert (containers.left(), folder.exists()) == ("", False)


def test_six_containers_are_a_cluster_that_mends_itself_and_leave_nothing(containers: Containers) -> None:
    subnet = f"10.{random.randrange(200, 250)}.{random.randrange(250)}"
    settings = {**containers.settings, "CLUSTER_PORT": "7000", "SUBNET": f"{subnet}.0/24"}
    cluster = Scripts("redis_cluster", containers.data_dir, **settings)
    cluster.succeed("start")
    password = (containers.data_dir / "redis/cluster/main-api.password").read_text()
    url = f"redis://main-api:{password}@{subnet}.12:7001/0"
    with RedisCluster.from_url(url, decode_responses=True) as client:
        for number in range(30):
            client.set(f"enlight:{number}", number)
    docker("kill", f"{containers.prefix}-redis-node-1")
    assert cluster.run("status").returncode == 2
    cluster.succeed("start")
    with RedisCluster.from_url(url, decode_responses=True) as client:
        assert [client.get(f"enlight:{number}") for number in range(30)] == [str(n) for n in range(30)]
    cluster.succeed("stop", "--remove-data")
    assert containers.left() == ""
