"""What is killed: nothing that was acknowledged is lost, and what can go on does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from main_api_servers import MainApi, MongoStandIn, RedisServer
from waiting import until
from worker_calls import put_picture, succeed


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[MongoStandIn, RedisServer, MainApi]]:
    """A database, a Redis and a main-api that may be killed."""
    folder: Path = tmp_path_factory.mktemp("losses")
    with (
        MongoStandIn(folder) as mongo,
        RedisServer(folder) as redis,
        MainApi(folder, mongo, redis, LEASE_S="120") as api,
    ):
        yield mongo, redis, api


Servers = tuple[MongoStandIn, RedisServer, MainApi]


def test_without_redis_jobs_go_their_way_limits_hold_and_events_are_told(servers: Servers) -> None:
    _, redis, api = servers
    tenant, node = api.as_tenant("losses-1", requests_a_minute=40), api.as_node()
    before = tenant.generation()
    redis.kill()
    try:
        after = tenant.generation()
        assert api.get("/readyz").json()["status"] == "ready"
        # Here the broker is the same server.
        away = ["redis", "broker"]
        until(lambda: api.get("/readyz").json()["missing"] == away, "readiness tells of Redis")
        names = []

        def follow() -> None:
            with tenant.stream("GET", f"/v1/jobs/{after}/events") as stream:
                names.extend(line for line in stream.iter_lines() if line.startswith("event:"))

        following = threading.Thread(target=follow)
        following.start()
        for _ in range(2):
            claim = node.claim(wait_s=5)
            assert claim is not None
            assert succeed(node, claim, [put_picture(node, claim)]).status_code == 200
        following.join(60)
        assert names[-1] == "event: succeeded"
        assert {tenant.job(job_id)["status"] for job_id in (before, after)} == {"succeeded"}
        headers = {"Idempotency-Key": "without redis"}
        body = {"prompt": "a shoe"}
        twice = [tenant.post("/v1/generations", json=body, headers=headers).json()["id"] for _ in range(2)]
        assert twice[0] == twice[1]
        statuses = [tenant.get("/v1/tenant").status_code for _ in range(60)]
        assert set(statuses) == {200, 429}
    finally:
        redis.start()
    until(lambda: api.get("/readyz").json()["missing"] == [], "readiness tells that Redis is back")
    api.as_tenant("losses-1").post(f"/v1/jobs/{twice[0]}/cancel")


def test_a_submission_without_database_is_refused_and_what_was_accepted_is_all_there(
    servers: Servers,
) -> None:
    mongo, _, api = servers
    tenant, node = api.as_tenant("losses-2"), api.as_node()
    accepted = [tenant.generation() for _ in range(5)]
    mongo.kill()
    refused = tenant.post("/v1/generations", json={"prompt": "a shoe"})
    assert (refused.status_code, refused.json()["type"]) == (503, "/problems/unavailable")
    assert refused.headers["Retry-After"]
    assert api.get("/healthz").status_code == 200
    until(lambda: api.get("/readyz").status_code == 503, "readiness tells of the database")
    assert "database" in api.get("/readyz").json()["missing"]
    mongo.start()
    until(lambda: api.get("/readyz").status_code == 200, "the database is back")
    assert {job["id"] for job in tenant.get("/v1/jobs").json()["jobs"]} >= set(accepted)
    claimed = {claim["job_id"] for _ in accepted if (claim := node.claim()) is not None}
    assert claimed == set(accepted)


def test_submitting_while_the_database_is_killed_loses_nothing_that_was_acknowledged(
    servers: Servers,
) -> None:
    mongo, _, api = servers
    tenant = api.as_tenant("losses-3", max_queued=10_000, requests_a_minute=100_000)
    acknowledged: list[str] = []
    others: list[int] = []
    over = threading.Event()

    def submit() -> None:
        while not over.is_set():
            answer = tenant.post("/v1/generations", json={"prompt": "a shoe"})
            if answer.status_code == 202:
                acknowledged.append(answer.json()["id"])
            else:
                others.append(answer.status_code)

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        known = len(acknowledged)
        until(lambda known=known: len(acknowledged) >= known + 5, "jobs are accepted")
        mongo.kill()
        failures = len(others)
        until(lambda failures=failures: len(others) > failures, "jobs are refused")
        mongo.start()
    over.set()
    for thread in threads:
        thread.join(60)
    assert set(others) <= {503}
    service = api.service()
    missing = [job_id for job_id in acknowledged if service.records.jobs.get(job_id) is None]
    service.database.close()
    print(f"acknowledged {len(acknowledged)}, refused {len(others)}, lost {len(missing)}")
    assert missing == []


def test_main_api_killed_and_started_again_goes_on_with_its_jobs(servers: Servers) -> None:
    _, _, api = servers
    tenant, node = api.as_tenant("losses-4"), api.as_node()
    service = api.service()
    for job in service.records.jobs.find({"status": {"$in": ["queued", "processing"]}}):
        service.records.jobs.note(job.id, {"status": "canceled"})
    service.database.close()
    job_id = tenant.generation()
    claim = node.claim()
    assert claim is not None
    api.kill()
    api.start()
    picture = put_picture(node, claim)
    assert succeed(node, claim, [picture]).status_code == 200
    assert httpx.get(tenant.job(job_id)["output"]["pictures"][0]["url"]).status_code == 200


def test_a_lease_that_ran_out_while_main_api_was_away_is_not_held_against_the_job(servers: Servers) -> None:
    _, _, api = servers
    tenant, node = api.as_tenant("losses-outage"), api.as_node()
    job_id = tenant.generation()
    first = node.claim(wait_s=5)
    assert first is not None
    api.kill()
    api.service().records.jobs.note(job_id, {"lease_until": 1})  # as after an hour
    api.start()
    until(lambda: tenant.job(job_id)["status"] == "queued", "the job is given back")
    second = node.claim(wait_s=5)
    assert second is not None
    assert (first["attempt"], second["attempt"]) == (1, 1)
    assert second["fencing"] > first["fencing"]
    assert succeed(node, second, [put_picture(node, second)]).status_code == 200
