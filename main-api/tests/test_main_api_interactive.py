"""Generations that somebody waits for are drawn through nginx's address at once."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from drawing_instance import Instance
from enlight_common.storage import put_bytes
from main_api.background.deletion import Deletions
from main_api.background.retention import Retention
from main_api.clock import now_ms
from main_api.model_catalog import MANIFEST
from main_api.service import Service
from main_api_servers import Api, MainApi, MongoStandIn, RedisServer
from PIL import Image
from waiting import until
from worker_calls import put_picture, succeed

WAIT = {"Prefer": "wait=60"}


@pytest.fixture(scope="module")
def drawing(
    tmp_path_factory: pytest.TempPathFactory, redis: RedisServer
) -> Iterator[tuple[Instance, MainApi]]:
    instance = Instance()
    folder = tmp_path_factory.mktemp("drawing")
    with (
        MongoStandIn(folder) as mongo,
        MainApi(folder, mongo, redis, DREAMBOOTH_URL=instance.url, LEASE_S="3", GRACE_S="30") as api,
    ):
        yield instance, api
    instance.shutdown()


@pytest.fixture
def instance(drawing: tuple[Instance, MainApi]) -> Instance:
    drawing[0].status = 200
    drawing[0].go_on.set()
    return drawing[0]


@pytest.fixture(autouse=True)
def _nothing_left_over(drawing: tuple[Instance, MainApi]) -> Iterator[None]:
    """No test finds another's jobs in the queue."""
    _cancel_all(drawing[1])
    yield
    _cancel_all(drawing[1])


def _cancel_all(api: MainApi) -> None:
    service = api.service()
    for job in service.records.jobs.find({"status": {"$in": ["queued", "processing"]}}):
        service.records.jobs.note(job.id, {"status": "canceled"})
    service.database.close()


@pytest.fixture
def tenant(drawing: tuple[Instance, MainApi]) -> Api:
    return drawing[1].as_tenant("drawing-1")


@pytest.fixture
def node(drawing: tuple[Instance, MainApi]) -> Api:
    return drawing[1].as_node()


def test_pictures_come_in_the_answer_by_url_or_in_base64(instance: Instance, tenant: Api) -> None:
    body = {"prompt": "a shoe", "num_images": 2, "seed": 5}
    answer = tenant.post("/v1/generations", json=body, headers=WAIT)
    job = answer.json()
    assert (answer.status_code, job["status"]) == (200, "succeeded"), answer.text
    assert answer.headers["Preference-Applied"] == "wait"
    pictures = job["output"]["pictures"]
    assert [(one["width"], one["height"], one["seed"]) for one in pictures] == [(64, 32, 5), (64, 32, 6)]
    data = httpx.get(pictures[1]["url"]).content
    assert Image.open(io.BytesIO(data)).size == (64, 32)
    assert (instance.asked[-1]["num_image"], instance.tenants[-1]) == (2, "drawing-1")
    again = tenant.post("/v1/generations?output=base64", json=body, headers=WAIT).json()
    assert base64.b64decode(again["output"]["pictures"][0]["base64"]) == data


def test_a_picture_to_start_from_reaches_the_instance(instance: Instance, tenant: Api) -> None:
    source = io.BytesIO()
    Image.new("RGB", (64, 64)).save(source, "PNG")
    text = base64.b64encode(source.getvalue()).decode()
    answer = tenant.post("/v1/generations", json={"prompt": "a shoe", "image": text}, headers=WAIT)
    assert answer.json()["status"] == "succeeded"
    assert instance.asked[-1]["image"] == text
    assert text not in answer.text


def test_what_the_instance_refuses_fails_with_its_words(instance: Instance, tenant: Api) -> None:
    instance.status = 422
    job = tenant.post("/v1/generations", json={"prompt": "a shoe", "scheduler": "x"}, headers=WAIT).json()
    assert job["status"] == "failed"
    assert job["error"] == {"type": "invalid-field", "message": "scheduler: must be one of …"}


@pytest.mark.parametrize(("status", "attempts"), [(503, 1), (502, 2), (0, 2)])
def test_what_no_instance_could_draw_is_left_to_a_worker(
    instance: Instance, tenant: Api, node: Api, status: int, attempts: int
) -> None:
    """503 is no attempt; a connection that broke is one, as the picture may have been drawn."""
    instance.status = status
    job = tenant.post("/v1/generations", json={"prompt": "a shoe"}, headers={"Prefer": "wait=1"}).json()
    claim = node.claim(wait_s=20)
    assert claim is not None
    assert (claim["job_id"], claim["attempt"]) == (job["id"], attempts)
    assert succeed(node, claim, [put_picture(node, claim)]).status_code == 200


