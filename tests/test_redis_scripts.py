"""enlight-redis/single_redis: one Redis is started, asked, saved and stopped, wherever its folder is."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import dramatiq
import pytest
import redis
from everything_parts import quiet_ports
from main_api.background.broker import open_broker
from redis_parts import Scripts
from services import wait_until


class OneRedis(Scripts):
    def __init__(self, data_dir: Path, kind: str, variable: str, **settings: str) -> None:
        self.kind, self.port = kind, quiet_ports(1)
        self.folder = data_dir / "redis" / kind
        super().__init__("single_redis", data_dir, **{variable: str(self.port)}, **settings)

    def run(self, action: str, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        return super().run(action, self.kind, *arguments, **changes)

    def client(self, user: str = "default") -> redis.Redis:
        file = "password" if user == "default" else f"{user}.password"
        password = (self.folder / file).read_text()
        return redis.Redis(port=self.port, username=user, password=password, decode_responses=True)

    def kill(self) -> None:
        os.kill(int((self.folder / "redis.pid").read_text()), signal.SIGKILL)
        wait_until(lambda: self.run("status").returncode == 1, "it is gone")


@pytest.fixture(params=[("cache", "REDIS_PORT"), ("queue", "BROKER_PORT")], ids=["cache", "queue"])
def one(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OneRedis]:
    server = OneRedis(tmp_path / 'with space, "quotes" and [brackets]', *request.param)
    yield server
    server.run("stop")


def test_one_redis_is_started_asked_and_stopped(one: OneRedis) -> None:
    assert one.run("status").returncode == 1
    started = one.succeed("start")
    files = [one.folder / name for name in ("redis.conf", "password", "main-api.password")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert files[1].read_text() not in started
    with one.client() as client:
        policy = client.config_get("maxmemory-policy")["maxmemory-policy"]
        assert policy == {"cache": "allkeys-lru", "queue": "noeviction"}[one.kind]
        client.set("kept", "yes")
    assert "running already" in one.succeed("start")
    assert f"127.0.0.1:{one.port}" in one.succeed("status")

    one.succeed("stop")
    assert one.run("status").returncode == 1
    one.succeed("start")
    with one.client() as client:
        assert client.get("kept") == "yes"
    one.succeed("stop", "--remove-data")
    assert not one.folder.exists()


def test_one_that_was_killed_is_started_again_with_what_it_had(one: OneRedis) -> None:
    one.succeed("start")
    with one.client() as client:
        client.set("kept", "yes")
    one.kill()
    one.succeed("start")
    with one.client() as client:
        assert client.get("kept") == "yes"


def test_another_process_with_the_number_of_one_that_was_killed_is_not_taken_for_it(one: OneRedis) -> None:
    one.succeed("start")
    one.kill()
    other = subprocess.Popen(["sleep", "60"])
    try:
        (one.folder / "redis.pid").write_text(f"{other.pid}\n")
        assert one.run("status").returncode == 1
        one.succeed("stop")
        assert other.poll() is None
        assert "listens on" in one.succeed("start")
    finally:
        other.kill()
        other.wait()


def test_a_backup_brings_back_what_was_and_sets_aside_what_was_since(one: OneRedis, tmp_path: Path) -> None:
    backup = tmp_path / "a backup.rdb"
    one.succeed("start")
    with one.client() as client:
        client.set("kept", "as it was")
        one.succeed("backup", str(backup))
        client.set("kept", "since then")
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    refused = one.run("restore", str(backup))
    assert (refused.returncode, "run stop.sh first" in refused.stderr) == (1, True)
    one.succeed("stop")
    one.succeed("restore", str(backup))
    for _ in range(2):
        one.succeed("start")
        with one.client() as client:
            assert client.get("kept") == "as it was"
        one.succeed("stop")
    assert len(list(one.folder.glob("before-restore-*/*"))) == 1


def test_what_is_no_backup_is_refused_and_the_data_stays(one: OneRedis, tmp_path: Path) -> None:
    one.succeed("start")
    with one.client() as client:
        client.set("kept", "yes")
    one.succeed("stop")
    (tmp_path / "none.rdb").write_bytes(b"something else altogether")
    refused = one.run("restore", str(tmp_path / "none.rdb"))
    assert refused.returncode == 1
    assert "not a backup" in refused.stderr
    one.succeed("start")
    with one.client() as client:
        assert client.get("kept") == "yes"


def test_main_apis_user_may_not_touch_what_is_not_main_apis(one: OneRedis) -> None:
    one.succeed("start")
    with one.client("main-api") as client:
        client.set("enlight:one", "1")
        for forbidden in (
            lambda: client.set("another", "1"),
            lambda: client.flushall(),
            lambda: client.config_get("requirepass"),
            lambda: client.shutdown(),
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                forbidden()


def test_main_apis_user_may_do_all_that_the_background_does_with_its_queue(tmp_path: Path) -> None:
    one = OneRedis(tmp_path, "queue", "BROKER_PORT")
    one.succeed("start")
    password = (one.folder / "main-api.password").read_text()
    broker = open_broker(f"redis://main-api:{password}@127.0.0.1:{one.port}/0")
    done: list[int] = []
    work = dramatiq.actor(done.append, actor_name="work", queue_name="numbers", broker=broker)
    worker = dramatiq.Worker(broker, worker_timeout=100, worker_threads=2)
    try:
        work.send(1)
        work.send_with_options(args=(2,), delay=50)
        worker.start()
        wait_until(lambda: sorted(done) == [1, 2], "both messages are worked on")
        broker.join("numbers", timeout=30_000)
    finally:
        worker.stop()
        broker.close()
        one.run("stop")


def test_a_port_that_is_taken_is_named_before_anything_is_made(one: OneRedis) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", one.port))
        other.listen()
        done = one.run("start")
    assert done.returncode == 1
    assert f"port {one.port}" in done.stderr
    assert not one.folder.exists()


def test_a_start_after_an_interrupted_restore_is_refused(one: OneRedis) -> None:
    one.folder.mkdir(parents=True)
    (one.folder / "appendonly.aof.new").write_bytes(b"half of i")
    done = one.run("start")
    assert done.returncode == 1
    assert "restore.sh was interrupted" in done.stderr


def test_another_name_than_cache_and_queue_is_refused(tmp_path: Path) -> None:
    done = OneRedis(tmp_path, "other", "REDIS_PORT").run("start")
    assert done.returncode == 2
    assert "cache or queue" in done.stderr


@pytest.mark.parametrize("action", ["start", "stop", "status", "backup", "restore"])
def test_every_script_tells_what_it_does_and_what_can_be_set(tmp_path: Path, action: str) -> None:
    told = Scripts("single_redis", tmp_path / "data").succeed(action, "--help")
    assert "REDIS_PORT=6379" in told
    assert not (tmp_path / "data").exists()
