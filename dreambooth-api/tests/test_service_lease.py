"""Over HTTP: trainings that somebody has to answer for, and whose trainings and models a caller sees."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from dreambooth_api.service import Service
from flask.testing import FlaskClient
from service_parts import in_base64, photo
from waiting import until

WITHIN_S = 300
REQUEST = {
    "INSTANCE_PROMPT": "a sks cup",
    "OUTPUT_DIR": "leased",
    "IMAGE_LIST": [in_base64(photo())],
    "MAX_TRAINING_STEPS": 20_000,
    "RESOLUTION": 64,
}
ASYNC = {"Prefer": "respond-async"}
ACME, OTHER = {"X-Enlight-Tenant": "acme"}, {"X-Enlight-Tenant": "other"}


@pytest.fixture
def trusting(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service takes its callers' word for whose they are."""
    trust = {"trust_tenant_header": True}
    monkeypatch.setattr(service, "settings", service.settings.model_copy(update=trust))


@pytest.fixture(autouse=True)
def free(service: Service) -> Iterator[None]:
    """No test leaves a training to the next."""
    yield
    if (active := service.trainings.active) is not None:
        service.trainings.cancel(active.run_id)


def lease(seconds: float | str) -> dict[str, str]:
    return {**ASYNC, "X-Enlight-Lease": str(seconds)}


@pytest.mark.parametrize("seconds", ["4.9", "3601", "0", "-1", "nan", "inf", "soon", "", "1e400"])
def test_a_lease_out_of_bounds_is_refused_before_anything_is_read(client: FlaskClient, seconds: str) -> None:
    answer = client.post("/train", json=REQUEST, headers=lease(seconds))
    assert answer.status_code == 422
    assert answer.get_json()["field"] == "X-Enlight-Lease"


def test_a_lease_is_for_those_who_do_not_wait(client: FlaskClient, service: Service) -> None:
    answer = client.post("/train", json=REQUEST, headers={"X-Enlight-Lease": "60"})
    assert answer.status_code == 400
    assert service.trainings.active is None


def test_a_run_goes_on_while_its_lease_is_renewed_and_stops_at_a_checkpoint_when_not(
    client: FlaskClient, service: Service
) -> None:
    started = client.post("/train", json=REQUEST, headers=lease(3600))
    assert started.status_code == 202
    address = started.headers["Location"]
    until(lambda: client.get(address).get_json()["step"] >= 1)
    renewed = client.post(f"{address}/lease", json={"seconds": 60})
    assert (renewed.status_code, renewed.get_json()["status"]) == (200, "processing")
    for wrong in ({}, {"seconds": 1}, {"seconds": 10**9}, {"seconds": 60, "more": 1}):
        assert client.post(f"{address}/lease", json=wrong).status_code == 422

    assert client.post(f"{address}/lease", json={"seconds": 5}).status_code == 200
    until(lambda: client.get(address).get_json()["status"] == "failed")
    state = client.get(address).get_json()
    assert state["error_kind"] == "interrupted"
    assert state["stored_step"] == state["checkpoint_step"] >= 1
    assert client.post(f"{address}/lease", json={"seconds": 60}).status_code == 409
    assert client.post("/train/cpu0-" + "0" * 24 + "/lease", json={"seconds": 60}).status_code == 404


def test_a_run_is_stopped_with_its_checkpoints_kept_for_any_machine(
    client: FlaskClient, service: Service
) -> None:
    def kept() -> list[str]:
        return [found.key for found in service.store.catalog.objects.list("checkpoints/default/")]

    for found in kept():
        service.store.catalog.objects.delete(found)
    address = client.post("/train", json=REQUEST, headers=lease(3600)).headers["Location"]
    until(lambda: client.get(address).get_json()["step"] >= 1)
    assert client.delete(f"{address}?keep=perhaps").status_code == 422
    stopped = client.delete(f"{address}?keep=true").get_json()
    assert (stopped["status"], stopped["error_kind"]) == ("failed", "interrupted")
    assert kept()
    address = client.post("/train", json=REQUEST, headers=lease(3600)).headers["Location"]
    assert client.delete(address).get_json()["status"] == "canceled"
    assert kept() == []


@pytest.mark.parametrize(("method", "path"), [("get", "/models"), ("post", "/train"), ("post", "/inference")])
def test_another_tenants_name_is_not_taken_from_just_anybody(
    client: FlaskClient, method: str, path: str
) -> None:
    body = {} if method == "get" else {"json": REQUEST if path == "/train" else {"prompt": "a cup"}}
    answer = getattr(client, method)(path, headers={**ACME, **ASYNC}, **body)
    assert answer.status_code == 403
    assert "acme" not in answer.get_data(as_text=True)


def test_the_default_tenants_name_is(client: FlaskClient) -> None:
    assert client.get("/models", headers={"X-Enlight-Tenant": "default"}).status_code == 200


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("name", ["../x", "", "a b", "x" * 65])
def test_what_is_no_id_is_no_tenant(client: FlaskClient, name: str) -> None:
    answer = client.get("/models", headers={"X-Enlight-Tenant": name})
    assert answer.status_code == 422


@pytest.mark.usefixtures("trusting")
def test_a_tenants_runs_and_models_are_not_there_for_another(client: FlaskClient) -> None:
    started = client.post("/train", json=REQUEST, headers={**ACME, **lease(3600)})
    assert started.get_json()["tenant"] == "acme"
    address = started.headers["Location"]
    for headers in (OTHER, {}):
        for method, path in (
            ("get", address),
            ("delete", address),
            ("get", f"{address}/events"),
            ("get", f"{address}/validation.png"),
            ("post", f"{address}/lease"),
        ):
            body = {"json": {"seconds": 60}} if method == "post" else {}
            assert getattr(client, method)(path, headers=headers, **body).status_code == 404
    assert client.post("/train", json=REQUEST, headers={**OTHER, **lease(3600)}).status_code == 503
    assert client.get(address, headers=ACME).get_json()["status"] == "processing"
    assert client.delete(address, headers=ACME).get_json()["status"] == "canceled"

    short = {**REQUEST, "MAX_TRAINING_STEPS": 1}
    assert client.post("/train", json=short, headers=ACME).status_code == 200
    drawing = {"prompt": "a cup", "model_id": "leased", "num_image": 1, "num_inference_steps": 1}
    assert [model["model_id"] for model in client.get("/models", headers=ACME).get_json()["models"]] == [
        "leased"
    ]
    assert client.post("/inference", json=drawing, headers=OTHER).status_code == 404
    assert client.delete("/models/leased", headers=OTHER).status_code == 404
    assert client.post("/inference", json=drawing, headers=ACME).status_code == 200
    assert client.delete("/models/leased", headers=ACME).status_code == 204
