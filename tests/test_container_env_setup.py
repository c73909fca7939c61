"""env_setup.sh on a bare machine: what would change it is a stand-in, which remembers being called."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from services import SCRIPTS

# What the script only reads or computes with.
REAL = ("bash", "cat", "chmod", "env", "grep", "head", "sed", "touch", "tr")

# Each writes down its call. What apt-get installs is there afterwards.
STAND_INS = {
    "apt-cache": 'grep -qx "$2" "$MACHINE/offered" && echo "  Candidate: 1.0" || echo "  Candidate: (none)"',
    "apt-get": """
        [[ $1 == install ]] || exit 0
        [[ ! -e $MACHINE/broken ]] || exit 100
        for package in "$@"; do
          case $package in
            docker.io) cp -p "$MACHINE/docker" "$MACHINE/bin/docker" ;;
            nvidia-container-toolkit) cp -p "$MACHINE/nvidia-ctk" "$MACHINE/bin/nvidia-ctk" ;;
            nvidia-driver*) cp -p "$MACHINE/nvidia-smi" "$MACHINE/bin/nvidia-smi" ;;
          esac
        done""",
    "curl": "echo key",
    "docker": '[[ -e $MACHINE/told ]] && echo " Runtimes: nvidia runc" || echo " Runtimes: runc"',
    "dpkg": "echo amd64",
    "gpg": "cat >/dev/null",
    "id": 'cat "$MACHINE/uid"',
    "lspci": 'cat "$MACHINE/cards"',
    "nvidia-ctk": 'touch "$MACHINE/told"',
    "nvidia-smi": '[[ -e $MACHINE/loaded ]] && echo "580.1"',
    "systemctl": "true",
    "ubuntu-drivers": 'echo "driver   : nvidia-driver-580-server - distro non-free recommended"',
}
READS_ONLY = {"apt-cache", "docker", "dpkg", "id", "lspci", "nvidia-smi", "ubuntu-drivers"}
CARD = "01:00.0 0302: 10de:2335 (rev a1)\n"


class Machine:
    """A bare machine with a card."""

    def __init__(self, folder: Path, system: str = "ubuntu") -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        (folder / "apt/sources.list.d").mkdir(parents=True)
        for name in (*REAL, "cp"):
            (self.bin / name).symlink_to(shutil.which(name) or name)
        for name, text in STAND_INS.items():
            record = "" if name in READS_ONLY else f'echo "{name} $*" >>"$MACHINE/calls"\n'
            place = folder if name in ("docker", "nvidia-ctk", "nvidia-smi") else self.bin
            (place / name).write_text(f"#!{shutil.which('bash')}\n{record}{text}\n")
            (place / name).chmod(0o755)
        self.write(cards=CARD, uid="0\n", offered="nvidia-driver\n", release=f"ID={system}\nVERSION_ID=1\n")

    def write(self, **files: str) -> None:
        for name, text in files.items():
            (self.folder / name).write_text(text)

    def prepare(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.bin / "bash", SCRIPTS / "env_setup.sh", *arguments],
            env={
                "PATH": str(self.bin),
                "MACHINE": str(self.folder),
                "OS_RELEASE": str(self.folder / "release"),
                "APT_DIR": str(self.folder / "apt"),
                **settings,
            },
            cwd=os.sep,
            capture_output=True,
            text=True,
            timeout=60,
        )

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "bare machine")


def test_a_bare_machine_gets_the_driver_and_after_its_restart_the_rest(machine: Machine) -> None:
    first = machine.prepare()
    assert first.returncode == 1
    assert "restart the machine" in first.stderr
    assert "install nvidia-driver-580-server" in first.stdout
    assert not any("docker" in call for call in machine.calls)
    again = machine.prepare()  # before the restart
    assert again.returncode == 1
    assert "restart the machine" in again.stderr

    machine.write(loaded="")
    done = machine.prepare()
    assert done.returncode == 0, done.stderr
    installed = [call.rsplit(" ", 1)[-1] for call in machine.calls if "install" in call]
    assert installed == ["nvidia-driver-580-server", "docker.io", "nvidia-container-toolkit"]
    source = machine.folder / "apt/sources.list.d/nvidia-container-toolkit.list"
    assert "https://nvidia.github.io/libnvidia-container/stable/deb/amd64 /" in source.read_text()
    # The lists of packages are read again once the source is there.
    assert machine.calls[-4:] == [
        "apt-get update -q",
        "apt-get install -y -q --no-install-recommends nvidia-container-toolkit",
        "nvidia-ctk runtime configure --runtime=docker",
        "systemctl restart docker",
    ]

    made = list(machine.calls)
    nothing = machine.prepare()
    assert nothing.returncode == 0
    assert "there already" in nothing.stdout
    assert machine.calls == made


def test_a_dry_run_says_what_is_missing_and_changes_nothing(machine: Machine) -> None:
    machine.write(uid="1000\n")
    said = machine.prepare("--dry-run")
    assert said.returncode == 0, said.stderr
    for missing in ("driver: missing", "docker: missing", "container toolkit: missing"):
        assert missing in said.stdout
    assert "install docker.io" in said.stdout
    assert machine.calls == []
    assert list((machine.folder / "apt/sources.list.d").iterdir()) == []


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"cards": "00:02.0 0300: 1234:1111\n"}, "no NVIDIA card"),
        ({"release": "ID=fedora\n"}, "fedora"),
        ({"uid": "1000\n"}, "root is needed"),
    ],
)
def test_a_machine_that_cannot_be_prepared_is_left_as_it_is(
    machine: Machine, changed: dict[str, str], word: str
) -> None:
    machine.write(**changed)
    done = machine.prepare()
    assert done.returncode == 1
    assert word in done.stderr
    assert machine.calls == []


def test_on_debian_a_driver_that_is_not_offered_is_told_with_what_to_do(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "debian")
    machine.write(offered="")
    done = machine.prepare()
    assert done.returncode == 1
    assert "non-free" in done.stderr
    assert not any("install" in call for call in machine.calls)


def test_what_fails_ends_it_and_is_named(machine: Machine) -> None:
    machine.write(broken="", loaded="")
    shutil.copy(machine.folder / "nvidia-smi", machine.bin / "nvidia-smi")
    done = machine.prepare()
    assert done.returncode == 1
    assert "apt-get install" in done.stderr
    assert "docker.io" in done.stderr


def test_its_help_says_what_it_prepares(machine: Machine) -> None:
    done = machine.prepare("--help")
    assert done.returncode == 0
    assert "--dry-run" in done.stdout
    assert machine.calls == []
