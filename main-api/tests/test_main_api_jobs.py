"""A job's way from a request to its end, over HTTP."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from main_api_servers import Api, MainApi
from PIL import Image
from waiting import until
from worker_calls import PICTURE, post, put_picture, succeed


def picture(red: int = 200) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (64, 64), (red, 90, 160)).save(data, "PNG")
    return data.getvalue()


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture
def node(main_api: MainApi) -> Iterator[Api]:
    """A worker's client. Jobs that a test left waiting are taken out of the next one's way."""
    with main_api.as_node() as client:
        while (left := client.claim()) is not None:
            post(client, left, "completion", status="failed", error={"type": "left-over", "message": ""})
        yield client


def test_a_generation_is_claimed_drawn_and_shown_with_its_pictures(main_api: MainApi, node: Api) -> None:
    tenant = main_api.as_tenant("jobs-1")
    job_id = tenant.generation(metadata={"order": 17})
    assert tenant.job(job_id)["progress"]["place"] == 1

    claim = node.claim()
    assert claim["job_id"] == job_id
    assert (claim["input"]["prompt"], claim["input"]["num_image"]) == ("a shoe", 1)
    renewal = post(
        node, claim, "renewal", progress={"fraction": 0.5, "step": 10, "total": 20}, logs="half way"
    )
    assert renewal.json() == {"lease_s": 30, "cancel": False}
    assert tenant.job(job_id)["progress"] == {"fraction": 0.5, "step": 10, "total": 20}

    assert succeed(node, claim, [put_picture(node, claim)]).json() == {
        "job_id": job_id,
        "status": "succeeded",
    }

    job = tenant.job(job_id)
    assert (job["status"], job["logs"], job["metadata"]) == ("succeeded", "half way", {"order": 17})
    assert job["metrics"] == {"gpu_seconds": 1.5}
    assert job["output"]["settings"] == {"steps": 20}
    (shown,) = job["output"]["pictures"]
    assert httpx.get(shown["url"]).content == PICTURE
    inline = tenant.get(f"/v1/jobs/{job_id}?output=base64").json()["output"]["pictures"][0]
    assert base64.b64decode(inline["base64"]) == PICTURE


def test_a_picture_that_is_not_there_does_not_let_its_job_succeed(main_api: MainApi, node: Api) -> None:
    tenant = main_api.as_tenant("jobs-2")
    job_id = tenant.generation()
    claim = node.claim()
    stored = put_picture(node, claim)
    assert succeed(node, claim, [{**stored, "size": stored["size"] + 1}]).status_code == 422
    assert succeed(node, claim, [{**stored, "key": stored["key"].replace("/1/", "/2/")}]).status_code == 422
    assert succeed(node, claim, []).status_code == 422
    assert tenant.job(job_id)["status"] == "processing"


def test_the_same_completion_again_is_answered_alike_and_another_is_refused(
    main_api: MainApi, node: Api
) -> None:
    main_api.as_tenant("jobs-3").generation()
    claim = node.claim()
    stored = put_picture(node, claim)
    first, second = (succeed(node, claim, [stored]) for _ in range(2))
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.json() == second.json()
    failure = post(node, claim, "completion", status="failed", error={"type": "odd", "message": "odd"})
    assert (failure.status_code, failure.json()["type"]) == (409, "/problems/lease-lost")


def test_a_trainings_photos_reach_the_worker_and_its_model_the_tenant(main_api: MainApi, node: Api) -> None:
    tenant = main_api.as_tenant("jobs-4")
    photos = [picture(10), picture(20)]
    upload = tenant.post("/v1/uploads", json={"data": in_base64(photos[1])}).json()["uploads"][0]
    body = {
        "model_id": "my-shoe",
        "instance_prompt": "a sks shoe",
        "photos": [in_base64(photos[0]), upload["source"]],
        "steps": 30,
    }
    answer = tenant.post("/v1/trainings", json=body)
    assert answer.status_code == 202, answer.text
    claim = node.claim()
    assert claim["input"] == {
        "OUTPUT_DIR": "my-shoe",
        "INSTANCE_PROMPT": "a sks shoe",
        "MODEL_NAME": "enlight/tiny-sd",
        "MAX_TRAINING_STEPS": 30,
        "METHOD": "lora",
    }
    assert [httpx.get(url).content for url in claim["photos"]] == photos

    model = {"model_id": "my-shoe", "version": "20260101T000000000000Z-abcdef"}
    refused = post(node, claim, "completion", status="succeeded", output={"model": model})
    assert (refused.status_code, refused.json()["field"]) == (422, "output.model.version")

    store_model(node, "jobs-4", **model)
    done = post(node, claim, "completion", status="succeeded", output={"model": model})
    assert done.json()["status"] == "succeeded"
    shown = tenant.get("/v1/models/my-shoe").json()
    assert [one["version"] for one in shown["versions"]] == [model["version"]]
    files = tenant.get("/v1/models/my-shoe/download").json()["files"]
    assert {one["path"]: httpx.get(one["url"]).content for one in files} == {
        "pytorch_lora_weights.safetensors": b"weights"
    }

    assert (
        tenant.patch("/v1/models/my-shoe", json={"name": "Äußerst schön"}).json()["name"] == "Äußerst schön"
    )
    assert tenant.get("/v1/models").json()["models"][0]["name"] == "Äußerst schön"
    assert tenant.post("/v1/generations", json={"prompt": "x", "model_id": "my-shoe"}).status_code == 202
    assert tenant.delete("/v1/models/my-shoe").status_code == 202
    assert tenant.get("/v1/models/my-shoe").status_code == 404
    assert tenant.post("/v1/generations", json={"prompt": "x", "model_id": "my-shoe"}).status_code == 404


def store_model(node: Api, tenant: str, model_id: str, version: str) -> None:
    """Put a model of one file into the store, through main-api, as an instance does."""
    from enlight_common.storage import open_object_store, put_bytes

    base = str(node.base_url).rstrip("/") + "/internal/v1/store"
    store = open_object_store(f"enlight+{base}", node_key=node.key)
    weights = b"weights"
    manifest = {
        "base": {"name": "enlight/tiny-sd"},
        "method": "lora",
        "instance_prompt": "a sks shoe",
        "rank": 8,
        "files": [{"path": "pytorch_lora_weights.safetensors", "size": len(weights), "sha256": "0" * 64}],
    }
    folder = f"models/{tenant}/{model_id}/{version}/"
    put_bytes(store, folder + "pytorch_lora_weights.safetensors", weights)
    put_bytes(store, folder + "model.json", json.dumps(manifest).encode())


def test_a_node_reaches_nothing_of_the_model_store_but_models_and_checkpoints(node: Api) -> None:
    asked = {"method": "PUT", "key": "pictures/a/b.png"}
    assert node.post("/internal/v1/store/urls", json=asked).status_code == 403
    assert node.get("/internal/v1/store/objects", params={"prefix": ""}).status_code == 403
    assert node.post("/internal/v1/store/urls", json={**asked, "key": "models/a"}).status_code == 200


def test_a_waiting_worker_gets_a_job_as_soon_as_there_is_one(main_api: MainApi, node: Api) -> None:
    tenant = main_api.as_tenant("jobs-5")
    claims: list[dict[str, Any] | None] = []
    waiting = threading.Thread(target=lambda: claims.append(node.claim(wait_s=30)))
    waiting.start()
    job_id = tenant.generation()
    waiting.join(60)
    assert claims[0] is not None
    assert claims[0]["job_id"] == job_id


def test_a_worker_is_given_only_what_it_can_do(main_api: MainApi, node: Api) -> None:
    main_api.as_tenant("jobs-6").generation()
    other = {"worker": "gpu1", "kinds": ["generation"], "base_models": ["another/base"]}
    assert node.post("/internal/v1/claims", json=other).status_code == 204
    assert node.claim(kinds=("training",)) is None
    assert node.claim(kinds=("generation",)) is not None


def test_a_released_job_waits_again_and_counts_as_an_attempt_only_if_it_was_tried(
    main_api: MainApi, node: Api
) -> None:
    main_api.as_tenant("jobs-7").generation()
    first = node.claim()
    assert post(node, first, "release", reason="busy", counts=False).json()["status"] == "queued"
    second = node.claim()
    assert (second["attempt"], second["fencing"]) == (1, first["fencing"] + 1)
    assert post(node, second, "release", reason="crashed").json()["status"] == "queued"
    third = node.claim()
    assert third["attempt"] == 2
    # The number of an earlier claim is worth nothing.
    assert post(node, second, "renewal").status_code == 409


def test_a_waiting_job_is_canceled_at_once_and_one_under_way_through_its_worker(
    main_api: MainApi, node: Api
) -> None:
    tenant = main_api.as_tenant("jobs-8")
    waiting = tenant.generation()
    assert tenant.post(f"/v1/jobs/{waiting}/cancel").json()["status"] == "canceled"
    under_way = tenant.generation()
    claim = node.claim()
    assert claim["job_id"] == under_way
    assert tenant.post(f"/v1/jobs/{under_way}/cancel").json()["status"] == "processing"
    assert post(node, claim, "renewal").json()["cancel"] is True
    assert post(node, claim, "completion", status="canceled").json()["status"] == "canceled"
    assert tenant.post(f"/v1/jobs/{under_way}/cancel").status_code == 200


def test_events_tell_every_picture_and_the_end_and_resume_where_they_broke_off(
    main_api: MainApi, node: Api
) -> None:
    tenant = main_api.as_tenant("jobs-9")
    job_id = tenant.generation(num_images=2)
    told: list[tuple[int, str, dict[str, Any]]] = []

    def listen() -> None:
        for event in events_of(tenant, job_id):
            told.append(event)

    following = threading.Thread(target=listen)
    following.start()
    claim = node.claim()
    first = put_picture(node, claim, 0)
    post(node, claim, "renewal", progress={"fraction": 0.5})
    until(lambda: any(name == "picture" for _, name, _ in told), "the first picture is told while drawing")
    second = put_picture(node, claim, 1, b"another")
    succeed(node, claim, [first, second])
    following.join(60)
    names = [name for _, name, _ in told]
    assert names[-1] == "succeeded"
    assert [data["index"] for _, name, data in told if name == "picture"] == [0, 1]
    assert [number for number, _, _ in told] == sorted(number for number, _, _ in told)

    seen = next(number for number, name, data in told if name == "picture" and data["index"] == 0)
    again = list(events_of(tenant, job_id, seen))
    assert [data["index"] for _, name, data in again if name == "picture"] == [1]
    assert again[-1][1] == "succeeded"


def events_of(tenant: Api, job_id: str, after: int = 0) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(id, event, data) of a job's stream until it ends."""
    headers = {"Last-Event-ID": str(after)} if after else {}
    with tenant.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as answer:
        assert answer.status_code == 200
        fields: dict[str, str] = {}
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if line:
                fields[name] = value
            elif "data" in fields:
                yield int(fields["id"]), fields["event"], json.loads(fields["data"])
                fields = {}


