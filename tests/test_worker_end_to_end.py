"""From a client's request to a stored model and pictures: main-api, a worker and its instance, all real.

The instance has no credentials: its store is main-api, which it reaches with the worker's node key.
"""

from __future__ import annotations

import contextlib
import io
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from main_api_servers import Api, MainApi, MongoStandIn, RedisServer
from PIL import Image
from service_parts import in_base64, photo
from service_process import WITHIN_S, RunningService, running_service
from services import wait_until
from worker_process import RunningWorker, running_worker

TRAINING = {"instance_prompt": "a sks cup", "resolution": 64, "rank": 4, "steps": 3}
DRAWING = {"prompt": "a sks cup", "num_images": 2, "num_inference_steps": 2, "seed": 3, "size": 64}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MainApi]:
    folder = tmp_path_factory.mktemp("gateway")
    mongo, redis = MongoStandIn(folder), RedisServer(folder)
    with contextlib.ExitStack() as stack:
        for server in (mongo, redis):
            stack.callback(server.kill)
            server.start()
        main_api = MainApi(folder, mongo, redis, LEASE_S="5")
        stack.callback(main_api.kill)
        main_api.start()
        yield main_api


@contextlib.contextmanager
def machine(folder: Path, gateway: MainApi) -> Iterator[tuple[RunningService, RunningWorker]]:
    """An instance with an empty disk, and its worker."""
    folder.mkdir()
    node_key = gateway.as_node().key
    settings = {
        "TRUST_TENANT_HEADER": "true",
        "MODEL_STORE_URL": f"enlight+{gateway.url}/internal/v1/store",
        "ENLIGHT_NODE_KEY": node_key,
        "OMP_NUM_THREADS": "1",
    }
    with (
        running_service(folder, **settings) as instance,
        running_worker(
            folder / "worker",
            gateway.url,
            f"http://127.0.0.1:{instance.port}",
            ENLIGHT_NODE_KEY=node_key,
            WORKER_NAME=folder.name,
        ) as worker,
    ):
        instance.until_ready()
        yield instance, worker


@pytest.fixture(scope="module")
def node(
    tmp_path_factory: pytest.TempPathFactory, gateway: MainApi
) -> Iterator[tuple[RunningService, RunningWorker]]:
    with machine(tmp_path_factory.mktemp("node") / "one", gateway) as both:
        yield both


def train(tenant: Api, model: str, **fields: Any) -> str:
    photos = [in_base64(photo(number)) for number in range(2)]
    body = {**TRAINING, "model_id": model, "photos": photos, **fields}
    answer = tenant.post("/v1/trainings", json=body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def until(tenant: Api, job_id: str, condition: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """The job as soon as the condition holds for it."""
    deadline = time.monotonic() + WITHIN_S
    while not condition(job := tenant.job(job_id)):
        assert time.monotonic() < deadline, job
        time.sleep(0.05)
    return job


def ended(tenant: Api, job_id: str) -> dict[str, Any]:
    return until(tenant, job_id, lambda job: job["completed_at"] is not None)


def stepping(job: dict[str, Any]) -> bool:
    return ((job["progress"] or {}).get("step") or 0) >= 1


def checkpoints(gateway: MainApi, tenant: str) -> list[int]:
    """The steps whose checkpoints are whole in main-api's store."""
    folder = Path(gateway.settings["DATA_DIR"])
    return sorted(
        int(path.parent.name[:9]) for path in folder.glob(f"**/checkpoints/{tenant}/*/*/state.json")
    )


def test_a_subject_is_learnt_and_drawn_for_its_tenant_alone(
    gateway: MainApi, node: tuple[RunningService, RunningWorker]
) -> None:
    tenant, other = gateway.as_tenant("learner"), gateway.as_tenant("other")
    trained = ended(tenant, train(tenant, "my-cup"))
    assert trained["status"] == "succeeded", trained
    assert trained["metrics"]["gpu_seconds"] > 0
    version = trained["output"]["model"]["version"]
    assert version in tenant.get("/v1/models/my-cup").text
    assert other.get("/v1/models/my-cup").status_code == 404
    assert other.post("/v1/generations", json={**DRAWING, "model_id": "my-cup"}).status_code == 404

    answer = tenant.post("/v1/generations", json={**DRAWING, "model_id": "my-cup"})
    assert answer.status_code == 202, answer.text
    drawn = ended(tenant, answer.json()["id"])
    assert drawn["status"] == "succeeded", drawn
    assert [picture["seed"] for picture in drawn["output"]["pictures"]] == [3, 4]
    for picture in drawn["output"]["pictures"]:
        assert Image.open(io.BytesIO(httpx.get(picture["url"]).content)).size == (64, 64)
    wait_until(lambda: checkpoints(gateway, "learner") == [], "the settled training's checkpoints to go")


def test_a_running_training_is_canceled_and_a_wrong_request_fails_with_the_instances_words(
    gateway: MainApi, node: tuple[RunningService, RunningWorker]
) -> None:
    tenant = gateway.as_tenant("changed-mind")
    job_id = train(tenant, "unwanted", steps=20_000, checkpoint_interval=5)
    until(tenant, job_id, stepping)
    assert tenant.post(f"/v1/jobs/{job_id}/cancel").status_code == 202
    assert ended(tenant, job_id)["status"] == "canceled"
    instance, _ = node
    instance.until(lambda: instance.metric("trainings_active") == 0)
    assert checkpoints(gateway, "changed-mind") == []

    failed = ended(tenant, tenant.generation(scheduler="no-such-sampler"))
    assert failed["status"] == "failed"
    assert failed["error"]["type"] == "invalid-field"
    assert "scheduler" in failed["error"]["message"]


@pytest.mark.slow
def test_a_machine_is_killed_and_another_goes_on_from_its_last_checkpoint(
    tmp_path: Path, gateway: MainApi, node: tuple[RunningService, RunningWorker]
) -> None:
    # The machine of the other tests is the one that goes on: nobody else is to have the job before.
    _, other = node
    other.end()
    tenant = gateway.as_tenant("unlucky")
    with machine(tmp_path / "first", gateway) as (first, worker):
        job_id = train(tenant, "survivor", steps=40, checkpoint_interval=5)
        until(tenant, job_id, lambda job: checkpoints(gateway, "unlucky"))
        worker.process.kill()
        first.end()
    reached = max(checkpoints(gateway, "unlucky"))
    assert 5 <= reached < 40
    other.start()
    trained = ended(tenant, job_id)
    assert trained["status"] == "succeeded", trained
    assert trained["logs"].count("training as run") == 2
    steps = [int(step) for step in re.findall(r"training, step (\d+) of 40", trained["logs"])]
    assert steps[-1] >= reached
    wait_until(lambda: checkpoints(gateway, "unlucky") == [], "the checkpoints to go")
    assert trained["output"]["model"]["version"] in tenant.get("/v1/models/survivor").text
