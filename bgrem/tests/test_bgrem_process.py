"""A real `python -m bgrem`: full queues, clients that leave, memory, and its end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from bgrem_parts import SMALL, WEIGHTS_DIR, astronaut, from_base64, in_base64, weights

WITHIN_S = 240
BODY = {"input_image": in_base64(astronaut())}


class Running:
    """A started service; its output is in `log`."""

    def __init__(self, folder: Path) -> None:
        weights()
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = one.getsockname()[1]
        self.log = folder / "service.log"
        settings = {
            "PORT": str(self.port),
            "WEIGHTS_DIR": str(WEIGHTS_DIR),
            "DEFAULT_MODEL": SMALL,
            "THREADS": "16",
            "COMPUTE_THREADS": "1",
        }
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "bgrem"]
            self.process = subprocess.Popen(command, env={**os.environ, **settings}, stdout=log, stderr=log)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=WITHIN_S)

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WITHIN_S
        while not condition():
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.05)

    def status(self, path: str) -> int:
        with contextlib.suppress(httpx.HTTPError):
            return self.client.get(path).status_code
        return 0

    def metric(self, name: str) -> float:
        lines = self.client.get("/metrics").text.splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))

    def resident_bytes(self) -> int:
        first = psutil.Process(self.process.pid)
        return sum(one.memory_info().rss for one in [first, *first.children(recursive=True)])

    def send(self) -> socket.socket:
        """A request whose answer nobody reads yet."""
        data = json.dumps(BODY).encode()
        head = f"POST /remove HTTP/1.1\r\nHost: test\r\nContent-Length: {len(data)}\r\n"
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=WITHIN_S)
        connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + data)
        return connection


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    service = Running(tmp_path_factory.mktemp("bgrem"))
    try:
        service.until(lambda: service.status("/healthz") == 200)
        service.until(lambda: service.status("/readyz") == 200)
        yield service
    finally:
        service.client.close()
        service.process.kill()
        service.process.wait()


def test_when_too_many_wait_the_next_is_told_to_come_back(running: Running) -> None:
    def ask(_: int) -> httpx.Response:
        return httpx.post(f"http://127.0.0.1:{running.port}/remove", json=BODY, timeout=WITHIN_S)

    with ThreadPoolExecutor(14) as clients:
        futures = [clients.submit(ask, number) for number in range(14)]
        running.until(lambda: running.status("/healthz") == 200)  # while all of them are being answered
        answers = [future.result() for future in futures]
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 503}
    assert statuses.count(200) >= 8
    for refused in (answer for answer in answers if answer.status_code == 503):
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.json()["type"] == "/problems/overloaded"
    pictures = [from_base64(answer.json()["output_image"]) for answer in answers if answer.status_code == 200]
    assert len({picture.tobytes() for picture in pictures}) == 1


def test_who_leaves_gives_up_the_place(running: Running) -> None:
    done = running.metric("inferences_total")
    connections = [running.send() for _ in range(8)]
    running.until(lambda: running.metric("requests_taken") == 8)
    for connection in connections:
        connection.close()
    running.until(lambda: running.metric("requests_taken") == 0)
    assert running.metric("inferences_total") - done < 8


def test_memory_does_not_grow_with_requests(running: Running) -> None:
    def ask_often(times: int) -> None:
        for _ in range(times):
            running.client.post("/remove", json=BODY).raise_for_status()

    ask_often(8)
    before = running.resident_bytes()
    ask_often(24)
    assert running.resident_bytes() - before < 30_000_000


def test_sigterm_lets_what_runs_finish(running: Running) -> None:
    connection = running.send()
    running.until(lambda: running.metric("requests_taken") == 1)
    running.process.send_signal(signal.SIGTERM)
    answer = b""
    while chunk := connection.recv(1 << 16):
        answer += chunk
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert running.process.wait(timeout=WITHIN_S) == 0


def test_wrong_settings_end_the_start_with_a_message() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bgrem"],
        env={**os.environ, "PORT": "0", "DEVICE": "abacus"},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
    )
    assert done.returncode == 2
    assert "PORT" in done.stderr
    assert "DEVICE" in done.stderr
