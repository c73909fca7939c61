from __future__ import annotations

import os
from pathlib import Path

import pytest
from enlight_common.cores import available_cores, core_quota


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("max 100000", None),
        ("50000 100000", 1),
        ("150000 100000", 2),
        ("400000 100000", 4),
        ("", None),
        ("x y", None),
    ],
)
def test_the_quota_of_a_control_group_is_in_whole_cores(tmp_path: Path, text: str, cores: int | None):
    (tmp_path / "cpu.max").write_text(text)
    assert core_quota(tmp_path) == cores


def test_the_quota_of_the_older_control_groups_is_read(tmp_path: Path):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("250000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert core_quota(tmp_path) == 3
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert core_quota(tmp_path) is None


def test_a_process_has_no_more_cores_than_it_may_run_on(tmp_path: Path):
    assert available_cores(tmp_path) == len(os.sched_getaffinity(0))
    (tmp_path / "cpu.max").write_text("50000 100000")
    assert available_cores(tmp_path) == 1
