"""A real nginx before instances that take a request and die: what changes something is sent once."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from services import SCRIPTS, free_ports, wait_until


class Dying:
    """Takes connections on a port, reads a request from each, and closes it without an answer."""

    def __init__(self, port: int) -> None:
        self.asked: list[str] = []
        self._listening = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                with connection:
                    self.asked.append(connection.recv(65_536).decode().partition("\r\n")[0])

    def close(self) -> None:
        # Wakes the thread that accepts, which close alone does not.
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


CONFIGURE = """
set -euo pipefail
source "$1/lib/settings.sh"
source "$1/lib/processes.sh"
source "$1/lib/nginx_instances.sh"
source "$1/lib/nginx.sh"
find_nginx
prepare_data_dir
PLAN=("cpu0 127.0.0.1 $BASE_PORT cpu" "cpu1 127.0.0.1 $((BASE_PORT + 1)) cpu")
configure_nginx
exec "$NGINX" -p "$DATA_DIR/nginx/" -c "$DATA_DIR/nginx/conf/nginx.conf" -e stderr -g 'daemon off;'
"""


@pytest.fixture
def front(tmp_path: Path) -> Iterator[tuple[str, list[Dying]]]:
    port = free_ports(3)
    instances = [Dying(port + 1), Dying(port + 2)]
    settings = {"DATA_DIR": str(tmp_path), "PORT": str(port), "BASE_PORT": str(port + 1)}
    with (tmp_path / "nginx.out").open("wb") as out:
        nginx = subprocess.Popen(
            ["bash", "-c", CONFIGURE, "-", SCRIPTS],
            env={"PATH": "/usr/sbin:/usr/bin:/bin", **settings},
            stdout=out,
            stderr=out,
        )
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert nginx.poll() is None, (tmp_path / "nginx.out").read_text()
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{url}/nginx-health").is_success
        return False

    try:
        wait_until(answers, "nginx to answer")
        yield url, instances
    finally:
        nginx.terminate()
        nginx.wait(60)
        for instance in instances:
            instance.close()


RUN = f"/train/cpu0-{'0' * 24}"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/models/my-cup"),
        ("PUT", "/models/my-cup"),
        ("DELETE", RUN),
        ("DELETE", "/train/gone-" + "0" * 24),
        ("POST", f"{RUN}/lease"),
        ("POST", f"{RUN}/settlement"),
        ("POST", "/inference"),
    ],
)
def test_what_changes_something_is_sent_once(front: tuple[str, list[Dying]], method: str, path: str) -> None:
    url, instances = front
    answer = httpx.request(method, f"{url}{path}", timeout=60)
    assert answer.status_code == 502
    assert answer.json()["type"] == "/problems/bad-gateway"
    assert [asked for one in instances for asked in one.asked] == [f"{method} {path} HTTP/1.1"]


def test_what_only_reads_is_asked_of_another_instance(front: tuple[str, list[Dying]]) -> None:
    url, instances = front
    assert httpx.get(f"{url}/models", timeout=60).status_code == 502
    assert [len(one.asked) for one in instances] == [1, 1]
    assert httpx.get(f"{url}{RUN}", timeout=60).status_code == 502
    assert sum(len(one.asked) for one in instances) > 3
