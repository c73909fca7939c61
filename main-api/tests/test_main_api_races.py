"""What must hold when many come at once, and when somebody sleeps at the wrong moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any, TypeVar

import httpx
import pytest
from main_api.clock import now_ms
from main_api.errors import LeaseLost
from main_api.ids import new_id
from main_api.jobs.cancellation import cancel
from main_api.jobs.job import Job
from main_api.service import Service
from main_api_servers import MainApi, MongoStandIn, RedisServer
from waiting import until

Result = TypeVar("Result")
LEASE_S = 1.0


def at_once(count: int, call: Callable[[int], Result]) -> list[Result]:
    """What `count` calls give that begin at the same moment."""
    barrier = Barrier(count)

    def begin(number: int) -> Result:
        barrier.wait()
        return call(number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(begin, range(count)))


@pytest.fixture(scope="module")
def quick_api(tmp_path_factory: pytest.TempPathFactory, redis: RedisServer) -> Iterator[MainApi]:
    """A main-api whose leases last a second, with records of its own."""
    folder = tmp_path_factory.mktemp("quick")
    with MongoStandIn(folder) as mongo, MainApi(folder, mongo, redis, LEASE_S=str(LEASE_S)) as server:
        yield server


@pytest.fixture(scope="module")
def service(quick_api: MainApi) -> Iterator[Service]:
    made = quick_api.service()
    yield made
    made.keeper.stop()
    made.database.close()


@pytest.fixture(autouse=True)
def _nothing_left_over(service: Service) -> Iterator[None]:
    """No test finds another's jobs in the queue, be they of this file or of one that shares the servers."""
    _cancel_all(service)
    yield
    _cancel_all(service)


def _cancel_all(service: Service) -> None:
    for job in service.records.jobs.find({"status": {"$in": ["queued", "processing"]}}):
        service.records.jobs.note(job.id, {"status": "canceled"})


def waiting_job(service: Service, tenant: str = "races", **fields: Any) -> Job:
    """The record of a job that waits, without the way through HTTP. No worker of these tests asks for it."""
    job = Job(
        id=new_id(),
        tenant=tenant,
        kind="generation",
        status="queued",
        input={},
        task={},
        files={},
        created_at=now_ms(),
        base_model="nobody/asks",
        **fields,
    )
    service.records.jobs.insert(job)
    return job


def test_one_of_twenty_workers_that_claim_at_once_gets_the_job(quick_api: MainApi) -> None:
    tenant, node = quick_api.as_tenant("races-1"), quick_api.as_node()
    job_id = tenant.generation()
    claims = [claim for claim in at_once(20, lambda number: node.claim(f"gpu{number}")) if claim]
    assert [claim["job_id"] for claim in claims] == [job_id]


def test_one_of_several_processes_that_claim_the_same_record_at_once_gets_it(main_api: MainApi) -> None:
    # Not quick_api's, whose leases may be over on a crowded machine before the last one has asked.
    services = [main_api.service() for _ in range(8)]
    for _ in range(10):
        job = waiting_job(services[0])
        claims = at_once(8, lambda number, job=job: services[number].leases.claim(job.id, f"w{number}"))
        (claim,) = (claim for claim in claims if claim is not None)
        services[0].leases.succeed(job.id, claim.fencing, {"pictures": []})
    for one in services:
        one.database.close()


def test_fifty_requests_with_one_idempotency_key_make_one_job(quick_api: MainApi) -> None:
    tenant = quick_api.as_tenant("races-2")
    headers = {"Idempotency-Key": "order 17"}
    body = {"prompt": "a shoe"}
    answers = at_once(50, lambda _: tenant.post("/v1/generations", json=body, headers=headers))
    assert {answer.status_code for answer in answers} <= {202, 503}
    made = {answer.json()["id"] for answer in answers if answer.status_code == 202}
    assert len(made) == 1
    assert [job["id"] for job in tenant.get("/v1/jobs").json()["jobs"]] == list(made)
    other = tenant.post("/v1/generations", json={"prompt": "a hat"}, headers=headers)
    assert (other.status_code, other.json()["type"]) == (422, "/problems/idempotency-key-reused")
    # Another tenant's key of the same name is another key.
    stranger = quick_api.as_tenant("races-3")
    answer = stranger.post("/v1/generations", json=body, headers=headers)
    assert answer.json()["id"] not in made