def test_a_drawing_longer_than_the_lease_and_the_wait_goes_on_and_is_found_later(
    instance: Instance, tenant: Api, node: Api
) -> None:
    instance.go_on.clear()
    answer = tenant.post("/v1/generations", json={"prompt": "a shoe"}, headers={"Prefer": "wait=5"})
    assert (answer.status_code, answer.json()["status"]) == (202, "processing")
    assert node.claim() is None
    instance.go_on.set()
    until(lambda: tenant.job(answer.json()["id"])["status"] == "succeeded", "the drawing ends")


def test_canceling_what_is_being_drawn_frees_the_instance_at_once(instance: Instance, tenant: Api) -> None:
    instance.go_on.clear()
    before, left = len(instance.asked), instance.left
    answers: list[httpx.Response] = []
    asking = threading.Thread(
        target=lambda: answers.append(tenant.post("/v1/generations", json={"prompt": "a shoe"}, headers=WAIT))
    )
    asking.start()
    until(lambda: len(instance.asked) > before, "the instance is asked")
    under_way: list[dict[str, Any]] = []

    def is_recorded() -> bool:
        under_way[:] = tenant.get("/v1/jobs", params={"status": "processing"}).json()["jobs"]
        return bool(under_way)

    until(is_recorded, "the record is there")
    (job,) = under_way
    assert tenant.post(f"/v1/jobs/{job['id']}/cancel").status_code in (200, 202)
    until(lambda: instance.left > left, "the instance sees its client leave")
    asking.join(60)
    assert answers[0].json()["status"] == "canceled"


def test_a_service_that_is_told_to_leave_finishes_what_it_draws(
    drawing: tuple[Instance, MainApi], instance: Instance, tenant: Api
) -> None:
    _, api = drawing
    instance.go_on.clear()
    answers: list[httpx.Response] = []
    asking = threading.Thread(
        target=lambda: answers.append(tenant.post("/v1/generations", json={"prompt": "a shoe"}, headers=WAIT))
    )
    before = len(instance.asked)
    asking.start()
    until(lambda: len(instance.asked) > before, "the instance is asked")
    assert api.process is not None
    api.process.terminate()
    asking.join(60)
    assert answers[0].status_code == 202
    until(lambda: api.get("/readyz").status_code in (503, 599), "readiness says no")
    instance.go_on.set()
    assert api.process.wait(60) == 0
    api.start()
    assert tenant.job(answers[0].json()["id"])["status"] == "succeeded"


def _objects(drawing: tuple[Instance, MainApi], job_id: str) -> list[dict[str, Any]]:
    service = drawing[1].service()
    try:
        return service.records.objects.find({"job_id": job_id})
    finally:
        service.database.close()


def test_pictures_are_announced_while_they_are_drawn_and_their_sizes_noted_after(
    drawing: tuple[Instance, MainApi], instance: Instance, tenant: Api
) -> None:
    instance.go_on.clear()
    body = {"prompt": "a shoe", "num_images": 2}
    job = tenant.post("/v1/generations", json=body, headers={"Prefer": "wait=1"}).json()
    assert [(one["size"], one["settled"]) for one in _objects(drawing, job["id"])] == [(0, False)] * 2
    instance.go_on.set()
    until(lambda: tenant.job(job["id"])["status"] == "succeeded", "the drawing ends")
    until(lambda: all(one["size"] for one in _objects(drawing, job["id"])), "the sizes are noted")
    service = drawing[1].service()
    pictures = service.records.jobs.get(job["id"]).pictures  # type: ignore[union-attr]
    service.database.close()
    noted = {one["_id"]: (one["size"], one["sha256"]) for one in _objects(drawing, job["id"])}
    assert noted == {one["key"]: (one["size"], one["sha256"]) for one in pictures}


def test_sizes_that_a_process_did_not_come_to_note_are_noted_when_leftovers_are_looked_for(
    drawing: tuple[Instance, MainApi], instance: Instance, tenant: Api
) -> None:
    job = tenant.post("/v1/generations", json={"prompt": "a shoe"}, headers=WAIT).json()
    until(lambda: all(one["size"] for one in _objects(drawing, job["id"])), "the size is noted")
    (noted,) = _objects(drawing, job["id"])
    service = drawing[1].service()
    # As a process leaves it that was killed in between, some hours ago.
    left = {"size": 0, "sha256": None, "created_at": now_ms() - 24 * 3600 * 1000}
    assert service.records.objects.note(noted["_id"], left)
    Retention(service).run()
    service.database.close()
    (found,) = _objects(drawing, job["id"])
    assert (found["size"], found["sha256"], found["settled"]) == (noted["size"], noted["sha256"], True)
    assert httpx.get(job["output"]["pictures"][0]["url"]).status_code == 200


def _stored_keys(service: Service, tenant: str) -> list[str]:
    return [found.key for found in service.pictures.store.list(f"pictures/{tenant}/")]


