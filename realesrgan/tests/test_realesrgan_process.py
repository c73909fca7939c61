"""A real ``python -m realesrgan_service``: clients that leave, what is told meanwhile, the end, memory."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from realesrgan_parts import FAST, WEIGHTS, photo, request
from running_process import WITHIN_S, RunningProcess, running_process

#: A picture of the anime network that takes far longer than any test waits for.
LONG = {**request(photo(420)), "model_name": "RealESRGAN_x4plus_anime_6B", "out_resolution": 1680}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, converted_models: Path) -> Iterator[RunningProcess]:
    settings = {
        "WEIGHTS_DIR": str(WEIGHTS),
        "MODELS_DIR": str(converted_models),
        "MODEL": FAST,
        "PRECISION": "fp32",
        "FETCH_MODELS": "false",
        "GRACE_S": "1",
    }
    with running_process("realesrgan_service", tmp_path_factory.mktemp("process"), **settings) as service:
        service.until(lambda: service.answers("/healthz"))
        # Importing torch alone takes longer than this request.
        assert service.client.get("/readyz").status_code == 503
        service.until(lambda: service.answers("/readyz"))
        yield service


def test_memory_does_not_grow_with_the_requests(running: RunningProcess) -> None:
    seen = []
    for number in range(90):
        # Thirty sizes: what OpenVINO prepares for each is kept, and that is not what leaks.
        body = request(photo(257 + number % 30, 16 + number % 5), format="jpeg")
        assert running.client.post("/upsampler", json=body).status_code == 200
        seen.append(running.resident_bytes())
    # Both are means over each size once. What the first requests prepare is not counted.
    growth = (statistics.mean(seen[-30:]) - statistics.mean(seen[30:60])) / 30
    assert growth < 0.3e6, f"{growth:.0f} bytes per request"


def test_clients_that_send_slowly_take_no_place_of_others(running: RunningProcess) -> None:
    slow = []
    for _ in range(12):  # of 16 threads 8 may enlarge
        slow.append(running.send("/upsampler", request(photo(257, 16)), only=1))
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
    running: RunningProcess,
) -> None:
    first = running.send("/upsampler", LONG, "first")
    running.until(lambda: running.state("first") == "upscaling")
    second = running.send("/upsampler", LONG, "second")
    running.until(lambda: running.state("second") == "waiting")
    told = running.client.get("/progress/first").json()
    assert 0 <= told["done"] < 1
    assert told["seconds_left"] > 0
    assert running.answers("/healthz")
    for connection in (second, first):
        connection.close()
    running.until(lambda: running.state("first") is None and running.state("second") is None)
    assert running.client.post("/upsampler", json=request(photo(40))).status_code == 200


def test_a_full_queue_says_when_to_come_again(running: RunningProcess) -> None:
    ids = [f"waits-{number}" for number in range(5)]  # one is computed, four may wait
    connections = []
    for request_id in ids:
        connections.append(running.send("/upsampler", LONG, request_id))
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


def test_sigterm_stops_what_outlasts_the_grace_time_and_leaves(running: RunningProcess) -> None:
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
