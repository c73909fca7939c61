"""What is put, kept and deleted: announced sizes, a tenant's stored bytes, what no job names."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from background_parts import claimed, complete, in_base64, picture
from enlight_common.errors import StorageFull
from main_api.background.retention import Retention
from main_api.clock import now_ms
from main_api.service import Service
from main_api_servers import Api, MainApi
from worker_calls import post

HOUR_MS = 3_600_000


@pytest.fixture
def service(main_api: MainApi) -> Iterator[Service]:
    found = main_api.service()
    yield found
    found.database.close()


def announced(tenant: Api, size: int) -> dict[str, str]:
    answer = tenant.post("/v1/uploads", json={"size": size})
    assert answer.status_code == 201, answer.text
    return dict(answer.json()["uploads"][0])


def test_a_signed_url_takes_what_was_announced_and_takes_it_once(main_api: MainApi, service: Service) -> None:
    tenant = main_api.as_tenant("stored-1")
    data = picture(20)
    upload = announced(tenant, len(data))
    (entry,) = tenant.get("/v1/audit").json()["records"]
    assert (entry["action"], entry["target"]) == ("upload.create", upload["id"])
    url = upload["put_url"]
    assert httpx.put(url, content=data + b"-").json()["field"] == "Content-Length"
    assert httpx.put(url, content=data).status_code == 204
    assert httpx.put(url, content=data).status_code == 204  # its answer may have been lost
    assert httpx.put(url, content=data[:-1] + b"-").status_code == 409
    made = tenant.post("/v1/photo-sets", json={"photos": [upload["source"]]}).json()
    assert httpx.get(made["photos"][0]["url"]).content == data
    assert tenant.delete(f"/v1/uploads/{upload['id']}").status_code == 204
    assert httpx.put(url, content=data).status_code == 404
    assert not service.pictures.store.exists(f"uploads/stored-1/{upload['id']}")


def test_what_was_noted_as_stored_by_a_process_that_then_died_can_be_put_again(
    main_api: MainApi, service: Service
) -> None:
    tenant = main_api.as_tenant("stored-7")
    data = picture(20)
    upload = announced(tenant, len(data))
    assert httpx.put(upload["put_url"], content=data).status_code == 204
    key = f"uploads/stored-7/{upload['id']}"
    service.pictures.store.delete(key)  # as if it had been killed before the store had all of it
    assert httpx.put(upload["put_url"], content=data[:-1] + b"-").status_code == 422
    assert httpx.put(upload["put_url"], content=data).status_code == 204
    assert service.pictures.store.exists(key)
    assert tenant.post("/v1/photo-sets", json={"photos": [upload["source"]]}).status_code == 201


def test_a_picture_that_is_not_the_one_its_worker_announced_is_refused(main_api: MainApi) -> None:
    tenant, node = main_api.as_tenant("stored-2"), main_api.as_node()
    claim = claimed(node, tenant.generation())
    offer = {"index": 0, "format": "png", "size": len(picture()), "sha256": "0" * 64}
    grant = post(node, claim, "pictures", **offer).json()
    assert httpx.put(grant["put_url"], content=picture()).status_code == 422
    complete(node, claim, status="canceled")


def test_who_has_stored_enough_may_draw_again_after_deleting(main_api: MainApi, service: Service) -> None:
    tenant, node = main_api.as_tenant("stored-3", max_stored_bytes=len(picture())), main_api.as_node()
    job_id = tenant.generation()
    complete(node, claimed(node, job_id))
    service.quotas.forget_bytes("stored-3")
    refused = tenant.post("/v1/generations", json={"prompt": "x"})
    assert (refused.status_code, refused.json()["quota"]) == (429, "max_stored_bytes")
    assert main_api.as_tenant("stored-4").delete(f"/v1/jobs/{job_id}/pictures").status_code == 404
    assert tenant.delete(f"/v1/jobs/{job_id}/pictures").status_code == 204
    assert tenant.job(job_id)["output"]["pictures"][0]["url"] is None
    waiting = tenant.generation()
    assert tenant.delete(f"/v1/jobs/{waiting}/pictures").status_code == 409
    tenant.post(f"/v1/jobs/{waiting}/cancel")


def test_the_weights_of_all_versions_are_counted(main_api: MainApi, service: Service) -> None:
    tenant = main_api.as_tenant("stored-weights", max_stored_bytes=100)
    service.records.models.add_version("stored-weights", "shoe", {"version": "1", "bytes": 40})
    assert tenant.post("/v1/generations", json={"prompt": "a shoe"}).status_code == 202
    service.records.models.add_version("stored-weights", "shoe", {"version": "2", "bytes": 60})
    service.cache.forget("stored:stored-weights")
    assert service.records.models.stored_bytes("stored-weights") == 100
    assert tenant.post("/v1/generations", json={"prompt": "a shoe"}).status_code == 429


def test_what_belongs_to_nothing_is_swept_and_the_rest_is_kept(main_api: MainApi, service: Service) -> None:
    name = "stored-5"
    tenant, node = main_api.as_tenant(name), main_api.as_node()
    announced(tenant, 100)
    job_id = tenant.generation(image=in_base64(picture(64)))
    complete(node, claimed(node, job_id))
    open_job = tenant.generation(image=in_base64(picture(65)))
    objects = service.records.objects
    lost = "inputs/stored-5/none/image-0"
    service.pictures.put(lost, picture())
    objects.announce([{**objects.find({"job_id": open_job})[0], "_id": lost, "job_id": "none"}])
    for one in objects.find({"tenant": name}):
        objects.note(one["_id"], {"created_at": now_ms() - 3 * HOUR_MS})
    Retention(service).run()
    assert {one["job_id"] for one in objects.find({"tenant": name})} == {job_id, open_job}
    assert not service.pictures.store.exists(lost)
    assert httpx.get(tenant.job(job_id)["output"]["pictures"][0]["url"]).status_code == 200
    tenant.post(f"/v1/jobs/{open_job}/cancel")


@pytest.mark.parametrize(
    "metadata",
    [{"n": 10**30}, {"text": "x" * 17_000}, {"deep": [{"n": -(10**19)}]}],
    ids=["large", "long", "deep"],
)
def test_metadata_that_no_record_should_hold_is_refused(
    main_api: MainApi, metadata: dict[str, object]
) -> None:
    tenant = main_api.as_tenant("stored-6")
    answer = tenant.post("/v1/generations", json={"prompt": "x", "metadata": metadata})
    assert (answer.status_code, answer.json()["field"]) == (422, "metadata")


def test_a_picture_that_cannot_be_stored_is_not_forwarded_for_ever(
    main_api: MainApi, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    from main_api.background.forwarding import Forwarder
    from main_api.background.services import Call
    from test_background_deletion import Sent

    class Services:
        def call(self, *_: object) -> Call:
            return Call("", {}, "image", "image")

        def send(self, *_: object) -> bytes:
            return picture()

    def full(*_: object) -> None:
        raise StorageFull("there is no room")

    tenant = main_api.as_tenant("stored-7")
    job_id = tenant.post("/v1/background-removals", json={"image": in_base64(picture())}).json()["id"]
    monkeypatch.setattr(service.pictures, "put", full)
    forwarder = Forwarder(
        service.leases,
        service.keeper,
        Services(),  # type: ignore[arg-type]
        service.pictures,
        service.records.objects,
        Sent(),
        places=1,
    )
    for _ in range(3):
        forwarder.run(job_id)
        service.records.jobs.note(job_id, {"not_before": 0})
    assert tenant.job(job_id)["error"]["type"] == "attempts-exhausted"
