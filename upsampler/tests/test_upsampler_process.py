"""A real service under gunicorn: what a full queue, a client that leaves and SIGTERM do."""

from __future__ import annotations

import signal
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from picture_parts import in_base64
from running_process import RunningProcess, running_process
from upsampler_parts import photo

LONG = {"image": in_base64(photo(64)), "resolution": 1024, "num_inference_steps": 150, "guidance_scale": 2}
QUICK = {"image": in_base64(photo(350, 16)), "num_inference_steps": 1, "tile": 352, "format": "jpeg"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProcess]:
    settings = {"QUEUE_LENGTH": "1", "GRACE_S": "1", "PATIENCE_S": "86400"}
    folder = tmp_path_factory.mktemp("running")
    with running_process("upsampler", folder, WEIGHTS_DIR=str(folder / "weights"), **settings) as service:
        yield service


def test_health_is_answered_before_it_is_ready(running: RunningProcess) -> None:
    running.until(lambda: running.answers("/healthz"))
    running.until(lambda: running.answers("/readyz"))
    assert running.client.post("/upsampler", json=QUICK).json()["status"] == "true"


def test_a_full_queue_is_a_503_and_clients_that_leave_make_room(running: RunningProcess) -> None:
    running.until(lambda: running.answers("/readyz"))
    # The first is taken out of the queue before the second comes, which waits in it.
    first = running.send("/upsampler", LONG, "first")
    running.until(lambda: running.state("first") == "upscaling")
    second = running.send("/upsampler", LONG)
    running.until(lambda: running.metric("pictures_waiting") == 1)
    refused = running.client.post("/upsampler", json=QUICK)
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) >= 1
    assert refused.json()["status"] == "false"
    assert running.answers("/healthz")
    assert running.answers("/readyz")
    first.close()
    second.close()
    running.until(lambda: running.metric("pictures_waiting") == 0)
    assert running.client.post("/upsampler", json=QUICK).status_code == 200


def test_progress_is_told(running: RunningProcess) -> None:
    running.until(lambda: running.answers("/readyz"))
    first = running.send("/upsampler", LONG, "first")
    running.until(lambda: running.state("first") == "upscaling")
    second = running.send("/upsampler", LONG, "second")
    running.until(lambda: running.state("second") == "waiting")
    told = running.client.get("/progress/first").json()
    assert 0 <= told["done"] < 1
    assert told["seconds_left"] > 0
    for connection in (second, first):
        connection.close()
    running.until(lambda: running.state("first") is None and running.state("second") is None)


def test_memory_does_not_grow_with_the_requests(running: RunningProcess) -> None:
    running.until(lambda: running.answers("/readyz"))
    seen = []
    for number in range(60):
        body = QUICK | {"image": in_base64(photo(344 + number % 5, 16))}
        assert running.client.post("/upsampler", json=body).status_code == 200
        seen.append(running.resident_bytes())
    # What the first requests prepare is not counted.
    growth = (statistics.mean(seen[-15:]) - statistics.mean(seen[20:35])) / 25
    assert growth < 0.5e6, f"{growth:.0f} bytes per request"


def test_clients_that_send_slowly_take_no_place_of_others(running: RunningProcess) -> None:
    running.until(lambda: running.answers("/readyz"))
    slow = []
    for _ in range(12):  # of 16 threads 8 may enlarge
        slow.append(running.send("/upsampler", QUICK, only=1))
    try:
        for _ in range(6):
            answer = running.client.post("/upsampler", json=QUICK)
            if answer.status_code == 200:
                break
            time.sleep(int(answer.headers["Retry-After"]))
        assert answer.status_code == 200, answer.text
        assert running.answers("/healthz")
    finally:
        for connection in slow:
            connection.close()


def test_sigterm_ends_what_runs_with_an_answer(running: RunningProcess) -> None:
    running.until(lambda: running.answers("/readyz"))
    waiting = running.send("/upsampler", LONG)
    running.until(lambda: running.metric("requests_in_flight") >= 2)
    running.process.send_signal(signal.SIGTERM)
    answer = waiting.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 503")
    assert b'"status": "false"' in answer
    assert running.process.wait(60) == 0


def test_a_wrong_setting_ends_the_start_with_its_name(tmp_path: Path) -> None:
    with running_process("upsampler", tmp_path, WEIGHTS_DIR=str(tmp_path), UPSCALER="../../x") as service:
        assert service.process.wait(60) == 2
        assert "UPSCALER: must be one of enlight/tiny-x4" in service.log.read_text()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{service.port}/healthz")
