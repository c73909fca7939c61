"""dev-scripts/setup.sh: made once, left alone, and made anew where the checkout was copied to."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from services import SCRIPTS

#: Stands in for Python: it makes environments with itself as interpreter, writes down what it is asked for,
#: and installs nothing.
PYTHON = """#!/usr/bin/env bash
[[ $1 == -c || $1 == --version ]] && exit 0
if [[ $1 == - ]]; then cksum constraints.txt; echo "$2"; exit 0; fi
printf '%s\\n' "${*:1:3}" >>"$LOG"
if [[ $1 == -m && $2 == venv ]]; then
  folder=${!#}
  [[ $3 != --clear ]] || find "$folder" -mindepth 1 -delete
  mkdir -p "$folder/bin"
  cp "$0" "$folder/bin/python"
fi
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "with space" / "enlight"
    (folder / "dev-scripts").mkdir(parents=True)
    shutil.copy(SCRIPTS.parent / "dev-scripts" / "setup.sh", folder / "dev-scripts")
    (folder / "constraints.txt").write_text("")
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    return folder


def asked_for(checkout: Path, tmp_path: Path) -> list[str]:
    """What setup.sh asks Python for."""
    log = tmp_path / "log"
    log.write_text("")
    done = subprocess.run(
        [checkout / "dev-scripts" / "setup.sh"],
        env={"PATH": os.environ["PATH"], "PYTHON": str(tmp_path / "python"), "LOG": str(log)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [line for line in log.read_text().splitlines() if line != "-m pip --version"]


def test_it_does_nothing_twice_and_begins_anew_where_it_was_copied_to(checkout: Path, tmp_path: Path) -> None:
    assert asked_for(checkout, tmp_path)[0] == "-m venv .venv"
    assert asked_for(checkout, tmp_path) == []
    (checkout / "constraints.txt").write_text("changed")
    assert all(line.startswith("-m pip") for line in asked_for(checkout, tmp_path))

    copied = tmp_path / "elsewhere"
    shutil.copytree(checkout, copied, symlinks=True)
    assert asked_for(copied, tmp_path)[0] == "-m venv --clear"
    assert asked_for(copied, tmp_path) == []
    assert asked_for(checkout, tmp_path) == []

    # Cut short in the middle of its installation, and then moved.
    (copied / ".venv" / ".setup-stamp").unlink()
    moved = copied.rename(tmp_path / "moved")
    assert asked_for(moved, tmp_path)[0] == "-m venv --clear"
