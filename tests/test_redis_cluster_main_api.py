"""main-api over a real Redis Cluster, as the user that the scripts make for it, while masters are killed."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from main_api_servers import Api, MainApi, MongoStandIn, RedisServer, until
from redis_parts import NODES, ClusterOfScripts
from worker_calls import post, put_picture, succeed

AWAY = "Redis cannot be reached"


@dataclass
class Running:
    cluster: ClusterOfScripts
    api: MainApi
    mongo: MongoStandIn
    broker: RedisServer
    folder: Path

    def log(self) -> str:
        return (self.folder / "main-api.log").read_text()

    def keys(self, pattern: str) -> set[str]:
        with self.cluster.client() as client:
            return set(client.scan_iter(pattern, count=1000))

    def master_of(self, key: str) -> str:
        with self.cluster.client() as client:
            return self.cluster.node_at(client.get_node_from_key(key).port)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder: Path = tmp_path_factory.mktemp("redis-main-api")
    cluster = ClusterOfScripts(folder / "cluster data")
    mongo, broker = MongoStandIn(folder), RedisServer(folder)
    servers: list[MongoStandIn | RedisServer | MainApi] = [mongo, broker]
    try:
        cluster.succeed("start")
        mongo.start()
        broker.start()
        settings = {"REDIS_URL": cluster.url, "REDIS_CLUSTER": "true", "LEASE_S": "120"}
        api = MainApi(folder, mongo, broker, **settings)
        servers.insert(0, api)
        api.start()
        yield Running(cluster, api, mongo, broker, folder)
    finally:
        for server in servers:
            server.kill()
        cluster.kill_all()


def test_cache_limits_and_events_are_in_the_cluster_and_its_user_may_do_no_more(running: Running) -> None:
    tenant = running.api.as_tenant("cluster-1", requests_a_minute=20)
    job_id = tenant.generation()
    assert running.keys("enlight:cache:*tenant:cluster-1*")
    assert running.keys("enlight:rate:{cluster-1}")
    assert running.keys(f"enlight:events:{{{job_id}}}")
    assert Counter(tenant.get("/v1/tenant").status_code for _ in range(40))[429] >= 20
    assert running.api.get("/readyz").json()["missing"] == []
    assert AWAY not in running.log()
    with running.cluster.client("main-api") as client:
        for forbidden in (
            lambda: client.set("another:key", "x"),
            lambda: client.flushall(),
            lambda: client.config_get("requirepass"),
        ):
            with pytest.raises(Exception, match=r"(?i)no permissions"):
                forbidden()


def test_a_master_killed_in_the_midst_loses_no_job_and_no_event(running: Running) -> None:
    tenant, node = running.api.as_tenant("cluster-2", **GENEROUS), running.api.as_node()
    followed = tenant.generation(num_images=2)
    claims = iter(lambda: node.claim(), None)
    claim = next(one for one in claims if one["job_id"] == followed)
    told: list[tuple[int, str]] = []
    following = threading.Thread(target=lambda: told.extend(events_of(tenant, followed)))
    following.start()
    submitted, statuses, over = keep_submitting(tenant)

    # The one that has the followed job's stream.
    lost = running.master_of(f"enlight:events:{{{followed}}}")
    running.cluster.kill(lost)
    first = put_picture(node, claim, 0)
    assert post(node, claim, "renewal", progress={"fraction": 0.5}).status_code == 200
    until(lambda: lost not in running.cluster.masters, "its replica takes over")
    known = len(submitted)
    until(lambda: len(submitted) > known + 20, "jobs go on")
    over.set()

    second = put_picture(node, claim, 1, b"another")
    assert succeed(node, claim, [first, second]).status_code == 200
    following.join(60)
    assert [name for _, name in told].count("picture") == 2
    assert told[-1][1] == "succeeded"
    seen = next(number for number, name in told if name == "picture")
    again = list(events_of(tenant, followed, seen))
    assert [name for _, name in again] == ["picture", "succeeded"]

    print(f"submitted {len(submitted)} while a master was killed and replaced: {Counter(statuses)}")
    assert set(statuses) <= {202, 503}
    service = running.api.service()
    missing = [job_id for job_id in submitted if service.records.jobs.get(job_id) is None]
    service.database.close()
    assert missing == []
    # And what it caches goes to the one that took over.
    until(lambda: "redis" not in running.api.get("/readyz").json()["missing"], "the cluster is used again")
    until(lambda: running.keys(f"enlight:events:{{{tenant.generation()}}}"), "events are there again")
    running.cluster.succeed("start")


def test_the_same_request_many_times_is_one_job_while_a_master_is_away(running: Running) -> None:
    tenant = running.api.as_tenant("cluster-3", **GENEROUS)
    running.cluster.kill(running.master_of("enlight:rate:{cluster-3}"))
    found: list[httpx.Response] = []

    def submit() -> None:
        headers = {"Idempotency-Key": "once"}
        found.append(tenant.post("/v1/generations", json={"prompt": "a shoe"}, headers=headers))

    threads = [threading.Thread(target=submit) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in found} <= {202, 409, 503}
    assert len({answer.json()["id"] for answer in found if answer.status_code == 202}) == 1
    running.cluster.succeed("start")


def test_a_cluster_that_hangs_holds_up_no_more_than_those_who_were_asking(running: Running) -> None:
    tenant = running.api.as_tenant("cluster-4", **GENEROUS)
    pids = [running.cluster.pid(node) for node in NODES]
    submitted, statuses, over = keep_submitting(tenant)
    until(lambda: len(submitted) > 5, "jobs are taken")
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        known = len(submitted)
        until(lambda: len(submitted) > known + 40, "jobs are taken without Redis")
        until(lambda: "redis" in running.api.get("/readyz").json()["missing"], "readiness tells of it")
        assert running.api.get("/healthz").status_code == 200
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        over.set()
    assert set(statuses) == {202}
    until(lambda: running.api.get("/readyz").json()["missing"] == [], "and that it is back")
    running.cluster.succeed("start")


def test_main_api_starts_while_the_first_node_that_it_is_told_of_is_down(running: Running) -> None:
    running.cluster.kill("node-1")
    running.api.kill()
    running.api.start()
    tenant = running.api.as_tenant("cluster-5", **GENEROUS)
    until(lambda: running.api.get("/readyz").json()["missing"] == [], "it finds the others")
    until(lambda: tenant.generation() and running.keys("enlight:rate:{cluster-5}"), "and uses them")
    running.cluster.succeed("start")


@pytest.mark.parametrize(
    "url", ["redis://host:port/0", "redis://:hidden@a:7000,b:none/0", "redis://a:7000/1"]
)
def test_a_url_that_names_no_cluster_is_refused_without_being_told(running: Running, url: str) -> None:
    wrong = MainApi(running.folder, running.mongo, running.broker, REDIS_URL=url, REDIS_CLUSTER="true")
    with pytest.raises(Exception, match="wrong settings: REDIS_URL") as refused:
        wrong.service()
    assert url not in str(refused.value)


GENEROUS = {"requests_a_minute": 100_000, "max_queued": 10_000}


def keep_submitting(tenant: Api) -> tuple[list[str], list[int], threading.Event]:
    """Submit from several threads until the event is set; the acknowledged ids, and every status.

    That of an error without `Retry-After` is negative.
    """
    submitted: list[str] = []
    statuses: list[int] = []
    over = threading.Event()

    def submit() -> None:
        while not over.is_set():
            answer = tenant.post("/v1/generations", json={"prompt": "a shoe"})
            if answer.status_code == 202:
                submitted.append(answer.json()["id"])
            in_order = answer.status_code == 202 or "Retry-After" in answer.headers
            statuses.append(answer.status_code if in_order else -answer.status_code)

    for _ in range(4):
        threading.Thread(target=submit, daemon=True).start()
    return submitted, statuses, over


def events_of(tenant: Api, job_id: str, after: int = 0) -> Iterator[tuple[int, str]]:
    """(id, event) of a job's stream until it ends."""
    headers = {"Last-Event-ID": str(after)} if after else {}
    with tenant.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as answer:
        assert answer.status_code == 200
        fields: dict[str, Any] = {}
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if line:
                fields[name] = value
            elif "data" in fields:
                json.loads(fields["data"])
                yield int(fields["id"]), fields["event"]
                fields = {}