def test_a_model_that_is_deleted_while_it_draws_leaves_no_picture(
    drawing: tuple[Instance, MainApi], instance: Instance
) -> None:
    name = "drawing-deleted"
    tenant, service = drawing[1].as_tenant(name), drawing[1].service()
    manifest = {"schema_version": 1, "base": {"name": "enlight/tiny-sd"}, "method": "lora", "files": []}
    put_bytes(service.models.store, f"models/{name}/shoe/1/{MANIFEST}", json.dumps(manifest).encode())
    service.catalog.take_down(name, "shoe", "1", "a job")
    instance.go_on.clear()
    body = {"prompt": "a shoe", "model_id": "shoe"}
    job = tenant.post("/v1/generations", json=body, headers={"Prefer": "wait=1"}).json()
    assert job["status"] == "processing"
    assert tenant.delete("/v1/models/shoe").status_code == 202
    assert not Deletions(service).run(f"{name}/shoe")
    instance.go_on.set()
    until(lambda: tenant.job(job["id"])["status"] != "processing", "the drawing ends")
    until(lambda: Deletions(service).run(f"{name}/shoe"), "the model is gone")
    assert (_stored_keys(service, name), _objects(drawing, job["id"])) == ([], [])
    service.database.close()


def test_a_picture_that_is_deleted_before_it_is_there_is_deleted_when_it_comes(
    drawing: tuple[Instance, MainApi], instance: Instance
) -> None:
    name = "drawing-gone"
    tenant, service = drawing[1].as_tenant(name), drawing[1].service()
    instance.go_on.clear()
    job = tenant.post("/v1/generations", json={"prompt": "a shoe"}, headers={"Prefer": "wait=1"}).json()
    service.removal.remove(_objects(drawing, job["id"]))
    instance.go_on.set()
    until(lambda: tenant.job(job["id"])["status"] == "succeeded", "the drawing ends")
    until(lambda: not _stored_keys(service, name), "the picture is deleted")
    until(lambda: tenant.job(job["id"])["output"]["pictures"][0]["url"] is None, "the job says so")
    service.database.close()


def test_who_has_enough_under_way_elsewhere_waits_and_no_instance_goes_on_drawing(
    drawing: tuple[Instance, MainApi], instance: Instance, node: Api
) -> None:
    tenant = drawing[1].as_tenant("drawing-full", max_processing=1)
    first = tenant.generation()
    assert node.claim()["job_id"] == first
    instance.go_on.clear()
    asked, left = len(instance.asked), instance.left
    job = tenant.post("/v1/generations", json={"prompt": "a shoe"}, headers={"Prefer": "wait=1"}).json()
    assert job["status"] == "queued"
    # It was begun before the record was refused, and is not gone on with.
    until(lambda: len(instance.asked) > asked, "the instance is asked")
    until(lambda: instance.left - left == len(instance.asked) - asked, "the instance sees its client leave")
    assert tenant.job(job["id"])["status"] == "queued"


def test_who_has_enough_under_way_here_does_not_reach_an_instance(
    drawing: tuple[Instance, MainApi], instance: Instance
) -> None:
    tenant = drawing[1].as_tenant("drawing-full-here", max_processing=1)
    instance.go_on.clear()
    before = len(instance.asked)
    soon = {"Prefer": "wait=1"}
    first = tenant.post("/v1/generations", json={"prompt": "a shoe"}, headers=soon).json()
    second = tenant.post("/v1/generations", json={"prompt": "a boot"}, headers=soon).json()
    assert (first["status"], second["status"]) == ("processing", "queued")
    assert [one["prompt"] for one in instance.asked[before:]] == ["a shoe"]


def test_what_is_drawn_before_its_record_is_there_is_kept_when_it_comes(
    tmp_path: Path, redis: RedisServer
) -> None:
    """For a drawing that ends before a slow database has taken the record down; leases are looked at
    meanwhile, which must not find it lost.
    """
    instance = Instance()
    with (
        MongoStandIn(tmp_path) as mongo,
        MainApi(tmp_path, mongo, redis, DREAMBOOTH_URL=instance.url, LEASE_S="6") as api,
    ):
        tenant = api.as_tenant("drawing-slow")
        assert tenant.post("/v1/generations", json={"prompt": "a shoe"}, headers=WAIT).status_code == 200
        answers: list[httpx.Response] = []
        body = {"prompt": "a boot"}
        asking = threading.Thread(
            target=lambda: answers.append(tenant.post("/v1/generations", json=body, headers=WAIT))
        )
        mongo.pause()
        asking.start()
        until(lambda: len(instance.asked) == 2, "the instance is asked")
        time.sleep(2.5)
        mongo.resume()
        asking.join(60)
        assert answers[0].json()["status"] == "succeeded", answers[0].text
    instance.shutdown()
