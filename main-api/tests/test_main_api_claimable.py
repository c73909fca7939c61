"""`jobs_claimable` on `/metrics`: by what a cluster adds workers."""

from __future__ import annotations

from pathlib import Path

from main_api.clock import now_ms
from main_api_servers import MainApi, MongoStandIn, RedisServer
from prometheus_client.parser import text_string_to_metric_families
from worker_calls import post


def test_jobs_that_one_more_worker_could_begin_are_counted_and_no_others(
    tmp_path: Path, redis: RedisServer
) -> None:
    # Of its own: the jobs of other tests would be counted, too.
    with MongoStandIn(tmp_path) as mongo, MainApi(tmp_path, mongo, redis) as main_api:
        busy = main_api.as_tenant("busy", max_processing=2)
        failing = main_api.as_tenant("failing")
        node = main_api.as_node()

        failed = failing.generation()
        post(node, node.claim(), "release", reason="no memory")
        _wait_an_hour(main_api, failed)
        waiting = [busy.generation() for _ in range(4)]
        assert node.claim()["job_id"] == waiting[0]

        text = main_api.get("/metrics").text
    found = {family.name: family for family in text_string_to_metric_families(text)}
    counts = {sample.labels["kind"]: sample.value for sample in found["jobs_claimable"].samples}
    # Of busy's three that wait one: another is under way, and it may have two.
    assert counts == {"training": 0, "generation": 1}


def _wait_an_hour(main_api: MainApi, job_id: str) -> None:
    """As after a failure, but for longer than this test can take."""
    service = main_api.service()
    job = service.records.jobs.get(job_id)
    assert job is not None
    assert service.records.jobs.change(job, {"not_before": now_ms() + 3_600_000})
    service.database.close()


def test_nothing_is_counted_while_the_database_is_away(tmp_path: Path, redis: RedisServer) -> None:
    (tmp_path / "mongo").mkdir()
    mongo = MongoStandIn(tmp_path / "mongo")
    mongo.start()
    main_api = MainApi(tmp_path, mongo, redis)
    try:
        main_api.start()
        mongo.kill()
        assert 'jobs_claimable{kind="training"}' not in main_api.get("/metrics").text
    finally:
        main_api.kill()
        mongo.kill()
