"""Background removals and upscales: forwarded to the services by the background process."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from background_parts import (
    Background,
    OtherServer,
    Received,
    Reply,
    background,
    image_service,
    in_base64,
    json_reply,
    picture,
)
from main_api.background.forwarding import Forwarder
from main_api.background.messages import Messages
from main_api.background.services import ImageServices
from main_api_servers import Api, MainApi, MongoStandIn, RedisServer
from waiting import until

ENDED = ("succeeded", "failed", "canceled")


class Services(OtherServer):
    """The image services; `behave` decides what they answer."""

    def __init__(self) -> None:
        super().__init__(lambda got: self.behave(got))
        self.behave: Callable[[Received], Reply] = image_service


@pytest.fixture(scope="module")
def shared_services() -> Iterator[Services]:
    server = Services()
    yield server
    server.close()


@pytest.fixture
def services(shared_services: Services) -> Iterator[Services]:
    shared_services.received.clear()
    yield shared_services
    shared_services.behave = image_service


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, main_api: MainApi, shared_services: Services
) -> Iterator[Background]:
    urls = service_urls(shared_services)
    with background(tmp_path_factory.mktemp("background"), main_api, **urls) as process:
        yield process


def service_urls(services: OtherServer) -> dict[str, str]:
    return dict.fromkeys(("BGREM_URL", "UPSAMPLER_URL", "REALESRGAN_URL"), services.url)


def removal(tenant: Api, images: int = 1, **fields: Any) -> str:
    """The id of a new background removal."""
    sources = [in_base64(picture(16 + number)) for number in range(images)]
    answer = tenant.post("/v1/background-removals", json={"images": sources, **fields})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def ended(tenant: Api, job_id: str) -> dict[str, Any]:
    until(lambda: tenant.job(job_id)["status"] in ENDED, "the end")
    return tenant.job(job_id)


def test_a_background_removal_is_done_by_the_service_and_its_picture_kept(
    main_api: MainApi, running: Background, services: Services
) -> None:
    tenant = main_api.as_tenant("forward-1")
    answer = tenant.post(
        "/v1/background-removals",
        json={"image": in_base64(picture()), "format": "webp"},
        headers={"Prefer": "wait=30", "X-Request-Id": "the-request"},
    )
    assert answer.status_code == 200, answer.text
    job = answer.json()
    assert job["status"] == "succeeded"
    (shown,) = job["output"]["pictures"]
    # Whatever other tests left behind may be done here, too.
    (sent,) = [got for got in services.received if got.headers["x-request-id"] == "the-request"]
    made = json.loads(image_service(sent).body)["output_image"]
    assert httpx.get(shown["url"]).content == base64.b64decode(made)
    assert (sent.path, sent.json["format"]) == ("/remove-opacity", "webp")
    assert sent.headers["x-request-id"] == "the-request"


def test_every_picture_of_a_job_is_sent_and_told_of_as_it_comes(
    main_api: MainApi, running: Background, services: Services
) -> None:
    tenant = main_api.as_tenant("forward-2")
    go_on = threading.Event()

    def wait_for_the_last(got: Received) -> Reply:
        if len(services.received) == 3:
            go_on.wait(30)
        return image_service(got)

    services.behave = wait_for_the_last
    job_id = removal(tenant, images=3)
    until(lambda: len((tenant.job(job_id)["output"] or {"pictures": []})["pictures"]) == 2, "two pictures")
    assert tenant.job(job_id)["progress"] == {"fraction": 0.6667, "step": 2, "total": 3}
    go_on.set()
    job = ended(tenant, job_id)
    assert [one["width"] for one in job["output"]["pictures"]] == [16, 17, 18]


def test_upscales_go_to_the_service_of_their_engine(
    main_api: MainApi, running: Background, services: Services
) -> None:
    tenant = main_api.as_tenant("forward-3")
    for engine, field, resolution in (
        ("gan", "input_string", "out_resolution"),
        ("swin2sr", "image", "resolution"),
    ):
        body = {"image": in_base64(picture()), "engine": engine, "resolution": 2048}
        job = tenant.post("/v1/upscales", json=body, headers={"Prefer": "wait=30"}).json()
        assert job["status"] == "succeeded", job
        assert (services.received[-1].path, services.received[-1].json[resolution]) == ("/upsampler", 2048)
        assert field in services.received[-1].json


def test_what_a_service_refuses_fails_with_its_words(
    main_api: MainApi, running: Background, services: Services
) -> None:
    services.behave = lambda got: json_reply({"type": "/problems/invalid-field", "message": "model: no"}, 422)
    tenant = main_api.as_tenant("forward-4")
    job = ended(tenant, removal(tenant))
    assert (job["status"], job["error"]) == ("failed", {"type": "invalid-field", "message": "model: no"})
    assert len(services.received) == 1


def test_a_busy_service_is_asked_again_when_it_said_and_no_attempt_is_counted(
    main_api: MainApi, running: Background, services: Services
) -> None:
    def busy_four_times(got: Received) -> Reply:
        if len(services.received) <= 4:
            return json_reply({"type": "/problems/busy", "message": "busy"}, 503, Retry_After="1")
        return image_service(got)

    services.behave = busy_four_times
    tenant = main_api.as_tenant("forward-5")
    job = ended(tenant, removal(tenant))
    # More often than a job that fails would be tried.
    assert (job["status"], len(services.received)) == ("succeeded", 5)


def test_a_service_that_breaks_is_tried_three_times(
    main_api: MainApi, running: Background, services: Services
) -> None:
    services.behave = lambda got: json_reply({"message": "inner"}, 500)
    tenant = main_api.as_tenant("forward-6")
    job = ended(tenant, removal(tenant))
    assert (job["status"], job["error"]["type"]) == ("failed", "attempts-exhausted")
    assert len(services.received) == 3


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"output_image": 5}', b'{"output_image": "aGFsbG8="}'])
def test_an_answer_that_is_no_picture_is_the_services_fault(
    main_api: MainApi, running: Background, services: Services, body: bytes
) -> None:
    def wrong_once(got: Received) -> Reply:
        return Reply(200, body) if len(services.received) == 1 else image_service(got)

    services.behave = wrong_once
    tenant = main_api.as_tenant("forward-7")
    assert ended(tenant, removal(tenant))["status"] == "succeeded"
    assert len(services.received) == 2


def test_a_job_is_canceled_between_its_pictures(
    main_api: MainApi, running: Background, services: Services
) -> None:
    tenant = main_api.as_tenant("forward-8")
    canceled = threading.Event()

    def wait(got: Received) -> Reply:
        canceled.wait(30)
        return image_service(got)

    services.behave = wait
    job_id = removal(tenant, images=3)
    until(lambda: services.received, "the first picture")
    assert tenant.post(f"/v1/jobs/{job_id}/cancel").status_code == 202
    canceled.set()
    assert ended(tenant, job_id)["status"] == "canceled"
    assert len(services.received) == 1


def test_a_service_that_is_still_at_it_is_left_when_the_job_is_canceled(
    redis: RedisServer, services: Services, tmp_path: Path
) -> None:
    """With a lease of a second: the holder looks every third of it whether it is to stop."""
    over = threading.Event()

    def never(got: Received) -> Reply:
        over.wait(60)
        return image_service(got)

    services.behave = never
    with (
        MongoStandIn(tmp_path) as mongo,
        MainApi(tmp_path, mongo, redis, BROKER_URL=redis.url.replace("/0", "/2"), LEASE_S="1") as main_api,
        background(tmp_path, main_api, **service_urls(services)),
    ):
        tenant = main_api.as_tenant("forward-10")
        job_id = removal(tenant)
        until(lambda: services.received, "the picture was sent")
        assert tenant.post(f"/v1/jobs/{job_id}/cancel").status_code == 202
        assert ended(tenant, job_id)["status"] == "canceled"
    over.set()


def test_a_tenant_with_enough_under_way_waits_and_holds_up_nobody(
    main_api: MainApi, running: Background, services: Services
) -> None:
    go_on = threading.Event()

    def wait_for_the_first(got: Received) -> Reply:
        if got.json.get("model") == "slow":
            go_on.wait(30)
        return image_service(got)

    services.behave = wait_for_the_first
    greedy = main_api.as_tenant("forward-greedy", max_processing=1)
    other = main_api.as_tenant("forward-other")
    slow = removal(greedy, model="slow")
    until(lambda: greedy.job(slow)["status"] == "processing", "the slow one")
    waiting = [removal(greedy) for _ in range(3)]
    assert ended(other, removal(other))["status"] == "succeeded"
    assert {greedy.job(one)["status"] for one in waiting} == {"queued"}
    go_on.set()
    assert {ended(greedy, one)["status"] for one in waiting} == {"succeeded"}


def test_the_same_message_twenty_times_at_once_sends_the_picture_once(
    main_api: MainApi, services: Services
) -> None:
    """Four processes' worth of parts, so that no lock of one process keeps the claims apart."""
    tenant = main_api.as_tenant("forward-9")
    parts = [main_api.service() for _ in range(4)]
    url = services.url
    forwarders = [
        Forwarder(
            service.leases,
            service.keeper,
            ImageServices(bgrem=url, upsampler=url, realesrgan=url, timeout_s=10),
            service.pictures,
            service.records.objects,
            Messages(None),  # type: ignore[arg-type]  # nothing is sent
            places=1,
        )
        for service in parts * 5
    ]
    source = in_base64(picture(40))
    answer = tenant.post("/v1/background-removals", json={"image": source})
    job_id = str(answer.json()["id"])
    with ThreadPoolExecutor(20) as threads:
        list(threads.map(lambda one: one.run(job_id), forwarders))
    assert ended(tenant, job_id)["status"] == "succeeded"
    assert len([got for got in services.received if got.json.get("input_image") == source]) == 1
    for service in parts:
        service.keeper.stop()
        service.database.close()
