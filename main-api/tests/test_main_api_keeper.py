"""Leases of what this process works on are renewed, from when their jobs are there."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from main_api.clock import now_ms
from main_api.jobs.hooks import Hooks
from main_api.jobs.job import Job
from main_api.jobs.keeper import LeaseKeeper
from main_api.jobs.leases import Leases
from main_api.records.jobs import Jobs
from main_api_servers import MainApi
from waiting import until

_JOB = Job(
    id="j-keeper",
    tenant="keeper",
    kind="generation",
    status="processing",
    input={},
    task={},
    files={},
    created_at=0,
    fencing=1,
)


@pytest.fixture
def jobs(main_api: MainApi) -> Iterator[Jobs]:
    service = main_api.service()
    yield service.records.jobs
    service.database.close()


def test_a_job_is_not_lost_before_it_is_stored_and_is_where_it_is_gone_afterwards(jobs: Jobs) -> None:
    leases = Leases(jobs, Hooks(), lease_s=0.3, max_attempts=3, max_processing=lambda _: 9)
    keeper = LeaseKeeper(leases)
    job = replace(_JOB, lease_until=now_ms() + 60_000)
    stored = threading.Event()
    with keeper.keep(job, stored.is_set) as coming:
        for _ in range(2):
            with keeper.keep(job) as gone:
                until(lambda: gone.lost, "what has no record is lost")
        assert not coming.lost
        stored.set()
        until(lambda: coming.lost, "it is looked at from then on")
    keeper.stop()
