"""Deleting a model everywhere, keeping things no longer than a tenant wants, and the sweep."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from background_parts import claimed, complete, in_base64, picture
from enlight_common.errors import StoreUnavailable
from enlight_common.storage import put_bytes
from main_api.background.deletion import Deletions
from main_api.background.messages import Actor, Messages
from main_api.background.retention import Retention
from main_api.background.sweeping import BackgroundSweep
from main_api.clock import now_ms
from main_api.service import Service
from main_api_servers import Api, MainApi

DAY_MS = 24 * 3600 * 1000


class Sent(Messages):
    """Messages that are only taken down."""

    def __init__(self) -> None:
        self.sent: list[tuple[Actor, str]] = []

    def send(self, actor: Actor, record_id: str, *, delay_ms: int = 0) -> None:
        self.sent.append((actor, record_id))


@pytest.fixture
def service(main_api: MainApi) -> Iterator[Service]:
    found = main_api.service()
    yield found
    found.database.close()


def store_version(service: Service, tenant: str, model_id: str, version: str) -> None:
    """What a training leaves in the model store, and a checkpoint that was never cleared away."""
    prefix = f"models/{tenant}/{model_id}/{version}"
    manifest = {"schema_version": 1, "base": {"name": "enlight/tiny-sd"}, "method": "lora", "files": []}
    put_bytes(service.models.store, f"{prefix}/weights.safetensors", b"weights")
    put_bytes(service.models.store, f"{prefix}/model.json", json.dumps(manifest).encode())
    put_bytes(service.models.store, f"checkpoints/{tenant}/{'a' * 64}/000000100-w/state.json", b"{}")


def train(service: Service, tenant: Api, node: Api, name: str, model_id: str, **photos: Any) -> str:
    body = {"model_id": model_id, "instance_prompt": "a sks shoe", **photos}
    answer = tenant.post("/v1/trainings", json=body)
    assert answer.status_code == 202, answer.text
    job_id = str(answer.json()["id"])
    claim = claimed(node, job_id)
    store_version(service, name, model_id, "v1")
    complete(node, claim, status="succeeded", output={"model": {"model_id": model_id, "version": "v1"}})
    return job_id


def draw(tenant: Api, node: Api, **fields: Any) -> str:
    job_id = tenant.generation(**fields)
    complete(node, claimed(node, job_id))
    return job_id


def keys(service: Service, tenant: str) -> set[str]:
    """Everything that is stored of a tenant, in both stores."""
    found = [one.key for store in (service.pictures.store, service.models.store) for one in store.list()]
    return {key for key in found if key.split("/")[1] == tenant}


def test_a_deleted_model_leaves_nothing_and_takes_nothing_else_with_it(
    main_api: MainApi, service: Service
) -> None:
    name = "delete-1"
    tenant, node = main_api.as_tenant(name), main_api.as_node()
    upload = tenant.post("/v1/uploads", json={"data": in_base64(picture(20))}).json()["uploads"][0]
    photos = [in_base64(picture(21)), upload["source"]]
    training = train(service, tenant, node, name, "shoe", photos=photos)
    drawn = draw(tenant, node, model_id="shoe")
    cut_out = tenant.post("/v1/background-removals", json={"image": f"job:{drawn}/0"}).json()["id"]

    other = train(service, tenant, node, name, "ball", photos=[in_base64(picture(22))])
    kept = draw(tenant, node, model_id="ball")
    plain = draw(tenant, node)
    before = keys(service, name)

    assert tenant.delete("/v1/models/shoe").status_code == 202
    assert tenant.get("/v1/models/shoe").status_code == 404
    deletions = Deletions(service)
    assert deletions.run(f"{name}/shoe")
    assert deletions.run(f"{name}/shoe")  # once more does nothing

    left = keys(service, name)
    assert not [key for key in left if "shoe" in key or training in key or drawn in key or cut_out in key]
    assert not [key for key in left if key.startswith(("uploads/", "checkpoints/"))]
    for job_id in (other, kept, plain):
        assert {key for key in before if job_id in key} <= left
    assert {key for key in before if "ball" in key} <= left
    known = service.records.objects.find({"tenant": name})
    assert {one["_id"] for one in known} == {key for key in left if not key.startswith("models/")}

    (shown,) = tenant.job(drawn)["output"]["pictures"]
    assert shown["url"] is None
    assert tenant.job(cut_out)["status"] == "canceled"
    assert httpx.get(tenant.job(kept)["output"]["pictures"][0]["url"]).status_code == 200
    assert tenant.post("/v1/generations", json={"prompt": "x", "model_id": "shoe"}).status_code == 404
    actions = [one["action"] for one in tenant.get("/v1/audit").json()["records"]]
    assert "model.deleted" in actions
    assert "model.version" in actions


def test_a_deletion_that_is_cut_short_leaves_no_model_and_goes_on_later(
    main_api: MainApi, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "delete-5"
    tenant, node = main_api.as_tenant(name), main_api.as_node()
    train(service, tenant, node, name, "shoe", photos=[in_base64(picture(21))])
    tenant.delete("/v1/models/shoe")
    store = service.models.store
    delete, deleted = store.delete, []

    def once(key: str) -> None:
        if deleted:
            raise StoreUnavailable("the object store cannot be reached")
        deleted.append(key)
        delete(key)

    monkeypatch.setattr(store, "delete", once)
    with pytest.raises(StoreUnavailable):
        Deletions(service).run(f"{name}/shoe")
    # What has no manifest does not exist.
    assert deleted == [f"models/{name}/shoe/v1/model.json"]
    monkeypatch.undo()
    assert Deletions(service).run(f"{name}/shoe")
    assert keys(service, name) == set()


def test_a_model_in_use_is_gone_once_its_jobs_have_ended(main_api: MainApi, service: Service) -> None:
    name = "delete-2"
    tenant, node = main_api.as_tenant(name), main_api.as_node()
    train(service, tenant, node, name, "shoe", photos=[in_base64(picture(21))])
    under_way = tenant.generation(model_id="shoe")
    claim = claimed(node, under_way)
    tenant.delete("/v1/models/shoe")
    deletions = Deletions(service)
    assert not deletions.run(f"{name}/shoe")
    renewal = node.post(f"/internal/v1/jobs/{under_way}/renewal", json={"fencing": claim["fencing"]})
    assert renewal.json()["cancel"]
    sent = Sent()
    BackgroundSweep(service, Retention(service), sent).sweep()
    assert ("delete_model", f"{name}/shoe") in sent.sent
    complete(node, claim, status="canceled")
    assert deletions.run(f"{name}/shoe")
    assert service.records.models.get(name, "shoe") is None


def test_a_photo_set_goes_with_the_last_model_made_of_it(main_api: MainApi, service: Service) -> None:
    name = "delete-3"
    tenant, node = main_api.as_tenant(name), main_api.as_node()
    made = tenant.post("/v1/photo-sets", json={"photos": [in_base64(picture(24))]})
    photo_set = made.json()["id"]
    for model_id in ("first", "second"):
        train(service, tenant, node, name, model_id, photo_set=photo_set)
    deletions = Deletions(service)
    tenant.delete("/v1/models/first")
    assert deletions.run(f"{name}/first")
    assert tenant.get(f"/v1/photo-sets/{photo_set}").status_code == 200
    tenant.delete("/v1/models/second")
    assert deletions.run(f"{name}/second")
    assert tenant.get(f"/v1/photo-sets/{photo_set}").status_code == 404
    assert not [key for key in keys(service, name) if key.startswith("photo-sets/")]


def test_a_model_that_is_not_being_deleted_is_left_alone(main_api: MainApi, service: Service) -> None:
    name = "delete-4"
    tenant, node = main_api.as_tenant(name), main_api.as_node()
    train(service, tenant, node, name, "shoe", photos=[in_base64(picture(21))])
    before = keys(service, name)
    assert Deletions(service).run(f"{name}/shoe")
    assert keys(service, name) == before
    assert tenant.get("/v1/models/shoe").status_code == 200


def test_a_version_that_comes_while_its_model_is_deleted_does_not_bring_it_back(
    main_api: MainApi, service: Service
) -> None:
    name = "delete-6"
    tenant, node = main_api.as_tenant(name), main_api.as_node()
    train(service, tenant, node, name, "shoe", photos=[in_base64(picture(21))])
    body = {"model_id": "shoe", "instance_prompt": "a sks shoe", "photos": [in_base64(picture(22))]}
    again = tenant.post("/v1/trainings", json=body).json()["id"]
    claim = claimed(node, again)
    tenant.delete("/v1/models/shoe")
    store_version(service, name, "shoe", "v2")
    answer = node.post(
        f"/internal/v1/jobs/{again}/completion",
        json={
            "fencing": claim["fencing"],
            "status": "succeeded",
            "output": {"model": {"model_id": "shoe", "version": "v2"}},
        },
    )
    assert (answer.status_code, answer.json()["field"]) == (422, "output.model.model_id")
    assert tenant.get("/v1/models/shoe").status_code == 404
    deletions = Deletions(service)
    assert not deletions.run(f"{name}/shoe")
    complete(node, claim, status="canceled")
    assert deletions.run(f"{name}/shoe")
    assert keys(service, name) == set()
    assert tenant.get("/v1/models/shoe").status_code == 404


def test_uploads_that_a_set_or_another_training_needs_outlive_a_model_made_of_them(
    main_api: MainApi, service: Service
) -> None:
    name = "delete-7"
    tenant, node = main_api.as_tenant(name), main_api.as_node()
    uploads = [
        tenant.post("/v1/uploads", json={"data": in_base64(picture(size))}).json()["uploads"][0]["source"]
        for size in (20, 21)
    ]
    photo_set = tenant.post("/v1/photo-sets", json={"photos": uploads}).json()["id"]
    train(service, tenant, node, name, "shoe", photos=uploads)
    body = {"model_id": "ball", "instance_prompt": "a sks ball", "photos": uploads[:1]}
    waiting = tenant.post("/v1/trainings", json=body).json()["id"]
    tenant.delete("/v1/models/shoe")
    grow_older(service, {"tenant": name, "purpose": "upload"}, 5)
    tenant.patch("/v1/tenant", json={"photo_retention_days": 3})
    assert Deletions(service).run(f"{name}/shoe")
    Retention(service).run()
    left = keys(service, name)
    assert len([key for key in left if key.startswith("uploads/")]) == 1
    photos = tenant.get(f"/v1/photo-sets/{photo_set}").json()["photos"]
    assert [httpx.get(one["url"]).content for one in photos] == [picture(20), picture(21)]
    claim = claimed(node, waiting)
    assert [httpx.get(url).content for url in claim["photos"]] == [picture(20)]
    complete(node, claim, status="canceled")
    Retention(service).run()
    assert not [key for key in keys(service, name) if key.startswith("uploads/")]


def test_photos_and_pictures_are_kept_for_the_tenants_days(main_api: MainApi, service: Service) -> None:
    name = "retention-1"
    tenant, node = main_api.as_tenant(name), main_api.as_node()
    asked = tenant.patch("/v1/tenant", json={"picture_retention_days": 7, "photo_retention_days": 30})
    assert asked.status_code == 200, asked.text
    old, new = draw(tenant, node), draw(tenant, node, image=in_base64(picture(32)))
    made = tenant.post("/v1/photo-sets", json={"photos": [in_base64(picture(24))]}).json()["id"]
    grow_older(service, {"job_id": old}, 8)
    grow_older(service, {"job_id": new}, 6)
    grow_older(service, {"photo_set": made}, 29)
    retention = Retention(service)
    retention.run()
    assert tenant.job(old)["output"]["pictures"][0]["url"] is None
    assert httpx.get(tenant.job(new)["output"]["pictures"][0]["url"]).status_code == 200
    assert tenant.get(f"/v1/photo-sets/{made}").status_code == 200
    left = keys(service, name)
    assert not [key for key in left if old in key]
    assert len([key for key in left if new in key]) == 2  # the input and the picture

    grow_older(service, {"photo_set": made}, 31)
    retention.run()
    assert tenant.get(f"/v1/photo-sets/{made}").status_code == 404
    assert retention.run() == 0


def test_a_tenant_without_days_keeps_everything(main_api: MainApi, service: Service) -> None:
    name = "retention-2"
    tenant, node = main_api.as_tenant(name), main_api.as_node()
    job_id = draw(tenant, node)
    grow_older(service, {"job_id": job_id}, 5000)
    before = keys(service, name)
    Retention(service).run()
    assert keys(service, name) == before


def grow_older(service: Service, query: dict[str, Any], days: int) -> None:
    for one in service.records.objects.find(query):
        service.records.objects.note(one["_id"], {"created_at": now_ms() - days * DAY_MS})


# -- the sweep


def test_the_sweep_finds_what_no_message_told_of(main_api: MainApi, service: Service) -> None:
    """There is no background process here, so nothing of this has been begun."""
    tenant = main_api.as_tenant("sweep-1")
    body = {"image": in_base64(picture())}
    waiting = tenant.post("/v1/background-removals", json=body).json()["id"]
    chain = tenant.generation(then=[{"kind": "background_removal"}])
    hooked = tenant.generation(webhook="http://127.0.0.1:9/")
    tenant.post(f"/v1/jobs/{hooked}/cancel")
    sent = Sent()
    sweep = BackgroundSweep(service, Retention(service), sent)
    sweep.sweep()
    expected = {("forward", waiting), ("advance_chain", chain), ("notify", hooked)}
    assert expected <= set(sent.sent)
    sent.sent.clear()
    sweep.sweep()
    assert not expected & set(sent.sent)  # told of a moment ago
    for job_id in (waiting, chain):
        tenant.post(f"/v1/jobs/{job_id}/cancel")


def test_a_step_whose_chain_was_canceled_is_found(main_api: MainApi, service: Service) -> None:
    tenant = main_api.as_tenant("sweep-2")
    chain_id = tenant.generation(then=[{"kind": "background_removal"}])
    chain = service.records.jobs.get(chain_id)
    assert chain is not None
    service.submission.step(chain, 0)
    tenant.post(f"/v1/jobs/{chain_id}/cancel")
    sent = Sent()
    BackgroundSweep(service, Retention(service), sent).sweep()
    assert ("advance_chain", chain_id) in sent.sent


def test_one_process_at_a_time_has_the_turn(service: Service) -> None:
    turns = service.records.turns
    assert turns.take("turn-test", 60_000)
    assert not turns.take("turn-test", 60_000)
    assert turns.take("other-test", 0)
    assert turns.take("other-test", 0)
