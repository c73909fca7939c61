"""The service as a process: how it starts, how it leaves, and that it answers whatever its clients do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from service_parts import in_base64, photo
from service_process import WITHIN_S, RunningService, running_service

LONG_TRAINING = {
    "INSTANCE_PROMPT": "a sks cup",
    "OUTPUT_DIR": "cup",
    "IMAGE_LIST": [in_base64(photo())],
    "MAX_TRAINING_STEPS": 20_000,
    "RESOLUTION": 64,
}
LONG_DRAWING = {"prompt": "a cup", "num_image": 16, "num_inference_steps": 150, "size": 256}
ASYNC = {"Prefer": "respond-async"}
#: Of the issue: with 300 clients waiting, an answer within this many seconds.
ANSWER_S = 1.0


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningService, httpx.Response]]:
    """One for all tests, as loading torch takes longer than most of them, and what /readyz said early."""
    with running_service(tmp_path_factory.mktemp("process")) as service:
        service.until(lambda: service.answers("/healthz"))
        # Importing torch alone takes longer than this request.
        yield service, service.client.get("/readyz")


@pytest.fixture
def running(started: tuple[RunningService, httpx.Response]) -> RunningService:
    """Ready and without a training, whatever the test before did to it."""
    service, _ = started
    if service.process.poll() is not None:
        service.start()
    service.until_ready()
    for state in service.log.parent.glob("data/runs/*.json"):
        service.client.delete(f"/train/{state.stem}")
    assert service.metric("trainings_active") == 0
    return service


def start_training(service: RunningService) -> str:
    """The address of a training that has done a step."""
    address = service.client.post("/train", json=LONG_TRAINING, headers=ASYNC).headers["Location"]
    service.until(lambda: service.client.get(address).json()["step"] >= 1)
    return address


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PORT", "70000"),
        ("THREADS", "many"),
        ("INSTANCE_NAME", "GPU-0"),
        ("BASE_MODEL", "nobody/nothing"),
        ("DEVICE", "tpu"),
        ("MODEL_STORE_URL", "ftp://example.com/models"),
        ("DATA_DIR", "/dev/null/data"),
    ],
)
def test_a_wrong_variable_ends_the_start_and_is_named(tmp_path: Path, variable: str, value: str) -> None:
    environment = {**os.environ, "DATA_DIR": str(tmp_path), variable: value}
    ended = subprocess.run(
        [sys.executable, "-m", "dreambooth_api"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
    )
    assert ended.returncode == 2
    assert variable in ended.stderr
    assert "Traceback" not in ended.stderr


def test_it_answers_while_300_clients_wait_and_when_they_leave_their_places_are_free(
    running: RunningService,
) -> None:
    address = start_training(running)
    requests: list[tuple[Any, ...]] = [
        ("POST", "/inference", LONG_DRAWING),
        ("GET", f"{address}/events"),
        ("POST", "/train", LONG_TRAINING),
    ]
    clients = [running.connect(*requests[number % 3]) for number in range(300)]
    try:
        running.until(lambda: running.metric("requests_in_flight") > 1)
        for path in ("/healthz", "/readyz", "/metrics", "/healthz"):
            answered = httpx.get(f"http://127.0.0.1:{running.port}{path}", timeout=WITHIN_S)
            assert answered.status_code == 200
            if path == "/healthz":
                assert answered.elapsed.total_seconds() < ANSWER_S
    finally:
        for client in clients:
            client.close()
    running.until(
        lambda: running.metric("requests_in_flight") == 1 and running.metric("drawings_waiting") == 0
    )
    drawn = running.client.post(
        "/inference", json={"prompt": "a cup", "num_image": 1, "num_inference_steps": 1}
    )
    assert drawn.status_code == 200, "the drawing of a client that left was stopped"


def test_a_synchronous_training_is_stopped_when_its_client_leaves(running: RunningService) -> None:
    client = running.connect("POST", "/train", LONG_TRAINING)
    running.until(lambda: running.metric("trainings_active") == 1)
    client.close()
    running.until(lambda: running.metric("trainings_active") == 0)


def test_sigterm_finishes_the_drawing_checkpoints_the_training_and_leaves_nothing(
    running: RunningService,
) -> None:
    address = start_training(running)
    run_id = address.rsplit("/", 1)[1]
    others = running.descendants()
    answers: list[httpx.Response] = []

    def draw() -> None:
        body = {"prompt": "a cup", "num_image": 8, "num_inference_steps": 20}
        answers.append(running.client.post("/inference", json=body))

    drawing = threading.Thread(target=draw)
    drawing.start()
    running.until(lambda: running.metric("requests_in_flight") > 1)
    running.process.send_signal(signal.SIGTERM)
    told: dict[str, int] = {}
    while drawing.is_alive() and len(told) < 3:
        for method, path in (("GET", "/readyz"), ("GET", "/healthz"), ("POST", "/inference")):
            # On a new connection each, as a load balancer asks.
            with httpx.Client(timeout=WITHIN_S) as client:
                try:
                    answer = client.request(method, f"http://127.0.0.1:{running.port}{path}", json={})
                except httpx.HTTPError:
                    continue
            if path == "/readyz" and answer.status_code == 200:
                break  # the signal has not arrived yet
            told[path] = answer.status_code
    drawing.join(WITHIN_S)
    assert answers[0].status_code == 200, answers[0].text
    assert told == {"/readyz": 503, "/healthz": 200, "/inference": 503}
    assert running.process.wait(WITHIN_S) == 0
    assert not [process for process in others if process.is_running() and process.status() != "zombie"]
    running.start()
    running.until_ready()
    state = running.client.get(f"/train/{run_id}").json()
    assert (state["status"], state["error_kind"]) == ("failed", "interrupted")
    resumed = running.client.post("/train", json=LONG_TRAINING, headers=ASYNC).headers["Location"]
    running.until(lambda: running.client.get(resumed).json()["step"] > state["step"])


@pytest.mark.parametrize("victim", ["master", "worker"])
def test_a_kill_leaves_no_process_and_the_service_starts_again(running: RunningService, victim: str) -> None:
    start_training(running)
    others = running.descendants()
    worker = next(process for process in others if process.ppid() == running.process.pid)
    if victim == "master":
        running.process.kill()
        running.process.wait()
    else:
        worker.kill()

    def gone() -> bool:
        return not [process for process in others if process.is_running() and process.status() != "zombie"]

    running.until(gone)
    if victim == "master":
        running.start()
    running.until_ready()
    assert running.metric("trainings_active") == 0


def test_healthz_answers_before_the_base_model_is_loaded(
    started: tuple[RunningService, httpx.Response],
) -> None:
    service, first = started
    assert first.status_code == 503
    assert "loaded" in first.json()["message"]
    service.until_ready()


def test_sigterm_while_the_base_model_is_compiled_ends_that_and_half_a_file_is_cleared_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torch sets it where it is imported, as it is here.
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    compiled = tmp_path / "data/compiled"
    with running_service(tmp_path, COMPILE_UNET="on") as service:
        service.until(lambda: "being compiled" in service.log.read_text())
        # Code that another start will find, of the first of many kernels.
        service.until(lambda: any(compiled.rglob("*.main.so")))
        assert service.client.get("/readyz").status_code == 503
        children = service.descendants()
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(WITHIN_S) == 0
        told = service.log.read_text()
        assert "SIGABRT" not in told
        assert "blocks are compiled" not in told
        service.until(lambda: not any(child.is_running() for child in children))

        # As a compiler that is killed may leave it.
        for code in compiled.rglob("*.main.so"):
            code.write_bytes(b"")
        service.start()
        service.until_ready()
        assert "blocks are not compiled" in service.log.read_text()
        assert not compiled.exists()
