"""The worker between a real instance and main-api's side of the claims, and what killing it does."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from claims_server import ClaimsServer, Job
from PIL import Image
from service_parts import photo
from service_process import WITHIN_S, RunningService, running_service
from waiting import until
from worker_process import RunningWorker

TRAINING = {"INSTANCE_PROMPT": "a sks cup", "OUTPUT_DIR": "my-cup", "RESOLUTION": 64, "RANK": 4}
LONG = {"MAX_TRAINING_STEPS": 20_000, "CHECKPOINT_INTERVAL": 5}
DRAWING = {"prompt": "a sks cup", "num_image": 2, "num_inference_steps": 2, "seed": 3, "size": 64}
LONG_DRAWING = {"prompt": "a cup", "num_image": 16, "num_inference_steps": 150, "size": 256}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def instance_at(folder: Path, store: Path) -> Any:
    folder.mkdir(exist_ok=True)
    settings = {"TRUST_TENANT_HEADER": "true", "MODEL_STORE_URL": store.as_uri(), "OMP_NUM_THREADS": "1"}
    return running_service(folder, **settings)


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Iterator[RunningService]:
    """One for all tests that leave it alive: loading torch takes longer than most of them."""
    with instance_at(tmp_path_factory.mktemp("instance"), store) as running:
        running.until_ready()
        yield running


@pytest.fixture
def main_api(tmp_path: Path) -> Iterator[ClaimsServer]:
    with ClaimsServer(tmp_path / "objects").serving() as server:
        yield server


@pytest.fixture
def start(tmp_path: Path, main_api: ClaimsServer) -> Iterator[Callable[..., RunningWorker]]:
    """Starts a worker, with settings."""
    started: list[RunningWorker] = []

    def one(instance: RunningService, *, folder: str = "worker", **settings: str) -> RunningWorker:
        url = f"http://127.0.0.1:{instance.port}"
        started.append(RunningWorker(tmp_path / folder, main_api.url, url, **settings))
        return started[-1]

    yield one
    for worker in started:
        worker.end()


def training(main_api: ClaimsServer, model: str, **more: Any) -> Job:
    photos = [main_api.keep_photo(f"photo-{number}", photo(number)) for number in range(2)]
    body = {**TRAINING, "OUTPUT_DIR": model, "MAX_TRAINING_STEPS": 3, **more}
    # A tenant each, so that tests that share an instance do not see each other's checkpoints.
    return main_api.add("training", body, photos=photos, tenant=model)


def until_ended(job: Job) -> None:
    until(lambda: job.completion is not None or job.releases, lambda: job)


def until_stepping(job: Job, step: int = 1) -> None:
    until(lambda: job.progress and (job.progress[-1].step or 0) >= step, lambda: job)


def models_of(instance: RunningService, tenant: str) -> Any:
    return instance.client.get("/models", headers={"X-Enlight-Tenant": tenant}).json()["models"]


def is_idle(instance: RunningService) -> bool:
    return instance.metric("trainings_active") == 0


def work_in_progress(instance: RunningService, tenant: str) -> list[Path]:
    """The folders in which the instance keeps runs of a tenant that are not settled."""
    found = []
    for path in (instance.log.parent / "data" / "training").glob("*/request.json"):
        with contextlib.suppress(FileNotFoundError):  # settled just now
            if json.loads(path.read_text())["tenant"] == tenant:
                found.append(path.parent)
    return found


def stored_steps(store: Path, tenant: str) -> list[int]:
    """The steps whose checkpoints are whole in the object store."""
    return sorted(int(path.parent.name[:9]) for path in store.glob(f"checkpoints/{tenant}/*/*/state.json"))


def test_a_training_and_a_drawing_with_its_model_are_done_for_their_tenant(
    instance: RunningService, main_api: ClaimsServer, start: Callable[..., RunningWorker]
) -> None:
    worker = start(instance)
    job = training(main_api, "worked")
    until_ended(job)
    assert job.completion is not None, job.releases
    assert job.completion.status == "succeeded", job.completion
    assert job.completion.output is not None
    model = job.completion.output.model
    assert model is not None
    assert (model.model_id, model.method, model.steps) == ("worked", "lora", 3)
    assert job.completion.metrics["gpu_seconds"] > 0
    assert job.progress
    assert "training as run cpu0-" in job.logs
    (listed,) = models_of(instance, "worked")
    assert listed["version"] == model.version
    assert models_of(instance, "default") == []

    drawing = main_api.add("generation", {**DRAWING, "model_id": f"worked@{model.version}"}, tenant="worked")
    until_ended(drawing)
    assert drawing.completion is not None, drawing.releases
    output = drawing.completion.output
    assert output is not None, drawing.completion
    assert [picture.seed for picture in output.pictures] == [3, 4]
    assert output.settings["num_inference_steps"] == 2
    assert drawing.completion.metrics["gpu_seconds"] > 0
    for picture in output.pictures:
        stored = main_api.objects.root / picture.key
        assert hashlib.sha256(stored.read_bytes()).hexdigest() == picture.sha256
        assert Image.open(stored).size == (picture.width, picture.height) == (64, 64)
    assert not any("torch" in mapped.path for mapped in psutil.Process(worker.process.pid).memory_maps())


def test_a_drawing_starts_from_the_pictures_behind_its_urls(
    instance: RunningService, main_api: ClaimsServer, start: Callable[..., RunningWorker]
) -> None:
    start(instance)
    url = main_api.keep_photo("start", photo(1, side=64))
    body = {**DRAWING, "num_image": 1, "strength": 0.5}
    job = main_api.add("generation", body, images={"image": url})
    until_ended(job)
    assert job.completion is not None, job.releases
    assert job.completion.output is not None, job.completion
    assert job.completion.output.settings["mode"] == "image"


@pytest.mark.parametrize(
    ("kind", "body", "problem"),
    [
        ("generation", {"prompt": "a cup", "num_image": 99}, "invalid-field"),
        ("generation", {"prompt": "a cup", "model_id": "nobody"}, "unknown-model"),
        ("training", {**TRAINING, "RESOLUTION": 1}, "invalid-field"),
    ],
)
def test_what_the_instance_refuses_fails_with_its_words(
    instance: RunningService,
    main_api: ClaimsServer,
    start: Callable[..., RunningWorker],
    kind: str,
    body: dict[str, Any],
    problem: str,
) -> None:
    start(instance)
    photos = [main_api.keep_photo("one", photo())] if kind == "training" else []
    job = main_api.add(kind, body, photos=photos)
    until_ended(job)
    assert job.completion is not None, job.releases
    assert job.completion.status == "failed"
    assert job.completion.error is not None
    assert job.completion.error.type == problem
    assert job.completion.error.message


def test_a_photo_that_is_gone_fails_the_training(
    instance: RunningService, main_api: ClaimsServer, start: Callable[..., RunningWorker]
) -> None:
    job = training(main_api, "photoless")
    main_api.objects.delete("photos/photo-1.png")
    start(instance)
    until_ended(job)
    assert job.completion is not None, job.releases
    assert job.completion.error is not None
    assert job.completion.error.type == "no-such-object"


def test_a_busy_instance_gives_the_job_back_and_it_does_not_count(
    instance: RunningService, main_api: ClaimsServer, start: Callable[..., RunningWorker]
) -> None:
    from service_parts import in_base64

    body = {**TRAINING, **LONG, "OUTPUT_DIR": "other", "IMAGE_LIST": [in_base64(photo())]}
    running = instance.client.post("/train", json=body, headers={"Prefer": "respond-async"})
    job = training(main_api, "waits")
    start(instance)
    try:
        until_ended(job)
        assert [release.counts for release in job.releases] == [False]
        assert job.attempts == 0
    finally:
        instance.client.delete(running.headers["Location"])
    main_api.put_back(job)
    until(lambda: job.completion is not None, lambda: job)
    assert job.completion is not None
    assert job.completion.status == "succeeded"


def test_a_canceled_training_is_stopped_and_leaves_nothing_in_the_store(
    instance: RunningService, main_api: ClaimsServer, start: Callable[..., RunningWorker], store: Path
) -> None:
    start(instance)
    job = training(main_api, "unwanted", **LONG)
    until(lambda: stored_steps(store, "unwanted"))
    job.cancel = True
    until_ended(job)
    assert job.completion is not None, job.releases
    assert job.completion.status == "canceled"
    assert is_idle(instance)
    assert stored_steps(store, "unwanted") == []
    assert not list(store.glob("models/acme/unwanted/*"))


def test_a_canceled_drawing_frees_the_instance(
    instance: RunningService, main_api: ClaimsServer, start: Callable[..., RunningWorker]
) -> None:
    start(instance)
    job = main_api.add("generation", LONG_DRAWING)
    until(lambda: job.renewals > 0)
    job.cancel = True
    until_ended(job)
    assert job.completion is not None, job.releases
    assert job.completion.status == "canceled"
    instance.until(lambda: instance.metric("requests_in_flight") == 1)


@pytest.mark.slow
def test_a_worker_that_was_frozen_past_its_lease_stops_and_writes_nothing(
    instance: RunningService, main_api: ClaimsServer, start: Callable[..., RunningWorker], store: Path
) -> None:
    worker = start(instance)
    job = training(main_api, "frozen", **LONG)
    drawing = main_api.add("generation", LONG_DRAWING)
    until_stepping(job)
    until(lambda: drawing.renewals > 0)
    worker.process.send_signal(signal.SIGSTOP)
    main_api.give_to_another(job)
    main_api.give_to_another(drawing)
    # The run has a lease, too.
    until(lambda: is_idle(instance))
    assert stored_steps(store, "frozen")
    worker.process.send_signal(signal.SIGCONT)
    until(lambda: job.refused and drawing.refused)
    instance.until(lambda: instance.metric("requests_in_flight") == 1)
    assert (job.status, drawing.status) == ("processing", "processing")
    assert (job.completion, drawing.completion) == (None, None)
    assert (job.releases, drawing.releases) == ([], [])
    assert not list((main_api.objects.root / "pictures").glob("**/*.png"))
    other = main_api.add("generation", DRAWING)
    until_ended(other)
    assert other.completion is not None, "it goes on with other jobs"


def test_a_model_whose_completion_is_refused_is_deleted(
    instance: RunningService, main_api: ClaimsServer, start: Callable[..., RunningWorker]
) -> None:
    job = training(main_api, "late")
    worker = start(instance, SILENCE_S="3600")
    until(lambda: job.status == "processing")
    main_api.silent = True  # nothing is refused, nothing is taken
    until(lambda: models_of(instance, "late"))
    main_api.give_to_another(job)
    main_api.silent = False
    until(lambda: job.refused)
    until(lambda: not models_of(instance, "late"))
    assert worker.process.poll() is None
    assert job.completion is None


@pytest.mark.slow
def test_a_killed_worker_costs_no_steps_but_those_since_the_last_checkpoint(
    instance: RunningService, main_api: ClaimsServer, start: Callable[..., RunningWorker], store: Path
) -> None:
    worker = start(instance)
    job = training(main_api, "survivor", MAX_TRAINING_STEPS=120, CHECKPOINT_INTERVAL=5)
    until_stepping(job, 6)
    worker.process.kill()
    until(lambda: is_idle(instance))
    reached = max(stored_steps(store, "survivor"))
    assert 5 <= reached < 120  # its lease ran out long before
    start(instance)
    until(lambda: job.attempts == 2)
    seen = len(job.progress)
    until(lambda: job.completion is not None, lambda: job)
    assert job.completion is not None
    assert job.completion.status == "succeeded"
    assert job.fencing == 2
    assert all((heard.step or reached) >= reached for heard in job.progress[seen + 3 :])
    until(lambda: stored_steps(store, "survivor") == [])  # once the end is told


@pytest.mark.parametrize("first", ["killed", "frozen"])
def test_a_worker_that_dies_between_a_runs_end_and_its_completion_costs_no_second_training(
    instance: RunningService,
    main_api: ClaimsServer,
    start: Callable[..., RunningWorker],
    store: Path,
    first: str,
) -> None:
    model = f"{first}-late"
    main_api.completions = 503
    worker = start(instance, SILENCE_S="3600")
    job = training(main_api, model, CHECKPOINT_INTERVAL=1)
    until(lambda: models_of(instance, model))
    until(lambda: "main-api is away" in worker.log.read_text())
    worker.process.send_signal(signal.SIGKILL if first == "killed" else signal.SIGSTOP)
    (trained,) = models_of(instance, model)
    assert stored_steps(store, model), "another machine needs them"
    assert work_in_progress(instance, model)

    until(lambda: time.monotonic() > job.lease_until)
    main_api.completions = None
    start(instance, folder="second", WORKER_NAME="second")
    until(lambda: job.completion is not None, lambda: job)
    assert job.completion is not None
    assert job.completion.output is not None
    assert job.completion.output.model is not None
    assert (job.attempts, job.completion.output.model.version) == (2, trained["version"])
    assert job.completion.metrics["gpu_seconds"] > 0
    if first == "frozen":
        worker.process.send_signal(signal.SIGCONT)
        until(lambda: "a job ends" in worker.log.read_text())
    assert [model["version"] for model in models_of(instance, model)] == [trained["version"]]
    until(lambda: stored_steps(store, model) == [])
    until(lambda: not work_in_progress(instance, model))


@pytest.mark.slow
def test_told_to_leave_it_gives_a_training_back_where_it_is_and_finishes_a_drawing(
    instance: RunningService, main_api: ClaimsServer, start: Callable[..., RunningWorker], store: Path
) -> None:
    worker = start(instance, GRACE_S="240")
    job = training(main_api, "moved", **{**LONG, "CHECKPOINT_INTERVAL": 10_000})
    until_stepping(job)
    drawing = main_api.add("generation", {**DRAWING, "num_image": 8, "num_inference_steps": 30})
    until(lambda: drawing.status == "processing")
    worker.process.send_signal(signal.SIGTERM)
    until(lambda: job.releases)  # it has heard by now: what comes now is late
    late = main_api.add("generation", DRAWING)
    assert worker.process.wait(WITHIN_S) == 0
    assert [(release.counts, release.reason) for release in job.releases] == [
        (False, "the worker is being stopped")
    ]
    assert stored_steps(store, "moved")
    assert drawing.completion is not None
    assert drawing.completion.status == "succeeded"
    assert late.completion is None
    assert '"state": "stopped"' in (worker.data / "workers" / "here.json").read_text()
    start(instance)
    main_api.put_back(job)
    until(lambda: job.attempts == 1 and job.status == "processing")
    job.cancel = True
    until(lambda: job.completion is not None, lambda: job)
    assert stored_steps(store, "moved") == []


@pytest.mark.slow
def test_an_instance_is_killed_and_another_machine_goes_on_from_the_last_stored_checkpoint(
    tmp_path: Path,
    instance: RunningService,
    main_api: ClaimsServer,
    start: Callable[..., RunningWorker],
    store: Path,
) -> None:
    with instance_at(tmp_path / "first", store) as first:
        worker = start(first)
        job = training(main_api, "rescued", MAX_TRAINING_STEPS=60, CHECKPOINT_INTERVAL=5)
        until(lambda: max(stored_steps(store, "rescued"), default=0) >= 10, lambda: job)
        drawing = main_api.add("generation", LONG_DRAWING)  # before it the training makes room
        until(lambda: drawing.status == "processing")
        first.end()
        reached = max(stored_steps(store, "rescued"))
        until(lambda: job.releases and drawing.releases, lambda: job)
        assert [release.counts for release in (*job.releases, *drawing.releases)] == [True, True]
        worker.end()
    # The other machine shares nothing with the first but the store.
    done_there = instance.metric("training_steps_total")
    start(instance)
    main_api.put_back(job)
    heard = len(job.progress)
    until(lambda: job.completion is not None, lambda: job)
    assert job.completion is not None
    assert job.completion.status == "succeeded"
    steps = [said.step for said in job.progress[heard:] if said.step]
    assert not steps or min(steps) > reached - 1
    assert instance.metric("training_steps_total") - done_there == 60
    until(lambda: stored_steps(store, "rescued") == [])


def test_while_main_api_is_away_the_work_goes_on_and_its_end_is_told_later(
    instance: RunningService, main_api: ClaimsServer, start: Callable[..., RunningWorker]
) -> None:
    start(instance)
    job = main_api.add("generation", DRAWING)
    until(lambda: job.status == "processing")
    main_api.silent = True
    until(lambda: list(main_api.objects.list("pictures/")))
    assert job.completion is None
    main_api.silent = False
    until(lambda: job.completion is not None, lambda: job)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ENLIGHT_NODE_KEY", ""),
        ("MAIN_API_URL", "ftp://example.com"),
        ("KINDS", "cooking"),
        ("WORKER_NAME", "../x"),
        ("WAIT_S", "300"),
    ],
)
def test_a_wrong_setting_ends_the_start_and_is_named(tmp_path: Path, variable: str, value: str) -> None:
    environment = {**os.environ, "ENLIGHT_NODE_KEY": "a-secret-of-the-tests", "DATA_DIR": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-m", "dreambooth_api.worker"],
        env={**environment, variable: value},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
    )
    assert ended.returncode == 2
    assert variable in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "a-secret" not in ended.stderr


def test_a_key_that_is_not_known_is_told_and_not_asked_with_again_and_again(
    instance: RunningService, main_api: ClaimsServer, start: Callable[..., RunningWorker]
) -> None:
    worker = start(instance, ENLIGHT_NODE_KEY="another-key-of-the-tests")
    until(lambda: "refuses this worker" in worker.log.read_text())
    assert worker.process.poll() is None
    assert "another-key" not in worker.log.read_text()
