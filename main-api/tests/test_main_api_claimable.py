"""`jobs_claimable` on `/metrics`: by what a cluster adds workers."""

from __future__ import annotations

from pathlib import Path

from main_api_servers import MainApi, MongoStandIn, RedisServer
from prometheus_client.parser import text_string_to_metric_families
from worker_calls import post


def test_jobs_that_one_more_worker_could_begin_are_counted_and_no_others(
    tmp_path: Path, mongo: MongoStandIn, redis: RedisServer
) -> None:
    main_api = MainApi(tmp_path, mongo, redis, MONGO_DATABASE="claimable")
    main_api.start()
    try:
        busy = main_api.as_tenant("busy", max_processing=2)
        failing = main_api.as_tenant("failing")
        node = main_api.as_node()

        failing.generation()
        for _ in range(2):  # the second failure makes it wait for a time
            post(node, node.claim(), "release", reason="no memory")
        for _ in range(4):
            busy.generation()
        node.claim()

        text = main_api.get("/metrics").text
    finally:
        main_api.kill()
    found = {family.name: family for family in text_string_to_metric_families(text)}
    counts = {sample.labels["kind"]: sample.value for sample in found["jobs_claimable"].samples}
    # Of busy's three that wait one: another is under way, and it may have two.
    assert counts == {"training": 0, "generation": 1}


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
