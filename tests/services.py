"""The services of one data folder, started and stopped by the scripts that users run."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from PIL import Image

SCRIPTS = Path(__file__).resolve().parent.parent / "dreambooth-manage"
PATIENCE_S = 180.0  # for what takes a few seconds on a free machine

# What the caller's own environment may set must not reach the services under test.
SETTINGS = (
    "BASE_MODEL", "DEVICE", "ENLIGHT_RUNTIME", "HOST", "INSTANCES_HOST", "KEEP", "LISTEN", "LOG_LEVEL",
    "MODEL_STORE_URL", "NGINX", "NGINX_WORKERS", "THREADS",
)  # fmt: skip


def wait_until(what: Callable[[], bool], reason: str) -> None:
    """Return when *what* holds; fail with *reason* when it does not in good time."""
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline, f"waited in vain: {reason}"
        time.sleep(0.1)


def free_ports(count: int) -> int:
    """The first of *count* ports in a row that nothing listens on."""
    for _ in range(100):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first: int = probe.getsockname()[1]
        if first + count < 65536 and all(is_free(port) for port in range(first, first + count)):
            return first
    raise AssertionError("no free ports in a row")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def photo(red: int) -> str:
    """A small picture as a training takes it, its colour telling one training's photos from another's."""
    data = io.BytesIO()
    Image.new("RGB", (64, 64), (red, 90, 160)).save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


@dataclass
class Services:
    """nginx and its instances in *data_dir*; *environment* is added to what the scripts are given."""

    data_dir: Path
    instances: int = 1
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.port = free_ports(self.instances + 1)
        self.base_port = self.port + 1
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def names(self) -> list[str]:
        return [f"cpu{index}" for index in range(self.instances)]

    # -- the scripts

    def run(self, action: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run service_<action>.sh to its end. It must not keep its output open once it has ended."""
        return subprocess.run(
            [SCRIPTS / f"service_{action}.sh"],
            env=self._environment(changes),
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=400,
        )

    def start_in_background(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [SCRIPTS / "service_start.sh"],
            env=self._environment({}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def start(self) -> None:
        done = self.run("start")
        assert done.returncode == 0, done.stdout + done.stderr

    def stop(self) -> None:
        done = self.run("stop")
        assert done.returncode == 0, done.stdout + done.stderr

    def _environment(self, changes: dict[str, str]) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in SETTINGS}
        return {
            **kept,
            "DATA_DIR": str(self.data_dir),
            "PORT": str(self.port),
            "BASE_PORT": str(self.base_port),
            "INSTANCES": str(self.instances),
            "DEVICE": "cpu",
            "GRACE_S": "5",
            "MAX_BODY_MB": "4",
            "READY_TIMEOUT_S": "300",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            **self.environment,
            **changes,
        }

    # -- the processes

    def pid(self, name: str) -> int:
        return int((self.data_dir / "pids" / f"{name}.pid").read_text().split()[0])

    def recorded(self) -> list[str]:
        return sorted(path.stem for path in self.data_dir.glob("pids/*.pid"))

    def kill(self, name: str) -> None:
        """What a crash of the whole service is: its master and its worker end at once, with no goodbye."""
        os.killpg(self.pid(name), signal.SIGKILL)
        # A dying process takes connections until the kernel is done with it.
        wait_until(lambda: not self._listens(name), f"{name} to be gone")

    def _listens(self, name: str) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.base_port + self.names.index(name))) == 0

    def processes(self) -> list[str]:
        """All that runs for this data folder: told it by the environment, or with a file of it open."""
        return [text for process in psutil.process_iter() if (text := self._belonging(process))]

    def _belonging(self, process: psutil.Process) -> str | None:
        try:
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                return None
            files = [opened.path for opened in process.open_files()]
            told = process.environ().get("DATA_DIR") == str(self.data_dir)
            if told or any(path.startswith(f"{self.data_dir}/") for path in files):
                return f"{process.pid} {process.cmdline()}"
        except psutil.Error:
            pass
        return None

    # -- what they are asked

    def all_answer(self) -> bool:
        """Whether nginx and every instance are up; quicker than the status script."""
        health = [f"{self.url}/nginx-health", *(f"{self.instance_url(name)}/readyz" for name in self.names)]
        try:
            return all(httpx.get(url, timeout=PATIENCE_S).is_success for url in health)
        except httpx.HTTPError:
            return False

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=httpx.Timeout(30.0, read=PATIENCE_S))

    @contextmanager
    def left_waiting(self, path: str, body: dict[str, object]) -> Iterator[None]:
        """A client that has sent a request to nginx, waits for the answer, and goes away at the end."""
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            yield

    def instance_url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.base_port + self.names.index(name)}"

    def metric(self, name: str, metric: str) -> float:
        """The value of a metric of one instance, labels as Prometheus writes them; 0 when it has none."""
        text = httpx.get(f"{self.instance_url(name)}/metrics", timeout=PATIENCE_S).text
        found = re.search(rf"^{re.escape(metric)} (\S+)$", text, re.MULTILINE)
        return float(found.group(1)) if found else 0.0

    def busy_drawing(self) -> list[str]:
        """The instances that have a request in flight besides the one that asks."""
        return [name for name in self.names if self.metric(name, "requests_in_flight") > 1]

    def log(self, name: str) -> str:
        return (self.data_dir / "logs" / f"{name}.log").read_text(errors="replace")

    def access(self, request_id: str) -> dict[str, Any]:
        """nginx's log entry of a request; it is written after the answer."""
        wait_until(lambda: any(self._entries(request_id)), f"an access log entry of {request_id}")
        return next(self._entries(request_id))

    def _entries(self, request_id: str) -> Iterator[dict[str, Any]]:
        for line in (self.data_dir / "logs/access.log").read_text().splitlines():
            entry = json.loads(line)
            if entry["request_id"] == request_id:
                yield entry

    def asked(self, request_id: str) -> list[str]:
        """The instances that nginx asked for one request, in order."""
        addresses = re.findall(r"127\.0\.0\.1:(\d+)", self.access(request_id)["upstream"])
        return [self.names[int(port) - self.base_port] for port in addresses]


def drawing(**changes: object) -> dict[str, object]:
    """A body for /inference that takes as little as possible."""
    return {"prompt": "a red ball", "num_image": 1, "num_inference_steps": 1, "seed": 1, **changes}


def long_drawing() -> dict[str, object]:
    """A body for /inference that goes on until it is stopped: minutes."""
    return drawing(num_image=16, num_inference_steps=150)


def training(number: int, steps: int = 20_000) -> dict[str, object]:
    """A body for /train; without *steps* one that goes on until it is stopped: an hour or so."""
    return {
        "INSTANCE_PROMPT": "a sks ball",
        "OUTPUT_DIR": f"ball-{number}",
        "IMAGE_LIST": [photo(number)],
        "MAX_TRAINING_STEPS": steps,
    }
