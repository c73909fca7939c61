"""What a worker does when main-api, its instance or it itself fails: no model is lost, no job pays for it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from claims_server import ClaimsServer, Job
from instance_stand_in import RUN_ID, InstanceStandIn, run_state
from service_parts import photo
from service_process import WITHIN_S
from waiting import until
from worker_process import RunningWorker

TRAINING = {"INSTANCE_PROMPT": "a sks cup", "OUTPUT_DIR": "cup", "RESOLUTION": 64, "RANK": 4}
SETTLED = f"POST /train/{RUN_ID}/settlement"


@pytest.fixture
def main_api(tmp_path: Path) -> Iterator[ClaimsServer]:
    with ClaimsServer(tmp_path / "objects").serving() as server:
        yield server


@pytest.fixture
def instance() -> Iterator[InstanceStandIn]:
    with InstanceStandIn().serving() as stand_in:
        yield stand_in


@pytest.fixture
def start(tmp_path: Path, main_api: ClaimsServer) -> Iterator[Callable[..., RunningWorker]]:
    """Starts a worker, with settings."""
    started: list[RunningWorker] = []

    def one(instance: InstanceStandIn, **settings: str) -> RunningWorker:
        url = f"http://127.0.0.1:{instance.port}"
        folder = tmp_path / f"worker-{len(started)}"
        started.append(RunningWorker(folder, main_api.url, url, **settings))
        return started[-1]

    yield one
    for worker in started:
        worker.end()


def training(main_api: ClaimsServer) -> Job:
    photos = [main_api.keep_photo("photo", photo())]
    return main_api.add("training", {**TRAINING, "MAX_TRAINING_STEPS": 3}, photos=photos)


@pytest.mark.parametrize("answer", [422, 503])
def test_a_model_stays_where_it_is_not_known_whether_its_completion_was_taken(
    main_api: ClaimsServer, instance: InstanceStandIn, start: Callable[..., RunningWorker], answer: int
) -> None:
    instance.answers["POST /train"] = (202, run_state())
    main_api.completions = answer
    worker = start(instance, SILENCE_S="10")
    training(main_api)
    until(lambda: "a job ends" in worker.log.read_text())
    assert "could not be told" in worker.log.read_text()
    assert not instance.was_asked(SETTLED)


def test_a_model_whose_completion_was_taken_is_settled(
    main_api: ClaimsServer, instance: InstanceStandIn, start: Callable[..., RunningWorker]
) -> None:
    instance.answers["POST /train"] = (202, run_state())
    start(instance)
    job = training(main_api)
    until(lambda: instance.was_asked(f'{SETTLED} {{"undo": false}}'), lambda: job)
    assert job.completion is not None
    assert job.completion.status == "succeeded"


def test_a_model_that_was_finished_while_main_api_was_silent_stays(
    main_api: ClaimsServer, instance: InstanceStandIn, start: Callable[..., RunningWorker]
) -> None:
    going_on = (202, run_state("processing"))
    instance.answers |= {"POST /train": going_on, f"GET /train/{RUN_ID}": (200, going_on[1])}
    instance.answers[f"DELETE /train/{RUN_ID}"] = (200, run_state())
    worker = start(instance, SILENCE_S="10")
    job = training(main_api)
    until(lambda: job.renewals > 0)
    main_api.silent = True
    until(lambda: "a job ends" in worker.log.read_text())
    assert instance.was_asked(f"DELETE /train/{RUN_ID}?keep=true")
    assert not instance.was_asked(SETTLED)


PROBLEM = {"type": "/problems/not-found", "detail": "there is nothing at this address"}


@pytest.mark.parametrize(
    ("status", "document"),
    [
        (401, {"type": "/problems/unauthorized", "detail": "a key is required"}),
        (403, {"type": "/problems/forbidden", "detail": "TRUST_TENANT_HEADER is off"}),
        (404, PROBLEM),
        (404, b"<html>not an instance</html>"),
        (405, b""),
        (507, {"type": "/problems/storage-full", "detail": "the disk is full"}),
    ],
)
def test_what_is_wrong_with_the_machine_does_not_count_against_the_job(
    main_api: ClaimsServer,
    instance: InstanceStandIn,
    start: Callable[..., RunningWorker],
    status: int,
    document: Any,
) -> None:
    instance.answers["POST /train"] = (status, document)
    start(instance)
    job = training(main_api)
    until(lambda: job.releases or job.completion is not None)
    assert job.completion is None
    assert [release.counts for release in job.releases] == [False]
    assert job.attempts == 0


def test_a_run_that_fills_the_disk_is_not_tried_for_ever(
    main_api: ClaimsServer, instance: InstanceStandIn, start: Callable[..., RunningWorker]
) -> None:
    instance.answers["POST /train"] = (202, run_state("failed", error="no room", error_kind="storage-full"))
    start(instance)
    job = training(main_api)
    until(lambda: job.releases or job.completion is not None)
    assert [release.counts for release in job.releases] == [True]


def test_a_job_too_large_for_the_instance_fails(
    main_api: ClaimsServer, instance: InstanceStandIn, start: Callable[..., RunningWorker]
) -> None:
    problem = {"type": "/problems/payload-too-large", "message": "too large", "detail": "too large"}
    instance.answers["POST /train"] = (413, problem)
    start(instance)
    job = training(main_api)
    until(lambda: job.releases or job.completion is not None)
    assert job.completion is not None
    assert job.completion.error is not None
    assert job.completion.error.type == "payload-too-large"


@pytest.mark.parametrize(
    ("status", "kind"), [(507, "model-too-large"), (404, "unknown-model"), (422, "invalid-field")]
)
def test_what_is_wrong_with_the_job_fails_it(
    main_api: ClaimsServer,
    instance: InstanceStandIn,
    start: Callable[..., RunningWorker],
    status: int,
    kind: str,
) -> None:
    instance.answers["POST /inference"] = (status, {"type": f"/problems/{kind}", "detail": "it cannot be"})
    start(instance)
    job = main_api.add("generation", {"prompt": "a cup"})
    until(lambda: job.completion is not None, lambda: job)
    assert job.completion is not None
    assert job.completion.error is not None
    assert job.completion.error.type == kind


def test_told_to_leave_it_does_not_wait_for_a_main_api_that_is_away(
    main_api: ClaimsServer, instance: InstanceStandIn, start: Callable[..., RunningWorker]
) -> None:
    instance.answers["POST /train"] = (202, run_state())
    main_api.completions = 503
    worker = start(instance, SILENCE_S="3600")
    training(main_api)
    until(lambda: "main-api is away" in worker.log.read_text())
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(WITHIN_S) == 0
    assert not instance.was_asked(SETTLED)


def test_an_instance_that_does_not_tell_its_base_model_is_asked_again(
    main_api: ClaimsServer, instance: InstanceStandIn, start: Callable[..., RunningWorker]
) -> None:
    known = instance.answers["GET /base-model"]
    instance.answers["GET /base-model"] = (200, b"x" * 5_000_000)
    instance.answers["POST /train"] = (202, run_state())
    worker = start(instance)
    until(lambda: worker.log.read_text().count("does not tell its base model") >= 2)
    instance.answers["GET /base-model"] = known
    job = training(main_api)
    until(lambda: job.completion is not None)
    assert not instance.was_asked("GET /models"), "a listing of the whole store"


def test_a_worker_that_may_not_be_idle_leaves_once_it_has_nothing_to_do(
    main_api: ClaimsServer, instance: InstanceStandIn, start: Callable[..., RunningWorker]
) -> None:
    instance.answers["POST /train"] = (202, run_state())
    main_api.completions = 503
    worker = start(instance, IDLE_S="1", SILENCE_S="3600")
    job = training(main_api)
    until(lambda: "main-api is away" in worker.log.read_text())
    time.sleep(3)  # a job that waits for main-api is something to do
    assert worker.process.poll() is None
    main_api.completions = None
    assert worker.process.wait(WITHIN_S) == 0
    assert job.completion is not None
    assert '"state": "stopped"' in (worker.data / "workers" / "here.json").read_text()
