"""A real ``python -m dreambooth_api`` for tests, and what to ask of it."""

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

WITHIN_S = 240


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class RunningService:
    """A started service; its output is in ``log``."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.port = free_port()
        self.log = folder / "service.log"
        self._settings = {"PORT": str(self.port), "DATA_DIR": str(folder / "data"), **environment}
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dreambooth_api"],
                env={**os.environ, "THREADS": "16", "GRACE_S": "240", **self._settings},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=WITHIN_S)

    def descendants(self) -> list[psutil.Process]:
        """The worker, the trainer, and whatever else the service started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def answers(self, path: str) -> bool:
        """Whether *path* is answered with 200 now."""
        with contextlib.suppress(httpx.HTTPError):
            return self.client.get(path).status_code == 200
        return False

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WITHIN_S
        while not condition():
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.05)

    def until_ready(self) -> None:
        self.until(lambda: self.answers("/readyz"))

    def metric(self, name: str) -> float:
        lines = self.client.get("/metrics").text.splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))

    def connect(self, method: str, path: str, body: Any = None, *headers: str) -> socket.socket:
        """A request sent on a socket of its own, whose answer nobody reads yet."""
        data = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "Host: test", f"Content-Length: {len(data)}", *headers]
        if body is not None:
            lines.append("Content-Type: application/json")
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=WITHIN_S)
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
        return connection

    def end(self) -> None:
        """Leave no process, whatever the test did."""
        self.client.close()
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in self.descendants():
                process.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def running_service(folder: Path, **environment: str) -> Iterator[RunningService]:
    service = RunningService(folder, **environment)
    try:
        yield service
    finally:
        service.end()
