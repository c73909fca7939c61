"""How many jobs wait that one more worker could begin: the number by which a cluster adds workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

from enlight_common.schemas.claims import GpuKind

from main_api.clock import now_ms
from main_api.records.jobs import Jobs


def claimable_jobs(jobs: Jobs, max_processing: Callable[[str], int]) -> dict[GpuKind, int]:
    """Of each kind that GPU machines do, 0 included.

    A tenant counts for no more than it may still have under way (`max_processing`), and a job that waits
    after a failure not before its time: a worker that came for either would find nothing to do. What is under
    way is not counted, so that workers are added to those at work, not instead of them.
    """
    under_way = jobs.processing_by_tenant()
    now = now_ms()
    return {
        kind: sum(
            min(count, max(0, max_processing(tenant) - under_way.get(tenant, 0)))
            for tenant, count in jobs.due_by_tenant(kind, now).items()
        )
        for kind in get_args(GpuKind)
    }
