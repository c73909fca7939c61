"""Webhooks from the job that owes them to the receiver, signed, again and again, and by hand."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import replicate.webhook
from background_parts import (
    Background,
    OtherServer,
    Reply,
    background,
    claimed,
    complete,
    put_picture,
)
from main_api.clock import now_ms
from main_api.ids import new_id
from main_api.records.database import Document
from main_api.records.deliveries import delivery_document
from main_api.webhooks.delivery import MAX_TRIES, DeliveryRuns, wait_after
from main_api.webhooks.notices import Notices
from main_api.webhooks.secrets import WebhookSecrets
from main_api.webhooks.sending import Sender
from main_api.webhooks.signing import new_secret, signed_headers
from main_api_servers import Api, MainApi, MongoStandIn, RedisServer
from waiting import until

GONE, BUSY, BROKEN = 410, 503, 500


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, main_api: MainApi) -> Iterator[Background]:
    with background(tmp_path_factory.mktemp("webhooks"), main_api) as process:
        yield process


@pytest.fixture
def receiver() -> Iterator[OtherServer]:
    with OtherServer(lambda got: Reply(200)) as server:
        yield server


@pytest.fixture
def tenant(main_api: MainApi, request: pytest.FixtureRequest) -> Api:
    return main_api.as_tenant(f"hooks-{abs(hash(request.node.name))}")


def hook(receiver: OtherServer, *events: str) -> dict[str, Any]:
    return {"webhook": f"{receiver.url}/hook", "webhook_events_filter": list(events or ("completed",))}


def deliveries(tenant: Api, job_id: str) -> list[dict[str, Any]]:
    return list(tenant.get(f"/v1/jobs/{job_id}/deliveries").json()["deliveries"])


def statuses(receiver: OtherServer, job_id: str) -> list[str]:
    return [got.json["status"] for got in receiver.received if got.json["id"] == job_id]


def test_the_end_of_a_job_is_told_once_and_signed(
    main_api: MainApi, running: Background, tenant: Api, receiver: OtherServer
) -> None:
    node = main_api.as_node()
    job_id = tenant.generation(**hook(receiver), metadata={"order": 5})
    complete(node, claimed(node, job_id))
    until(lambda: receiver.received, "the webhook")
    until(lambda: [one["status"] for one in deliveries(tenant, job_id)] == ["delivered"], "delivered")

    (got,) = receiver.received
    assert got.headers["content-type"] == "application/json"
    assert (got.json["id"], got.json["status"], got.json["metadata"]) == (job_id, "succeeded", {"order": 5})
    assert got.json["output"]["pictures"][0]["url"].startswith("http")
    secret = tenant.get("/v1/webhooks/secret").json()["key"]
    assert secret.startswith("whsec_")
    checked = replicate.webhook.WebhookSigningSecret(key=secret)
    # Replicate's own check, which raises where anything is wrong.
    replicate.webhook.Webhooks.validate(
        headers=dict(got.headers), body=got.body.decode(), secret=checked, tolerance=300
    )
    with pytest.raises(replicate.webhook.InvalidSignatureError):
        replicate.webhook.Webhooks.validate(
            headers=dict(got.headers), body=got.body.decode() + " ", secret=checked
        )
    (delivery,) = deliveries(tenant, job_id)
    assert delivery["id"] == got.headers["webhook-id"]
    assert (delivery["event"], delivery["attempts"], delivery["last_status"]) == ("completed", 1, 200)


def test_only_the_events_asked_for_are_told(
    main_api: MainApi, running: Background, tenant: Api, receiver: OtherServer
) -> None:
    node = main_api.as_node()
    job_id = tenant.generation(num_images=2, **hook(receiver, "start", "output", "logs", "completed"))
    claim = claimed(node, job_id)
    until(lambda: statuses(receiver, job_id) == ["processing"], "the start")
    renewal = {"fencing": claim["fencing"], "logs": "one line", "progress": {"fraction": 0.25}}
    node.post(f"/internal/v1/jobs/{job_id}/renewal", json=renewal)
    until(lambda: len(statuses(receiver, job_id)) == 2, "the logs")
    assert receiver.received[-1].json["logs"] == "one line"
    first = put_picture(node, claim)
    node.post(f"/internal/v1/jobs/{job_id}/renewal", json={"fencing": claim["fencing"]})
    until(lambda: len(statuses(receiver, job_id)) == 3, "the output")
    assert len(receiver.received[-1].json["output"]["pictures"]) == 1
    complete(node, claim, status="succeeded", output={"pictures": [first, put_picture(node, claim, 1)]})
    until(lambda: statuses(receiver, job_id)[-1] == "succeeded", "the end")
    events = [one["event"] for one in deliveries(tenant, job_id)]
    # The second picture came with the end, and is told of like the first.
    assert events[:3] == ["start", "logs", "output"]
    assert sorted(events[3:]) == ["completed", "output"]


def test_what_a_job_that_was_never_looked_at_had_to_tell_is_told_at_its_end(
    main_api: MainApi, tenant: Api, receiver: OtherServer
) -> None:
    service = main_api.service()
    job_id = tenant.generation(**hook(receiver, "output", "logs"))
    ended = {
        "status": "succeeded",
        "pictures": [{"index": 0, "key": "pictures/a", "revision": 2}],
        "logs": ["one line"],
        "webhook_due": now_ms() + 3_600_000,
    }
    assert service.records.jobs.note(job_id, ended) is not None
    notices = Notices(service.records.jobs, service.records.deliveries)
    assert len(notices.look(job_id).deliveries) == 2
    assert notices.look(job_id).deliveries == ()
    assert sorted(one["event"] for one in deliveries(tenant, job_id)) == ["logs", "output"]
    service.database.close()


def test_output_and_logs_come_twice_a_second_at_most_and_the_last_of_them_is_told(
    main_api: MainApi, running: Background, tenant: Api, receiver: OtherServer
) -> None:
    node = main_api.as_node()
    job_id = tenant.generation(**hook(receiver, "logs"))
    claim = claimed(node, job_id)
    began = time.monotonic()
    for step in range(40):
        renewal = {"fencing": claim["fencing"], "progress": {"fraction": step / 40, "step": step}}
        node.post(f"/internal/v1/jobs/{job_id}/renewal", json=renewal)
    until(
        lambda: receiver.received and receiver.received[-1].json["progress"].get("step") == 39,
        "the last of the logs",
    )
    intervals = (time.monotonic() - began) / 0.5
    assert len(receiver.received) <= 2 + intervals
    complete(node, claim, status="failed", error={"type": "broken", "message": "it broke"})


def test_a_job_that_is_canceled_or_fails_is_told_of_too(
    main_api: MainApi, running: Background, tenant: Api, receiver: OtherServer
) -> None:
    canceled = tenant.generation(**hook(receiver))
    tenant.post(f"/v1/jobs/{canceled}/cancel")
    until(lambda: statuses(receiver, canceled) == ["canceled"], "the canceled one")
    node = main_api.as_node()
    failed = tenant.generation(**hook(receiver))
    complete(node, claimed(node, failed), status="failed", error={"type": "broken", "message": "it broke"})
    until(lambda: statuses(receiver, failed) == ["failed"], "the failed one")


def test_a_receiver_may_be_asked_again_by_hand(
    main_api: MainApi, running: Background, tenant: Api, receiver: OtherServer
) -> None:
    receiver.answer = lambda got: Reply(GONE)
    job_id = tenant.generation(**hook(receiver))
    tenant.post(f"/v1/jobs/{job_id}/cancel")
    until(lambda: [one["status"] for one in deliveries(tenant, job_id)] == ["failed"], "gone for good")
    (delivery,) = deliveries(tenant, job_id)
    assert (delivery["attempts"], delivery["last_status"]) == (1, GONE)

    receiver.answer = lambda got: Reply(200)
    again = tenant.post(f"/v1/deliveries/{delivery['id']}/resend")
    assert again.status_code == 202, again.text
    until(lambda: [one["status"] for one in deliveries(tenant, job_id)] == ["delivered"], "sent again")
    assert [got.headers["webhook-id"] for got in receiver.received] == [delivery["id"]] * 2


def test_another_tenants_deliveries_and_secret_are_out_of_reach(
    main_api: MainApi, running: Background, tenant: Api, receiver: OtherServer
) -> None:
    job_id = tenant.generation(**hook(receiver))
    tenant.post(f"/v1/jobs/{job_id}/cancel")
    until(lambda: deliveries(tenant, job_id), "the delivery")
    delivery_id = deliveries(tenant, job_id)[0]["id"]
    other = main_api.as_tenant("hooks-other")
    assert other.get(f"/v1/jobs/{job_id}/deliveries").status_code == 404
    assert other.post(f"/v1/deliveries/{delivery_id}/resend").status_code == 404
    assert other.get("/v1/webhooks/secret").json() != tenant.get("/v1/webhooks/secret").json()
    reader = main_api.as_tenant("hooks-other", "read", "generate", "train")
    assert reader.get("/v1/webhooks/secret").status_code == 403


def test_a_replaced_secret_signs_nothing_more(tenant: Api) -> None:
    old = tenant.get("/v1/webhooks/secret").json()["key"]
    new = tenant.post("/v1/webhooks/secret/rotation").json()["key"]
    assert new != old
    assert tenant.get("/v1/webhooks/secret").json()["key"] == new


@pytest.mark.parametrize(
    "url", ["http://127.0.0.2/", "http://[::1]/", "http://u:p@example.com/", "http:///x"]
)
def test_a_webhook_that_could_never_be_sent_is_refused_with_the_job(tenant: Api, url: str) -> None:
    answer = tenant.post("/v1/generations", json={"prompt": "a shoe", "webhook": url})
    assert answer.status_code == 422
    assert answer.json()["field"] == "webhook"


# -- tries, over the records alone


class Parts:
    """Deliveries to one receiver, over the records of a main-api."""

    def __init__(self, main_api: MainApi, receiver: OtherServer) -> None:
        self.service = main_api.service()
        self.records = self.service.records
        self.records.tenants.ensure("tries")
        sender = Sender(self.service.webhooks.policy)
        secrets = WebhookSecrets(self.records.tenants)
        self.runs = DeliveryRuns(
            self.records.deliveries, self.records.jobs, secrets, sender, self.service.view.show
        )
        self.api = main_api.as_tenant("tries")
        self.url = f"{receiver.url}/hook"

    def delivery(self, event: str = "completed") -> str:
        job_id = self.api.generation()
        self.api.post(f"/v1/jobs/{job_id}/cancel")
        document = delivery_document(new_id(), job_id=job_id, tenant="tries", event=event, url=self.url)
        self.records.deliveries.insert(document)
        return str(document["_id"])

    def due_now(self, delivery_id: str) -> Document:
        found = self.records.deliveries.get(delivery_id)
        assert found is not None
        changed = self.records.deliveries.change(found, {"due": now_ms()})
        assert changed is not None
        return changed


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, redis: RedisServer) -> Iterator[MainApi]:
    """A main-api without a background process, which would deliver what is due."""
    folder = tmp_path_factory.mktemp("alone")
    with MongoStandIn(folder) as mongo, MainApi(folder, mongo, redis) as server:
        yield server


@pytest.fixture
def parts(alone: MainApi, receiver: OtherServer) -> Iterator[Parts]:
    found = Parts(alone, receiver)
    yield found
    found.service.database.close()


def test_the_same_delivery_twenty_times_at_once_is_sent_once(parts: Parts, receiver: OtherServer) -> None:
    delivery_id = parts.delivery()
    with ThreadPoolExecutor(20) as threads:
        results = list(threads.map(lambda _: parts.runs.run(delivery_id), range(20)))
    assert len(receiver.received) == 1
    assert [one["status"] for one in results if one is not None] == ["delivered"]


def test_what_does_not_arrive_is_tried_eight_times_and_ever_later(
    parts: Parts, receiver: OtherServer
) -> None:
    receiver.answer = lambda got: Reply(BROKEN)
    delivery_id = parts.delivery()
    waits = []
    for number in range(1, MAX_TRIES + 1):
        after = parts.runs.run(delivery_id)
        assert after is not None
        assert (after["attempts"], after["last_status"]) == (number, BROKEN)
        waits.append(after["due"] - after["last_attempt_at"])
        if number < MAX_TRIES:
            assert after["status"] == "pending"
            assert parts.runs.run(delivery_id) is None  # not due yet
            parts.due_now(delivery_id)
    assert after["status"] == "failed"
    assert parts.runs.run(delivery_id) is None
    assert waits[:-1] == sorted(waits[:-1])
    assert len(receiver.received) == MAX_TRIES


def test_the_tries_take_about_an_hour() -> None:
    total = sum(wait_after(tries) for tries in range(1, MAX_TRIES))
    assert 2400 < total < 5200


def test_a_pause_that_the_receiver_asks_for_is_kept(parts: Parts, receiver: OtherServer) -> None:
    receiver.answer = lambda got: Reply(BUSY, headers={"Retry-After": "900"})
    after = parts.runs.run(parts.delivery())
    assert after is not None
    assert after["due"] - after["last_attempt_at"] >= 900_000


def test_an_event_that_is_out_of_date_soon_is_tried_once(parts: Parts, receiver: OtherServer) -> None:
    receiver.answer = lambda got: Reply(BROKEN)
    after = parts.runs.run(parts.delivery("logs"))
    assert after is not None
    assert after["status"] == "failed"


def test_a_try_whose_process_died_is_made_again(parts: Parts, receiver: OtherServer) -> None:
    delivery_id = parts.delivery()
    found = parts.records.deliveries.get(delivery_id)
    assert found is not None
    # As the one that died had left it: begun, and due again after its time.
    begun = {"attempts": 1, "tries": 1, "due": now_ms() + 60_000}
    assert parts.records.deliveries.change(found, begun) is not None
    assert parts.runs.run(delivery_id) is None
    parts.due_now(delivery_id)
    after = parts.runs.run(delivery_id)
    assert after is not None
    assert (after["status"], after["attempts"]) == ("delivered", 2)


def test_a_private_address_is_not_tried_again(parts: Parts, receiver: OtherServer) -> None:
    parts.url = "http://127.0.0.2:80/"
    after = parts.runs.run(parts.delivery())
    assert after is not None
    assert (after["status"], after["last_status"]) == ("failed", None)
    assert "private" in after["last_error"]


def test_a_signature_is_what_standard_webhooks_says() -> None:
    """The example of the specification: https://github.com/standard-webhooks/standard-webhooks."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'
    headers = signed_headers(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert len(new_secret()) == len("whsec_") + 44
    assert new_secret() != new_secret()