def test_who_prefers_to_wait_is_answered_when_the_job_has_ended(main_api: MainApi, node: Api) -> None:
    tenant = main_api.as_tenant("jobs-10")
    answers: list[httpx.Response] = []
    body = {"prompt": "a shoe"}
    asking = threading.Thread(
        target=lambda: answers.append(
            tenant.post("/v1/generations", json=body, headers={"Prefer": "wait=60"})
        )
    )
    asking.start()
    claim = node.claim(wait_s=30)
    succeed(node, claim, [put_picture(node, claim)])
    asking.join(60)
    assert (answers[0].status_code, answers[0].json()["status"]) == (200, "succeeded")
    short = tenant.post("/v1/generations", json=body, headers={"Prefer": "wait=1"})
    assert (short.status_code, short.json()["status"]) == (202, "queued")


def test_jobs_are_listed_newest_first_a_page_at_a_time(main_api: MainApi, node: Api) -> None:
    tenant = main_api.as_tenant("jobs-11")
    made = [tenant.generation(f"picture {number}") for number in range(5)]
    pages, cursor = [], None
    while True:
        query = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        page = tenant.get("/v1/jobs", params=query).json()
        pages.append([job["id"] for job in page["jobs"]])
        cursor = page["next"]
        if cursor is None:
            break
    assert [len(page) for page in pages] == [2, 2, 1]
    assert [job for page in pages for job in page] == made[::-1]
    tenant.post(f"/v1/jobs/{made[0]}/cancel")
    canceled = tenant.get("/v1/jobs", params={"status": "canceled"}).json()["jobs"]
    assert [job["id"] for job in canceled] == [made[0]]
    assert tenant.get("/v1/jobs", params={"kind": "training"}).json()["jobs"] == []


