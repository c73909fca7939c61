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

# Each writes down its call. apt knows only what its lists held when they were last read, and what it installs
# is there afterwards. docker says more than a pipe holds: a reader that ends at a match kills it (SIGPIPE).
STAND_INS = {
    "apt-cache": """
        [[ ${LC_ALL:-} == C ]] && word=Candidate || word=Installationskandidat
        grep -qsx "$2" "$MACHINE/lists" && echo "  $word: 1.0" || echo "  $word: (none)"
        """,
    "apt-get": """
        if [[ $1 == update ]]; then
          cat "$MACHINE/offered" >"$MACHINE/lists"
          [[ ! -e $MACHINE/apt/sources.list.d/nvidia-container-toolkit.list ]] ||
            echo nvidia-container-toolkit >>"$MACHINE/lists"
        fi
        [[ $1 == install ]] || exit 0
        [[ ! -e $MACHINE/broken ]] || exit 100
        for package in "$@"; do
          [[ $package == install || $package == -* ]] || grep -qsx "$package" "$MACHINE/lists" || exit 100
          case $package in
            docker.io) cp -p "$MACHINE/docker" "$MACHINE/bin/docker" ;;
            nvidia-container-toolkit) cp -p "$MACHINE/nvidia-ctk" "$MACHINE/bin/nvidia-ctk" ;;
            nvidia-driver*) cp -p "$MACHINE/nvidia-smi" "$MACHINE/bin/nvidia-smi" ;;
          esac
        done""",
    "curl": "echo key",
    "docker": """
        [[ -e $MACHINE/told ]] && echo " Runtimes: nvidia runc" || echo " Runtimes: runc"
        printf ' Label: %s\\n' {1..50000}""",
    "dpkg": "echo amd64",
    "gpg": "cat >/dev/null",
    "id": 'cat "$MACHINE/uid"',
    "nvidia-ctk": 'touch "$MACHINE/told"',
    "nvidia-smi": '[[ -e $MACHINE/loaded ]] && echo "580.1"',
    "systemctl": "true",
    "ubuntu-drivers": """
        [[ -e $MACHINE/lists ]] || exit 1
        echo "driver   : nvidia-driver-580-server - distro non-free recommended"
        """,
    "uname": "echo 6.1.0-18-amd64",
}
READS_ONLY = {"apt-cache", "docker", "dpkg", "id", "nvidia-smi", "ubuntu-drivers", "uname"}
OFFERED = ("docker.io", "linux-headers-6.1.0-18-amd64", "nvidia-driver", "nvidia-driver-580-server")
UPDATE = "apt-get update -q"


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
        self.write(uid="0\n", release=f"ID={system}\nVERSION_ID=1\n")
        self.offer(*OFFERED)
        self.plug("0000:00:02.0", vendor="0x1234", kind="0x030000")
        self.plug("0000:01:00.0", vendor="0x10de", kind="0x030200")
        self.plug("0000:01:00.1", vendor="0x10de", kind="0x040300")  # the card's sound

    def write(self, **files: str) -> None:
        for name, text in files.items():
            (self.folder / name).write_text(text)

    def offer(self, *packages: str) -> None:
        """What apt finds once its lists are read."""
        self.write(offered="".join(f"{package}\n" for package in packages))

    def plug(self, slot: str, vendor: str, kind: str) -> None:
        device = self.folder / "pci" / slot
        device.mkdir(parents=True, exist_ok=True)
        (device / "vendor").write_text(f"{vendor}\n")
        (device / "class").write_text(f"{kind}\n")

    def load_driver(self) -> None:
        self.write(loaded="")
        shutil.copy(self.folder / "nvidia-smi", self.bin / "nvidia-smi")

    def prepare(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.bin / "bash", SCRIPTS / "env_setup.sh", *arguments],
            env={
                "PATH": str(self.bin),
                "MACHINE": str(self.folder),
                "OS_RELEASE": str(self.folder / "release"),
                "APT_DIR": str(self.folder / "apt"),
                "PCI_DIR": str(self.folder / "pci"),
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

    @property
    def installed(self) -> list[str]:
        start = "apt-get install -y -q "
        return [call.removeprefix(start) for call in self.calls if call.startswith(start)]


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
    assert machine.installed == [
        "--install-recommends nvidia-driver-580-server",
        "--no-install-recommends docker.io",
        "--no-install-recommends nvidia-container-toolkit",
    ]
    source = machine.folder / "apt/sources.list.d/nvidia-container-toolkit.list"
    assert "https://nvidia.github.io/libnvidia-container/stable/deb/amd64 /" in source.read_text()
    # The lists of packages are read again once the source is there.
    assert machine.calls[-4:] == [
        UPDATE,
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
    assert "read the lists of packages" in said.stdout
    assert "install docker.io" in said.stdout
    assert machine.calls == []
    assert list((machine.folder / "apt/sources.list.d").iterdir()) == []


@pytest.mark.parametrize(
    ("changed", "word"),
    [
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


@pytest.mark.parametrize(
    ("vendor", "kind"), [("0x1234", "0x030000"), ("0x10de", "0x068000")], ids=["another maker's", "a switch"]
)
@pytest.mark.parametrize("arguments", [(), ("--dry-run",)])
def test_a_machine_without_a_card_is_left_as_it_is(
    machine: Machine, arguments: tuple[str, ...], vendor: str, kind: str
) -> None:
    machine.plug("0000:01:00.0", vendor, kind)
    done = machine.prepare(*arguments)
    assert done.returncode == 1
    assert "no NVIDIA card" in done.stderr
    assert machine.calls == []


def test_a_machine_without_a_pci_bus_has_no_card(machine: Machine) -> None:
    shutil.rmtree(machine.folder / "pci")
    done = machine.prepare()
    assert done.returncode == 1
    assert "no NVIDIA card" in done.stderr
    assert machine.calls == []


def test_on_debian_the_driver_comes_with_what_its_module_is_built_with(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "debian")
    done = machine.prepare()
    assert done.returncode == 1
    assert "restart the machine so that the driver is loaded" in done.stderr
    assert machine.installed == [
        "--no-install-recommends linux-headers-6.1.0-18-amd64",
        "--install-recommends nvidia-driver",
    ]
    assert machine.calls[0] == UPDATE  # without it nothing would be offered
    assert machine.calls.count(UPDATE) == 1


@pytest.mark.parametrize(
    ("offered", "word"),
    [("linux-headers-6.1.0-18-amd64", "non-free"), ("nvidia-driver", "upgrade the kernel")],
)
def test_on_debian_what_is_not_offered_is_told_with_what_to_do(
    tmp_path: Path, offered: str, word: str
) -> None:
    machine = Machine(tmp_path, "debian")
    machine.offer(offered)
    done = machine.prepare()
    assert done.returncode == 1
    assert "is not offered" in done.stderr
    assert word in done.stderr
    assert machine.calls == [UPDATE]


def test_what_docker_keeps_in_packages_of_its_own_comes_with_it(machine: Machine) -> None:
    machine.load_driver()
    machine.offer(*OFFERED, "docker-buildx", "docker-cli")
    done = machine.prepare()
    assert done.returncode == 0, done.stderr
    assert machine.installed[0] == "--no-install-recommends docker.io docker-buildx docker-cli"


def test_what_the_lists_offer_needs_no_further_source(machine: Machine) -> None:
    machine.load_driver()
    machine.offer(*OFFERED, "nvidia-container-toolkit")
    done = machine.prepare()
    assert done.returncode == 0, done.stderr
    assert machine.calls == [
        UPDATE,
        "apt-get install -y -q --no-install-recommends docker.io",
        "apt-get install -y -q --no-install-recommends nvidia-container-toolkit",
        "nvidia-ctk runtime configure --runtime=docker",
        "systemctl restart docker",
    ]


def test_the_lists_are_read_before_the_toolkit_is_looked_for(machine: Machine) -> None:
    machine.load_driver()
    shutil.copy(machine.folder / "docker", machine.bin / "docker")
    machine.offer("nvidia-container-toolkit")
    done = machine.prepare()
    assert done.returncode == 0, done.stderr
    assert machine.calls[0] == UPDATE
    assert not any(call.startswith("curl") for call in machine.calls)


def test_a_docker_that_says_much_is_heard(machine: Machine) -> None:
    machine.load_driver()
    machine.write(told="")
    for name in ("docker", "nvidia-ctk"):
        shutil.copy(machine.folder / name, machine.bin / name)
    done = machine.prepare()
    assert done.returncode == 0, done.stderr
    assert "docker's runtime for GPUs: there" in done.stdout
    assert machine.calls == []


def test_what_fails_ends_it_and_is_named(machine: Machine) -> None:
    machine.write(broken="")
    machine.load_driver()
    done = machine.prepare()
    assert done.returncode == 1
    assert "apt-get install" in done.stderr
    assert "docker.io" in done.stderr


def test_its_help_says_what_it_prepares(machine: Machine) -> None:
    done = machine.prepare("--help")
    assert done.returncode == 0
    assert "--dry-run" in done.stdout
    assert machine.calls == []
