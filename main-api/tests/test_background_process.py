"""The background process itself: brokers that are away, processes that are killed, and its own end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from background_parts import Background, OtherServer, Received, Reply, image_service, in_base64, picture
from main_api.background.broker import open_broker
from main_api.background.messages import Messages
from main_api_servers import Api, MainApi, MongoStandIn, RedisServer, Server
from rabbitmq_server import RabbitmqServer
from waiting import until

IMAGES = 2


class Stack:
    """A main-api and a background process of their own, over a broker that may be killed."""

    def __init__(self, folder: Path, redis: RedisServer, broker: Server) -> None:
        self.services = OtherServer(image_service)
        self.mongo = MongoStandIn(folder)
        self.broker = broker
        urls = dict.fromkeys(("BGREM_URL", "UPSAMPLER_URL", "REALESRGAN_URL"), self.services.url)
        self.main_api = MainApi(
            folder,
            self.mongo,
            redis,
            BROKER_URL=broker.url,  # type: ignore[attr-defined]
            LEASE_S="5",
            GRACE_S="5",
            **urls,
        )
        self.background = Background(folder, self.main_api)

    def tenant(self) -> Api:
        return self.main_api.as_tenant("stack")

    def start(self) -> None:
        """All but the background process."""
        for server in (self.mongo, self.broker, self.main_api):
            server.start()

    def stop(self) -> None:
        for server in (self.background, self.main_api, self.broker, self.mongo):
            server.kill()
        self.services.close()


def removal(tenant: Api, **fields: Any) -> str:
    answer = tenant.post("/v1/background-removals", json={"image": in_base64(picture()), **fields})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def is_done(tenant: Api, job_id: str) -> bool:
    """Fails at once where it never will be."""
    job = tenant.job(job_id)
    assert job["status"] not in ("failed", "canceled"), (job["error"], job["logs"])
    return bool(job["status"] == "succeeded")


@pytest.fixture(params=["redis", "rabbitmq"])
def stack(request: pytest.FixtureRequest, tmp_path: Path, redis: RedisServer) -> Iterator[Stack]:
    folder = tmp_path / "broker"
    folder.mkdir()
    broker = RabbitmqServer(folder) if request.param == "rabbitmq" else RedisServer(folder)
    found = Stack(tmp_path, redis, broker)
    try:
        found.start()
        yield found
    finally:
        found.stop()


def test_brokers_and_processes_are_killed_and_no_job_is_lost(stack: Stack) -> None:
    """One story for each broker, because the servers take long to start."""
    tenant, background, broker = stack.tenant(), stack.background, stack.broker

    # Nobody is there to work; then somebody is.
    early = removal(tenant)
    background.start()
    until(lambda: is_done(tenant, early), lambda: (tenant.job(early), background.log[-3000:]))

    # The broker is away: the job is taken all the same, and sent later.
    broker.kill()
    taken = [removal(tenant) for _ in range(3)]
    assert {tenant.job(one)["status"] for one in taken} == {"queued"}
    broker.start()
    until(lambda: all(is_done(tenant, one) for one in taken), "what was submitted without a broker")

    # -9 in the middle of a job: its lease runs out, and the next process does it.
    hangs = threading.Event()

    def hang(got: Received) -> Reply:
        hangs.wait(30)
        return image_service(got)

    stack.services.answer = hang
    before = len(stack.services.received)
    held = removal(tenant)
    until(lambda: len(stack.services.received) > before, "it is being forwarded")
    background.kill()
    stack.services.answer = image_service
    hangs.set()
    background.start()
    until(lambda: is_done(tenant, held), "what was held by the killed one")

    # SIGTERM: what is under way is finished, and the process leaves.
    stack.services.answer = hang
    hangs.clear()
    before = len(stack.services.received)
    last = removal(tenant)
    until(lambda: len(stack.services.received) > before, "it is being forwarded")
    threading.Timer(0.5, hangs.set).start()
    assert background.terminate() == 0
    assert is_done(tenant, last)


def test_what_does_not_end_within_the_grace_time_is_given_back(tmp_path: Path, redis: RedisServer) -> None:
    (tmp_path / "broker").mkdir()
    stack = Stack(tmp_path, redis, RedisServer(tmp_path / "broker"))
    hangs = threading.Event()

    def hang(got: Received) -> Reply:
        hangs.wait(30)
        return image_service(got)

    try:
        stack.start()
        stack.background.start()
        stack.services.answer = hang
        tenant = stack.tenant()
        job_id = removal(tenant)
        until(lambda: stack.services.received, "it is being forwarded")
        assert stack.background.terminate() == 0
        assert tenant.job(job_id)["status"] == "queued"
        job = stack.main_api.service().records.jobs.get(job_id)
        assert job is not None
        assert job.attempts == 0  # it was not the job's fault
    finally:
        hangs.set()
        stack.stop()


def test_a_message_that_cannot_be_sent_holds_up_nobody(tmp_path: Path) -> None:
    broker = RedisServer(tmp_path)  # never started
    messages = Messages(open_broker(broker.url))
    senders = [threading.Thread(target=messages.send, args=("forward", f"job{n}")) for n in range(50)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(5)
    assert not any(sender.is_alive() for sender in senders)
    messages.stop(1)


def test_the_same_message_is_not_sent_twice_while_it_waits(redis: RedisServer) -> None:
    broker = open_broker(redis.url.replace("/0", "/9"))
    messages = Messages(broker)
    blocked = threading.Event()
    sent: list[tuple[Any, ...]] = []

    def enqueue(message: Any, *, delay: int | None = None) -> Any:
        blocked.wait(10)
        sent.append((message.actor_name, *message.args))
        return message

    broker.enqueue = enqueue  # type: ignore[method-assign]
    for _ in range(10):
        messages.send("forward", "first")  # the sender takes it, and is held up
        messages.send("forward", "second")
    blocked.set()
    messages.stop(5)
    assert sorted(set(sent)) == [("forward", "first"), ("forward", "second")]
    assert len(sent) <= 3


def test_wrong_brokers_are_refused_at_the_start(tmp_path: Path, main_api: MainApi) -> None:
    process = Background(tmp_path, main_api, BROKER_URL="http://127.0.0.1/")
    process.spawn()
    assert process.process is not None
    assert process.process.wait(60) == 2
    assert "BROKER_URL" in process.log
