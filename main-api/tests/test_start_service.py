"""`start_service.sh` gives every part of main-api the settings of one file."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from main_api_servers import SECRET, MongoStandIn, RedisServer

SCRIPT = Path(__file__).resolve().parents[1] / "start_service.sh"


def start(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, *arguments],
        env={**os.environ, **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def settings(tmp_path: Path, mongo: MongoStandIn, redis: RedisServer) -> Path:
    file = tmp_path / "main.env"
    lines = {
        "MONGO_URL": mongo.url,
        "REDIS_URL": redis.url,
        "SIGNING_SECRET": SECRET,
    }
    file.write_text("# a comment\n" + "".join(f"{name}={value}\n" for name, value in lines.items()))
    return file


def test_keys_are_made_and_listed_with_the_files_settings_from_any_folder(
    tmp_path: Path, settings: Path
) -> None:
    create = ("keys", "create", "--tenant", "started-1", "--scopes", "read")
    made = start(*create, cwd=tmp_path, MAIN_ENV=str(settings))
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["key"].startswith("enl_")
    listed = start("keys", "list", "--tenant", "started-1", cwd=tmp_path, MAIN_ENV=str(settings))
    assert json.loads(listed.stdout)["tenant"] == "started-1"
    changed = start(
        "keys", "quotas", "--tenant", "started-1", "max_queued=7", cwd=tmp_path, MAIN_ENV=str(settings)
    )
    assert json.loads(changed.stdout)["quotas"]["max_queued"] == 7


def test_what_the_environment_sets_goes_first(tmp_path: Path, settings: Path) -> None:
    told = start("keys", "list", cwd=tmp_path, MAIN_ENV=str(settings), MONGO_DATABASE="no such name!")
    assert told.returncode == 2
    assert "MONGO_DATABASE" in told.stderr


def test_a_missing_file_and_an_unknown_part_are_told(tmp_path: Path) -> None:
    missing = start(cwd=tmp_path, MAIN_ENV=str(tmp_path / "none.env"))
    assert (missing.returncode, "none.env" in missing.stderr) == (1, True)
    unknown = start("kees", cwd=tmp_path)
    assert (unknown.returncode, "kees" in unknown.stderr) == (2, True)
