"""The scripts of enlight-redis for tests, and what they have started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil
from everything_parts import quiet_ports
from redis.cluster import ClusterNode, RedisCluster
from services import SCRIPTS

ENLIGHT_REDIS = SCRIPTS.parent / "enlight-redis"
#: What the caller's own environment may set must not reach the scripts under test.
PASSED = ("PATH", "HOME", "LD_LIBRARY_PATH")
NODES = tuple(f"node-{number}" for number in range(1, 7))


class Scripts:
    """Scripts of one folder of enlight-redis, run from elsewhere with a data folder of their own."""

    def __init__(self, kind: str, data_dir: Path, **settings: str) -> None:
        self.data_dir = data_dir
        self._scripts = ENLIGHT_REDIS / kind
        passed = {name: os.environ[name] for name in PASSED if name in os.environ}
        self.environment = {**passed, "DATA_DIR": str(data_dir), **settings}

    def script(self, action: str) -> Path:
        return self._scripts / f"{action}.sh"

    def run(self, action: str, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.script(action), *arguments],
            env={**self.environment, **changes},
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def succeed(self, action: str, *arguments: str, **changes: str) -> str:
        done = self.run(action, *arguments, **changes)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@dataclass(frozen=True)
class NodeStatus:
    role: str
    slots: str
    state: str


class ClusterOfScripts(Scripts):
    """Six nodes as processes of this machine."""

    def __init__(self, data_dir: Path, **settings: str) -> None:
        self.port = quiet_ports(6)
        super().__init__("redis_cluster", data_dir, CLUSTER_PORT=str(self.port), **settings)
        self.folder = data_dir / "redis" / "cluster"

    def pid(self, node: str) -> int:
        return int((self.folder / node / "redis.pid").read_text())

    def kill(self, node: str) -> None:
        os.kill(self.pid(node), signal.SIGKILL)

    def kill_all(self) -> None:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.name().startswith("redis-") and Path(process.cwd()).parent == self.folder:
                    process.kill()

    def nodes(self) -> dict[str, NodeStatus]:
        """What status.sh tells of each node."""
        lines = self.run("status").stdout.splitlines()[1:7]
        return {
            line[:8].strip(): NodeStatus(line[32:50].strip(), line[51:67].strip(), line[79:].strip())
            for line in lines
        }

    @property
    def masters(self) -> set[str]:
        return {name for name, node in self.nodes().items() if node.role == "master" and node.slots != "-"}

    def client(self, user: str = "default") -> RedisCluster:
        file = "password" if user == "default" else f"{user}.password"
        return RedisCluster(
            startup_nodes=[ClusterNode("127.0.0.1", self.port + index) for index in range(6)],
            username=user,
            password=(self.folder / file).read_text(),
            decode_responses=True,
        )

    def node_at(self, port: int) -> str:
        return f"node-{port - self.port + 1}"

    @property
    def url(self) -> str:
        """As main-api takes it: its own user, every node."""
        password = (self.folder / "main-api.password").read_text()
        nodes = ",".join(f"127.0.0.1:{self.port + index}" for index in range(6))
        return f"redis://main-api:{password}@{nodes}/0"
