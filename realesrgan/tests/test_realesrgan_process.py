"""A real ``python -m realesrgan_service``: clients that leave, what is told meanwhile, the end, memory."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from realesrgan_parts import FAST, WEIGHTS, WITHIN_S, photo, request

#: A picture of the anime network that takes far longer than any test waits for.
LONG = {**request(photo(420)), "model_name": "RealESRGAN_x4plus_anime_6B", "out_resolution": 1680}


class RunningService:
    def __init__(self, folder: Path, models_dir: Path, **environment: str) -> None:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = int(one.getsockname()[1])
        self.log = folder / "service.log"
        settings = {
            "PORT": str(self.port),
            "WEIGHTS_DIR": str(WEIGHTS),
            "MODELS_DIR": str(models_dir),
            "MODEL": FAST,
            "PRECISION": "fp32",
            "FETCH_MODELS": "false",
            "THREADS": "16",
            "GRACE_S": "1",
            **environment,
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "realesrgan_service"],
                env={**os.environ, **settings},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=WITHIN_S)

    def answers(self, path: str) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return self.client.get(path).status_code == 200
        return False

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WITHIN_S
        while not condition():
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.05)

    def state(self, request_id: str) -> Any:
        return self.client.get(f"/progress/{request_id}").json().get("state")

    def send(self, body: dict[str, Any], request_id: str) -> socket.socket:
        """A request whose answer nobody reads yet."""
        data = json.dumps(body).encode()
        head = (
            f"POST /upsampler HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
            f"X-Request-Id: {request_id}\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=WITHIN_S)
        connection.sendall(head.encode() + data)
        return connection

    def resident_bytes(self) -> int:
        return sum(
            process.memory_info().rss for process in psutil.Process(self.process.pid).children(recursive=True)
        )

    def end(self) -> None:
        self.client.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, converted_models: Path) -> Iterator[RunningService]:
    service = RunningService(tmp_path_factory.mktemp("process"), converted_models)
    try:
        service.until(lambda: service.answers("/healthz"))
        # Importing torch alone takes longer than this request.
        assert service.client.get("/readyz").status_code == 503
        service.until(lambda: service.answers("/readyz"))
        yield service
    finally:
        service.end()


def test_memory_does_not_grow_with_the_requests(running: RunningService) -> None:
    seen = []
    for number in range(150):
        # Thirty sizes: what OpenVINO prepares for each is kept, and that is not what leaks.
        body = request(photo(257 + number % 30, 16 + number % 5), format="jpeg")
        assert running.client.post("/upsampler", json=body).status_code == 200
        seen.append(running.resident_bytes())
    # Both are means over each size once. What the first requests prepare is not counted.
    growth = (statistics.mean(seen[-30:]) - statistics.mean(seen[60:90])) / 60
    assert growth < 0.3e6, f"{growth:.0f} bytes per request"


def test_clients_that_send_slowly_take_no_place_of_others(running: RunningService) -> None:
    slow = []
    for _ in range(12):  # of 16 threads 8 may enlarge
        connection = socket.create_connection(("127.0.0.1", running.port), timeout=WITHIN_S)
        connection.sendall(
            b"POST /upsampler HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1000\r\n\r\n{"
        )
        slow.append(connection)
    try:
        for _ in range(6):
            answer = running.client.post("/upsampler", json=request(photo(257, 16)))
            if answer.status_code == 200:
                break
            time.sleep(int(answer.headers["Retry-After"]))
        assert answer.status_code == 200, answer.text
        assert running.answers("/healthz")
    finally:
        for connection in slow:
            connection.close()


def test_a_client_that_leaves_stops_its_picture_and_healthz_answers_meanwhile(
    running: RunningService,
) -> None:
    first = running.send(LONG, "first")
    running.until(lambda: running.state("first") == "upscaling")
    second = running.send(LONG, "second")
    running.until(lambda: running.state("second") == "waiting")
    told = running.client.get("/progress/first").json()
    assert 0 <= told["done"] < 1
    assert told["seconds_left"] > 0
    assert running.answers("/healthz")
    for connection in (second, first):
        connection.close()
    running.until(lambda: running.state("first") is None and running.state("second") is None)
    assert running.client.post("/upsampler", json=request(photo(40))).status_code == 200


def test_a_full_queue_says_when_to_come_again(running: RunningService) -> None:
    ids = [f"waits-{number}" for number in range(5)]  # one is computed, four may wait
    connections = []
    for request_id in ids:
        connections.append(running.send(LONG, request_id))
        running.until(lambda request_id=request_id: running.state(request_id) is not None)  # type: ignore[misc]
    try:
        running.until(lambda: [running.state(each) for each in ids].count("waiting") == 4)
        refused = running.client.post("/upsampler", json=request(photo(40)))
        assert (refused.status_code, refused.json()["status"]) == (503, "false")
        assert int(refused.headers["Retry-After"]) >= 1
    finally:
        for connection in connections:
            connection.close()
    running.until(lambda: all(running.state(each) is None for each in ids))


def test_sigterm_stops_what_outlasts_the_grace_time_and_leaves(running: RunningService) -> None:
    answers: list[httpx.Response] = []
    asking = threading.Thread(
        target=lambda: answers.append(
            running.client.post("/upsampler", json=LONG, headers={"X-Request-Id": "last"})
        )
    )
    asking.start()
    running.until(lambda: running.state("last") == "upscaling")
    running.process.send_signal(signal.SIGTERM)
    asking.join(WITHIN_S)
    assert answers[0].status_code == 503
    assert answers[0].json()["type"] == "/problems/shutting-down"
    assert running.process.wait(WITHIN_S) == 0


@pytest.mark.parametrize(
    ("variable", "value"),
    [("PORT", "70000"), ("PRECISION", "int8"), ("DEVICE", "tpu"), ("MODEL", "RealESRGAN_x5plus")],
)
def test_a_wrong_variable_ends_the_start_and_is_named(variable: str, value: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "realesrgan_service"],
        env={**os.environ, variable: value},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
    )
    assert ended.returncode == 2
    assert variable in ended.stderr