def test_uploads_come_by_base64_by_form_and_by_signed_url(main_api: MainApi) -> None:
    tenant = main_api.as_tenant("jobs-12")
    data = picture()
    inline = tenant.post("/v1/uploads", json={"data": in_base64(data)}).json()["uploads"]
    parts = [("file", ("a.png", data)), ("file", ("b.png", data))]
    form = tenant.post("/v1/uploads", files=parts).json()["uploads"]
    signed = tenant.post("/v1/uploads", json={"size": len(data)}).json()["uploads"]
    body = {"name": "Schuh", "photos": [one["source"] for one in (*inline, *form, *signed)]}

    early = tenant.post("/v1/photo-sets", json=body)
    assert (early.status_code, early.json()["field"]) == (422, "photos[3]")
    assert httpx.put(signed[0]["put_url"], content=data).status_code == 204
    made = tenant.post("/v1/photo-sets", json=body)
    assert made.status_code == 201, made.text
    assert [httpx.get(one["url"]).content for one in made.json()["photos"]] == [data] * 4

    set_id = made.json()["id"]
    train = {"model_id": "m", "instance_prompt": "a sks shoe", "photo_set": set_id}
    assert tenant.post("/v1/trainings", json=train).status_code == 202
    assert tenant.post("/v1/uploads", json={"data": in_base64(b"no picture")}).status_code == 422
    assert tenant.delete(f"/v1/photo-sets/{set_id}").status_code == 204
    assert tenant.get(f"/v1/photo-sets/{set_id}").status_code == 404


