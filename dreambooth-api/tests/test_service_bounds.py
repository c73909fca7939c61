"""What waits for the object store, or for a run's end, has places of its own; the sweep comes again."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from dreambooth_api import service as service_module
from dreambooth_api.models.artifact import new_version
from dreambooth_api.routes.context import Context, context_of
from dreambooth_api.service import Service
from dreambooth_api.settings import ServiceSettings
from enlight_common.web import LongLived
from flask import Flask
from flask.testing import FlaskClient
from service_parts import in_base64, photo
from waiting import until

WITHIN_S = 60
ASYNC = {"Prefer": "respond-async"}


@pytest.fixture
def here(app: Flask) -> Context:
    return context_of(app)


@pytest.fixture
def full() -> Iterator[Callable[[LongLived], None]]:
    """Takes all places for the length of a test."""
    with ExitStack() as stack:

        def take_all(places: LongLived) -> None:
            for _ in range(places.limit):
                stack.enter_context(places.enter("test"))

        yield take_all


def test_listings_and_deletions_have_a_bound(
    client: FlaskClient, here: Context, full: Callable[[LongLived], None]
) -> None:
    assert client.get("/models").status_code == 200
    full(here.listings)
    for answer in (client.get("/models"), client.delete("/models/none")):
        assert answer.status_code == 503
        assert answer.headers["Retry-After"]
    assert client.get("/healthz").status_code == 200
    told = client.get("/base-model")
    assert (told.status_code, told.get_json()["name"]) == (200, "enlight/tiny-sd")


def test_a_training_can_be_canceled_however_many_follow_one(
    client: FlaskClient, service: Service, here: Context, full: Callable[[LongLived], None]
) -> None:
    body = {
        "INSTANCE_PROMPT": "a sks cup",
        "OUTPUT_DIR": "followed",
        "IMAGE_LIST": [in_base64(photo())],
        "MAX_TRAINING_STEPS": 20_000,
        "RESOLUTION": 64,
    }
    started = client.post("/train", json=body, headers=ASYNC)
    assert started.status_code == 202, started.get_json()
    address = started.headers["Location"]
    full(here.waits)
    assert client.get(f"{address}/events").status_code == 503
    assert client.post(f"{address}/settlement", json={}).status_code == 409, "it goes on"
    canceled = client.delete(address)
    assert (canceled.status_code, canceled.get_json()["status"]) == (200, "canceled")
    assert client.post(f"{address}/settlement", json={"undo": True}).status_code == 200
    assert client.post(f"{address}/settlement", json={"undo": "yes"}).status_code == 422


@pytest.mark.parametrize("job", ["../x", "", "a" * 65])
def test_a_job_that_is_no_id_is_refused(client: FlaskClient, job: str) -> None:
    headers = {**ASYNC, "X-Enlight-Lease": "60", "X-Enlight-Job": job}
    answer = client.post("/train", json={}, headers=headers)
    assert (answer.status_code, answer.get_json()["field"]) == (422, "X-Enlight-Job")


def test_a_job_goes_with_a_lease(client: FlaskClient) -> None:
    answer = client.post("/train", json={}, headers={**ASYNC, "X-Enlight-Job": "job-1"})
    assert answer.status_code == 400


def test_what_was_cut_short_is_swept_up_without_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "_SWEEP_EVERY_S", 0.05)
    running = Service(ServiceSettings(data_dir=tmp_path, threads=16))
    sweeping = threading.Thread(target=running._sweep)
    sweeping.start()
    for _ in range(2):  # one of them at least comes after the first sweep
        left = tmp_path / "store" / "models" / "default" / "cup" / new_version() / "weights.safetensors"
        left.parent.mkdir(parents=True)
        left.write_bytes(b"half of it")
        os.utime(left, (1, 1))
        until(lambda left=left: not left.exists())
    running.drain(0)
    sweeping.join(WITHIN_S)
    assert not sweeping.is_alive()
