"""Generations that somebody waits for are drawn through nginx's address at once."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterator

import httpx
import pytest
from drawing_instance import Instance
from main_api_servers import Api, MainApi, MongoStandIn, RedisServer
from PIL import Image
from waiting import until
from worker_calls import put_picture, succeed

WAIT = {"Prefer": "wait=60"}


@pytest.fixture(scope="module")
def drawing(
    tmp_path_factory: pytest.TempPathFactory, mongo: MongoStandIn, redis: RedisServer
) -> Iterator[tuple[Instance, MainApi]]:
    instance = Instance()
    folder = tmp_path_factory.mktemp("drawing")
    api = MainApi(
        folder, mongo, redis, DREAMBOOTH_URL=instance.url, MONGO_DATABASE="drawing", LEASE_S="3", GRACE_S="30"
    )
    api.start()
    try:
        yield instance, api
    finally:
        api.kill()
        instance.shutdown()


@pytest.fixture
def instance(drawing: tuple[Instance, MainApi]) -> Instance:
    drawing[0].status = 200
    drawing[0].go_on.set()
    return drawing[0]


@pytest.fixture(autouse=True)
def _nothing_left_over(drawing: tuple[Instance, MainApi]) -> Iterator[None]:
    """No test finds another's jobs in the queue."""
    yield
    service = drawing[1].service()
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
    (job,) = tenant.get("/v1/jobs", params={"status": "processing"}).json()["jobs"]
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