def test_a_chain_keeps_its_steps_until_they_are_made(main_api: MainApi, node: Api) -> None:
    tenant = main_api.as_tenant("jobs-13")
    then = [{"kind": "background_removal"}, {"kind": "upscale", "engine": "gan", "resolution": 2048}]
    answer = tenant.post("/v1/generations", json={"prompt": "a shoe", "then": then})
    job = answer.json()
    assert (answer.status_code, job["kind"], job["status"]) == (202, "chain", "queued")
    assert [step["kind"] for step in job["input"]["then"]] == ["background_removal", "upscale"]
    assert node.claim() is None
    service = main_api.service()
    chain = service.records.jobs.get(job["id"])
    first, again = (service.submission.step(chain, 0) for _ in range(2))
    assert first.id == again.id
    assert node.claim()["job_id"] == first.id
    removal = service.submission.step(chain, 1, ["pictures/a"])
    assert (removal.kind, removal.files, removal.task["path"]) == (
        "background_removal",
        {"images": ["pictures/a"]},
        "/remove-opacity",
    )


def test_a_base_model_that_no_worker_loads_is_refused(main_api: MainApi) -> None:
    tenant = main_api.as_tenant("jobs-base")
    body = {"model_id": "m", "instance_prompt": "a sks shoe", "photos": ["upload:none"]}
    answer = tenant.post("/v1/trainings", json={**body, "base_model": "stabilityai/stable-diffusion-2"})
    assert answer.json()["type"] == "/problems/unsupported-base-model"
