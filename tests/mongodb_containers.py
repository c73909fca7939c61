"""What `docker` would do for mongodb-server's scripts, on entries in place of containers.

An argument that the scripts do not use is refused, so that a mistyped one is seen; and so is what would go
wrong with a real engine: a volume that nobody has made, files that are copied while their server runs.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mongodb_replica_set import ReplicaSet
from mongodb_servers import Refused, Servers
from mongodb_shell import Ask, Shell

NAME = "enlight-mongodb"

#: Exit status, standard output, standard error.
Done = tuple[int, bytes, str]


class Runs(Protocol):
    def run(self, server: str, source: str, ask: Ask) -> tuple[int, str, str]: ...


class Wrong(Exception):
    """What a real engine would refuse, or what should not be asked of it."""


@dataclass
class Container:
    server: str
    image: str
    labels: dict[str, str]
    volumes: list[str]
    networks: list[str]
    arguments: list[str]
    running: bool = False


@dataclass
class Call:
    arguments: list[str]
    stdin: bytes = b""

    def __str__(self) -> str:
        return " ".join(self.arguments)


@dataclass
class Machine:
    """What there is, and the record of what was asked."""

    calls: list[Call] = field(default_factory=list)
    containers: dict[str, Container] = field(default_factory=dict)
    volumes: set[str] = field(default_factory=set)
    networks: set[str] = field(default_factory=set)
    keyfile: bytes = b""
    #: image -> its release of MongoDB; `pulled` are here.
    releases: dict[str, str] = field(default_factory=lambda: {"mongo:8.0": "8.0.12"})
    pulled: set[str] = field(default_factory=set)
    servers: Servers = field(default_factory=Servers)
    shell: Runs = field(default_factory=Shell)

    def do(self, call: Call) -> Done:
        self.calls.append(call)
        first, *rest = call.arguments
        if first in {"image", "network", "volume", "container"}:
            first, rest = f"{first} {rest[0]}", rest[1:]
        try:
            done = getattr(self, "_" + first.replace(" ", "_"))(rest, call.stdin)
        except (Wrong, AssertionError, AttributeError, KeyError, ValueError, argparse.ArgumentError) as error:
            return 125, b"", f"Error: {error!r}\n"
        return done if isinstance(done, tuple) else (0, (done or "").encode(), "")

    # -- commands

    def _version(self, arguments: list[str], stdin: bytes) -> str:
        return "27.0\n"

    def _image_inspect(self, arguments: list[str], stdin: bytes) -> Done:
        there = arguments[-1] in self.pulled
        return (0, f"{self._image_id(arguments[-1])}\n".encode(), "") if there else (1, b"", "no image\n")

    def _image_id(self, image: str) -> str:
        return "sha256:" + hashlib.sha256((image + self.releases[image]).encode()).hexdigest()

    def _pull(self, arguments: list[str], stdin: bytes) -> Done:
        if arguments[-1] not in self.releases:
            return 1, b"", "manifest unknown\n"
        self.pulled.add(arguments[-1])
        return 0, b"", ""

    def _ps(self, arguments: list[str], stdin: bytes) -> str:
        options = _parse(arguments, ["--filter", "--format"], ["--all", "--quiet"])
        label, _, value = options.filter[0].removeprefix("label=").partition("=")
        return "".join(f"{name}\n" for name, one in self.containers.items() if one.labels.get(label) == value)

    def _container_inspect(self, arguments: list[str], stdin: bytes) -> str:
        options = _parse(arguments, ["--format"], [])
        lines = []
        for name in options.rest:
            one = self._container(name)
            state = "running" if one.running else "exited"
            lines.append(
                " ".join([f"/{name}", state, one.labels["enlight.mongodb.specification"], *one.networks])
            )
        return "".join(f"{line}\n" for line in lines)

    def _network_inspect(self, arguments: list[str], stdin: bytes) -> Done:
        return (0 if arguments[-1] in self.networks else 1), b"", ""

    def _network_create(self, arguments: list[str], stdin: bytes) -> None:
        options = _parse(arguments, ["--label"], ["--internal"])
        assert options.internal == (not options.rest[0].endswith("-edge"))
        self.networks.add(options.rest[0])

    def _network_rm(self, arguments: list[str], stdin: bytes) -> None:
        self.networks.remove(arguments[0])

    def _network_connect(self, arguments: list[str], stdin: bytes) -> None:
        network, name = _parse(arguments, ["--alias"], []).rest
        self._container(name).networks.append(network)

    def _volume_ls(self, arguments: list[str], stdin: bytes) -> str:
        return "".join(f"{name}\n" for name in self.volumes)

    def _volume_create(self, arguments: list[str], stdin: bytes) -> None:
        options = _parse(arguments, ["--label"], [])
        self.volumes.add(options.rest[0])

    def _volume_rm(self, arguments: list[str], stdin: bytes) -> Done | None:
        if any(arguments[0] in one.volumes for one in self.containers.values()):
            return 1, b"", "the volume is in use\n"
        self.volumes.remove(arguments[0])
        self.servers.data.pop(arguments[0].removeprefix(f"{NAME}-"), None)
        return None

    def _create(self, arguments: list[str], stdin: bytes) -> Done:
        options = _parse(arguments, _CREATE_OPTIONS, ["--read-only"])
        image, *command = options.rest
        name, server = options.name[0], options.hostname[0]
        if name in self.containers:
            return 125, b"", f"the container name {name} is in use\n"
        volumes = [volume.split(":")[0] for volume in options.volume]
        if missing := [volume for volume in volumes if volume not in self.volumes]:
            return 125, b"", f"a volume would be made without a label: {missing}\n"
        if missing := [network for network in options.network if network not in self.networks]:
            return 125, b"", f"no such network: {missing}\n"
        labels = dict(label.split("=", 1) for label in options.label)
        self.containers[name] = Container(server, image, labels, volumes, list(options.network), command)
        return 0, b"0123456789ab\n", ""

    def _start(self, arguments: list[str], stdin: bytes) -> None:
        one = self._container(arguments[0])
        assert self.keyfile, "started before there was a keyfile"
        if one.server.startswith("router"):
            assert NAME in one.networks, "a router outside of the servers' network"
        one.running = True
        self.servers.start(one.server, self.releases[one.image])

    def _stop(self, arguments: list[str], stdin: bytes) -> None:
        for name in _parse(arguments, ["-t"], []).rest:
            one = self._container(name)
            one.running = False
            self.servers.stop(one.server)

    def _rm(self, arguments: list[str], stdin: bytes) -> None:
        for name in _parse(arguments, [], ["--force"]).rest or list(self.containers):
            self.servers.stop(self._container(name).server)
            del self.containers[name]

    def _logs(self, arguments: list[str], stdin: bytes) -> str:
        return "a line of the log\n"

    def _run(self, arguments: list[str], stdin: bytes) -> Done:
        options = _parse(arguments, _RUN_OPTIONS, ["--rm", "--interactive"])
        image = options.rest[0]
        if image not in self.pulled:
            return 125, b"", "no such image\n"
        if options.entrypoint == ["mongod"]:
            return 0, f"db version v{self.releases[image]}\n".encode(), ""
        volume = options.volume[0].split(":")[0]
        if volume not in self.volumes:
            return 125, b"", f"a volume would be made without a label: {volume}\n"
        server = volume.removeprefix(f"{NAME}-")
        assert not any(one.running and one.server == server for one in self.containers.values()), (
            "copied while in use"
        )
        if server == "keyfile":
            self.keyfile = stdin
            return 0, b"", ""
        if options.entrypoint == ["tar"]:
            return 0, _archive(self.servers.data[server]), ""
        assert options.entrypoint == ["sh"], options.entrypoint
        self.servers.data.pop(server, None)
        try:
            self.servers.data[server] = _unarchive(stdin)
        except tarfile.TarError as error:
            return 2, b"", f"tar: {error}\n"
        return 0, b"", ""

    def _exec(self, arguments: list[str], stdin: bytes) -> Done:
        options = _parse(arguments, ["--env"], ["--interactive"])
        name, *command = options.rest
        one = self._container(name)
        if not one.running:
            return 1, b"", f"the container {name} is not running\n"
        assert command == ["mongosh", "--nodb", "--norc", "--quiet", "--file", "/dev/stdin"], command

        def ask(asked: dict[str, object]) -> dict[str, object]:
            host = str(asked["host"])
            loopback = host == "127.0.0.1"
            server, user = one.server if loopback else host, asked["user"]
            try:
                if asked["command"] is None:
                    self.servers.connect(server, user, asked["password"])  # type: ignore[arg-type]
                    return {"reply": None}
                reply = self.servers.run(server, user, loopback, str(asked["database"]), asked["command"])  # type: ignore[arg-type]
                return {"reply": reply}
            except Refused as refused:
                return {"error": {"code": refused.code, "message": str(refused)}}

        status, output, errors = self.shell.run(one.server, stdin.decode(), ask)
        return status, output.encode(), errors

    def _container(self, name: str) -> Container:
        if name not in self.containers:
            raise Wrong(name)
        return self.containers[name]


_RUN_OPTIONS = [
    "--network",
    "--user",
    "--cap-drop",
    "--security-opt",
    "--label",
    "--volume",
    "--tmpfs",
    "--entrypoint",
]
_CREATE_OPTIONS = [
    *[
        "--name",
        "--hostname",
        "--label",
        "--restart",
        "--stop-timeout",
        "--memory",
        "--memory-swap",
        "--ulimit",
    ],
    *[
        "--log-driver",
        "--log-opt",
        "--user",
        "--tmpfs",
        "--cap-drop",
        "--security-opt",
        "--volume",
        "--network",
    ],
    *["--network-alias", "--publish"],
]


def _parse(arguments: Sequence[str], with_value: Sequence[str], flags: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False, add_help=False)
    for option in with_value:
        parser.add_argument(option, action="append", default=[], dest=option.strip("-").replace("-", "_"))
    for option in flags:
        parser.add_argument(option, action="store_true")
    parser.add_argument("rest", nargs=argparse.REMAINDER)
    parsed = parser.parse_args(list(arguments))
    if parsed.rest and parsed.rest[0].startswith("-"):
        raise argparse.ArgumentError(None, f"unknown option {parsed.rest[0]}")
    return parsed


def _archive(data: ReplicaSet) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        content = data.packed()
        entry = tarfile.TarInfo("./data.json")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def _unarchive(stdin: bytes) -> ReplicaSet:
    with tarfile.open(fileobj=io.BytesIO(stdin)) as archive:
        member = archive.extractfile("./data.json")
        assert member is not None
        return ReplicaSet.unpacked(member.read())
