"""A real `python -m bgrem`: full queues, clients that leave, memory, and its end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import onnxruntime
import pytest
from bgrem_parts import SMALL, WEIGHTS_DIR, astronaut, weights
from picture_parts import from_base64, in_base64
from running_process import WITHIN_S, RunningProcess, running_process

BODY = {"input_image": in_base64(astronaut())}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProcess]:
    weights()
    settings = {"WEIGHTS_DIR": str(WEIGHTS_DIR), "DEFAULT_MODEL": SMALL, "COMPUTE_THREADS": "1"}
    with running_process("bgrem", tmp_path_factory.mktemp("bgrem"), **settings) as service:
        service.until(lambda: service.answers("/healthz"))
        service.until(lambda: service.answers("/readyz"))
        yield service


def test_when_too_many_wait_the_next_is_told_to_come_back(running: RunningProcess) -> None:
    def ask(_: int) -> httpx.Response:
        return httpx.post(f"http://127.0.0.1:{running.port}/remove", json=BODY, timeout=WITHIN_S)

    with ThreadPoolExecutor(14) as clients:
        futures = [clients.submit(ask, number) for number in range(14)]
        running.until(lambda: running.answers("/healthz"))  # while all of them are being answered
        answers = [future.result() for future in futures]
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 503}
    assert statuses.count(200) >= 6  # the bodies that may arrive at the same time
    for refused in (answer for answer in answers if answer.status_code == 503):
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.json()["type"] == "/problems/overloaded"
    pictures = [from_base64(answer.json()["output_image"]) for answer in answers if answer.status_code == 200]
    assert len({picture.tobytes() for picture in pictures}) == 1


def test_who_leaves_gives_up_the_place(running: RunningProcess) -> None:
    done = running.metric("inferences_total")
    connections = [running.send("/remove", BODY) for _ in range(8)]
    running.until(lambda: running.metric("requests_taken") == 8)
    for connection in connections:
        connection.close()
    running.until(lambda: running.metric("requests_taken") == 0)
    assert running.metric("inferences_total") - done < 8


def test_bodies_that_do_not_arrive_hold_up_nobody(running: RunningProcess) -> None:
    with contextlib.ExitStack() as open_connections:
        for _ in range(12):  # of 16 threads
            open_connections.enter_context(running.send("/remove", BODY, only=1))
        # On a connection that is accepted after theirs, so that they have their threads by now.
        assert httpx.get(f"http://127.0.0.1:{running.port}/healthz", timeout=WITHIN_S).status_code == 200
        # A minute later they would be refused anyway; whoever asks again within seconds is served.
        for _ in range(15):
            answer = running.client.post("/remove", json=BODY)
            if answer.status_code == 200:
                break
            time.sleep(1)
        assert answer.status_code == 200


def test_memory_does_not_grow_with_requests(running: RunningProcess) -> None:
    requests = 20

    def growth() -> int:
        before = running.resident_bytes()
        for _ in range(requests):
            running.client.post("/remove", json=BODY).raise_for_status()
        return running.resident_bytes() - before

    # Each of the server's threads has memory of its own, which grows with its first pictures; what leaks goes
    # on growing, and a megabyte for each request would be twice as much as this.
    assert any(growth() < requests * 500_000 for _ in range(8))


def test_sigterm_lets_what_runs_finish(running: RunningProcess) -> None:
    connection = running.send("/remove", BODY)
    running.until(lambda: running.metric("requests_taken") == 1)
    running.process.send_signal(signal.SIGTERM)
    answer = b""
    while chunk := connection.recv(1 << 16):
        answer += chunk
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert running.process.wait(timeout=WITHIN_S) == 0


def start_with(**settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bgrem"]
    environment = {**os.environ, **settings}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=WITHIN_S)


def test_wrong_settings_end_the_start_with_a_message() -> None:
    done = start_with(PORT="0", DEVICE="abacus")
    assert done.returncode == 2
    assert "PORT" in done.stderr
    assert "DEVICE" in done.stderr


def test_an_unknown_default_model_ends_the_start() -> None:
    done = start_with(DEFAULT_MODEL="u3net")
    assert done.returncode == 2
    assert "DEFAULT_MODEL" in done.stderr


def test_a_device_that_nothing_installed_can_use_ends_the_start() -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("the installed ONNX Runtime has CUDA")
    done = start_with(DEVICE="cuda:0")
    assert done.returncode == 2
    assert "DEVICE" in done.stderr
