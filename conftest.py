"""Imports packages whose folders have their names: pytest would take the folder itself for the package.

Services that tests start keep no spare trainer, which costs seconds of a core each; its tests ask for one.
And files whose tests share servers for a session are run by the same one of xdist's workers.
"""

from __future__ import annotations

import os

import pytest
from xdist.scheduler import LoadFileScheduling

import bgrem as bgrem
import upsampler as upsampler

os.environ.setdefault("SPARE_TRAINER", "off")

#: By their names without the folder. Each worker that had some of a group would start its servers again.
_TOGETHER = (
    (
        "test_training_through_nginx.py",
        "test_drawing_through_nginx.py",
        "test_service_scripts.py",
        "test_nginx_itself.py",
    ),
    ("test_facades_kept.py", "test_facades_openai.py", "test_facades_replicate.py"),
)
_GROUPS = {name: " ".join(names) for names in _TOGETHER for name in names}


class _Scheduling(LoadFileScheduling):
    """As `--dist loadfile`, with the files of a group as if they were one."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return _GROUPS.get(file.rpartition("/")[2], file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadFileScheduling | None:
    return _Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups come first: what is left for last decides how long two workers take."""
    items.sort(key=lambda item: item.path.name not in _GROUPS)
