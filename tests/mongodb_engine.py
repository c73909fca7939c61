"""A stand-in for `docker` that records what mongodb-server's scripts ask, and plays a cluster to them.

The program that the scripts find in PATH only passes its arguments and its standard input to this process,
where mongodb_containers does the rest.
"""

from __future__ import annotations

import copy
import functools
import os
import shutil
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest
from everything_parts import quiet_ports
from mongodb_containers import NAME, Call, Machine

MONGODB_SERVER = Path(__file__).resolve().parent.parent / "mongodb-server"

_PROGRAM = """#!/bin/bash
exchange='{exchange}'/$$
[[ " $* " != *" --interactive "* ]] || cat >"$exchange.in"
exec 3<>/dev/tcp/127.0.0.1/{port}
printf '%s\\0' "$$" "$#" "$@" >&3
read -r status <&3
[[ ! -e $exchange.out ]] || cat "$exchange.out"
[[ ! -e $exchange.err ]] || cat "$exchange.err" >&2
exit "$status"
"""


@functools.cache
def _started(folder: Path) -> Engine:
    engine = Engine(folder)
    done = engine.run("start")
    assert done.returncode == 0, done.stdout + done.stderr
    return engine


def started_cluster(factory: pytest.TempPathFactory, folder: Path) -> Engine:
    """A machine on which start.sh has run, which it does once for all tests of a process."""
    return _started(factory.getbasetemp() / "started cluster").copied_to(folder)


class Engine(Machine):
    """A machine with a `docker` in a PATH, and mongodb-server's scripts on it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        #: How many calls are answered from now on, before the one that never is.
        self.freeze_after: int | None = None
        self.frozen = threading.Event()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._waiting: list[socket.socket] = []
        port = quiet_ports(2)
        programs = folder / "programs"
        programs.mkdir(parents=True)
        self._exchange = folder / "exchange"
        self._exchange.mkdir()
        (programs / "docker").write_text(
            _PROGRAM.format(exchange=self._exchange, port=self._listener.getsockname()[1])
        )
        (programs / "docker").chmod(0o755)
        self.environment = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "DATA_DIR": str(folder / "data with spaces"),
            "MONGODB_ENV": "/dev/null",
            "ROUTER_1_PORT": str(port),
            "ROUTER_2_PORT": str(port + 1),
        }
        self.cluster_dir = folder / "data with spaces" / NAME
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # else the thread in accept() keeps the port
        self._listener.close()

    def copied_to(self, folder: Path) -> Engine:
        """Another machine in the same state, its ports and its secrets among it; with a record of its own."""
        other = Engine(folder)
        for name in ("containers", "volumes", "networks", "keyfile", "releases", "pulled", "servers"):
            setattr(other, name, copy.deepcopy(getattr(self, name)))
        for port in ("ROUTER_1_PORT", "ROUTER_2_PORT"):
            other.environment[port] = self.environment[port]
        if self.cluster_dir.exists():
            shutil.copytree(self.cluster_dir, other.cluster_dir)
        other.servers.commands.clear()
        return other

    # -- scripts

    def start_script(self, script: str, *arguments: str, **settings: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [MONGODB_SERVER / f"{script}.sh", *arguments],
            env=self.environment | settings,
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(
        self, script: str, *arguments: str, typed: str = "", **settings: str
    ) -> subprocess.CompletedProcess[str]:
        process = self.start_script(script, *arguments, **settings)
        output, errors = process.communicate(typed, timeout=120)
        return subprocess.CompletedProcess(script, process.returncode, output, errors)

    def kill_script_after(
        self, call: int, script: str, *arguments: str, typed: str = "", **settings: str
    ) -> bool:
        """Kill -9 the script when so many calls are done; whether it came so far."""
        self.freeze_after = call
        process = self.start_script(script, *arguments, **settings)
        assert process.stdin is not None
        process.stdin.write(typed)
        process.stdin.flush()
        while not self.frozen.wait(0.02):
            if process.poll() is not None:
                break
        came_so_far = self.frozen.is_set()
        if came_so_far:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
        self.freeze_after = None
        self.frozen.clear()
        for connection in self._waiting:
            connection.close()
        self._waiting.clear()
        return came_so_far

    def secret(self, name: str) -> str:
        return (self.cluster_dir / "secrets" / name).read_text().strip()

    # -- the program's other end

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=[connection], daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        received = b""
        while (fields := received.split(b"\0"))[:-1] == [] or len(fields) < 3 + int(fields[1] or b"0"):
            more = connection.recv(65536)
            if not more:
                return
            received += more
        process, arguments = int(fields[0]), [one.decode() for one in fields[2:-1]]
        exchange = self._exchange / str(process)
        stdin = exchange.with_suffix(".in").read_bytes() if "--interactive" in arguments else b""
        with self._lock:
            status, output, errors = self.do(Call(arguments, stdin))
            if self.freeze_after is not None:
                self.freeze_after -= 1
                if self.freeze_after < 0:
                    self._waiting.append(connection)
                    self.frozen.set()
                    return
        # A number may come again, with another call's files beside it.
        for suffix, data in ((".out", output), (".err", errors.encode())):
            exchange.with_suffix(suffix).unlink(missing_ok=True)
            if data:
                exchange.with_suffix(suffix).write_bytes(data)
        connection.sendall(b"%d\n" % status)
        connection.close()