def test_an_idempotency_key_of_a_refused_request_may_come_with_another_body(quick_api: MainApi) -> None:
    tenant = quick_api.as_tenant("races-key")
    headers = {"Idempotency-Key": "order 18"}

    def ask(**body: str) -> httpx.Response:
        return tenant.post("/v1/generations", json={"prompt": "a shoe", **body}, headers=headers)

    assert ask(model_id="nobody-made-it").status_code >= 400
    made = ask()
    assert made.status_code == 202, made.text
    assert ask().json()["id"] == made.json()["id"]
    assert ask(model_id="nobody-made-it").json()["type"] == "/problems/idempotency-key-reused"
    assert [job["id"] for job in tenant.get("/v1/jobs").json()["jobs"]] == [made.json()["id"]]


def test_two_bodies_with_one_idempotency_key_at_the_same_moment_make_one_job(quick_api: MainApi) -> None:
    tenant = quick_api.as_tenant("races-5")
    for round_ in range(5):
        headers = {"Idempotency-Key": f"order {round_}"}

        def ask(number: int, headers: dict[str, str] = headers) -> httpx.Response:
            return tenant.post("/v1/generations", json={"prompt": f"shoe {number % 2}"}, headers=headers)

        answers = at_once(8, ask)
        assert {answer.status_code for answer in answers} == {202, 422}
        made = {answer.json()["id"] for answer in answers if answer.status_code == 202}
        assert len(made) == 1
    assert len(tenant.get("/v1/jobs").json()["jobs"]) == 5


def test_who_comes_back_with_a_refused_key_keeps_it_from_others(service: Service) -> None:
    reservations = service.records.reservations
    mine = reservations.reserve("races-6", "key", "a")
    reservations.refuse("races-6", "key", mine)
    theirs = reservations.reserve("races-6", "key", "b")
    assert theirs.over
    reservations.begin("races-6", "key", mine)
    assert reservations.take_over("races-6", "key", theirs, "b").fingerprint == "a"


def test_an_idempotency_key_is_free_again_after_a_day(service: Service) -> None:
    reservations, records = service.records.reservations, service.database.records("reservations")
    first = reservations.reserve("races-4", "key", "a")
    (document,) = records.find({"tenant": "races-4"})
    long_ago = now_ms() - 25 * 3600 * 1000
    records.change({"_id": document["_id"]}, {"$set": {"created_at": long_ago}})
    later = at_once(8, lambda _: reservations.reserve("races-4", "key", "b"))
    assert len({one.job_id for one in later}) == 1
    assert later[0].job_id != first.job_id


def test_a_job_that_is_canceled_while_it_completes_ends_once_a_thousand_times(service: Service) -> None:
    leases, jobs, hooks = service.leases, service.records.jobs, service.hooks
    ends: list[tuple[str, str]] = []
    hooks.on_terminal.append(lambda job: ends.append((job.id, job.status)))
    outcomes = {"succeeded": 0, "canceled": 0}

    def worker(job: Job) -> str:
        """As the GPU worker does: succeed, or give up when a renewal says so."""
        try:
            if leases.renew(job.id, job.fencing).cancel:
                return leases.cancel(job.id, job.fencing).status
            return leases.succeed(job.id, job.fencing, {"pictures": []}).status
        except LeaseLost:
            return "lost"

    with ThreadPoolExecutor(2) as threads:
        for number in range(1000):
            job = waiting_job(service, "races-5", metadata={"number": number})
            claimed = leases.claim(job.id, "worker") if number % 2 else job
            assert claimed is not None
            if number % 2:
                ending = threads.submit(worker, claimed)
            else:

                def claim_and_work(job: Job = job) -> str:
                    claimed = leases.claim(job.id, "worker")
                    return worker(claimed) if claimed is not None else "lost"

                ending = threads.submit(claim_and_work)
            canceling = threads.submit(cancel, jobs, hooks, claimed)
            said = ending.result()
            canceling.result()
            final = jobs.get(job.id)
            assert final is not None
            assert final.terminal
            assert said in (final.status, "lost")
            outcomes[final.status] += 1
    assert len(ends) == len({job_id for job_id, _ in ends}) == 1000
    # Both orders happened, or the race was none.
    assert min(outcomes.values()) > 0, outcomes


_HOLDER = """
import json, sys
import httpx
client = httpx.Client(base_url=sys.argv[1], headers={"Authorization": "Bearer " + sys.argv[2]}, timeout=60)
asked = {"worker": "frozen", "kinds": ["generation"], "base_models": ["enlight/tiny-sd"], "wait_s": 20}
claim = client.post("/internal/v1/claims", json=asked).json()
about = {"fencing": claim["fencing"], "index": 0, "format": "png", "size": 3, "sha256": "0" * 64}
path = "/internal/v1/jobs/" + claim["job_id"]
grant = client.post(path + "/pictures", json=about).json()
print(json.dumps(claim), flush=True)
sys.stdin.readline()
fencing = {"fencing": claim["fencing"]}
put = httpx.put(grant["put_url"], content=b"old")
picture = {**about, "key": grant["key"], "width": 64, "height": 64}
del picture["fencing"]
statuses = [
    client.post(path + "/renewal", json=fencing).status_code,
    client.post(path + "/pictures", json=about).status_code,
    client.post(path + "/completion", json={**fencing, "status": "succeeded", "output": {"pictures": [picture]}}).status_code,
    client.post(path + "/completion", json={**fencing, "status": "failed", "error": {"type": "x", "message": ""}}).status_code,
    client.post(path + "/release", json=fencing).status_code,
]
print(json.dumps(statuses), flush=True)
"""  # noqa: E501


