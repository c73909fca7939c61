"""The cache by hand, with the script that an operator runs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from dreambooth_api.models.store import ModelStore, open_store
from models_parts import LARGE, publish

SCRIPT = Path(__file__).parents[2] / "dreambooth-manage" / "cache.sh"


def cache(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment = inherited | {"DATA_DIR": str(folder)} | settings
    return subprocess.run(
        [SCRIPT, *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    made = open_store((tmp_path / "store").as_uri(), tmp_path / "elsewhere", LARGE)
    for name in ("shoe", "boot"):
        publish(made, tmp_path / "result", name, size=500_000)
    return made


def test_models_are_warmed_pinned_listed_and_evicted(store: ModelStore, tmp_path: Path) -> None:
    assert cache(tmp_path, "warm", "shoe").returncode == 0
    assert cache(tmp_path, "pin", "boot").returncode == 0
    listed = cache(tmp_path, "list", CACHE_MAX_GB="1.5").stdout.splitlines()
    assert [line.split()[0].partition("@")[0] for line in listed[1:3]] == ["default/shoe", "default/boot"]
    assert [line.endswith("pinned") for line in listed] == [False, False, True, False]
    assert "2 models; 1." in listed[3]
    assert "of 1500.0 MB" in listed[3]

    assert "2 models" in cache(tmp_path, "list", CACHE_MAX_GB="0.0001").stdout, "a look changes nothing"

    evicted = cache(tmp_path, "evict", "shoe", "nobody", "boot")
    assert evicted.returncode == 1
    assert evicted.stdout.splitlines() == ["shoe: done", "boot: done"]
    assert evicted.stderr.startswith("nobody: there is no model")
    assert "0 models" in cache(tmp_path, "list").stdout


@pytest.mark.parametrize(
    ("arguments", "settings", "says"),
    [
        ((), {}, "cache.sh list"),
        (("burn", "shoe"), {}, "burn"),
        (("warm",), {}, "MODEL"),
        (("warm", "../x"), {}, "model_id"),
        (("list",), {"CACHE_MAX_GB": "-1"}, "CACHE_MAX_GB"),
        (("list",), {"MODEL_STORE_URL": "ftp://x/y"}, "MODEL_STORE_URL"),
    ],
)
def test_mistakes_are_told(
    tmp_path: Path, arguments: tuple[str, ...], settings: dict[str, str], says: str
) -> None:
    done = cache(tmp_path, *arguments, **settings)
    assert done.returncode in (1, 2)
    assert says in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
