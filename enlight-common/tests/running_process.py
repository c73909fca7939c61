"""A service as a process of its own, and what to ask of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

#: It only ends a failing test.
WITHIN_S = 240


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def until(condition: Callable[[], bool]) -> None:
    """Wait for it."""
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class RunningProcess:
    """A started ``python -m module``; its output is in ``log``."""

    def __init__(self, module: str, folder: Path, **environment: str) -> None:
        self.port = free_port()
        self.log = folder / "service.log"
        settings = {"PORT": str(self.port), "THREADS": "16", **environment}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module],
                env={**os.environ, **settings},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=WITHIN_S)

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for it; the log's end is shown where it does not come."""
        deadline = time.monotonic() + WITHIN_S
        while not condition():
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.05)

    def answers(self, path: str) -> bool:
        """Whether *path* is answered with 200 now."""
        with contextlib.suppress(httpx.HTTPError):
            return self.client.get(path).status_code == 200
        return False

    def metric(self, name: str) -> float:
        lines = self.client.get("/metrics").text.splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))

    def state(self, request_id: str) -> Any:
        """Of the request's progress; None where there is no such request."""
        return self.client.get(f"/progress/{request_id}").json().get("state")

    def resident_bytes(self) -> int:
        """Of gunicorn's worker and what it started."""
        return sum(
            child.memory_info().rss for child in psutil.Process(self.process.pid).children(recursive=True)
        )

    def send(
        self, path: str, body: dict[str, Any], request_id: str = "sent", *, only: int | None = None
    ) -> socket.socket:
        """A request whose answer nobody reads yet, or of whose body *only* so many bytes are sent."""
        data = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
            f"X-Request-Id: {request_id}\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=WITHIN_S)
        connection.sendall(head.encode() + data[:only])
        return connection

    def end(self) -> None:
        """Leave no process, whatever the test did."""
        self.client.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def running_process(module: str, folder: Path, **environment: str) -> Iterator[RunningProcess]:
    process = RunningProcess(module, folder, **environment)
    try:
        yield process
    finally:
        process.end()
