"""How many cores this process may use: a container's share, not the machine's."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def available_cores(cgroup: Path = _CGROUP) -> int:
    """The cores that this process may run on, or its control group's quota rounded up where that is less."""
    quota = core_quota(cgroup)
    affine = len(os.sched_getaffinity(0))
    return affine if quota is None else min(affine, quota)


def core_quota(cgroup: Path = _CGROUP) -> int | None:
    """The control group's quota in whole cores, at least 1; None where there is none."""
    try:
        words = (cgroup / "cpu.max").read_text().split()
        quota, period = (-1 if words[0] == "max" else int(words[0])), int(words[1])
    except (OSError, ValueError, IndexError):
        try:  # version 1
            quota = int((cgroup / "cpu" / "cpu.cfs_quota_us").read_text())
            period = int((cgroup / "cpu" / "cpu.cfs_period_us").read_text())
        except (OSError, ValueError):
            return None
    return max(1, math.ceil(quota / period)) if quota > 0 and period > 0 else None