def test_a_worker_that_was_frozen_past_its_lease_can_write_nothing_more(quick_api: MainApi) -> None:
    tenant, node = quick_api.as_tenant("races-6"), quick_api.as_node()
    job_id = tenant.generation()
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, quick_api.url, node.key],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert json.loads(holder.stdout.readline())["job_id"] == job_id
        os.kill(holder.pid, signal.SIGSTOP)
        claim: dict[str, Any] = {}

        def claimed_again() -> bool:
            claim.update(node.claim("awake", wait_s=1) or {})
            return bool(claim)

        until(claimed_again, "the lease of the frozen worker runs out")
        assert claim["fencing"] > 1
        os.kill(holder.pid, signal.SIGCONT)
        holder.stdin.write("\n")
        holder.stdin.flush()
        assert json.loads(holder.stdout.readline()) == [409] * 5
        job = tenant.job(job_id)
        assert job["output"] is None
        assert job["status"] in ("processing", "queued")
    finally:
        holder.kill()
        holder.wait()


def test_a_job_that_kills_its_worker_three_times_fails_with_the_reason(quick_api: MainApi) -> None:
    tenant, node = quick_api.as_tenant("races-7"), quick_api.as_node()
    job_id = tenant.generation()
    claims = []

    def ended() -> bool:
        claim = node.claim(wait_s=1)
        if claim is not None:
            claims.append(claim["attempt"])
        return tenant.job(job_id)["status"] == "failed"

    until(ended, "the job is given up")
    assert claims == [1, 2, 3]
    error = tenant.job(job_id)["error"]
    assert error["type"] == "attempts-exhausted"
    assert "the worker went silent" in error["message"]


def test_a_job_that_is_canceled_while_its_worker_is_dead_ends_when_the_lease_does(quick_api: MainApi) -> None:
    tenant, node = quick_api.as_tenant("races-8"), quick_api.as_node()
    job_id = tenant.generation()
    assert node.claim() is not None
    tenant.post(f"/v1/jobs/{job_id}/cancel")
    until(lambda: tenant.job(job_id)["status"] == "canceled", "the lease runs out")


def test_a_tenant_has_no_more_jobs_under_way_than_it_may_and_others_are_served(quick_api: MainApi) -> None:
    node = quick_api.as_node()
    greedy, modest = quick_api.as_tenant("races-9", max_processing=2), quick_api.as_tenant("races-10")
    for client in [greedy] * 6 + [modest]:
        client.generation()
    claims = [claim for claim in at_once(6, lambda _: node.claim()) if claim]
    assert sorted(claim["tenant"] for claim in claims) == ["races-10", "races-9", "races-9"]


def test_twenty_jobs_at_once_do_not_exceed_the_quota_of_waiting_ones(quick_api: MainApi) -> None:
    tenant = quick_api.as_tenant("races-11", max_queued=5)
    answers = at_once(20, lambda _: tenant.post("/v1/generations", json={"prompt": "a shoe"}))
    assert sorted(answer.status_code for answer in answers) == [202] * 5 + [429] * 15
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.headers["Retry-After"]
    assert len(tenant.get("/v1/jobs").json()["jobs"]) == 5


def test_what_comes_in_too_great_a_number_is_refused_and_what_is_accepted_is_there(
    quick_api: MainApi,
) -> None:
    tenant = quick_api.as_tenant("races-12", max_queued=10_000, requests_a_minute=1_000_000)
    answers = at_once(150, lambda _: tenant.post("/v1/generations", json={"prompt": "a shoe"}))
    assert {answer.status_code for answer in answers} <= {202, 503}
    refused = [answer for answer in answers if answer.status_code == 503]
    assert all(answer.headers["Retry-After"] == "1" for answer in refused)
    accepted = {answer.json()["id"] for answer in answers if answer.status_code == 202}
    assert accepted
    found, cursor = set(), None
    while found == set() or cursor is not None:
        query = {"limit": 100, **({"cursor": cursor} if cursor else {})}
        page = tenant.get("/v1/jobs", params=query).json()
        found |= {job["id"] for job in page["jobs"]}
        cursor = page["next"]
    assert found == accepted
