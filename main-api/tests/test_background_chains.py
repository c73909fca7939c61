"""Jobs of several steps: generate, then remove the background, then upscale."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from background_parts import (
    Background,
    OtherServer,
    Received,
    Reply,
    background,
    claimed,
    complete,
    image_service,
    in_base64,
    json_reply,
    picture,
    put_picture,
)
from main_api.background.chains import Chains
from main_api.ids import step_id
from main_api_servers import Api, MainApi
from waiting import until

REMOVE: dict[str, Any] = {"kind": "background_removal"}
ENLARGE: dict[str, Any] = {"kind": "upscale", "resolution": 2048}


class Services(OtherServer):
    """The image services, which can be told to fail on one of their addresses."""

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.refusing: str | None = None

    def _answer(self, got: Received) -> Reply:
        if got.path == self.refusing:
            return json_reply({"type": "/problems/invalid-field", "message": "the image is too odd"}, 422)
        return image_service(got)


@pytest.fixture(scope="module")
def shared_services() -> Iterator[Services]:
    server = Services()
    yield server
    server.close()


@pytest.fixture
def services(shared_services: Services) -> Iterator[Services]:
    shared_services.received.clear()
    yield shared_services
    shared_services.refusing = None


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, main_api: MainApi, shared_services: Services
) -> Iterator[Background]:
    urls = dict.fromkeys(("BGREM_URL", "UPSAMPLER_URL", "REALESRGAN_URL"), shared_services.url)
    with background(tmp_path_factory.mktemp("chains"), main_api, **urls) as process:
        yield process


def first_step(tenant: Api, chain_id: str) -> str:
    found: list[str] = []

    def look() -> bool:
        found[:] = [
            job["id"]
            for job in tenant.get("/v1/jobs?limit=100").json()["jobs"]
            if job["id"] == step_id(chain_id, 0)
        ]
        return bool(found)

    until(look, "the first step")
    return found[0]


def ended(tenant: Api, job_id: str) -> dict[str, Any]:
    until(lambda: tenant.job(job_id)["status"] in ("succeeded", "failed", "canceled"), "the end")
    return tenant.job(job_id)


def test_a_chain_draws_cuts_out_and_enlarges_and_keeps_every_steps_pictures(
    main_api: MainApi, running: Background, services: Services
) -> None:
    tenant, node = main_api.as_tenant("chains-1"), main_api.as_node()
    chain_id = tenant.generation(num_images=2, then=[REMOVE, ENLARGE], metadata={"a": 1})
    claim = claimed(node, first_step(tenant, chain_id))
    assert claim["input"]["num_image"] == 2
    until(lambda: tenant.job(chain_id)["status"] == "processing", "the chain is under way")
    drawn = [put_picture(node, claim, 0), put_picture(node, claim, 1, picture(colour=(10, 30, 30)))]
    complete(node, claim, status="succeeded", output={"pictures": drawn, "settings": {"steps": 20}})

    chain = ended(tenant, chain_id)
    assert (chain["status"], chain["kind"], chain["metadata"]) == ("succeeded", "chain", {"a": 1})
    assert [got.path for got in services.received] == ["/remove-opacity"] * 2 + ["/upsampler"] * 2
    steps = chain["output"]["steps"]
    assert [step["kind"] for step in steps] == ["generation", "background_removal", "upscale"]
    assert [len(step["pictures"]) for step in steps] == [2, 2, 2]
    assert chain["output"]["pictures"] == [
        {**one, "url": shown["url"]}
        for one, shown in zip(steps[2]["pictures"], chain["output"]["pictures"], strict=True)
    ]
    assert all(httpx.get(one["url"]).status_code == 200 for step in steps for one in step["pictures"])
    # The worker's own; what the services took is told apart.
    assert chain["metrics"]["gpu_seconds"] == 1.5
    assert chain["metrics"].keys() == {"gpu_seconds", "service_seconds"}
    assert chain["progress"] == {"fraction": 1.0}
    for index, step in enumerate(steps):
        own = tenant.job(step["job_id"])
        assert (own["id"], own["status"]) == (step_id(chain_id, index), "succeeded")


def test_a_step_that_fails_fails_the_chain_and_is_named(
    main_api: MainApi, running: Background, services: Services
) -> None:
    tenant = main_api.as_tenant("chains-2")
    services.refusing = "/upsampler"
    answer = tenant.post("/v1/background-removals", json={"image": in_base64(picture()), "then": [ENLARGE]})
    chain = ended(tenant, answer.json()["id"])
    assert chain["status"] == "failed"
    assert chain["error"]["type"] == "invalid-field"
    assert chain["error"]["message"] == "step 2 (upscale) failed: the image is too odd"
    (step,) = chain["output"]["steps"]
    assert step["kind"] == "background_removal"
    # Shown since that step ended.
    assert [one["index"] for one in chain["output"]["pictures"]] == [0]
    events = tenant.get(f"/v1/jobs/{chain['id']}/events").text
    assert events.count("event: picture") == 1


def test_canceling_the_chain_cancels_the_step_that_waits(
    main_api: MainApi, running: Background, services: Services
) -> None:
    tenant = main_api.as_tenant("chains-3")
    chain_id = tenant.generation(then=[REMOVE])
    step = first_step(tenant, chain_id)
    assert tenant.post(f"/v1/jobs/{chain_id}/cancel").json()["status"] == "canceled"
    assert ended(tenant, step)["status"] == "canceled"
    assert services.received == []


def test_canceling_the_chain_stops_the_step_that_is_under_way(
    main_api: MainApi, running: Background, services: Services
) -> None:
    tenant, node = main_api.as_tenant("chains-4"), main_api.as_node()
    chain_id = tenant.generation(then=[REMOVE])
    claim = claimed(node, first_step(tenant, chain_id))
    tenant.post(f"/v1/jobs/{chain_id}/cancel")
    renewal = {"fencing": claim["fencing"]}
    url = f"/internal/v1/jobs/{claim['job_id']}/renewal"
    until(lambda: node.post(url, json=renewal).json().get("cancel"), "the worker is told")
    complete(node, claim, status="canceled")
    assert tenant.job(claim["job_id"])["status"] == "canceled"
    assert tenant.job(chain_id)["status"] == "canceled"


def test_canceling_a_step_cancels_its_chain(
    main_api: MainApi, running: Background, services: Services
) -> None:
    tenant = main_api.as_tenant("chains-5")
    chain_id = tenant.generation(then=[REMOVE])
    tenant.post(f"/v1/jobs/{first_step(tenant, chain_id)}/cancel")
    assert ended(tenant, chain_id)["status"] == "canceled"


def test_the_chain_says_how_far_its_steps_are(
    main_api: MainApi, running: Background, services: Services
) -> None:
    tenant, node = main_api.as_tenant("chains-6"), main_api.as_node()
    chain_id = tenant.generation(then=[REMOVE])
    claim = claimed(node, first_step(tenant, chain_id))
    renewal = {"fencing": claim["fencing"], "progress": {"fraction": 0.5}}
    node.post(f"/internal/v1/jobs/{claim['job_id']}/renewal", json=renewal)
    expected = {"fraction": 0.25, "step": 0, "total": 2, "phase": "generation"}
    until(lambda: tenant.job(chain_id)["progress"] == expected, "the chain's progress")
    complete(node, claim)
    assert ended(tenant, chain_id)["status"] == "succeeded"


def test_the_same_message_twenty_times_at_once_makes_every_step_once(main_api: MainApi) -> None:
    """The background process, where it runs, is one more that advances this chain."""
    tenant, node = main_api.as_tenant("chains-7"), main_api.as_node()
    service = main_api.service()
    chains = Chains(service.records.jobs, service.submission, service.hooks)
    chain_id = tenant.generation(then=[REMOVE])

    def steps() -> list[str]:
        return sorted(job.id for job in service.records.jobs.find({"parent": chain_id}))

    def advance_at_once() -> None:
        with ThreadPoolExecutor(20) as threads:
            list(threads.map(lambda _: chains.advance(chain_id), range(20)))

    advance_at_once()
    assert steps() == [step_id(chain_id, 0)]
    complete(node, claimed(node, step_id(chain_id, 0)))
    advance_at_once()
    assert steps() == [step_id(chain_id, 0), step_id(chain_id, 1)]
    # Left to itself, the step would be done in the middle of some other test.
    tenant.post(f"/v1/jobs/{chain_id}/cancel")
    chains.advance(chain_id)
    assert ended(tenant, step_id(chain_id, 1))["status"] in ("canceled", "succeeded")
    service.database.close()
