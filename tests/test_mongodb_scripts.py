"""mongodb-server: scripts explain themselves, settings are bounded, and the README says what is there."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from mongodb_engine import MONGODB_SERVER, Engine
from py_mini_racer import JSParseException, MiniRacer

SCRIPTS = sorted(path.name for path in MONGODB_SERVER.glob("*.sh"))
EXAMPLE = MONGODB_SERVER / "mongodb.env.example"


def run(script: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [MONGODB_SERVER / script, *arguments],
        env={"PATH": "/usr/bin:/bin", "DOCKER": "no-such-program", "MONGODB_ENV": "/dev/null", **settings},
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_has_help_and_refuses_what_it_does_not_know(script: str) -> None:
    done = run(script, "--help")
    assert done.returncode == 0
    assert "MONGODB_IMAGE=mongo:" in done.stdout
    unknown = run(script, "--no-such-option", "and", "more")
    assert unknown.returncode == 1
    assert "see --help" in unknown.stderr


@pytest.mark.parametrize("script", [name for name in SCRIPTS if name != "restore.sh"])
def test_a_missing_engine_is_said(script: str, tmp_path: Path) -> None:
    done = run(script, DATA_DIR=str(tmp_path / "data"))
    assert done.returncode == 1
    assert "no-such-program is missing" in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("MONGODB_NAME", "../elsewhere"),
        ("MONGODB_IMAGE", "--privileged"),
        ("MONGO_DATABASE", "admin"),
        ("LISTEN", "example.com"),
        ("ROUTER_2_PORT", "27117"),
        ("SHARD_CACHE_GB", "0.1"),
        ("SHARD_CACHE_GB", "1.0"),
        ("OPLOG_MB", "10"),
        ("WAIT_S", "soon"),
        ("ZONES", "records:shard4:*"),
        ("ZONES", 'records:shard1:"'),
    ],
)
def test_a_setting_out_of_its_bounds_is_named(setting: str, value: str) -> None:
    done = run("start.sh", **{setting: value})
    assert done.returncode == 1
    assert setting in done.stderr


def test_a_file_of_settings_is_taken_literally_and_after_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "my settings"
    file.write_text("# mine\n\nDOCKER=from the file $(touch here)\r\nWAIT_S=7\n")
    environment = {"PATH": "/usr/bin:/bin", "MONGODB_ENV": str(file)}
    done = subprocess.run(
        [MONGODB_SERVER / "status.sh"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "from the file $(touch here) is missing" in done.stderr
    assert not (tmp_path / "here").exists()
    environment["DOCKER"] = "from the environment"
    done = subprocess.run(
        [MONGODB_SERVER / "status.sh"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "from the environment is missing" in done.stderr


def test_a_mistyped_setting_is_named_by_its_line(tmp_path: Path) -> None:
    file = tmp_path / "mongodb.env"
    file.write_text("WAIT_S=7\nMONGODB_IMGE=mongo:8.0\n")
    done = run("start.sh", MONGODB_ENV=str(file))
    assert done.returncode == 1
    assert "line 2" in done.stderr


@pytest.mark.parametrize("file", sorted((MONGODB_SERVER / "js").glob("*.js")), ids=lambda path: path.name)
def test_the_javascript_parses(file: Path) -> None:
    engine = MiniRacer()
    engine.eval(f"function script() {{\n{file.read_text()}\n}}")
    with pytest.raises(JSParseException):
        engine.eval(f"function script() {{\n{file.read_text()}\n}} }}")


def readme_commands() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", (MONGODB_SERVER / "README.md").read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    assert len(lines) >= 9
    return lines


def test_the_readmes_walk_names_what_is_there() -> None:
    for line in readme_commands():
        command = shlex.split(line, comments=True)
        if command[0] == "cp":
            assert (MONGODB_SERVER.parent / command[1]).is_file()
            continue
        program, script, *arguments = command
        assert program == "bash"
        assert (MONGODB_SERVER.parent / script).is_file()
        text = (MONGODB_SERVER.parent / script).read_text()
        for option in (one for one in arguments if one.startswith("-")):
            assert f"== {option} " in text


def test_the_readmes_walk_can_be_walked(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    for line in readme_commands():
        script, *arguments = shlex.split(line, comments=True)[1:]
        if not script.endswith(".sh"):
            continue
        if "restore" in script:
            arguments = [str(next((engine.cluster_dir / "backups").iterdir()))]
        done = engine.run(Path(script).stem, *arguments, typed="enlight-mongodb\n")
        assert done.returncode == 0, done.stdout + done.stderr
    assert not engine.containers
    engine.close()


def test_the_readme_and_the_settings_speak_of_the_same() -> None:
    names = set(re.findall(r"^#?([A-Z0-9_]+)=", EXAMPLE.read_text(), re.MULTILINE))
    declared = (MONGODB_SERVER / "lib" / "settings.sh").read_text()
    block = re.search(r"readonly SETTINGS=\((.*?)\)", declared, re.DOTALL)
    assert block is not None
    assert names == set(block[1].split())
    spoken_of = set(re.findall(r"`([A-Z][A-Z0-9_]{3,})`", (MONGODB_SERVER / "README.md").read_text()))
    assert spoken_of
    assert spoken_of <= names | {"MONGO_URL"}
